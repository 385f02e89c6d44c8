"""What a stream has noted beside the rows online: how far it has come, and which events a row is made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import pyarrow as pa
from feast import FeatureStore

from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND
from parity.definition.table import Definition
from parity.edge.feast_internals import stored_name
from parity.online.rows import Fields
from parity.online.side import online_store_of, redis_keys, replies
from parity.proof.raw import Purchase
from parity.stream.state import FINGERPRINT_DIGITS, FIRST, OFFSET, OWNER, decode, read_applied


class Streamed(NamedTuple):
    """What is noted beside a row that a stream has written, and how that compares with the transactions by an instant.

    ``applied`` are the offsets as they are stored. ``more`` are the instants of events that are kept there and are not
    among the transactions, or not as often; ``fewer`` those of the transactions that should be kept there, and are not.
    """

    applied: bytes
    is_own: bool
    """Whether the definition is the one that is declared."""
    agrees: bool = False
    """Whether what is kept could be read, and is what the transactions have."""
    more: Sequence[datetime] = ()
    fewer: Sequence[datetime] = ()
    corrects: bool = False
    """Whether some of ``more`` have come in the place of another event."""
    doubles: bool = False
    """Whether all of ``more`` are among the transactions less often."""


def streamed_rows(
    store: FeatureStore,
    table: FeatureTable,
    keys: pa.Table,
    purchases: Sequence[list[Purchase]],
    instants: Sequence[datetime],
) -> list[Streamed | None]:
    """Read what a stream has noted beside the row of each of ``keys``, and compare it with the key's ``purchases`` up
    to an instant of its own. None for a row that no stream has written."""
    definition = table.definition
    stored = _stored(store, table, keys)
    states, readable = decode([state or None for _, state in stored], definition)
    kept = _events(states.rows, definition, len(stored))
    found: list[Streamed | None] = []
    for place, (applied, _) in enumerate(stored):
        if applied is None:
            found.append(None)
            continue
        fingerprint, _ = read_applied(applied)
        one = Streamed(applied, fingerprint in ("", definition.fingerprint[:FINGERPRINT_DIGITS]))
        if readable[place]:
            since = int(states.since[place])
            one = _compared(one, kept[place], purchases[place], since, instants[place], definition)
        found.append(one)
    return found


def applied_offsets(store: FeatureStore, table: FeatureTable, keys: pa.Table) -> list[bytes | None]:
    """What is applied of a stream beside the row of each of ``keys``."""
    return [applied for applied, _ in _stored(store, table, keys)]


def _stored(store: FeatureStore, table: FeatureTable, keys: pa.Table) -> list[list]:
    fields = Fields(stored_name(store.config, table.view))
    with replies(table):
        commands = [(key, [fields.applied, fields.state]) for key in redis_keys(store, table, keys)]
        return online_store_of(store)._read_hash_fields(store.config, commands)


class _Kept(NamedTuple):
    event: tuple[datetime, tuple]
    is_correction: bool


def _events(rows: pa.Table, definition: Definition, entities: int) -> list[list[_Kept]]:
    """The events that are kept of each entity."""
    found: list[list[_Kept]] = [[] for _ in range(entities)]
    names = [OWNER, definition.reading.timestamp, OFFSET, FIRST, *definition.columns]
    for owner, time, offset, first, *values in zip(*(rows[name].to_pylist() for name in names), strict=True):
        found[owner].append(_Kept((time, tuple(values)), offset != first))
    return found


def _compared(
    one: Streamed, kept: list[_Kept], purchases: list[Purchase], since: int, at: datetime, definition: Definition
) -> Streamed:
    right = Counter(
        (purchase.time, tuple(_values(purchase, definition)))
        for purchase in purchases
        if (purchase.time - EPOCH) // MICROSECOND >= since and purchase.time <= at
    )
    there = Counter(row.event for row in kept if row.event[0] <= at)
    more, fewer = there - right, right - there
    return one._replace(
        agrees=not more and not fewer,
        more=[time for time, _ in more],
        fewer=[time for time, _ in fewer],
        corrects=any(row.is_correction and row.event in more for row in kept),
        doubles=bool(more) and all(event in right for event in more),
    )


def _values(purchase: Purchase, definition: Definition) -> Iterator[Any]:
    for name, type in definition.columns.items():
        value = purchase.values[name]
        yield float(value) if type == pa.float64() else value
