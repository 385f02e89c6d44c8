"""The keys that the online store has, where it can be looked through: those of SQLite, Redis and PostgreSQL."""

from __future__ import annotations

import re
import sqlite3
import struct
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from itertools import islice
from typing import Any

from feast import FeatureStore
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key_prefix
from feast.protos.feast.types.Value_pb2 import ValueType

from parity.compare.subjects import Source
from parity.edge.feast_internals import online_store_of, postgres_connection, redis_client, stored_name

SECONDS = 30
"""How long a store is looked through, at most."""
PAGE = 5000
_GLOB = re.compile(rb"[*?\[\]\\]")
_HEAD = struct.Struct("<II")
"""What stands in front of a value in a stored key: its type, and its length."""


class CannotScan(Exception):
    """Why the keys of a store are not known, in a clause."""


def only_online(store: FeatureStore, source: Source, known: Collection[tuple]) -> set[tuple]:
    """The keys that are online of a ``source``, and not ``known``, as tuples in the order of its join keys;
    `CannotScan` where they can't be named, or there are too many."""
    if store.config.entity_key_serialization_version < 3:
        raise CannotScan("keys that only the store has are not known, as they are stored in an older form than 3")
    deadline, found = time.monotonic() + SECONDS, {}
    scan, are_of_view = _scanner(store, source)
    decode = _decoder(store, source)
    for page in _pages(scan):
        if time.monotonic() > deadline:
            raise CannotScan(f"keys that only the store has are not known: to look through it takes over {SECONDS} s")
        for key in page:
            values = decode(key)
            if values is not None and values not in known:
                found[key] = values
    stored = list(found)
    return {found[key] for key, is_there in zip(stored, are_of_view(stored), strict=True) if is_there}


def _scanner(store: FeatureStore, source: Source) -> tuple[Iterator[bytes], Callable[[list[bytes]], list[bool]]]:
    """The stored keys, without what names the project; and a look at which of them have a row of the view."""
    online = online_store_of(store)
    names = {one.__name__ for one in type(online).__mro__}
    if "SqliteOnlineStore" in names:
        return _of_sqlite(store, source), _all
    if "RedisOnlineStore" in names:
        return _of_redis(store, source), lambda keys: _has_row(store, source, keys)
    if "PostgreSQLOnlineStore" in names:
        return _of_postgres(store, source), _all
    raise CannotScan(f"keys that only {type(online).__name__} has are not looked for, as it can't be looked through")


def _all(keys: list[bytes]) -> list[bool]:
    return [True] * len(keys)


def _of_sqlite(store: FeatureStore, source: Source) -> Iterator[bytes]:
    config = store.config
    path = config.repo_path / config.online_store.path
    with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
        for (key,) in connection.execute(f"SELECT DISTINCT entity_key FROM {_table(store, source)}"):
            yield key


def _of_postgres(store: FeatureStore, source: Source) -> Iterator[bytes]:
    with postgres_connection(store) as connection:
        try:
            with connection.cursor() as cursor:
                cursor.execute(f"SELECT DISTINCT entity_key FROM {_table(store, source)}")
                for (key,) in cursor:
                    yield bytes(key)
        finally:
            connection.rollback()  # Feast goes on with this connection, and takes it in no transaction


def _of_redis(store: FeatureStore, source: Source) -> Iterator[bytes]:
    project = store.project.encode()
    pattern = _GLOB.sub(rb"\\\g<0>", _prefix(store, source)) + b"*"
    for key in redis_client(store).scan_iter(pattern, PAGE):
        if key.endswith(project):
            yield key[: -len(project)]


def _has_row(store: FeatureStore, source: Source, keys: list[bytes]) -> list[bool]:
    """In Redis all views of an entity share their keys."""
    client, project, there = redis_client(store), store.project.encode(), []
    event = f"_ts:{stored_name(store.config, source.view)}"
    for page in _pages(iter(keys)):
        with client.pipeline(transaction=False) as pipeline:
            for key in page:
                pipeline.hexists(key + project, event)
            there += [reply is True for reply in pipeline.execute(raise_on_error=False)]
    return there


def _prefix(store: FeatureStore, source: Source) -> bytes:
    return serialize_entity_key_prefix(source.view.join_keys, store.config.entity_key_serialization_version)


def _table(store: FeatureStore, source: Source) -> str:
    name = f"{store.project}_{stored_name(store.config, source.view)}".replace('"', '""')
    return f'"{name}"'


def _decoder(store: FeatureStore, source: Source) -> Callable[[bytes], tuple | None]:
    """Make a reader of stored keys: to values in the order of the join keys, or None for a key of others.

    One whole number or text, of which there may be millions, is read without a protobuf."""
    prefix, names = _prefix(store, source), set(source.view.join_keys)

    def decode(key: bytes) -> tuple | None:
        if len(names) == 1 and key.startswith(prefix):
            kind, size = _HEAD.unpack_from(key, len(prefix))
            value = key[len(prefix) + _HEAD.size :]
            if size == len(value) and kind == ValueType.INT64:
                return (int.from_bytes(value, "little", signed=True),)
            if size == len(value) and kind == ValueType.STRING:
                return (value.decode("utf-8", "replace"),)
        try:
            entity = deserialize_entity_key(key, 3)
        except Exception:  # of which there are as many kinds as ways to be no key
            return None
        values = {name: _value(value) for name, value in zip(entity.join_keys, entity.entity_values, strict=True)}
        return tuple(values[name] for name in source.join_keys) if set(values) == names else None

    return decode


def _value(value: Any) -> Any:
    kind = value.WhichOneof("val")
    return getattr(value, kind) if kind else None


def _pages(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    while page := list(islice(keys, PAGE)):
        yield page
