"""What a plan found: of each view and feature, of those who read them, and what it comes to."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from parity.plan.values import Change

NO_OP, ADDITIVE, VALUE_CHANGING, BREAKING = VERDICTS = ("no-op", "additive", "value-changing", "breaking")
UNCHANGED, ADDED, REMOVED, RENAMED, RETYPED, CHANGED, UNKNOWN = (
    "unchanged",
    "added",
    "removed",
    "renamed",
    "type changed",
    "values changed",
    "not compared",
)
OF_STATUS = {
    UNCHANGED: NO_OP,
    ADDED: ADDITIVE,
    REMOVED: BREAKING,
    RENAMED: BREAKING,
    RETYPED: BREAKING,
    CHANGED: VALUE_CHANGING,
    UNKNOWN: BREAKING,
}
"""The verdict on a feature, or on a view, by what became of it. What can't be compared has other keys."""


def worst(verdicts: Iterable[str]) -> str:
    return max(verdicts, key=VERDICTS.index, default=NO_OP)


def is_as_bad(verdict: str, as_which: str) -> bool:
    """Whether a verdict is as bad as another, or worse."""
    return VERDICTS.index(verdict) >= VERDICTS.index(as_which)


@dataclass
class Note:
    """Something that is no value, and what it means."""

    text: str
    verdict: str = NO_OP


@dataclass
class Readers:
    """Who reads a feature."""

    services: list[str] = field(default_factory=list)
    arms: list[str] = field(default_factory=list)
    """EXPERIMENT/ARM."""
    models: list[str] = field(default_factory=list)
    """Those that were trained on it."""


@dataclass
class FeatureFound:
    """What becomes of a feature."""

    name: str
    """In the head; in the base, if it is removed."""
    status: str
    type: str
    before: str | None = None
    """What it was called, if it is renamed."""
    type_before: str | None = None
    unit: str | None = None
    rules: tuple[dict[str, Any] | None, dict[str, Any] | None] = (None, None)
    """How it was made and is made."""
    change: Change | None = None
    readers: Readers = field(default_factory=Readers)
    note: str = ""

    @property
    def verdict(self) -> str:
        return OF_STATUS[self.status]


@dataclass
class ViewFound:
    """What becomes of a view."""

    name: str
    status: str
    before: str | None = None
    features: list[FeatureFound] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    keys: int = 0
    """How many keys were compared."""
    rows: int = 0
    """At how many instants: those at which one of both has a row."""
    only_base: int = 0
    only_head: int = 0
    key_names: tuple[str, ...] = ()
    noun: str = "keys"
    cost: Any = None
    is_aliased: bool = False
    """Whether it is renamed, and every service that gave it still gives it under its old name."""

    @property
    def verdict(self) -> str:
        own = ADDITIVE if self.is_aliased else OF_STATUS[self.status]
        return worst([own, *(one.verdict for one in self.features), *(note.verdict for note in self.notes)])

    @property
    def compared(self) -> list[FeatureFound]:
        """The features whose values were."""
        return [one for one in self.features if one.change is not None]


@dataclass
class ModelFound:
    """A logged model."""

    title: str
    service: str
    places: list[str]
    features: list[str]
    """Those that are others than it was trained on: VIEW:FEATURE, and what became of it."""
    refused: bool
    """Whether `parity.model` refuses to serve it by the head, until it is trained again."""
    stale: bool = False
    """Whether it was trained on other definitions than the base has."""


@dataclass
class Plan:
    """The whole of it."""

    base: str
    head: str
    sample: str
    """All keys, or which share of them."""
    views: list[ViewFound] = field(default_factory=list)
    notes: list[Note] = field(default_factory=list)
    """Of services, experiments, on-demand views, and of how this was compared."""
    models: list[ModelFound] = field(default_factory=list)
    not_asked: list[str] = field(default_factory=list)
    """What could not be found out, and how it could."""
    seconds: float = 0.0

    @property
    def verdict(self) -> str:
        return worst([*(view.verdict for view in self.views), *(note.verdict for note in self.notes)])

    @property
    def values(self) -> tuple[int, int]:
        """How many values differ, of how many that were compared."""
        changes = [one.change for view in self.views for one in view.compared]
        return sum(one.rows for one in changes), sum(one.of_rows for one in changes)
