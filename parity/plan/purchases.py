"""Why a value changed: the transactions that entered a feature's window, and those that left it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.keys import Key, KeyBook, shown_key
from parity.plan.compare import ViewPair
from parity.plan.found import FeatureFound
from parity.plan.side import Computed

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Purchase:
    """A transaction: when it was, and what it has in the column that the feature is made of."""

    at: datetime
    value: Any


@dataclass(frozen=True)
class User:
    """A key that changes much, at the instant at which it changes most."""

    key: str
    at: datetime
    before: Any
    after: Any
    entered: list[Purchase] | None
    """Newest first; None if it is not known what the feature was made of."""
    left: list[Purchase] | None


class Transactions:
    """What a side was computed of, of some keys."""

    def __init__(self, rows: Path, timestamp: str, book: KeyBook):
        names = book.schema.names
        file = pq.ParquetFile(rows)
        self.columns = [name for name in file.schema_arrow.names if name not in names]
        parts = []
        for batch in file.iter_batches():
            some = pa.table(batch)
            number = book.find(some.select(names))
            parts.append(some.filter(pa.array(number >= 0)).append_column(":key", pa.array(number[number >= 0])))
        self.rows = pa.concat_tables(parts) if parts else None
        self.timestamp = timestamp

    def within(self, number: int, at: int, rule: Mapping[str, Any]) -> list[tuple[int, Any]] | None:
        """The transactions in the window of a rule that ends ``at``, when and what; None if they are not known."""
        if rule["column"] not in self.columns or self.rows is None:
            return None
        times = self.rows[self.timestamp].cast(UTC_MICROSECONDS).cast(pa.int64()).to_numpy()
        begin = -np.inf if rule["window"] is None else at - round(rule["window"] * 1e6)
        mask = (self.rows[":key"].to_numpy() == number) & (times <= at) & (times >= begin)
        values = self.rows[rule["column"]].filter(pa.array(mask)).to_pylist()
        return list(zip(times[mask].tolist(), values, strict=True))


def add_users(pair: ViewPair, computed: Sequence[Computed], features: Sequence[FeatureFound]) -> None:
    """Say of each feature that changed which keys change most, and why."""
    changed = [one for one in features if one.change and one.change.places]
    aligned = pair.aligned
    places = sorted({place for one in changed for place in one.change.places})
    if not places:
        return
    book = KeyBook(aligned.book.schema)
    book.number(aligned.book.keys(np.unique(aligned.key[places])))
    sides = []
    for one, view in zip(computed, (pair.base, pair.head), strict=True):
        known = one.rows is not None
        rows, timestamp = (one.rows, view["timestamp"]) if known else (computed[1].rows, pair.head["timestamp"])
        sides.append(Transactions(rows, timestamp, book) if rows else None)
    for one in changed:
        beside = pair.beside(one.before or one.name, one.name)
        for place in one.change.places:
            key, instant = aligned.key_at(place), int(aligned.instant[place])
            number = int(book.find(_one(aligned.book, int(aligned.key[place])))[0])
            windows = [
                side.within(number, instant, rule) if side and rule else None
                for side, rule in zip(sides, one.rules, strict=True)
            ]
            same = None in one.rules or one.rules[0]["column"] == one.rules[1]["column"]
            one.change.users.append(_user(key, aligned.book.schema, instant, beside.at(place), windows, same))


def _one(book: KeyBook, number: int) -> pa.Table:
    return book.keys(np.array([number]))


def _user(key: Key, schema: pa.Schema, instant: int, values: tuple, windows: list, same_column: bool) -> User:
    entered = left = None
    if None not in windows:
        base, head = windows
        entered, left = _beyond(head, base, same_column), _beyond(base, head, same_column)
    return User(shown_key(key, schema), _time(instant), *values, entered, left)


def _beyond(some: list[tuple[int, Any]], others: list[tuple[int, Any]], same_column: bool) -> list[Purchase]:
    """The transactions that are not among ``others``; where the columns are two, by their instant alone."""
    there = Counter(others if same_column else (at for at, _ in others))
    found = []
    for at, value in some:
        what = (at, value) if same_column else at
        if there[what]:
            there[what] -= 1
        else:
            found.append(Purchase(_time(at), value))
    return sorted(found, key=lambda one: one.at, reverse=True)


def _time(instant: int) -> datetime:
    return EPOCH + timedelta(microseconds=instant)
