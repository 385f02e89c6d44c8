"""Values as whole numbers that are in the same order: what keys and texts of any type are sorted and compared by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

MOST = 2**62


@dataclass(frozen=True)
class Codes:
    """A column, or several, as numbers: equal where the values are, and in their order. A float is its own code."""

    values: np.ndarray
    decode: Callable[[np.ndarray], list[pa.Array]]
    """Give the values of codes again, a list of columns."""

    def only(self, rows: np.ndarray | None) -> Codes:
        """Those of some rows; None are all."""
        return self if rows is None else Codes(self.values[rows], self.decode)

    @cached_property
    def low(self) -> int:
        return int(self.values.min()) if len(self.values) else 0

    @cached_property
    def span(self) -> int:
        """How many codes lie between the lowest and the highest, both included."""
        return int(self.values.max()) - self.low + 1 if len(self.values) else 1

    def dense(self) -> Codes:
        """The same with codes from 0 on, none of them unused."""
        used, ranks = np.unique(self.values, return_inverse=True)
        decode = self.decode
        return Codes(ranks.astype(np.int64, copy=False), lambda codes: decode(used[codes]))


def key_codes(keys: pa.Table) -> Codes:
    """Code keys of any types, and of any number of columns, in their order: the first column decides, then the next.

    Numbers are in the order of their values, texts and bytes in that of their (UTF-8) bytes, false before true.
    """
    return reduce(_pair, map(column_codes, keys.columns))


def column_codes(column: pa.ChunkedArray) -> Codes:
    """Code one column: see `key_codes`."""
    type = column.type
    if pa.types.is_floating(type):
        return Codes(column.to_numpy(), lambda codes: [pa.array(codes)])
    if pa.types.is_string(type) or pa.types.is_binary(type):
        return _text_codes(column)
    whole = column.cast(pa.int8()) if pa.types.is_boolean(type) else column
    return Codes(whole.cast(pa.int64()).to_numpy(), lambda codes: [pa.array(codes, pa.int64()).cast(type)])


def _text_codes(column: pa.ChunkedArray) -> Codes:
    type = column.type
    encoded = column.cast(pa.large_binary()).dictionary_encode().unify_dictionaries()
    if not encoded.num_chunks:
        return Codes(np.empty(0, np.int64), lambda codes: [pa.array([], type)])
    distinct = encoded.chunk(0).dictionary
    order = pc.sort_indices(distinct)
    ranks = np.empty(len(distinct), np.int64)
    ranks[order.to_numpy()] = np.arange(len(distinct))
    in_order = distinct.take(order)
    values = np.concatenate([ranks[chunk.indices.to_numpy()] for chunk in encoded.chunks])
    return Codes(values, lambda codes: [in_order.take(pa.array(codes)).cast(type)])


def _pair(one: Codes, other: Codes) -> Codes:
    """One code for both."""
    if one.span * other.span > MOST:
        one, other = one.dense(), other.dense()
    high, low, span = one.low, other.low, other.span
    first, second = one.decode, other.decode

    def decode(codes: np.ndarray) -> list[pa.Array]:
        above = codes // span
        return [*first(above + high), *second(codes - above * span + low)]

    return Codes((one.values - high) * span + (other.values - low), decode)
