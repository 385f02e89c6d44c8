"""Days brought in step with a folder of transactions are what computing the whole folder gives, whatever happened."""

import errno
import json
import os
import re
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from itertools import count, product
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow.fs import FileSelector, copy_files

from parity.compute import incremental
from parity.compute.days import MANIFEST, TOTALS, Partitions
from parity.compute.incremental import update
from parity.compute.windows import aggregate
from parity.definition.functions import FUNCTIONS
from parity.definition.keys import key_schema
from parity.definition.table import Definition, Rule
from parity.edge.errors import UserError
from parity.edge.files import filesystem_of
from tests.brute_force import DAYS_3, MICROSECOND, TYPES, Row, T, bits, cents, declared, table
from tests.test_files import limited_to

EVENT, AMOUNT = "event_timestamp", "a"
MEAN, COUNT = Rule("mean", "mean", AMOUNT, DAYS_3), Rule("count", "count", AMOUNT, None)
SEED = declared([MEAN, COUNT])
clock = count(10**18, 10**9)


def values(amount: float) -> dict:
    """What a row of a file has beside its keys and its instant."""
    return {"a": amount, "c": int(amount) % 7 - 3, "d": f"no {int(amount) % 5}"}


def keys(user: int) -> dict:
    """What a row is found by: a definition has one of these, or several."""
    return {"user_id": user, "name": f"{user % 3:03}"}


class Shop:
    """A folder of transactions, what is in it, and the features of it by day."""

    def __init__(self, root: Path, definition: Definition = SEED):
        self.folder, self.features, self.definition = root / "transactions", root / "features.parquet", definition
        self.folder.mkdir(parents=True)
        self.files: dict[str, list] = {}

    def put(self, name: str, rows: list) -> None:
        path = self.folder / f"{name}.csv"
        lines = [
            ",".join(map(str, [time.isoformat(), *keys(user).values(), *values(amount).values()]))
            for user, time, amount in rows
        ]
        path.write_text("\n".join(["timestamp,user_id,name,a,c,d", *lines, ""]))
        stamp = next(clock)
        os.utime(path, ns=(stamp, stamp))
        self.files[name] = rows

    def remove(self, name: str) -> None:
        (self.folder / f"{name}.csv").unlink()
        del self.files[name]

    def update(self) -> list | None:
        return update(self.folder, self.features, self.definition)

    def assert_right(self) -> None:
        """Assert that the days hold, bit for bit, what one computation of all the transactions gives."""
        names = self.definition.keys.names
        rows = [
            Row(tuple(keys(user)[name] for name in names), time, values(amount))
            for rows in self.files.values()
            for user, time, amount in rows
        ]
        parts = {file.parent.name: pq.read_table(file, partitioning=None) for file in self.features.rglob("*.parquet")}
        for name, part in parts.items():
            assert part.schema.equals(self.definition.schema)
            assert {f"event_date={day}" for day in part[EVENT].cast(pa.date32()).to_pylist()} == {name}
        found = pa.concat_tables(parts.values()).sort_by([(name, "ascending") for name in [*names, EVENT]])
        assert bits(found) == bits(aggregate(table(rows, self.definition), self.definition))

    def days(self) -> dict[str, int]:
        return {file.parent.name: file.stat().st_ino for file in self.features.rglob("*.parquet")}


@pytest.fixture
def shop(tmp_path):
    return Shop(tmp_path)


def day(number: int) -> list:
    """What users 1 and 2 buy on a day, each its own day's number of dollars, and a user who is new on that day."""
    noon = T + timedelta(days=number)
    return [(user, noon, float(number)) for user in (1, 2, 1000 + number)]


def name(number: int) -> str:
    return f"event_date={(T + timedelta(days=number)).date()}"


ages = st.integers(0, 12).map(lambda days: timedelta(days=days)) | st.sampled_from(
    [DAYS_3 + MICROSECOND, DAYS_3 - MICROSECOND, timedelta(hours=12), timedelta(hours=12, microseconds=-1)]
)
rows = st.lists(st.tuples(st.integers(1, 4), ages.map(lambda age: T - age), cents), max_size=12)
steps = st.lists(
    st.tuples(st.sampled_from("abcde"), st.none() | rows, st.none() | st.integers(0, 12)), min_size=1, max_size=8
)
KILLED = KeyboardInterrupt
EVER = [Rule(f"{function} ever", function, AMOUNT, None) for function in ("mean", "sum")]
WINDOWED = [Rule("recent", "sum", AMOUNT, timedelta(days=5)), Rule("now", "count", AMOUNT, MICROSECOND)]


def sliding(definition: Definition) -> Definition:
    return replace(definition, continuous=True)


def every(functions, *windows) -> Definition:
    """Each of these functions of each column, over each of the windows."""
    combined = product(functions, ("a", "c", "d"), windows)
    taken = [(f, column, window) for f, column, window in combined if TYPES[column] in FUNCTIONS[f].takes]
    return declared([Rule(f"f{i}", f, column, window, TYPES[column]) for i, (f, column, window) in enumerate(taken)])


BOTH = key_schema({"name": pa.string(), "user_id": pa.int64()})
ALL = every(FUNCTIONS, None, timedelta(days=4))
CONTINUING = every(("count", "min", "max", "first", "last"), None, timedelta(days=4))


class Killer:
    """Stands in the way of what changes the table, and kills the run at one of these moments."""

    def __init__(self, monkeypatch, after: int | None):
        for method in ("_put", "_delete"):
            real = getattr(Partitions, method)

            def risky(*arguments, real=real):
                if self.left == 0:
                    raise KILLED
                self.left -= 1
                return real(*arguments)

            monkeypatch.setattr(Partitions, method, risky)
        self.left = -1 if after is None else after


@pytest.mark.scale
@settings(max_examples=100, deadline=None)
@given(
    steps,
    st.sampled_from(
        [
            SEED,
            declared([*SEED.rules, *WINDOWED]),
            declared(WINDOWED),
            declared([COUNT]),
            declared([*SEED.rules, *EVER]),
            ALL,
            CONTINUING,
            replace(ALL, keys=BOTH),
            replace(CONTINUING, keys=BOTH),
            replace(CONTINUING, keys=key_schema({"name": pa.string()})),
            sliding(SEED),
            sliding(declared([*SEED.rules, *WINDOWED])),
            sliding(declared([Rule("long", "sum", AMOUNT, timedelta(days=400)), *WINDOWED])),
            sliding(replace(ALL, keys=BOTH)),
            sliding(replace(CONTINUING, keys=key_schema({"name": pa.string()}))),
        ]
    ),
)
def test_any_files_added_changed_and_removed_with_runs_killed_at_any_moment_end_in_the_full_computation(
    tmp_path_factory, steps, definition
):
    shop = Shop(tmp_path_factory.mktemp("shop"), definition)
    shop.put("first", [(1, T, 1.0)])
    for file, content, killed_after in steps:
        if content is not None:
            shop.put(file, content)
        elif file in shop.files:
            shop.remove(file)
        with pytest.MonkeyPatch.context() as monkeypatch:
            Killer(monkeypatch, killed_after)
            try:
                shop.update()
            except KILLED:
                continue  # the folder may change again before the next run
        shop.assert_right()
    shop.update()
    shop.assert_right()
    assert shop.update() is None


def test_a_new_day_leaves_the_days_before_it_untouched_and_reads_three_days_of_transactions(shop, monkeypatch):
    for number in range(30):
        shop.put(f"day-{number:02}", day(number))
    shop.update()
    shop.put("day-30", day(30))
    shop.update()  # notes how many purchases each user had, some days ago
    before = shop.days()
    read, looked_up = [], []
    read_part, read_day = incremental.read_part, Partitions.read
    monkeypatch.setattr(incremental, "read_part", lambda path, *a: read.append(path.stem) or read_part(path, *a))
    monkeypatch.setattr(Partitions, "read", lambda self, day, *a: looked_up.append(day) or read_day(self, day, *a))
    shop.put("day-31", day(31))
    assert [(part.rows, part.day) for part in shop.update()] == [
        (3, (T + timedelta(days=31) - datetime(1970, 1, 1, tzinfo=UTC)).days)
    ]
    assert sorted(read) == ["day-28", "day-29", "day-30", "day-31"]
    assert len(looked_up) == 1  # of 31
    assert {part: inode for part, inode in shop.days().items() if part != name(31)} == before
    shop.assert_right()


def test_a_late_purchase_changes_its_day_and_all_later_ones_and_no_earlier_one(shop):
    for number in range(10):
        shop.put(f"day-{number}", day(number))
    shop.update()
    before = shop.days()
    shop.put("day-10", [*day(10), (1, T + timedelta(days=6), 99.0)])  # ties with a purchase that is computed already
    shop.update()
    after = shop.days()
    assert {part for part in before if before[part] == after[part]} == {name(number) for number in range(6)}
    shop.assert_right()


def test_the_same_run_again_does_nothing_and_the_same_purchases_do_not_count_twice(shop):
    shop.put("day-0", day(0))
    shop.update()
    before = shop.days()
    assert shop.update() is None
    assert shop.days() == before
    shop.put("day-0", day(0))  # delivered again, as the same file
    shop.update()
    shop.assert_right()


def test_days_that_a_killed_run_took_from_a_file_that_is_then_taken_back_are_mended(shop, monkeypatch):
    for number in range(4):
        shop.put(f"day-{number}", day(number))
    shop.update()
    shop.put("late", [(1, T + timedelta(days=1), 99.0)])
    with monkeypatch.context() as patch:
        Killer(patch, 3)
        with pytest.raises(KILLED):
            shop.update()
    with pytest.raises(AssertionError):
        shop.assert_right()
    shop.remove("late")
    with pytest.raises(AssertionError):
        shop.assert_right()
    shop.update()
    shop.assert_right()


def test_a_day_without_purchases_any_more_is_gone(shop):
    shop.put("a", day(0))
    shop.put("b", day(5))
    shop.update()
    shop.remove("b")
    shop.update()
    assert shop.days().keys() == {name(0)}
    shop.assert_right()


def test_days_on_which_purchases_leave_a_window_come_and_go_with_these(tmp_path):
    shop = Shop(tmp_path, sliding(SEED))
    shop.put("a", day(0))
    shop.update()
    assert shop.days().keys() == {name(0), name(3)}
    shop.put("b", day(5))  # two days after the last step
    shop.update()
    assert shop.days().keys() == {name(0), name(3), name(5), name(8)}
    before = shop.days()
    shop.put("late", day(2))
    shop.update()
    assert shop.days().keys() == {name(number) for number in (0, 2, 3, 5, 8)}
    assert shop.days()[name(0)] == before[name(0)]
    shop.assert_right()
    shop.remove("b")  # the last ones
    shop.update()
    assert shop.days().keys() == {name(number) for number in (0, 2, 3, 5)}
    shop.assert_right()
    shop.remove("a")  # the first ones
    shop.update()
    assert shop.days().keys() == {name(2), name(5)}
    shop.assert_right()
    assert shop.update() is None


def test_a_sliding_table_whose_days_were_damaged_after_the_last_purchase_is_computed_anew(tmp_path):
    shop = Shop(tmp_path, sliding(declared([*SEED.rules, *EVER[1:]])))
    shop.put("a", day(0))
    shop.update()
    file = shop.features / name(3) / "features.parquet"
    file.write_bytes(other_numbers(file.read_bytes()))
    shop.update()
    shop.assert_right()
    file.unlink()
    shop.update()
    shop.assert_right()


def test_a_new_day_of_a_sliding_table_replaces_no_day_before_it(tmp_path):
    shop = Shop(tmp_path, sliding(SEED))
    for number in range(10):
        shop.put(f"day-{number}", day(number))
        shop.update()
    before = shop.days()
    assert before.keys() == {name(number) for number in range(13)}
    shop.put("day-10", day(10))
    shop.update()
    after = shop.days()
    assert {part for part in before if before[part] == after[part]} == {name(number) for number in range(10)}
    shop.assert_right()


def test_another_definition_computes_everything_anew(shop):
    for number in range(5):
        shop.put(f"day-{number}", day(number))
    shop.update()
    shop.put("day-5", day(5))
    shop.update()
    shop.definition = declared([MEAN, replace(COUNT, time_window=DAYS_3)])
    shop.update()
    shop.assert_right()
    still = shop.days()
    shop.definition = sliding(shop.definition)
    shop.update()
    shop.assert_right()
    shop.definition = replace(shop.definition, continuous=False)
    shop.update()
    shop.assert_right()
    assert shop.days().keys() == still.keys()


@pytest.mark.parametrize("lost", ["a day", "the manifest", "the counts"])
def test_what_is_lost_is_computed_anew(shop, lost):
    for number in range(8):
        shop.put(f"day-{number}", day(number))
        shop.update()
    file = {
        "a day": shop.features / name(2) / "features.parquet",
        "the manifest": shop.features / MANIFEST,
        "the counts": shop.features / incremental.TOTALS,
    }[lost]
    file.unlink()
    shop.put("day-8", day(8))
    shop.update()
    shop.assert_right()


def days_of(shop, count: int) -> None:
    for number in range(count):
        shop.put(f"day-{number}", day(number))


def change(**fields):
    """Damage a manifest: set these fields, as another program or an older version might have written them."""
    return lambda content: json.dumps(json.loads(content) | fields).encode()


def other_table(content: bytes) -> bytes:
    """A Parquet file that is none of ours."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"user_id": ["one"], "event_timestamp": [1.5]}), sink)
    return sink.getvalue().to_pybytes()


def other_numbers(content: bytes) -> bytes:
    """The features with other values, of the same size."""
    rows = pq.read_table(pa.BufferReader(content), partitioning=None)
    last = rows.schema.names[-1]
    changed = pa.array([value + 1 for value in rows[last].to_pylist()], rows[last].type)
    sink = pa.BufferOutputStream()
    pq.write_table(rows.set_column(rows.num_columns - 1, rows.schema.field(last), changed), sink)
    return sink.getvalue().to_pybytes()


def other_counts(content: bytes) -> bytes:
    """The noted counts, each one more, in a file that is as good."""
    rows = feather.read_table(pa.BufferReader(content))
    counts = [value + 1 for value in rows[1].to_pylist()]
    sink = pa.BufferOutputStream()
    feather.write_feather(rows.set_column(1, rows.schema.field(1), pa.array(counts, pa.int64())), sink)
    return sink.getvalue().to_pybytes()


ANYTHING = [
    lambda content: b"",
    lambda content: b"\x00" * len(content),
    lambda content: content[: len(content) // 2],
    lambda content: content[:-1],
    lambda content: content + content,
    lambda content: b"[" * 100_000,
    lambda content: b"\xff\xfe",
]
NO_MANIFEST = [
    *[lambda content, text=text: text for text in (b"null", b"[]", b"1e999", b'"text"', b"{}", b'{"checksum": null}')],
    change(stamps=None),
    change(stamps=["day-0.csv"]),
    change(stamps={"day-0.csv": 7}),
    change(days={}),
    change(days={f"day-{number}.csv": [] for number in range(8)}),
    change(days={f"day-{number}.csv": ["soon"] for number in range(8)}),
    change(days={f"day-{number}.csv": [10**30] for number in range(8)}),
    change(written={}),
    change(written={"soon": "1"}),
    change(written=None),
    change(in_doubt_from="soon"),
    change(in_doubt_from=10**30),
    change(totals_before=10**6),
    change(totals_before="soon"),
    change(totals_sha256=None),
    change(definition=None),
    change(more="fields"),
    lambda content: content.replace(b'"days"', b'"hours"'),
]
DAMAGES = [
    *[(MANIFEST, damage) for damage in [*ANYTHING, *NO_MANIFEST]],
    *[(TOTALS, damage) for damage in [*ANYTHING, other_table, other_counts]],
    *[(f"{name(3)}/features.parquet", damage) for damage in [*ANYTHING, other_table, other_numbers]],
    *[(f"{name(0)}/features.parquet", damage) for damage in [*ANYTHING, other_table, other_numbers]],
]


@pytest.mark.parametrize(("file", "damage"), DAMAGES)
def test_what_is_damaged_is_computed_anew(shop, file, damage):
    days_of(shop, 8)
    shop.update()
    shop.put("day-8", day(8))
    shop.update()
    path = shop.features / file
    path.write_bytes(damage(path.read_bytes()))
    shop.update()
    shop.assert_right()
    shop.put("day-9", day(9))
    shop.update()
    shop.assert_right()
    assert shop.update() is None


def test_a_day_that_was_changed_behind_our_back_is_computed_anew_though_size_and_time_are_the_same(shop):
    days_of(shop, 8)
    shop.update()
    file = shop.features / name(3) / "features.parquet"
    before, content = file.stat(), file.read_bytes()
    file.write_bytes(other_numbers(content))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(AssertionError):
        shop.assert_right()
    assert len(shop.update()) == 5
    shop.assert_right()


def test_a_day_that_somebody_else_has_put_there_is_taken_out(shop):
    days_of(shop, 3)
    shop.update()
    for number in (-5, 1.5, 9):
        folder = shop.features / name(number) if number != 1.5 else shop.features / "event_date=1950-01-01"
        folder.mkdir()
        (folder / "features.parquet").write_bytes((shop.features / name(1) / "features.parquet").read_bytes())
    shop.update()
    shop.assert_right()
    assert shop.update() is None


def test_a_damage_that_no_stamp_tells_of_is_healed_when_it_is_met(shop, monkeypatch):
    """As in a bucket, which tells times to the second."""
    monkeypatch.setattr(Partitions, "_stamp", lambda self, info: "the same")
    days_of(shop, 8)
    shop.update()
    for damage in [*ANYTHING, other_table]:
        file = shop.features / name(2) / "features.parquet"
        file.write_bytes(damage(file.read_bytes()))
        (shop.features / TOTALS).unlink()
        shop.put("day-8", [*day(8), (1, T, float(len(shop.files)))])
        shop.update()
        shop.assert_right()


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_bytes_in_place_of_any_others_of_any_file_end_in_the_full_computation(tmp_path_factory, data):
    shop = Shop(tmp_path_factory.mktemp("shop"))
    days_of(shop, 5)
    shop.update()
    shop.put("day-5", day(5))
    shop.update()
    for _ in range(data.draw(st.integers(1, 3))):
        file = data.draw(st.sampled_from(sorted(path for path in shop.features.rglob("*") if path.is_file())))
        content = file.read_bytes()
        start = data.draw(st.integers(0, len(content)))
        end = data.draw(st.integers(start, len(content)))
        file.write_bytes(content[:start] + data.draw(st.binary(max_size=20)) + content[end:])
    if data.draw(st.booleans()):
        shop.put("day-6", day(6))
    shop.update()
    shop.assert_right()
    assert shop.update() is None


@pytest.mark.parametrize("there", [True, False])
def test_a_full_disk_is_told_by_the_name_of_the_day_and_the_table_is_whole(shop, there):
    shop.put("a", [(user, T, 1.5) for user in range(3)])
    if there:
        shop.update()
    before = {path: path.read_bytes() for path in shop.features.rglob("*") if path.is_file()}
    shop.put("b", [(user, T, float(user)) for user in range(10_000)])
    with limited_to(1 << 14), pytest.raises(UserError, match=rf"^{shop.features}/{name(0)}/\S+: File too large\.$"):
        shop.update()
    assert {path: path.read_bytes() for path in shop.features.rglob("*") if path.is_file()} == before
    assert shop.features.exists() == there
    shop.update()
    shop.assert_right()


def test_a_disk_that_fills_up_at_any_later_moment_is_told_and_mended_by_the_next_run(shop, monkeypatch):
    days_of(shop, 4)
    shop.update()
    for moment in range(7):
        shop.put("late", [(1, T + timedelta(hours=moment), 99.0)])
        left = moment

        def full(*arguments):
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        with monkeypatch.context() as patch:
            patch.setattr("parity.compute.days.sync", full)
            if moment < 6:
                with pytest.raises(UserError, match=rf"{shop.features}/\S+: No space left on device\. Make room"):
                    shop.update()
        shop.update()
        shop.assert_right()


class Meeting:
    """Two runs that meet: the first waits at a moment of its own, for the second to get as far as a moment of its own.

    Nothing locks one of them out, as in a bucket. A run that notices the other ends with a `UserError`.
    """

    def __init__(self, monkeypatch, first_at: int, second_at: int):
        self.waits, self.goes_on = threading.Event(), threading.Event()
        self.left = threading.local()
        self.at = {"first": first_at, "second": second_at}
        monkeypatch.setattr(Partitions, "_locked", lambda self: nullcontext())
        monkeypatch.setattr(Partitions, "_clear_left_over", lambda self: None)
        for method in ("_put", "_delete", "noted"):
            real = getattr(Partitions, method)
            monkeypatch.setattr(Partitions, method, lambda *arguments, real=real: (self.pause(), real(*arguments))[1])

    def pause(self) -> None:
        who = threading.current_thread().name
        if who not in self.at:
            return
        self.at[who] -= 1
        if self.at[who] == 0 and who == "first":
            self.waits.set()
            assert self.goes_on.wait(60)
        elif self.at[who] == 0:
            self.goes_on.set()
            self.first.join()

    def run(self, first, second) -> dict[str, str]:
        """Let both run; say how each ended."""
        ended = {}

        def attempt(who, update):
            try:
                update()
                ended[who] = "well"
            except UserError as error:
                ended[who] = str(error)
            finally:
                self.waits.set()
                if who == "second":
                    self.goes_on.set()

        self.first = threading.Thread(target=attempt, args=("first", first), name="first")
        other = threading.Thread(target=attempt, args=("second", second), name="second")
        self.first.start()
        self.waits.wait(60)
        other.start()
        other.join()
        self.first.join()
        return ended


@pytest.mark.parametrize("first_at", range(1, 13))
@pytest.mark.parametrize("second_at", [1, 2, 3, 5, 8, 11, 99])
def test_two_runs_that_nothing_keeps_apart_notice_it_or_agree_and_the_next_one_is_right(
    shop, monkeypatch, first_at, second_at
):
    days_of(shop, 4)
    shop.update()
    shop.put("late", [(1, T + timedelta(days=1, hours=1), 99.0)])

    def second():
        shop.put("later", [(2, T + timedelta(days=2, hours=1), 77.0)])
        shop.remove("day-3")
        shop.update()

    with monkeypatch.context() as patch:
        ended = Meeting(patch, first_at, second_at).run(shop.update, second)
    assert ended.keys() == {"first", "second"}
    assert all(how == "well" or "another run has written to this folder meanwhile" in how for how in ended.values())
    shop.update()
    shop.assert_right()
    assert shop.update() is None


@pytest.mark.scale
@pytest.mark.skipif(not find_spec("moto") and "CI" not in os.environ, reason="moto missing")
@pytest.mark.parametrize(("first_at", "second_at"), [(3, 2), (3, 99), (4, 5), (6, 3), (7, 99), (11, 99)])
def test_two_runs_in_a_bucket_notice_each_other_and_the_next_one_is_right(
    tmp_path, bucket, monkeypatch, first_at, second_at
):
    for variable, value in bucket.items():
        monkeypatch.setenv(variable, value)
    shop = Shop(tmp_path)
    local, shop.features = shop.features, "s3://bucket/features.parquet"
    days_of(shop, 3)
    shop.update()
    shop.put("late", [(1, T + timedelta(days=1, hours=1), 99.0)])

    def second():
        shop.put("later", [(2, T + timedelta(hours=1), 77.0)])
        shop.update()

    with monkeypatch.context() as patch:
        ended = Meeting(patch, first_at, second_at).run(shop.update, second)
    assert ended.keys() == {"first", "second"}
    assert all(how == "well" or "another run has written to this folder meanwhile" in how for how in ended.values())
    shop.update()
    assert shop.update() is None
    filesystem, path = filesystem_of(shop.features)
    assert not [
        info for info in filesystem.get_file_info(FileSelector(path, recursive=True)) if "_staging" in info.path
    ]
    copy_files(path, str(local), source_filesystem=filesystem)
    shop.features = local
    shop.assert_right()


@pytest.mark.scale
@pytest.mark.skipif(not find_spec("moto") and "CI" not in os.environ, reason="moto missing")
def test_in_a_bucket_only_what_was_abandoned_long_ago_is_removed(bucket, monkeypatch):
    for variable, value in bucket.items():
        monkeypatch.setenv(variable, value)
    rows = SEED.schema.empty_table()
    staged = Partitions("s3://bucket/features.parquet").stage([rows], 0, SEED.schema)
    filesystem, _ = filesystem_of("s3://bucket")
    with Partitions("s3://bucket/features.parquet").alone():
        assert filesystem.get_file_info(staged.file).is_file
    monkeypatch.setattr("parity.compute.days.utc_now", lambda: datetime.now(UTC) + timedelta(days=2))
    with Partitions("s3://bucket/features.parquet").alone():
        assert not filesystem.get_file_info(staged.file).is_file


def test_a_second_run_at_the_same_time_is_refused_and_the_first_is_right(shop, monkeypatch):
    days_of(shop, 4)
    replace, refused = Partitions.replace, []

    def meanwhile(*arguments):
        with pytest.raises(UserError, match=rf"{shop.features}: another run \(process {os.getpid()} on") as caught:
            shop.update()
        refused.append(caught)
        replace(*arguments)

    monkeypatch.setattr(Partitions, "replace", meanwhile)
    shop.update()
    assert len(refused) == 1
    shop.assert_right()
    assert shop.update() is None
    assert not (shop.features / "_lock").exists()


def test_two_runs_at_once_through_the_script_end_in_the_full_computation(project):
    """Whichever comes first, the other is refused with status 2, or waits for it and has nothing to do."""
    folder = project.root / "transactions"
    folder.mkdir()
    for number in range(3):
        options = ["--rows", 30_000, "--users", 5_000, "--seed", number, "--output", folder / f"{number}.csv"]
        project.succeed("generate_synthetic_data.py", *options)
    command = f"{sys.executable} compute_features.py --incremental --input {folder}"
    both = project.shell(f"{command} & first=$!; {command}; second=$?; wait $first; echo $? $second")
    assert sorted(both.out.splitlines()[-1].split()) in (["0", "0"], ["0", "2"]), both
    assert "Traceback" not in both.err
    if "2" in both.out.splitlines()[-1]:
        assert re.search(r"error: \S+: another run \(process \d+ on ", both.err), both
    assert project.succeed("compute_features.py", "--incremental", "--input", folder).startswith("nothing has changed")
    purchases = pa.concat_tables(pacsv.read_csv(file) for file in folder.iterdir())
    instants = purchases.group_by(["user_id", "timestamp"]).aggregate([]).num_rows
    assert sum(pq.read_metadata(file).num_rows for file in project.features.rglob("*.parquet")) == instants


def test_a_bad_file_is_refused_and_nothing_is_touched(shop):
    shop.put("a", day(0))
    shop.update()
    before = {path: path.read_bytes() for path in shop.features.rglob("*") if path.is_file()}
    (shop.folder / "b.csv").write_text("timestamp,user_id,name,a,c,d\nsoon,1,x,5,1,x\n")
    with pytest.raises(UserError, match=r"b\.csv, row 1 \(line 2\): timestamp 'soon'"):
        shop.update()
    assert {path: path.read_bytes() for path in shop.features.rglob("*") if path.is_file()} == before


def test_files_without_rows_come_and_go(shop):
    shop.put("a", day(0))
    shop.update()
    shop.put("b", [])
    assert shop.update() == []
    assert shop.update() is None
    shop.assert_right()
    shop.remove("a")
    with pytest.raises(UserError, match="there are no rows"):
        shop.update()


def test_three_days_of_a_shop_through_the_scripts_each_proven(project):
    """Each day: new purchases and late ones, the features updated, materialized, and proven against all files."""
    folder = project.root / "transactions"
    folder.mkdir()
    project.succeed("generate_synthetic_data.py")
    header, *lines = project.transactions.read_text().splitlines()
    project.transactions.unlink()
    project.apply()
    for number in range(3):
        (folder / f"{number}.csv").write_text("\n".join([header, *lines[number::3], ""]))
        out = project.succeed("compute_features.py", "--incremental", "--input", folder)
        assert out.endswith(f" days -> {project.features}\n")
        project.succeed("materialize_to_online.py")
        assert "mismatch 0, missing online 0, extra online 0, equal but wrong 0" in project.succeed("demo_fixed.py")
    again = project.succeed("compute_features.py", "--incremental", "--input", folder)
    assert again == f"nothing has changed -> {project.features}\n"
    assert json.loads((project.features / MANIFEST).read_text())["stamps"].keys() == {"0.csv", "1.csv", "2.csv"}


def test_it_does_not_go_with_spark(project):
    outcome = project.run("compute_features.py", "--incremental", "--engine", "spark")
    assert outcome.status == 2
    assert "--incremental computes on this machine" in outcome.err
