"""What is said of transactions that are refused: which rows, what they hold, and what to declare.

Nothing here guesses or repairs a value. It looks at what was refused, and knows how people's files come to hold it.
"""

import codecs
import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import chain, product
from typing import NamedTuple

import pyarrow as pa

from parity.definition.instants import UTC_MICROSECONDS
from parity.definition.reading import WHITESPACE, Reading
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.transactions.texts import is_text, plain_texts
from parity.transactions.times import to_instants
from parity.transactions.values import INSTANTS

LONGEST_SHOWN = 80
MOST_COLUMNS_SHOWN = 20
ROWS_SHOWN = 3
ROWS_LOOKED_AT = 1000
VALUES_TRIED = 20
MOST_LINES_OF_A_FOOTER = 10
BYTES_LOOKED_AT = 4096
MOST_DIGITS_OF_A_PART = 18
"""Of a number of days and so on, behind the decimal point."""


class RefusedError(UserError):
    """Values of a file that are refused: the data is at fault, and not that it could not be looked at."""


def quoted(text: str) -> str:
    """Show a text from outside in quotes, cut if it is long, with a note of its length."""
    if len(text) <= LONGEST_SHOWN:
        return repr(text)
    return f"{text[:LONGEST_SHOWN]!r}... ({len(text):,} characters)"


def brief(message: object) -> str:
    """A message from outside, such as Arrow's, which may quote as much as it likes."""
    text = str(message)
    return text if len(text) <= 4 * LONGEST_SHOWN else f"{text[: 4 * LONGEST_SHOWN]}... ({len(text):,} characters)"


def shown(value: pa.Scalar) -> str:
    """Show a value of a column."""
    if not value.is_valid:
        return "null"
    if pa.types.is_string(value.type):
        return quoted(value.as_py())
    try:
        return str(value)
    except Exception:  # a timestamp that Python has no date or no time zone for
        return str(value.value)


class Column(NamedTuple):
    """A column to be read."""

    name: str
    to: pa.DataType | str
    """Its type, or `INSTANTS` for the timestamp."""
    sources: tuple[str, ...]
    """The columns of the file that it is read from: one, or those of a timestamp."""
    is_key: bool


class Failures(NamedTuple):
    """The values of a column that were refused: how many of how many, how many others were read, the first ones."""

    count: int
    total: int
    fine: int
    values: list[pa.Scalar]


def refusal(
    column: Column,
    failures: Failures,
    places: Sequence[str],
    expected: str,
    looked_at: Sequence[pa.Scalar],
    reading: Reading,
) -> str:
    """Say which values of a ``column`` are not what is ``expected``, in which ``places``, and what to declare."""
    first, *others = [shown(value) for value in failures.values]
    also = " nor ".join(f"{value} in {place}" for value, place in zip(others, places[1:], strict=True))
    return (
        f"{places[0]}: {column.name} {first} is not {expected}. {f'Nor is {also}. ' if also else ''}"
        f"{_counted(failures)} {advice(column, looked_at, reading, failures.fine >= failures.count)}"
    )


def null_refusal(column: Column, failures: Failures, places: Sequence[str], definition: Definition) -> str:
    """Say which values of a ``column`` are null and may not be, and how to leave those rows out."""
    name, condition = column.name, definition.condition
    where = f"{name} IS NOT NULL" if condition is None else f"({condition.text}) AND {name} IS NOT NULL"
    also = f", and so it is in {' and '.join(places[1:])}" if places[1:] else ""
    return (
        f"{places[0]}: {name} is null{also}. {_counted(failures)} A key, a timestamp and what features are made of "
        f'can\'t be null: fill it, or leave such rows out: where="{where}" in {definition.name}.'
    )


def looks_like_a_row(column: Column, text: str) -> bool:
    """Whether a text that is no value of the ``column`` is one all the same, written in another way."""
    if column.to == INSTANTS:
        return len(re.findall(r"\d", text)) >= 4
    return bool(re.search(r"\d", text)) and not re.search(r"[^\W\d_]{4,}", text)


def footer_advice(rows: Sequence[int], total: int) -> str:
    """Say what to declare if no others than the last rows of a text are refused, such as a total."""
    count = len(rows)
    if not count or count == total or count > MOST_LINES_OF_A_FOOTER or list(rows) != list(range(total - count, total)):
        return ""
    lines = "line is no row" if count == 1 else f"{count} lines are no rows"
    return f" If the last {lines}, declare skip_footer={count}."


def _counted(failures: Failures) -> str:
    return f"{failures.count:,} of {failures.total:,} rows {'is' if failures.count == 1 else 'are'} refused."


def expected(column: Column, reading: Reading, is_text: bool = True) -> str:
    """What a value of the ``column`` has to be."""
    to, form = column.to, reading.timestamp_format
    zone = f", which the clocks of {reading.time_zone} show once," if reading.time_zone else ""
    if to == INSTANTS and form is None:
        return f"an ISO 8601 date and time{zone} in the years 1 to 9999, no finer than a microsecond"
    if to == INSTANTS and reading.counts:
        return f"a number of {form} whose time{zone} is in the years 1 to 9999, no finer than a microsecond"
    if to == INSTANTS:
        return f"a date and time{zone} of the form {form!r}"
    if pa.types.is_integer(to):
        plainly = ", written plainly: 7, not 007, +7, 7.0 or 7 with blanks" if is_text and column.is_key else ""
        return f"a whole number that fits in {to.bit_width} bits{plainly}"
    if pa.types.is_floating(to):
        return "a finite number that a float64 can hold"
    if pa.types.is_boolean(to):
        return "true or false, nor 1 or 0"
    if to == UTC_MICROSECONDS:
        return "an ISO 8601 date and time in whole seconds"
    return "binary data" if pa.types.is_binary(to) else "text in UTF-8"


CORRECT_THEM = "Correct or remove those rows."


def advice(column: Column, values: Sequence[pa.Scalar], reading: Reading, most_are_fine: bool = False) -> str:
    """Say what to declare so that refused ``values`` are read, or how to correct them: the two commonest ways."""
    texts = [value.as_py() for value in values if is_text(value.type)]
    if len(texts) < len(values):
        return _advice_on_typed(column, values, reading, most_are_fine)
    if column.to == INSTANTS:
        return _advice_on_times(texts, reading, most_are_fine)
    if column.to == UTC_MICROSECONDS:
        return f"A key of type UNIX_TIMESTAMP is read as ISO 8601, such as {_ISO_EXAMPLE}, in whole seconds."
    kinds = Counter(help for text in texts for help in _helps(column, text, reading))
    return " ".join(help for help, _ in kinds.most_common(2)) or CORRECT_THEM


def _helps(column: Column, text: str, reading: Reading) -> list[str]:
    text = text[: 4 * LONGEST_SHOWN]
    if re.fullmatch(_NOTHING, text):
        return [_if_null(text)]
    if pa.types.is_boolean(column.to):
        return [_as_text(column)]
    if any(sign.isdecimal() and not sign.isascii() for sign in text):
        return ["Write numbers with the digits 0 to 9."]
    if pa.types.is_integer(column.to):
        return _helps_with_whole_number(column, text, reading)
    return _helps_with_amount(column, text, reading)


_BLANKS = r"[\s\x1c-\x1f\x85\u00a0\u2000-\u200b\u202f\u3000\ufeff]"
_NOTHING = r"(?i)\s*(|null|na|n/a|nan|none|nil|-|\\n|#n/a|#div/0!|#value!|#ref!|#name\?|#num!|#null!)\s*"
_SEPARATORS_OF_THOUSANDS = r",.' \u2019\u00a0\u2009\u202f_"


def _if_null(text: str) -> str:
    return f"If {quoted(text)} stands for a missing value, declare null_values=[{_literal(text)}]."


def _as_text(column: Column) -> str:
    if column.is_key:
        return (
            f"If these ids are texts, declare them so: Entity(..., join_keys=[{_literal(column.name)}], "
            "value_type=ValueType.STRING)."
        )
    return f"If these are texts, declare them so in schema: Field(name={_literal(column.name)}, dtype=String)."


def _as_float(column: Column) -> str:
    return f"If these are not whole, declare Field(name={_literal(column.name)}, dtype=Float64) in schema."


def _literal(text: str) -> str:
    """A text as Python has it, in double quotes where that is as short."""
    return f'"{text}"' if text.isprintable() and not {'"', "\\"} & set(text) else repr(text)


def _helps_with_whole_number(column: Column, text: str, reading: Reading) -> list[str]:
    point = re.escape(reading.decimal)
    if re.fullmatch(rf"{_BLANKS}+-?\d+{_BLANKS}*|-?\d+{_BLANKS}+", text, re.ASCII):
        return [f"Leave out blanks around ids, inside of quotes too. {_as_text(column)}"]
    if re.fullmatch(r"-?[1-9]\d*", text, re.ASCII):
        if pa.types.is_int32(column.to) and abs(int(text)) < 2**63:
            wider = (
                "value_type=ValueType.INT64" if column.is_key else f"Field(name={_literal(column.name)}, dtype=Int64)"
            )
            return [f"Numbers beyond 32 bits: declare {wider}."]
        return [f"Numbers beyond 64 bits can be read as texts only. {_as_text(column)}"]
    if re.fullmatch(r"\s*[+-]?\d+\s*", text, re.ASCII):
        return [
            f"Write each in one way only, without a sign or leading zeros, as 007 and 7 may be two. {_as_text(column)}"
        ]
    if re.fullmatch(rf"-?\d+{point}0+", text, re.ASCII):
        return [f"If {text} is a whole number, as some programs write them, declare whole_with_point=True."]
    if column.is_key:
        return [_as_text(column)]
    helps = _helps_with_amount(column, text, reading)
    if re.search(rf"{point}\d*[1-9]", text) or re.fullmatch(r"\s*[+-]?[\d.]+[eE][+-]?\d+\s*", text, re.ASCII):
        helps.insert(0, _as_float(column))
    return helps or [_as_text(column)]


def _helps_with_amount(column: Column, text: str, reading: Reading) -> list[str]:
    """What to declare so that an amount is read; each of it may be needed."""
    helps = []
    number = text.strip()
    if sign := _currency(number):
        if sign != reading.currency:
            helps.append(f"If {sign} is a currency or a unit, declare currency={_literal(sign)}.")
        number = number.replace(sign, "").strip()
    if "%" in number:
        helps.append("Write amounts without a percent sign.")
    if re.fullmatch(r"\(.*\)", number):
        helps.append('If (5.00) is -5.00, declare negative="parentheses".')
    elif re.fullmatch(r".*\d\s*[-\u2212]", number):
        helps.append('If 5.00- is -5.00, declare negative="trailing".')
    elif number.startswith("\u2212"):
        helps.append("Write what is negative with a minus sign, such as -5.00.")
    if separated := _separators(number.strip("()+-\u2212 "), reading):
        helps.append(f"If {number.strip()} is written so, declare {separated}.")
    if (
        not helps
        and re.search(r"[^\W\d_]", text)
        and not re.fullmatch(r"(?i)[+-]?(inf|infinity|[\d.]+e[+-]?\d+)", number)
    ):
        helps.append(_as_text(column))
    return helps


def _currency(text: str) -> str | None:
    """What stands before or after a number and may be a currency."""
    sign = r"([^\d\s()+.,'\u2019%\u2212_-]{1,5})"
    before = re.fullmatch(rf"[(+-]*\s*{sign}\s*[(+-]*[\d.,].*", text)
    after = re.fullmatch(rf"[(+-]*[\d.,].*?\s*{sign}[)-]*", text)
    found = before or after
    return found[1] if found and found[1].isprintable() and not re.fullmatch(r"(?i)e|0?x.*", found[1]) else None


def _separators(number: str, reading: Reading) -> str | None:
    """What separates digits in a number, as it has to be declared."""
    between = f"[{_SEPARATORS_OF_THOUSANDS}]"
    if found := re.fullmatch(rf"\d{{1,3}}(?:({between})\d{{2,3}})*({between})\d{{3}}(?:([.,])\d*)?", number, re.ASCII):
        first, last, decimal = found.groups()
        if (first in (None, last)) and decimal != last:
            options = [f"thousands={_literal(' ' if last.isspace() else last)}"]
            if decimal is not None and decimal != reading.decimal:
                options.append(f"decimal={_literal(decimal)}")
            elif last == reading.decimal:
                options.append(f"decimal={_literal(',' if last == '.' else '.')}")
            either = f", or decimal={_literal(last)} if it is less than a thousand"
            return ", ".join(options) + (either if decimal is None and first is None and last in ",." else "")
    if found := re.fullmatch(r"\d*([.,])\d+", number, re.ASCII):
        return f"decimal={_literal(found[1])}" if found[1] != reading.decimal else None
    return None


_ISO_EXAMPLE = "2010-12-01T08:26:00Z"
ISO = f"Write each as ISO 8601, such as {_ISO_EXAMPLE}."
_COUNTS = [
    (r"-?\d{9,10}([.,]\d*)?", "seconds since 1970", 'timestamp_format="seconds"'),
    (r"-?\d{12,13}([.,]\d*)?", "milliseconds since 1970", 'timestamp_format="milliseconds"'),
    (r"-?\d{15,16}([.,]\d*)?", "microseconds since 1970", 'timestamp_format="microseconds"'),
    (r"-?\d{18,19}", "nanoseconds since 1970", 'timestamp_format="nanoseconds"'),
    (
        r"\d{5}([.,]\d+)?",
        "numbers of days",
        'timestamp_format="days", origin="1899-12-30" if a spreadsheet counts them, and without the origin if they '
        "are days since 1970",
    ),
    (
        r"\d{1,4}([.,]\d+)?",
        "numbers of hours or days since a certain time",
        'timestamp_format="hours" (or one of days, minutes, seconds) and that time as origin="2020-01-01"',
    ),
]
_DATES = [
    *["%Y-%m-%d", "%d.%m.%Y", "%d.%m.%y", "%m/%d/%Y", "%d/%m/%Y", "%m/%d/%y", "%d/%m/%y", "%Y/%m/%d", "%Y.%m.%d"],
    *["%d-%m-%Y", "%m-%d-%Y", "%Y%m%d", "%d-%b-%Y", "%d-%b-%y", "%d/%b/%Y", "%d/%b/%y", "%d %b %Y", "%d %B %Y"],
    *["%b %d, %Y", "%B %d, %Y", "%a, %d %b %Y", "%b %d %Y", "%d %m %Y", "%Y %m %d"],
]
_CLOCKS = ["", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %H:%M:%S,%f", " %I:%M %p", " %I:%M:%S %p", " %I:%M%p"]
_CLOCKS += [" %I %p", " %I%p", ", %I:%M %p", ", %I:%M:%S %p", "-%H.%M.%S", "-%H.%M.%S.%f", " %H.%M.%S", "T%H%M%S"]
_CLOCKS += ["T%H:%M", "T%H:%M:%S", "T%H:%M:%S.%f", ":%H:%M:%S", ", %H:%M", ", %H:%M:%S", " %H.%M", " %H%M%S", "%H%M%S"]
_ENDS = ["", " %Z", " %z", "%z"]
_OTHERS = ["%a %b %d %H:%M:%S %Z %Y", "%a %b %d %H:%M:%S %Y", "%a %b %d %H:%M:%S %z %Y", "%H:%M:%S %d.%m.%Y", "%B %Y"]


def _advice_on_times(texts: Sequence[str], reading: Reading, most_are_fine: bool = False) -> str:
    if nothing := next((text for text in texts if re.fullmatch(_NOTHING, text)), None):
        return _if_null(nothing)
    tried = pa.array([text[:LONGEST_SHOWN] for text in dict.fromkeys(texts)][:VALUES_TRIED])
    if reading.time_zone and _are_read(tried, replace(reading, time_zone=None)):
        help = "write them with an offset" if reading.timestamp_format is None else "correct or remove those rows"
        return f"The clocks of {reading.time_zone} skip these times, or show them twice: {help}."
    stripped = pa.array([text.as_py().strip() for text in tried])
    if _are_read(stripped, replace(reading, time_zone=None)):
        return "Leave out blanks around the time."
    if reading.counts and (told := _advice_on_counts(tried.to_pylist(), reading)):
        return told
    if all(re.search(r":\d\d[.,]\d{7,}", text.as_py()) for text in tried):
        return f"Cut the times to microseconds, six digits. {ISO if reading.timestamp_format is None else ''}".rstrip()
    if most_are_fine and reading.timestamp_format is not None:
        return f"{CORRECT_THEM} The others are written as declared."
    if most_are_fine:
        return f"{CORRECT_THEM} The others are ISO 8601, such as {_ISO_EXAMPLE}."
    if reading.timestamp_format is not None and _are_read(tried, Reading()):
        return "These are ISO 8601: leave out timestamp_format."
    return _advice_on_form(tried, stripped)


def _are_read(texts: pa.Array, reading: Reading) -> bool:
    return not to_instants(texts, reading).null_count


def _advice_on_counts(texts: Sequence[str], reading: Reading) -> str | None:
    """What is wrong with numbers of the declared unit that are finer than can be told."""
    unit, point = reading.timestamp_format, re.escape(reading.decimal)
    found = [re.fullmatch(rf"[+-]?\d+{point}(\d+)", text, re.ASCII) for text in texts]
    if unit == "nanoseconds" and all(re.fullmatch(rf"[+-]?\d+({point}\d*)?", text, re.ASCII) for text in texts):
        return "Cut them to microseconds: the last three digits of nanoseconds have to be zeros."
    if not all(found):
        return None
    most = {"seconds": 6, "milliseconds": 3, "microseconds": 0}.get(unit, MOST_DIGITS_OF_A_PART)
    if all(len(one[1].rstrip("0") if most < MOST_DIGITS_OF_A_PART else one[1]) > most for one in found):
        return f"Cut them to {most} digits behind the {reading.decimal!r}; no more are taken."
    return None


def _advice_on_form(tried: pa.Array, stripped: pa.Array) -> str:
    """What to declare so that these texts are read, if all of the column are like them."""
    for pattern, what, declared in _COUNTS:
        if all(re.fullmatch(pattern, text.as_py(), re.ASCII) for text in tried):
            return f"These look like {what}: declare {declared}."
    if formats := _formats(tried):
        swapped = formats[0].translate(str.maketrans("dm", "md"))
        other = f' (or "{swapped}", if the day comes first)' if swapped in formats and swapped != formats[0] else ""
        return f'Declare how these are written: timestamp_format="{formats[0]}"{other}.'
    if all(re.search(r"\d:\d\d.*\s[(\[]?(?![AaPp][Mm]\b)[A-Za-z][\w/+-]+[)\]]?$", text.as_py()) for text in tried):
        return (
            "Write an offset such as +01:00 instead of the name of a zone; or leave it out, and declare the time_zone, "
            'such as "Europe/Berlin", and what is left as timestamp_format.'
        )
    if _are_read(stripped, Reading()):
        return f"Leave out blanks around the time. {ISO}"
    if any(re.match(r"\d{4}-\d\d-\d\d", text.as_py()) for text in tried):
        return CORRECT_THEM
    return f'{ISO} Or declare how these are written: timestamp_format="%d.%m.%Y %H:%M", say.'


def _formats(texts: pa.Array) -> list[str]:
    """The formats that take all of some texts; of those with the day before the month, after those without."""
    shape = re.sub(r"\d", "0", texts[0].as_py())
    found = []
    usual = (f"{date}{clock}{end}" for date, clock, end in product(_DATES, _CLOCKS, _ENDS) if clock or not end)
    for form in chain(usual, _OTHERS):
        if _may_fit(form, shape) and not to_instants(texts, Reading(timestamp_format=form)).null_count:
            found.append(form)
    return found


def _may_fit(form: str, shape: str) -> bool:
    """Whether a text of this shape has the signs between its fields that the format has."""
    return all(sign in shape for sign in re.sub(r"%[A-Za-z]", "", form).strip())


def _advice_on_typed(column: Column, values: Sequence[pa.Scalar], reading: Reading, most_are_fine: bool) -> str:
    """Say what would help with values of a Parquet file that are no texts."""
    value = values[0]
    if pa.types.is_timestamp(value.type) and value.type.unit == "ns" and value.value % 1000:
        return "Cut the column to microseconds."
    if column.to == INSTANTS and not (pa.types.is_timestamp(value.type) or pa.types.is_date(value.type)):
        digits = plain_texts(pa.array([one.as_py() for one in values], value.type), reading)
        return _advice_on_times(digits.fill_null("NaN").to_pylist(), reading, most_are_fine)
    if pa.types.is_floating(value.type) and pa.types.is_integer(column.to) and not column.is_key:
        return _as_float(column)
    if pa.types.is_floating(value.type) and not pa.types.is_floating(column.to):
        return "A number that has become a float may not be the one that it was: write the column as whole numbers."
    return CORRECT_THEM


def type_advice(column: Column, found: pa.DataType) -> str:
    """Say what would help with a Parquet column of the type ``found`` that should be another."""
    counts = pa.types.is_integer(found) or pa.types.is_floating(found) or pa.types.is_decimal(found)
    if column.to == INSTANTS:
        if counts:
            return 'If it counts time since 1970, declare timestamp_format="seconds", or milliseconds and so on.'
        return "Write it as a timestamp in UTC."
    if pa.types.is_integer(column.to) and counts:
        return (
            "Write it as int64, as what has become a float may not be the number that it was; or, if all are whole, "
            f"declare whole_with_point=True. {'' if column.is_key else _as_float(column)}"
        ).rstrip()
    return f"Write it as {column.to}, or declare it as another type."


_LINE_END = r"\r\n?|\n"


def broken_quote(lines: Sequence[tuple[int, str]], delimiter: str, quote: str) -> tuple[int, str] | None:
    """Say in which line the first quote opens that is not closed at the end of its value, and what to do.

    ``lines`` are those of a row and of all that follows it, with their numbers.
    """
    rows, numbers = "".join(line for _, line in lines), [number for number, _ in lines]
    d, q = re.escape(delimiter), re.escape(quote)
    between = re.compile(rf"{q}[^{q}]*(?:{q}{q}[^{q}]*)*+{q}")
    sound = re.compile(rf"{between.pattern}(?=[{d}\r\n]|\Z)|(?!{q})[^{d}\r\n]*")
    start = 0
    while start <= len(rows) and (value := sound.match(rows, start)):
        start = value.end() + 1
    if start > len(rows):
        return None

    def line_of(position: int) -> int:
        return numbers[min(len(re.findall(_LINE_END, rows[:position])), len(numbers) - 1)]

    opens = line_of(start)
    shown = quoted(re.split(_LINE_END, rows[start:], maxsplit=1)[0])
    if closed := between.match(rows, start):
        closes = line_of(closed.end())
        told = f"the quote that opens here, {shown}, is closed in line {closes}, but text follows it there."
    else:
        last = line_of(len(rows.rstrip("\r\n")))
        told = f"the quote that opens here, {shown}, is not closed: all that follows, up to line {last}, is inside it."
    return opens, (
        f"{told} Close it at the end of the value, right before the delimiter or the end of the line, and write each "
        'quote inside as two: "5"" tv". If the file was cut off, get all of it. If it has no quotes, declare quote="".'
    )


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars", ",": "commas"}
_SIGNATURES = {
    b"\x1f\x8b": "it is compressed by gzip. Give it a name that ends in .gz, such as orders.csv.gz",
    b"BZh": "it is compressed by bzip2. Give it a name that ends in .bz2, such as orders.csv.bz2",
    b"\xfd7zXZ": "it is compressed by xz. Give it a name that ends in .xz, such as orders.csv.xz",
    b"(\xb5/\xfd": "it is compressed by Zstandard. Give it a name that ends in .zst, such as orders.csv.zst",
    b"PK\x03\x04": "it is a ZIP archive, as an Excel workbook is one too. Unpack it, or save the sheet as CSV",
    b"\xd0\xcf\x11\xe0": "it is an Excel workbook. Save the sheet as CSV",
    b"PAR1": "it is a Parquet file. Give it a name that ends in .parquet",
}
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def other_format(start: bytes, encoding: str) -> str | None:
    """Say what a file is that begins with the bytes ``start``, and what to do, if that is no text in ``encoding``."""
    for signature, what in _SIGNATURES.items():
        if start.startswith(signature):
            return f"this is not a text file: {what}."
    if codecs.lookup(encoding).name not in ("utf-8", "utf-8-sig", "ascii"):
        return None
    for mark, found in _ENCODINGS.items():
        if start.startswith(mark):
            return encoding_advice(found)
    start = start[:BYTES_LOOKED_AT]
    if start.count(0) * 3 > len(start):
        return encoding_advice("utf-16-le" if start[1::2].count(0) > start[::2].count(0) else "utf-16-be")
    return None


def encoding_advice(encoding: str) -> str:
    return f'The file seems to be in {encoding}, and not in UTF-8: declare encoding="{encoding}".'


def advice_on_bytes(block: bytes) -> str:
    """Say what text may be in that is not UTF-8, which no bytes can tell for certain."""
    runs = re.findall(rb"[\x80-\xff]+", block)
    others = "such as shift_jis, gbk, euc-kr, big5, cp1251 or iso8859-2"
    if sum(len(run) > 1 for run in runs) * 2 > len(runs):  # Western letters with accents mostly stand alone
        return f"Declare the encoding that it was written in, {others}."
    windows = any(0x80 <= byte <= 0x9F for byte in set(block))
    western = "cp1252" if windows else "latin-1"
    return f'If it is Western European text, declare encoding="{western}"; if not, the one it was written in, {others}.'


def names_shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_COLUMNS_SHOWN:,} more" if len(names) > MOST_COLUMNS_SHOWN else ""
    return ", ".join(map(quoted, names[:MOST_COLUMNS_SHOWN])) + more


def header_advice(
    names: Sequence[str],
    wanted: Sequence[str],
    columns: Sequence[Column],
    reading: Reading,
    lines: Callable[[], list[str]],
) -> str:
    """Say what to declare so that the columns ``wanted`` are found, of which a header of ``names`` lacks some.

    ``lines`` gives the first lines of the file, for text with columns.
    """
    missing = [name for name in wanted if name not in names]
    alike = {name: other for name in missing for other in names if _folded(other) == _folded(name)}
    if alike:
        return f"Names have to be the same to the letter. {_mapping(missing, alike, columns)}"
    first = [] if reading.column_names else lines()
    if first and (told := _advice_on_lines(names, wanted, first)):
        return told
    return _mapping(missing, alike, columns)


def _advice_on_lines(names: Sequence[str], wanted: Sequence[str], first: Sequence[str]) -> str:
    for number, line in enumerate(first, 1):
        for separator in _SEPARATORS:
            if set(map(_folded, wanted)) <= set(map(_folded, _split(line, separator))):
                return _misplaced(number, separator, first)
    line = next(filter(str.strip, first), "")
    if line.startswith(("#", "//", "--", "%")):
        return f'The first line seems to be a comment: declare comment="{line[: 1 if line[0] in "#%" else 2]}".'
    if line.lstrip().startswith(("{", "[", "<")):
        return "This does not look like CSV, but like JSON or a web page; JSON has a name that ends in .json or .jsonl."
    if line.count(",") == 0:
        for separator, what in _SEPARATORS.items():
            if line.count(separator) >= len(names):
                return f"The columns seem to be separated by {what}: declare delimiter={_literal_delimiter(separator)}."
    no_header = any(re.fullmatch(r"\s*[+-]?\d[\d.:/ T-]*Z?\s*", name) for name in names)
    if len(names) == 1 and len(line.split()) >= len(wanted):
        told = f'The columns seem to be separated by blanks: declare delimiter="{WHITESPACE}"'
        return f"{told}, and column_names=[...], as there is no header." if no_header else f"{told}."
    if no_header:
        return (
            "The first line seems to hold values. If there is no header, declare the names of all columns, in order: "
            f"column_names=[{', '.join(map(_literal, wanted))}, ...]."
        )
    return ""


def _literal_delimiter(separator: str) -> str:
    return repr(separator).replace("'", '"')


def _misplaced(number: int, separator: str, first: Sequence[str]) -> str:
    steps = []
    if number > 1:
        above = [line for line in first[: number - 1] if line.strip()]
        are_comments = above and all(line.startswith("#") for line in above)
        option = 'comment="#"' if are_comments else f"skip_rows={number - 1}"
        steps.append(f"Line {number} names the columns: declare {option}.")
    if separator != ",":
        told = f"The columns seem to be separated by {_SEPARATORS[separator]}"
        steps.append(f"{told}: declare delimiter={_literal_delimiter(separator)}.")
    return " ".join(steps)


def _mapping(missing: Sequence[str], alike: dict[str, str], columns: Sequence[Column]) -> str:
    """What to write so that columns are found under the names that the file has for them."""
    times = {source for column in columns if column.to == INSTANTS for source in column.sources}
    called = {column.sources[0]: column.name for column in columns if column.to != INSTANTS}
    renamed = ", ".join(
        f"{_literal(brief(alike.get(name, '...')))}: {_literal(called[name])}" for name in missing if name not in times
    )
    told = []
    if renamed:
        told.append(f"If it has another name, declare field_mapping={{{renamed}}}.")
    if any(name in times for name in missing):
        found = next((alike[name] for name in missing if name in times and name in alike), "...")
        told.append(
            f"Name the column that has the time of a row: timestamp_field={_literal(brief(found))}, or several: "
            "timestamp_columns=[...]; without one nothing can be computed."
        )
    return " ".join(told)


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _folded(name: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFKC", name).casefold() if sign.isalnum())
