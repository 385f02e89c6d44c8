"""The watch as one page, for whoever is on call: no script, nothing loaded, light and dark."""

from pathlib import Path

from parity.report.html import write_html
from parity.watch.found import MEANING, MOVED, UNCHECKED, Watched

TEMPLATE = Path(__file__).with_name("page.html")


def write_page(path: Path, watched: Watched) -> None:
    """Write the page to ``path``, replacing an earlier one."""
    found = [one for one in watched.findings if one.kind != UNCHECKED]
    write_html(
        path,
        TEMPLATE,
        watched=watched,
        heading=watched.verdict[:1].upper() + watched.verdict[1:],
        bad=bool(found),
        at=f"{watched.at:%Y-%m-%d %H:%M} UTC",
        meaning=MEANING,
        calm=(MOVED, UNCHECKED),
        unchecked=UNCHECKED,
    )
