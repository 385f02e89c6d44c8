"""Where the bins of a column lie: by quantiles of a sample of both windows; values that are frequent have their own.

Any bins serve a test that does not depend on where they lie; these are fine where there is data.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from parity.drift.test import EXTREME, INFINITE, NEGATIVE, NULL, ZERO, Bins

QUANTILES = 40
"""As many of each window; every tenth of the reference's is a decile."""
FREQUENT = 0.01
"""A value with this share of the rows of a window, or more, has a bin of its own, and is tested by itself."""
MOST_FREQUENT = 6
LARGEST = 1e300
"""What is larger counts as infinite: no difference of such numbers can be told."""
FAR = 4
"""A value is extreme if it is so many times as far from the median as the percentile at its end."""
TRIMMED = 0.005
"""The share of either end of the values whose bins stand for no more than the quantile there."""


class Grid(NamedTuple):
    """The bins of numbers: bin i + 1 is [edges[i], edges[i + 1]); bin 0 is of nulls, the last one of infinities."""

    edges: np.ndarray
    bins: Bins

    def place(self, values: np.ndarray) -> np.ndarray:
        """The bin of each value. NaN is null."""
        found = np.searchsorted(self.edges, values, side="right")
        found[np.isnan(values)] = 0
        found[np.abs(values) > LARGEST] = len(self.edges) + 1
        return found

    def __len__(self) -> int:
        return len(self.bins.values)


def grid_of(reference: np.ndarray, current: np.ndarray) -> Grid:
    """Make the bins for numbers of which these are samples. NaN and infinities may be among them."""
    samples = [np.sort(some[np.abs(some) <= LARGEST]) for some in (reference, current)]
    if not sum(map(len, samples)):
        edges = np.array([-LARGEST])
        return Grid(edges, _bins(edges, samples, [], (-np.inf, np.inf)))
    frequent = _frequent(samples)
    wanted = [np.array([-np.inf, 0.0, np.nextafter(0.0, 1.0)])]
    wanted += [np.array([value, np.nextafter(value, np.inf)]) for value in frequent]
    fences = _fences([some for some in samples if len(some)])
    wanted.append(np.array([fence for fence in fences if np.isfinite(fence)]))
    levels = np.arange(1, QUANTILES) / QUANTILES
    wanted += [some[(levels * len(some)).astype(int)] for some in samples if len(some)]
    edges = np.unique(np.concatenate(wanted))
    return Grid(edges, _bins(edges, samples, frequent, fences))


def _fences(samples: list[np.ndarray]) -> tuple[float, float]:
    """Below and from where on values are extreme: by the window in which they are closer together."""
    low, high = [], []
    for some in samples:
        first, middle, last = (float(some[int(q * (len(some) - 1))]) for q in (0.01, 0.5, 0.99))
        low += [middle - FAR * (middle - first)] if middle > first else []
        high += [middle + FAR * (last - middle)] if last > middle else []
    return max(low, default=-np.inf), min(high, default=np.inf)


def _frequent(samples: list[np.ndarray]) -> list[float]:
    """The values other than zero that many rows have, most first."""
    shares: dict[float, float] = {}
    for some in samples:
        values, counts = np.unique(some, return_counts=True)
        for value, count in zip(values, counts, strict=True):
            if value and count >= max(FREQUENT * len(some), 5):
                shares[float(value)] = max(shares.get(float(value), 0.0), count / len(some))
    return sorted(sorted(shares), key=lambda value: -shares[value])[:MOST_FREQUENT]


def _bins(edges: np.ndarray, samples: list[np.ndarray], frequent: list[float], fences: tuple[float, float]) -> Bins:
    """What stands for the values in each bin: their mean in the sample, within what is left after trimming."""
    size = len(edges) + 2
    every = np.concatenate(samples)
    ends = [[some[int(q * (len(some) - 1))] for some in samples if len(some)] for q in (TRIMMED, 1 - TRIMMED)]
    low, high = (min(ends[0]), max(ends[1])) if len(every) else (0.0, 0.0)
    place = np.searchsorted(edges, every, side="right")
    count = np.bincount(place, minlength=size)
    values = np.full(size, np.nan)
    with np.errstate(invalid="ignore", over="ignore"):
        means = np.bincount(place, np.clip(every, low, high), size) / count
    between = np.clip(np.where(np.isinf(edges), low, edges), low, high)
    values[1:-1] = np.where(count[1:-1] > 0, means[1:-1], between)
    values[1:-1] = np.maximum.accumulate(values[1:-1])
    inner = np.arange(size)
    lower = np.concatenate([[np.nan], edges, [np.nan]])
    special = {
        NULL: inner == 0,
        ZERO: lower == 0.0,
        NEGATIVE: lower < 0,
        INFINITE: inner == size - 1,
        EXTREME: (lower < fences[0]) | (np.isfinite(fences[1]) & (lower >= fences[1])),
        **{f"{value:g}": lower == value for value in frequent},
    }
    return Bins(values, special, fences)
