"""Why keys differ: the causes of what a comparison found odd, from the history of these keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureStore

from parity.check.alone import Alone, is_near
from parity.check.causes import Cause, Evidence, agrees, cause_of_row, cause_of_value
from parity.check.found import Compared, Example
from parity.check.history import Row, rows_of
from parity.check.keys import Keys
from parity.compare.answers import as_datetime
from parity.compare.equal import difference, is_close
from parity.compare.kinds import (
    COMPUTED_IN_FLOAT32,
    DROPPED,
    EVENT_TIME,
    FLOAT32,
    KEY_CAST,
    ON_DEMAND,
    ON_DEMAND_NULL,
    TIE,
    TIME_ZONE,
    Harm,
    Kind,
)
from parity.compare.requested import Asked, taken
from parity.compare.subjects import Column, Source, Subject


@dataclass
class Odd:
    """A key with a difference that its values alone do not explain, and what both sides said of it last."""

    place: int
    at: datetime
    there: bool
    training: dict[str, Any]
    serving: dict[str, Any]
    """By column."""
    events: dict[str, int | None]
    differing: list[str] = field(default_factory=list)
    """The compared columns that differ; none for one that is only of another event."""
    unsteady: dict[str, Any] = field(default_factory=dict)
    """What training had for some columns when it was asked first, and no longer when it was asked again; of those that
    are computed on demand, which differed first only, with the very same inputs."""


class Explanation:
    """Adds to ``found`` the causes of keys of a ``subject``, by what the store ``history`` has of them. ``by_event`` is
    whether events are compared too: where a request is for one source; ``asked`` makes the request for some keys."""

    def __init__(
        self,
        subject: Subject,
        keys: Keys,
        history: FeatureStore,
        found: Compared,
        at: datetime | None,
        by_event: bool,
        asked: Callable[[pa.Table, int], Asked],
    ):
        self.subject, self.keys, self.history, self.found = subject, keys, history, found
        self.at, self.by_event = at, by_event
        self._alone = Alone(subject, keys, history, asked)
        self._followed: dict[str, bool] = {}
        """Whether a feature on demand has followed from its inputs for every key so far."""
        self._cast: set[tuple[str, ...]] = set()
        """Keys of the source that are online under another spelling."""

    def of(self, odd: list[Odd]) -> None:
        """Name the cause of each difference of the keys that are ``odd``."""
        if not odd:
            return
        histories = [self._history(source, odd) for source in self.subject.sources]
        for one in sorted(odd, key=lambda one: one.place):  # keys of the source before those that are only online
            self._explain(one, histories)

    def _history(self, source: Source, odd: list[Odd]) -> Mapping[tuple, list[Row]]:
        """The rows of the odd keys, by the values of their keys."""
        features = list(dict.fromkeys(column.feature for column in self._columns(source)))
        if not features:
            return {}
        keys = taken(self.keys.table, np.array([one.place for one in odd])).select(source.keys)
        return rows_of(self.history, source, keys, features, max(one.at for one in odd))

    def _columns(self, source: Source) -> list[Column]:
        return [column for column in self.subject.columns if column.source is source]

    def _explain(self, one: Odd, histories: list[Mapping[tuple, list[Row]]]) -> None:
        key = self.keys.named(one.place)
        causes: dict[str, Cause] = {}
        for source, history in zip(self.subject.sources, histories, strict=True):
            columns = self._columns(source)
            if columns:
                causes |= self._of_source(one, source, columns, history, key)
        for column in self.subject.counted:
            if column.source is None and column.name in one.differing:
                self._of_on_demand(one, column, causes, key)

    def _of_source(
        self, one: Odd, source: Source, columns: list[Column], history: Mapping[tuple, list[Row]], key: dict[str, Any]
    ) -> dict[str, Cause]:
        """Name the causes of the columns of one source, and return them by column."""
        rows = [row for row in history.get(tuple(key[name] for name in source.keys), []) if row.event <= one.at]
        served = as_datetime(next((one.events[c.name] for c in columns if one.events[c.name] is not None), None))
        evidence = Evidence(
            source,
            rows,
            served,
            {c.feature: one.training[c.name] for c in columns},
            {c.feature: one.serving[c.name] for c in columns},
            {c.feature: c.type for c in columns},
            one.there,
            one.at,
            self.keys.is_spelled_otherwise(one.place),
            any(name in key and key[name] != key[alias] for name, alias in source.key_of.items()),
        )
        if self.at is not None and served is not None and served > self.at:
            self._set_aside(one, columns)
            return {}
        if not rows and self.keys.bare(one.place) in self._cast:
            self._leave_out(one, columns)
            return {}
        row, causes = cause_of_row(evidence), self._of_unsteady(one, columns, key, evidence)
        for column in columns:
            t, s = one.training[column.name], one.serving[column.name]
            if column.name in causes:
                continue
            if difference(t, s, column.type) is None:
                continue
            causes[column.name] = row or cause_of_value(evidence, column.feature, t, s)
            if column.name in one.differing:
                self._note(causes[column.name], column, one, key, evidence)
        if row and not one.differing and not one.unsteady and self.by_event:
            self._note_event(row, source, one, key, evidence)
        if row and row.kind == KEY_CAST:
            self._cast.add(self.keys.bare(one.place))
        if row and row.beneath and evidence.of_served():
            self._look_beneath(columns, one, key, evidence)
        return causes

    def _of_unsteady(self, one: Odd, columns: list[Column], key: dict[str, Any], e: Evidence) -> dict[str, Cause]:
        """Name the ties of which training took another row the first time: they are no less a tie when it takes the
        one that is served the second time."""
        causes = {}
        for column in columns:
            if column.name not in one.unsteady:
                continue
            first = replace(one, training=one.training | {column.name: one.unsteady[column.name]})
            cause = cause_of_value(e, column.feature, first.training[column.name], one.serving[column.name])
            if cause.kind == TIE:
                causes[column.name] = cause
                self._note(cause, column, first, key, e)
        if one.unsteady and not causes and not one.differing:
            self.found.retried += 1
        return causes

    def _set_aside(self, one: Odd, columns: list[Column]) -> None:
        """What is served is of an event after the instant that training was asked for: there is nothing to compare."""
        self.found.later += 1
        self.found.values -= sum(column.name in one.differing for column in columns)

    def _leave_out(self, one: Odd, columns: list[Column]) -> None:
        """This is the other spelling of a key that was found to be online under it: the same difference."""
        self.found.keys -= 1
        self.found.of -= 1
        self.found.values -= sum(column.name in one.differing for column in columns)

    def _note(
        self, cause: Cause, column: Column, one: Odd, key: dict[str, Any], e: Evidence | None, inherited: bool = False
    ) -> None:
        self.found.differing += 1
        self.found.differing_places.add(one.place)
        finding = self.found.finding(cause.kind, column.view, inherited=inherited)
        finding.features[column.feature] += 1
        last, served = (e.last.event if e and e.last else None), (e.served if e else None)
        example = Example(key, column.feature, one.training[column.name], one.serving[column.name], last, served)
        finding.add(one.place, cause.since, example if self._is_new(finding, one) else None)

    def _is_new(self, finding: Any, one: Odd) -> bool:
        return one.place not in finding.places

    def _note_event(self, row: Cause, source: Source, one: Odd, key: dict[str, Any], e: Evidence) -> None:
        """A key whose values are equal, and whose row is of another event: latent if the source has that event too."""
        if row.kind != TIME_ZONE and (of_served := e.of_served()):
            if any(agrees(e, one) for one in of_served):
                self.found.latent += 1
                return
            row = Cause(EVENT_TIME, e.served)  # of a row that has other values
        finding = self.found.finding(row.kind, source.name)
        event = source.batch.timestamp_field
        finding.features[event] += 1
        self.found.differing += 1
        self.found.values += 1
        self.found.differing_places.add(one.place)
        last = e.last.event if e.last else None
        finding.add(one.place, row.since, Example(key, event, last, e.served, last, e.served))

    def _look_beneath(self, columns: list[Column], one: Odd, key: dict[str, Any], e: Evidence) -> None:
        """Compare what is served with the row of the same event: the ttl hides what would differ without it."""
        row = e.of_served()[-1]
        for column in columns:
            if not column.counted:
                continue
            held, served = row.values.get(column.feature), one.serving[column.name]
            if difference(held, served, column.type) is None:
                continue
            cause = cause_of_value(e, column.feature, held, served)
            finding = self.found.finding(cause.kind, column.view, beneath=True)
            finding.features[column.feature] += 1
            example = Example(key, column.feature, held, served, row.event, e.served)
            finding.add(one.place, cause.since, example if self._is_new(finding, one) else None)

    def _of_on_demand(self, one: Odd, column: Column, causes: Mapping[str, Cause], key: dict[str, Any]) -> None:
        """Why a feature that is computed on demand differs: for what it is computed of, or by itself."""
        inputs = self.subject.inputs(column.view)
        own = [causes[c.name] for c in inputs if c.name in causes]
        if column.name in one.unsteady:
            self._note(Cause(ON_DEMAND, None), column, one, key, None)
        elif not one.there:  # so training has not computed it
            self._note(Cause(DROPPED, None), column, one, key, None, inherited=True)
        elif own:
            cause = max(own, key=lambda cause: cause.kind.harm)
            inherits = self._inherits(one, column, cause)
            self._note(cause if inherits else Cause(ON_DEMAND, None), column, one, key, None, inherited=inherits)
        else:
            self._note(Cause(self._by_itself(one, column, inputs), None), column, one, key, None)

    def _inherits(self, one: Odd, column: Column, cause: Cause) -> bool:
        """Whether a feature that is computed on demand differs for its inputs only: where both sides have what the view
        makes of their inputs. Where that is not known, it is as for all the keys before; and what inputs have of type
        or precision makes no other value."""
        follow = self._alone.follow(column, one.place, one.training, one.serving, one.at)
        if follow is not None:
            self._followed[column.name] = follow and self._followed.get(column.name, True)
            return follow
        follows = self._followed.get(column.name, cause.kind.harm > Harm.TYPE)
        return follows or is_near(one.training[column.name], one.serving[column.name], column.type)

    def _by_itself(self, one: Odd, column: Column, inputs: list[Column]) -> Kind:
        """The kind of a feature that is computed on demand, of equal inputs."""
        t, s = one.training[column.name], one.serving[column.name]
        has_null = any(values[c.name] is None for c in inputs for values in (one.training, one.serving))
        if not self.subject.knows_inputs(column.view):
            has_null = has_null or t is None or s is None
        if has_null:
            is_of_others = self._alone.makes(column, one.place, one.training, one.at) is False
            return ON_DEMAND if is_of_others else ON_DEMAND_NULL
        single = any("Float32" in c.type for c in (column, *inputs))
        near = COMPUTED_IN_FLOAT32 if column.is_computed_of_float32 else FLOAT32
        return near if single and is_close(t, s) else ON_DEMAND
