"""The keys that the online store has, where it can be looked through: those of SQLite, Redis, PostgreSQL and
MySQL; and MongoDB, Cassandra and Snowflake (parity/check/online_listing.py)."""

from __future__ import annotations

import re
import sqlite3
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key_prefix
from feast.protos.feast.types.Value_pb2 import ValueType

from parity.check.offline_keys import OfflineKeys
from parity.check.online_listing import of_cassandra, of_mongodb, of_snowflake
from parity.compare.subjects import Source
from parity.edge.feast_internals import (
    mysql_connection,
    online_store_of,
    postgres_connection,
    redis_client,
    stored_name,
)

SECONDS = 30
"""How long a store is looked through, at most."""
PAGE = 5000
RAW = "parity_stored"
"""The column of keys as they are stored."""
_GLOB = re.compile(rb"[*?\[\]\\]")
_HEAD = struct.Struct("<II")
"""What stands in front of a value in a stored key: its type, and its length."""


class CannotScan(Exception):
    """Why the keys of a store are not known, in a clause."""


class OnlineKeys:
    """The keys that an online store has, looked through once for all views that share them."""

    def __init__(self, store: FeatureStore):
        self._store = store
        self._last: tuple[Any, list[pa.Table] | CannotScan] = None, []

    def only(self, source: Source, offline: OfflineKeys) -> list[pa.Table]:
        """The keys that are online of a ``source``, and not ``offline``: tables with a column for each join key, one
        for each set of types in which they are stored. `CannotScan` where they can't be named, or there are too many.
        """
        found = []
        for table in self._stored(source):
            keys = table.drop_columns([RAW])
            rest = table.take(pa.array(offline.lacked(keys)))
            rest = rest.group_by(rest.column_names).aggregate([])  # a scan may come by a key twice
            there = _are_of_view(self._store, source)(rest[RAW].to_pylist())
            rest = rest.filter(pa.array(there, pa.bool_())).select(keys.column_names)
            if rest.num_rows:
                found.append(rest)
        return found

    def _stored(self, source: Source) -> list[pa.Table]:
        """All stored keys of a source, or of all views that share its keys in the store."""
        shared = _scanned(self._store, source)
        if shared != self._last[0]:
            try:
                self._last = shared, _tables(self._store, source)
            except CannotScan as why:
                self._last = shared, why
        if isinstance(self._last[1], CannotScan):
            raise self._last[1]
        return self._last[1]


def _scanned(store: FeatureStore, source: Source) -> Any:
    """What is looked through for the keys of a source."""
    return _prefix(store, source) if _is("RedisOnlineStore", store) else _table(store, source)


def _is(name: str, store: FeatureStore) -> bool:
    return any(type_.__name__ == name for type_ in type(online_store_of(store)).__mro__)


def _tables(store: FeatureStore, source: Source) -> list[pa.Table]:
    """The stored keys by their types: a column for each join key, and the key as it is stored."""
    if store.config.entity_key_serialization_version < 3:
        raise CannotScan("keys that only the store has are not known, as they are stored in an older form than 3")
    parts: dict[pa.Schema, list[pa.RecordBatch]] = {}
    deadline, read = time.monotonic() + SECONDS, Reader(_prefix(store, source), source.join_keys)
    for page in _pages(_scan(store, source)):
        if time.monotonic() > deadline:
            raise CannotScan(f"keys that only the store has are not known: to look through it takes over {SECONDS} s")
        for batch in read.page(page):
            parts.setdefault(batch.schema, []).append(batch)
    return [pa.Table.from_batches(some) for some in parts.values()]


def _scan(store: FeatureStore, source: Source) -> Iterator[bytes]:
    """The stored keys, without what names the project."""
    for name, scan in (
        ("SqliteOnlineStore", _of_sqlite),
        ("RedisOnlineStore", _of_redis),
        ("PostgreSQLOnlineStore", _of_postgres),
        ("MySQLOnlineStore", _of_mysql),
        ("MongoDBOnlineStore", of_mongodb),
        ("CassandraOnlineStore", of_cassandra),
        ("SnowflakeOnlineStore", of_snowflake),
    ):
        if _is(name, store):
            return scan(store, source)
    name = type(online_store_of(store)).__name__
    raise CannotScan(f"keys that only {name} has are not looked for, as it can't be looked through")


def _are_of_view(store: FeatureStore, source: Source) -> Callable[[list[bytes]], list[bool]]:
    """A look at which stored keys have a row of the view."""
    if _is("RedisOnlineStore", store):
        return lambda keys: _has_row(store, source, keys)
    return lambda keys: [True] * len(keys)


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


def _of_mysql(store: FeatureStore, source: Source) -> Iterator[bytes]:
    from pymysql.cursors import SSCursor

    connection = mysql_connection(store)
    try:
        with connection.cursor(SSCursor) as cursor:  # row by row: there may be millions
            cursor.execute(f"SELECT DISTINCT entity_key FROM {_table(store, source, '`')}")
            for (key,) in cursor:
                yield bytes.fromhex(key)
    finally:
        connection.rollback()


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


def _table(store: FeatureStore, source: Source, quote: str = '"') -> str:
    name = f"{store.project}_{stored_name(store.config, source.view)}".replace(quote, 2 * quote)
    return f"{quote}{name}{quote}"


class Reader:
    """Reads stored keys that have the ``prefix`` of some ``names``."""

    def __init__(self, prefix: bytes, names: Sequence[str]):
        self._prefix, self._names = prefix, list(names)

    def page(self, keys: list[bytes]) -> list[pa.RecordBatch]:
        """The keys by their types: a column for each name, and the key itself; those of others are left out."""
        numbers = self._whole_numbers(keys)
        if numbers is not None:
            return [pa.record_batch({self._names[0]: numbers, RAW: pa.array(keys, pa.binary())})]
        groups: dict[tuple[type, ...], list[tuple]] = {}
        for key in keys:
            values = self._values(key)
            if values is not None:
                groups.setdefault(tuple(map(type, values)), []).append((*values, key))
        names = [*self._names, RAW]
        return [
            pa.record_batch(dict(zip(names, map(_column, zip(*rows, strict=True)), strict=True)))
            for rows in groups.values()
        ]

    def _whole_numbers(self, keys: list[bytes]) -> pa.Array | None:
        """The values of a page of keys that are all one whole number; None of other keys."""
        head = self._prefix + _HEAD.pack(ValueType.INT64, 8)
        if len(self._names) != 1 or any(len(key) != len(head) + 8 for key in keys):
            return None
        table = np.frombuffer(b"".join(keys), np.uint8).reshape(len(keys), -1)
        if (table[:, : len(head)] != np.frombuffer(head, np.uint8)).any():
            return None
        return pa.array(np.ascontiguousarray(table[:, len(head) :]).view("<i8").ravel())

    def _values(self, key: bytes) -> tuple | None:
        """The values in the order of the names, or None for a key of others. One whole number or text, of which there
        may be millions, is read without a protobuf."""
        if len(self._names) == 1 and key.startswith(self._prefix):
            kind, size = _HEAD.unpack_from(key, len(self._prefix))
            value = key[len(self._prefix) + _HEAD.size :]
            if size == len(value) and kind == ValueType.INT64:
                return (int.from_bytes(value, "little", signed=True),)
            if size == len(value) and kind == ValueType.STRING:
                return (value.decode("utf-8", "replace"),)
        try:
            entity = deserialize_entity_key(key, 3)
        except Exception:  # of which there are as many kinds as ways to be no key
            return None
        values = {name: _value(value) for name, value in zip(entity.join_keys, entity.entity_values, strict=True)}
        return tuple(values[name] for name in self._names) if set(values) == set(self._names) else None


def _column(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values)
    except pa.ArrowException:  # it can be named, and equals no key of a source
        return pa.array(map(str, values), pa.string())


def _value(value: Any) -> Any:
    kind = value.WhichOneof("val")
    if kind == "unix_timestamp_val":
        return datetime.fromtimestamp(value.unix_timestamp_val, UTC)
    return getattr(value, kind) if kind else None


def _pages(keys: Iterator[bytes]) -> Iterator[list[bytes]]:
    while page := list(islice(keys, PAGE)):
        yield page
