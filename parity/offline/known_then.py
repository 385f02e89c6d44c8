"""The look-up in the versions of the offline table: what training would have got for a key, an instant, and a version.

It goes through the keys of the whole table once, of the table as it is and of each delta, and reads the features of the
rows that it has found. `parity.offline.versions` says what the deltas are.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parity.definition.checks import FeatureTable
from parity.definition.instants import MICROSECOND, UTC_MICROSECONDS
from parity.definition.keys import KeyBook
from parity.definition.table import COMPUTED_BY, Definition

AS_OF, KNOWN_AT = ":as_of", ":known_at"
"""Columns of what is asked, beside the join keys: the instant that is asked about, and that of the version."""
KNOWN, THEN_EVENT, COMPUTED_BY_THEN = ":known", ":event", ":computed_by"
SUPERSEDED_AT, SUPERSEDED_HOW, SUPERSEDED_WITH = ":superseded_at", ":superseded_how", ":superseded_with"
"""Columns of what is answered, beside the features."""
ADDED, CHANGED, REMOVED = "added", "changed", "removed"
"""What became of a row."""

WAS, IS = ":was", ":is"
"""Columns of a delta: whether a row was there before the run, and whether it was afterwards."""
ROWS_AT_ONCE = 1 << 20


class Delta(NamedTuple):
    at: int
    path: Path


NOTHING = -1


class Lookup:
    """The rows of the keys that are asked for, in all their versions, each as a place: of the order of key and event.

    A version is what holds after so many of the deltas. All that is compared are int64: keys as their numbers, events
    as their ranks, and both together as a place.
    """

    def __init__(self, table: FeatureTable, paths: Sequence[Path], deltas: Sequence[Delta], asked: pa.Table):
        self.table, self.definition, self.paths = table, table.definition, paths
        self.book = KeyBook(self.definition.keys)
        keys, as_of, known_at = self.book.number(asked), counts(asked[AS_OF]), counts(asked[KNOWN_AT])
        self.order = np.lexsort((as_of, keys))  # in which all look-ups are fast
        self.keys, self.as_of = keys[self.order], as_of[self.order]
        instants = np.array([delta.at for delta in deltas], np.int64)
        version = np.searchsorted(instants, known_at[self.order], "right")
        skipped = int(version.min(initial=len(deltas)))
        self.deltas, self.version = deltas[skipped:], version - skipped

    def answer(self) -> pa.Table:
        last = int(self.as_of.max(initial=0))
        rows = [_read_keys([delta.path], self.book, self.definition, last) for delta in self.deltas]
        today = _read_keys(self.paths, self.book, self.definition, last)
        self.events = _distinct(np.concatenate([part.events for part in [*rows, today]]))
        self.ranks = len(self.events) + 1  # 0 stands before the first event
        rows, today = [self._placed(part) for part in rows], self._placed(today)

        base = self.keys * self.ranks
        until = base + np.searchsorted(self.events, self.as_of, "right")
        found = self._found(rows, today, base, until)
        alive = self._alive_from(base)
        held = found.at >= alive
        how = self._superseded(rows, base, np.maximum(alive, found.at), until)
        event = np.where(held, self._event(found.at), 0)
        columns = {THEN_EVENT: pa.array(event, UTC_MICROSECONDS, mask=~held)}
        columns |= self._features(found, held)
        answer = pa.table(columns | {COMPUTED_BY_THEN: self._computed_by()} | how)
        return answer.take(pa.array(np.argsort(self.order)))

    def _placed(self, part: "_Rows") -> "_Rows":
        at = part.keys * self.ranks + np.searchsorted(self.events, part.events) + 1
        order = np.argsort(at, kind="stable")
        return _Rows(*(None if column is None else column[order] for column in part._replace(keys=at)))

    def _event(self, at: np.ndarray) -> np.ndarray:
        return self.events[np.maximum(at % self.ranks - 1, 0)] if len(self.events) else np.zeros(len(at), np.int64)

    def _alive_from(self, base: np.ndarray) -> np.ndarray:
        """The first place whose row is not older than the ttl, whether there is one or not."""
        ttl = self.table.view.ttl
        if not ttl:
            return base + 1
        return base + np.searchsorted(self.events, self.as_of - ttl // MICROSECOND, "left") + 1

    def _found(self, rows: list["_Rows"], today: "_Rows", base: np.ndarray, until: np.ndarray) -> "_Found":
        """The last row up to ``until`` in the version that is asked for; `NOTHING` if there is none."""
        touched = _distinct(np.concatenate([part.at for part in rows])) if rows else np.zeros(0, np.int64)
        is_touched = _taken(touched, np.searchsorted(touched, today.at, "right") - 1) == today.at
        stable, changed = today.where(~is_touched), today.where(is_touched)
        found = _last(stable.at, base, until)
        source = np.full(len(base), len(rows))
        position = _taken(stable.positions, found.places)
        at = found.at
        if len(touched):
            every = _Intervals.of([*rows, changed])
            for version in _distinct(self.version):
                asked = np.flatnonzero(self.version == version)
                there = every.at_version(version)
                last = _last(there.at, base[asked], until[asked])
                better = last.at > at[asked]
                chosen, places = asked[better], last.places[better]
                at[chosen], source[chosen], position[chosen] = (
                    last.at[better],
                    there.source[places],
                    there.position[places],
                )
        return _Found(at, source, position)

    def _superseded(
        self, rows: list["_Rows"], base: np.ndarray, first: np.ndarray, until: np.ndarray
    ) -> dict[str, pa.Array]:
        """When and how the answer first became another: by the first later delta with a row in [first, until]."""
        instant, how = np.zeros(len(base), np.int64), np.zeros(len(base), np.int8)
        beside = np.zeros(len(base), np.int8)
        waiting = np.arange(len(base))
        if rows:
            every = _distinct(np.concatenate([part.at for part in rows]))
            waiting = waiting[_last(every, first - 1, until).at > NOTHING]
        for number, (delta, part) in enumerate(zip(self.deltas, rows, strict=True)):
            concerned = waiting[self.version[waiting] <= number]
            last = _last(part.at, first[concerned] - 1, until[concerned])
            hit = last.at > NOTHING
            chosen, places = concerned[hit], last.places[hit]
            instant[chosen] = delta.at
            how[chosen] = np.select([~part.was[places], ~part.now[places]], [1, 3], 2)
            reached = self._reached(base[chosen], part.at[places])
            added, removed = part.where(part.now & ~part.was).at, part.where(part.was & ~part.now).at
            earlier = part.at[places] - 1
            with_added = _last(added, reached, earlier).at > NOTHING
            with_removed = _last(removed, reached, earlier).at > NOTHING
            beside[chosen] = np.select([with_added, with_removed], [1, 3], 0)
            waiting = waiting[how[waiting] == 0]
        return {
            SUPERSEDED_AT: pa.array(instant, UTC_MICROSECONDS, mask=how == 0),
            SUPERSEDED_HOW: _WORDS.take(pa.array(how, mask=how == 0)),
            SUPERSEDED_WITH: _WORDS.take(pa.array(beside, mask=beside == 0)),
        }

    def _reached(self, base: np.ndarray, at: np.ndarray) -> np.ndarray:
        """The place before the earliest row of the same key that the features at a place can be made of."""
        if self.definition.unwindowed:
            return base
        longest = max(self.definition.windows, default=0) + 1
        return base + np.searchsorted(self.events, self._event(at) - longest, "left")

    def _computed_by(self) -> pa.Array:
        said = [(pq.read_schema(delta.path).metadata or {}).get(COMPUTED_BY, b"").decode() for delta in self.deltas]
        texts = pa.array([*said, ",".join(computed_by(self.paths))])
        return texts.take(pa.array(self.version))

    def _features(self, found: "_Found", held: np.ndarray) -> dict[str, pa.Array | pa.ChunkedArray]:
        fields = [pa.field(rule.name, rule.type) for rule in self.definition.rules]
        columns, start = [pa.schema(fields).empty_table()], 0
        index = np.full(len(held), NOTHING)
        for source, paths in enumerate([*([delta.path] for delta in self.deltas), self.paths]):
            mine = np.flatnonzero(held & (found.source == source))
            wanted, inverse = np.unique(found.position[mine], return_inverse=True)
            columns.append(_read_features(paths, fields, wanted))
            index[mine] = start + inverse
            start += len(wanted)
        rows = pa.concat_tables(columns).combine_chunks().take(pa.array(index, mask=index < 0))
        return dict(zip(rows.column_names, rows.columns, strict=True))


_WORDS = pa.array([None, ADDED, CHANGED, REMOVED])


class _Rows(NamedTuple):
    """Rows of a table, or of a delta, each with its position there."""

    keys: np.ndarray
    """Their numbers; then the places of the rows, by which they are sorted."""
    events: np.ndarray
    positions: np.ndarray
    was: np.ndarray | None
    now: np.ndarray | None

    @property
    def at(self) -> np.ndarray:
        return self.keys

    def where(self, mask: np.ndarray) -> "_Rows":
        return _Rows(*(None if column is None else column[mask] for column in self))


class _Found(NamedTuple):
    """The places of rows, the table or the delta that each is in, the last being the table, and its position there."""

    at: np.ndarray
    source: np.ndarray
    position: np.ndarray


class _Last(NamedTuple):
    at: np.ndarray
    places: np.ndarray


def _last(at: np.ndarray, after: np.ndarray, until: np.ndarray) -> _Last:
    """The last of the places ``at``, sorted, in each (after, until], and its index; `NOTHING` if there is none."""
    places = np.searchsorted(at, until, "right") - 1
    there = _taken(at, places)
    return _Last(np.where((places >= 0) & (there > after), there, NOTHING), places)


def _distinct(values: np.ndarray) -> np.ndarray:
    """As `np.unique`, which is slow where it is not by sorting."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if len(values) else values


def _taken(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """The values at some places; anything where there is no such place."""
    return values[np.maximum(places, 0)] if len(values) else np.full(len(places), NOTHING)


@dataclass(frozen=True)
class _Intervals:
    """The rows that some delta touches, in all their versions, sorted by place, each with the versions it is in."""

    at: np.ndarray
    first: np.ndarray
    last: np.ndarray
    source: np.ndarray
    position: np.ndarray

    @classmethod
    def of(cls, parts: Sequence[_Rows]) -> "_Intervals":
        """``parts`` are the deltas, and then the table as it is. What a delta has of a row was so until that delta."""
        at = np.concatenate([part.at for part in parts])
        source = np.repeat(np.arange(len(parts)), [len(part.at) for part in parts])
        position = np.concatenate([part.positions for part in parts])
        exists = np.concatenate([np.ones(len(part.at), bool) if part.was is None else part.was for part in parts])
        order = np.lexsort((source, at))
        at, source, position, exists = at[order], source[order], position[order], exists[order]
        first = np.zeros(len(at), np.int64)
        again = at[1:] == at[:-1]
        first[1:][again] = source[:-1][again] + 1
        first[1:][again & (source[1:] == source[:-1])] = 0  # a row that a table has twice
        return cls(at[exists], first[exists], source[exists], source[exists], position[exists])

    def at_version(self, version: int) -> _Found:
        there = (self.first <= version) & (version <= self.last)
        return _Found(self.at[there], self.source[there], self.position[there])


def _read_keys(paths: Sequence[Path], book: KeyBook, definition: Definition, last: int) -> _Rows:
    """The rows up to the event ``last`` of the keys in the ``book``."""
    parts = [_Rows(*(np.zeros(0, np.int64) for _ in range(3)), *(np.zeros(0, bool) for _ in range(2)))]
    before, is_delta = 0, False
    for path in paths:
        with pq.ParquetFile(path) as file:
            is_delta = WAS in file.schema_arrow.names
            names = [*definition.keys.names, definition.event, *([WAS, IS] if is_delta else [])]
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
                rows = pa.table(batch)
                keys, events = book.find(rows), counts(rows[definition.event])
                wanted = np.flatnonzero((keys >= 0) & (events <= last))
                flags = [rows[name].to_numpy()[wanted] for name in (WAS, IS)] if is_delta else parts[0][3:]
                parts.append(_Rows(keys[wanted], events[wanted], wanted + before, *flags))
                before += batch.num_rows
    read = _Rows(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
    return read if is_delta else read._replace(was=None, now=None)


def _read_features(paths: Sequence[Path], fields: Sequence[pa.Field], positions: np.ndarray) -> pa.Table:
    """The features at some ``positions``, ascending, of files one after the other; null what they don't have."""
    tables, before = [pa.schema(fields).empty_table()], 0
    for path in paths if len(positions) else []:
        with pq.ParquetFile(path) as file:
            there = {field.name: field.type for field in file.schema_arrow}
            for group in range(file.num_row_groups):
                rows = file.metadata.row_group(group).num_rows
                first, end = np.searchsorted(positions, [before, before + rows])
                if end > first:
                    names = [field.name for field in fields if there.get(field.name) == field.type]
                    read = file.read_row_group(group, columns=names) if names else _no_columns(rows)
                    read = read.take(pa.array(positions[first:end] - before))
                    tables.append(as_schema(read, pa.schema(fields)))
                before += rows
    return pa.concat_tables(tables)


def _no_columns(rows: int) -> pa.Table:
    return pa.table({IS: pa.nulls(rows)})


def as_schema(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of ``schema``, null where there are none."""
    there = set(rows.column_names)
    columns = [rows[f.name].cast(f.type) if f.name in there else pa.nulls(rows.num_rows, f.type) for f in schema]
    return pa.table(columns, schema)


def computed_by(paths: Sequence[Path]) -> list[str]:
    """The fingerprints of the definitions that some files were computed by, as far as they say."""
    found = set()
    for path in paths:
        with suppress(pa.ArrowException, OSError):
            found.add(((pq.read_schema(path).metadata or {}).get(COMPUTED_BY) or b"").decode())
    return sorted(found - {""})


def counts(times: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Microseconds since 1970."""
    return times.cast(UTC_MICROSECONDS).cast(pa.int64()).to_numpy()
