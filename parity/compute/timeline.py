"""Rows in the order of their keys and instants, and where in that order the window of each moment lies.

Moments are the instants at which features are worth a row: those of the rows, and, where windows slide, those at which
a row leaves one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import NamedTuple

import numpy as np

from parity.compute.codes import Codes
from parity.definition.instants import EPOCH, LAST_INSTANT, MICROSECOND

LAST = (LAST_INSTANT - EPOCH) // MICROSECOND
ROWS_AT_A_TIME = 1 << 17
"""So many rows are worked on at a time by a core, and stay in its cache."""


def chunks(length: int) -> Iterator[slice]:
    return (slice(start, min(start + ROWS_AT_A_TIME, length)) for start in range(0, length, ROWS_AT_A_TIME))


class Moments(NamedTuple):
    """Some instants of keys, sorted, each once. The last row of its key up to each, at ``last``, lies in ``chunk``."""

    chunk: slice
    last: np.ndarray
    places: np.ndarray
    """One number each for key and instant: see `Timeline.at`."""

    def only(self, some: np.ndarray | slice) -> Moments:
        return Moments(self.chunk, self.last[some], self.places[some])


class Window(NamedTuple):
    """The windows of some moments, in their order: each from the position ``start`` on, up to before ``end``.

    A window holds all rows of an instant or none. ``end`` - 1 lies in ``chunk``, and neither the starts nor the ends
    ever go back. One that the last row has left is empty: its start is its end.
    """

    chunk: slice
    start: np.ndarray
    end: np.ndarray

    @property
    def rows(self) -> np.ndarray:
        return self.end - self.start

    def only(self, some: np.ndarray) -> Window:
        return Window(self.chunk, self.start[some], self.end[some])


def span_of(times: Codes, steps: Sequence[int], instants: np.ndarray | None = None) -> int:
    """How many numbers there are from that of the first of ``times`` to that of the last of their moments."""
    if not steps:
        return times.span
    if instants is not None:
        return len(instants) - times.low
    return min(times.low + times.span - 1 + max(steps), LAST) - times.low + 1


class Timeline:
    """Rows sorted by (key, time), and where in them the moments of each key, their past and their windows lie.

    Times are microseconds, or positions in the sorted ``instants``, among which all moments are. Beside the instant of
    each row those are moments that lie one of ``steps``, in microseconds, after it, if they are not after `LAST`. The
    span of the keys, multiplied by `span_of` the times, is below 2**63.
    """

    def __init__(
        self,
        keys: Codes,
        times: Codes,
        pool: ThreadPoolExecutor,
        instants: np.ndarray | None = None,
        steps: Sequence[int] = (),
    ):
        # One int64 holds (key, time): one sort orders the rows, one search finds the window starts of many keys.
        self._instants, self._steps = instants, steps
        self._first_key, self._first_time, self._span = keys.low, times.low, span_of(times, steps, instants)
        self._latest = times.low + times.span - 1
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

    def at(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The keys and the times of some moments, by their places."""
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

    def moments(self, chunk: slice) -> Moments:
        """Those up to which the last row of their key is in this chunk.

        The last of several rows at one instant closes every window that ends there.
        """
        places = self._places[chunk.start : chunk.stop + 1]
        last = np.flatnonzero(places[1:] != places[:-1]) + chunk.start
        last = np.append(last, chunk.stop - 1) if chunk.stop == len(self._places) else last
        of_rows = self._places[last]
        if not self._steps:
            return Moments(chunk, last, of_rows)
        found = np.sort(np.concatenate([of_rows, *(self._stepped(chunk, step) for step in self._steps)]), kind="stable")
        found = found[np.append(True, found[1:] != found[:-1])[: len(found)]]
        return Moments(chunk, np.searchsorted(self._places[chunk], found, side="right") - 1 + chunk.start, found)

    def _stepped(self, chunk: slice, step: int) -> np.ndarray:
        """The places so long after rows, of those moments up to which the last row of the key is in this chunk."""
        edges = self._places[chunk.start : chunk.stop + 1 : chunk.stop - chunk.start]  # of the next chunk, if any
        begin, end, *_ = [*np.searchsorted(self._places, self._before(edges, step)), len(self._places)]
        places = self._places[begin:end]
        if self._instants is None:
            if self._latest + step > LAST:
                places = places[places % self._span + step < self._span]
            return places + step
        ranks = places % self._span + self._first_time
        times = self._instants[ranks] + step
        return (places - ranks + np.searchsorted(self._instants, times))[times <= LAST]

    def _before(self, places: np.ndarray, length: int) -> np.ndarray:
        """The places so many microseconds earlier, or where rows begin that are not; maybe in the key before."""
        if self._instants is None:
            return places - min(length, 2**62)
        ranks = places % self._span + self._first_time
        earlier = np.searchsorted(self._instants, self._instants[ranks] - min(length, 2**62))
        return places - ranks + np.maximum(earlier, self._first_time)

    def windows(self, moments: Moments, lengths: Iterable[int | None]) -> dict[int | None, Window]:
        """For each length, in microseconds, the rows so long before these moments; for None, all rows before them.

        Rows at the moments, and those at exactly their distance, are among them.
        """
        chunk, last = moments.chunk, moments.last
        past, end = self.key_starts_of(chunk)[last - chunk.start], last + 1
        return {
            length: Window(chunk, past if length is None else self._window_starts(moments, past, length), end)
            for length in lengths
        }

    def _window_starts(self, moments: Moments, past: np.ndarray, window: int) -> np.ndarray:
        """For each moment T, the position of its key's first row at or after T - window."""
        if not len(past):
            return past
        earliest = self._before(moments.places, window)
        begin = np.searchsorted(self._places, earliest[0])
        # The search may run into the rows of the key before; the key's first row bounds it from below.
        return np.maximum(np.searchsorted(self._places[begin : moments.last[-1] + 1], earliest) + begin, past)

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
    if 4 * len(values) < ROWS_AT_A_TIME:
        order = np.argsort(values)
        return order, values[order]
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
