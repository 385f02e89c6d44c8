"""Which keys are asked for, and how each side is given them: as its own types want them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa

from parity.compare.subjects import DUMMY, NotCompared, Subject

_FIRST = datetime(2024, 1, 1, tzinfo=UTC)
_DRAWN = {
    "Int": lambda n: n % 97 + 1,
    "Float": lambda n: (n % 397) / 8 + 0.5,
    "String": lambda n: f"value {n % 7}",
    "Bool": lambda n: n % 2 == 0,
    "UnixTimestamp": lambda n: _FIRST + timedelta(hours=n % 9000),
    "ZonedTimestamp": lambda n: _FIRST + timedelta(hours=n % 9000),
    "Bytes": lambda n: b"%d" % (n % 7),
    "Json": lambda n: f'{{"value": {n % 97 + 1}}}',
    "Map": lambda n: {"name": f"value {n % 7}"},
    "Uuid": lambda n: str(UUID(int=n)),
    "TimeUuid": lambda n: str(UUID(int=n, version=1)),
    "Decimal": lambda n: Decimal(n % 397).scaleb(-2),  # of one scale: Arrow gives a column of them one
}
"""What stands for request data, which no store has: any value will do, as long as both sides get the same. Json is a
text, as Feast has it, and so are UUIDs, as a request has them."""


_TRIED = {"Int": 1, "Float": 1.0, "String": "hello world", "Bool": True, "Bytes": b"hello world"}
"""What Feast itself tries an on-demand view with when it is applied: so each takes these, if it takes no others."""


def _drawn(kind: Any, number: int, is_tried: bool) -> Any:
    """A value of a type of Feast, the same for the same number; `KeyError` for a type that is not known here."""
    name, fields, elements = str(kind), getattr(kind, "fields", None), getattr(kind, "base_type", None)
    if fields:
        return {field: _drawn(one, number + place, is_tried) for place, (field, one) in enumerate(fields.items())}
    if elements is not None:
        values = [_drawn(elements, number + place, is_tried) for place in range(2)]
        return values if not name.startswith("Set") or values[0] != values[1] else values[:1]
    prefix = next((prefix for prefix in _DRAWN if name.startswith(prefix)), name)
    return _TRIED[prefix] if is_tried and prefix in _TRIED else _DRAWN[prefix](number)


@dataclass(frozen=True)
class Asked:
    """Some keys of a subject, a row for each, and the request data that go with them."""

    keys: pa.Table
    types: Mapping[str, str]
    """The declared types of the keys."""
    data: Mapping[str, list]
    rows_: int

    def __len__(self) -> int:
        return self.rows_

    def frame(self) -> pd.DataFrame:
        """The keys and request data as training has them: of the types that they have in the offline store."""
        columns = {name: _as_series(self.keys[name]) for name in self.keys.column_names}
        return pd.DataFrame(columns | dict(self.data), index=range(len(self)))

    def rows(self) -> dict[str, list]:
        """The same as a model server asks for them: of the declared types."""
        keys = {name: as_declared(self.keys[name].to_pylist(), self.types.get(name)) for name in self.keys.column_names}
        rows = keys | {name: list(values) for name, values in self.data.items()}
        return rows or {DUMMY: [""] * len(self)}  # of a view without entities: something has to say how many

    def take(self, places: np.ndarray) -> Asked:
        data = {name: [values[place] for place in places.tolist()] for name, values in self.data.items()}
        return Asked(taken(self.keys, places), self.types, data, len(places))


def taken(keys: pa.Table, places: np.ndarray) -> pa.Table:
    """The keys at some places; of a view without entities there are none to take."""
    return keys.take(pa.array(places)) if keys.num_columns else keys


def asked_for(subject: Subject, keys: pa.Table, number: int, is_tried: bool = False) -> Asked:
    """Ask for ``number`` keys of a subject. `NotCompared` if its request data can't be made up; with ``is_tried`` they
    are those that Feast tried it with."""
    data = {}
    for name, kind in subject.request_data.items():
        if name in keys.column_names:
            continue  # a join key that is request data too
        try:
            data[name] = [_drawn(kind, value, is_tried) for value in _numbers(keys, name, number)]
        except KeyError:
            raise NotCompared(f"it needs {name} of type {kind} with each request, which is not known here") from None
    return Asked(keys, subject.key_types, data, number)


def _numbers(keys: pa.Table, name: str, number: int) -> list[int]:
    """A number for each key, the same whenever it is asked for."""
    if not keys.num_columns:
        return [zlib.crc32(name.encode())] * number
    columns = [column.to_pylist() for column in keys.columns]
    return [zlib.crc32(repr((name, row)).encode()) for row in zip(*columns, strict=True)]


def _as_series(column: pa.ChunkedArray) -> pd.Series:
    return column.to_pandas()


def as_declared(values: list, kind: str | None) -> list:
    """Keys as the type that is declared for them has them; those that it can't have stay as they are."""
    convert = {"String": _as_text, "Int64": _as_whole, "Int32": _as_whole}.get(kind or "")
    return [convert(value) for value in values] if convert else values


def _as_text(value: Any) -> Any:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _as_whole(value: Any) -> Any:
    try:
        whole = int(value)
    except (TypeError, ValueError):
        return value
    return whole if not isinstance(value, float) or whole == value else value
