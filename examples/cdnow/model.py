"""What the model is: its inputs, made of features in one place for training, serving and proof, and how it is scored.

A customer's score is the probability that they buy again within `HORIZON` after an instant.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before scikit-learn: threads cost more than they bring to few rows

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from parity.definition.instants import EPOCH, MICROSECOND

SERVICE = "buys_again"
"""The FeatureService that the model is trained on and served with."""
HORIZON = timedelta(days=90)

AS_THEY_ARE = (
    *("purchases_7d", "purchases_30d", "purchases_90d", "dollars_7d", "dollars_30d", "dollars_90d", "cds_90d"),
    *("purchases", "days_with_purchases", "dollars", "largest"),
)
"""Features that are inputs themselves."""
DATES = {"first_date": "days_since_first", "last_date": "days_since_last"}
"""Features that are dates, such as 19970118, and the inputs that are the whole days from then to the instant."""
INPUTS = (*AS_THEY_ARE, *DATES.values())


def inputs_of(features: Iterable[str]) -> tuple[str, ...]:
    """Those of `INPUTS` that can be made of these ``features``: all of them, of those of `SERVICE`."""
    there = set(features)
    made = {name: name for name in AS_THEY_ARE} | {days: date for date, days in DATES.items()}
    return tuple(name for name in INPUTS if made[name] in there)


def matrix(
    features: Mapping[str, Sequence[Any]], instants: Sequence[datetime] | np.ndarray, inputs: Sequence[str] = INPUTS
) -> np.ndarray:
    """The inputs of the model, float64: a row for each customer, and a column for each of ``inputs``.

    ``features`` has a value for each customer under the name of each feature; None or NaN where there is none, as of a
    customer who is unknown or expired. That gives NaN. ``instants`` are those of the features, aware, or datetime64.
    """
    times = _times(instants)
    dates = {days: date for date, days in DATES.items()}
    columns = [
        _days_between(_numbers(features[dates[name]]), times) if name in dates else _numbers(features[name])
        for name in inputs
    ]
    return np.column_stack(columns)


def scores(model: Any, inputs: np.ndarray) -> np.ndarray:
    """The score of each row of ``inputs``, float64, the same bits whatever rows are beside it; NaN where any is NaN.

    That of trees: each adds the numbers of its leaves in the order of the trees, for one row as for many.
    """
    found = np.full(len(inputs), np.nan)
    whole = ~np.isnan(inputs).any(axis=1)
    if whole.any():
        found[whole] = model.predict_proba(inputs[whole])[:, 1]
    return found


def _numbers(values: Iterable[Any]) -> np.ndarray:
    return np.asarray(values if isinstance(values, np.ndarray) else list(values), np.float64)


def _times(instants: Sequence[datetime] | np.ndarray) -> np.ndarray:
    """Instants as datetime64, in UTC."""
    if isinstance(instants, np.ndarray):
        return instants.astype("datetime64[us]")
    return np.array([(at - EPOCH) // MICROSECOND for at in instants], "datetime64[us]")


def _days_between(dates: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """Whole days from ``dates``, written as 19970118, to ``instants``; NaN where a date is."""
    there = ~np.isnan(dates)
    written = np.where(there, dates, 19700101).astype(np.int64)
    months = (written // 10_000 - 1970) * 12 + written // 100 % 100 - 1
    days = months.astype("datetime64[M]").astype("datetime64[D]") + (written % 100 - 1)
    passed = (instants - days) // np.timedelta64(1, "D")
    return np.where(there, passed.astype(np.float64), np.nan)
