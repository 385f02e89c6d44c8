"""The oracle: what a feature is worth, worked out the slow way from the raw transactions, to check everything else.

It shares nothing with the code that it checks: it computes with exact fractions and Python's own calendar, of what
`parity.proof.raw` has read. What it knows of the features it reads in their declaration, a `Rule`.

Where windows slide, a value is worked out at the very instant that is asked for, and not at the last one before it at
which something changed. ``slides`` are then the lengths of the windows of all features, and else nothing: see
`slides_of`.
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pyarrow as pa

from parity.definition.instants import LAST_INSTANT, MICROSECOND
from parity.definition.table import Definition, Rule
from parity.edge.errors import UserError
from parity.proof.raw import Purchase

LEAST_INT64, LARGEST_INT64 = -(2**63), 2**63 - 1
EXACT = ("sum", "mean", "var", "std")
"""Functions that are worked out with exact numbers."""


def slides_of(definition: Definition) -> frozenset[timedelta]:
    """How long the windows are that slide on between purchases: none if the table is not continuous."""
    lengths = {rule.time_window for rule in definition.rules if rule.time_window is not None}
    return frozenset(lengths if definition.continuous else ())


def moments(purchases: Iterable[Purchase], slides: Collection[timedelta] = ()) -> list[datetime]:
    """The instants, ascending, at which the offline table has a row of one key: those of its ``purchases``, and those
    at which one has just left a window, up to the end of the calendar."""
    times = {purchase.time for purchase in purchases}
    left = {time + slide + MICROSECOND for time in times for slide in slides if LAST_INSTANT - time > slide}
    return sorted(times | left)


def evaluate(rule: Rule, purchases: Iterable[Purchase], instant: datetime) -> Any:
    """Work out ``rule`` for one key at ``instant``, by looking at each purchase. Of nothing, counts and sums are 0, and
    all else is null.

    Raises `UserError` for a result that its type does not hold.
    """
    inside = sorted(
        (purchase for purchase in purchases if purchase.time <= instant and is_inside(rule, purchase, instant)),
        key=lambda purchase: purchase.time,
    )
    values = [purchase.values[rule.column] for purchase in inside]
    if rule.function == "count":
        return len(values)
    if rule.function in EXACT:
        return _of_numbers(rule, instant, [_exact(value) for value in values])
    values = [_value(rule, value) for value in values]
    if rule.function == "count_distinct":
        return len(set(values))
    if rule.function in ("first", "last"):
        ends = {purchase.time for purchase in inside}
        end = (min if rule.function == "first" else max)(ends, default=None)
        values = [value for purchase, value in zip(inside, values, strict=True) if purchase.time == end]
    if rule.function in ("min", "first"):
        return min(values, default=None)
    if rule.function in ("max", "last"):
        return max(values, default=None)
    raise _unknown(rule)


def _of_numbers(rule: Rule, instant: datetime, numbers: list[Fraction]) -> float | int | None:
    count, total = len(numbers), sum(numbers, Fraction(0))
    if rule.function == "sum":
        return _whole(rule, instant, total) if rule.type == pa.int64() else _nearest(rule, instant, *_ratio(total))
    if rule.function == "mean":
        return _nearest(rule, instant, *_ratio(total / count)) if count else None
    if count < 2:
        return None
    squares = sum((number - total / count) ** 2 for number in numbers)
    variance = _nearest(rule, instant, *_ratio(squares / (count - 1)))
    return variance if rule.function == "var" else math.sqrt(variance)


def evaluate_each(
    rule: Rule, purchases: Iterable[Purchase], slides: Collection[timedelta] = ()
) -> list[tuple[datetime, Any]]:
    """Work out what `evaluate` gives at each of the `moments` of one key's purchases, in their order: (instant, value).

    Goes through the sorted purchases once: each enters the window and leaves it.
    """
    known = sorted(purchases, key=lambda purchase: purchase.time)
    if rule.function == "count":
        window: _Window = _Count(rule, [])
    elif rule.function in EXACT:
        window = _Sums(rule, [purchase.values[rule.column] for purchase in known])
    elif rule.function in _WINDOWS:
        window = _WINDOWS[rule.function](rule, [_value(rule, purchase.values[rule.column]) for purchase in known])
    else:
        raise _unknown(rule)
    found = []
    start = end = 0
    times, length = [purchase.time for purchase in known], rule.time_window
    for instant in moments(known, slides):
        before = end
        while end < len(known) and times[end] == instant:
            end += 1
        if end > before:
            window.enter(before, end)
        left = start
        while start < end and not _within(length, instant - times[start]):
            start += 1
        if start > left:
            window.leave(left, start)
        found.append((instant, window.result(instant, start, end)))
    return found


class _Window:
    """What is in the window that moves over the sorted ``values`` of one key."""

    def __init__(self, rule: Rule, values: Sequence):
        self.rule, self.values = rule, values

    def enter(self, start: int, end: int) -> None:
        """Take up the values from ``start`` to ``end``, which are all of one instant."""

    def leave(self, start: int, end: int) -> None:
        """Give up the values from ``start`` to ``end``, the oldest."""

    def result(self, instant: datetime, start: int, end: int) -> Any:
        """What the function gives of the values from ``start`` to ``end``."""
        raise NotImplementedError


class _Count(_Window):
    def result(self, instant: datetime, start: int, end: int) -> int:
        return end - start


class _Sums(_Window):
    """Sums of whole numbers: the exact values, as so many of a unit that they all are multiples of."""

    def __init__(self, rule: Rule, values: Sequence):
        wholes, self.unit = _whole_numbers(values)
        super().__init__(rule, wholes)
        self.total = self.squares = 0
        self.squared = [whole**2 for whole in wholes] if rule.function in ("var", "std") else []

    def enter(self, start: int, end: int) -> None:
        self.total += sum(self.values[start:end])
        self.squares += sum(self.squared[start:end])

    def leave(self, start: int, end: int) -> None:
        self.total -= sum(self.values[start:end])
        self.squares -= sum(self.squared[start:end])

    def result(self, instant: datetime, start: int, end: int) -> Any:
        rule, count = self.rule, end - start
        if rule.function == "sum":
            whole = rule.type == pa.int64()
            return _whole(rule, instant, self.total) if whole else _nearest(rule, instant, self.total, self.unit)
        if rule.function == "mean":
            return _nearest(rule, instant, self.total, self.unit * count) if count else None
        if count < 2:
            return None
        squares = count * self.squares - self.total**2
        variance = _nearest(rule, instant, squares, self.unit**2 * count * (count - 1))
        return variance if rule.function == "var" else math.sqrt(variance)


class _Extreme(_Window):
    """The values that may yet be the least: each is less than all before it. Of a maximum, greater."""

    def __init__(self, rule: Rule, values: Sequence):
        super().__init__(rule, values)
        self.places: deque[int] = deque()
        self.beats: Callable[[Any, Any], bool] = (
            (lambda a, b: a <= b) if rule.function == "min" else (lambda a, b: a >= b)
        )

    def enter(self, start: int, end: int) -> None:
        for place in range(start, end):
            while self.places and self.beats(self.values[place], self.values[self.places[-1]]):
                self.places.pop()
            self.places.append(place)

    def leave(self, start: int, end: int) -> None:
        while self.places and self.places[0] < end:
            self.places.popleft()

    def result(self, instant: datetime, start: int, end: int) -> Any:
        return self.values[self.places[0]] if self.places else None


class _End(_Window):
    """The least value of the first instant in the window, or the greatest of the last one."""

    def __init__(self, rule: Rule, values: Sequence):
        super().__init__(rule, values)
        self.at: deque[tuple[int, Any]] = deque()
        self.of_instant = min if rule.function == "first" else max

    def enter(self, start: int, end: int) -> None:
        self.at.append((start, self.of_instant(self.values[start:end])))

    def leave(self, start: int, end: int) -> None:
        while self.at and self.at[0][0] < end:
            self.at.popleft()

    def result(self, instant: datetime, start: int, end: int) -> Any:
        return self.at[0 if self.rule.function == "first" else -1][1] if self.at else None


class _Distinct(_Window):
    def __init__(self, rule: Rule, values: Sequence):
        super().__init__(rule, values)
        self.counts: Counter = Counter()

    def enter(self, start: int, end: int) -> None:
        self.counts.update(self.values[start:end])

    def leave(self, start: int, end: int) -> None:
        for value in self.values[start:end]:
            self.counts[value] -= 1
            if not self.counts[value]:
                del self.counts[value]

    def result(self, instant: datetime, start: int, end: int) -> int:
        return len(self.counts)


_WINDOWS = {"min": _Extreme, "max": _Extreme, "first": _End, "last": _End, "count_distinct": _Distinct}


def expected(
    rule: Rule,
    purchases: Sequence[Purchase],
    at: datetime,
    ttl: timedelta | None,
    whose: Callable[[], str] | None = None,
    slides: Collection[timedelta] = (),
) -> Any:
    """Work out what both stores have to answer for one key at the instant ``at``: null if nothing is known, or no
    longer, because the last of its `moments` is more than ``ttl`` ago. A ttl of zero is none, as in Feast. An error
    says what ``whose`` gives, if given."""
    last = last_moment(purchases, at, slides)
    if last is None or is_expired(last, at, ttl):
        return None
    try:
        return evaluate(rule, purchases, at if slides else last)
    except UserError as error:
        raise UserError(str(error) if whose is None else f"{whose()}: {error}") from None


def last_event(purchases: Iterable[Purchase], at: datetime) -> datetime | None:
    """The instant of the last of ``purchases`` up to ``at``."""
    return max((purchase.time for purchase in purchases if purchase.time <= at), default=None)


def last_moment(purchases: Sequence[Purchase], at: datetime, slides: Collection[timedelta] = ()) -> datetime | None:
    """The last of the `moments` up to ``at``."""
    last = last_event(purchases, at)
    left = [p.time + slide + MICROSECOND for slide in slides for p in purchases if at - p.time > slide]
    return max([last, *left]) if left else last


def is_expired(event: datetime, at: datetime, ttl: timedelta | None) -> bool:
    return not _within(ttl or None, at - event)


def is_inside(rule: Rule, purchase: Purchase, instant: datetime) -> bool:
    """Whether the window of ``rule`` at ``instant`` reaches back to a purchase."""
    return _within(rule.time_window, instant - purchase.time)


def _within(limit: timedelta | None, age: timedelta) -> bool:
    return limit is None or age <= limit


def _value(rule: Rule, value: Any) -> Any:
    """A value as a feature has it. Zero has no sign: it is 0.0, never -0.0."""
    return float(value) + 0.0 if rule.column_type == pa.float64() else value


def _exact(value: Any) -> Fraction:
    """A whole number, or the shortest decimal that reads back as the same float64: what features are defined on."""
    return Fraction(value) if isinstance(value, int) else Fraction(Decimal(repr(float(value))))


def _whole_numbers(values: Sequence) -> tuple[list[int], int]:
    """The exact values as whole numbers of one unit, which is 1 / the number that is given with them."""
    if all(type(value) is int for value in values):
        return list(values), 1
    ratios = [Decimal(repr(float(value))).as_integer_ratio() for value in values]
    unit = math.lcm(*{denominator for _, denominator in ratios})
    return [numerator * (unit // denominator) for numerator, denominator in ratios], unit


def _ratio(number: Fraction) -> tuple[int, int]:
    return number.numerator, number.denominator


def _whole(rule: Rule, instant: datetime, total: Fraction | int) -> int:
    if not LEAST_INT64 <= total <= LARGEST_INT64:
        raise UserError(f"{_named(rule, instant)} is beyond what 64 bits hold. Declare {rule.column} Float64.")
    return int(total)


def _nearest(rule: Rule, instant: datetime, numerator: int, denominator: int) -> float:
    """The float64 nearest to a quotient. Zero has no sign: what underflows from below is 0.0, never -0.0."""
    try:
        return numerator / denominator + 0.0
    except OverflowError:
        raise UserError(f"{_named(rule, instant)} is beyond what a float64 holds. Correct the amounts.") from None


def _named(rule: Rule, instant: datetime) -> str:
    return f"{rule.name} at {instant.isoformat()}: the {rule.function} of {rule.column}"


def _unknown(rule: Rule) -> ValueError:
    return ValueError(f"the oracle does not know the function {rule.function!r}")
