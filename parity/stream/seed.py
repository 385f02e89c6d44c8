"""From the transactions to what a stream goes on from: the state of each key, as of the files, and its row by now.

It runs after a materialization, for the views that a stream writes, and for keys of which a worker finds a row, and no
state. It heals what a stream could not take up: late events and corrections, which have landed. A key that is ahead of
the files keeps the events that they do not have yet. Workers may run beside it: a key that one of them writes meanwhile
is read and computed again.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast import FeatureStore

from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND
from parity.definition.keys import KeyBook
from parity.edge.errors import UserError
from parity.edge.files import Location, files_at, kind_of, location, on_disk, progress
from parity.offline.side import origin_of
from parity.stream.apply import ATTEMPTS, Applier
from parity.stream.identity import identities, keys_beside, known_ids, numbered, with_columns
from parity.stream.state import (
    BEGINNING,
    FIRST,
    ID,
    NOWHERE,
    OFFSET,
    OWNER,
    PARTITION,
    States,
    decode,
    is_counted,
    kept_schema,
    read_applied,
    row_schema,
    write_applied,
)
from parity.transactions.landed import PLACE, high_water
from parity.transactions.listing import transaction_files
from parity.transactions.read import read_part

ROWS_AT_ONCE = 1 << 18
"""So many rows are computed at a time, if no key has more."""
KEYS_AT_ONCE = 1 << 14
WRITERS = 2


class Seeded(NamedTuple):
    """What the seeding of a view came to."""

    keys: int
    """How many were written."""
    ahead: int
    """How many of them kept events that have not landed yet."""
    left: int
    """How many were left as they are: they have events that have not landed yet among those that are no rows any more;
    or, where some keys were asked for, they are of another definition."""
    foreign: int
    """How many keys hold something else than a row in Redis, and were left alone."""


def seed(
    store: FeatureStore,
    table: FeatureTable,
    transactions: Location,
    now: datetime,
    marks: Mapping[str, int] | None = None,
    keys: pa.Table | None = None,
) -> Seeded:
    """Write what a stream goes on from, of all keys that the ``transactions`` have, or of ``keys`` alone; and their
    rows as of ``now``.

    Rows of a stream count up to ``marks``, by default all that have landed when it begins. Those of ``keys`` that have
    no transactions begin with nothing, and those of another definition are left alone: only all keys together can be
    brought to a new one. Raises `UserError`.
    """
    marks = dict(high_water(transactions) if marks is None else marks)
    applier = Applier(store, table)
    rows = _rows(transactions, table, marks)
    book = KeyBook(table.definition.keys)
    if keys is not None:
        book.number(keys)
        owners = book.find(rows)
        rows, owners = rows.filter(pa.array(owners >= 0)), owners[owners >= 0]
    else:
        owners = book.number(rows)
    seeding = _Seeding(applier, marks, now, keys is None)
    with progress(f"seed {table.name}", len(book), "key") as bar, ThreadPoolExecutor(WRITERS) as writers:
        done = []
        for part in writers.map(lambda part: seeding.write(book, *part), _parts(rows, owners, len(book))):
            done.append(part)
            bar.update(sum(part) - part.ahead)
    if keys is None:
        applier.note_seeded(marks)
    return Seeded(*map(sum, zip(*done, strict=True))) if done else Seeded(0, 0, 0, 0)


def seed_streamed(store: FeatureStore, tables: Sequence[FeatureTable], now: datetime) -> dict[str, Seeded]:
    """Seed those of ``tables`` that a stream writes, from the transactions that their features were computed of; by
    their names. A stream writes those that were seeded before, by whatever definition."""
    streamed = [table for table in tables if Applier(store, table).seeded_by() is not None]
    return {table.name: seed(store, table, origin_of(table), now) for table in streamed}


def _rows(transactions: Location, table: FeatureTable, marks: Mapping[str, int]) -> pa.Table:
    """All transactions up to ``marks``, with their places in a stream, which are null where they came in none."""
    definition, beside = table.definition, keys_beside(table.definition, table.beside)
    landed = with_columns(definition, [*((field.name, field) for field in PLACE), *numbered(beside)])
    ids = [(ID, PLACE.field(ID).with_name(table.event_id))] if table.event_id else []
    others = with_columns(definition, [*ids, *numbered(beside if ids else [])])
    schema = pa.schema([*definition.transactions, *PLACE])
    tables = [schema.empty_table()]
    for file in _files(transactions):
        with on_disk(location(file)) as path:
            is_landed = kind_of(path) == "parquet" and PARTITION in pq.read_schema(path).names
            rows = read_part(path, landed if is_landed else others)
            keys = [rows[name] for name, _ in numbered(beside) if name in rows.column_names]
            places = {field.name: pa.nulls(rows.num_rows, field.type) for field in PLACE}
            places |= {name: rows[name] for name in places if name in rows.column_names}
            places[ID] = identities(known_ids(places[ID]), keys)
            rows = pa.table([*(rows[name] for name in definition.transactions.names), *places.values()], schema)
            if is_landed:
                known = [marks.get(partition, -1) for partition in rows[PARTITION].to_pylist()]
                rows = rows.filter(pa.array(rows[OFFSET].to_numpy() <= np.array(known, np.int64)))
            tables.append(rows)
    return pa.concat_tables(tables).combine_chunks()


def _files(transactions: Location) -> list[str]:
    return [] if isinstance(transactions, Path) and _is_bare(transactions) else list(transaction_files(transactions))


def _is_bare(place: Path) -> bool:
    """Whether there is no file, as before the first event of a stream has landed."""
    return not place.exists() or not files_at(place)[2]


def _parts(rows: pa.Table, owners: np.ndarray, keys: int) -> Iterator[tuple[pa.Table, np.ndarray, np.ndarray]]:
    """Split the rows by keys: rows, the numbers of their keys, ascending, and all numbers of the part."""
    if not keys:
        return
    order = np.argsort(owners, kind="stable")
    ends = np.cumsum(np.bincount(owners, minlength=keys))
    part_of = np.maximum(ends - 1, 0) // ROWS_AT_ONCE + np.arange(keys) // KEYS_AT_ONCE
    cuts = np.flatnonzero(np.append(True, part_of[1:] != part_of[:-1]))
    for first, after in zip(cuts.tolist(), [*cuts[1:].tolist(), keys], strict=True):
        some = order[ends[first - 1] if first else 0 : ends[after - 1]]
        yield rows.take(pa.array(some)), owners[some], np.arange(first, after)


class _Seeding:
    """What is the same for all parts."""

    def __init__(self, applier: Applier, marks: Mapping[str, int], now: datetime, is_whole: bool):
        self.is_whole = is_whole
        """Whether all keys are seeded, those of another definition too."""
        self.applier, self.marks, self.definition = applier, marks, applier.definition
        self.present = (now - EPOCH) // MICROSECOND
        self.latest = applier.latest(now)

    def write(self, book: KeyBook, rows: pa.Table, owners: np.ndarray, numbers: np.ndarray) -> Seeded:
        """Write the keys of these ``numbers``, which have these ``rows``."""
        names = self.applier.encoding.encode(book.keys(numbers))
        partitions, rows = self._numbered(rows, owners - numbers[0], len(numbers))
        waiting = np.arange(len(numbers))
        total = np.zeros(4, np.int64)
        for _ in range(ATTEMPTS):
            waiting, done = self._attempt([names[place] for place in waiting.tolist()], waiting, partitions, rows)
            total += done
            if not len(waiting):
                return Seeded(*total.tolist())
        raise UserError(
            f"{self.applier.table.name}: workers have written {len(waiting):,} "
            f"{self.applier.table.noun(len(waiting))} {ATTEMPTS} times while they were seeded. Run again."
        )

    def _numbered(self, rows: pa.Table, owners: np.ndarray, keys: int) -> tuple[list[dict[str, int]], pa.Table]:
        """For each key the offsets up to which its partitions are in ``rows``; and these as those of states are."""
        marks: list[dict[str, int]] = [{} for _ in range(keys)]
        numbers = np.full(len(owners), NOWHERE)
        placed = np.flatnonzero(pc.is_valid(rows[PARTITION]).to_numpy())
        if len(placed):
            encoded = rows[PARTITION].combine_chunks().dictionary_encode()
            names, codes = encoded.dictionary.to_pylist(), encoded.indices.take(pa.array(placed)).to_numpy()
            pairs, of_pair = np.unique(owners[placed] * len(names) + codes, return_inverse=True)
            places = np.empty(len(pairs), np.int64)
            for place, (owner, code) in enumerate(zip(*divmod(pairs, len(names)), strict=True)):
                places[place] = len(marks[owner])
                marks[owner][names[code]] = self.marks[names[code]]
            numbers[placed] = places[of_pair]
        offsets = pc.fill_null(rows[OFFSET], -1)
        columns = {OWNER: pa.array(owners), FIRST: offsets, OFFSET: offsets, PARTITION: pa.array(numbers, pa.uint16())}
        schema = row_schema(self.definition)
        return marks, pa.table([columns[n] if n in columns else rows[n] for n in schema.names], schema)

    def _attempt(
        self, names: list[bytes], keys: np.ndarray, marks: list[dict[str, int]], rows: pa.Table
    ) -> tuple[np.ndarray, np.ndarray]:
        """Write some ``keys``: returns those that others have written meanwhile, and what became of the others."""
        stored = self.applier.read(names)
        theirs, readable = decode([state or None for _, state, _ in stored], self.definition)
        written, seen, merged, is_ahead, foreign, left = [], [], [], [], 0, 0
        for place, (timestamp, _, applied) in enumerate(stored):
            if timestamp == 0:
                foreign += 1
                continue
            fingerprint, found = read_applied(applied) if applied else ("", {})
            own, ahead = dict(marks[keys[place]]), False
            if fingerprint == self.applier.fingerprint:
                ahead = any(offset > self.marks.get(partition, -1) for partition, offset in found.items())
                own |= {partition: max(offset, own.get(partition, -1)) for partition, offset in found.items()}
            is_fenced = fingerprint not in (self.applier.fingerprint, "") and not self.is_whole
            if is_fenced or (ahead and (not readable[place] or self._is_mixed(theirs.gone[place], found))):
                left += 1
                continue
            written.append(place)
            seen.append(applied or b"")
            merged.append(own)
            is_ahead.append(ahead)
        if not written:
            return keys[:0], np.array([0, 0, left, foreign])
        places, ahead = np.array(written), np.array(is_ahead)
        states = self._states(rows, keys[places], marks)
        if ahead.any():
            states = self._merged(states, theirs, stored, places, ahead, merged)
        computed = self.applier.computation.of(self._since(states), self.latest, self.present)
        applied = [write_applied(self.applier.fingerprint, own) for own in merged]
        refused = self.applier.write([names[place] for place in written], seen, applied, computed, may_have_rows=True)
        ok = np.ones(len(places), bool)
        ok[refused] = False
        done = np.array([np.count_nonzero(ok), np.count_nonzero(ahead & ok), left, foreign])
        return keys[places[~ok]], done

    def _is_mixed(self, gone: np.ndarray, found: dict[str, int]) -> bool:
        """Whether events beyond the marks are part of what is kept, from which they can't be taken."""
        return any(
            offset > self.marks.get(partition, -1) for partition, offset in zip(found, gone.tolist(), strict=False)
        )

    def _states(self, rows: pa.Table, keys: np.ndarray, marks: list[dict[str, int]]) -> States:
        """Those of the files, nothing left out yet."""
        numbers = np.full(len(marks), -1)
        numbers[keys] = np.arange(len(keys))
        owners = numbers[rows[OWNER].to_numpy()]
        mine = owners >= 0
        rows = rows.set_column(0, OWNER, pa.array(owners))
        rows = rows if mine.all() else rows.filter(pa.array(mine))
        return States(
            np.full(len(keys), BEGINNING),
            np.full((len(keys), 0), -1),
            rows,
            kept_schema(self.definition).empty_table(),
        )

    def _merged(
        self,
        states: States,
        theirs: States,
        stored: list[list],
        places: np.ndarray,
        ahead: np.ndarray,
        marks: list[dict[str, int]],
    ) -> States:
        """The same with those rows that keys which are ``ahead`` have beyond the files."""
        numbers = np.full(theirs.entities, -1)
        numbers[places[ahead]] = np.flatnonzero(ahead)
        rows = theirs.rows.filter(pa.array(numbers[theirs.rows[OWNER].to_numpy()] >= 0))
        before, partitions = rows[OWNER].to_pylist(), rows[PARTITION].to_pylist()
        offsets, firsts, ids = (rows[name].to_pylist() for name in (OFFSET, FIRST, ID))
        kept, owners, codes, replaced = [], [], [], set()
        known = {place: list(read_applied(stored[place][2])[1]) for place in set(before)}
        for row, (place, code) in enumerate(zip(before, partitions, strict=True)):
            name = None if code == NOWHERE else known[place][code]
            if name is not None and offsets[row] > self.marks.get(name, -1):
                owner = int(numbers[place])
                kept.append(row)
                owners.append(owner)
                codes.append(list(marks[owner]).index(name))
                replaced |= {(owner, codes[-1], firsts[row]), (owner, ids[row])}
        added = rows.take(pa.array(kept, pa.int64()))
        added = added.set_column(0, OWNER, pa.array(owners, pa.int64()))
        added = added.set_column(added.schema.get_field_index(PARTITION), PARTITION, pa.array(codes, pa.uint16()))
        replaced -= {(owner, None) for owner in owners}
        own = zip(*(states.rows[name].to_pylist() for name in (OWNER, PARTITION, FIRST, ID)), strict=True)
        stays = [replaced.isdisjoint({(owner, code, first), (owner, id)}) for owner, code, first, id in own]
        return states._replace(rows=pa.concat_tables([states.rows.filter(pa.array(stays, pa.bool_())), added]))

    def _since(self, states: States) -> States:
        """The same sorted, with the instant from which on rows are needed."""
        rows = states.rows
        owners = rows[OWNER].to_numpy()
        times = rows[self.definition.reading.timestamp].cast(pa.int64()).to_numpy()
        order = np.lexsort((rows[OFFSET].to_numpy(), times, owners))
        past, last = is_counted(rows[FIRST]) & (times <= self.latest), np.full(states.entities, BEGINNING)
        np.maximum.at(last, owners[past], times[past])
        since = np.where(last > BEGINNING, np.maximum(last, BEGINNING + self.applier.computation.reach), BEGINNING)
        since = np.where(last > BEGINNING, since - self.applier.computation.reach, BEGINNING)
        return states._replace(since=since, rows=rows.take(pa.array(order)))
