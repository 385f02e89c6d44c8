"""Values: from the texts, numbers and so on that a column of a file holds, to the one type that it is to have.

What is taken is written in `parity.definition.reading`. What is not becomes null here, and is refused by the caller.
"""

import re
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.reading import Reading, alike
from parity.transactions.texts import MOST_EXACT, NO_TEXT, is_number, is_text, plain_texts
from parity.transactions.times import iso_instants, to_instants, typed_instants

PLAIN_WHOLE_NUMBER = r"^(0|-?[1-9]\d{0,18})$"
PLAIN_AMOUNT = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
INSTANTS = "instants"


def to_type(values: pa.Array, to: pa.DataType | str, reading: Reading, is_key: bool) -> pa.Array:
    """``values`` as the type ``to``, or, for the timestamp, as `INSTANTS`; null for what can't be read as one."""
    if pa.types.is_dictionary(values.type):  # each distinct value once
        return to_type(values.dictionary, to, reading, is_key).take(values.indices)
    if to == INSTANTS:
        return to_instants(values, reading)
    if is_text(values.type):
        return _of_texts(values.cast(pa.string()), to, reading, is_key)
    return _of_others(values, to, reading)


def is_accepted(found: pa.DataType, to: pa.DataType | str, reading: Reading) -> bool:
    """Whether a column of a Parquet file that has the type ``found`` may hold what is read as ``to``."""
    if is_text(found) or pa.types.is_null(found):
        return True
    whole, number = pa.types.is_integer(found), is_number(found)
    instant = pa.types.is_timestamp(found) or pa.types.is_date(found)
    if to == INSTANTS:
        return instant or (number and reading.timestamp_format is not None)
    if pa.types.is_integer(to):
        return whole or (number and reading.whole_with_point)
    if pa.types.is_floating(to):
        return number
    if pa.types.is_boolean(to):
        return whole or pa.types.is_boolean(found)
    if pa.types.is_timestamp(to):
        return instant
    return whole or _is_binary(found)


def _is_binary(type: pa.DataType) -> bool:
    return (
        pa.types.is_binary(type)
        or pa.types.is_large_binary(type)
        or pa.types.is_fixed_size_binary(type)
        or pa.types.is_binary_view(type)
    )


def _of_texts(texts: pa.Array, to: pa.DataType, reading: Reading, is_key: bool) -> pa.Array:
    if pa.types.is_string(to):
        return texts
    if pa.types.is_binary(to):
        return texts.cast(to)
    if pa.types.is_boolean(to):
        small = pc.utf8_lower(texts)
        good = pc.is_in(small, pa.array(["true", "false", "1", "0"]))
        return pc.if_else(good, pc.is_in(small, pa.array(["true", "1"])), pa.scalar(None, pa.bool_()))
    if pa.types.is_timestamp(to):
        return _whole_seconds(iso_instants(texts, reading))
    if pa.types.is_integer(to):
        return _whole_numbers(texts, to, reading, is_key)
    return _amounts(texts, reading)


def _of_others(values: pa.Array, to: pa.DataType, reading: Reading) -> pa.Array:
    found = values.type
    if pa.types.is_null(found):
        return pa.nulls(len(values), to)
    if pa.types.is_timestamp(to):
        return _whole_seconds(typed_instants(values, reading))
    if pa.types.is_integer(to):
        return _whole_of_numbers(values, to)
    if pa.types.is_floating(to):
        return _floats(values)
    if pa.types.is_boolean(to):
        return values if pa.types.is_boolean(found) else _of_texts(values.cast(pa.string()), to, reading, False)
    if pa.types.is_integer(found):
        return values.cast(pa.string()).cast(to)
    return values.cast(to) if pa.types.is_binary(to) else _decoded(values)


def _whole_seconds(instants: pa.Array) -> pa.Array:
    count = instants.cast(pa.int64())
    whole = pc.equal(pc.multiply(pc.divide(count, 1_000_000), 1_000_000), count)
    return pc.if_else(whole, instants, pa.scalar(None, UTC_MICROSECONDS))


def _decoded(values: pa.Array) -> pa.Array:
    """Binary as text; null for what is not UTF-8."""
    values = values.cast(pa.binary())
    try:
        return values.cast(pa.string())
    except pa.ArrowInvalid:
        return pa.array([_utf8(value) for value in values.to_pylist()], pa.string())


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


# Whole numbers


def whole_as_written(texts: pa.Array, to: pa.DataType) -> pa.Array | None:
    """Texts as whole numbers if each of them reads back as it was written: then none of them is refused.

    So 007 and a 7 after a blank are not taken, which Arrow takes for 7, and somebody else for another user.
    """
    try:
        numbers = texts.cast(to)
    except pa.ArrowInvalid:
        return None
    return numbers if numbers.cast(pa.string()).equals(texts) else None


def _whole_numbers(texts: pa.Array, to: pa.DataType, reading: Reading, is_key: bool) -> pa.Array:
    if (numbers := whole_as_written(texts, to)) is not None:
        return numbers
    if is_key:
        if reading.whole_with_point:
            texts = pc.replace_substring_regex(texts, rf"^(0|-?[1-9]\d*){re.escape(reading.decimal)}0+$", r"\1")
    else:
        texts = _plain(texts, reading, is_whole=True)
    good = pc.and_(pc.match_substring_regex(texts, PLAIN_WHOLE_NUMBER), pc.invert(_beyond_64_bits(texts)))
    return _within(pc.if_else(good, texts, NO_TEXT).cast(pa.int64()), to)


def _beyond_64_bits(digits: pa.Array) -> pa.Array:
    """Tell which whole numbers of at most 19 digits do not fit: of the same length, they are in the order of texts."""
    length = pc.utf8_length(digits)
    above = pc.and_(pc.equal(length, 19), pc.greater(digits, str(2**63 - 1)))
    below = pc.and_(pc.equal(length, 20), pc.greater(digits, str(-(2**63))))
    return pc.or_(pc.and_(above, pc.invert(pc.starts_with(digits, "-"))), below)


def _within(numbers: pa.Array, to: pa.DataType) -> pa.Array:
    """Numbers as the type ``to``; null for those beyond it."""
    if numbers.type == to:
        return numbers
    return pc.if_else(_between(numbers, *_range(to)), numbers, pa.scalar(None, numbers.type)).cast(to)


def _range(type: pa.DataType) -> tuple[int, int]:
    bits = type.bit_width
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if pa.types.is_signed_integer(type) else (0, 2**bits - 1)


def _between(values: pa.Array, least: int, most: int) -> pa.Array:
    """Compare whole numbers with bounds, which may lie beyond their type."""
    first, last = _range(values.type)
    lower = pa.scalar(max(least, first), values.type)
    upper = pa.scalar(min(most, last), values.type)
    return pc.and_(pc.greater_equal(values, lower), pc.less_equal(values, upper))


def _whole_of_numbers(values: pa.Array, to: pa.DataType) -> pa.Array:
    """Numbers of a Parquet file as whole numbers: floats and decimals may be, as ``17001.0``."""
    if pa.types.is_integer(values.type):
        return _within(values, to)
    if pa.types.is_floating(values.type):
        values = values.cast(pa.float64())
        good = pc.and_(pc.equal(pc.floor(values), values), pc.less_equal(pc.abs(values), float(MOST_EXACT)))
        return _within(pc.if_else(good, values, pa.scalar(None, pa.float64())).cast(pa.int64()), to)
    digits = pc.replace_substring_regex(plain_texts(values, Reading()), r"\.0*$", "")
    good = pc.and_(pc.match_substring_regex(digits, PLAIN_WHOLE_NUMBER), pc.invert(_beyond_64_bits(digits)))
    return _within(pc.if_else(good, digits, NO_TEXT).cast(pa.int64()), to)


# Amounts


def _amounts(texts: pa.Array, reading: Reading) -> pa.Array:
    if is_plain(reading):
        texts = pc.utf8_trim_whitespace(texts)
        texts = pc.if_else(pc.match_substring_regex(texts, PLAIN_AMOUNT), texts, NO_TEXT)
    else:
        texts = _plain(texts, reading, is_whole=False)
    return _finite(texts.cast(pa.float64()))


def _floats(values: pa.Array) -> pa.Array:
    """Numbers of a Parquet file as float64."""
    if pa.types.is_integer(values.type):
        good = _between(values, -MOST_EXACT, MOST_EXACT)
        return pc.if_else(good, values, pa.scalar(None, values.type)).cast(pa.float64())
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.string())  # Arrow's own cast from decimal to float is not correctly rounded
    return _finite(values.cast(pa.float64()))


def _finite(values: pa.Array) -> pa.Array:
    good = pc.is_finite(values)
    return values if pc.all(good).as_py() is not False else pc.if_else(good, values, pa.scalar(None, pa.float64()))


def is_plain(reading: Reading) -> bool:
    """Whether numbers are written as Arrow reads them."""
    return (reading.decimal, reading.thousands, reading.currency, reading.negative) == (".", "", "", "leading")


def _any_of(characters: str) -> str:
    return f"[{re.escape(characters)}]"


@lru_cache
def _amount_pattern(reading: Reading) -> str:
    point = re.escape(reading.decimal)
    whole = r"\d+"
    if reading.thousands:
        between = _any_of(alike(reading.thousands))
        whole = rf"(?:\d{{1,3}}(?:{between}\d{{2,3}})*{between}\d{{3}}|\d+)"
    return _with_signs(rf"(?:{whole}(?:{point}\d*)?|{point}\d+)(?:[eE][+-]?\d+)?", "[+-]", reading)


@lru_cache
def _whole_pattern(reading: Reading) -> str:
    number = r"(?:0|[1-9]\d*)"
    if reading.thousands:
        between = _any_of(alike(reading.thousands))
        number = rf"(?:[1-9]\d{{0,2}}(?:{between}\d{{2,3}})*{between}\d{{3}}|0|[1-9]\d*)"
    if reading.whole_with_point:
        number += rf"(?:{re.escape(reading.decimal)}0+)?"
    return _with_signs(number, "-", reading)


def _with_signs(number: str, sign: str, reading: Reading) -> str:
    """Extend the pattern of a number by the ``sign`` and the currency that it may have, each in its places."""
    currency = f"(?:{re.escape(reading.currency)})" if reading.currency else ""
    before, after = (f"(?:{currency}{_BLANK}*)?", f"(?:{_BLANK}*{currency})?") if currency else ("", "")
    forms = [rf"(?P<s1>{sign}?){before}(?P<s2>{sign}?)(?P<n1>{number}){after}"]
    if reading.negative == "trailing":
        forms.append(rf"{before}(?P<n2>{number}){after}(?P<s3>-){after}")
    if reading.negative == "parentheses":
        forms.append(rf"{before}(?P<s3>\(){before}(?P<n2>{number}){after}\){after}")
    return f"^(?:{'|'.join(forms)})$"


_BLANK = r"[\s\x{a0}\x{2009}\x{202f}]"


def _plain(texts: pa.Array, reading: Reading, is_whole: bool) -> pa.Array:
    """Numbers as Arrow reads them; null for texts that are no numbers as ``reading`` has them."""
    pattern = _whole_pattern(reading) if is_whole else _amount_pattern(reading)
    texts = pc.utf8_trim_whitespace(texts)
    found = pc.extract_regex(texts, pattern)
    groups = {field.name: column for field, column in zip(found.type, found.flatten(), strict=True)}
    signs = _joined([column for name, column in groups.items() if name.startswith("s")])
    number = _joined([column for name, column in groups.items() if name.startswith("n")])
    good = pc.less_equal(pc.utf8_length(signs), 1)
    if reading.currency:
        good = pc.and_(good, pc.less_equal(pc.count_substring(texts, reading.currency), 1))
    if reading.thousands:
        number = pc.replace_substring_regex(number, _any_of(alike(reading.thousands)), "")
    if reading.decimal != ".":
        number = pc.replace_substring(number, reading.decimal, ".")
    if is_whole:
        number = pc.replace_substring_regex(number, r"\.0+$", "")
    sign = pc.if_else(pc.is_in(signs, pa.array(["-", "("])), "-", "")
    return pc.if_else(good, _joined([sign, number]), NO_TEXT)


def _joined(texts: list[pa.Array]) -> pa.Array:
    return texts[0] if len(texts) == 1 else pc.binary_join_element_wise(*texts, "")
