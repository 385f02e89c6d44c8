"""Folders in place of files: features by day as the offline table, and a folder of transaction files."""

import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from parity.compute.days import Partitions, split_by_day
from parity.definition.instants import day_of
from parity.edge.errors import UserError
from parity.edge.files import filesystem_of, on_disk
from parity.transactions.listing import transaction_files
from tests.brute_force import MEAN_AND_COUNT
from tests.conftest import ROOT

SCHEMA = MEAN_AND_COUNT.schema
TODAY = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)


def features(day: datetime, count: int = 1) -> pa.Table:
    return pa.table(dict(zip(SCHEMA.names, [[1], [day], [2.0], [count]], strict=True)), schema=SCHEMA)


def number(day: datetime) -> int:
    return (day - datetime(1970, 1, 1, tzinfo=UTC)).days


def read(folder: Path) -> dict[str, list]:
    return {
        file.parent.name: pq.read_table(file, partitioning=None)["count"].to_pylist()
        for file in folder.rglob("*.parquet")
    }


@pytest.fixture
def table(tmp_path):
    """A table that has the days 2026-01-01 and 2026-01-02."""
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2)]
    table = Partitions(tmp_path / "features.parquet")
    table.replace([table.stage([features(day)], number(day), SCHEMA) for day in days], [])
    table.clear()
    return table


@pytest.mark.smoke
def test_each_day_is_a_file_of_the_strict_schema(table):
    assert read(table.place) == {"event_date=2026-01-01": [1], "event_date=2026-01-02": [1]}
    for file in table.place.rglob("*.parquet"):
        assert pq.read_schema(file).equals(SCHEMA)
    assert table.days() == [number(datetime(2026, 1, day, tzinfo=UTC)) for day in (1, 2)]


def test_days_change_only_when_all_are_written_and_those_that_are_gone_go_last(table):
    third = datetime(2026, 1, 3, tzinfo=UTC)
    before = read(table.place)
    staged = [table.stage([features(third, 7)], number(third), SCHEMA)]
    assert read(table.place) == before
    table.replace(staged, table.days()[1:])
    assert read(table.place) == {"event_date=2026-01-01": [1], "event_date=2026-01-03": [7]}


def test_what_was_staged_and_not_put_in_place_is_no_part_of_the_table(table):
    staged = table.stage([features(TODAY, 7)], number(TODAY), SCHEMA)
    assert Path(staged.file).exists()
    assert pq.read_table(table.place).num_rows == 2
    table.clear()
    assert sorted(path.name for path in table.place.iterdir()) == ["event_date=2026-01-01", "event_date=2026-01-02"]


def test_what_one_run_has_staged_is_not_cleared_by_another(table):
    staged = table.stage([features(TODAY, 7)], number(TODAY), SCHEMA)
    other = Partitions(table.place)
    other.stage([features(TODAY, 8)], number(TODAY), SCHEMA)
    other.clear()
    table.replace([staged], [])
    assert read(table.place)[f"event_date={TODAY.date()}"] == [7]


def test_a_worker_that_stages_for_a_run_is_cleared_with_it(table):
    Partitions(table.place, table.run).stage([features(TODAY, 7)], number(TODAY), SCHEMA)
    table.clear()
    assert sorted(path.name for path in table.place.iterdir()) == ["event_date=2026-01-01", "event_date=2026-01-02"]


HOLD = """
import sys
from pathlib import Path
from parity.compute.days import Partitions
table = Partitions(Path(sys.argv[1]))
with table.alone():
    (table.place / "_staging" / "half-written").mkdir(parents=True)
    print("alone", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def another_run(place: Path):
    """A run in another process that has just begun to write to ``place``; a line on its standard input ends it."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", HOLD, place], cwd=ROOT, **pipes) as process:
        try:
            assert process.stdout.readline() == "alone\n"
            yield process
        finally:
            process.kill()


def alone(place: Path) -> None:
    with Partitions(place).alone():
        pass


def test_while_a_run_writes_another_is_refused_with_a_line_that_names_it_and_removes_nothing_of_it(table):
    with another_run(table.place) as process:
        told = (
            rf"^{table.place}: another run \(process {process.pid} on \S+, since 20\S+\) writes to this folder\. Wait"
        )
        with pytest.raises(UserError, match=told):
            alone(table.place)
        assert (table.place / "_staging" / "half-written").exists()
        process.communicate("\n", timeout=30)
        alone(table.place)
    assert sorted(path.name for path in table.place.iterdir()) == ["event_date=2026-01-01", "event_date=2026-01-02"]


@pytest.mark.skipif(os.geteuid() != 0, reason="takes root, to act as another user")
def test_another_user_can_not_hold_the_lock(table):
    with another_run(table.place):
        held = subprocess.run(
            ["flock", "-n", table.place / "_lock", "true"], user=65534, capture_output=True, text=True
        )
        assert "ermission denied" in held.stderr


def test_by_another_name_it_is_the_same_folder(table, tmp_path, monkeypatch):
    (tmp_path / "link").symlink_to(table.place)
    monkeypatch.chdir(tmp_path)
    with another_run(table.place):
        for place in (tmp_path / "link", Path(table.place.name)):
            with pytest.raises(UserError, match="another run"):
                alone(place)


def test_a_killed_run_leaves_no_lock_and_what_it_staged_is_removed_by_the_next(table):
    with another_run(table.place) as process:
        process.kill()
        process.wait(10)
        assert (table.place / "_staging" / "half-written").exists()
        alone(table.place)
    assert sorted(path.name for path in table.place.iterdir()) == ["event_date=2026-01-01", "event_date=2026-01-02"]


def test_runs_that_wait_for_each_other_are_alone_one_after_the_other_however_many(tmp_path):
    """Each takes a lock that the one before has just removed, with the folder around it."""
    place, inside, failures = tmp_path / "features", [], []

    def run():
        for _ in range(20):
            try:
                with Partitions(place).alone():
                    inside.append(1)
                    failures.extend(inside[1:])
                    inside.pop()
            except UserError as error:
                failures.append(str(error))

    runs = [threading.Thread(target=run) for _ in range(4)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    assert [failure for failure in failures if "another run" not in str(failure)] == []
    assert list(tmp_path.rglob("*")) in ([], [place])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("event_date=garbage/features.parquet", "this is not a day of features"),
        ("event_date=2026-02-30/features.parquet", "this is not a day of features"),
        ("event_date=2026-2-3/features.parquet", "this is not a day of features"),
        ("event_date=20260203/features.parquet", "this is not a day of features"),
        ("event_date=/features.parquet", "this is not a day of features"),
        ("event_date=today/features.parquet", "this is not a day of features"),
        ("event_date=NaT/features.parquet", "this is not a day of features"),
        ("event_date=2026-02/features.parquet", "this is not a day of features"),
        ("event_date=12026-01-01/features.parquet", "this is not a day of features"),
        ("Event_Date=2026-01-01/features.parquet", "this is not a day of features"),
        ("old/event_date=2026-01-01/features.parquet", "this is not a day of features"),
        ("event_date=2026-01-01/old/features.parquet", "this is not a day of features"),
        ("event_date=2026-01-01/part-0.parquet", "this is not a day of features"),
        ("features.parquet", "this is not a day of features"),
        ("event_date=2026-02-03", "this is not a folder"),
        ("event_date=2026-02-30", "this is not a folder"),
        ("_staging", "this is not a folder"),
        ("event_date=2026-02-03/features.parquet/x", "features.parquet: this is not a file"),
        ("_manifest.json/x", "_manifest.json: this is not a file"),
        ("_totals.arrow/x", "_totals.arrow: this is not a file"),
        ("_lock/x", "_lock: this is a folder"),
    ],
)
def test_what_is_no_part_of_a_table_is_refused_by_its_name_and_left_alone(table, name, told):
    before = read(table.place)
    (table.place / name).parent.mkdir(parents=True, exist_ok=True)
    (table.place / name).write_text("mine")
    with pytest.raises(UserError, match=told) as caught:
        alone(table.place)
    assert str(caught.value).startswith(f"{table.place}/{name.removesuffix('/x')}: ")
    assert "Remove it" in str(caught.value)
    assert (table.place / name).read_text() == "mine"
    (table.place / name).unlink()
    with suppress(OSError):
        (table.place / name).parent.rmdir()
    alone(table.place)
    assert read(table.place) == before


@pytest.mark.parametrize("name", ["event_date=2026-01-03", "event_date=2026-01-01/features.parquet", "_staging"])
def test_links_in_a_table_are_refused_and_what_they_point_to_is_left_alone(table, tmp_path, name):
    private = tmp_path / "private"
    private.mkdir()
    (private / "features.parquet").write_text("private")
    link = table.place / name
    link.unlink(missing_ok=True)
    link.symlink_to(private / "features.parquet" if link.suffix else private)
    with pytest.raises(UserError, match=f"{name}: this is a link"):
        alone(table.place)
    assert (private / "features.parquet").read_text() == "private"


def test_other_things_in_the_folder_of_a_table_are_nobodys_concern(table):
    (table.place / "README.txt").write_text("what this is")
    (table.place / "event_date=garbage").mkdir()
    alone(table.place)
    assert table.days() == [number(datetime(2026, 1, day, tzinfo=UTC)) for day in (1, 2)]


def test_a_file_is_not_made_a_folder_silently(tmp_path):
    (tmp_path / "features.parquet").write_text("")
    with pytest.raises(UserError, match="this is a file"):
        Partitions(tmp_path / "features.parquet")


def test_the_first_and_the_last_day_of_the_calendar_have_names(tmp_path):
    ends = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
    table = Partitions(tmp_path / "features.parquet")
    days = day_of(pa.array(ends, pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy())
    table.replace([table.stage([features(end)], int(day), SCHEMA) for end, day in zip(ends, days, strict=True)], [])
    assert set(read(table.place)) == {"event_date=0001-01-01", "event_date=9999-12-31"}
    assert table.days() == days.tolist()


def test_files_of_a_folder_are_all_but_the_hidden_ones_and_of_known_kinds(tmp_path):
    for name in ["b.csv", "a=1/c.parquet", "_SUCCESS", ".a.csv.crc", "_old/d.csv"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert list(transaction_files(tmp_path)) == [f"{tmp_path}/a=1/c.parquet", f"{tmp_path}/b.csv"]
    (tmp_path / "e.xlsx").write_text("")
    with pytest.raises(UserError, match=r"e\.xlsx: .*the suffix"):
        transaction_files(tmp_path)


@pytest.mark.parametrize(
    "address",
    ["s3://", "s3:///a.csv", "s3://bucket//a.csv", "S3://bucket/a.csv", "gs://bucket/a.csv", "http://a/b.csv"],
)
def test_what_is_no_address_of_a_bucket_that_is_known_is_told_at_once(address):
    with pytest.raises(UserError, match=f"^{address}: not the address of a bucket, which is s3://"):
        filesystem_of(address)


def test_a_file_on_a_disk_is_read_where_it_is(tmp_path):
    with on_disk(tmp_path / "a.csv") as path:
        assert path == tmp_path / "a.csv"


@pytest.fixture
def folders(project):
    """A project whose transactions are a folder of a CSV and a Parquet file, and its offline table one of days."""
    project.succeed("generate_synthetic_data.py")
    project.apply()
    project.succeed("compute_features.py")
    history = pq.read_table(project.features)
    project.features.unlink()
    times = history["event_timestamp"].cast(pa.int64()).to_numpy()
    order = np.argsort(times)
    table = Partitions(project.features)
    days = split_by_day(history.take(order), day_of(times[order]))
    table.replace([table.stage([rows], day, history.schema) for day, rows in days], [])
    lines = project.transactions.read_text().splitlines()
    folder = project.root / "transactions"
    folder.mkdir()
    project.transactions.unlink()
    (folder / "first.csv").write_text("\n".join(lines[:50]))
    (folder / "rest.csv").write_text("\n".join([lines[0], *lines[50:]]))
    pq.write_table(pacsv.read_csv(folder / "rest.csv"), folder / "rest.parquet")
    (folder / "rest.csv").unlink()
    return project, folder


def test_feast_trains_serves_and_proves_from_features_by_day(folders):
    project, folder = folders
    (project.features / "_staging").mkdir(exist_ok=True)
    (project.features / "_staging" / "half-written").write_text("of a run that was killed")
    assert "20 users in Redis" in project.succeed("materialize_to_online.py")
    certificate = project.root / "certificate.json"
    out = project.succeed("demo_fixed.py", "--input", folder, "--certificate", certificate)
    assert "match 40, mismatch 0, missing online 0, extra online 0, equal but wrong 0" in out
    assert json.loads(certificate.read_text())["data_sha256"].keys() == {str(folder), str(project.features)}


def test_a_day_of_another_schema_is_told_before_anything_is_read(folders):
    project, _ = folders
    file = max(project.features.rglob("*.parquet"))
    pq.write_table(pa.table({"user_id": [1]}), file)
    assert f"{file}: it has no column" in project.fail("materialize_to_online.py")


def test_a_folder_without_days_is_told(folders):
    project, _ = folders
    for file in project.features.rglob("*.parquet"):
        file.unlink()
    assert "there is no Parquet file in this folder" in project.fail("materialize_to_online.py")


def test_a_parquet_file_that_is_hidden_is_read_by_duckdb_and_so_is_looked_at(folders):
    project, _ = folders
    (project.features / "_old").mkdir()
    pq.write_table(pa.table({"user_id": [1]}), project.features / "_old" / "features.parquet")
    assert "_old/features.parquet: it has no column" in project.fail("materialize_to_online.py")
