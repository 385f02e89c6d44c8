"""The oracle: exact values of every function, by hand, and one pass that gives what the slow way gives."""

import math
from datetime import UTC, datetime, timedelta
from time import monotonic

import pyarrow as pa
import pytest
from feast.types import Float64, Int64, String
from hypothesis import given
from hypothesis import strategies as st

from parity.compare.equal import same
from parity.definition.functions import FUNCTIONS
from parity.definition.instants import LAST_INSTANT, MICROSECOND
from parity.definition.table import Rule
from parity.edge.errors import UserError
from parity.proof.oracle import evaluate, evaluate_each, expected, last_moment, moments, slides_of
from parity.proof.raw import Purchase, left_out, raw_transactions
from tests.definition import aggregation, customer, store, table

T = datetime(2026, 3, 8, 12, tzinfo=UTC)
DAY, WINDOW = timedelta(days=1), timedelta(days=3)
FLOAT, WHOLE, TEXT = pa.float64(), pa.int64(), pa.string()


def bought(*purchases: tuple[timedelta, object]) -> list[Purchase]:
    return [Purchase(T - age, {"x": value}) for age, value in purchases]


def rule(function: str, type: pa.DataType = FLOAT, window: timedelta | None = WINDOW) -> Rule:
    return Rule("feature", function, "x", window, type)


AMOUNTS = bought((timedelta(), "0.1"), (DAY, "0.2"), (WINDOW, "-0.0"), (WINDOW + timedelta(microseconds=1), "99"))
WHOLES = bought((timedelta(), 5), (timedelta(), -7), (WINDOW, 2**62), (4 * DAY, 9))
TEXTS = bought((timedelta(), "b"), (timedelta(), "é"), (DAY, "B"), (WINDOW, "007"), (WINDOW, "7"), (4 * DAY, "z"))


@pytest.mark.parametrize(
    ("function", "type", "purchases", "value"),
    [
        ("count", FLOAT, AMOUNTS, 3),
        ("sum", FLOAT, AMOUNTS, 0.3),
        ("mean", FLOAT, AMOUNTS, 0.1),
        ("min", FLOAT, AMOUNTS, 0.0),
        ("max", FLOAT, AMOUNTS, 0.2),
        ("first", FLOAT, AMOUNTS, 0.0),
        ("last", FLOAT, AMOUNTS, 0.1),
        ("count_distinct", FLOAT, AMOUNTS, 3),
        ("var", FLOAT, AMOUNTS, 0.01),
        ("std", FLOAT, AMOUNTS, 0.1),
        ("count", WHOLE, WHOLES, 3),
        ("sum", WHOLE, WHOLES, 2**62 - 2),
        ("mean", WHOLE, WHOLES, (2**62 - 2) / 3),
        ("min", WHOLE, WHOLES, -7),
        ("max", WHOLE, WHOLES, 2**62),
        ("first", WHOLE, WHOLES, 2**62),
        ("last", WHOLE, WHOLES, 5),
        ("count_distinct", WHOLE, WHOLES, 3),
        ("count", TEXT, TEXTS, 5),
        ("min", TEXT, TEXTS, "007"),
        ("max", TEXT, TEXTS, "é"),
        ("first", TEXT, TEXTS, "007"),
        ("last", TEXT, TEXTS, "é"),
        ("count_distinct", TEXT, TEXTS, 5),
    ],
)
def test_each_function(function, type, purchases, value):
    assert same(evaluate(rule(function, type), purchases, T), value)
    assert same(dict(evaluate_each(rule(function, type), purchases))[T], value)


def test_there_is_a_value_by_hand_for_every_function():
    marks = test_each_function.pytestmark
    assert {case[0] for mark in marks for case in mark.args[1]} == set(FUNCTIONS)


@pytest.mark.parametrize("function", ["var", "std"])
def test_there_is_no_deviation_of_fewer_than_two_rows(function):
    assert evaluate(rule(function), bought((timedelta(), "5")), T) is None
    assert evaluate_each(rule(function), bought((timedelta(), "5"), (DAY, "7"))) == [
        (T - DAY, None),
        (T, 2.0 if function == "var" else math.sqrt(2.0)),
    ]


def test_a_large_mean_cancels_nothing():
    purchases = bought((timedelta(), "1e15"), (DAY, "1000000000000000.5"), (2 * DAY, "1000000000000001"))
    assert evaluate(rule("var"), purchases, T) == 0.25
    assert evaluate(rule("std"), purchases, T) == 0.5


def test_a_window_that_forgets_gives_up_its_maximum():
    purchases = bought((4 * DAY, "9"), (2 * DAY, "3"), (timedelta(), "1"))
    assert [value for _, value in evaluate_each(rule("max"), purchases)] == [9.0, 9.0, 3.0]
    assert [value for _, value in evaluate_each(rule("max", window=None), purchases)] == [9.0, 9.0, 9.0]
    assert [value for _, value in evaluate_each(rule("count_distinct", window=DAY), purchases)] == [1, 1, 1]


def test_a_whole_sum_beyond_64_bits_is_an_error_of_one_line():
    purchases = bought((timedelta(), 2**63 - 1), (DAY, 1))
    for evaluation in (lambda a: evaluate(a, purchases, T), lambda a: evaluate_each(a, purchases)):
        with pytest.raises(UserError, match="is beyond what 64 bits hold"):
            evaluation(rule("sum", WHOLE))
    assert evaluate(rule("mean", WHOLE), purchases, T) == 2.0**62


VALUES = {
    FLOAT: st.one_of(
        st.integers(-10_000, 10_000).map(lambda cents: f"{cents / 100:.2f}"),
        st.floats(-1e100, 1e100).map(repr),
        st.sampled_from(["-0.0", "0", "5e-324", "-5e-324", "1e-20", "1e15"]),
    ),
    WHOLE: st.integers(-(2**58), 2**58),
    pa.int32(): st.integers(-3, 3),
    TEXT: st.text(max_size=2) | st.sampled_from(["7", "007", "\U0001f600", "\uffff"]),
    pa.bool_(): st.booleans(),
}
AGES = st.integers(0, 8).map(lambda days: days * DAY) | st.timedeltas(timedelta(), timedelta(days=9))
WINDOWS = st.sampled_from([None, timedelta(microseconds=1), timedelta(hours=1), DAY, WINDOW, 90 * DAY])


@st.composite
def declared(draw) -> tuple[Rule, list[Purchase]]:
    function = draw(st.sampled_from(sorted(FUNCTIONS)))
    type = draw(st.sampled_from(FUNCTIONS[function].takes))
    purchases = draw(st.lists(st.tuples(AGES, VALUES[type]), min_size=1, max_size=20))
    return rule(function, type, draw(WINDOWS)), bought(*purchases)


@given(declared())
def test_one_pass_gives_what_the_slow_way_gives_at_every_instant(drawn):
    rule, purchases = drawn
    found = evaluate_each(rule, purchases)
    assert [instant for instant, _ in found] == sorted({purchase.time for purchase in purchases})
    for instant, value in found:
        assert same(value, evaluate(rule, purchases, instant))


@pytest.mark.parametrize("function", sorted(FUNCTIONS))
def test_a_key_with_very_many_purchases_is_gone_through_once(function):
    purchases = bought(*((timedelta(seconds=second), f"{second * 7919 % 977}.01") for second in range(30_000)))
    begin = monotonic()
    found = evaluate_each(rule(function, window=timedelta(hours=4)), purchases)
    assert monotonic() - begin < 15, "the slow way takes many minutes"
    assert same(found[-1][1], evaluate(rule(function, window=timedelta(hours=4)), purchases, T))


class TestSliding:
    """Windows that slide between purchases: a value at every instant, and a row at each at which it may change."""

    SLIDES = (DAY, WINDOW)

    def test_a_row_is_at_each_purchase_and_where_it_has_just_left_a_window(self):
        purchases = bought((DAY, "1"), (DAY, "2"), (timedelta(), "3"))
        left = [T + MICROSECOND, T + DAY + MICROSECOND, T + 2 * DAY + MICROSECOND, T + WINDOW + MICROSECOND]
        assert moments(purchases, self.SLIDES) == [T - DAY, T, *left]
        assert moments(purchases) == [T - DAY, T]

    def test_a_purchase_that_falls_on_such_an_instant_is_of_one_row(self):
        purchases = bought((DAY + MICROSECOND, "1"), (timedelta(), "2"))
        assert moments(purchases, [DAY]) == [T - DAY - MICROSECOND, T, T + DAY + MICROSECOND]
        assert evaluate_each(rule("sum", window=DAY), purchases, [DAY]) == [
            (T - DAY - MICROSECOND, 1.0),
            (T, 2.0),
            (T + DAY + MICROSECOND, 0.0),
        ]

    def test_none_lies_beyond_the_calendar(self):
        times = [LAST_INSTANT - DAY - MICROSECOND, LAST_INSTANT - DAY]
        last = [Purchase(time, {"x": "1"}) for time in times]
        assert moments(last, [DAY, timedelta.max]) == [*times, LAST_INSTANT]
        assert evaluate_each(rule("count", window=DAY), last, [DAY])[-1] == (LAST_INSTANT, 1)

    @pytest.mark.parametrize("function", sorted(FUNCTIONS))
    def test_of_an_empty_window_counts_and_sums_are_zero_and_all_else_is_null(self, function):
        type = next(type for type in (WHOLE, TEXT) if type in FUNCTIONS[function].takes)
        nothing = FUNCTIONS[function].of_nothing
        some, one = bought((timedelta(), 5), (timedelta(), 7)), rule(function, type, DAY)
        assert same(evaluate(one, some, T + DAY + MICROSECOND), nothing)
        assert same(evaluate_each(one, some, [DAY])[-1][1], nothing)
        assert nothing == (0 if function in ("count", "sum", "count_distinct") else None)

    def test_an_empty_sum_of_amounts_is_a_float(self):
        assert same(evaluate(rule("sum", window=DAY), bought((timedelta(), "5")), T + 2 * DAY), 0.0)
        assert same(evaluate_each(rule("sum", window=DAY), bought((timedelta(), "5")), [DAY])[-1][1], 0.0)

    def test_the_value_is_that_of_the_instant_that_is_asked_for(self):
        purchases = bought((timedelta(), "5"))
        for after, value in ((timedelta(), 5.0), (WINDOW, 5.0), (WINDOW + MICROSECOND, None), (WINDOW * 5, None)):
            assert same(expected(rule("mean"), purchases, T + after, None, slides=[WINDOW]), value)
        assert expected(rule("mean"), purchases, T + WINDOW * 5, None) == 5.0, "which is what stays without sliding"
        assert expected(rule("count"), purchases, T - MICROSECOND, None, slides=[WINDOW]) is None, "nothing is known"

    @pytest.mark.parametrize("ttl", [timedelta(hours=1), DAY, 30 * DAY])
    def test_the_age_counts_from_the_last_row(self, ttl):
        purchases = bought((timedelta(), "5"))

        def count(after: timedelta) -> int | None:
            return expected(rule("count"), purchases, T + after, ttl, slides=self.SLIDES)

        for moment in (timedelta(), DAY + MICROSECOND, WINDOW + MICROSECOND):
            inside = 1 if moment <= WINDOW else 0
            assert count(moment) == inside
            assert count(moment + min(ttl, DAY)) == inside, "a day later another row follows, or the last one lives on"
        assert count(WINDOW + MICROSECOND + ttl) == 0
        assert count(WINDOW + 2 * MICROSECOND + ttl) is None
        assert count(DAY - MICROSECOND) == (1 if ttl >= DAY - MICROSECOND else None)

    def test_they_are_the_windows_of_a_continuous_table_each_length_once(self, tmp_path):
        features = [aggregation("sum", "total", 7), aggregation("mean", "total", 7), aggregation("count", "total", 1)]
        features.append(aggregation("last", "total"))
        of = [table(tmp_path, "orders", [customer], features, continuous=some).definition for some in (True, False)]
        assert [sorted(slides_of(definition)) for definition in of] == [[DAY, 7 * DAY], []]


@given(declared(), st.sets(WINDOWS.filter(bool), min_size=1), st.data())
def test_between_its_rows_nothing_changes(drawn, slides, data):
    one, purchases = drawn
    slides |= {one.time_window} - {None}
    rows = evaluate_each(one, purchases, slides)
    assert [instant for instant, _ in rows] == moments(purchases, slides)
    for (instant, value), (following, _) in zip(rows, [*rows[1:], (rows[-1][0] + DAY, None)], strict=True):
        between = data.draw(st.datetimes(instant.replace(tzinfo=None), following.replace(tzinfo=None)))
        for at in {instant, min(between.replace(tzinfo=UTC), following - MICROSECOND), following - MICROSECOND}:
            assert same(expected(one, purchases, at, None, slides=slides), value)
            assert last_moment(purchases, at, slides) == instant


class TestRows:
    @pytest.fixture
    def orders(self, tmp_path):
        """Orders of customers in stores, of which those that are paid and cost something are looked at."""
        columns = {"total": Float64, "quantity": Int64, "sku": String, "status": String}
        features = [aggregation("sum", "total", 7), aggregation("last", "sku")]
        where = "status = 'paid' AND total > 0"
        (tmp_path / "transactions.csv").write_text(
            "customer_id,store_id,timestamp,total,quantity,sku,status\n"
            "007,1,2026-03-08T10:00:00Z,1.50,1,A,paid\n"
            "7,1,2026-03-08T10:00:00Z,2.50,1,B,paid\n"
            "007,1,2026-03-08T11:00:00Z,9.00,1,C,open\n"
            "007,1,2026-03-08T11:00:00Z,9.00,1,C,\n"
            "007,1,2026-03-08T11:00:00Z,-9.00,1,C,paid\n"
            ",,2026-03-08T11:00:00Z,,1,,open\n"
            "007,2,2026-03-08T11:00:00Z,3.00,1,D,paid\n"
        )
        return table(tmp_path, "orders", [customer, store], features, columns, where)

    def test_those_that_meet_the_condition_are_looked_at_by_key(self, orders):
        with raw_transactions(orders.transactions, orders.definition) as raw:
            assert [tuple(key.values()) for key in raw.keys.to_pylist()] == [("007", 1), ("7", 1), ("007", 2)]
            assert raw.of("007", 1) == [Purchase(T - timedelta(hours=2), {"sku": "A", "total": "1.50"})]
            assert raw.of("0007", 1) == []

    def test_those_that_it_leaves_out_are_counted(self, orders):
        assert left_out(orders.transactions, orders.definition, ("007", 1)) == 3
        assert left_out(orders.transactions, orders.definition, ("7", 1)) == 0

    def test_many_parts_hold_all_of_them(self, orders, monkeypatch):
        monkeypatch.setattr("parity.proof.raw.BYTES_PER_PART", 100)
        monkeypatch.setattr("parity.proof.raw_files.ROWS_PER_BLOCK", 2)
        with raw_transactions(orders.transactions, orders.definition) as raw:
            assert len(raw) > 3
            found = {number: some for part in range(len(raw)) for number, some in raw.part(part).items()}
        assert {number: len(some) for number, some in found.items()} == {0: 1, 1: 1, 2: 1}

    def test_a_row_that_is_looked_at_has_to_be_whole(self, orders):
        with open(orders.transactions, "a") as file:
            file.write("007,,2026-03-08T11:00:00Z,3.00,1,D,paid\n")
        with (
            pytest.raises(UserError, match="the oracle can't read it: a row has no store_id"),
            raw_transactions(orders.transactions, orders.definition),
        ):
            pass
