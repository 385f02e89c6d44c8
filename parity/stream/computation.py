"""From states to rows: what is to be stored of entities, by the function of the batch, of all of them at once."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from parity.compute.windows import aggregate, fold
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.online.columns import encode_timestamps, encode_values
from parity.online.steps import at_present
from parity.stream.state import (
    BEGINNING,
    FIRST,
    NOWHERE,
    OFFSET,
    OWNER,
    PARTITION,
    States,
    encode,
    is_counted,
    kept_schema,
)

LONGEST_REACH = 2**62
"""Further apart than any two instants are."""


class Computed(NamedTuple):
    """What is to be stored of some entities: states of all, rows of those that have one by now."""

    states: list[bytes]
    places: np.ndarray
    """Those that have a row."""
    without: np.ndarray
    """Those that have none."""
    timestamps: list[bytes]
    values: list[list[bytes]]
    """Of each feature."""
    steps: list[bytes] | None


class Beyond(UserError):
    """A feature of the entity ``owner`` is beyond what its type holds."""

    def __init__(self, error: UserError):
        shown, _, reason = str(error).removeprefix(f"{OWNER} ").partition(": ")
        super().__init__(reason)
        self.owner = int(shown)


class Computation:
    """From states to rows, of entities that have numbers: by `aggregate`, of all at once."""

    def __init__(self, definition: Definition, horizon: int | None):
        self.definition, self.horizon = definition, horizon
        longest = max(definition.windows, default=0)
        self.reach = min(longest + 1 if definition.continuous and longest else longest, LONGEST_REACH)
        """How many microseconds before its last row the rows of an entity begin that are kept."""

    @cached_property
    def numbered(self) -> Definition:
        """The same features of entities by number."""
        return replace(self.definition, keys=pa.schema([pa.field(OWNER, pa.int64(), nullable=False)]))

    def of(self, states: States, latest: int, present: int) -> Computed:
        """What is to be stored of ``states``, whose rows before ``since`` are yet to be left out. ``latest`` is the
        latest instant that is known by now, ``present``. Raises `Beyond`."""
        try:
            return self._of(states, latest, present)
        except UserError as error:
            raise Beyond(error) from None

    def _of(self, states: States, latest: int, present: int) -> Computed:
        states = self._left_out(states)
        rows, kept = states.rows, states.kept
        owners, times = numbers_of(rows[OWNER]), times_of(rows, self.definition)
        counted = is_counted(rows[FIRST])
        past = counted & (times <= np.maximum(latest, states.since + self.reach)[owners])
        last = np.full(states.entities, BEGINNING)
        np.maximum.at(last, owners[past], times[past])
        asked = counted & (times >= last[owners]) & (last > BEGINNING)[owners]
        if not self.definition.continuous:
            asked &= past
        steps = None
        if asked.any():
            some = rows.select([OWNER, self.definition.reading.timestamp, *self.definition.columns])
            if not counted.all():
                some, asked = some.filter(pa.array(counted)), asked[counted]
            some = pa.Table.from_arrays(some.columns, schema=self.numbered.transactions)
            history = aggregate(some, self.numbered, _non_empty(kept), asked)
        else:
            history = self.numbered.schema.empty_table()
        if self.horizon is not None:
            of_row = np.maximum(last, present)[numbers_of(history[OWNER])]  # not what else happens until ``latest``
            history, steps = at_present(history, self.numbered, of_row, present + self.horizon)
        places = numbers_of(history[OWNER])
        values = [encode_values(history[rule.name].combine_chunks()) for rule in self.definition.rules]
        timestamps = encode_timestamps(numbers_of(history[self.definition.event].cast(pa.int64())))
        without = np.setdiff1d(np.arange(states.entities), places)
        return Computed(encode(states, self.definition), places, without, timestamps, values, steps)

    def _left_out(self, states: States) -> States:
        """The same, with the rows that can't be in a window any more added to what is kept."""
        owners, times = numbers_of(states.rows[OWNER]), times_of(states.rows, self.definition)
        leaving = times < states.since[owners]
        if not leaving.any():
            return states
        rows = states.rows.filter(pa.array(~leaving))
        leaving &= is_counted(states.rows[FIRST])
        gone = states.rows.filter(pa.array(leaving))
        states = states._replace(rows=rows, gone=_with_greatest(states.gone, gone))
        if not self.definition.unwindowed:  # then it is only kept which entities have had more rows
            some = np.union1d(numbers_of(states.kept[OWNER]), owners[leaving])
            return states._replace(kept=pa.table([pa.array(some, pa.int64())], kept_schema(self.definition)))
        names = [OWNER, self.definition.reading.timestamp, *self.definition.columns]
        before = states.kept.cast(self.numbered.state)
        kept = fold(gone.select(names).cast(self.numbered.transactions), before, self.numbered)
        return states._replace(kept=kept.cast(kept_schema(self.definition)).sort_by(OWNER))


def _with_greatest(offsets: np.ndarray, rows: pa.Table) -> np.ndarray:
    """The greatest offset of each entity and partition, where ``rows`` may have a greater one."""
    partitions = numbers_of(rows[PARTITION]).astype(np.int64)
    somewhere = partitions != NOWHERE
    partitions = partitions[somewhere]
    more = partitions.max(initial=-1) + 1 - offsets.shape[1]
    offsets = np.pad(offsets, ((0, 0), (0, max(0, more))), constant_values=-1)
    np.maximum.at(offsets, (numbers_of(rows[OWNER])[somewhere], partitions), numbers_of(rows[OFFSET])[somewhere])
    return offsets


def _non_empty(kept: pa.Table) -> pa.Table | None:
    return kept if kept.num_rows and kept.num_columns > 1 else None


def numbers_of(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()


def times_of(rows: pa.Table, definition: Definition) -> np.ndarray:
    return rows[definition.reading.timestamp].cast(pa.int64()).to_numpy()
