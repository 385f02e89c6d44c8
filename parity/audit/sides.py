"""What training and the oracle say of the instants at which something was served; and how values are held against each
other, many at a time.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from feast import FeatureStore

from parity.compare.equal import same
from parity.compare.subjects import ENTITY_TIME
from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND
from parity.definition.keys import KeyBook
from parity.edge.errors import UserError
from parity.offline.side import PANDAS_TYPES
from parity.proof.oracle import evaluate_each, slides_of
from parity.proof.raw import Purchase


class Answers(NamedTuple):
    """What training gets: features, one row for each that was asked for; and where it gets no row at all."""

    values: pa.Table
    dropped: np.ndarray


def training_of(store: FeatureStore, view: str, features: Sequence[str], keys: pa.Table, as_of: np.ndarray) -> Answers:
    """Ask Feast for ``features`` of a view as for training: of each of ``keys`` at an instant of its own, in
    microseconds since 1970. The same key and instant may be asked for several times."""
    book = KeyBook(keys.schema.remove_metadata())
    numbers = book.number(keys)
    times, codes = np.unique(as_of, return_inverse=True)
    asked, first, place = np.unique(numbers * len(times) + codes, return_index=True, return_inverse=True)
    frame = keys.take(pa.array(first)).to_pandas(types_mapper=PANDAS_TYPES.get)
    frame[ENTITY_TIME] = pd.DatetimeIndex(as_of[first].astype("datetime64[us]"), tz="UTC")
    found = store.get_historical_features(frame, [f"{view}:{feature}" for feature in features]).to_arrow()

    instants = found[ENTITY_TIME].cast(pa.timestamp("us", found[ENTITY_TIME].type.tz)).cast(pa.int64()).to_numpy()
    code = np.minimum(np.searchsorted(times, instants), len(times) - 1)
    answered = book.find(found) * len(times) + code
    row = np.minimum(np.searchsorted(asked, answered), len(asked) - 1)
    if (times[code] != instants).any() or (asked[row] != answered).any() or len(np.unique(row)) < len(row):
        raise UserError("the offline store answered with rows that nobody asked for, so nothing can be audited.")
    order = np.full(len(asked), -1)
    order[row] = np.arange(len(row))
    order = order[place]
    values = found.select(list(features)).take(pa.array(order, mask=order < 0))
    return Answers(values.combine_chunks(), order < 0)


class Steps(NamedTuple):
    """The rows that the offline table has to have of some keys, by the oracle: sorted by number and event."""

    numbers: np.ndarray
    events: np.ndarray
    values: dict[str, pa.Array]
    bought: np.ndarray
    """The event of the last purchase up to each row: another one where something has left a window."""

    def at(self, numbers: np.ndarray, instants: np.ndarray) -> np.ndarray:
        """The row that holds at the instant of each key, -1 for none."""
        place = _last_before(self.numbers, self.events, numbers, instants)
        there = (place >= 0) & (self.numbers[place] == numbers) if len(self.numbers) else np.zeros(len(place), bool)
        return np.where(there, place, -1)

    def exactly(self, numbers: np.ndarray, instants: np.ndarray) -> np.ndarray:
        """The row of this very event of each key, -1 for none."""
        place = self.at(numbers, instants)
        if not len(self.numbers):
            return place
        return np.where((place >= 0) & (self.events[place] == instants), place, -1)


def _last_before(numbers: np.ndarray, events: np.ndarray, asked: np.ndarray, instants: np.ndarray) -> np.ndarray:
    """The last of the sorted (number, event) that is not after each (asked, instant); -1 for none."""
    times = np.unique(np.concatenate([events, instants]))
    every = np.unique(np.concatenate([numbers, asked]))
    size = len(times)

    def code(some: np.ndarray, when: np.ndarray) -> np.ndarray:
        return np.searchsorted(every, some) * size + np.searchsorted(times, when)

    return np.searchsorted(code(numbers, events), code(asked, instants), side="right") - 1


def steps_of(table: FeatureTable, features: Sequence[str], purchases: Mapping[int, Sequence[Purchase]]) -> Steps:
    """Work out every row of the keys that have these ``purchases``, by number."""
    rules = [rule for rule in table.definition.rules if rule.name in features]
    slides = slides_of(table.definition)
    numbers: list[int] = []
    events: list[int] = []
    bought: list[int] = []
    values: dict[str, list] = {rule.name: [] for rule in rules}
    for number in sorted(purchases):
        some = sorted(purchases[number], key=lambda purchase: purchase.time)
        for place, rule in enumerate(rules):
            found = evaluate_each(rule, some, slides)
            values[rule.name] += [value for _, value in found]
            if place == 0:
                instants = np.array([(instant - EPOCH) // MICROSECOND for instant, _ in found], np.int64)
                times = np.array([(purchase.time - EPOCH) // MICROSECOND for purchase in some], np.int64)
                numbers += [number] * len(instants)
                events += instants.tolist()
                bought += times[np.searchsorted(times, instants, side="right") - 1].tolist()
    columns = {rule.name: pa.array(values[rule.name], rule.type) for rule in rules}
    return Steps(*(np.array(some, np.int64) for some in (numbers, events)), columns, np.array(bought, np.int64))


def alike(a: pa.Array, b: pa.Array) -> np.ndarray:
    """Where two columns have the same values, as `parity.proof.causes.same` has it: bits, null equal to null, and NaN
    null by another name."""
    if _is_whole(a.type) and _is_whole(b.type):
        a, b = a.cast(pa.int64()), b.cast(pa.int64())
    if a.type != b.type or not _is_plain(a.type):
        return np.array([same(x, y) for x, y in zip(python(a), python(b), strict=True)], bool)
    no_a, no_b = absent(a), absent(b)
    if pa.types.is_floating(a.type):
        bits = np.int64 if a.type == pa.float64() else np.int32
        x, y = (pc.fill_null(one, 0.0).to_numpy(zero_copy_only=False).view(bits) for one in (a, b))
        equal = x == y
    else:
        equal = pc.fill_null(pc.equal(a, b), False).to_numpy(zero_copy_only=False)
    return np.where(no_a | no_b, no_a & no_b, equal)


def absent(values: pa.Array) -> np.ndarray:
    """Where there is null, or NaN."""
    nulls = pc.is_null(values, nan_is_null=pa.types.is_floating(values.type))
    return nulls.to_numpy(zero_copy_only=False)


def _is_whole(type: pa.DataType) -> bool:
    return pa.types.is_integer(type)


def _is_plain(type: pa.DataType) -> bool:
    kinds = pa.types
    is_text = kinds.is_string(type) or kinds.is_binary(type)
    return _is_whole(type) or type in (pa.float64(), pa.float32()) or is_text or kinds.is_boolean(type)


def python(values: pa.Array | pa.ChunkedArray) -> list[Any]:
    """Values in Python, None for null and for NaN."""
    return [None if value != value else value for value in values.to_pylist()]


def one_array(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    if isinstance(column, pa.Array):
        return column
    return column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [pa.array([], column.type)])


def instants(microseconds: Sequence[int]) -> Iterator[datetime]:
    return (EPOCH + int(count) * MICROSECOND for count in microseconds)
