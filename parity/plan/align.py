"""Two tables of one view, row beside row: what a reader gets of each, at every instant at which one has a row."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.keys import Key, KeyBook
from parity.edge.errors import UserError


@dataclass(frozen=True)
class Table:
    """The features of a view: where they are, and what its columns are called."""

    features: Path
    keys: tuple[str, ...]
    event: str

    def read(self, columns: list[str]) -> pa.Table:
        return pq.read_table(self.features, columns=columns, partitioning=None)


@dataclass(frozen=True)
class Aligned:
    """The instants of both tables, sorted by key and time. Of each: the row that a reader of either table gets there,
    which is the latest up to then; -1 if there is none."""

    book: KeyBook
    key: np.ndarray
    """The number of the key, in the book."""
    instant: np.ndarray
    """In microseconds since 1970."""
    base: np.ndarray
    head: np.ndarray
    only_base: int
    """At how many of the instants only the base has a row."""
    only_head: int
    later: int = 0
    """How many rows of the head are left out, as they are later than all of a base that is stored."""

    def __len__(self) -> int:
        return len(self.key)

    @property
    def keys(self) -> int:
        return len(self.book)

    @cached_property
    def last(self) -> np.ndarray:
        """The place of the last instant of each key."""
        return np.flatnonzero(np.append(self.key[1:] != self.key[:-1], True)) if len(self) else np.empty(0, np.int64)

    @property
    def same_rows(self) -> bool:
        return not self.only_base and not self.only_head

    def key_at(self, place: int) -> Key:
        return self.book.key(int(self.key[place]))


def align(base: Table, head: Table, is_stored: bool = False) -> Aligned:
    """Put two tables of the same keys side by side. `UserError` if one has a row twice.

    Of the head no rows are taken that are later than all of the base, if that ``is_stored``, not computed.
    """
    schema = pq.read_schema(head.features)
    book = KeyBook(pa.schema([schema.field(name).with_nullable(False) for name in head.keys]))
    (base_keys, base_instant), (head_keys, head_instant) = (_rows(one, head.keys) for one in (base, head))
    head_rows = np.arange(len(head_instant))
    if is_stored and len(base_instant):
        head_rows = np.flatnonzero(head_instant <= base_instant.max())
        head_keys, head_instant = head_keys.take(pa.array(head_rows)), head_instant[head_rows]
    later = pq.read_metadata(head.features).num_rows - len(head_rows)
    head_key, base_key = book.number(head_keys), book.number(base_keys)
    if (
        np.array_equal(base_key, head_key)
        and np.array_equal(base_instant, head_instant)
        and _is_sorted(head_key, head_instant)
    ):
        return Aligned(book, head_key, head_instant, np.arange(len(base_key)), head_rows, 0, 0, later)
    key = np.concatenate([base_key, head_key])
    instant = np.concatenate([base_instant, head_instant])
    row = np.concatenate([np.arange(len(base_key)), head_rows])
    of_head = np.repeat([False, True], [len(base_key), len(head_key)])
    order = np.lexsort((of_head, instant, key))
    key, instant, row, of_head = key[order], instant[order], row[order], of_head[order]
    first = np.append(True, (key[1:] != key[:-1]) | (instant[1:] != instant[:-1]))[: len(key)]
    place = np.cumsum(first) - 1
    for title, side in (("base", ~of_head), ("head", of_head)):
        if np.any(np.bincount(place[side], minlength=1) > 1):
            raise UserError(f"the {title} has several rows of a key at one instant, so nothing can be compared.")
    key, instant = key[first], instant[first]
    own = {}
    for title, side in (("base", ~of_head), ("head", of_head)):
        own[title] = np.full(len(key), -1)
        own[title][place[side]] = row[side]
    return Aligned(
        book,
        key,
        instant,
        _carried(own["base"], key),
        _carried(own["head"], key),
        int(np.count_nonzero(own["head"] < 0)),
        int(np.count_nonzero(own["base"] < 0)),
        later,
    )


def _rows(table: Table, names: tuple[str, ...]) -> tuple[pa.Table, np.ndarray]:
    """The key, under these names, and the instant of each row."""
    found = table.read([*table.keys, table.event])
    keys = found.select(list(table.keys)).rename_columns(list(names))
    return keys, found[table.event].cast(UTC_MICROSECONDS).cast(pa.int64()).to_numpy()


def _is_sorted(key: np.ndarray, instant: np.ndarray) -> bool:
    later = (key[1:] > key[:-1]) | ((key[1:] == key[:-1]) & (instant[1:] > instant[:-1]))
    return bool(later.all())


def _carried(row: np.ndarray, key: np.ndarray) -> np.ndarray:
    """Where a key has no row of its own at an instant, that of the latest instant before."""
    places = np.arange(len(row))
    latest = np.maximum.accumulate(np.where(row >= 0, places, -1)) if len(row) else places
    begin = (
        np.maximum.accumulate(np.where(np.append(True, key[1:] != key[:-1])[: len(row)], places, 0))
        if len(row)
        else places
    )
    return np.where(latest >= begin, row[latest], -1)
