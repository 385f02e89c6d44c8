"""Features of visitors that are right at every instant: their windows slide, and events are served as they come."""

from datetime import timedelta

from feast import Entity, FeatureService, Field, ValueType
from feast.aggregation import Aggregation
from feast.types import Float64, String

from parity import AggregatedFeatureView, TransactionSource, check_definitions

HOUR = timedelta(hours=1)

visitor = Entity(name="visitor", join_keys=["visitor_id"], value_type=ValueType.STRING)

visits = TransactionSource(
    name="visits",
    path="../visits",  # the folder that events land in
    timestamp_field="at",
    event_id="visit_id",  # a visit that is sent twice is one
    schema=[Field(name="page", dtype=String), Field(name="spent", dtype=Float64, tags={"unit": "€"})],
)

visitor_now = AggregatedFeatureView(
    name="visitor_now",
    entities=[visitor],
    ttl=timedelta(days=1),
    transactions=visits,
    continuous=True,
    aggregations=[
        Aggregation(name="visits_1h", function="count", column="page", time_window=HOUR),
        Aggregation(name="pages_1h", function="count_distinct", column="page", time_window=HOUR),
        Aggregation(name="spent_1d", function="sum", column="spent", time_window=24 * HOUR),
        Aggregation(name="last_page", function="last", column="page"),
    ],
)
visitor_service = FeatureService(name="visitor_service", features=[visitor_now])

check_definitions(globals())
