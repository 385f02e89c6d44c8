"""Features of a part of the rows are the bits that all rows together give."""

from dataclasses import replace
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.compute import tail
from parity.compute.tail import aggregate_from, aggregate_sorted, tail_of
from parity.compute.windows import aggregate
from parity.definition.functions import FUNCTIONS
from parity.definition.instants import EPOCH
from parity.definition.table import Rule
from parity.edge.errors import UserError
from tests.brute_force import (
    DAYS_3,
    MEAN_AND_COUNT,
    MICROSECOND,
    TYPES,
    Beyond,
    Row,
    T,
    any_cases,
    bits,
    declared,
    expected,
    moments_of,
    table,
)

CONTINUING = declared(
    [
        Rule(f"{function}_{column}", function, column, None, TYPES[column])
        for function in FUNCTIONS
        for column in "acd"
        if TYPES[column] in FUNCTIONS[function].takes and FUNCTIONS[function].continues(TYPES[column])
    ]
)


def micros(time: datetime) -> int:
    return (time - EPOCH) // MICROSECOND


def sorted_by_key(rows: list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: row[:2])


@settings(max_examples=200, deadline=None)
@given(any_cases, st.data())
def test_sorted_rows_in_parts_of_any_size_give_the_bits_of_all_rows_together(case, data):
    definition, rows = case
    whole = table(sorted_by_key(rows), definition)
    cuts = sorted(data.draw(st.lists(st.integers(0, whole.num_rows), max_size=10)))
    parts = [whole.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, whole.num_rows], strict=True)]
    at_once = data.draw(st.integers(1, 30))
    try:
        right = expected(rows, definition)
    except Beyond:
        with pytest.raises(UserError, match=r" is beyond what an? (float64|int64) holds"):
            list(aggregate_sorted(parts, definition, at_once))
    else:
        assert bits(pa.concat_tables(aggregate_sorted(parts, definition, at_once))) == right


@settings(max_examples=150, deadline=None)
@given(any_cases, st.data())
def test_from_any_instant_on_rows_and_the_tail_before_them_give_the_bits_of_all_rows(case, data):
    definition, rows = case
    try:
        right = expected(rows, definition)
    except Beyond:
        return
    instants = sorted({row.time for row in rows})
    moments = sorted({moment for row in rows for moment in moments_of(row, definition)})
    start, reach = data.draw(st.sampled_from(moments)), definition.reach
    first = data.draw(st.integers(0, len(instants)))
    most = sum(micros(time) < micros(start) - reach for time in instants) if reach is not None else 0
    since = [*instants, start][min(first, most)]
    recent = [row for row in rows if row.time >= since]
    before = [row for row in rows if row.time < since]
    history = aggregate(table(before, definition), definition)
    found = aggregate_from(micros(start), table(recent, definition), tail_of(history, definition), definition)
    assert bits(found) == [row for row in right if row[len(definition.keys)] >= start]


@pytest.mark.parametrize(
    "definition",
    [MEAN_AND_COUNT, CONTINUING, replace(MEAN_AND_COUNT, continuous=True)],
    ids=["windowed", "all that continues", "sliding"],
)
def test_a_key_with_very_many_rows_is_never_held_whole(monkeypatch, definition):
    random = np.random.default_rng(2)
    values = random.integers(-100, 100, 100_000).tolist()
    rows = table(
        [Row((1,), T + timedelta(minutes=i), {"a": v / 7, "c": v, "d": str(v)}) for i, v in enumerate(values)],
        definition,
    )
    most = []

    def watched(rows, *arguments):
        most.append(rows.num_rows)
        return aggregate(rows, *arguments)

    monkeypatch.setattr(tail, "aggregate", watched)
    parts = [rows.slice(start, 1000) for start in range(0, rows.num_rows, 1000)]
    result = pa.concat_tables(aggregate_sorted(parts, definition, 10_000))
    assert max(most) < 20_000  # a window is 4,321 rows
    assert result.equals(aggregate(rows, definition))


def test_a_sum_may_leave_int64_in_a_part_of_the_rows_as_long_as_the_whole_does_not():
    """The first value is no longer there when the others are added: what they come to is only right with it."""
    day = timedelta(days=1)
    definition = declared([Rule("sum", "sum", "c", None, TYPES["c"]), Rule("count", "count", "c", 2 * day, TYPES["c"])])
    values = [-(2**63), 2**62, 2**62, 2**62, 2**61]
    rows = [Row((1,), T + i * day, {"c": value}) for i, value in enumerate(values)]
    parts = [table([row], definition) for row in rows]
    assert bits(pa.concat_tables(aggregate_sorted(parts, definition, 1))) == expected(rows, definition)


def test_a_window_that_is_not_whole_is_not_refused_where_nobody_asks_for_it():
    definition = declared([Rule("sum", "sum", "a", DAYS_3)])
    rows = [Row((1,), T + i * MICROSECOND, {"a": v}) for i, v in enumerate([-1e308, 1e308, 1e308, -1e308])]
    [end] = [row for row in expected(rows, definition) if row[1] == T + 3 * MICROSECOND]
    start = micros(T + 3 * MICROSECOND)
    later = [*rows, Row((1,), T + DAYS_3 + 3 * MICROSECOND, {"a": 1.0})]
    found = aggregate_from(start + 1, table(later[1:], definition), definition.tail.empty_table(), definition)
    assert bits(found) == expected(later, definition)[-1:]
    assert end[-1] == (0.0).hex()


def test_keys_may_come_in_any_order_as_long_as_each_is_together():
    keys = {"name": TYPES["d"], "number": TYPES["c"]}
    definition = declared([Rule("count", "count", "a", None), Rule("max", "max", "a", DAYS_3)], keys)
    rows = [
        Row((name, number), T + i * DAYS_3, {"a": float(i)}) for name in "bac" for number in (9, -1) for i in range(4)
    ]
    parts = [table([row], definition) for row in rows]
    found = bits(pa.concat_tables(aggregate_sorted(parts, definition, 1)))
    assert sorted(found) == expected(rows, definition)
