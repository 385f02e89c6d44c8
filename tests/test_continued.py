"""Features of a part of the rows are the bits that all rows together give."""

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from feast.aggregation import Aggregation
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_repo.features import AGGREGATIONS
from parity.compute import tail as continued
from parity.compute.tail import aggregate_sorted
from parity.compute.windows import aggregate
from tests.test_aggregation import T, more_aggregations, purchases

KEY, TIMESTAMP = "user_id", "timestamp"
ONLY_COUNT = [Aggregation(name="count", function="count", column="purchase_amount")]


def table(rows) -> pa.Table:
    users, times, amounts = zip(*rows, strict=True)
    return pa.table(
        {
            KEY: pa.array(users, pa.int64()),
            TIMESTAMP: pa.array(times, pa.timestamp("us", "UTC")),
            "purchase_amount": pa.array(amounts, pa.float64()),
        }
    )


def bits(rows: pa.Table) -> list:
    return [c.cast(pa.int64()).to_pylist() if i < 2 else c.to_numpy().tobytes() for i, c in enumerate(rows.columns)]


@settings(max_examples=300, deadline=None)
@given(purchases, st.sampled_from([AGGREGATIONS, more_aggregations, ONLY_COUNT]), st.data())
def test_sorted_rows_in_parts_of_any_size_give_the_bits_of_all_rows_together(rows, aggregations, data):
    rows = table(sorted(rows, key=lambda row: row[:2]))
    cuts = sorted(data.draw(st.lists(st.integers(0, rows.num_rows), max_size=10)))
    parts = [rows.slice(a, b - a) for a, b in zip([0, *cuts], [*cuts, rows.num_rows], strict=True)]
    at_once = data.draw(st.integers(1, 30))
    given_in_parts = pa.concat_tables(aggregate_sorted(parts, KEY, TIMESTAMP, aggregations, at_once))
    assert bits(given_in_parts) == bits(aggregate(rows, KEY, TIMESTAMP, aggregations))


@pytest.mark.parametrize("aggregations", [AGGREGATIONS, ONLY_COUNT], ids=["windowed", "only a count"])
def test_a_key_with_very_many_rows_is_never_held_whole(monkeypatch, aggregations):
    rows = table([(1, T + timedelta(minutes=i), i / 100) for i in range(100_000)])
    most = []

    def watched(rows, *arguments):
        most.append(rows.num_rows)
        return aggregate(rows, *arguments)

    monkeypatch.setattr(continued, "aggregate", watched)
    parts = [rows.slice(start, 1000) for start in range(0, rows.num_rows, 1000)]
    result = pa.concat_tables(aggregate_sorted(parts, KEY, TIMESTAMP, aggregations, 10_000))
    assert max(most) < 20_000  # a window is 4,321 rows
    assert np.array_equal(result[aggregations[-1].name], np.arange(1, 100_001))
    assert bits(result) == bits(aggregate(rows, KEY, TIMESTAMP, aggregations))
