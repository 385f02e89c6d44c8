"""What a row of a continuous view becomes as time goes on, as bytes that are kept beside it. It knows no Feast.

Between transactions a windowed feature is a step function: it changes when one leaves the window. The steps to come are
the rows of the feature history that follow a row, up to a horizon: their instants, and of each feature that changes its
values. The bytes begin with `_HEADER` and a `_COLUMN` for each of these features; then come the instants, and column
after column, each in the narrowest numbers that hold it: what is sent takes most of the time of a read. All numbers
have their lowest byte first.
"""

import struct
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.keys import KeyBook
from parity.definition.table import Definition
from parity.online.rows import DOUBLE, INT32, INT64, LENGTH, NOTHING, TEXT, Fields, instant_bytes, report, varint

VERSION = 2
_HEADER = struct.Struct("<BBHIIqqq")
"""Version, steps of a block, number of columns, number of steps, size of all in bytes, instant of the row that they
follow, horizon, instant of which all was known then. Of two for one row, those of the later such instant are kept: see
`parity.online.scripts`."""
_COLUMN = struct.Struct("<4sBxxxI")
"""The field of a feature in a Redis hash, how its values are kept, and where they begin."""
_NULL_DOUBLE = struct.pack("<d", np.nan)
PAST_HORIZON = "past its horizon"
"""What is known of a row after its horizon: nothing."""

Values = dict[bytes, bytes]
"""Protobuf Values by the fields of a Redis hash."""


def at_present(
    history: pa.Table, definition: Definition, present: int | np.ndarray, until: int
) -> tuple[pa.Table, list[bytes]]:
    """Each key's latest row at or before ``present``, and for each of them the steps that follow up to ``until``.

    ``history`` has the columns of `Definition.schema`, its rows in any order, and no two of a key at one instant;
    instants are in microseconds since 1970. ``present`` may be one for each of its rows, the same for all of a key.
    Keys without such a row are left out.
    """
    numbers = KeyBook(definition.keys).number(history)
    instants = _instants(history[definition.event])
    present = np.broadcast_to(present, len(instants))
    if not _is_sorted(numbers, instants):
        order = np.lexsort((instants, numbers))
        history, numbers = history.take(pa.array(order)), numbers[order]
        instants, present = instants[order], present[order]
    past = instants <= present
    last = past.copy()
    last[:-1] &= (numbers[1:] != numbers[:-1]) | ~past[1:]
    key_of = np.full(numbers.max(initial=-1) + 1, -1)
    key_of[numbers[last]] = np.arange(np.count_nonzero(last))
    follows = ~past & (instants <= until) & (key_of[numbers] >= 0)
    rows, steps, owners = history.filter(pa.array(last)), history.filter(pa.array(follows)), key_of[numbers[follows]]
    names, fields = [rule.name for rule in definition.rules], Fields(definition.name)
    encoded = encode(fields, definition.event, names, rows, steps, owners, until, present[last])
    return rows.combine_chunks(), encoded


def encode(
    fields: Fields,
    event: str,
    features: Sequence[str],
    rows: pa.Table,
    steps: pa.Table,
    owners: np.ndarray,
    until: int,
    end: int | np.ndarray,
) -> list[bytes]:
    """The bytes of the steps of each of ``rows``. ``owners`` has, for each of all ``steps``, the place of its row in
    ``rows``; they are sorted by it and by their instant. Both tables have the columns ``event`` and ``features``.
    ``end``, of all rows or of each, is the instant at which they were the latest."""
    counts = np.bincount(owners, minlength=rows.num_rows)
    ends = np.cumsum(counts)
    bounds, before = _Bounds(ends - counts, counts), rows.take(pa.array(owners))
    columns = [_column(fields[name], before[name], steps[name], bounds) for name in features]
    instants = _instants(steps[event]).astype("<i8")
    known_at = np.broadcast_to(end, rows.num_rows).tolist()
    pieces = zip(_instants(rows[event]).tolist(), known_at, bounds.starts.tolist(), ends.tolist(), strict=True)
    encoded = []
    for place, (instant, known, start, stop) in enumerate(pieces):
        chosen = [column for column in columns if column.changes[place]]
        block, some = _packed_instants(instants[start:stop])
        at = _HEADER.size + _COLUMN.size * len(chosen) + len(some)
        heads, parts = [], [some]
        for column in chosen:
            code, part = column.part(place, start, stop)
            heads.append(_COLUMN.pack(column.field, code, at))
            parts.append(part)
            at += len(part)
        header = _HEADER.pack(VERSION, block, len(chosen), stop - start, at, instant, until, known)
        encoded.append(b"".join((header, *heads, *parts)))
    return encoded


def holding(stored: bytes | None, event: int, present: int) -> tuple[int, Values] | str | None:
    """What holds at the instant ``present`` of a row of the instant ``event``, beside which ``stored`` lies.

    None if the row itself does; the instant of a later step and the values of the features that it changes; or
    `PAST_HORIZON`, also where the steps are missing, are those of another row, or can't be read.
    """
    if stored is None:
        return PAST_HORIZON
    try:
        version, block, columns, count, size, row, until, _ = _HEADER.unpack_from(stored)
        if version != VERSION or size != len(stored):
            raise ValueError(version)
        if row != event or present > until:
            return PAST_HORIZON
        begin = _HEADER.size + _COLUMN.size * columns
        place, instant = _last_by(memoryview(stored)[begin:], block, count, present)
        if place < 0:
            return None
        heads = _COLUMN.iter_unpack(stored[_HEADER.size : begin])
        return instant, {field: _VALUE[code](stored, at, place, count) for field, code, at in heads}
    except (struct.error, ValueError, TypeError, LookupError, OverflowError):
        report("the steps that are stored beside a row are not readable: %r", stored)
        return PAST_HORIZON


def as_held(
    row: list, names: Sequence[bytes], event: int | None, present: int
) -> tuple[list[bytes | None], int | None] | None:
    """A ``row`` of a continuous view as it holds at the instant ``present``, and the instant from which on it does.

    It has the Values of the fields ``names``, the steps, and the event timestamp, which is ``event``; before that it
    stays as it is, and so it does if the timestamp can't be read. None if it is past its horizon.
    """
    if event is None or event > present:
        return row, event
    holds = holding(row[-2], event, present)
    if holds is None:
        return row, event
    if holds is PAST_HORIZON:
        return None
    event, changed = holds
    return [*map(changed.get, names, row), instant_bytes(event)], event


def every_step(stored: bytes) -> list[tuple[int, Values]]:
    """All steps of bytes that `holding` can read: instants, and values. Raises `ValueError` and the like for others."""
    _, block, columns, count, *_ = _HEADER.unpack_from(stored)
    begin = _HEADER.size + _COLUMN.size * columns
    heads = list(_COLUMN.iter_unpack(stored[_HEADER.size : begin]))
    instants = [instant for some in _blocks(memoryview(stored)[begin:], block, count) for instant in some]
    return [
        (instant, {field: _VALUE[code](stored, at, place, count) for field, code, at in heads})
        for place, instant in enumerate(instants)
    ]


def horizon_of_steps(stored: bytes) -> int:
    """Up to when, in microseconds since 1970, such bytes say what holds."""
    return _HEADER.unpack_from(stored)[6]


_BLOCK, _WITHIN = 64, 1 << 32
"""Steps of a block, and how many microseconds it lasts at most."""


def _packed_instants(instants: np.ndarray) -> tuple[int, bytes]:
    """Instants as int64, and 0; or, where that takes less, the first of each block, then of all how many microseconds
    they come after it, as uint32; and how many are a block."""
    if len(instants) > 2 * _BLOCK:
        firsts = instants[::_BLOCK]
        after = instants - np.repeat(firsts, _BLOCK)[: len(instants)]
        if after.max() < _WITHIN:
            return _BLOCK, firsts.tobytes() + after.astype("<u4").tobytes()
    return 0, instants.tobytes()


def _last_by(packed: memoryview, block: int, count: int, present: int) -> tuple[int, int]:
    """The place, and the instant, of the last of ``count`` instants at or before ``present``; -1 if there is none."""
    if not block:
        instants = packed[: 8 * count].cast("q")
        place = bisect_right(instants, present) - 1
        return place, instants[place] if place >= 0 else 0
    blocks = -(-count // block)
    firsts, after = packed[: 8 * blocks].cast("q"), packed[8 * blocks : 8 * blocks + 4 * count].cast("I")
    which = bisect_right(firsts, present) - 1
    if which < 0:
        return -1, 0
    start = block * which
    place = bisect_right(after, present - firsts[which], start, min(start + block, count)) - 1
    return place, firsts[which] + after[place]


def _blocks(packed: memoryview, block: int, count: int) -> Iterator[list[int]]:
    """All instants, a block at a time."""
    if not block:
        yield packed[: 8 * count].cast("q").tolist()
        return
    blocks = -(-count // block)
    firsts, after = packed[: 8 * blocks].cast("q"), packed[8 * blocks : 8 * blocks + 4 * count].cast("I")
    for which, first in enumerate(firsts):
        yield [first + more for more in after[block * which : block * (which + 1)]]


def _instants(column: pa.ChunkedArray) -> np.ndarray:
    return column.cast(UTC_MICROSECONDS).cast(pa.int64()).to_numpy()


def _is_sorted(numbers: np.ndarray, instants: np.ndarray) -> bool:
    more, same = numbers[1:] > numbers[:-1], numbers[1:] == numbers[:-1]
    return bool((more | (same & (instants[1:] >= instants[:-1]))).all())


def _differ(some: pa.ChunkedArray, others: pa.ChunkedArray) -> np.ndarray:
    """Where the values of two columns, NaN as null, are not the same."""
    if pa.types.is_floating(some.type):
        return _doubles(some).view(np.int64) != _doubles(others).view(np.int64)
    unlike = pc.or_kleene(pc.not_equal(some, others), pc.xor(pc.is_null(some), pc.is_null(others)))
    return pc.fill_null(unlike, False).to_numpy()


def _doubles(column: pa.ChunkedArray) -> np.ndarray:
    numbers = pc.fill_null(column, np.nan).to_numpy().astype("<f8")
    numbers[np.isnan(numbers)] = np.frombuffer(_NULL_DOUBLE, "<f8")
    return numbers


class _Bounds(NamedTuple):
    """Where the steps of each row begin among all, and how many they are."""

    starts: np.ndarray
    counts: np.ndarray

    def of_each_row(self, join: np.ufunc, values: np.ndarray) -> np.ndarray:
        """``values`` of all steps, joined for each row; 0, or False, for one without steps."""
        found = np.zeros(len(self.counts), values.dtype)
        if len(values):
            found[self.counts > 0] = join.reduceat(values, self.starts[self.counts > 0])
        return found


def _column(field: bytes, before: pa.ChunkedArray, column: pa.ChunkedArray, bounds: "_Bounds") -> "_Column":
    if pa.types.is_floating(column.type):
        made = _cents(field, column, bounds)
    elif pa.types.is_string(column.type):
        made = _Dictionaries(field, column)
    else:
        made = _integers(field, column, bounds)
    made.changes = bounds.of_each_row(np.logical_or, _differ(before, column)).tolist()
    return made


class _Column:
    """A feature's values of all steps of all rows. ``field`` is its field in a Redis hash."""

    changes: list[bool]
    """For each row, whether it is another at any of its steps than in the row itself, and so has to be kept."""

    def __init__(self, field: bytes):
        self.field = field

    def part(self, place: int, start: int, end: int) -> tuple[int, bytes | memoryview]:
        """The values from ``start`` to ``end``, which are those of the row at ``place``: their code, and bytes."""
        raise NotImplementedError


class _Doubles(_Column):
    def __init__(self, field: bytes, numbers: np.ndarray):
        super().__init__(field)
        self._bytes = memoryview(numbers).cast("B")

    def part(self, place: int, start: int, end: int) -> tuple[int, memoryview]:
        return DOUBLE, self._bytes[8 * start : 8 * end]


_WIDTHS = (1, 2, 4, 8)
"""The bytes of an integer. The least number of each width stands for null."""


class _Integers(_Column):
    """Int64 ``numbers``, null where ``null`` is true, in the narrowest width that all of a row's steps fit in."""

    def __init__(
        self,
        field: bytes,
        code: int,
        numbers: np.ndarray,
        null: np.ndarray,
        wide: np.ndarray,
        bounds: "_Bounds",
        otherwise: Callable[[], _Column],
    ):
        """``wide`` says how many of the `_WIDTHS` a number does not fit in; where it is in none, the column of the row
        is as ``otherwise`` makes it."""
        super().__init__(field)
        self._code, self._numbers, self._null = code, numbers, null
        self._wide = bounds.of_each_row(np.maximum, wide)
        self._otherwise = cache(otherwise)
        self._bytes = cache(self._narrowed)

    def part(self, place: int, start: int, end: int) -> tuple[int, bytes | memoryview]:
        which = int(self._wide[place])
        if which == len(_WIDTHS):
            return self._otherwise().part(place, start, end)
        width = _WIDTHS[which]
        return self._code + which, self._bytes(width)[width * start : width * end]

    def _narrowed(self, width: int) -> memoryview:
        narrow = self._numbers.astype(f"<i{width}")
        narrow[self._null] = np.iinfo(narrow.dtype).min
        return memoryview(narrow).cast("B")


def _integers(field: bytes, column: pa.ChunkedArray, bounds: "_Bounds") -> _Integers:
    numbers, code = pc.fill_null(column, 0).to_numpy().astype("<i8"), _INT32 if column.type == pa.int32() else _INT64
    null = pc.is_null(column).to_numpy()
    return _Integers(field, code, numbers, null, _wide(numbers), bounds, lambda: _Dictionaries(field, column))


def _cents(field: bytes, column: pa.ChunkedArray, bounds: "_Bounds") -> _Integers:
    """Doubles as whole hundredths, where these give the very same bits and take less."""
    doubles = _doubles(column)
    null = np.isnan(doubles)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = np.where(null, 0, np.rint(doubles * 100))
        whole = np.abs(scaled) < 1 << 31
        hundredths = np.where(whole, scaled, 0).astype("<i8")
        whole &= null | ((hundredths / 100).view("<i8") == doubles.view("<i8"))
    wide = np.where(whole, _wide(hundredths), len(_WIDTHS))
    return _Integers(field, _CENTS, hundredths, null, wide, bounds, lambda: _Doubles(field, doubles))


def _wide(numbers: np.ndarray) -> np.ndarray:
    """In how many of the `_WIDTHS` a number does not fit, beside the one that stands for null."""
    return sum((_need_more(numbers, width) for width in _WIDTHS), np.zeros(len(numbers), np.int64))


def _need_more(numbers: np.ndarray, width: int) -> np.ndarray:
    """Which of the int64 ``numbers`` need more bytes than ``width``."""
    return (numbers <= -(1 << 8 * width - 1)) | (numbers > (1 << 8 * width - 1) - 1)


class _Dictionaries(_Column):
    """Values of any type, as places in a list of them that follows: their number, where each ends, and all of them."""

    def __init__(self, field: bytes, column: pa.ChunkedArray):
        super().__init__(field)
        encoded = column.combine_chunks().dictionary_encode()
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        self._places = pc.fill_null(encoded.indices, -1).to_numpy()
        self._values = [*(_value_bytes(value, column.type) for value in encoded.dictionary.to_pylist()), NOTHING]

    def part(self, place: int, start: int, end: int) -> tuple[int, bytes]:
        distinct, places = np.unique(self._places[start:end], return_inverse=True)
        which = next(
            which for which, width in enumerate(_WIDTHS) if not _need_more(np.array([len(distinct)]), width)[0]
        )
        values = [self._values[number] for number in distinct.tolist()]
        ends = np.cumsum([len(value) for value in values]).astype("<u4").tobytes()
        narrow = places.astype(f"<i{_WIDTHS[which]}").tobytes()
        return _LISTED + which, b"".join((narrow, struct.pack("<I", len(values)), ends, *values))


def _value_bytes(value: int | str, type: pa.DataType) -> bytes:
    if isinstance(value, str):
        text = value.encode()
        return LENGTH[TEXT] + varint(len(text)) + text
    return LENGTH[INT32 if type == pa.int32() else INT64] + varint(value)


_INT32, _INT64, _CENTS, _LISTED = 0x80, 0x90, 0xA0, 0xB0
"""The codes of columns of integers, hundredths and dictionaries, to which the place of their width in `_WIDTHS` is
added; that of doubles is `DOUBLE`."""

_Read = Callable[[bytes, int, int, int], bytes]
"""From bytes, where a column begins in them, a place in it, and its length, to a protobuf Value."""


_EIGHT_BYTES, _DOUBLE = struct.Struct("8s"), LENGTH[DOUBLE]


def _read_double(stored: bytes, at: int, place: int, count: int) -> bytes:
    [number] = _EIGHT_BYTES.unpack_from(stored, at + 8 * place)
    return NOTHING if number == _NULL_DOUBLE else _DOUBLE + number


def _read_integers(tag: int, width: int, packed: str) -> _Read:
    read, null, head = struct.Struct(f"<{packed}").unpack_from, -(1 << 8 * width - 1), LENGTH[tag]

    def value(stored: bytes, at: int, place: int, count: int) -> bytes:
        [number] = read(stored, at + width * place)
        return NOTHING if number == null else head + varint(number)

    return value


def _read_cents(width: int, packed: str) -> _Read:
    read, null = struct.Struct(f"<{packed}").unpack_from, -(1 << 8 * width - 1)

    def value(stored: bytes, at: int, place: int, count: int) -> bytes:
        [number] = read(stored, at + width * place)
        return NOTHING if number == null else _DOUBLE + struct.pack("<d", number / 100)

    return value


def _read_listed(width: int, packed: str) -> _Read:
    read = struct.Struct(f"<{packed}").unpack_from

    def value(stored: bytes, at: int, place: int, count: int) -> bytes:
        [number] = read(stored, at + width * place)
        listed = at + width * count
        [length] = struct.unpack_from("<I", stored, listed)
        if not 0 <= number < length:
            raise IndexError(number)
        begin, end = struct.unpack_from("<II", stored, listed + 4 * number) if number else (0, 0)
        if not number:
            [end] = struct.unpack_from("<I", stored, listed + 4)
        values = listed + 4 + 4 * length
        if not begin <= end <= len(stored) - values:
            raise IndexError(end)
        return stored[values + begin : values + end]

    return value


_PACKED: Sequence[str] = ("b", "h", "i", "q")
_VALUE: dict[int, _Read] = {DOUBLE: _read_double}
for _which, (_width, _letter) in enumerate(zip(_WIDTHS, _PACKED, strict=True)):
    _VALUE[_INT32 + _which] = _read_integers(INT32, _width, _letter)
    _VALUE[_INT64 + _which] = _read_integers(INT64, _width, _letter)
    _VALUE[_CENTS + _which] = _read_cents(_width, _letter)
    _VALUE[_LISTED + _which] = _read_listed(_width, _letter)
