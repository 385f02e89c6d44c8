"""Three common ways to compute the same feature that are not the same: how much skew they would have caused.

Each takes raw purchases and gives, per key (a number), the mean of "the last three days" at the key's last purchase, as
a data scientist, a backend engineer and an analyst might each write it. Nothing in the pipeline uses them; the report
draws them against the true value.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from zoneinfo import ZoneInfo

import duckdb
import pandas as pd

from parity.definition.table import Rule
from parity.proof.raw import Purchase

LOCAL_ZONE = ZoneInfo("America/New_York")

Purchases = Mapping[int, Sequence[Purchase]]


def rolling_rows(purchases: Purchases, rule: Rule) -> dict[int, float]:
    """pandas `rolling(3)`: the last three rows, whatever their age."""
    frame = _frame(purchases, rule)
    rolled = frame.groupby("user")["amount"].rolling(rule.time_window // timedelta(days=1), min_periods=1).mean()
    return rolled.groupby("user").last().to_dict()


def sql_interval(purchases: Purchases, rule: Rule) -> dict[int, float]:
    """SQL `time > last - INTERVAL 3 DAY AND time < last`: neither end of the window is in it."""
    days = rule.time_window // timedelta(days=1)
    query = f"""
        SELECT user, avg(amount) FILTER (time > last - INTERVAL {days} DAY AND time < last) AS value
        FROM (SELECT *, max(time) OVER (PARTITION BY user) AS last FROM frame) GROUP BY user
    """
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("frame", _frame(purchases, rule))
        found = connection.execute(query).fetchall()
    return {user: value for user, value in found if value is not None}


def local_days(purchases: Purchases, rule: Rule) -> dict[int, float]:
    """Calendar days of the server's time zone: today and the days before, three in all."""
    frame = _frame(purchases, rule)
    day = frame["time"].dt.tz_convert(LOCAL_ZONE).dt.normalize().dt.tz_localize(None)
    last = day.groupby(frame["user"]).transform("max")
    inside = day > last - rule.time_window
    return frame[inside].groupby("user")["amount"].mean().to_dict()


IMPLEMENTATIONS: dict[str, Callable[[Purchases, Rule], dict[int, float]]] = {
    "pandas rolling(3) over rows": rolling_rows,
    "SQL INTERVAL 3 DAY, bounds exclusive": sql_interval,
    "days of local time": local_days,
}


def _frame(purchases: Purchases, rule: Rule) -> pd.DataFrame:
    rows = [
        (key, p.time, float(p.values[rule.column]))
        for key, some in purchases.items()
        for p in some
        if 1 < p.time.year < 9999  # at the very ends of the calendar there is not a local time everywhere
    ]
    frame = pd.DataFrame(rows, columns=["user", "time", "amount"])
    frame["time"] = pd.array(frame["time"], dtype="datetime64[us, UTC]")  # nanoseconds do not reach every year
    return frame.sort_values(["user", "time"], kind="stable")
