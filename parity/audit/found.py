"""What an audit comes to: logged values counted by kind and by cause, and the requests that they were part of."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from parity.audit.logged import Requests, View
from parity.proof.found import KINDS, MATCH, named

SEEN, DIFFERS, KNOWN_THEN, DIFFERED_THEN = 1, 2, 4, 8
"""What is marked of a request: that it was audited; that something in it is other than the truth as known today; that
what was known then is known of all of it that was audited; and that something was other than that."""


class Example(NamedTuple):
    """One logged value. ``truth`` is what is known today; ``then`` what was known as it was served, None also where
    that is not known."""

    key: Any
    feature: str
    served: Any
    truth: Any
    then: Any
    is_then_known: bool
    as_of: datetime
    when: datetime


@dataclass
class Cause:
    """What has one cause: logged values that differ from the truth as known ``today``, and as known ``then``."""

    today: int = 0
    then: int = 0
    unknown: int = 0
    """Values of which it is not known what was known then."""
    rows: int = 0
    first: datetime | None = None
    last: datetime | None = None
    """When the first and the last of them were served."""
    example: Example | None = None

    @property
    def values(self) -> int:
        return max(self.today, self.then)


@dataclass
class Audited:
    """What was found of one feature view. Counts are of logged values, ``rows`` of entities that were asked for."""

    view: View
    rows: int = 0
    keys: int = 0
    counts: Counter = field(default_factory=lambda: Counter(dict.fromkeys(KINDS, 0)))
    nulls: int = 0
    """Values that match because they are null on all sides."""
    then_known: int = 0
    """Values of which it is known what was known then."""
    then_differing: int = 0
    causes: dict[str, Cause] = field(default_factory=dict)
    to_come: int = 0
    """Rows that were asked about an instant which has not come yet."""
    checked: int = 0
    """Values that the oracle has worked out again at their very instants."""
    redefined: bool = False
    """Whether the offline table was computed by another definition than is declared now."""
    known_since: datetime | None = None
    """From when on it is known what was known then."""

    @property
    def name(self) -> str:
        return self.view.name

    @property
    def values(self) -> int:
        return self.counts.total()

    @property
    def differing(self) -> int:
        return self.values - self.counts[MATCH]

    def named(self, key: Any) -> str:
        """Write a key for people, with what it is."""
        if self.view.table:
            return named(key, self.view.table)
        values = key if isinstance(key, tuple) else (key,)
        return ",".join(f"{name}={value}" for name, value in zip(self.view.keys.names, values, strict=True))


@dataclass
class Audit:
    """What an audit of a log found, of all views."""

    folder: str
    views: list[Audited]
    requests: Requests
    rows: int = 0
    dropped: int = 0
    """Rows that the log says were dropped."""
    first: datetime | None = None
    last: datetime | None = None
    unseen: Counter = field(default_factory=Counter)
    """Logged values that were not audited, by (view, why)."""
    others: Counter = field(default_factory=Counter)
    """Parts of other projects."""
    since: datetime | None = None
    until: datetime | None = None

    @property
    def differing(self) -> int:
        return sum(found.differing for found in self.views)

    @property
    def then_differing(self) -> int:
        return sum(found.then_differing for found in self.views)

    @property
    def then_known(self) -> int:
        return sum(found.then_known for found in self.views)

    @property
    def audited(self) -> int:
        """Requests of which something was audited."""
        return self.requests.marked(SEEN)

    @property
    def wrong_today(self) -> int:
        return self.requests.marked(DIFFERS)

    @property
    def known_then(self) -> int:
        return self.requests.marked(KNOWN_THEN)

    @property
    def wrong_then(self) -> int:
        return self.requests.marked(DIFFERED_THEN)


def share(part: int, whole: int) -> str:
    """A share in per cent, never rounded to none or all of it."""
    if not whole:
        return "0 %"
    percent = 100 * part / whole
    text = f"{percent:.2f}"
    if part and text == "0.00":
        return "under 0.01 %"
    if part < whole and text == "100.00":
        return "over 99.99 %"
    return f"{text.rstrip('0').rstrip('.')} %"


def by_size(causes: dict[str, Cause]) -> Sequence[tuple[str, Cause]]:
    return sorted(causes.items(), key=lambda one: (-one[1].values, one[0]))
