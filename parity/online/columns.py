"""The fast path of a materialization: columns to the bytes that Redis keeps, and back, a column at a time.

The bytes are those that protobuf writes. It takes what features mostly are, float64 and int64 under one int64 join
key; `takes` tells, and what it does not take goes Feast's own way.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureView
from feast.types import Float64, Int64

from parity.definition.instants import UTC_MICROSECONDS

TYPES = {Int64: pa.int64(), Float64: pa.float64()}
NOTHING = b""
"""A Value of no kind, which is how null and NaN are stored."""

# How protobuf begins a field: int64_val and double_val of a Value, seconds and nanos of a Timestamp.
INT64, DOUBLE, SECONDS, NANOS = 0x20, 0x29, 0x08, 0x10


def takes(view: FeatureView, rows: pa.RecordBatch) -> bool:
    """Tell whether this path takes these ``rows`` of ``view``."""
    names = {*view.join_keys, view.batch_source.timestamp_field}
    return (
        len(view.join_keys) == 1
        and view.entity_columns[0].dtype == Int64
        and all(TYPES.get(c.dtype) == rows.schema.field(c.name).type for c in [*view.entity_columns, *view.features])
        and rows.schema.field(view.batch_source.timestamp_field).type in (UTC_MICROSECONDS, pa.timestamp("us"))
        and not any(rows.column(name).null_count for name in names)
    )


def encode_keys(ids: np.ndarray, prefix: bytes, suffix: bytes) -> list[bytes]:
    """Write int64 ``ids`` as Redis keys, between ``prefix`` and ``suffix``."""
    return [prefix + number + suffix for number in _cut(ids.astype("<i8")[:, None].view(np.uint8))]


def encode_timestamps(microseconds: np.ndarray) -> list[bytes]:
    """Write instants, int64 microseconds since the epoch, as protobuf Timestamps."""
    seconds, rest = np.divmod(microseconds, 1_000_000)
    return list(map(bytes.__add__, _varints(SECONDS, seconds, omit_zero=True), _varints(NANOS, rest * 1000, True)))


def decode_timestamps(stored: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Read protobuf Timestamps: int64 microseconds since the epoch, what is less left aside, and which were read.

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
    """Write a float64 or int64 column as Feast's Values."""
    numbers = pc.fill_null(column, 0).to_numpy()
    if pa.types.is_floating(column.type):
        encoded = np.empty((len(numbers), 9), np.uint8)
        encoded[:, 0] = DOUBLE
        encoded[:, 1:] = numbers.astype("<f8")[:, None].view(np.uint8)
        values = _cut(encoded)
    else:
        values = _varints(INT64, numbers)
    for place in np.flatnonzero(pc.is_null(column, nan_is_null=True)):
        values[place] = NOTHING
    return values


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
    """Read rows of bytes, each a ``tag`` and a varint of at most five bytes up to its end; and tell which are."""
    more = rows[:, 1:] >= 0x80
    fine = (rows[:, 0] == tag) & more[:, :-1].all(axis=1) & ~more[:, -1]
    return (rows[:, 1:] & 0x7F) @ (1 << 7 * np.arange(rows.shape[1] - 1)), fine


def _cut(rows: np.ndarray) -> list[bytes]:
    """Cut a matrix of bytes into its rows."""
    return np.ascontiguousarray(rows).view(f"V{rows.shape[1]}").ravel().tolist()
