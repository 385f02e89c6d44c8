"""The windows and their exact arithmetic, against the oracle."""

import re
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pytest
from feast.aggregation import Aggregation
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.features import AGGREGATIONS
from parity.compute import windows as aggregation
from parity.compute.windows import aggregate
from parity.edge.errors import UserError
from parity.proof.oracle import Purchase, evaluate
from parity.proof.oracle import expected as oracle_expected

T = datetime(2026, 3, 8, 12, tzinfo=UTC)
DAYS_3 = timedelta(days=3)
MICROSECOND = timedelta(microseconds=1)
UTC_MICROSECONDS = pa.timestamp("us", "UTC")


def features(rows: list[tuple[int, datetime, float]], aggregations=AGGREGATIONS) -> dict[tuple, tuple]:
    """Compute by the code under test: (user, instant) -> values."""
    users, times, amounts = zip(*rows, strict=True)
    table = pa.table(
        {
            "user_id": pa.array(users, pa.int64()),
            "timestamp": pa.array(times, UTC_MICROSECONDS),
            "purchase_amount": pa.array(amounts, pa.float64()),
        }
    )
    result = aggregate(table, "user_id", "timestamp", aggregations)
    user, instant, *values = (column.to_pylist() for column in result.columns)
    keys = list(zip(user, instant, strict=True))
    assert keys == sorted(set(keys)), "one row per user and instant, sorted"
    return dict(zip(keys, zip(*values, strict=True), strict=True))


def purchase(time: datetime, amount: float) -> Purchase:
    return Purchase(time, {"purchase_amount": repr(amount)})


def expected(rows: list[tuple[int, datetime, float]], aggregations=AGGREGATIONS) -> dict[tuple, tuple]:
    """Compute by the oracle."""
    purchases = {}
    for user, time, amount in rows:
        purchases.setdefault(user, []).append(purchase(time, amount))
    return {
        (user, instant): tuple(evaluate(a, purchases[user], instant) for a in aggregations)
        for user, instant, _ in sorted(rows)
    }


def of_user_1(*purchases: tuple[timedelta, float]) -> tuple:
    """The features of one user at T, who bought for these amounts this long before T."""
    return features([(1, T - age, amount) for age, amount in purchases])[1, T]


def test_a_purchase_exactly_three_days_old_is_in_the_window():
    assert of_user_1((timedelta(0), 10.0), (DAYS_3, 20.0)) == (15.0, 2)


def test_a_purchase_a_microsecond_older_is_not_in_the_window_but_counts():
    assert of_user_1((timedelta(0), 10.0), (DAYS_3 + MICROSECOND, 20.0)) == (10.0, 2)


def test_every_purchase_at_the_same_instant_is_seen():
    assert of_user_1((timedelta(0), 10.0), (timedelta(0), 20.0), (timedelta(0), 60.0)) == (30.0, 3)


def test_later_purchases_and_other_users_are_not_seen():
    rows = [(1, T, 10.0), (1, T + MICROSECOND, 99.0), (2, T, 99.0), (0, T, 99.0)]
    assert features(rows)[1, T] == (10.0, 1)


def test_the_mean_is_the_correctly_rounded_quotient_of_cents():
    # In binary floating point 0.1 + 0.2 is 0.30000000000000004.
    assert of_user_1((timedelta(0), 0.1), (MICROSECOND, 0.2)) == (0.15, 2)
    assert of_user_1(*[(MICROSECOND * i, 1.1) for i in range(3)]) == (1.1, 3)


def test_amounts_finer_than_cents_count_as_the_decimal_they_are_written_as():
    assert of_user_1((timedelta(0), 0.001), (MICROSECOND, 0.002))[0] == 0.0015
    assert of_user_1((timedelta(0), 1 / 3), (MICROSECOND, 0.5))[0] == float(
        (Fraction("0.3333333333333333") + Fraction("0.5")) / 2
    )


def test_huge_amounts_neither_overflow_nor_swallow_small_ones():
    ages = [MICROSECOND * i for i in range(5)]
    assert of_user_1(*zip(ages, [1e308, 1e308, -1e308, -1e308, 5.0], strict=True))[0] == 1.0
    assert of_user_1(*zip(ages, [1e15, 0.01, -1e15, 0.01, 0.01], strict=True))[0] == 0.006
    assert of_user_1(*zip(ages, [9e12] * 5, strict=True))[0] == 9e12


@pytest.mark.parametrize("amount", [1.7e308, -1.7e308])
def test_a_sum_that_float64_does_not_hold_is_refused_by_name(amount):
    total = Aggregation(name="total", function="sum", column="purchase_amount")
    rows = [(2, T, 1.0), (7, T - DAYS_3, amount), (7, T, amount)]
    with pytest.raises(
        UserError, match=rf"^user_id 7: total at {re.escape(T.isoformat())}: the sum of purchase_amount"
    ):
        features(rows, [total])
    purchases = [Purchase(time, {"purchase_amount": str(amount)}) for user, time, amount in rows if user == 7]
    with pytest.raises(UserError, match=r"^user 7: total at .*: the sum of purchase_amount is beyond what a float64"):
        oracle_expected(total, purchases, T, None, 7)
    mean = Aggregation(name="mean", function="mean", column="purchase_amount")
    assert features(rows, [mean])[7, T] == (amount,)


steps = st.sampled_from(
    [timedelta(0), MICROSECOND, timedelta(hours=7), DAYS_3, DAYS_3 - MICROSECOND, DAYS_3 + MICROSECOND]
)
instants = st.lists(steps, max_size=4).map(lambda ages: T - sum(ages, timedelta(0))) | st.datetimes(
    timezones=st.just(UTC)
)
users = st.sampled_from([1, 2, 3, 0, -7, 2**63 - 1, -(2**63)])
cents = st.integers(-(10**14), 10**14).map(lambda n: n / 100) | st.sampled_from([0.0, -0.0, 0.1, 0.2, 0.3, 19.99])
any_amount = cents | st.floats(allow_nan=False, allow_infinity=False, min_value=-1e307, max_value=1e307)
purchases_in_cents = st.lists(st.tuples(users, instants, cents), min_size=1, max_size=40)
purchases = st.lists(st.tuples(users, instants, any_amount), min_size=1, max_size=25)
more_aggregations = [
    *AGGREGATIONS,
    Aggregation(name="sum", function="sum", column="purchase_amount", time_window=timedelta(days=30)),
    Aggregation(name="recent", function="count", column="purchase_amount", time_window=MICROSECOND),
    Aggregation(name="mean", function="mean", column="purchase_amount"),
    Aggregation(name="ever", function="count", column="purchase_amount", time_window=timedelta.max),
]


@settings(max_examples=400, deadline=None)
@given(purchases_in_cents)
def test_any_purchases_in_cents_give_what_the_oracle_gives(rows):
    assert features(rows) == expected(rows)


@settings(max_examples=300, deadline=None)
@given(purchases)
def test_any_purchases_at_all_give_what_the_oracle_gives_for_every_function(rows):
    assert features(rows, more_aggregations) == expected(rows, more_aggregations)


@settings(max_examples=200, deadline=None)
@given(purchases, st.randoms(use_true_random=False))
def test_neither_the_order_of_rows_nor_their_partition_changes_a_bit(rows, random):
    whole = features(rows)
    shuffled = random.sample(rows, len(rows))
    assert features(shuffled) == whole
    parts = {}
    for row in rows:
        parts.setdefault(row[0] % 2, []).append(row)
    assert {key: value for part in parts.values() for key, value in features(part).items()} == whole


@settings(max_examples=200, deadline=None)
@given(purchases, st.integers(1, 8))
def test_how_many_rows_are_worked_on_at_a_time_does_not_change_a_bit(rows, at_a_time):
    with patch.object(aggregation, "ROWS_AT_A_TIME", at_a_time):
        assert features(rows, more_aggregations) == expected(rows, more_aggregations)


@settings(max_examples=200, deadline=None)
@given(purchases)
def test_older_history_does_not_change_a_bit_of_a_windowed_mean(rows):
    rows = [(user, max(time, datetime(100, 1, 1, tzinfo=UTC)), amount) for user, time, amount in rows]
    older = [(user, time - timedelta(days=400), 0.1 + amount / 3) for user, time, amount in rows]
    recent = {time for _, time, _ in rows}
    first_old = max(time for _, time, _ in older)
    with_history = features(rows + older)
    for key, (mean, _) in features(rows).items():
        if key[1] in recent and key[1] - DAYS_3 > first_old:
            assert with_history[key][0] == mean


def test_one_user_with_very_many_purchases_agrees_with_the_oracle_at_sampled_instants():
    random = np.random.default_rng(5)
    count = 200_000
    seconds = np.sort(random.integers(0, 40 * 24 * 3600, count))
    amounts = random.gamma(2, 25, count).round(2)
    rows = [(1, T + timedelta(seconds=int(s)), float(a)) for s, a in zip(seconds, amounts, strict=True)]
    computed = features(rows)
    purchases = [purchase(time, amount) for _, time, amount in rows]
    for i in random.choice(count, 5):
        instant = rows[i][1]
        assert computed[1, instant] == tuple(evaluate(a, purchases, instant) for a in AGGREGATIONS)


def test_windows_are_right_where_user_and_time_do_not_fit_one_int64():
    rows = [
        (user, datetime(year, 1, 1, tzinfo=UTC) + k * DAYS_3, float(user + k))
        for user in range(200)
        for year in (1, 2026, 9998)
        for k in range(3)
    ]
    assert features(rows) == expected(rows)
