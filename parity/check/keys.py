"""The keys that a subject is compared for: those of its sources, joined, and those that only the online store has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from parity.check.found import Sample
from parity.check.history import Latest, latest_of
from parity.check.online_keys import CannotScan, only_online
from parity.compare.requested import as_declared, taken
from parity.compare.subjects import Source, Subject
from parity.edge.errors import of_error


@dataclass
class Keys:
    """The keys that are compared, in ``table``: a row for each, of which ``of`` were to choose from."""

    table: pa.Table
    rows: int
    of: int
    sample: Sample | None = None
    latest: Latest | None = None
    events: np.ndarray | None = None
    """Of a subject with one source: the last event of each key."""
    notes: list[str] = field(default_factory=list)
    spellings: frozenset = frozenset()
    """Keys that are online, and not offline, without what casts and zeros in front change."""

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
            else:
                return None
        return pa.table(columns)

    def is_spelled_otherwise(self, place: int) -> bool:
        return bool(self.spellings) and _bare(tuple(self.named(place).values())) in self.spellings


class Known:
    """The keys of each source, which are asked for once however many subjects have it."""

    def __init__(self, offline: FeatureStore, online: FeatureStore | None, at: datetime):
        """Without ``online`` no store is looked through."""
        self._offline, self._online, self._at = offline, online, at
        self._found: dict[tuple, tuple[Latest, list[str], frozenset]] = {}

    def of(self, subject: Subject, size: int | None, seed: int) -> Keys:
        """The keys of a subject, or ``size`` of them drawn at random."""
        found = [self._of_source(source) for source in subject.sources]
        notes = list(dict.fromkeys(note for _, some, _ in found for note in some))
        spellings = frozenset().union(*(some for _, _, some in found))
        if len(found) == 1:
            latest = found[0][0]
            keys = Keys(latest.keys, len(latest.events), len(latest.events), None, latest, latest.events, notes)
        else:
            table, rows = _together([latest.keys for latest, _, _ in found], subject.keys)
            keys = Keys(table, rows, rows, notes=notes)
        keys.spellings = spellings
        return _drawn(keys, size, seed)

    def _of_source(self, source: Source) -> tuple[Latest, list[str], frozenset]:
        cached = source.name, tuple(source.keys)
        if cached not in self._found:
            latest = latest_of(self._offline, source, self._at)
            notes = []
            if latest.unusable:
                notes.append(
                    f"{latest.unusable:,} rows of {source.name} have a null for a key, which nobody can ask for"
                )
            latest, more, spellings = self._with_online(source, latest)
            self._found[cached] = latest, [*notes, *more], spellings
        return self._found[cached]

    def _with_online(self, source: Source, latest: Latest) -> tuple[Latest, list[str], frozenset]:
        """Add the keys that only the online store has."""
        if not source.join_keys or self._online is None:
            return latest, [], frozenset()
        columns = [as_declared(latest.keys[name].to_pylist(), source.key_types.get(name)) for name in source.keys]
        there, extras = set(zip(*columns, strict=True)), set()
        notes = []
        try:
            extras = only_online(self._online, source, there)
        except CannotScan as why:
            notes.append(str(why))
        except Exception as error:  # it is one more look, and what can't be read is said when it is asked for
            notes.append(f"the online store of {source.name} could not be looked through: {of_error(error)}")
        table = _as_keys(sorted(extras, key=repr), source, latest.keys.schema)
        if table.num_rows < len(extras):
            notes.append(
                f"{len(extras) - table.num_rows:,} keys of {source.name} are online under a type that its source "
                "can't have"
            )
        if table.num_rows:
            none = np.full(table.num_rows, np.datetime64("NaT", "us"))
            events = np.concatenate([latest.events, none])
            latest = Latest(pa.concat_tables([latest.keys, table]), events, latest.unusable)
        return latest, notes, frozenset(map(_bare, extras))


def _as_keys(extras: Sequence[tuple], source: Source, schema: pa.Schema) -> pa.Table:
    """Keys of the online store as the offline store would have them; without those that it can't have."""
    rows = []
    for key in extras:
        try:
            rows.append([pa.scalar(value).cast(kind) for value, kind in zip(key, schema.types, strict=True)])
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError):
            continue
    columns = {
        name: pa.array([row[place].as_py() for row in rows], kind)
        for place, (name, kind) in enumerate(zip(source.keys, schema.types, strict=True))
    }
    return pa.table(columns, schema=schema) if columns else pa.table({})


def _bare(key: Sequence[Any]) -> tuple[str, ...]:
    """A key without what a cast or another spelling changes: zeros in front, .0, case, blanks."""
    texts = [str(value).strip().casefold() for value in key]
    return tuple(text.removesuffix(".0").lstrip("0") or "0" for text in texts)


def _together(tables: Sequence[pa.Table], names: Sequence[str]) -> tuple[pa.Table, int]:
    """Keys of several sources as rows that have all of ``names``: each row of each source is in one row at least. What
    a source has not is taken from the others, going round."""
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
    for other in others:
        lacking = [name for name in other.column_names if name not in columns]
        if lacking and other.num_rows:
            places = pa.array(np.arange(table.num_rows) % other.num_rows)
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
