"""Events to rows online: a micro-batch is computed by the function of the batch, and written in one step an entity.

An entity's hash holds what the next event needs (`parity.stream.state`), and the greatest offset of each partition that
is in it. So an event that is delivered again is known, and a write that another worker was faster than is refused, and
computed again from what that one has written.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import IntEnum
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore
from feast.infra.online_stores.redis import RedisType

from parity.compute.windows import aggregate, fold
from parity.definition.checks import FeatureTable
from parity.definition.declare import horizon_of
from parity.definition.instants import EPOCH, MICROSECOND
from parity.definition.keys import KeyBook
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.edge.feast_internals import stored_name
from parity.online.columns import encode_timestamps, encode_values
from parity.online.connection import tolerance_of
from parity.online.encoding import KeyEncoding, schema_of
from parity.online.rows import Fields
from parity.online.side import online_store_of
from parity.online.steps import at_present
from parity.stream.scripts import READ, WRITE_APPLIED
from parity.stream.state import (
    BEGINNING,
    FINGERPRINT_DIGITS,
    FIRST,
    ID,
    NOWHERE,
    OFFSET,
    OWNER,
    PARTITION,
    States,
    decode,
    encode,
    kept_schema,
    read_applied,
    write_applied,
)

ATTEMPTS = 50
"""How often a batch is computed for an entity that other workers write at the same time."""
LONGEST_REST = 0.02
"""Seconds, at most, between two of them."""
KEYS_PER_SCRIPT = 250
BYTES_PER_SCRIPT = 1 << 20
LONGEST_REACH = 2**62
"""Further apart than any two instants are."""


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
    """For each event of a key that is ``beyond``, by its place, why, for people."""

    @classmethod
    def nothing(cls, events: int, keys: pa.Table) -> Applied:
        """Of events of which nothing has become yet, of none of these keys."""
        became, first, late = np.full(events, Became.LEFT, np.int8), np.full(events, -1), np.zeros(events, bool)
        return cls(became, first, late, *[keys.slice(0, 0)] * 4, {})

    @property
    def again(self) -> np.ndarray:
        """Which events have the id of an earlier one."""
        return (self.became == Became.DUPLICATE) | (self.became == Became.CORRECTION)


class Applier:
    """Applies events to the rows of a table in the online store of ``store``."""

    def __init__(self, store: FeatureStore, table: FeatureTable):
        self.table, self.definition, self.view = table, table.definition, table.view
        self.config, self.online = store.config, online_store_of(store)
        self.fields = Fields(stored_name(store.config, table.view))
        self.fingerprint = self.definition.fingerprint[:FINGERPRINT_DIGITS]
        self.encoding = KeyEncoding(schema_of(self.view), store.config.project)
        self.computation = Computation(self.definition, horizon_of(self.view))
        self._seeded = f"_stream:{store.config.project}"
        self._is_cluster = store.config.online_store.redis_type == RedisType.redis_cluster

    def apply(self, events: pa.Table, now: datetime) -> Applied:
        """Apply ``events``, in the order of the log: `Definition.transactions`, `PARTITION`, `OFFSET` and `ID`.

        Rows are as of ``now``, and what lies ahead of it by at most the store's future_tolerance_seconds.

        Raises `UserError` if other workers go on to write the same entities; those before them have been written then,
        and all can be applied again.
        """
        if any(partition.split() != [partition] for partition in pc.unique(events[PARTITION]).to_pylist()):
            raise ValueError("the name of a partition has blanks, or is empty")
        book = KeyBook(self.definition.keys)
        owners = book.number(events)
        keys = book.keys(np.arange(len(book)))
        names = self.encoding.encode(keys)
        batch = _Batch.of(events, owners, self.definition)
        result = Applied.nothing(len(owners), keys)
        left: dict[str, list[int]] = {"unseeded": [], "fenced": [], "foreign": [], "beyond": []}
        waiting = list(range(len(names)))
        for attempt in range(ATTEMPTS):
            if not waiting:
                break
            if attempt:
                time.sleep(random.uniform(0, LONGEST_REST))
            waiting = self._attempt(batch, names, waiting, now, result, left)
        if waiting:
            raise UserError(
                f"{self.table.name}: other workers have written {len(waiting):,} {self.table.noun(len(waiting))} "
                f"{ATTEMPTS} times while this one computed them. Does each partition have one worker?"
            )
        for name, numbers in left.items():
            setattr(result, name, keys.take(pa.array(numbers, pa.int64())))
        return result

    def _attempt(
        self,
        batch: _Batch,
        names: list[bytes],
        entities: list[int],
        now: datetime,
        result: Applied,
        left: dict[str, list[int]],
    ) -> list[int]:
        """Apply the events of some entities; returns those that have changed meanwhile."""
        stored = self.read([names[entity] for entity in entities])
        known = Known.of(stored, self, entities, left)
        present, latest = (now - EPOCH) // MICROSECOND, self.latest(now)
        mine = batch if len(entities) == batch.entities else batch.only(entities)
        decided = _Decisions(mine, known, self.computation.reach, latest)
        while True:
            changed = decided.changed
            try:
                computed = self.computation.of(decided.states(), latest, present) if len(changed) else None
                break
            except Beyond as beyond:
                entity = int(changed[beyond.owner])
                left["beyond"].append(entities[entity])
                result.reasons |= dict.fromkeys(decided.leave(entity), str(beyond))
        decided.note(result)
        if computed is None:
            return []
        applied = [write_applied(self.fingerprint, known.marks[entity]) for entity in changed.tolist()]
        refused = self.write(
            [names[entities[entity]] for entity in changed.tolist()],
            [known.applied[entity] or b"" for entity in changed.tolist()],
            applied,
            computed,
        )
        return [entities[changed[place]] for place in refused]

    def latest(self, now: datetime) -> int:
        """The latest instant, in microseconds, of an event that is known by ``now``."""
        return (now - EPOCH) // MICROSECOND + tolerance_of(self.config)

    def seeded_by(self) -> str | None:
        """The beginning of the fingerprint by which all keys were seeded last; None if Redis knows of no such time."""
        found = self._client.hget(self._seeded, self.fields.state)
        return None if found is None else found.decode(errors="replace")

    def note_seeded(self) -> None:
        self._client.hset(self._seeded, self.fields.state, self.fingerprint)

    def is_new(self) -> bool | None:
        """Whether a key that Redis has nothing of is a new one: so it is if all that the files have were seeded, and
        none is left to expire. None if they were by another definition."""
        seeded = self.seeded_by()
        if seeded is None or self.config.online_store.key_ttl_seconds:
            return False
        return True if seeded == self.fingerprint else None

    @property
    def _client(self) -> Any:
        return self.online._get_client(self.config.online_store)

    def read(self, names: Sequence[bytes]) -> list[list]:
        """What is stored of each entity: event timestamp, state and what is applied; 0 for what holds no hash."""
        fields, found = [self.fields.timestamp, self.fields.state, self.fields.applied], []
        if self._is_cluster:
            return self.online.run_script(self.config, READ, [(name, fields) for name in names])
        script = self._script(READ)
        for start in range(0, len(names), 4 * KEYS_PER_SCRIPT):
            reply = script(names[start : start + 4 * KEYS_PER_SCRIPT], fields)
            found += [reply[place : place + 3] for place in range(0, len(reply), 3)]
        return found

    def _script(self, text: str) -> Any:
        return self._client.register_script(text)

    def write(
        self,
        names: list[bytes],
        seen: list[bytes],
        applied: list[bytes],
        computed: Computed,
        may_have_rows: bool = False,
    ) -> list[int]:
        """Write entities unless what is applied there is other than ``seen``; returns the places of those that were
        refused. Without ``may_have_rows`` also those are that have a row, and nothing applied."""
        fields = [*self.fields.of(rule.name for rule in self.definition.rules)]
        values = [computed.timestamps, *computed.values]
        if computed.steps is not None:
            fields.append(self.fields.steps)
            values.append(computed.steps)
        refused = []
        for places, of_row, columns in ((computed.places, fields, values), (computed.without, [], [])):
            some = places.tolist()
            beside = [[column[place] for place in some] for column in (names, seen, computed.states, applied)]
            known = [*of_row, self.fields.state, self.fields.applied]
            found = self._write(beside[0], known, [beside[1], *columns, *beside[2:]], may_have_rows)
            refused += [some[place] for place in found]
        return refused

    def _write(self, names: list[bytes], fields: list, columns: list[list[bytes]], may_have_rows: bool) -> list[int]:
        """Write ``fields``, for each entity a row of ``columns``, behind what is applied as it was seen."""
        if not names:
            return []
        seconds = self.config.online_store.key_ttl_seconds or 0
        header = [self.fields.applied, self.fields.timestamp, int(may_have_rows), seconds, len(fields), *fields]
        if self._is_cluster:
            calls = [(name, [*header, *row]) for name, *row in zip(names, *columns, strict=True)]
            replies = self.online.run_script(self.config, WRITE_APPLIED, calls)
            return [place for place, reply in enumerate(replies) if reply]
        script, refused = self._script(WRITE_APPLIED), []
        for some in _parts(columns[-2]):
            values = chain.from_iterable(zip(*(column[some] for column in columns), strict=True))
            refused += [some.start + place - 1 for place in script(names[some], [*header, *values])]
        return refused


def _parts(states: list[bytes]) -> Iterator[slice]:
    """Cut entities into parts that Redis writes in a moment."""
    start = size = 0
    for place, state in enumerate(states):
        if place - start == KEYS_PER_SCRIPT or (size + len(state) > BYTES_PER_SCRIPT and place > start):
            yield slice(start, place)
            start, size = place, 0
        size += len(state)
    yield slice(start, len(states))


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
        owners, times = _numbers(rows[OWNER]), _times(rows, self.definition)
        past = times <= np.maximum(latest, states.since + self.reach)[owners]
        last = np.full(states.entities, BEGINNING)
        np.maximum.at(last, owners[past], times[past])
        asked = (times >= last[owners]) & (last > BEGINNING)[owners]
        if not self.definition.continuous:
            asked &= past
        steps = None
        if asked.any():
            some = rows.select([OWNER, self.definition.reading.timestamp, *self.definition.columns])
            history = aggregate(some.cast(self.numbered.transactions), self.numbered, _non_empty(kept), asked)
        else:
            history = self.numbered.schema.empty_table()
        if self.horizon is not None:
            of_row = np.maximum(last, present)[_numbers(history[OWNER])]  # not what else happens until ``latest``
            history, steps = at_present(history, self.numbered, of_row, present + self.horizon)
        places = _numbers(history[OWNER])
        values = [encode_values(history[rule.name].combine_chunks()) for rule in self.definition.rules]
        timestamps = encode_timestamps(_numbers(history[self.definition.event].cast(pa.int64())))
        without = np.setdiff1d(np.arange(states.entities), places)
        return Computed(encode(states, self.definition), places, without, timestamps, values, steps)

    def _left_out(self, states: States) -> States:
        """The same, with the rows that can't be in a window any more added to what is kept."""
        owners, times = _numbers(states.rows[OWNER]), _times(states.rows, self.definition)
        leaving = times < states.since[owners]
        if not leaving.any():
            return states
        rows, gone = states.rows.filter(pa.array(~leaving)), states.rows.filter(pa.array(leaving))
        states = states._replace(rows=rows, gone=_with_greatest(states.gone, gone))
        if not self.definition.unwindowed:
            return states
        names = [OWNER, self.definition.reading.timestamp, *self.definition.columns]
        before = states.kept.cast(self.numbered.state)
        kept = fold(gone.select(names).cast(self.numbered.transactions), before, self.numbered)
        return states._replace(kept=kept.cast(kept_schema(self.definition)).sort_by(OWNER))


def _with_greatest(offsets: np.ndarray, rows: pa.Table) -> np.ndarray:
    """The greatest offset of each entity and partition, where ``rows`` may have a greater one."""
    partitions = _numbers(rows[PARTITION]).astype(np.int64)
    somewhere = partitions != NOWHERE
    partitions = partitions[somewhere]
    more = partitions.max(initial=-1) + 1 - offsets.shape[1]
    offsets = np.pad(offsets, ((0, 0), (0, max(0, more))), constant_values=-1)
    np.maximum.at(offsets, (_numbers(rows[OWNER])[somewhere], partitions), _numbers(rows[OFFSET])[somewhere])
    return offsets


def _non_empty(kept: pa.Table) -> pa.Table | None:
    return kept if kept.num_rows and kept.num_columns > 1 else None


def _numbers(column: pa.ChunkedArray) -> np.ndarray:
    return column.to_numpy()


def _times(rows: pa.Table, definition: Definition) -> np.ndarray:
    return rows[definition.reading.timestamp].cast(pa.int64()).to_numpy()


@dataclass
class _Batch:
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

    @classmethod
    def of(cls, events: pa.Table, owners: np.ndarray, definition: Definition) -> _Batch:
        names = [definition.reading.timestamp, *definition.columns, PARTITION, OFFSET, ID]
        table = events.select(names).combine_chunks().append_column(OWNER, pa.array(owners))
        return cls._of(table, int(owners.max(initial=-1)) + 1, np.arange(len(owners)), definition.reading.timestamp)

    @classmethod
    def _of(cls, table: pa.Table, entities: int, places: np.ndarray, timestamp: str) -> _Batch:
        ids = table[ID].to_pylist() if table[ID].null_count < table.num_rows else None
        times = table[timestamp].cast(pa.int64()).to_pylist()
        partitions, offsets = table[PARTITION].to_pylist(), table[OFFSET].to_pylist()
        return cls(table, entities, places, table[OWNER].to_pylist(), times, partitions, offsets, ids)

    def only(self, entities: list[int]) -> _Batch:
        """The events of some entities, numbered by their places in this list."""
        numbers = np.full(self.entities, -1)
        numbers[entities] = np.arange(len(entities))
        owners = numbers[_numbers(self.table[OWNER])]
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
        is_new = applier.is_new() if [None, None, None] in stored else False
        marks: list[dict[str, int] | None] = []
        for place, one in enumerate(stored):
            found: dict[str, int] | str = {}
            if one[0] == 0:
                found = "foreign"
            elif one[2] is not None:
                fingerprint, found = read_applied(one[2])
                if fingerprint not in (applier.fingerprint, ""):
                    found = "fenced"
                elif not fingerprint or not readable[place]:
                    found = "unseeded"
            elif not is_new or one != [None, None, None]:
                found = "fenced" if is_new is None and one[0] is None else "unseeded"
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
    """Whether it was left out, as it is not in a window any more."""

    def is_of(self, partition: str, offset: int) -> bool:
        return partition == self.partition and offset == self.offset


class _Decisions:
    """What becomes of each event of a batch, in their order, as if they were applied one by one."""

    def __init__(self, batch: _Batch, known: Known, reach: int, latest: int):
        self.batch, self.known, self.reach, self.latest = batch, known, reach, latest
        count = len(batch.owners)
        self.became, self.first = [Became.LEFT] * count, [-1] * count
        self.late: list[int] = []
        self.taken: dict[int, tuple[int, int]] = {}
        """Events that become rows: the offset of their first delivery, and the number of their partition."""
        self.dropped: set[int] = set()
        """Rows of the states in whose place a correction is."""
        self.since = known.states.since.tolist()
        self._changed: set[int] = set()
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
        stay = numbers[_numbers(rows[OWNER])] >= 0
        stay[list(self.dropped)] = False
        if not stay.all():
            rows = rows.filter(pa.array(stay))
        if len(changed) < len(numbers):
            kept = kept.filter(pa.array(numbers[_numbers(kept[OWNER])] >= 0))
        rows = pa.concat_tables([rows, self._new_rows(rows.schema)])
        owners = numbers[_numbers(rows[OWNER])]
        times = rows[self.batch.table.column_names[0]].cast(pa.int64()).to_numpy()
        order = np.lexsort((_numbers(rows[OFFSET]), times, owners))
        rows = rows.set_column(0, OWNER, pa.array(owners)).take(pa.array(order))
        kept = kept.set_column(0, OWNER, pa.array(numbers[_numbers(kept[OWNER])]))
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
        marks[partition] = offset
        self._changed.add(entity)
        if event is not None:
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

    def _decide_repeated(self, place: int, event: _Event) -> None:
        """Take an event whose id is known: as a duplicate, or in the place of the one before."""
        self.first[place] = event.first
        if self._is_same(place, event):
            self.became[place] = Became.DUPLICATE
            return
        self.became[place] = Became.CORRECTION
        if event.is_gone or not self._may_replace(place, event):
            self.late.append(place)
            return
        if event.is_state:
            self.dropped.add(event.row)
        else:
            del self.taken[event.row]
        self._take(place, event.first)
        event.table, event.row, event.is_state = self.batch.table, place, False
        event.offset, event.partition = self.batch.offsets[place], self.batch.partitions[place]

    def _take(self, place: int, first: int) -> bool:
        """Let an event become a row; False if it is too late."""
        batch = self.batch
        entity, instant = batch.owners[place], batch.times[place]
        if instant < self.since[entity]:
            return False
        marks, partition = self.known.marks[entity], batch.partitions[place]
        number = 0 if len(marks) == 1 else list(marks).index(partition)
        self.taken[place] = first, number
        if instant <= self.latest:
            self.since[entity] = max(self.since[entity], instant - self.reach)
        return True

    def _is_same(self, place: int, event: _Event) -> bool:
        names = self.batch.table.column_names[: self.batch.table.column_names.index(PARTITION)]
        return all(self.batch.table[name][place] == event.table[name][event.row] for name in names)

    def _may_replace(self, place: int, event: _Event) -> bool:
        """Whether all that an entity is worth can still be computed if the ``event`` is replaced."""
        batch = self.batch
        entity, timestamp = batch.owners[place], batch.table.column_names[0]
        since, edge = self.since[entity], self.since[entity] + self.reach
        if batch.times[place] < since:
            return False
        if since == BEGINNING or event.table[timestamp][event.row].cast(pa.int64()).as_py() < edge:
            return True
        if edge <= batch.times[place] <= self.latest:
            return True
        rows = self.known.states.rows
        first, last = np.searchsorted(_numbers(rows[OWNER]), [entity, entity + 1])
        others = rows[timestamp].slice(first, last - first).cast(pa.int64()).to_pylist()
        times = [t for row, t in enumerate(others, first) if row not in self.dropped and (row, True) != _place(event)]
        times += [
            batch.times[row] for row in self.taken if batch.owners[row] == entity and (row, False) != _place(event)
        ]
        return any(edge <= instant <= self.latest for instant in times)

    def _known_ids(self) -> dict[tuple[int, str], _Event]:
        """The rows of the states whose ids events of the batch have."""
        rows = self.known.states.rows
        found = np.flatnonzero(
            pc.is_in(rows[ID], value_set=self.batch.table[ID].combine_chunks().drop_null()).to_numpy()
        )
        some = rows.take(pa.array(found))
        columns = (some[name].to_pylist() for name in (OWNER, ID, FIRST, PARTITION, OFFSET))
        events = {}
        for row, owner, id, first, partition, offset in zip(found.tolist(), *columns, strict=True):
            marks = self.known.marks[owner]
            if marks is not None:
                name = "" if partition == NOWHERE else list(marks)[partition]
                events[owner, id] = _Event(first, name, offset, rows, row, is_state=True)
        return events


def _place(event: _Event) -> tuple[int, bool]:
    return event.row, event.is_state
