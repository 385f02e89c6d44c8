"""Six feature views of a shop chain, from three files that nobody tidied up: what a stranger declares."""

from datetime import timedelta

from feast import Entity, FeatureService, Field, ValueType
from feast.aggregation import Aggregation
from feast.types import Float64, Int64, String

from parity import AggregatedFeatureView, TransactionSource, check_definitions

HOUR, WEEK, MONTH, QUARTER = timedelta(hours=1), timedelta(days=7), timedelta(days=30), timedelta(days=90)

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
store = Entity(name="store", join_keys=["store_id"], value_type=ValueType.INT64)
product = Entity(name="product", join_keys=["sku"], value_type=ValueType.STRING)
visitor = Entity(name="visitor", join_keys=["visitor_id"], value_type=ValueType.INT64)

orders = TransactionSource(
    name="orders",
    path="../orders.csv",
    timestamp_field="ordered_at",
    timestamp_format="%m/%d/%Y %H:%M",
    time_zone="America/New_York",
    field_mapping={"Customer ID": "customer_id", "Order Date": "ordered_at", "Store": "store_id"},
    schema=[
        Field(name="total", dtype=Float64, tags={"unit": "$"}),
        Field(name="quantity", dtype=Int64),
        Field(name="sku", dtype=String),
        Field(name="status", dtype=String),
    ],
)
order_lines = TransactionSource(
    name="order_lines",
    path="../orders.csv",
    timestamp_field="ordered_at",
    timestamp_format="%m/%d/%Y %H:%M",
    time_zone="America/New_York",
    field_mapping={"Customer ID": "customer_id", "Order Date": "ordered_at", "Store": "store_id"},
    schema=[Field(name="total", dtype=Float64), Field(name="quantity", dtype=Int64)],
)
visits = TransactionSource(
    name="visits",
    path="../visits",
    timestamp_field="at",
    timestamp_format="milliseconds",
    schema=[Field(name="page", dtype=String), Field(name="seconds", dtype=Int64)],
)


def aggregation(function: str, column: str, window: timedelta | None, name: str) -> Aggregation:
    return Aggregation(name=name, function=function, column=column, time_window=window)


customer_orders = AggregatedFeatureView(
    name="customer_orders",
    entities=[customer],
    ttl=timedelta(days=60),
    transactions=orders,
    aggregations=[
        aggregation("count", "total", WEEK, "orders_7d"),
        aggregation("sum", "total", WEEK, "spent_7d"),
        aggregation("mean", "total", MONTH, "average_30d"),
        aggregation("min", "total", MONTH, "smallest_30d"),
        aggregation("max", "total", None, "largest"),
        aggregation("first", "sku", None, "first_sku"),
        aggregation("last", "sku", MONTH, "last_sku"),
        aggregation("count_distinct", "sku", QUARTER, "different_skus_90d"),
        aggregation("var", "total", MONTH, "variance_30d"),
        aggregation("std", "total", MONTH, "deviation_30d"),
    ],
)

store_orders = AggregatedFeatureView(
    name="store_orders",
    entities=[store],
    transactions=orders,
    aggregations=[
        aggregation("sum", "quantity", None, "pieces"),
        aggregation("max", "sku", WEEK, "highest_sku_7d"),
        aggregation("count", "total", HOUR, "orders_1h"),
    ],
)

paid_orders = AggregatedFeatureView(
    name="paid_orders",
    entities=[customer, store],
    ttl=timedelta(days=60),
    transactions=orders,
    where="status = 'paid' AND total > 0",
    aggregations=[
        aggregation("max", "total", QUARTER, "largest_paid_90d"),
        aggregation("std", "total", None, "paid_deviation"),
        aggregation("last", "quantity", None, "last_quantity"),
    ],
)

product_orders = AggregatedFeatureView(
    name="product_orders",
    entities=[product],
    ttl=None,
    transactions=order_lines,
    aggregations=[
        aggregation("mean", "quantity", WEEK, "average_quantity_7d"),
        aggregation("var", "quantity", None, "quantity_variance"),
        aggregation("min", "quantity", None, "smallest_quantity"),
    ],
)

visitor_pages = AggregatedFeatureView(
    name="visitor_pages",
    entities=[visitor],
    ttl=timedelta(days=60),
    transactions=visits,
    aggregations=[
        aggregation("count_distinct", "page", None, "pages"),
        aggregation("sum", "seconds", HOUR, "seconds_1h"),
        aggregation("first", "page", HOUR, "entry_1h"),
    ],
)

visitor_products = AggregatedFeatureView(
    name="visitor_products",
    entities=[visitor, product],
    ttl=timedelta(days=60),
    transactions=visits,
    where="sku IS NOT NULL",
    aggregations=[aggregation("count", "seconds", QUARTER, "views_90d"), aggregation("last", "page", None, "seen_on")],
)

customer_service = FeatureService(name="customer_service", features=[customer_orders])
shop_service = FeatureService(
    name="shop_service", features=[customer_orders, store_orders, paid_orders, product_orders]
)
visitor_service = FeatureService(name="visitor_service", features=[visitor_pages, visitor_products])

check_definitions(globals())
