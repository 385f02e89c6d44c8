"""The comparison at the edges: a microsecond before, at and after instants at which a continuous table has a new row.

Those of the past are asked of training, by the history; those to come, up to the horizon of what is online now, of
serving too, whose clock stands at each of them, and nothing is written. They are a sample that a seed repeats.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from parity.compare.equal import same
from parity.definition.declare import horizon_of
from parity.definition.instants import EPOCH, FIRST_INSTANT, LAST_INSTANT, MICROSECOND
from parity.definition.keys import as_tuples
from parity.online.side import clock_of
from parity.proof.causes import Evidence, Freshness
from parity.proof.found import MATCH, NOT_ASKED, WRONG_ROW, Comparison, Difference, Edges, plain
from parity.proof.held import horizons
from parity.proof.raw import Purchase
from parity.proof.sides import cause_of, evidence_of, kind_of, oracle_values, serving_values, training_values

if TYPE_CHECKING:
    from parity.proof.proof import Proof

DRAWN = 100
"""So many instants of the past, and to come, are drawn."""
MOST_LOOKS = 2_000_000
"""How many purchases the oracle looks at for them, at most; keys with very many leave room for fewer instants."""


class Step(NamedTuple):
    """An instant at which values of a key, by its number, change."""

    number: int
    instant: datetime


class Draw:
    """Some of the instants at which values change, each as likely as another, of keys that are gone through by and by:
    ``past`` and ``ahead`` of ``at``, and the purchases of their keys."""

    def __init__(self, edges: Edges, at: datetime, horizon: int, only_past: bool):
        self._random = np.random.default_rng(edges.seed)
        now = (at - EPOCH) // MICROSECOND
        self._spans = [(np.iinfo(np.int64).min, now)] + ([] if only_past else [(now, now + horizon)])
        self._drawn = [(np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)) for _ in self._spans]
        self.purchases: dict[int, list[Purchase]] = {}

    def look(self, numbers: np.ndarray, events: np.ndarray, purchases: Mapping[int, list[Purchase]]) -> None:
        """Take up some of these rows of the oracle, whose keys have these ``purchases``."""
        order = self._random.random(len(events))
        for place, (start, end) in enumerate(self._spans):
            inside = (events > start) & (events <= end)
            every = [
                np.append(old, new[inside])
                for old, new in zip(self._drawn[place], (order, numbers, events), strict=True)
            ]
            first = np.argsort(every[0], kind="stable")[:DRAWN]
            self._drawn[place] = tuple(column[first] for column in every)
        kept = {number for _, drawn, _ in self._drawn for number in drawn.tolist()}
        self.purchases |= {number: purchases[number] for number in kept if number in purchases}
        self.purchases = {number: some for number, some in self.purchases.items() if number in kept}

    def steps(self, ahead: bool) -> list[Step]:
        if ahead and len(self._drawn) == 1:
            return []
        _, numbers, events = self._drawn[ahead]
        return [Step(n, EPOCH + e * MICROSECOND) for n, e in zip(numbers.tolist(), events.tolist(), strict=True)]


def draw_of(proof: Proof, found: Comparison) -> Draw | None:
    """What draws the edges of a comparison, if its table is continuous."""
    return Draw(found.edges, proof.at, horizon_of(proof.table.view) or 0, proof.past) if found.edges else None


def compare_edges(proof: Proof, draw: Draw, fresh: Freshness, found: Comparison) -> None:
    """Compare at the edges of what is drawn, of keys that do not differ anyway."""
    skewed = set(found.skewed.tolist())
    past, ahead = ([step for step in draw.steps(ahead) if step.number not in skewed] for ahead in (False, True))
    past, ahead = _affordable(proof, past, draw), _affordable(proof, _known(proof, ahead), draw)
    found.edges.past, found.edges.ahead = len(past), len(ahead)
    for asked, is_ahead in ((_around(past), False), (_around(ahead), True)):
        if asked:
            _compare(proof, asked, is_ahead, draw.purchases, fresh, found)


def _known(proof: Proof, steps: list[Step]) -> list[Step]:
    """Those up to which, and a microsecond farther, the rows online know their future."""
    keys = proof.known.book.keys(np.array([step.number for step in steps], np.int64))
    until = horizons(proof.store, proof.table, keys) if steps else []
    return [step for step, end in zip(steps, until, strict=True) if end and step.instant < end]


def _affordable(proof: Proof, steps: list[Step], draw: Draw) -> list[Step]:
    chosen, looks, rules = [], 0, len(proof.table.rules)
    for step in steps:
        looks_here = 3 * (rules + 1) * len(draw.purchases[step.number])
        if not chosen or looks + looks_here <= MOST_LOOKS:
            chosen.append(step)
            looks += looks_here
    return chosen


def _around(steps: list[Step]) -> list[Step]:
    """A microsecond before, at and after each, sorted by the instant."""
    distances = [step.instant - EPOCH for step in steps]
    first, last = FIRST_INSTANT - EPOCH, LAST_INSTANT - EPOCH
    around = {
        Step(step.number, EPOCH + distance + beside * MICROSECOND)
        for step, distance in zip(steps, distances, strict=True)
        for beside in (-1, 0, 1)
        if first <= distance + beside * MICROSECOND <= last
    }
    return sorted(around, key=lambda step: (step.instant, step.number))


def _compare(
    proof: Proof,
    asked: list[Step],
    is_ahead: bool,
    purchases: Mapping[int, list[Purchase]],
    fresh: Freshness,
    found: Comparison,
) -> None:
    numbers, instants = np.array([step.number for step in asked], np.int64), [step.instant for step in asked]
    keys = proof.known.book.keys(numbers)
    names = list(map(plain, as_tuples(keys)))
    training = training_values(proof.store, proof.table, keys, instants)
    right = [(name, purchases[step.number], step.instant) for name, step in zip(names, asked, strict=True)]
    oracle = oracle_values(proof.table, right)
    serving = _served(proof, asked) if is_ahead else {name: [NOT_ASKED] * len(asked) for name in training}
    different = []
    for feature, values in training.items():
        for place, (a, b, c) in enumerate(zip(values, serving[feature], oracle[feature], strict=True)):
            kind = kind_of(a, b, c) if is_ahead else MATCH if same(a, c) else WRONG_ROW
            found.edges.counts[kind] += 1
            if kind != MATCH:
                different.append((place, feature, kind, a, b, c))
    if not different:
        return
    places = sorted({place for place, *_ in different})
    some, at = [right[place][1] for place in places], [instants[place] for place in places]
    evidence = dict(zip(places, evidence_of(proof.store, proof.table, keys.take(places), some, at), strict=True))
    found.edges.differing_numbers.update(numbers[places].tolist())
    for place, feature, kind, a, b, c in sorted(different, key=lambda one: one[0]):
        cause = _cause(proof, feature, evidence[place], (a, b, c), instants[place], fresh)
        found.differences.append(Difference(names[place], feature, kind, cause, a, b, c, instants[place]))


def _cause(proof: Proof, feature: str, evidence: Evidence, sides: tuple, at: datetime, fresh: Freshness) -> str:
    training, serving, oracle = sides
    sides = (training, training, oracle) if serving is NOT_ASKED else sides
    return cause_of(proof.table, feature, evidence, sides, at, fresh)


def _served(proof: Proof, asked: list[Step]) -> dict[str, list]:
    """What serving says at each instant, one read for each instant."""
    served: dict[str, list] = {rule.name: [] for rule in proof.table.rules}
    start = 0
    while start < len(asked):
        at, end = asked[start].instant, start
        while end < len(asked) and asked[end].instant == at:
            end += 1
        keys = proof.known.book.keys(np.array([step.number for step in asked[start:end]], np.int64))
        with clock_of(proof.store, at):
            for name, values in serving_values(proof.store, proof.table, keys).items():
                served[name] += values
        start = end
    return served
