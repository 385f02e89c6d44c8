"""The online store's side: what serving reads of it through Feast, and what is stored in it, served or not."""

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast import FeatureService, FeatureStore, FeatureView, Field
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _convert_arrow_to_proto

from parity.offline import nan_as_null
from parity.online_read import key_prefix
from parity.online_store import Leftovers, ParityRedisOnlineStore, read_timestamps

WARM_UP_CALLS, LATENCY_CALLS = 100, 1000


def online_store_of(store: FeatureStore) -> ParityRedisOnlineStore:
    """The online store that ``store`` reads and writes through.

    Where the configuration names another Redis store of Feast, it is one that looks at the same keys.
    """
    online = store._get_provider().online_store
    if isinstance(online, ParityRedisOnlineStore):
        return online
    if not hasattr(store, "_parity_inspector"):
        store._parity_inspector = ParityRedisOnlineStore()
    return store._parity_inspector


@contextmanager
def clock_of(store: FeatureStore, at: datetime) -> Iterator[None]:
    """Let the online store take ``at`` for the present, so that it answers for that instant."""
    online = online_store_of(store)
    before, online.now = online.now, lambda: at
    try:
        yield
    finally:
        online.now = before


def serving_values(store: FeatureStore, service: FeatureService, view: FeatureView, ids: np.ndarray) -> dict[str, list]:
    """Ask Feast for the features of ``ids`` (int64) as a model server does: per feature, one value per id."""
    response = store.get_online_features(service, {view.join_keys[0]: ids.tolist()}).proto
    vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    return {feature.name: _python(feature, vectors[feature.name].values) for feature in view.features}


class Stored(NamedTuple):
    """The rows of a feature view that are online, fit to be served or not: one per user, in any order."""

    ids: np.ndarray
    """int64"""
    events: np.ndarray
    """Event timestamps, datetime64[us] in UTC; that of `UNREADABLE` for one that can't be read."""
    found: list[tuple[bytes, bytes]]
    """Redis keys, and event timestamps as they are stored."""

    def __getitem__(self, where: np.ndarray) -> "Stored":
        """Those ``where`` this is true."""
        return Stored(self.ids[where], self.events[where], [self.found[place] for place in np.flatnonzero(where)])


def stored_events(
    store: FeatureStore, view: FeatureView, leftovers: Leftovers | None = None, at_most: int | None = None
) -> Stored:
    """Find each user that has a row of ``view`` online, and its event; ``at_most`` so many, if given.

    What else is met is noted in ``leftovers``.
    """
    before, after = key_prefix(view.join_keys[0]), store.config.project.encode()
    size, number = len(before) + 8 + len(after), slice(len(before), len(before) + 8)
    rows = islice(online_store_of(store).scan(store.config, view, leftovers), at_most)
    found = [row for row in rows if len(row[0]) == size and row[0].startswith(before)]  # others have ids of other types
    ids = np.frombuffer(b"".join([key[number] for key, _ in found]), "<i8")
    rows = Stored(ids, read_timestamps([event for _, event in found]), found)
    once = np.zeros(len(ids), bool)
    once[np.unique(ids, return_index=True)[1]] = True
    return rows if once.all() else rows[once]


def retract(store: FeatureStore, view: FeatureView, rows: Stored) -> int:
    """Delete ``rows`` online, each only while it is as it was found; return how many were deleted."""
    return online_store_of(store).retract(store.config, view, rows.found)


def replace(store: FeatureStore, view: FeatureView, rows: Stored, by: pa.Table) -> int:
    """Put the rows of ``by`` (join key, event timestamp, features) in the place of ``rows`` of the same users.

    Each is replaced in one step, while it is as it was found. Returns how many were.
    """
    if not by.num_rows:
        return 0
    types = {column.name: column.dtype.to_value_type() for column in view.entity_columns}
    data = _convert_arrow_to_proto(by, view, types)
    return online_store_of(store).replace(store.config, view, data, dict(rows.found))


def stored_rows(
    store: FeatureStore, view: FeatureView, ids: Sequence[int]
) -> list[tuple[datetime | None, dict[str, Any]]]:
    """Read the rows of the users ``ids`` as they are stored, fit to be served or not: event timestamp and features."""
    keys = [key_of(view, user) for user in ids]
    rows = online_store_of(store).inspect(store.config, view, keys)
    features = {feature.name: feature for feature in view.features}
    return [(event, {name: _python(features[name], [value])[0] for name, value in row.items()}) for event, row in rows]


def key_of(view: FeatureView, user: int) -> EntityKey:
    return EntityKey(join_keys=view.join_keys, entity_values=[Value(int64_val=user)])


class Coerced(NamedTuple):
    """A value that is stored as another type than its feature's: equal to nothing that is of the right one."""

    value: Any
    kind: str

    def __str__(self) -> str:
        return f"{self.value!r} as {self.kind}"


def _python(feature: Field, values: Iterable[Value]) -> list:
    """What the values of a feature are in Python; None for null, and for NaN, which is null by another name."""
    declared = f"{feature.dtype.to_value_type().name.lower()}_val"
    found = []
    for value in values:
        kind = value.WhichOneof("val")
        if kind == declared:
            found.append(getattr(value, kind))
        elif kind in (None, "null_val"):
            found.append(None)
        else:
            found.append(Coerced(getattr(value, kind), kind))
    return nan_as_null(found)


def online_latency(store: FeatureStore, service: FeatureService, view: FeatureView, user: int) -> np.ndarray:
    """Time online reads of one user, in milliseconds, after some that warm the path up."""
    rows = [{view.join_keys[0]: user}]
    seconds = np.empty(WARM_UP_CALLS + LATENCY_CALLS)
    for call in range(len(seconds)):
        start = time.perf_counter()
        store.get_online_features(service, rows)
        seconds[call] = time.perf_counter() - start
    return seconds[WARM_UP_CALLS:] * 1000
