"""Instants: from the texts, numbers, dates and timestamps that files have for them, to UTC in whole microseconds.

What is taken is written in `parity.definition.reading`. What is not becomes null here, and is refused by the caller.
"""

import re
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.instants import (
    EPOCH,
    FIRST_INSTANT,
    LAST_INSTANT,
    MICROSECOND,
    MICROSECONDS_PER_DAY,
    UTC_MICROSECONDS,
)
from parity.definition.reading import Reading
from parity.transactions.texts import is_number, is_text, plain_texts

FIRST, LAST = ((instant - EPOCH) // MICROSECOND for instant in (FIRST_INSTANT, LAST_INSTANT))
MICROSECONDS_IN = {
    "days": MICROSECONDS_PER_DAY,
    "hours": 3_600_000_000,
    "minutes": 60_000_000,
    "seconds": 1_000_000,
    "milliseconds": 1_000,
    "microseconds": 1,
    "nanoseconds": 1,  # once their last three digits are cut off, which have to be zeros
}
ROUNDED = ("days", "hours", "minutes")
LOCAL = pa.timestamp("us")
NO_TEXT = pa.scalar(None, pa.string())


def to_instants(values: pa.Array, reading: Reading) -> pa.Array:
    """Timestamps as ``reading`` has them, as UTC; null for what can't be read."""
    if is_number(values.type):
        values = plain_texts(values, reading)
    if not is_text(values.type):
        return typed_instants(values, reading)
    values = values.cast(pa.string())
    if reading.timestamp_format is None:
        return iso_instants(values, reading)
    if reading.counts:
        return _counted(values, reading)
    return _formatted(values, reading)


def iso_instants(texts: pa.Array, reading: Reading) -> pa.Array:
    """ISO 8601, with any offset or none."""
    shaped = pc.match_substring_regex(texts, _ISO)
    dates = pc.utf8_slice_codeunits(texts, 0, 10)
    known = [day for day in pc.unique(dates.filter(shaped)).to_pylist() if day and _is_date(day)]
    texts = pc.if_else(pc.and_(shaped, pc.is_in(dates, pa.array(known, pa.string()))), texts, NO_TEXT)
    texts = pc.replace_substring_regex(texts, r"(\.\d{6})0+", r"\1")
    has_offset = pc.match_substring_regex(texts, r"[T ]\d\d.*(Z|[+-]\d\d(:?\d\d)?)$")
    aware = pc.if_else(has_offset, texts, NO_TEXT).cast(UTC_MICROSECONDS)
    naive = pc.if_else(has_offset, NO_TEXT, texts).cast(LOCAL)
    return pc.coalesce(_in_range(aware), localized(naive, reading.time_zone))


_ISO = (
    r"^\d{4}-\d\d-\d\d([T ]([01]\d|2[0-3])(:[0-5]\d(:[0-5]\d(\.\d{1,6}0*)?)?)?(Z|[+-]([01]\d|2[0-3])(:?[0-5]\d)?)?)?$"
)


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


def typed_instants(values: pa.Array, reading: Reading) -> pa.Array:
    """Timestamps and dates of a Parquet file."""
    type = values.type
    if pa.types.is_date(type):
        type = pa.timestamp("s" if pa.types.is_date32(type) else "ms")
        values = values.cast(type)
    count, per_second = values.cast(pa.int64()), _PER_SECOND[type.unit]
    day = 86_400 * per_second
    least, most = FIRST * per_second // 1_000_000 - day, LAST * per_second // 1_000_000 + day
    count = _between(count, least, most)
    if type.unit == "ns":
        whole = pc.equal(pc.multiply(pc.divide(count, 1000), 1000), count)
        count = pc.if_else(whole, count, pa.scalar(None, pa.int64()))
    if type.tz is None:
        return localized(count.cast(pa.timestamp(type.unit)).cast(LOCAL), reading.time_zone)
    return _in_range(count.cast(pa.timestamp(type.unit, "UTC")).cast(UTC_MICROSECONDS))


_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}


def _between(count: pa.Array, least: int, most: int) -> pa.Array:
    """The same numbers, null where they are not in these bounds, which may lie beyond 64 bits."""
    found = pc.min_max(count).as_py()
    if found["min"] is None or (least <= found["min"] and found["max"] <= most):
        return count
    good = pc.and_(pc.greater_equal(count, max(least, -(2**63))), pc.less_equal(count, min(most, 2**63 - 1)))
    return pc.if_else(good, count, pa.scalar(None, pa.int64()))


def _in_range(instants: pa.Array) -> pa.Array:
    return _between(instants.cast(pa.int64()), FIRST, LAST).cast(UTC_MICROSECONDS)


# Times in a zone


def localized(naive: pa.Array, zone: str | None) -> pa.Array:
    """What clocks of a ``zone`` show, as UTC; null for what they skip or show twice."""
    if zone in (None, "UTC"):
        return _in_range(naive.cast(UTC_MICROSECONDS))
    offsets, exists = _offsets(naive, zone)
    shown = naive.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return instants_of(shown - offsets, exists & naive.is_valid().to_numpy(zero_copy_only=False))


def instants_of(microseconds: np.ndarray, good: np.ndarray) -> pa.Array:
    """Whole microseconds since 1970 as instants; null where they are not ``good``, or beyond the years 1 to 9999."""
    good = good & (microseconds >= FIRST) & (microseconds <= LAST)
    return pa.array(microseconds, pa.int64(), mask=~good).cast(UTC_MICROSECONDS)


def _offsets(naive: pa.Array, zone: str) -> tuple[np.ndarray, np.ndarray]:
    """The offset of a zone, in microseconds, at each time that its clocks show, and whether they show it just once.

    The zone is asked once a day, as there are days without a change; then once for each second of the others.
    """
    shown = naive.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    possible = (shown >= FIRST) & (shown <= LAST)
    shown = np.where(possible, shown, 0)
    days, day_of = np.unique(shown // MICROSECONDS_PER_DAY, return_inverse=True)
    of_days = [_offset_of_day(int(day), zone) for day in days]
    steady = np.array([offset is not None for offset in of_days], bool)[day_of]
    offsets = np.array([offset or 0 for offset in of_days], np.int64)[day_of]
    rest = np.flatnonzero(~steady)
    seconds, second_of = np.unique(shown[rest] // 1_000_000, return_inverse=True)
    both = np.array([_offsets_at(int(second) * 1_000_000, zone) for second in seconds], np.int64).reshape(-1, 2)
    offsets[rest] = both[second_of, 0]
    exists = possible.copy()
    exists[rest] &= (both[:, 0] == both[:, 1])[second_of]
    return offsets, exists


@lru_cache(1 << 16)
def _offset_of_day(day: int, zone: str) -> int | None:
    """The offset on a day, if it is the same for all of it."""
    start, step = day * MICROSECONDS_PER_DAY, MICROSECONDS_PER_DAY // 4
    found = {offset for quarter in range(5) for offset in _offsets_at(min(start + quarter * step, LAST), zone)}
    return found.pop() if len(found) == 1 else None


def _offsets_at(shown: int, zone: str) -> tuple[int, int]:
    """The offset at a time that clocks show: if they show it twice the two of them, and if never those around it."""
    local = (EPOCH.replace(tzinfo=None) + timedelta(microseconds=shown)).replace(tzinfo=ZoneInfo(zone))
    return local.utcoffset() // MICROSECOND, local.replace(fold=1).utcoffset() // MICROSECOND


# Numbers of days, hours, seconds and so on


def _counted(texts: pa.Array, reading: Reading) -> pa.Array:
    unit = reading.timestamp_format
    per_unit, point = MICROSECONDS_IN[unit], re.escape(reading.decimal)
    found = pc.extract_regex(texts, rf"^(?P<sign>[+-]?)0*(?P<whole>\d+)(?:{point}(?P<part>\d{{0,18}}))?$")
    sign, whole, part = found.flatten()
    good = found.is_valid()
    if unit == "nanoseconds":
        padded = pc.binary_join_element_wise("000", whole, "")
        good = pc.and_(good, pc.ends_with(padded, "000"))
        whole = pc.utf8_slice_codeunits(padded, 0, -3)
        good = pc.and_(good, pc.match_substring_regex(part, r"^0*$"))
        whole = pc.if_else(pc.equal(whole, ""), "0", pc.utf8_ltrim(whole, "0"))
        whole = pc.if_else(pc.equal(whole, ""), "0", whole)
    good = pc.and_(good, pc.less_equal(pc.utf8_length(whole), 18))
    units = _whole(pc.if_else(good, whole, "0"))
    parts = _whole(pc.if_else(good, pc.utf8_rpad(part, 18, "0"), "0"))
    most = (LAST - FIRST) // per_unit + 1
    good = good.fill_null(False).to_numpy(zero_copy_only=False) & (units <= most)
    rounded, exact = _of_parts(parts, per_unit)
    if unit not in ROUNDED:
        good &= exact
    microseconds = np.where(units <= most, units, 0) * per_unit + rounded
    microseconds = np.where(pc.equal(sign, "-").fill_null(False).to_numpy(zero_copy_only=False), -1, 1) * microseconds
    if unit == "days":
        shown = pa.array(_origin(reading) + microseconds, pa.int64(), mask=~good)
        return localized(shown.cast(LOCAL), reading.time_zone)
    return instants_of(_origin(reading) + microseconds, good)


def _of_parts(parts: np.ndarray, per_unit: int) -> tuple[np.ndarray, np.ndarray]:
    """``parts`` of 10**18 of a unit, in microseconds, rounded half to even, and whether that is exact.

    It is a long division by 10**18 in three digits of 10**6, as a product would not fit in 64 bits.
    """
    digits, base = [parts % 10**6, parts // 10**6 % 10**6, parts // 10**12], 10**6
    quotient, rest = np.zeros_like(parts), np.zeros_like(parts)
    for place, digit in enumerate(digits):
        quotient, remainder = np.divmod(digit * per_unit + quotient, base)
        rest += remainder * base**place
    half = 10**18 // 2
    up = (rest > half) | ((rest == half) & (quotient % 2 == 1))
    return quotient + up, rest == 0


def _whole(digits: pa.Array) -> np.ndarray:
    """Digits as numbers, of a day also with a blank before it; what is null or empty is 0."""
    digits = pc.utf8_ltrim(digits, " ").fill_null("0")
    return pc.if_else(pc.equal(digits, ""), "0", digits).cast(pa.int64()).to_numpy(zero_copy_only=False)


def _origin(reading: Reading) -> int:
    """In microseconds since 1970: of what clocks show for days, of UTC for other units."""
    if reading.origin is None:
        return 0
    origin = datetime.fromisoformat(reading.origin)
    if reading.timestamp_format == "days":
        return (origin - EPOCH.replace(tzinfo=None)) // MICROSECOND
    if origin.tzinfo is None:
        origin = origin.replace(tzinfo=ZoneInfo(reading.time_zone or "UTC") if reading.time_zone else UTC)
    return (origin - EPOCH) // MICROSECOND


# Formats of strptime

_MONTHS = [
    *["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November"],
    "December",
]
_DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
_BLANKS = (  # what Python takes for blanks
    r"[\t-\r\x{1c}-\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]+"
)


def _one_of(names: list[str], length: int | None = None) -> str:
    """The pattern of names, or of their beginnings, in any capitals: of no letter beyond ASCII that folds to theirs."""
    return "|".join("".join(f"[{sign.upper()}{sign.lower()}]" for sign in name[:length]) for name in names)


_FIELDS = {
    "Y": r"\d\d\d\d",
    "y": r"\d\d",
    "m": r"1[0-2]|0[1-9]|[1-9]",
    "d": r"3[0-1]|[1-2]\d|0[1-9]|[1-9]| [1-9]",
    "j": r"36[0-6]|3[0-5]\d|[1-2]\d\d|0[1-9]\d|00[1-9]|[1-9]\d|0[1-9]|[1-9]",
    "H": r"2[0-3]|[0-1]\d|\d",
    "I": r"1[0-2]|0[1-9]|[1-9]",
    "M": r"[0-5]\d|\d",
    "S": r"6[0-1]|[0-5]\d|\d",  # which Python matches, and then refuses
    "f": r"\d{1,6}",
    "p": _one_of(["am", "pm"]),
    "B": _one_of(_MONTHS),
    "b": _one_of(_MONTHS, 3),
    "A": _one_of(_DAYS),
    "a": _one_of(_DAYS, 3),
    "Z": _one_of(["utc", "gmt"]),
    "z": "|".join(rf"[+-](?:[01]\d|2[0-3]){colon}[0-5]\d(?:{colon}[0-5]\d(?:\.\d{{1,6}})?)?" for colon in (":", ""))
    + "|Z",
}


@lru_cache
def pattern_of(format: str) -> str:
    """The regular expression, with a group for each field, of the texts that a strptime ``format`` takes."""
    parts = []
    for literal, directive in re.findall(r"([^%]+)|%(.)", format, re.DOTALL):
        if directive == "%":
            parts.append("%")
        elif directive:
            parts.append(f"(?P<{directive}>(?-i:{_FIELDS[directive]}))")
        else:
            parts += [_BLANKS if blank else re.escape(text) for blank, text in re.findall(r"(\s+)|(\S+)", literal)]
    return f"(?is)^(?:{''.join(parts)})$"


def _formatted(texts: pa.Array, reading: Reading) -> pa.Array:
    pattern = pattern_of(reading.timestamp_format)
    found = pc.extract_regex(texts, pattern)
    fields = {field.name: column for field, column in zip(found.type, found.flatten(), strict=True)}
    day, good = _civil_day(fields)
    good &= found.is_valid().to_numpy(zero_copy_only=False)
    shown = day * MICROSECONDS_PER_DAY + _time_of_day(fields)
    if "Z" in fields:
        return instants_of(shown, good)
    if "z" in fields:
        return instants_of(shown - _offset(fields["z"]), good)
    return localized(pa.array(shown, pa.int64(), mask=~good).cast(LOCAL), reading.time_zone)


def _civil_day(fields: dict[str, pa.Array]) -> tuple[np.ndarray, np.ndarray]:
    """The number of the day from 1970-01-01 on, and whether there is such a day, and such a second of a minute."""
    if "Y" in fields:
        year = _whole(fields["Y"])
    else:
        year = _whole(fields["y"])
        year = year + np.where(year < 69, 2000, 1900)
    if "j" in fields:
        first = (year - 1970).astype("M8[Y]")
        after, offset = first + 1, _whole(fields["j"]) - 1
    else:
        first = (12 * (year - 1970) + _month(fields, len(year)) - 1).astype("M8[M]")
        after, offset = first + 1, (_whole(fields["d"]) - 1 if "d" in fields else 0)
    day = first.astype("M8[D]").astype(np.int64) + offset
    minute = _whole(fields["S"]) < 60 if "S" in fields else True
    return day, (year >= 1) & (day < after.astype("M8[D]").astype(np.int64)) & minute


def _month(fields: dict[str, pa.Array], rows: int) -> np.ndarray:
    if "m" in fields:
        return _whole(fields["m"])
    for directive, length in (("B", 9), ("b", 3)):
        if directive in fields:
            names = pa.array([name[:length].lower() for name in _MONTHS])
            number = pc.index_in(pc.utf8_lower(fields[directive]), names).fill_null(0)
            return number.to_numpy(zero_copy_only=False).astype(np.int64) + 1
    return np.ones(rows, np.int64)


def _time_of_day(fields: dict[str, pa.Array]) -> np.ndarray | int:
    time = 0
    for directive, unit in (("H", 3_600_000_000), ("I", 3_600_000_000), ("M", 60_000_000), ("S", 1_000_000)):
        if directive in fields:
            number = _whole(fields[directive])
            time = time + (number % 12 if directive == "I" else number) * unit
    if "p" in fields:
        afternoon = pc.equal(pc.utf8_lower(fields["p"]), "pm").fill_null(False).to_numpy(zero_copy_only=False)
        time = time + afternoon * (12 * 3_600_000_000)
    if "f" in fields:
        time = time + _whole(pc.utf8_rpad(fields["f"], 6, "0"))
    return time


def _offset(texts: pa.Array) -> np.ndarray:
    pattern = r"^(?P<sign>[+-])(?P<h>\d\d):?(?P<m>\d\d)(?::?(?P<s>\d\d)(?:\.(?P<f>\d{1,6}))?)?$"
    sign, hours, minutes, seconds, part = pc.extract_regex(texts, pattern).flatten()  # null for Z, which is 0
    offset = _whole(hours) * 3_600_000_000 + _whole(minutes) * 60_000_000
    offset += _whole(pc.utf8_rpad(seconds, 2, "0")) * 1_000_000 + _whole(pc.utf8_rpad(part, 6, "0"))
    return np.where(pc.equal(sign, "-").fill_null(False).to_numpy(zero_copy_only=False), -offset, offset)
