"""What the offline table was before, by its deltas, is what whole copies of it say that were made after every run."""

import os
import random
import shutil
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FileSource, ValueType
from feast.types import Float64, Int64, String

from parity.compute.history import compute_here, update_here
from parity.definition.instants import UTC_MICROSECONDS, utc_now
from parity.definition.table import COMPUTED_BY
from parity.edge.errors import UserError
from parity.edge.files import write_table
from parity.offline import versions
from parity.offline.known_then import (
    ADDED,
    AS_OF,
    CHANGED,
    COMPUTED_BY_THEN,
    KNOWN,
    KNOWN_AT,
    REMOVED,
    SUPERSEDED_AT,
    SUPERSEDED_HOW,
    SUPERSEDED_WITH,
    THEN_EVENT,
)
from parity.offline.versions import Versions, are_kept, superseding
from tests.definition import aggregation, table
from tests.world import EVERY, KINDS

T = datetime(2026, 3, 8, 12, tzinfo=UTC)
MICROSECOND, DAY, TTL = timedelta(microseconds=1), timedelta(days=1), timedelta(days=5)
COLUMNS = {"amount": Float64, "quantity": Int64, "sku": String}
WINDOWED = [aggregation("mean", "amount", 3), aggregation("count", "amount", 3), aggregation("last", "sku", 3)]
ENDLESS = [*WINDOWED, aggregation("sum", "amount"), aggregation("var", "amount", 3)]
OTHER = [aggregation("mean", "amount", 4), aggregation("count", "amount", 3), aggregation("last", "quantity", 3)]
NAN = float("nan")
RETYPED = [aggregation("max", "sku", 3, "mean_amount_3d"), *WINDOWED[1:]]


class Copy(NamedTuple):
    """What the table was, some time after ``began``, up to the next copy."""

    began: datetime
    ended: datetime
    rows: dict[tuple, dict[datetime, tuple]]
    """By key and event, its features."""
    types: dict[str, pa.DataType]
    computed_by: str


class Shop:
    """A table of features that is computed again and again, in a folder of its own, and whole copies of it."""

    def __init__(self, folder: Path, seed: int = 0, kind: str = "int64", ttl: timedelta | None = TTL, features=ENDLESS):
        self.folder, self.kind, self.ttl = folder, KINDS[kind], ttl
        self.random = random.Random(seed)
        self.by_day = False
        self.rows: list[tuple] = []
        """Number of the key, instant, amount, quantity, sku."""
        self.copies: list[Copy] = []
        (folder / "transactions").mkdir(parents=True)
        self.declare(features)

    def declare(self, features: list) -> None:
        entities = [Entity(name=n, join_keys=[n], value_type=ValueType[t]) for n, t in self.kind.keys.items()]
        continuous = self.kind.continuous
        self.table = table(
            self.folder, "shop", entities, features, COLUMNS, None, self.ttl, None, "transactions", continuous
        )

    @property
    def place(self) -> Path:
        return Path(self.table.source.path)

    @property
    def kept(self) -> Path:
        return self.place.with_suffix(".versions")

    def write(self) -> None:
        """Write the transactions, a file for each day, so that one that has not changed stays as it is."""
        texts: dict[str, list[str]] = {}
        for number, time, *rest in self.rows:
            key = [value.decode() if isinstance(value, bytes) else str(value) for value in self.kind.key_of(number)]
            texts.setdefault(f"{time.date()}.csv", []).append(",".join([*key, time.isoformat(), *map(str, rest)]))
        header = ",".join([*self.kind.keys, "timestamp", *COLUMNS])
        folder = self.folder / "transactions"
        for path in folder.iterdir():
            if path.name not in texts:
                path.unlink()
        for name, lines in texts.items():
            text = "\n".join([header, *lines, ""])
            if not (folder / name).exists() or (folder / name).read_text() != text:
                (folder / name).write_text(text)

    def run(self) -> None:
        """What a run does, with nothing kept."""
        compute = update_here if self.by_day else compute_here
        compute(self.table, self.folder / "transactions", self.place)

    def compute(self) -> None:
        began = utc_now()
        self.write()
        with superseding(self.table, self.place):
            self.run()
        self.copy(began)

    def copy(self, began: datetime) -> None:
        paths = sorted(self.place.rglob("*.parquet")) if self.place.is_dir() else [self.place]
        read = pa.concat_tables([pq.read_table(path, partitioning=None) for path in paths])
        names = [*self.kind.keys, "event_timestamp"]
        types = {field.name: field.type for field in read.schema if field.name not in names}
        rows: dict[tuple, dict[datetime, tuple]] = {}
        for row in read.to_pylist():
            key = tuple(row[name] for name in self.kind.keys)
            rows.setdefault(key, {})[row["event_timestamp"]] = tuple(bits(row[name]) for name in types)
        by = pq.read_schema(paths[0]).metadata[COMPUTED_BY].decode()
        self.copies.append(Copy(began, utc_now(), rows, types, by))

    # What is drawn

    def draw(self) -> tuple:
        draw = self.random
        ages = [timedelta(days=draw.randint(0, 8)), draw.random() * 8 * DAY, 3 * DAY + MICROSECOND, 3 * DAY, TTL]
        amount = draw.choice([f"{draw.random() * 100:.2f}", "0.0", "1.5", repr(draw.random())])
        sku = draw.choice(["A-1", "é", "B 2"])
        return draw.randint(1, 5), T - draw.choice(ages), amount, draw.randint(-3, 9), sku

    def happen(self) -> None:
        """Let something happen to the transactions: late rows, corrections, deletions, something new, or nothing."""
        draw = self.random
        for _ in range(draw.choice([0, 1, 1, 2, 4])):
            what = draw.choice(["late", "late", "correct", "delete", "later"])
            if what == "late" or len(self.rows) < 3:
                self.rows.append(self.draw())
            elif what == "later":
                self.rows.append((draw.randint(1, 7), T + len(self.rows) * timedelta(hours=5), "7.5", 1, "A-1"))
            elif what == "correct":
                place = draw.randrange(len(self.rows))
                self.rows[place] = (*self.rows[place][:2], *self.draw()[2:])
            else:
                self.rows.pop(draw.randrange(len(self.rows)))

    def asked(self, number: int = 150) -> list[tuple[tuple, datetime, datetime]]:
        """Keys, known and not, instants on and beside events and the ttl after them, each at the time of any copy."""
        draw, asked = self.random, []
        events = [event for copy in self.copies for rows in copy.rows.values() for event in rows]
        for _ in range(number):
            key = self.kind.key_of(draw.choice([1, 2, 3, 4, 5, 6, 7, 99]))
            event = draw.choice(events)
            near = [event, event - MICROSECOND, event + TTL, event + TTL + MICROSECOND, T, T + 9 * DAY]
            copy = draw.choice(self.copies)
            asked.append((key, draw.choice([*near, T - draw.random() * 9 * DAY]), copy.ended))
        return asked


def bits(value: Any) -> Any:
    return value.hex() if isinstance(value, float) else value


def table_of(shop: Shop, asked: list[tuple[tuple, datetime, datetime]]) -> pa.Table:
    keys = shop.table.definition.keys
    columns = {f.name: pa.array([key[place] for key, *_ in asked], f.type) for place, f in enumerate(keys)}
    columns |= {AS_OF: pa.array([as_of for _, as_of, _ in asked], UTC_MICROSECONDS)}
    return pa.table(columns | {KNOWN_AT: pa.array([known_at for *_, known_at in asked], UTC_MICROSECONDS)})


def as_of(copy: Copy, key: tuple, instant: datetime, ttl: timedelta | None) -> tuple[datetime, tuple] | None:
    """The event and features that training gets of a copy."""
    events = [event for event in copy.rows.get(key, {}) if event <= instant]
    if not events or (ttl and max(events) + ttl < instant):
        return None
    return max(events), copy.rows[key][max(events)]


def assert_right(shop: Shop, asked: list | None = None, since: int = 0) -> int:
    """Hold every answer to the copies from ``since`` on; before them nothing is known. The number that have changed."""
    asked, changed = asked or shop.asked(), 0
    answered = Versions.of(shop.table).known_then(table_of(shop, asked)).to_pylist()
    names = {rule.name: rule.type for rule in shop.table.definition.rules}
    for (key, instant, known_at), row in zip(asked, answered, strict=True):
        [place] = [n for n, copy in enumerate(shop.copies) if copy.ended == known_at]
        copy = shop.copies[place]
        assert row[KNOWN] == (place >= since)
        if not row[KNOWN]:
            assert set(row.values()) == {False, None}
            continue
        right = as_of(copy, key, instant, shop.ttl)
        values = [None] * len(names)
        if right:
            there = dict(zip(copy.types, right[1], strict=True))
            values = [there[name] if copy.types.get(name) == type else None for name, type in names.items()]
        assert (row[THEN_EVENT], [bits(row[name]) for name in names]) == (right and right[0], values)
        assert row[COMPUTED_BY_THEN] == copy.computed_by
        at, how, beside = superseded(shop, place, key, instant)
        assert (row[SUPERSEDED_HOW], row[SUPERSEDED_WITH]) == (how, beside)
        assert at is None if row[SUPERSEDED_AT] is None else at.began <= row[SUPERSEDED_AT] <= at.ended
        changed += how is not None
    return changed


def superseded(shop: Shop, place: int, key: tuple, instant: datetime) -> tuple[Copy | None, str | None, str | None]:
    """The copy in which an answer is first another one, how it is, and what else is new of the key."""
    held = as_of(shop.copies[place], key, instant, shop.ttl)
    for before, after in zip(shop.copies[place:], shop.copies[place + 1 :], strict=False):
        found = as_of(after, key, instant, shop.ttl)
        if found == held and (not held or before.types == after.types):
            continue
        if found and (not held or found[0] > held[0]):
            how, event = ADDED, found[0]
        else:
            how, event = (CHANGED if found and found[0] == held[0] else REMOVED), held[0]
        reach = datetime.min.replace(tzinfo=UTC)
        if not shop.table.definition.unwindowed:
            reach = event - max(shop.table.definition.windows) * MICROSECOND - MICROSECOND
        old, new = (
            {event_ for event_ in copy.rows.get(key, {}) if reach <= event_ < event} for copy in (before, after)
        )
        return after, how, ADDED if new - old else REMOVED if old - new else None
    return None, None, None


def live(folder: Path, seed: int, runs: int = 7) -> int:
    """A shop in which anything happens."""
    draw = random.Random(seed)
    kind = draw.choice([kind for kind in KINDS if not KINDS[kind].streamed])
    some = [WINDOWED, ENDLESS, list(EVERY)]
    shop = Shop(folder, seed, kind, draw.choice([TTL, TTL, None, 3 * DAY]), draw.choice(some))
    shop.by_day = draw.random() < 0.5
    shop.rows = [shop.draw() for _ in range(draw.choice([3, 10, 20]))]
    since = 0
    for _ in range(runs):
        shop.happen()
        what = draw.random()
        if what < 0.08 and shop.copies:  # a folder in the place of a file, or the other way round
            shutil.rmtree(shop.place) if shop.place.is_dir() else shop.place.unlink()
            shop.by_day, since = not shop.by_day, len(shop.copies)
        elif what < 0.16:
            shop.declare(draw.choice([*some, OTHER, RETYPED]))
        elif what < 0.22 and shop.copies:
            began, before = utc_now(), versions.stamps_of(shop.place)
            shop.write()
            shop.run()  # with nothing kept
            if versions.stamps_of(shop.place) != before:
                since = len(shop.copies)
                sleep(0.02)
                shop.copy(began)
        shop.compute()
    return assert_right(shop, since=since)


@pytest.mark.parametrize("seed", [3])
def test_what_was_known_then_is_what_copies_of_the_table_have(tmp_path, seed):
    live(tmp_path, seed)


@pytest.mark.soak
@pytest.mark.scale
def test_what_was_known_then_is_what_copies_have_in_many_more_shops(tmp_path, record_property):
    found = [live(tmp_path / str(seed), seed, runs=12) for seed in range(100, 130)]
    record_property("counts", f"versions: {len(found)} shops, {sum(found):,} answers that have changed, all right")
    assert sum(found) > 300


def killed(shop: Shop, after: int) -> bool:
    """Compute in a process of its own, which is killed after so many lines of those that keep and replace files.

    Whether it was still at work.
    """
    left = iter(range(after))

    def count(frame: FrameType, event: str, _: object) -> Callable | None:
        if not frame.f_code.co_filename.endswith(WATCHED):
            return None
        if event == "line" and next(left, None) is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return count

    began = utc_now()
    shop.write()
    if (child := os.fork()) == 0:
        signal.alarm(60)
        with ending_the_process():
            sys.settrace(count)
            with superseding(shop.table, shop.place):
                shop.run()
            os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL), status
    shop.copy(began)
    return status != 0


WATCHED = (
    "parity/offline/versions.py",
    "parity/offline/known_then.py",
    "parity/compute/days.py",
    "parity/edge/files.py",
)


@contextmanager
def ending_the_process() -> Iterator[None]:
    """Let the block end the process, whatever happens in it."""
    try:
        yield
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(9)


def survive(folder: Path, seed: int, points: Iterable[int], by_day: bool) -> None:
    """A shop whose runs are killed at these points; each is followed by a look, by a whole run, or by another one."""
    shop = Shop(folder, seed)
    shop.by_day, shop.rows = by_day, [shop.draw() for _ in range(12)]
    shop.compute()
    for point in points:
        shop.happen()
        shop.rows.append(shop.draw())
        killed(shop, point)
        if shop.random.random() < 0.5:
            assert_right(shop, shop.asked(40))
        if shop.random.random() < 0.5:
            shop.happen()
            shop.compute()
    shop.compute()
    assert_right(shop)


@pytest.mark.parametrize("by_day", [False, True], ids=["a file", "days"])
def test_what_a_run_that_was_killed_has_replaced_is_known(tmp_path, by_day):
    draw = random.Random(by_day)
    survive(tmp_path, 1, [draw.randrange(700) for _ in range(2)], by_day)


@pytest.mark.soak
@pytest.mark.scale
def test_whenever_a_run_is_killed_what_it_has_replaced_is_known(tmp_path):
    draw = random.Random(7)
    for number in range(12):
        points = [draw.randrange(1200) for _ in range(12)]
        survive(tmp_path / str(number), number, points, by_day=number % 2 > 0)


# Single cases


@pytest.fixture
def shop(tmp_path):
    """One in which user 1 has bought on two days, and user 2 on one."""
    shop = Shop(tmp_path, features=WINDOWED)
    shop.rows = [(1, T, "1.5", 1, "A"), (1, T + DAY, "2.5", 1, "B"), (2, T, "3.5", 1, "A")]
    shop.compute()
    return shop


def answers(shop: Shop, key: int = 1, instant: datetime = T + 2 * DAY) -> list[dict]:
    """What was known of a key at the time of each copy."""
    asked = table_of(shop, [((key,), instant, copy.ended) for copy in shop.copies])
    return Versions.of(shop.table).known_then(asked).to_pylist()


@pytest.mark.smoke
def test_a_late_row_a_correction_and_a_deletion_are_told_apart(shop):
    shop.rows.append((1, T + timedelta(hours=30), "5.0", 1, "late"))
    shop.compute()
    shop.rows[-1] = (*shop.rows[-1][:2], "6.0", 1, "late")
    shop.compute()
    del shop.rows[0]
    shop.compute()
    found = answers(shop)
    assert [(row[THEN_EVENT], row["count_amount_3d"]) for row in found] == [
        (T + DAY, 2),
        *[(T + timedelta(hours=30), count) for count in (3, 3, 2)],
    ]
    assert [(row[SUPERSEDED_HOW], row[SUPERSEDED_WITH]) for row in found] == [
        (ADDED, None),
        (CHANGED, None),
        (CHANGED, REMOVED),
        (None, None),
    ]
    assert {row[SUPERSEDED_HOW] for row in answers(shop, key=2)} == {None}
    assert_right(shop)


def test_a_late_row_that_no_window_reaches_is_not_what_has_changed_a_value(shop):
    for age, beside in ((3 * DAY + 2 * MICROSECOND, None), (3 * DAY, ADDED)):
        shop.rows[1] = (*shop.rows[1][:2], f"{age / DAY}", 1, "B")  # corrected
        shop.rows.append((1, T + DAY - age, "5.0", 1, "late"))
        shop.compute()
        found = answers(shop)[-2]
        assert (found[SUPERSEDED_HOW], found[SUPERSEDED_WITH]) == (CHANGED, beside)
    assert_right(shop)


def test_a_run_that_changes_nothing_leaves_nothing(shop):
    for _ in range(3):
        shop.compute()
    assert [path.name for path in shop.kept.iterdir() if path.suffix == ".parquet"] == []
    assert not (shop.kept / "previous").exists()
    assert_right(shop)


def test_runs_of_the_same_instant_are_told_apart(shop):
    still = utc_now()
    for amount in ("10", "20", "30"):
        shop.rows.append((1, T, amount, 1, "A"))
        shop.write()
        with superseding(shop.table, shop.place, lambda: still):
            shop.run()
    found = Versions.of(shop.table)
    instants = [still - MICROSECOND, *(still + n * MICROSECOND for n in range(3))]
    asked = table_of(shop, [((1,), T, instant) for instant in instants])
    assert found.known_then(asked)["count_amount_3d"].to_pylist() == [1, 2, 3, 4]


@pytest.mark.parametrize(("old", "new"), [(0.0, -0.0), (-0.0, 0.0), (-0.0, -0.0), (NAN, NAN), (NAN, None), (None, 1.5)])
def test_a_value_is_another_one_if_a_bit_of_it_is(shop, old, new):
    def put(value: float | None) -> datetime:
        rows = pq.read_table(shop.place)
        place = rows.schema.get_field_index("mean_amount_3d")
        field = rows.schema.field(place).with_nullable(True)
        rows = rows.set_column(place, field, pa.array([value] * rows.num_rows, pa.float64(), from_pandas=False))
        with superseding(shop.table, shop.place):
            write_table(rows, shop.place)
        return utc_now()

    asked = table_of(shop, [((1,), T, put(old)), ((1,), T, put(new))])
    found = Versions.of(shop.table).known_then(asked)
    assert [*map(repr, found["mean_amount_3d"].to_pylist())] == [repr(old), repr(new)]
    assert found[SUPERSEDED_HOW].to_pylist() == [None if repr(old) == repr(new) else CHANGED, None]


def test_what_was_before_a_table_that_was_put_there_by_hand_is_not_known(shop):
    shop.rows.append((1, T, "9.0", 1, "A"))
    shop.compute()
    rows = pq.read_table(shop.place).slice(1)
    pq.write_table(rows, shop.place)
    by_hand = utc_now()
    sleep(0.02)
    shop.copy(by_hand)
    assert [row[KNOWN] for row in answers(shop)] == [False, False, True]
    assert by_hand <= Versions.of(shop.table).known_since <= shop.copies[-1].ended
    shop.compute()
    assert_right(shop, since=2)


def test_a_table_that_is_put_back_as_it_was_has_its_versions(shop, tmp_path):
    shop.rows.append((1, T, "9.0", 1, "A"))
    shop.compute()
    shutil.copy2(shop.place, tmp_path / "backup")
    shop.place.unlink()
    assert Versions.of(shop.table).known_since is None
    shutil.copy2(tmp_path / "backup", shop.place)
    assert_right(shop)


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"PAR1, but no more")])
def test_what_was_before_a_delta_that_is_lost_is_not_known(shop, damage):
    for amount in ("9.0", "10.0", "11.0"):
        shop.rows.append((1, T, amount, 1, "A"))
        shop.compute()
    damage(sorted(shop.kept.glob("*.parquet"))[1])
    assert_right(shop, since=2)


@pytest.mark.parametrize("chain", ["", "{}", "[1]", '{"known_since": 0, "deltas": [], "files": {}}'])
def test_a_chain_that_is_damaged_begins_anew(shop, chain):
    shop.rows.append((1, T, "9.0", 1, "A"))
    shop.compute()
    (shop.kept / "chain.json").write_text(chain)
    assert [row[KNOWN] for row in answers(shop)] == [False, True]
    shop.compute()
    assert_right(shop, since=1)


def test_a_run_beside_another_and_a_reader_are_sent_away(shop, monkeypatch):
    for name in ("SECONDS_TO_WAIT", "SECONDS_TO_WAIT_TO_READ"):
        monkeypatch.setattr(versions, name, 0.01)
    with superseding(shop.table, shop.place):
        with pytest.raises(UserError, match="a run is replacing it"):
            shop.compute()
        with pytest.raises(UserError, match="a run is replacing it"):
            Versions.of(shop.table)


def test_a_table_that_is_replaced_while_it_is_read_is_told(shop):
    found = Versions.of(shop.table)
    shop.compute()
    with pytest.raises(UserError, match="it was replaced while it was read"):
        found.known_then(table_of(shop, shop.asked(1)))


def test_only_the_declared_table_on_a_disk_has_versions(shop, tmp_path):
    for place in (tmp_path / "elsewhere.parquet", "s3://bucket/shop.parquet"):
        with superseding(shop.table, place):
            pass
    assert not (tmp_path / "elsewhere.versions").exists()
    in_bucket = replace(shop.table, view=copy(shop.table.view))
    in_bucket.view.batch_source = FileSource(name="b", path="s3://bucket/x.parquet", timestamp_field="event_timestamp")
    assert Versions.of(in_bucket).known_since is None
    assert not any(row[KNOWN] for row in Versions.of(in_bucket).known_then(table_of(shop, shop.asked(3))).to_pylist())


def test_other_keys_begin_a_new_chain(shop):
    shop.kind = KINDS["text"]
    shop.declare(WINDOWED)
    shop.compute()
    asked = [(("00001",), T, copy.ended) for copy in shop.copies]
    assert assert_right(shop, asked, since=1) == 0


def test_a_table_behind_a_link_on_another_disk_has_versions(shop, tmp_path):
    shutil.rmtree(shop.kept)
    elsewhere = Path(tempfile.mkdtemp(dir="/dev/shm")) / "real.parquet"
    shutil.move(shop.place, elsewhere)
    shop.place.symlink_to(elsewhere)
    try:
        shop.copies.clear()
        for amount in ("9.0", "10.0"):
            shop.rows.append((1, T, amount, 1, "A"))
            shop.compute()
        assert_right(shop)
    finally:
        shutil.rmtree(elsewhere.parent)


@pytest.mark.parametrize("text", ["", "online_store: redis", "online_store: {log_served: false}", "- [", "{x: ${NO}}"])
def test_without_a_log_nothing_is_kept(tmp_path, text):
    assert not are_kept(tmp_path)
    (tmp_path / "feature_store.yaml").write_text(text)
    assert not are_kept(tmp_path)


def test_a_run_of_the_script_keeps_what_it_replaces_if_what_is_served_is_logged(project):
    project.write_transactions("1,1,2026-03-08T12:00:00Z,10.50")
    project.succeed("compute_features.py")
    kept = project.features.with_suffix(".versions")
    assert not kept.exists()
    project.configure(online_store__log_served=True)
    project.write_transactions("1,1,2026-03-08T12:00:00Z,10.50", "1,1,2026-03-09T12:00:00Z,11.50")
    project.succeed("compute_features.py")
    [delta] = kept.glob("*.parquet")
    assert pq.read_table(delta).select([versions.WAS, versions.IS]).to_pylist() == [{":was": False, ":is": True}]
