"""What features.py expects of data, what follows from aggregations, and rows by day: all of it without the package."""

import gzip
import sys
from datetime import datetime
from importlib.util import find_spec

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.types import Int64

from parity import Expectation, ago, same_weekday, usually
from parity.compute.windows import aggregate
from parity.definition.checks import declared
from parity.definition.declare import DefinitionError
from parity.definition.expectations import faults_of_expectations
from parity.definition.reading import Reading
from parity.edge.errors import UserError
from parity.edge.files import location
from parity.offline.side import deliveries_of, note_origin, origins_of
from parity.quality.by_definition import AT_LEAST, by_definition
from parity.quality.days import spool_features, spool_transactions, spooling
from parity.quality.judge import bound
from parity.quality.pieces import pieces
from parity.transactions.quarantine import delivered, quarantine_of, set_aside
from parity.transactions.read import read_transactions
from parity.transactions.refusals import RefusedError
from tests.conftest import ROOT
from tests.definition import AVERAGE, EVERY_FUNCTION, ORDERS, TOTAL, aggregation, customer, purchases, table, user

HEADER = "user_id,product_id,timestamp,purchase_amount"
POSITIVE = Expectation("expect_column_values_to_be_between", column="purchase_amount", min_value=0, max_value=500)
ROW_COUNT = "expect_table_row_count_to_be_between"


def told(expectations) -> set[str]:
    return {str(one) for one in expectations}


class TestDeclaring:
    def test_features_are_read_without_great_expectations(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "great_expectations", None)  # which can't be imported then
        monkeypatch.delitem(sys.modules, "feature_repo.features", raising=False)
        [table] = declared(ROOT / "feature_repo").tables
        assert table.view.transactions.expectations

    def test_the_shop_declares_nothing_twice_that_follows_from_types_and_keys(self):
        [table] = declared(ROOT / "feature_repo").tables
        kinds = [one.type for one in table.view.transactions.expectations]
        assert not [kind for kind in kinds if "null" in kind or "type" in kind or "exist" in kind]

    @pytest.mark.parametrize(
        ("expectation", "reason"),
        [
            (Expectation("column_values_to_be_between", column="a"), "name one of Great Expectations"),
            (Expectation(ROW_COUNT, min_value=1, severity="bad"), "its severity is 'bad'"),
            (Expectation("expect_column_values_to_be_unique", column="b"), "'b' is none of the columns: there is a"),
            (Expectation("expect_column_values_to_be_between", column="a", min_value=same_weekday(1)), "one number"),
            (Expectation(ROW_COUNT, min_value=same_weekday(-1)), "a positive share"),
            (Expectation(ROW_COUNT, min_value=same_weekday("a")), "min_value is same_weekday('a'): a positive share"),
            (Expectation("expect_column_values_to_be_unique", column="a", mostly=usually(1)), "between 0 and 1"),
            (Expectation(ROW_COUNT, min_value=usually(0.5)), "for mostly alone"),
            (Expectation(ROW_COUNT, min_value=1, quarantine=True), "a quarantine is for rows"),
            (Expectation(ROW_COUNT, min_value=float("nan")), "can't be kept as JSON"),
            (Expectation("expect_column_max_to_be_between", column="a", min_value=datetime(2026, 1, 1)), "time zone"),  # noqa: DTZ001
            ("expect_column_values_to_be_unique", "is no Expectation"),
        ],
    )
    def test_a_faulty_expectation_is_refused_with_the_reason(self, expectation, reason):
        [fault] = faults_of_expectations([expectation], ["a"], rows_can_go=True)
        assert reason in fault

    def test_an_expectation_that_is_there_twice_is_refused(self):
        assert "twice" in " ".join(faults_of_expectations([POSITIVE, POSITIVE]))

    def test_a_view_refuses_an_expectation_of_a_column_that_is_no_feature(self, tmp_path):
        view = purchases(tmp_path).view
        expectation = Expectation("expect_column_values_to_be_unique", column="purchase_amount")
        with pytest.raises(DefinitionError, match="'purchase_amount' is none of the columns"):
            type(view)(
                name="other",
                entities=[user],
                transactions=view.transactions,
                aggregations=view.aggregations,
                source=view.batch_source,
                expectations=[expectation],
            )

    def test_what_it_says_is_what_was_written(self):
        assert str(Expectation(ROW_COUNT, min_value=same_weekday(0.5))) == f"{ROW_COUNT}(min_value=same_weekday(0.5))"
        for time, said in (
            ({"days": 4}, "now - 4 days"),
            ({"days": 1, "hours": 6}, "now - 1 day, 6:00:00"),
            ({"minutes": -5}, "now + 0:05:00"),
            ({"days": -2}, "now + 2 days"),
            ({}, "now - 0:00:00"),
        ):
            assert str(Expectation("expect_x", min_value=ago(**time))) == f"expect_x(min_value={said})"
        assert "now + 0:05:00" in str(Expectation("expect_x", max_value=ago(minutes=-5)))


class TestByDefinition:
    def test_of_the_shop(self, tmp_path):
        derived = by_definition(purchases(tmp_path).definition, [POSITIVE])
        assert derived.windows == {
            ("purchase_amount", 3 * 86_400_000_000): (
                ":smallest purchase_amount in 3 days",
                ":largest purchase_amount in 3 days",
            )
        }
        of = "expect_column_values_to_be_between"
        assert told(derived.expectations) >= {
            "expect_compound_columns_to_be_unique(column_list=['user_id', 'event_timestamp'])",
            f"{of}(column='{AVERAGE}', min_value=0, max_value=500)",
            f"{of}(column='{TOTAL}', min_value=1)",
            f"{of}(column=':rise of {TOTAL} by row', min_value=1)",
        }

    def test_a_range_that_only_most_values_keep_binds_no_feature(self, tmp_path):
        mostly = Expectation(
            "expect_column_values_to_be_between", column="purchase_amount", min_value=0, mostly=usually(0.9)
        )
        derived = by_definition(purchases(tmp_path).definition, [mostly])
        assert not [
            one
            for one in derived.expectations
            if one.arguments.get("column") == AVERAGE and one.is_row_wise and "min_value" in one.arguments
        ]

    def test_longer_windows_have_no_fewer_rows_and_distinct_values(self, tmp_path):
        features = [
            aggregation("count", "total", 7),
            aggregation("count", "quantity", 30),
            aggregation("count_distinct", "sku", 7),
            aggregation("count_distinct", "sku", 30),
            aggregation("min", "total", 7),
            aggregation("min", "total"),
        ]
        derived = by_definition(table(tmp_path, "orders", [customer], features, ORDERS).definition)
        pairs = {
            (one.arguments["column_A"], one.arguments["column_B"])
            for one in derived.expectations
            if one.type == AT_LEAST
        }
        assert pairs == {
            ("count_quantity_30d", "count_total_7d"),
            ("count_distinct_sku_30d", "count_distinct_sku_7d"),
            ("count_total_7d", "count_distinct_sku_7d"),
            ("count_quantity_30d", "count_distinct_sku_30d"),
            ("min_total_7d", "min_total_ever"),
        }

    def test_sums_of_what_may_be_negative_are_free(self, tmp_path):
        features = [aggregation("sum", "total"), aggregation("sum", "total", 7)]
        definition = table(tmp_path, "orders", [customer], features, ORDERS).definition
        assert not [
            one for one in by_definition(definition).expectations if "sum_total" in str(one) and "min_value" in str(one)
        ]
        positive = Expectation("expect_column_values_to_be_between", column="total", min_value=0)
        strict = told(by_definition(definition, [positive]).expectations)
        assert "expect_column_values_to_be_between(column='sum_total_7d', min_value=0)" in strict
        assert "expect_column_values_to_be_between(column=':rise of sum_total_ever by row', min_value=0)" in strict

    def test_a_count_of_a_continuous_view_may_stay_and_be_nothing(self, tmp_path):
        features = [aggregation("count", "total", 7), aggregation("count", "total")]
        definition = table(tmp_path, "orders", [customer], features, ORDERS, continuous=True).definition
        strict = told(by_definition(definition).expectations)
        assert "expect_column_values_to_be_between(column='count_total_7d', min_value=0)" in strict
        assert "expect_column_values_to_be_between(column=':rise of count_total_ever by row', min_value=0)" in strict


class TestBoundsByWeekday:
    @pytest.mark.parametrize(
        ("weeks", "name", "limit"),
        [
            ([1000, 1000, 1000], "min_value", 496),
            ([1000, 1000, 1000], "max_value", 504),
            ([1000, 900, 1100], "min_value", 413),
            ([3, 3, 3], "min_value", 0),
            ([0, 0, 0], "min_value", 0),
        ],
    )
    def test_a_count_has_the_slack_of_chance(self, weeks, name, limit):
        pytest.importorskip("scipy")
        assert bound(0.5, weeks, name, Expectation(ROW_COUNT, min_value=same_weekday(0.5))) == limit

    @pytest.mark.parametrize("rate", [0.3, 1, 3, 10, 30, 100])
    def test_counts_of_the_same_rate_raise_no_alarm(self, rate):
        pytest.importorskip("scipy")
        random, count = np.random.default_rng(1), Expectation(ROW_COUNT, min_value=same_weekday(0.6))
        days = [(random.poisson(rate, 3).tolist(), int(random.poisson(rate))) for _ in range(200)]
        assert all(bound(0.6, weeks, "min_value", count) <= day for weeks, day in days)
        assert all(bound(1.7, weeks, "max_value", count) >= day for weeks, day in days)

    @pytest.mark.parametrize(("weeks", "lost"), [([100] * 8, 30), ([1000] * 3, 400), ([90, 110, 100, 500], 10)])
    def test_a_day_that_lost_most_of_its_rows_raises_one(self, weeks, lost):
        pytest.importorskip("scipy")
        assert bound(0.6, weeks, "min_value", Expectation(ROW_COUNT, min_value=same_weekday(0.6))) > lost

    def test_another_number_has_none(self):
        mean = Expectation("expect_column_mean_to_be_between", column="a", min_value=same_weekday(0.5))
        assert bound(0.5, [10.0, 20.0, 60.0], "min_value", mean) == 10


def days_of(place, tables, expectations=()):
    with spooling() as spooled:
        yield from spool_transactions(spooled, place, tables, expectations).days()


class TestDays:
    def test_rows_of_all_files_come_by_day_with_their_places(self, tmp_path):
        folder = tmp_path / "transactions"
        folder.mkdir()
        (folder / "a.csv").write_text(f"{HEADER}\n1,5,2026-01-02T23:59:59Z,1\n1,5,1969-12-31T23:59:59Z,2\n")
        (folder / "b.csv").write_text(f"{HEADER}\n2,5,2026-01-03T00:00:00Z,3\n1,5,2026-01-02T00:00:00Z,4\n")
        days = list(days_of(folder, [purchases(tmp_path)]))
        assert [day.day for day in days] == [-1, 20455, 20456]
        assert [(day.files.tolist(), day.places.tolist()) for day in days] == [([0], [1]), ([1, 0], [1, 0]), ([1], [0])]

    def test_a_column_is_read_as_it_is_declared(self, tmp_path):
        (tmp_path / "transactions.csv").write_text(f"{HEADER}\n1,5,2026-01-02T00:00:00Z,1\n")
        shop = table(tmp_path, "shop", [user], [aggregation("count", "purchase_amount")], {"product_id": Int64})
        wanted = Expectation("expect_column_values_to_be_unique", column="product_id")
        [day] = days_of(tmp_path / "transactions.csv", [shop], [wanted])
        assert day.rows.schema.field("product_id").type == pa.int64()

    @pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
    def test_a_large_file_is_read_in_pieces_to_the_same_rows(self, tmp_path, monkeypatch, suffix):
        times = [f"2026-01-02T00:{minute:02}:{second:02}Z" for minute in range(60) for second in range(60)]
        rows = pd.DataFrame({"user_id": range(3600), "timestamp": times, "purchase_amount": 1.5})
        file = tmp_path / f"transactions{suffix}"
        if suffix == ".csv":
            rows.to_csv(file, index=False)
        elif suffix == ".parquet":
            rows.to_parquet(file, index=False)
        else:
            rows.to_json(file, orient="records", lines=True)
        shop = purchases(tmp_path)
        [whole] = days_of(file, [shop])
        monkeypatch.setattr("parity.quality.pieces.BYTES", 10_000)
        monkeypatch.setattr("parity.quality.pieces.ROWS", 1000)
        [parted] = days_of(file, [shop])
        assert parted.rows == whole.rows
        assert parted.places.tolist() == whole.places.tolist() == list(range(3600))
        if suffix == ".csv":
            assert "pieces" in str(next(pieces(file, shop.definition.reading, tmp_path / "pieces")))
            file.write_text(file.read_text().replace("3000,", "x,"))
            with pytest.raises(RefusedError, match=r"transactions.csv, row 3001 \(line 3002\): user_id 'x'"):
                list(days_of(file, [shop]))

    def test_a_row_that_another_file_pushes_down_leaves_the_digest_of_its_day(self, tmp_path):
        row, other = "1,5,2026-01-02T00:00:00Z,1", "1,5,2026-01-01T00:00:00Z,1"
        digests = []
        for rows in ([row], [other, row], ["1,5,2026-01-02T00:00:00Z,2"]):
            (tmp_path / "transactions.csv").write_text("\n".join([HEADER, *rows, ""]))
            digests.append(list(days_of(tmp_path / "transactions.csv", [purchases(tmp_path)]))[-1].digest)
        assert digests[0] == digests[1] != digests[2]

    def test_nulls_are_there_to_be_judged_and_other_values_refused(self, tmp_path):
        file = tmp_path / "transactions.csv"
        file.write_text(f"{HEADER}\n,5,2026-01-02T00:00:00Z,\n")
        [day] = days_of(file, [purchases(tmp_path)])
        assert day.rows.select(["user_id", "purchase_amount"]).to_pylist() == [
            {"user_id": None, "purchase_amount": None}
        ]
        file.write_text(f"{HEADER}\n1,5,2026-01-02T00:00:00Z,much\n")
        with pytest.raises(RefusedError, match=r"row 1 \(line 2\): purchase_amount 'much'"):
            list(days_of(file, [purchases(tmp_path)]))

    def test_the_smallest_and_largest_of_a_window_include_both_ends(self, tmp_path):
        shop, file = purchases(tmp_path), tmp_path / "transactions.csv"
        rows = ["1,5,2026-01-01T00:00:00Z,5", "1,5,2026-01-04T00:00:00Z,9", "1,5,2026-01-04T00:00:01Z,7"]
        file.write_text("\n".join([HEADER, *rows, "2,5,2026-01-04T00:00:00Z,1", ""]))
        pq.write_table(
            aggregate(read_transactions(file, shop.definition), shop.definition), tmp_path / "features.parquet"
        )
        derived = by_definition(shop.definition)
        with spooling() as spooled:
            transactions = spool_transactions(spooled, file, [shop], [])
            features = spool_features(spooled, [tmp_path / "features.parquet"], shop.definition, derived, transactions)
            found = pa.concat_tables([day.rows for day in features.days()]).sort_by(
                [("user_id", "ascending"), ("event_timestamp", "ascending")]
            )
        [(smallest, largest)] = derived.windows.values()
        assert found[smallest].to_pylist() == [5, 5, 7, 1]
        assert found[largest].to_pylist() == [5, 9, 9, 1]
        assert found[f":rise of {TOTAL} by row"].to_pylist() == [None, 1, 1, None]

    def test_a_table_of_other_features_is_refused(self, tmp_path):
        shop = purchases(tmp_path)
        pq.write_table(pa.table({"user_id": pa.array([1])}), tmp_path / "features.parquet")
        with spooling() as spooled, pytest.raises(UserError, match="no column event_timestamp"):
            spool_features(
                spooled, [tmp_path / "features.parquet"], shop.definition, by_definition(shop.definition), None
            )

    def test_every_function_has_something_to_hold_it_to(self, tmp_path):
        definition = table(tmp_path, "customers", [customer], EVERY_FUNCTION, ORDERS).definition
        expected = [one for one in by_definition(definition).expectations[1:] if "null" not in one.type]
        free = {rule.name for rule in definition.rules if not any(rule.name in str(one) for one in expected)}
        assert free == {"sum_total_7d", "first_sku_7d", "last_sku_ever", "sum_quantity_ever"}


class TestQuarantine:
    def test_lines_are_copied_as_they_are(self, tmp_path):
        file = tmp_path / "t.csv"
        file.write_bytes(b'id,note\r\n1,"two\r\nlines"\r\n\r\n2,plain\r\n3,"x"')
        rest = set_aside(file, {file: [0, 2]}, Reading(), tmp_path / "q", {})
        assert rest.read_bytes() == b"id,note\r\n\r\n2,plain\r\n"
        assert (tmp_path / "q/set_aside/t.csv").read_bytes() == b'id,note\r\n1,"two\r\nlines"\r\n3,"x"'
        assert quarantine_of(rest) == {"transactions": str(file), "rows": 2}

    def test_text_in_another_encoding_without_a_header_and_compressed(self, tmp_path):
        file = tmp_path / "t.csv.gz"
        file.write_bytes(gzip.compress("1;ü\n2;ö\n".encode("utf-16")))
        reading = Reading(encoding="utf-16", delimiter=";", column_names=("id", "note"))
        rest = set_aside(file, {file: [1]}, reading, tmp_path / "q", {})
        assert rest.name == "t.csv"
        assert rest.read_text("utf-16") == "1;ü\n"

    def test_parquet_keeps_all_its_columns(self, tmp_path):
        file = tmp_path / "t.parquet"
        pq.write_table(pa.table({"id": [1, 2, 3], "more": ["a", "b", "c"]}), file, row_group_size=2)
        rest = set_aside(file, {file: [2]}, Reading(), tmp_path / "q", {})
        assert pq.read_table(rest).to_pydict() == {"id": [1, 2], "more": ["a", "b"]}
        assert pq.read_table(tmp_path / "q/set_aside/t.parquet").to_pydict() == {"id": [3], "more": ["c"]}

    def test_a_folder_keeps_its_files_and_json_is_refused(self, tmp_path):
        folder = tmp_path / "in"
        (folder / "day=1").mkdir(parents=True)
        one, other = folder / "a.csv", folder / "day=1" / "b.csv"
        for file in (one, other):
            file.write_text("id\n1\n2\n")
        rest = set_aside(folder, {one: [0], other: []}, Reading(), tmp_path / "q", {})
        assert sorted(file.read_text() for file in rest.rglob("*.csv")) == ["id\n1\n2\n", "id\n2\n"]
        assert [file.name for file in (tmp_path / "q/set_aside").rglob("*.csv")] == ["a.csv"]
        with pytest.raises(UserError, match="and not of JSON"):
            set_aside(folder, {folder / "c.jsonl": [0]}, Reading(), tmp_path / "q", {})

    def test_what_is_delivered_is_read_though_features_are_computed_of_what_was_accepted(self, tmp_path, monkeypatch):
        shop = table(tmp_path, "purchases", [user], [aggregation("mean", "purchase_amount", 3, AVERAGE)])
        shop.transactions.write_text("user_id\n1\n2\n")
        monkeypatch.chdir(tmp_path)
        here = shop.transactions.relative_to(tmp_path)
        rest = set_aside(here, {here: [0]}, Reading(), tmp_path / "q", {})
        note_origin(shop, location(shop.source.path), rest)
        monkeypatch.chdir("/")
        assert origins_of([shop], None) == [rest]
        assert deliveries_of([shop], None) == [shop.transactions]
        assert deliveries_of([shop], rest) == [rest], "what is named is read"
        again = set_aside(rest, {rest: []}, Reading(), tmp_path / "q2", {})
        assert delivered(again) == shop.transactions, "also of what was accepted of what was accepted"

    def test_of_other_transactions_there_is_none(self, tmp_path):
        assert quarantine_of(tmp_path / "t.csv") is None
        assert quarantine_of("s3://bucket/t.csv") is None


@pytest.mark.skipif(find_spec("great_expectations") is not None, reason="it is installed")
def test_without_the_package_a_check_says_what_to_install(project):
    project.succeed("generate_synthetic_data.py")
    error = project.fail("parity/__main__.py", "quality", "-c", project.root / "feature_repo")
    assert "pip install -r requirements-quality.txt" in error
