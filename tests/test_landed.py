"""Landed events: files that grow, that nothing is in twice, and that every reader of transactions takes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.types import Float64, Int64, String

from parity.definition.instants import UTC_MICROSECONDS
from parity.edge.errors import UserError
from parity.offline.side import marks_of, note_marks
from parity.proof.raw import raw_transactions
from parity.transactions.landed import ID, OFFSET, PARTITION, PLACE, Landing, file_name, high_water
from parity.transactions.read import read_transactions
from tests.conftest import ROOT
from tests.definition import aggregation, customer, purchases, table

MORNING = datetime(2026, 7, 1, 8, tzinfo=UTC)
PLACE_0 = "orders/0"


def rows(*offsets: int, partition: str = PLACE_0, ids: list[str | None] | None = None, amount: float = 1.0) -> pa.Table:
    """Purchases at these offsets, each of a user and an amount that tell the offset."""
    columns = {
        "user_id": pa.array([offset % 7 for offset in offsets], pa.int64()),
        "timestamp": pa.array([MORNING + timedelta(seconds=offset) for offset in offsets], UTC_MICROSECONDS),
        "purchase_amount": pa.array([offset + amount for offset in offsets], pa.float64()),
        PARTITION: pa.array([partition] * len(offsets), pa.string()),
        OFFSET: pa.array(offsets, pa.int64()),
        ID: pa.array(ids or [None] * len(offsets), pa.string()),
    }
    return pa.table(columns)


def landed(folder) -> list[int]:
    """The offsets of all rows in the files of a folder, in their order."""
    files = sorted(folder.glob("*.parquet"))
    return [offset for file in files for offset in pq.ParquetFile(file).read()[OFFSET].to_pylist()]


def everything(landing: Landing, some: pa.Table, until: int, partition: str = PLACE_0) -> int:
    return landing.land(some, {partition: until})


def test_many_small_batches_grow_one_file_and_files_are_of_bounded_size(tmp_path):
    landing = Landing(tmp_path, rows_per_file=10)
    for offset in range(35):
        assert everything(landing, rows(offset), offset) == 1
    files = sorted(tmp_path.glob("*.parquet"))
    assert [pq.read_metadata(file).num_rows for file in files] == [10, 10, 10, 5]
    assert [file.name for file in files] == [file_name(PLACE_0, first) for first in (0, 10, 20, 30)]
    assert landed(tmp_path) == list(range(35))


def test_a_batch_larger_than_a_file_lands_in_several(tmp_path):
    everything(Landing(tmp_path, rows_per_file=10), rows(*range(47)), 50)
    sizes = [pq.read_metadata(file).num_rows for file in sorted(tmp_path.glob("*.parquet"))]
    assert sum(sizes) == 47
    assert max(sizes) < 20
    assert landed(tmp_path) == list(range(47))
    assert high_water(tmp_path) == {PLACE_0: 50}


def test_high_water_is_that_of_each_partition_also_where_no_event_was_good(tmp_path):
    landing = Landing(tmp_path)
    both = pa.concat_tables([rows(3, 4), rows(1, 9, partition="orders/a-b c")])
    assert landing.land(both, {PLACE_0: 4, "orders/a-b c": 12}) == 4
    assert landing.land(rows(), {PLACE_0: 8}) == 0
    assert landing.high_water() == high_water(tmp_path) == {PLACE_0: 8, "orders/a-b c": 12}
    assert high_water(tmp_path / "not there") == {}
    (tmp_path / "file").touch()
    assert high_water(tmp_path / "file") == {}


def test_what_has_landed_does_not_land_again_from_two_processes_either(tmp_path):
    one, other = Landing(tmp_path), Landing(tmp_path)
    assert everything(one, rows(0, 1, 2), 2) == 3
    assert everything(other, rows(0, 1, 2, 3, 4), 4) == 2
    assert everything(one, rows(3, 4, 5), 5) == 1
    assert everything(other, rows(3, 4), 4) == 0
    assert landed(tmp_path) == [0, 1, 2, 3, 4, 5]


def test_names_of_sources_and_partitions_are_never_mixed_up(tmp_path):
    names = ["a-b/0", "a/b-0", "a/b.0", "a%2Db/0", "../a/0", "\u00e4/0"]
    landing = Landing(tmp_path)
    for number, name in enumerate(names):
        everything(landing, rows(number, partition=name), number, name)
    assert len(list(tmp_path.iterdir())) == len(names) + 1  # the lock
    assert high_water(tmp_path) == {name: number for number, name in enumerate(names)}


@pytest.mark.parametrize("full", [3, 100])
def test_a_correction_takes_the_place_of_its_row(tmp_path, full):
    landing = Landing(tmp_path, [["user_id"]], rows_per_file=full)
    everything(landing, rows(*range(8), ids=[f"id{n}" for n in range(8)]), 7)
    corrected = rows(1, 6, 9, ids=["id1", "id6", "new"], amount=100.0)
    corrected = corrected.set_column(4, OFFSET, pa.array([8, 9, 10]))
    new = landing.land(corrected, {PLACE_0: 10}, np.array([True, True, False]))
    assert new == 1
    found = pa.concat_tables([pq.read_table(file) for file in sorted(tmp_path.glob("*.parquet"))])
    assert found[OFFSET].to_pylist() == [*range(8), 10]
    assert [found["purchase_amount"][n].as_py() for n in (0, 1, 6)] == [1.0, 101.0, 106.0]
    assert high_water(tmp_path) == {PLACE_0: 10}
    assert set(found[PARTITION].to_pylist()) == {PLACE_0}


def test_a_correction_or_repetition_of_a_row_that_lands_with_it_is_one_row(tmp_path):
    some = pa.concat_tables([rows(0, 1, ids=["x", "y"]), rows(0, 0, 0, ids=["x", "x", "x"], amount=5.0)])
    some = some.set_column(4, OFFSET, pa.array([0, 1, 2, 3, 4]))
    assert Landing(tmp_path, [["user_id"]]).land(some, {PLACE_0: 4}, np.array([False, False, True, True, True])) == 2
    [file] = tmp_path.glob("*.parquet")
    found = pq.read_table(file)
    assert found[OFFSET].to_pylist() == [0, 1]
    assert found["purchase_amount"].to_pylist() == [5.0, 2.0]


def test_one_id_of_two_keys_is_two_rows_and_a_repetition_is_none(tmp_path):
    landing = Landing(tmp_path, [["user_id"]])
    everything(landing, rows(0, ids=["x"]), 0)
    again = np.array([True, True])
    some = rows(0, 1, ids=["x", "x"]).set_column(4, OFFSET, pa.array([5, 6]))
    assert landing.land(some, {PLACE_0: 6}, again) == 1
    assert landed(tmp_path) == [0, 6]


def test_an_event_is_an_earlier_one_only_if_it_has_its_id_and_its_keys_of_all_views(tmp_path):
    """As ids may be unique within a user only, a purchase of the same product is not the one of another user."""
    landing = Landing(tmp_path, [["user_id"], ["sku"]])
    skus = ["s", "s", None, None, "s"]
    some = rows(0, 1, 0, 0, 0, ids=["x"] * 5).set_column(4, OFFSET, pa.array(range(5)))
    some = some.append_column("sku", pa.array(skus))
    assert landing.land(some, {PLACE_0: 4}, np.array([True] * 5)) == 3
    assert landed(tmp_path) == [0, 1, 2]


def test_other_columns_begin_another_file(tmp_path):
    landing = Landing(tmp_path)
    everything(landing, rows(0), 0)
    everything(landing, rows(1).append_column("more", pa.array(["x"])), 1)
    everything(landing, rows(2).append_column("more", pa.array(["y"])), 2)
    assert len(list(tmp_path.glob("*.parquet"))) == 2
    assert landed(tmp_path) == [0, 1, 2]


def test_files_that_are_gone_or_damaged_are_noticed(tmp_path):
    landing = Landing(tmp_path)
    everything(landing, rows(0), 0)
    [file] = tmp_path.glob("*.parquet")
    file.unlink()
    with pytest.raises(UserError, match=r"events of orders/0 that had landed are gone"):
        everything(landing, rows(1), 1)
    file.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"not a file of landed events"):
        high_water(tmp_path)


def test_a_bucket_and_a_file_are_no_folder_to_land_in(tmp_path):
    with pytest.raises(UserError, match=r"s3://bucket/x: events can't land in a bucket"):
        Landing("s3://bucket/x")
    (tmp_path / "orders.csv").touch()
    with pytest.raises(UserError, match=r"orders.csv: this is a file, and events land in a folder"):
        Landing(tmp_path / "orders.csv")


KILLED = """
import sys
from pathlib import Path
import pyarrow as pa
from parity.transactions.landed import Landing, PLACE
landing = Landing(Path(sys.argv[1]), rows_per_file=50)
start = landing.high_water().get("orders/0", -1) + 1
for offset in range(start, 100_000, 3):
    offsets = [offset, offset + 1, offset + 2]
    rows = pa.table([["orders/0"] * 3, offsets, [None] * 3], schema=PLACE)
    landing.land(rows, {"orders/0": offset + 2})
    print(offset, flush=True)
"""


def test_a_process_killed_at_any_point_leaves_no_row_twice_and_none_out(tmp_path):
    draw = random.Random(7)
    for _ in range(4):
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, tmp_path], cwd=ROOT, stdout=subprocess.PIPE, env=os.environ
        )
        process.stdout.readline()
        time.sleep(draw.uniform(0.01, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        reached = high_water(tmp_path).get(PLACE_0, -1)
        assert landed(tmp_path) == list(range(reached + 1))
    assert reached >= 5
    Landing(tmp_path).land(rows(reached + 1).select(PLACE.names), {PLACE_0: reached + 1})
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


# What reads them


FORMATS = {
    "plain": {},
    "a strptime format in a zone": {"timestamp_format": "%d.%m.%Y %H:%M", "time_zone": "Europe/Berlin"},
    "numbers of days": {"timestamp_format": "days", "origin": "1899-12-30", "time_zone": "America/New_York"},
    "German numbers": {"decimal": ",", "thousands": ".", "currency": "EUR", "null_values": ["-"]},
    "no header": {"column_names": ["a", "b"], "skip_rows": 3, "skip_footer": 1},
    "renamed": {"field_mapping": {"Amount.gross": "total", "who": "customer_id"}},
}


@pytest.mark.parametrize("reading", FORMATS.values(), ids=FORMATS)
def test_every_reader_takes_landed_files_whatever_is_declared_of_others(tmp_path, reading):
    folder = tmp_path / "region=eu"
    if "column_names" in reading:
        reading = reading | {"column_names": ["customer_id", "timestamp", "total", "quantity", "sku", "region"]}
    definition = table(
        tmp_path,
        "orders",
        [customer],
        [aggregation("sum", "total", 7), aggregation("sum", "quantity"), aggregation("last", "sku")],
        {"total": Float64, "quantity": Int64, "sku": String},
        where="region <> 'us'",
        **reading,
    ).definition
    name_of = definition.reading.in_file
    values = {
        name_of("customer_id"): pa.array(["007", " b", "7", "7"]),
        name_of("timestamp"): pa.array([MORNING + timedelta(microseconds=n) for n in range(4)], UTC_MICROSECONDS),
        name_of("total"): pa.array([1.5, -0.1, 1e300, None], pa.float64()),
        name_of("quantity"): pa.array([2**63 - 1, -7, 0, None], pa.int64()),
        name_of("sku"): pa.array(["1,5", "x", "NaN", None]),
        "region": pa.array(["eu", "eu", "asia", "us"]),
    }
    place = {PARTITION: ["orders/0"] * 4, OFFSET: [3, 4, 5, 6], ID: ["a", None, "b", "c"]}
    some = pa.table(values | {name: pa.array(place[name], PLACE.field(name).type) for name in place})
    Landing(folder, [[name_of("customer_id")]]).land(some, {"orders/0": 6})

    read = read_transactions(folder, definition)
    for name in definition.transactions.names:
        assert read[name].to_pylist() == some[name_of(name)].to_pylist()[:3]
    assert read.num_rows == 3
    with raw_transactions(folder, definition) as raw:
        assert raw.keys["customer_id"].to_pylist() == ["007", " b", "7"]
        [seen] = raw.of("007")
        assert (seen.time, seen.values["quantity"], float(seen.values["total"])) == (MORNING, 2**63 - 1, 1.5)
        assert seen.values["sku"] == "1,5"


def test_landed_rows_beside_other_files_are_taken_up_by_an_incremental_run(tmp_path):
    from parity.compute.incremental import update
    from parity.compute.windows import aggregate

    definition = purchases(tmp_path).definition
    folder, output = tmp_path / "transactions", tmp_path / "features"
    folder.mkdir()
    (folder / "a.csv").write_text("user_id,timestamp,purchase_amount\n3,2026-06-30T00:00:00Z,2.5\n")
    landing = Landing(folder, [["user_id"]], rows_per_file=5)
    for start in (0, 4, 8):
        everything(landing, rows(*range(start, start + 4)), start + 3)
        update(folder, output, definition)
        whole = aggregate(read_transactions(folder, definition), definition)
        assert whole.num_rows > start
        parts = [pq.read_table(file, partitioning=None) for file in sorted(output.rglob("features.parquet"))]
        by_key = [("user_id", "ascending"), ("event_timestamp", "ascending")]
        assert pa.concat_tables(parts).sort_by(by_key).to_pylist() == whole.sort_by(by_key).to_pylist()
    assert update(folder, output, definition) is None


def test_marks_are_noted_beside_the_offline_table_and_forgotten_with_it(tmp_path):
    made = purchases(tmp_path)
    output = tmp_path / "purchases.parquet"
    assert marks_of(made) == {}
    note_marks(made, output, {"orders/1": 2**62, "orders/0": 7})
    assert marks_of(made) == {"orders/0": 7, "orders/1": 2**62}
    assert json.loads((tmp_path / "purchases.marks").read_text()) == {"orders/0": 7, "orders/1": 2**62}
    note_marks(made, tmp_path / "elsewhere.parquet", {})
    assert marks_of(made)
    note_marks(made, output, {})
    assert not (tmp_path / "purchases.marks").exists()
    (tmp_path / "purchases.marks").write_text("[1]")
    with pytest.raises(UserError, match=r"Run: python compute_features\.py"):
        marks_of(made)


def test_compute_features_notes_the_marks_of_what_it_read(project):
    folder = project.root / "events"
    some = rows(*range(5))
    Landing(folder).land(some.append_column("product_id", pa.array([1] * 5)), {PLACE_0: 8})
    project.apply()
    project.succeed("compute_features.py", "--input", folder)
    note = project.features.with_suffix(".marks")
    assert json.loads(note.read_text()) == {PLACE_0: 8}
    project.write_transactions("7,1,2026-07-01T08:00:00Z,5.0")
    project.succeed("compute_features.py")
    assert not note.exists()


@pytest.mark.scale
def test_spark_takes_landed_files(tmp_path):
    from parity.compute.spark import compute

    Landing(tmp_path / "events").land(rows(*range(50)), {PLACE_0: 49})
    days = compute(tmp_path / "events", tmp_path / "features", purchases(tmp_path).definition)
    assert sum(day.rows for day in days) == 50
