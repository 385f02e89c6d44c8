"""Keys to the bytes that Redis has them under, and back: the layout of Feast's entity keys, a column at a time.

A Redis key is an entity key and the name of the project. An entity key is the number of join keys, their names, and
their values, both in alphabetical order of the names. A name, as a value, is the number of its type, its length, and
its bytes; all numbers have four bytes, the lowest first. A Bool, which Feast can't write, has one byte here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from itertools import repeat
from operator import methodcaller
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value, ValueType

from parity.definition.instants import FIRST_INSTANT, LAST_INSTANT, UTC_MICROSECONDS
from parity.definition.keys import key_schema

HEADER, INTEGER = struct.Struct("<II"), struct.Struct("<I")
VERSION = 3
"""Of Feast's entity keys; the only one that can be read back."""
SECOND = 1_000_000
FIRST_SECOND, LAST_SECOND = (int(instant.timestamp()) for instant in (FIRST_INSTANT, LAST_INSTANT))
KEYS_AT_ONCE = 1 << 16


class Kind(NamedTuple):
    """How a type of keys is stored."""

    number: int
    size: int | None
    """In bytes; None if each value has its own."""
    field: str
    """That of a protobuf Value."""
    packed: str = ""
    """The numpy type of the bytes, of a fixed size."""

    @property
    def name(self) -> str:
        return self.field.removesuffix("_val")


KINDS = {
    pa.int32(): Kind(ValueType.INT32, 4, "int32_val", "<i4"),
    pa.int64(): Kind(ValueType.INT64, 8, "int64_val", "<i8"),
    pa.string(): Kind(ValueType.STRING, None, "string_val"),
    pa.bool_(): Kind(ValueType.BOOL, 1, "bool_val", "u1"),
    pa.binary(): Kind(ValueType.BYTES, None, "bytes_val"),
    UTC_MICROSECONDS: Kind(ValueType.UNIX_TIMESTAMP, 8, "unix_timestamp_val", "<i8"),
}
BY_NUMBER = {kind.number: kind for kind in KINDS.values()}


def entity_prefix(join_keys: Sequence[str]) -> bytes:
    """What an entity key with these join keys begins with."""
    return serialize_entity_key_prefix(list(join_keys))


def redis_key(project: str, entity_key: EntityKey, version: int = VERSION) -> bytes:
    """The Redis key of one entity. Raises `ValueError` for a value that is no key."""
    kinds = [value.WhichOneof("val") for value in entity_key.entity_values]
    if "bool_val" not in kinds:
        return serialize_entity_key(entity_key, version) + project.encode()
    values = dict(zip(entity_key.join_keys, entity_key.entity_values, strict=True))
    parts = [entity_prefix(entity_key.join_keys)]
    for name in sorted(values):
        if values[name].HasField("bool_val"):
            parts += [HEADER.pack(ValueType.BOOL, 1), bytes([values[name].bool_val])]
        else:  # Feast's own bytes, behind those of a key without a name
            alone = EntityKey(join_keys=[""], entity_values=[values[name]])
            parts.append(serialize_entity_key(alone, version).removeprefix(entity_prefix([""])))
    return b"".join([*parts, project.encode()])


def entity_keys(keys: pa.Table) -> list[EntityKey]:
    """The ``keys`` as Feast has them."""
    columns = [
        [Value(**{KINDS[column.type].field: value}) for value in stored_form(column).to_pylist()]
        for column in keys.columns
    ]
    names = keys.column_names
    return [EntityKey(join_keys=names, entity_values=values) for values in zip(*columns, strict=True)]


def stored_form(column: Any) -> Any:
    """The same column in the form in which it is stored: instants as whole seconds, int64."""
    if not pa.types.is_timestamp(column.type):
        return column
    return pa.array(column.cast(UTC_MICROSECONDS).cast(pa.int64()).to_numpy() // SECOND)


def has_fractions(keys: pa.Table) -> bool:
    """Whether an instant among ``keys`` is no whole second, as Feast keeps none other of a UNIX_TIMESTAMP."""
    instants = [column.cast(pa.int64()).to_numpy() for column in keys.columns if pa.types.is_timestamp(column.type)]
    return any((column % SECOND).any() for column in instants)


class KeyNames:
    """What the Redis keys of a project's entities with these join keys have in common, whatever their types."""

    def __init__(self, join_keys: Sequence[str], project: str):
        self._names = sorted(join_keys)
        self.prefix, self.suffix = entity_prefix(join_keys), project.encode()

    def shown(self, stored: bytes) -> str | None:
        """Write a Redis key for people: user_id '7' of type string. None if it is not one of these."""
        if not stored.startswith(self.prefix) or not stored.endswith(self.suffix):
            return None
        values = list(_values(stored[len(self.prefix) : len(stored) - len(self.suffix)]))
        if len(values) != len(self._names) or None in values:
            return None
        return " and ".join(
            f"{name} {_text(kind, value)} of type {kind.name}"
            for name, (kind, value) in zip(self._names, values, strict=True)
        )

    def __contains__(self, stored: bytes) -> bool:
        return self.shown(stored) is not None


class KeyEncoding(KeyNames):
    """The Redis keys of a project's entities whose join keys have the types of ``schema``."""

    def __init__(self, schema: pa.Schema, project: str):
        super().__init__(schema.names, project)
        self.schema = schema
        self._sorted = [schema.field(name) for name in self._names]

    @staticmethod
    def takes(schema: pa.Schema) -> bool:
        """Whether the join keys of ``schema`` are of types that keys can have."""
        return len(schema) > 0 and all(field.type in KINDS for field in schema)

    def encode(self, keys: pa.Table | pa.RecordBatch) -> list[bytes]:
        """Write the columns of ``keys``, none of them null."""
        columns = (_encode(keys.column(field.name), KINDS[field.type]) for field in self._sorted)
        return list(map(b"".join, zip(repeat(self.prefix), *columns, repeat(self.suffix))))

    def decode(self, stored: Sequence[bytes]) -> tuple[pa.Table, np.ndarray]:
        """Read Redis keys: those that are of the types of the schema, and which of all they are."""
        tables, fine = [self.schema.empty_table()], [np.zeros(0, bool)]
        for start in range(0, len(stored), KEYS_AT_ONCE):
            keys, read = self._decode(stored[start : start + KEYS_AT_ONCE])
            tables.append(keys)
            fine.append(read)
        return pa.concat_tables(tables), np.concatenate(fine)

    def _decode(self, stored: Sequence[bytes]) -> tuple[pa.Table, np.ndarray]:
        lengths = np.fromiter(map(len, stored), np.int64, len(stored))
        ends = np.cumsum(lengths)
        at, ends = ends - lengths + len(self.prefix), ends - len(self.suffix)
        flat = np.frombuffer(b"".join(stored) + bytes(8), np.uint8)
        begins, ends_so = methodcaller("startswith", self.prefix), methodcaller("endswith", self.suffix)
        fine = np.fromiter(map(begins, stored), bool) & np.fromiter(map(ends_so, stored), bool)
        columns = {}
        for field in self._sorted:
            kind = KINDS[field.type]
            fine &= at + HEADER.size <= ends
            header = flat[np.where(fine, at, 0)[:, None] + np.arange(HEADER.size)].view("<u4")
            sizes = np.where(fine, header[:, 1], 0).astype(np.int64)
            fine &= (header[:, 0] == kind.number) & (at + HEADER.size + sizes <= ends)
            if kind.size:
                fine &= sizes == kind.size
            columns[field.name] = at + HEADER.size, sizes
            at = at + HEADER.size + sizes
        fine &= at == ends
        values = {}
        for field in self._sorted:
            starts, sizes = columns[field.name]
            values[field.name] = _Slices(flat, np.where(fine, starts, 0), np.where(fine, sizes, 0))
        for field in self._sorted:
            fine &= values[field.name].are_valid(field.type, fine)
        arrays = [values[field.name].array(field.type, fine) for field in self.schema]
        return pa.Table.from_arrays(arrays, schema=self.schema), fine


class _Slices:
    """Pieces of ``flat``, one of each key."""

    def __init__(self, flat: np.ndarray, starts: np.ndarray, sizes: np.ndarray):
        self._flat, self._starts, self._sizes = flat, starts, sizes

    def _fixed(self, kind: Kind) -> np.ndarray:
        rows = self._flat[self._starts[:, None] + np.arange(kind.size)]
        return np.ascontiguousarray(rows).view(kind.packed).ravel()

    def are_valid(self, type: pa.DataType, fine: np.ndarray) -> np.ndarray:
        """Which of them are values of ``type``, among those that are ``fine`` so far."""
        if pa.types.is_boolean(type):
            return self._fixed(KINDS[type]) <= 1
        if pa.types.is_timestamp(type):
            seconds = self._fixed(KINDS[type])
            return (seconds >= FIRST_SECOND) & (seconds <= LAST_SECOND)
        if pa.types.is_string(type):
            try:
                self._binary(fine).cast(pa.string())
            except pa.ArrowInvalid:
                return np.array([_is_text(self._bytes(place)) for place in range(len(fine))], bool)
        return np.ones(len(fine), bool)

    def array(self, type: pa.DataType, fine: np.ndarray) -> pa.Array:
        if KINDS[type].size is None:
            return self._binary(fine).cast(type)
        numbers = self._fixed(KINDS[type])[fine]
        if pa.types.is_timestamp(type):
            return pa.array(numbers * SECOND).cast(type)
        return pa.array(numbers).cast(type)

    def _binary(self, fine: np.ndarray) -> pa.Array:
        starts, sizes = self._starts[fine], self._sizes[fine]
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        taken = self._flat[np.repeat(starts - offsets[:-1], sizes) + np.arange(offsets[-1])]
        buffers = [None, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(taken)]
        return pa.Array.from_buffers(pa.binary(), len(starts), buffers)

    def _bytes(self, place: int) -> bytes:
        return self._flat[self._starts[place] :][: self._sizes[place]].tobytes()


def _is_text(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


def _encode(column: pa.Array | pa.ChunkedArray, kind: Kind) -> list[bytes]:
    """Write a column of values, each behind its type and length."""
    column = stored_form(column)
    if kind.size is None:
        header = INTEGER.pack(kind.number)
        return [header + INTEGER.pack(len(value)) + value for value in column.cast(pa.binary()).to_pylist()]
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    rows = np.empty((len(column), HEADER.size + kind.size), np.uint8)
    rows[:, : HEADER.size] = np.frombuffer(HEADER.pack(kind.number, kind.size), np.uint8)
    rows[:, HEADER.size :] = column.to_numpy().astype(kind.packed)[:, None].view(np.uint8)
    return rows.view(f"V{rows.shape[1]}").ravel().tolist()


def _values(serialized: bytes) -> Iterator[tuple[Kind, bytes] | None]:
    """The values of an entity key, behind its names; None for bytes that are none."""
    at = 0
    while at < len(serialized):
        if at + HEADER.size > len(serialized):
            yield None
            return
        number, size = HEADER.unpack_from(serialized, at)
        at += HEADER.size + size
        kind = BY_NUMBER.get(number)
        if kind is None or at > len(serialized) or kind.size not in (None, size):
            yield None
            return
        yield kind, serialized[at - size : at]


def _text(kind: Kind, value: bytes) -> str:
    if kind.packed:
        number = np.frombuffer(value, kind.packed)[0]
        return str(bool(number) if kind.number == ValueType.BOOL else number)
    return repr(value if kind.number == ValueType.BYTES else value.decode(errors="backslashreplace"))


def schema_of(view: Any) -> pa.Schema:
    """The join keys of any of Feast's views; a type that keys can't have is that of null."""
    by_name = {kind.name: type for type, kind in KINDS.items()}
    types = {field.name: field.dtype.to_value_type().name.lower() for field in view.entity_columns}
    return key_schema({name: by_name.get(types.get(name), pa.null()) for name in view.join_keys})
