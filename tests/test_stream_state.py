"""What is kept of rows that are gone continues every feature exactly, and is read as it was written."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.compute.windows import aggregate, fold
from parity.definition.functions import FUNCTIONS
from parity.definition.table import Rule
from parity.edge.errors import UserError
from parity.stream.state import (
    BEGINNING,
    NOWHERE,
    OWNER,
    PARTITION,
    States,
    decode,
    encode,
    kept_schema,
    read_applied,
    row_schema,
    write_applied,
)
from tests.brute_force import (
    DAYS_3,
    MICROSECOND,
    TYPES,
    Row,
    T,
    bits,
    declared,
    expected,
    rows_of,
    table,
)

EVER = [
    Rule(f"{function}_{column}", function, column, None, TYPES[column])
    for function in FUNCTIONS
    for column in TYPES
    if TYPES[column] in FUNCTIONS[function].takes
]
"""Every function of every type of column."""
ALL = declared(
    [*EVER, Rule("mean_3d", "mean", "a", DAYS_3), Rule("distinct_1us", "count_distinct", "d", MICROSECOND, pa.string())]
)
COMPOSITE = declared(EVER[::3], {"name": pa.string(), "number": pa.int64(), "flag": pa.bool_()})


def fitting(row: Row) -> Row:
    """The same with values whose squares add up to a float64, and whole numbers that add up to an int64."""
    a, c = row.values.get("a", 0.0), row.values.get("c", 0)
    return row._replace(values=row.values | {"a": a / 1e160 if abs(a) > 1e140 else a, "c": c >> 6})


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([ALL, COMPOSITE]).flatmap(lambda one: st.tuples(st.just(one), rows_of(one))), st.data())
def test_what_is_kept_of_any_past_continues_all_functions_to_the_bits_of_all_rows(case, data):
    definition, rows = case[0], list(map(fitting, case[1]))
    instants = sorted({row.time for row in rows})
    cuts = sorted(data.draw(st.lists(st.sampled_from(instants), max_size=3)))
    right = expected(rows, definition)
    kept, before = definition.state.empty_table(), None
    for cut in cuts:
        leaving = [row for row in rows if row.time < cut and (before is None or row.time >= before)]
        kept, before = fold(table(leaving, definition), kept, definition), cut
    later = [row for row in rows if before is None or row.time >= before]
    found = bits(aggregate(table(later, definition), definition, kept))
    unwindowed = len(definition.keys) + 1 + len(definition.unwindowed)
    assert [row[:unwindowed] for row in found] == [
        row[:unwindowed] for row in right if before is None or row[len(definition.keys)] >= before
    ]
    assert kept.schema == definition.state


AMOUNTS = [0.1, 0.2, 1e300, -1e300, 1e-300, 5e-324, 0.1, 2.0**60, 1 / 3, 0.0, -0.0, 123456789.12]
SQUARES_FIT = [amount if abs(amount) < 1e200 else amount / 1e150 for amount in AMOUNTS]
NOT_SQUARED = [rule for rule in EVER if rule.function not in ("var", "std")]


@pytest.mark.parametrize("split", range(1, len(AMOUNTS)))
@pytest.mark.parametrize(("rules", "amounts"), [(NOT_SQUARED, AMOUNTS), (EVER, SQUARES_FIT)], ids=["1e300", "squares"])
def test_amounts_of_any_size_add_up_across_a_split(rules, amounts, split):
    counts = [2**60, -(2**60), 2**62, 1, 2**60, 7, 7, 0, -1, 2**60, 3, -(2**62)]
    rows = [
        Row((1,), T + i * MICROSECOND, {"a": a, "b": i % 3, "c": c, "d": str(i % 4)})
        for i, (a, c) in enumerate(zip(amounts, counts, strict=True))
    ]
    definition = declared(rules)
    kept = fold(table(rows[:split], definition), definition.state.empty_table(), definition)
    assert bits(aggregate(table(rows[split:], definition), definition, kept)) == expected(rows, definition)[split:]


def test_what_is_kept_does_not_depend_on_how_the_past_was_cut_or_ordered():
    definition = declared(EVER)
    rows = [
        Row((i % 3,), T + i * MICROSECOND, {"a": a, "b": i, "c": 7 * i, "d": str(i % 4)})
        for i, a in enumerate(SQUARES_FIT)
    ]
    nothing = definition.state.empty_table()
    at_once = fold(table(reversed(rows), definition), nothing, definition)
    by_one = nothing
    for row in rows:
        by_one = fold(table([row], definition), by_one, definition)
    assert sorted(by_one.to_pylist(), key=str) == sorted(at_once.to_pylist(), key=str)


def test_a_sum_that_int64_does_not_hold_is_refused_where_it_is_kept():
    definition = declared([Rule("sum", "sum", "c", None, TYPES["c"])])
    rows = [Row((1,), T + timedelta(days=i), {"c": 2**62}) for i in range(2)]
    with pytest.raises(UserError, match="beyond what an int64 holds"):
        fold(table(rows, definition), definition.state.empty_table(), definition)


def test_keys_of_bytes_have_each_a_past_of_their_own():
    definition = declared(EVER[:3], {"k": pa.binary()})
    rows = [
        Row((key,), T + i * MICROSECOND, {"a": 1.0, "b": 1, "c": 1, "d": "x"}) for i, key in enumerate([b"", b"\0"])
    ]
    kept = fold(table(rows, definition), definition.state.empty_table(), definition)
    later = [row._replace(time=row.time + DAYS_3) for row in rows]
    found = bits(aggregate(table(later, definition), definition, kept))
    assert found == [row for row in expected([*rows, *later], definition) if row[1] >= T + DAYS_3]


# Bytes

COLUMNS = [Rule("flags", "count", "e", DAYS_3, pa.bool_()), Rule("greatest", "max", "d", DAYS_3, TYPES["d"])]
STORED = declared([*EVER, *COLUMNS])


@st.composite
def states(draw) -> States:
    """Some entities: with no rows or some, with ids and offsets of first deliveries or none, and what is kept."""
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    owners = np.repeat(np.arange(len(counts)), counts).tolist()
    int64 = st.integers(-(2**63), 2**63 - 1)
    texts = st.text(max_size=3)
    values = {
        pa.float64(): st.floats(allow_nan=False),
        pa.int32(): st.integers(-(2**31), 2**31 - 1),
        pa.int64(): int64,
        pa.string(): texts,
        pa.bool_(): st.booleans(),
        pa.uint16(): st.sampled_from([0, 1, NOWHERE]),
    }
    rows = {OWNER: owners}
    for field in list(row_schema(STORED))[1:]:
        one = values.get(field.type, st.integers(-(10**15), 10**15))
        one = st.none() | texts if field.name == "_id" and draw(st.booleans()) else one
        one = st.none() if field.name == "_id" and draw(st.booleans()) else one
        rows[field.name] = draw(st.lists(one, min_size=len(owners), max_size=len(owners)))
    if draw(st.booleans()):
        rows["_first"] = rows["_offset"]
    kept = {OWNER: sorted(draw(st.sets(st.integers(0, len(counts) - 1))))}
    for field in list(kept_schema(STORED))[1:]:
        one = st.lists(values[field.type.value_type]) if pa.types.is_list(field.type) else values[field.type]
        kept[field.name] = draw(st.lists(one, min_size=len(kept[OWNER]), max_size=len(kept[OWNER])))
    gone = draw(st.lists(st.integers(-1, 2**62), min_size=len(counts), max_size=len(counts)))
    since = draw(st.lists(int64, min_size=len(counts), max_size=len(counts)))
    return States(
        np.array(since, np.int64),
        np.array(gone, np.int64)[:, None],
        pa.table(rows, row_schema(STORED)),
        pa.table(kept, kept_schema(STORED)),
    )


@settings(max_examples=60, deadline=None)
@given(states(), st.data())
def test_states_are_read_as_they_were_written_beside_bytes_that_are_none(drawn, data):
    stored = encode(drawn, STORED)
    place = data.draw(st.integers(0, len(stored[0]) - 1))
    flipped = stored[0][:place] + bytes([stored[0][place] ^ 1]) + stored[0][place + 1 :]
    junk = data.draw(st.sampled_from([None, b"", b"x", stored[0][:-1], stored[0] + b"x", flipped]))
    found, readable = decode([*stored, junk], STORED)
    assert readable.tolist() == [True] * len(stored) + [False]
    assert found.since.tolist() == [*drawn.since.tolist(), BEGINNING]
    assert [max(row, default=-1) for row in found.gone.tolist()] == [*drawn.gone[:, 0].tolist(), -1]
    assert found.rows.equals(drawn.rows)
    assert found.kept.equals(drawn.kept)


@pytest.mark.parametrize("events", [5, 50, 500])
def test_a_user_takes_26_bytes_for_each_event_of_one_amount_in_the_window(events):
    definition = declared(
        [Rule("mean", "mean", "a", DAYS_3), Rule("n", "count", "a", None), Rule("sum", "sum", "a", None)]
    )
    one = {"a": 1.0, "timestamp": T, OWNER: 0, "_offset": 2**40, "_first": 2**40, PARTITION: 0, "_id": None}
    rows = pa.Table.from_pylist([one] * events, row_schema(definition))
    kept = pa.Table.from_pylist([{OWNER: 0, "n": 1000, "sum": "1000 123456 0 2"}], kept_schema(definition))
    [stored] = encode(States(np.zeros(1, np.int64), np.full((1, 1), 2**40), rows, kept), definition)
    assert len(stored) == 26 * events + 71


def test_what_is_applied_is_text_that_is_read_as_it_was_written():
    marks = {"orders/0": 0, "a=b/c": 2**62, "orders/1": 17}
    text = write_applied("0123456789abcdef", marks)
    assert text.startswith(b"0123456789abcdef orders/0=00000000000000000000 a=b/c=0461")
    assert read_applied(text) == ("0123456789abcdef", marks)
    assert list(read_applied(text)[1]) == list(marks)
    assert read_applied(write_applied("0123456789abcdef", {})) == ("0123456789abcdef", {})
    for other in (b"", b"0123456789abcdef orders", b"0123456789abcdef orders/0=1x", b"\xff"):
        assert read_applied(other) == ("", {})
