"""The comparison of one subject: batch by batch, each at one instant, asked again before it is believed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore

from parity.check.causes import is_same_event
from parity.check.explain import Explanation, Odd
from parity.check.found import Compared, Example, Forecast
from parity.check.history import as_instants
from parity.check.keys import Keys
from parity.compare.answers import Answers, as_datetime
from parity.compare.dividing import Failed, Unreachable
from parity.compare.equal import apart, difference
from parity.compare.kinds import COMPUTED_IN_FLOAT32, CRASH, FLOAT32, NULL, Kind
from parity.compare.requested import Asked, asked_for, taken
from parity.compare.sides import Serving, Training
from parity.compare.subjects import Column, Subject

KEYS_PER_BATCH, FIRST_BATCH = 40_000, 1_000
EXPLAINED = 100_000
"""Keys whose history is looked at together, at most: they are in memory until then."""
ALONE = 16
"""Keys of a batch that an on-demand view is asked for one by one."""
DAY, WEEK = timedelta(days=1), timedelta(days=7)


@dataclass
class Sides:
    """Whom to ask: each side, and the store whose history explains what they say."""

    training: Training
    serving: Serving
    history: FeatureStore
    now: Callable[[], datetime] = lambda: datetime.now(UTC)


def compare(
    subject: Subject, keys: Keys, sides: Sides, found: Compared, at: datetime | None = None, expires: bool = True
) -> Iterator[int]:
    """Compare a subject for ``keys``; what is found goes into ``found``. Yields how many keys each batch had.

    Training is asked for the instant ``at``, or for the instant of each online read. ``expires`` is whether training
    expires keys that are still served, for the forecast.
    """
    run = _Run(subject, keys, sides, found, at)
    run.try_data()
    run.probe()
    found.of, found.ttl = keys.of, min((one.ttl for one in subject.sources if one.ttl), default=None)
    if run.by_event and (events := keys.events[~np.isnat(keys.events)]).size:
        found.last = as_instants([events.max()])[0]
    if expires and run.by_event and subject.sources[0].ttl:
        found.forecast = Forecast()
    start = 0
    while start < len(keys):
        size = FIRST_BATCH if not start else KEYS_PER_BATCH
        places = np.arange(start, min(start + size, len(keys)))
        run.batch(places)
        start += len(places)
        yield len(places)
        if run.is_crashing and start < len(keys):
            found.notes.append(f"serving failed for each of the first {start:,} keys, and was not asked for the others")
            break
    if run.alike:
        found.notes.append(
            f"both sides fail for {len(run.alike):,} of the keys, with request data that are made up here: "
            f"{next(iter(run.alike.values()))}"
        )
    if run.by_event and not run.dated and found.keys > found.nulls.absent:
        found.notes.append("the online side says no event times, so these are not compared")
    run.explain()


class FailedAlike(Failed):
    """Both sides fail for every key: there is nothing to compare, and no skew."""


def _first_known(columns: Sequence[list]) -> list:
    """At each place the first value of several columns that is not None."""
    found = list(columns[0])
    for column in columns[1:]:
        for place in [place for place, one in enumerate(found) if one is None]:
            found[place] = column[place]
    return found


@contextmanager
def _failing(side: str) -> Iterator[None]:
    """Say which side it is that fails for every key."""
    try:
        yield
    except FailedAlike as error:
        raise Failed(f"both sides fail for every key: {error}") from None
    except Failed as error:
        raise Failed(f"{side} fails for every key: {error}") from None


class _Run:
    def __init__(self, subject: Subject, keys: Keys, sides: Sides, found: Compared, at: datetime | None):
        self.subject, self.keys, self.sides, self.found, self.at = subject, keys, sides, found, at
        self.odd: list[Odd] = []
        self.alike: dict[int, str] = {}
        """The keys that both sides fail for with request data that are made up, by their place, and the error."""
        self.is_tried = False
        """Whether request data are those that Feast tried the views with, as they fail with what is drawn."""
        self.is_crashing = False
        """Whether serving failed for every key of a batch."""
        known = getattr(sides.serving, "says_events", False)
        self.dated = {source.name for source in subject.sources if known}
        """The sources of which serving says event times."""
        one = len(subject.sources) == 1 and subject.what not in ("feature service", "on-demand feature view")
        self.by_event = one and keys.events is not None
        """Whether events are compared too."""
        self.explanation = Explanation(subject, keys, sides.history, found, at, self.by_event, self._asked)

    def explain(self) -> None:
        """Name the causes of the odd keys so far."""
        self.explanation.of(self.odd)
        self.odd.clear()

    def batch(self, places: np.ndarray) -> None:
        asked = self._asked(taken(self.keys.table, places), len(places))
        at, serving, training = self._ask(asked, places)
        odd = self._count(places, at, serving, training)
        if not odd:
            return
        again = np.array([one.place - places[0] for one in odd], np.int64)
        if self.subject.is_on_demand:  # what a view makes of a key may depend on the others of the batch
            whole, again = places, again.tolist()
        else:
            asked, whole, again = asked.take(again), places[again], range(len(odd))
        at, serving, training = self._ask(asked, whole)
        for place, one in zip(again, odd, strict=True):
            self._again(one, place, at, serving, training)

    def _ask(self, asked: Asked, places: np.ndarray) -> tuple[datetime, Answers, Answers]:
        at = self.at or self.sides.now()
        with _failing("serving"):
            serving = self._served(asked, at)
        self._date(serving)
        with _failing("training"):
            training = self.sides.training.ask(self.subject, asked, at)
        alike = serving.failed.keys() & training.failed.keys()
        if self.subject.request_data:  # which are made up: a request would have others
            self.alike |= {int(places[place]): serving.failed[place] for place in alike}
        for answers, side in ((serving, "serving"), (training, "training")):
            for place, why in answers.failed.items():
                if place not in alike:
                    self._crash(int(places[place]), side, why)
                elif not self.subject.request_data:
                    self._crash(int(places[place]), "both", why)
        return at, serving, training

    def _date(self, serving: Answers) -> None:
        """Take the first instant of 1970, which Feast sends for a missing event time, for one where serving has a value
        and says event times of others: the value is then of a wrong one. Elsewhere it is none."""
        for column in self.subject.columns:
            stamps = serving.events[column.name]
            if column.source is not None and any(stamps):
                self.dated.add(column.source.name)
        for column in self.subject.columns:
            stamps = serving.events[column.name]
            if 0 not in stamps:
                continue
            says = column.source is not None and column.source.name in self.dated
            some = zip(stamps, serving.values[column.name], strict=True)
            serving.events[column.name] = [
                stamp or (0 if says and stamp == 0 and value is not None else None) for stamp, value in some
            ]

    def _served(self, asked: Asked, at: datetime) -> Answers:
        """What serving answers. Where it fails for every key of an on-demand view, and training does not, each is one
        that it crashes for; unless the request data, which are made up, may be to blame."""
        try:
            serving = self.sides.serving.ask(self.subject, asked)
            self._alone(asked, serving)
            return serving
        except Failed as error:
            if not self.subject.is_on_demand or isinstance(error, Unreachable):
                raise
            try:
                self.sides.training.ask(self.subject, asked, at)
            except Failed as other:
                raise FailedAlike(f"{error} in serving, {other} in training") from None
            if self.subject.request_data:
                raise
            self.is_crashing = True
            none = {column.name: [None] * len(asked) for column in self.subject.columns}
            return Answers(none, none, failed=dict.fromkeys(range(len(asked)), str(error)))

    def _alone(self, asked: Asked, serving: Answers) -> None:
        """Take the answers of some keys from requests for one key each, as model servers send them: what a view makes
        on demand in a batch may depend on the other rows of it."""
        if not self.subject.is_on_demand:
            return
        answered = [place for place in range(len(asked)) if place not in serving.failed]
        for place in answered[:: max(1, len(answered) // ALONE)][:ALONE]:
            try:
                one = self.sides.serving.ask(self.subject, asked.take(np.array([place])))
            except Unreachable:
                raise
            except Failed as error:
                serving.failed[place] = str(error)
                continue
            for column in self.subject.columns:
                serving.values[column.name][place] = one.values[column.name][0]

    def _asked(self, keys: pa.Table, number: int) -> Asked:
        return asked_for(self.subject, keys, number, self.is_tried)

    def try_data(self) -> None:
        """See if both sides take the request data that are drawn: what it may be, only the view knows."""
        if not self.subject.request_data or not len(self.keys):
            return
        known = self.keys.table.slice(0, ALONE)
        asked = self._asked(known, min(ALONE, len(self.keys)))
        try:
            serving = self.sides.serving.ask(self.subject, asked)
            training = self.sides.training.ask(self.subject, asked, self.at or self.sides.now())
            self.is_tried = bool(serving.failed.keys() & training.failed.keys())
        except Failed:
            self.is_tried = True

    def probe(self) -> None:
        """Ask an on-demand view for a key that nobody knows, as happens with every new user."""
        if not self.subject.is_on_demand or not self.keys.table.num_columns or not len(self.keys):
            return
        keys = self.keys.unknown()
        if keys is None:
            return
        known = self.keys.table.slice(0, ALONE)
        try:
            asked = self._asked(pa.concat_tables([known, keys]), known.num_rows + 1)
            training = self.sides.training.ask(self.subject, asked, self.at or self.sides.now())
        except (Failed, pa.ArrowException):
            return  # then it fails alike
        try:
            self.sides.serving.ask(self.subject, self._asked(keys, 1))
        except Failed as error:
            if training.failed:
                return
            finding = self.found.finding(CRASH, self.subject.name)
            finding.features["all, of a key that is not known"] += 1
            finding.add(-1, None, Example(keys.to_pylist()[0], str(error), "", "an error"))
            self.found.differing += 1
            self.found.values += 1

    def _crash(self, place: int, side: str, why: str) -> None:
        finding = self.found.finding(CRASH, self.subject.name)
        if place in finding.places:
            return
        said = ("an error", "") if side == "training" else ("", "an error")
        finding.add(place, None, Example(self.keys.named(place), why, *said))
        finding.features[f"all, by an error in {side}"] += 1
        self.found.differing_places.add(place)
        self.found.differing += len(self.subject.counted)
        self.found.values += len(self.subject.counted)

    def _count(self, places: np.ndarray, at: datetime, serving: Answers, training: Answers) -> list[Odd]:
        """Count the values of a batch, and return the keys that its values alone do not explain."""
        found, odd, first = self.found, {}, int(places[0])
        failed = serving.failed.keys() | training.failed.keys()
        missing = {*serving.missing, *training.missing}
        there = training.there
        for column in self.subject.counted:
            if column.name in missing:
                continue
            t, s = training.values[column.name], serving.values[column.name]
            found.values += len(places) - len(failed)
            differ = apart(t, s, column.type)
            nulls = sum(1 for a, b in zip(t, s, strict=True) if a is None and b is None)
            found.nulls.values += nulls - sum(1 for i in failed if t[i] is None and s[i] is None)
            for i in differ:
                if i in failed:
                    continue
                kind = difference(t[i], s[i], column.type)
                if kind is None:
                    continue
                if isinstance(kind, Kind) and kind != NULL and there[i]:
                    self._tally(column, kind, first + i, training, serving, i)
                    continue
                one = odd.get(i) or odd.setdefault(i, self._odd(first + i, i, at, training, serving))
                one.differing.append(column.name)
        found.keys += len(places)
        found.unanswered = {name: "serving" if name in serving.missing else "training" for name in sorted(missing)}
        self._look_at_events(places, at, serving, training, odd, failed)
        return list(odd.values())

    def _odd(self, place: int, i: int, at: datetime, training: Answers, serving: Answers) -> Odd:
        return Odd(
            place,
            at,
            bool(training.there[i]),
            {column.name: training.values[column.name][i] for column in self.subject.columns},
            {column.name: serving.values[column.name][i] for column in self.subject.columns},
            {column.name: serving.events[column.name][i] for column in self.subject.columns},
        )

    def _tally(self, column: Column, kind: Kind, place: int, training: Answers, serving: Answers, i: int) -> None:
        self.found.differing += 1
        self.found.differing_places.add(place)
        inherits = column.source is None and any(
            difference(training.values[one.name][i], serving.values[one.name][i], one.type) == kind
            for one in self.subject.inputs(column.view)
        )
        if kind == FLOAT32 and column.is_computed_of_float32 and not inherits:
            kind = COMPUTED_IN_FLOAT32
        one = self.found.finding(kind, column.view, inherited=inherits)
        one.features[column.feature] += 1
        event = as_datetime(serving.events[column.name][i])
        example = None
        if len(one.examples) < 1:
            values = training.values[column.name][i], serving.values[column.name][i]
            example = Example(self.keys.named(place), column.feature, *values, None, event)
        one.add(place, event, example)

    def _look_at_events(
        self, places: np.ndarray, at: datetime, serving: Answers, training: Answers, odd: dict[int, Odd], failed: Any
    ) -> None:
        """Count what expires, why values are null, and add keys whose values are equal and of another event."""
        if not self.by_event:
            return
        source, found = self.subject.sources[0], self.found
        columns = [column.name for column in self.subject.counted]
        last, now = self.keys.events[places], np.datetime64(at.astimezone(UTC).replace(tzinfo=None), "us")
        stamp = np.array(_first_known([serving.events[name] for name in columns]), "datetime64[us]")
        has = np.array([one is not None for one in _first_known([serving.values[name] for name in columns])])
        answered = np.ones(len(places), bool)
        answered[list(failed)] = False
        found.nulls.absent += int((answered & ~has & np.isnat(stamp)).sum())
        alive = answered
        if source.ttl:
            expires = last + np.timedelta64(source.ttl)
            found.nulls.expired += int((answered & (expires < now)).sum())
            alive = answered & ~(expires < now)
            if found.forecast is not None:
                found.forecast.day += int((alive & has & (expires < now + np.timedelta64(DAY))).sum())
                found.forecast.week += int((alive & has & (expires < now + np.timedelta64(WEEK))).sum())
        known = alive & has & training.there & ~np.isnat(stamp) & ~np.isnat(last)
        for i in np.flatnonzero(known & (stamp != last) & (stamp != last.astype("datetime64[s]"))).tolist():
            if i not in odd and not is_same_event(*as_instants(last[i : i + 1]), *as_instants(stamp[i : i + 1])):
                odd[i] = self._odd(int(places[0]) + i, i, at, training, serving)

    def _is_unsteady(self, column: Column, one: Odd, new: Odd) -> bool:
        """Whether training has another value when asked again, and serving has not: so a store takes rows of a tie."""
        name = column.name
        moved = difference(one.training[name], new.training[name], column.type)
        stayed = difference(one.serving[name], new.serving[name], column.type) is None
        return column.source is not None and moved is not None and stayed

    def _is_of_nothing_else(self, column: Column, one: Odd, new: Odd) -> bool:
        """Whether all that a column is computed on demand of is the same when asked again: then nothing was writing,
        and a value that differed once does so by itself."""
        if column.source is not None or not self.subject.knows_inputs(column.view):
            return False
        inputs = self.subject.inputs(column.view)
        return all(one.events[each.name] == new.events[each.name] for each in (column, *inputs)) and all(
            difference(first[each.name], then[each.name], each.type) is None
            for each in inputs
            for first, then in ((one.training, new.training), (one.serving, new.serving))
        )

    def _again(self, one: Odd, place: int, at: datetime, serving: Answers, training: Answers) -> None:
        """Keep what a key that was odd is now, if it still is."""
        if place in serving.failed or place in training.failed:
            return
        new, is_tallied = self._odd(one.place, place, at, training, serving), False
        for column in self.subject.counted:
            if column.name not in one.differing:
                continue
            if self._is_unsteady(column, one, new):
                new.unsteady[column.name] = one.training[column.name]
            kind = difference(new.training[column.name], new.serving[column.name], column.type)
            if kind is None and self._is_of_nothing_else(column, one, new):
                name = column.name
                new.training[name], new.serving[name] = one.training[name], one.serving[name]
                new.unsteady[name] = one.training[name]
            elif kind is None:
                continue
            if column.name in new.unsteady:
                new.differing.append(column.name)
                continue
            if isinstance(kind, Kind) and kind != NULL and new.there:
                self._tally(column, kind, one.place, training, serving, place)
                is_tallied = True
            else:
                new.differing.append(column.name)
        if one.differing and not new.differing and not new.unsteady:
            self.found.retried += not is_tallied
            return
        self.odd.append(new)
        if len(self.odd) >= EXPLAINED:
            self.explain()
