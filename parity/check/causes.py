"""Why a key differs: from its history in the offline store, what the registry says was materialized, and the ttl."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from parity.check.history import Row
from parity.compare.equal import difference, fits, is_zone_shift
from parity.compare.kinds import (
    BEHIND,
    COERCION,
    CORRECTION,
    DELETED,
    DROPPED,
    EVENT_TIME,
    FUTURE,
    KEY_CAST,
    KEY_MIXED,
    LATE,
    LOST,
    NEVER,
    NULL,
    OVERWRITTEN,
    PUSHED,
    TIE,
    TIME_ZONE,
    TTL,
    UNEXPLAINED,
    Harm,
    Kind,
)
from parity.compare.subjects import Source


class Evidence(NamedTuple):
    """What is known of one key of one source: its ``rows`` up to the instant ``at``, in order, the event that is
    ``served``, and the values of both sides by feature. ``there`` is whether training has a row at all."""

    source: Source
    rows: Sequence[Row]
    served: datetime | None
    training: Mapping[str, Any]
    serving: Mapping[str, Any]
    types: Mapping[str, str]
    there: bool
    at: datetime
    spelled_otherwise: bool = False
    """Whether the key is online in another spelling or type."""
    is_mixed: bool = False
    """Whether the request has another key under the name that this view's join key is mapped from."""

    @property
    def last(self) -> Row | None:
        return self.rows[-1] if self.rows else None

    @property
    def is_expired(self) -> bool:
        """Whether training gives null for the age of the last row."""
        return bool(self.last and self.source.ttl and self.last.event + self.source.ttl < self.at)

    @property
    def is_online(self) -> bool:
        return self.served is not None or any(value is not None for value in self.serving.values())

    def of_served(self) -> list[Row]:
        """The rows of the event that is served: of several, that share a time, all."""
        return [row for row in self.rows if self.served is not None and is_same_event(row.event, self.served)]


class Cause(NamedTuple):
    """A kind, since when it is so, and, of a row, whether the values beneath are to be looked at too."""

    kind: Kind
    since: datetime | None
    beneath: bool = False


def is_same_event(event: datetime, served: datetime) -> bool:
    """Whether a store may have meant this event: SQLite and Redis keep whole seconds."""
    return event == served or (not served.microsecond and event.replace(microsecond=0) == served)


def cause_of_row(e: Evidence) -> Cause | None:
    """Why the whole row differs, or is of another event; None if both sides are of the same event."""
    if e.is_mixed and not any(agrees(e, row) for row in e.rows):
        return Cause(KEY_MIXED, None)
    if not e.is_online:
        return _of_absent(e)
    if e.served is None:  # the store does not say; so it is the last event that has these values
        row = next((row for row in reversed(e.rows) if agrees(e, row)), None)
        if row is None:
            return _of_age(e)
        e = e._replace(served=row.event)
    if e.served > e.at and not any(is_same_event(row.event, e.served) for row in e.rows):
        return Cause(FUTURE, e.served)
    rows = e.of_served()
    if not rows:
        return _of_unknown_event(e)
    if (shifted := _shifted(e)) is not None:
        return Cause(TIME_ZONE, shifted.event)
    if not is_same_event(e.last.event, e.served):
        return _of_older(e)
    return _of_age(e)


def _of_absent(e: Evidence) -> Cause | None:
    if e.last is None:
        return None
    if e.spelled_otherwise:
        return Cause(KEY_CAST, e.rows[0].event)
    if not e.source.intervals:
        return Cause(NEVER, e.rows[0].event)
    if e.last.event > e.source.watermark:
        return Cause(BEHIND, e.source.watermark)
    if e.source.was_materialized(e.last.event):
        return Cause(LOST, e.last.event)
    return Cause(NEVER, e.last.event)


def _of_age(e: Evidence) -> Cause | None:
    """Whether training has left the row out, or nulled it for its age."""
    expired = e.last.event + e.source.ttl if e.is_expired else None
    if not e.there:
        return Cause(DROPPED, expired or (e.last.event if e.last else None), beneath=True)
    return Cause(TTL, expired, beneath=True) if expired else None


def _shifted(e: Evidence) -> Row | None:
    """The row that is served under the event time of another, as time zones do it to rows that come every hour: the
    last one, or the last that was materialized. None if the row of that time has the values that are served itself."""
    if any(agrees(e, row) for row in e.of_served()):
        return None
    materialized = next((row for row in reversed(e.rows) if e.source.was_materialized(row.event)), None)
    last = [row for row in (e.last, materialized) if row is not None]
    return next((row for row in last if is_zone_shift(row.event, e.served) and agrees(e, row)), None)


def _of_unknown_event(e: Evidence) -> Cause:
    """The event that is served is in no row of the source."""
    for row in reversed(e.rows):
        if is_zone_shift(row.event, e.served) and agrees(e, row):
            return Cause(TIME_ZONE, row.event)
    if e.last is not None and any(agrees(e, row) for row in e.rows):
        return Cause(EVENT_TIME, e.served)
    if e.source.is_pushed or not e.source.was_materialized(e.served):
        return Cause(PUSHED, e.served)
    return Cause(DELETED, e.served)


def _of_older(e: Evidence) -> Cause:
    if e.is_expired or not e.there:
        return _of_age(e) or Cause(BEHIND, e.source.watermark)
    newer = next(row.event for row in e.rows if row.event > e.served and not is_same_event(row.event, e.served))
    if e.source.watermark is None or e.last.event > e.source.watermark:
        return Cause(BEHIND, newer)
    return Cause(LATE, newer)


def agrees(e: Evidence, row: Row) -> bool:
    """Whether a row has the values that are served, but for what the declared types make of them."""
    served = {name: value for name, value in e.serving.items() if name in row.values}
    compared = [difference(row.values[name], value, e.types.get(name, "")) for name, value in served.items()]
    return (
        bool(compared)
        and any(v is not None for v in served.values())
        and all(kind is None or (isinstance(kind, Kind) and kind.harm == Harm.TYPE) for kind in compared)
    )


def cause_of_value(e: Evidence, feature: str, training: Any, serving: Any) -> Cause:
    """Why one feature differs, when both sides are of the same event."""
    kind = difference(training, serving, e.types.get(feature, ""))
    rows = e.of_served() or e.rows[-1:]
    since = rows[-1].event if rows else e.served
    if isinstance(kind, Kind) and kind != NULL:
        return Cause(kind, since)
    if tied := _of_tied(e, rows, feature, training, serving):
        return Cause(tied, since)
    if isinstance(kind, Kind):
        return Cause(kind, since)
    if serving is None:
        return Cause(NEVER if fits(training, e.types.get(feature, "")) else COERCION, since)
    if isinstance(training, datetime) and isinstance(serving, datetime) and is_zone_shift(training, serving):
        return Cause(TIME_ZONE, since)
    if e.served is None and e.source.is_pushed:
        return Cause(UNEXPLAINED, since)  # the store does not say which event it has: pushed or corrected, who knows
    if rows and (e.source.was_materialized(rows[-1].event) or e.source.is_pushed):
        return Cause(OVERWRITTEN if _was_there(e, rows[-1]) else CORRECTION, since)
    return Cause(UNEXPLAINED, since)


def _of_tied(e: Evidence, rows: Sequence[Row], feature: str, training: Any, serving: Any) -> Kind | None:
    """What it is, if the rows of one event have both values. A row with a later created timestamp, that came after the
    event was materialized, is a correction: where stores go by that timestamp, these rows are no tie."""
    declared = e.types.get(feature, "")
    held = [row for row in rows if feature in row.values]
    trained = [row for row in held if _is(row.values[feature], training, declared)]
    served = [row for row in held if _is(row.values[feature], serving, declared)]
    if len(held) < 2 or not trained or not served:
        return None
    created = [row.created for row in held if row.created is not None]
    newest = [row for row in held if created and row.created == max(created)]
    if any(row in trained and row not in served and not _was_there(e, row) for row in newest):
        return CORRECTION
    return TIE


def _was_there(e: Evidence, row: Row) -> bool:
    """Whether a row was in the source, by its created timestamp, when its event was materialized: before the end of a
    span that was over by then."""
    if row.created is None:
        return False
    by = min(e.at, e.source.updated or e.at)
    return any(start <= row.event <= end and row.created <= end <= by for start, end in e.source.intervals)


def _is(value: Any, side: Any, declared: str) -> bool:
    kind = difference(value, side, declared)
    return kind is None or (isinstance(kind, Kind) and kind != NULL)
