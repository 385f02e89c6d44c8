"""The comparison at an instant: each value of each key on the three sides, and the events that stand behind them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from parity.compare.equal import apart
from parity.definition.keys import as_tuples
from parity.offline.side import history_by_part
from parity.proof.causes import (
    COERCION,
    NEVER,
    TAMPERED,
    Freshness,
    event_cause,
)
from parity.proof.edges import compare_edges, draw_of
from parity.proof.found import EXTRA, MATCH, MISMATCH, MISSING, Comparison, Difference, OtherKey, plain
from parity.proof.history import RowsOf, compare_rows
from parity.proof.oracle import is_expired, last_event, last_moment, slides_of
from parity.proof.raw import Purchase
from parity.proof.sides import Batch, cause_of, evidence_of, kind_of, three_sides
from parity.proof.streamed import applied_offsets

if TYPE_CHECKING:
    from parity.proof.proof import Proof

KEYS_PER_BATCH = 20_000


def compare(proof: Proof, numbers: np.ndarray, fresh: Freshness, found: Comparison) -> Iterator[Batch]:
    """Compare every feature of the keys with these ``numbers``, all of them or some, at the instant of ``proof``, and
    every row that the offline table has of them with the oracle; of the past, those up to that instant.

    Of keys whose events are at odds the event timestamp is a difference too, even if all their values are equal: they
    would not expire together, or a row from the future would be served when its time has come. It is none where the
    events on both sides are older than the ttl, as nothing of them is ever served again.

    Of a continuous table, edges are compared too: see `parity.proof.edges`.

    Holds some thousand keys at a time, and yields what it has compared of them, to draw a picture, say.
    """
    known, raw, everyone = proof.known, proof.raw, len(numbers) == len(proof)
    chosen = np.zeros(len(proof), bool)
    chosen[numbers] = True
    parts = _Parts(proof)
    number_of = parts.number if everyone else lambda keys: parts.number_chosen(keys, chosen)
    in_history: list[Difference] = []
    draw = draw_of(proof, found)

    def is_ahead(number: int) -> bool:
        if fresh.landed == fresh.computed_of:
            return False  # so nothing that a stream has brought is missing for that
        [applied] = applied_offsets(proof.store, proof.table, known.book.keys(np.array([number])))
        return not fresh.is_computed(applied)

    with history_by_part(proof.store, proof.table, number_of, parts.of, len(raw)) as rows_of:
        for part in range(len(raw)):
            of_part = numbers[parts.of(numbers) == part]
            purchases = parts.purchases(part, chosen)
            for start in range(0, len(of_part), KEYS_PER_BATCH):
                batch = _ask(proof, of_part[start : start + KEYS_PER_BATCH], purchases)
                _count(proof, batch, fresh, found)
                at_odds = sorted(known.at_odds.intersection(batch.numbers.tolist()) - found.differing_numbers)
                _count_events(proof, np.array(at_odds, np.int64), purchases, fresh, found)
                yield batch
            rows = RowsOf(proof.table, rows_of(part), purchases, known.book, is_ahead)
            in_history += compare_rows(rows, fresh, found, draw)
    if everyone or found.sample:
        _count_others(proof, found)
    found.left_over = len(known.left_over.intersection(numbers.tolist()) - set(found.skewed.tolist()))
    found.differences += in_history
    if draw:
        compare_edges(proof, draw, fresh, found)


class _Parts:
    """How the keys that are numbered in a proof are divided, in the parts that the raw transactions are in."""

    def __init__(self, proof: Proof):
        self._book, self._raw, self._numbers = proof.known.book, proof.raw, proof.known.raw

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """The parts of keys; of those that are not in the raw transactions, any."""
        known = numbers < len(self._numbers)
        raw = np.where(known, self._numbers[np.where(known, numbers, 0)], -1)
        return np.where(raw >= 0, raw, numbers) % len(self._raw)

    def number(self, keys: Any) -> np.ndarray:
        """The numbers of keys, also of those that only the history knows."""
        return self._book.number(keys)

    def number_chosen(self, keys: Any, chosen: np.ndarray) -> np.ndarray:
        numbers = self._book.find(keys)
        inside = (numbers >= 0) & (numbers < len(chosen))
        return np.where(inside & chosen[np.where(inside, numbers, 0)], numbers, -1)

    def purchases(self, part: int, chosen: np.ndarray) -> dict[int, list[Purchase]]:
        """The purchases of the chosen keys of a part, by number."""
        of_raw = self._raw.part(part)
        numbers = np.flatnonzero(chosen & (self._numbers >= 0))
        numbers = numbers[self._numbers[numbers] % len(self._raw) == part]
        return {n: of_raw[raw] for n, raw in zip(numbers.tolist(), self._numbers[numbers].tolist(), strict=True)}


def _ask(proof: Proof, numbers: np.ndarray, purchases: Mapping[int, list[Purchase]]) -> Batch:
    keys = proof.known.book.keys(numbers)
    some = [purchases.get(number, []) for number in numbers.tolist()]
    return Batch(numbers, keys, three_sides(proof.store, proof.table, keys, some, proof.at), some)


def _count(
    proof: Proof,
    batch: Batch,
    fresh: Freshness,
    found: Comparison,
) -> None:
    different = []
    for feature in proof.table.features:
        training, serving, oracle = values = batch.sides[feature.name]
        declared = str(feature.dtype)
        odd = {*apart(training, serving, declared), *apart(training, oracle, declared)}
        found.counts[MATCH] += len(training) - len(odd)
        found.nulls += training.count(None) - sum(training[place] is None for place in odd)
        for place in odd:
            sides = tuple(side[place] for side in values)
            kind = kind_of(*sides)
            found.counts[kind] += 1
            different.append((place, feature.name, kind, *sides))
    found.keys += len(batch.numbers)
    slides = slides_of(proof.table.definition)
    lasts = [last for some in batch.purchases if (last := last_moment(some, found.at, slides))]
    expired = sum(is_expired(last, found.at, found.ttl) for last in lasts)
    found.expired, found.current = found.expired + expired, found.current + len(lasts) - expired
    lasts = [last for some in batch.purchases if (last := last_event(some, found.at))] if slides else lasts
    found.last = max([*lasts, *([found.last] if found.last else [])], default=None)
    if not different:
        return
    order = {feature: place for place, feature in enumerate(batch.sides)}
    different.sort(key=lambda values: (values[0], order[values[1]]))
    places = sorted({place for place, *_ in different})
    keys = batch.keys.take(places)
    found.differing_numbers.update(batch.numbers[places].tolist())
    some = [batch.purchases[place] for place in places]
    evidence = dict(
        zip(places, evidence_of(proof.store, proof.table, keys, some, [found.at] * len(places)), strict=True)
    )
    named = dict(zip(places, map(plain, as_tuples(keys)), strict=True))
    for place, feature, kind, training, serving, oracle in different:
        cause = cause_of(proof.table, feature, evidence[place], (training, serving, oracle), found.at, fresh)
        found.differences.append(Difference(named[place], feature, kind, cause, training, serving, oracle))


def _count_events(
    proof: Proof,
    numbers: np.ndarray,
    purchases: Mapping[int, list[Purchase]],
    fresh: Freshness,
    found: Comparison,
) -> None:
    """Count the event timestamps that differ, or are not unique, of keys in whose values nothing differs."""
    keys = proof.known.book.keys(numbers)
    some = [purchases.get(number, []) for number in numbers.tolist()]
    evidence = evidence_of(proof.store, proof.table, keys, some, [found.at] * len(some))
    for key, number, e in zip(as_tuples(keys), numbers.tolist(), evidence, strict=True):
        offline, oracle = max(e.history, default=None), max(e.events, default=None)
        events = [event for event in (offline, e.stored_at) if event]
        if not events or is_expired(max(events), found.at, found.ttl):
            continue  # null on both sides for good
        if offline == e.stored_at and offline not in e.tied:
            continue
        kind = MISMATCH if len(events) == 2 else EXTRA if e.stored_at else MISSING
        found.counts[kind] += 1
        found.differing_numbers.add(number)
        hidden = e.hidden if e.history else None
        cause = (hidden or event_cause(e, found.at, fresh) or TAMPERED) if e.stored_at else NEVER
        event = proof.table.source.timestamp_field
        found.differences.append(Difference(plain(key), event, kind, cause, offline, e.stored_at, oracle))


def _count_others(proof: Proof, found: Comparison) -> None:
    """Count the rows online under keys of another type than declared: nobody has written them by this definition."""
    found.others = proof.known.others
    found.counts[EXTRA] += found.others.count
    event = proof.table.source.timestamp_field
    for name in found.others.examples:
        found.differences.append(Difference(OtherKey(name), event, EXTRA, COERCION, None, "a row", None))
