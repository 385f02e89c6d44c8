"""The comparison of the history: every row of the offline table, of any instant, against the oracle."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.compare.answers import ROW_DROPPED
from parity.compare.equal import same
from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND
from parity.definition.keys import KeyBook
from parity.offline.side import EVENT, NUMBER, nan_as_null
from parity.proof.causes import TIE, Freshness, Past, missing_cause, surplus_cause, wrong_cause
from parity.proof.edges import Draw
from parity.proof.found import (
    EXTRA_ROW,
    HISTORY_LISTED,
    MATCH,
    MISSING_ROW,
    NOT_ASKED,
    WRONG_ROW,
    Comparison,
    Difference,
    plain,
)
from parity.proof.held import nearest_instant
from parity.proof.oracle import evaluate_each, slides_of
from parity.proof.raw import Purchase

Row = tuple[int, dict[str, Any]]
"""An event, in microseconds since 1970, and features."""


class RowsOf(NamedTuple):
    """What is compared of some keys: their rows in the offline ``table``, sorted, and their purchases, by number; and
    whether a stream has brought events of a key online that the table was not computed from."""

    of: FeatureTable
    table: pa.Table
    purchases: Mapping[int, list[Purchase]]
    book: KeyBook
    is_ahead: Callable[[int], bool] = lambda number: False


def compare_rows(some: RowsOf, fresh: Freshness, found: Comparison, draw: Draw | None = None) -> list[Difference]:
    """Count how the rows of some keys in the offline table compare with those of the oracle, and give those that
    differ, sorted. What is named as a difference at the instant of the comparison is not named again.

    Edges are drawn of the rows of the oracle, if there is a ``draw``.
    """
    offline, right = _Rows.offline(some), _Rows.by_oracle(some)
    if draw:
        draw.look(right.numbers, right.events, some.purchases)
    now, history = _microseconds(found.at), found.history
    history.later += int(np.count_nonzero(offline.events > now))
    if found.past:
        offline, right = offline[offline.events <= now], right[right.events <= now]
    history.rows += len(offline.events)
    history.keys += len(np.unique(offline.numbers))
    if offline.equals(right):
        history.counts[MATCH] += len(offline.events) * len(found.features)
        return []
    rows, right_rows = offline.by_number(), right.by_number()
    named = _named(found) if found.differences else {}
    differences = []
    for number in sorted(rows.keys() | right_rows.keys()):
        of_key, right_of_key = rows.get(number, []), right_rows.get(number, [])
        if of_key == right_of_key and all(map(_all_same, of_key, right_of_key)):
            history.counts[MATCH] += len(of_key) * len(found.features)
        else:
            key = plain(some.book.key(number))
            one = _OneKey(some, number, key, of_key, right_of_key, named.get(key, set()), fresh, found)
            order = {feature: place for place, feature in enumerate(found.features)}
            differences += sorted(one.differences(), key=lambda d: (d.instant, order.get(d.feature, -1)))
    return differences


def _named(found: Comparison) -> dict[Any, set[str]]:
    named: dict[Any, set[str]] = {}
    for difference in found.differences:
        named.setdefault(difference.key, set()).add(difference.feature)
    return named


class _Rows(NamedTuple):
    """Rows sorted by key, as numbers, and event (microseconds since 1970), and the values of each feature."""

    numbers: np.ndarray
    events: np.ndarray
    values: dict[str, pa.Array]

    @classmethod
    def offline(cls, some: RowsOf) -> _Rows:
        table = some.table.combine_chunks()
        values = {rule.name: _one_array(table[rule.name]) for rule in some.of.rules}
        return cls(table[NUMBER].to_numpy(), table[EVENT].to_numpy(), values)

    @classmethod
    def by_oracle(cls, some: RowsOf) -> _Rows:
        """What the offline table has to hold of these keys."""
        rules, slides = some.of.rules, slides_of(some.of.definition)
        numbers, events, values = [], [], {rule.name: [] for rule in rules}
        for number in sorted(some.purchases):
            bought = sorted(some.purchases[number], key=lambda purchase: purchase.time)
            for place, rule in enumerate(rules):
                instants, results = zip(*evaluate_each(rule, bought, slides), strict=True)
                values[rule.name] += results
                if place == 0:
                    numbers += [number] * len(instants)
                    events += map(_microseconds, instants)
        columns = {rule.name: pa.array(values[rule.name], rule.type) for rule in rules}
        return cls(np.array(numbers, np.int64), np.array(events, np.int64), columns)

    def __getitem__(self, where: np.ndarray) -> _Rows:
        """Those ``where`` this is true."""
        mask = pa.array(where)
        values = {name: values.filter(mask) for name, values in self.values.items()}
        return _Rows(self.numbers[where], self.events[where], values)

    def equals(self, other: _Rows) -> bool:
        return (
            np.array_equal(self.numbers, other.numbers)
            and np.array_equal(self.events, other.events)
            and all(_same_bits(values, other.values[name]) for name, values in self.values.items())
        )

    def by_number(self) -> dict[int, list[Row]]:
        columns = [nan_as_null(values.to_pylist()) for values in self.values.values()]
        rows: dict[int, list] = {}
        for number, event, *values in zip(self.numbers.tolist(), self.events.tolist(), *columns, strict=True):
            rows.setdefault(number, []).append((event, dict(zip(self.values, values, strict=True))))
        return rows


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    chunks = column.combine_chunks()
    return chunks if isinstance(chunks, pa.Array) else pa.concat_arrays(chunks.chunks)


def _same_bits(a: pa.Array, b: pa.Array) -> bool:
    """Whether all values are the same, at once. If not, or if there is a NaN, it is up to `same`, a value at a time."""
    if a.type != b.type or not a.is_null().equals(b.is_null()):
        return False
    if a.type != pa.float64():
        return a.equals(b)
    a, b = (pc.fill_null(values, 0.0).to_numpy() for values in (a, b))
    return np.array_equal(a.view(np.int64), b.view(np.int64)) and not np.isnan(a).any()


def _all_same(row: Row, other: Row) -> bool:
    return all(same(value, other[1][name]) for name, value in row[1].items())


class _OneKey:
    """The rows of one key that do not all agree; ``named`` are the features that differ at the instant of the
    comparison, where they are not named again."""

    def __init__(
        self,
        some: RowsOf,
        number: int,
        key: Any,
        rows: list[Row],
        right: list[Row],
        named: set[str],
        fresh: Freshness,
        found: Comparison,
    ):
        self.some, self.number, self.key, self.rows, self.right = some, number, key, rows, dict(right)
        self.named, self.fresh, self.found = named, fresh, found
        self.seen = Counter(event for event, _ in rows)
        now = _microseconds(found.at)
        self.last = max((event for event in [*self.seen, *self.right] if event <= now), default=None)
        self.past: Past | None = None

    def differences(self) -> Iterator[Difference]:
        """Count the rows, and give those that differ while there is room."""
        wrong_at = set()
        for event, row in self.rows:
            for feature, training in row.items():
                oracle = self.right[event][feature] if event in self.right else ROW_DROPPED
                if oracle is not ROW_DROPPED and same(training, oracle):
                    self.found.history.counts[MATCH] += 1
                    continue
                wrong_at.add(event)
                if not self._is_named(event, feature):
                    kind = EXTRA_ROW if oracle is ROW_DROPPED else WRONG_ROW
                    yield from self._differs(event, feature, kind, training, oracle)
        timestamp = self.some.of.source.timestamp_field
        for event, count in self.seen.items():
            if count > 1 and event not in wrong_at and not (event == self.last and self.named):
                yield from self._differs(event, timestamp, EXTRA_ROW, f"{count} rows", "1 row")
        for event, row in self.right.items():
            for feature, oracle in row.items():
                if event not in self.seen and not self._is_named(event, feature):
                    yield from self._differs(event, feature, MISSING_ROW, ROW_DROPPED, oracle)

    def _is_named(self, event: int, feature: str) -> bool:
        return event == self.last and feature in self.named

    def _differs(self, event: int, feature: str, kind: str, training: Any, oracle: Any) -> Iterator[Difference]:
        history = self.found.history
        history.counts[kind] += 1
        history.differing_numbers.add(self.number)
        if history.listed < HISTORY_LISTED:
            history.listed += 1
            cause = self._cause(event, feature, kind, training, oracle)
            yield Difference(self.key, feature, kind, cause, training, NOT_ASKED, oracle, nearest_instant(event))

    def _cause(self, event: int, feature: str, kind: str, training: Any, oracle: Any) -> str:
        instant, past, fresh = nearest_instant(event), self._evidence(), self.fresh
        if kind == MISSING_ROW:
            return missing_cause(past, instant, fresh)
        if kind == EXTRA_ROW:
            return TIE if event in self.right else surplus_cause(past, instant, self.found.at, fresh)
        [rule] = [rule for rule in self.some.of.definition.rules if rule.name == feature]
        return wrong_cause(rule, past, instant, training, oracle, fresh)

    def _evidence(self) -> Past:
        if self.past is None:
            rows = [(nearest_instant(event), row) for event, row in self.rows]
            right = {nearest_instant(event): row for event, row in self.right.items()}
            slides = self.some.of.definition.continuous
            is_ahead = self.some.is_ahead(self.number)
            self.past = Past(self.some.purchases.get(self.number, []), rows, right, slides, is_ahead)
        return self.past


def _microseconds(instant: datetime) -> int:
    """How many have passed since 1970."""
    return (instant - EPOCH) // MICROSECOND
