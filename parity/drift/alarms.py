"""What moved, by how much, where, and since when: from the counts of two windows to a verdict a column."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import NamedTuple

import numpy as np

from parity.drift.bins import LARGEST
from parity.drift.matters import Matters
from parity.drift.spans import Spans
from parity.drift.test import (
    EXTREME,
    FEWEST_UNITS,
    INFINITE,
    LOCATION,
    MARGIN,
    NEGATIVE,
    NEW,
    NULL,
    SHARE,
    SHARES,
    SPREAD,
    TAILS,
    ZERO,
    Effect,
    Part,
    Tested,
    compare,
    groups_of,
    holm,
    mid_ranks,
    tail_scores,
)
from parity.drift.windows import Counted, Counting, Entities

DRIFT, SMALL, STEADY, APPEARED = "drift", "too small to matter", "steady", "appeared"
ONE_WEEKDAY = 0.6
"""A weekday with this share of all that moved is named alone."""
WEEKDAYS = "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"


class Gained(NamedTuple):
    """Which values more rows have than before: those from one bound to another, of ``ranges``; that category; nulls.
    Nothing of them: any."""

    ranges: tuple[tuple[float, float], ...] = ()
    category: str | None = None
    nulls: bool = False


@dataclass(frozen=True)
class Moved:
    """The test of a column that is the strongest of those that matter, and where the change is."""

    part: Part
    effect: Effect
    """Of the mean, the mean distance from the median, or a share of rows: see `Moved.in_rows`."""
    in_rows: bool
    """Whether the effect is a share of rows."""
    since: date
    group: str
    """The decile of the reference, or the category, whose share of rows has changed the most."""
    weekday: str
    """The weekday on which most of it is, or nothing."""
    old: Effect | None
    """The same effect among entities that are in both windows."""
    new: Effect | None
    """And of those that are in one only."""
    gained: Gained = field(default_factory=lambda: Gained())
    """Where there are more rows than before."""


@dataclass(frozen=True)
class Verdict:
    """What is found of one column."""

    table: str
    counted: Counted
    tested: Tested
    status: str
    entities: Entities
    spans: Spans
    moved: Moved | None = None
    origin: str = ""
    """Whether the data moved, or the pipeline: in words."""
    by_pipeline: bool | None = None
    noun: str = "users"

    @property
    def name(self) -> str:
        return self.counted.column.name


def results_of(counting: Counting) -> list[Tested]:
    """Test each column that was counted."""
    found = []
    for counted in counting.columns:
        others = [(SHARE, NEW, counted.new[1])] if counted.new else []
        found.append(compare(counted.counts, counted.bins, others, counted.column.grows))
    return found


def judged(
    tables: Sequence[tuple[str, str, Counting, Mapping[str, Matters]]], spans: Sequence[Spans], rate: float
) -> list[Verdict]:
    """Judge every column of all tables: title, noun, counts and what matters. The chance that any is an alarm where
    nothing drifted is ``rate`` at most."""
    verdicts, matters = [], []
    for (title, noun, counting, declared), span in zip(tables, spans, strict=True):
        for counted, result in zip(counting.columns, results_of(counting), strict=True):
            verdicts.append(Verdict(title, counted, result, STEADY, counting.entities, span, noun=noun))
            matters.append(declared.get(counted.column.name, Matters()))
    alarms = holm([_of_known(verdict) for verdict in verdicts], rate)
    return [
        _judge(verdict, alarm, least, rate) for verdict, alarm, least in zip(verdicts, alarms, matters, strict=True)
    ]


def _of_known(verdict: Verdict) -> float:
    """The chance of a false alarm; 1 of a column that was not there before."""
    return 1.0 if _appeared(verdict.counted) else verdict.tested.chance


def _appeared(counted: Counted) -> bool:
    known = ~counted.bins.special.get(NULL, np.zeros(len(counted.bins.values), bool))
    return not counted.counts.reference[:, known].any() and bool(counted.counts.current[:, known].any())


def _judge(verdict: Verdict, alarm: bool, matters: Matters, rate: float) -> Verdict:
    if _appeared(verdict.counted):
        return replace(verdict, status=APPEARED)
    if not alarm:
        return verdict
    parts = _plainest_first(verdict.tested.parts, rate)
    for part in parts:
        if part is parts[0] or part.chance / part.weight <= rate:
            effect, in_rows = _effect(verdict, part)
            least = matters.share if in_rows else matters.least(verdict.tested.mean.reference)
            if abs(effect.difference) >= least:
                return replace(verdict, status=DRIFT, moved=_moved(verdict, part, effect, in_rows))
    return replace(verdict, status=SMALL)


def _plainest_first(parts: Sequence[Part], rate: float) -> list[Part]:
    """The strongest test first; but where all values moved, that says more than that those of one end did."""
    ordered = sorted(parts, key=lambda part: part.chance / part.weight)
    located = any(part.kind == LOCATION and part.chance / part.weight <= rate for part in parts)
    return sorted(ordered, key=lambda part: located and part.kind == TAILS)


def _effect(verdict: Verdict, part: Part) -> tuple[Effect, bool]:
    """By how much a test moved, and whether that is a share of rows."""
    found, counted = verdict.tested, verdict.counted
    if part.kind == SHARE or counted.labels is not None:
        if part.what in found.shares:
            return found.shares[part.what], True
        _, reference, current = _largest_group(counted)
        return Effect(reference, current, float("nan")), True
    if part.kind in (LOCATION, TAILS):
        return found.mean, False
    if part.kind == SPREAD:
        return found.spread, False
    return max(found.mean, found.spread, key=lambda effect: abs(effect.difference)), False


def _largest_group(counted: Counted) -> tuple[int, float, float]:
    """The bin of a category, or the first of a decile's, that changed the most, and the shares of its group."""
    groups = _groups(counted)
    shares = [window.sum(axis=0) @ np.nan_to_num(groups) for window in counted.counts[:2]]
    reference, current = (part / max(part.sum(), 1) for part in shares)
    largest = int(np.argmax(np.abs(current - reference)))
    return largest, float(reference[largest]), float(current[largest])


def _groups(counted: Counted) -> np.ndarray:
    if counted.labels is not None:  # what is new, the last one, is among the others
        return np.vstack([np.eye(len(counted.labels) - 1), np.eye(len(counted.labels) - 1)[-1]])
    groups = groups_of(counted.counts, counted.bins)
    return counted.bins.ordered[:, None].astype(float) if groups is None else groups


MOST_SHOWN = 10


def groups(counted: Counted) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Names of the groups of values, and the shares of rows of each in the reference and in the current window."""
    masks = np.nan_to_num(_groups(counted)) if counted.labels is None else np.eye(len(counted.labels))
    reference, current = (
        part / max(part.sum(), 1) for part in (window.sum(axis=0) @ masks for window in counted.counts[:2])
    )
    if counted.labels is None:
        names = [f"{counted.bins.values[masks[:, group] == 1].mean():.3g}" for group in range(masks.shape[1])]
        return names or [""], reference, current
    there = max(1, np.count_nonzero(reference + current))
    most = np.argsort(-(reference + current), kind="stable")[: min(there, MOST_SHOWN)]
    return [counted.labels[place] for place in most], reference[most], current[most]


def _moved(verdict: Verdict, part: Part, effect: Effect, in_rows: bool) -> Moved:
    counted = verdict.counted
    scores = scores_of(counted, part)
    paired, shown = counted.counts.paired, scores_in_unit(counted, part)
    old, new = _among(counted, shown, paired), _among(counted, shown, ~paired)
    day = since(counted, scores, verdict.spans.days)
    gained = _gained(counted, part, effect)
    return Moved(part, effect, in_rows, day, _group(counted), _weekday(verdict, scores), old, new, gained)


def scores_of(counted: Counted, part: Part) -> np.ndarray:
    """The score of each bin whose mean by day shows the change; NaN of bins that don't count."""
    bins, number = counted.bins, counted.labels is None
    if part.kind == SHARE and part.what in bins.special:
        return bins.special[part.what].astype(float)
    if number and part.kind == LOCATION:
        return mid_ranks(counted.counts, bins)
    if number and part.kind == SPREAD:
        return (2 * mid_ranks(counted.counts, bins) - 1) ** 2
    if number and part.kind == TAILS:
        return tail_scores(counted.counts, bins)[part.what]
    largest, _, _ = _largest_group(counted)
    return _groups(counted)[:, largest]


def scores_in_unit(counted: Counted, part: Part) -> np.ndarray:
    if counted.labels is None and part.kind in (LOCATION, TAILS, SPREAD, SHARES):
        return counted.bins.values
    return scores_of(counted, part)


def _among(counted: Counted, scores: np.ndarray, mask: np.ndarray) -> Effect | None:
    """The means of a score among some units, of the reference and of the current window."""
    known = ~np.isnan(scores)
    parts = [window[mask].sum(axis=0)[known].astype(float) for window in counted.counts[:2]]
    if not all(part.sum() for part in parts):
        return None
    return Effect(*(float(part @ scores[known] / part.sum()) for part in parts), float("nan"))


def by_day(counted: Counted, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of a score by day, NaN of a day without rows, and the rows."""
    known = ~np.isnan(scores)
    rows = counted.by_day[:, known].sum(axis=1).astype(float)
    with np.errstate(invalid="ignore"):
        return counted.by_day[:, known] @ scores[known] / np.where(rows > 0, rows, np.nan), rows


def since(counted: Counted, scores: np.ndarray, days: Sequence[date]) -> date:
    """The first day after the change: the day that divides all days into the two most unlike parts."""
    means, rows = by_day(counted, scores)
    totals_of = np.nan_to_num(means) * rows
    before, count = np.cumsum(totals_of)[:-1], np.cumsum(rows)[:-1]
    after, left = totals_of.sum() - before, rows.sum() - count
    with np.errstate(invalid="ignore", divide="ignore"):
        apart = (after / left - before / count) ** 2 * count * left / rows.sum()
    found = int(np.argmax(np.nan_to_num(apart, posinf=0.0))) + 1
    following = np.flatnonzero(rows[found:] > 0)
    return days[found + (int(following[0]) if len(following) else 0)]


def _group(counted: Counted) -> str:
    largest, reference, current = _largest_group(counted)
    change = f"{reference:.2%} -> {current:.2%} of rows"
    if counted.labels is not None:
        return f"{counted.labels[largest]!r}: {change}"
    groups = _groups(counted)
    if groups.shape[1] < 2:
        return ""
    values = counted.bins.values[groups[:, largest] == 1]
    which = f"{_ordinal(largest + 1)} of {groups.shape[1]} parts of the reference"
    if groups.shape[1] == 10:
        which = f"{_ordinal(largest + 1)} decile"
    return f"{which} (about {values.min():.6g} to {values.max():.6g}): {change}"


def _gained(counted: Counted, part: Part, effect: Effect) -> Gained:
    bins = counted.bins
    if part.kind == SHARE and part.what == NEW:
        return Gained(category=counted.new[0])
    if part.kind == SHARE and part.what in bins.special:
        if effect.difference <= 0:
            return Gained()
        if part.what == NULL:
            return Gained(nulls=True)
        low, high = bins.fences
        known = {
            ZERO: ((0.0, 0.0),),
            NEGATIVE: ((-np.inf, -5e-324),),
            INFINITE: ((-np.inf, -LARGEST), (LARGEST, np.inf)),
            EXTREME: ((-np.inf, low), (high, np.inf)),
        }
        value = float(bins.values[bins.special[part.what]].max())
        near = abs(value) * 1e-9  # it is a mean of many of them
        return Gained(known.get(part.what, ((value - near, value + near),)))
    largest, reference, current = _largest_group(counted)
    if current <= reference:
        return Gained()
    if counted.labels is not None:
        known = 0 < largest < len(counted.labels) - 2
        return Gained(category=counted.labels[largest] if known else None, nulls=not largest)
    groups = _groups(counted)
    inside = bins.values[groups[:, largest] == 1] if groups.shape[1] > 1 else np.zeros(0)
    return Gained(((float(inside.min()), float(inside.max())),) if len(inside) else ())


def _ordinal(number: int) -> str:
    return f"{number}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(number, 'th') }"


def _weekday(verdict: Verdict, scores: np.ndarray) -> str:
    """The weekday on which most of the change is, if it is on one."""
    means, rows = by_day(verdict.counted, scores)
    weekdays = np.array([day.weekday() for day in verdict.spans.days])
    current = np.array([day >= verdict.spans.current.first for day in verdict.spans.days])
    amounts = np.zeros(7)
    for weekday in range(7):
        parts = []
        for mask in (~current, current):
            some = mask & (weekdays == weekday) & (rows > 0)
            if not some.any():
                return ""
            parts.append((np.average(means[some], weights=rows[some]), rows[some].sum()))
        amounts[weekday] = abs(parts[1][0] - parts[0][0]) * parts[1][1]
    most = int(np.argmax(amounts))
    return WEEKDAYS[most] if amounts.sum() and amounts[most] >= ONE_WEEKDAY * amounts.sum() else ""


def fewest(counting: Counting, rate: float) -> int:
    """Of how many entities an alarm is possible: if all of them moved alike, and the tests with half of the weight show
    it, chance alone has done as much more rarely than at ``rate``, over all columns."""
    return max(FEWEST_UNITS, math.ceil(1 + math.log2(2 * MARGIN * len(counting.columns) / rate)))
