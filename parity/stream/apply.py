"""Events to rows online: a micro-batch is computed by the function of the batch, and written in one step an entity.

An entity's hash holds what the next event needs (`parity.stream.state`), and the greatest offset of each partition that
is in it. So an event that is delivered again is known, and a write that another worker was faster than is refused, and
computed again from what that one has written.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore
from feast.infra.online_stores.redis import RedisType

from parity.definition.checks import FeatureTable
from parity.definition.declare import horizon_of
from parity.definition.instants import EPOCH, MICROSECOND
from parity.definition.keys import KeyBook
from parity.edge.errors import UserError
from parity.edge.feast_internals import stored_name
from parity.online.connection import tolerance_of
from parity.online.encoding import KeyEncoding, schema_of
from parity.online.rows import Fields
from parity.online.side import online_store_of
from parity.online.writing import KEYS_PER_SCRIPT
from parity.stream.computation import Beyond, Computation, Computed
from parity.stream.decisions import Applied, Batch, Decisions, Known
from parity.stream.scripts import READ, WRITE_APPLIED
from parity.stream.state import (
    FINGERPRINT_DIGITS,
    PARTITION,
    write_applied,
)

ATTEMPTS = 50
"""How often a batch is computed for an entity that other workers write at the same time."""
LONGEST_REST = 0.02
"""Seconds, at most, between two of them."""
LIFE = "life"
"""Beside what was seeded: which time it is that Redis has something."""
BYTES_PER_SCRIPT = 1 << 20


class Applier:
    """Applies events to the rows of a table in the online store of ``store``."""

    def __init__(self, store: FeatureStore, table: FeatureTable):
        self.table, self.definition, self.view = table, table.definition, table.view
        self.config, self.online = store.config, online_store_of(store)
        self.fields = Fields(stored_name(store.config, table.view))
        self.fingerprint = self.definition.fingerprint[:FINGERPRINT_DIGITS]
        self.encoding = KeyEncoding(schema_of(self.view), store.config.project)
        self.computation = Computation(self.definition, horizon_of(self.view))
        self._scripts: dict[str, Any] = {}
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
        batch = Batch.of(events, owners, self.definition)
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
        batch: Batch,
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
        decided = Decisions(mine, known, self.computation.reach, latest)
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

    def note_seeded(self, marks: Mapping[str, int]) -> None:
        """Note that all keys have what had landed up to ``marks``."""
        places = {partition: (offset, offset) for partition, offset in marks.items()}
        self._client.hset(self._seeded, mapping={self.fields.state: self.fingerprint, **self._marks(places)})
        self._client.hsetnx(self._seeded, LIFE, uuid4().hex)

    def life(self) -> str:
        """Another text after Redis was emptied."""
        return (self._client.hget(self._seeded, LIFE) or b"").decode()

    def note_marks(self, places: Mapping[str, tuple[int, int]]) -> None:
        """Note, of each partition, up to which offset events are in the rows and have landed; and up to which they
        had some seconds before."""
        if places:
            self._client.hset(self._seeded, mapping=self._marks(places))

    def _marks(self, places: Mapping[str, tuple[int, int]]) -> dict[str, str]:
        return {f"{self.fields.state}/{name}": f"{now} {before}" for name, (now, before) in places.items()}

    def marks(self) -> dict[str, tuple[int, int]] | None:
        """What `note_marks` has noted, as far as Redis has it; None if no key was seeded, or all of it is gone."""
        found = self._client.hgetall(self._seeded)
        if self.fields.state.encode() not in found:
            return None
        start = f"{self.fields.state}/"
        names = {field: field.decode().removeprefix(start) for field in found if field.startswith(start.encode())}
        return {name: tuple(map(int, found[field].split())) for field, name in names.items()}

    def unknown(self, is_empty: bool, seeded_by: str | None) -> str | None:
        """Why a key of which nothing is known that could be gone on from is not written; None if it is a new one.

        If all keys were ``seeded_by`` another definition, so would be this one. One that Redis has nothing of is new if
        all that the files have were seeded, and none is left to expire.
        """
        if seeded_by not in (None, self.fingerprint):
            return "fenced"
        is_new = is_empty and seeded_by and not self.config.online_store.key_ttl_seconds
        return None if is_new else "unseeded"

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
        if text not in self._scripts:
            self._scripts[text] = self._client.register_script(text)
        return self._scripts[text]

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
        for places, of_row, columns, removed in (
            (computed.places, fields, values, []),
            (computed.without, [], [], fields),  # there may have been one
        ):
            some = places.tolist()
            beside = [[column[place] for place in some] for column in (names, seen, computed.states, applied)]
            known = [*of_row, self.fields.state, self.fields.applied]
            found = self._write(beside[0], known, removed, [beside[1], *columns, *beside[2:]], may_have_rows)
            refused += [some[place] for place in found]
        return refused

    def _write(
        self, names: list[bytes], fields: list, removed: list, columns: list[list[bytes]], may_have_rows: bool
    ) -> list[int]:
        """Write ``fields``, for each entity a row of ``columns``, behind what is applied as it was seen; and remove
        some."""
        if not names:
            return []
        seconds = self.config.online_store.key_ttl_seconds or 0
        header = [self.fields.applied, self.fields.timestamp, int(may_have_rows), seconds, len(fields), len(removed)]
        header += [*fields, *removed]
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
