"""Raw purchases: what a transaction file holds, and the one place where it is read, typed and refused.

A value is refused rather than repaired: whatever leaves this module has no nulls, no NaN, one type per column, and
timestamps in UTC at the resolution of the store, one microsecond.
"""

import codecs
import csv
import itertools
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from tqdm.utils import CallbackIOWrapper

from parity.command import UserError
from parity.files import is_parquet, progress

BLOCK = 1 << 24
csv.field_size_limit(2**31 - 1)  # a column that nobody asks for may hold anything
TIMESTAMP = "timestamp"
UTC_MICROSECONDS = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("product_id", pa.int64(), nullable=False),
        pa.field(TIMESTAMP, UTC_MICROSECONDS, nullable=False),
        pa.field("purchase_amount", pa.float64(), nullable=False),
    ]
)
"""One row per purchase: who, what, when, and for how much."""

EPOCH = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
MICROSECOND = timedelta(microseconds=1)
FIRST_INSTANT = datetime.fromisoformat("0001-01-01T00:00:00+00:00")
LAST_INSTANT = datetime.fromisoformat("9999-12-31T23:59:59.999999+00:00")
"""What a Python datetime and a protobuf Timestamp, and so Feast, can hold."""


def read_transactions(path: Path, key: str, amounts: Iterable[str]) -> pa.Table:
    """Read the key, the timestamp and the amounts of a transaction file, CSV or Parquet by suffix.

    The result has the columns ``key`` int64, `TIMESTAMP` in UTC, and each of ``amounts`` float64, without nulls.
    CSV timestamps are ISO 8601, with any offset or with none (UTC), mixed or not. Other columns are ignored.

    Raises `UserError`, with the file, the row and the value, for what can't be read exactly as it stands.
    """
    table = read_part(path, key, amounts)
    if table.num_rows == 0:
        raise UserError(f"{path}: it has a header but no rows, so there is nothing to compute.")
    return table


def read_part(path: Path, key: str, amounts: Iterable[str]) -> pa.Table:
    """Read one of several files of transactions as `read_transactions` does; it may have no rows."""
    schema = pa.schema(
        [
            pa.field(key, pa.int64(), nullable=False),
            SCHEMA.field(TIMESTAMP),
            *(pa.field(amount, pa.float64(), nullable=False) for amount in sorted(amounts)),
        ]
    )
    if path.is_dir():
        raise UserError(f"{path}: this is a directory; name a CSV or Parquet file.")
    if not path.is_file():
        hint = " Make one with: python generate_synthetic_data.py" if path.suffix.lower() == ".csv" else ""
        raise UserError(f"{path}: there is no such file.{hint}")
    return _read_parquet(path, schema) if is_parquet(path) else _read_csv(path, schema)


def _read_csv(path: Path, schema: pa.Schema) -> pa.Table:
    quoted, hexadecimal = _require_utf8(path)
    _require_columns(path, _csv_header(path), schema)
    for timestamp in () if hexadecimal else (UTC_MICROSECONDS, pa.timestamp("us")):
        types = {f.name: timestamp if pa.types.is_timestamp(f.type) else f.type for f in schema}
        try:
            table = _parse_csv(path, types, quoted)
        except pa.ArrowInvalid:
            continue  # another way of writing timestamps, or a bad value: the next reading tells
        if all(_is_clean(column) for column in table.columns):
            return table.cast(schema)
    return _read_csv_as_text(path, schema, quoted)


def _read_csv_as_text(path: Path, schema: pa.Schema, quoted: bool) -> pa.Table:
    """Read every value as text first: slower, but mixed offsets are understood and a bad value can be shown."""
    try:
        types = {name: pa.string() for name in schema.names}
        text = _parse_csv(path, types, quoted, null_values=[], use_threads=False)
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):  # what Arrow says of a header without an end of the line
            raise UserError(f"{path}: {error}") from None
        return schema.empty_table()
    return _convert(path, text, schema, _cast_text)


def _parse_csv(
    path: Path, types: dict[str, pa.DataType], quoted: bool, use_threads: bool = True, **convert
) -> pa.Table:
    with progress(f"read {path.name}", path.stat().st_size, "B") as bar, open(path, "rb") as file:
        # The bar looks on only where it is shown: reading through Python costs a little.
        return pacsv.read_csv(
            str(path) if bar.disable else CallbackIOWrapper(bar.update, file, "read"),
            read_options=pacsv.ReadOptions(use_threads=use_threads, block_size=BLOCK),
            parse_options=pacsv.ParseOptions(newlines_in_values=quoted),
            convert_options=pacsv.ConvertOptions(column_types=types, include_columns=list(types), **convert),
        )


def _require_utf8(path: Path) -> tuple[bool, bool]:
    """Refuse what is not UTF-8.

    Tell whether there is a quote, as then a value may hold the end of a line, and whether there may be a number in
    hexadecimal, which Arrow takes for a whole number.
    """
    quoted = hexadecimal = False
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            quoted = quoted or b'"' in block
            hexadecimal = hexadecimal or b"0x" in block or b"0X" in block
            if block.isascii() and not decoder.getstate()[0]:
                read += len(block)
                continue
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                # The error counts from the bytes that the decoder held back of the block before.
                held_back = len(error.object) - len(block)
                _refuse_byte(path, read - held_back + error.start, error.object[error.start])
            read += len(block)
    return quoted, hexadecimal


def _refuse_byte(path: Path, position: int, byte: int) -> NoReturn:
    with open(path, "rb") as file:
        line = file.read(position).count(b"\n") + 1
    raise UserError(f"{path}, line {line}: the byte 0x{byte:02x} is not UTF-8. Save the file as UTF-8.")


def _csv_header(path: Path) -> list[str]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            for names in csv.reader(file):
                if names:
                    return names
        except csv.Error as error:
            raise UserError(f"{path}: the header can't be read: {error}. Is this a CSV file?") from None
    raise UserError(f"{path}: the file is empty.")


def _require_columns(path: Path, names: list[str], schema: pa.Schema) -> None:
    for name in schema.names:
        if names.count(name) != 1:
            wrong = "is missing" if name not in names else f"is there {names.count(name)} times"
            raise UserError(f"{path}: the column {name} {wrong}; the columns are {', '.join(map(repr, names))}.")


def _read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        _require_columns(path, pq.read_schema(path).names, schema)
        table = pq.read_table(path, columns=schema.names, partitioning=None)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: this is not a Parquet file that can be read: {error}") from None
    for field in schema:
        if not _ACCEPTED[field.type](table.schema.field(field.name).type):
            raise UserError(
                f"{path}: the column {field.name} has type {table.schema.field(field.name).type}; "
                f"it must hold {_EXPECTED[field.type]}."
            )
    return _convert(path, table, schema, _cast)


def _convert(path: Path, table: pa.Table, schema: pa.Schema, convert: Callable) -> pa.Table:
    """Convert each column to its type in ``schema``, or name the first row that can't be."""

    def strict(values: pa.ChunkedArray, field: pa.Field) -> pa.ChunkedArray:
        converted = convert(values, field.type)
        if not _is_clean(converted):
            raise pa.ArrowInvalid
        return converted

    columns = []
    for field in schema:
        values = table[field.name]
        try:
            columns.append(strict(values, field))
        except pa.ArrowInvalid:
            row = _first_failure(values, lambda part, field=field: strict(part, field))
            raise UserError(
                f"{path}, {_place(path, row)}: {field.name} {_shown(values[row])} is not {_EXPECTED[field.type]}. "
                "Correct or remove that row."
            ) from None
    return pa.table(columns, schema=schema)


def _first_failure(values: pa.ChunkedArray, convert: Callable) -> int:
    """Find the position of the first value that ``convert`` refuses, given that it refuses ``values`` as a whole."""
    start, length = 0, len(values)
    while length > 1:
        half = length // 2
        try:
            convert(values.slice(start, half))
        except pa.ArrowInvalid:
            length = half
        else:
            start, length = start + half, length - half
    return start


def _cast(values: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.string())  # Arrow's own cast from decimal to float is not correctly rounded
    return values.cast(to)


def _cast_text(values: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray:
    if not pa.types.is_timestamp(to):
        decimal = pc.invert(pc.match_substring_regex(values, "0[xX]"))
        return pc.utf8_trim_whitespace(pc.if_else(decimal, values, "none")).cast(to)
    values = pc.replace_substring_regex(values, r"(\.\d{6})0+", r"\1")
    has_offset = pc.match_substring_regex(values, r"[T ]\d\d.*(Z|[+-]\d\d(:?\d\d)?)$")
    nothing = pa.scalar(None, pa.string())
    aware = pc.if_else(has_offset, values, nothing).cast(to)
    naive = pc.if_else(has_offset, nothing, values).cast(pa.timestamp(to.unit)).cast(to)
    return pc.coalesce(aware, naive)


def _is_clean(values: pa.ChunkedArray) -> bool:
    if values.null_count:
        return False
    if pa.types.is_floating(values.type):
        return pc.all(pc.is_finite(values)).as_py() is not False
    if pa.types.is_timestamp(values.type) and len(values):
        microseconds = pc.min_max(values.cast(UTC_MICROSECONDS).cast(pa.int64())).as_py()
        return _FIRST <= microseconds["min"] and microseconds["max"] <= _LAST
    return True


def _place(path: Path, row: int) -> str:
    """Say where row number ``row`` (from 0, without the header) is to be found, for a person: both count from 1."""
    if is_parquet(path):
        return f"row {row + 1}"
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        rows = (reader.line_num for values in reader if values)  # a value may hold the end of a line
        return f"row {row + 1} (line {next(itertools.islice(rows, row + 1, None), row + 2)})"


def _shown(value: pa.Scalar) -> str:
    if not value.is_valid:
        return "null"
    try:
        return repr(value.as_py()) if pa.types.is_string(value.type) else str(value)
    except Exception:  # a timestamp that Python has no date or no time zone for
        return str(value.value)


_FIRST, _LAST = ((instant - EPOCH) // MICROSECOND for instant in (FIRST_INSTANT, LAST_INSTANT))
_EXPECTED = {
    pa.int64(): "a whole number that fits in 64 bits",
    pa.float64(): "a finite number that a float64 can hold",
    UTC_MICROSECONDS: "an ISO 8601 date and time, years 1 to 9999, no finer than a microsecond",
}
_ACCEPTED = {
    pa.int64(): pa.types.is_integer,
    pa.float64(): lambda t: pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t),
    UTC_MICROSECONDS: lambda t: pa.types.is_timestamp(t) or pa.types.is_date(t),
}
