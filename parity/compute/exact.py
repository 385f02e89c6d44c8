"""Exact arithmetic over runs of values: sums, means and variances that are rounded once.

A float64 stands for the decimal number with the fewest digits that reads back as the same float64: 0.1 is one tenth.
What is computed is the float64 nearest to the exact result (ties to even), and zero is 0.0, never -0.0.

Nearly all values are whole numbers of some unit, as of cents, and their sums fit int64. What is finer or larger adds up
as Python integers, in arrays of its own, so it costs only the windows that hold some.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from parity.compute.timeline import Timeline, Window, chunks

LOW_32 = 2**32 - 1
FEWEST_PLACES = 2
MOSTLY_WHOLE = 1 / 64
"""A unit is fine enough if at most this share of the values is finer."""


class TooLarge(Exception):
    """A result is beyond what its type holds, the first of them at ``place``."""

    def __init__(self, place: int, holder: str):
        self.place, self.holder = place, holder


class PrefixSums:
    """Exact sums of runs of int64 values: the difference of two sums of all values before a position."""

    def __init__(self, values: np.ndarray, magnitude: float):
        """``magnitude`` is about the sum of all absolute values: if int64 holds it, that of every run fits."""
        self._low, self._high = _prefix_sums(values & LOW_32 if magnitude >= 2**62 else values), None
        if magnitude >= 2**62:
            self._high = _prefix_sums(values >> 32)

    def of(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The sums, as int64 ``high`` and ``low``: ``high`` * 2**32 + ``low``, which lies from 0 to 2**32 - 1."""
        low = self._low[window.end] - self._low[window.start]
        high = low >> 32
        if self._high is not None:
            high += self._high[window.end] - self._high[window.start]
        return high, low & LOW_32

    def int64(self, window: Window) -> tuple[np.ndarray, np.ndarray | None]:
        """The sums as int64, and which of them it does not hold, if any can be."""
        if self._high is None:
            return self._low[window.end] - self._low[window.start], None
        high, low = self.of(window)
        return join(high, low), beyond_int64(high)


def join(high: np.ndarray, low: np.ndarray) -> np.ndarray:
    return (high << 32) + low


def beyond_int64(high: np.ndarray) -> np.ndarray:
    return high != high.astype(np.int32)


def _prefix_sums(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, 2, ... values: the sum of values[i:j] is the difference of two of them."""
    sums = np.zeros(len(values) + 1, values.dtype)
    np.cumsum(values, out=sums[1:])
    return sums


class Totals(NamedTuple):
    """Exact totals of values, of any number of runs of them, as arrays of Python integers: of each its values, in
    10**-places; and their squares, in the unit squared, where they are of use, and else 0."""

    count: np.ndarray
    sum: np.ndarray
    squares: np.ndarray
    places: np.ndarray

    @classmethod
    def read(cls, texts: pa.Array) -> Totals:
        """From what `write` gives; null is no values."""
        numbers = [tuple(map(int, text.split())) if text else (0, 0, 0, 0) for text in texts.to_pylist()]
        return cls(*(np.array(column, dtype=object) for column in zip(*numbers, strict=True))) if numbers else _NONE

    def write(self) -> pa.Array:
        rows = zip(*(column.tolist() for column in self), strict=True)
        return pa.array([_written(*row) for row in rows], pa.string())

    def plus(self, other: Totals) -> Totals:
        places = np.maximum(self.places, other.places)
        return self._in(places)._added(other._in(places))

    def _in(self, places: np.ndarray) -> Totals:
        if (places == self.places).all():
            return self
        scale = 10 ** (places - self.places)
        return Totals(self.count, self.sum * scale, self.squares * scale**2, places)

    def _added(self, other: Totals) -> Totals:
        return Totals(self.count + other.count, self.sum + other.sum, self.squares + other.squares, self.places)

    def sums(self) -> np.ndarray:
        """The sums, each rounded once. `TooLarge` for one that float64 does not hold."""
        return _divided(self.sum, 10**self.places, _EVERY)

    def means(self) -> np.ndarray:
        return _divided(self.sum, self.count * 10**self.places, _EVERY)

    def variances(self) -> tuple[np.ndarray, np.ndarray]:
        """As `ExactVariances.of`."""
        few, result = (self.count < 2).astype(bool), np.zeros(len(self.count))
        count, sum, squares, places = (column[~few] for column in self)
        result[~few] = _divided(count * squares - sum * sum, count * (count - 1) * 100**places, ~few)
        return result, few


def _written(count: int, sum: int, squares: int, places: int) -> str:
    """In no more places than there are digits for, or two: whatever else was added up beside it."""
    if places > FEWEST_PLACES:
        more = places - FEWEST_PLACES
        drop = min(more, _zeros(sum, more), _zeros(squares, 2 * more) // 2)
        sum, squares, places = sum // 10**drop, squares // 100**drop, places - drop
    return f"{count} {sum} {squares} {places}"


def _zeros(number: int, most: int) -> int:
    """How many zeros it ends with."""
    digits = str(number)
    return len(digits) - len(digits.rstrip("0")) if number else most


_NONE = Totals(*(np.empty(0, dtype=object) for _ in range(4)))
_EVERY = slice(None)


class Decimals:
    """A sorted column as decimals: whole numbers of a unit, and apart from them those that are none.

    The unit is 1 for whole numbers. For floats it is a cent, or finer if many values are.
    """

    def __init__(self, values: np.ndarray, order: np.ndarray, pool: ThreadPoolExecutor):
        self.whole = np.empty(len(values), np.int64)
        """In units; 0 for a value that is finer, or is 10**15 units or more, of which a float64 shows no 15 digits."""

        def in_units(chunk: slice) -> tuple[np.ndarray, float]:
            some = values[order[chunk]]
            if some.dtype != np.float64:
                self.whole[chunk] = some
                return np.empty(0, np.int64), np.abs(some.astype(np.float64)).sum()
            with np.errstate(over="ignore"):
                rounded = np.rint(some * 10.0**self.places)
            whole = (np.abs(rounded) < 1e15) & (rounded / 10.0**self.places == some)
            self.whole[chunk] = rounded = np.where(whole, rounded, 0.0)
            return np.flatnonzero(~whole) + chunk.start, np.abs(rounded).sum()

        for self.places in (FEWEST_PLACES, 4, 6, FEWEST_PLACES) if values.dtype == np.float64 else (0,):
            parts = list(pool.map(in_units, chunks(len(values))))
            self.fine_at = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
            if len(self.fine_at) <= len(values) * MOSTLY_WHOLE:
                break
        self.magnitude = sum(part[1] for part in parts)
        fine = [Decimal(repr(value)) for value in values[order[self.fine_at]].tolist()]
        self.fine_places = max([self.places, *(-value.as_tuple().exponent for value in fine)])
        self.scale = 10 ** (self.fine_places - self.places)
        """How many of the finest unit, 10**-fine_places, are a unit."""
        self.fine = np.array([int(value.scaleb(self.fine_places)) for value in fine], dtype=object)
        """The values that are not whole, in the finest unit; they are at the positions ``fine_at``."""


class ExactSums:
    """The sums and the means of a column."""

    def __init__(self, decimals: Decimals):
        self._decimals, self._wholes = decimals, PrefixSums(decimals.whole, decimals.magnitude)
        self._fine = _prefix_sums(decimals.fine)

    def whole(self, window: Window, earlier: np.ndarray | None = None) -> np.ndarray:
        """Sum whole numbers, and what is known of ``earlier`` ones; `TooLarge` for one that int64 does not hold."""
        if earlier is None:
            total, beyond = self._wholes.int64(window)
        else:
            high, low = self._wholes.of(window)
            low += earlier & LOW_32
            high += (earlier >> 32) + (low >> 32)
            total, beyond = join(high, low & LOW_32), beyond_int64(high)
        if beyond is not None and beyond.any():
            raise TooLarge(int(beyond.argmax()), "an int64")
        return total

    def totals(self, window: Window) -> Totals:
        """What is in the windows, exactly; squares are left out."""
        fine = _runs(self._decimals.fine_at, window)
        count = window.rows.astype(object)
        return Totals(count, self._exact(window, fine), count * 0, _places(self._decimals, count))

    def _exact(self, window: Window, fine: tuple[np.ndarray, np.ndarray] | None) -> np.ndarray:
        """The sums in the finest unit. ``fine`` are the runs of finer values in the windows, if any."""
        high, low = self._wholes.of(window)
        exact = (high.astype(object) * 2**32 + low) * self._decimals.scale
        return exact if fine is None else exact + (self._fine[fine[1]] - self._fine[fine[0]])

    def quotients(self, window: Window, divisor: np.ndarray) -> np.ndarray:
        """Sum, divide by ``divisor``, and round once, to float64. `TooLarge` for one that float64 does not hold."""
        decimals = self._decimals
        total, large = self._wholes.int64(window)
        over = total > 2**53
        over |= total < -(2**53)
        if large is not None:
            over |= large
        fine = _runs(decimals.fine_at, window)
        if fine is not None:
            over |= fine[1] > fine[0]
        # Both operands are whole numbers that float64 holds, so IEEE division rounds the true quotient once.
        result = np.where(over, 0, total).astype(np.float64) / (divisor * 10.0**decimals.places)
        if over.any():
            exact = self._exact(window.only(over), fine and (fine[0][over], fine[1][over]))
            result[over] = _divided(exact, divisor[over].astype(object) * 10**decimals.fine_places, over)
        return result


class ExactVariances:
    """The sample variances of a column: null below two rows.

    They are those of the differences to a value near by, one a key, which are small where the values are not.
    """

    def __init__(self, decimals: Decimals, timeline: Timeline, pool: ThreadPoolExecutor):
        self._decimals, self._timeline = decimals, timeline
        shifted = np.zeros_like(decimals.whole)

        def shift(chunk: slice) -> tuple[np.ndarray, float, float]:
            whole, near = decimals.whole[chunk], decimals.whole[timeline.key_starts_of(chunk)]
            about = whole.astype(np.float64) - near
            small = np.abs(about) < 2.0**31 - 1
            shifted[chunk] = np.where(small, whole - near, 0)
            about = np.where(small, about, 0.0)
            return np.flatnonzero(~small) + chunk.start, np.abs(about).sum(), (about * about).sum()

        parts = list(pool.map(shift, chunks(len(shifted))))
        far = np.concatenate([np.empty(0, np.int64), *(part[0] for part in parts)])
        shifted[decimals.fine_at] = 0
        self._sums = PrefixSums(shifted, sum(part[1] for part in parts))
        self._squares = PrefixSums(shifted * shifted, sum(part[2] for part in parts))

        self._slow_at = np.union1d(far, decimals.fine_at)
        """The positions of values that are not whole, or far from the value near by."""
        exact = decimals.whole[self._slow_at].astype(object) * decimals.scale
        exact[np.searchsorted(self._slow_at, decimals.fine_at)] = decimals.fine
        near = decimals.whole[timeline.key_starts_at(self._slow_at)].astype(object) * decimals.scale
        self._slow_sums, self._slow_squares = _prefix_sums(exact - near), _prefix_sums((exact - near) ** 2)

    def of(self, window: Window) -> tuple[np.ndarray, np.ndarray]:
        """The variances, and which are null. `TooLarge` for one that float64 does not hold."""
        rows = window.end - window.start
        total, unsure = self._sums.int64(window)
        squares, beyond = self._squares.int64(window)
        unit = 10 ** (2 * self._decimals.places)
        pairs = rows * (rows - 1.0) * unit
        slow = (rows * squares.astype(np.float64) > 2.0**62) | (pairs > 2.0**53)
        for some in (unsure, beyond):
            if some is not None:
                slow |= some
        runs = _runs(self._slow_at, window)
        if runs is not None:
            slow |= runs[1] > runs[0]
        with np.errstate(over="ignore"):
            numerator = rows * squares - total * total  # meaningless, and not used, where it is too large
        slow |= numerator > 2**53
        few = rows < 2
        slow &= ~few
        # As for `ExactSums.quotients`, IEEE division rounds the true quotient once.
        result = np.where(slow | few, 0, numerator) / np.where(few, 1.0, pairs)
        if slow.any():
            result[slow] = self._slowly(window.only(slow), runs and (runs[0][slow], runs[1][slow]), slow)
        return result, few

    def totals(self, window: Window) -> Totals:
        """What is in the windows, exactly."""
        total, squares = self._exact(window, _runs(self._slow_at, window))
        near = self._decimals.whole[self._timeline.key_starts_at(window.start)].astype(object) * self._decimals.scale
        count = window.rows.astype(object)
        squares = squares + 2 * near * total + count * near * near
        return Totals(count, total + count * near, squares, _places(self._decimals, count))

    def _exact(self, window: Window, runs: tuple | None) -> tuple[np.ndarray, np.ndarray]:
        """The sums of the differences to the value near by, in the finest unit, and of their squares."""

        def exact(sums: PrefixSums, slow: np.ndarray, scale: int) -> np.ndarray:
            high, low = sums.of(window)
            found = (high.astype(object) * 2**32 + low) * scale
            return found if runs is None else found + (slow[runs[1]] - slow[runs[0]])

        total = exact(self._sums, self._slow_sums, self._decimals.scale)
        return total, exact(self._squares, self._slow_squares, self._decimals.scale**2)

    def _slowly(self, window: Window, runs: tuple | None, places: np.ndarray) -> np.ndarray:
        total, squares = self._exact(window, runs)
        rows = (window.end - window.start).astype(object)
        return _divided(rows * squares - total * total, rows * (rows - 1) * 100**self._decimals.fine_places, places)


def _runs(positions: np.ndarray, window: Window) -> tuple[np.ndarray, np.ndarray] | None:
    """Which of the sorted ``positions`` lie in the windows: from the first on, up to before the second. None if none"""
    if not len(positions):
        return None
    return np.searchsorted(positions, window.start), np.searchsorted(positions, window.end)


def _places(decimals: Decimals, like: np.ndarray) -> np.ndarray:
    places = np.empty(len(like), dtype=object)
    places[:] = decimals.fine_places
    return places


def _divided(numerators: np.ndarray, denominators: np.ndarray, places: np.ndarray | slice) -> np.ndarray:
    """Divide Python integers, of the results at ``places``: each true quotient is rounded once.

    Zero has no sign: adding 0.0 makes 0.0 of the -0.0 that a quotient just below zero rounds to.
    """
    try:
        return (numerators / denominators + 0.0).astype(np.float64)
    except OverflowError:
        beyond = [not _holds(over, under) for over, under in zip(numerators, denominators, strict=True)]
        first = beyond.index(True)
        place = first if isinstance(places, slice) else np.flatnonzero(places)[first]
        raise TooLarge(int(place), "a float64") from None


def _holds(numerator: int, denominator: int) -> bool:
    try:
        numerator / denominator
    except OverflowError:
        return False
    return True
