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

from parity.compare.answers import typed_values
from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, FIRST_INSTANT, LAST_INSTANT, MICROSECOND
from parity.edge import feast_internals
from parity.edge.feast_internals import stored_name
from parity.online.rows import UNREADABLE, Fields
from parity.online.side import online_store_of, redis_keys, replies, stored_rows
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
    steps: Sequence[datetime] | None = None
    """When it says that its features change; None in a store that knows of no steps."""


def held_rows(store: FeatureStore, table: FeatureTable, keys: pa.Table, instants: Sequence[datetime]) -> list[Held]:
    """Read what the row of each of ``keys`` holds, at an instant of its own."""
    rows = stored_rows(store, table, keys)
    if not _know_their_future(store, table):
        return [Held(event, values, event) for event, values in rows]
    fields, held = Fields(stored_name(store.config, table.view)), []
    feature_of = {fields[feature.name]: feature for feature in table.view.features}
    for (event, values), steps, at in zip(rows, steps_of(store, table, keys), instants, strict=True):
        one = Held(event, values, event)
        if event is not None and UNREADABLE != event <= at:
            found, cause = _holding(steps, event, at)
            one = one._replace(hidden=cause, steps=_instants(steps) if cause is None else ())
            if found:
                instant, values_of = found
                named = [(feature_of[field], value) for field, value in values_of.items() if field in feature_of]
                changed = {feature.name: _value(feature, value) for feature, value in named}
                one = one._replace(at=nearest_instant(instant), values=values | changed)
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
            instant = nearest_instant(int(event.astype(np.int64)))
            if instant == UNREADABLE or instant > at:
                yield event
                continue
            found, cause = _holding(steps, instant, at)
            held = np.datetime64(found[0], "us") if found else event
            yield None if cause == PAST_HORIZON else held


def horizons(store: FeatureStore, table: FeatureTable, keys: pa.Table) -> list[datetime | None]:
    """Up to when the row of each of ``keys`` knows its future; None if it can't be read."""
    if not _know_their_future(store, table):
        return [None] * keys.num_rows
    found = []
    for stored in steps_of(store, table, keys):
        try:
            found.append(None if stored is None else nearest_instant(horizon_of_steps(stored)))
        except struct.error:
            found.append(None)
    return found


def steps_of(store: FeatureStore, table: FeatureTable, keys: pa.Table) -> Sequence[bytes | None]:
    """The steps to come that are stored beside the row of each of ``keys``."""
    online, field = online_store_of(store), Fields(stored_name(store.config, table.view)).steps
    with replies(table):
        commands = [(key, [field]) for key in redis_keys(store, table, keys)]
        return [stored for [stored] in online._read_hash_fields(store.config, commands)]


def nearest_instant(microseconds: int) -> datetime:
    """The instant of so many microseconds since 1970; beyond Python's calendar, its nearest end."""
    first, last = ((end - EPOCH) // MICROSECOND for end in (FIRST_INSTANT, LAST_INSTANT))
    return EPOCH + min(max(microseconds, first), last) * MICROSECOND


def _know_their_future(store: FeatureStore, table: FeatureTable) -> bool:
    """Whether reads look at the steps to come: not those of Feast's own stores."""
    return table.definition.continuous and isinstance(feast_internals.online_store_of(store), ParityRedisOnlineStore)


def _holding(steps: bytes | None, event: datetime, at: datetime) -> tuple[tuple | None, str | None]:
    """The step that holds, if a later one than the row itself does; and the cause for which nothing does, if so."""
    row, present = ((instant - EPOCH) // MICROSECOND for instant in (event, at))
    found = holding(steps, row, present)
    if found != NOTHING_HOLDS:
        return found, None
    is_readable = steps is None or holding(steps, row, row) != NOTHING_HOLDS
    return None, PAST_HORIZON if is_readable else TAMPERED


def _instants(steps: bytes) -> list[datetime]:
    try:
        return [nearest_instant(instant) for instant, _ in every_step(steps)]
    except (struct.error, ValueError, LookupError):  # only what holds now was found to be readable
        return []


def _value(feature: Any, stored: bytes) -> Any:
    try:
        return typed_values([Value.FromString(stored)], str(feature.dtype))[0]
    except DecodeError:
        return None
