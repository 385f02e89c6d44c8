"""The raw transactions as the oracle reads them: anew, one row after another, and sorted away by key.

It shares nothing with the code that it checks but the declaration: how the files are to be read, the types of columns,
and the text of the condition, which SQLite evaluates.
"""

import csv
import lzma
import pickle
import sqlite3
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from parity.definition.keys import Key, as_tuples
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.edge.files import Location, on_disk
from parity.proof.raw_files import blocks, is_text, raw_files, weight
from parity.proof.raw_values import Parsers, digits

READING_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    OSError,
    OverflowError,
    EOFError,
    RecursionError,
    csv.Error,
    lzma.LZMAError,
    zlib.error,
    pa.ArrowException,
)
BYTES_PER_PART = 8 << 20
MOST_PARTS = 200


class Purchase(NamedTuple):
    """One raw transaction: when, and what the file shows in the columns that features are made of.

    A float64 is the text of its digits; other values are those of Python.
    """

    time: datetime
    values: Mapping[str, Any]


class RawTransactions:
    """All purchases of a file, by key, a part of the keys at a time, so that memory does not grow with the file.

    Keys are numbered in the order in which they come, from 0 on.
    """

    def __init__(self, definition: Definition, parts: int, file: IO[bytes]):
        self._schema, self._columns = definition.keys, tuple(definition.columns)
        self._file, self._places = file, [[] for _ in range(parts)]
        self.keys = self._schema.empty_table()
        """In the order of their numbers."""

    def __len__(self) -> int:
        """The number of parts. That of a key is its number, modulo this."""
        return len(self._places)

    def sort_away(self, blocks: Iterable[Iterable[tuple]]) -> None:
        """Take up rows, some at a time: keys, instant, and the columns that features are made of."""
        numbers: dict[Any, int] = {}
        for rows in blocks:
            self._sort_away(rows, numbers)
        keys = numbers if len(self._schema) > 1 else zip(numbers, strict=True)
        columns = list(zip(*keys, strict=True)) or [()] * len(self._schema)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, self._schema, strict=True)]
        self.keys = pa.table(arrays, self._schema)

    def _sort_away(self, rows: Iterable[tuple], numbers: dict[Any, int]) -> None:
        by_part: list[list] = [[] for _ in self._places]
        joins, size = len(self._schema), len(self._schema) + 1 + len(self._columns)
        for row in rows:
            number = numbers.setdefault(row[0] if joins == 1 else row[:joins], len(numbers))
            by_part[number % len(by_part)].append((number, *row[joins:size]))
        try:
            for rows_of_part, places in zip(by_part, self._places, strict=True):
                if rows_of_part:
                    places.append(self._file.tell())
                    pickle.dump(rows_of_part, self._file, pickle.HIGHEST_PROTOCOL)
            self._file.flush()
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: {error.strerror}. The oracle sorts the transactions there: make room, or "
                "name another folder in TMPDIR."
            ) from None

    def of(self, *key: Any) -> list[Purchase]:
        """The purchases of one key, in the order of the file."""
        keys = as_tuples(self.keys)
        number = keys.index(key) if key in keys else None
        return [] if number is None else self.part(number % len(self))[number]

    def part(self, part: int) -> dict[int, list[Purchase]]:
        """The purchases of each key of this part, by number, in the order of the file."""
        found: dict[int, list[Purchase]] = {}
        for place in self._places[part]:
            self._file.seek(place)
            for number, time, *values in pickle.load(self._file):
                found.setdefault(number, []).append(Purchase(time, dict(zip(self._columns, values, strict=True))))
        return found


@contextmanager
def raw_transactions(place: Location, definition: Definition) -> Iterator[RawTransactions]:
    """Read the transactions of ``definition``, a file or a folder of them. `UserError` if they can't be read."""
    with ExitStack() as stack:
        with on_disk(place) as path:
            size = sum(map(weight, raw_files(path))) if path.exists() else 0
            file = stack.enter_context(tempfile.TemporaryFile())
            raw = RawTransactions(definition, min(MOST_PARTS, 1 + size // BYTES_PER_PART), file)
            condition = stack.enter_context(closing(_Condition(definition))) if definition.condition else None
            raw.sort_away(_looked_at(rows, path, definition, condition) for rows in _typed(path, definition))
        yield raw


def left_out(place: Location, definition: Definition, key: Key) -> int:
    """How many transactions of a key the condition leaves out."""
    if definition.condition is None:
        return 0
    with on_disk(place) as path, closing(_Condition(definition)) as condition:
        rows = chain.from_iterable(_typed(path, definition))
        return sum(row[: len(key)] == key and not condition.holds(row) for row in rows)


class _Condition:
    """The condition on rows, evaluated by SQLite: a row is looked at where it is true, and not where it is unknown."""

    def __init__(self, definition: Definition):
        names = definition.raw.names
        self._places = [(names.index(name), type == pa.float64()) for name, type in definition.condition.columns]
        columns = ", ".join(f'? AS "{name.replace(chr(34), chr(34) * 2)}"' for name, _ in definition.condition.columns)
        self._query = f"SELECT ({definition.condition.text}) FROM (SELECT {columns})"
        self._connection = sqlite3.connect(":memory:")

    def holds(self, row: tuple) -> bool:
        """Whether the condition is true of a row of `Definition.raw`."""
        values = [
            float(row[place]) if is_float and row[place] is not None else row[place] for place, is_float in self._places
        ]
        [found] = self._connection.execute(self._query, values).fetchone()
        return found is not None and bool(found)

    def close(self) -> None:
        self._connection.close()


def _looked_at(rows: list[tuple], path: Path, definition: Definition, condition: _Condition | None) -> list[tuple]:
    """The rows that meet the condition. They have to have a key, an instant, and what features are made of."""
    needed = len(definition.transactions)
    kept = rows if condition is None else list(filter(condition.holds, rows))
    for row in kept:
        if None in row and None in row[:needed]:
            raise _unreadable(path, f"a row has no {definition.transactions.names[row.index(None)]}")
    return kept


def _typed(path: Path, definition: Definition) -> Iterator[list[tuple]]:
    """Go through the files at ``path``, some rows at a time, each with the values of `Definition.raw`."""
    reading, schema = definition.reading, definition.raw
    calls = {after: before for before, after in reading.renamed}
    columns, parsers = [], {False: [], True: []}
    in_one = len(reading.timestamp_columns)
    for field in schema:
        is_timestamp = field.name == reading.timestamp
        parts = reading.timestamp_columns if is_timestamp and in_one else (calls.get(field.name, field.name),)
        columns += parts
        for of_text, some in parsers.items():
            some.append(Parsers(reading, of_text).of(field.type, field.name in definition.keys.names))
    place = schema.names.index(reading.timestamp)
    try:
        for file in raw_files(path):
            read, is_null = parsers[is_text(file)], Parsers(reading, is_text(file)).is_null
            for rows in blocks(file, reading, columns):
                if in_one:
                    rows = [_joined(row, place, in_one, is_null) for row in rows]
                values = (map(parse, column) for parse, column in zip(read, zip(*rows, strict=True), strict=True))
                yield list(zip(*values, strict=True))
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such file, and without the raw transactions nothing can be proven. "
            "Name the file that the features were computed from: --input FILE"
        ) from None
    except READING_ERRORS as error:
        raise _unreadable(path, error) from None


def _joined(row: tuple, place: int, count: int, is_null: Callable[[Any], bool]) -> tuple:
    """The same row with its timestamp in one: the parts with a blank between two, or null if one is null."""
    parts = row[place : place + count]
    timestamp = None if any(map(is_null, parts)) else " ".join(map(digits, parts))
    return (*row[:place], timestamp, *row[place + count :])


def _unreadable(path: Path, reason: object) -> UserError:
    return UserError(f"{path}: the oracle can't read it: {reason!s:.300}. Run compute_features.py on it to see where.")
