"""The proof: three sides, compared by key and for equality, for every user and every feature at one instant; and every
row that training can read, of any instant, against the oracle.

- training: what the offline store answers (`get_historical_features`),
- serving: what the online store answers (`get_online_features`),
- the oracle: what the raw transactions give, worked out again by an independent, naive implementation.

Equal means equal: of the same type and bits, no tolerance, null equal to null, and NaN is null by another name. Zero is
0.0 on every side, and -0.0 is another value.

What training gets at any instant is one of the rows of the offline table: the last one of its user by then. So the
history is proven row by row, as the offline store reads them, and not by asking for training data at each instant,
which shows one of several rows of an instant, and none that is where no purchase was.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast import FeatureStore, FeatureView

from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, FIRST_INSTANT, LAST_INSTANT, MICROSECOND
from parity.definition.table import Rule
from parity.edge import feast_internals
from parity.edge.errors import UserError
from parity.edge.files import Location, location, modified, progress
from parity.offline.side import (
    EVER,
    ROW_DROPPED,
    history_by_part,
    history_of,
    latest_events,
    nan_as_null,
    tied_events,
    training_values,
)
from parity.online.side import NO_OTHERS, Others, clock_of, serving_values, stored_events, stored_rows
from parity.online.store import ParityRedisOnlineStore
from parity.proof.causes import (
    EXPIRED,
    NEVER,
    TAMPERED,
    TIE,
    Evidence,
    Freshness,
    Past,
    event_cause,
    missing_cause,
    offline_cause,
    online_cause,
    same,
    surplus_cause,
    wrong_cause,
)
from parity.proof.oracle import Purchase, RawTransactions, evaluate_each, expected, is_expired, last_event
from parity.repository import COMPUTE, MATERIALIZE

USERS_PER_BATCH = 20_000
MATCH, MISMATCH, MISSING, EXTRA, WRONG = "match", "mismatch", "missing online", "extra online", "equal but wrong"
KINDS = [MATCH, MISMATCH, MISSING, EXTRA, WRONG]
WRONG_ROW, MISSING_ROW, EXTRA_ROW = "wrong in history", "missing in history", "extra in history"
HISTORY_KINDS = [MATCH, WRONG_ROW, MISSING_ROW, EXTRA_ROW]
HISTORY_LISTED = 1000
"""Values of the history that are listed, each with its cause; more that differ are counted."""
CONFIDENCE = 0.95
NOT_ASKED = "not asked"
"""What stands for serving in the history, of which the online store has the last event only."""


class Difference(NamedTuple):
    """One value on which the sides do not agree: at the instant of the comparison, or in the row of an ``instant``.

    A side that has no such row has `ROW_DROPPED`.
    """

    user: int
    feature: str
    kind: str
    cause: str
    training: Any
    serving: Any
    oracle: Any
    instant: datetime | None = None


class Values(NamedTuple):
    """What the three sides say of one feature of the same users, in the same order."""

    training: list
    serving: list
    oracle: list


@dataclass
class History:
    """What a comparison found in the rows of the offline table: values of each kind counted."""

    rows: int = 0
    users: int = 0
    counts: Counter = field(default_factory=lambda: Counter(dict.fromkeys(HISTORY_KINDS, 0)))
    later: int = 0
    """How many rows lie after the instant of the comparison. Those of the past are not looked at, nor in ``rows``."""
    users_differing: set[int] = field(default_factory=set)
    listed: int = 0

    @property
    def differing(self) -> int:
        return self.counts.total() - self.counts[MATCH]


@dataclass
class Comparison:
    """What a comparison found: values of each kind counted, every difference at its instant kept, and the first
    `HISTORY_LISTED` of the history; and what it did not see."""

    at: datetime
    features: list[str]
    users: int = 0
    counts: Counter = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    differences: list[Difference] = field(default_factory=list)
    history: History = field(default_factory=History)
    nulls: int = 0
    """Values that match because they are null on all sides."""
    expired: int = 0
    """Users whose last purchase is older than the ttl, which is why their values are null."""
    ttl: timedelta | None = None
    last: datetime | None = None
    """The last purchase of the users compared, up to ``at``."""
    past: bool = False
    """Whether no row of the history from after ``at`` was looked at."""
    unseen: Sequence[str] = ()
    """Feature views of the project that were not looked at."""
    others: Others = NO_OTHERS
    """Keys in Redis that were not looked at."""
    left_over: int = 0
    """Users who are left over online: the offline store does not know them, and their row is older than the ttl."""

    @property
    def values(self) -> int:
        return self.counts.total()

    @property
    def differing(self) -> int:
        return self.values - self.counts[MATCH] + self.history.differing

    @property
    def users_skewed(self) -> list[int]:
        return sorted({difference.user for difference in self.differences} | self.history.users_differing)

    @property
    def causes(self) -> Counter:
        return Counter(difference.cause for difference in self.differences)


class Subject(NamedTuple):
    """What is proven: one feature table of a store; and the feature views of the project that are not."""

    store: FeatureStore
    table: FeatureTable
    unseen: Sequence[str] = ()

    @property
    def view(self) -> FeatureView:
        return self.table.view

    @property
    def aggregations(self) -> Sequence[Rule]:
        return self.table.definition.rules


@contextmanager
def surveyed(store: FeatureStore, table: FeatureTable, declared: Sequence[str] = ()) -> Iterator[list[str]]:
    """Yield the feature views of the project that a proof of ``table`` does not look at: those that were applied, and
    those that are only ``declared``.

    `UserError` if the service of ``table``, as declared or as applied, does not give all of its features.
    """
    view = table.view
    for asked in (table.service, store.get_feature_service(table.service.name)):
        projections = [projection for projection in asked.feature_view_projections if projection.name == view.name]
        given = {feature.name for projection in projections for feature in projection.features}
        left_out = [feature.name for feature in view.features if feature.name not in given]
        if left_out:
            raise UserError(
                f"the feature service {asked.name} leaves out {', '.join(left_out)} of {view.name}, and a proof covers "
                f"all of its features. Let it have the whole of {view.name}, then run feast apply."
            )
    kinds = {"OnDemandFeatureView": " (on demand)", "StreamFeatureView": " (stream)"}
    views = [other for other in store.list_all_feature_views() if other.name != view.name]
    applied = [f"{other.name}{kinds.get(type(other).__name__, '')}" for other in views]
    not_applied = set(declared) - {other.name for other in views}
    yield sorted([*applied, *(f"{name} (not applied)" for name in not_applied)])


class Sample(NamedTuple):
    """A draw of ``size`` users, every one of ``of`` users as likely as another, that ``seed`` repeats."""

    size: int
    seed: int
    of: int

    def draw(self, ids: np.ndarray) -> np.ndarray:
        return np.random.default_rng(self.seed).choice(ids, self.size, replace=False)


def bound(users: int) -> float:
    """The share of all users that differ at most, with none among so many drawn at random, at `CONFIDENCE`.

    It is the rule of three: 3/n at 95 % (Hanley and Lippman-Hand, "If nothing goes wrong, is everything all right?",
    JAMA 1983).
    """
    return min(1.0, 3 / users)


@dataclass(frozen=True)
class Users:
    """The ids, int64 and ascending, that each side knows up to the instant of a comparison."""

    offline: np.ndarray
    online: np.ndarray
    raw: np.ndarray
    events_at_odds: frozenset[int] = frozenset()
    """The users of whom the online store holds another event than the last one that the offline store knows, or an
    event where that knows none; or of whom the offline store has several rows of one event."""
    left_over: frozenset[int] = frozenset()
    """The users whom the offline store does not know, and whose event online is older than the ttl."""
    others: Others = NO_OTHERS
    """What else lies in Redis under the keys of these users."""

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
    latest = latest_events(store, subject.table, EVER, at)
    offline, events = (latest[name].to_numpy() for name in latest.column_names)
    if not len(offline):
        raise UserError(f"{view.batch_source.path} has no rows up to {at.isoformat()}. {COMPUTE}")
    stored = stored_events(store, view)
    if not len(stored.ids):
        but = f" but {stored.others}, which nothing reads" if stored.others.count else ""
        raise UserError(f"Redis holds nothing of {view.name}{but}. {MATERIALIZE}")
    _, here, there = np.intersect1d(offline, stored.ids, assume_unique=True, return_indices=True)
    odd = offline[here][events[here].astype("datetime64[us]") != stored.events[there]].tolist()
    tied = tied_events(store, subject.table, at)[view.join_keys[0]].to_pylist()
    strange = ~np.isin(stored.ids, offline)
    old = strange & _are_expired(stored.events, at, view.ttl)
    odd += stored.ids[strange & ~old].tolist()
    left_over = frozenset(stored.ids[old].tolist())
    return Users(offline, stored.ids, raw.users, frozenset([*odd, *tied]), left_over, stored.others)


def _are_expired(events: np.ndarray, at: datetime, ttl: timedelta | None) -> np.ndarray:
    """As `is_expired`, of many events: datetime64[us] in UTC."""
    if not ttl or at - EVER < ttl:
        return np.zeros(len(events), bool)
    return events < np.datetime64((at - ttl).astimezone(UTC).replace(tzinfo=None), "us")


Look = Callable[[list[int], dict[str, Values], dict[int, list[Purchase]]], Any]


def compare(
    subject: Subject,
    raw: RawTransactions,
    transactions: Location,
    users: Users,
    ids: np.ndarray,
    at: datetime,
    look: Look = lambda *_: None,
    past: bool = False,
) -> Comparison:
    """Compare every feature of ``ids`` (int64, distinct), some or all of ``users``, on the three sides at the instant
    ``at``, and every row that the offline table has of them with the oracle; in the ``past``, those up to ``at``.

    Of users whose events are at odds the event timestamp is a difference too, even if all their values are equal: they
    would not expire together, or a row from the future would be served when its time has come. It is none where the
    events on both sides are older than the ttl, as nothing of them is ever served again.

    ``raw`` was read from the file ``transactions``. Holds the values of some thousand users at a time; ``look`` is
    called with those (users, the three sides of each feature, purchases of each user) to draw a picture, say.
    """
    view = subject.view
    found = Comparison(at, [feature.name for feature in view.features], unseen=subject.unseen, others=users.others)
    found.ttl, found.past = view.ttl, past
    fresh = Freshness(modified(transactions), modified(location(view.batch_source.path)), _online_since(subject))
    everyone = len(ids) == len(users.all)
    in_history: list[Difference] = []
    with (
        history_by_part(subject.store, subject.table, raw.part_of, len(raw), None if everyone else ids) as rows_of,
        progress("compare", len(ids), "user") as bar,
    ):
        for part in range(len(raw)):
            of_part = np.sort(ids[raw.part_of(ids) == part])
            purchases = raw.part(part) if len(of_part) else {}
            for start in range(0, len(of_part), USERS_PER_BATCH):
                batch = of_part[start : start + USERS_PER_BATCH]
                sides = three_sides(subject, purchases, batch, at)
                look(batch.tolist(), sides, purchases)
                _count(subject, purchases, batch, sides, fresh, found)
                _count_events(subject, purchases, set(batch.tolist()) & users.events_at_odds, fresh, found)
                bar.update(len(batch))
            some = {user: purchases[user] for user in of_part.tolist() if user in purchases}
            in_history += _count_rows(subject, some, rows_of(part), fresh, found)
    found.left_over = len(users.left_over.intersection(ids.tolist()).difference(found.users_skewed))
    order = {feature: place for place, feature in enumerate(found.features)}
    found.differences.sort(key=lambda d: (d.user, order.get(d.feature, -1)))
    in_history.sort(key=lambda d: (d.user, d.instant, order.get(d.feature, -1)))
    found.differences += in_history
    return found


def require_values(found: Comparison) -> None:
    """Raise a `UserError` if nothing was compared but nulls, which proves nothing."""
    if found.differences or found.nulls < found.values:
        return
    reason = f"no purchase of these {found.users:,} users was known by then"
    if found.expired:
        reason = f"the last purchase of {found.expired:,} users is more than the ttl of {duration(found.ttl)} ago"
    hint = f"Compare as of an instant with values: --at {(found.last + MICROSECOND).isoformat()}" if found.last else ""
    raise UserError(
        f"nothing is proven: at {found.at.isoformat()} every value of every user is null on all sides, because "
        f"{reason}. {hint or 'Compare as of a later instant.'}"
    )


def duration(span: timedelta) -> str:
    return str(span).removesuffix(", 0:00:00")


def three_sides(
    subject: Subject, purchases: dict[int, list[Purchase]], ids: np.ndarray, at: datetime
) -> dict[str, Values]:
    """Ask the three sides for every feature of ``ids`` (int64, distinct, ascending) at ``at``."""
    store, table, view = subject.store, subject.table, subject.view
    training = training_values(store, table, ids, at)
    with clock_of(store, at):
        serving = serving_values(store, table, ids)
    return {
        a.name: Values(
            training[a.name],
            serving[a.name],
            [expected(a, purchases.get(user, []), at, view.ttl, user) for user in ids.tolist()],
        )
        for a in subject.aggregations
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
            found.nulls += kind == MATCH and training is None
            if kind != MATCH:
                different.append((user, feature, kind, training, serving, oracle))
    found.users += len(ids)
    lasts = [last for user in ids.tolist() if (last := last_event(purchases.get(user, []), found.at))]
    found.expired += sum(is_expired(last, found.at, found.ttl) for last in lasts)
    found.last = max([*lasts, *([found.last] if found.last else [])], default=None)
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


def _count_events(
    subject: Subject, purchases: dict[int, list[Purchase]], users: set[int], fresh: Freshness, found: Comparison
) -> None:
    """Count the event timestamps that differ, or are not unique, of users in whose values nothing differs."""
    counted = {difference.user for difference in found.differences}
    evidence = _gather(subject, purchases, users - counted, found.at) if users else {}
    for user, e in evidence.items():
        offline, oracle = max(e.history, default=None), max((p.time for p in e.purchases), default=None)
        known = [event for event in (offline, e.stored_at) if event]
        if not known or is_expired(max(known), found.at, subject.view.ttl):
            continue  # null on both sides for good
        if offline == e.stored_at and offline not in e.tied:
            continue
        kind = MISMATCH if len(known) == 2 else EXTRA if e.stored_at else MISSING
        found.counts[kind] += 1
        cause = (event_cause(e, found.at, fresh) or TAMPERED) if e.stored_at else NEVER
        event = subject.view.batch_source.timestamp_field
        found.differences.append(Difference(user, event, kind, cause, offline, e.stored_at, oracle))


class _Rows(NamedTuple):
    """Rows of a part's users, sorted by user and event (microseconds since 1970), and the values of each feature."""

    users: np.ndarray
    events: np.ndarray
    values: dict[str, pa.Array]

    def __getitem__(self, where: np.ndarray) -> _Rows:
        """Those ``where`` this is true."""
        mask = pa.array(where)
        return _Rows(
            self.users[where],
            self.events[where],
            {name: values.filter(mask) for name, values in self.values.items()},
        )

    def equals(self, other: _Rows) -> bool:
        return (
            np.array_equal(self.users, other.users)
            and np.array_equal(self.events, other.events)
            and all(_same_bits(values, other.values[name]) for name, values in self.values.items())
        )

    def by_user(self) -> dict[int, list[tuple[int, dict[str, Any]]]]:
        columns = [nan_as_null(values.to_pylist()) for values in self.values.values()]
        rows: dict[int, list] = {}
        for user, event, *values in zip(self.users.tolist(), self.events.tolist(), *columns, strict=True):
            rows.setdefault(user, []).append((event, dict(zip(self.values, values, strict=True))))
        return rows


def _same_bits(a: pa.Array, b: pa.Array) -> bool:
    if a.type != b.type or a.null_count or b.null_count:
        return False  # a value at a time, then
    a, b = a.to_numpy(), b.to_numpy()
    return np.array_equal(a.view(np.int64), b.view(np.int64)) if a.dtype == np.float64 else np.array_equal(a, b)


def _rows_by_oracle(subject: Subject, purchases: dict[int, list[Purchase]]) -> _Rows:
    """What the offline table has to hold of these users."""
    users, events, values = [], [], {aggregation.name: [] for aggregation in subject.aggregations}
    for user in sorted(purchases):
        bought = sorted(purchases[user], key=lambda purchase: purchase.time)
        for place, aggregation in enumerate(subject.aggregations):
            instants, results = zip(*evaluate_each(aggregation, bought), strict=True)
            values[aggregation.name] += results
            if place == 0:
                users += [user] * len(instants)
                events += [(instant - EPOCH) // MICROSECOND for instant in instants]
    return _Rows(
        np.array(users, np.int64),
        np.array(events, np.int64),
        {name: pa.array(column) for name, column in values.items()},
    )


def _count_rows(
    subject: Subject,
    purchases: dict[int, list[Purchase]],
    table: pa.Table,
    fresh: Freshness,
    found: Comparison,
) -> list[Difference]:
    """Count how the rows of a part of the users in the offline ``table`` compare with those of the oracle, and give
    those that differ. What is named as a difference at the instant of the comparison is not named again."""
    key, event, *_ = table.column_names
    offline = _Rows(
        table[key].to_numpy(),
        table[event].to_numpy(),
        {feature: table[feature].combine_chunks() for feature in found.features},
    )
    right = _rows_by_oracle(subject, purchases)
    now = (found.at - EPOCH) // MICROSECOND
    history = found.history
    history.later += int(np.count_nonzero(offline.events > now))
    if found.past:
        offline, right = offline[offline.events <= now], right[right.events <= now]
    history.rows += len(offline.events)
    history.users += len(np.unique(offline.users))
    if offline.equals(right):
        history.counts[MATCH] += len(offline.events) * len(found.features)
        return []
    named: dict[int, set[str]] = {}
    for difference in found.differences:
        named.setdefault(difference.user, set()).add(difference.feature)
    rows, right_rows = offline.by_user(), right.by_user()
    differences = []
    for user in sorted(rows.keys() | right_rows.keys()):
        of_user, right_of_user = rows.get(user, []), right_rows.get(user, [])
        if of_user == right_of_user and all(map(_all_same, of_user, right_of_user)):
            history.counts[MATCH] += len(of_user) * len(found.features)
        else:
            known = named.get(user, set())
            bought = purchases.get(user, [])
            differences += _differing_rows(subject, user, bought, of_user, right_of_user, known, fresh, found)
    return differences


def _all_same(row: tuple[int, dict[str, Any]], other: tuple[int, dict[str, Any]]) -> bool:
    return all(same(value, other[1][name]) for name, value in row[1].items())


def _differing_rows(
    subject: Subject,
    user: int,
    purchases: list[Purchase],
    rows: list[tuple[int, dict[str, Any]]],
    right: list[tuple[int, dict[str, Any]]],
    named: set[str],
    fresh: Freshness,
    found: Comparison,
) -> Iterator[Difference]:
    """Count the rows of one user, and give those that differ while there is room; ``named`` are the features that
    differ at the instant of the comparison."""
    history, now = found.history, (found.at - EPOCH) // MICROSECOND
    expected_rows, seen = dict(right), Counter(event for event, _ in rows)
    last = max((event for event in [*seen, *expected_rows] if event <= now), default=None)
    past: Past | None = None

    def differs(event: int, feature: str, kind: str, training: Any, oracle: Any) -> Iterator[Difference]:
        nonlocal past
        history.counts[kind] += 1
        history.users_differing.add(user)
        if history.listed == HISTORY_LISTED:
            return
        history.listed += 1
        past = past or Past(purchases, [(_instant(e), row) for e, row in rows], {_instant(e): row for e, row in right})
        instant = _instant(event)
        if kind == MISSING_ROW:
            cause = missing_cause(past, instant, fresh)
        elif kind == EXTRA_ROW:
            cause = TIE if event in expected_rows else surplus_cause(past, instant, found.at, fresh)
        else:
            cause = wrong_cause(declared[feature], past, instant, training, oracle, fresh)
        yield Difference(user, feature, kind, cause, training, NOT_ASKED, oracle, instant)

    declared = {aggregation.name: aggregation for aggregation in subject.aggregations}
    wrong_at = set()
    for event, row in rows:
        for feature, training in row.items():
            oracle = expected_rows[event][feature] if event in expected_rows else ROW_DROPPED
            if oracle is not ROW_DROPPED and same(training, oracle):
                history.counts[MATCH] += 1
                continue
            wrong_at.add(event)
            if event == last and feature in named:
                continue
            kind = EXTRA_ROW if oracle is ROW_DROPPED else WRONG_ROW
            yield from differs(event, feature, kind, training, oracle)
    for event, count in seen.items():
        if count > 1 and event not in wrong_at and not (event == last and named):
            yield from differs(event, subject.view.batch_source.timestamp_field, EXTRA_ROW, f"{count} rows", "1 row")
    for event, row in right:
        for feature, oracle in row.items():
            if event not in seen and not (event == last and feature in named):
                yield from differs(event, feature, MISSING_ROW, ROW_DROPPED, oracle)


def _instant(event: int) -> datetime:
    """The instant of so many microseconds since 1970; beyond Python's calendar, its nearest end."""
    first, last = ((end - EPOCH) // MICROSECOND for end in (FIRST_INSTANT, LAST_INSTANT))
    return EPOCH + min(max(event, first), last) * MICROSECOND


def _online_since(subject: Subject) -> datetime | None:
    """Since when the online store may hold what it holds: the last materialization, unless corrections are not let in,
    as in Feast's stock store; then the first."""
    ends = [end for _, end in subject.store.get_feature_view(subject.view.name).materialization_intervals]
    lets_in = isinstance(feast_internals.online_store_of(subject.store), ParityRedisOnlineStore)
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
    history = history_of(subject.store, subject.table, ids, at)
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
