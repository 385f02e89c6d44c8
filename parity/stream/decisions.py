"""What becomes of events: which are new, which were applied before, and which are sent twice, corrected or late."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.table import Definition
from parity.stream.computation import numbers_of
from parity.stream.state import (
    BEGINNING,
    FIRST,
    ID,
    LEFT_OUT,
    NO_OFFSET,
    NOWHERE,
    OFFSET,
    OWNER,
    PARTITION,
    States,
    decode,
    is_counted,
    left_out,
    read_applied,
)

if TYPE_CHECKING:
    from parity.stream.apply import Applier


OF_A_FILE = "its id is that of a transaction in a file that no stream wrote, with other content. Correct that file."


class Became(IntEnum):
    """What became of an event."""

    APPLIED = 0
    ALREADY = 1
    """It was applied before."""
    DUPLICATE = 2
    """An event with its id was applied before, or a later correction of it: nothing changes."""
    CORRECTION = 3
    """An event with its id was applied before, with other content, in whose place it is now."""
    LATE = 4
    """It is older than all that may still be computed exactly: nothing changes."""
    LEFT = 5
    """Its entity is not written at all: see `Applied`."""
    PASSED = 6
    """The view leaves it out, and none with its id was applied."""


@dataclass
class Applied:
    """What became of the events of a micro-batch, in their order."""

    became: np.ndarray
    """`Became` of each."""
    first: np.ndarray
    """For a `DUPLICATE` or a `CORRECTION`, the offset at which the event was delivered first; -1 for others."""
    late: np.ndarray
    """Which are too old to change anything, whatever else they are: a correction may be."""
    unseeded: pa.Table
    """Keys that have a row, or may have had one, of which nothing is known: `parity.stream.seed` is for them."""
    fenced: pa.Table
    """Keys whose rows are of another definition."""
    foreign: pa.Table
    """Keys that hold something else than a row in Redis."""
    beyond: pa.Table
    """Keys of which a feature would be beyond what its type holds."""
    reasons: dict[int, str]
    """For each event of a key that is ``beyond``, or that would correct a file, by its place, why, for people."""

    @classmethod
    def nothing(cls, events: int, keys: pa.Table) -> Applied:
        """Of events of which nothing has become yet, of none of these keys."""
        became, first, late = np.full(events, Became.LEFT, np.int8), np.full(events, -1), np.zeros(events, bool)
        return cls(became, first, late, *[keys.slice(0, 0)] * 4, {})

    @property
    def again(self) -> np.ndarray:
        """Which events have the id of an earlier one."""
        return (self.became == Became.DUPLICATE) | (self.became == Became.CORRECTION)


@dataclass
class Batch:
    """Events as Python has them, of entities that have numbers."""

    table: pa.Table
    entities: int
    places: np.ndarray
    """Where in the whole micro-batch they are."""
    owners: list[int]
    times: list[int]
    partitions: list[str]
    offsets: list[int]
    ids: list[str | None] | None
    """None if no event has any."""
    left_out: list[bool] | None
    """Which events the view leaves out: each has an id, and of an earlier event with that id nothing is to be left."""

    @classmethod
    def of(cls, events: pa.Table, owners: np.ndarray, definition: Definition) -> Batch:
        names = [definition.reading.timestamp, *definition.columns, PARTITION, OFFSET, ID]
        names += [LEFT_OUT] if LEFT_OUT in events.column_names else []
        table = events.select(names).combine_chunks().append_column(OWNER, pa.array(owners))
        return cls._of(table, int(owners.max(initial=-1)) + 1, np.arange(len(owners)), definition.reading.timestamp)

    @classmethod
    def _of(cls, table: pa.Table, entities: int, places: np.ndarray, timestamp: str) -> Batch:
        ids = table[ID].to_pylist() if table[ID].null_count < table.num_rows else None
        times = table[timestamp].cast(pa.int64()).to_pylist()
        partitions, offsets = table[PARTITION].to_pylist(), table[OFFSET].to_pylist()
        left_out = table[LEFT_OUT].to_pylist() if LEFT_OUT in table.column_names else None
        return cls(table, entities, places, table[OWNER].to_pylist(), times, partitions, offsets, ids, left_out)

    def only(self, entities: list[int]) -> Batch:
        """The events of some entities, numbered by their places in this list."""
        numbers = np.full(self.entities, -1)
        numbers[entities] = np.arange(len(entities))
        owners = numbers[numbers_of(self.table[OWNER])]
        some = np.flatnonzero(owners >= 0)
        table = self.table.take(pa.array(some))
        table = table.set_column(table.schema.get_field_index(OWNER), OWNER, pa.array(owners[some]))
        return self._of(table, len(entities), self.places[some], self.table.column_names[0])


@dataclass
class Known:
    """What is known of some entities before their events: what is applied, None for those that are not to be written;
    and their states."""

    marks: list[dict[str, int] | None]
    applied: list[bytes | None]
    states: States

    @classmethod
    def of(cls, stored: list[list], applier: Applier, entities: Sequence[int], left: dict[str, list[int]]) -> Known:
        states, readable = decode([state or None for _, state, _ in stored], applier.definition)
        seeded_by = cache(applier.seeded_by)
        marks: list[dict[str, int] | None] = []
        for place, one in enumerate(stored):
            found: dict[str, int] | str | None = {}
            if one[0] == 0:
                found = "foreign"
            elif one[2] is not None:
                fingerprint, found = read_applied(one[2])
                if fingerprint not in (applier.fingerprint, ""):
                    found = "fenced"
                elif not fingerprint or not readable[place]:
                    found = applier.unknown(False, seeded_by())
            else:
                found = applier.unknown(one == [None, None, None], seeded_by()) or {}
            if isinstance(found, str):
                left[found].append(entities[place])
            marks.append(None if isinstance(found, str) else found)
        return cls(marks, [applied for *_, applied in stored], states)


@dataclass
class _Event:
    """An event with an id, as far as it is known: delivered first at ``first``, and what holds of it now."""

    first: int
    partition: str
    offset: int
    table: pa.Table
    row: int
    """Where in the table its content is."""
    is_state: bool = False
    is_gone: bool = False
    """Whether it is no row, as it is not in a window any more."""
    is_left_out: bool = False
    """Whether the view leaves out what holds of it now."""

    def stands_at(self, batch: Batch, row: int, is_left_out: bool) -> None:
        """Let what holds of it be an event of a batch."""
        self.table, self.row, self.is_state, self.is_left_out = batch.table, row, False, is_left_out
        self.offset, self.partition = batch.offsets[row], batch.partitions[row]

    def is_of(self, partition: str, offset: int) -> bool:
        return partition == self.partition and offset == self.offset


class Decisions:
    """What becomes of each event of a batch, in their order, as if they were applied one by one."""

    def __init__(self, batch: Batch, known: Known, reach: int, latest: int):
        self.batch, self.known, self.reach, self.latest = batch, known, reach, latest
        count = len(batch.owners)
        self.became, self.first = [Became.LEFT] * count, [-1] * count
        self.late: list[int] = []
        self.taken: dict[int, tuple[int, int]] = {}
        """Events that become rows: the offset of their first delivery, and the number of their partition."""
        self.dropped: set[int] = set()
        """Rows of the states in whose place a correction is."""
        self.reasons: dict[int, str] = {}
        """Why some events are not taken."""
        self.since = known.states.since.tolist()
        self._changed: set[int] = set()
        self._had_more = set(known.states.kept[OWNER].to_pylist()) if batch.ids is not None else set()
        self._events = self._known_ids() if batch.ids is not None else {}
        for place in range(count):
            if known.marks[batch.owners[place]] is not None:
                self._decide(place)

    def note(self, result: Applied) -> None:
        places = self.batch.places
        result.became[places] = self.became
        result.first[places] = self.first
        late = np.zeros(len(places), bool)
        late[self.late] = True
        result.late[places] = late
        result.reasons |= {int(places[place]): reason for place, reason in self.reasons.items()}

    def leave(self, entity: int) -> list[int]:
        """Leave the events of an entity alone; returns where they are in the micro-batch."""
        self._changed.discard(entity)
        places = [place for place, owner in enumerate(self.batch.owners) if owner == entity]
        for place in places:
            self.became[place], self.first[place] = Became.LEFT, -1
            self.taken.pop(place, None)
        self.late = [place for place in self.late if self.batch.owners[place] != entity]
        return self.batch.places[places].tolist()

    @property
    def changed(self) -> np.ndarray:
        """The entities that are to be written."""
        return np.array(sorted(self._changed), np.int64)

    def states(self) -> States:
        """Those of the `changed` entities, which have new numbers, in order."""
        changed, numbers = self.changed, np.full(self.known.states.entities, -1)
        numbers[changed] = np.arange(len(changed))
        rows, kept = self.known.states.rows, self.known.states.kept
        stay = numbers[numbers_of(rows[OWNER])] >= 0
        stay[list(self.dropped)] = False
        if not stay.all():
            rows = rows.filter(pa.array(stay))
        if len(changed) < len(numbers):
            kept = kept.filter(pa.array(numbers[numbers_of(kept[OWNER])] >= 0))
        rows = pa.concat_tables([rows, self._new_rows(rows.schema)])
        owners = numbers[numbers_of(rows[OWNER])]
        times = rows[self.batch.table.column_names[0]].cast(pa.int64()).to_numpy()
        order = np.lexsort((numbers_of(rows[OFFSET]), times, owners))
        rows = rows.set_column(0, OWNER, pa.array(owners)).take(pa.array(order))
        kept = kept.set_column(0, OWNER, pa.array(numbers[numbers_of(kept[OWNER])]))
        since = np.array([self.since[entity] for entity in changed.tolist()], np.int64)
        return States(since, self.known.states.gone[changed], rows, kept)

    def _new_rows(self, schema: pa.Schema) -> pa.Table:
        new = self.batch.table.take(pa.array(list(self.taken), pa.int64()))
        firsts, partitions = zip(*self.taken.values(), strict=True) if self.taken else ((), ())
        columns = {name: new[name] for name in schema.names if name in new.column_names}
        columns |= {FIRST: pa.array(firsts, pa.int64()), PARTITION: pa.array(partitions, pa.uint16())}
        return pa.table([columns[name] for name in schema.names], schema)

    def _decide(self, place: int) -> None:
        batch = self.batch
        entity, partition, offset = batch.owners[place], batch.partitions[place], batch.offsets[place]
        marks, id = self.known.marks[entity], batch.ids and batch.ids[place]
        applied = marks.get(partition)
        event = None if id is None else self._events.get((entity, id))
        if applied is not None and offset <= applied:
            self._decide_again(place, event)
            return
        leaves = batch.left_out is not None and batch.left_out[place]
        if leaves and event is None:
            self.became[place] = Became.PASSED
            return
        marks[partition] = offset
        self._changed.add(entity)
        if leaves:
            self._decide_leaving(place, event)
        elif event is not None:
            self._decide_repeated(place, event)
        elif self._take(place, offset):
            self.became[place] = Became.APPLIED
        else:
            self.became[place] = Became.LATE
            self.late.append(place)
        if id is not None and event is None:
            self._events[entity, id] = _Event(
                offset, partition, offset, batch.table, place, is_gone=place not in self.taken
            )

    def _decide_again(self, place: int, event: _Event | None) -> None:
        """Say of an event that was applied before what it was then."""
        batch = self.batch
        partition, offset = batch.partitions[place], batch.offsets[place]
        self.became[place] = Became.ALREADY
        if event is None:
            if batch.ids and batch.ids[place] is not None:
                key = batch.owners[place], batch.ids[place]
                self._events[key] = _Event(offset, partition, offset, batch.table, place, is_gone=True)
        elif not (event.partition == partition and event.first == offset):
            is_last = event.is_of(partition, offset)
            self.became[place] = Became.CORRECTION if is_last else Became.DUPLICATE
            self.first[place] = event.first
            self._require_same(place, event)

    def _require_same(self, place: int, event: _Event) -> bool:
        """Whether an event is one of a file that no stream has written, which none can correct."""
        if event.first >= 0:
            return False
        if not self._is_same(place, event):
            self.reasons[place] = OF_A_FILE
        return True

    def _decide_repeated(self, place: int, event: _Event) -> None:
        """Take an event whose id is known: as a duplicate, or in the place of the one before."""
        self.first[place] = event.first
        if self._require_same(place, event) or (not event.is_left_out and self._is_same(place, event)):
            self.became[place] = Became.DUPLICATE
            return
        self.became[place] = Became.CORRECTION
        if event.is_gone or not self._may_replace(place, event):
            self.late.append(place)
            return
        self._drop(place, event)
        self._become_row(place, event.first)
        event.stands_at(self.batch, place, is_left_out=False)

    def _decide_leaving(self, place: int, event: _Event) -> None:
        """Take out an event of which nothing is left."""
        batch = self.batch
        entity = batch.owners[place]
        self.became[place], self.first[place] = Became.CORRECTION, event.first
        if event.is_left_out or self._require_same(place, event):
            self.became[place] = Became.DUPLICATE
            return
        if event.is_gone or not self._may_leave(entity, event):
            self.late.append(place)
            return
        self._drop(place, event)
        self.taken[place] = left_out(event.first), self._number(place)
        event.stands_at(self.batch, place, is_left_out=True)

    def _drop(self, place: int, event: _Event) -> None:
        """Take the row of an event away, for that at a ``place`` to be in its place."""
        entity = self.batch.owners[place]
        knows_all = self._knows_all(entity)
        if event.is_state:
            self.dropped.add(event.row)
        else:
            del self.taken[event.row]
        if knows_all:  # as if it had never been there
            past = [instant for instant in self._instants(entity) if instant <= self.latest]
            self.since[entity] = max(max(past, default=BEGINNING), BEGINNING + self.reach) - self.reach

    def _take(self, place: int, first: int) -> bool:
        """Let an event become a row; False if it is too late."""
        if self.batch.times[place] < self.since[self.batch.owners[place]]:
            return False
        self._become_row(place, first)
        return True

    def _become_row(self, place: int, first: int) -> None:
        entity, instant = self.batch.owners[place], self.batch.times[place]
        self.taken[place] = first, self._number(place)
        if instant <= self.latest:
            self.since[entity] = max(self.since[entity], instant - self.reach)

    def _number(self, place: int) -> int:
        """The number of an event's partition among those of its entity."""
        marks = self.known.marks[self.batch.owners[place]]
        return 0 if len(marks) == 1 else list(marks).index(self.batch.partitions[place])

    def _instants(self, entity: int) -> list[int]:
        """Those of all rows of an entity, as far as events are decided."""
        rows = self.known.states.rows
        first, last = np.searchsorted(numbers_of(rows[OWNER]), [entity, entity + 1])
        stored = rows[self.batch.table.column_names[0]].slice(first, last - first).cast(pa.int64()).to_pylist()
        is_row = is_counted(rows[FIRST].slice(first, last - first)).tolist()
        known = zip(range(first, last), stored, is_row, strict=True)
        instants = [instant for row, instant, counts in known if counts and row not in self.dropped]
        new = [row for row, (first, _) in self.taken.items() if first >= NO_OFFSET and self.batch.owners[row] == entity]
        return instants + [self.batch.times[row] for row in new]

    def _knows_all(self, entity: int) -> bool:
        """Whether an entity never had other rows than those that are there."""
        since = self.since[entity]
        return entity not in self._had_more and all(instant >= since for instant in self._instants(entity))

    def _is_same(self, place: int, event: _Event) -> bool:
        names = self.batch.table.column_names[: self.batch.table.column_names.index(PARTITION)]
        return all(self.batch.table[name][place] == event.table[name][event.row] for name in names)

    def _may_replace(self, place: int, event: _Event) -> bool:
        """Whether all that an entity is worth can still be computed if the ``event`` is replaced."""
        entity, instant = self.batch.owners[place], self.batch.times[place]
        if self._knows_all(entity):
            return True
        if instant < self.since[entity]:
            return False
        if event.is_left_out:
            return True
        return self.since[entity] + self.reach <= instant <= self.latest or self._may_leave(entity, event)

    def _may_leave(self, entity: int, event: _Event) -> bool:
        """The same if nothing comes in its place."""
        since, edge = self.since[entity], self.since[entity] + self.reach
        own = event.table[self.batch.table.column_names[0]][event.row].cast(pa.int64()).as_py()
        if since == BEGINNING or own < edge or self._knows_all(entity):
            return True
        instants = self._instants(entity)
        instants.remove(own)
        return any(edge <= instant <= self.latest for instant in instants)

    def _known_ids(self) -> dict[tuple[int, str], _Event]:
        """The rows of the states whose ids events of the batch have."""
        rows = self.known.states.rows
        found = np.flatnonzero(
            pc.is_in(rows[ID], value_set=self.batch.table[ID].combine_chunks().drop_null()).to_numpy()
        )
        some = rows.take(pa.array(found))
        columns = [some[name].to_pylist() for name in (OWNER, ID, FIRST, PARTITION, OFFSET)]
        events = {}
        for row, owner, id, first, partition, offset in zip(found.tolist(), *columns, strict=True):
            marks = self.known.marks[owner]
            if marks is not None:
                name = "" if partition == NOWHERE else list(marks)[partition]
                is_out = first < NO_OFFSET
                first = left_out(first) if is_out else first
                events[owner, id] = _Event(first, name, offset, rows, row, is_state=True, is_left_out=is_out)
        return events
