"""Drift as a part of the watch: what has moved by as much as matters, on days that are over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from parity.definition.checks import Declared, FeatureTable
from parity.drift.command import Asked, compared
from parity.watch import advice
from parity.watch.found import BAD, DRIFT, MOVED, PIPELINE, PROOF, Finding, Part

if TYPE_CHECKING:
    from parity.drift.alarms import Verdict

PAGE = "drift report"
FILE = "drift.html"


def watch_drift(chosen: Declared, repository: Path, folder: Path, at: datetime, bad: Sequence[Finding]) -> Part:
    """Compare the last seven days that are over with the 28 before, and write the page; ``bad`` is what is known of
    the data."""
    found = compared(Asked(repository, [table.name for table in chosen]), at)
    from parity.drift.alarms import APPEARED, SMALL
    from parity.drift.alarms import DRIFT as DRIFTED
    from parity.drift.found import sentences
    from parity.drift.page import write_page

    write_page(folder / FILE, found, at)
    part, tables = Part(DRIFT, pages={PAGE: FILE}), {table.name: table for table in chosen}
    for one in found.ordered:
        if one.status == DRIFTED:
            part.findings.append(_finding(one, tables[one.table], bad))
        elif one.status in (SMALL, APPEARED):
            part.noted += [f"{one.table}: {line}" for line in sentences(one)]
    for error in found.not_compared:
        part.unchecked(str(error))
    part.noted += [f"not compared: {reason}" for reason in found.left]
    part.summary = f"{len(found.drifted)} of {len(found.verdicts)} columns have drifted" + (
        f", in {found.verdicts[0].spans.current} against {found.verdicts[0].spans.reference}" if found.verdicts else ""
    )
    return part


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
