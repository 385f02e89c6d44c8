"""Raw purchases: what a transaction file holds, and the one place where it is read, typed and refused.

A value is refused rather than repaired: whatever leaves this module has no nulls, no NaN, one type per column, and
timestamps in UTC at the resolution of the store, one microsecond.
"""

import codecs
import csv
import itertools
import math
import os
import resource
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import NoReturn

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from tqdm.utils import CallbackIOWrapper

from parity.definition.instants import EPOCH, FIRST_INSTANT, LAST_INSTANT, MICROSECOND, UTC_MICROSECONDS
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.edge.files import is_parquet, progress
from parity.transactions.refusals import (
    ROWS_LOOKED_AT,
    ROWS_SHOWN,
    Failures,
    advice,
    brief,
    broken_quote,
    convert_from,
    first_lines,
    header_advice,
    names_shown,
    other_format,
    quoted,
    refusal,
    single_byte_encoding,
    type_advice,
)

BLOCK = 1 << 24
ROWS_PER_BATCH = 1 << 20
TIMES_AS_LARGE = 4
"""So much more memory than the transactions takes what is computed of them: 106 MiB, measured, for a million rows."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")
csv.field_size_limit(2 * BLOCK)  # a column that nobody asks for may hold anything, up to what Arrow reads as a value
TIMESTAMP = "timestamp"
SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("product_id", pa.int64(), nullable=False),
        pa.field(TIMESTAMP, UTC_MICROSECONDS, nullable=False),
        pa.field("purchase_amount", pa.float64(), nullable=False),
    ]
)
"""One row per purchase: who, what, when, and for how much."""


def read_transactions(path: Path, definition: Definition) -> pa.Table:
    """Read what ``definition`` is computed of from a transaction file, CSV or Parquet by suffix.

    The result has the schema `Definition.transactions`, without nulls.
    CSV timestamps are ISO 8601, with any offset or with none (UTC), mixed or not. Other columns are ignored.

    Raises `UserError`, with the file, the row and the value, for what can't be read exactly as it stands.
    """
    table = read_part(path, definition)
    if table.num_rows == 0:
        raise UserError(f"{path}: it has a header but no rows, so there is nothing to compute.")
    return table


def read_part(path: Path, definition: Definition) -> pa.Table:
    """Read one of several files of transactions as `read_transactions` does; it may have no rows."""
    schema = definition.transactions
    if path.is_dir():
        raise UserError(f"{path}: this is a directory; name a CSV or Parquet file.")
    if not path.is_file():
        hint = " Make one with: python generate_synthetic_data.py" if path.suffix.lower() == ".csv" else ""
        raise UserError(f"{path}: there is no such file.{hint}")
    return _read_parquet(path, schema) if is_parquet(path) else _read_csv(path, schema)


def _read_csv(path: Path, schema: pa.Schema) -> pa.Table:
    quotes = _require_utf8(path)
    header = _csv_header(path)
    if any(end in name for name in header for end in "\r\n"):
        _require_whole_quotes(path)  # so that a quote is named, and not the columns that it swallowed
    _require_columns(path, header, schema, lambda: first_lines(path))
    if quotes:
        _require_whole_quotes(path)
    for timestamp in (UTC_MICROSECONDS, pa.timestamp("us")):
        try:
            table = _parse_csv(path, {field.name: _parsed_as(field.type, timestamp) for field in schema}, quotes)
            columns = [_whole_numbers(c) if pa.types.is_string(c.type) else c for c in table.columns]
        except pa.ArrowInvalid:
            continue  # another way of writing timestamps, or a bad value: the next reading tells
        if all(_is_clean(column) for column in columns):
            return pa.table(columns, table.column_names).cast(schema)
    return _read_csv_as_text(path, schema, quotes)


def _parsed_as(to: pa.DataType, timestamp: pa.DataType) -> pa.DataType:
    """What Arrow shall make of a column of a CSV file. An id is not lost in a number: see `_whole_numbers`."""
    if pa.types.is_timestamp(to):
        return timestamp
    return pa.string() if pa.types.is_integer(to) else to


def _read_csv_as_text(path: Path, schema: pa.Schema, quotes: bool) -> pa.Table:
    """Read every value as text first: slower, but mixed offsets are understood and a bad value can be shown."""
    types, ragged = {name: pa.string() for name in schema.names}, _Ragged()
    try:
        text = _parse_csv(path, types, quotes, use_threads=False, invalid=ragged.note, null_values=[])
    except pa.ArrowInvalid as error:
        if "Empty CSV" not in str(error):  # what Arrow says of a header without an end of the line
            raise UserError(f"{path}: {brief(error)}") from None
        return schema.empty_table()
    if ragged.first:
        raise UserError(f"{path}: {ragged}")
    return _convert(path, text, schema, _cast_text)


class _Ragged:
    """The rows of a CSV file that have more or fewer values than the header: the first one, and how many there are."""

    first: pacsv.InvalidRow | None = None
    count = 0

    def note(self, row: pacsv.InvalidRow) -> str:
        self.first, self.count = self.first or row, self.count + 1
        return "skip"

    def __str__(self) -> str:
        row = self.first
        told = f"row #{row.number} has {row.actual_columns} values, and the header {row.expected_columns}"
        if self.count == 1:
            return f"{told}: {quoted(row.text)}. Correct or remove that row."
        return (
            f"{told}: {quoted(row.text)}. {self.count:,} rows have another number of values than the header. Put a "
            "value that holds a comma in quotes, write amounts with a decimal point, and remove what is no purchase, "
            "such as a total."
        )


def _parse_csv(
    path: Path, types: dict[str, pa.DataType], quotes: bool, use_threads: bool = True, invalid=None, **convert
) -> pa.Table:
    with progress(f"read {path.name}", path.stat().st_size, "B") as bar, open(path, "rb") as file:
        # The bar looks on only where it is shown: reading through Python costs a little.
        return pacsv.read_csv(
            str(path) if bar.disable else CallbackIOWrapper(bar.update, file, "read"),
            read_options=pacsv.ReadOptions(use_threads=use_threads, block_size=BLOCK),
            parse_options=pacsv.ParseOptions(newlines_in_values=quotes, invalid_row_handler=invalid),
            convert_options=pacsv.ConvertOptions(column_types=types, include_columns=list(types), **convert),
        )


def _require_utf8(path: Path) -> bool:
    """Refuse what is not UTF-8, and tell whether there is a quote, as then a value may hold the end of a line."""
    has_quotes = has_others = False
    decoder = codecs.getincrementaldecoder("utf-8")()
    read = 0
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            if read == 0 and (told := other_format(block)):
                raise UserError(f"{path}: {told}")
            has_quotes = has_quotes or b'"' in block
            if block.isascii() and not decoder.getstate()[0]:
                read += len(block)
                continue
            try:
                decoder.decode(block)
            except UnicodeDecodeError as error:
                # The error counts from the bytes that the decoder held back of the block before.
                held_back = len(error.object) - len(block)
                has_others = has_others or not error.object[: error.start].isascii()
                _refuse_byte(path, read - held_back + error.start, block, has_others)
            has_others = True
            read += len(block)
    return has_quotes


def _refuse_byte(path: Path, position: int, block: bytes, has_others: bool) -> NoReturn:
    with open(path, "rb") as file:
        line, byte = file.read(position).count(b"\n") + 1, file.read(1)[0]
    if has_others:
        help = "What comes before is UTF-8, so that place may be damaged: correct it, or save the whole file as UTF-8."
    else:
        encoding = single_byte_encoding(block)
        help = f"The file seems to be in {encoding}. {convert_from(encoding)}"
    raise UserError(f"{path}, line {line}: the byte 0x{byte:02x} is not UTF-8. {help}")


def _require_whole_quotes(path: Path) -> None:
    """Refuse a value whose quote is not closed, or is closed before its end: Arrow makes one value of all in between.

    Such a value may hold whole rows, which then are no purchases.
    """
    end = 0  # of the last row that is sound
    with open(path, encoding="utf-8-sig", newline="") as file:
        rows = csv.reader(file, strict=True)
        try:
            for _ in rows:
                end = rows.line_num
            return
        except csv.Error:
            last = rows.line_num
    with open(path, encoding="utf-8-sig", newline="") as file:
        found = broken_quote("".join(itertools.islice(file, end, last)), end + 1)
    if found:  # or else a value is too long, as Arrow says
        raise UserError(f"{path}, line {found[0]}: {found[1]}")


def _csv_header(path: Path) -> list[str]:
    with open(path, encoding="utf-8-sig", newline="") as file:
        try:
            for names in csv.reader(file):
                if names:
                    return names
        except csv.Error as error:
            raise UserError(f"{path}: the header can't be read: {error}. Is this a CSV file?") from None
    raise UserError(f"{path}: the file is empty.")


def _require_columns(
    path: Path, names: list[str], schema: pa.Schema, lines: Callable[[], list[str]] = lambda: []
) -> None:
    for name in schema.names:
        if name not in names:
            advice = header_advice(names, schema.names, lines)
            raise UserError(f"{path}: the column {name} is missing; the columns are {names_shown(names)}. {advice}")
        if names.count(name) > 1:
            times = f"is there {names.count(name)} times"
            raise UserError(f"{path}: the column {name} {times}; the columns are {names_shown(names)}.")


def _read_parquet(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        with pq.ParquetFile(path) as file:
            _require_types(path, file.schema_arrow, schema)
            _require_memory(path, file.metadata.num_rows, schema)
            try:
                batches = file.iter_batches(ROWS_PER_BATCH, columns=schema.names)
                typed = (_typed(pa.Table.from_batches([batch]), schema, _cast) for batch in batches)
                return pa.concat_tables([schema.empty_table(), *typed])
            except pa.ArrowInvalid:  # all of it is read again, to find every row that is refused
                return _convert(path, file.read(columns=schema.names), schema, _cast)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: {_parquet_trouble(error)}") from None


def _parquet_trouble(error: Exception) -> str:
    """Tell a file that can't be opened or read from one that is no Parquet file."""
    if isinstance(error, OSError) and error.errno:
        return f"it can't be read: {os.strerror(error.errno)}."
    return f"this is not a Parquet file that can be read: {brief(error)}"


def _require_types(path: Path, found: pa.Schema, schema: pa.Schema) -> None:
    _require_columns(path, found.names, schema)
    for field in schema:
        type = found.field(field.name).type
        if not _ACCEPTED[field.type](type):
            raise UserError(
                f"{path}: the column {field.name} has type {brief(type)}; it must hold {_EXPECTED[field.type]}. "
                f"{type_advice(field.type, type)}"
            )


def _require_memory(path: Path, rows: int, schema: pa.Schema) -> None:
    """Refuse a file of so many ``rows`` that they can't be held: a small Parquet file can have any number of them."""
    needed = rows * sum(field.type.byte_width for field in schema) * TIMES_AS_LARGE
    available = _available_memory()
    if needed > available:
        raise UserError(
            f"{path}: it has {rows:,} rows, which take {_gigabytes(needed)} of memory to compute, and only "
            f"{_gigabytes(available)} are available. Split it into files that fit, and use --incremental or --engine "
            "spark."
        )


def _available_memory() -> int:
    """How many bytes this process may still take: of the machine, of its address space, and of its container."""
    rooms = [psutil.virtual_memory().available, *map(_room_in_group, _memory_groups())]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        rooms.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(rooms))


def _memory_groups() -> list[Path]:
    """The folders of the control groups that this process is in: a container sees its own one as the outermost."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    innermost = CONTROL_GROUPS / name
    return [innermost, *innermost.parents, CONTROL_GROUPS]  # what is above has no limits to read


def _room_in_group(group: Path) -> float:
    """What the limit of a control group leaves, counting as free the cache of files that the kernel gives up first."""
    try:
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or "max", which is no limit
        return math.inf
    try:
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        counts = {}
    return limit - used + int(counts.get("inactive_file", 0))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"


def _convert(path: Path, table: pa.Table, schema: pa.Schema, convert: Callable) -> pa.Table:
    """Convert each column to its type in ``schema``, or say which of its rows can't be."""
    columns = []
    for field in schema:
        values = table[field.name]
        try:
            columns.append(_strictly(convert, values, field.type))
        except pa.ArrowInvalid:
            _refuse_rows(path, field, values, _refused_rows(values, field.type, convert))
    return pa.table(columns, schema=schema)


def _typed(table: pa.Table, schema: pa.Schema, convert: Callable) -> pa.Table:
    return pa.table([_strictly(convert, table[field.name], field.type) for field in schema], schema=schema)


def _strictly(convert: Callable, values: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray:
    converted = convert(values, to)
    if not _is_clean(converted):
        raise pa.ArrowInvalid
    return converted


def _refuse_rows(path: Path, field: pa.Field, values: pa.ChunkedArray, rows: np.ndarray) -> NoReturn:
    looked_at = values.take(pa.array(rows[:ROWS_LOOKED_AT]))
    failures = Failures(len(rows), len(values), list(looked_at[:ROWS_SHOWN]))
    expected = _EXPECTED[field.type] + (_PLAINLY if pa.types.is_integer(field.type) and not is_parquet(path) else "")
    places = _places(path, rows[:ROWS_SHOWN].tolist())
    raise UserError(
        f"{path}, {refusal(field.name, failures, places, expected, advice(field.type, looked_at))}"
    ) from None


def _refused_rows(values: pa.ChunkedArray, to: pa.DataType, convert: Callable) -> np.ndarray:
    """Find the positions of all values that ``convert`` does not make values of the type ``to`` of, ascending."""
    impossible = (_impossible_text if pa.types.is_string(values.type) else _impossible)(values, to)
    bad, rest = np.flatnonzero(impossible), np.flatnonzero(~impossible)
    candidates = values.filter(pa.array(~impossible))
    return np.sort(np.append(bad, rest[_found_by_halves(candidates, lambda part: _strictly(convert, part, to))]))


def _found_by_halves(values: pa.ChunkedArray, convert: Callable) -> list[int]:
    """Find the positions of the values that ``convert`` refuses: fast if there are few."""
    found, parts = [], [(0, len(values))]
    while parts:
        start, length = parts.pop()
        try:
            convert(values.slice(start, length))
        except pa.ArrowInvalid:
            if length == 1:
                found.append(start)
            else:
                parts += [(start, length // 2), (start + length // 2, length - length // 2)]
    return found


def _impossible_text(values: pa.ChunkedArray, to: pa.DataType) -> np.ndarray:
    """Tell which texts can't be read as ``to``, all at once: nearly all of those that can't."""
    if pa.types.is_timestamp(to):
        shaped = pc.match_substring_regex(values, _TIMESTAMP_SHAPE)
        dates = pc.utf8_slice_codeunits(values, 0, 10)
        known = [day for day in pc.unique(dates.filter(shaped)).to_pylist() if _is_date(day)]
        possible = pc.and_(shaped, pc.is_in(dates, pa.array(known, pa.string())))
    else:
        if not pa.types.is_integer(to):
            values = pc.utf8_trim_whitespace(values)
        possible = pc.match_substring_regex(values, _SHAPES[to])
        if pa.types.is_integer(to):
            possible = pc.and_(possible, pc.invert(_beyond_64_bits(values)))
        else:
            numbers = pc.if_else(possible, values, pa.scalar(None, pa.string())).cast(to)
            possible = pc.fill_null(pc.is_finite(numbers), False)
    return ~possible.to_numpy().astype(bool)


def _beyond_64_bits(digits: pa.ChunkedArray) -> pa.ChunkedArray:
    """Tell which whole numbers of at most 19 digits do not fit: of the same length, they are in the order of texts."""
    length = pc.utf8_length(digits)
    above = pc.and_(pc.equal(length, 19), pc.greater(digits, str(2**63 - 1)))
    below = pc.and_(pc.equal(length, 20), pc.greater(digits, str(-(2**63))))
    return pc.or_(pc.and_(above, pc.invert(pc.starts_with(digits, "-"))), below)


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def _impossible(values: pa.ChunkedArray, to: pa.DataType) -> np.ndarray:
    """Tell which values of a Parquet column can't be read as ``to``: nulls, and what is beyond the type."""
    type, bad = values.type, pc.is_null(values)
    if pa.types.is_floating(type):
        bad = pc.or_kleene(bad, pc.invert(pc.is_finite(values)))
    elif pa.types.is_integer(type):
        most = 2**63 - 1 if pa.types.is_integer(to) else 2**53  # Arrow's bound for a float
        least = -most - pa.types.is_integer(to)
        bad = pc.or_kleene(bad, pc.or_(_beyond(values, most, pc.greater), _beyond(values, least, pc.less)))
    elif pa.types.is_timestamp(type):
        count, per_second = values.cast(pa.int64()), _PER_SECOND[type.unit]
        least, most = _FIRST * per_second // 1_000_000, _LAST * per_second // 1_000_000
        bad = pc.or_kleene(bad, pc.or_(_beyond(count, most, pc.greater), _beyond(count, least, pc.less)))
        if type.unit == "ns":
            whole = pc.multiply(pc.divide(count, 1000), 1000)
            bad = pc.or_kleene(bad, pc.not_equal(whole, count))
    return pc.fill_null(bad, True).to_numpy().astype(bool)


def _beyond(values: pa.ChunkedArray, bound: int, compare: Callable) -> pa.ChunkedArray | pa.Scalar:
    """Compare with a ``bound`` that may be beyond the type of the values, which then are not."""
    try:
        return compare(values, pa.scalar(bound, values.type))
    except (pa.ArrowInvalid, OverflowError):
        return pc.and_(pc.is_null(values), False)


def _cast(values: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.string())  # Arrow's own cast from decimal to float is not correctly rounded
    return values.cast(to)


def _cast_text(values: pa.ChunkedArray, to: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_integer(to):
        return _whole_numbers(values)
    if not pa.types.is_timestamp(to):
        return pc.utf8_trim_whitespace(values).cast(to)
    values = pc.replace_substring_regex(values, r"(\.\d{6})0+", r"\1")
    has_offset = pc.match_substring_regex(values, r"[T ]\d\d.*(Z|[+-]\d\d(:?\d\d)?)$")
    nothing = pa.scalar(None, pa.string())
    aware = pc.if_else(has_offset, values, nothing).cast(to)
    naive = pc.if_else(has_offset, nothing, values).cast(pa.timestamp(to.unit)).cast(to)
    return pc.coalesce(aware, naive)


def _whole_numbers(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Read texts as int64, each of which has to read back as it was written.

    So 007 and a 7 after a blank are refused, which Arrow takes for 7, and somebody else for another user.
    """
    return pa.chunked_array([_whole_numbers_of(chunk) for chunk in texts.chunks], pa.int64())


def _whole_numbers_of(texts: pa.Array) -> pa.Array:
    numbers = texts.cast(pa.int64())
    if not numbers.cast(pa.string()).equals(texts):
        raise pa.ArrowInvalid
    return numbers


def _is_clean(values: pa.ChunkedArray) -> bool:
    if values.null_count:
        return False
    if pa.types.is_floating(values.type):
        return pc.all(pc.is_finite(values)).as_py() is not False
    if pa.types.is_timestamp(values.type) and len(values):
        microseconds = pc.min_max(values.cast(UTC_MICROSECONDS).cast(pa.int64())).as_py()
        return _FIRST <= microseconds["min"] and microseconds["max"] <= _LAST
    return True


def _places(path: Path, rows: list[int]) -> list[str]:
    """Say where ``rows``, ascending from 0, without the header, are to be found, for a person: both count from 1."""
    if is_parquet(path):
        return [f"row {row + 1}" for row in rows]
    with open(path, encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file)
        lines = enumerate(reader.line_num for values in reader if values)  # a value may hold the end of a line
        found = dict(itertools.islice(((row - 1, line) for row, line in lines if row - 1 in rows), len(rows)))
    return [f"row {row + 1} (line {found.get(row, row + 2)})" for row in rows]


_FIRST, _LAST = ((instant - EPOCH) // MICROSECOND for instant in (FIRST_INSTANT, LAST_INSTANT))
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_SHAPES = {
    pa.int64(): r"^(0|-?[1-9]\d{0,18})$",
    pa.float64(): r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$",
}
_TIMESTAMP_SHAPE = (
    r"^\d{4}-\d\d-\d\d([T ]([01]\d|2[0-3])(:[0-5]\d(:[0-5]\d(\.\d{1,6}0*)?)?)?(Z|[+-]([01]\d|2[0-3])(:?[0-5]\d)?)?)?$"
)
"""Texts of other shapes are not read; of these shapes most are."""
_EXPECTED = {
    pa.int64(): "a whole number that fits in 64 bits",
    pa.float64(): "a finite number that a float64 can hold",
    UTC_MICROSECONDS: "an ISO 8601 date and time, years 1 to 9999, no finer than a microsecond",
}
_PLAINLY = ", written plainly: 7, not 007, +7, 7.0 or 7 with blanks"
_ACCEPTED = {
    pa.int64(): pa.types.is_integer,
    pa.float64(): lambda t: pa.types.is_integer(t) or pa.types.is_floating(t) or pa.types.is_decimal(t),
    UTC_MICROSECONDS: lambda t: pa.types.is_timestamp(t) or pa.types.is_date(t),
}
