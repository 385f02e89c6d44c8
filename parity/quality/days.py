"""The rows of transactions and of feature tables a day (UTC) at a time, with the place of each in its file.

DuckDB sorts them by their instants, on disk where they don't fit; a day of many rows stays there. Transactions are read
as they are for everything else, `parity.transactions.read`, a file at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parity.compute.days import split_by_day
from parity.definition.checks import FeatureTable
from parity.definition.declare import column_type
from parity.definition.expectations import Expectation
from parity.definition.instants import MICROSECONDS_PER_DAY, UTC_MICROSECONDS, day_of
from parity.definition.table import Definition
from parity.edge.command import shown
from parity.edge.errors import UserError
from parity.edge.files import Location, kind_of, location, on_disk, parquet_files
from parity.quality.by_definition import ByDefinition
from parity.quality.day import FILE, ROW, Day, Gathering, LargeDay, quoted
from parity.quality.pieces import pieces
from parity.stream.identity import with_columns
from parity.transactions import text
from parity.transactions.listing import partition_columns, transaction_files
from parity.transactions.read import read_part

MEMORY = "512MB"
"""What DuckDB may take before it goes to the disk."""
ROWS_AT_ONCE = 1 << 16
ROWS_PER_PART = 1 << 20
"""Of features, whose windows are looked into at once: the keys are parted so."""
Windows = Mapping[tuple[str, int | None], tuple[str, str]]
"""As `ByDefinition.windows`."""


Spooled = tuple[duckdb.DuckDBPyConnection, Path]
"""A DuckDB of its own, and the folder that is its."""


@dataclass
class Spool:
    """Rows that wait on disk to be asked for."""

    spooled: Spooled
    files: list[Location]
    """Where they come from, in the order of their numbers."""
    instant: str
    """The column that has the instant of a row."""
    keys: tuple[str, ...] = ()
    """The columns that say whose a row is, to name it by."""
    query: str = ""
    missing: tuple[str, ...] = ()
    """What is wrong with the files themselves, in words for people."""
    absent: frozenset[str] = frozenset()
    """The columns that some file does not have."""

    derived: str = ""
    """What decides, beside the expectations, what is held to them."""

    def newest(self) -> int | None:
        """The newest day that has rows."""
        with self.spooled[0].cursor() as cursor:
            [newest] = cursor.execute(f"SELECT epoch_us(max({quoted(self.instant)})) FROM ({self.query})").fetchone()
        return None if newest is None else newest // MICROSECONDS_PER_DAY

    def days(self) -> Iterator[Day | LargeDay]:
        """The days that have rows, in order."""
        sql = f"SELECT * FROM ({self.query}) ORDER BY {quoted(self.instant)}, {quoted(FILE)}, {quoted(ROW)}"
        with self.spooled[0].cursor() as cursor:
            cursor.execute("SET TimeZone = 'UTC'")
            current: Gathering | None = None
            for batch in cursor.execute(sql).fetch_record_batch(ROWS_AT_ONCE):
                rows = pa.Table.from_batches([batch])
                for day, some in split_by_day(rows, _days(rows, self.instant)):
                    if current is None or day != current.day:
                        if current is not None:
                            yield current.gathered()
                        current = Gathering(day, self.spooled[1] / "day.parquet", self.spooled[0])
                    current.add(some)
            if current is not None:
                yield current.gathered()


def _days(rows: pa.Table, instant: str) -> np.ndarray:
    return day_of(rows[instant].cast(UTC_MICROSECONDS).cast(pa.int64()).to_numpy())


@contextmanager
def spooling() -> Iterator[Spooled]:
    """A DuckDB of its own, in a folder that goes with it."""
    with TemporaryDirectory() as folder, duckdb.connect(str(Path(folder) / "rows.duckdb")) as connection:
        connection.execute(f"SET memory_limit = '{MEMORY}'; SET TimeZone = 'UTC'; SET enable_progress_bar = false")
        connection.execute("SET preserve_insertion_order = false")
        yield connection, Path(folder)


# Transactions


def columns_of(tables: Sequence[FeatureTable], expectations: Sequence[Expectation]) -> dict[str, pa.DataType]:
    """The columns of the transactions of ``tables``, which share a source, and those that ``expectations`` look at."""
    first = tables[0]
    declared = {field.name: column_type(field.dtype) for field in getattr(first.view.transactions, "schema", ())}
    instant = first.definition.reading.timestamp
    types = {field.name: field.type for table in tables for field in table.definition.raw if field.name != instant}
    named = {column: pa.float64() for one in expectations for column in one.columns if column != instant}
    return {name: types.get(name) or declared.get(name) or type for name, type in (named | types).items()}


def spool_transactions(
    spooled: Spooled,
    place: Location,
    tables: Sequence[FeatureTable],
    expectations: Sequence[Expectation],
) -> Spool:
    """Read the transactions of ``tables``, which share a source, all rows of them.

    Raises `UserError` for what can't be read as it is declared.
    """
    _, folder = spooled
    columns = columns_of(tables, expectations)
    first = tables[0].definition
    bare = replace(first, keys=pa.schema([]), rules=(), condition=None, continuous=False)
    definition = with_columns(bare, [(name, pa.field(name, type)) for name, type in columns.items()])
    files, missing, absent, total = [], [], set(), 0
    (folder / "transactions").mkdir()
    for file in transaction_files(place):
        with on_disk(location(file)) as path:
            start = 0
            for rows in _read(path, definition, folder / "pieces"):
                if rows.num_rows or not total:
                    part = folder / "transactions" / f"{len(files):06}-{start:012}.parquet"
                    pq.write_table(_placed(rows, tables, len(files), start), part)
                start += rows.num_rows
                total += rows.num_rows
            gone = [name for name in columns if start and not _has(path, name, definition)]
            told = shown(location(file))
            there = f"; the columns are {', '.join(map(repr, _names(path, definition)))}." if gone else ""
            missing += [f"{told}: it has no column {definition.reading.in_file(name)}{there}" for name in gone]
            absent.update(gone)
        files.append(location(file))
    if not total:
        raise UserError(f"{place}: it has no rows, so there is nothing to check.")
    query = f"SELECT * FROM {_parquet([folder / 'transactions' / '*.parquet'])}"
    return Spool(spooled, files, first.reading.timestamp, (), query, tuple(missing), frozenset(absent))


def _read(path: Path, definition: Definition, folder: Path) -> Iterator[pa.Table]:
    """The rows of a file, some at a time. `UserError` as of `read_part`, of the file itself."""
    for piece in pieces(path, definition.reading, folder):
        try:
            yield read_part(piece, definition)
        except UserError:
            if piece != path:
                read_part(path, definition)  # which says where in the file, and not in the piece
            raise


def _placed(rows: pa.Table, tables: Sequence[FeatureTable], file: int, start: int) -> pa.Table:
    """Rows with their places, and with what the condition of each table says of them."""
    for table in tables:
        if table.definition.condition is not None:
            rows = rows.append_column(f":{table.name}", table.definition.condition.mask(rows))
    rows = rows.append_column(FILE, pa.array(np.full(rows.num_rows, file, np.int32)))
    return rows.append_column(ROW, pa.array(np.arange(start, start + rows.num_rows, dtype=np.int64)))


def _has(path: Path, name: str, definition: Definition) -> bool:
    """Whether a file has the column that is read as ``name``, which an object of JSON may leave out."""
    return kind_of(path) == "json" or definition.reading.in_file(name) in _names(path, definition)


def _names(path: Path, definition: Definition) -> list[str]:
    """The columns of a file of text or Parquet."""
    if kind_of(path) == "parquet":
        return [*pq.read_schema(path).names, *partition_columns(path)]
    with text.readable(path, definition.reading) as file:
        return [*file.names, *partition_columns(path)]


def _parquet(files: Sequence[Path | str], options: str = "") -> str:
    return f"read_parquet([{', '.join(map(_text, files))}], hive_partitioning = false{options})"


def _text(value: Path | str) -> str:
    return "'" + str(value).replace("'", "''") + "'"


# Features


def spool_features(
    spooled: Spooled,
    files: Sequence[Path],
    definition: Definition,
    derived: ByDefinition,
    transactions: Spool | None,
) -> Spool:
    """Take up the features of ``definition`` in Parquet ``files``, with the columns of what is ``derived``.

    ``transactions`` are those that they were computed of, to know the smallest and largest value of windows by.
    Raises `UserError` for a file that does not have those features.
    """
    for file in files:
        _require_features(file, definition)
    connection, folder = spooled
    numbered = _parquet(files, ", filename = true, file_row_number = true")
    listed = ", ".join(map(_text, files))
    names = ", ".join(map(quoted, definition.schema.names))
    places = f"(list_position([{listed}], filename) - 1)::INTEGER AS {quoted(FILE)}, file_row_number AS {quoted(ROW)}"
    query = f"SELECT {names}, {places} FROM {numbered}"
    event = quoted(definition.event)
    rows, dated = connection.execute(f"SELECT count(*), count({event}) FROM ({query})").fetchone()
    if dated < rows:
        raise UserError(f"{files[0]}: the column {definition.event} has nulls. Run: python compute_features.py")
    windows = derived.windows if transactions is not None else {}
    if derived.columns or windows:
        parts = folder / "features" / definition.name.encode().hex()
        parts.mkdir(parents=True)
        both = (
            _beside(query, definition, windows, transactions)
            if windows
            else f"SELECT *, true AS {_IS_FEATURE} FROM ({query})"
        )
        count = 1 + rows // ROWS_PER_PART
        keys = ", ".join(map(quoted, definition.keys.names))
        for part in range(count):
            of_part = f"SELECT * FROM ({both}) WHERE hash({keys}) % {count} = {part}"
            selected = _with_columns(of_part, definition, derived.columns, windows)
            connection.execute(f"COPY ({selected}) TO {_text(parts / f'{part:06}.parquet')} (FORMAT parquet)")
        query = f"SELECT * FROM {_parquet([parts / '*.parquet'])}"
    keys_of_rows = tuple(definition.keys.names)
    told = repr((derived.columns, sorted(windows.items(), key=repr)))
    return Spool(spooled, list(files), definition.event, keys_of_rows, query, derived=told)


_IS_FEATURE = '":is a feature"'


def _beside(query: str, definition: Definition, windows: Windows, transactions: Spool) -> str:
    """SQL for the rows of features and, beside them, those of the transactions, with the columns of ``windows``."""
    columns = dict.fromkeys(column for column, _ in windows)
    values = [f"{quoted(column)} AS {quoted(f':value of {column}')}" for column in columns]
    keys = [quoted(name) for name in definition.keys.names]
    instant = f"{quoted(transactions.instant)} AS {quoted(definition.event)}"
    where = f"WHERE {quoted(f':{definition.name}')}" if definition.condition is not None else ""
    return (
        f"SELECT *, true AS {_IS_FEATURE} FROM ({query}) UNION ALL BY NAME "
        f"SELECT {', '.join([*keys, instant, *values])}, false AS {_IS_FEATURE} FROM ({transactions.query}) {where}"
    )


def _with_columns(query: str, definition: Definition, columns: Mapping[str, str], windows: Windows) -> str:
    """SQL for the rows of features with the ``columns``, and the smallest and largest transaction of ``windows``."""
    keys, event = ", ".join(map(quoted, definition.keys.names)), quoted(definition.event)
    names = [*definition.schema.names, FILE, ROW]
    made = [f"{sql} AS {quoted(name)}" for name, sql in columns.items()]
    named = [f"by_key AS (PARTITION BY {keys} ORDER BY {event}, {quoted(ROW)})"]
    for number, ((column, span), (smallest, largest)) in enumerate(windows.items()):
        before = "UNBOUNDED" if span is None else f"INTERVAL '{span} microseconds'"
        between = f"RANGE BETWEEN {before} PRECEDING AND CURRENT ROW"
        named.append(f"w{number} AS (PARTITION BY {keys} ORDER BY {event} {between})")
        value = quoted(f":value of {column}")
        made.append(f"min({value}) OVER w{number} AS {quoted(smallest)}")
        made.append(f"max({value}) OVER w{number} AS {quoted(largest)}")
    inner = f"SELECT {', '.join([*map(quoted, names), _IS_FEATURE, *made])} FROM ({query}) WINDOW {', '.join(named)}"
    return f"SELECT * EXCLUDE ({_IS_FEATURE}) FROM ({inner}) WHERE {_IS_FEATURE}"


def feature_files(place: Location, stack: ExitStack) -> list[Path]:
    """The Parquet files of a feature table, on this machine for as long as the ``stack`` lasts."""
    path = stack.enter_context(on_disk(place))
    return [Path(info.path) for info in parquet_files(path)[1]]


def _require_features(file: Path, definition: Definition) -> None:
    try:
        found = pq.read_schema(file)
    except (pa.ArrowInvalid, OSError):
        raise UserError(
            f"{file}: this is not a Parquet file that can be read. Run: python compute_features.py"
        ) from None
    for field in definition.schema:
        if field.name not in found.names or found.field(field.name).type != field.type:
            raise UserError(
                f"{file}: it has no column {field.name} of type {field.type}. Run: python compute_features.py"
            )
