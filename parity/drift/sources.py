"""What can be compared: a table of features, the transactions, or the log of what was served, each as `Rows`."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from parity.definition.checks import FeatureTable
from parity.definition.table import Definition
from parity.drift.windows import Rows, columns_of, connected, kind_of, name, parquet
from parity.edge.errors import UserError
from parity.edge.files import Location, location, on_disk, parquet_files
from parity.quality.pieces import pieces
from parity.served.hourly import LOG_TIMESTAMP
from parity.served.log import parts
from parity.transactions.listing import transaction_files
from parity.transactions.read import read_part

FEATURES, RAW, SERVED = "features", "raw", "served"
UNIT = "unit"


class Source(NamedTuple):
    """Rows to compare, of which feature table they are, and what of it can't be compared, in words."""

    rows: Rows
    table: FeatureTable
    left: list[str]
    tags: Mapping[str, str]
    """Of the view, and of what says what matters of the columns."""


def features(table: FeatureTable) -> Source:
    """The offline table of a feature view."""
    place, definition = location(table.source.path), table.definition
    filesystem, files = parquet_files(place)
    tables, relation = {}, "stored"
    if isinstance(place, Path):
        relation = parquet([file.path for file in files])
    else:  # a bucket, which Arrow reads
        tables["stored"] = ds.dataset([file.path for file in files], filesystem=filesystem, format="parquet")
    rows = Rows(str(place), relation, tuple(definition.keys.names), name(definition.event), (), table.noun(), tables)
    wanted = [field.name for field in table.view.features]
    units = {field.name: field.tags[UNIT] for field in table.view.features if UNIT in field.tags}
    return _with_columns(table, rows, wanted, units, {}, growing(table), _types(table))


def growing(table: FeatureTable) -> set[str]:
    """The features that become others by definition: without a window they look at ever more. The first value stays,
    and the last one is only as old as the row."""
    rules = (rule for rule in table.definition.rules if rule.time_window is None)
    return {rule.name for rule in rules if rule.function not in ("first", "last") or pa.types.is_timestamp(rule.type)}


def raw(table: FeatureTable, transactions: Location, folder: Path) -> Source:
    """The columns of the transactions that features are made of. They are read in pieces and written to ``folder``,
    which has to be there for as long as the rows are."""
    definition = table.definition
    with on_disk(transactions) as path:
        files = [Path(file) for file in transaction_files(path)] if path.is_dir() else [path]
        written = [piece for number, file in enumerate(files) for piece in _written(file, definition, folder, number)]
    if not written:
        raise UserError(f"{transactions}: it has no rows, so there is nothing to compare.")
    instant, keys = name(definition.reading.timestamp), tuple(definition.keys.names)
    rows = Rows(str(transactions), parquet(written), keys, instant, (), table.noun())
    declared = getattr(getattr(table.view, "transactions", None), "schema", ())
    units = {column.name: column.tags[UNIT] for column in declared if UNIT in column.tags}
    return _with_columns(table, rows, list(definition.columns), units, {})


def _written(file: Path, definition: Definition, folder: Path, number: int) -> Iterator[Path]:
    """The rows of a file of transactions, as Parquet in ``folder``, without holding all of a large file."""
    for count, piece in enumerate(pieces(file, definition.reading, folder / "pieces")):
        try:
            rows = read_part(piece, definition)
        except UserError:
            read_part(file, definition)  # which says where in the file, and not in the piece
            raise
        if rows.num_rows:
            pq.write_table(rows, path := folder / f"{number}-{count}.parquet")
            yield path


def served(table: FeatureTable, folder: Path, project: str, service: str | None) -> Source:
    """What was served of the features of a view, by the log."""
    prefix = f"{table.name}__"
    wanted = {f"{prefix}{field.name}": field.name for field in table.view.features}
    own = [part for part in parts(folder, service) if part.project == project and part.rows]
    paths = [part.path for part in own if wanted.keys() & set(ds.dataset(part.path).schema.names)]
    if not paths:
        of = f" of the service {service}" if service else ""
        raise UserError(f"{folder}: nothing{of} that was served has a feature of {table.name}. Serve something first.")
    keys, instant = tuple(table.definition.keys.names), name(LOG_TIMESTAMP)
    rows = Rows(str(folder), parquet(paths), keys, instant, (), table.noun())
    units = {field.name: field.tags[UNIT] for field in table.view.features if UNIT in field.tags}
    return _with_columns(table, rows, list(wanted), units, wanted, growing(table), _types(table))


def _with_columns(
    table: FeatureTable,
    rows: Rows,
    wanted: Sequence[str],
    units: Mapping[str, str],
    called: Mapping[str, str],
    grow: Container[str] = (),
    declared: Mapping[str, pa.DataType] = MappingProxyType({}),
) -> Source:
    """The source with those of the columns that can be compared. ``declared`` are the types of features, whose stored
    ones have to be of the same kind."""
    with connected(rows) as connection:
        schema = connection.execute(f"SELECT * FROM {rows.relation} LIMIT 0").fetch_arrow_table().schema
    _require_rows_of(rows, schema)
    there, reasons = [], []
    for column in wanted:
        shown = called.get(column, column)
        if column not in schema.names:
            reasons.append(f"{shown} is not in {rows.title}")
            continue
        type = schema.field(column).type
        if shown in declared and kind_of(type) != kind_of(declared[shown]):
            reasons.append(f"{shown} is {type} in {rows.title}, and declared as {declared[shown]}")
        else:
            there.append(column)
    columns, left = columns_of(schema, there, rows.instant, units, called, grow)
    reasons += [f"{column} is of a type that has no order and no categories" for column in left]
    complete = Rows(rows.title, rows.relation, rows.keys, rows.instant, columns, rows.noun, rows.tables)
    return Source(complete, table, reasons, table.view.tags or {})


def _require_rows_of(rows: Rows, schema: pa.Schema) -> None:
    """Raise a `UserError` if the rows have no keys or no instant."""
    instant = next((column for column in schema if name(column.name) == rows.instant), None)
    missing = [key for key in rows.keys if key not in schema.names] or ([] if instant else [rows.instant.strip('"')])
    if missing:
        raise UserError(f"{rows.title}: it has no column {missing[0]}. Compute the features anew.")
    if not pa.types.is_timestamp(instant.type):
        raise UserError(f"{rows.title}: {instant.name} is {instant.type} and no instant. Compute the features anew.")


def _types(table: FeatureTable) -> dict[str, pa.DataType]:
    return {column.name: column.type for column in table.definition.schema}


def names_of(source: Source) -> list[str]:
    """What the columns of a source are called, as of `matters`."""
    return [column.name for column in source.rows.columns]
