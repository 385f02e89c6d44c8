"""The offline store's side: the feature history that is written, and what training reads of it through Feast."""

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore
from feast.infra.offline_stores.ibis import IbisRetrievalJob
from feast.infra.offline_stores.offline_store import RetrievalJob
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config

from parity.definition.checks import FeatureTable, require_one_source
from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.keys import KeyBook
from parity.edge.errors import UserError
from parity.edge.files import Location, absolute, location, read_bytes, remove, replacing
from parity.edge.spool import Spool
from parity.transactions.quarantine import delivered

EVER = datetime(1, 1, 1, tzinfo=UTC)


def note_origin(table: FeatureTable, output: Location, transactions: Location) -> None:
    """Note from which ``transactions``, other than those declared, the offline table was computed.

    An ``output`` that is not that table is nobody's concern.
    """
    if absolute(output) != location(table.source.path):
        return
    if absolute(transactions) == absolute(table.transactions):
        remove(_note(table))
    else:
        with replacing(_note(table)) as temporary:
            temporary.write_bytes(os.fsencode(absolute(transactions)))


def origin_of(table: FeatureTable) -> Location:
    """The transactions that the offline table was computed from."""
    return origin_beside(table.source.path) or table.transactions


def origin_beside(path: str) -> Location | None:
    """The same of the offline table at ``path``; None if these are the transactions that are declared."""
    noted = read_bytes(_beside(path, ".origin"))
    return None if noted is None else location(os.fsdecode(noted))


def origins_of(tables: Sequence[FeatureTable], named: Location | None) -> list[Location]:
    """Where the transactions of each table are: those ``named``, or those that its features were computed from."""
    if named is not None:
        require_one_source(tables)
    return [origin_of(table) if named is None else named for table in tables]


def deliveries_of(tables: Sequence[FeatureTable], named: Location | None) -> list[Location]:
    """The same, with all rows that are delivered there now, where features are computed of what a quarantine left."""
    places = origins_of(tables, named)
    return places if named is not None else [delivered(place) for place in places]


def note_marks(table: FeatureTable, output: Location, marks: Mapping[str, int]) -> None:
    """Note up to which offset of each partition of a stream, "SOURCE/P", the offline table has the landed events.

    ``marks`` are to be taken before the transactions are read (`parity.transactions.landed.high_water`): so the table
    has at least these. An ``output`` that is not that table is nobody's concern.
    """
    if absolute(output) != location(table.source.path):
        return
    if marks:
        with replacing(_note(table, ".marks")) as temporary:
            temporary.write_text(json.dumps(dict(sorted(marks.items()))))
    else:
        remove(_note(table, ".marks"))


def marks_of(table: FeatureTable) -> dict[str, int]:
    """Up to which offset of each partition of a stream the offline table has the landed events."""
    return marks_beside(table.source.path)


def marks_beside(path: str) -> dict[str, int]:
    """The same of the offline table at ``path``."""
    place = _beside(path, ".marks")
    noted = read_bytes(place)
    try:
        return {str(partition): int(offset) for partition, offset in json.loads(noted or b"{}").items()}
    except (ValueError, TypeError, AttributeError):
        raise UserError(f"{place}: this is not what was noted there. Run: python compute_features.py") from None


def _note(table: FeatureTable, suffix: str = ".origin") -> Location:
    return _beside(table.source.path, suffix)


def _beside(path: str, suffix: str) -> Location:
    place = location(path)
    return place.with_suffix(suffix) if isinstance(place, Path) else f"{place.removesuffix('.parquet')}{suffix}"


def latest_events(
    store: FeatureStore, table: FeatureTable, start: datetime, end: datetime, features: Sequence[str] = ()
) -> pa.Table:
    """Ask the offline store for each key's latest event in [start, end]: join key, event timestamp, and ``features``.

    ``start`` and ``end`` are aware. One row per key, sorted by key.
    """
    source, keys = table.source, table.definition.keys.names
    job = get_offline_store_from_config(store.config.offline_store).pull_latest_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=keys,
        feature_name_columns=list(features),
        timestamp_field=source.timestamp_field,
        created_timestamp_column=source.created_timestamp_column,
        start_date=start,
        end_date=end,
    )
    latest = job.to_arrow().select([*keys, source.timestamp_field, *features])
    return latest.sort_by([(key, "ascending") for key in keys])


def tied_events(store: FeatureStore, table: FeatureTable, until: datetime) -> pa.Table:
    """Find the events, up to ``until``, of which the offline store has several rows: join key and event timestamp."""
    columns = [*table.definition.keys.names, table.source.timestamp_field]
    job = _every_row(store, table, [], EVER, until)
    rows = job.table if isinstance(job, IbisRetrievalJob) else ibis.memtable(job.to_arrow())
    counted = rows.group_by(columns).agg(rows=ibis._.count())
    return counted.filter(counted.rows > 1).select(columns).to_pyarrow()


PANDAS_TYPES = {pa.int32(): pd.Int32Dtype(), pa.bool_(): pd.BooleanDtype()}
"""Of columns that pandas would otherwise change where they meet others."""


def history_of(
    store: FeatureStore, table: FeatureTable, keys: pa.Table, until: datetime
) -> list[list[tuple[datetime, dict[str, Any]]]]:
    """Read every row of ``keys`` up to ``until`` from the offline store: for each key, in their order, pairs of event
    and features."""
    names, event = [rule.name for rule in table.definition.rules], table.source.timestamp_field
    book = KeyBook(table.definition.keys)
    numbers = book.number(keys)
    rows = _every_row(store, table, names, EVER, until).to_arrow()
    found = book.find(rows)
    rows, found = rows.filter(pa.array(found >= 0)), found[found >= 0]
    events = rows[event].cast(UTC_MICROSECONDS).to_pylist()
    columns = [nan_as_null(rows[name].to_pylist()) for name in names]
    history: dict[int, list[tuple[datetime, dict[str, Any]]]] = {}
    for number, instant, *values in zip(found.tolist(), events, *columns, strict=True):
        history.setdefault(number, []).append((instant.replace(tzinfo=UTC), dict(zip(names, values, strict=True))))
    return [history.get(number, []) for number in numbers.tolist()]


@contextmanager
def history_by_part(
    store: FeatureStore,
    table: FeatureTable,
    number: Callable[[pa.Table], np.ndarray],
    part_of: Callable[[np.ndarray], np.ndarray],
    parts: int,
) -> Iterator[Callable[[int], pa.Table]]:
    """Read every row of the offline table once, whatever its event, and give a function from a part to its rows.

    These are the rows that every answer to training is one of. ``number`` gives the numbers of keys, -1 for one whose
    rows are of no interest, and ``part_of`` says to which of ``parts`` parts numbers belong. A part has the columns
    `NUMBER`, `EVENT` (int64, microseconds since 1970), and the features, sorted by the first two. The parts wait on
    disk, so memory does not grow with the table where the offline store reads it by and by, as those do that are made
    of DuckDB.
    """
    names, event = [rule.name for rule in table.rules], table.source.timestamp_field
    job = _every_row(store, table, names, None, None)
    if isinstance(job, IbisRetrievalJob):
        batches = job.table.to_pyarrow_batches(chunk_size=ROWS_AT_ONCE)
    else:
        batches = job.to_arrow().to_batches(max_chunksize=ROWS_AT_ONCE)
    with Spool(parts, "The history is sorted") as spool:
        for batch in batches:
            read = pa.table(batch)
            events = read[event].cast(UTC_MICROSECONDS).cast(pa.int64())
            columns = [pa.array(number(read)), events, *(read[name] for name in names)]
            rows = pa.table(columns, [NUMBER, EVENT, *names]).filter(pc.field(NUMBER) >= 0)
            spool.append(rows, part_of(rows[NUMBER].to_numpy()))
        spool.close()

        def rows_of(part: int) -> pa.Table:
            rows = pa.Table.from_batches(spool.batches(part), spool.schema)
            return rows.sort_by([(NUMBER, "ascending"), (EVENT, "ascending")])

        yield rows_of


ROWS_AT_ONCE = 200_000
NUMBER, EVENT = ":key", ":event"
"""Columns of `history_by_part`. A feature can be called neither: `parity.definition.checks` sees to that."""


def _every_row(
    store: FeatureStore, table: FeatureTable, features: list[str], start: datetime | None, end: datetime | None
) -> RetrievalJob:
    source = table.source
    return get_offline_store_from_config(store.config.offline_store).pull_all_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=table.definition.keys.names,
        feature_name_columns=features,
        timestamp_field=source.timestamp_field,
        created_timestamp_column=source.created_timestamp_column,
        start_date=start,
        end_date=end,
    )


def nan_as_null(values: list) -> list:
    """The same values, with None for NaN: the two are one thing to everybody here."""
    return [None if value != value else value for value in values]
