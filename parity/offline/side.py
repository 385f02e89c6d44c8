"""The offline store's side: the feature history that is written, and what training reads of it through Feast."""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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

from parity.definition.checks import FeatureTable
from parity.definition.instants import UTC_MICROSECONDS
from parity.edge.errors import UserError
from parity.edge.files import Location, absolute, location, read_bytes, remove, replacing

EVER = datetime(1, 1, 1, tzinfo=UTC)
ROW_DROPPED = "no row"
"""What training gets for a user whose row the offline store drops: less than a null."""


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
    noted = read_bytes(_note(table))
    return table.transactions if noted is None else location(os.fsdecode(noted))


def _note(table: FeatureTable) -> Location:
    place = location(table.source.path)
    return place.with_suffix(".origin") if isinstance(place, Path) else f"{place.removesuffix('.parquet')}.origin"


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


def training_values(store: FeatureStore, table: FeatureTable, ids: np.ndarray, at: datetime) -> dict[str, list]:
    """Ask Feast for the features of ``ids`` at the instant ``at``, as for training: point-in-time correct.

    ``ids`` is int64, distinct and ascending; the result has, per feature, one value per id, in their order. It is
    `ROW_DROPPED` where the offline store leaves out the row of an id.
    """
    view, [key] = table.view, table.definition.keys.names
    entities = pd.DataFrame({key: ids, "event_timestamp": pd.Timestamp(at)})
    found = store.get_historical_features(entities, table.requested).to_arrow().sort_by(key)  # Feast keeps no order
    answered = found[key].to_numpy()
    if np.array_equal(answered, ids):
        return {feature.name: nan_as_null(found[feature.name].to_pylist()) for feature in view.features}
    if len(np.unique(answered)) != len(answered) or not np.isin(answered, ids).all():
        raise UserError("the offline store answered with rows that nobody asked for, so nothing can be compared.")
    # Feast's `file` offline store drops the rows of users of whom it knows nothing, or nothing fresh.
    values = {}
    for feature in view.features:
        by_id = dict(zip(answered.tolist(), nan_as_null(found[feature.name].to_pylist()), strict=True))
        values[feature.name] = [by_id.get(user, ROW_DROPPED) for user in ids.tolist()]
    return values


def history_of(
    store: FeatureStore, table: FeatureTable, ids: Sequence[int], until: datetime
) -> dict[int, list[tuple[datetime, dict[str, Any]]]]:
    """Read every row of the users ``ids`` up to ``until`` from the offline store: per user, (event, features)."""
    source, [key] = table.source, table.definition.keys.names
    names = [rule.name for rule in table.definition.rules]
    rows = _every_row(store, table, names, EVER, until).to_arrow()
    rows = rows.filter(pc.is_in(rows[key], pa.array(ids, pa.int64())))
    events = rows[source.timestamp_field].cast(UTC_MICROSECONDS).to_pylist()
    columns = [nan_as_null(rows[name].to_pylist()) for name in names]
    history: dict[int, list[tuple[datetime, dict[str, Any]]]] = {}
    for user, event, *values in zip(rows[key].to_pylist(), events, *columns, strict=True):
        history.setdefault(user, []).append((event.replace(tzinfo=UTC), dict(zip(names, values, strict=True))))
    return history


@contextmanager
def history_by_part(
    store: FeatureStore,
    table: FeatureTable,
    part_of: Callable[[np.ndarray], np.ndarray],
    parts: int,
    ids: np.ndarray | None,
) -> Iterator[Callable[[int], pa.Table]]:
    """Read every row of the offline table once, whatever its event, and give a function from a part to its rows.

    These are the rows that every answer to training is one of. ``part_of`` says to which of ``parts`` parts users
    belong; of all the users, or of ``ids``. A part has the columns join key, event timestamp (int64, microseconds
    since 1970), and the features, sorted by the first two. The parts wait on disk, so memory does not grow with the
    table where the offline store reads it by and by, as those do that are made of DuckDB.
    """
    source, [key] = table.source, table.definition.keys.names
    names = [rule.name for rule in table.definition.rules]
    job = _every_row(store, table, names, None, None)
    batches = job.table.to_pyarrow_batches() if isinstance(job, IbisRetrievalJob) else job.to_arrow().to_batches()
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(parts)]
        writers: list[pa.ipc.RecordBatchStreamWriter] = []
        for batch in batches:
            rows = pa.table(batch).select([key, source.timestamp_field, *names])
            events = rows[source.timestamp_field].cast(UTC_MICROSECONDS).cast(pa.int64())
            rows = rows.set_column(1, source.timestamp_field, events)
            if ids is not None:
                rows = rows.filter(pc.is_in(rows[key], pa.array(ids, pa.int64())))
            writers = writers or [pa.ipc.new_stream(file, rows.schema) for file in files]
            number = part_of(rows[key].to_numpy())
            order = np.argsort(number, kind="stable")
            ends = np.cumsum(np.bincount(number, minlength=parts))
            rows = rows.take(pa.array(order))
            for writer, start, end in zip(writers, [0, *ends[:-1]], ends, strict=True):
                if end > start:
                    writer.write_table(rows.slice(start, end - start))
        for writer in writers:
            writer.close()

        def rows_of(part: int) -> pa.Table:
            files[part].seek(0)
            rows = pa.ipc.open_stream(files[part]).read_all()
            return rows.sort_by([(key, "ascending"), (source.timestamp_field, "ascending")])

        yield rows_of


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
