"""What must hold of features by what they are, without being declared: it follows from the aggregations.

A count without a window rises by row, a mean lies between the smallest and the largest value of its window, a window
has no fewer rows than a shorter one. Some of it takes a column that is no feature, such as by how much a count has
risen since the row before; those are SQL over the feature table, whose rows of a key are the window ``by_key``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import pyarrow as pa

from parity.definition.expectations import Expectation
from parity.definition.functions import NUMBERS
from parity.definition.table import Definition, Rule
from parity.quality.day import quoted

BETWEEN, AT_LEAST = "expect_column_values_to_be_between", "expect_column_pair_values_a_to_be_greater_than_b"
NOT_NULL, UNIQUE = "expect_column_values_to_not_be_null", "expect_compound_columns_to_be_unique"
NOT_NEGATIVE = ("count", "count_distinct", "var", "std")
INSIDE = ("mean", "first", "last")
"""Functions whose results lie between the smallest and the largest value of their window."""
RISING, FALLING = ("count", "count_distinct", "max"), ("min",)
"""Functions whose results only rise, or only fall, with the rows that they are of."""


@dataclass
class ByDefinition:
    """Expectations of a feature table, and the columns that they take beside it."""

    expectations: list[Expectation] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    """SQL by name. Beside the rows of features may be others, in which all features are null."""
    windows: dict[tuple[str, int | None], tuple[str, str]] = field(default_factory=dict)
    """What the smallest and the largest value of a column of the transactions in a window (microseconds) are called."""


def by_definition(definition: Definition, declared: Sequence[Expectation] = ()) -> ByDefinition:
    """What follows from the aggregations of a view, and from what is ``declared`` of its transactions."""
    found = ByDefinition()
    keys = definition.keys.names
    found.expectations.append(Expectation(UNIQUE, column_list=[*keys, definition.event]))
    found.expectations += [
        Expectation(NOT_NULL, column=field.name) for field in definition.schema if not field.nullable
    ]
    ranges = dict(_ranges(declared))
    for rule in definition.rules:
        if bounds := _bounds(rule, definition, ranges):
            found.expectations.append(Expectation(BETWEEN, column=rule.name, **bounds))
    for larger, smaller in _pairs(definition, ranges):
        found.expectations.append(_at_least(larger, smaller))
    _add_windows(found, definition)
    _add_steps(found, definition, ranges)
    return found


def _at_least(larger: str, smaller: str) -> Expectation:
    return Expectation(
        AT_LEAST, column_A=larger, column_B=smaller, or_equal=True, ignore_row_if="either_value_is_missing"
    )


def _ranges(declared: Sequence[Expectation]) -> Iterator[tuple[str, tuple[float | None, float | None]]]:
    """The range of each column of which every value is declared to be in one."""
    for one in declared:
        allowed = {"column", "min_value", "max_value"}
        bounds = one.arguments.get("min_value"), one.arguments.get("max_value")
        numbers = all(bound is None or type(bound) in (int, float) for bound in bounds)
        if one.type == BETWEEN and one.arguments.keys() <= allowed and one.severity == "critical" and numbers:
            yield one.arguments["column"], bounds


def _bounds(rule: Rule, definition: Definition, ranges: Mapping) -> dict[str, float]:
    """The least and the most that a feature can be."""
    low, high = ranges.get(rule.column, (None, None))
    if rule.function in NOT_NEGATIVE:
        is_count = rule.function in ("count", "count_distinct")
        empties = definition.continuous and rule.window is not None
        return {"min_value": 1 if is_count and not empties else 0}
    if rule.function == "sum":
        return {"min_value": 0} if low is not None and low >= 0 else {}
    if rule.column_type not in NUMBERS:
        return {}
    return {name: bound for name, bound in (("min_value", low), ("max_value", high)) if bound is not None}


def _pairs(definition: Definition, ranges: Mapping) -> Iterator[tuple[str, str]]:
    """Two features of which the first is never smaller than the second."""
    rules = definition.rules
    of_numbers = [rule for rule in rules if rule.column_type in NUMBERS]
    for one in rules:
        for other in rules:
            if one.window == other.window and (one.function, other.function) == ("count", "count_distinct"):
                yield one.name, other.name
    for one in of_numbers:
        for other in of_numbers:
            if (one.column, one.window) == (other.column, other.window):
                if one.function == "max" and other.function in ("min", *INSIDE):
                    yield one.name, other.name
                if other.function == "min" and one.function in INSIDE:
                    yield one.name, other.name
    for longer, shorter in _nested(definition):
        if _rises(longer, ranges):
            yield longer.name, shorter.name
        elif longer.function in FALLING:
            yield shorter.name, longer.name


def _rises(rule: Rule, ranges: Mapping) -> bool:
    """Whether a feature only rises with the rows that it is of, as a sum does of what is never negative."""
    low = ranges.get(rule.column, (None, None))[0]
    return rule.function in RISING or (rule.function == "sum" and low is not None and low >= 0)


def _nested(definition: Definition) -> Iterator[tuple[Rule, Rule]]:
    """Two features of which the first is the same as the second, in the next longer window."""
    alike: dict[tuple, list[Rule]] = {}
    for rule in definition.rules:
        if rule.function == "count":
            alike.setdefault(("count",), []).append(rule)  # which counts rows, whatever their column
        elif rule.column_type in NUMBERS or rule.function == "count_distinct":
            alike.setdefault((rule.function, rule.column), []).append(rule)
    for rules in alike.values():
        ordered = sorted(rules, key=lambda rule: float("inf") if rule.window is None else rule.window)
        for shorter, longer in pairwise(ordered):
            yield longer, shorter


def _add_windows(found: ByDefinition, definition: Definition) -> None:
    """Hold what lies inside of a window to its smallest and largest transaction."""
    for rule in definition.rules:
        if rule.function in INSIDE and rule.column_type in NUMBERS:
            span = str(rule.time_window).removesuffix(", 0:00:00")
            of = rule.column if rule.time_window is None else f"{rule.column} in {span}"
            window = found.windows.setdefault((rule.column, rule.window), (f":smallest {of}", f":largest {of}"))
            smallest, largest = window
            found.expectations += [_at_least(rule.name, smallest), _at_least(largest, rule.name)]


def _add_steps(found: ByDefinition, definition: Definition, ranges: Mapping) -> None:
    """Hold features without a window to how they go on from one row of a key to the next."""
    for rule in definition.unwindowed:
        name, type = quoted(rule.name), rule.type
        is_number = pa.types.is_integer(type) or pa.types.is_floating(type)
        if is_number and _rises(rule, ranges):
            step = f":rise of {rule.name} by row"
            least = 1 if rule.function == "count" and not definition.continuous else 0
            found.columns[step] = f"{name} - lag({name} IGNORE NULLS) OVER by_key"
            found.expectations.append(Expectation(BETWEEN, column=step, min_value=least))
        elif is_number and rule.function in FALLING:
            step = f":fall of {rule.name} by row"
            found.columns[step] = f"lag({name} IGNORE NULLS) OVER by_key - {name}"
            found.expectations.append(Expectation(BETWEEN, column=step, min_value=0))
        elif rule.function == "first":
            step = f":{rule.name} is as in the row before"
            found.columns[step] = f"{name} IS NOT DISTINCT FROM coalesce(lag({name} IGNORE NULLS) OVER by_key, {name})"
            found.expectations.append(Expectation("expect_column_values_to_be_in_set", column=step, value_set=[True]))
