"""Ties in a source: several rows of one key at one event time, with different values.

Which of them a store takes is its own affair. Both sides may take the same one today, and another with the next
materialization, with another order of the file, or from another offline store. So they are looked for in the history
itself: grouped where it is, if the offline store can do that (those of Ibis can), and in Arrow otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from parity.check import pushdown
from parity.check.found import Ties
from parity.check.pulling import Columns, history_job, whole
from parity.compare.equal import plain
from parity.compare.subjects import Source
from parity.edge.errors import of_error

PULLED = 200_000
"""Keys of a view up to which its whole history is pulled to look for ties, where it can't be grouped in place."""
ROW, LAST, NO_KEY = "parity_row", "parity_last", "parity_key"


@dataclass
class TieFinder:
    """Looks for the ties of each source once, however many subjects have it."""

    store: FeatureStore
    at: datetime
    seen: set[str] = field(default_factory=set)

    def of(self, source: Source, keys: int) -> Ties | str | None:
        """The ties of a source that has so many ``keys``; or why they are not known; None if there are none."""
        if source.name in self.seen or not keys:
            return None
        self.seen.add(source.name)
        try:
            return ties_of(self.store, source, self.at, keys)
        except Exception as error:  # it is one more look: what can't be read is said where it is compared
            return f"ties in the source of {source.name} could not be looked for: {of_error(error)}"


def ties_of(store: FeatureStore, source: Source, at: datetime, keys: int) -> Ties | str | None:
    """The ties up to ``at``, or why they are not looked for."""
    columns = Columns(source)
    names = {columns.source_name(one.name): one.name for one in source.view.features}
    features = {column: name for column, name in names.items() if column not in columns.keys}
    job = history_job(store, source, list(features), at)
    kinds = {type_.__name__ for type_ in type(job).__mro__}
    lazy = pushdown.table_of(job)
    if not columns.keys:  # of a view without entities all rows are of one key
        table = whole(job)
        columns.keys = [NO_KEY]
        rows, last = _grouped_here(table.append_column(NO_KEY, pa.nulls(len(table), pa.int8()).fill_null(0)), columns)
    elif lazy is not None:
        rows, last = _grouped_in_place(lazy, columns)
    elif keys <= PULLED or "DaskRetrievalJob" in kinds:
        rows, last = _grouped_here(whole(job), columns)
    else:
        return f"ties in the source of {source.name} were not looked for: it has more than {PULLED:,} keys to pull"
    is_settled_by_creation = "DaskRetrievalJob" not in kinds  # dask sorts by one column after the other
    if is_settled_by_creation and columns.created and rows.num_rows:
        rows = _newest(rows, columns)
    found = _tied(rows, last, columns, source, features)
    return found and found._replace(is_left_open=is_settled_by_creation and not columns.created)


def _grouped_in_place(table: Any, columns: Columns) -> tuple[pa.Table, pa.Table]:
    """The rows that share key and event with another one, and the last event of each of their keys."""
    table = table.filter([table[name].notnull() for name in (*columns.keys, columns.event)])
    by = [*columns.keys, columns.event]
    groups = table.group_by(by).aggregate(**{ROW: table.count()})
    shared = groups.filter(groups[ROW] > 1).select(by).to_pyarrow()
    if not shared.num_rows:
        return shared, shared
    tied = groups.filter(groups[ROW] > 1)
    of_keys = table.semi_join(tied, columns.keys)
    last = of_keys.group_by(columns.keys).aggregate(**{LAST: of_keys[columns.event].max()})
    return table.semi_join(tied, by).to_pyarrow(), last.to_pyarrow()


def _grouped_here(table: pa.Table, columns: Columns) -> tuple[pa.Table, pa.Table]:
    """The same, of a table."""
    by = [*columns.keys, columns.event]
    for name in by:
        table = table.filter(table[name].is_valid())
    groups = table.group_by(by).aggregate([([], "count_all")])
    shared = groups.filter(pc.greater(groups["count_all"], 1)).select(by)
    if not shared.num_rows:
        return shared, shared
    keys = shared.group_by(columns.keys).aggregate([])
    of_keys = _matching(table, keys, columns.keys)
    last = of_keys.group_by(columns.keys).aggregate([(columns.event, "max")])
    return _matching(table, shared, by), last.rename_columns([*columns.keys, LAST])


def _matching(table: pa.Table, some: pa.Table, by: list[str]) -> pa.Table:
    """The rows of ``table`` whose columns ``by`` are among ``some``. Arrow joins no lists: so the places are joined."""
    places = table.select(by).append_column(ROW, pa.array(np.arange(table.num_rows)))
    return table.take(places.join(some.select(by), by, join_type="inner")[ROW].sort())


def _newest(rows: pa.Table, columns: Columns) -> pa.Table:
    """Of the rows that share key and event, those of the last created timestamp."""
    by = [*columns.keys, columns.event]
    newest = rows.filter(rows[columns.created].is_valid()).group_by(by).aggregate([(columns.created, "max")])
    newest = newest.rename_columns([*by, columns.created])
    return _matching(rows, newest, [*by, columns.created]) if newest.num_rows else rows


def _tied(rows: pa.Table, last: pa.Table, columns: Columns, source: Source, features: dict[str, str]) -> Ties | None:
    """The ties among rows that share key and event with another one: those whose values differ."""
    by = [*columns.keys, columns.event]
    if not rows.num_rows or not features:
        return None
    compared = rows.select(by)
    for column in features:
        compared = compared.append_column(column, _comparable(rows[column]))
    counted = [(column, "count_distinct", pc.CountOptions(mode="all")) for column in features]
    groups = compared.group_by(by).aggregate(counted)
    several = {column: pc.greater(groups[f"{column}_count_distinct"], 1) for column in features}
    differs = np.logical_or.reduce([one.to_numpy(zero_copy_only=False) for one in several.values()])
    tied = groups.filter(pa.array(differs))
    if not tied.num_rows:
        return None
    at_last = tied.join(last, columns.keys, join_type="inner")
    at_last = at_last.filter(pc.equal(at_last[columns.event], at_last[LAST]))
    one = (at_last if at_last.num_rows else tied).slice(0, 1)
    feature = next(column for column in features if one[f"{column}_count_distinct"][0].as_py() > 1)
    return Ties(
        source.name,
        source.batch.timestamp_field,
        tied.group_by(columns.keys).aggregate([]).num_rows,
        at_last.num_rows,
        {called: one[column][0].as_py() for called, column in zip(source.keys, columns.keys, strict=False)},
        plain(one[columns.event][0].as_py()),
        features[feature],
        [plain(value) for value in _matching(rows, one, by)[feature].to_pylist()],
        is_left_open=False,
    )


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray | pa.Array:
    """Values of which Arrow can count the distinct ones: NaN as null, and lists and objects as text."""
    kind = column.type
    if pa.types.is_floating(kind):
        return pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    if pa.types.is_nested(kind) or pa.types.is_null(kind):
        return pa.array([repr(plain(value)) for value in column.to_pylist()])
    return column
