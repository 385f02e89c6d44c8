"""What a value of a raw file is, as the oracle reads it: by the text of `parity.definition.reading`, one at a time.

Nothing here is shared with `parity.transactions`, which reads the same files for the pipeline.
"""

import math
import re
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa

from parity.definition.reading import Reading

MICROSECONDS = {
    "days": Fraction(86_400_000_000),
    "hours": Fraction(3_600_000_000),
    "minutes": Fraction(60_000_000),
    "seconds": Fraction(1_000_000),
    "milliseconds": Fraction(1000),
    "microseconds": Fraction(1),
    "nanoseconds": Fraction(1, 1000),
}
"""How many microseconds there are to each unit that timestamps may count."""
ROUNDED = ("days", "hours", "minutes")
"""Those that are rounded to a microsecond; of the others nothing may be finer."""
LARGEST_IN_FLOAT = 2**53
MIDNIGHT = datetime.min.time()
_ISO = re.compile(
    r"[0-9]{4}(-[0-9]{2}){2}([T ][0-9]{2}(:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6}0*)?)?)?(Z|[+-][0-9]{2}(:?[0-5][0-9])?)?)?"
)
_PLAIN_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_PLAIN_INT = re.compile(r"0|-?[1-9][0-9]*")

Parser = Callable[[Any], Any]
"""Makes a Python value of what a file shows: a text, a value of Parquet, or None. `ValueError` for what is neither."""


class NumberOfJson(str):
    """A number in a JSON file, as it is written there."""


class Parsers:
    """The readers of values for files of one format."""

    def __init__(self, reading: Reading, empty_is_null: bool = True):
        self._reading = reading
        self._nulls = {*reading.null_values, ""} if empty_is_null else set(reading.null_values)
        self._zone = ZoneInfo(reading.time_zone) if reading.time_zone else None
        self._amounts = _amounts(reading)
        origin = datetime.fromisoformat(reading.origin or "1970-01-01")
        self._origin = origin if reading.timestamp_format == "days" else self.utc(origin) if reading.origin else origin

    def of(self, type: pa.DataType, is_key: bool = False) -> Parser:
        """The reader of a column of this type: an int, float64 as the text of its digits, str, bytes, bool, or, of
        instants, an aware datetime in UTC."""
        if pa.types.is_integer(type):
            return self._unless_null(partial(self._int, is_key=is_key, bits=type.bit_width))
        if pa.types.is_timestamp(type):
            return self._unless_null(self._whole_seconds if is_key else self._timestamp)
        kinds = {pa.float64(): self._amount, pa.string(): _text, pa.binary(): _bytes, pa.bool_(): _bool}
        return self._unless_null(kinds[type])

    def is_null(self, value: Any) -> bool:
        return value is None or value != value or (isinstance(value, str) and value in self._nulls)

    def _unless_null(self, parse: Parser) -> Parser:
        is_null, nulls = self.is_null, self._nulls

        def parse_any(value: Any) -> Any:
            if type(value) is str:  # nearly always, and so ahead of what is slower
                return None if value in nulls else parse(value)
            return None if is_null(value) else parse(value)

        return parse_any

    def _amount(self, value: Any) -> str:
        """The digits of a float64: with a point, and nothing else that a file may have in it."""
        if isinstance(value, str):
            number = value if not self._amounts and _PLAIN_FLOAT.fullmatch(value) else self._plain(value)
        elif isinstance(value, int) and abs(value) > LARGEST_IN_FLOAT:
            raise ValueError(f"{value} is beyond what a float64 holds exactly")
        else:
            number = str(_number(value))
        if not math.isfinite(float(number)):
            raise ValueError(f"{value!r:.80} is not finite")
        return number

    def _plain(self, text: str) -> str:
        stripped = _with_decimal(text, self._reading).strip()
        if not self._amounts:
            if _PLAIN_FLOAT.fullmatch(stripped):
                return stripped
        else:
            for form, sign in self._amounts:
                if found := form.fullmatch(stripped):
                    whole = re.sub(r"[^0-9]", "", found["whole"] or "")
                    part = "" if found["part"] is None else f".{found['part']}"
                    return f"{found.groupdict().get('sign') or sign}{whole}{part}{found['power']}"
        raise ValueError(f"{text!r:.80} is not a number")

    def _int(self, value: Any, is_key: bool, bits: int) -> int:
        """A whole number of so many bits. Python alone would take 1_0 for 10, digits of any script, and 007 for 7."""
        if isinstance(value, str):
            number = int(value if _PLAIN_INT.fullmatch(value) else self._plain_int(value, is_key))
        else:
            number = int(_number(value)) if math.isfinite(value) else 0
            inexact = isinstance(value, float) and abs(value) > LARGEST_IN_FLOAT
            if number != value or inexact or not (isinstance(value, int) or self._reading.whole_with_point):
                raise ValueError(f"{value!r:.80} is not a whole number")
        if not -(1 << bits - 1) <= number < 1 << bits - 1:
            raise ValueError(f"{number} does not fit in {bits} bits")
        return number

    def _plain_int(self, text: str, is_key: bool) -> str:
        """The digits of a whole number that is written in another way, as may be declared."""
        digits = _with_decimal(text, self._reading) if is_key else self._plain(text)
        point = self._reading.decimal if is_key else "."
        if self._reading.whole_with_point:
            digits = re.sub(rf"{re.escape(point)}0+$", "", digits)
        if not _PLAIN_INT.fullmatch(digits):
            raise ValueError(f"{text!r:.80} is not a whole number, or it does not read back as it was written")
        return digits

    def _whole_seconds(self, value: Any) -> datetime:
        instant = self.utc(_iso(value)) if isinstance(value, str) else self._of_parquet(value)
        if instant.microsecond:
            raise ValueError(f"{value!r:.80} is not in whole seconds")
        return instant

    def _timestamp(self, value: Any) -> datetime:
        form = self._reading.timestamp_format
        if form is None and isinstance(value, str):
            return self.utc(_iso(value))
        if isinstance(value, date):  # and so a datetime
            return self._of_parquet(value)
        if not isinstance(value, str):
            if form is None or isinstance(value, bool | bytes):
                raise ValueError(f"{value!r:.80} is not an instant")
            value = digits(value).replace(".", self._reading.decimal)
        if form in MICROSECONDS:
            return self._counted(_with_decimal(value, self._reading), form)
        return self.utc(_formatted(value, form))

    def _counted(self, text: str, unit: str) -> datetime:
        decimal = self._reading.decimal
        if not re.fullmatch(rf"[+-]?[0-9]+({re.escape(decimal)}[0-9]{{0,18}})?", text):
            raise ValueError(f"{text!r:.80} is not a number of {unit}")
        count = Fraction(text.replace(decimal, ".")) * MICROSECONDS[unit]
        if count.denominator != 1 and unit not in ROUNDED:
            raise ValueError(f"{text!r:.80} {unit} are finer than a microsecond")
        passed = timedelta(microseconds=round(count))
        if unit == "days":
            return self.utc(self._origin + passed)
        origin = self._origin if self._origin.tzinfo else self._origin.replace(tzinfo=UTC)
        return origin + passed

    def _of_parquet(self, value: Any) -> datetime:
        if not isinstance(value, date):
            raise ValueError(f"{value!r:.80} is not an instant")
        return self.utc(value if isinstance(value, datetime) else datetime.combine(value, MIDNIGHT))

    def utc(self, value: datetime) -> datetime:
        """The instant of a time, which is one of the declared zone if it has no offset."""
        if value.tzinfo is not None:
            return value.astimezone(UTC)
        if self._zone is None:
            return value.replace(tzinfo=UTC)
        early, late = (value.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1))
        if early.utcoffset() != late.utcoffset():
            raise ValueError(f"{value.isoformat(' ')} is there twice, or not at all, in {self._zone.key}")
        return early.astimezone(UTC)


def _between(number: int, least: int, most: int) -> int:
    if not least <= number <= most:
        raise ValueError(f"{number} is not between {least} and {most}")
    return number


def _number(value: Any) -> int | float | Decimal:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        raise ValueError(f"{value!r:.80} is not a number")
    return value


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, str):
        value.encode()  # or it has half of a character, as a text of JSON may
        return str(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    raise ValueError(f"{value!r:.80} is not a text")


def _bytes(value: Any) -> bytes:
    return value if isinstance(value, bytes) else _text(value).encode()


def _bool(value: Any) -> bool:
    if isinstance(value, str):
        value = {"true": True, "1": True, "false": False, "0": False}.get(value.lower() if value.isascii() else value)
    if not isinstance(value, int) or value not in (0, 1):
        raise ValueError(f"{value!r:.80} is neither true nor false")
    return bool(value)


def _iso(text: str) -> datetime:
    if not _ISO.fullmatch(text):  # Python alone takes other forms too, and cuts what is finer than a microsecond
        raise ValueError(f"{text!r:.80} is not an ISO 8601 date and time")
    return datetime.fromisoformat(text)


def _formatted(text: str, form: str) -> datetime:
    if any(sign.isdigit() and not sign.isascii() for sign in text):
        raise ValueError(f"{text!r:.80} has other digits than 0 to 9")
    value = datetime.strptime(text, form)  # noqa: DTZ007, as the zone is declared
    fields = time.strptime(text, form)
    if fields.tm_yday != value.timetuple().tm_yday:
        raise ValueError(f"{text!r:.80} has day 366 of a year of 365 days")
    if "%Z" in form.replace("%%", ""):
        if fields.tm_zone.lower() not in ("utc", "gmt"):  # Python knows the names of the machine's own zone too
            raise ValueError(f"{text!r:.80} names a zone that is neither UTC nor GMT")
        value = value.replace(tzinfo=UTC)
    return value


def digits(value: Any) -> str:
    """A number without an exponent, of a float the fewest digits that read back the same; the text of what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return str(value)
    return format(Decimal(repr(value)).normalize() if isinstance(value, float) else Decimal(value), "f")


def _with_decimal(text: str, reading: Reading) -> str:
    """A number of JSON, with the declared sign for its point; any other text as it is."""
    return text.replace(".", reading.decimal) if isinstance(text, NumberOfJson) else text


def _amounts(reading: Reading) -> list[tuple[re.Pattern, str]]:
    """The forms that an amount may have, each with the sign that it stands for; none if they are plain ones."""
    negative = reading.negative
    if reading.decimal == "." and not reading.thousands and not reading.currency and negative == "leading":
        return []
    return [(re.compile(form), sign) for form, sign in _forms(reading, negative)]


def _forms(reading: Reading, negative: str) -> Iterator[tuple[str, str]]:
    point = re.escape(reading.decimal)
    whole, grouped = "[0-9]+", {" ": "[ \u00a0\u2009\u202f]", "'": "['\u2019]"}
    if reading.thousands:
        separator = grouped.get(reading.thousands, re.escape(reading.thousands))
        whole = rf"[0-9]{{1,3}}(?:{separator}[0-9]{{2,3}})*{separator}[0-9]{{3}}|[0-9]+"
    power = r"(?P<power>(?:[eE][+-]?[0-9]+)?)"
    number = rf"(?=[0-9]|{point}[0-9])(?P<whole>(?:{whole})?)(?:{point}(?P<part>[0-9]*))?{power}"
    before = after = ""
    if reading.currency:
        before, after = rf"(?:{re.escape(reading.currency)}\s*)", rf"(?:\s*{re.escape(reading.currency)})"
    sign = "(?P<sign>[+-]?)"
    around = [(f"{before}?", ""), ("", f"{after}?")] if before else [("", "")]
    for first, last in around:
        yield rf"{sign}{first}{number}{last}", ""
        yield rf"{first}{sign}{number}{last}", ""
        if negative == "trailing":
            yield rf"{first}{number}-{last}", "-"
            yield rf"{first}{number}{last}-", "-"
        if negative == "parentheses":
            yield rf"\({first}{number}{last}\)", "-"
            yield rf"{first}\({number}\){last}", "-"
