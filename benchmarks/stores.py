"""The stores: materialization, online reads, training data, and a feature server under load."""

import contextlib
import copy
import http.client
import io
import json
import re
import resource
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import redis
import yaml
from feast import FeatureStore, FeatureView, FileSource, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp

from benchmarks.measure import ROOT, Row, alternately, at_most, child, faster
from feature_repo.features import user, user_features, user_purchase_features
from parity.edge.redis_server import free_port
from parity.materialization import EVER, materialize
from parity.offline.side import history_schema
from parity.online.side import key_of

NAMES = [feature.name for feature in user_purchase_features.features]
REFERENCES = [f"{user_purchase_features.name}:{name}" for name in NAMES]
OURS = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())
STOCK = {"offline_store": {"type": "duckdb"}, "batch_engine": {"type": "local"}, "online_store": {"type": "redis"}}
WAYS = {"ours": OURS, "stock Feast": STOCK}
END = datetime(2026, 3, 8, tzinfo=UTC)


def write_history(path: Path, users: int, rows_each: int, end: datetime) -> None:
    """Write a random offline table of ``rows_each`` rows for each of ``users``, within the 20 days before ``end``."""
    draw, count = np.random.default_rng(1), users * rows_each
    ages = np.sort(draw.permuted(np.arange(count)).reshape(users, rows_each), axis=1)[:, ::-1].ravel()
    events = int(end.timestamp() * 1e6) - 1 - ages * (20 * 86_400_000_000 // count)
    ids = np.repeat(np.arange(1, users + 1), rows_each)
    columns = [
        ids,
        pa.array(events).cast(pa.timestamp("us", "UTC")),
        draw.gamma(2, 25, count),
        draw.integers(1, 200, count),
    ]
    pq.write_table(pa.table(columns, schema=history_schema(user_purchase_features)), path)


def store_of(way: str, folder: Path, port: int) -> tuple[FeatureStore, FeatureView]:
    """Open and apply a store over ``folder``/features.parquet, with the parts of ``way``, online at ``port``."""
    parts = WAYS[way]
    view = copy.copy(user_purchase_features)
    view.batch_source = FileSource(
        name="features", path=str(folder / "features.parquet"), timestamp_field=view.batch_source.timestamp_field
    )
    store = FeatureStore(
        config=RepoConfig(
            project=way.replace(" ", "_"),
            provider="local",
            registry=str(folder / f"{way}.db"),
            offline_store=parts["offline_store"],
            batch_engine=parts["batch_engine"],
            online_store=parts["online_store"] | {"connection_string": f"localhost:{port}"},
            materialization_config=parts.get("materialization_config", {}),
            entity_key_serialization_version=3,
        )
    )
    with quiet():
        store.apply([user, view, user_features])
    return store, view


@contextlib.contextmanager
def quiet():
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def stored(client: redis.Redis, store: FeatureStore, view: FeatureView, ids: range) -> list[dict]:
    with client.pipeline(transaction=False) as pipeline:
        for number in ids:
            pipeline.hgetall(_redis_key(store.project, key_of(view, number), 3))
        return pipeline.execute()


def materialization(users: int, rows_each: int, repeats: int, folder: Path, port: int) -> list[Row]:
    """Each run in a process of its own, into an empty Redis; ours with its retraction and its reading back."""
    write_history(folder / "features.parquet", users, rows_each, END)
    taken: dict[str, list[dict]] = {way: [] for way in WAYS}
    with redis.Redis(port=port) as client:
        for repeat in range(repeats):
            found = []
            for way in WAYS:
                client.flushall()  # the benchmark's own Redis
                taken[way].append(child("stores", way, folder, port))
                if repeat == 0:
                    store, view = store_of(way, folder, port)
                    found.append([stored(client, store, view, range(1, users + 1, max(1, users // 10_000)))])
            assert repeat or (found[0] == found[1] and all(found[0])), "the bytes in Redis differ"
    seconds = {way: statistics.median(run["seconds"] for run in runs) for way, runs in taken.items()}
    peak = {way: statistics.median(run["peak_mb"] for run in runs) for way, runs in taken.items()}
    work = f"materialize, {users:,} users x {rows_each}"
    return [
        faster(work, "4x", seconds),
        at_most(f"{work}, peak memory", "at most 0.25x" if rows_each == 1 else "", "stock Feast", *peak.values(), "MB"),
    ]


def materialize_once(way: str, folder: Path, port: int) -> None:
    store, view = store_of(way, folder, port)
    start = time.perf_counter()
    with quiet():
        if way == "ours":
            materialize(store, view, None, END, END)
        else:
            store.materialize(EVER, END, [view.name])
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": _peak_mb()}))


def _peak_mb() -> float:
    status = Path("/proc/self/status")
    if status.exists():  # what getrusage tells on Linux takes in the process that started this one
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def online_reads(calls: int, folder: Path, port: int) -> list[Row]:
    """p50 of `get_online_features` against HMGET by redis-py, decoded into protobuf."""
    users, now = 2000, datetime.now(UTC)
    write_history(folder / "features.parquet", users, 1, now)
    store, view = store_of("ours", folder, port)
    with quiet():
        materialize(store, view, None, now, now)
    client = redis.Redis(port=port)
    fields = [*(_mmh3(f"{view.name}:{name}") for name in NAMES), f"_ts:{view.name}"]
    keys = [_redis_key(store.project, key_of(view, number), 3) for number in range(1, users + 1)]

    def decoded(reply: list) -> list:
        *values, event = reply
        return [*map(Value.FromString, values), Timestamp.FromString(event)]

    def raw(count: int) -> Callable[[int], list]:
        def one(first: int) -> list:
            return [decoded(client.hmget(keys[first], fields))]

        def many(first: int) -> list:
            with client.pipeline(transaction=False) as pipeline:
                for key in keys[first : first + count]:
                    pipeline.hmget(key, fields)
                return [decoded(reply) for reply in pipeline.execute()]

        return one if count == 1 else many

    rows = []
    for count, must, share in [(1, "at most 2x", 1), (100, "at most 2x", 5)]:

        def feast(first: int, count: int = count) -> list:
            rows = [{user.join_key: first + 1 + place} for place in range(count)]
            return store.get_online_features(user_features, rows)

        expected = [[getattr(v, v.WhichOneof("val")) for v in values] for *values, _ in raw(count)(0)]
        answer = feast(0).to_dict()
        assert [list(row) for row in zip(*(answer[name] for name in NAMES), strict=True)] == expected
        taken: dict[str, list[float]] = {"raw": [], "ours": []}
        for call in range(calls // share):
            for name, way in (("raw", raw(count)), ("ours", feast)):
                start = time.perf_counter()
                way(call % (users - count))
                taken[name].append((time.perf_counter() - start) * 1000)
        p50 = {name: statistics.median(some[len(some) // 10 :]) for name, some in taken.items()}
        work = f"get_online_features, {count} user{'s' * (count > 1)}, p50"
        rows.append(at_most(work, must, "raw redis-py", p50["ours"], p50["raw"], "ms"))
    return rows


def historical(entities: int, rows: int, repeats: int, folder: Path, port: int) -> Row:
    """`get_historical_features` against a hand-written AS OF join in DuckDB, both to Arrow."""
    users = max(1, rows // 50)
    write_history(folder / "features.parquet", users, 50, END)
    store, view = store_of("ours", folder, port)
    draw = np.random.default_rng(2)
    ages = pd.to_timedelta(draw.integers(0, 40 * 86_400_000_000, entities), unit="us")
    frame = pd.DataFrame(
        {user.join_key: draw.integers(1, users * 1.02, entities), "event_timestamp": pd.Timestamp(END) - ages}
    )
    frame["event_timestamp"] = frame["event_timestamp"].astype("datetime64[us, UTC]")
    expired = f"e.event_timestamp - f.event_timestamp > INTERVAL {int(view.ttl.total_seconds())} SECOND"
    columns = ", ".join(f"CASE WHEN NOT ({expired}) THEN f.{name} END AS {name}" for name in NAMES)
    sql = f"""
        SELECT e.*, {columns} FROM frame e ASOF LEFT JOIN '{folder / "features.parquet"}' f
        ON e.user_id = f.user_id AND e.event_timestamp >= f.event_timestamp
    """

    def by_hand() -> pa.Table:
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("frame", frame)
            return connection.execute(sql).fetch_arrow_table()

    def ours() -> pa.Table:
        return store.get_historical_features(frame, user_features).to_arrow()

    order = [(name, "ascending") for name in (user.join_key, "event_timestamp")]
    one, other = ours().sort_by(order), by_hand().sort_by(order)
    assert one.num_rows == entities
    assert all(one[name].combine_chunks().equals(other[name].combine_chunks()) for name in NAMES), "the answers differ"
    seconds = alternately({"ours": ours, "by hand": by_hand}, repeats)
    work = f"get_historical_features, {entities:,} x {rows:,} rows"
    return at_most(work, "at most 2x", "ASOF JOIN by hand", seconds["ours"], seconds["by hand"], "s")


def server(calls: int, folder: Path, port: int) -> list[Row]:
    """Latency of `feast serve` at one client and at eight, each with a connection of its own."""
    now = datetime.now(UTC)
    write_history(folder / "features.parquet", 2000, 1, now)
    store, view = store_of("ours", folder, port)
    with quiet():
        materialize(store, view, None, now, now)
    config = {"project": store.project, "provider": "local", "registry": str(folder / "ours.db")} | {
        name: WAYS["ours"][name] for name in ("offline_store", "batch_engine", "entity_key_serialization_version")
    }
    config["online_store"] = WAYS["ours"]["online_store"] | {"connection_string": f"localhost:{port}"}
    (folder / "feature_store.yaml").write_text(yaml.safe_dump(config))
    address = free_port()
    feast = Path(sys.executable).with_name("feast")
    with open(folder / "serve.log", "wb") as log:
        command = [feast, "-c", folder, "serve", "-p", str(address), "--no-access-log"]
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _ask(address, 1, wait=60)
        p99 = {}
        rows = []
        for clients in (1, 8):
            start = time.perf_counter()
            taken = np.array(_load(address, clients, calls // clients)) * 1000
            rate = len(taken) / (time.perf_counter() - start)
            p50, p99[clients], p999 = np.percentile(taken, [50, 99, 99.9])
            note = f"p50 {p50:.1f} ms, p99.9 {p999:.1f} ms, {rate:,.0f} requests/s"
            must = "p99 under 10 ms" if clients == 1 else ""
            peer = "10 ms" if clients == 1 else "p99 of one client"
            floor = 10 if clients == 1 else p99[1]
            name = f"feast serve, {clients} client{'s' * (clients > 1)}, p99"
            rows.append(at_most(name, must, peer, p99[clients], floor, "ms", note))
        return rows
    finally:
        process.terminate()
        process.wait(30)


def _load(port: int, clients: int, calls: int) -> list[float]:
    taken: list[float] = []
    threads = [threading.Thread(target=lambda: taken.extend(_ask(port, calls))) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return taken


def _ask(port: int, calls: int, wait: float = 0) -> list[float]:
    deadline = time.monotonic() + wait
    body = json.dumps({"feature_service": user_features.name, "entities": {user.join_key: [7]}})
    taken: list[float] = []
    start = time.perf_counter()
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            while len(taken) < calls:
                connection.request("POST", "/get-online-features", body, {"Content-Type": "application/json"})
                response = connection.getresponse()
                answer = response.read()
                assert response.status == 200, answer
                taken.append(time.perf_counter() - start)
                start = time.perf_counter()
            return taken
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)
            start = time.perf_counter()
        except (ConnectionError, http.client.HTTPException):
            pass  # Feast has its workers replaced after some thousand requests; the client asks again, and waits for it


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
    materialize_once(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
