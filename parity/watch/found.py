"""What a watch came to: findings in the order of their urgency, what could not be checked, and the exit status."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any, NamedTuple

from parity.edge.command import of_chosen

QUALITY, DRIFT, PROOF = PARTS = "quality", "drift", "proof"

PIPELINE, BAD, UNCHECKED, MOVED = KINDS = "pipeline", "bad data", "not checked", "data moved"
"""Of findings, the most urgent first: values are served that are wrong; what they are made of is; nobody knows; all is
computed as it should be, and what models get is no longer what it was."""
MEANING = {
    PIPELINE: "Features are not what the transactions give.",
    BAD: "Transactions or features are not as features.py expects them.",
    UNCHECKED: "A part of the watch could not be done, so that nobody knows.",
    MOVED: "The features are right; their values have moved.",
}


class Finding(NamedTuple):
    """Something that a person has to see to."""

    kind: str
    parts: tuple[str, ...]
    """Which parts of the watch it counts for: what the pipeline does wrong counts for the proof too."""
    what: str
    todo: tuple[str, ...]
    since: date | None = None
    until: date | None = None
    """The last day of it, if it is known to be over."""
    users: int | None = None
    """How many, of those that were looked at; None if that is not known."""
    whose: str = ""
    """Which users those are, in words, after their number."""
    details: tuple[str, ...] = ()
    page: str = ""
    """Where to read more: the key of a page of `Watched`."""
    days: int | None = None
    """On how many days it is, if not on each from the first to the last."""

    @property
    def urgency(self) -> tuple:
        return KINDS.index(self.kind), -(self.users or 0), str(self.since or "")

    @property
    def when(self) -> str:
        if self.since is None:
            return "now" if self.kind == PIPELINE else ""
        some = f"on {self.days} days " if self.days else ""
        if self.until is None:
            return f"{some}since {self.since}"
        if some:
            return f"{some}from {self.since} to {self.until}"
        return f"on {self.since}" if self.since == self.until else f"{self.since} to {self.until}"

    @property
    def who(self) -> str:
        return f"{'not known how many users' if self.users is None else f'{self.users:,}'} {self.whose}".strip()


@dataclass
class Part:
    """What one part of the watch came to."""

    name: str
    summary: str = "not checked"
    findings: list[Finding] = field(default_factory=list)
    noted: list[str] = field(default_factory=list)
    """What is no alarm and worth a line: warnings, and moves that are too small to matter."""
    pages: dict[str, str] = field(default_factory=dict)
    """Names of pages, and where they are, from the folder of the watch's own page."""

    def unchecked(self, reason: str) -> None:
        """Note that something could not be checked, for a ``reason`` that may end in what to run."""
        reason, _, command = of_chosen(reason).partition(" Run: ")
        todo = f"Run: {command}" if command else "Mend that, and run the watch again."
        self.findings.append(Finding(UNCHECKED, (self.name,), f"{self.name}: {reason}", (todo,)))


@dataclass
class Watched:
    """All parts, as of an instant."""

    at: datetime
    parts: Sequence[Part]
    fail_on: Collection[str] = PARTS

    @property
    def findings(self) -> list[Finding]:
        """The most urgent first; of several of a kind, that of more users."""
        return sorted((one for part in self.parts for one in part.findings), key=lambda one: one.urgency)

    @property
    def pages(self) -> dict[str, str]:
        return {name: page for part in self.parts for name, page in part.pages.items()}

    @property
    def status(self) -> int:
        """1 if there is anything to see to in the parts that it may fail on; 2 if not, and something there could not be
        checked; else 0."""
        counted = {one.kind for one in self.findings if set(one.parts) & set(self.fail_on)}
        return 1 if counted - {UNCHECKED} else 2 if counted else 0

    @property
    def verdict(self) -> str:
        found = [one for one in self.findings if one.kind != UNCHECKED]
        unchecked = len(self.findings) - len(found)
        things = "thing to see to" if len(found) == 1 else "things to see to"
        counts = [f"{number} {what}" for number, what in ((len(found), things), (unchecked, UNCHECKED)) if number]
        return ", ".join(counts) or "all is well"


def shown(watched: Watched) -> str:
    """What a person reads on a terminal."""
    lines = [f"Watch at {watched.at:%Y-%m-%d %H:%M} UTC: {watched.verdict}"]
    for number, one in enumerate(watched.findings, 1):
        when = f" {one.when}" if one.when else ""
        lines.append(f"{number}. {one.kind.upper()}{when}: {one.what}")
        if one.kind != UNCHECKED:
            lines.append(f"   {one.who}")
        lines += [f"   -> {line}" for line in one.todo]
    return "\n".join([*lines, *(f"{part.name}: {part.summary}" for part in watched.parts)])


def as_json(watched: Watched) -> dict[str, Any]:
    """The same for machines."""
    return {
        "at": watched.at.isoformat(),
        "status": watched.status,
        "fail_on": [name for name in PARTS if name in watched.fail_on],
        "findings": [
            {
                "rank": number,
                "kind": one.kind,
                "parts": list(one.parts),
                "what": one.what,
                "since": one.since and str(one.since),
                "until": one.until and str(one.until),
                "days": one.days,
                "users": one.users,
                "whose": one.whose or None,
                "todo": list(one.todo),
                "details": list(one.details),
                "page": watched.pages.get(one.page),
            }
            for number, one in enumerate(watched.findings, 1)
        ],
        "parts": {part.name: {"summary": part.summary, "noted": part.noted} for part in watched.parts},
        "pages": watched.pages,
    }
