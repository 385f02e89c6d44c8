"""Features of customers of a shop for music, made of what they bought: for how likely each is to buy again.

    cd examples/cdnow && feast apply

An example of features of one's own, on real purchases (see cdnow.py): ids that are texts with leading zeros, dates of a
form of their own, several windows, and what is true of a customer's whole past.
"""

from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.types import Float64, Int64

from parity import AggregatedFeatureView, Experiment, TransactionSource, check_definitions

DATA = Path(__file__).resolve().parent / "data"
WINDOWS = {"7d": timedelta(days=7), "30d": timedelta(days=30), "90d": timedelta(days=90)}

customer = Entity(
    name="customer",
    join_keys=["customer_id"],
    value_type=ValueType.STRING,  # 00004 is not 4
    description="A customer who first bought in the first quarter of 1997",
)

purchases = TransactionSource(
    name="purchases",
    path=str(DATA / "CDNOW_master.txt"),
    delimiter="whitespace",
    skip_rows=1,
    column_names=["customer_id", "date", "cds", "dollars"],
    timestamp_columns=["date"],  # so that the date, a number such as 19970118, is a column of its own as well
    timestamp_format="%Y%m%d",
    schema=[
        Field(name="date", dtype=Int64),
        Field(name="cds", dtype=Int64),
        Field(name="dollars", dtype=Float64, tags={"unit": "$"}),
    ],
)

customer_purchases = AggregatedFeatureView(
    name="customer_purchases",
    entities=[customer],
    ttl=timedelta(days=365),  # after the last change, which is 90 days after the last purchase
    transactions=purchases,
    continuous=True,
    horizon=timedelta(days=30),  # how long a materialization lasts, as no events come in between
    aggregations=[
        *(
            Aggregation(name=f"purchases_{name}", function="count", column="date", time_window=window)
            for name, window in WINDOWS.items()
        ),
        *(
            Aggregation(name=f"dollars_{name}", function="sum", column="dollars", time_window=window)
            for name, window in WINDOWS.items()
        ),
        Aggregation(name="cds_90d", function="sum", column="cds", time_window=WINDOWS["90d"]),
        Aggregation(name="purchases", function="count", column="date"),
        Aggregation(name="days_with_purchases", function="count_distinct", column="date"),
        Aggregation(name="dollars", function="sum", column="dollars"),
        Aggregation(name="largest", function="max", column="dollars"),
        Aggregation(name="first_date", function="min", column="date"),
        Aggregation(name="last_date", function="max", column="date"),
    ],
    source=FileSource(
        name="customer_purchases_source",
        path=str(DATA / "customer_purchases.parquet"),
        timestamp_field="event_timestamp",
    ),
)

buys_again = FeatureService(
    name="buys_again",
    features=[customer_purchases],
    description="What the model is trained on and served with: does this customer buy again within 90 days?",
)

recency_and_frequency = FeatureService(
    name="recency_and_frequency",
    features=[customer_purchases[["days_with_purchases", "last_date"]]],
    description="The two features that anyone would take: on how many days a customer has bought, and when last",
)

scoring = Experiment(
    name="scoring",
    unit="customer_id",
    arms={"control": recency_and_frequency, "treatment": buys_again},
)

check_definitions(globals())
