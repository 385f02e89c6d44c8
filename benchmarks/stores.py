"""The stores: materialization, online reads and training data."""

import contextlib
import io
import json
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis
import yaml
from feast import Entity, FeatureStore, RepoConfig, ValueType
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from benchmarks.measure import ROOT, Row, alternately, at_most, child, faster, peak_mb
from parity.definition.checks import FeatureTable
from parity.definition.keys import as_tuples
from parity.materialization import EVER, materialize
from parity.online.rows import Fields
from parity.online.side import online_store_of, redis_keys
from parity.served.log import parts as list_parts
from parity.served.recorder import recorder_of
from tests.definition import AVERAGE, TOTAL, aggregation, table
from tests.online import applied

NAMES = [AVERAGE, TOTAL]
KINDS = {"int64": [("user_id", ValueType.INT64)], "text": [("user_id", ValueType.STRING)]}
KINDS["two"] = [("user_id", ValueType.STRING), ("store_id", ValueType.INT64)]
"""The join keys of the tables that are compared."""
OURS = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())
STOCK = {"offline_store": {"type": "duckdb"}, "batch_engine": {"type": "local"}, "online_store": {"type": "redis"}}
WAYS = {"ours": OURS, "stock Feast": STOCK}
END = datetime(2026, 3, 8, tzinfo=UTC)


def table_of(kind: str, folder: Path) -> FeatureTable:
    """A mean and a count, under join keys of this kind."""
    entities = [Entity(name=f"{kind}_{name}", join_keys=[name], value_type=type) for name, type in KINDS[kind]]
    features = [
        aggregation("mean", "purchase_amount", 3, AVERAGE),
        aggregation("count", "purchase_amount", name=TOTAL),
    ]
    return table(folder, f"by_{kind}", entities, features)


def keys_of(kind: str, ids: np.ndarray) -> pa.Table:
    """The keys of users who have these numbers, from 1 on."""
    text = pc.binary_join_element_wise("customer-", pc.utf8_lpad(pa.array(ids).cast(pa.string()), 8, "0"), "")
    columns = {"user_id": pa.array(ids) if kind == "int64" else text}
    return pa.table(columns | ({"store_id": pa.array(ids % 100)} if kind == "two" else {}))


def write_history(table: FeatureTable, kind: str, users: int, rows_each: int, end: datetime) -> None:
    """Write a random offline table of ``rows_each`` rows for each of ``users``, within the 20 days before ``end``."""
    draw, count = np.random.default_rng(1), users * rows_each
    ages = np.sort(draw.permuted(np.arange(count)).reshape(users, rows_each), axis=1)[:, ::-1].ravel()
    events = int(end.timestamp() * 1e6) - 1 - ages * (20 * 86_400_000_000 // count)
    ids = np.repeat(np.arange(1, users + 1), rows_each)
    columns = [
        *keys_of(kind, ids).columns,
        pa.array(events).cast(pa.timestamp("us", "UTC")),
        draw.gamma(2, 25, count),
        draw.integers(1, 200, count),
    ]
    pq.write_table(pa.table(columns, schema=table.definition.schema), table.source.path)


def store_of(way: str, tables: list[FeatureTable], folder: Path, port: int, **online: Any) -> FeatureStore:
    """Open and apply a store over ``tables``, with the parts of ``way``, online at ``port`` with these options."""
    parts = WAYS[way]
    store = FeatureStore(
        config=RepoConfig(
            project=way.replace(" ", "_"),
            provider="local",
            registry=str(folder / f"{way}.db"),
            offline_store=parts["offline_store"],
            batch_engine=parts["batch_engine"],
            online_store=parts["online_store"] | {"connection_string": f"localhost:{port}"} | online,
            materialization_config=parts.get("materialization_config", {}),
            entity_key_serialization_version=3,
        )
    )
    with quiet():
        store.apply(applied(tables))
    return store


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def materialization(kind: str, users: int, rows_each: int, repeats: int, folder: Path, port: int) -> list[Row]:
    """Each run in a process of its own, into an empty Redis; ours with its retraction and its reading back."""
    table = table_of(kind, folder)
    write_history(table, kind, users, rows_each, END)
    some = keys_of(kind, np.arange(1, users + 1, max(1, users // 10_000)))
    taken: dict[str, list[dict]] = {way: [] for way in WAYS}
    with redis.Redis(port=port) as client:
        for repeat in range(repeats):
            found = []
            for way in WAYS:
                client.flushall()  # the benchmark's own Redis
                taken[way].append(child("stores", way, kind, folder, port))
                if repeat == 0:
                    with client.pipeline(transaction=False) as pipeline:
                        for key in redis_keys(store_of(way, [table], folder, port), table, some):
                            pipeline.hgetall(key)
                        found.append(pipeline.execute())
            assert repeat or (found[0] == found[1] and all(found[0])), "the bytes in Redis differ"
    seconds = {way: statistics.median(run["seconds"] for run in runs) for way, runs in taken.items()}
    peak = {way: statistics.median(run["peak_mb"] for run in runs) for way, runs in taken.items()}
    work = f"materialize, {users:,} users x {rows_each}" + (f", {_of(kind)}" if kind != "int64" else "")
    return [
        faster(work, "4x" if kind == "int64" else "3x", seconds),
        at_most(f"{work}, peak memory", "at most 0.25x" if rows_each == 1 else "", "stock Feast", *peak.values(), "MB"),
    ]


def _of(kind: str) -> str:
    return {"int64": "int64 keys", "text": "text keys", "two": "text and int64 keys"}[kind]


def materialize_once(way: str, kind: str, folder: Path, port: int) -> None:
    table = table_of(kind, folder)
    store = store_of(way, [table], folder, port)
    start = time.perf_counter()
    with quiet():
        if way == "ours":
            materialize(store, table, None, END, END)
        else:
            store.materialize(EVER, END, [table.name])
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb()}))


class Served:
    """Some users of a table, materialized a moment ago."""

    def __init__(self, store: FeatureStore, table: FeatureTable, kind: str, port: int, users: int = 2000):
        self.store, self.table, now = store, table, datetime.now(UTC)
        write_history(self.table, kind, users, 1, now)
        with quiet():
            materialize(self.store, self.table, None, now, now)
        self.keys, self._client = keys_of(kind, np.arange(1, users + 1)), redis.Redis(port=port)
        names = self.table.definition.keys.names
        self._rows = [dict(zip(names, key, strict=True)) for key in as_tuples(self.keys)]
        timestamp, *fields = Fields(self.table.name).of(NAMES)
        self._fields, self._stored = [*fields, timestamp], redis_keys(self.store, self.table, self.keys)

    def feast(self, first: int, count: int):
        return self.store.get_online_features(self.table.service, self._rows[first : first + count])

    def without_fast_path(self, first: int, count: int):
        """The same answer, by Feast's own way through our store."""
        online, store = online_store_of(self.store), self.store
        return RedisOnlineStore.get_online_features(
            online, store.config, self.table.service, self._rows[first : first + count], store.registry, store.project
        )

    def raw(self, first: int, count: int) -> list:
        """HMGET by redis-py, decoded into protobuf."""
        if count == 1:
            return [self._decoded(self._client.hmget(self._stored[first], self._fields))]
        with self._client.pipeline(transaction=False) as pipeline:
            for key in self._stored[first : first + count]:
                pipeline.hmget(key, self._fields)
            return [self._decoded(reply) for reply in pipeline.execute()]

    @staticmethod
    def _decoded(reply: list) -> list:
        *values, event = reply
        return [*map(Value.FromString, values), Timestamp.FromString(event)]

    def values(self, count: int) -> list[list]:
        """What is answered of the first users."""
        answer = self.feast(0, count).to_dict()
        return [list(row) for row in zip(*(answer[name] for name in NAMES), strict=True)]


def online_reads(calls: int, folder: Path, port: int) -> list[Row]:
    """p50 of `get_online_features` against HMGET by redis-py, and of other keys than int64 against int64."""
    tables = {kind: table_of(kind, folder) for kind in KINDS}
    store = store_of("ours", list(tables.values()), folder, port)  # Feast keeps what it resolved of one
    served = {kind: Served(store, table, kind, port) for kind, table in tables.items()}
    rows = []
    for count, share in [(1, 1), (100, 5)]:
        expected = [[getattr(v, v.WhichOneof("val")) for v in values] for *values, _ in served["int64"].raw(0, count)]
        assert all(one.values(count) == expected for one in served.values()), "the answers differ"
        assert served["int64"].without_fast_path(0, count).proto == served["int64"].feast(0, count).proto
        ways = {kind: one.feast for kind, one in served.items()}
        ways |= {"raw": served["int64"].raw, "slow": served["int64"].without_fast_path}
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for call in range(calls // share):
            for way, ask in ways.items():
                start = time.perf_counter()
                ask(call % (2000 - count), count)
                taken[way].append((time.perf_counter() - start) * 1000)
        p50 = {name: statistics.median(some[len(some) // 10 :]) for name, some in taken.items()}
        work = f"get_online_features, {count} user{'s' * (count > 1)}, p50"
        slow = f"without the fast path {p50['slow']:.3g} ms, {p50['slow'] / p50['raw']:.1f}x"
        rows.append(at_most(work, "at most 2x", "raw redis-py", p50["int64"], p50["raw"], "ms", slow))
        for kind in ("text", "two"):
            must = "at most 1.5x" if kind == "text" else ""
            rows.append(at_most(f"{work}, {_of(kind)}", must, "int64 keys", p50[kind], p50["int64"], "ms"))
    return rows


def logged_reads(calls: int, folder: Path, port: int) -> list[Row]:
    """p50 of `get_online_features` with the log of what is served, against without; in blocks that alternate, so that
    the work of the log's thread falls into its own."""
    table, served = table_of("int64", folder), {}
    for way, log in (("off", False), ("on", {"path": str(folder / "served"), "flush_seconds": 1})):
        store = store_of("ours", [table], folder, port, log_served=log)
        served[way] = Served(store, table, "int64", port)
    rows = []
    for count in (1, 100):
        taken: dict[str, list[float]] = {way: [] for way in served}
        for block in range(20):
            for way, one in served.items():
                for call in range(calls // 20 // count):
                    start = time.perf_counter()
                    one.feast((block + call) % (2000 - count), count)
                    taken[way].append((time.perf_counter() - start) * 1000)
        p50, p99 = ({way: np.percentile(some, share) for way, some in taken.items()} for share in (50, 99))
        work, note = f"get_online_features, {count} user{'s' * (count > 1)}, logged, p50", _p99(p99)
        rows.append(at_most(work, "at most 1.05x", "not logged", p50["on"], p50["off"], "ms", note))
    recorder_of(served["on"].store.config).close()
    parts = list_parts(folder / "served")
    asked = 20 * (calls // 20 + calls // 2000 * 100)
    assert sum(part.rows for part in parts) == asked, "the log is not whole"
    assert not any(part.dropped for part in parts)
    return rows


def _p99(p99: dict[str, float]) -> str:
    return f"p99 {p99['on']:.3g} ms, {p99['off']:.3g} ms without"


def sliding_reads(calls: int, folder: Path, port: int) -> list[Row]:
    """p50 of `get_online_features` of one user, of continuous tables against the same features without: of 50 and of
    5,000 steps to come."""
    features = [aggregation("mean", "purchase_amount", 3, AVERAGE), aggregation("count", "purchase_amount", 3, TOTAL)]
    users = [Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)]
    tables = {steps: table(folder, f"steps_{steps}", users, features, continuous=steps > 0) for steps in (0, 50, 5000)}
    store = store_of("ours", list(tables.values()), folder, port)
    for steps, one in tables.items():
        _write_steps(one, steps)
        with quiet():
            materialize(store, one, None, END, END)
    online_store_of(store).now = lambda: END + timedelta(days=1)
    ways = {
        steps: lambda one=one: store.get_online_features(one.service, [{"user_id": 1}]) for steps, one in tables.items()
    }
    answers = {steps: [ask().to_dict()[name][0] for name in NAMES] for steps, ask in ways.items()}
    assert answers == {0: [50.0, 5001], 50: [50 + 25 / 7, 5001 - 25], 5000: [50 + 2500 / 7, 5001 - 2500]}
    seconds = alternately(ways, calls)
    return [
        at_most(
            f"get_online_features, 1 user with {steps:,} steps to come, p50",
            must,
            "the same without",
            seconds[steps] * 1000,
            seconds[0] * 1000,
            "ms",
        )
        for steps, must in ((50, "at most 1.2x"), (5000, "at most 1.5x"))
    ]


def _write_steps(table: FeatureTable, steps: int) -> None:
    """Write an offline table of a row at `END`, and as many steps within the two days after it."""
    numbers = np.arange(steps + 1)
    events = int(END.timestamp() * 1e6) + numbers * (2 * 86_400_000_000 // (steps or 1))
    columns = [pa.array(np.ones(steps + 1, np.int64)), pa.array(events).cast(pa.timestamp("us", "UTC"))]
    columns += [pa.array(50 + numbers / 7), pa.array(5001 - numbers)]
    pq.write_table(pa.table(columns, schema=table.definition.schema), table.source.path)


def historical(entities: int, rows: int, repeats: int, folder: Path, port: int) -> Row:
    """`get_historical_features` against a hand-written AS OF join in DuckDB, both to Arrow."""
    users = max(1, rows // 50)
    table = table_of("int64", folder)
    write_history(table, "int64", users, 50, END)
    store = store_of("ours", [table], folder, port)
    draw = np.random.default_rng(2)
    ages = pd.to_timedelta(draw.integers(0, 40 * 86_400_000_000, entities), unit="us")
    frame = pd.DataFrame(
        {"user_id": draw.integers(1, users * 1.02, entities), "event_timestamp": pd.Timestamp(END) - ages}
    )
    frame["event_timestamp"] = frame["event_timestamp"].astype("datetime64[us, UTC]")
    expired = f"e.event_timestamp - f.event_timestamp > INTERVAL {int(table.view.ttl.total_seconds())} SECOND"
    columns = ", ".join(f"CASE WHEN NOT ({expired}) THEN f.{name} END AS {name}" for name in NAMES)
    sql = f"""
        SELECT e.*, {columns} FROM frame e ASOF LEFT JOIN '{table.source.path}' f
        ON e.user_id = f.user_id AND e.event_timestamp >= f.event_timestamp
    """

    def by_hand() -> pa.Table:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("frame", frame)
            return connection.execute(sql).fetch_arrow_table()

    def ours() -> pa.Table:
        return store.get_historical_features(frame, table.service).to_arrow()

    order = [(name, "ascending") for name in ("user_id", "event_timestamp")]
    one, other = ours().sort_by(order), by_hand().sort_by(order)
    assert one.num_rows == entities
    assert all(one[name].combine_chunks().equals(other[name].combine_chunks()) for name in NAMES), "the answers differ"
    seconds = alternately({"ours": ours, "by hand": by_hand}, repeats)
    work = f"get_historical_features, {entities:,} x {rows:,} rows"
    return at_most(work, "at most 2x", "ASOF JOIN by hand", seconds["ours"], seconds["by hand"], "s")


def start(repeats: int) -> list[Row]:
    """How long each script takes to start, against the library that it can't do without."""
    libraries = {
        "generate_synthetic_data.py": "pandas",
        "compute_features.py": "feast",
        "materialize_to_online.py": "feast",
        "demo_fixed.py": "feast",
    }
    commands = {script: [str(ROOT / script), "--help"] for script in libraries}
    commands |= {library: ["-c", f"import {library}"] for library in libraries.values()}

    def run(arguments: list[str]) -> None:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)

    seconds = alternately({name: lambda some=some: run(some) for name, some in commands.items()}, repeats)
    return [
        at_most(f"start of {script}", "at most 1.2x", f"import {library}", seconds[script], seconds[library], "s")
        for script, library in libraries.items()
    ]


if __name__ == "__main__":
    materialize_once(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
