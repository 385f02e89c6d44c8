"""The values of a feature on both sides, bit for bit: which differ, by how much, and whose change most."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.plan.align import Aligned

QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
MOVES = 3
"""The most frequent changes of a text or a flag that are shown."""
USERS = 5


@dataclass(frozen=True)
class Column:
    """A feature in the rows of its table: NaN is null, and two values are the same if their ``codes`` are."""

    valid: np.ndarray
    codes: np.ndarray
    values: pa.ChunkedArray

    @property
    def numbers(self) -> np.ndarray | None:
        """The values as float64; None of those that are no numbers."""
        if pa.types.is_floating(self.values.type):
            return self.codes.view(np.float64)
        return self.codes if pa.types.is_integer(self.values.type) else None


def column_pair(base: pa.ChunkedArray, head: pa.ChunkedArray) -> tuple[Column, Column]:
    """Two columns of one type."""
    if pa.types.is_floating(head.type) or pa.types.is_integer(head.type) or pa.types.is_boolean(head.type):
        return _plain(base), _plain(head)
    both = pa.chunked_array([*base.chunks, *head.chunks], head.type).combine_chunks()
    both = both if isinstance(both, pa.Array) else pa.concat_arrays(both.chunks)
    codes = pc.fill_null(both.dictionary_encode().indices.cast(pa.int64()), -1).to_numpy()
    valid = codes >= 0
    cut = len(base)
    return Column(valid[:cut], codes[:cut], base), Column(valid[cut:], codes[cut:], head)


def _plain(column: pa.ChunkedArray) -> Column:
    floats = pa.types.is_floating(column.type)
    filled = pc.fill_null(column.cast(pa.float64() if floats else pa.int64()), 0)
    values, valid = filled.to_numpy(), pc.is_valid(column).to_numpy()
    if not floats:
        return Column(valid, values, column)
    return Column(valid & ~np.isnan(values), np.ascontiguousarray(values).view(np.int64), column)


@dataclass
class Change:
    """How the values of a feature differ, over the instants of `Aligned`."""

    rows: int
    """At how many instants a reader gets another value."""
    of_rows: int
    keys: int
    """How many keys have such an instant."""
    of_keys: int
    latest: int
    """How many keys have another value at their last instant."""
    nulls_gained: int
    nulls_lost: int
    quantiles: dict[str, float] | None = None
    """Of head less base, where both are numbers and differ."""
    moves: list[tuple[Any, Any, int]] = field(default_factory=list)
    """Of what is no number: before, after, at how many instants."""
    places: list[int] = field(default_factory=list)
    """Of the keys that change most, one each: the instant at which the key changes most."""
    users: list[Any] = field(default_factory=list)
    """The same, with their purchases: see `parity.plan.purchases`."""
    drift: Any = None
    """See `parity.plan.drifted`."""


@dataclass(frozen=True)
class Beside:
    """A column of each side at the instants of `Aligned`."""

    aligned: Aligned
    base: Column
    head: Column

    def at(self, place: int) -> tuple[Any, Any]:
        """What both give at an instant, None for nothing."""
        rows = self.aligned.base[place], self.aligned.head[place]
        return tuple(
            column.values[int(row)].as_py() if row >= 0 and column.valid[row] else None
            for column, row in zip((self.base, self.head), rows, strict=True)
        )

    def taken(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Validity and codes of the base, then of the head."""
        return (*_taken(self.base, self.aligned.base), *_taken(self.head, self.aligned.head))


def _taken(column: Column, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if not len(column.codes):
        return np.zeros(len(rows), bool), np.zeros(len(rows), np.int64)
    return column.valid[rows] & (rows >= 0), column.codes[rows]


def differing(beside: Beside) -> np.ndarray:
    """At which instants the two are not the same, bit for bit."""
    base_valid, base, head_valid, head = beside.taken()
    return (base_valid != head_valid) | (base_valid & head_valid & (base != head))


def change_of(beside: Beside) -> Change:
    """How the two differ."""
    aligned, mask = beside.aligned, differing(beside)
    places = np.flatnonzero(mask)
    base_valid, base, head_valid, head = beside.taken()
    found = Change(
        rows=len(places),
        of_rows=len(aligned),
        keys=len(np.unique(aligned.key[places])),
        of_keys=aligned.keys,
        latest=int(np.count_nonzero(mask[aligned.last])),
        nulls_gained=int(np.count_nonzero(base_valid & ~head_valid)),
        nulls_lost=int(np.count_nonzero(head_valid & ~base_valid)),
    )
    if not len(places):
        return found
    if beside.head.numbers is None:
        found.moves = _moves(beside, places, base, head)
        score = np.bincount(aligned.key[places], minlength=aligned.keys)[aligned.key[places]].astype(float)
        found.places = _most(aligned, places[::-1], score[::-1])
        return found
    both = base_valid[places] & head_valid[places]
    numbers = [_numbers(beside.head, codes[places]) for codes in (base, head)]
    with np.errstate(invalid="ignore", over="ignore"):
        by = np.where(both, (numbers[1] - numbers[0]).astype(np.float64), np.nan)
    finite = by[np.isfinite(by)]
    if len(finite):
        found.quantiles = {
            f"{share:g}": float(value) for share, value in zip(QUANTILES, np.quantile(finite, QUANTILES), strict=True)
        }
    found.places = _most(aligned, places, np.where(np.isnan(by), -1.0, np.abs(by)))
    return found


def _numbers(column: Column, codes: np.ndarray) -> np.ndarray:
    """As numbers that hold an int64 and a float64, so that two that differ have a difference."""
    return (codes.view(np.float64) if pa.types.is_floating(column.values.type) else codes).astype(np.longdouble)


def _most(aligned: Aligned, places: np.ndarray, score: np.ndarray) -> list[int]:
    """For the keys with the highest scores, the place of it; of several, the first."""
    order = np.argsort(-score, kind="stable")
    found: dict[int, int] = {}
    for place in places[order].tolist():
        found.setdefault(int(aligned.key[place]), place)
        if len(found) == USERS:
            break
    return list(found.values())


def _moves(beside: Beside, places: np.ndarray, base: np.ndarray, head: np.ndarray) -> list[tuple[Any, Any, int]]:
    base_valid, _, head_valid, _ = beside.taken()
    pairs = np.stack([np.where(base_valid, base, -1)[places], np.where(head_valid, head, -1)[places]])
    _, first, counts = np.unique(pairs, axis=1, return_index=True, return_counts=True)
    most = np.argsort(-counts, kind="stable")[:MOVES]
    return [(*beside.at(int(places[first[place]])), int(counts[place])) for place in most]
