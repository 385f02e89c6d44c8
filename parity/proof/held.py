"""What the rows online hold at an instant: as they are stored, or, where windows slide, as they have become by then."""

import struct
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from feast import FeatureStore
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError

from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND
from parity.edge import feast_internals
from parity.edge.feast_internals import stored_name
from parity.online.rows import UNREADABLE, Fields
from parity.online.side import online_store_of, python_values, redis_keys, replies, stored_rows
from parity.online.steps import PAST_HORIZON as NOTHING_HOLDS
from parity.online.steps import every_step, holding, horizon_of_steps
from parity.online.store import ParityRedisOnlineStore
from parity.proof.causes import PAST_HORIZON, TAMPERED

KEYS_AT_ONCE = 10_000


class Held(NamedTuple):
    """What a row online holds at an instant: the event, and the features that go with it, served or not.

    ``row_at`` is the event that the row itself is of. ``hidden`` is the cause for which nothing holds, if nothing does.
    """

    at: datetime | None
    values: dict[str, Any]
    row_at: datetime | None
    hidden: str | None = None
    steps: Sequence[datetime] = ()
    """When it says that its features change."""


def held_rows(store: FeatureStore, table: FeatureTable, keys: pa.Table, instants: Sequence[datetime]) -> list[Held]:
    """Read what the row of each of ``keys`` holds, at an instant of its own."""
    rows = stored_rows(store, table, keys)
    if not _know_their_future(store, table):
        return [Held(event, values, event) for event, values in rows]
    features = {feature.name: feature for feature in table.view.features}
    name_of = {field: name for name, field in _fields(store, table, features)}
    held = []
    for (event, values), steps, at in zip(rows, steps_of(store, table, keys), instants, strict=True):
        one = Held(event, values, event)
        if event is not None and UNREADABLE != event <= at:
            found, cause = _holding(steps, event, at)
            one = one._replace(hidden=cause, steps=_instants(steps) if cause is None else ())
            if found:
                instant, changed = found
                named = {name_of[field]: value for field, value in changed.items() if field in name_of}
                steps_values = {name: _value(features[name], value) for name, value in named.items()}
                one = one._replace(at=EPOCH + instant * MICROSECOND, values=values | steps_values)
        held.append(one)
    return held


def held_events(store: FeatureStore, table: FeatureTable, keys: pa.Table, events: np.ndarray, at: datetime) -> Iterator:
    """For each of ``keys``, whose rows online are of these ``events`` (datetime64[us]), the event that they hold at
    ``at``, as one of those; None where nothing holds because they did not know so far ahead."""
    if not _know_their_future(store, table):
        yield from events
        return
    for start in range(0, len(events), KEYS_AT_ONCE):
        some = events[start : start + KEYS_AT_ONCE]
        for event, steps in zip(some, steps_of(store, table, keys.slice(start, len(some))), strict=True):
            found, cause = None, None
            if UNREADABLE != (instant := EPOCH + int(event.astype(np.int64)) * MICROSECOND) <= at:
                found, cause = _holding(steps, instant, at)
            if cause != PAST_HORIZON:
                yield np.datetime64(found[0], "us") if found else event
            else:
                yield None


def horizons(store: FeatureStore, table: FeatureTable, keys: pa.Table) -> list[datetime | None]:
    """Up to when the row of each of ``keys`` knows its future; None if it can't be read."""
    if not _know_their_future(store, table):
        return [None] * keys.num_rows
    found = []
    for stored in steps_of(store, table, keys):
        try:
            found.append(None if stored is None else EPOCH + horizon_of_steps(stored) * MICROSECOND)
        except (struct.error, OverflowError):
            found.append(None)
    return found


def steps_of(store: FeatureStore, table: FeatureTable, keys: pa.Table) -> Sequence[bytes | None]:
    """The steps to come that are stored beside the row of each of ``keys``."""
    online, field = online_store_of(store), Fields(stored_name(store.config, table.view)).steps
    with replies(table):
        commands = [(key, [field]) for key in redis_keys(store, table, keys)]
        return [stored for [stored] in online._read_hash_fields(store.config, commands)]


def _know_their_future(store: FeatureStore, table: FeatureTable) -> bool:
    """Whether reads look at the steps to come: not those of Feast's own stores."""
    return table.definition.continuous and isinstance(feast_internals.online_store_of(store), ParityRedisOnlineStore)


def _fields(store: FeatureStore, table: FeatureTable, features: Sequence[str]) -> list[tuple[str, bytes]]:
    fields = Fields(stored_name(store.config, table.view))
    return [(name, fields[name]) for name in features]


def _holding(steps: bytes | None, event: datetime, at: datetime) -> tuple[tuple | None, str | None]:
    """The step that holds, if a later one than the row itself does; and the cause for which nothing does, if so."""
    row, present = ((instant - EPOCH) // MICROSECOND for instant in (event, at))
    found = holding(steps, row, present)
    if found != NOTHING_HOLDS:
        return found, None
    is_readable = steps is None or holding(steps, row, row) != NOTHING_HOLDS
    return None, PAST_HORIZON if is_readable else TAMPERED


def _instants(steps: bytes) -> list[datetime]:
    return [EPOCH + instant * MICROSECOND for instant, _ in every_step(steps)]


def _value(feature: Any, stored: bytes) -> Any:
    try:
        return python_values(feature, [Value.FromString(stored)])[0]
    except DecodeError:
        return None
