"""A day of many rows is asked in parts, and comes to the same as one that Great Expectations is given whole."""

from datetime import UTC, datetime

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from parity import Expectation, usually
from parity.definition.checks import declared
from parity.quality.by_definition import by_definition
from parity.quality.day import FILE, ROW, Day, Gathering, LargeDay
from parity.quality.gx import NUMBER, Run, Store, depends, parameter
from tests.conftest import ROOT
from tests.definition import purchases

AT = datetime(2026, 3, 1, tzinfo=UTC)
ROWS = 1000
TYPES = {
    "expect_column_distinct_values_to_be_in_set": {"column": "product_id", "value_set": [1, 2]},
    "expect_column_distinct_values_to_contain_set": {"column": "product_id", "value_set": [1, 99]},
    "expect_column_distinct_values_to_equal_set": {"column": "word", "value_set": ["a"]},
    "expect_column_max_to_be_between": {"column": "amount", "max_value": 10},
    "expect_column_mean_to_be_between": {"column": "amount", "max_value": 0},
    "expect_column_median_to_be_between": {"column": "amount", "max_value": 0},
    "expect_column_min_to_be_between": {"column": "timestamp", "min_value": datetime(2026, 2, 2, tzinfo=UTC)},
    "expect_column_most_common_value_to_be_in_set": {"column": "word", "value_set": ["zz"]},
    "expect_column_pair_values_a_to_be_greater_than_b": {"column_A": "amount", "column_B": "product_id"},
    "expect_column_pair_values_to_be_equal": {"column_A": "user_id", "column_B": "product_id"},
    "expect_column_proportion_of_unique_values_to_be_between": {"column": "user_id", "max_value": 0.01},
    "expect_column_quantile_values_to_be_between": {
        "column": "amount",
        "quantile_ranges": {"quantiles": [0.1, 0.9], "value_ranges": [[0, 1], [2, 3]]},
    },
    "expect_column_stdev_to_be_between": {"column": "amount", "max_value": 1},
    "expect_column_sum_to_be_between": {"column": "product_id", "max_value": 1},
    "expect_column_to_exist": {"column": "word"},
    "expect_column_unique_value_count_to_be_between": {"column": "product_id", "max_value": 3},
    "expect_column_value_lengths_to_equal": {"column": "word", "value": 1},
    "expect_column_value_z_scores_to_be_less_than": {"column": "amount", "threshold": 2, "double_sided": True},
    "expect_column_values_to_be_between": {"column": "amount", "min_value": -20, "mostly": 0.7},
    "expect_column_values_to_be_in_set": {"column": "is_paid", "value_set": [True]},
    "expect_column_values_to_be_null": {"column": "amount"},
    "expect_column_values_to_be_of_type": {"column": "user_id", "type_": "int64"},
    "expect_column_values_to_be_unique": {"column": "amount"},
    "expect_column_values_to_match_regex": {"column": "word", "regex": "^[a-c]"},
    "expect_column_values_to_not_be_in_set": {"column": "product_id", "value_set": [3], "mostly": usually(0.99)},
    "expect_column_values_to_not_be_null": {"column": "amount"},
    "expect_compound_columns_to_be_unique": {"column_list": ["user_id", "product_id", "word"]},
    "expect_multicolumn_sum_to_equal": {"column_list": ["user_id", "product_id"], "sum_total": 7},
    "expect_select_column_values_to_be_unique_within_record": {"column_list": ["user_id", "product_id"]},
    "expect_table_column_count_to_equal": {"value": 7},
    "expect_table_columns_to_match_set": {"column_set": ["word"]},
    "expect_table_row_count_to_be_between": {"max_value": 3},
    "expect_table_row_count_to_equal": {"value": ROWS},
}


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    random = np.random.default_rng(3)
    amounts = random.normal(0, 30, ROWS).round(1)
    start = datetime(2026, 2, 1, tzinfo=UTC).timestamp() * 1e6
    micros = (start + np.sort(random.integers(0, 86_400, ROWS)) * 1e6).astype(np.int64)
    return pa.table(
        {
            "user_id": random.integers(1, 30, ROWS),
            "product_id": pa.array(random.integers(1, 9, ROWS), mask=random.random(ROWS) < 0.1),
            "timestamp": pa.array(micros, pa.timestamp("us", "UTC")),
            "amount": pa.array(np.where(random.random(ROWS) < 0.01, -0.0, amounts), mask=random.random(ROWS) < 0.05),
            "purchase_amount": amounts,
            "word": random.choice(["a", "b", "cc", "dd"], ROWS),
            "is_paid": pa.array(random.random(ROWS) < 0.5, mask=random.random(ROWS) < 0.1),
        }
    )


@pytest.fixture
def whole_and_large(rows, tmp_path, monkeypatch):
    """The same day twice."""
    placed = rows.append_column(FILE, pa.array(np.arange(ROWS, dtype=np.int32) % 3))
    placed = placed.append_column(ROW, pa.array(np.arange(ROWS) * 7))
    whole = Gathering(20485, tmp_path / "whole.parquet", None)
    whole.add(placed)
    monkeypatch.setattr("parity.quality.day.HELD", 64)
    with duckdb.connect() as connection:
        large = Gathering(20485, tmp_path / "it's large.parquet", connection)
        for start in range(0, ROWS, 150):
            large.add(placed.slice(start, 150))
        yield whole.gathered(), large.gathered()


def seen(folder, day, expectations):
    """What a day comes to, and what is kept of that."""
    pytest.importorskip("great_expectations")
    store = Store(folder)
    suite = store.suite("some", expectations)
    depending = {
        parameter(number, name): 0.99 if name == "mostly" else value
        for number, one in enumerate(expectations)
        for name, value in one.arguments.items()
        if depends(value)
    }
    found = suite.validate(day, depending, Run("day", AT, True))
    [key] = store.context.validation_results_store.list_keys()
    kept = store.context.validation_results_store.get(key).to_json_dict()
    by_number = {one["expectation_config"]["meta"][NUMBER]: one["result"] for one in kept["results"]}
    return found, (kept["success"], kept["statistics"]), by_number


def differences(folder, days, expectations):
    (one, verdict, kept), (other, *rest) = (seen(folder / str(n), day, expectations) for n, day in enumerate(days))
    assert verdict == rest[0]
    for number, expectation in enumerate(expectations):
        results = kept[number], rest[1][number]
        for result in results:
            result.pop("partial_unexpected_counts", None)  # of which the large one has those that are so in its parts
            result.pop("unexpected_index_query", None)  # and not this
        if one[number] != other[number] or results[0] != results[1]:
            yield f"{expectation}", one[number], other[number], *results


def test_a_day_beyond_a_number_of_rows_is_in_a_file(whole_and_large):
    whole, large = whole_and_large
    assert isinstance(whole, Day)
    assert isinstance(large, LargeDay)
    assert (large.count, large.nulls("amount")) == (whole.count, whole.nulls("amount"))
    taken, wanted = large.taken([999, 3, 64, 3]), whole.taken([999, 3, 64, 3])
    assert taken.rows == wanted.rows
    assert (taken.files.tolist(), taken.places.tolist()) == (wanted.files.tolist(), wanted.places.tolist())
    assert max(len(frame) for frame in large.frames()) == 64
    assert max(len(frame) for frame in large.frames_by(["user_id", "timestamp"])) < 150


def test_the_digest_of_a_large_day_is_another_once_a_value_is(rows, whole_and_large, tmp_path):
    _, large = whole_and_large
    assert large.digest == large.digest
    changed = Gathering(20485, tmp_path / "changed.parquet", None)
    values = rows["word"].to_pylist()
    values[ROWS // 2] = "other"
    placed = rows.set_column(5, "word", pa.array(values))
    changed.add(
        placed.append_column(FILE, pa.array(np.zeros(ROWS, np.int32))).append_column(ROW, pa.array(range(ROWS)))
    )
    assert changed.gathered().digest != large.digest


@pytest.mark.scale
def test_all_kinds_of_expectations_come_to_the_same_in_parts(tmp_path, whole_and_large):
    expectations = [Expectation(type, **arguments) for type, arguments in TYPES.items()]
    assert list(differences(tmp_path, whole_and_large, expectations)) == []


@pytest.mark.scale
def test_rows_for_a_quarantine_come_to_the_same_in_parts(tmp_path, whole_and_large):
    chosen = ("expect_column_values_to_be_between", "expect_column_values_to_be_unique")
    expectations = [Expectation(type, quarantine=True, **TYPES[type]) for type in chosen]
    assert list(differences(tmp_path, whole_and_large, expectations)) == []


def test_what_the_shop_expects_is_among_the_kinds(tmp_path):
    [table] = declared(ROOT / "feature_repo").tables
    derived = by_definition(purchases(tmp_path).definition).expectations
    assert {one.type for one in [*table.view.transactions.expectations, *derived]} <= TYPES.keys()
