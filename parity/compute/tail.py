"""The features of a part of the rows, continued from what is known of the rows before: the same bits, in less memory.

Of the past of an instant a windowed aggregation needs the rows in its window, and a count without a window needs how
many there were. A sum or a mean without a window needs every row: float64 does not hold the exact sum to continue.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from parity.compute.windows import aggregate
from parity.definition.table import Definition

ROWS_AT_ONCE = 1 << 20


def counts_to_continue(definition: Definition) -> list[str]:
    """The names of the counts without a window."""
    return [rule.name for rule in definition.rules if rule.time_window is None and rule.function == "count"]


def aggregate_from(start: int, rows: pa.Table, earlier: pa.Table, definition: Definition) -> pa.Table:
    """Give what `aggregate` gives at the instants from ``start`` (microseconds) on.

    ``rows`` are those from `Definition.reach` before ``start`` on, or from further back; ``earlier`` has, for each key
    that has rows before them, the key and its `counts_to_continue` so far.
    """
    [key], timestamp = definition.keys.names, definition.event
    history = aggregate(rows, definition)
    history = history.filter(pa.array(history[timestamp].cast(pa.int64()).to_numpy() >= start))
    earlier = earlier.sort_by(key)
    known, keys = earlier[key].to_numpy(), history[key].to_numpy()
    place = np.searchsorted(known, keys)
    there = np.append(known, 0)[place] == keys
    there[place == len(known)] = False
    for name in counts_to_continue(definition):
        before = np.where(there, np.append(earlier[name].to_numpy(), 0)[place], 0)
        at = history.column_names.index(name)
        history = history.set_column(at, name, pa.array(history[name].to_numpy() + before))
    return history


def aggregate_sorted(
    parts: Iterable[pa.Table],
    definition: Definition,
    at_once: int = ROWS_AT_ONCE,
) -> Iterator[pa.Table]:
    """Give what `aggregate` gives of all ``parts`` together, a part at a time.

    The rows of ``parts``, of any sizes, are sorted by (key, timestamp). Holds about ``at_once`` rows, and those of one
    key within the longest window: a key may have any number of rows.
    """
    [key], timestamp, event = definition.keys.names, definition.reading.timestamp, definition.event
    span, counts = definition.reach, counts_to_continue(definition)
    held: list[pa.Table] = []
    enough, open_key = at_once, _OpenKey(None, 0, 0)
    for part in chain(parts, [None]):
        held += [part] if part is not None and part.num_rows else []
        if not held or (part is not None and sum(table.num_rows for table in held) < enough):
            continue
        rows = pa.concat_tables(held).combine_chunks()
        history = _without_given(aggregate(rows, definition), event, counts, open_key)
        if part is None:
            yield history
            return
        yield history.slice(0, history.num_rows - 1)  # more rows of the last instant may follow
        first, open_key = _reopen(rows, key, timestamp, span, open_key)
        held = [rows.slice(first)]
        enough = max(at_once, 2 * held[0].num_rows)


class _OpenKey(NamedTuple):
    """The key whose rows go on: its instants before ``instant`` are given, ``earlier`` rows of it no longer held."""

    key: int | None
    instant: int
    earlier: int


def _without_given(history: pa.Table, timestamp: str, counts: list[str], known: _OpenKey) -> pa.Table:
    """Take out the instants that were given before, and continue the counts of the key that goes on, which is first."""
    keys, times = history[0].to_numpy(), history[timestamp].cast(pa.int64()).to_numpy()
    if known.key is None or not len(keys) or keys[0] != known.key:
        return history
    of_key = np.searchsorted(keys, known.key, "right")
    for name in counts:
        values = history[name].to_numpy().copy()
        values[:of_key] += known.earlier
        history = history.set_column(history.column_names.index(name), name, pa.array(values))
    return history.slice(np.searchsorted(times[:of_key], known.instant))


def _reopen(rows: pa.Table, key: str, timestamp: str, span: int | None, known: _OpenKey) -> tuple[int, _OpenKey]:
    """Find the first row that the last instant of ``rows``, and whatever follows it, needs."""
    keys, times = rows[key].to_numpy(), rows[timestamp].cast(pa.int64()).to_numpy()
    last, instant = int(keys[-1]), int(times[-1])
    start = first = int(np.searchsorted(keys, last))
    if span is not None:
        first += int(np.searchsorted(times[start:], max(instant - span, int(times[start]))))
    earlier = first - start + (known.earlier if known.key == last else 0)
    return first, _OpenKey(last, instant, earlier)
