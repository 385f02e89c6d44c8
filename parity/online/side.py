"""The online store's side: what serving reads of it through Feast, and what is stored in it, served or not."""

import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from operator import itemgetter
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from feast.errors import FeastError
from feast.protos.feast.types.EntityKey_pb2 import EntityKey

from parity.compare.answers import typed_values
from parity.definition.checks import FeatureTable
from parity.definition.keys import Key, as_table
from parity.edge import feast_internals
from parity.edge.errors import UserError
from parity.edge.shown import shown
from parity.online.columns import read_timestamps
from parity.online.encoding import KeyEncoding, entity_keys
from parity.online.marks import NO_MARKS, Marks
from parity.online.scanning import Found, Leftovers
from parity.online.store import ParityRedisOnlineStore

WARM_UP_CALLS, LATENCY_CALLS, LATENCY_SECONDS = 100, 1000, 5
OTHERS_SHOWN = 3


_inspectors: WeakKeyDictionary[FeatureStore, ParityRedisOnlineStore] = WeakKeyDictionary()


def online_store_of(store: FeatureStore) -> ParityRedisOnlineStore:
    """The online store that ``store`` reads and writes through.

    Where the configuration names another Redis store of Feast, it is one that looks at the same keys.
    """
    online = feast_internals.online_store_of(store)
    if isinstance(online, ParityRedisOnlineStore):
        return online
    return _inspectors.setdefault(store, ParityRedisOnlineStore())


@contextmanager
def clock_of(store: FeatureStore, at: datetime) -> Iterator[None]:
    """Let the online store take ``at`` for the present, so that it answers for that instant."""
    online = online_store_of(store)
    before, online.now = online.now, lambda: at
    try:
        yield
    finally:
        online.now = before


@contextmanager
def unlogged(store: FeatureStore) -> Iterator[None]:
    """Keep reads out of the log of what is served: of a proof, which nobody is served by."""
    online = online_store_of(store)
    before, online.logs = online.logs, False
    try:
        yield
    finally:
        online.logs = before


class Others(NamedTuple):
    """Rows of a feature view that are online under keys of other types, where no read of its entities finds them."""

    count: int = 0
    examples: tuple[str, ...] = ()
    found: tuple[Found, ...] = ()
    """Their Redis keys, and event timestamps as they are stored."""

    def __str__(self) -> str:
        keys = "key" if self.count == 1 else "keys"
        more = ", ..." if self.count > len(self.examples) else ""
        return f"{self.count:,} {keys} of another type in Redis ({', '.join(self.examples)}{more})"


NO_OTHERS = Others()


class Stored(NamedTuple):
    """The rows of a feature view that are online, fit to be served or not: one per key, in any order."""

    keys: pa.Table
    """The join keys, with the names and types, and in the order, of `Definition.keys`."""
    events: np.ndarray
    """Event timestamps, datetime64[us] in UTC; that of `UNREADABLE` for one that can't be read."""
    found: list[Found]
    """Redis keys, and event timestamps as they are stored."""
    others: Others = NO_OTHERS

    def __getitem__(self, where: np.ndarray) -> "Stored":
        """Those ``where`` this is true."""
        found = [self.found[place] for place in np.flatnonzero(where)]
        return Stored(self.keys.filter(pa.array(where)), self.events[where], found)


def stored_events(
    store: FeatureStore, table: FeatureTable, leftovers: Leftovers | None = None, at_most: int | None = None
) -> Stored:
    """Find each key that has a row of ``table`` online, and its event; ``at_most`` so many, if given.

    What else is met is noted in ``leftovers``; without, a key that holds something else than a row is a `UserError`.
    """
    met, encoding = leftovers or Leftovers(), KeyEncoding(table.definition.keys, store.config.project)
    with replies(table):
        found = list(islice(online_store_of(store).scan(store.config, table.view, met), at_most))
        hashes = np.sort(np.fromiter(map(hash, map(itemgetter(0), found)), np.int64, len(found)))
        if (hashes[1:] == hashes[:-1]).any():  # Redis gives some keys more than once
            found = list(dict(found).items())
        keys, own = encoding.decode([*map(itemgetter(0), found)])
        others = NO_OTHERS if own.all() else _others(encoding, [found[place] for place in np.flatnonzero(~own)])
        found = found if own.all() else [found[place] for place in np.flatnonzero(own)]
        events = read_timestamps([event for _, event in found])
    if met.foreign and leftovers is None:
        raise foreign_keys(store, table, met.foreign)
    return Stored(keys, events, found, others)


def _others(encoding: KeyEncoding, found: Sequence[Found]) -> Others:
    """Of what has been ``found`` and is not of the types of the view's keys, what is of this project."""
    rows = tuple(row for row in found if row[0] in encoding)
    return Others(len(rows), tuple(encoding.shown(key) for key, _ in sorted(rows)[:OTHERS_SHOWN]), rows)


def foreign_keys(store: FeatureStore, table: FeatureTable, foreign: Sequence[bytes]) -> UserError:
    """An error about keys that hold something else than a row."""
    encoding = KeyEncoding(table.definition.keys, store.config.project)
    more = f", and {len(foreign) - 1:,} more" if len(foreign) > 1 else ""
    return UserError(
        f"Redis refuses a command (WRONGTYPE): the key of {encoding.shown(foreign[0])} is not a hash: "
        f"{shown(foreign[0])}{more}. Delete that key, and materialize again."
    )


@contextmanager
def replies(table: FeatureTable) -> Iterator[None]:
    """Make a `UserError` of replies that no Redis gives."""
    try:
        yield
    except (UserError, FeastError):
        raise
    except (TypeError, ValueError, LookupError, AttributeError, struct.error) as error:
        raise UserError(
            f"Redis gave a reply of another shape than its protocol has for a read of {table.name} "
            f"({shown(str(error))}). Look for a proxy, or another server, at that address."
        ) from None


def retract(store: FeatureStore, table: FeatureTable, found: Iterable[Found], marks: Marks | None = None) -> int:
    """Delete rows online, each only while it is as it was ``found``, and, with ``marks`` of the files, not ahead of
    them; return how many were deleted."""
    return online_store_of(store).retract(store.config, table.view, found, marks)


def replace(
    store: FeatureStore,
    table: FeatureTable,
    rows: Stored,
    by: pa.Table,
    steps: Sequence[bytes] | None = None,
    marks: Marks = NO_MARKS,
) -> int:
    """Put the rows of ``by`` (join keys, event timestamp, features) in the place of ``rows`` of the same keys.

    ``steps`` are what follows each of them, in a continuous view. Each is replaced in one step, while it is as it was
    found, and not ahead of the ``marks`` of the files. Returns how many were.
    """
    if not by.num_rows:
        return 0
    return online_store_of(store).replace(store.config, table.view, by, dict(rows.found), steps, marks)


def stored_rows(
    store: FeatureStore, table: FeatureTable, keys: pa.Table
) -> list[tuple[datetime | None, dict[str, Any]]]:
    """Read the rows of ``keys`` as they are stored, fit to be served or not: event timestamp and features."""
    with replies(table):
        rows = online_store_of(store).inspect(store.config, table.view, entity_keys(keys))
    features = {feature.name: feature for feature in table.view.features}
    return [
        (event, {name: typed_values([value], str(features[name].dtype))[0] for name, value in row.items()})
        for event, row in rows
    ]


def key_of(table: FeatureTable, key: Key) -> EntityKey:
    """One key as Feast has it."""
    return entity_keys(as_table([key], table.definition.keys))[0]


def redis_keys(store: FeatureStore, table: FeatureTable, keys: pa.Table) -> list[bytes]:
    """The names of ``keys`` in Redis."""
    return KeyEncoding(table.definition.keys, store.config.project).encode(keys)


def online_latency(store: FeatureStore, table: FeatureTable, key: Key) -> np.ndarray:
    """Time online reads of one key, in milliseconds, after some that warm the path up.

    It ends after `LATENCY_SECONDS`, with as many reads as there were by then: at least one.
    """
    rows = [dict(zip(table.requested_keys, key, strict=True))]
    seconds: list[float] = []
    begin = time.perf_counter()
    with replies(table), unlogged(store):
        while len(seconds) < WARM_UP_CALLS + LATENCY_CALLS:
            start = time.perf_counter()
            store.get_online_features(table.requested, rows, table.full_names)
            end = time.perf_counter()
            seconds.append(end - start)
            if end - begin > LATENCY_SECONDS:
                break
    warm = min(WARM_UP_CALLS, len(seconds) - 1)
    return np.array(seconds[warm:]) * 1000
