"""The online store's side: what serving reads of it through Feast, and what is stored in it, served or not."""

import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast import FeatureStore, FeatureView, Field
from feast.errors import FeastError
from feast.infra.key_encoding_utils import deserialize_entity_key
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.utils import _convert_arrow_to_proto

from parity.definition.checks import FeatureTable
from parity.edge.errors import UserError
from parity.offline.side import nan_as_null
from parity.online.fast_read import key_prefix
from parity.online.store import Leftovers, ParityRedisOnlineStore, read_timestamps

WARM_UP_CALLS, LATENCY_CALLS, LATENCY_SECONDS = 100, 1000, 5
OTHERS_SHOWN = 3
LONGEST_SHOWN, LONGEST_TEXT = 200, 500
"""Characters of a value that are shown, and of a text with its name and size; of longer ones the size is said."""


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


def serving_values(store: FeatureStore, table: FeatureTable, ids: np.ndarray) -> dict[str, list]:
    """Ask Feast for the features of ``ids`` (int64) as a model server does: per feature, one value per id."""
    view = table.view
    with replies(view):
        response = store.get_online_features(table.requested, {view.join_keys[0]: ids.tolist()}).proto
    vectors = dict(zip(response.metadata.feature_names.val, response.results, strict=True))
    return {feature.name: _python(feature, vectors[feature.name].values) for feature in view.features}


class Others(NamedTuple):
    """Rows of a feature view that are online under ids of another type, where no read of an int64 id finds them."""

    count: int = 0
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        keys = "key" if self.count == 1 else "keys"
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.count:,} {keys} of another type in Redis ({', '.join(self.examples)}{more})"


NO_OTHERS = Others()


class Stored(NamedTuple):
    """The rows of a feature view that are online, fit to be served or not: one per user, in any order."""

    ids: np.ndarray
    """int64"""
    events: np.ndarray
    """Event timestamps, datetime64[us] in UTC; that of `UNREADABLE` for one that can't be read."""
    found: list[tuple[bytes, bytes]]
    """Redis keys, and event timestamps as they are stored."""
    others: Others = NO_OTHERS

    def __getitem__(self, where: np.ndarray) -> "Stored":
        """Those ``where`` this is true."""
        return Stored(self.ids[where], self.events[where], [self.found[place] for place in np.flatnonzero(where)])


def stored_events(
    store: FeatureStore, view: FeatureView, leftovers: Leftovers | None = None, at_most: int | None = None
) -> Stored:
    """Find each user that has a row of ``view`` online, and its event; ``at_most`` so many, if given.

    What else is met is noted in ``leftovers``; without, a key that holds something else than a row is a `UserError`.
    """
    before, after = key_prefix(view.join_keys[0]), store.config.project.encode()
    size, number = len(before) + 8 + len(after), slice(len(before), len(before) + 8)
    found, others = [], set()
    met = leftovers or Leftovers()
    with replies(view):
        for row in islice(online_store_of(store).scan(store.config, view, met), at_most):
            if len(row[0]) == size and row[0].startswith(before):
                found.append(row)
            else:
                others.add(row[0])
        events = read_timestamps([event for _, event in found])
    if met.foreign and leftovers is None:
        key = met.foreign[0]
        raise UserError(
            f"Redis refuses a command (WRONGTYPE): the key of {_named(key[: -len(after)])} is not a hash: "
            f"{shown(key)}. Delete that key, and materialize again."
        )
    ids = np.frombuffer(b"".join([key[number] for key, _ in found]), "<i8")
    examples = tuple(_named(key[: -len(after)]) for key in sorted(others)[:OTHERS_SHOWN])
    rows = Stored(ids, events, found, Others(len(others), examples))
    once = np.zeros(len(ids), bool)
    once[np.unique(ids, return_index=True)[1]] = True
    return rows if once.all() else rows[once]._replace(others=rows.others)


def _named(entity_key: bytes) -> str:
    """Write an entity key for people: user_id '7' of type string."""
    key = deserialize_entity_key(entity_key)
    values = [(value.WhichOneof("val"), value) for value in key.entity_values]
    return " and ".join(
        f"{name} {shown(getattr(value, kind))} of type {kind.removesuffix('_val')}"
        for name, (kind, value) in zip(key.join_keys, values, strict=True)
    )


@contextmanager
def replies(view: FeatureView) -> Iterator[None]:
    """Make a `UserError` of replies that no Redis gives."""
    try:
        yield
    except (UserError, FeastError):
        raise
    except (TypeError, ValueError, LookupError, AttributeError, struct.error) as error:
        raise UserError(
            f"Redis gave a reply of another shape than its protocol has for a read of {view.name} "
            f"({shown(str(error))}). Look for a proxy, or another server, at that address."
        ) from None


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
    with replies(view):
        rows = online_store_of(store).inspect(store.config, view, keys)
    features = {feature.name: feature for feature in view.features}
    return [(event, {name: _python(features[name], [value])[0] for name, value in row.items()}) for event, row in rows]


def key_of(view: FeatureView, user: int) -> EntityKey:
    return EntityKey(join_keys=view.join_keys, entity_values=[Value(int64_val=user)])


def shown(value: Any) -> str:
    """Write a value for people, whatever it is: printable, and of `LONGEST_SHOWN` characters or little more."""
    if isinstance(value, str | bytes):
        size, unit = len(value), "characters" if isinstance(value, str) else "bytes"
        return repr(value) if size <= LONGEST_SHOWN else f"{value[: LONGEST_SHOWN // 4]!r}... ({size:,} {unit})"
    return cut(str(value))


def cut(text: str) -> str:
    """The same text, printable, as it may try to steer the terminal; of a long one, its beginning and size."""
    size, text = len(text), text if len(text) <= LONGEST_TEXT else text[:LONGEST_SHOWN]
    text = text if text.isprintable() else repr(text)
    return text if size <= LONGEST_TEXT else f"{text}... ({size:,} characters)"


class Coerced(NamedTuple):
    """A value that is stored as another type than its feature's: equal to nothing that is of the right one."""

    value: Any
    kind: str

    def __str__(self) -> str:
        return f"{shown(self.value)} as {self.kind}"


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


def online_latency(store: FeatureStore, table: FeatureTable, user: int) -> np.ndarray:
    """Time online reads of one user, in milliseconds, after some that warm the path up.

    It ends after `LATENCY_SECONDS`, with as many reads as there were by then: at least one.
    """
    rows = [{table.view.join_keys[0]: user}]
    seconds: list[float] = []
    begin = time.perf_counter()
    with replies(table.view):
        while len(seconds) < WARM_UP_CALLS + LATENCY_CALLS:
            start = time.perf_counter()
            store.get_online_features(table.requested, rows)
            end = time.perf_counter()
            seconds.append(end - start)
            if end - begin > LATENCY_SECONDS:
                break
    warm = min(WARM_UP_CALLS, len(seconds) - 1)
    return np.array(seconds[warm:]) * 1000
