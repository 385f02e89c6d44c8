"""The single source of truth: what the features are, how they are computed, and where they live.

    cd feature_repo && feast apply

Everything else asks this file. An aggregation is the logic: compute_features.py runs it, and the fields of the feature
view take their names and types from it. A window is [T - time_window, T], both ends included, at the instant T of each
purchase. The last line checks it all, so `feast apply` refuses what the scripts would.
"""

import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64

from parity import AggregatedFeatureView, Expectation, TransactionSource, ago, check_definitions, same_weekday, usually
from parity.edge.files import absolute, location

ROOT = Path(__file__).resolve().parent.parent
OFFLINE_PATH = os.environ.get("FEATURE_STORE_OFFLINE_PATH") or str(ROOT / "data" / "user_features.parquet")
"""Where the features are kept, for training: a Parquet file or a folder of them, also in a bucket (s3://)."""

user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.INT64,
    description="A customer of the shop",
)

transactions = TransactionSource(
    name="user_transactions",
    path=str(ROOT / "user_transactions.csv"),
    timestamp_field="timestamp",
    schema=[
        Field(name="purchase_amount", dtype=Float64, tags={"unit": "$"}),
        Field(name="product_id", dtype=Int64),
    ],
    expectations=[  # of each day; keys and types are declared already
        Expectation("expect_column_values_to_be_between", column="purchase_amount", min_value=-1000, max_value=1000),
        Expectation("expect_column_values_to_be_between", column="purchase_amount", min_value=0, mostly=usually(0.98)),
        Expectation(
            "expect_column_values_to_not_be_in_set", column="purchase_amount", value_set=[0], mostly=usually(0.99)
        ),
        Expectation("expect_column_values_to_be_between", column="product_id", min_value=1),
        Expectation(
            "expect_compound_columns_to_be_unique",
            column_list=["user_id", "timestamp", "product_id", "purchase_amount"],
            mostly=usually(0.99999),
        ),
        Expectation(  # of the same minute two purchases may be, if few users buy much
            "expect_compound_columns_to_be_unique",
            column_list=["user_id", "timestamp"],
            mostly=usually(0.999),
            severity="warning",
        ),
        Expectation("expect_column_values_to_be_between", column="timestamp", max_value=ago(minutes=-5)),
        Expectation("expect_column_max_to_be_between", column="timestamp", min_value=ago(days=3), newest_day=True),
        Expectation("expect_table_row_count_to_be_between", min_value=same_weekday(0.6), max_value=same_weekday(1.7)),
        Expectation(
            "expect_column_unique_value_count_to_be_between",
            column="product_id",
            min_value=same_weekday(0.7),
            max_value=same_weekday(1.3),
        ),
    ],
)

user_purchase_features = AggregatedFeatureView(
    name="user_purchase_features",
    entities=[user],
    ttl=timedelta(days=30),
    transactions=transactions,
    aggregations=[
        Aggregation(
            name="user_avg_3day_purchase_amount",
            function="mean",
            column="purchase_amount",
            time_window=timedelta(days=3),
        ),
        Aggregation(name="user_total_transactions", function="count", column="purchase_amount"),
    ],
    source=FileSource(
        name="user_features_source",
        path=str(absolute(location(OFFLINE_PATH))),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    ),
)

user_features = FeatureService(
    name="user_features",
    features=[user_purchase_features],
    description="What training and serving both ask for, by this name",
)

check_definitions(globals())
