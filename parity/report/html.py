"""Pages: one file each, with no script and nothing loaded from elsewhere, in the light or dark of whoever reads it."""

from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from parity.edge.files import replacing
from parity.edge.shown import cut

STYLE = Markup(Path(__file__).with_name("style.css").read_text())
"""What all pages look like."""


def write_html(path: Path, template: Path, **values: Any) -> None:
    """Write the page that a ``template`` makes of some ``values`` to ``path``, replacing an earlier one."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    page = environment.from_string(template.read_text()).render(style=STYLE, shown=_shown, **values)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _shown(value: Any) -> str:
    return "null" if value is None else cut(str(value))
