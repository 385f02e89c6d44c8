"""What the test bed of `parity check` draws: keys and features of every type that Feast can store."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal as Number
from typing import Any, NamedTuple
from uuid import UUID

import numpy as np
from feast import ValueType
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    ImageBytes,
    Int32,
    Int64,
    Json,
    Map,
    PdfBytes,
    Set,
    String,
    Struct,
    TimeUuid,
    UnixTimestamp,
    Uuid,
)

from tests.strangers import HOUR

ODD = [
    *("", " ", "007", "7", "7.0", " 7", "null", "None", "nan", "true", "1e3", "a b", "a:b", "a,b", "a;b", "a|b", "a/b"),
    *(
        "*",
        "?",
        "[a]",
        "%",
        "%s",
        "{}",
        "$1",
        "\\",
        "'",
        '"',
        "`",
        "--",
        "\n",
        "\t",
        "é",
        "e\u0301",
        "ß",
        "Ж",
        "漢",
        "🙂",
    ),
    *("\u00a0", "\u200b", "x" * 300, "A", "a", "-1", "0", "_ts:drawn", "drawn:1", "theirs"),
]
"""Texts that are keys all the same."""
SPELLED = {
    Int64: ValueType.INT64,
    Int32: ValueType.INT32,
    String: ValueType.STRING,
    Bytes: ValueType.BYTES,
    UnixTimestamp: ValueType.UNIX_TIMESTAMP,
}
"""The types of join keys, as entities spell them."""


class KeyKind(NamedTuple):
    """Join keys: their types by name, and the n-th of them."""

    types: dict[str, Any]
    make: Callable[[int, datetime], dict[str, Any]]
    number: int = 10_000
    """How many there are."""


KEYS = {
    "whole": KeyKind({"key": Int64}, lambda n, now: {"key": n * 3 - 7}),
    "large": KeyKind({"key": Int64}, lambda n, now: {"key": (-1) ** n * (2**62 + n)}),
    "small": KeyKind({"key": Int32}, lambda n, now: {"key": np.int32(n)}),
    "text": KeyKind({"key": String}, lambda n, now: {"key": f"k{n:05}"}),
    "odd": KeyKind({"key": String}, lambda n, now: {"key": ODD[n]}, len(ODD)),
    "raw": KeyKind({"key": Bytes}, lambda n, now: {"key": bytes([n % 256, 255, n // 256, 0])}),
    "instant": KeyKind({"key": UnixTimestamp}, lambda n, now: {"key": now.replace(minute=0, second=0) - n * HOUR}),
    "two": KeyKind({"key": Int64, "shop": String}, lambda n, now: {"key": n // 2, "shop": "ab"[n % 2]}),
    "three": KeyKind(
        {"zone": String, "key": Int32, "a": Int64},
        lambda n, now: {"zone": ODD[n % 7], "key": np.int32(n // 7), "a": n % 3},
    ),
    "none": KeyKind({}, lambda n, now: {}, 1),
}


def _text(r: np.random.Generator) -> str:
    return "".join(map(chr, r.integers(32, 0x2FF, r.integers(0, 9))))


def _uuid(r: np.random.Generator, version: int) -> str:
    return str(UUID(bytes=r.bytes(16), version=version))


def _several(draw: Callable, r: np.random.Generator, now: datetime) -> list:
    return [draw(r, now) for _ in range(r.integers(1, 4))]


class Drawable(NamedTuple):
    """A type of features, how a value of it is drawn, and the kind by which Feast's two sides differ in it always."""

    type: Any
    draw: Callable[[np.random.Generator, datetime], Any]
    differs: str | None = None

    def array(self) -> Drawable:
        return Drawable(Array(self.type), lambda r, now: _several(self.draw, r, now), self.differs)

    def set(self) -> Drawable:
        """Of one element that is drawn once: a set has each only once."""
        return Drawable(Set(self.type), lambda r, now: _several(self.draw, r, now)[:1], self.differs)


SCALARS = {
    "double": Drawable(Float64, lambda r, now: float(r.normal()) * 10.0 ** int(r.integers(-9, 9))),
    "single": Drawable(Float32, lambda r, now: np.float32(r.normal())),
    "whole": Drawable(Int64, lambda r, now: int(r.integers(-(2**53), 2**53))),
    "small": Drawable(Int32, lambda r, now: np.int32(r.integers(-(2**31), 2**31))),
    "text": Drawable(String, lambda r, now: _text(r)),
    "flag": Drawable(Bool, lambda r, now: bool(r.integers(2))),
    "raw": Drawable(Bytes, lambda r, now: r.bytes(5)),
    "since": Drawable(UnixTimestamp, lambda r, now: now - int(r.integers(1, 9999)) * HOUR),
    "json": Drawable(Json, lambda r, now: json.dumps({"n": int(r.integers(9)), "t": _text(r)}), "json"),
    "uuid": Drawable(Uuid, lambda r, now: _uuid(r, 4), "type"),
    "decimal": Drawable(Decimal, lambda r, now: str(Number(int(r.integers(-999, 999))) / 8), "type"),
}
OTHERS = {
    "infinite": Drawable(Float64, lambda r, now: float(r.choice([np.inf, -np.inf, -0.0, 5e-324, 1.7e308]))),
    "numbered": Drawable(Decimal, lambda r, now: Number(int(r.integers(-999, 999))) / 8),
    "timed": Drawable(TimeUuid, lambda r, now: _uuid(r, 1), "type"),
    "page": Drawable(PdfBytes, lambda r, now: r.bytes(5)),
    "image": Drawable(ImageBytes, lambda r, now: r.bytes(5)),
    "map": Drawable(Map, lambda r, now: {"a": _text(r), "b": _text(r)}),
    "counts": Drawable(Map, lambda r, now: {"a": int(r.integers(9)), "b": int(r.integers(9))}),
    "struct": Drawable(Struct({"n": Int64, "t": String}), lambda r, now: {"n": int(r.integers(9)), "t": _text(r)}),
}
TYPES = (
    SCALARS
    | OTHERS
    | {f"{name}s": one.array() for name, one in (SCALARS | {"struct": OTHERS["struct"]}).items()}
    | {f"{name}_set": one.set() for name, one in SCALARS.items() if name != "json"}
    | {"tables": SCALARS["whole"].array().array(), "groups": SCALARS["text"].array().set()}
)
"""By name, each type that a file can have and Feast 0.67 can materialize from it: not ZonedTimestamp, ScalarMap and
arrays of Map."""
