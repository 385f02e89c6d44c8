"""From rows to features, exactly: what a Feast `Aggregation` means at every instant of every key.

For each key and each instant T at which it has a row, an aggregation looks at the key's rows in [T - window, T], both
ends included and every row at exactly T included; without a ``time_window`` it looks at all rows up to and including
T. The functions ``mean``, ``sum`` and ``count`` are known.

Sums are exact, so the bits of a result depend on the rows in its window and on nothing else: not on the order of the
rows, on how they are split for processing, or on how much older history is there. An amount stands for the decimal
number with the fewest digits that reads back as the same float64, which is the number a CSV file shows: 0.1 is one
tenth. ``mean`` and ``sum`` are the float64 nearest to the exact decimal result (ties to even).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from feast.aggregation import Aggregation

MICROSECOND = timedelta(microseconds=1)
FUNCTIONS = {"mean": pa.float64(), "sum": pa.float64(), "count": pa.int64()}


def aggregate(rows: pa.Table, key: str, timestamp: str, aggregations: Sequence[Aggregation]) -> pa.Table:
    """Compute ``aggregations`` at every instant at which a key has a row.

    ``rows``, in any order, has no nulls: ``key`` int64, ``timestamp`` in whole microseconds (UTC), and the columns
    that the aggregations name, float64 and finite. The result has one row per distinct (key, timestamp), sorted by
    both: these two columns, then one per aggregation, under its name.

    Raises `ValueError` for an unknown function.
    """
    for aggregation in aggregations:
        if aggregation.function not in FUNCTIONS:
            raise ValueError(f"{aggregation.name}: {aggregation.function!r} is not one of {', '.join(FUNCTIONS)}")
    instants = _Instants(rows[key].to_numpy(), rows[timestamp].cast(pa.int64()).to_numpy())
    sums = {
        column: _ExactSums(rows[column].to_numpy()[instants.order])
        for column in {a.column for a in aggregations if a.function != "count"}
    }
    columns = {
        key: pa.array(instants.keys[instants.last]),
        timestamp: pa.array(instants.times[instants.last]).cast(rows.schema.field(timestamp).type),
    }
    for aggregation in aggregations:
        start, end = instants.windows(aggregation.time_window), instants.last + 1
        match aggregation.function:
            case "count":
                result = end - start
            case "sum":
                result = sums[aggregation.column].quotients(start, end, np.ones(len(end), np.int64))
            case "mean":
                result = sums[aggregation.column].quotients(start, end, end - start)
        columns[aggregation.name] = pa.array(result, FUNCTIONS[aggregation.function])
    return pa.table(columns)


class _Instants:
    """Rows sorted by (key, time), and where in them each distinct instant of a key, its past and its windows lie."""

    def __init__(self, keys: np.ndarray, times: np.ndarray):
        self.order = _order(keys, times)
        self.keys, self.times = keys[self.order], times[self.order]
        new_key = np.ones(len(keys), bool)
        np.not_equal(self.keys[1:], self.keys[:-1], out=new_key[1:])
        new_instant = new_key.copy()
        new_instant[1:] |= self.times[1:] != self.times[:-1]
        self.last = np.flatnonzero(np.append(new_instant[1:], True))
        """Position of the last row of each instant; it closes every window that ends there."""
        self._key_start = np.flatnonzero(new_key)
        self._key_number = np.cumsum(new_key)[self.last] - 1

    def windows(self, window: timedelta | None) -> np.ndarray:
        """For each instant T, the position of its key's first row at or after T - window; without one, of its first."""
        past = self._key_start[self._key_number]
        if window is None:
            return past
        start = np.empty_like(past)
        span = int(self.times.max()) - int(self.times.min()) + 1
        keys_per_pack = 2**62 // span
        for pack in range(0, len(self._key_start), keys_per_pack):
            # One int64 holds (key, time), so that one search finds the window starts of many keys at once. It never
            # runs past a key's first row, which bounds it from below.
            low, high = np.searchsorted(self._key_number, [pack, pack + keys_per_pack])
            rows = slice(past[low], self.last[high - 1] + 1)
            numbers = np.repeat(
                np.arange(len(self._key_start[pack : pack + keys_per_pack])),
                np.diff(np.append(self._key_start[pack : pack + keys_per_pack], rows.stop)),
            )
            packed = numbers * span + (self.times[rows] - self.times.min())
            earliest = np.maximum(
                packed[self.last[low:high] - rows.start] - window // MICROSECOND,
                packed[past[low:high] - rows.start],
            )
            start[low:high] = np.searchsorted(packed, earliest) + rows.start
        return start


def _order(keys: np.ndarray, times: np.ndarray) -> np.ndarray:
    """Positions that sort by (key, time). Ties may come in any order: exact sums do not see it."""
    first_key, first_time = int(keys.min()), int(times.min())
    span = int(times.max()) - first_time + 1
    if (int(keys.max()) - first_key + 1) * span < 2**63:
        return np.argsort((keys - first_key) * span + (times - first_time))
    return np.lexsort((times, keys))


class _ExactSums:
    """Sums of runs of float64 amounts, exact, each amount taken as the shortest decimal that denotes it.

    Whole cents below 10**13, of which a float64 always shows its 15 digits, add up as int64. What is finer or larger
    adds up as Python integers of a smaller unit, in arrays of its own, so it costs only the windows that hold some.
    """

    def __init__(self, amounts: np.ndarray):
        with np.errstate(over="ignore"):
            cents = np.rint(amounts * 100.0)
        whole = (np.abs(cents) < 1e15) & (cents / 100.0 == amounts)
        cents = np.where(whole, cents, 0.0).astype(np.int64)
        fits = np.abs(cents).sum(dtype=np.float64) < 2**62
        self._cents = _prefix_sums(cents if fits else cents.astype(object))
        self._fine_at = np.flatnonzero(~whole)
        fine = [Decimal(repr(amount)) for amount in amounts[self._fine_at].tolist()]
        self._places = max([2, *(-amount.as_tuple().exponent for amount in fine)])
        self._fine = _prefix_sums(np.array([int(amount.scaleb(self._places)) for amount in fine], dtype=object))

    def quotients(self, start: np.ndarray, end: np.ndarray, divisor: np.ndarray) -> np.ndarray:
        """Sum the amounts at positions start <= i < end, divide by ``divisor``, and round once, to float64."""
        cents = self._cents[end] - self._cents[start]
        fine_start, fine_end = np.searchsorted(self._fine_at, start), np.searchsorted(self._fine_at, end)
        large = (fine_end > fine_start) | (np.abs(cents) > 2**53).astype(bool)
        # Both operands are whole numbers that float64 holds, so IEEE division rounds the true quotient once.
        result = np.where(large, 0, cents).astype(np.float64) / (divisor * 100.0)
        if large.any():
            fine = self._fine[fine_end[large]] - self._fine[fine_start[large]]
            total = cents[large].astype(object) * 10 ** (self._places - 2) + fine
            # Python divides integers of any size and rounds the true quotient once.
            result[large] = total / (divisor[large].astype(object) * 10**self._places)
        return result


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, 2, ... values: the sum of values[i:j] is the difference of two of them."""
    sums = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=sums[1:])
    return sums
