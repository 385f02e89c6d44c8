"""What the latest rows of a view take online: written, for a while, to a Redis of its own in a temporary folder."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import redis

from parity.edge.redis_server import find_server, free_port, launch

KEYS = 20_000
"""The rows of so many keys are written, and the rest follows from them."""


@contextmanager
def scratch_redis(folder: Path) -> Iterator[int | None]:
    """The port of a Redis that keeps its files in ``folder`` and ends with the block; None if none is installed."""
    server = find_server()
    if server is None:
        yield None
        return
    port = free_port()
    process = launch(server, port, folder)
    try:
        yield port
    finally:
        process.terminate()
        process.wait(10)


def measured(view: Any, project: str, features: Path, port: int) -> dict[str, Any] | None:
    """How many keys of a table of ``features`` were written to the empty Redis at ``port``, and what that took, in
    seconds and bytes; None of a view that can't be written by columns."""
    from feast import RepoConfig

    from parity.online.store import ParityRedisOnlineStore

    rows = _latest(view, features)
    config = RepoConfig(
        project=project,
        provider="local",
        registry=str(features.with_name("registry.db")),
        online_store={"type": "parity.online.store.ParityRedisOnlineStore", "connection_string": f"127.0.0.1:{port}"},
        entity_key_serialization_version=3,
    )
    store, client = ParityRedisOnlineStore(), redis.Redis(port=port)
    batches = rows.to_batches(max_chunksize=10_000)
    if not batches or not all(store.takes_columns(config, view, batch) for batch in batches):
        return None
    newest = max(rows[view.batch_source.timestamp_field].to_pylist())
    store.now = lambda: newest
    store.write_columns(config, view, batches[0].slice(0, 1))()  # so that scripts and buffers are there before
    client.flushall()
    before = client.info("memory")["used_memory"]
    start = time.perf_counter()
    for batch in batches:
        store.write_columns(config, view, batch)()
    seconds = time.perf_counter() - start
    taken = client.info("memory")["used_memory"] - before
    return {"written": client.dbsize(), "seconds": seconds, "bytes": max(0, taken)}


def _latest(view: Any, features: Path) -> pa.Table:
    """The latest rows of some keys."""
    names = [_quoted(name) for name in view.join_keys]
    keys, event = ", ".join(names), _quoted(view.batch_source.timestamp_field)
    table = f"read_parquet({_quoted(str(features), chr(39))})"
    some = f"SELECT DISTINCT {keys} FROM {table} ORDER BY {keys} LIMIT {KEYS}"
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        query = (
            f"SELECT * FROM {table} SEMI JOIN ({some}) USING ({keys}) "
            f"QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {event} DESC) = 1"
        )
        return connection.execute(query).fetch_arrow_table()


def _quoted(name: str, sign: str = '"') -> str:
    return f"{sign}{name.replace(sign, sign * 2)}{sign}"
