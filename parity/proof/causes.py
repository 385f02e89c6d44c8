"""Why two sides differ: a cause for a difference, from what is on file about its key.

The evidence is the raw purchases of the key, its rows in the offline store, and the row in Redis as it is stored,
before age or the future hide it. Each cause is a claim about them; the first that holds is the one that is named.
"""

import math
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from fractions import Fraction
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from parity.compare.equal import FARTHEST_ZONES, QUARTER, Coerced, same
from parity.definition.instants import FIRST_INSTANT, LAST_INSTANT, MICROSECOND
from parity.definition.table import Rule
from parity.edge.errors import UserError
from parity.online.marks import NO_MARKS, Marks, is_ahead
from parity.online.rows import UNREADABLE
from parity.proof.oracle import evaluate, is_inside, last_event, moments
from parity.proof.raw import Purchase
from parity.proof.streamed import Streamed

DEFINITION = "definition changed"
EXPIRED = "expired"
LATE_ROW = "late row"
CORRECTION = "correction not propagated"
TIME_ZONE = "time-zone shift"
COERCION = "rounding or type coercion"
WINDOW_EDGE = "window edge"
TIE = "tie"
DELETED = "row deleted"
NEVER = "never materialized"
FUTURE = "from the future"
PAST_HORIZON = "past its horizon"
AHEAD = "the stream is ahead"
NOT_LANDED = "not landed yet"
DOUBLED = "counted twice"
OFFSET_RESET = "offset reset"
TAMPERED = "tampered"

MEANING = {
    DEFINITION: "what another definition gives than features.py has: with another window, function or condition, say",
    EXPIRED: "both hold the same event, and only one still serves it: the age against the ttl is at odds",
    LATE_ROW: "an event that the earlier side has and the later side has not seen yet",
    CORRECTION: "the same event, recomputed since the later side last took it over",
    TIME_ZONE: "the same value under an event time that is off by a whole number of quarters of an hour",
    COERCION: "the same value, rounded, cut off, or of another type",
    WINDOW_EDGE: "a window that takes in or leaves out what lies exactly on its bound: a value, or when it changes",
    TIE: "the value with only some of several purchases at one instant",
    DELETED: "an event that one side still has and another has no longer",
    NEVER: "nothing of this feature was ever written online, or all of it was lost",
    FUTURE: "the stored event lies after the instant of the check, so it is not served",
    PAST_HORIZON: "the row online knew its future no further than this; materialize again",
    AHEAD: "an event that a stream has brought online and landed since the features were computed; run "
    "compute_features.py",
    NOT_LANDED: "an event that a stream has brought online, and that is not among the transactions yet, or no longer; "
    "let the stream land it, then run compute_features.py",
    DOUBLED: "an event that the row online has more often than the transactions; run materialize_to_online.py",
    OFFSET_RESET: "the row online has offsets of a stream beyond all that has landed, and so has refused later events; "
    "delete it, run materialize_to_online.py, and write another generation for a stream that was made anew",
    TAMPERED: "another value of the same event, or an event that nothing gives, and no known cause",
}
"""Every cause, in words. The sides in the order of the data: transactions, offline, online."""
OF_STREAMS = (AHEAD, NOT_LANDED, DOUBLED, OFFSET_RESET)
"""Those that are about a stream beside the batch, and say what to do."""


class Evidence(NamedTuple):
    """What is on file about one key, up to the instant of the check; what is stored online, whatever its instant.

    ``events`` are the instants at which the history has to have a row, by the purchases. ``tied`` are those at which
    the offline store has several, of which ``history`` has one. ``stored_at`` and ``stored`` are what holds at the
    instant of the check of the row online, which is of the instant ``row_at``: another one if windows slide, and the
    row has become what it had said that it would. ``hidden`` is the cause for which it says nothing of the instant,
    and ``strange`` are the steps that it says will come where nothing happens.
    """

    purchases: list[Purchase]
    events: set[datetime]
    history: dict[datetime, dict[str, Any]]
    tied: set[datetime]
    stored_at: datetime | None
    stored: dict[str, Any]
    row_at: datetime | None
    hidden: str | None = None
    strange: Mapping[datetime, bool] = MappingProxyType({})
    """Whether a step is a microsecond beside one that has to be there."""
    slides: frozenset[timedelta] = frozenset()
    """How long the windows are that slide."""
    steps: Collection[datetime] | None = None
    """All steps that the row online says will come; None in a store that knows of none."""
    streamed: Streamed | None = None
    """What a stream has noted beside the row online, if one has written it."""

    @property
    def agrees(self) -> bool:
        """Whether what a stream goes on from, beside the row online, is what the transactions have."""
        return self.streamed is not None and self.streamed.agrees


class Freshness(NamedTuple):
    """When the files were last written, and since when the online store may hold what it holds; and up to which events
    of a stream the transactions go, ``landed``, and what the features were ``computed_of``."""

    transactions: datetime
    computed: datetime
    materialized: datetime | None
    redefined: bool = False
    """Whether the features were computed by another definition than is declared now."""
    landed: Marks = NO_MARKS
    computed_of: Marks = NO_MARKS

    @property
    def is_behind(self) -> bool:
        """Whether the transactions have changed since the features were computed."""
        return self.computed < self.transactions or self.landed != self.computed_of

    def is_computed(self, applied: bytes | None) -> bool:
        """Whether the features were computed of all that a stream has ``applied`` to a row."""
        return not is_ahead(applied, self.computed_of)


def online_cause(feature: str, rule: Rule, e: Evidence, at: datetime, fresh: Freshness) -> str:
    """Say why serving differs from training."""
    if e.stored_at is None:
        return NEVER
    if e.hidden:
        return e.hidden
    if feature not in e.stored:
        return NEVER
    if cause := event_cause(e, at, fresh):
        return cause
    computed, stored = e.history[e.stored_at][feature], e.stored[feature]
    if same(stored, computed):
        return EXPIRED
    if fresh.redefined and _is_coerced(stored, computed):  # by a definition under which it is of another type
        return DEFINITION
    known = arithmetic(stored, computed, rule, e.purchases, e.stored_at)
    is_settled = _is_unchanged(fresh) or (e.agrees and rule.time_window is not None)
    if known and (is_settled or known not in (WINDOW_EDGE, TIE)):
        return known  # and no purchase that came late and looks like that
    return TAMPERED if is_settled else CORRECTION


def event_cause(e: Evidence, at: datetime, fresh: Freshness) -> str | None:
    """Say why the event that is stored online is not the last one of the history; None if it is."""
    if e.stored_at == UNREADABLE:
        return TAMPERED
    if cause := stream_cause(e, fresh):
        return cause
    if e.stored_at in e.tied:
        return TIE
    if e.stored_at not in e.history:
        if any(e.stored == e.history[event] for event in _zones_away(e.stored_at, e.history)):
            return TIME_ZONE
        if e.stored_at > at:
            return FUTURE
        if e.stored_at in e.strange and e.row_at in e.history and not _has_lost_a_purchase(e, fresh):
            return _of_strange(e)
        return TAMPERED if _was_moved(e, fresh) else DELETED
    if e.stored_at < max(e.history):
        if _has_lost_steps(e, fresh):
            return _of_strange(e)
        return DEFINITION if _knew_other_windows(e, at, fresh) else LATE_ROW
    return None


def stream_cause(e: Evidence, fresh: Freshness) -> str | None:
    """Say what a stream has done otherwise than the batch to the row online; None if nothing."""
    row = e.streamed
    if row is None:
        return None
    if not row.is_own:
        return DEFINITION
    if is_ahead(row.applied, fresh.landed):
        if row.fewer and not row.corrects and max(row.fewer) > max(row.more, default=FIRST_INSTANT):
            return OFFSET_RESET
        return NOT_LANDED if row.more else None
    if row.more:
        return DOUBLED if row.doubles else CORRECTION if row.fewer else DELETED
    if row.fewer:
        return LATE_ROW
    is_new = e.stored_at in e.events and e.stored_at not in e.history
    return AHEAD if is_new and not fresh.is_computed(row.applied) else None


def _of_strange(e: Evidence) -> str:
    """Why the steps to come are not those that have to be."""
    if not e.strange:
        return TAMPERED
    return WINDOW_EDGE if all(e.strange.values()) else DEFINITION


def _was_moved(e: Evidence, fresh: Freshness) -> bool:
    """Whether the row online is one of the history under another event, which was in no purchase, and the history is
    the one that was materialized."""
    if e.stored_at in e.events:
        return False
    return e.agrees or (_is_unchanged(fresh) and any(e.stored == row for row in e.history.values()))


def _has_lost_steps(e: Evidence, fresh: Freshness) -> bool:
    """Whether the row online is the one that was the last when it was materialized, and only what it says of the time
    since lacks something."""
    if e.slides and e.agrees:
        return e.row_at == last_event(e.purchases, e.row_at)
    known = [event for event in e.history if fresh.materialized and event <= fresh.materialized]
    return e.slides and _is_unchanged(fresh) and e.row_at == max(known, default=None)


def _own_steps(e: Evidence) -> set[datetime]:
    """When the purchase that the row online is of leaves its windows: by whoever knows that purchase to be known."""
    return set(moments((purchase for purchase in e.purchases if purchase.time == e.row_at), e.slides)) - {e.row_at}


def _has_lost_a_purchase(e: Evidence, fresh: Freshness) -> bool:
    """Whether the row online is of the windows that are declared now, so that a step that is strange is that of a
    purchase which has been deleted since."""
    if _is_unchanged(fresh) or not e.steps:
        return False
    own = {step for step in _own_steps(e) if step <= max(e.steps)}
    return bool(own) and own <= set(e.steps) and max(e.strange) < max(own)


def _knew_other_windows(e: Evidence, at: datetime, fresh: Freshness) -> bool:
    """Whether the row online does not know by now that its own purchase has left a window, which no purchase that came
    late explains."""
    if _is_unchanged(fresh) or e.steps is None:
        return False
    return any(step in e.history and step not in e.steps for step in _own_steps(e) if step <= at)


def _is_unchanged(fresh: Freshness) -> bool:
    """Whether the history is the one that was materialized."""
    return fresh.materialized is not None and fresh.materialized >= fresh.computed


def is_beside(event: datetime, others: Collection[datetime]) -> bool:
    """Whether one of ``others`` is a microsecond earlier or later."""
    return (event > FIRST_INSTANT and event - MICROSECOND in others) or (
        event < LAST_INSTANT and event + MICROSECOND in others
    )


def offline_cause(feature: str, rule: Rule, e: Evidence, right: Any, fresh: Freshness) -> str:
    """Say why training differs from the raw transactions, which give ``right``."""
    if fresh.redefined:
        return DEFINITION
    missing, surplus = e.events - e.history.keys(), e.history.keys() - e.events
    if _is_shift(e.history, e.events):
        return TIME_ZONE
    if e.slides and any(is_beside(event, missing) for event in surplus):
        return WINDOW_EDGE
    if e.slides and e.history.keys() == {purchase.time for purchase in e.purchases} != e.events:
        return DEFINITION  # under which no window slides
    if surplus:
        return cause_of_surplus(fresh)
    if missing:  # what is online has once been offline
        return DELETED if e.stored_at in missing else cause_of_missing(fresh)
    event = max(e.history)
    if event in e.tied:
        return TIE
    wrong = e.history[event][feature]
    if same(wrong, right) or (right is None and evaluate(rule, e.purchases, event) is not None):
        return EXPIRED
    known = arithmetic(wrong, right, rule, e.purchases, event)
    if known and not (fresh.is_behind and known in (WINDOW_EDGE, TIE)):
        return known
    return CORRECTION if fresh.is_behind else TAMPERED


class Past:
    """What is on file about the whole history of one key: ``purchases``, and the offline rows, (event, features).

    Events are aware instants. ``right`` has, by event, what the purchases give. ``slides`` is whether windows do, and
    ``is_ahead`` whether a stream has brought events online that the features were not computed from.
    """

    def __init__(
        self,
        purchases: list[Purchase],
        rows: list[tuple[datetime, dict[str, Any]]],
        right: dict[datetime, dict[str, Any]],
        slides: bool,
        is_ahead: bool = False,
    ):
        self.purchases, self.right, self.slides, self.is_ahead = purchases, right, slides, is_ahead
        self.history = dict(rows)
        self.tied = {event for event, count in Counter(event for event, _ in rows).items() if count > 1}
        self.missing, self.surplus = right.keys() - self.history.keys(), self.history.keys() - right.keys()
        self.shifted = _is_shift(self.history, set(right))

    def moved(self, event: datetime) -> bool:
        """Whether a row at ``event`` that one side has is there on the other side at another time zone's instant."""
        if event in self.surplus:
            return any(_same_row(self.history[event], self.right[other]) for other in _zones_away(event, self.missing))
        return any(_same_row(self.history[other], self.right[event]) for other in _zones_away(event, self.surplus))

    def is_beside(self, event: datetime) -> bool:
        """Whether a row at ``event`` that one side has is there on the other side a microsecond earlier or later, as if
        a window were open at one end, or closed at both."""
        return self.slides and is_beside(event, self.missing if event in self.surplus else self.surplus)


def surplus_cause(past: Past, event: datetime, at: datetime, fresh: Freshness) -> str:
    """Say why the offline table has a row at ``event``, where there is nothing to be one of."""
    if fresh.redefined:
        return DEFINITION
    if past.shifted or past.moved(event):
        return TIME_ZONE
    if past.is_beside(event):
        return WINDOW_EDGE
    may_be_later = past.slides and fresh.is_behind  # as what is gone since would have left a window
    if past.is_ahead and fresh.is_behind:
        return AHEAD
    return FUTURE if event > at and not may_be_later else cause_of_surplus(fresh)


def missing_cause(past: Past, event: datetime, fresh: Freshness) -> str:
    """Say why the offline table has no row at ``event``, where a purchase is, or has just left a window."""
    if fresh.redefined:
        return DEFINITION
    if past.shifted or past.moved(event):
        return TIME_ZONE
    if past.is_ahead and fresh.is_behind:
        return AHEAD
    if past.slides and past.history.keys() == {purchase.time for purchase in past.purchases}:
        return DEFINITION  # under which no window slides
    return WINDOW_EDGE if past.is_beside(event) else cause_of_missing(fresh)


def wrong_cause(rule: Rule, past: Past, event: datetime, wrong: Any, right: Any, fresh: Freshness) -> str:
    """Say why a row at ``event`` has another value than the purchases give."""
    if fresh.redefined:
        return DEFINITION
    if event in past.tied:
        return TIE
    if past.is_ahead and fresh.is_behind and event >= min(past.missing, default=event):
        return AHEAD
    known = [purchase for purchase in past.purchases if purchase.time <= event]
    if past.missing:
        in_time = [purchase for purchase in known if purchase.time not in past.missing]
        if same(wrong, evaluate(rule, in_time, event)):
            return cause_of_missing(fresh)
    cause = arithmetic(wrong, right, rule, known, event)
    if cause and not (fresh.is_behind and cause in (WINDOW_EDGE, TIE)):
        return cause
    if not fresh.is_behind:
        return TAMPERED
    return DELETED if any(other < event for other in past.surplus) else CORRECTION


def cause_of_missing(fresh: Freshness) -> str:
    """Of an event that is raw and not offline: has it come since the features were computed?"""
    return LATE_ROW if fresh.is_behind else DELETED


def cause_of_surplus(fresh: Freshness) -> str:
    """Of an event that is offline and not raw: has it gone since the features were computed?"""
    return DELETED if fresh.is_behind else TAMPERED


def _same_row(row: dict[str, Any], other: dict[str, Any]) -> bool:
    return all(same(value, other[name]) for name, value in row.items())


def _zones_away(instant: datetime, events: Iterable[datetime]) -> Iterator[datetime]:
    return (
        event
        for event in events
        if event != instant and abs(event - instant) <= FARTHEST_ZONES and (event - instant) % QUARTER == timedelta()
    )


def _is_shift(history: dict[datetime, dict], events: set[datetime]) -> bool:
    """Whether every event offline is a raw one, moved by one and the same distance between two time zones."""
    if not history or history.keys() <= events:
        return False
    first = min(history)
    return any({event + (raw - first) for event in history} <= events for raw in _zones_away(first, events))


def arithmetic(wrong: Any, right: Any, rule: Rule, purchases: list[Purchase], event: datetime) -> str | None:
    """Name the mistake in computing or storing that turns ``right`` into ``wrong``, if one is known to."""
    if wrong in (None, 0) and right in (None, 0) and not any(is_inside(rule, p, event) for p in purchases):
        return DEFINITION  # of what a window comes to that nothing is in
    if wrong is None:
        return None
    if _is_coerced(wrong, right):
        return COERCION
    if any(_is_same(wrong, value) for value in _tied_ends(rule, purchases, event)):
        return TIE
    for cause, mistaken, some in _mistaken(rule, purchases, event):
        try:
            value = evaluate(mistaken, some, event)
        except UserError:  # what is mistaken may be beyond its type
            continue
        if _is_same(wrong, value):
            return cause
    if _is_same(wrong, _unslid(rule, purchases, event)):
        return DEFINITION
    if rule.function in ("var", "std") and isinstance(wrong, float):
        population = _of_population(rule, purchases, event)
        if population is not None and math.isclose(wrong, population):  # whoever divides so does it in floats
            return DEFINITION
    return None


def _unslid(rule: Rule, purchases: list[Purchase], event: datetime) -> Any:
    """The value that stays from the last purchase on, if windows do not slide."""
    last = last_event(purchases, event)
    return None if last in (None, event) else evaluate(rule, purchases, last)


def _is_same(wrong: Any, value: Any) -> bool:
    return value is not None and same(wrong, value)


def _is_coerced(wrong: Any, right: Any) -> bool:
    if isinstance(wrong, Coerced):
        wrong = wrong.value
    if isinstance(wrong, bytes):
        wrong = wrong.decode(errors="replace")
    if isinstance(wrong, bool) or right is None:
        return False
    if isinstance(right, str):
        return wrong in _mangled(right) if isinstance(wrong, str) else _is_number(right, wrong)
    if isinstance(wrong, str):
        return wrong == str(right)
    if not isinstance(wrong, int | float) or not isinstance(right, int | float):
        return False
    if wrong == right:
        return True  # and of another type
    with np.errstate(over="ignore"):
        single = float(np.float32(right))
    if wrong in (single, int(right), *(round(right, places) for places in range(7))) or wrong == int(float(right)):
        return True
    return isinstance(right, int) and wrong in (_of_bits(right, 32), float(right), int(float(right)))


def _of_bits(number: int, bits: int) -> int:
    """What is left of a whole number in so few bits."""
    return (number + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1)


def _mangled(right: str) -> set[str]:
    """What a text becomes by being trimmed, cut off, taken for a number, changed in its capitals, or misread."""
    forms = {right.strip(), right.lower(), right.upper(), right.casefold(), right.title(), right.lstrip("0") or "0"}
    forms |= {unicodedata.normalize(form, right) for form in ("NFC", "NFD", "NFKC", "NFKD")}
    forms |= {right.encode().decode("latin-1"), right.encode("ascii", "ignore").decode(), right[:255]}
    forms |= {right.encode("ascii", "replace").decode(), right.encode().decode("cp1252", "replace")}
    with suppress(ValueError, OverflowError):
        forms |= {str(float(right)), str(int(float(right)))}
    return forms - {right}


def _is_number(text: str, number: Any) -> bool:
    try:
        return float(text) == number
    except (ValueError, TypeError):
        return False


def _tied_ends(rule: Rule, purchases: list[Purchase], event: datetime) -> Iterator[Any]:
    """For the first or the last of several values at one instant: each of them, as an engine may take any."""
    if rule.function not in ("first", "last"):
        return
    inside = [purchase for purchase in purchases if purchase.time <= event and is_inside(rule, purchase, event)]
    end = (min if rule.function == "first" else max)((purchase.time for purchase in inside), default=event)
    for purchase in inside:
        if purchase.time == end:
            yield evaluate(rule, [purchase], event)


def _mistaken(rule: Rule, purchases: list[Purchase], event: datetime) -> Iterator[tuple[str, Rule, list[Purchase]]]:
    """Go through (cause, rule, purchases) of windows as they are commonly got wrong at ``event``."""
    window = rule.time_window
    tied = [purchase for purchase in purchases if purchase.time == event]
    others = [purchase for purchase in purchases if purchase.time != event]
    for count in range(1, len(tied)):
        yield TIE, rule, others + tied[:count]
        yield TIE, rule, others + tied[-count:]
    yield WINDOW_EDGE, rule, others
    if window is not None:
        inside = [purchase for purchase in purchases if event - purchase.time != window]
        yield WINDOW_EDGE, rule, inside
        yield WINDOW_EDGE, rule, [purchase for purchase in inside if purchase.time != event]
        yield WINDOW_EDGE, replace(rule, time_window=window + MICROSECOND), purchases
        yield DEFINITION, replace(rule, time_window=None), purchases


def _of_population(rule: Rule, purchases: list[Purchase], event: datetime) -> float | None:
    """The variance or deviation if it were that of a population, and not of a sample."""
    count = evaluate(replace(rule, function="count"), purchases, event)
    variance = evaluate(replace(rule, function="var"), purchases, event)
    if variance is None:
        return 0.0 if count else None
    population = float(Fraction(variance) * (count - 1) / count)
    return population if rule.function == "var" else math.sqrt(population)
