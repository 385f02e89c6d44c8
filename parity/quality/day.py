"""The rows of a day: held whole or, where they are many, in a file of which some are held at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

FILE, ROW = ":file", ":row"
"""Columns of a place: the number of the file, and that of the row in it, both from 0 on."""
HELD = 1 << 19
"""How many rows of a day are held at the most."""
_NUMBER = "file_row_number"


class Day(NamedTuple):
    """The rows of a day that is held whole."""

    day: int
    """Since 1970-01-01."""
    rows: pa.Table
    files: np.ndarray
    """In which of the files each row is."""
    places: np.ndarray
    """Which row of the file it is, from 0 on."""

    @property
    def schema(self) -> pa.Schema:
        return self.rows.schema

    @property
    def count(self) -> int:
        return self.rows.num_rows

    @property
    def digest(self) -> str:
        """SHA-256 of the rows, wherever they lie."""
        return _digest(self.schema, [self.rows])

    def nulls(self, column: str) -> int:
        return self.rows[column].null_count

    def distinct(self, columns: Sequence[str]) -> pa.Table:
        """The combinations that there are of the values of some columns."""
        return self.rows.select(list(columns)).group_by(list(columns)).aggregate([])

    def taken(self, rows: Sequence[int]) -> Day:
        """Some of the rows."""
        return Day(self.day, self.rows.take(pa.array(rows, pa.int64())), self.files[rows], self.places[rows])


@dataclass(frozen=True)
class LargeDay:
    """The rows of a day in a file, with their places. It is there for as long as no other day is asked for."""

    day: int
    file: Path
    connection: duckdb.DuckDBPyConnection

    @property
    def schema(self) -> pa.Schema:
        return without_places(pq.read_schema(self.file))

    @property
    def count(self) -> int:
        return pq.read_metadata(self.file).num_rows

    @property
    def digest(self) -> str:
        return _digest(self.schema, self._pieces(self.schema.names))

    def nulls(self, column: str) -> int:
        return sum(piece[column].null_count for piece in self._pieces([column]))

    def taken(self, rows: Sequence[int]) -> Day:
        wanted, start, found = np.unique(np.array(rows, np.int64)), 0, []
        for piece in self._pieces(None):
            here = wanted[(wanted >= start) & (wanted < start + piece.num_rows)]
            found.append(piece.take(pa.array(here - start, pa.int64())))
            start += piece.num_rows
        in_order = np.searchsorted(wanted, np.array(rows, np.int64))
        return day_of_rows(self.day, pa.concat_tables(found).take(pa.array(in_order, pa.int64())))

    def frames(self) -> Iterator[pd.DataFrame]:
        """All rows, some at a time, by their numbers in the day."""
        start = 0
        for piece in self._pieces(self.schema.names):
            yield as_frame(piece).set_axis(pd.RangeIndex(start, start + piece.num_rows))
            start += piece.num_rows

    def frames_by(self, columns: Sequence[str]) -> Iterator[pd.DataFrame]:
        """As `frames`, with all rows that are equal in ``columns`` in one frame."""
        count = 1 + self.count // HELD
        selected = f"SELECT {', '.join(map(quoted, self.schema.names))}, {_NUMBER} FROM {self._rows}"
        part_of = f"hash({', '.join(map(quoted, columns))}) % {count}"
        for part in range(count):
            rows = self._queried(f"{selected} WHERE {part_of} = {part} ORDER BY {_NUMBER}")
            yield as_frame(rows.drop_columns(_NUMBER)).set_axis(rows[_NUMBER].to_numpy())

    def frame(self, columns: Sequence[str]) -> pd.DataFrame:
        """Some columns of all rows."""
        return as_frame(pq.read_table(self.file, columns=list(columns), partitioning=None))

    def distinct(self, columns: Sequence[str]) -> pa.Table:
        return self._queried(f"SELECT DISTINCT {', '.join(map(quoted, columns))} FROM {self._rows}")

    @property
    def _rows(self) -> str:
        """SQL for the rows, each with its number."""
        place = "'" + str(self.file).replace("'", "''") + "'"
        return f"read_parquet({place}, file_row_number = true, hive_partitioning = false)"

    def _queried(self, sql: str) -> pa.Table:
        with self.connection.cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            return cursor.execute(sql).fetch_arrow_table()

    def _pieces(self, columns: Sequence[str] | None) -> Iterator[pa.Table]:
        with pq.ParquetFile(self.file) as file:
            for number in range(file.num_row_groups):
                yield file.read_row_group(number, columns=columns)


class Gathering:
    """A day whose rows come in parts. Beyond `HELD` rows they go to a ``file``."""

    def __init__(self, day: int, file: Path, connection: duckdb.DuckDBPyConnection):
        self.day, self._file, self._connection = day, file, connection
        self._held: list[pa.Table] = []
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: pa.Table) -> None:
        self._held.append(rows)
        if sum(part.num_rows for part in self._held) > HELD:
            self._write(HELD)

    def _write(self, least: int) -> None:
        """Write what is held, as long as there are ``least`` rows of it."""
        rows = pa.concat_tables(self._held)
        self._writer = self._writer or pq.ParquetWriter(self._file, rows.schema)
        while rows.num_rows >= max(least, 1):
            self._writer.write_table(rows.slice(0, HELD), row_group_size=HELD)
            rows = rows.slice(HELD)
        self._held = [rows]

    def gathered(self) -> Day | LargeDay:
        if self._writer is None:
            return day_of_rows(self.day, pa.concat_tables(self._held))
        self._write(0)
        self._writer.close()
        return LargeDay(self.day, self._file, self._connection)


def day_of_rows(day: int, rows: pa.Table) -> Day:
    """Rows with their places."""
    rows = rows.combine_chunks()
    return Day(day, rows.drop_columns([FILE, ROW]), rows[FILE].to_numpy(), rows[ROW].to_numpy())


def without_rows(day: int, schema: pa.Schema) -> Day:
    none = np.empty(0, np.int64)
    return Day(day, schema.empty_table(), none, none)


def without_places(schema: pa.Schema) -> pa.Schema:
    return pa.schema([field for field in schema if field.name not in (FILE, ROW)])


def _digest(schema: pa.Schema, pieces: Iterator[pa.Table] | Sequence[pa.Table]) -> str:
    found = hashlib.sha256(repr(schema.names).encode())
    for piece in pieces:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, schema) as writer:
            writer.write_table(piece.combine_chunks())
        found.update(sink.getvalue())
    return found.hexdigest()


def as_frame(rows: pa.Table) -> pd.DataFrame:
    """The rows for pandas: bytes become their digits, as results are kept as JSON. Whole numbers beside nulls stay what
    they are where floats are not as exact."""
    for place, field in enumerate(rows.schema):
        if pa.types.is_binary(field.type):
            digits = [None if value is None else value.hex() for value in rows[field.name].to_pylist()]
            rows = rows.set_column(place, field.name, pa.array(digits, pa.string()))
    exact = any(column.null_count and _is_large(column) for column in rows.columns)
    return rows.to_pandas(types_mapper={pa.int64(): pd.Int64Dtype()}.get if exact else None)


def _is_large(column: pa.ChunkedArray) -> bool:
    """Whether there are whole numbers that a float may not hold."""
    if column.type != pa.int64():
        return False
    ends = pc.min_max(column).as_py()
    return ends["min"] is not None and max(-ends["min"], ends["max"]) > 1 << 53


def quoted(name: str) -> str:
    """A name in SQL."""
    return '"' + name.replace('"', '""') + '"'
