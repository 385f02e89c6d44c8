"""The features that the tests declare, so that nobody who edits feature_repo/features.py breaks one.

`purchases` is a table as of the shop in README; the others are its neighbours: text keys, several keys, all functions.
"""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.types import FeastType, Float64, Int64, String

from parity import AggregatedFeatureView, Expectation, TransactionSource
from parity.definition.checks import FeatureTable
from parity.edge.files import location

AVERAGE, TOTAL = "average_amount_3d", "purchases"
WINDOW, TTL = timedelta(days=3), timedelta(days=30)

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
store = Entity(name="store", join_keys=["store_id"], value_type=ValueType.INT64)
product = Entity(name="product", join_keys=["sku"], value_type=ValueType.STRING)


def aggregation(function: str, column: str, days: float | None = None, name: str | None = None) -> Aggregation:
    """An aggregation over a window of ``days``, or over all there is, called by what it is."""
    window = None if days is None else timedelta(days=days)
    return Aggregation(
        name=name or f"{function}_{column}_{'ever' if days is None else f'{days}d'}".replace(".", "_"),
        function=function,
        column=column,
        time_window=window,
    )


def table(
    folder: Path,
    name: str,
    entities: Sequence[Entity],
    aggregations: Sequence[Aggregation],
    schema: dict[str, FeastType] | None = None,
    where: str | None = None,
    ttl: timedelta | None = TTL,
    service: str | None = None,
    transactions: str = "transactions.csv",
    continuous: bool = False,
    horizon: timedelta | None = None,
    expectations: Sequence[Expectation] = (),
    **reading,
) -> FeatureTable:
    """A feature table in ``folder``: its transactions, its features in a Parquet file, and a service of its own."""
    source = TransactionSource(
        name=f"{name}_transactions",
        path=str(folder / transactions),
        schema=[Field(name=column, dtype=dtype) for column, dtype in (schema or {}).items()],
        expectations=expectations,
        **reading,
    )
    view = AggregatedFeatureView(
        name=name,
        entities=entities,
        ttl=ttl,
        transactions=source,
        aggregations=aggregations,
        where=where,
        continuous=continuous,
        horizon=horizon,
        source=FileSource(
            name=f"{name}_source", path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp"
        ),
    )
    return FeatureTable(
        view, view.definition, FeatureService(name=service or f"{name}_service", features=[view]), location(source.path)
    )


def purchases(folder: Path) -> FeatureTable:
    """int64 keys, a mean over three days and a count, of CSV with user_id, product_id, timestamp, purchase_amount."""
    return table(
        folder,
        "purchases",
        [user],
        [
            aggregation("mean", "purchase_amount", 3, AVERAGE),
            aggregation("count", "purchase_amount", name=TOTAL),
        ],
    )


ORDERS = {"total": Float64, "quantity": Int64, "sku": String, "status": String}
"""The columns of orders, beside customer_id (text), store_id (int64) and timestamp."""

EVERY_FUNCTION = [
    aggregation("count", "total", 7),
    aggregation("sum", "total", 7),
    aggregation("mean", "total", 7),
    aggregation("min", "total", 30),
    aggregation("max", "total", 30),
    aggregation("var", "total", 7),
    aggregation("std", "total", 7),
    aggregation("first", "sku", 7),
    aggregation("last", "sku"),
    aggregation("count_distinct", "sku", 7),
    aggregation("sum", "quantity"),
    aggregation("max", "quantity"),
    aggregation("count", "total", 1 / 24, "orders_1h"),
]


def customers(folder: Path, where: str | None = None) -> FeatureTable:
    """Text keys and every function, of orders."""
    return table(folder, "customers", [customer], EVERY_FUNCTION, ORDERS, where, transactions="orders.csv")


def customers_in_stores(folder: Path) -> FeatureTable:
    """Two join keys, text and int64, and a condition, of orders."""
    features = [
        aggregation("max", "total", 90),
        aggregation("std", "total", 30),
        aggregation("count", "total"),
        aggregation("last", "quantity"),
    ]
    return table(
        folder, "customers_in_stores", [customer, store], features, ORDERS, "status = 'paid'", transactions="orders.csv"
    )
