"""Texts as values, and values as texts: what Arrow types hold text, and how numbers are written out."""

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.reading import Reading

MOST_EXACT = 2**53
"""Up to which every whole number is a float64."""
NO_TEXT = pa.scalar(None, pa.string())


def is_text(type: pa.DataType) -> bool:
    """Whether values are texts, or a dictionary of texts."""
    if pa.types.is_dictionary(type):
        type = type.value_type
    return pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type)


def is_number(type: pa.DataType) -> bool:
    return pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type)


def plain_texts(numbers: pa.Array, reading: Reading) -> pa.Array:
    """Numbers with all their digits, with ``reading.decimal``; null for NaN and what has no such digits."""
    if pa.types.is_integer(numbers.type):
        return numbers.cast(pa.string())
    digits_of = _digits_of_floats if pa.types.is_floating(numbers.type) else _digits_of_decimals
    texts = digits_of(numbers)
    return texts if reading.decimal == "." else pc.replace_substring(texts, ".", reading.decimal)


def _digits_of_floats(numbers: pa.Array) -> pa.Array:
    """The fewest digits that read back the same."""
    texts = numbers.cast(pa.string())
    numbers = numbers.cast(pa.float64())
    whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less_equal(pc.abs(numbers), MOST_EXACT))
    digits = pc.if_else(whole, numbers, pa.scalar(None, pa.float64())).cast(pa.int64()).cast(pa.string())
    return _without_exponent(pc.coalesce(digits, texts))


def _digits_of_decimals(numbers: pa.Array) -> pa.Array:
    return _without_exponent(numbers.cast(pa.string()))


def _without_exponent(texts: pa.Array) -> pa.Array:
    """The same numbers, where Arrow writes some with an exponent: the very large and the very small ones."""
    short = pc.fill_null(pc.match_substring_regex(texts, "[eE]"), False)
    if not pc.any(short).as_py():
        return texts
    long = [f"{Decimal(text):f}" for text in texts.filter(short).to_pylist()]
    return pc.replace_with_mask(texts, short, pa.array(long, pa.string()))


def without_nulls(values: pa.Array, reading: Reading) -> pa.Array:
    """The same values, and null for the texts that are declared to be, and for NaN."""
    if pa.types.is_dictionary(values.type):
        return pa.DictionaryArray.from_arrays(values.indices, without_nulls(values.dictionary, reading))
    if is_text(values.type):
        values = values.cast(pa.string())
        if not reading.null_values:
            return values
        return pc.if_else(pc.is_in(values, pa.array(reading.null_values, pa.string())), NO_TEXT, values)
    if pa.types.is_floating(values.type):
        nan = pc.is_nan(values)
        return pc.if_else(nan, pa.scalar(None, values.type), values) if pc.any(nan).as_py() else values
    return values
