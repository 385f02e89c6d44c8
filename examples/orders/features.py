"""Features of customers and of stores, made of one file of orders."""

from datetime import timedelta

from feast import Entity, FeatureService, Field, ValueType
from feast.aggregation import Aggregation
from feast.types import Float64, String

from parity import AggregatedFeatureView, TransactionSource, check_definitions

WEEK, MONTH = timedelta(days=7), timedelta(days=30)

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
store = Entity(name="store", join_keys=["store_id"], value_type=ValueType.INT64)

orders = TransactionSource(
    path="../orders.csv",  # from the folder of this file
    timestamp_field="order_ts",
    time_zone="Europe/Berlin",
    schema=[Field(name="total", dtype=Float64, tags={"unit": "€"}), Field(name="sku", dtype=String)],
)


def features_of(entity: Entity) -> AggregatedFeatureView:
    return AggregatedFeatureView(
        name=f"{entity.name}_orders",
        entities=[entity],
        ttl=None,  # a value lives for ever
        transactions=orders,
        where="status <> 'refunded'",
        aggregations=[
            Aggregation(name="spent_7d", function="sum", column="total", time_window=WEEK),
            Aggregation(name="orders_30d", function="count", column="total", time_window=MONTH),
            Aggregation(name="largest_30d", function="max", column="total", time_window=MONTH),
            Aggregation(name="deviation_30d", function="std", column="total", time_window=MONTH),
            Aggregation(name="last_sku", function="last", column="sku"),
            Aggregation(name="different_skus", function="count_distinct", column="sku"),
        ],
    )


customer_orders, store_orders = features_of(customer), features_of(store)
customer_service = FeatureService(name="customer_service", features=[customer_orders])
store_service = FeatureService(name="store_service", features=[store_orders])

check_definitions(globals())
