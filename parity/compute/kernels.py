"""How each function of an aggregation is computed: one registry, under the names of `parity.definition.functions`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.compute.codes import Codes
from parity.compute.exact import Decimals, ExactSums, ExactVariances
from parity.compute.ordered import Extremes, Repeats
from parity.compute.timeline import Timeline, Window
from parity.definition.table import Rule


class Rows:
    """Sorted rows, and what was made of their columns so far, for features to share."""

    def __init__(
        self, timeline: Timeline, columns: dict[str, Codes], rules: tuple[Rule, ...], pool: ThreadPoolExecutor
    ):
        self.timeline, self.columns, self.pool = timeline, columns, pool
        self.rules = rules
        self._made: dict[tuple, Any] = {}

    def once(self, make: Callable[[Rows, str], Any], column: str) -> Any:
        if (make, column) not in self._made:
            self._made[make, column] = make(self, column)
        return self._made[make, column]


class Kernel(NamedTuple):
    """The parts of a function."""

    prepare: Callable[[Rows, str], Any]
    """Take up a column of sorted rows; done once for all features that have this in common."""
    answer: Callable[[Any, Window, Rule], pa.Array]
    """Give the result in each of some windows, of what was prepared."""
    continued: Callable[[Any, Window, Rule, pa.Array], pa.Array] | None = None
    """The same over all rows of a key so far, those in the window and those that an earlier result is of; that is null
    for a key without any. None for a function whose results do not hold enough to continue."""


def _nothing(rows: Rows, column: str) -> None:
    return None


def _sums(rows: Rows, column: str) -> ExactSums:
    return ExactSums(rows.once(_decimals, column))


def _decimals(rows: Rows, column: str) -> Decimals:
    return Decimals(rows.columns[column].values, rows.timeline.order, rows.pool)


def _variances(rows: Rows, column: str) -> ExactVariances:
    return ExactVariances(rows.once(_decimals, column), rows.timeline, rows.pool)


class _Ordered(NamedTuple):
    """A sorted column in which the values of one instant ascend: so the first and the last row of a window hold the
    least at its first instant and the greatest at its last, in whatever order the rows came."""

    values: np.ndarray
    decode: Callable[[np.ndarray], list[pa.Array]]

    def at(self, positions: np.ndarray) -> pa.Array:
        return self.decode(self.values[positions])[0]


def _ordered(rows: Rows, column: str) -> _Ordered:
    codes = rows.columns[column]
    values = codes.values[rows.timeline.order]
    if values.dtype == np.float64:
        values += 0.0  # -0.0 and 0.0 are one value, 0.0
    return _Ordered(rows.timeline.with_sorted_ties(values), codes.decode)


def _least(rows: Rows, column: str) -> tuple[Extremes, Callable]:
    values, decode = rows.once(_ordered, column)
    return Extremes(values, np.minimum, rows.pool), decode


def _greatest(rows: Rows, column: str) -> tuple[Extremes, Callable]:
    values, decode = rows.once(_ordered, column)
    return Extremes(values, np.maximum, rows.pool), decode


def _repeats(rows: Rows, column: str) -> Repeats:
    windows = {rule.window for rule in rows.rules if (rule.function, rule.column) == ("count_distinct", column)}
    return Repeats(rows.once(_ordered, column).values, rows.timeline, windows, rows.pool)


def _count(nothing: None, window: Window, rule: Rule) -> pa.Array:
    return pa.array(window.rows)


def _count_continued(nothing: None, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    return pc.add(pc.fill_null(earlier, 0), window.rows)


def _sum(sums: ExactSums, window: Window, rule: Rule) -> pa.Array:
    if rule.type == pa.int64():
        return pa.array(sums.whole(window))
    return pa.array(sums.quotients(window, np.ones_like(window.end)))


def _sum_continued(sums: ExactSums, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    return pa.array(sums.whole(window, pc.fill_null(earlier, 0).to_numpy()))


def _mean(sums: ExactSums, window: Window, rule: Rule) -> pa.Array:
    return pa.array(sums.quotients(window, window.rows))


def _extreme(prepared: tuple[Extremes, Callable], window: Window, rule: Rule) -> pa.Array:
    extremes, decode = prepared
    return decode(extremes.of(window))[0]


def _first(ordered: _Ordered, window: Window, rule: Rule) -> pa.Array:
    return ordered.at(window.start)


def _last(ordered: _Ordered, window: Window, rule: Rule) -> pa.Array:
    return ordered.at(window.end - 1)


def _distinct(repeats: Repeats, window: Window, rule: Rule) -> pa.Array:
    return pa.array(repeats.distinct(window, rule.window))


def _variance(variances: ExactVariances, window: Window, rule: Rule) -> pa.Array:
    values, few = variances.of(window)
    return pa.array(values, mask=few)


def _deviation(variances: ExactVariances, window: Window, rule: Rule) -> pa.Array:
    values, few = variances.of(window)
    return pa.array(np.sqrt(values), mask=few)


def _of_both(choose: Callable[[pa.Array, pa.Array], pa.Array], answer: Callable) -> Callable:
    """Continue by choosing between the earlier result and the one over the later rows."""
    return lambda prepared, window, rule, earlier: choose(earlier, answer(prepared, window, rule))


KERNELS = {
    "count": Kernel(_nothing, _count, _count_continued),
    "sum": Kernel(_sums, _sum, _sum_continued),
    "mean": Kernel(_sums, _mean),
    "min": Kernel(_least, _extreme, _of_both(pc.min_element_wise, _extreme)),
    "max": Kernel(_greatest, _extreme, _of_both(pc.max_element_wise, _extreme)),
    "first": Kernel(_ordered, _first, _of_both(pc.coalesce, _first)),
    "last": Kernel(_ordered, _last, _of_both(lambda earlier, later: later, _last)),
    "count_distinct": Kernel(_repeats, _distinct),
    "var": Kernel(_variances, _variance),
    "std": Kernel(_variances, _deviation),
}
