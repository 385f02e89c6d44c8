"""What depends on the order of values and on which are equal: the extremes in windows, and how many are distinct."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np

from parity.compute import timeline
from parity.compute.timeline import Timeline, Window, chunks


class Extremes:
    """The least or the greatest of sorted values in windows, by `numpy.minimum` or `numpy.maximum`.

    A window within a chunk of rows is covered by two runs of 2**k rows. One that reaches further back is the end of a
    chunk, whole chunks, and the beginning of its own.
    """

    def __init__(self, values: np.ndarray, extreme: np.ufunc, pool: ThreadPoolExecutor):
        self._values, self._extreme, self._size = values, extreme, timeline.ROWS_AT_A_TIME
        self._of_chunks = np.array(
            list(pool.map(lambda chunk: extreme.reduce(values[chunk]), chunks(len(values)))), values.dtype
        )

    def of(self, window: Window) -> np.ndarray:
        own, start, end = self._values[window.chunk], window.start, window.end
        reaching = int(np.searchsorted(start, window.chunk.start))
        result = np.empty(len(end), own.dtype)
        if reaching:
            within = self._extreme.accumulate(own)[end[:reaching] - 1 - window.chunk.start]
            result[:reaching] = self._extreme(within, self._before(window.chunk.start, start[:reaching]))
        result[reaching:] = self._within(
            own, start[reaching:] - window.chunk.start, end[reaching:] - window.chunk.start
        )
        return result

    def _within(self, values: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        rows, width, result = end - start, 1, np.empty(len(end), values.dtype)
        longest = rows.max(initial=0)
        while width <= longest:
            some = np.flatnonzero((rows >= width) & (rows < 2 * width))
            result[some] = self._extreme(values[start[some]], values[end[some] - width])
            values = self._extreme(values[:-width], values[width:]) if 2 * width <= longest else values
            width *= 2
        return result

    def _before(self, stop: int, start: np.ndarray) -> np.ndarray:
        """The extreme from each ``start`` on up to before the chunk that begins at ``stop``."""
        result, size = np.empty(len(start), self._values.dtype), self._size
        between = None
        for chunk in range(stop // size - 1, int(start[0]) // size - 1, -1):
            some = slice(*np.searchsorted(start, [chunk * size, (chunk + 1) * size]))
            if some.start < some.stop:
                rest = self._values[start[some.start] : (chunk + 1) * size]
                found = self._extreme.accumulate(rest[::-1])[::-1][start[some] - start[some.start]]
                result[some] = found if between is None else self._extreme(found, between)
            of_chunk = self._of_chunks[chunk]
            between = of_chunk if between is None else self._extreme(between, of_chunk)
        return result


class Repeats:
    """How many rows of a window have a value that an earlier row of it has too: the others are distinct.

    A row and the one before it of the same key and value are both in the windows from the first that holds the later
    one to the last that holds the earlier one. As windows never go back, these are a run, and marking where each run
    begins and ends counts them all in one pass.
    """

    def __init__(self, values: np.ndarray, timeline: Timeline, windows: set[int | None], pool: ThreadPoolExecutor):
        # As neither starts nor ends go back, their sum says which window it is.
        self._repeats = {length: np.zeros(2 * len(values) + 1, _holding(len(values))) for length in windows}

        def count(rows: slice) -> None:
            earlier, later = _repeated(values[rows], timeline.key_starts_of(rows))
            moments = timeline.moments(rows)
            up_to = np.cumsum(np.bincount(moments.last - rows.start, minlength=rows.stop - rows.start))
            first_with_later = np.append(0, up_to)[later]
            for length, window in timeline.windows(moments, windows).items():
                start = window.start - rows.start
                first_without = np.cumsum(np.bincount(start, minlength=rows.stop - rows.start))[earlier]
                both = first_without > first_with_later
                begins = np.bincount(first_with_later[both], minlength=len(start) + 1)
                ends_at = np.bincount(first_without[both], minlength=len(start) + 1)
                self._repeats[length][window.start + window.end] = np.cumsum(begins - ends_at)[:-1]

        list(pool.map(count, _of_whole_keys(timeline)))

    def distinct(self, window: Window, length: int | None) -> np.ndarray:
        """How many values are distinct in ``window``, which is of this length."""
        return window.rows - self._repeats[length][window.start + window.end]


def _holding(number: int) -> type:
    return np.int32 if number < 2**31 else np.int64


def _of_whole_keys(rows: Timeline) -> list[slice]:
    """Split the rows into runs of whole keys, each of about as many rows as are worked on at a time, or of one key."""
    if not len(rows):
        return []
    found = np.unique(np.searchsorted(rows.key_starts, np.arange(0, len(rows), timeline.ROWS_AT_A_TIME)))
    cuts = rows.key_starts[found[found < len(rows.key_starts)]]
    return [slice(start, end) for start, end in pairwise([*cuts.tolist(), len(rows)])]


def first_of_their_key(values: np.ndarray, timeline: Timeline) -> np.ndarray:
    """Which of sorted rows have a value that no earlier row of their key has."""
    first = np.ones(len(values), bool)
    for rows in _of_whole_keys(timeline):
        first[_repeated(values[rows], timeline.key_starts_of(rows))[1] + rows.start] = False
    return first


def _repeated(values: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of positions of rows of one key with one value, with none such between them: the earlier and the later."""
    bits = len(values).bit_length()
    codes = _packed(keys, values)
    if int(codes.max()) >> (63 - bits):
        codes = np.unique(codes, return_inverse=True)[1]
    codes = (codes << bits) + np.arange(len(values))
    codes.sort()
    same = codes[1:] >> bits == codes[:-1] >> bits
    places = codes & ((1 << bits) - 1)
    return places[:-1][same], places[1:][same]


def _packed(keys: np.ndarray, values: np.ndarray) -> np.ndarray:
    """One number from 0 on for each pair."""
    if values.dtype == np.float64:
        values = values.view(np.int64)  # equal where the values are: there is no NaN, and one zero
    span = _span(values)
    if span * _span(keys) >= 2**63:
        values, keys = (np.unique(column, return_inverse=True)[1] for column in (values, keys))
        span = _span(values)
    return (keys - keys.min()) * span + (values.astype(np.int64) - values.min())


def _span(values: np.ndarray) -> int:
    return int(values.max()) - int(values.min()) + 1
