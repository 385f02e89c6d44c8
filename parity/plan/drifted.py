"""The drift verdict of new values against old: that of `parity.drift`, with both tables as its two windows."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import numpy as np
import pyarrow as pa

from parity.edge.errors import UserError
from parity.plan.compare import ViewPair
from parity.plan.found import CHANGED, ViewFound

RATE = 0.001
DAYS = date(2000, 1, 1), date(2000, 1, 2)
"""The days that stand for the base and the head."""
NOT_INSTALLED = "drift of new values against old, as scipy is missing. Run: pip install -r requirements-drift.txt"


@dataclass(frozen=True)
class Drift:
    """What `parity.drift` says of a feature."""

    status: str
    size: str
    chance: float | None

    def __str__(self) -> str:
        chance = "" if self.chance is None else f" (p {self.chance:.3g})"
        return f"{self.status}, {self.size}" if self.size else f"{self.status}{chance}"

    def as_json(self) -> dict[str, Any]:
        return {"status": self.status, "size": self.size or None, "p": self.chance}


def add_drift(pair: ViewPair, view: ViewFound, tags: Mapping[str, str]) -> str | None:
    """Say of each feature whose values changed whether they drifted; return why that was not asked, if so."""
    changed = [one for one in view.features if one.status == CHANGED]
    if not changed:
        return None
    try:
        from parity.drift import alarms
        from parity.drift.found import size
        from parity.drift.matters import matters_of
        from parity.drift.spans import Span, Spans
        from parity.drift.windows import count
    except ModuleNotFoundError:
        return NOT_INSTALLED
    names = [one.name for one in changed]
    spans = Spans(*(Span(day, day) for day in DAYS))
    try:
        rows = _rows(pair, view, {one.name: one.unit or "" for one in changed})
        counting = count(rows, spans)
        if counting.entities.in_any < alarms.fewest(counting, RATE):
            return f"drift of new values against old of {view.name}: there are too few {view.noun}"
        matters = matters_of(names, tags, {}, view.name)
        verdicts = alarms.judged([(view.name, view.noun, counting, matters)], [spans], RATE)
    except UserError as error:
        return f"drift of new values against old of {view.name}: {error}"
    by_name = {verdict.name: verdict for verdict in verdicts}
    for one in changed:
        verdict = by_name.get(one.name)
        if verdict:
            chance = float(verdict.tested.chance)
            said = size(verdict) if verdict.moved else ""
            one.change.drift = Drift(verdict.status, said, chance if math.isfinite(chance) else None)
    return None


def _rows(pair: ViewPair, view: ViewFound, units: Mapping[str, str]) -> Any:
    """The rows of both tables on top of each other, on the day that stands for each."""
    from parity.drift.windows import Rows, columns_of, name

    aligned, instant = pair.aligned, ":side"
    parts = []
    for rows, day, table in zip((aligned.base, aligned.head), DAYS, pair.tables, strict=True):
        known = rows >= 0
        values = table.read(list(units)).take(pa.array(rows[known]))
        at = pa.array(np.full(len(values), np.datetime64(day, "us")), pa.timestamp("us", "UTC"))
        parts.append(values.append_column(":key", pa.array(aligned.key[known])).append_column(instant, at))
    stacked = pa.concat_tables(parts, promote_options="permissive")
    columns, _ = columns_of(stacked.schema, list(units), name(instant), units, {})
    columns = tuple(column for column in columns if column.name in units)
    return Rows(view.name, "stacked", (":key",), name(instant), columns, view.noun, {"stacked": stacked})
