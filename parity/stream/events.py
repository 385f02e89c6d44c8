"""Events: a JSON object each, read as a line of a JSON file of the same source is, some thousand at a time.

What is taken, and as what, is written in `parity.definition.reading` and decided by `parity.transactions`. An event
that a file of transactions would be refused for is taken out, with the reason, and the others beside it are read.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import timedelta
from json import JSONDecoder
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND
from parity.definition.table import Definition
from parity.edge.errors import UserError, printable
from parity.stream.identity import identities, keys_beside, known_ids
from parity.stream.state import LEFT_OUT
from parity.transactions.json_objects import ABSENT, AS_WRITTEN, as_text, no_single_value, value_inside
from parity.transactions.landed import ID, OFFSET, PARTITION
from parity.transactions.refusals import Column, expected, quoted, shown
from parity.transactions.texts import without_nulls
from parity.transactions.values import INSTANTS, to_type

BYTE_ORDER_MARK = "\ufeff"
_TEXTS = JSONDecoder(parse_float=str, parse_int=str, parse_constant=lambda name: None if name == "NaN" else name)
"""Numbers become the texts that they are written as: all that is needed where they have a decimal point."""


class Raw(NamedTuple):
    """Events as they are in a partition, in its order; None for an entry that has none."""

    partition: str
    offsets: list[int]
    values: list[bytes | None]


class Bad(NamedTuple):
    """An event that can't be read, and why."""

    partition: str
    offset: int
    value: bytes | None
    reason: str


class Taken(NamedTuple):
    """The events that a view takes."""

    rows: pa.Table
    """`Definition.transactions`, and the columns of `parity.transactions.landed.PLACE`; and `LEFT_OUT`, if the view
    has a condition: those that it leaves out are there if they have an id, as they may correct others."""
    places: np.ndarray
    """Where they are among those that are to be landed."""


class Events(NamedTuple):
    """Events that were read."""

    rows: pa.Table
    """All good ones, as they are to be landed."""
    values: list[bytes]
    """The same, as they came."""
    of_views: dict[str, Taken]
    bad: list[Bad]
    until: dict[str, int]
    """The greatest offset of each partition."""


class EventReader:
    """Reads the events of one source, which feeds ``tables``."""

    def __init__(
        self,
        tables: Sequence[FeatureTable],
        event_id: str | None = None,
        folders: Mapping[str, str | None] | None = None,
        largest: int = 1_000_000,
    ):
        """``folders`` are columns that the path of the landing folder has; ``largest`` is in bytes."""
        self._definitions: list[Definition] = [table.definition for table in tables]
        self._reading = self._definitions[0].reading
        self._id = self._reading.in_file(event_id) if event_id else None
        self._folders, self._largest = folders or {}, largest
        self._columns = {d.name: [self._column(d, field) for field in d.raw] for d in self._definitions}
        self._as_in_file = self._reading.decimal == "."
        self._scan = (_TEXTS if self._as_in_file else AS_WRITTEN).scan_once
        self._landed = dict(self._to_land())
        self._beside = {d.name: self._keys_beside(d) for d in self._definitions}

    def _column(self, definition: Definition, field: pa.Field) -> Column:
        """As a reader of files has it."""
        reading, keys = self._reading, definition.keys.names
        if field.name == reading.timestamp:
            parts = reading.timestamp_columns or (reading.in_file(field.name),)
            return Column(field.name, INSTANTS, parts, is_key=False)
        return Column(field.name, field.type, (reading.in_file(field.name),), is_key=field.name in keys)

    def _to_land(self) -> Iterator[tuple[str, Column | None]]:
        """The columns to land, called as in a file, and what each is read as: None for a text as it is.

        A column is landed as the value that it is read as; as text, if views read it as several types, or if it is but
        a part of the timestamp.
        """
        columns = [column for some in self._columns.values() for column in some]
        for name in dict.fromkeys(source for column in columns for source in column.sources):
            of_name = [column for column in columns if name in column.sources]
            types = {str(column.to): column.to for column in of_name}
            if len(types) > 1 and not self._as_in_file and any(_is_whole(type) for type in types.values()):
                kinds = " and as ".join(types)
                raise UserError(
                    f"{self._reading.name}: the column {name} is read as {kinds}, and its numbers have the decimal "
                    f"{self._reading.decimal!r}. Declare one type of it in schema."
                )
            whole = len(types) == 1 and all(len(column.sources) == 1 for column in of_name)
            yield name, of_name[0] if whole else None
        if self._id is not None and not any(self._id in column.sources for column in columns):
            yield self._id, None

    def _keys_beside(self, definition: Definition) -> list[Column]:
        beside = [(key.name, key.type) for key in keys_beside(definition, self._definitions)]
        columns = {(one.name, one.to): one for some in self._columns.values() for one in some if one.is_key}
        return [columns[at] for at in beside]

    @property
    def keys(self) -> list[list[str]]:
        """The key columns of each view, called as in a file."""
        return [[self._reading.in_file(name) for name in definition.keys.names] for definition in self._definitions]

    def _may_correct(self, definition: Definition, typed: Mapping[Column, pa.Array], ids: pa.Array) -> np.ndarray:
        """Which events have an id, and all keys of a view."""
        found = pc.is_valid(ids)
        for column in self._columns[definition.name]:
            if column.name in definition.keys.names:
                found = pc.and_(found, pc.is_valid(typed[column]))
        return found.to_numpy(zero_copy_only=False)

    def read(self, some: Sequence[Raw], latest: int) -> Events:
        """Read events of which none may be later than ``latest``, in microseconds since 1970."""
        batch = _Batch(some, self._reading, self._as_in_file, self._folders)
        batch.parse(self._scan, self._largest)
        typed = {column: batch.typed(column) for columns in self._columns.values() for column in columns}
        ids = pa.nulls(len(batch.objects), pa.string())
        if self._id is not None:
            ids = known_ids(batch.texts(self._id, True))
        taken: dict[str, np.ndarray] = {}
        for definition in self._definitions:
            columns = self._columns[definition.name]
            rows = pa.table({column.name: typed[column] for column in columns})
            mask = np.ones(rows.num_rows, bool)
            if definition.condition is not None:
                mask = definition.condition.mask(rows).to_numpy().astype(bool)
            for column in columns:
                if column.name in definition.transactions.names:
                    batch.require(column, typed[column], mask)
                if column.to == INSTANTS:
                    batch.require_past(column, typed[column], latest)
            taken[definition.name] = mask
        good = batch.good()
        place = {PARTITION: batch.partitions(), OFFSET: pa.array(batch.offsets, pa.int64()), ID: ids}
        landed = {
            name: batch.texts(name, True) if column is None else typed[column] for name, column in self._landed.items()
        }
        kept = pa.array(good)
        of_views = {}
        for definition in self._definitions:
            mask, left_out = taken[definition.name] & good, None
            if definition.condition is not None and ids.null_count < len(ids):
                left_out = ~taken[definition.name]
                mask |= good & left_out & self._may_correct(definition, typed, ids)
            columns = self._columns[definition.name]
            names = definition.transactions.names
            rows = pa.table({column.name: typed[column] for column in columns if column.name in names} | place)
            identity = identities(ids, [typed[column] for column in self._beside[definition.name]])
            rows = rows.set_column(rows.schema.get_field_index(ID), ID, identity)
            schema = pa.schema([*definition.transactions, *(rows.schema.field(name) for name in place)])
            rows = rows.filter(pa.array(mask)).select(schema.names)
            if left_out is not None:
                rows = _without_nulls(rows, definition.transactions).append_column(LEFT_OUT, pa.array(left_out[mask]))
                schema = schema.append(pa.field(LEFT_OUT, pa.bool_()))
            rows = rows.cast(schema)
            of_views[definition.name] = Taken(rows, np.cumsum(good)[mask] - 1)
        until = {one.partition: one.offsets[-1] for one in some if one.offsets}
        values = batch.values if good.all() else [batch.values[at] for at in np.flatnonzero(good)]
        return Events(pa.table(landed | place).filter(kept), values, of_views, batch.bad, until)


def _without_nulls(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """The same, with something in the place of nulls, which only events have that are left out."""
    for place, field in enumerate(schema):
        if rows[place].null_count:
            column = rows[place].combine_chunks()
            anything = pa.array([""]).cast(field.type) if _is_whole(field.type) else pa.array([0]).cast(field.type)
            rows = rows.set_column(place, field.name, pc.fill_null(column, anything[0]))
    return rows


def _is_whole(type: pa.DataType | str) -> bool:
    """Whether numbers of JSON stay as they are written."""
    return type in (pa.string(), pa.binary())


class _Batch:
    """Events that are being read; those of ``bad`` are, with their reasons, no good."""

    def __init__(self, some: Sequence[Raw], reading: Any, as_in_file: bool, folders: Mapping[str, str | None]):
        self._some, self._reading, self._as_in_file, self._folders = some, reading, as_in_file, folders
        self.objects: list[dict] = []
        self.offsets: list[int] = []
        self.values: list[bytes] = []
        self._counts: list[tuple[str, int]] = []
        self.bad: list[Bad] = []
        self._refused: dict[int, str] = {}
        self._texts: dict[tuple[str, bool], pa.Array] = {}

    def parse(self, scan: Any, largest: int) -> None:
        """Take the JSON apart."""
        objects, offsets, values = self.objects, self.offsets, self.values
        for partition, of_partition, raw in self._some:
            before = len(objects)
            for offset, value in zip(of_partition, raw, strict=True):
                try:
                    text = value.decode()
                    found, end = scan(text, 0)
                    is_plain = end == len(text) <= largest and type(found) is dict
                except (ValueError, StopIteration, AttributeError, RecursionError):
                    is_plain = False
                if not is_plain:
                    try:
                        found = _object(value, scan, largest)
                    except _NoObject as fault:
                        self.bad.append(Bad(partition, offset, value, printable(str(fault))))
                        continue
                objects.append(found)
                offsets.append(offset)
                values.append(value)
            self._counts.append((partition, len(objects) - before))

    def partitions(self) -> pa.Array:
        parts = [pa.repeat(pa.scalar(partition, pa.string()), count) for partition, count in self._counts]
        return pa.concat_arrays(parts) if parts else pa.array([], pa.string())

    def texts(self, name: str, whole: bool) -> pa.Array:
        """What the events have under a name, as text; numbers of ``whole`` as they are written."""
        at = name, whole or self._as_in_file
        if at not in self._texts:
            self._texts[at] = without_nulls(self._read_texts(name, whole), self._reading)
        return self._texts[at]

    def _read_texts(self, name: str, whole: bool) -> pa.Array:
        absent = self._folders.get(name)
        if self._as_in_file and "." not in name:
            try:
                return pa.array([event.get(name, absent) for event in self.objects], pa.string())
            except (pa.ArrowException, TypeError, UnicodeEncodeError):
                pass  # something else than texts and numbers is among them
        parts = name.split(".")
        return pa.array([self._text(at, name, parts, whole) for at in range(len(self.objects))], pa.string())

    def _text(self, at: int, name: str, parts: Sequence[str], whole: bool) -> str | None:
        value = self._value(at, name, parts)
        if isinstance(value, list | dict):
            self.refuse(at, no_single_value(name, value))
            return None
        text = as_text(value, whole, self._reading)
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            self.refuse(at, f"{name} holds half of a character.")
            return None
        return text

    def _value(self, at: int, name: str, parts: Sequence[str]) -> Any:
        event = self.objects[at]
        value = event[name] if name in event else value_inside(event, parts)
        return self._folders[name] if value is ABSENT and name in self._folders else value

    def typed(self, column: Column) -> pa.Array:
        """A column as its type, null for what is null; what can't be read is refused."""
        whole = _is_whole(column.to)
        parts = [self.texts(source, whole) for source in column.sources]
        texts = parts[0] if len(parts) == 1 else pc.binary_join_element_wise(*parts, " ")
        typed = to_type(texts, column.to, self._reading, column.is_key)
        if typed.null_count > texts.null_count:
            what = expected(column, self._reading)
            for at in np.flatnonzero(pc.and_(pc.is_valid(texts), pc.is_null(typed)).to_numpy(zero_copy_only=False)):
                self.refuse(int(at), f"{column.name} {shown(texts[int(at)])} is not {what}.")
        return typed

    def require(self, column: Column, typed: pa.Array, mask: np.ndarray) -> None:
        """Refuse events that do not have a column, and those of ``mask`` in which it is null."""
        if typed.null_count:
            for at in np.flatnonzero(pc.is_null(typed).to_numpy(zero_copy_only=False)).tolist():
                missing = [name for name in column.sources if self._value(at, name, name.split(".")) is ABSENT]
                if missing:
                    self.refuse(at, f"it has no {missing[0]}.")
                elif mask[at]:
                    self.refuse(at, f"{column.name} is null.")

    def require_past(self, column: Column, typed: pa.Array, latest: int) -> None:
        """Refuse events that are later than ``latest``."""
        instants = typed.cast(pa.int64())
        if (pc.max(instants).as_py() or latest) > latest:
            for at in np.flatnonzero(pc.fill_null(pc.greater(instants, latest), False).to_numpy(zero_copy_only=False)):
                ahead = timedelta(microseconds=instants[int(at)].as_py() - latest)
                instant = (EPOCH + instants[int(at)].as_py() * MICROSECOND).isoformat()
                self.refuse(int(at), f"{column.name} {instant} is {ahead} later than an event may be.")

    def refuse(self, at: int, reason: str) -> None:
        """Note why an event is no good, unless that is known already."""
        self._refused.setdefault(at, reason)

    def good(self) -> np.ndarray:
        """Which events are, of those that are JSON objects; the others are put with the ``bad`` ones."""
        good = np.ones(len(self.objects), bool)
        if self._refused:
            ends = np.cumsum([count for _, count in self._counts])
            for at, reason in sorted(self._refused.items()):
                good[at] = False
                partition = self._counts[int(np.searchsorted(ends, at, side="right"))][0]
                self.bad.append(Bad(partition, self.offsets[at], self.values[at], printable(reason)))
        return good


class _NoObject(Exception):
    """An event that is not a JSON object; the message says why."""


def _object(value: bytes | None, scan: Any, largest: int) -> dict:
    """Take one event apart with care. Raises `_NoObject`."""
    if value is None:
        raise _NoObject("there is no event in it.")
    if len(value) > largest:
        raise _NoObject(f"it has {len(value):,} bytes, and {largest:,} are the most that one may have.")
    try:
        text = value.decode().removeprefix(BYTE_ORDER_MARK).strip(" \t\r\n")
        found, end = scan(text, 0)
    except UnicodeDecodeError:
        raise _NoObject("it is not in UTF-8.") from None
    except StopIteration:
        raise _NoObject(f"it is not JSON: {quoted(text)}.") from None
    except (ValueError, RecursionError) as error:
        why = getattr(error, "msg", "it is nested too deeply")
        raise _NoObject(f"it is not JSON: {why} at character {getattr(error, 'pos', 0) + 1}.") from None
    if end != len(text):
        raise _NoObject(f"something stands behind its JSON: {quoted(text[end:])}.")
    if type(found) is not dict:
        what = "null" if found is None else quoted(str(found))
        raise _NoObject(f"{what} is no object with names and values.")
    return found


def microseconds(instant: Any) -> int:
    """An aware instant in microseconds since 1970."""
    return (instant - EPOCH) // MICROSECOND
