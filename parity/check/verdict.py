"""What the findings come to: what is accepted, what fails, and the exit status."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from parity.check.found import Compared, Finding, by_harm
from parity.compare.kinds import BY_NAME, NOTHING, UNCHECKED, Harm, Kind
from parity.edge.errors import UserError

ACCEPTABLE = {**BY_NAME, NOTHING.name: NOTHING, UNCHECKED.name: UNCHECKED}


class Status(IntEnum):
    PASSES = 0
    DIFFERS = 1
    NOT_PROVEN = 2


@dataclass
class Verdict:
    """What is said of all subjects together."""

    compared: list[Compared]
    accepted: Collection[str] = ()
    fail_on: Collection[str] = ()
    """Names of kinds; none for all."""
    left: dict[str, str] = field(default_factory=dict)
    """What was not compared, with why."""

    @property
    def findings(self) -> list[Finding]:
        """Every finding, once for its kind and view, the gravest first."""
        return by_harm(merged(self.compared))

    def fails(self, kind: Kind) -> bool:
        return kind.name not in self.accepted and (not self.fail_on or kind.name in self.fail_on)

    @property
    def failing(self) -> list[Finding]:
        return [one for one in self.findings if self.fails(one.kind)]

    @property
    def tolerated(self) -> list[Finding]:
        return [one for one in self.findings if not self.fails(one.kind)]

    @property
    def unchecked(self) -> list[Compared]:
        return [one for one in self.compared if one.trouble is not None]

    @property
    def vacuous(self) -> list[Compared]:
        return [one for one in self.compared if one.is_vacuous or self._is_all_accepted(one)]

    def _is_all_accepted(self, one: Compared) -> bool:
        """Whether no value is equal, and what differs is accepted: then nothing was compared but what has another type
        or precision, if that."""
        findings = [finding for finding in one.findings.values() if not finding.beneath]
        if one.trouble is not None or one.proven > 0 or any(self.fails(finding.kind) for finding in findings):
            return False
        return not any(finding.kind.harm == Harm.TYPE for finding in findings)

    @property
    def status(self) -> Status:
        if self.failing:
            return Status.DIFFERS
        unchecked = self.unchecked and UNCHECKED.name not in self.accepted
        vacuous = self.vacuous and NOTHING.name not in self.accepted
        nothing = not self.compared or len(self.unchecked) == len(self.compared)
        return Status.NOT_PROVEN if unchecked or vacuous or nothing else Status.PASSES

    @property
    def is_equal(self) -> bool:
        """Whether all is equal: not where it passes but for what is accepted, or does not decide."""
        return self.status == Status.PASSES and not (self.tolerated or self.unchecked or self.vacuous)

    @property
    def word(self) -> str:
        """The verdict in a word or two."""
        return "equal" if self.is_equal else self.status.name.lower().replace("_", " ")

    @property
    def values(self) -> int:
        return sum(one.values for one in self.compared)

    @property
    def differing(self) -> int:
        return sum(one.differing for one in self.compared)

    @property
    def proven(self) -> int:
        return sum(max(one.proven, 0) for one in self.compared)


def merged(compared: Iterable[Compared]) -> list[Finding]:
    """The findings of all subjects, those of a view and of a service with it as one: by the view's own keys, where it
    was compared by itself. The keys of a service with other views are pairs of keys."""
    found: dict[tuple, tuple[bool, Finding]] = {}
    for one in compared:
        for key, finding in one.findings.items():
            is_own = one.name == finding.view
            known = found.get(key)
            if known is None or (is_own, finding.keys) > (known[0], known[1].keys):
                found[key] = is_own, finding
    return [finding for _, finding in found.values()]


def kinds_named(texts: Sequence[str] | None) -> list[str]:
    """The kinds that an option names, separated by commas or blanks; `UserError` for one that there is not."""
    names = [name for text in texts or [] for name in text.replace(",", " ").split()]
    for name in names:
        if name not in ACCEPTABLE:
            raise UserError(f"there is no kind of difference {name!r}; there is {', '.join(ACCEPTABLE)}.")
    return names
