"""The comparison as one self-contained page: verdicts first, no script, nothing loaded, light and dark."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np

from parity.drift import charts
from parity.drift.alarms import APPEARED, DRIFT, SMALL, STEADY, Verdict, by_day, groups, scores_in_unit, scores_of
from parity.drift.found import Found, head, number, sentences
from parity.drift.test import INFINITE, LOCATION, NEGATIVE, NULL, SHARE, Part
from parity.report.html import write_html

TEMPLATE = Path(__file__).with_name("page.html")
NEVER_BY_GROWING = NULL, NEGATIVE, INFINITE
"""What is said of a feature that becomes another by definition."""
WORDS = {DRIFT: "drift", APPEARED: "appeared meanwhile", SMALL: "too small to matter", STEADY: "steady"}


def write_page(path: Path, found: Found, now: datetime) -> None:
    """Write the page to ``path``, replacing an earlier one."""
    write_html(
        path,
        TEMPLATE,
        drifted=len(found.drifted),
        pipeline=sum(one.by_pipeline is True for one in found.drifted),
        columns=[_column(one) for one in found.ordered],
        heads=list(dict.fromkeys(head(one) for one in found.ordered)),
        several=len({one.table for one in found.verdicts}) > 1,
        not_compared=[*found.left, *map(str, found.not_compared)],
        not_judged=list(map(str, found.too_little)),
        rate=f"{found.rate:g}",
        now=f"{now:%Y-%m-%d %H:%M} UTC",
    )


def _column(one: Verdict) -> dict[str, Any]:
    tested = one.tested
    first, *more = sentences(one)
    return {
        "name": one.name,
        "table": one.table,
        "status": _status(one),
        "since": one.moved.since if one.moved else "",
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
        "shown_by_group": "share of rows by "
        + ("decile, named by its mean" if one.counted.labels is None else "category"),
        "groups": _groups(one),
    }


def _status(one: Verdict) -> str:
    if one.status != DRIFT:
        return WORDS[one.status]
    of = {True: "of the pipeline", False: "of the data", None: ""}[one.by_pipeline]
    return f"{WORDS[DRIFT]} {of}".strip()


def _shares(one: Verdict) -> list[str]:
    """Shares of special values that are there at all."""
    return [
        f"{name}: {effect.reference:.2%} -> {effect.current:.2%} of rows"
        for name, effect in one.tested.shares.items()
        if (effect.reference or effect.current) and (not one.counted.column.grows or name in NEVER_BY_GROWING)
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
    is_share = one.counted.labels is not None or _part(one).kind == SHARE
    return charts.daily(means, labels, days.index(one.spans.current.first), since, described, is_share)


def _groups(one: Verdict) -> str:
    names, reference, current = groups(one.counted)
    return charts.groups(reference, current, names, f"{one.name}: shares of rows by group of values, in both windows")
