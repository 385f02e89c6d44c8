"""Which keys are asked for, and how each side is given them: as its own types want them."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

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
    "Bytes": lambda n: b"%d" % (n % 7),
}
"""What stands for request data, which no store has: any value will do, as long as both sides get the same."""


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


def asked_for(subject: Subject, keys: pa.Table, number: int) -> Asked:
    """Ask for ``number`` keys of a subject. `NotCompared` if its request data can't be made up."""
    data = {}
    for name, kind in subject.request_data.items():
        if name in keys.column_names:
            continue  # a join key that is request data too
        draw = next((one for prefix, one in _DRAWN.items() if kind.startswith(prefix)), None)
        if draw is None:
            raise NotCompared(f"it needs {name} of type {kind} with each request, which is not known here")
        data[name] = [draw(value) for value in _numbers(keys, name, number)]
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
