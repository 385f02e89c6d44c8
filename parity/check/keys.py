"""The keys that a subject is compared for: those of its sources, joined, and those that only the online store has."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from parity.check.offline_keys import Latest, OfflineKeys, in_utc, listed
from parity.check.online_keys import CannotScan, OnlineKeys
from parity.compare.requested import as_declared, taken
from parity.compare.sample import Sample
from parity.compare.subjects import Source, Subject
from parity.edge.errors import of_error


@dataclass
class Keys:
    """The keys that are compared, in ``table``: a row for each, of which ``of`` were to choose from."""

    table: pa.Table
    rows: int
    of: int
    sample: Sample | None = None
    events: np.ndarray | None = None
    """Of a subject with one source: the last event of each key."""
    notes: list[str] = field(default_factory=list)
    only_online: Sequence[pa.Table] = ()
    """Keys that are online, and not offline, as they are stored."""
    strays: Mapping[str, Sequence[pa.Table]] = field(default_factory=dict)
    """Those of them that no key of the source's types is asked for by, by view."""

    def __len__(self) -> int:
        return self.rows

    def named(self, place: int) -> dict[str, Any]:
        """The key at a place, by the names of the request."""
        return {name: self.table[name][place].as_py() for name in self.table.column_names}

    def unknown(self) -> pa.Table | None:
        """A key of the same types that is none of these; None where none can be made."""
        columns = {}
        for name in self.table.column_names:
            kind = self.table.schema.field(name).type
            if pa.types.is_integer(kind):
                columns[name] = pa.array([pc.min(self.table[name]).as_py() - 1], kind)
            elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
                columns[name] = pa.array(["nobody knows this key"], kind)
            elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
                columns[name] = pa.array([b"nobody knows this key"], kind)
            elif pa.types.is_timestamp(kind):
                columns[name] = pa.array([pc.min(self.table[name]).as_py() - timedelta(days=1)], kind)
            else:
                return None
        return pa.table(columns)

    def is_spelled_otherwise(self, place: int) -> bool:
        return bool(self.only_online) and self.bare(place) in self._spellings

    def bare(self, place: int) -> tuple[str, ...]:
        """The key at a place without what casts and zeros in front change."""
        return bare(self.named(place).values())

    @cached_property
    def _spellings(self) -> frozenset[tuple[str, ...]]:
        """Keys that are online, and not offline, without what casts and zeros in front change."""
        return frozenset(bare(key) for table in self.only_online for key in zip(*listed(table), strict=True))


class Found(NamedTuple):
    """The keys of a source: those that are offline, and those that only the online store has."""

    offline: OfflineKeys
    extras: pa.Table
    """As the offline store would have them."""
    only_online: list[pa.Table]
    """As they are stored."""
    strays: list[pa.Table]
    """Those of them that no key of the source's types is asked for by."""
    notes: list[str]

    @property
    def number(self) -> int:
        return self.offline.number + self.extras.num_rows

    def all(self) -> Latest:
        return _with(self.offline.all, self.extras)

    def drawn(self, sample: Sample) -> Latest | None:
        """A draw that the offline store makes; None where it can't."""
        draw = np.random.default_rng(sample.seed)
        online = int(draw.hypergeometric(self.extras.num_rows, self.offline.number, sample.size))
        offline = self.offline.drawn(sample.size - online, sample.seed)
        places = np.sort(draw.choice(self.extras.num_rows, online, replace=False))
        return None if offline is None else _with(offline, taken(self.extras, places))


class Known:
    """The keys of each source, which are asked for once however many subjects have it."""

    def __init__(self, offline: FeatureStore, online: FeatureStore | None, at: datetime):
        """Without ``online`` no store is looked through."""
        self._offline, self._at = offline, at
        self._online = None if online is None else OnlineKeys(online)
        self._found: dict[tuple, Found] = {}

    def of(self, subject: Subject, size: int | None, seed: int) -> Keys:
        """The keys of a subject, or ``size`` of them drawn at random."""
        one = len(subject.sources) == 1
        found = [self._of_source(source, whole=size is None or not one) for source in subject.sources]
        keys = _of_one(found[0], size, seed) if one else _of_several(found, subject.keys, size, seed)
        keys.notes = list(dict.fromkeys(note for each in found for note in each.notes))
        keys.strays = {source.name: each.strays for source, each in zip(subject.sources, found, strict=True)}
        keys.only_online = [table for each in found for table in each.only_online]
        return keys

    def _of_source(self, source: Source, whole: bool) -> Found:
        """What there is of a source; if it is asked for as a ``whole``, it is pulled at once."""
        cached = source.name, tuple(source.keys)
        if cached not in self._found:
            offline = OfflineKeys(self._offline, source, self._at)
            notes = []
            if whole:
                offline.all  # noqa: B018
            if offline.unusable:
                rows, have = ("row", "has") if offline.unusable == 1 else ("rows", "have")
                notes.append(
                    f"{offline.unusable:,} {rows} of {source.name} {have} a null for a key, which nobody can ask for"
                )
            only, more = self._only_online(source, offline)
            extras, strays = _as_keys(only, source, offline.schema)
            self._found[cached] = Found(offline, extras, only, strays, [*notes, *more])
        return self._found[cached]

    def _only_online(self, source: Source, offline: OfflineKeys) -> tuple[list[pa.Table], list[str]]:
        """The keys that only the online store has, and why they are not known."""
        if not source.join_keys or self._online is None:
            return [], []
        try:
            return self._online.only(source, offline), []
        except CannotScan as why:
            return [], [str(why)]
        except Exception as error:  # it is one more look, and what can't be read is said when it is asked for
            return [], [f"the online store of {source.name} could not be looked through: {of_error(error)}"]


def _of_one(found: Found, size: int | None, seed: int) -> Keys:
    """The keys of one source, with their last events."""
    if size is not None and size < found.number:
        sample = Sample(size, found.number, seed)
        drawn = found.drawn(sample)
        if drawn is not None:
            return Keys(drawn.keys, len(drawn.events), sample.of, sample, drawn.events)
    latest = found.all()
    return _drawn(Keys(latest.keys, len(latest.events), len(latest.events), None, latest.events), size, seed)


def _of_several(found: Sequence[Found], names: Sequence[str], size: int | None, seed: int) -> Keys:
    table, rows = _together([each.all().keys for each in found], names)
    return _drawn(Keys(table, rows, rows), size, seed)


def _with(latest: Latest, extras: pa.Table) -> Latest:
    """Keys with others, of which the source has no event."""
    if not extras.num_rows:
        return latest
    none = np.full(extras.num_rows, np.datetime64("NaT", "us"))
    return Latest(pa.concat_tables([latest.keys, extras]), np.concatenate([latest.events, none]))


def _as_keys(tables: Sequence[pa.Table], source: Source, schema: pa.Schema) -> tuple[pa.Table, list[pa.Table]]:
    """Keys of the online store as the offline store would have them; and, as they are stored, those that nobody finds
    who asks for what the offline store could have: of another type, or spelled otherwise."""
    found, strays = [schema.empty_table()], []
    for table in tables:
        table = table.rename_columns(source.keys)
        places, keys = _cast(table, schema)
        asked = zip(*map(as_declared, in_utc(keys), source.declared_keys), strict=True)
        stored = zip(*in_utc(table.take(pa.array(places))), strict=True)
        is_found = np.array([_finds(*pair) for pair in zip(asked, stored, strict=True)], bool)
        found.append(keys.filter(pa.array(is_found)))
        if not is_found.all() or len(places) < table.num_rows:
            strays.append(table.take(pa.array(np.setdiff1d(np.arange(table.num_rows), places[is_found]))))
    return pa.concat_tables(found).sort_by([(name, "ascending") for name in source.keys]) if tables else found[
        0
    ], strays


def _finds(asked: tuple, stored: tuple) -> bool:
    """Whether who asks for a key is answered of a stored one; of other types than text and whole numbers Feast may
    store something else for the same, so these are asked for."""
    plain_types = (int, str)
    return all(
        one == other or type(one) not in plain_types or type(other) not in plain_types
        for one, other in zip(asked, stored, strict=True)
    )


def _cast(table: pa.Table, schema: pa.Schema) -> tuple[np.ndarray, pa.Table]:
    """The places of the keys that are possible in the types of ``schema``, and these keys."""
    try:
        return np.arange(table.num_rows), table.cast(schema)
    except pa.ArrowException:
        pass
    places, rows = [], [schema.empty_table()]
    for place in range(table.num_rows):
        with suppress(pa.ArrowException):
            rows.append(table.slice(place, 1).cast(schema))
            places.append(place)
    return np.array(places, np.int64), pa.concat_tables(rows)


def bare(key: Iterable[Any]) -> tuple[str, ...]:
    """A key without what a cast or another spelling changes: zeros in front, .0, case, blanks."""
    texts = [str(value).strip().casefold() for value in key]
    return tuple(text.removesuffix(".0").lstrip("0") or "0" for text in texts)


def _together(tables: Sequence[pa.Table], names: Sequence[str]) -> tuple[pa.Table, int]:
    """Keys of several sources as rows that have all of ``names``: each row of each source is in one row at least. What
    a source has not is taken from the others, going round, and a step further for each: two sources of the same keys
    under other names are asked for different ones, or nobody sees which key is taken for which."""
    parts = []
    distinct: list[pa.Table] = []
    for table in sorted((one for one in tables if one.num_columns), key=lambda one: -one.num_columns):
        known = next((one for one in distinct if set(one.column_names) == set(table.column_names)), None)
        if known is None:
            distinct.append(table)
            continue
        place = distinct.index(known)
        both = pa.concat_tables([known, table.select(known.column_names)], promote_options="permissive")
        distinct[place] = both.group_by(known.column_names).aggregate([])
    if not distinct:
        return pa.table({}), 1
    if all(set(names) == set(one.column_names) for one in distinct):
        return distinct[0].select(names), distinct[0].num_rows
    for table in distinct:
        if table.num_rows:
            parts.append(_filled(table, distinct, names))
    whole = pa.concat_tables(parts, promote_options="permissive") if parts else pa.table({n: [] for n in names})
    whole = whole.group_by(list(names)).aggregate([]) if whole.num_rows else whole
    return whole.select(names), whole.num_rows


def _filled(table: pa.Table, others: Sequence[pa.Table], names: Sequence[str]) -> pa.Table:
    columns = {name: table[name] for name in table.column_names}
    own = next(place for place, other in enumerate(others) if other is table)
    for place, other in enumerate(others):
        lacking = [name for name in other.column_names if name not in columns]
        if lacking and other.num_rows:
            places = pa.array((np.arange(table.num_rows) + place - own) % other.num_rows)
            columns |= {name: other[name].take(places) for name in lacking}
    return pa.table({name: columns.get(name, pa.nulls(table.num_rows)) for name in names})


def _drawn(keys: Keys, size: int | None, seed: int) -> Keys:
    if size is None or size >= keys.rows:
        return keys
    keys.sample = Sample(size, keys.rows, seed)
    places = keys.sample.draw()
    keys.table, keys.rows = taken(keys.table, places), size
    if keys.events is not None:
        keys.events = keys.events[places]
    return keys
