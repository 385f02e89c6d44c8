"""A large day asked in parts: Great Expectations holds the rows of a batch several times over.

What is asked of each row by itself is asked of some rows at a time, and counts are added up. Rows that an expectation
holds against each other, as those that have to be unique, come together; a number of a whole column, such as a mean, is
of that column alone, and one that only takes the values that there are, such as a maximum, of those.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pandas as pd

from parity.definition.expectations import OF_TABLE, Expectation
from parity.quality.day import LargeDay, as_frame

UNIQUE = ("expect_column_values_to_be_unique", "expect_compound_columns_to_be_unique")
OF_VALUES = (
    "expect_column_max_to_be_between",
    "expect_column_min_to_be_between",
    "expect_column_unique_value_count_to_be_between",
)
"""What is the same of a column and of its distinct values."""
OF_ROWS = ("expect_table_row_count_to_be_between", "expect_table_row_count_to_equal")
OF_NAMES = (OF_TABLE, "expect_column_to_exist")
IN_ORDER = (
    "expect_column_value_z_scores_to_be_less_than",
    "expect_column_values_to_be_decreasing",
    "expect_column_values_to_be_in_type_list",
    "expect_column_values_to_be_increasing",
    "expect_column_values_to_be_of_type",
    "expect_column_values_to_not_be_outliers",
)
"""Expectations of each row that take the whole column."""


class Question(NamedTuple):
    """Expectations, by their numbers, and what they are asked of, one frame after the other."""

    numbers: list[int]
    frames: Iterable[pd.DataFrame]


def questions(day: LargeDay, expectations: Mapping[int, Expectation]) -> Iterator[Question]:
    """What to ask of a day, each of the ``expectations`` once."""
    by_row = [number for number, one in expectations.items() if _is_by_row(one)]
    if by_row:
        yield Question(by_row, day.frames())
    for number, one in expectations.items():
        if number not in by_row:
            yield Question([number], _frames(day, one))


def _is_by_row(one: Expectation) -> bool:
    return one.is_row_wise and one.type not in (*UNIQUE, *IN_ORDER)


def _frames(day: LargeDay, one: Expectation) -> Iterator[pd.DataFrame]:
    of_some = "row_condition" in one.arguments
    if one.type in UNIQUE:
        yield from day.frames_by(one.columns)
    elif of_some:
        yield day.frame(day.schema.names)
    elif one.type in OF_ROWS:
        yield pd.DataFrame(index=pd.RangeIndex(day.count))
    elif one.type.startswith(OF_NAMES):
        yield as_frame(day.schema.empty_table())
    elif one.type in OF_VALUES:
        yield as_frame(day.distinct(one.columns[:1]))
    else:
        yield day.frame([name for name in one.columns if name in day.schema.names] or day.schema.names)


def added_up(parts: Sequence[Any], mostly: float) -> Any:
    """The result of an expectation of which ``parts`` are results of some of the rows each."""
    raised = [part for part in parts if not part.result]
    if raised or len(parts) == 1:
        return (raised or parts)[0]
    whole, found = parts[0], dict(parts[0].result)
    count, missing, unexpected = (_sum(parts, name) for name in ("element_count", "missing_count", "unexpected_count"))
    present = count - missing
    whole.success = not present or (present - unexpected) / present >= mostly
    shares = {
        "missing_percent": _percent(missing, count),
        "unexpected_percent": _percent(unexpected, present),
        "unexpected_percent_total": _percent(unexpected, count),
        "unexpected_percent_nonmissing": _percent(unexpected, present),
    }
    totals = {"element_count": count, "missing_count": missing, "unexpected_count": unexpected, **shares}
    found |= {name: total for name, total in totals.items() if name in found}
    for rows, values, limit in _LISTS:
        if rows in found:
            found |= _in_order(parts, rows, values, limit)
    found.pop("unexpected_index_query", None)  # which would be of some rows
    if "partial_unexpected_counts" in found:
        found["partial_unexpected_counts"] = _most_common(parts)
    whole.result = found
    return whole


_PARTIAL = 20
_LISTS = (
    ("partial_unexpected_index_list", "partial_unexpected_list", _PARTIAL),
    ("unexpected_index_list", "unexpected_list", None),
)
"""How many rows Great Expectations keeps that are not as expected, and their values."""
_VALUES = 200
"""How many values it keeps of all rows."""


def _in_order(parts: Sequence[Any], rows: str, values: str, limit: int | None) -> dict[str, list]:
    """The rows that are not as expected in the order of the day, and their values."""
    numbers = sorted(row for part in parts for row in part.result[rows])
    pairs = [pair for part in parts for pair in zip(part.result[rows], part.result[values], strict=False)]
    pairs.sort(key=lambda pair: pair[0])
    return {rows: numbers[:limit], values: [value for _, value in pairs[: limit or _VALUES]]}


def _most_common(parts: Sequence[Any]) -> list[dict[str, Any]]:
    """The most common ones of the values that were so in their parts."""
    total: Counter = Counter()
    try:
        for part in parts:
            total.update({one["value"]: one["count"] for one in part.result["partial_unexpected_counts"]})
        ordered = sorted(total.most_common(_PARTIAL), key=lambda pair: (-pair[1], pair[0]))
    except (KeyError, TypeError):  # values that can't be counted, or ordered
        return []
    return [{"value": value, "count": count} for value, count in ordered]


def _sum(parts: Sequence[Any], name: str) -> int:
    return sum(int(part.result.get(name) or 0) for part in parts)


def _percent(count: int, of: int) -> float | None:
    return count / of * 100 if of else None
