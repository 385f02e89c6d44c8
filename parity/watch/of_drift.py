"""Drift as a part of the watch: what has moved by as much as matters, on days that are over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from parity.definition.checks import Declared, FeatureTable
from parity.drift.command import Asked, compared
from parity.watch import advice
from parity.watch.found import BAD, DRIFT, MOVED, PIPELINE, PROOF, Finding, Part

if TYPE_CHECKING:
    from parity.drift.alarms import Verdict
    from parity.drift.found import Found

PAGE = "drift report"
FILE = "drift.html"


def watch_drift(chosen: Declared, repository: Path, folder: Path, at: datetime, bad: Sequence[Finding]) -> Part:
    """Compare the last seven days that are over with the 28 before, and write the page; ``bad`` is what is known of
    the data."""
    found = compared(Asked(repository, [table.name for table in chosen]), at)
    part = Part(DRIFT, _summary(found))
    for error in found.not_compared:
        part.unchecked(str(error))
    part.noted = [f"not judged yet: {error.reason}" for error in found.too_little]
    part.noted += [f"not compared: {reason}" for reason in found.left]
    if found.verdicts:
        _take_up(part, found, {table.name: table for table in chosen}, folder, at, bad)
    return part


def _take_up(
    part: Part, found: Found, tables: Mapping[str, FeatureTable], folder: Path, at: datetime, bad: Sequence[Finding]
) -> None:
    """Make findings and notes of the verdicts, and write the page."""
    from parity.drift.alarms import APPEARED, SMALL
    from parity.drift.alarms import DRIFT as DRIFTED
    from parity.drift.found import sentences
    from parity.drift.page import write_page

    write_page(folder / FILE, found, at)
    part.pages[PAGE] = FILE
    for one in found.ordered:
        if one.status == DRIFTED:
            part.findings.append(_finding(one, tables[one.table], bad))
        elif one.status in (SMALL, APPEARED):
            part.noted += [f"{one.table}: {line}" for line in sentences(one)]


def _summary(found: Found) -> str:
    """How many columns have drifted, in which days, and what there is too little of to judge it."""
    said = []
    if found.verdicts:
        spans = found.verdicts[0].spans
        columns = f"{len(found.drifted)} of {len(found.verdicts)} columns have drifted"
        said.append(f"{columns}, in {spans.current} against {spans.reference}")
    if found.too_little:
        said.append(f"not judged yet: {'; '.join(error.reason for error in found.too_little)}")
    return "; ".join(said) or "not checked"


def _finding(one: Verdict, table: FeatureTable, bad: Sequence[Finding]) -> Finding:
    from parity.drift.found import sentences, size

    since = one.moved.since
    if one.by_pipeline:
        kind, parts, todo = PIPELINE, (DRIFT, PROOF), advice.of_pipeline_drift(one.name)
    else:
        source = table.definition.reading.name
        kind, parts = MOVED, (DRIFT,)
        todo = advice.of_moved_data(source, one.name, since, _bad_day(one, bad))
    return Finding(
        kind,
        parts,
        f"{one.table}: {one.name} {size(one).partition(', standard error')[0]}",
        tuple(map(advice.for_repository, todo)),
        since,
        None,
        _users(one, table),
        f"{one.noun} have rows since then",
        tuple(line.strip() for line in sentences(one)),
        PAGE,
    )


def _bad_day(one: Verdict, bad: Sequence[Finding]) -> date | None:
    """The first day of bad data in the window that has moved, if there is one."""
    current = one.spans.current
    days = [day for day in (_first_in(current, finding) for finding in bad if finding.kind == BAD) if day]
    return min(days, default=None)


def _first_in(span, finding: Finding) -> date | None:
    if finding.since is None or finding.since > span.last or (finding.until or span.last) < span.first:
        return None
    return max(finding.since, span.first)


def _users(one: Verdict, table: FeatureTable) -> int:
    """How many have rows from the day of the change to the end of the current window."""
    from parity.drift.sources import features
    from parity.drift.windows import connected, name

    rows = features(table).rows
    begin = datetime.combine(one.moved.since, time(), UTC)
    keys = ", ".join(map(name, rows.keys))
    query = (
        f"SELECT count(*) FROM (SELECT DISTINCT {keys} FROM {rows.relation} "
        f"WHERE {rows.instant} >= $1 AND {rows.instant} < $2)"
    )
    with connected(rows) as connection:
        end = datetime.combine(one.spans.current.last, time(), UTC) + timedelta(days=1)
        return connection.execute(query, [begin, end]).fetchone()[0]
