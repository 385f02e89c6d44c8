"""The history of some keys: every row that the offline store has of them, as Feast pulls it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from parity.check import pushdown
from parity.check.pulling import MICROSECONDS, Columns, history_job, tables_of, timed
from parity.compare.equal import plain
from parity.compare.subjects import Source

PLACE = "parity_place"


class Row(NamedTuple):
    """A row of the offline table: its event, and the values by the names of features."""

    event: datetime
    values: dict[str, Any]
    created: datetime | None = None
    """When it came into the table, if that has a created timestamp."""


def rows_of(
    store: FeatureStore, source: Source, keys: pa.Table, features: Sequence[str], at: datetime
) -> Mapping[tuple, list[Row]]:
    """Every row up to ``at`` of some ``keys``, in the order of events and then of creation, by key."""
    columns = Columns(source)
    names = [columns.source_name(feature) for feature in features]
    wanted = keys.select(source.keys).rename_columns(columns.keys) if columns.keys else None
    table = _of_keys(history_job(store, source, names, at), columns, wanted)
    table = table.filter(pc.less_equal(table[columns.event], pa.scalar(at, MICROSECONDS)))
    return Histories(table, columns, dict(zip(features, names, strict=True)))


def _instant(value: Any) -> datetime | None:
    """A created timestamp as an instant; None for one that is none."""
    found = plain(value)
    return found if isinstance(found, datetime) else None


class Histories(Mapping[tuple, list[Row]]):
    """Rows by key, in Arrow: those of a key become objects when they are asked for."""

    def __init__(self, table: pa.Table, columns: Columns, features: Mapping[str, str]):
        by = [*columns.keys, columns.event]
        self._created = columns.created if columns.created in table.column_names else None
        if self._created:
            by.append(self._created)
        self._table = table.sort_by([(name, "ascending") for name in by]).combine_chunks()
        self._event, self._features = columns.event, features
        self._slices = _runs(self._table, columns.keys)

    def __getitem__(self, key: tuple) -> list[Row]:
        some = self._table.slice(*self._slices[key])
        values = {feature: some[name].to_pylist() for feature, name in self._features.items()}
        created = some[self._created].to_pylist() if self._created else [None] * some.num_rows
        return [
            Row(event, {feature: plain(column[place]) for feature, column in values.items()}, _instant(created[place]))
            for place, event in enumerate(some[self._event].to_pylist())
        ]

    def __iter__(self) -> Iterator[tuple]:
        return iter(self._slices)

    def __len__(self) -> int:
        return len(self._slices)


def _runs(table: pa.Table, keys: Sequence[str]) -> dict[tuple, tuple[int, int]]:
    """Where the rows of each key begin in a table that is in their order, and how many there are."""
    if not keys:
        return {(): (0, table.num_rows)} if table.num_rows else {}
    placed = table.select(keys).append_column(PLACE, pa.array(np.arange(table.num_rows)))
    runs = placed.group_by(list(keys)).aggregate([(PLACE, "min"), (PLACE, "count")])
    *found, begins, counts = (runs[name].to_pylist() for name in (*keys, f"{PLACE}_min", f"{PLACE}_count"))
    slices = zip(begins, counts, strict=True)
    return dict(zip(zip(*found, strict=True), slices, strict=True))


def _of_keys(job: Any, columns: Columns, keys: pa.Table | None) -> pa.Table:
    """The rows of a job that are of one of ``keys``: chosen by the store if it can, or part by part as they come."""
    lazy = pushdown.table_of(job)
    if lazy is not None and keys is not None:
        try:
            return timed(pushdown.of_keys(lazy, columns.keys, keys), columns.event)
        except Exception:  # of types that it joins otherwise than Arrow, or not at all
            pass
    parts = (part if keys is None else _joined(part, columns.keys, keys) for part in tables_of(job))
    return pa.concat_tables([timed(part, columns.event) for part in parts], promote_options="permissive")


def _joined(table: pa.Table, names: Sequence[str], keys: pa.Table) -> pa.Table:
    """The rows of ``table`` that are of one of ``keys``."""
    try:
        keys = pa.table({name: keys[name].cast(table.schema.field(name).type) for name in names})
        if len(names) == 1:
            return table.filter(pc.is_in(table[names[0]], value_set=keys[names[0]]))
        placed = table.select(names).append_column(PLACE, pa.array(np.arange(table.num_rows)))
        return table.take(placed.join(keys, list(names), join_type="left semi")[PLACE].sort())
    except pa.ArrowException:  # of types that Arrow does not join
        wanted = set(zip(*(column.to_pylist() for column in keys.columns), strict=True))
        there = zip(*(table[name].to_pylist() for name in names), strict=True)
        return table.filter(pa.array([key in wanted for key in there], pa.bool_()))


def as_instants(events: Iterable[np.datetime64]) -> list[datetime | None]:
    """Instants of numpy as aware ones."""
    return [one.replace(tzinfo=UTC) if one is not None else None for one in np.asarray(events).tolist()]
