"""The keys that the offline store has of a view, which stay there until they are needed."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from parity.check import pushdown
from parity.check.pulling import MICROSECONDS, Columns, empty_file_of, history_job, latest_job, tables_of, timed, whole
from parity.compare.equal import plain
from parity.compare.requested import as_declared
from parity.compare.subjects import Source


class Latest(NamedTuple):
    """Keys of a view, and the last event of each up to an instant."""

    keys: pa.Table
    """A column for each key, by its name in the request."""
    events: np.ndarray
    """datetime64[us] in UTC; NaT where the source has none."""


class OfflineKeys:
    """Every key of the offline table of ``source`` that has a row up to ``at``."""

    def __init__(self, store: FeatureStore, source: Source, at: datetime):
        self._store, self._source, self._at, self._columns = store, source, at, Columns(source)

    @property
    def number(self) -> int:
        """How many there are."""
        return len(self.all.events) if self._is_pulled else self._counted[0]

    @property
    def unusable(self) -> int:
        """How many rows were left aside, as a key of theirs is null."""
        return self._all[1] if self._is_pulled else self._counted[1]

    @property
    def all(self) -> Latest:
        return self._all[0]

    @property
    def schema(self) -> pa.Schema:
        """The types of the keys, by their names in the request."""
        if self._is_pulled:
            return self.all.keys.schema
        types = self._lazy.select(self._columns.keys).schema().to_pyarrow().types
        return pa.schema(list(zip(self._source.keys, types, strict=True)))

    def drawn(self, size: int, seed: int) -> Latest | None:
        """``size`` of the keys, every one as likely as another, where the store can draw them; None where it can't."""
        if self._is_pulled:
            return None
        try:
            return self._latest(pushdown.drawn(self._lazy, self._columns.keys, size, seed))[0]
        except Exception:  # of keys that have no text in the store
            return None

    def lacked(self, keys: pa.Table) -> np.ndarray:
        """The places of the ``keys``, which the online store has in these types, that are none of these."""
        if not self._is_pulled:
            with suppress(Exception):  # of types that the store compares otherwise, or not at all
                if _is_alike(self.schema, keys, self._declared):
                    return np.sort(pushdown.lacked(self._lazy, self._columns.keys, keys).to_numpy())
        return lacked(self.all.keys, self._declared, keys)

    @property
    def _is_pulled(self) -> bool:
        """Whether all keys are here already, or have to be, as the store can't choose."""
        return "_all" in self.__dict__ or self._counted is None

    @property
    def _declared(self) -> list[str | None]:
        return self._source.declared_keys

    @cached_property
    def _lazy(self) -> Any:
        """The table of keys and last events, not executed yet; None of a store that has no such thing."""
        if not self._source.join_keys:
            return None
        try:
            return pushdown.table_of(latest_job(self._store, self._source, [], self._at))
        except Exception:  # not every store can do without any feature
            return None

    @cached_property
    def _counted(self) -> tuple[int, int] | None:
        """How many keys there are, and how many rows are of none, as the store counts them; None where it can't."""
        try:
            return None if self._lazy is None else pushdown.counted(self._lazy, self._columns.keys)
        except Exception:  # what can't be read is said when it is pulled
            return None

    @cached_property
    def _all(self) -> tuple[Latest, int]:
        if not self._source.join_keys:
            return self._of_no_key(), 0
        return self._latest(self._pulled())

    def _of_no_key(self) -> Latest:
        event, parts = self._columns.event, tables_of(history_job(self._store, self._source, [], self._at))
        events = pa.concat_tables([timed(part, event).select([event]) for part in parts])[event]
        last = pc.max(events.filter(pc.less_equal(events, pa.scalar(self._at, MICROSECONDS)))).as_py()
        return Latest(pa.table({}), np.array([last.replace(tzinfo=None)] if last else [], "datetime64[us]"))

    def _pulled(self) -> pa.Table:
        """The keys and last events: asked for without any feature first, which not every store can do."""
        for features in ([], [self._columns.first]):
            try:
                return whole(latest_job(self._store, self._source, features, self._at))
            except Exception:
                if features and (empty := empty_file_of(self._source)) is None:
                    raise
        return empty

    def _latest(self, table: pa.Table) -> tuple[Latest, int]:
        table = timed(table, self._columns.event)
        called = zip(self._source.keys, self._columns.keys, strict=True)
        keys = pa.table({name: table[column] for name, column in called}).combine_chunks()
        usable = np.ones(table.num_rows, bool)
        for column in keys.columns:
            usable &= column.is_valid().to_numpy()
        events = table[self._columns.event].to_numpy().astype("datetime64[us]")
        return Latest(keys.filter(pa.array(usable)), events[usable]), int((~usable).sum())


def _is_alike(schema: pa.Schema, keys: pa.Table, declared: Sequence[str | None]) -> bool:
    """Whether a store compares keys of these types as Python does: whole numbers, or texts, on both sides."""
    return all(
        (pa.types.is_integer(one) and pa.types.is_integer(other) and kind != "String")
        or (_is_text(one) and _is_text(other) and kind not in ("Int64", "Int32"))
        for one, other, kind in zip(schema.types, keys.schema.types, declared, strict=True)
    )


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def lacked(known: pa.Table, declared: Sequence[str | None], keys: pa.Table) -> np.ndarray:
    """The places of the ``keys`` that are none of the ``known``, once these are of the types that are ``declared``."""
    columns = [
        _as_declared(column, kind, wanted)
        for column, kind, wanted in zip(known.columns, declared, keys.schema.types, strict=True)
    ]
    if any(column is None for column in columns):
        there = set(zip(*map(as_declared, in_utc(known), declared), strict=True))
        asked = zip(*in_utc(keys), strict=True)
        return np.array([place for place, key in enumerate(asked) if key not in there], np.int64)
    if any(len(column) < known.num_rows for column in columns):  # one of which nothing may equal what is asked for
        return np.arange(keys.num_rows)
    if len(columns) == 1:
        return np.flatnonzero(~pc.is_in(keys[0], value_set=columns[0]).to_numpy())
    names = [str(place) for place in range(len(columns))]
    asked = keys.rename_columns(names).append_column(pushdown.ROW, pa.array(np.arange(keys.num_rows)))
    rest = asked.join(pa.table(dict(zip(names, columns, strict=True))), names, join_type="left anti")
    return np.sort(rest[pushdown.ROW].to_numpy())


def listed(table: pa.Table) -> list[list]:
    return [column.to_pylist() for column in table.columns]


def in_utc(table: pa.Table) -> list[list]:
    """The columns of a table, those of instants as such of Python in UTC."""
    found = listed(table)
    for place, kind in enumerate(table.schema.types):
        if pa.types.is_timestamp(kind):
            found[place] = [plain(value) for value in found[place]]
    return found


def _as_declared(column: pa.ChunkedArray, declared: str | None, wanted: pa.DataType) -> pa.ChunkedArray | None:
    """What of a column, as `as_declared` has it, may equal values of the type ``wanted``, in this type; None if that is
    not to be said of the column as a whole."""
    whole, text = pa.types.is_integer(column.type), _is_text(column.type)
    if not (whole or text or pa.types.is_floating(column.type)):
        return None
    as_text, as_whole = declared == "String", declared in ("Int64", "Int32")
    try:
        if pa.types.is_integer(wanted):
            if (whole and not as_text) or (as_whole and not text):
                return column.cast(wanted)
            return pa.chunked_array([], wanted) if (text and not as_whole) or as_text else None
        if _is_text(wanted):
            if (text and not as_whole) or (whole and as_text):
                return column.cast(wanted)
            return pa.chunked_array([], wanted) if not text and not as_text else None
    except pa.ArrowInvalid:
        pass
    return None
