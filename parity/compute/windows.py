"""From rows to features, exactly: what a Feast `Aggregation` means at every moment of every key.

A moment is an instant T at which a key has a row. If the definition is continuous, each instant at which a row leaves a
window is one too: t + W + 1 microsecond, for a row at t and a window W. Between two moments no feature changes.

For each key and each moment T an aggregation looks at the key's rows in [T - window, T], both ends included and every
row at exactly T included; without a ``time_window`` it looks at all rows up to and including T. Of the values of a
column in these rows it gives:

    count           how many there are
    sum, mean       of floats the float64 nearest to the exact result; the sum of whole numbers is an int64
    var             the float64 nearest to the exact variance of a sample, null below two rows
    std             the square root of that float64, null below two rows
    min, max        the least and the greatest; of texts by the order of their code points
    first, last     that at the earliest and at the latest instant; of several at one instant, the least for `first` and
                    the greatest for `last`
    count_distinct  how many different ones there are

Of an empty window count, sum and count_distinct are 0, and all else is null.

So a result depends on the rows in its window and on nothing else: not on the order of the rows, on how they are split
for processing, or on how much older history is there.

A float64 stands for the decimal number with the fewest digits that reads back as the same float64, which is the number
a CSV file shows: 0.1 is one tenth. What is nearest is rounded to even between two; -0.0 is 0.0, in and out.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.compute import timeline
from parity.compute.codes import Codes, column_codes, key_codes
from parity.compute.exact import TooLarge
from parity.compute.kernels import KERNELS, Kernel, Past, Rows
from parity.compute.timeline import LAST, Moments, Timeline, Window, chunks, span_of
from parity.definition.functions import FUNCTIONS
from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.keys import KeyBook, shown_key
from parity.definition.table import Definition, Rule
from parity.edge.errors import UserError

VALUES_AT_ONCE = 1 << 24
"""So many values are taken up at once, if no key has more: rows, times the columns that are made of them."""
PLACES = 2**62
"""So many pairs of key and instant an int64 numbers, with room to spare."""


def aggregate(
    rows: pa.Table,
    definition: Definition,
    earlier: pa.Table | None = None,
    asked: np.ndarray | None = None,
    since: int | None = None,
) -> pa.Table:
    """Compute the features of ``definition`` at every moment of every key, up to `LAST_INSTANT`.

    ``rows``, in any order, has the schema `Definition.transactions`, without nulls, and finite numbers. The result has
    one row per (keys, moment), sorted by the keys, the first of them first, and by the moment, and the schema
    `Definition.schema`. Keys are in the order of `parity.compute.codes.key_codes`.

    With ``earlier``, of schema `Definition.tail` or `Definition.state`, those features of the keys in it are continued:
    it has their results over earlier rows, or what is kept of these, which are not among ``rows``. With ``asked``, a
    boolean for each row, the same at one instant of a key, only those moments are computed up to which the last row of
    the key is asked for. With ``since``, in microseconds, only those from then on are.

    Raises `UserError` for a result that its type does not hold.
    """
    return _computed(rows, definition, earlier, asked, since)


def _computed(
    rows: pa.Table,
    definition: Definition,
    earlier: pa.Table | None,
    asked: np.ndarray | None,
    since: int | None = None,
    is_kept: bool = False,
) -> pa.Table:
    """The features, or what is to be kept for them."""
    keys = rows.select(definition.keys.names)
    past = _past(keys, earlier, definition.keys) if earlier or is_kept else None
    codes = key_codes(keys)
    times = column_codes(rows[definition.reading.timestamp])
    columns = {rule.column: column_codes(rows[rule.column]) for rule in definition.rules if rule.function != "count"}
    del rows, keys  # whoever has no more use for them gets their memory back
    made = {(KERNELS[rule.function].prepare, rule.column) for rule in definition.rules if rule.function != "count"}
    steps = _steps(definition, times.low)
    codes, times, instants, parts = _split(codes, times, steps, -(-VALUES_AT_ONCE // max(1, len(made))))
    batches: list[pa.RecordBatch] = []
    with _pool(len(codes.values)) as pool:  # NumPy lets go of Python's lock, so the cores share the work
        for part in parts:
            timeline = Timeline(codes.only(part), times.only(part), pool, instants, steps)
            of_part = {name: column.only(part) for name, column in columns.items()}
            sorted_rows = Rows(timeline, of_part, definition.rules, pool, past and past.only(part))
            wanted = asked if part is None or asked is None else asked[part]
            batches += _features(sorted_rows, codes.decode, definition, wanted, since, is_kept)
    return pa.Table.from_batches(batches, _schema(definition, is_kept))


def _pool(rows: int) -> AbstractContextManager:
    """Who shares the work on so many rows: of those of one chunk, nobody, as threads cost more than they do."""
    return ThreadPoolExecutor(os.cpu_count()) if rows > timeline.ROWS_AT_A_TIME else nullcontext(_Alone)


class _Alone:
    """A pool without threads: whoever maps does the work."""

    map = map


def _schema(definition: Definition, is_kept: bool) -> pa.Schema:
    return definition.state.insert(len(definition.keys), _event(definition)) if is_kept else definition.schema


def _steps(definition: Definition, earliest: int) -> list[int]:
    """How many microseconds after a row it leaves a window, for each window of a continuous table, but for those that
    not even the ``earliest`` row leaves by the last instant that there is."""
    return [window + 1 for window in definition.windows if definition.continuous and earliest + window + 1 <= LAST]


def _event(definition: Definition) -> pa.Field:
    return definition.schema.field(definition.event)


def fold(rows: pa.Table, earlier: pa.Table, definition: Definition) -> pa.Table:
    """What ``rows`` come to, and those earlier ones that ``earlier`` is of: to continue from, as `aggregate` does.

    ``rows``, in any order, are later than those of ``earlier``, which has the schema `Definition.state`, as the result
    has: a row for each key that either has. Raises `UserError` for a sum of whole numbers that int64 does not hold.
    """
    if not rows.num_rows:
        return earlier
    keys = rows.select(definition.keys.names)
    book = KeyBook(definition.keys)
    numbers = book.number(keys)
    times = rows[definition.reading.timestamp].cast(pa.int64()).to_numpy()
    latest = np.full(len(book), np.iinfo(np.int64).min)
    np.maximum.at(latest, numbers, times)
    unwindowed = replace(definition, rules=definition.unwindowed, continuous=False)
    folded = _computed(rows, unwindowed, earlier, times == latest[numbers], is_kept=True)
    others = earlier.filter(pa.array(book.find(earlier) < 0))
    return pa.concat_tables([folded.select(definition.state.names), others]).cast(definition.state)


def _past(keys: pa.Table, kept: pa.Table, schema: pa.Schema) -> Past:
    book = KeyBook(schema)
    book.number(kept)
    return Past(kept.combine_chunks(), book.find(keys))


def _features(
    rows: Rows,
    decode: Callable[[np.ndarray], list[pa.Array]],
    definition: Definition,
    asked: np.ndarray | None,
    since: int | None,
    is_kept: bool,
) -> Iterator[pa.RecordBatch]:
    """The features of ``rows``, whose keys ``decode`` gives, a chunk at a time."""
    timeline, past, schema = rows.timeline, rows.past, _schema(definition, is_kept)
    rules = [(rule, KERNELS[rule.function]) for rule in definition.rules]
    lengths = {rule.window for rule in definition.rules}
    prepared = [rows.once(kernel.prepare, rule.column) for rule, kernel in rules]

    def wanted(chunk: slice) -> Moments:
        moments = timeline.moments(chunk)
        if asked is not None:
            moments = moments.only(asked[timeline.order[moments.last]])
        return moments if since is None else moments.only(timeline.at(moments.places)[1] >= since)

    def features(moments: Moments) -> pa.RecordBatch:
        keys, instants = timeline.at(moments.places)
        columns = [*decode(keys), pa.array(instants, UTC_MICROSECONDS)]
        windows = timeline.windows(moments, lengths)
        for (rule, kernel), column in zip(rules, prepared, strict=True):
            try:
                if is_kept:
                    before = past.at(timeline.order[moments.last], rule.name)
                    result = kernel.keep(column, windows[rule.window], rule, before)
                elif past and past.knows(rule):
                    before = past.summary(timeline.order[moments.last], rule.name)
                    result = kernel.continued(column, windows[rule.window], rule, before)
                else:
                    result = _answer(kernel, column, windows[rule.window], rule)
            except TooLarge as error:
                raise _refused(rule, error, [found[error.place] for found in columns], definition.keys) from None
            columns.append(result.cast(schema.field(rule.name).type))
        return pa.record_batch(columns, schema=schema)

    def batches(chunk: slice) -> list[pa.RecordBatch]:
        moments = wanted(chunk)  # maybe many more than the rows of the chunk
        return [features(moments.only(some)) for some in chunks(len(moments.last))]

    return chain.from_iterable(rows.pool.map(batches, chunks(len(timeline))))


def _answer(kernel: Kernel, column: Any, window: Window, rule: Rule) -> pa.Array:
    """The results in these windows, of which some may be empty."""
    some = window.start < window.end
    if some.all():
        return kernel.answer(column, window, rule)
    try:
        found = kernel.answer(column, window.only(some), rule)
    except TooLarge as error:
        raise TooLarge(int(np.flatnonzero(some)[error.place]), error.holder) from None
    result = found.take(pa.array(np.cumsum(some) - 1, mask=~some))
    nothing = FUNCTIONS[rule.function].of_nothing
    return result if nothing is None else pc.fill_null(result, nothing)


def _refused(rule: Rule, error: TooLarge, found: list[pa.Scalar], keys: pa.Schema) -> UserError:
    key, instant = tuple(value.as_py() for value in found[: len(keys)]), found[len(keys)].as_py()
    shown = shown_key(key, keys) if len(keys) > 1 else f"{keys.names[0]} {shown_key(key, keys)}"
    return UserError(
        f"{shown}: {rule.name} at {instant.isoformat()}: the {rule.function} of {rule.column} is beyond what "
        f"{error.holder} holds. Correct the amounts."
    )


def _split(
    codes: Codes, times: Codes, steps: list[int], rows_at_once: int
) -> tuple[Codes, Codes, np.ndarray | None, list[np.ndarray | None]]:
    """Split the rows by ranges of keys, so that in each part one int64 holds (key, time), and about so many rows are.

    Where that would take very many parts, keys become dense, and then the times positions in the sorted instants, those
    of the moments, which are the third of the results. The parts are the rows of each; None are all of them.
    """
    rows, instants, span = len(codes.values), None, span_of(times, steps)
    if codes.span * span >= (1 + rows // 2**16) * PLACES:
        codes = codes.dense()
    if codes.span * span >= (1 + rows // 2**16) * PLACES:
        instants = np.unique(np.concatenate([times.values, *(times.values + step for step in steps)]))
        times = Codes(np.searchsorted(instants, times.values), times.decode)
        span = span_of(times, steps, instants)
    fitting = PLACES // span
    if codes.span <= fitting and rows <= rows_at_once:
        return codes, times, instants, [None]
    shift = max(0, codes.span.bit_length() - 16)
    leading = ((codes.values - codes.low) >> shift).astype(np.uint16)
    up_to = np.cumsum(np.bincount(leading, minlength=2**16))
    by_rows = np.maximum(up_to - 1, 0) * -(-rows // rows_at_once) // rows
    by_width = np.arange(2**16) // max(1, fitting >> shift)
    new = (np.diff(by_rows, prepend=0) != 0) | (np.diff(by_width, prepend=0) != 0)
    part_of = np.cumsum(new).astype(np.uint16)
    dealt = np.argsort(part_of[leading], kind="stable")  # of two bytes: a radix sort
    ends = up_to[np.flatnonzero(np.append(part_of[1:] != part_of[:-1], True))]
    return codes, times, instants, [dealt[start:end] for start, end in pairwise([0, *ends.tolist()]) if start < end]
