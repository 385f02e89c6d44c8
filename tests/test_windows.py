"""The windows and their exact arithmetic, against a computation in the plainest way."""

import math
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.compute import exact, timeline, windows
from parity.compute.kernels import KERNELS
from parity.compute.windows import aggregate
from parity.definition.functions import FUNCTIONS
from parity.definition.instants import EPOCH, FIRST_INSTANT, LAST_INSTANT, UTC_MICROSECONDS
from parity.definition.table import Definition, Rule
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
    cases,
    declared,
    evaluate,
    expected,
    moments_of,
    purchases,
    sliding_cases,
    table,
)

NOW = timedelta(0)
COLUMN_OF = {float: "a", int: "c", str: "d"}


def computed(rows: list[Row], definition: Definition = MEAN_AND_COUNT) -> list[tuple]:
    history = aggregate(table(rows, definition), definition)
    assert history.schema.equals(definition.schema)
    return bits(history)


def assert_right(rows: list[Row], definition: Definition) -> None:
    """Assert that the features are, bit for bit, what they are worth, or that one beyond its type is refused."""
    try:
        right = expected(rows, definition)
    except Beyond:
        with pytest.raises(UserError, match=r" is beyond what an? (float64|int64) holds"):
            computed(rows, definition)
    else:
        assert computed(rows, definition) == right


def of_user_1(*bought: tuple[timedelta, float]) -> tuple:
    """The features of one user at T, who bought for these amounts this long before T."""
    history = aggregate(table(purchases(bought), MEAN_AND_COUNT), MEAN_AND_COUNT)
    return tuple(history.select(["mean", "count"]).to_pylist()[-1].values())


def last(function: str, *values, window: timedelta | None = None, apart: timedelta = timedelta(hours=1)) -> object:
    """A feature at the last of as many instants as there are ``values``, of one key, so far ``apart``."""
    column = COLUMN_OF[type(values[0])]
    definition = declared([Rule("feature", function, column, window, TYPES[column])])
    rows = [Row((1,), T + i * apart, {column: value}) for i, value in enumerate(values)]
    return aggregate(table(rows, definition), definition)["feature"].to_pylist()[-1]


def test_every_function_has_a_kernel_and_its_results_or_totals_continue():
    assert KERNELS.keys() == FUNCTIONS.keys()
    for name, function in FUNCTIONS.items():
        for column in function.takes:
            assert function.continues(column) or function.totals(column), (name, column)


@pytest.mark.smoke
def test_a_purchase_exactly_three_days_old_is_in_the_window():
    assert of_user_1((NOW, 10.0), (DAYS_3, 20.0)) == (15.0, 2)


def test_a_purchase_a_microsecond_older_is_not_in_the_window_but_counts():
    assert of_user_1((NOW, 10.0), (DAYS_3 + MICROSECOND, 20.0)) == (10.0, 2)


def test_every_purchase_at_the_same_instant_is_seen():
    assert of_user_1((NOW, 10.0), (NOW, 20.0), (NOW, 60.0)) == (30.0, 3)


def test_later_purchases_and_other_users_are_not_seen():
    rows = [
        Row((user,), T + later, {"a": amount})
        for user, later, amount in [(1, NOW, 10.0), (1, MICROSECOND, 99.0), (2, NOW, 99.0), (0, NOW, 99.0)]
    ]
    assert (1, T, (10.0).hex(), 1) in computed(rows)


def test_the_mean_is_the_correctly_rounded_quotient_of_cents():
    # In binary floating point 0.1 + 0.2 is 0.30000000000000004.
    assert of_user_1((NOW, 0.1), (MICROSECOND, 0.2)) == (0.15, 2)
    assert of_user_1(*[(MICROSECOND * i, 1.1) for i in range(3)]) == (1.1, 3)


def test_amounts_finer_than_cents_count_as_the_decimal_they_are_written_as():
    assert of_user_1((NOW, 0.001), (MICROSECOND, 0.002))[0] == 0.0015
    assert of_user_1((NOW, 1 / 3), (MICROSECOND, 0.5))[0] == float(
        (Fraction("0.3333333333333333") + Fraction("0.5")) / 2
    )


def test_huge_amounts_neither_overflow_nor_swallow_small_ones():
    ages = [MICROSECOND * i for i in range(5)]
    assert of_user_1(*zip(ages, [1e308, 1e308, -1e308, -1e308, 5.0], strict=True))[0] == 1.0
    assert of_user_1(*zip(ages, [1e15, 0.01, -1e15, 0.01, 0.01], strict=True))[0] == 0.006
    assert of_user_1(*zip(ages, [9e12] * 5, strict=True))[0] == 9e12


def test_sums_of_whole_numbers_are_whole_and_their_means_are_rounded_once():
    assert last("sum", 2**62, -(2**62), 2**62, 2**62 - 1) == 2**63 - 1
    assert last("sum", -(2**63), 2**63 - 1, 1) == 0
    assert last("mean", 2**63 - 1, 2**63 - 1, 2**63 - 4) == float(Fraction(3 * 2**63 - 6, 3))
    assert last("mean", 2**53 + 1, 2**53 + 3) == 2.0**53 + 2
    assert last("mean", 1, 0, 0) == 1 / 3


@pytest.mark.parametrize(
    ("values", "variance"),
    [
        ([1.0, 2.0, 4.0], 7 / 3),
        ([1e15, 1e15 + 0.125, 1e15 + 0.25], 0.01),  # which are written ...0.1 and ...0.2
        ([1e15 + 1, 1e15 + 2, 1e15 + 4], 7 / 3),
        ([2**62 + 1, 2**62 + 2, 2**62 + 4], 7 / 3),
        ([2**63 - 1, -(2**63)], float(Fraction((2**64 - 1) ** 2, 2))),
        ([0.1, 0.2, 0.3], 0.01),
        ([0.1, 0.1, 0.1], 0.0),
        ([1e-300, 3e-300], 0.0),
        ([0.0, 1e-160], 5e-321),
        ([1e150, -1e150], 2e300),
    ],
)
def test_the_variance_is_the_nearest_to_the_exact_one_however_large_the_mean(values, variance):
    assert last("var", *values) == variance
    assert last("std", *values) == math.sqrt(variance)


def test_a_variance_takes_two_rows():
    assert last("var", 7.0) is None
    assert last("std", 7, 9, window=MICROSECOND) is None
    assert last("std", 7.0, 7.0) == 0.0


def test_a_variance_over_more_rows_than_a_float64_has_room_for_is_still_exact():
    random = np.random.default_rng(3)
    values = (random.integers(0, 10**8, 3000) / 100).tolist()
    numbers = [Fraction(repr(value)) for value in values]
    exact = (sum(n * n for n in numbers) - sum(numbers) ** 2 / len(numbers)) / (len(numbers) - 1)
    assert last("var", *values) == float(exact)


def test_texts_are_ordered_by_code_points_and_told_apart_exactly():
    texts = ["b", "\U00010000", "\ud7ff", "Z", "é", "e\u0301", "a", "b"]
    assert (last("min", *texts), last("max", *texts)) == ("Z", "\U00010000")
    assert (last("first", *texts[1:]), last("last", *texts)) == ("\U00010000", "b")
    assert last("count_distinct", *texts) == 7
    assert last("count_distinct", "", "\x00", " ", "0", "00") == 5


def test_of_several_values_at_one_instant_first_is_the_least_and_last_the_greatest():
    for column, values in {"a": [2.5, -1.0, 9.0], "c": [2, -1, 9], "d": ["b", "a", "c"]}.items():
        definition = declared([Rule(name, name, column, None, TYPES[column]) for name in ("first", "last")])
        rows = [Row((1,), T, {column: value}) for value in values]
        assert bits(aggregate(table(rows, definition), definition)) == expected(rows, definition)
        later = [*rows, Row((1,), T + MICROSECOND, {column: values[0]})]
        history = aggregate(table(later, definition), definition)
        assert history["first"].to_pylist() == [values[1]] * 2
        assert history["last"].to_pylist() == [values[2], values[0]]


def test_zero_has_no_sign():
    for function in ("min", "max", "first", "last", "sum", "mean", "var", "std"):
        for values in ([-0.0, -0.0], [0.0, -0.0], [-0.0, 0.0]):
            assert math.copysign(1, last(function, *values)) == 1, function
    assert last("count_distinct", 0.0, -0.0, -0.0) == 1


def test_values_are_distinct_within_their_window_and_not_beyond_it():
    values = [1, 2, 1, 1, 3, 2]
    for hours, distinct in [(1, 2), (2, 3), (4, 3), (5, 3)]:
        assert last("count_distinct", *values, window=timedelta(hours=hours)) == distinct


@pytest.mark.parametrize("amount", [1.7e308, -1.7e308])
def test_a_sum_that_float64_does_not_hold_is_refused_by_name(amount):
    total = declared([Rule("total", "sum", "a", None)])
    rows = [
        Row((user,), time, {"a": value}) for user, time, value in [(2, T, 1.0), (7, T - DAYS_3, amount), (7, T, amount)]
    ]
    with pytest.raises(UserError, match=rf"^user_id 7: total at {re.escape(T.isoformat())}: the sum of a is beyond"):
        computed(rows, total)
    mean = declared([Rule("mean", "mean", "a", None)])
    assert (7, T, amount.hex()) in computed(rows, mean)
    for function in ("var", "std"):
        spread = declared([Rule("spread", function, "a", DAYS_3)])
        apart = [*rows, Row((7,), T + MICROSECOND, {"a": -amount})]
        with pytest.raises(UserError, match=rf"^user_id 7: spread at .*: the {function} of a is beyond what a float64"):
            computed(apart, spread)


@pytest.mark.parametrize("step", [1, -1])
def test_a_sum_that_int64_does_not_hold_is_refused_by_name_and_the_last_that_it_holds_is_not(step):
    edge = 2**63 - 1 if step == 1 else -(2**63)
    keys = {"store": TYPES["d"], "user": TYPES["c"]}
    total = declared([Rule("total", "sum", "c", None, TYPES["c"])], keys)
    rows = [Row(("x", 7), T + i * DAYS_3, {"c": value}) for i, value in enumerate([edge - 5 * step, 5 * step])]
    assert computed(rows, total)[-1][-1] == edge
    rows.append(Row(("x", 7), T + 2 * DAYS_3, {"c": step}))
    told = rf"^store=x,user=7: total at {re.escape((T + 2 * DAYS_3).isoformat())}: the sum of c is beyond what an int64"
    with pytest.raises(UserError, match=told):
        computed(rows, total)
    computed(rows, declared([Rule("total", "sum", "c", DAYS_3, TYPES["c"])], keys))


def test_a_table_without_rows_has_no_features():
    definition = declared(
        [Rule(f, f, "d", None, TYPES["d"]) for f in ("min", "last", "count_distinct")], {"k": TYPES["d"]}
    )
    history = aggregate(table([], definition), definition)
    assert history.num_rows == 0
    assert history.schema.equals(definition.schema)


@settings(max_examples=300, deadline=None)
@given(any_cases)
def test_any_rows_give_what_they_are_worth_for_any_declaration(case):
    definition, rows = case
    assert_right(rows, definition)


@settings(max_examples=200, deadline=None)
@given(
    any_cases,
    st.integers(1, 8),
    st.integers(1, 20),
    st.sampled_from([0, 0.3, 1]),
    st.sampled_from([2**62, 2**58, 2**40, 1]),
)
def test_how_many_rows_are_worked_on_at_a_time_and_in_which_units_does_not_change_a_bit(
    case, at_a_time, at_once, whole, places
):
    """Where places are few, instants are numbered."""
    definition, rows = case
    with (
        patch.object(timeline, "ROWS_AT_A_TIME", at_a_time),
        patch.object(windows, "VALUES_AT_ONCE", at_once),
        patch.object(windows, "PLACES", places),
        patch.object(exact, "MOSTLY_WHOLE", whole),
    ):
        assert_right(rows, definition)


@settings(max_examples=100, deadline=None)
@given(any_cases, st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_their_partition_changes_a_bit(case, random):
    definition, rows = case
    try:
        whole = expected(rows, definition)
    except Beyond:
        return
    assert computed(random.sample(rows, len(rows)), definition) == whole
    chosen = {row.key for row in rows if random.random() < 0.5}
    parts = [[row for row in rows if (row.key in chosen) == one] for one in (True, False)]
    found = [row for part in parts if part for row in computed(part, definition)]
    assert sorted(found, key=whole.index) == whole


@settings(max_examples=100, deadline=None)
@given(cases)
def test_older_history_does_not_change_a_bit_of_a_feature_with_a_window(case):
    definition, rows = case
    definition = declared([r for r in definition.rules if r.time_window and r.time_window < timedelta(days=100)])
    rows = [row._replace(key=(1,)) for row in rows if T - timedelta(days=30) < row.time < T + DAYS_3]
    if not definition.rules or not rows:
        return
    older = [row._replace(time=row.time - timedelta(days=400)) for row in rows]
    try:
        assert computed([*older, *rows], definition)[-1] == expected(rows, definition)[-1]
    except UserError:
        with pytest.raises(Beyond):
            expected([*older, *rows], definition)


HOUR = timedelta(hours=1)


def sliding(*rules: Rule) -> Definition:
    return declared(rules, continuous=True)


def history_of(rows: list[Row], definition: Definition) -> list[tuple]:
    """Each moment's instant, as what lies between it and `T`, and the features."""
    return [(row[1] - T, *row[2:]) for row in computed(rows, definition)]


@pytest.mark.smoke
def test_a_sliding_window_has_a_row_a_microsecond_after_each_purchase_is_exactly_as_old_as_it_is_long():
    definition = replace(MEAN_AND_COUNT, continuous=True)
    rows = purchases([(HOUR, 10.0), (NOW, 20.0)])
    assert history_of(rows, definition) == [
        (-HOUR, (10.0).hex(), 1),
        (NOW, (15.0).hex(), 2),
        (DAYS_3 - HOUR + MICROSECOND, (20.0).hex(), 2),
        (DAYS_3 + MICROSECOND, None, 2),
    ]


def test_rows_and_steps_that_coincide_are_one_row():
    definition = sliding(*(Rule(f"in {hours}", "count", "a", hours * HOUR - MICROSECOND) for hours in (1, 2)))
    rows = purchases([(2 * HOUR, 1.0), (HOUR, 1.0), (HOUR, 1.0), (NOW, 1.0)])
    assert history_of(rows, definition) == [
        (-2 * HOUR, 1, 1),
        (-HOUR, 2, 3),
        (NOW, 1, 3),
        (HOUR, 0, 1),
        (2 * HOUR, 0, 0),
    ]


def test_of_an_empty_window_counts_and_sums_are_zero_and_all_else_is_null():
    choices = [(f, c) for f, function in FUNCTIONS.items() for c in "abcd" if TYPES[c] in function.takes]
    definition = sliding(*(Rule(f"{f} {c}", f, c, HOUR, TYPES[c]) for f, c in choices))
    rows = [Row((1,), T, {"a": 2.5, "b": 3, "c": 4, "d": "x"})]
    history = aggregate(table(rows, definition), definition)
    assert history.num_rows == 2
    nothing = history.slice(1).to_pylist()[0]
    for function, column in choices:
        right = 0 if function in ("count", "sum", "count_distinct") else None
        assert nothing[f"{function} {column}"] == right, function
        assert history.schema.field(f"{function} {column}").nullable == (right is None)
    assert computed(rows, definition) == expected(rows, definition)


def test_no_row_is_later_than_the_last_instant_that_there_is():
    beginning, end = FIRST_INSTANT, LAST_INSTANT
    definition = sliding(Rule("count", "count", "a", HOUR), Rule("ever", "sum", "a", timedelta.max))
    times = [end - HOUR - MICROSECOND, end - HOUR, end, beginning]
    for some in (times[:1], times[1:2], times[:2], times[:3], times):
        rows = [Row((key,), time, {"a": 1.0}) for key in (1, 2) for time in some]
        assert_right(rows, definition)
    assert [row[1] for row in computed([Row((1,), times[0], {"a": 1.0})], definition)] == [times[0], end]
    assert [row[1] for row in computed([Row((1,), times[1], {"a": 1.0})], definition)] == [times[1]]


def test_numbered_instants_that_no_key_of_a_part_has_move_no_step_to_another_key(monkeypatch):
    """Two keys a part: those of the other part have instants before all of these."""
    monkeypatch.setattr(timeline, "ROWS_AT_A_TIME", 1)
    monkeypatch.setattr(windows, "PLACES", 20)
    early = [Row((key,), T - minutes * timedelta(minutes=10), {"a": 1.0}) for key in (0, 1) for minutes in (1, 2, 3)]
    late = [Row((2,), T + 2 * HOUR, {"a": 1.0}), Row((3,), T, {"a": 1.0})]
    assert_right([*early, *late], sliding(Rule("recent", "count", "a", HOUR), Rule("ever", "count", "a", None)))


def test_very_many_moments_agree_at_sampled_ones():
    random = np.random.default_rng(8)
    count = 150_000
    assert count > timeline.ROWS_AT_A_TIME
    choices = [(f, w) for f in FUNCTIONS for w in (timedelta(minutes=3), 2 * HOUR)]
    definition = sliding(*(Rule(f"{f} in {w}", f, "c", w, TYPES["c"]) for f, w in choices))
    seconds = random.integers(0, 100_000, count)
    columns = {
        "user_id": random.integers(0, 40, count),
        "timestamp": pa.array((T - EPOCH) // MICROSECOND + seconds * 10**6, UTC_MICROSECONDS),
        "c": random.integers(-9, 9, count),
    }
    history = aggregate(pa.table(columns).cast(definition.transactions), definition)
    for place in random.choice(history.num_rows, 8).tolist():
        [(user, at, *found)] = bits(history.slice(place, 1))
        own = np.flatnonzero(columns["user_id"] == user)
        rows = [Row((user,), T + timedelta(seconds=int(seconds[i])), {"c": int(columns["c"][i])}) for i in own]
        values = [evaluate(rule, rows, at) for rule in definition.rules]
        assert found == [value.hex() if isinstance(value, float) else value for value in values]


def test_a_table_that_does_not_slide_has_a_row_an_instant_of_its_rows_and_no_more():
    assert len(computed(purchases([(HOUR, 1.0), (NOW, 2.0), (NOW, 3.0)]))) == 2


def test_a_sum_too_large_at_a_step_is_refused_by_that_instant():
    definition = sliding(Rule("total", "sum", "a", HOUR))
    rows = [Row((1,), T, {"a": -1e308})] + [Row((1,), T + MICROSECOND, {"a": 1e308})] * 2
    at = (T + HOUR + MICROSECOND).isoformat()
    with pytest.raises(UserError, match=rf"^user_id 1: total at {re.escape(at)}: the sum of a is beyond"):
        computed([Row((0,), T - DAYS_3, {"a": 1.0}), *rows], definition)


def moments_around(rows: list[Row], definition: Definition) -> list[datetime]:
    """The moments of rows, and the instants before and after them, as far as there are any."""
    found = {moment for row in rows for moment in moments_of(row, definition)}
    ends = {FIRST_INSTANT: [0, 1], LAST_INSTANT: [-1, 0]}
    return sorted({moment + step * MICROSECOND for moment in found for step in ends.get(moment, [-1, 0, 1])})


@settings(max_examples=100, deadline=None)
@given(sliding_cases, st.data())
def test_at_any_instant_the_latest_row_of_a_sliding_table_is_what_the_features_are_worth_then(case, data):
    definition, rows = case
    try:
        history = computed(rows, definition)
    except UserError:
        return
    at = data.draw(st.sampled_from(moments_around(rows, definition)))
    width = len(definition.keys)
    for key in {row.key for row in rows if row.time <= at}:
        latest = [row for row in history if row[:width] == key and row[width] <= at][-1]
        values = [evaluate(rule, [row for row in rows if row.key == key], at) for rule in definition.rules]
        assert latest[width + 1 :] == tuple(v.hex() if isinstance(v, float) else v for v in values)


@settings(max_examples=150, deadline=None)
@given(any_cases, st.integers(1, 8), st.data())
def test_only_moments_since_an_instant_and_of_rows_that_are_asked_for_are_computed(case, at_a_time, data):
    definition, rows = case
    try:
        right = expected(rows, definition)
    except Beyond:
        return
    width = len(definition.keys)
    instants = sorted({row[:2] for row in rows})
    asked = data.draw(st.sets(st.sampled_from(instants)))
    since = data.draw(st.none() | st.sampled_from(moments_around(rows, definition)))

    def wanted(moment: tuple) -> bool:
        last = max(time for key, time in instants if key == moment[:width] and time <= moment[width])
        return (moment[:width], last) in asked and (since is None or moment[width] >= since)

    micros = None if since is None else (since - EPOCH) // MICROSECOND
    with patch.object(timeline, "ROWS_AT_A_TIME", at_a_time):
        found = aggregate(
            table(rows, definition), definition, asked=np.array([row[:2] in asked for row in rows]), since=micros
        )
    assert bits(found) == [moment for moment in right if wanted(moment)]


@pytest.mark.scale
def test_one_key_with_very_many_rows_agrees_at_sampled_instants(monkeypatch):
    monkeypatch.setattr(timeline, "ROWS_AT_A_TIME", 500)
    random = np.random.default_rng(5)
    count = 20_000
    rules = [
        Rule(f"{function}_{column}_{window}", function, column, window, TYPES[column])
        for function in FUNCTIONS
        for column in "acd"
        for window in (timedelta(minutes=3), timedelta(hours=2), None)
        if TYPES[column] in FUNCTIONS[function].takes
    ]
    definition = declared(rules)
    seconds = np.sort(random.integers(0, 20_000, count)).tolist()
    a, c = random.gamma(2, 25, count).round(2).tolist(), random.integers(-1000, 1000, count).tolist()
    values = [{"a": x, "c": y, "d": str(y)} for x, y in zip(a, c, strict=True)]
    rows = [Row((1,), T + timedelta(seconds=s), v) for s, v in zip(seconds, values, strict=True)]
    history = aggregate(table(rows, definition), definition)
    for place in random.choice(history.num_rows, 2):
        found = history.slice(place, 1)
        known = [row for row in rows if row.time <= found["event_timestamp"][0].as_py()]
        [right] = expected(known, definition, at_last=True)
        assert bits(found) == [right]


@pytest.mark.parametrize("continuous", [False, True])
def test_windows_are_right_where_key_and_time_do_not_fit_one_int64(continuous):
    rows = [
        Row((user,), datetime(year, 1, 1, tzinfo=UTC) + k * DAYS_3, {"a": float(user + k)})
        for user in [*range(200), 2**63 - 1, -(2**63)]
        for year in (1, 2026, 9998)
        for k in range(3)
    ]
    assert_right(rows, replace(MEAN_AND_COUNT, continuous=continuous))


@pytest.mark.parametrize("years", [(1, 2026, 9998), (2024, 2027)])
def test_very_many_keys_far_apart_are_computed_as_the_same_keys_near_each_other(years):
    """They are split in parts by their keys, or their instants are numbered."""
    random = np.random.default_rng(6)
    count = 100_000
    near = random.integers(0, 50_000, count)
    times = [
        datetime(years[y], 1 + m, 1, tzinfo=UTC)
        for y, m in zip(
            random.integers(0, len(years), count).tolist(), random.integers(0, 12, count).tolist(), strict=True
        )
    ]
    window = declared([Rule("mean", "mean", "a", timedelta(days=40)), Rule("count", "count", "a", None)])
    far = (near - 25_000) * 2**44
    results = []
    for keys in (near, far):
        rows = [
            Row((key,), time, {"a": amount})
            for key, time, amount in zip(keys.tolist(), times, (near / 100).tolist(), strict=True)
        ]
        results.append(aggregate(table(rows, window), window))
    assert [row[1:] for row in bits(results[0])] == [row[1:] for row in bits(results[1])]
    found = {row[:2]: row[2:] for row in bits(results[0])}
    for key in random.choice(near, 20).tolist():
        own = [Row((key,), time, {"a": key / 100}) for k, time in zip(near.tolist(), times, strict=True) if k == key]
        assert all(found[row[:2]] == row[2:] for row in expected(own, window))
