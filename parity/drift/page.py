"""The comparison as one self-contained page: verdicts first, no script, nothing loaded, light and dark."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from parity.drift import charts
from parity.drift.alarms import APPEARED, DRIFT, SMALL, STEADY, Verdict, by_day, groups, scores_in_unit, scores_of
from parity.drift.found import Found, head, number, sentences
from parity.drift.test import LOCATION, NULL, SHARE, Part
from parity.edge.files import replacing

TEMPLATE = Path(__file__).with_name("page.html")
WORDS = {DRIFT: "drift", APPEARED: "appeared meanwhile", SMALL: "too small to matter", STEADY: "steady"}


def write_page(path: Path, found: Found, now: datetime) -> None:
    """Write the page to ``path``, replacing an earlier one."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    with replacing(path) as temporary:
        temporary.write_text(
            environment.from_string(TEMPLATE.read_text()).render(
                drifted=len(found.drifted),
                pipeline=sum(one.by_pipeline is True for one in found.drifted),
                columns=[_column(one) for one in found.ordered],
                heads=list(dict.fromkeys(head(one) for one in found.ordered)),
                several=len({one.table for one in found.verdicts}) > 1,
                not_compared=[*found.left, *map(str, found.not_compared)],
                rate=f"{found.rate:g}",
                now=f"{now:%Y-%m-%d %H:%M} UTC",
            ),
            encoding="utf-8",
        )


def _column(one: Verdict) -> dict[str, Any]:
    tested = one.tested
    first, *more = sentences(one)
    return {
        "name": one.name,
        "table": one.table,
        "status": WORDS[one.status],
        "alarm": one.status == DRIFT,
        "sentence": first.removeprefix(f"{one.name}: ").split(" (p ")[0],
        "more": [line.strip() for line in more],
        "p": f"{tested.chance:.3g}",
        "psi": f"{tested.psi:.3f}",
        "ks": f"{tested.ks:.3f}",
        "wasserstein": number(tested.wasserstein, one) if one.counted.labels is None else "",
        "shares": _shares(one),
        "daily": _daily(one),
        "shown_by_day": _shown_by_day(one),
        "groups": _groups(one),
    }


def _shares(one: Verdict) -> list[str]:
    """Shares of special values that are there at all."""
    return [
        f"{name}: {effect.reference:.2%} -> {effect.current:.2%} of rows"
        for name, effect in one.tested.shares.items()
        if effect.reference or effect.current
    ]


def _part(one: Verdict) -> Part:
    """The test whose mean by day is drawn."""
    if one.moved:
        return one.moved.part
    return Part(LOCATION, "", 1, 1) if one.counted.labels is None else Part(SHARE, NULL, 1, 1)


def _scores(one: Verdict) -> np.ndarray:
    part = _part(one)
    return scores_in_unit(one.counted, part) if one.counted.labels is None else scores_of(one.counted, part)


def _shown_by_day(one: Verdict) -> str:
    part = _part(one)
    if part.kind == SHARE:
        return f"share of {part.what}, by day"
    if one.counted.labels is not None:
        return "share of the category that changed the most, by day"
    return f"mean{f', in {one.counted.column.unit}' if one.counted.column.unit else ''}, by day"


def _daily(one: Verdict) -> str:
    days = one.spans.days
    means, _ = by_day(one.counted, _scores(one))
    since = days.index(one.moved.since) if one.moved else None
    labels = [f"{day.day} {day:%b}" for day in days]
    described = f"{one.name}: {_shown_by_day(one)}, from {days[0]} to {days[-1]}"
    return charts.daily(means, labels, days.index(one.spans.current.first), since, described)


def _groups(one: Verdict) -> str:
    names, reference, current = groups(one.counted)
    return charts.groups(reference, current, names, f"{one.name}: shares of rows by group of values, in both windows")
