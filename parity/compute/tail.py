"""The features of a part of the rows, continued from what is known of the rows before: the same bits, in less memory.

Of the past of an instant a feature with a window needs the rows in its window. One without a window needs what it was
at the last instant before the rows that are there, if it can be continued: a count, a sum of whole numbers, and any
min, max, first and last can. A mean, a var, a std, a count_distinct and a sum of floats can't, as their results do not
hold enough: they need every row.

What was before is a table of schema `Definition.tail`, a row for each key that has any earlier rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import reduce
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.compute.windows import aggregate
from parity.definition.table import Definition

ROWS_AT_ONCE = 1 << 20


def aggregate_from(start: int, rows: pa.Table, earlier: pa.Table, definition: Definition) -> pa.Table:
    """Give what `aggregate` gives at the moments from ``start`` (microseconds) on.

    ``rows`` are those from `Definition.reach` before ``start`` on, or from further back; ``earlier`` is the tail of all
    rows before them.
    """
    return aggregate(rows, definition, earlier, since=start)


def tail_of(history: pa.Table, definition: Definition) -> pa.Table:
    """What the rows of ``history`` come to: its last row of each key, of those features that continue.

    ``history`` has at least the columns of `Definition.tail`, and the rows of one key are in the order of instants.
    """
    names = definition.keys.names
    numbered = history.select(names).append_column("", pa.array(np.arange(history.num_rows)))
    last = numbered.group_by(names).aggregate([("", "max")])["_max"]
    return history.select(definition.tail.names).take(last).cast(definition.tail)


def aggregate_sorted(
    parts: Iterable[pa.Table],
    definition: Definition,
    at_once: int = ROWS_AT_ONCE,
) -> Iterator[pa.Table]:
    """Give what `aggregate` gives of all ``parts`` together, a part at a time.

    The rows of ``parts``, of any sizes, are together by key, the keys in any order, and sorted by instant within a key.
    Holds about ``at_once`` rows, and those of one key within the longest window: a key may have any number of rows.
    """
    held: list[pa.Table] = []
    enough, given, earlier = at_once, 0, definition.tail.empty_table()
    for part in chain(parts, [None]):
        held += [part] if part is not None and part.num_rows else []
        if not held or (part is not None and sum(table.num_rows for table in held) < enough):
            continue
        rows = pa.concat_tables(held).combine_chunks()
        last = _LastKey.of(rows, definition)
        until = rows.num_rows if part is None else last.instant  # more rows of the last instant may follow
        if given < until:
            asked = np.zeros(rows.num_rows, bool)
            asked[given:until] = True
            yield aggregate(rows, definition, earlier, asked)
        if part is None:
            return
        if last.start:
            earlier = definition.tail.empty_table()
        earlier = _tail(rows.slice(last.start, last.needed - last.start), earlier, definition)
        held, given = [rows.slice(last.needed)], last.instant - last.needed
        enough = max(at_once, 2 * held[0].num_rows)


class _LastKey(NamedTuple):
    """Where the rows of the last key begin in a table, those that its last instant and any later one need, and those of
    the last instant."""

    start: int
    needed: int
    instant: int

    @classmethod
    def of(cls, rows: pa.Table, definition: Definition) -> _LastKey:
        keys = rows.select(definition.keys.names)
        same = reduce(pc.and_, (pc.equal(column, column[-1]) for column in keys.columns))
        start = rows.num_rows - pc.sum(same).as_py()
        times = rows[definition.reading.timestamp].slice(start).cast(pa.int64()).to_numpy()
        instant, span = int(times[-1]), definition.reach
        needed = 0 if span is None else np.searchsorted(times, max(instant - span, int(times[0])))
        return cls(start, start + int(needed), start + int(np.searchsorted(times, instant)))


def _tail(rows: pa.Table, earlier: pa.Table, definition: Definition) -> pa.Table:
    """What ``rows``, sorted and of one key, and the rows before them come to."""
    continuing = replace(definition, rules=tuple(rule for rule in definition.rules if rule.continues))
    if not rows.num_rows or not continuing.rules:
        return earlier
    times = rows[definition.reading.timestamp].cast(pa.int64()).to_numpy()
    return tail_of(aggregate(rows, continuing, earlier, times == times[-1]), definition)
