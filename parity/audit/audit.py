"""The audit: every logged value held against what training gets today for that very instant, against the oracle on
today's transactions, and against what training would have got as it was served.

The log is gone through once. What training says is asked for as it is read, and all of it is sorted away by key, on
disk; then the oracle works out the history of some keys at a time. So memory does not grow with the log.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from parity.audit.causes import AHEAD, CORRECTION, DELETED, NOT_THERE, OFFLINE_WRONG, Case, Explained, cause_of
from parity.audit.found import DIFFERED_THEN, DIFFERS, KNOWN_THEN, SEEN, Audit, Audited, Cause, Example
from parity.audit.logged import (
    NO_EVENT,
    OTHER_KEYS,
    ROWS_AT_ONCE,
    Served,
    Target,
    View,
    chunks,
    served_of,
)
from parity.audit.sides import Steps, absent, alike, one_array, python, steps_of, training_of
from parity.audit.then import KnownThen
from parity.compare.answers import ROW_DROPPED
from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND
from parity.definition.keys import KeyBook
from parity.edge.errors import UserError
from parity.edge.files import Location, location, modified, progress
from parity.edge.spool import Spool
from parity.offline.side import EVENT, NUMBER, history_by_part, marks_of
from parity.proof import causes
from parity.proof.causes import (
    DEFINITION,
    EXPIRED,
    Freshness,
    Past,
    missing_cause,
    same,
    surplus_cause,
    wrong_cause,
)
from parity.proof.found import EXTRA, MATCH, MISMATCH, MISSING, WRONG, plain
from parity.proof.held import nearest_instant
from parity.proof.oracle import expected, slides_of
from parity.proof.raw import Purchase, raw_transactions
from parity.repository import computed_by
from parity.served.hourly import LOG_TIMESTAMP
from parity.served.log import Part
from parity.transactions.landed import high_water

CALLED = {causes.CORRECTION: CORRECTION, causes.DELETED: DELETED, causes.TAMPERED: OFFLINE_WRONG}
"""What an audit calls causes of a proof."""
CHECKED = 1000
"""Of so many values of a view the oracle works out what holds at the very instant, and not only each row."""
MOST_MISTAKES = 20_000
"""So many values of a view are held against known mistakes; more are counted as what nothing explains."""


class Question(NamedTuple):
    """What is audited: which rows of the log, held against which transactions, and when."""

    parts: Sequence[Part]
    views: Mapping[str, View]
    asked: Collection[str]
    """The names of the views that are audited; all if empty."""
    transactions: Mapping[str, Location]
    since: datetime | None
    until: datetime | None
    now: datetime


def audit(store: FeatureStore, question: Question, found: Audit) -> None:
    """Go through the log, and note in ``found`` what comes of it."""
    rows = sum(part.rows for part in question.parts)
    found.dropped += sum(part.dropped for part in question.parts)
    with ExitStack() as stack:
        audits: dict[str, OneView] = {}
        with progress("audit", rows, "row") as bar:
            q = question
            for chunk in chunks(store, q.parts, q.views, q.asked, found.requests, q.since, q.until):
                _span(found, chunk.rows)
                for (view, why), columns in chunk.unseen.items():
                    found.unseen[view, why] += columns * chunk.rows.num_rows
                for target in chunk.targets:
                    name = target.view.name
                    if (served := served_of(chunk, target)) is None:
                        found.unseen[name, OTHER_KEYS] += len(target.features) * chunk.rows.num_rows
                        continue
                    if name not in audits:
                        audits[name] = stack.enter_context(OneView(store, target.view, question, rows))
                    audits[name].take(target, served)
                bar.update(chunk.rows.num_rows)
        for one in audits.values():
            one.compare(found)
            found.views.append(one.found)


def _span(found: Audit, rows: pa.Table) -> None:
    """Note when these rows were served."""
    ends = pc.min_max(rows[LOG_TIMESTAMP]).as_py()
    found.rows += rows.num_rows
    found.first = min([ends["min"], *([found.first] if found.first else [])])
    found.last = max([ends["max"], *([found.last] if found.last else [])])


class OneView:
    """The audit of one feature view: its rows are taken up as they are read, and then compared by key."""

    def __init__(self, store: FeatureStore, view: View, question: Question, rows: int):
        self.store, self.view, self.question, self.found = store, view, question, Audited(view)
        self._stack, self._rows = ExitStack(), rows
        self._spools: dict[tuple, Spool] = {}
        """By the features, and the types of the columns: a value may have been served as another than it is."""
        self._mistakes = 0

    def __enter__(self) -> "OneView":
        table, self.raw, self.known = self.view.table, None, None
        self.book, parts = KeyBook(self.view.keys), 1
        if table:
            place = self.question.transactions[table.name]
            self.raw = self._stack.enter_context(raw_transactions(place, table.definition))
            self.book.number(self.raw.keys)
            self.known, parts = KnownThen(table), len(self.raw)
            self.found.known_since = self.known.since
            self.found.redefined = bool(computed_by(table) - {table.definition.fingerprint})
            self.fresh = _freshness(table, place, self.found.redefined)
        self.parts = parts * max(1, -(-self._rows // (parts * ROWS_AT_ONCE)))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def take(self, target: Target, served: Served) -> None:
        """Take up some rows, with what training and the versions say of them."""
        training = training_of(self.store, self.view.name, target.features, served.keys, served.as_of)
        numbers = self.book.number(served.keys)
        then = self.known.of(served.keys, served.as_of, served.when) if self.known else None
        columns: dict[str, Any] = {
            "number": numbers,
            "as_of": served.as_of,
            "when": served.when,
            "event": served.event,
            "request": served.requests,
            "dropped": training.dropped,
            "known": then.known if then else np.zeros(len(numbers), bool),
            "then_event": then.event if then else np.full(len(numbers), NO_EVENT),
            "since": then.cause if then else pa.nulls(len(numbers), pa.string()),
        }
        for feature in target.features:
            truth = one_array(training.values[feature])
            columns[f"served {feature}"] = one_array(served.values[feature])
            columns[f"status {feature}"] = one_array(served.statuses[feature])
            columns[f"truth {feature}"] = truth
            columns[f"then {feature}"] = one_array(then.values[feature]) if then else pa.nulls(len(truth), truth.type)
        rows = pa.table(columns)
        kind = target.features, tuple(map(str, rows.schema.types))
        if kind not in self._spools:
            self._spools[kind] = self._stack.enter_context(Spool(self.parts, "The audit sorts the log"))
        self._spools[kind].append(rows, numbers % self.parts)

    def compare(self, found: Audit) -> None:
        """Compare all that was taken up."""
        keys = np.zeros(len(self.book), bool)
        for spool in self._spools.values():
            spool.close()
        for part in range(self.parts):
            for (features, _), spool in self._spools.items():
                for rows in _at_once(spool.batches(part)):
                    keys[rows["number"].to_numpy()] = True
                    _Compared(self, part, features, rows, found).all()
        self.found.keys = int(np.count_nonzero(keys))

    def purchases(self, part: int, numbers: np.ndarray) -> dict[int, list[Purchase]]:
        """The purchases of those of these keys that have some."""
        if self.raw is None:
            return {}
        of_part = self.raw.part(part % len(self.raw))
        return {number: of_part[number] for number in np.unique(numbers).tolist() if number in of_part}

    def history(self, part: int) -> pa.Table:
        """The offline rows of the keys of a part, sorted. Read once, when they are first asked for."""
        if not hasattr(self, "_history"):

            def part_of(numbers: np.ndarray) -> np.ndarray:
                return numbers % self.parts

            self._history = self._stack.enter_context(
                history_by_part(self.store, self.view.table, self.book.find, part_of, self.parts)
            )
        return self._history(part)

    def may_look_closer(self) -> bool:
        self._mistakes += 1
        return self._mistakes <= MOST_MISTAKES


def _freshness(table: FeatureTable, transactions: Location, redefined: bool) -> Freshness:
    computed = modified(location(table.source.path))
    return Freshness(modified(transactions), computed, None, redefined, high_water(transactions), marks_of(table))


def _at_once(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The same rows, at most about `ROWS_AT_ONCE` at a time."""
    some: list[pa.RecordBatch] = []
    for batch in batches:
        some.append(batch)
        if sum(batch.num_rows for batch in some) >= ROWS_AT_ONCE:
            yield pa.Table.from_batches(some)
            some = []
    if some:
        yield pa.Table.from_batches(some)


class _Compared:
    """Some rows of one view, compared."""

    def __init__(self, one: OneView, part: int, features: Sequence[str], rows: pa.Table, audit: Audit):
        self.one, self.part, self.features, self.rows, self.audit = one, part, features, rows.combine_chunks(), audit
        self.found, self.table = one.found, one.view.table
        for name in ("number", "as_of", "when", "event", "request", "then_event"):
            setattr(self, name, rows[name].to_numpy())
        self.dropped = rows["dropped"].to_numpy()
        self.known = rows["known"].to_numpy()
        self.purchases = one.purchases(part, self.number)
        self.steps: Steps | None = None
        if self.table:
            self.steps = steps_of(self.table, features, self.purchases)
            self.slides = slides_of(self.table.definition)
            self.ttl = self.table.view.ttl // MICROSECOND if self.table.view.ttl else None
            self.row = self._alive(self.steps.at(self.number, self.as_of))
            self.row_of_event = self.steps.exactly(self.number, self.event)
        self.past: dict[int, Past] = {}
        self.differs = np.zeros(len(self.number), bool)
        self.differed = np.zeros(len(self.number), bool)
        self.rows_of: dict[str, set[int]] = {}

    def _alive(self, row: np.ndarray) -> np.ndarray:
        """Those of the rows of the oracle that are not older than the ttl; -1 for the others."""
        self.held = row
        if self.ttl is None or not len(self.steps.events):
            return row
        age = self.as_of - self.steps.events[np.maximum(row, 0)]
        return np.where((row >= 0) & (age <= self.ttl), row, -1)

    def all(self) -> None:
        self.found.rows += len(self.number)
        now = (self.one.question.now - EPOCH) // MICROSECOND
        self.found.to_come += int(np.count_nonzero(self.as_of > now))
        for feature in self.features:
            self._feature(feature)
        for cause, rows in self.rows_of.items():
            self.found.causes[cause].rows += len(rows)
        requests = self.audit.requests
        requests.mark(self.request, SEEN)
        requests.mark(self.request[self.differs], DIFFERS)
        requests.mark(self.request[self.known], KNOWN_THEN)
        requests.mark(self.request[self.differed], DIFFERED_THEN)

    def _feature(self, feature: str) -> None:
        served, truth, then = (one_array(self.rows[f"{side} {feature}"]) for side in ("served", "truth", "then"))
        as_training = alike(served, truth) & ~self.dropped
        if self.steps is not None:
            values = self.steps.values[feature]
            oracle = values.take(pa.array(self.row, mask=self.row < 0))
            is_right = alike(truth, oracle)
        else:
            oracle, is_right = truth, np.ones(len(truth), bool)
        nothing = absent(served)
        kinds = {
            MATCH: as_training & is_right,
            WRONG: as_training & ~is_right,
            MISSING: ~as_training & nothing & ~self.dropped,
            EXTRA: ~as_training & ((~nothing & absent(truth)) | self.dropped),
        }
        kinds[MISMATCH] = ~np.logical_or.reduce(list(kinds.values()))
        for kind, where in kinds.items():
            self.found.counts[kind] += int(np.count_nonzero(where))
        self.found.nulls += int(np.count_nonzero(kinds[MATCH] & nothing))
        differs = ~kinds[MATCH]
        differed = self.known & ~alike(served, then)
        self.found.then_known += int(np.count_nonzero(self.known))
        self.found.then_differing += int(np.count_nonzero(differed))
        self.differs |= differs
        self.differed |= differed
        self._check(feature, oracle)
        places = np.flatnonzero(differs | differed)
        if len(places):
            self._explain(feature, places, differs, differed, is_right, (served, truth, oracle, then))

    def _check(self, feature: str, oracle: pa.Array) -> None:
        """Work out some values at the very instants, with which those that were found by rows have to agree."""
        if self.table is None:
            return
        left = max(0, CHECKED - self.found.checked)
        [rule] = [rule for rule in self.table.definition.rules if rule.name == feature]
        for place in range(0, len(self.number), max(1, len(self.number) // max(1, min(left, CHECKED // 10)))):
            if self.found.checked >= CHECKED:
                return
            self.found.checked += 1
            at, some = nearest_instant(int(self.as_of[place])), self.purchases.get(int(self.number[place]), [])
            right = expected(rule, some, at, self.table.view.ttl, None, self.slides)
            if not same(right, oracle[place].as_py()):
                raise UserError(
                    f"the oracle contradicts itself: {feature} of {self._named(place)} at {at.isoformat()} is "
                    f"{right} at that instant, and {oracle[place].as_py()} by its rows. This is a fault of the audit."
                )

    def _named(self, place: int) -> str:
        return self.found.named(self._key(place))

    def _key(self, place: int) -> Any:
        return plain(self.one.book.key(int(self.number[place])))

    def _explain(
        self,
        feature: str,
        places: np.ndarray,
        differs: np.ndarray,
        differed: np.ndarray,
        is_right: np.ndarray,
        sides: tuple[pa.Array, pa.Array, pa.Array, pa.Array],
    ) -> None:
        where = pa.array(places)
        served, truth, oracle, then = (python(side.take(where)) for side in sides)
        statuses = self.rows[f"status {feature}"].take(where).to_pylist()
        since = self.rows["since"].take(where).to_pylist()
        at_events = self._at_events(feature, places)
        were_there = self._were_there(feature, places, differed, sides[0])
        for i, place in enumerate(places.tolist()):
            held = int(self.held[place]) if self.steps else -1
            case = Case(
                feature=feature,
                served=served[i],
                status=statuses[i],
                event=int(self.event[place]),
                as_of=int(self.as_of[place]),
                truth=truth[i],
                truth_event=int(self.steps.events[held]) if held >= 0 else NO_EVENT,
                truth_bought=int(self.steps.bought[held]) if held >= 0 else NO_EVENT,
                is_known=bool(self.known[place]),
                then=then[i],
                then_event=int(self.then_event[place]),
                since=since[i],
                at_event=at_events[i],
                was_there=bool(were_there[i]),
            )
            if self.dropped[place]:
                cause = EXPIRED
            elif not is_right[place]:
                cause = self._offline_cause(case, oracle[i], place, held)
            else:
                cause = cause_of(case, self._explained(feature, case, place))
            self._count(cause, case, place, bool(differs[place]), bool(differed[place]), oracle[i])

    def _at_events(self, feature: str, places: np.ndarray) -> list:
        if self.steps is None:
            return [NOT_THERE] * len(places)
        rows = self.row_of_event[places]
        values = (
            python(self.steps.values[feature].take(pa.array(np.maximum(rows, 0)))) if len(self.steps.events) else []
        )
        return [values[i] if row >= 0 else NOT_THERE for i, row in enumerate(rows.tolist())]

    def _explained(self, feature: str, case: Case, place: int) -> Explained:
        rule, purchases = None, ()
        if self.table and self.one.may_look_closer():
            [rule] = [rule for rule in self.table.definition.rules if rule.name == feature]
            purchases = self.purchases.get(int(self.number[place]), [])
        return Explained(
            rule,
            purchases,
            self.ttl if self.table else None,
            self.slides if self.table else (),
            self.table is not None and bool(self.one.fresh.landed or self.table.event_id),
        )

    def _were_there(self, feature: str, places: np.ndarray, differed: np.ndarray, served: pa.Array) -> np.ndarray:
        """Which of the values were once those of their events; looked up of those that were not known then."""
        found = np.zeros(len(places), bool)
        asked = np.flatnonzero(differed[places] & (self.event[places] != NO_EVENT))
        if len(asked):
            some = places[asked]
            keys = self.one.book.keys(self.number[some])
            values = served.take(pa.array(some))
            found[asked] = self.one.known.were_there(feature, values, keys, self.event[some], self.when[some])
        return found

    def _offline_cause(self, case: Case, right: Any, place: int, held: int) -> str:
        """Why the offline store differs from what the transactions give."""
        fresh, number = self.one.fresh, int(self.number[place])
        if fresh.redefined:
            return DEFINITION
        if same(case.served, right) and fresh.is_behind:
            return AHEAD
        if not self.one.may_look_closer():
            return OFFLINE_WRONG
        past = self._past(number)
        [rule] = [rule for rule in self.table.definition.rules if rule.name == case.feature]
        as_of = nearest_instant(case.as_of)
        has = max((event for event in past.history if event <= as_of), default=None)
        should = nearest_instant(case.truth_event) if held >= 0 else None
        if should and (has is None or has < should):
            cause = missing_cause(past, should, fresh)
        elif has and (should is None or should < has):
            cause = surplus_cause(past, has, self.one.question.now, fresh)
        elif has is None:
            return OFFLINE_WRONG
        else:
            cause = wrong_cause(rule, past, has, past.history[has][case.feature], past.right[has][case.feature], fresh)
        return CALLED.get(cause, cause) if fresh.is_behind else OFFLINE_WRONG

    def _past(self, number: int) -> Past:
        if number not in self.past:
            if not hasattr(self, "_offline"):
                self._offline = self.one.history(self.part)
                self._numbers = self._offline[NUMBER].to_numpy()
            names = [rule.name for rule in self.table.definition.rules]
            start, end = np.searchsorted(self._numbers, [number, number + 1])
            rows = self._offline.slice(start, end - start)
            columns = [python(rows[name]) for name in names]
            history = [
                (nearest_instant(event), dict(zip(names, values, strict=True)))
                for event, *values in zip(rows[EVENT].to_pylist(), *columns, strict=True)
            ]
            every = steps_of(self.table, names, {number: self.purchases.get(number, [])})
            right = {
                nearest_instant(event): {name: every.values[name][place].as_py() for name in names}
                for place, event in enumerate(every.events.tolist())
            }
            is_ahead = self.one.fresh.landed != self.one.fresh.computed_of
            self.past[number] = Past(
                self.purchases.get(number, []), history, right, self.table.definition.continuous, is_ahead
            )
        return self.past[number]

    def _count(self, cause: str, case: Case, place: int, differs: bool, differed: bool, oracle: Any) -> None:
        counted = self.found.causes.setdefault(cause, Cause())
        counted.today += differs
        counted.then += differed
        counted.unknown += not case.is_known
        self.rows_of.setdefault(cause, set()).add(place)
        when = nearest_instant(int(self.when[place]))
        if counted.first is None or when < counted.first:
            counted.first = when
            truth = ROW_DROPPED if self.dropped[place] else oracle
            at = nearest_instant(case.as_of)
            counted.example = Example(
                self._key(place), case.feature, case.served, truth, case.then, case.is_known, at, when
            )
        counted.last = max(when, counted.last or when)
