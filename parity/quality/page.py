"""What a run found as one page: what failed first, with links to the days in the Data Docs of Great Expectations.

The first page of those is a table that scripts from the internet fill, and empty without them.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from parity.quality.judge import EXAMPLES, Judged, Tally
from parity.report.html import write_html

TEMPLATE = Path(__file__).with_name("page.html")
DAYS = 31
"""How many days of an expectation are listed, the newest."""


def write_page(
    path: Path, judged: Sequence[Judged], at: datetime, docs: Path, pages: Mapping[tuple[str, str], Path]
) -> None:
    """Write the page to ``path``. ``pages`` are those of ``docs``, by suites and days."""
    linked = {key: _link(page, path) for key, page in pages.items()}
    write_html(
        path,
        TEMPLATE,
        fine=all(one.is_fine for one in judged),
        at=at.isoformat(),
        judged=[_of_one(one, linked) for one in judged],
        docs=_link(docs, path),
    )


def _link(page: Path, path: Path) -> str:
    return quote(os.path.relpath(page.resolve(), path.parent.resolve()))


def _of_one(judged: Judged, linked: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    failed = [*judged.failures, *judged.remarks]
    return {"found": judged, "failed": [_of_tally(tally, judged.suite, linked) for tally in failed]}


def _of_tally(tally: Tally, suite: str, linked: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    days = sorted(tally.dates, reverse=True)[:DAYS]
    return {
        "expected": tally.expected,
        "severity": tally.severity,
        "count": tally.count,
        "examples": tally.examples[:EXAMPLES],
        "days": [(day, linked.get((suite, day))) for day in days],
        "more": len(tally.failed) - len(days),
    }
