"""The single source of truth: what the features are, how they are computed, and where they live.

    cd feature_repo && feast apply

Everything else asks this file. `AGGREGATIONS` is the logic: compute_features.py runs it, and the fields of the feature
view take their names from it. A window is [T - time_window, T], both ends included, at the instant T of each purchase.
The last line checks it all, so `feast apply` refuses what the scripts would.
"""

import os
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.data_format import ParquetFormat
from feast.types import Float64, Int64

from parity.definition.checks import check_definitions
from parity.edge.files import absolute, location

average_3day = Aggregation(
    name="user_avg_3day_purchase_amount",
    function="mean",
    column="purchase_amount",
    time_window=timedelta(days=3),
)
total_transactions = Aggregation(
    name="user_total_transactions",
    function="count",
    column="purchase_amount",
)
AGGREGATIONS = [average_3day, total_transactions]

user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.INT64,
    description="A customer of the shop",
)

DATA = Path(__file__).resolve().parent.parent / "data"
OFFLINE_PATH = os.environ.get("FEATURE_STORE_OFFLINE_PATH") or str(DATA / "user_features.parquet")
"""Where the features are kept, for training: a Parquet file or a folder of them, also in a bucket (s3://)."""

user_features_source = FileSource(
    name="user_features_source",
    path=str(absolute(location(OFFLINE_PATH))),
    file_format=ParquetFormat(),
    timestamp_field="event_timestamp",
)

user_purchase_features = FeatureView(
    name="user_purchase_features",
    entities=[user],
    ttl=timedelta(days=30),
    schema=[
        Field(name=user.join_key, dtype=Int64),
        Field(
            name=average_3day.name,
            dtype=Float64,
            description="Mean amount of the user's purchases in the 3 days up to and including event_timestamp",
            tags={"unit": "$"},
        ),
        Field(
            name=total_transactions.name,
            dtype=Int64,
            description="Purchases the user had made up to and including event_timestamp",
        ),
    ],
    source=user_features_source,
    online=True,
)

user_features = FeatureService(
    name="user_features",
    features=[user_purchase_features],
    description="What training and serving both ask for, by this name",
)

check_definitions(globals())
