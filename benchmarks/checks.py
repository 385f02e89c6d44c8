"""`parity check` of a large view, beside the script that a team would write for it.

python -m benchmarks.checks ours|theirs FOLDER
"""

import contextlib
import io
import json
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import redis
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64, String

from benchmarks.measure import Row, at_most, child, peak_mb
from benchmarks.stores import quiet

DRAWN = {
    Float64: lambda draw, count: pa.array(draw.gamma(2, 25, count), mask=draw.random(count) < 0.02),
    Int64: lambda draw, count: pa.array(draw.integers(0, 1000, count)),
    String: lambda draw, count: pa.array(draw.integers(0, 1000, count)).cast(pa.string()),
}
FIELDS = {f"feature_{place}": kind for place, kind in enumerate([Float64] * 5 + [Int64] * 3 + [String] * 2)}
PER_BATCH = 40_000
EQUAL = "EQUAL: training equals serving in "


def checked(keys: int, folder: Path, port: int) -> list[Row]:
    """All keys of a view of ten features, DuckDB offline and Redis online, each way in a process of its own."""
    repository = folder / "checked"
    _build(repository, keys, port)
    ours, theirs = (child("checks", way, repository) for way in ("ours", "theirs"))
    assert ours["equal"] == theirs["equal"] > 9 * keys, "what is equal differs"
    with redis.Redis(port=port) as client:
        client.flushall()  # the benchmark's own Redis
    work = f"parity check, {keys:,} keys x {len(FIELDS)}"
    note = f"{ours['cpu']:.0f} s of processor time, by hand {theirs['cpu']:.0f} s"
    return [
        at_most(work, "at most 1x", "by hand", ours["seconds"], theirs["seconds"], "s", note),
        at_most(f"{work}, peak memory", "at most 1x", "by hand", ours["peak_mb"], theirs["peak_mb"], "MB"),
        at_most(f"{work}, against two minutes", "at most 1x", "120 s", ours["seconds"], 120, "s"),
        at_most(f"{work}, against 1 GiB", "at most 1x", "1 GiB", ours["peak_mb"], 1024, "MB"),
    ]


def _build(root: Path, keys: int, port: int) -> None:
    """A repository with stock stores, of which every row is materialized."""
    root.mkdir()
    configuration = {
        "project": "checked",
        "provider": "local",
        "registry": str(root / "registry.db"),
        "offline_store": {"type": "duckdb"},
        "online_store": {"type": "redis", "connection_string": f"localhost:{port}"},
        "entity_key_serialization_version": 3,
    }
    (root / "feature_store.yaml").write_text(yaml.safe_dump(configuration))
    now, draw = datetime.now(UTC).replace(microsecond=0), np.random.default_rng(1)
    events = (int(now.timestamp()) - draw.integers(3600, 5 * 86_400, keys)) * 1_000_000
    columns = {"customer_id": pa.array(np.arange(1, keys + 1))}
    columns["event_timestamp"] = pa.array(events).cast(pa.timestamp("us", "UTC"))
    columns |= {name: DRAWN[kind](draw, keys) for name, kind in FIELDS.items()}
    path = root / "customers.parquet"
    pq.write_table(pa.table(columns), path)
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    schema = [Field(name="customer_id", dtype=Int64), *(Field(name=name, dtype=kind) for name, kind in FIELDS.items())]
    source = FileSource(name="customers", path=str(path), timestamp_field="event_timestamp")
    view = FeatureView(
        name="customers", entities=[customer], ttl=timedelta(days=10), schema=schema, source=source, online=True
    )
    store = FeatureStore(str(root))
    with quiet():
        store.apply([customer, view])
        store.materialize(now - timedelta(days=30), now)


def _ours(root: Path) -> int:
    """Run the command as it is run, and read from its last line how many values are equal."""
    from parity.check import command

    sys.argv = ["parity check", "-c", str(root), "--sample", "0"]
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert command.main() == 0, said.getvalue()
    last = said.getvalue().splitlines()[-1]
    return int(last.removeprefix(EQUAL).split()[0].replace(",", ""))


def _theirs(root: Path) -> int:
    """What a team would write: both sides for all keys, batch by batch, as tables that are compared."""
    store, names = FeatureStore(str(root)), list(FIELDS)
    features = [f"customers:{name}" for name in names]
    keys = pd.read_parquet(root / "customers.parquet", columns=["customer_id"])["customer_id"]
    equal = 0
    for start in range(0, len(keys), PER_BATCH):
        some = keys[start : start + PER_BATCH].to_frame()
        some["event_timestamp"] = pd.Timestamp.now("UTC")
        serving = store.get_online_features(features, some[["customer_id"]].to_dict("records")).to_df()
        training = store.get_historical_features(some, features).to_df()
        one, other = (side.set_index("customer_id").sort_index()[names] for side in (training, serving))
        same = (one == other).to_numpy()
        assert (same | (one.isna() & other.isna()).to_numpy()).all()
        equal += int(same.sum())
    return equal


if __name__ == "__main__":
    found = {"ours": _ours, "theirs": _theirs}[sys.argv[1]](Path(sys.argv[2]))
    seconds, cpu = time.time() - psutil.Process().create_time(), time.process_time()  # with what is imported
    print(json.dumps({"equal": found, "seconds": seconds, "cpu": cpu, "peak_mb": peak_mb()}))
