"""What the watch of `make watch` looks at: features of a shop, what is expected of them, and which drift matters."""

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64

from parity import AggregatedFeatureView, Expectation, TransactionSource, ago, check_definitions, same_weekday, usually

DATA = Path(__file__).resolve().parent / "data"
BETWEEN = "expect_column_values_to_be_between"

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)

purchases = TransactionSource(
    name="purchases",
    path=str(DATA / "purchases.csv"),
    timestamp_field="timestamp",
    schema=[
        Field(name="purchase_amount", dtype=Float64, tags={"unit": "$"}),
        Field(name="product_id", dtype=Int64),
    ],
    expectations=[
        Expectation(BETWEEN, column="purchase_amount", min_value=-1000, max_value=1000),
        Expectation(BETWEEN, column="purchase_amount", min_value=0, mostly=usually(0.98)),
        Expectation(BETWEEN, column="timestamp", max_value=ago(minutes=-5)),
        Expectation("expect_column_max_to_be_between", column="timestamp", min_value=ago(days=2), newest_day=True),
        Expectation("expect_table_row_count_to_be_between", min_value=same_weekday(0.6), max_value=same_weekday(1.7)),
    ],
)

spending = AggregatedFeatureView(
    name="spending",
    entities=[user],
    ttl=timedelta(days=30),
    transactions=purchases,
    aggregations=[
        Aggregation(name="mean_3_days", function="mean", column="purchase_amount", time_window=timedelta(days=3)),
        Aggregation(name="purchases_7_days", function="count", column="purchase_amount", time_window=timedelta(days=7)),
    ],
    source=FileSource(
        name="spending_source",
        path=str(DATA / "spending.parquet"),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    ),
    tags={"matters.mean_3_days": "5%", "matters.purchases_7_days": "10%"},  # a smaller drift is no alarm
)

spending_features = FeatureService(name="spending_features", features=[spending])

check_definitions(globals())
