"""The table of a source as Feast pulls it: in the names that the table has, and with instants in UTC."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore
from pyarrow import dataset

from parity.compare.subjects import Source

EVER = datetime(1970, 1, 2, tzinfo=UTC)
"""From when on rows are looked at. Stores subtract a zone's offset from it, so it can't be the first instant."""
MICROSECONDS = pa.timestamp("us", "UTC")


class Columns:
    """How the table of a source calls what Feast calls otherwise."""

    def __init__(self, source: Source):
        mapping = {called: column for column, called in (source.batch.field_mapping or {}).items()}
        self.source_name = lambda name: mapping.get(name, name)
        self.keys = [self.source_name(name) for name in source.join_keys]
        self.event = self.source_name(source.batch.timestamp_field)
        created = source.batch.created_timestamp_column
        self.created = self.source_name(created) if created else None
        self.first = self.source_name(source.view.features[0].name)
        """A feature, for stores that have to be asked for one."""


def source_columns(source: Source, features: Sequence[str]) -> list[str]:
    """The columns that the table of a source has to have, as it calls them: keys, features, and the event time last."""
    columns = Columns(source)
    created = [columns.created] if columns.created else []
    return list(dict.fromkeys([*columns.keys, *map(columns.source_name, features), *created, columns.event]))


def latest_job(store: FeatureStore, source: Source, features: Sequence[str], at: datetime) -> Any:
    """Ask for the last row of each key up to ``at``."""
    columns = Columns(source)
    return store.provider.offline_store.pull_latest_from_table_or_query(
        config=store.config,
        data_source=source.batch,
        join_key_columns=columns.keys,
        feature_name_columns=list(features),
        timestamp_field=columns.event,
        created_timestamp_column=columns.created,
        start_date=EVER,
        end_date=at,
    )


def history_job(store: FeatureStore, source: Source, features: Sequence[str], at: datetime) -> Any:
    """Ask for every row up to ``at``."""
    columns = Columns(source)
    asked: dict[str, Any] = {"created_timestamp_column": columns.created} if columns.created else {}
    return store.provider.offline_store.pull_all_from_table_or_query(
        config=store.config,
        data_source=source.batch,
        join_key_columns=columns.keys,
        feature_name_columns=list(features) or [columns.first],
        timestamp_field=columns.event,
        start_date=EVER,
        end_date=at,
        **asked,
    )


def empty_file_of(source: Source) -> pa.Table | None:
    """The table of a source that is a file without rows, which dask can't pull if its times have no zone; None if it is
    no file, or has rows."""
    path = getattr(source.batch, "path", None)
    try:
        file = dataset.dataset(path) if path else None
        return _decoded(file.schema.empty_table()) if file is not None and not file.count_rows() else None
    except Exception:  # of a path that is none here: what failed is said
        return None


def tables_of(job: Any) -> Iterator[pa.Table]:
    """What a job gives: at least one table, and several where it can give them one by one."""
    empty = True
    for part in job.to_arrow_batches() if hasattr(job, "to_arrow_batches") else ():
        yield _decoded(part if isinstance(part, pa.Table) else pa.Table.from_batches([part]))
        empty = False
    if empty:
        yield whole(job)


def whole(job: Any) -> pa.Table:
    """All that a job gives."""
    return _decoded(job.to_arrow())


def _decoded(table: pa.Table) -> pa.Table:
    """The table with the values themselves in place of places in a dictionary, by which Arrow neither sorts nor
    joins."""
    for place, field in enumerate(table.schema):
        if pa.types.is_dictionary(field.type):
            table = table.set_column(place, field.name, table[place].cast(field.type.value_type))
    return table


def timed(table: pa.Table, event: str) -> pa.Table:
    """The table with its event timestamps as instants in UTC: one without a zone is taken for UTC, as Feast does."""
    events = table[event]
    if pa.types.is_string(events.type) or pa.types.is_large_string(events.type):
        events = _read(events)
    if pa.types.is_date(events.type):
        events = events.cast(pa.timestamp("us"))
    if pa.types.is_timestamp(events.type):
        events = events.cast(pa.timestamp("us", events.type.tz), safe=False)
        events = pc.assume_timezone(events, "UTC") if events.type.tz is None else events.cast(MICROSECONDS)
    table = table.set_column(table.column_names.index(event), event, events)
    return table.filter(events.is_valid())


def _read(texts: pa.ChunkedArray) -> pa.ChunkedArray:
    """Instants that are written in ISO 8601, with a zone or all without."""
    try:
        return texts.cast(pa.timestamp("us"))
    except pa.ArrowInvalid:
        return texts.cast(MICROSECONDS)
