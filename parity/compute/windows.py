"""From rows to features, exactly: what a Feast `Aggregation` means at every instant of every key.

For each key and each instant T at which it has a row, an aggregation looks at the key's rows in [T - window, T], both
ends included and every row at exactly T included; without a ``time_window`` it looks at all rows up to and including
T. The functions ``mean``, ``sum`` and ``count`` are known.

Sums are exact, so the bits of a result depend on the rows in its window and on nothing else: not on the order of the
rows, on how they are split for processing, or on how much older history is there. An amount stands for the decimal
number with the fewest digits that reads back as the same float64, which is the number a CSV file shows: 0.1 is one
tenth. ``mean`` and ``sum`` are the float64 nearest to the exact decimal result (ties to even), and zero is 0.0,
never -0.0.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from decimal import Decimal

import numpy as np
import pyarrow as pa

from parity.definition.instants import MICROSECOND
from parity.definition.table import Definition, Rule
from parity.edge.errors import UserError

ROWS_AT_A_TIME = 1 << 17
"""So many rows are worked on at a time by a core, and stay in its cache."""


def aggregate(rows: pa.Table, definition: Definition) -> pa.Table:
    """Compute the features of ``definition`` at every instant at which a key has a row.

    ``rows``, in any order, has the schema `Definition.transactions`, without nulls, and finite numbers. The result has
    one row per distinct (key, instant), sorted by both, and the schema `Definition.schema`.

    Raises `UserError` for a result that float64 does not hold.
    """
    [key], timestamp, aggregations = definition.keys.names, definition.reading.timestamp, definition.rules
    keys, times = rows[key].to_numpy(), rows[timestamp].cast(pa.int64()).to_numpy()
    summed = {a.column for a in aggregations if a.function != "count"}
    amounts = {column: rows[column].to_numpy() for column in summed}
    schema = definition.schema
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # NumPy lets go of Python's lock, so the cores share the work
        batches = []
        for some in _packs(keys, times):
            part = {column: values[some] for column, values in amounts.items()}
            batches += _aggregate(keys[some], times[some], part, aggregations, schema, pool)
    return pa.Table.from_batches(batches, schema)


def _aggregate(
    keys: np.ndarray,
    times: np.ndarray,
    amounts: dict[str, np.ndarray],
    aggregations: Sequence[Rule],
    schema: pa.Schema,
    pool: ThreadPoolExecutor,
) -> Iterator[pa.RecordBatch]:
    key, timeline = schema.names[0], _Timeline(keys, times, pool)
    sums = {column: _ExactSums(values, timeline.order, pool) for column, values in amounts.items()}

    def features(chunk: slice) -> pa.RecordBatch:
        last, past = timeline.instants(chunk)
        end = last + 1
        columns = [pa.array(values, type) for values, type in zip(timeline.at(last), schema.types, strict=False)]
        for aggregation, type in zip(aggregations, schema.types[2:], strict=True):
            start = timeline.window_starts(last, past, aggregation.time_window)
            try:
                match aggregation.function:
                    case "count":
                        result = end - start
                    case "sum":
                        result = sums[aggregation.column].quotients(start, end, np.ones_like(end))
                    case "mean":
                        result = sums[aggregation.column].quotients(start, end, end - start)
            except _TooLarge as error:
                user, time = (column[error.place].as_py() for column in columns[:2])
                raise UserError(
                    f"{key} {user}: {aggregation.name} at {time.isoformat()}: the {aggregation.function} "
                    f"of {aggregation.column} is beyond what a float64 holds. Correct the amounts."
                ) from None
            columns.append(pa.array(result, type))
        return pa.record_batch(columns, schema=schema)

    return pool.map(features, _chunks(len(keys)))


def _chunks(length: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS_AT_A_TIME, length)) for start in range(0, length, ROWS_AT_A_TIME))


def _packs(keys: np.ndarray, times: np.ndarray) -> list:
    """Split the rows by ranges of keys so that in each part one int64 holds (key, time). Nearly always, one does."""
    if not len(keys) or _fit(keys, times):
        return [slice(None)]
    ranks = np.unique(keys, return_inverse=True)[1]
    pack = ranks // (2**62 // _span(times))
    return np.split(np.argsort(pack, kind="stable"), np.cumsum(np.bincount(pack))[:-1])


def _fit(keys: np.ndarray, times: np.ndarray) -> bool:
    return _span(keys) * _span(times) < 2**63


def _span(values: np.ndarray) -> int:
    return int(values.max()) - int(values.min()) + 1


class _Timeline:
    """Rows sorted by (key, time), and where in them the instants of each key, their past and their windows lie."""

    def __init__(self, keys: np.ndarray, times: np.ndarray, pool: ThreadPoolExecutor):
        # One int64 holds (key, time): one sort orders the rows, one search finds the window starts of many keys.
        self._keys, ranks = None, keys
        if len(keys) and not _fit(keys, times):
            self._keys, ranks = np.unique(keys, return_inverse=True)
        self._first_key, self._first_time = ranks.min(initial=2**63 - 1), times.min(initial=2**63 - 1)
        self._span = _span(times) if len(times) else 1
        places = np.empty(len(keys), np.int64)

        def place(chunk: slice) -> None:
            places[chunk] = (ranks[chunk] - self._first_key) * self._span + (times[chunk] - self._first_time)

        def key_starts(chunk: slice) -> np.ndarray:
            before = max(chunk.start - 1, 0)
            found = self._places[before : chunk.stop] // self._span
            return np.flatnonzero(found[1:] != found[:-1]) + before + 1

        list(pool.map(place, _chunks(len(keys))))
        self.order, self._places = _sorted(places, pool)
        self._key_starts = np.concatenate([[0], *pool.map(key_starts, _chunks(len(keys)))])

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The keys and the times at these positions."""
        places = self._places[positions]
        ranks = places // self._span
        keys = ranks + self._first_key if self._keys is None else self._keys[ranks]
        return keys, places - ranks * self._span + self._first_time

    def instants(self, chunk: slice) -> tuple[np.ndarray, np.ndarray]:
        """For each instant of a key whose last row is in this chunk, the positions of that row and of the key's first.

        The last row of an instant closes every window that ends there.
        """
        places = self._places[chunk.start : chunk.stop + 1]
        last = np.flatnonzero(places[1:] != places[:-1]) + chunk.start
        if chunk.stop == len(self._places):
            last = np.append(last, chunk.stop - 1)
        return last, self._key_starts[np.searchsorted(self._key_starts, last, side="right") - 1]

    def window_starts(self, last: np.ndarray, past: np.ndarray, window: timedelta | None) -> np.ndarray:
        """For each instant T, the position of its key's first row at or after T - window; without one, of its first."""
        if window is None or not len(last):
            return past
        earliest = self._places[last] - min(window // MICROSECOND, 2**62)
        begin = np.searchsorted(self._places, earliest[0])
        # The search may run into the rows of the key before; the key's first row bounds it from below.
        return np.maximum(np.searchsorted(self._places[begin : last[-1] + 1], earliest) + begin, past)


def _sorted(values: np.ndarray, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """Sort int64 values, none negative: their positions in that order, ties in any, and the values in that order.

    They are dealt into buckets by their leading bits, each with about as many as a core can sort within its cache.
    """
    shift = max(0, int(values.max(initial=0)).bit_length() - 16)
    leading = np.empty(len(values), np.uint16)

    def lead(chunk: slice) -> np.ndarray:
        leading[chunk] = values[chunk] >> shift
        return np.bincount(leading[chunk], minlength=2**16)

    up_to = np.cumsum(sum(pool.map(lead, _chunks(len(values))), np.zeros(2**16, np.int64)))
    buckets = min(256, 1 + 4 * len(values) // ROWS_AT_A_TIME)
    bucket_of = (np.maximum(up_to - 1, 0) * buckets // max(len(values), 1)).astype(np.uint8)
    dealt = np.argsort(bucket_of[leading], kind="stable")  # of bytes: a radix sort
    ends = up_to[np.flatnonzero(np.append(bucket_of[1:] != bucket_of[:-1], True))]

    order, in_order = np.empty(len(values), np.int64), np.empty_like(values)

    def sort(bucket: slice) -> None:
        found = values[dealt[bucket]]
        by_value = np.argsort(found)
        order[bucket], in_order[bucket] = dealt[bucket][by_value], found[by_value]

    list(pool.map(sort, map(slice, np.append(0, ends[:-1]), ends)))
    return order, in_order


class _TooLarge(Exception):
    """A quotient is beyond float64, the first of them at ``place``."""

    def __init__(self, place: int):
        self.place = place


class _ExactSums:
    """Sums of runs of float64 amounts, exact, each amount taken as the shortest decimal that denotes it.

    Whole cents below 10**13, of which a float64 always shows its 15 digits, add up as int64. What is finer or larger
    adds up as Python integers of a smaller unit, in arrays of its own, so it costs only the windows that hold some.
    """

    def __init__(self, amounts: np.ndarray, order: np.ndarray, pool: ThreadPoolExecutor):
        cents = np.empty(len(amounts), np.int64)

        def whole_cents(chunk: slice) -> tuple[np.ndarray, float]:
            some = amounts[order[chunk]]
            with np.errstate(over="ignore"):
                rounded = np.rint(some * 100.0)
            whole = (np.abs(rounded) < 1e15) & (rounded / 100.0 == some)
            cents[chunk] = rounded = np.where(whole, rounded, 0.0)
            return np.flatnonzero(~whole) + chunk.start, np.abs(rounded).sum()

        fine_at, totals = zip(*pool.map(whole_cents, _chunks(len(amounts))), strict=True) if len(amounts) else ([], [])
        self._cents = _prefix_sums(cents if sum(totals) < 2**62 else cents.astype(object))
        self._fine_at = np.concatenate([np.empty(0, np.int64), *fine_at])
        fine = [Decimal(repr(amount)) for amount in amounts[order[self._fine_at]].tolist()]
        self._places = max([2, *(-amount.as_tuple().exponent for amount in fine)])
        self._fine = _prefix_sums(np.array([int(amount.scaleb(self._places)) for amount in fine], dtype=object))

    def quotients(self, start: np.ndarray, end: np.ndarray, divisor: np.ndarray) -> np.ndarray:
        """Sum the amounts at positions start <= i < end, divide by ``divisor``, and round once, to float64.

        Raises `_TooLarge` for one that float64 does not hold.
        """
        cents = self._cents[end] - self._cents[start]
        large = (np.abs(cents) > 2**53).astype(bool)
        if len(self._fine_at):
            fine_start, fine_end = np.searchsorted(self._fine_at, start), np.searchsorted(self._fine_at, end)
            large |= fine_end > fine_start
        # Both operands are whole numbers that float64 holds, so IEEE division rounds the true quotient once.
        result = np.where(large, 0, cents).astype(np.float64) / (divisor * 100.0)
        if large.any():
            total = cents[large].astype(object) * 10 ** (self._places - 2)
            if len(self._fine_at):
                total += self._fine[fine_end[large]] - self._fine[fine_start[large]]
            by = divisor[large].astype(object) * 10**self._places
            try:
                # Python divides integers of any size and rounds the true quotient once. Zero has no sign: adding 0.0
                # makes 0.0 of the -0.0 that a quotient just below zero rounds to.
                result[large] = total / by + 0.0
            except OverflowError:
                beyond = (np.abs(total) > by * int(np.finfo(np.float64).max)).astype(bool)
                raise _TooLarge(np.flatnonzero(large)[beyond.argmax()]) from None
        return result


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, 2, ... values: the sum of values[i:j] is the difference of two of them."""
    sums = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=sums[1:])
    return sums
