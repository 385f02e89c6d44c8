"""Days brought in step with a folder of transactions are what computing the whole folder gives, whatever happened."""

import json
import os
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.aggregation import Aggregation
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.features import AGGREGATIONS
from parity import incremental
from parity.aggregation import aggregate
from parity.command import UserError
from parity.incremental import update
from parity.partitions import MANIFEST, Partitions
from tests.test_aggregation import DAYS_3, MICROSECOND, T, cents, more_aggregations
from tests.test_continued import KEY, TIMESTAMP, bits, table

EVENT = "event_timestamp"
clock = count(10**18, 10**9)


def schema(aggregations) -> pa.Schema:
    types = [(a.name, pa.int64() if a.function == "count" else pa.float64()) for a in aggregations]
    fields = [(KEY, pa.int64()), (EVENT, pa.timestamp("us", "UTC")), *types]
    return pa.schema([pa.field(name, type, nullable=False) for name, type in fields])


class Shop:
    """A folder of transactions, what is in it, and the features of it by day."""

    def __init__(self, root: Path, aggregations=AGGREGATIONS):
        self.folder, self.features, self.aggregations = root / "transactions", root / "features.parquet", aggregations
        self.folder.mkdir(parents=True)
        self.files: dict[str, list] = {}

    def put(self, name: str, rows: list) -> None:
        path = self.folder / f"{name}.csv"
        lines = [f"{user},{time.isoformat()},{amount!r}" for user, time, amount in rows]
        path.write_text("\n".join(["user_id,timestamp,purchase_amount", *lines, ""]))
        stamp = next(clock)
        os.utime(path, ns=(stamp, stamp))
        self.files[name] = rows

    def remove(self, name: str) -> None:
        (self.folder / f"{name}.csv").unlink()
        del self.files[name]

    def update(self) -> list | None:
        return update(self.folder, self.features, self.aggregations, schema(self.aggregations))

    def assert_right(self) -> None:
        """Assert that the days hold, bit for bit, what one computation of all the transactions gives."""
        rows = table([row for rows in self.files.values() for row in rows])
        parts = {file.parent.name: pq.read_table(file, partitioning=None) for file in self.features.rglob("*.parquet")}
        for name, part in parts.items():
            assert part.schema.equals(schema(self.aggregations))
            assert {f"event_date={day}" for day in part[EVENT].cast(pa.date32()).to_pylist()} == {name}
        found = pa.concat_tables(parts.values()).sort_by([(KEY, "ascending"), (EVENT, "ascending")])
        assert bits(found) == bits(aggregate(rows, KEY, TIMESTAMP, self.aggregations))

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
EVER = [Aggregation(name=function, function=function, column="purchase_amount") for function in ("mean", "sum")]


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


@settings(max_examples=100, deadline=None)
@given(
    steps,
    st.sampled_from(
        [
            AGGREGATIONS,
            more_aggregations,
            [a for a in more_aggregations if a.time_window],
            AGGREGATIONS[1:],
            [*AGGREGATIONS, *EVER],
        ]
    ),
)
def test_any_files_added_changed_and_removed_with_runs_killed_at_any_moment_end_in_the_full_computation(
    tmp_path_factory, steps, aggregations
):
    shop = Shop(tmp_path_factory.mktemp("shop"), aggregations)
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


def test_another_definition_computes_everything_anew(shop):
    for number in range(5):
        shop.put(f"day-{number}", day(number))
    shop.update()
    shop.put("day-5", day(5))
    shop.update()
    total = Aggregation(name=AGGREGATIONS[1].name, function="count", column="purchase_amount", time_window=DAYS_3)
    shop.aggregations = [AGGREGATIONS[0], total]
    shop.update()
    shop.assert_right()


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


def test_a_bad_file_is_refused_and_nothing_is_touched(shop):
    shop.put("a", day(0))
    shop.update()
    before = {path: path.read_bytes() for path in shop.features.rglob("*") if path.is_file()}
    (shop.folder / "b.csv").write_text("user_id,timestamp,purchase_amount\n1,soon,5\n")
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
