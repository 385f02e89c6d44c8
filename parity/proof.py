"""The proof: what training reads and what serving reads, compared by key and for equality, for every user.

Equal means equal: no tolerance, null equals null, and NaN, which is null by another name, equals null.
"""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureService, FeatureStore, FeatureView

from parity.command import UserError
from parity.files import progress
from parity.materialization import EVER
from parity.offline import latest_events, training_values
from parity.online import online_store_of, serving_values, stored_events
from parity.repository import COMPUTE, MATERIALIZE

USERS_PER_BATCH = 20_000
WARM_UP_CALLS, LATENCY_CALLS = 100, 1000
MATCH, MISMATCH, MISSING, EXTRA = "match", "mismatch", "missing online", "extra online"


class Difference(NamedTuple):
    """One value that training and serving do not agree on."""

    user: int
    feature: str
    kind: str
    training: Any
    serving: Any


@dataclass
class Comparison:
    """What a comparison of some users at an instant found: values of each kind counted, every difference kept."""

    at: datetime
    users: int
    features: list[str]
    counts: Counter = field(default_factory=lambda: Counter({MATCH: 0, MISMATCH: 0, MISSING: 0, EXTRA: 0}))
    differences: list[Difference] = field(default_factory=list)

    def add(self, feature: str, ids: np.ndarray, training: pa.ChunkedArray, serving: pa.ChunkedArray) -> None:
        """Compare one feature of ``ids``, value by value in their order."""
        training, serving = _without_nan(training), _without_nan(serving)
        both_null = pc.and_(training.is_null(), serving.is_null())
        equal = pc.or_(pc.fill_null(pc.equal(training, serving), False), both_null)
        different = np.flatnonzero(~equal.to_numpy())
        self.counts[MATCH] += len(ids) - len(different)
        for i in different.tolist():
            values = training[i].as_py(), serving[i].as_py()
            kind = MISSING if values[1] is None else EXTRA if values[0] is None else MISMATCH
            self.counts[kind] += 1
            self.differences.append(Difference(int(ids[i]), feature, kind, *values))


@dataclass(frozen=True)
class Users:
    """The ids, int64 and ascending, of users with an event offline, and of users with a row online."""

    offline: np.ndarray
    online: np.ndarray

    @property
    def all(self) -> np.ndarray:
        return np.union1d(self.offline, self.online)

    def choose(self, wanted: int | None) -> int:
        """Give ``wanted``, or else the first user; a `UserError` for one that neither side knows."""
        if wanted is None:
            return int(self.all[0])
        if wanted not in self.all:
            raise UserError(f"user {wanted} has no transactions; ids run from {self.all[0]} to {self.all[-1]}.")
        return wanted


def known_users(store: FeatureStore, view: FeatureView, at: datetime) -> Users:
    """Find the users with an event offline up to ``at``, and those with a row online; `UserError` if there are none."""
    offline = latest_events(store, view, EVER, at)[view.join_keys[0]].to_numpy()
    online = np.fromiter((key for key, _ in stored_events(store, view)), np.int64)
    if not len(offline):
        raise UserError(f"{view.batch_source.path} has no rows up to {at.isoformat()}. {COMPUTE}")
    if not len(online):
        raise UserError(f"Redis holds nothing of {view.name}. {MATERIALIZE}")
    return Users(offline, np.unique(online))


def both_sides(
    store: FeatureStore, service: FeatureService, view: FeatureView, ids: np.ndarray, at: datetime
) -> tuple[pa.Table, pa.Table]:
    """Read the features of ``ids`` (int64, distinct, ascending) at ``at``, as training does and as serving does."""
    with _clock_of(store, at):
        return training_values(store, service, view, ids, at), serving_values(store, service, view, ids)


def compare(
    store: FeatureStore, service: FeatureService, view: FeatureView, ids: np.ndarray, at: datetime
) -> Comparison:
    """Compare every feature of ``ids`` (int64, distinct, ascending) as training and as serving read it at ``at``."""
    found = Comparison(at, len(ids), [feature.name for feature in view.features])
    with progress("compare", len(ids), "user") as bar:
        for start in range(0, len(ids), USERS_PER_BATCH):
            batch = ids[start : start + USERS_PER_BATCH]
            training, serving = both_sides(store, service, view, batch, at)
            for feature in found.features:
                found.add(feature, batch, training[feature], serving[feature])
            bar.update(len(batch))
    return found


def _without_nan(values: pa.ChunkedArray) -> pa.ChunkedArray:
    if not pa.types.is_floating(values.type):
        return values
    return pc.if_else(pc.is_nan(values), pa.scalar(None, values.type), values)


@contextmanager
def _clock_of(store: FeatureStore, at: datetime) -> Iterator[None]:
    """Let the online store take ``at`` for the present, so that both sides answer for the same instant."""
    online = online_store_of(store)
    online.now = lambda: at
    try:
        yield
    finally:
        del online.now


def online_latency(store: FeatureStore, service: FeatureService, view: FeatureView, user: int) -> np.ndarray:
    """Time online reads of one user, in milliseconds, after some that warm the path up."""
    rows = [{view.join_keys[0]: user}]
    seconds = np.empty(WARM_UP_CALLS + LATENCY_CALLS)
    for call in range(len(seconds)):
        start = time.perf_counter()
        store.get_online_features(service, rows)
        seconds[call] = time.perf_counter() - start
    return seconds[WARM_UP_CALLS:] * 1000
