"""Keys: what identifies an entity, of one join key or of several, of any scalar type that Feast has for them.

The one place that knows what an id is: its types, how it is written on a command line and for people, and its number.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.instants import UTC_MICROSECONDS
from parity.edge.command import instant
from parity.edge.errors import UserError

KEY_TYPES = {
    "INT32": pa.int32(),
    "INT64": pa.int64(),
    "STRING": pa.string(),
    "BOOL": pa.bool_(),
    "BYTES": pa.binary(),
    "UNIX_TIMESTAMP": UTC_MICROSECONDS,
}
"""The Arrow type of a join key, by the name of its Feast `ValueType`. Feast keeps whole seconds of a UNIX_TIMESTAMP."""

Key = tuple
"""The values of an entity's join keys, in the order of its feature view, as Python has them."""


def parse_key(text: str, schema: pa.Schema) -> Key:
    """Read a key from a command line: ``7`` for one join key; ``customer_id=0042,store_id=7`` for one or several.

    Raises `UserError`.
    """
    names = schema.names
    parts = re.split(rf",(?=(?:{'|'.join(map(re.escape, names))})=)", text)
    named = dict(part.split("=", 1) for part in parts if part.partition("=")[0] in names and "=" in part)
    if len(named) == len(parts) and named.keys() == set(names):
        return tuple(_parse(named[name], schema.field(name)) for name in names)
    if len(names) == 1:
        return (_parse(text, schema.field(0)),)
    raise UserError(f"the key {text!r} has to name {' and '.join(names)}: {','.join(f'{name}=...' for name in names)}")


def _parse(text: str, field: pa.Field) -> Any:
    try:
        return parse_value(text, field.type)
    except ValueError:
        raise UserError(f"{text!r} can't be a {field.name}, which is of type {field.type}.") from None


def parse_value(text: str, type: pa.DataType) -> Any:
    """Read the value of one join key from a text. Raises `ValueError`."""
    if pa.types.is_integer(type):
        if not re.fullmatch(r"0|-?[1-9][0-9]*", text):
            raise ValueError(text)
        try:
            return pa.scalar(int(text), type).as_py()
        except OverflowError as error:
            raise ValueError(text) from error
    if pa.types.is_boolean(type):
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"
    if pa.types.is_binary(type):
        return text.encode()
    return instant(text) if pa.types.is_timestamp(type) else text


def shown_key(key: Key, schema: pa.Schema) -> str:
    """Write a key for people: ``7`` for one join key, ``customer_id=0042,store_id=7`` for several."""
    values = [_shown(value) for value in key]
    if len(values) == 1:
        return values[0]
    return ",".join(f"{name}={value}" for name, value in zip(schema.names, values, strict=True))


def _shown(value: Any) -> str:
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if isinstance(value, datetime):
        return value.isoformat()
    text = str(value)
    return text if text.isprintable() and text == text.strip() and text else repr(text)


class KeyBook:
    """Numbers keys, so that they can be looked up, sorted and counted as int64, whatever their types.

    Each distinct key has a number, from 0 on in the order in which they were first met; it stays the same.
    """

    def __init__(self, schema: pa.Schema):
        self.schema = schema
        """The join keys, and nothing else."""
        self._keys = [schema.empty_table()]
        self._packed: pa.Array = _pack(schema.empty_table())

    def __len__(self) -> int:
        return len(self._packed)

    def find(self, keys: pa.Table) -> np.ndarray:
        """The numbers of ``keys``, int64; -1 for one that was not met before."""
        found = pc.index_in(_pack(keys.select(self.schema.names).cast(self.schema)), self._packed)
        return pc.fill_null(found, -1).to_numpy().astype(np.int64)

    def number(self, keys: pa.Table) -> np.ndarray:
        """The numbers of ``keys``, int64; one that was not met before gets the next."""
        keys = keys.select(self.schema.names).cast(self.schema)
        packed = _pack(keys)
        found = pc.index_in(packed, self._packed)
        if found.null_count:
            new = pc.is_null(found)
            distinct = packed.filter(new).unique()
            if len(distinct) == len(packed) and not len(self):  # which is cheaper
                self._keys, self._packed = [keys], packed
                return np.arange(len(packed))
            first = pc.index_in(distinct, packed)
            self._keys.append(keys.take(first))
            self._packed = pa.concat_arrays([self._packed, distinct])
            found = pc.index_in(packed, self._packed)
        return found.to_numpy().astype(np.int64)

    def keys(self, numbers: np.ndarray) -> pa.Table:
        """The keys that have these numbers, as columns."""
        if len(self._keys) > 1:
            self._keys = [pa.concat_tables(self._keys).combine_chunks()]
        return self._keys[0].take(pa.array(numbers, pa.int64()))

    def key(self, number: int) -> Key:
        """One key, as Python has it."""
        return as_tuples(self.keys(np.array([number])))[0]


def as_tuples(keys: pa.Table) -> list[Key]:
    """The rows of ``keys`` as tuples of Python values."""
    return list(zip(*(column.to_pylist() for column in keys.columns), strict=True))


def as_table(keys: Iterable[Key], schema: pa.Schema) -> pa.Table:
    """The columns of ``keys``; the other way of `as_tuples`."""
    columns = list(zip(*keys, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def _pack(keys: pa.Table) -> pa.Array:
    """One value for each key, equal where the keys are."""
    columns = [_hashable(column) for column in keys.columns]
    if len(columns) == 1:
        return columns[0]
    texts = [column.cast(pa.string()).cast(pa.binary()) if column.type != pa.binary() else column for column in columns]
    parts = []
    for column in texts:
        parts += [pc.binary_length(column).cast(pa.string()).cast(pa.binary()), column]
    return pc.binary_join_element_wise(*parts, pa.scalar(b":", pa.binary()))


def _hashable(column: pa.ChunkedArray) -> pa.Array:
    type = column.type
    if pa.types.is_timestamp(type):
        column = column.cast(pa.int64())
    elif pa.types.is_boolean(type):
        column = column.cast(pa.int32())
    elif pa.types.is_string(type):
        column = column.cast(pa.binary())
    combined = column.combine_chunks()
    return combined if isinstance(combined, pa.Array) else pa.concat_arrays(combined.chunks)


def shown_keys(keys: Sequence[Key], schema: pa.Schema, at_most: int) -> str:
    """Write some keys for people, and that there are more."""
    more = ", ..." if len(keys) > at_most else ""
    return ", ".join(shown_key(key, schema) for key in keys[:at_most]) + more


def key_schema(types: Mapping[str, pa.DataType]) -> pa.Schema:
    return pa.schema([pa.field(name, type, nullable=False) for name, type in types.items()])
