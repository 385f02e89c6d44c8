"""The report of an audit as one page."""

from datetime import datetime
from pathlib import Path
from typing import Any

from parity.audit.causes import MEANING
from parity.audit.found import Audit, Audited, by_size, share
from parity.audit.terminal import about_log, not_audited, notes, span, tally, verdict
from parity.report.html import write_html

TEMPLATE = Path(__file__).with_name("page.html")


def write_page(path: Path, found: Audit, now: datetime) -> None:
    """Write the page to ``path``, replacing an earlier one. No secret of the configuration is in it."""
    write_html(
        path,
        TEMPLATE,
        found=found,
        now=now.isoformat(),
        verdict=verdict(found),
        today=_share(found.wrong_today, found.audited),
        then=_share(found.wrong_then, found.known_then),
        aside=[*not_audited(found), *about_log(found)],
        views=list(map(_view, found.views)),
    )


def _share(part: int, whole: int) -> dict[str, Any]:
    """A share in words, and in per cent for the eye: what is there is seen, however little it is."""
    percent = 100 * part / whole if whole else 0
    return {"part": part, "whole": whole, "text": share(part, whole), "percent": max(percent, 0.5) if part else 0}


def _view(view: Audited) -> dict[str, Any]:
    largest = max((one.values for one in view.causes.values()), default=0)
    causes = [
        {
            "name": cause,
            "meaning": MEANING[cause],
            "values": one.values,
            "width": max(1.0, 100 * one.values / largest),
            "tally": tally(one),
            "span": span(one),
            "key": view.named(one.example.key),
            "example": one.example,
        }
        for cause, one in by_size(view.causes)
    ]
    return {"found": view, "notes": notes(view), "causes": causes}
