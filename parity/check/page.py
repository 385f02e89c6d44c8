"""The report of a check as one page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from parity.check import terminal
from parity.check.certificate import Context
from parity.check.found import Compared, Finding
from parity.check.verdict import Status, Verdict
from parity.report.html import write_html

TEMPLATE = Path(__file__).with_name("page.html")
TITLES = {"equal": "Equal", "passes": "Passes", "differs": "Differs", "not proven": "Nothing proven"}


def write_page(path: Path, verdict: Verdict, context: Context) -> None:
    """Write the page to ``path``, replacing an earlier one. No secret of the configuration is in it."""
    findings = verdict.findings
    most = max((one.keys for one in findings), default=1)
    write_html(
        path,
        TEMPLATE,
        title=TITLES[verdict.word],
        good=verdict.status == Status.PASSES,
        context=context,
        at=terminal.moment(context.started),
        last=terminal.last_line(verdict),
        verdict=verdict,
        findings=[_finding(one, verdict, most) for one in findings],
        compared=[_compared(one) for one in verdict.compared],
        left=verdict.left,
    )


def _finding(one: Finding, verdict: Verdict, most: int) -> dict[str, Any]:
    return {
        "kind": one.kind.name,
        "fails": verdict.fails(one.kind),
        "about": terminal.about(one),
        "meaning": terminal.meaning(one),
        "advice": terminal.advice(one),
        "link": one.link,
        "width": max(1.0, 100 * one.keys / most),
        "examples": list(map(terminal.shown_example, one.examples)),
    }


def _compared(one: Compared) -> dict[str, Any]:
    whole = max(one.values, 1)
    return {
        "name": one.name,
        "what": one.what,
        "line": terminal.line(one).removeprefix(f"{one.name}: "),
        "bad": bool(one.differing or one.error or one.is_vacuous),
        "notes": terminal.notes(one),
        "equal": 100 * max(one.proven, 0) / whole,
        "differing": 100 * one.differing / whole,
    }
