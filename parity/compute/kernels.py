"""How each function of an aggregation is computed: one registry, under the names of `parity.definition.functions`."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.compute.codes import Codes
from parity.compute.exact import Decimals, ExactSums, ExactVariances, Totals
from parity.compute.ordered import Extremes, Repeats, first_of_their_key
from parity.compute.timeline import Timeline, Window
from parity.definition.keys import KeyBook
from parity.definition.table import Rule


class Past(NamedTuple):
    """What is known of earlier rows of the keys: what is ``kept``, and for each row which of it is its key's, or -1."""

    kept: pa.Table
    of_row: np.ndarray

    def only(self, rows: np.ndarray | None) -> Past:
        return self if rows is None else Past(self.kept, self.of_row[rows])

    def knows(self, rule: Rule) -> bool:
        return rule.window is None and rule.name in self.kept.column_names

    def at(self, rows: np.ndarray, name: str) -> pa.Array:
        """What is kept for a feature of the keys of these rows; null for a key of which nothing is."""
        found = self.of_row[rows]
        return self.kept[name].take(pa.array(found, mask=found < 0)).combine_chunks()

    def summary(self, rows: np.ndarray, name: str) -> pa.Array:
        """The same, but of each kept list its length alone."""
        if not pa.types.is_list(self.kept.schema.field(name).type):
            return self.at(rows, name)
        return Past(pa.table({name: pc.list_value_length(self.kept[name])}), self.of_row).at(rows, name)


class Rows:
    """Sorted rows, and what was made of their columns so far, for features to share."""

    def __init__(
        self,
        timeline: Timeline,
        columns: dict[str, Codes],
        rules: tuple[Rule, ...],
        pool: ThreadPoolExecutor,
        past: Past | None = None,
    ):
        self.timeline, self.columns, self.pool = timeline, columns, pool
        self.rules, self.past = rules, past
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
    continued: Callable[[Any, Window, Rule, pa.Array], pa.Array]
    """The same over all rows of a key so far, those in the window and those of which something is kept; that is null
    for a key without any. Of kept lists it gets the lengths: what is in them, `Rows.past` has."""
    keep: Callable[[Any, Window, Rule, pa.Array], pa.Array]
    """What is to be kept of all these rows, lists whole: see `parity.definition.functions.Function.kept`."""


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


class _Distinct:
    """A column to count distinct values of."""

    def __init__(self, rows: Rows, column: str):
        rules = [rule for rule in rows.rules if (rule.function, rule.column) == ("count_distinct", column)]
        self.ordered = rows.once(_ordered, column)
        self.repeats = Repeats(self.ordered.values, rows.timeline, {rule.window for rule in rules}, rows.pool)
        self._kept = next((rows.past.kept[rule.name] for rule in rules if rows.past and rows.past.knows(rule)), None)
        self._rows = rows

    @cached_property
    def new(self) -> np.ndarray:
        """Which rows have a value that no earlier row of their key has, nor what is kept of it."""
        timeline, values = self._rows.timeline, self.ordered.values
        new = first_of_their_key(values, timeline)
        if self._kept is not None:
            new &= ~_is_among(self._rows.past.of_row[timeline.order], self.ordered.at(_EVERY), self._kept)
        return new

    @cached_property
    def new_before(self) -> np.ndarray:
        return np.append(0, np.cumsum(self.new))


_EVERY = slice(None)


def _is_among(owners: np.ndarray, values: pa.Array, kept: pa.ChunkedArray) -> np.ndarray:
    """Whether each of ``values`` is in that of the lists that its row owns; -1 owns none."""
    lists = kept.combine_chunks()
    book = KeyBook(pa.schema({"owner": pa.int64(), "value": _as_key(values).type}))
    names = book.schema.names
    book.number(pa.table([pc.list_parent_indices(lists).cast(pa.int64()), _as_key(pc.list_flatten(lists))], names))
    return book.find(pa.table([pa.array(owners), _as_key(values)], names)) >= 0


def _as_key(values: pa.Array) -> pa.Array:
    """Numbers that are equal where floats are, which are no keys; there is no NaN, and one zero."""
    return pa.array(values.to_numpy().view(np.int64)) if pa.types.is_floating(values.type) else values


def _count(nothing: None, window: Window, rule: Rule) -> pa.Array:
    return pa.array(window.rows)


def _count_continued(nothing: None, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    return pc.add(pc.fill_null(earlier, 0), window.rows)


def _sum(sums: ExactSums, window: Window, rule: Rule) -> pa.Array:
    if rule.type == pa.int64():
        return pa.array(sums.whole(window))
    return pa.array(sums.quotients(window, np.ones_like(window.end)))


def _sum_continued(sums: ExactSums, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    if rule.type == pa.int64():
        return _whole_sum_continued(sums, window, earlier)
    return pa.array(_totals(sums, window, earlier).sums())


def _whole_sum_continued(sums: ExactSums, window: Window, earlier: pa.Array) -> pa.Array:
    return pa.array(sums.whole(window, pc.fill_null(earlier, 0).to_numpy()))


def _sum_kept(sums: ExactSums, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    if rule.type == pa.int64():
        return _whole_sum_continued(sums, window, earlier)
    return _totals_kept(sums, window, rule, earlier)


def _mean(sums: ExactSums, window: Window, rule: Rule) -> pa.Array:
    return pa.array(sums.quotients(window, window.rows))


def _mean_continued(sums: ExactSums, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    return pa.array(_totals(sums, window, earlier).means())


def _totals(prepared: ExactSums | ExactVariances, window: Window, earlier: pa.Array) -> Totals:
    return prepared.totals(window).plus(Totals.read(earlier))


def _totals_kept(prepared: ExactSums | ExactVariances, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    return _totals(prepared, window, earlier).write()


def _extreme(prepared: tuple[Extremes, Callable], window: Window, rule: Rule) -> pa.Array:
    extremes, decode = prepared
    return decode(extremes.of(window))[0]


def _first(ordered: _Ordered, window: Window, rule: Rule) -> pa.Array:
    return ordered.at(window.start)


def _last(ordered: _Ordered, window: Window, rule: Rule) -> pa.Array:
    return ordered.at(window.end - 1)


def _distinct(distinct: _Distinct, window: Window, rule: Rule) -> pa.Array:
    return pa.array(distinct.repeats.distinct(window, rule.window))


def _distinct_continued(distinct: _Distinct, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    new = distinct.new_before[window.end] - distinct.new_before[window.start]
    return pc.add(pc.fill_null(earlier, 0).cast(pa.int64()), new)


def _distinct_kept(distinct: _Distinct, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    """The windows are those of all rows of keys, each once."""
    places = np.flatnonzero(distinct.new)
    owners = np.searchsorted(window.end, places, side="right")
    places, owners = places[owners < len(window.end)], owners[owners < len(window.end)]
    inside = places >= window.start[owners]
    values = distinct.ordered.at(places[inside]).cast(rule.column_type)
    values = pa.chunked_array([pc.list_flatten(earlier), values])
    parents = [pc.list_parent_indices(earlier).cast(pa.int64()), pa.array(owners[inside])]
    pairs = pa.table({"owner": pa.chunked_array(parents), "value": values})
    pairs = pairs.sort_by([("owner", "ascending"), ("value", "ascending")]).combine_chunks()
    ends = np.searchsorted(pairs["owner"].to_numpy(), np.arange(len(window.end) + 1)).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(ends), pa.concat_arrays(pairs["value"].chunks))


def _variance(variances: ExactVariances, window: Window, rule: Rule) -> pa.Array:
    values, few = variances.of(window)
    return pa.array(values, mask=few)


def _variance_continued(variances: ExactVariances, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    values, few = _totals(variances, window, earlier).variances()
    return pa.array(values, mask=few)


def _deviation(variances: ExactVariances, window: Window, rule: Rule) -> pa.Array:
    values, few = variances.of(window)
    return pa.array(np.sqrt(values), mask=few)


def _deviation_continued(variances: ExactVariances, window: Window, rule: Rule, earlier: pa.Array) -> pa.Array:
    values, few = _totals(variances, window, earlier).variances()
    return pa.array(np.sqrt(values), mask=few)


def _of_both(choose: Callable[[pa.Array, pa.Array], pa.Array], answer: Callable) -> Callable:
    """Continue by choosing between the earlier result and the one over the later rows."""
    return lambda prepared, window, rule, earlier: choose(earlier, answer(prepared, window, rule))


def _with_results(prepare: Callable, answer: Callable, continued: Callable) -> Kernel:
    """One whose results are all that is to be kept."""
    return Kernel(prepare, answer, continued, continued)


KERNELS = {
    "count": _with_results(_nothing, _count, _count_continued),
    "sum": Kernel(_sums, _sum, _sum_continued, _sum_kept),
    "mean": Kernel(_sums, _mean, _mean_continued, _totals_kept),
    "min": _with_results(_least, _extreme, _of_both(pc.min_element_wise, _extreme)),
    "max": _with_results(_greatest, _extreme, _of_both(pc.max_element_wise, _extreme)),
    "first": _with_results(_ordered, _first, _of_both(pc.coalesce, _first)),
    "last": _with_results(_ordered, _last, _of_both(lambda earlier, later: later, _last)),
    "count_distinct": Kernel(_Distinct, _distinct, _distinct_continued, _distinct_kept),
    "var": Kernel(_variances, _variance, _variance_continued, _totals_kept),
    "std": Kernel(_variances, _deviation, _deviation_continued, _totals_kept),
}
