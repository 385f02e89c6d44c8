"""The proof: three sides, compared by key and for equality, for every user and every feature at one instant.

- training: what the offline store answers (`get_historical_features`),
- serving: what the online store answers (`get_online_features`),
- the oracle: what the raw transactions give, worked out again by an independent, naive implementation.

Equal means equal: of the same type and value, no tolerance, null equal to null, and NaN is null by another name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from feast import FeatureService, FeatureStore, FeatureView
from feast.aggregation import Aggregation

from parity.causes import EXPIRED, NEVER, TAMPERED, Evidence, Freshness, event_cause, offline_cause, online_cause, same
from parity.command import UserError
from parity.files import Location, location, modified, progress
from parity.offline import EVER, ROW_DROPPED, history_of, latest_events, tied_events, training_values
from parity.online import clock_of, serving_values, stored_events, stored_rows
from parity.online_store import ParityRedisOnlineStore
from parity.oracle import Purchase, RawTransactions, expected
from parity.repository import COMPUTE, MATERIALIZE

USERS_PER_BATCH = 20_000
MATCH, MISMATCH, MISSING, EXTRA, WRONG = "match", "mismatch", "missing online", "extra online", "equal but wrong"
KINDS = [MATCH, MISMATCH, MISSING, EXTRA, WRONG]


class Difference(NamedTuple):
    """One value on which the three sides do not agree."""

    user: int
    feature: str
    kind: str
    cause: str
    training: Any
    serving: Any
    oracle: Any


class Values(NamedTuple):
    """What the three sides say of one feature of the same users, in the same order."""

    training: list
    serving: list
    oracle: list


@dataclass
class Comparison:
    """What a comparison found: values of each kind counted, every difference kept."""

    at: datetime
    features: list[str]
    users: int = 0
    counts: Counter = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    differences: list[Difference] = field(default_factory=list)

    @property
    def values(self) -> int:
        return self.counts.total()

    @property
    def users_skewed(self) -> list[int]:
        return sorted({difference.user for difference in self.differences})

    @property
    def causes(self) -> Counter:
        return Counter(difference.cause for difference in self.differences)


class Subject(NamedTuple):
    """What is proven: one feature view of a store, as a service asks for it, and how its features are declared."""

    store: FeatureStore
    service: FeatureService
    view: FeatureView
    aggregations: Sequence[Aggregation]


class Sample(NamedTuple):
    """A draw of ``size`` users, every one of ``of`` users as likely as another, that ``seed`` repeats."""

    size: int
    seed: int
    of: int

    def draw(self, ids: np.ndarray) -> np.ndarray:
        return np.random.default_rng(self.seed).choice(ids, self.size, replace=False)


@dataclass(frozen=True)
class Users:
    """The ids, int64 and ascending, that each side knows up to the instant of a comparison."""

    offline: np.ndarray
    online: np.ndarray
    raw: np.ndarray
    events_at_odds: frozenset[int] = frozenset()
    """The users of whom the offline store knows another last event than the online store holds, or several rows."""

    @property
    def all(self) -> np.ndarray:
        return np.union1d(np.union1d(self.offline, self.online), self.raw)

    def sampled(self, size: int | None, seed: int) -> tuple[np.ndarray, Sample | None]:
        """Give ``size`` of the users and how they were drawn, or all of them if there are no more."""
        everyone = self.all
        if size is None or size >= len(everyone):
            return everyone, None
        sample = Sample(size, seed, len(everyone))
        return sample.draw(everyone), sample

    def choose(self, wanted: int | None) -> int:
        """Give ``wanted``, or else the first user; a `UserError` for one that no side knows."""
        if wanted is None:
            return int(self.all[0])
        if wanted not in self.all:
            raise UserError(f"user {wanted} has no transactions; ids run from {self.all[0]} to {self.all[-1]}.")
        return wanted


def known_users(subject: Subject, raw: RawTransactions, at: datetime) -> Users:
    """Find the users that each side knows; `UserError` if there are none offline, or none online."""
    store, view = subject.store, subject.view
    latest = latest_events(store, view, EVER, at)
    offline, events = (latest[name].to_numpy() for name in latest.column_names)
    if not len(offline):
        raise UserError(f"{view.batch_source.path} has no rows up to {at.isoformat()}. {COMPUTE}")
    stored = stored_events(store, view)
    if not len(stored.ids):
        raise UserError(f"Redis holds nothing of {view.name}. {MATERIALIZE}")
    _, here, there = np.intersect1d(offline, stored.ids, assume_unique=True, return_indices=True)
    odd = offline[here][events[here].astype("datetime64[us]") != stored.events[there]].tolist()
    tied = tied_events(store, view, at)[view.join_keys[0]].to_pylist()
    return Users(offline, stored.ids, raw.users, frozenset([*odd, *tied]))


Look = Callable[[list[int], dict[str, Values], dict[int, list[Purchase]]], Any]


def compare(
    subject: Subject,
    raw: RawTransactions,
    transactions: Location,
    ids: np.ndarray,
    at: datetime,
    events_at_odds: Container[int] = (),
    look: Look = lambda *_: None,
) -> Comparison:
    """Compare every feature of ``ids`` (int64, distinct) on the three sides at the instant ``at``.

    Of users in ``events_at_odds`` the event timestamp is a difference too, even if all their values are equal: they
    would not expire together.

    ``raw`` was read from the file ``transactions``. Holds the values of some thousand users at a time; ``look`` is
    called with those (users, the three sides of each feature, purchases of each user) to draw a picture, say.
    """
    found = Comparison(at, [feature.name for feature in subject.view.features])
    fresh = Freshness(
        modified(transactions),
        modified(location(subject.view.batch_source.path)),
        _online_since(subject),
    )
    with progress("compare", len(ids), "user") as bar:
        for part in range(len(raw)):
            of_part = np.sort(ids[raw.part_of(ids) == part])
            purchases = raw.part(part) if len(of_part) else {}
            for start in range(0, len(of_part), USERS_PER_BATCH):
                batch = of_part[start : start + USERS_PER_BATCH]
                sides = three_sides(subject, purchases, batch, at)
                look(batch.tolist(), sides, purchases)
                _count(subject, purchases, batch, sides, fresh, found)
                _count_events(subject, purchases, [user for user in batch.tolist() if user in events_at_odds], found)
                bar.update(len(batch))
    order = {feature: place for place, feature in enumerate(found.features)}
    found.differences.sort(key=lambda d: (d.user, order.get(d.feature, -1)))
    return found


def three_sides(
    subject: Subject, purchases: dict[int, list[Purchase]], ids: np.ndarray, at: datetime
) -> dict[str, Values]:
    """Ask the three sides for every feature of ``ids`` (int64, distinct, ascending) at ``at``."""
    store, service, view, aggregations = subject
    training = training_values(store, service, view, ids, at)
    with clock_of(store, at):
        serving = serving_values(store, service, view, ids)
    return {
        a.name: Values(
            training[a.name],
            serving[a.name],
            [expected(a, purchases.get(user, []), at, view.ttl) for user in ids.tolist()],
        )
        for a in aggregations
    }


def _count(
    subject: Subject,
    purchases: dict[int, list[Purchase]],
    ids: np.ndarray,
    sides: dict[str, Values],
    fresh: Freshness,
    found: Comparison,
) -> None:
    different = []
    for feature, values in sides.items():
        for user, training, serving, oracle in zip(ids.tolist(), *values, strict=True):
            kind = _kind(training, serving, oracle)
            found.counts[kind] += 1
            if kind != MATCH:
                different.append((user, feature, kind, training, serving, oracle))
    found.users += len(ids)
    if not different:
        return
    evidence = _gather(subject, purchases, {user for user, *_ in different}, found.at)
    declared = {aggregation.name: aggregation for aggregation in subject.aggregations}
    for user, feature, kind, training, serving, oracle in different:
        if training is ROW_DROPPED:
            cause = EXPIRED if evidence[user].history else NEVER
        elif same(training, oracle):
            cause = online_cause(feature, declared[feature], evidence[user], found.at, fresh)
        elif same(training, serving) or same(serving, oracle):
            cause = offline_cause(feature, declared[feature], evidence[user], oracle, fresh)
        else:
            cause = online_cause(feature, declared[feature], evidence[user], found.at, fresh)
        found.differences.append(Difference(user, feature, kind, cause, training, serving, oracle))


def _count_events(subject: Subject, purchases: dict[int, list[Purchase]], users: list[int], found: Comparison) -> None:
    """Count the event timestamps that differ, or are not unique, of users in whose values nothing differs."""
    counted = {difference.user for difference in found.differences}
    evidence = _gather(subject, purchases, set(users) - counted, found.at) if users else {}
    for user, e in evidence.items():
        offline, oracle = max(e.history, default=None), max((p.time for p in e.purchases), default=None)
        ttl, stored = subject.view.ttl, e.stored_at or EVER
        if not offline or (ttl and found.at - max(offline, stored) > ttl):
            continue  # null on both sides for good
        if offline == stored and offline not in e.tied:
            continue
        found.counts[MISMATCH] += 1
        cause = event_cause(e, found.at) or TAMPERED
        event = subject.view.batch_source.timestamp_field
        found.differences.append(Difference(user, event, MISMATCH, cause, offline, e.stored_at, oracle))


def _online_since(subject: Subject) -> datetime | None:
    """Since when the online store may hold what it holds: the last materialization, unless corrections are not let in,
    as in Feast's stock store; then the first."""
    ends = [end for _, end in subject.store.get_feature_view(subject.view.name).materialization_intervals]
    lets_in = isinstance(subject.store._get_provider().online_store, ParityRedisOnlineStore)
    return max(ends) if ends and lets_in else min(ends, default=None)


def _kind(training: Any, serving: Any, oracle: Any) -> str:
    if training is ROW_DROPPED:
        return EXTRA
    if not same(training, serving):
        return MISSING if serving is None else EXTRA if training is None else MISMATCH
    return MATCH if same(training, oracle) else WRONG


def _gather(
    subject: Subject, purchases: dict[int, list[Purchase]], users: Iterable[int], at: datetime
) -> dict[int, Evidence]:
    ids = sorted(users)
    history = history_of(subject.store, subject.view, ids, at)
    stored = stored_rows(subject.store, subject.view, ids)
    evidence = {}
    for user, (stored_at, values) in zip(ids, stored, strict=True):
        events = Counter(event for event, _ in history.get(user, []))
        evidence[user] = Evidence(
            purchases=[purchase for purchase in purchases.get(user, []) if purchase.time <= at],
            history=dict(history.get(user, [])),
            tied={event for event, rows in events.items() if rows > 1},
            stored_at=stored_at,
            stored=values,
        )
    return evidence
