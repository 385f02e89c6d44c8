"""Why something else was served than the truth: a cause, from what is known of the value today and of then.

As in a proof (`parity.proof.causes`), each cause is a claim about the evidence, and the first that holds is the one
that is named. The evidence of a log is: what was served, of which event, and with which status; the history that the
transactions give today; and, where it is known, what training would have got at the moment of serving.
"""

from collections.abc import Collection, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from parity.audit.logged import NO_EVENT
from parity.definition.table import Rule
from parity.proof.causes import (
    AHEAD,
    COERCION,
    DEFINITION,
    EXPIRED,
    FUTURE,
    LATE_ROW,
    NOT_LANDED,
    PAST_HORIZON,
    TIE,
    TIME_ZONE,
    WINDOW_EDGE,
    arithmetic,
    same,
)
from parity.proof.held import nearest_instant
from parity.proof.oracle import expected
from parity.proof.raw import Purchase

CORRECTION, DELETED = "correction", "deleted row"
BEHIND = "behind"
EARLIER = "late row, or behind"
CHANGED = "changed since, or altered"
REPAIRED = "offline was wrong"
OFFLINE_WRONG = "offline wrong"
ALTERED = "altered"

MEANING = {
    LATE_ROW: "a transaction before that instant, of which the features were computed only after the value was served",
    CORRECTION: "a transaction that was changed after the value was served",
    DELETED: "a transaction that the features were computed of as the value was served, and that is gone since",
    DEFINITION: "the features were computed by another definition as the value was served",
    BEHIND: "the offline store had it as the value was served, and the online store did not serve it: it was not "
    "materialized yet, was lost, or was hidden by a row from the future; materialize more often",
    EARLIER: "the event that was served is earlier than the one that training gets today: a late row, or it was not "
    "online yet; what was known then is not known here",
    CHANGED: "another value of the same event: corrected since, or altered; what was known then is not known here",
    REPAIRED: "the online store was right, and the offline store, as it was then, was not: it was altered, or an "
    "earlier one was put back, and it has been computed anew since",
    AHEAD: "the online store had it from a stream before the features were computed of it",
    NOT_LANDED: "an event that a stream has brought online, and that is not among the transactions yet, or no longer",
    EXPIRED: "one side took the event for older than the ttl, and the other did not",
    PAST_HORIZON: "the row online knew its future no further than this, and so was not served, as is the rule of "
    "continuous views; training is right: materialize more often, or let the horizon be longer",
    FUTURE: "the event that was served lies after the instant that was asked about",
    OFFLINE_WRONG: "the offline store differs from what the transactions give; run compute_features.py",
    COERCION: "the same value, rounded, cut off, or of another type",
    WINDOW_EDGE: "a window that takes in or leaves out what lies exactly on its bound",
    TIE: "the value with only some of several purchases at one instant",
    TIME_ZONE: "the same value under an event time that is off by a whole number of quarters of an hour",
    ALTERED: "nothing that is known explains the value",
}
"""Every cause, in words."""


class Case(NamedTuple):
    """One logged value that differs. Instants are in microseconds, `NO_EVENT` for none."""

    feature: str
    served: Any
    status: int
    event: int
    """That of the row that was served."""
    as_of: int
    truth: Any
    truth_event: int
    """Of the last event today, and that of the last transaction."""
    truth_bought: int
    is_known: bool
    then: Any
    then_event: int
    since: str | None
    """The cause for which what was known then is not what is known today, if it is known."""
    at_event: Any
    """What the history of today has at the event that was served; `NOT_THERE` if no such event."""
    was_there: bool
    """Whether what was served is what the offline store once had at its event, before it was served."""


NOT_THERE = "no such event"
THERE = (FieldStatus.PRESENT, FieldStatus.NULL_VALUE)
"""The statuses of a value that is there, if only as a null."""


class Explained(NamedTuple):
    """What else is known: the rule of the feature and the purchases of the key; the ttl, in microseconds, and the
    windows that slide; and whether a stream writes beside the batch."""

    rule: Rule | None
    purchases: Sequence[Purchase]
    ttl: int | None
    slides: Collection[timedelta]
    is_streamed: bool


def cause_of(case: Case, known: Explained) -> str:
    """Say why what was served is not the truth, or was not what was known then, of a value that the offline store has
    as the transactions give it."""
    if case.served is not None and case.event > case.as_of:
        return FUTURE
    if case.is_known and same(case.served, case.truth):
        return _ahead(case, known)
    if case.is_known and same(case.served, case.then):
        return case.since or CHANGED
    return _of_then(case, known) if case.is_known else _of_today(case, known)


def _ahead(case: Case, known: Explained) -> str:
    """Of a value that is what is known today, and was not what was known then."""
    if case.since not in (None, LATE_ROW, CORRECTION, CHANGED):
        return case.since
    return AHEAD if known.is_streamed else REPAIRED


def _of_then(case: Case, known: Explained) -> str:
    """Of what was served and was not known then either."""
    if case.served is None and case.status not in THERE:
        return _unserved(case, known, case.then_event, BEHIND)
    if _is_of_history(case, known) or case.was_there:
        if _is_too_old(case, known) and case.then_event in (NO_EVENT, case.event):
            return EXPIRED
        return BEHIND if case.was_there or case.event <= case.then_event else _ahead(case, known)
    if known.is_streamed and case.at_event is NOT_THERE and case.event > case.then_event:
        return NOT_LANDED
    return _mistake(case, known) or ALTERED


def _of_today(case: Case, known: Explained) -> str:
    """Of what was served at a time of which it is not known what was known."""
    if case.served is None and case.status not in THERE:
        return _unserved(case, known, case.truth_event, EARLIER)
    if case.truth is None and _is_too_old(case, known) and case.at_event is not NOT_THERE:
        return EXPIRED
    if case.at_event is NOT_THERE:
        return NOT_LANDED if known.is_streamed and case.event > case.truth_event else DELETED
    last = case.truth_bought if known.slides else case.truth_event
    if case.event < last:
        return EARLIER
    mistake = _mistake(case, known)
    return mistake if mistake and mistake not in (WINDOW_EDGE, TIE) else CHANGED


def _unserved(case: Case, known: Explained, event: int, behind: str) -> str:
    """Why nothing was served: there was no row, or not this feature in it, or it was taken for too old."""
    last = case.truth_bought if known.slides else event
    if case.status != FieldStatus.OUTSIDE_MAX_AGE or case.event < last:
        return behind
    return PAST_HORIZON if known.slides else EXPIRED


def _is_too_old(case: Case, known: Explained) -> bool:
    return bool(known.ttl) and case.as_of - case.event > known.ttl


def _is_of_history(case: Case, known: Explained) -> bool:
    """Whether what was served is what the history of today gives of the purchases up to the event that was served."""
    if not known.slides:
        return case.at_event is not NOT_THERE and same(case.served, case.at_event)
    if known.rule is None:
        return False
    event = nearest_instant(case.event)
    some = [purchase for purchase in known.purchases if purchase.time <= event]
    return bool(some) and same(
        case.served, expected(known.rule, some, nearest_instant(case.as_of), None, None, known.slides)
    )


def _mistake(case: Case, known: Explained) -> str | None:
    """The mistake in computing or storing that turns the truth into what was served, if one is known to."""
    if known.rule is None or not known.purchases:
        return None
    at = nearest_instant(case.as_of if known.slides else case.truth_event)
    return arithmetic(case.served, case.truth, known.rule, [p for p in known.purchases if p.time <= at], at)
