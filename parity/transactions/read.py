"""Transactions, as `parity.definition.reading` says that a file has them: read, typed, and refused.

A value is refused rather than repaired: whatever leaves this module has no nulls, no NaN, one type per column, and
timestamps in UTC at the resolution of the store, one microsecond.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.reading import Reading
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.edge.files import kind_of
from parity.transactions import json_objects, text
from parity.transactions.listing import partition_columns, transaction_files
from parity.transactions.memory import packed, require_memory, require_room
from parity.transactions.refusals import (
    ROWS_LOOKED_AT,
    ROWS_SHOWN,
    Column,
    Failures,
    RefusedError,
    brief,
    expected,
    footer_advice,
    header_advice,
    looks_like_a_row,
    null_refusal,
    refusal,
    type_advice,
)
from parity.transactions.texts import is_text, plain_texts, without_nulls
from parity.transactions.times import localized
from parity.transactions.values import INSTANTS, is_accepted, is_plain, to_type, whole_as_written

ROWS_PER_BATCH = 1 << 20
ROWS_PER_BATCH_OF_TEXT = 1 << 16
LINES_LOOKED_AT = 20
OF_THE_SHOP = "user_transactions.csv"
"""What generate_synthetic_data.py calls its file."""
LOCAL = pa.timestamp("us")


def read_transactions(path: Path, definition: Definition) -> pa.Table:
    """Read what ``definition`` is computed of from a file of transactions, or from all files of a folder.

    The result has the schema `Definition.transactions`, without nulls, and the rows that meet the condition. Other
    columns are ignored.

    Raises `UserError`, with the file, the row and the value, for what can't be read exactly as it stands.
    """
    files = [Path(file) for file in transaction_files(path)] if path.is_dir() else [path]
    table = pa.concat_tables([read_part(file, definition) for file in files])
    if table.num_rows == 0:
        where = "" if definition.condition is None else f" that meet the condition {definition.condition.text!r}"
        raise UserError(f"{path}: it has no rows{where}, so there is nothing to compute.")
    return table


def read_part(path: Path, definition: Definition) -> pa.Table:
    """Read one of several files of transactions as `read_transactions` does; it may have no rows."""
    if path.is_dir():
        raise UserError(f"{path}: this is a directory; name a file.")
    if not path.is_file():
        hint = 'A path in features.py counts from the folder of features.py, as in "../orders.csv".'
        if path.name == OF_THE_SHOP:
            hint = "Make one with: python generate_synthetic_data.py"
        raise UserError(f"{path}: there is no such file. {hint}")
    wanted = _Wanted(path, definition)
    match kind_of(path):
        case "parquet":
            return _read_parquet(wanted)
        case "json":
            return _read_json(wanted)
    return _read_text(wanted)


class _Wanted:
    """What is to be read of a file: the columns of `Definition.raw`, each of one or more columns of the file."""

    def __init__(self, path: Path, definition: Definition):
        self.path, self.definition = path, definition
        self.reading: Reading = definition.reading
        self.partitions = partition_columns(path)
        self.columns = [self._column(field) for field in definition.raw]
        self.optional = {field.name for field in definition.transactions if field.nullable}
        """The columns that are null where a file does not have them."""

    def _column(self, field: pa.Field) -> Column:
        reading, keys = self.reading, self.definition.keys.names
        if field.name == reading.timestamp:
            parts = reading.timestamp_columns or (reading.in_file(field.name),)
            return Column(field.name, INSTANTS, parts, is_key=False)
        return Column(field.name, field.type, (reading.in_file(field.name),), is_key=field.name in keys)

    @property
    def sources(self) -> list[str]:
        """The columns of the file."""
        return list(dict.fromkeys(source for column in self.columns for source in column.sources))

    @property
    def kept_as_text(self) -> set[str]:
        """The columns of the file that stay what they are, as String or Bytes."""
        return {column.sources[0] for column in self.columns if column.to in (pa.string(), pa.binary())}

    def missing(self, names: Sequence[str]) -> list[str]:
        """The columns that the folders around the file have, as the file has not."""
        return [name for name in self.sources if name in self.partitions and name not in names]

    def with_partitions(self, table: pa.Table) -> pa.Table:
        """Add the columns that the folders have."""
        for name in self.missing(table.column_names):
            values = pa.repeat(pa.scalar(self.partitions[name], pa.string()), table.num_rows)
            table = table.append_column(name, pa.chunked_array([values]))
        return table

    def require(self, names: Sequence[str], lines: Callable[[], list[str]] = lambda: []) -> list[str]:
        """The columns to read of a file that has these ``names``. `UserError` if one is missing, or there twice."""
        there = {*names, *self.partitions}
        self.columns = [one for one in self.columns if one.name not in self.optional or there.issuperset(one.sources)]
        beside = self.missing(names)
        inside = [name for name in self.sources if name not in beside]
        missing = [name for name in inside if name not in names]
        advice = header_advice(names, inside, self.columns, self.reading, lines) if missing else ""
        condition = self.definition.condition
        if condition and (texts := [name for name in missing if f'"{name}"' in condition.text]):
            quotes = f"A text in a condition stands in single quotes, '{texts[0]}'; in double quotes it names a column."
            advice = f"{quotes} {advice}"
        text.require_columns(self.path, names, inside, advice)
        return inside


class _Values(NamedTuple):
    """A column as it is in the file, and as it is read: null where it can't be."""

    column: Column
    raw: pa.ChunkedArray
    read: pa.ChunkedArray


# From what is in a file to what is computed of


def _typed(table: pa.Table, wanted: _Wanted) -> pa.Table:
    """Read the columns of a file as their types, and keep the rows that meet the condition.

    Raises `_Refused` if a value can't be read, or is null where it may not be.
    """
    table = wanted.with_partitions(table)
    values = [_values(table, column, wanted.reading) for column in wanted.columns]
    for one in values:
        if one.read.null_count > _null_count(one.raw):
            raise _Refused(one, np.flatnonzero(_mask(pc.and_(pc.is_valid(one.raw), pc.is_null(one.read)))))
    return _kept(values, wanted.definition)


def _kept(values: Sequence[_Values], definition: Definition) -> pa.Table:
    rows = pa.table({one.column.name: one.read for one in values})
    mask = None if definition.condition is None else definition.condition.mask(rows)
    for field in definition.transactions:
        if field.nullable and field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    needed = definition.transactions.names
    required = {field.name for field in definition.transactions if not field.nullable}
    for one in values:
        if one.column.name in required and one.read.null_count:
            null = pc.is_null(one.read)
            bad = _mask(null if mask is None else pc.and_(null, mask))
            if bad.any():
                raise _Refused(one, np.flatnonzero(bad), is_null=True)
    kept = rows.select(needed)
    return (kept if mask is None else kept.filter(mask)).cast(definition.transactions)


class _Refused(Exception):
    """Values of a column that are refused."""

    def __init__(self, values: _Values, rows: np.ndarray, is_null: bool = False):
        self.values, self.rows, self.is_null = values, rows, is_null


def _null_count(values: pa.ChunkedArray) -> int:
    """How many values are null, also by what a dictionary has for them."""
    return pc.sum(pc.is_null(values)).as_py() or 0 if pa.types.is_dictionary(values.type) else values.null_count


def _mask(found: pa.ChunkedArray) -> np.ndarray:
    return found.to_numpy().astype(bool)


def _values(table: pa.Table, column: Column, reading: Reading) -> _Values:
    parts = [_in_parallel(lambda chunk: without_nulls(chunk, reading), table[source]) for source in column.sources]
    raw = parts[0] if len(parts) == 1 else _together(parts)
    return _Values(column, raw, _in_parallel(lambda chunk: to_type(chunk, column.to, reading, column.is_key), raw))


def _together(parts: Sequence[pa.ChunkedArray]) -> pa.ChunkedArray:
    """A timestamp of several columns: their texts, a blank between two."""
    return pc.binary_join_element_wise(*(_in_parallel(_text_of, part) for part in parts), " ")


def _text_of(values: pa.Array) -> pa.Array:
    if pa.types.is_dictionary(values.type):
        values = values.dictionary_decode()
    if is_text(values.type) or pa.types.is_null(values.type):
        return values.cast(pa.string())
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type):
        return plain_texts(values, Reading())
    return values.cast(pa.string())


def _in_parallel(convert: Callable, values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Convert the chunks of a column, on all cores."""
    if values.num_chunks == 0:
        converted = convert(pa.array([], values.type))
        return pa.chunked_array([], converted.type)
    if values.num_chunks == 1:
        return pa.chunked_array([convert(values.chunk(0))])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return pa.chunked_array(list(pool.map(convert, values.chunks)))


def _refuse(refused: _Refused, wanted: _Wanted, places: Callable[[list[int]], list[str]]) -> NoReturn:
    column, raw, rows = refused.values.column, refused.values.raw, refused.rows
    looked_at = raw.take(pa.array(rows[:ROWS_LOOKED_AT]))
    if pa.types.is_dictionary(raw.type):
        looked_at = looked_at.cast(raw.type.value_type)
    fine = len(raw) - len(rows) - (0 if refused.is_null else _null_count(raw))
    failures = Failures(len(rows), len(raw), fine, list(looked_at[:ROWS_SHOWN]))
    shown = places(rows[:ROWS_SHOWN].tolist())
    if refused.is_null:
        told = null_refusal(column, failures, shown, wanted.definition)
    else:
        told = refusal(column, failures, shown, expected(column, wanted.reading), list(looked_at), wanted.reading)
    texts = [value.as_py() for value in looked_at if value.is_valid and is_text(value.type)]
    if kind_of(wanted.path) == "text" and not any(looks_like_a_row(column, text) for text in texts):
        told += footer_advice(rows[: ROWS_LOOKED_AT + 1].tolist(), len(raw))
    raise RefusedError(f"{wanted.path}, {told}") from None


# Text with columns


def _read_text(wanted: _Wanted) -> pa.Table:
    path, reading = wanted.path, wanted.reading
    with text.readable(path, reading) as file:
        if file.has_quotes and any(end in name for name in file.names for end in "\r\n"):
            text.require_whole_quotes(path, reading)  # so that a quote is named, and not the columns it swallowed
        names = wanted.require(file.names, lambda: text.first_lines(path, reading, LINES_LOOKED_AT))
        if file.has_quotes:
            text.require_whole_quotes(path, reading)
        table = _parsed_at_once(file, wanted, names)
        if table is not None:
            return table
        texts = text.as_texts(file, names, reading)
        if file.delimiter != text.delimiter_of(path, reading):
            texts = pa.table({name: text.put_back(texts[name], path, reading) for name in names})
    try:
        return _typed(texts, wanted)
    except _Refused as refused:
        first = 1 if reading.column_names else 2

        def places(rows: list[int]) -> list[str]:
            lines = text.lines_of(path, reading, rows)
            return [f"row {row + 1} (line {line or row + first})" for row, line in zip(rows, lines, strict=True)]

        _refuse(refused, wanted, places)


def _parsed_at_once(file: text.Text, wanted: _Wanted, names: list[str]) -> pa.Table | None:
    """Have Arrow make the values while it reads, where it takes only what is taken; None if that is not so here.

    A whole number is read as text first, so that none is lost in it: see `whole_as_written`.
    """
    reading, sources = wanted.reading, {column.sources[0]: column for column in wanted.columns}
    is_simple = len(sources) == len(wanted.sources) == len(wanted.columns)
    if reading.timestamp_format is not None or not is_plain(reading) or not is_simple or set(names) != set(sources):
        return None
    if not file.delimiter.isprintable() and file.delimiter != text.TAB:
        return None
    for timestamp in (UTC_MICROSECONDS, LOCAL) if reading.time_zone in (None, "UTC") else (LOCAL,):
        types = {name: _parsed_as(column.to, timestamp) for name, column in sources.items()}
        if None in types.values():
            return None
        try:
            table = text.parse(file, names, types, null_values=["", *reading.null_values])
        except pa.ArrowInvalid:
            continue  # another way of writing timestamps, or a bad value: the next reading tells
        values = [_finished(table[name], sources[name], reading) for name in names]
        if all(values):
            by_name = {one.column.name: one for one in values}
            try:
                return _kept([by_name[column.name] for column in wanted.columns], wanted.definition)
            except _Refused:
                return None
    return None


def _parsed_as(to: pa.DataType | str, timestamp: pa.DataType) -> pa.DataType | None:
    """What Arrow shall make of a column; None if it takes other texts for this type."""
    if to == INSTANTS:
        return timestamp
    if pa.types.is_integer(to) or pa.types.is_string(to) or pa.types.is_binary(to):
        return pa.string()
    return to if pa.types.is_floating(to) else None


def _finished(values: pa.ChunkedArray, column: Column, reading: Reading) -> _Values | None:
    """The values that Arrow has made, as those of the column; None if one of them is not taken."""
    if column.to == INSTANTS:
        chunks = [localized(chunk.cast(LOCAL), reading.time_zone) for chunk in values.chunks]
    elif pa.types.is_integer(column.to):
        chunks = [whole_as_written(chunk, column.to) for chunk in values.chunks]
    elif pa.types.is_floating(column.to):
        read = values if pc.all(pc.is_finite(values)).as_py() is not False else None
        return read and _Values(column, values, read)
    else:
        return _Values(column, values, values.cast(column.to))
    if None in chunks:
        return None
    read = pa.chunked_array(chunks, UTC_MICROSECONDS if column.to == INSTANTS else column.to)
    return _Values(column, values, read) if read.null_count == values.null_count else None


# JSON


def _read_json(wanted: _Wanted) -> pa.Table:
    path, reading = wanted.path, wanted.reading
    names = wanted.sources
    table, found = json_objects.json_texts(path, reading, names, wanted.kept_as_text)
    needed = [one for one in wanted.columns if one.name in wanted.definition.transactions.names]
    needed = [one for one in needed if one.name not in wanted.optional]
    required = [source for column in needed for source in column.sources]
    absent = [name for name in names if name not in found and (name in required or name in wanted.partitions)]
    if table.num_rows and any(name not in wanted.partitions for name in absent):
        wanted.require(json_objects.json_names(path, reading))
    try:
        return _typed(table.drop_columns(absent), wanted) if table.num_rows else _nothing(wanted)
    except _Refused as refused:

        def places(rows: list[int]) -> list[str]:
            lines = json_objects.lines_of_objects(path, reading, rows)
            return [f"row {row + 1} (line {line})" for row, line in zip(rows, lines, strict=True)]

        _refuse(refused, wanted, places)


def _nothing(wanted: _Wanted) -> pa.Table:
    return wanted.definition.transactions.empty_table()


# Parquet


def _read_parquet(wanted: _Wanted) -> pa.Table:
    path = wanted.path
    try:
        with pq.ParquetFile(path) as file:
            names = wanted.require(file.schema_arrow.names)
            _require_types(wanted, file.schema_arrow)
            require_memory(path, file.metadata.num_rows, wanted.definition.raw)
            texts = [name for name in names if is_text(file.schema_arrow.field(name).type)]
            texts = packed(file, texts)
            with pq.ParquetFile(path, read_dictionary=texts) if texts else nullcontext(file) as readable:
                tables = (_typed(table, wanted) for table in _batches(wanted, readable, names, texts))
                try:
                    return pa.concat_tables([_nothing(wanted), *tables])
                except _Refused:  # all of it is read again, to find every row that is refused
                    rows = pa.concat_tables(_batches(wanted, readable, names, texts))
                    _typed(rows, wanted)
                    raise
    except _Refused as refused:
        _refuse(refused, wanted, lambda rows: [f"row {row + 1}" for row in rows])
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: {_parquet_trouble(error)}") from None


def _batches(wanted: _Wanted, file: pq.ParquetFile, names: list[str], texts: list[str]) -> Iterator[pa.Table]:
    rows = ROWS_PER_BATCH_OF_TEXT if texts else ROWS_PER_BATCH
    kept = [name for name in texts if name in wanted.kept_as_text]
    for batch in file.iter_batches(rows, columns=names):
        require_room(wanted.path, [batch.column(name) for name in kept])
        yield pa.Table.from_batches([batch])


def _parquet_trouble(error: Exception) -> str:
    """Tell a file that can't be opened or read from one that is no Parquet file."""
    if isinstance(error, OSError) and error.errno:
        return f"it can't be read: {os.strerror(error.errno)}."
    return f"this is not a Parquet file that can be read: {brief(error)}"


def _require_types(wanted: _Wanted, found: pa.Schema) -> None:
    for column in wanted.columns:
        for source in column.sources:
            type = found.field(source).type if source in found.names else pa.string()
            is_part = len(column.sources) > 1 and not pa.types.is_nested(type)
            if not is_part and not is_accepted(type, column.to, wanted.reading):
                raise UserError(
                    f"{wanted.path}: the column {source} has type {brief(type)}; it must hold "
                    f"{expected(column, wanted.reading, is_text=False)}. {type_advice(column, type)}"
                )
