"""The proof: three sides, compared by key and for equality, for every key and every feature at one instant; and every
row that training can read, of any instant, against the oracle. Where windows slide, the sides are compared at
the edges too: a microsecond before, at and after some of the instants at which values change, drawn by a seed.

- training: what the offline store answers (`get_historical_features`),
- serving: what the online store answers (`get_online_features`),
- the oracle: what the raw transactions give, worked out again by an independent, naive implementation.

Equal means equal: of the same type and bits, no tolerance, null equal to null, and NaN is null by another name. Zero is
0.0 on every side, and -0.0 is another value.

What training gets at any instant is one of the rows of the offline table: the last one of its key by then. So the
history is proven row by row, as the offline store reads them, and not by asking for training data at each instant,
which shows one of several rows of an instant, and none that is where no purchase was.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from feast.feature_view_projection import FeatureViewProjection

from parity.compare.sample import Sample
from parity.definition.checks import FeatureTable
from parity.definition.keys import Key, KeyBook, as_table, as_tuples, shown_key
from parity.edge import feast_internals
from parity.edge.errors import UserError
from parity.edge.files import Location, location, modified
from parity.materialization import repair
from parity.offline.side import EVER, latest_events, marks_of, tied_events
from parity.online.side import Others, Stored, online_latency, online_store_of, redis_keys, stored_events
from parity.online.store import ParityRedisOnlineStore
from parity.proof.causes import FUTURE, Freshness
from parity.proof.compare import compare
from parity.proof.found import Comparison, Edges, Values, named, plain
from parity.proof.held import held_events
from parity.proof.raw import Purchase, RawTransactions, left_out, raw_transactions
from parity.proof.replay import store_at
from parity.proof.sides import Batch, three_sides
from parity.repository import COMPUTE, MATERIALIZE, computed_by
from parity.stream.apply import Applier
from parity.stream.seed import seed
from parity.transactions.landed import high_water


@dataclass(frozen=True)
class Known:
    """The keys that the sides know up to the instant of a proof, by number, ascending in the order of the keys."""

    book: KeyBook
    raw: np.ndarray
    """The number that the raw transactions have for each key, or -1."""
    at_odds: frozenset[int]
    """Keys of which the online store holds another event than the last one that the offline store knows, or an event
    where that knows none; or of which the offline store has several rows of one event."""
    left_over: frozenset[int]
    """Keys that the offline store does not know, and whose event online is older than the ttl."""
    others: Others
    """What else lies in Redis: keys of another type than declared."""


class Proof:
    """One feature table, its transactions, and where they are compared: all that a comparison has to know.

    Keys go by their numbers in here, which are those of ``known.book``.
    """

    def __init__(
        self,
        store: FeatureStore,
        table: FeatureTable,
        transactions: Location,
        raw: RawTransactions,
        at: datetime,
        past: bool = False,
        seed: int = 0,
    ):
        self.store, self.table, self.transactions, self.raw = store, table, transactions, raw
        self.at, self.past, self.seed = at, past, seed
        self.known = known_keys(store, table, raw, at)
        self.redefined = bool(computed_by(table) - {table.definition.fingerprint})
        """Whether the offline table was computed by another definition than is declared now."""

    def __len__(self) -> int:
        return len(self.known.book)

    @property
    def schema(self) -> pa.Schema:
        return self.table.definition.keys

    def named(self, key: Key) -> str:
        """Write a key for people, with what it is."""
        return named(plain(key), self.table)

    def key(self, number: int) -> Key:
        return self.known.book.key(number)

    def number(self, key: Key | None) -> int:
        """The number of a key, by default of the first; a `UserError` for one that no side knows."""
        if key is None:
            return 0
        number = int(self.known.book.find(as_table([key], self.schema))[0])
        if number < 0:
            first, last = (shown_key(self.known.book.key(end), self.schema) for end in (0, len(self) - 1))
            raise UserError(f"{self.named(key)} has no transactions; ids run from {first} to {last}.")
        return number

    def chosen(self, size: int | None, seed: int) -> tuple[np.ndarray, Sample | None]:
        """The numbers of so many keys, and how they were drawn; or of all, if there are no more."""
        if size is None or size >= len(self):
            return np.arange(len(self)), None
        sample = Sample(size, len(self), seed)
        return sample.draw(), sample

    def purchases_of(self, number: int) -> list[Purchase]:
        raw = int(self.known.raw[number])
        return [] if raw < 0 else self.raw.part(raw % len(self.raw)).get(raw, [])

    def sides_of(self, number: int) -> dict[str, Values]:
        """What the three sides say of one key."""
        keys = self.known.book.keys(np.array([number]))
        return three_sides(self.store, self.table, keys, [self.purchases_of(number)], self.at)

    def left_out(self, number: int) -> int:
        """How many transactions of a key the condition leaves out."""
        return left_out(self.transactions, self.table.definition, self.key(number))

    def compared(self, numbers: np.ndarray, sample: Sample | None = None) -> tuple[Comparison, Iterator[Batch]]:
        """Begin a comparison of the keys with these numbers. What it finds is whole once the batches are gone through,
        and each batch is what was compared in a step."""
        found = Comparison(self.table, self.at, self.past, sample, redefined=self.redefined)
        if self.table.definition.continuous:
            found.edges = Edges(self.seed)
        return found, compare(self, numbers, self._freshness(), found)

    def repair(self, found: Comparison, now: datetime) -> None:
        """Bring the rows online of the keys that differ, and of no others, in step with the history, and take out those
        under keys of another type. Where a stream writes, what it goes on from is put right too."""
        keys = self.known.book.keys(found.skewed)
        repair(self.store, self.table, keys, self.at, now)
        self._seed(keys, found, now)
        self.known = replace(self.known, others=stored_events(self.store, self.table).others)

    def _seed(self, keys: pa.Table, found: Comparison, now: datetime) -> None:
        """Seed those of ``keys`` that a stream writes, and is not ahead of the files; not those with a row from the
        future, which it would bring back."""
        if Applier(self.store, self.table).seeded_by() is None:
            return
        online, marks = online_store_of(self.store), marks_of(self.table)
        ahead = online.are_ahead(self.store.config, self.table.view, redis_keys(self.store, self.table, keys), marks)
        future = {difference.key for difference in found.differences if difference.cause == FUTURE}
        chosen = [not a and plain(key) not in future for a, key in zip(ahead, as_tuples(keys), strict=True)]
        if any(chosen):
            some = keys.filter(pa.array(chosen, pa.bool_()))
            seed(self.store, self.table, self.transactions, now, keys=some)

    def latency(self, number: int) -> np.ndarray:
        """Milliseconds of online reads of one key."""
        return online_latency(self.store, self.table, self.key(number))

    def _freshness(self) -> Freshness:
        computed = modified(location(self.table.source.path))
        return Freshness(
            modified(self.transactions),
            computed,
            self._online_since(),
            self.redefined,
            high_water(self.transactions),
            marks_of(self.table),
        )

    def _online_since(self) -> datetime | None:
        """Since when the online store may hold what it holds: the last materialization, unless corrections are not let
        in, as in Feast's stock store; then the first."""
        ends = [end for _, end in self.store.get_feature_view(self.table.name).materialization_intervals]
        lets_in = isinstance(feast_internals.online_store_of(self.store), ParityRedisOnlineStore)
        return max(ends) if ends and lets_in else min(ends, default=None)


@contextmanager
def proving(
    store: FeatureStore,
    tables: Sequence[FeatureTable],
    transactions: Sequence[Location],
    at: datetime | None,
    now: datetime,
    seed: int = 0,
) -> Iterator[list[Proof]]:
    """Open the proof of each of ``tables`` and its ``transactions``: of the present, or of the past instant ``at``."""
    with ExitStack() as stack:
        for table in tables:
            require_applied(store, table)
        raws = [
            stack.enter_context(raw_transactions(place, table.definition))
            for table, place in zip(tables, transactions, strict=True)
        ]
        there = stack.enter_context(store_at(store, tables, at, now))
        yield [
            Proof(there, table, place, raw, at or now, at is not None, seed)
            for table, place, raw in zip(tables, transactions, raws, strict=True)
        ]


def unseen_views(store: FeatureStore, tables: Sequence[FeatureTable], declared: Sequence[str]) -> list[str]:
    """The feature views of the project that a proof of ``tables`` does not look at: those that were applied, and those
    that are only ``declared``."""
    kinds = {"OnDemandFeatureView": " (on demand)", "StreamFeatureView": " (stream)"}
    proven = {table.name for table in tables}
    applied = store.list_all_feature_views()
    unseen = [f"{view.name}{kinds.get(type(view).__name__, '')}" for view in applied if view.name not in proven]
    only_declared = set(declared) - {view.name for view in applied} - proven
    return sorted([*unseen, *(f"{name} (not applied)" for name in only_declared)])


def require_applied(store: FeatureStore, table: FeatureTable) -> None:
    """Raise a `UserError` if the service of ``table``, as applied, does not give what it gives as declared."""
    name, service = table.service.name, store.get_feature_service(table.service.name)
    applied = [
        projection
        for projection in service.feature_view_projections
        if projection.name == table.name and (table.given is None or _called(projection) == _called(table.given))
    ]
    given = {feature.name for projection in applied for feature in projection.features}
    declared = [feature.name for feature in table.features]
    if missing := [feature for feature in declared if feature not in given]:
        raise UserError(
            f"the feature service {name}, as applied, leaves out {', '.join(missing)} of {table.name}, and features.py "
            "has it give that. Run: cd feature_repo && feast apply"
        )
    if table.given is not None and (more := sorted(given - set(declared))):
        raise UserError(
            f"the feature service {name}, as applied, gives {', '.join(more)} of {table.name} too, and not by "
            "features.py. Run: cd feature_repo && feast apply"
        )


def _called(projection: FeatureViewProjection) -> tuple[str, dict[str, str]]:
    """Under which names a service gives a view and its keys."""
    return projection.name_alias or "", dict(projection.join_key_map)


def known_keys(store: FeatureStore, table: FeatureTable, raw: RawTransactions, at: datetime) -> Known:
    """Find the keys that each side knows; `UserError` if there are none offline, or none online."""
    names, event = table.definition.keys.names, table.source.timestamp_field
    latest = latest_events(store, table, EVER, at)
    if not latest.num_rows:
        raise UserError(f"{table.source.path} has no rows up to {at.isoformat()}. {COMPUTE}")
    stored = stored_events(store, table)
    if not stored.keys.num_rows:
        but = f" but {stored.others}, which nothing reads" if stored.others.count else ""
        raise UserError(f"Redis holds nothing of {table.name}{but}. {MATERIALIZE}")
    of_raw = raw.keys
    book = _in_order([latest.select(names), stored.keys, of_raw], table.definition.keys)
    raw_numbers = np.full(len(book), -1)
    raw_numbers[book.find(of_raw)] = np.arange(of_raw.num_rows)

    offline = np.full(len(book), np.datetime64("NaT", "us"))
    offline[book.find(latest.select(names))] = latest[event].to_numpy().astype("datetime64[us]")
    online = book.find(stored.keys)
    odd = (stored.events != offline[online]) | np.isnat(offline[online])
    if table.definition.continuous:
        odd = odd & _are_at_odds(store, table, stored, odd, offline[online], at)
    old = np.isnat(offline[online]) & _are_expired(stored.events, at, table.view.ttl)
    tied = book.find(tied_events(store, table, at).select(names))
    at_odds = frozenset([*online[odd & ~old].tolist(), *tied.tolist()])
    return Known(book, raw_numbers, at_odds, frozenset(online[old].tolist()), stored.others)


def _are_at_odds(
    store: FeatureStore, table: FeatureTable, stored: Stored, odd: np.ndarray, offline: np.ndarray, at: datetime
) -> np.ndarray:
    """Which of the rows online that are ``odd``, as theirs is not the last event ``offline``, have not become what has
    it meanwhile. One that does not know so far ahead is none: it is not served, and its values are compared."""
    are, places = odd.copy(), np.flatnonzero(odd)
    some = stored.keys.take(pa.array(places))
    for place, event in zip(places, held_events(store, table, some, stored.events[places], at), strict=True):
        are[place] = np.isnat(offline[place]) if event is None else bool(event != offline[place])
    return are


def _in_order(tables: Sequence[pa.Table], schema: pa.Schema) -> KeyBook:
    """A book of all these keys, numbered in their own order."""
    every = pa.concat_tables([keys.select(schema.names).cast(schema) for keys in tables])
    book = KeyBook(schema)
    distinct = every.group_by(schema.names).aggregate([])
    book.number(distinct.sort_by([(name, "ascending") for name in schema.names]))
    return book


def _are_expired(events: np.ndarray, at: datetime, ttl: timedelta | None) -> np.ndarray:
    """As `is_expired`, of many events: datetime64[us] in UTC."""
    if not ttl or at - EVER < ttl:
        return np.zeros(len(events), bool)
    return events < np.datetime64((at - ttl).astimezone(UTC).replace(tzinfo=None), "us")
