"""What any features of any rows are worth, worked out in the plainest way; and declarations and rows, drawn at random.

What `aggregate` computes is compared with `expected`, value by value and bit by bit. It is no part of the product, and
shares nothing with it but how a feature is declared.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, NamedTuple

import pyarrow as pa
from hypothesis import strategies as st

from parity.definition.functions import FUNCTIONS
from parity.definition.keys import KEY_TYPES, key_schema
from parity.definition.table import Definition, Rule

T = datetime(2026, 3, 8, 12, tzinfo=UTC)
DAYS_3 = timedelta(days=3)
MICROSECOND = timedelta(microseconds=1)


class Row(NamedTuple):
    """A transaction: its key, its instant, and its values by the name of the column."""

    key: tuple
    time: datetime
    values: dict[str, Any]


class Beyond(Exception):
    """A result is larger than its type."""


def declared(rules: Sequence[Rule], keys: dict[str, pa.DataType] | None = None, continuous: bool = False) -> Definition:
    schema = key_schema(keys or {"user_id": pa.int64()})
    return Definition("view", schema, "event_timestamp", tuple(rules), continuous=continuous)


MEAN_AND_COUNT = declared([Rule("mean", "mean", "a", DAYS_3), Rule("count", "count", "a", None)])


def purchases(bought: Iterable[tuple[timedelta, float]]) -> list[Row]:
    """Rows of user 1, each this long before `T`, with this ``a``."""
    return [Row((1,), T - age, {"a": amount}) for age, amount in bought]


def table(rows: Iterable[Row], definition: Definition) -> pa.Table:
    rows, schema = list(rows), definition.transactions
    keys = [[row.key[i] for row in rows] for i in range(len(definition.keys))]
    columns = [*keys, [row.time for row in rows], *([row.values[name] for row in rows] for name in definition.columns)]
    return pa.table([pa.array(c, field.type) for c, field in zip(columns, schema, strict=True)], schema)


def bits(history: pa.Table) -> list[tuple]:
    """The rows of a table of features, so that they are equal where all bits are: a float is not its own negative."""
    rows = zip(*(column.to_pylist() for column in history.columns), strict=True)
    return [tuple(value.hex() if isinstance(value, float) else value for value in row) for row in rows]


def expected(rows: Sequence[Row], definition: Definition, at_last: bool = False) -> list[tuple]:
    """The `bits` of the features of ``rows``, or of those at the last moment only. `Beyond` if one has no value."""
    found, of_key = [], {}
    for row in rows:
        of_key.setdefault(row.key, []).append(row)
    moments = {(row.key, moment) for row in rows for moment in moments_of(row, definition)}
    for key, time in sorted(moments)[-1 if at_last else 0 :]:
        values = [evaluate(rule, of_key[key], time) for rule in definition.rules]
        found.append((*key, time, *(value.hex() if isinstance(value, float) else value for value in values)))
    return found


def moments_of(row: Row, definition: Definition) -> Iterator[datetime]:
    """The instant of a row, and those at which it leaves a window, if anyone lives to see it."""
    yield row.time
    for rule in definition.rules:
        if definition.continuous and rule.time_window is not None:
            left = datetime.max.replace(tzinfo=UTC) - row.time
            if rule.time_window < left:
                yield row.time + rule.time_window + MICROSECOND


def evaluate(rule: Rule, rows: Iterable[Row], instant: datetime) -> Any:
    window = [
        (row.time, row.values[rule.column])
        for row in rows
        if row.time <= instant and (rule.time_window is None or instant - row.time <= rule.time_window)
    ]
    values = [value + 0.0 if isinstance(value, float) else value for _, value in window]
    if not values:
        nothing = {"count": 0, "count_distinct": 0, "sum": 0 if rule.column in "bc" else 0.0}
        return nothing.get(rule.function)
    numbers = [Fraction(Decimal(repr(value))) for value in values] if not isinstance(values[0], str) else []
    match rule.function:
        case "count":
            return len(values)
        case "count_distinct":
            return len(set(values))
        case "min":
            return min(values)
        case "max":
            return max(values)
        case "first":
            earliest = min(time for time, _ in window)
            return min(value for value, (time, _) in zip(values, window, strict=True) if time == earliest)
        case "last":
            latest = max(time for time, _ in window)
            return max(value for value, (time, _) in zip(values, window, strict=True) if time == latest)
        case "sum":
            return whole(sum(values)) if isinstance(values[0], int) else nearest(sum(numbers))
        case "mean":
            return nearest(sum(numbers) / len(numbers))
        case "var" | "std" if len(numbers) < 2:
            return None
        case "var" | "std":
            mean = sum(numbers) / len(numbers)
            variance = nearest(sum((number - mean) ** 2 for number in numbers) / (len(numbers) - 1))
            return variance if rule.function == "var" else math.sqrt(variance)


def whole(number: int) -> int:
    if not -(2**63) <= number < 2**63:
        raise Beyond
    return number


def nearest(number: Fraction) -> float:
    """The nearest float64; zero is 0.0."""
    try:
        return number.numerator / number.denominator + 0.0
    except OverflowError:
        raise Beyond from None


# What is drawn

TYPES = {"a": pa.float64(), "b": pa.int32(), "c": pa.int64(), "d": pa.string()}
WINDOWS = [None, MICROSECOND, timedelta(hours=1), DAYS_3, timedelta(days=90), timedelta(days=400), timedelta.max]
KEYS = {
    "INT32": [0, 7, -(2**31), 2**31 - 1],
    "INT64": [0, 1, -7, 2**63 - 1, -(2**63)],
    "STRING": ["", "7", "007", "é", "\ud7ff", "\U00010000", "a\x00", "a"],
    "BOOL": [False, True],
    "BYTES": [b"", b"\x00", b"\xff", b"7"],
    "UNIX_TIMESTAMP": [T, datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)],
}
cents = st.integers(-(10**5), 10**5).map(lambda n: n / 100) | st.integers(-(10**15), 10**15).map(lambda n: n / 100)
VALUES = {
    "a": cents
    | st.sampled_from(
        [0.0, -0.0, 0.1, 0.2, 0.3, 5e-324, -5e-324, 1e15, 1e15 + 0.125, 0.0125, 1.000001, 1e-9, 1e308, -1e308]
    )
    | st.floats(allow_nan=False, allow_infinity=False),
    "b": st.integers(-5, 5) | st.integers(-(2**31), 2**31 - 1) | st.sampled_from([-(2**31), 2**31 - 1]),
    "c": st.integers(-5, 5) | st.integers(-(2**63), 2**63 - 1) | st.sampled_from([-(2**63), 2**63 - 1, 2**53 + 1]),
    "d": st.sampled_from(["", "a", "A", "aa", "é", "e\u0301", "\ud7ff", "\U00010000", "a\x00"]) | st.text(max_size=3),
}
steps = st.sampled_from(
    [timedelta(0), MICROSECOND, timedelta(hours=1), DAYS_3, DAYS_3 - MICROSECOND, DAYS_3 + MICROSECOND]
)
instants = st.lists(steps, max_size=4).map(lambda ages: T - sum(ages, timedelta(0))) | st.sampled_from(
    [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
)


@st.composite
def rules(draw) -> list[Rule]:
    """Some features, of any functions of any columns over any windows."""
    choices = [(f, c) for f, function in FUNCTIONS.items() for c, type in TYPES.items() if type in function.takes]
    drawn = draw(st.lists(st.tuples(st.sampled_from(choices), st.sampled_from(WINDOWS)), min_size=1, max_size=6))
    return [Rule(f"f{i}", f, column, window, TYPES[column]) for i, ((f, column), window) in enumerate(drawn)]


@st.composite
def definitions(draw, continuous: bool = False) -> Definition:
    types = draw(st.lists(st.sampled_from(sorted(KEYS)), min_size=1, max_size=3))
    return declared(draw(rules()), {f"key_{i}": KEY_TYPES[type] for i, type in enumerate(types)}, continuous)


@st.composite
def rows_of(draw, definition: Definition, most: int = 25) -> list[Row]:
    """Some rows, many at one instant, at the edge of a window or with one value; all are of few keys."""
    names = {type: name for name, type in KEY_TYPES.items()}
    keys = st.tuples(*(st.sampled_from(KEYS[names[field.type]]) for field in definition.keys))
    some = st.sampled_from(draw(st.lists(keys, min_size=1, max_size=4)))
    values = {}
    for name in definition.columns:
        repeated = draw(st.lists(VALUES[name], min_size=1, max_size=3))
        values[name] = st.sampled_from(repeated) if draw(st.booleans()) else VALUES[name]
    row = st.builds(Row, some, instants, st.fixed_dictionaries(values))
    return draw(st.lists(row, min_size=1, max_size=most))


cases = definitions().flatmap(lambda definition: st.tuples(st.just(definition), rows_of(definition)))
"""A declaration, and rows for it."""
sliding_cases = definitions(continuous=True).flatmap(
    lambda definition: st.tuples(st.just(definition), rows_of(definition, most=12))
)
"""The same of windows that slide between the rows."""
any_cases = cases | sliding_cases
