"""What a comparison found: values counted by kind, the differences, and what was not seen."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from parity.compare.sample import Sample
from parity.definition.checks import FeatureTable
from parity.definition.instants import MICROSECOND
from parity.definition.keys import Key, shown_key
from parity.edge.errors import UserError
from parity.online.side import NO_OTHERS, Others

MATCH, MISMATCH, MISSING, EXTRA, WRONG = "match", "mismatch", "missing online", "extra online", "equal but wrong"
KINDS = [MATCH, MISMATCH, MISSING, EXTRA, WRONG]
WRONG_ROW, MISSING_ROW, EXTRA_ROW = "wrong in history", "missing in history", "extra in history"
HISTORY_KINDS = [MATCH, WRONG_ROW, MISSING_ROW, EXTRA_ROW]
HISTORY_LISTED = 1000
"""Values of the history that are listed, each with its cause; more that differ are counted."""
NOT_ASKED = "not asked"
"""What stands for serving in the history, of which the online store has the last event only."""


class OtherKey(str):
    """The name of a key online that is of another type than declared, so that it is none of the keys here."""


class Difference(NamedTuple):
    """One value on which the sides do not agree: at the instant of the comparison, in the row of an ``instant``, or, at
    an edge, at that instant. In the history, and at an edge of the past, serving is `NOT_ASKED`.

    The ``key`` is that of one join key, or the tuple of several, or an `OtherKey`. A side that has no
    such row has `ROW_DROPPED`.
    """

    key: Any
    feature: str
    kind: str
    cause: str
    training: Any
    serving: Any
    oracle: Any
    instant: datetime | None = None


class Values(NamedTuple):
    """What the three sides say of one feature of the same keys, in the same order."""

    training: list
    serving: list
    oracle: list


@dataclass
class History:
    """What a comparison found in the rows of the offline table: values of each kind counted."""

    rows: int = 0
    keys: int = 0
    counts: Counter = field(default_factory=lambda: Counter(dict.fromkeys(HISTORY_KINDS, 0)))
    later: int = 0
    """How many rows lie after the instant of the comparison. Those of the past are not looked at, nor in ``rows``."""
    differing_numbers: set[int] = field(default_factory=set)
    """The numbers of the keys with rows that differ."""
    listed: int = 0

    @property
    def differing(self) -> int:
        return self.counts.total() - self.counts[MATCH]


@dataclass
class Edges:
    """What a comparison found a microsecond before, at and after some of the instants at which values of a continuous
    table change, which ``seed`` has drawn."""

    seed: int
    past: int = 0
    """How many of these instants are in the past, where training is compared."""
    ahead: int = 0
    """How many are to come, up to which the rows online know their future: serving is compared too."""
    counts: Counter = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    differing_numbers: set[int] = field(default_factory=set)

    @property
    def differing(self) -> int:
        return self.counts.total() - self.counts[MATCH]


@dataclass
class Comparison:
    """What a comparison of one feature table found: values of each kind counted, every difference at its instant kept,
    and the first `HISTORY_LISTED` of the history; and what it did not see."""

    table: FeatureTable
    at: datetime
    past: bool = False
    """Whether no row of the history from after ``at`` was looked at."""
    sample: Sample | None = None
    keys: int = 0
    counts: Counter = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    differences: list[Difference] = field(default_factory=list)
    history: History = field(default_factory=History)
    differing_numbers: set[int] = field(default_factory=set)
    """The numbers of the keys that differ at the instant."""
    nulls: int = 0
    """Values that match because they are null on all sides."""
    expired: int = 0
    """Keys whose last transaction is older than the ttl, which is why their values are null."""
    last: datetime | None = None
    """The last transaction of the keys compared, up to ``at``."""
    others: Others = NO_OTHERS
    """Keys online that are of another type than declared, where no read finds them."""
    left_over: int = 0
    """Keys that are left over online: the offline store does not know them, and their row is older than the ttl."""
    edges: Edges | None = None
    """Of a continuous table."""
    current: int = 0
    """Keys of which something is known and not expired, be it that nothing is in any of their windows."""
    redefined: bool = False
    """Whether the offline table was computed by another definition than is declared now."""

    @cached_property
    def features(self) -> list[str]:
        return [rule.name for rule in self.table.rules]

    @property
    def view(self) -> str:
        return self.table.name

    @property
    def title(self) -> str:
        return self.table.title

    @property
    def service(self) -> str | None:
        """The service, if it is that which was compared and not the view."""
        return None if self.table.given is None else self.table.service.name

    @property
    def ttl(self) -> timedelta | None:
        return self.table.view.ttl

    @property
    def values(self) -> int:
        return self.counts.total() - self.others.count

    @property
    def differing(self) -> int:
        at_edges = self.edges.differing if self.edges else 0
        return self.counts.total() - self.counts[MATCH] + self.history.differing + at_edges

    @property
    def skewed(self) -> np.ndarray:
        """The numbers of the keys that differ, int64 and ascending."""
        at_edges = self.edges.differing_numbers if self.edges else set()
        return np.array(sorted(self.differing_numbers | self.history.differing_numbers | at_edges), np.int64)

    @property
    def keys_skewed(self) -> int:
        return len(self.skewed) + self.others.count

    @property
    def causes(self) -> Counter:
        return Counter(difference.cause for difference in self.differences)

    def shown(self, key: Any) -> str:
        """Write the key of a difference for people."""
        return shown(key, self.table)

    def named(self, key: Any) -> str:
        """Write the key of a difference for people, with what it is."""
        return named(key, self.table)


def plain(key: Key) -> Any:
    """A key as it is in a `Difference`: the value of one join key, or the tuple of several."""
    return key if len(key) > 1 else key[0]


def shown(key: Any, table: FeatureTable) -> str:
    """Write a key for people: a scalar, a tuple, or an `OtherKey`."""
    if isinstance(key, OtherKey):
        return key
    return shown_key(key if isinstance(key, tuple) else (key,), table.definition.keys)


def named(key: Any, table: FeatureTable) -> str:
    """Write a key for people with what it is: ``user 7``; several join keys have names of their own."""
    is_plain = len(table.definition.keys) == 1 and not isinstance(key, OtherKey)
    return f"{table.noun(1)} {shown(key, table)}" if is_plain else shown(key, table)


def duration(span: timedelta) -> str:
    return str(span).removesuffix(", 0:00:00")


def nothing_proven(found: Comparison) -> str | None:
    """Why a comparison proves nothing: all of it are nulls on all sides. None if it does prove something."""
    if found.differences or found.nulls < found.values or (found.edges and found.current):
        return None
    noun = found.table.noun
    reason = f"no purchase of these {found.keys:,} {noun(found.keys)} was known by then"
    if found.expired:
        expired = f"{found.expired:,} {noun(found.expired)}"
        what = "purchase, or end of a window," if found.edges else "purchase"
        reason = f"the last {what} of {expired} is more than the ttl of {duration(found.ttl)} ago"
    return f"at {found.at.isoformat()} every value of every {noun(1)} is null on all sides, because {reason}"


def require_values(comparisons: Sequence[Comparison]) -> None:
    """Raise a `UserError` if nothing was compared of a view but nulls, which proves nothing."""
    for found in comparisons:
        if reason := nothing_proven(found):
            hint = "Compare as of a later instant."
            if found.last:
                hint = f"Compare as of an instant with values: --at {(found.last + MICROSECOND).isoformat()}"
            of = f" of {found.title}" if len(comparisons) > 1 else ""
            raise UserError(f"nothing is proven{of}: {reason}. {hint}")


def require_same_definition(comparisons: Sequence[Comparison]) -> None:
    """Raise a `UserError` if a table was computed by another definition, though no value differs: later ones may."""
    for found in comparisons:
        if found.redefined and not found.differences:
            raise UserError(
                f"{found.view} was computed by another definition than features.py has now. No value differs yet, and "
                "nothing is proven of those to come. Run: python compute_features.py"
            )
