"""What a side answers: by column a value for each key, read from what Feast gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
from feast.online_response import OnlineResponse

from parity.compare.equal import Coerced, plain
from parity.compare.subjects import Subject

ROW_DROPPED = "no row"
"""What training gets for a key whose row the offline store drops: less than a null."""


@dataclass
class Answers:
    """What a side says of some keys: by column, a value for each key."""

    values: dict[str, list]
    events: dict[str, list] = field(default_factory=dict)
    """Of serving: of which event each value is, epoch microseconds; None, or 0 of Feast, where it does not say."""
    there: np.ndarray | None = None
    """Of training: whether the row of each key came back at all."""
    failed: dict[int, str] = field(default_factory=dict)
    """The errors of the keys that the side failed for, by their place."""
    missing: list[str] = field(default_factory=list)
    """Columns that the side does not answer with."""


def of_response(answer: OnlineResponse, subject: Subject, number: int, typed: bool = False) -> Answers:
    """The answers of a response: values as the SDK gives them, or as they are ``typed``; the events as the protobuf has
    them."""
    given: dict[str, list] = {}
    vectors = dict(zip(answer.proto.metadata.feature_names.val, answer.proto.results, strict=True))
    values, events, missing = {}, {}, []
    for column in subject.columns:
        name = column.name
        if name not in vectors:
            missing.append(name)
            values[name], events[name] = [None] * number, [None] * number
            continue
        some = typed_values(vectors[name].values, column.type) if typed else _simple(vectors[name].values, column.type)
        if some is None:
            given = given or answer.to_dict()
            some = [_or_plain(one) for one in given[name]]
        values[name] = _filled(some, number)
        stamps = [one.seconds * 1_000_000 + one.nanos // 1000 for one in vectors[name].event_timestamps]
        events[name] = _filled(stamps, number) if stamps else [None] * number  # as the remote store says none
    return Answers(values, events, missing=missing)


def typed_values(values: Iterable[Any], kind: str) -> list:
    """What protobuf values of a feature of the type ``kind`` are in Python; None for null, and for NaN, which is null
    by another name; `Coerced` for one of another type."""
    declared, found = _FIELDS[kind], []
    for value in values:
        field = value.WhichOneof("val")
        if field == declared:
            one = getattr(value, field)
            found.append(one if one == one else None)
        elif field in (None, "null_val"):
            found.append(None)
        else:
            found.append(Coerced(getattr(value, field), field))
    return found


_FIELDS = {
    "Float64": "double_val",
    "Float32": "float_val",
    "Int64": "int64_val",
    "Int32": "int32_val",
    "String": "string_val",
    "Bool": "bool_val",
}
"""Of the types that the SDK hands out as they are, where a value has it."""


def _simple(values: Sequence[Any], kind: str) -> list | None:
    """The values of a vector, if all of them are null or of the declared type, and that is a simple one: read so, it
    takes a third of the time."""
    field = _FIELDS.get(kind)
    if field is None:
        return None
    found: list = []
    for value in values:
        if value.HasField(field):
            one = getattr(value, field)
            found.append(one if one == one else None)
        elif value.WhichOneof("val") in (None, "null_val"):
            found.append(None)
        else:
            return None
    return found


def _filled(values: list, number: int) -> list:
    """A view without entities answers once, for however many are asked for."""
    return values * number if len(values) == 1 != number else values


def _or_plain(value: Any) -> Any:
    return value if type(value) in (int, str, bool) or value is None else plain(value)


def plain_list(column: pa.ChunkedArray) -> list:
    """The values of a column, `plain`; at once for those of which there are many."""
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
        return [None if value != value else value for value in values.tolist()]
    values = column.to_pylist()
    is_simple = pa.types.is_integer(column.type) or pa.types.is_string(column.type) or pa.types.is_boolean(column.type)
    return values if is_simple else [plain(value) for value in values]


def as_datetime(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else datetime.fromtimestamp(microseconds / 1_000_000, UTC)
