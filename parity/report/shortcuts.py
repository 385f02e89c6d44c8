"""Three common ways to compute the same feature that are not the same: how much skew they would have caused.

Each takes raw purchases and gives, per user, the mean amount of "the last three days" at the user's last purchase, as a
data scientist, a backend engineer and an analyst might each write it. Nothing in the pipeline uses them; the report
draws them against the true value.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from zoneinfo import ZoneInfo

import duckdb
import pandas as pd
from feast.aggregation import Aggregation

from parity.proof.oracle import Purchase

LOCAL_ZONE = ZoneInfo("America/New_York")

Purchases = Mapping[int, Sequence[Purchase]]


def rolling_rows(purchases: Purchases, aggregation: Aggregation) -> dict[int, float]:
    """pandas `rolling(3)`: the last three rows, whatever their age."""
    frame = _frame(purchases, aggregation)
    rolled = frame.groupby("user")["amount"].rolling(aggregation.time_window // timedelta(days=1), min_periods=1).mean()
    return rolled.groupby("user").last().to_dict()


def sql_interval(purchases: Purchases, aggregation: Aggregation) -> dict[int, float]:
    """SQL `time > last - INTERVAL 3 DAY AND time < last`: neither end of the window is in it."""
    days = aggregation.time_window // timedelta(days=1)
    query = f"""
        SELECT user, avg(amount) FILTER (time > last - INTERVAL {days} DAY AND time < last) AS value
        FROM (SELECT *, max(time) OVER (PARTITION BY user) AS last FROM frame) GROUP BY user
    """
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("frame", _frame(purchases, aggregation))
        found = connection.execute(query).fetchall()
    return {user: value for user, value in found if value is not None}


def local_days(purchases: Purchases, aggregation: Aggregation) -> dict[int, float]:
    """Calendar days of the server's time zone: today and the days before, three in all."""
    frame = _frame(purchases, aggregation)
    day = frame["time"].dt.tz_convert(LOCAL_ZONE).dt.normalize().dt.tz_localize(None)
    last = day.groupby(frame["user"]).transform("max")
    inside = day > last - aggregation.time_window
    return frame[inside].groupby("user")["amount"].mean().to_dict()


IMPLEMENTATIONS: dict[str, Callable[[Purchases, Aggregation], dict[int, float]]] = {
    "pandas rolling(3) over rows": rolling_rows,
    "SQL INTERVAL 3 DAY, bounds exclusive": sql_interval,
    "days of local time": local_days,
}


def _frame(purchases: Purchases, aggregation: Aggregation) -> pd.DataFrame:
    rows = [
        (user, p.time, float(p.amounts[aggregation.column]))
        for user, some in purchases.items()
        for p in some
        if 1 < p.time.year < 9999  # at the very ends of the calendar there is not a local time everywhere
    ]
    frame = pd.DataFrame(rows, columns=["user", "time", "amount"])
    frame["time"] = pd.array(frame["time"], dtype="datetime64[us, UTC]")  # nanoseconds do not reach every year
    return frame.sort_values(["user", "time"], kind="stable")
