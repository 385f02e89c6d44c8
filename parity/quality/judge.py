"""Days held to what is expected of them, one after the other, and what failed, in a line each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from parity.definition.expectations import OF_TABLE, Ago, Expectation, SameWeekday, Usually
from parity.definition.instants import EPOCH
from parity.edge.command import shown
from parity.quality.by_definition import AT_LEAST
from parity.quality.day import Day, LargeDay, as_frame, without_rows
from parity.quality.days import Spool
from parity.quality.gx import Run, Seen, Suite, depends, parameter

EXAMPLES = 3
WEEKS, LEAST_WEEKS = 8, 3
"""How many of the same weekday are looked back on, and how many of them there have to be."""
BY_CHANCE = 1e-4
"""How rarely chance alone may give a count beyond a bound, or as many rows that are not as expected."""
DEVIATIONS, MANY = 4, 30
"""How many times further than those weekdays deviated a count may be from a bound, if it is of so many."""
ROW_COUNT = "expect_table_row_count_"
COUNTS = (ROW_COUNT, "expect_column_unique_value_count_")


@dataclass
class Tally:
    """What an expectation came to over days."""

    expectation: Expectation
    days: int = 0
    failed: list[int] = field(default_factory=list)
    looked_at: int = 0
    """How many values there were on the days that failed."""
    unexpected: int = 0
    examples: list[str] = field(default_factory=list)
    set_aside: dict[int, list[np.ndarray]] = field(default_factory=dict)
    """Rows for the quarantine, by file."""
    whose: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint64))
    """Hashes of the entities whose rows failed, each once, if it was asked whose they are. Of an expectation of a day
    as a whole, those of all that have rows on it."""

    @property
    def severity(self) -> str:
        return self.expectation.severity

    @property
    def expected(self) -> str:
        """The expectation, for people."""
        return _readable(self.expectation)

    @property
    def dates(self) -> list[str]:
        """The days that failed."""
        return list(map(_date, self.failed))

    @property
    def count(self) -> str:
        """How many values, or days, and what share, since when."""
        if self.expectation.is_row_wise:
            count, of = self.unexpected, self.looked_at
            what = "values" if len(self.expectation.columns) == 1 else "rows"
            first = self.dates[0]
            days = f"on {first}" if len(self.failed) == 1 else f"on {len(self.failed)} days, the first {first}"
            return f"{count:,} of {of:,} {what} ({_percent(count, of)}) {days}"
        return f"{len(self.failed):,} of {self.days:,} days ({_percent(len(self.failed), self.days)})"

    def line(self, name: str) -> str:
        """One line: which, of what, how many and what share, since when, three examples."""
        examples = f": {'; '.join(self.examples[:EXAMPLES])}" if self.examples else ""
        return f"{name}: {self.expected}: {self.count}{examples}"


class Judged(NamedTuple):
    """What days came to."""

    name: str
    days: int
    """How many were looked at."""
    rows: int
    tallies: list[Tally]
    passed: dict[int, str]
    """The digest of each day that failed nothing."""
    trouble: tuple[str, ...] = ()
    """What is wrong beside the expectations, a line each."""
    suite: str = ""
    """What the suite is called that they were held to."""

    @property
    def failures(self) -> list[Tally]:
        return [tally for tally in self.tallies if tally.failed and tally.severity == "critical"]

    @property
    def remarks(self) -> list[Tally]:
        return [tally for tally in self.tallies if tally.failed and tally.severity != "critical"]

    def without_quarantine(self) -> Judged:
        """The same, as far as it stays so when the rows for the quarantine are gone."""
        return self._replace(tallies=[tally for tally in self.tallies if not tally.expectation.quarantine])

    @property
    def lines(self) -> list[str]:
        """What failed, a line each."""
        return [f"{self.name}: {reason}" for reason in self.trouble] + [one.line(self.name) for one in self.failures]

    @property
    def is_fine(self) -> bool:
        return not self.failures and not self.trouble


def judge(
    name: str, spool: Spool, suite: Suite, at: datetime, past: Past, whose: Sequence[str] | None = None
) -> Judged:
    """Hold the days of a ``spool`` to a ``suite``, as of the instant ``at``: those that the ``past`` does not know.

    What is observed of each is noted in the ``past``. With the columns of an entity, ``whose``, those whose rows failed
    are noted.
    """
    tallies = [Tally(one) for one in suite.expectations]
    looked_at = rows = 0
    passed: dict[int, str] = {}
    for day, newest in _with_gaps(spool, suite, at):
        digest = day.digest if day.count else ""
        rows += day.count
        if past.passed.get(day.day) == digest and not newest:
            passed[day.day] = digest
            continue
        parameters = _parameters(suite, day, at, past)
        if not day.count and not _asks_of_empty(suite, parameters):
            for one in suite.expectations:
                if one.type.startswith(ROW_COUNT):
                    past.note(day.day, one, 0)
            passed[day.day] = digest
            continue
        looked_at += 1
        seen = suite.validate(day, parameters, Run(_date(day.day), at, newest), in_full=bool(whose))
        for number, found in seen.items():
            past.note(day.day, suite.expectations[number], found.observed)
            _count(tallies[number], day, found, spool)
            if whose and not found.success:
                wrong = found.first if suite.expectations[number].is_row_wise else None
                tallies[number].whose = np.union1d(tallies[number].whose, _entities(day, wrong, whose))
        if all(found.success for found in seen.values()):
            passed[day.day] = digest
    past.passed = passed
    return Judged(name, looked_at, rows, tallies, passed, spool.missing, suite.name)


@dataclass
class Past:
    """What is known of days from before."""

    passed: dict[int, str] = field(default_factory=dict)
    """The digest of each day that failed nothing, to pass over it."""
    observed: dict[str, dict[int, float]] = field(default_factory=dict)
    """What was seen of each day, by the expectation."""

    def note(self, day: int, one: Expectation, observed: Any) -> None:
        if isinstance(observed, int | float | np.number) and math.isfinite(observed) and _looks_back(one):
            self.observed.setdefault(str(one), {})[day] = float(observed)

    def weeks(self, day: int, one: Expectation) -> list[float]:
        """What was seen of the same weekday in the weeks before."""
        seen = self.observed.get(str(one), {})
        return [seen[day - 7 * week] for week in range(1, WEEKS + 1) if day - 7 * week in seen]


def _looks_back(one: Expectation) -> bool:
    return any(isinstance(value, SameWeekday) for value in one.arguments.values())


def _with_gaps(spool: Spool, suite: Suite, at: datetime) -> Iterator[tuple[Day | LargeDay, bool]]:
    """The days, and those without rows between them and up to ``at`` that may be missed; which of them is the newest.

    After a gap of as many weeks as are looked back on, no rows are what is usual.
    """
    today, newest, before = (at - EPOCH) // timedelta(days=1), spool.newest(), None
    looks_back = any(map(_looks_back, suite.expectations))
    for day in spool.days():
        if before is not None and looks_back:
            yield from _gap(before, day.day)
        yield day, day.day == newest
        before = without_rows(day.day, day.schema)
    if before is not None and looks_back:
        yield from _gap(before, today)


def _gap(before: Day, until: int) -> Iterator[tuple[Day, bool]]:
    days = range(before.day + 1, min(until, before.day + 1 + 7 * WEEKS))
    return ((before._replace(day=day), False) for day in days)


def _asks_of_empty(suite: Suite, parameters: Mapping[str, Any]) -> bool:
    """Whether anything can fail on a day without rows: most days of sparse data, which this spares asking of."""
    return any(
        parameters.get(parameter(number, name), value) is not None
        for number, one in enumerate(suite.expectations)
        if one.type.startswith(OF_TABLE)
        for name, value in one.arguments.items()
    )


def _parameters(suite: Suite, day: Day | LargeDay, at: datetime, past: Past) -> dict[str, Any]:
    """What the arguments come to that depend on the day."""
    is_over = day.day < (at - EPOCH) // timedelta(days=1)
    found: dict[str, Any] = {}
    for number, one in enumerate(suite.expectations):
        for name, value in one.arguments.items():
            if not depends(value):
                continue
            match value:
                case SameWeekday(share):
                    weeks = past.weeks(day.day, one)
                    judged = len(weeks) >= LEAST_WEEKS and (is_over or name != "min_value")
                    found[parameter(number, name)] = bound(share, weeks, name, one) if judged else None
                case Usually(share):
                    found[parameter(number, name)] = _mostly(share, _present(day, one.columns))
                case Ago(time):
                    found[parameter(number, name)] = at - time
                case _:
                    found[parameter(number, name)] = value
    return found


def bound(share: float, weeks: Sequence[float], name: str, one: Expectation) -> float:
    """A bound by `same_weekday`, further off for a count by what chance may do.

    A count and those of weeks before are compared by the exact conditional test of two Poisson rates, which holds for
    counts of 0 and of a million. Where counts are many, what those weekdays deviated is a closer bound, as of distinct
    values that are nearly all there every day.
    """
    usual, is_lower = median(weeks), name == "min_value"
    limit = share * usual
    if not one.type.startswith(COUNTS):
        return limit
    by_chance = _least(share, weeks) if is_lower else _most(share, weeks)
    if usual < MANY:
        return by_chance
    slack = DEVIATIONS * (max(abs(week - usual) for week in weeks) + 1)
    return max(by_chance, math.floor(limit - slack)) if is_lower else min(by_chance, math.ceil(limit + slack))


def _least(share: float, weeks: Sequence[float]) -> float:
    """The least count that is no alarm. One week that was out of the ordinary makes it no higher."""
    from scipy.stats import nbinom  # comes with Great Expectations

    seen = math.floor(min(sum(weeks), len(weeks) * median(weeks)))
    return float(nbinom.ppf(BY_CHANCE, seen, len(weeks) / (share + len(weeks)))) if seen and share else 0.0


def _most(share: float, weeks: Sequence[float]) -> float:
    """The largest count that is no alarm. One week that was out of the ordinary makes it no lower."""
    from scipy.stats import nbinom

    seen = math.ceil(max(sum(weeks), len(weeks) * median(weeks)))
    return float(nbinom.isf(BY_CHANCE, seen + 1, len(weeks) / (share + len(weeks))))


def _present(day: Day | LargeDay, columns: Sequence[str]) -> int:
    return day.count - max((day.nulls(name) for name in columns if name in day.schema.names), default=0)


def _mostly(share: float, count: int) -> float:
    """The ``mostly`` of so many values: see `usually`."""
    from scipy.stats import binom  # comes with Great Expectations

    if not count:
        return 0.0
    allowed = float(binom.isf(BY_CHANCE, count, 1 - share))
    return max(0.0, (count - allowed) / count - 1e-9)


def _count(tally: Tally, day: Day | LargeDay, found: Seen, spool: Spool) -> None:
    one = tally.expectation
    tally.days += found.judged
    if found.success:
        return
    tally.failed.append(day.day)
    tally.looked_at += found.looked_at
    tally.unexpected += found.unexpected
    if one.is_row_wise:
        if len(tally.examples) < EXAMPLES:
            examples = day.taken(found.first[:EXAMPLES])
            tally.examples += [_example(one, examples, row, spool) for row in range(examples.count)]
        if one.quarantine and found.first:
            rows = day.taken(found.first)
            for file in np.unique(rows.files):
                tally.set_aside.setdefault(int(file), []).append(rows.places[rows.files == file])
    elif len(tally.examples) < EXAMPLES:
        bounds = [f"{name} {_plain(value)}" for name, value in found.bounds.items() if value is not None]
        limits = f" ({', '.join(bounds)})" if bounds else ""
        tally.examples.append(f"{_plain(found.observed)} on {_date(day.day)}{limits}")


def _entities(day: Day | LargeDay, rows: Sequence[int] | None, keys: Sequence[str]) -> np.ndarray:
    """Hashes of the entities of some rows of a day, or of all. They are the same wherever keys are of these types."""
    found = as_frame((day if rows is None else day.taken(rows)).distinct(keys)).dropna()
    return np.unique(pd.util.hash_pandas_object(found, index=False).to_numpy())


def _example(one: Expectation, day: Day, row: int, spool: Spool) -> str:
    values = {name: day.rows[name][row].as_py() for name in one.columns if name in day.rows.column_names}
    told = _plain(next(iter(values.values()))) if len(values) == 1 else _named(values)
    place = f"{shown(spool.files[day.files[row]])}, row {int(day.places[row]) + 1}"
    if spool.keys:
        keys = {name: day.rows[name][row].as_py() for name in (*spool.keys, spool.instant) if name not in values}
        place = f"{_named(keys)}, {place}" if keys else place
    return f"{told} ({place})"


def _named(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name.removeprefix(':')} {_plain(value)}" for name, value in values.items())


def _readable(one: Expectation) -> str:
    if one.type == AT_LEAST and one.arguments.get("or_equal"):
        larger, smaller = (str(one.arguments[name]).removeprefix(":") for name in ("column_A", "column_B"))
        return f"{one.type}: {larger} >= {smaller}"
    return str(one).replace("':", "'")


def _plain(value: Any) -> str:
    """A value for people."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, str):
        return repr(value[:80])
    return "null" if value is None else f"{value}"[:200]


def _percent(count: int, of: int) -> str:
    return f"{100 * count / of:.3g} %" if of else "0 %"


def _date(day: int) -> str:
    return str(np.datetime64(day, "D"))
