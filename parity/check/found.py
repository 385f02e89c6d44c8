"""What a check found: for each subject its counts, and its findings, each said once for all keys."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from parity.compare.kinds import UPSTREAM, Kind
from parity.compare.sample import Sample

EXAMPLES = 3
LISTED = 1000
"""Keys of a finding that are listed in a certificate, at most."""


NOT_ASKED = "not asked"
"""What stands for serving in a row of the past, of which the online store has the last only."""


class Example(NamedTuple):
    """One value of one key, on both sides, and the events that they are of, as far as these are known."""

    key: dict[str, Any]
    feature: str
    training: Any
    serving: Any
    trained: datetime | None = None
    served: datetime | None = None


@dataclass
class Finding:
    """One kind of difference in one view: how much, since when, of what, and some examples."""

    kind: Kind
    view: str
    beneath: bool = False
    """Whether it is hidden today by another difference of the row, such as the ttl, and shows without that."""
    inherited: bool = False
    """Whether an on-demand view has it of its inputs."""
    features: Counter = field(default_factory=Counter)
    """Values by feature."""
    places: set[int] = field(default_factory=set)
    """The keys, by their place."""
    unnamed: int = 0
    """Keys beside these that are only counted."""
    since: datetime | None = None
    examples: list[Example] = field(default_factory=list)
    listed: list[dict[str, Any]] = field(default_factory=list)
    """The first `LISTED` of the keys."""
    about: dict[str, str] = field(default_factory=dict)
    """What its sentences are filled in with, beside view and features."""
    issue: int | None = None
    """The issue of Feast that it is in these stores, where it is none in all."""

    @property
    def keys(self) -> int:
        return len(self.places) + self.unnamed

    @property
    def link(self) -> str:
        """The issue of Feast that it is, if it is one."""
        issue = self.issue or self.kind.issue
        return f"{UPSTREAM}{issue}" if issue else ""

    @property
    def values(self) -> int:
        return self.features.total()

    def add(self, place: int, since: datetime | None, example: Example | None) -> None:
        self.places.add(place)
        if since is not None and (self.since is None or since < self.since):
            self.since = since
        if example is not None and len(self.examples) < EXAMPLES:
            self.examples.append(example)


class Ties(NamedTuple):
    """The ``keys`` of a view that have several rows of one event time with different values: how many, at how many of
    them it is the ``last`` event, and one of them, with the ``values`` of a ``feature`` in these rows."""

    view: str
    timestamp: str
    keys: int
    last: int
    key: dict[str, Any]
    event: Any
    feature: str
    values: list
    is_left_open: bool
    """Whether a created timestamp in the source would settle which row is meant."""


@dataclass
class Forecast:
    """Keys that are served and that training will have expired, while nothing is materialized, within a day and a
    week."""

    day: int = 0
    week: int = 0


@dataclass
class Nulls:
    """Why values are null on both sides: keys by reason."""

    values: int = 0
    expired: int = 0
    """Keys whose last row is older than the ttl."""
    absent: int = 0
    """Keys that are not online."""


@dataclass
class Compared:
    """What was found of one subject."""

    name: str
    what: str
    keys: int = 0
    """The keys that were compared."""
    of: int = 0
    """All keys that are known."""
    sample: Sample | None = None
    values: int = 0
    differing: int = 0
    nulls: Nulls = field(default_factory=Nulls)
    ties: list[Ties] = field(default_factory=list)
    """Those in the sources, by source."""
    latent: int = 0
    """Keys of which newer rows of equal values are not online yet."""
    findings: dict[tuple, Finding] = field(default_factory=dict)
    forecast: Forecast | None = None
    ttl: timedelta | None = None
    last: datetime | None = None
    """The last event of all keys, where they are of one source."""
    error: str | None = None
    """Why it could not be compared."""
    notes: list[str] = field(default_factory=list)
    unanswered: dict[str, str] = field(default_factory=dict)
    """Columns that a side does not answer with, and the side."""
    later: int = 0
    """Keys that are served an event after the instant that training was asked for."""
    retried: int = 0
    """Keys that differed once and not when asked again: something wrote between the two reads."""
    differing_places: set[int] = field(default_factory=set)

    def finding(self, kind: Kind, view: str, beneath: bool = False, inherited: bool = False) -> Finding:
        key = kind.name, view, beneath, inherited
        if key not in self.findings:
            self.findings[key] = Finding(kind, view, beneath, inherited)
        return self.findings[key]

    @property
    def trouble(self) -> str | None:
        """What could not be compared of it, and why."""
        if self.error is not None or not self.unanswered:
            return self.error
        return ", ".join(f"{side} does not answer with {name}" for name, side in self.unanswered.items())

    @property
    def proven(self) -> int:
        """Values that are equal and not null; of what could not be compared to the end, none is."""
        return 0 if self.error is not None else self.values - self.differing - self.nulls.values

    @property
    def is_vacuous(self) -> bool:
        return self.trouble is None and not self.findings and self.proven <= 0


def by_harm(findings: Iterable[Finding]) -> list[Finding]:
    """The gravest first, and of those the ones of most keys; what is hidden or inherited last."""
    return sorted(findings, key=lambda one: (one.inherited, one.beneath, -one.kind.harm, -one.keys, one.view))
