"""The fast path of a materialization: columns to the bytes that Redis keeps, and back, a column at a time.

The bytes are those that protobuf writes. It takes what features here are, float64, int64, int32 and text, under keys of
any type; what `takes` does not take goes Feast's own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from feast.types import Float64, Int32, Int64, String

from parity.definition.instants import UTC_MICROSECONDS
from parity.online.encoding import KeyEncoding, schema_of
from parity.online.rows import DOUBLE, INT32, INT64, NANOS, NOTHING, SECONDS, TEXT, read_timestamp

TYPES = {Int32: pa.int32(), Int64: pa.int64(), Float64: pa.float64(), String: pa.string()}


def takes(view: FeatureView, rows: pa.RecordBatch) -> bool:
    """Say whether this path takes these ``rows`` of ``view``."""
    keys, event = schema_of(view), view.batch_source.timestamp_field
    expected = {key.name: key.type for key in keys} | {field.name: TYPES.get(field.dtype) for field in view.features}
    return (
        KeyEncoding.takes(keys)
        and all(rows.schema.field(name).type == type for name, type in expected.items())
        and rows.schema.field(event).type in (UTC_MICROSECONDS, pa.timestamp("us"))
        and not any(rows.column(name).null_count for name in (*keys.names, event))
    )


def encode_timestamps(microseconds: np.ndarray) -> list[bytes]:
    """Write instants, int64 microseconds since the epoch, as protobuf Timestamps."""
    seconds, rest = np.divmod(microseconds, 1_000_000)
    return list(map(bytes.__add__, _varints(SECONDS, seconds, omit_zero=True), _varints(NANOS, rest * 1000, True)))


def decode_timestamps(stored: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Read protobuf Timestamps: int64 microseconds since the epoch, truncated, and which were read.

    Those are the ones that `encode_timestamps` writes of the years 1978 to 3058, whose seconds have five bytes.
    """
    microseconds, read = np.zeros(len(stored), np.int64), np.zeros(len(stored), bool)
    lengths = np.fromiter(map(len, stored), np.int64, len(stored))
    for length in {6, *range(8, 13)}.intersection(np.unique(lengths).tolist()):
        of_length = lengths == length
        rows = np.frombuffer(b"".join(compress(stored, of_length)), np.uint8).reshape(-1, length)
        seconds, fine = _read_varints(SECONDS, rows[:, :6])
        nanos = 0
        if length > 6:
            nanos, too = _read_varints(NANOS, rows[:, 6:])
            fine &= too & (nanos < 10**9)
        microseconds[of_length], read[of_length] = seconds * 1_000_000 + nanos // 1000, fine
    return microseconds, read


def encode_values(column: pa.Array) -> list[bytes]:
    """Write a column of one of the `TYPES` as Feast's Values."""
    if pa.types.is_floating(column.type):
        encoded = np.empty((len(column), 9), np.uint8)
        encoded[:, 0] = DOUBLE
        encoded[:, 1:] = pc.fill_null(column, 0).to_numpy().astype("<f8")[:, None].view(np.uint8)
        values = _cut(encoded)
    elif pa.types.is_string(column.type):
        values = _texts(column)
    else:
        tag = INT32 if column.type == pa.int32() else INT64
        values = _varints(tag, pc.fill_null(column, 0).to_numpy().astype(np.int64))
    for place in np.flatnonzero(pc.is_null(column, nan_is_null=True)):
        values[place] = NOTHING
    return values


def _texts(column: pa.Array) -> list[bytes]:
    lengths = pc.fill_null(pc.binary_length(column), 0).to_numpy()
    heads = _varints(TEXT, lengths.astype(np.int64))
    return list(map(bytes.__add__, heads, pc.fill_null(column.cast(pa.binary()), b"").to_pylist()))


def _varints(tag: int, numbers: np.ndarray, omit_zero: bool = False) -> list[bytes]:
    """Write int64 numbers as protobuf's varints, each behind its ``tag``: seven bits a byte, the lowest first."""
    rest, count = numbers.astype(np.uint64), len(numbers)
    encoded = np.empty((count, 11), np.uint8)
    encoded[:, 0] = tag
    length = np.full(count, 2)
    for place in range(1, 11):
        encoded[:, place] = rest & 0x7F
        rest >>= np.uint64(7)
        more = rest > 0
        if not more.any():
            break
        encoded[more, place] |= 0x80
        length[more] += 1
    if omit_zero:
        length[numbers == 0] = 0
    result = np.full(count, b"", object)
    for size in np.unique(length[length > 0]):
        of_size = np.flatnonzero(length == size)
        result[of_size] = _cut(encoded[of_size, :size])
    return result.tolist()


def _read_varints(tag: int, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Read rows of bytes, each a ``tag`` and a varint of at most five bytes up to its end; and say which are."""
    more = rows[:, 1:] >= 0x80
    fine = (rows[:, 0] == tag) & more[:, :-1].all(axis=1) & ~more[:, -1]
    return (rows[:, 1:] & 0x7F) @ (1 << 7 * np.arange(rows.shape[1] - 1)), fine


def _cut(rows: np.ndarray) -> list[bytes]:
    """Cut a matrix of bytes into its rows."""
    return np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel().tolist()


def read_timestamps(stored: Sequence[bytes]) -> np.ndarray:
    """Read many stored timestamps: datetime64[us] in UTC, `UNREADABLE` for those that can't be read."""
    microseconds, read = decode_timestamps(stored)
    instants = microseconds.astype("datetime64[us]")
    for place in np.flatnonzero(~read):
        instants[place] = read_timestamp(stored[place]).replace(tzinfo=None)
    return instants
