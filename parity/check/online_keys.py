"""The keys that the online store has, where it can be looked through: those of SQLite, Redis and PostgreSQL."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import islice
from typing import Any

from feast import FeatureStore
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key_prefix

from parity.check.subjects import Source
from parity.edge.feast_internals import online_store_of, postgres_connection, redis_client, stored_name

SECONDS = 30
"""How long a store is looked through, at most."""
PAGE = 5000


class CannotScan(Exception):
    """Why the keys of a store are not known, in a clause."""


def online_keys(store: FeatureStore, source: Source) -> Iterator[tuple]:
    """The keys that are online of a ``source``, as tuples in the order of its join keys; `CannotScan` where they can't
    be named, or there are too many."""
    deadline = time.monotonic() + SECONDS
    for page in _pages(_scanner(store, source)):
        if time.monotonic() > deadline:
            raise CannotScan(f"looking through it took more than {SECONDS} s")
        for key in page:
            values = _decoded(key, source)
            if values is not None:
                yield values


def _scanner(store: FeatureStore, source: Source) -> Iterator[bytes]:
    online = online_store_of(store)
    names = {one.__name__ for one in type(online).__mro__}
    if "SqliteOnlineStore" in names:
        return _of_sqlite(store, source)
    if "RedisOnlineStore" in names:
        return _of_redis(store, source)
    if "PostgreSQLOnlineStore" in names:
        return _of_postgres(store, source)
    raise CannotScan(f"keys that only {type(online).__name__} has are not looked for, as it can't be looked through")


def _of_sqlite(store: FeatureStore, source: Source) -> Iterator[bytes]:
    config = store.config
    path = config.repo_path / config.online_store.path
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        for (key,) in connection.execute(f"SELECT DISTINCT entity_key FROM {_table(store, source)}"):
            yield key


def _of_postgres(store: FeatureStore, source: Source) -> Iterator[bytes]:
    with postgres_connection(store) as connection, connection.cursor() as cursor:
        cursor.execute(f"SELECT DISTINCT entity_key FROM {_table(store, source)}")
        for (key,) in cursor:
            yield bytes(key)


def _of_redis(store: FeatureStore, source: Source) -> Iterator[bytes]:
    client, project = redis_client(store), store.project.encode()
    prefix = serialize_entity_key_prefix(source.view.join_keys, store.config.entity_key_serialization_version)
    pattern = b"".join(b"\\" + bytes([one]) if one in b"*?[]\\" else bytes([one]) for one in prefix) + b"*"
    event = f"_ts:{stored_name(store.config, source.view)}"
    for page in _pages(client.scan_iter(pattern, PAGE)):
        own = [key for key in page if key.endswith(project)]
        with client.pipeline(transaction=False) as pipeline:
            for key in own:
                pipeline.hexists(key, event)
            replies = pipeline.execute(raise_on_error=False)
        yield from (key[: -len(project)] for key, there in zip(own, replies, strict=True) if there is True)


def _table(store: FeatureStore, source: Source) -> str:
    name = f"{store.project}_{stored_name(store.config, source.view)}".replace('"', '""')
    return f'"{name}"'


def _decoded(key: bytes, source: Source) -> tuple | None:
    """The values of a stored key in the order of the join keys; None for one that is of others."""
    try:
        entity = deserialize_entity_key(key, 3)
    except Exception:  # of which there are as many kinds as ways to be no key
        return None
    values = {name: _value(value) for name, value in zip(entity.join_keys, entity.entity_values, strict=True)}
    if set(values) != set(source.view.join_keys):
        return None
    return tuple(values[name] for name in source.join_keys)


def _value(value: Any) -> Any:
    kind = value.WhichOneof("val")
    return getattr(value, kind) if kind else None


def _pages(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    while page := list(islice(keys, PAGE)):
        yield page
