"""Rows in the order of their keys and instants, and where in that order the window of each instant lies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import numpy as np

from parity.compute.codes import Codes

ROWS_AT_A_TIME = 1 << 17
"""So many rows are worked on at a time by a core, and stay in its cache."""


def chunks(length: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS_AT_A_TIME, length)) for start in range(0, length, ROWS_AT_A_TIME))


class Window(NamedTuple):
    """The windows of some instants, in their order: each from the position ``start`` on, up to before ``end``.

    A window holds all rows of an instant or none. The last row of each lies in ``chunk``, and neither their starts nor
    their ends ever go back.
    """

    chunk: slice
    start: np.ndarray
    end: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        return self.end - self.start

    def only(self, some: np.ndarray) -> Window:
        return Window(self.chunk, self.start[some], self.end[some])


class Timeline:
    """Rows sorted by (key, time), and where in them the instants of each key, their past and their windows lie.

    The spans of keys and times multiplied are below 2**63. Times are microseconds, or positions in the sorted
    ``instants``.
    """

    def __init__(self, keys: Codes, times: Codes, pool: ThreadPoolExecutor, instants: np.ndarray | None = None):
        # One int64 holds (key, time): one sort orders the rows, one search finds the window starts of many keys.
        self._instants = instants
        self._first_key, self._first_time, self._span = keys.low, times.low, times.span
        keys, times = keys.values, times.values
        places = np.empty(len(keys), np.int64)

        def place(chunk: slice) -> None:
            places[chunk] = (keys[chunk] - self._first_key) * self._span + (times[chunk] - self._first_time)

        def key_starts(chunk: slice) -> np.ndarray:
            before = max(chunk.start - 1, 0)
            found = self._places[before : chunk.stop] // self._span
            return np.flatnonzero(found[1:] != found[:-1]) + before + 1

        list(pool.map(place, chunks(len(keys))))
        self.order, self._places = _sorted(places, pool)
        self.key_starts = np.concatenate([[0], *pool.map(key_starts, chunks(len(keys)))])
        """The positions of the first rows of the keys."""

    def __len__(self) -> int:
        return len(self._places)

    def at(self, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The keys and the times at these positions."""
        places = self._places[positions]
        ranks = places // self._span
        times = places - ranks * self._span + self._first_time
        return ranks + self._first_key, times if self._instants is None else self._instants[times]

    def key_starts_at(self, positions: np.ndarray) -> np.ndarray:
        """For each of the positions, that of its key's first row."""
        return self.key_starts[np.searchsorted(self.key_starts, positions, side="right") - 1]

    def key_starts_of(self, chunk: slice) -> np.ndarray:
        """The same for all positions of a chunk."""
        first, last = np.searchsorted(self.key_starts, [chunk.start, chunk.stop - 1], side="right") - 1
        ends = np.minimum(np.append(self.key_starts[first + 1 : last + 1], chunk.stop), chunk.stop)
        starts = self.key_starts[first : last + 1]
        return np.repeat(starts, np.diff(ends, prepend=chunk.start))

    def instants(self, chunk: slice) -> np.ndarray:
        """For each instant of a key whose last row is in this chunk, the position of that row.

        The last row of an instant closes every window that ends there.
        """
        places = self._places[chunk.start : chunk.stop + 1]
        last = np.flatnonzero(places[1:] != places[:-1]) + chunk.start
        return np.append(last, chunk.stop - 1) if chunk.stop == len(self._places) else last

    def windows(self, chunk: slice, last: np.ndarray, lengths: Iterable[int | None]) -> dict[int | None, Window]:
        """For each length, in microseconds, the rows so long before these `instants`; for None, all rows before them.

        Rows at the instants, and those at exactly their distance, are among them.
        """
        past, end = self.key_starts_of(chunk)[last - chunk.start], last + 1
        return {
            length: Window(chunk, past if length is None else self._window_starts(last, past, length), end)
            for length in lengths
        }

    def _window_starts(self, last: np.ndarray, past: np.ndarray, window: int) -> np.ndarray:
        """For each instant T, the position of its key's first row at or after T - window."""
        if not len(last):
            return past
        places, window = self._places[last], min(window, 2**62)
        if self._instants is None:
            earliest = places - window
        else:
            ranks = places % self._span + self._first_time
            earliest = places - ranks + np.searchsorted(self._instants, self._instants[ranks] - window)
        begin = np.searchsorted(self._places, earliest[0])
        # The search may run into the rows of the key before; the key's first row bounds it from below.
        return np.maximum(np.searchsorted(self._places[begin : last[-1] + 1], earliest) + begin, past)

    @cached_property
    def ties(self) -> np.ndarray:
        """The positions of rows that share their instant with other rows of their key."""
        same = self._places[1:] == self._places[:-1]
        return np.flatnonzero(np.append(same, False) | np.append(False, same)) if same.any() else np.empty(0, np.int64)

    def with_sorted_ties(self, values: np.ndarray) -> np.ndarray:
        """Put sorted ``values`` into such an order that those of one instant ascend, in place."""
        ties = self.ties
        if len(ties):
            tied = values[ties]
            values[ties] = tied[np.lexsort((tied, self._places[ties]))]
        return values


def _sorted(values: np.ndarray, pool: ThreadPoolExecutor) -> tuple[np.ndarray, np.ndarray]:
    """Sort int64 values, none negative: their positions in that order, ties in any, and the values in that order.

    They are dealt into buckets by their leading bits, each with about as many as a core can sort within its cache.
    """
    shift = max(0, int(values.max(initial=0)).bit_length() - 16)
    leading = np.empty(len(values), np.uint16)

    def lead(chunk: slice) -> np.ndarray:
        leading[chunk] = values[chunk] >> shift
        return np.bincount(leading[chunk], minlength=2**16)

    up_to = np.cumsum(sum(pool.map(lead, chunks(len(values))), np.zeros(2**16, np.int64)))
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
