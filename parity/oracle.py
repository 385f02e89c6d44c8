"""The oracle: what a feature is worth, worked out the slow way, to check everything else against.

It shares nothing with the code that it checks: one purchase after another, exact fractions, Python's own calendar.
What it knows of the features it reads in their declaration, a Feast `Aggregation`.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from fractions import Fraction

from feast.aggregation import Aggregation

Purchase = tuple[datetime, Fraction]


def evaluate(aggregation: Aggregation, purchases: Iterable[Purchase], instant: datetime) -> float | int:
    """Work out ``aggregation`` for one user at ``instant``, an instant at which the user bought something."""
    amounts = []
    for time, amount in purchases:
        if time <= instant and _within(aggregation.time_window, instant - time):
            amounts.append(amount)
    if aggregation.function == "count":
        return len(amounts)
    if aggregation.function == "sum":
        return float(sum(amounts))
    if aggregation.function == "mean":
        return float(sum(amounts) / len(amounts))
    raise ValueError(f"the oracle does not know the function {aggregation.function!r}")


def _within(window: timedelta | None, age: timedelta) -> bool:
    return window is None or age <= window
