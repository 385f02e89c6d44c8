"""Quality as a part of the watch: what failed since the same day is one finding, with the users it concerns."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import numpy as np

from parity.definition.checks import Declared, FeatureTable
from parity.definition.instants import EPOCH
from parity.edge.errors import UserError
from parity.offline.side import deliveries_of
from parity.quality.check import Checker, Source, alone, sources_of
from parity.quality.judge import Judged, Tally
from parity.repository import require_own
from parity.watch import advice
from parity.watch.found import BAD, PIPELINE, PROOF, QUALITY, Finding, Part

PAGE = "quality report"


class _Failed(NamedTuple):
    """An expectation that failed, of the transactions or the features of ``table``."""

    table: FeatureTable
    judged: Judged
    tally: Tally

    @property
    def of_features(self) -> bool:
        return self.judged.name == self.table.name

    @property
    def is_declared(self) -> bool:
        """Whether it is expected of features by features.py, and not by what follows from their definition."""
        return self.of_features and self.tally.expectation in self.table.view.expectations


def watch_quality(chosen: Declared, folder: Path, at: datetime) -> Part:
    """Hold the transactions and features of the ``chosen`` tables to what is expected of them, with results and their
    page kept in ``folder / "quality"``."""
    part, failed, kept = Part(QUALITY), [], folder / "quality"
    with alone(kept):
        checker = Checker(kept, at, whose=True)
        for source in sources_of(chosen.tables, deliveries_of(chosen.tables, None)):
            try:
                failed += _check(checker, source, part)
            except UserError as error:
                part.unchecked(str(error))
        if checker.judged:
            part.pages[PAGE] = checker.publish().relative_to(folder).as_posix()
    part.findings = [*_incidents(failed, at), *part.findings]
    part.summary = _summary(checker.judged)
    return part


def _check(checker: Checker, source: Source, part: Part) -> list[_Failed]:
    """Check the transactions of a source, and the features of each table of it."""
    failed = []
    with checker.transactions(source) as transactions:
        judged = checker.judged[-1]
        failed += _taken(source[1][0], judged, part)
        for table in source[1]:
            try:
                require_own(table)
                checker.features(table, transactions)
            except UserError as error:
                part.unchecked(str(error))
                continue
            failed += _taken(table, checker.judged[-1], part)
    return failed


def _taken(table: FeatureTable, judged: Judged, part: Part) -> list[_Failed]:
    """What failed; what is unreadable becomes a finding of ``part``, and warnings are noted there."""
    part.noted += [f"{one.severity}: {one.line(judged.name)}" for one in judged.remarks]
    for reason in judged.trouble:
        what, whose = f"{judged.name} can't be read as declared", f"{table.noun()} are concerned"
        todo = tuple(map(advice.for_repository, (advice.UNREADABLE, advice.MENDED)))
        part.findings.append(Finding(BAD, (QUALITY,), what, todo, whose=whose, details=(reason,), page=PAGE))
    return [_Failed(table, judged, tally) for tally in judged.failures]


def _incidents(failed: Sequence[_Failed], at: datetime) -> list[Finding]:
    """A finding for all that failed since the same day, of entities of the same kind."""
    groups: dict[tuple, list[_Failed]] = {}
    for one in failed:
        groups.setdefault((one.tally.failed[0], one.table.noun()), []).append(one)
    return [_incident(_day(first), noun, some, at) for (first, noun), some in groups.items()]


def _incident(since: date, noun: str, some: Sequence[_Failed], at: datetime) -> Finding:
    causes = _causes(some)
    failed = sorted({day for one in causes for day in one.tally.failed})
    last, kind = _day(failed[-1]), BAD
    days = "on that day" if last == since else "on those days"
    row_wise = all(one.tally.expectation.is_row_wise for one in causes)
    todo = [advice.of_expectation(one.tally.expectation) for one in causes]
    if not causes[0].of_features:
        todo.append(advice.MENDED)
    elif not any(one.is_declared for one in causes):
        kind, todo = PIPELINE, [advice.FEATURES]
    return Finding(
        kind,
        (QUALITY,) if kind == BAD else (QUALITY, PROOF),
        "; ".join(_phrases(causes) + [f"and so {name}" for name in _names(some) if name not in _names(causes)]),
        tuple(map(advice.for_repository, dict.fromkeys(todo))),
        since,
        last if last < at.date() - timedelta(days=1) else None,
        len(np.unique(np.concatenate([one.tally.whose for one in causes]))),
        f"{noun} have {'such rows' if row_wise else f'rows {days}; of rows that are missing nobody knows whose'}",
        tuple(one.tally.line(one.judged.name) for one in some),
        PAGE,
        len(failed) if len(failed) <= failed[-1] - failed[0] else None,
    )


def _causes(some: Sequence[_Failed]) -> Sequence[_Failed]:
    """What to see to: the transactions, if they are bad, of which bad features follow."""
    return [one for one in some if not one.of_features] or some


def _names(some: Sequence[_Failed]) -> list[str]:
    return list(dict.fromkeys(one.judged.name for one in some))


def _phrases(some: Sequence[_Failed]) -> list[str]:
    """What fails, for each table."""
    return [
        f"{name}: {', '.join(dict.fromkeys(advice.short(o.tally.expectation) for o in some if o.judged.name == name))}"
        for name in _names(some)
    ]


def _summary(judged: Sequence[Judged]) -> str:
    if not judged:
        return "not checked"
    count, failed = (sum(len(getattr(one, name)) for one in judged) for name in ("tallies", "lines"))
    days = max(one.days for one in judged)
    return f"{failed:,} of {count:,} expectations failed, asked of {days:,} days"


def _day(number: int) -> date:
    return (EPOCH + timedelta(days=number)).date()
