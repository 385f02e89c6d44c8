"""What the offline store has of a view: the last event of each key, and every row of some keys, as Feast pulls them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from parity.compare.equal import plain
from parity.compare.subjects import Source

EVER = datetime(1970, 1, 2, tzinfo=UTC)
"""From when on rows are looked at. Stores subtract a zone's offset from it, so it can't be the first instant."""
EVENT = "event"
MICROSECONDS = pa.timestamp("us", "UTC")


class Latest(NamedTuple):
    """The keys of a view, and the last event of each up to an instant."""

    keys: pa.Table
    """A column for each key, by its name in the request."""
    events: np.ndarray
    """datetime64[us] in UTC; NaT where the source has none."""
    unusable: int
    """Rows that were left aside, as a key of theirs is null."""


class Row(NamedTuple):
    """A row of the offline table: its event, and the values by the names of features."""

    event: datetime
    values: dict[str, Any]


def latest_of(store: FeatureStore, source: Source, at: datetime) -> Latest:
    """Every key of the offline table of ``source`` that has a row up to ``at``, with the last event of each."""
    columns = _Columns(source)
    if not source.join_keys:
        table = _pull_all(store, source, columns, [], at)
        last = pc.max(table[columns.event]).as_py() if table.num_rows else None
        events = np.array([last], "datetime64[us]") if table.num_rows else np.array([], "datetime64[us]")
        return Latest(pa.table({}), events, 0)
    table = _pull_latest(store, source, columns, at)
    keys = pa.table(
        {called: table[column] for called, column in zip(source.keys, columns.keys, strict=True)}
    ).combine_chunks()
    usable = None
    for column in keys.columns:
        usable = column.is_valid() if usable is None else pc.and_(usable, column.is_valid())
    events = table[columns.event].to_numpy().astype("datetime64[us]")
    mask = usable.to_numpy()
    return Latest(keys.filter(usable), events[mask], int((~mask).sum()))


def rows_of(
    store: FeatureStore, source: Source, keys: pa.Table, features: Sequence[str], at: datetime
) -> dict[tuple, list[Row]]:
    """Every row up to ``at`` of some ``keys``, in the order of events and then of creation, by key."""
    columns = _Columns(source)
    table = _pull_all(store, source, columns, [columns.source_name(feature) for feature in features], at)
    if columns.keys:
        table = _joined(table, columns.keys, keys.select(source.keys).rename_columns(columns.keys))
    by = [(columns.event, "ascending")]
    if columns.created and columns.created in table.column_names:
        by.append((columns.created, "ascending"))
    table = table.sort_by(by)
    found: dict[tuple, list[Row]] = defaultdict(list)
    names = [columns.source_name(feature) for feature in features]
    values = [table[name].to_pylist() for name in names]
    key_values = [table[name].to_pylist() for name in columns.keys]
    for place, event in enumerate(table[columns.event].to_pylist()):
        key = tuple(column[place] for column in key_values)
        row = {feature: plain(column[place]) for feature, column in zip(features, values, strict=True)}
        found[key].append(Row(event, row))
    return found


class _Columns:
    """How the table of a source calls what Feast calls otherwise."""

    def __init__(self, source: Source):
        mapping = {called: column for column, called in (source.batch.field_mapping or {}).items()}
        self.source_name = lambda name: mapping.get(name, name)
        self.keys = [self.source_name(name) for name in source.join_keys]
        self.event = self.source_name(source.batch.timestamp_field)
        created = source.batch.created_timestamp_column
        self.created = self.source_name(created) if created else None


def _pull_latest(store: FeatureStore, source: Source, columns: _Columns, at: datetime) -> pa.Table:
    """The keys and last events: asked for without any feature first, which not every store can do."""
    first = columns.source_name(source.view.features[0].name)
    for features in ([], [first]):
        try:
            job = store.provider.offline_store.pull_latest_from_table_or_query(
                config=store.config,
                data_source=source.batch,
                join_key_columns=columns.keys,
                feature_name_columns=features,
                timestamp_field=columns.event,
                created_timestamp_column=columns.created,
                start_date=EVER,
                end_date=at,
            )
            return _timed(job.to_arrow(), columns)
        except Exception:
            if features:
                raise
    raise AssertionError


def _pull_all(
    store: FeatureStore, source: Source, columns: _Columns, features: Sequence[str], at: datetime
) -> pa.Table:
    asked: dict[str, Any] = {"created_timestamp_column": columns.created} if columns.created else {}
    job = store.provider.offline_store.pull_all_from_table_or_query(
        config=store.config,
        data_source=source.batch,
        join_key_columns=columns.keys,
        feature_name_columns=list(features) or [columns.source_name(source.view.features[0].name)],
        timestamp_field=columns.event,
        start_date=EVER,
        end_date=at,
        **asked,
    )
    table = _timed(job.to_arrow(), columns)
    return table.filter(pc.less_equal(table[columns.event], pa.scalar(at, MICROSECONDS)))


def _timed(table: pa.Table, columns: _Columns) -> pa.Table:
    """The table with its event timestamps as instants in UTC: one without a zone is taken for UTC, as Feast does."""
    events = table[columns.event]
    if pa.types.is_string(events.type) or pa.types.is_large_string(events.type):
        events = _read(events)
    if pa.types.is_date(events.type):
        events = events.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(events.type):
        events = events.cast(pa.timestamp("us", events.type.tz), safe=False)
        events = pc.assume_timezone(events, "UTC") if events.type.tz is None else events.cast(MICROSECONDS)
    table = table.set_column(table.column_names.index(columns.event), columns.event, events)
    return table.filter(events.is_valid())


def _read(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Instants that are written in ISO 8601, with a zone or all without."""
    try:
        return texts.cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return texts.cast(MICROSECONDS)


def _joined(table: pa.Table, names: Sequence[str], keys: pa.Table) -> pa.Table:
    """The rows of ``table`` that are of one of ``keys``."""
    wanted = set(zip(*(column.to_pylist() for column in keys.columns), strict=True))
    there = zip(*(table[name].to_pylist() for name in names), strict=True)
    return table.filter(pa.array([key in wanted for key in there], pa.bool_()))


def as_instants(events: Iterable[np.datetime64]) -> list[datetime | None]:
    """Instants of numpy as aware ones."""
    return [one.replace(tzinfo=UTC) if one is not None else None for one in np.asarray(events).tolist()]
