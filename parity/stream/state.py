"""What an entity's own hash keeps, so that the next event is computed exactly: `_state:VIEW` and `_applied:VIEW`.

The state has the entity's rows that may still be in a window, and what its earlier rows come to for the features
without one (`Definition.state`). ``since`` is where the one begins and the other ends: all rows at or after it are
there. A row also has its place in a stream, the id of its event, and where that was delivered first, so that a
duplicate and a correction are known for what they are.

The bytes are a header and columns: those of the rows, then what is kept, each as fixed numbers, the lowest byte first,
or as lengths and then the texts. All of it is read and written for many entities at once.

What is applied is text: the beginning of the definition's fingerprint, and of each partition that events came from the
greatest offset: ``0123456789abcdef orders/0=00000000000000000017``. It is what a write is compared by.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.table import Definition
from parity.online.marks import DIGITS
from parity.transactions.landed import ID, OFFSET, PARTITION

LEFT_OUT = "_left_out"
"""The column of events that has whether the view's condition leaves them out; without it, it leaves out none."""
OWNER, FIRST = "_owner", "_first"
"""The columns of rows of a state: the number of the entity, and the offset at which the event was delivered first."""
NOWHERE = 0xFFFF
"""The partition of a row that came in no stream."""
NO_OFFSET = -1
"""`FIRST` of a row that came in no stream. Less than that it is for an event that the view leaves out by now, which
counts for nothing, and is there to be known by its id: see `left_out`."""
BEGINNING = -(2**63)
"""``since`` of an entity of which nothing was left out."""
VERSION = 1
FINGERPRINT_DIGITS = 16
_PREFIX = struct.Struct("<II")
_NO_TEXT = 0xFFFFFFFF


class States(NamedTuple):
    """What is kept of some entities, which have numbers from 0 on."""

    since: np.ndarray
    """For each entity, in microseconds."""
    gone: np.ndarray
    """For each entity (rows) and each of its partitions, by number: the greatest offset of an event that is no row any
    more, but part of what is kept; -1 for none."""
    rows: pa.Table
    """Of `row_schema`, sorted by entity and instant."""
    kept: pa.Table
    """Of `kept_schema`, sorted by entity: one for each that has had earlier rows than those that are there."""

    @property
    def entities(self) -> int:
        return len(self.since)


def row_schema(definition: Definition) -> pa.Schema:
    """`OWNER`, the instant and the columns of the transactions, and where they came from."""
    instant_and_columns = [field for field in definition.transactions if field.name not in definition.keys.names]
    places = {OFFSET: pa.int64(), FIRST: pa.int64(), PARTITION: pa.uint16(), ID: pa.string()}
    return pa.schema([pa.field(OWNER, pa.int64()), *instant_and_columns, *map(pa.field, places, places.values())])


def kept_schema(definition: Definition) -> pa.Schema:
    """`OWNER`, and `Definition.state` without the keys."""
    return pa.schema([pa.field(OWNER, pa.int64()), *list(definition.state)[len(definition.keys) :]])


def left_out(first: int) -> int:
    """`FIRST` for an event that the view leaves out by now, and the other way."""
    return -2 - first


def is_counted(firsts: pa.ChunkedArray) -> np.ndarray:
    """Which rows count, by their `FIRST`."""
    return firsts.to_numpy() >= NO_OFFSET


def nothing(definition: Definition, entities: int) -> States:
    """What is kept of so many entities that are new."""
    since, gone = np.full(entities, BEGINNING), np.full((entities, 0), -1)
    return States(since, gone, row_schema(definition).empty_table(), kept_schema(definition).empty_table())


def encode(states: States, definition: Definition) -> list[bytes]:
    """The bytes of each entity."""
    entities, rows = states.entities, states.rows
    of_rows = _bounds(rows[OWNER], entities)
    has_ids = _any(pc.is_valid(rows[ID]), of_rows)
    has_firsts = _any(pc.not_equal(rows[OFFSET], rows[FIRST]), of_rows)
    writer = _Writer(entities)
    writer.add(rows[definition.reading.timestamp], of_rows)
    for name in definition.columns:
        writer.add(rows[name], of_rows)
    writer.add(rows[OFFSET], of_rows)
    writer.add(rows[PARTITION], of_rows)
    writer.add(rows[FIRST], of_rows, has_firsts)
    writer.add(rows[ID], of_rows, has_ids)
    of_kept = _bounds(states.kept[OWNER], entities)
    lengths = [writer.add(states.kept[field.name], of_kept) for field in _kept_fields(definition)]
    of_gone = _lengths(states.gone)
    gone = states.gone[np.arange(states.gone.shape[1]) < of_gone[:, None]]
    writer.add(pa.chunked_array([pa.array(gone, pa.int64())]), np.append(0, np.cumsum(of_gone)))
    of_lists = [found for found in lengths if found is not None]
    counts = [np.diff(of_rows), has_ids, has_firsts, np.diff(of_kept), of_gone, *of_lists]
    return writer.bytes(states.since, counts)


def decode(stored: Sequence[bytes | None], definition: Definition) -> tuple[States, np.ndarray]:
    """Read what `encode` has written, and say which of them could be read; the others come as new entities."""
    header = _Header(definition)
    readable = np.fromiter((header.begins(one) for one in stored), bool, len(stored))
    texts = [one if fine else b"" for one, fine in zip(stored, readable.tolist(), strict=True)]
    numbers = header.read(texts, readable)
    reader = _Reader(texts, np.where(readable, header.size, 0))
    rows, kept = numbers["rows"].astype(np.int64), numbers["kept"].astype(np.int64)
    columns = {OWNER: pa.array(np.repeat(np.arange(len(stored)), rows))}
    for field in row_schema(definition):
        if field.name not in (OWNER, OFFSET, FIRST, PARTITION, ID):
            columns[field.name] = reader.take(field.type, rows)
    columns[OFFSET] = offsets = reader.take(pa.int64(), rows)
    columns[PARTITION] = reader.take(pa.uint16(), rows)
    columns[FIRST] = _spread(reader.take(pa.int64(), rows * numbers["firsts"]), numbers["firsts"], rows, offsets)
    nulls = pa.nulls(len(offsets), pa.string())
    columns[ID] = _spread(reader.take(pa.string(), rows * numbers["ids"]), numbers["ids"], rows, nulls)
    results = {OWNER: pa.array(np.flatnonzero(kept))}
    for field in _kept_fields(definition):
        lengths = numbers[field.name].astype(np.int64) if pa.types.is_list(field.type) else kept
        found = reader.take(field.type.value_type if pa.types.is_list(field.type) else field.type, lengths)
        results[field.name] = _as_lists(found, lengths[kept > 0]) if pa.types.is_list(field.type) else found
    of_gone = numbers["gone"].astype(np.int64)
    gone = np.full((len(stored), of_gone.max(initial=0)), -1)
    gone[np.arange(gone.shape[1]) < of_gone[:, None]] = reader.take(pa.int64(), of_gone).to_numpy()
    states = States(
        np.where(readable, numbers["since"], BEGINNING),
        gone,
        pa.table(columns, row_schema(definition)),
        pa.table(results, kept_schema(definition)),
    )
    return states, readable


def read_applied(text: bytes) -> tuple[str, dict[str, int]]:
    """The beginning of a fingerprint, and the greatest offset of each partition, in the order of their numbers.

    An empty text, and nothing, for what `write_applied` has not written.
    """
    try:
        fingerprint, *tokens = text.decode().split()
        places = (token.rpartition("=") for token in tokens)
        return fingerprint, {partition: int(offset) for partition, _, offset in places}
    except ValueError:
        return "", {}


def write_applied(fingerprint: str, marks: dict[str, int]) -> bytes:
    tokens = [f"{partition}={offset:0{DIGITS}d}" for partition, offset in marks.items()]
    return " ".join([fingerprint, *tokens]).encode()


def _kept_fields(definition: Definition) -> list[pa.Field]:
    return list(kept_schema(definition))[1:]


def _bounds(owners: pa.ChunkedArray, entities: int) -> np.ndarray:
    """Where the rows of each entity begin, and where the last end."""
    return np.searchsorted(owners.to_numpy(), np.arange(entities + 1))


def _lengths(offsets: np.ndarray) -> np.ndarray:
    """How many of each row are up to its last that is none of -1."""
    there = offsets >= 0
    return np.max(np.where(there, np.arange(1, offsets.shape[1] + 1), 0), axis=1, initial=0)


def _any(marked: pa.ChunkedArray, bounds: np.ndarray) -> np.ndarray:
    """Which entities have a row that is marked."""
    before = np.append(0, np.cumsum(marked.to_numpy(), dtype=np.int64))
    return before[bounds[1:]] > before[bounds[:-1]]


class _Header:
    """What bytes begin with: their version, their checksum, and how many rows of each kind there are."""

    def __init__(self, definition: Definition):
        lists = [field.name for field in _kept_fields(definition) if pa.types.is_list(field.type)]
        names = ["version", "checksum", "rows", "ids", "firsts", "kept", "gone", *lists]
        self._type = np.dtype([*((name, "<u4") for name in names), ("since", "<i8")])
        self.size = self._type.itemsize

    def begins(self, stored: bytes | None) -> bool:
        """Whether these are bytes that `encode` has written, all of them."""
        return (
            stored is not None
            and len(stored) >= self.size
            and stored[: _PREFIX.size] == _PREFIX.pack(VERSION, zlib.crc32(memoryview(stored)[_PREFIX.size :]))
        )

    def read(self, stored: list[bytes], readable: np.ndarray) -> np.ndarray:
        empty = bytes(self.size)
        heads = [one[: self.size] or empty for one in stored]
        return np.frombuffer(b"".join(heads), self._type)


class _Writer:
    """Columns of many entities, cut by entity."""

    def __init__(self, entities: int):
        self._entities = entities
        self._parts: list[list[bytes | memoryview]] = []

    def add(self, column: pa.ChunkedArray, bounds: np.ndarray, some: np.ndarray | None = None) -> np.ndarray | None:
        """Add a column, of ``some`` entities only; of lists their values, whose number for each entity is given."""
        if some is not None and not some.any():
            return None
        values = column.combine_chunks()
        if pa.types.is_list(values.type):
            ends = np.append(0, np.cumsum(pc.list_value_length(values).to_numpy()))[bounds]
            self.add(pa.chunked_array([pc.list_flatten(values)]), ends)
            return np.diff(ends)
        if pa.types.is_string(values.type):
            lengths = pc.fill_null(pc.binary_length(values), 0).to_numpy().astype(np.int64)
            ends = np.append(0, np.cumsum(lengths))
            self._cut(np.where(pc.is_null(values), _NO_TEXT, lengths).astype("<u4"), bounds, some)
            data = b"".join(filter(None, values.cast(pa.binary()).to_pylist())) if ends[-1] else b""
            self._cut(np.frombuffer(data, np.uint8), ends[bounds], some)
        else:
            self._cut(_numbers(values), bounds, some)
        return None

    def _cut(self, values: np.ndarray, bounds: np.ndarray, some: np.ndarray | None) -> None:
        starts, ends = bounds[:-1] * values.itemsize, bounds[1:] * values.itemsize
        if some is not None:
            ends = np.where(some, ends, starts)
        data = values.tobytes()
        self._parts.append([data[start:end] for start, end in zip(starts.tolist(), ends.tolist(), strict=True)])

    def bytes(self, since: np.ndarray, counts: Iterable[np.ndarray]) -> list[bytes]:
        counts = np.column_stack([np.zeros((self._entities, 0), "<u4"), *counts]).astype("<u4")
        size = counts.shape[1] * 4 + 8
        data = np.hstack([counts.view(np.uint8), since.astype("<i8")[:, None].view(np.uint8)]).tobytes()
        first = [data[start : start + size] for start in range(0, len(data), size)]
        found = map(b"".join, zip(first, *self._parts, strict=True))
        return [_PREFIX.pack(VERSION, zlib.crc32(one)) + one for one in found]


class _Reader:
    """Columns of many entities, one after the other."""

    def __init__(self, stored: list[bytes], at: np.ndarray):
        self._stored, self._at = stored, at

    def take(self, type: pa.DataType, counts: np.ndarray) -> pa.Array:
        """The next column: so many values of each entity."""
        if pa.types.is_string(type):
            sizes = np.frombuffer(self._bytes(counts * 4), "<u4")
            null = sizes == _NO_TEXT
            lengths = np.where(null, 0, sizes).astype(np.int64)
            ends = np.append(0, np.cumsum(lengths))
            data = self._bytes(np.diff(ends[np.append(0, np.cumsum(counts))]))
            buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(data)]
            texts = pa.Array.from_buffers(pa.string(), len(lengths), buffers)
            return pc.if_else(pa.array(null), None, texts) if null.any() else texts
        packed = _packed(type)
        return _values(np.frombuffer(self._bytes(counts * packed.itemsize), packed), type)

    def _bytes(self, sizes: np.ndarray) -> bytes:
        if not sizes.any():
            return b""
        ends = self._at + sizes
        pieces = zip(self._stored, self._at.tolist(), ends.tolist(), strict=True)
        self._at = ends
        return b"".join([one[start:end] for one, start, end in pieces])


def _packed(type: pa.DataType) -> np.dtype:
    if pa.types.is_boolean(type):
        return np.dtype("u1")
    return np.dtype("<i8") if pa.types.is_timestamp(type) else np.dtype(type.to_pandas_dtype()).newbyteorder("<")


def _numbers(values: pa.Array) -> np.ndarray:
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.int64())
    elif pa.types.is_boolean(values.type):
        values = values.cast(pa.uint8())
    return values.to_numpy(zero_copy_only=False).astype(_packed(values.type), copy=False)


def _values(numbers: np.ndarray, type: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(type):
        return pa.array(numbers, pa.int64()).cast(UTC_MICROSECONDS)
    return pa.array(numbers).cast(type)


def _spread(found: pa.Array, has: np.ndarray, rows: np.ndarray, otherwise: pa.Array) -> pa.Array:
    """The values that were ``found`` of those entities that have some, and for the rows of others ``otherwise``."""
    if not len(found):
        return otherwise
    there = np.repeat(has > 0, rows)
    places = np.where(there, np.cumsum(there) - 1, 0)
    return pc.if_else(pa.array(there), found.take(pa.array(places)), otherwise)


def _as_lists(values: pa.Array, lengths: np.ndarray) -> pa.Array:
    return pa.ListArray.from_arrays(pa.array(np.append(0, np.cumsum(lengths)).astype(np.int32)), values)
