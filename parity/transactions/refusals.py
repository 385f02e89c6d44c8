"""What is said of transactions that are refused: which rows, what they hold, and what would help.

Nothing here guesses or repairs a value. It looks at what was refused, and knows how people's files come to hold it.
"""

import codecs
import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

LONGEST_SHOWN = 80
MOST_COLUMNS_SHOWN = 20
ROWS_SHOWN = 3
ROWS_LOOKED_AT = 1000
LINES_LOOKED_AT = 20
BYTES_LOOKED_AT = 4096


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


class Failures(NamedTuple):
    """The values of a column that were refused: how many of how many, and the first ones."""

    count: int
    total: int
    values: list[pa.Scalar]


def refusal(name: str, failures: Failures, places: Sequence[str], expected: str, advice: str) -> str:
    """Say which values of the column ``name`` are not what is ``expected``; ``places`` are their places."""
    first, *others = [shown(value) for value in failures.values]
    told = f"{places[0]}: {name} {first} is not {expected}."
    if not others:
        return f"{told} Correct or remove that row."
    also = " nor ".join(f"{value} in {place}" for value, place in zip(others, places[1:], strict=True))
    return f"{told} Nor is {also}: {failures.count:,} of {failures.total:,} rows are refused. {advice}"


class _Kind(NamedTuple):
    """A way of writing values that is not taken: how to know it, and what would help."""

    pattern: str
    advice: str


_BLANKS = r"[\s\x1c-\x1f\x85\u00a0\u2000-\u200b\u202f\u3000\ufeff]"
_NOTHING = r"(?i)\s*(|null|na|n/a|nan|none|nil|-|\\n)\s*"
ISO = "Write each as ISO 8601, such as 2010-12-01T08:26:00Z."
_TEXT_IDS = "Text ids are not supported yet; ids have to be whole numbers: give each user a number, and write that."
CORRECT_THEM = "Correct or remove those rows."
_DAY, _TIME = r"\d{4}-\d{1,2}-\d{1,2}", r"[T ]\d{1,2}:\d{1,2}(:\d{1,2}([.,]\d+)?)?"

_IDS = [
    _Kind(_NOTHING, "Purchases without a user can't be used: give each its user, or remove those rows."),
    _Kind(rf"{_BLANKS}+-?\d+{_BLANKS}*|-?\d+{_BLANKS}+", "Leave out blanks around ids, inside of quotes too."),
    _Kind(r"\s*-?[1-9]\d{18,}\s*", "Ids beyond 64 bits are not supported yet: number the users anew."),
    _Kind(
        r"\s*[+-]?\d+\s*",
        "Write each id in one way only, without a sign or leading zeros. If 007 and 7 are two users, these are text "
        "ids, which are not supported yet; ids have to be whole numbers.",
    ),
    _Kind(
        r"\s*[+-]?\d+(\.\d*)?([eE][+-]?\d+)?\s*",
        "Ids have to be whole numbers, written as 17001 and not as 17001.0, which some programs make of a column "
        "in which ids are missing.",
    ),
    _Kind(r"\s*0[xX][0-9a-fA-F]+\s*", "Write ids as decimal numbers."),
    _Kind(r"\s*[+-]?\d{1,3}([,.' \u00a0\u2009\u202f_]\d{3})+\s*", "Write ids without separators of thousands."),
    _Kind(r".*", _TEXT_IDS),
]
_AMOUNTS = [
    _Kind(_NOTHING, "Purchases without an amount can't be used: write each amount, or remove those rows."),
    _Kind(
        r"(?i)(?!\s*[+-]?(inf|infinity|[\d.]+e[+-]?\d+)\s*$)(.*[^\W\d_].*|.*[\u0024\u00a2-\u00a5\u058f\u060b\u0e3f\u20a0-\u20cf].*)",
        "Write amounts without a currency sign or a unit, such as 134.09 and not $134.09.",
    ),
    _Kind(r".*\(.*\).*|.*\d\s*[-\u2212]\s*|\s*\u2212.*", "Write what is negative with a minus sign, such as -5.00."),
    _Kind(r".*%.*", "Write amounts without a percent sign."),
    _Kind(r"\D*\d+,(\d{1,2}|\d{4,})\D*", "Write amounts with a decimal point, such as 0.25 and not 0,25."),
    _Kind(
        r"\D*\d{1,3}([,.'\u2019 \u00a0\u2009\u202f_]\d{2,3})*[,.'\u2019 \u00a0\u2009\u202f_]\d{3}([.,]\d*)?\D*",
        "Write amounts without separators of thousands and with a decimal point, such as 1234.56 and not 1,234.56 "
        "or 1.234,56.",
    ),
]
_TIMES = [
    _Kind(_NOTHING, "Purchases without a time can't be used: give each its time, or remove those rows."),
    _Kind(r"-?\d{9,10}(\.\d*)?", f"These look like seconds since 1970. {ISO}"),
    _Kind(r"-?\d{12,13}(\.\d*)?", f"These look like milliseconds since 1970. {ISO}"),
    _Kind(r"-?\d{15,16}(\.\d*)?", f"These look like microseconds since 1970. {ISO}"),
    _Kind(r"-?\d{18,19}", f"These look like nanoseconds since 1970. {ISO}"),
    _Kind(r"\d{8}([T ]?\d{4,6}(\.\d+)?(Z|[+-]\d\d:?\d\d)?)?", f"Write dates with hyphens and times with colons. {ISO}"),
    _Kind(r"\d{1,5}([.,]\d+)?", f"These look like numbers of days, as a spreadsheet counts them. {ISO}"),
    _Kind(r"(?i).*\d\s*[ap]\.?m\.?.*", f"Write hours from 00 to 23, without AM or PM. {ISO}"),
    _Kind(r"\s*\d{4}/.*", f"Write dates with hyphens. {ISO}"),
    _Kind(r".*\d\s*/\s*\w+\s*/\s*\d.*", f"Day and month can't be told apart in dates with slashes. {ISO}"),
    _Kind(r"\s*\d{1,4}\.\s*\d{1,2}\.\s*\d{1,4}.*", f"Dates with dots are not taken. {ISO}"),
    _Kind(r"\s*\d{1,2}-\d{1,2}-\d{2,4}\b.*", f"The year has to come first, then month and day. {ISO}"),
    _Kind(
        rf"{_DAY}{_TIME}\S*?\s*[(\[]?[A-Za-z][\w/+-]+[)\]]?",
        "Write Z right after the time where it says UTC, and an offset such as +01:00 instead of the name of another "
        f"zone. {ISO}",
    ),
    _Kind(rf"{_DAY}{_TIME}\s+[+-]\d\d:?\d\d", f"Leave no blank before the offset. {ISO}"),
    _Kind(r"(?i).*(jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec).*", f"Write months as numbers. {ISO}"),
    _Kind(rf"{_DAY}[T ][\d:]+\.\d{{7,}}.*", f"Cut the times to microseconds, six digits. {ISO}"),
    _Kind(rf"{_DAY}[T ][\d:]+,\d+.*", f"Write fractions of a second with a point. {ISO}"),
    _Kind(
        rf"(?!\d{{4}}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d)?)?\D*$){_DAY}([T ]\d{{1,2}}(:\d{{1,2}})*)?.*",
        f"Write months, days, hours, minutes and seconds with two digits. {ISO}",
    ),
    _Kind(rf"\s+.*|.*\s+|{_DAY}t.*|.*z", f"Leave out blanks around the time, and write T and Z as capitals. {ISO}"),
    _Kind(rf"(?!{_DAY}).*", ISO),
]


def advice(to: pa.DataType, values: Iterable[pa.Scalar]) -> str:
    """Say what would help with refused ``values``, which should be of the type ``to``: with the two commonest kinds."""
    kinds = Counter(help for value in values for help in _helps(to, value))
    return " ".join(help for help, _ in kinds.most_common(2)) or CORRECT_THEM


def _helps(to: pa.DataType, value: pa.Scalar) -> list[str]:
    nothing, *others = kinds = _IDS if to == pa.int64() else _AMOUNTS if to == pa.float64() else _TIMES
    if pa.types.is_string(value.type):
        return _helps_with_text(kinds, value.as_py()[: 4 * LONGEST_SHOWN])
    if not value.is_valid or (pa.types.is_floating(value.type) and value.as_py() != value.as_py()):
        return [nothing.advice]
    if pa.types.is_timestamp(value.type) and value.type.unit == "ns" and value.value % 1000:
        return ["Cut the column to microseconds."]
    return [others[0].advice] if kinds is _IDS else []


def _helps_with_text(kinds: list[_Kind], text: str) -> list[str]:
    if kinds is not _TIMES and any(sign.isdecimal() and not sign.isascii() for sign in text):
        return ["Write numbers with the digits 0 to 9."]
    if re.fullmatch(_NOTHING, text):
        return [kinds[0].advice]
    found = [kind.advice for kind in kinds if re.fullmatch(kind.pattern, text, re.ASCII | re.DOTALL)]
    return found if kinds is _AMOUNTS else found[:1]  # an amount may have a currency and a decimal comma


def type_advice(to: pa.DataType, found: pa.DataType) -> str:
    """Say what would help with a Parquet column of the type ``found`` that should be of the type ``to``."""
    text = pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found)
    counts = pa.types.is_integer(found) or pa.types.is_floating(found)
    if to == pa.int64() and (text or pa.types.is_dictionary(found)):
        return _TEXT_IDS
    if to == pa.int64() and (pa.types.is_floating(found) or pa.types.is_decimal(found)):
        return "Write the ids as int64; what has become a float may not be the id that it was."
    if pa.types.is_timestamp(to) and counts:
        return "If it counts time since 1970, write it as a timestamp in UTC."
    return f"Write it as {to}."


_QUOTED = r'"[^"]*(?:""[^"]*)*+"'
_VALUE = re.compile(rf'{_QUOTED}(?=[,\r\n]|\Z)|(?!")[^,\r\n]*')
_LINE_END = r"\r\n?|\n"


def broken_quote(rows: str, line: int) -> tuple[int, str] | None:
    """Say in which line the first quote of ``rows`` opens that is not closed at the end of its value, and what to do.

    ``rows`` are text of a CSV file that starts in the line ``line``.
    """
    start = 0
    while start <= len(rows) and (value := _VALUE.match(rows, start)):
        start = value.end() + 1
    if start > len(rows):
        return None
    opens = line + len(re.findall(_LINE_END, rows[:start]))
    shown = quoted(re.split(_LINE_END, rows[start:], maxsplit=1)[0])
    if closed := re.compile(_QUOTED).match(rows, start):
        closes = opens + len(re.findall(_LINE_END, closed[0]))
        told = f"the quote that opens here, {shown}, is closed in line {closes}, but text follows it there."
    else:
        last = opens + len(re.findall(_LINE_END, rows[start:].rstrip("\r\n")))
        told = f"the quote that opens here, {shown}, is not closed: all that follows, up to line {last}, is inside it."
    return opens, (
        f"{told} Close it at the end of the value, right before the comma or the end of the line, and write each quote "
        'inside as two: "5"" tv". If the file was cut off, get all of it.'
    )


_SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SIGNATURES = {
    b"\x1f\x8b": "it is compressed by gzip. Unpack it: gunzip",
    b"BZh": "it is compressed by bzip2. Unpack it: bunzip2",
    b"\xfd7zXZ": "it is compressed by xz. Unpack it: unxz",
    b"(\xb5/\xfd": "it is compressed by Zstandard. Unpack it: unzstd",
    b"PK\x03\x04": "it is a ZIP archive, as an Excel workbook is one too. Unpack it, or save the sheet as CSV in UTF-8",
    b"\xd0\xcf\x11\xe0": "it is an Excel workbook. Save the sheet as CSV in UTF-8",
    b"PAR1": "it is a Parquet file. Give it a name that ends in .parquet",
}
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def other_format(start: bytes) -> str | None:
    """Say what a file is that begins with the bytes ``start``, and what to do with it, if that is no text in UTF-8."""
    for signature, what in _SIGNATURES.items():
        if start.startswith(signature):
            return f"this is not a CSV file: {what}."
    for mark, encoding in _ENCODINGS.items():
        if start.startswith(mark):
            return f"the file is in {encoding}, not in UTF-8. {convert_from(encoding)}"
    start = start[:BYTES_LOOKED_AT]
    if start.count(0) * 3 > len(start):
        encoding = "UTF-16LE" if start[1::2].count(0) > start[::2].count(0) else "UTF-16BE"
        return f"the file seems to be in {encoding}, not in UTF-8. {convert_from(encoding)}"
    return None


def convert_from(encoding: str) -> str:
    return f"Convert it: iconv -f {encoding} -t UTF-8 FILE > NEW_FILE"


def single_byte_encoding(block: bytes) -> str:
    """Guess which of the two usual encodings of Western text with a byte a letter is that of ``block``."""
    has_windows_signs = any(0x80 <= byte <= 0x9F for byte in set(block))
    return "CP1252" if has_windows_signs else "ISO-8859-1"


def names_shown(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_COLUMNS_SHOWN:,} more" if len(names) > MOST_COLUMNS_SHOWN else ""
    return ", ".join(map(quoted, names[:MOST_COLUMNS_SHOWN])) + more


def header_advice(names: Sequence[str], wanted: Sequence[str], lines: Callable[[], list[str]]) -> str:
    """Say what may be the matter with a header of ``names`` that lacks some of ``wanted``, or nothing.

    ``lines`` gives the first lines of the file, for a CSV file.
    """
    missing = [name for name in wanted if name not in names]
    alike = [(other, name) for name in missing for other in names if _folded(other) == _folded(name)]
    if alike:
        renamed = ", ".join(f"{quoted(other)} to {name}" for other, name in alike)
        return f"Names have to be the same to the letter: rename {renamed}."
    first = lines()
    for number, line in enumerate(first, 1):
        for separator in [",", *_SEPARATORS]:
            if set(map(_folded, wanted)) <= set(map(_folded, _split(line, separator))):
                return _misplaced(number, separator)
    line = next(filter(str.strip, first), "")
    if not line:
        return ""
    if line.lstrip(' "').lower().startswith("sep="):
        return f"The first line, {quoted(line)}, is a note for a spreadsheet. Remove it, and separate by commas."
    if line.startswith(("#", "//", "--", "%")):
        return "The first line seems to be a comment. Remove it: the first line has to name the columns."
    if line.lstrip().startswith(("{", "[", "<")):
        return "This does not look like CSV, but like JSON or a web page."
    for separator, what in _SEPARATORS.items():
        if line.count(separator) >= len(names):
            return f"The columns seem to be separated by {what}. Separate them by commas."
    if len(names) == 1 and len(line.split()) >= len(wanted):
        return "The columns seem to be separated by blanks. Separate them by commas."
    if any(re.fullmatch(r"\s*[+-]?\d[\d.:/ T-]*Z?\s*", name) for name in names):
        return f"The first line seems to hold values. Put a line that names the columns above it: {','.join(wanted)}"
    return ""


def _misplaced(number: int, separator: str) -> str:
    steps = [f"Line {number} names the columns: remove what is above it."] if number > 1 else []
    if separator in _SEPARATORS:
        steps.append(f"The columns seem to be separated by {_SEPARATORS[separator]}. Separate them by commas.")
    return " ".join(steps)


def _split(line: str, separator: str) -> list[str]:
    return next(csv.reader([line], delimiter=separator), [])


def _folded(name: str) -> str:
    return "".join(sign for sign in unicodedata.normalize("NFKC", name).casefold() if sign.isalnum())


def first_lines(path: Path) -> list[str]:
    """The first lines of a text file ."""
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        lines = file.read(16 * BYTES_LOOKED_AT).split("\n")
    return lines[:LINES_LOOKED_AT]
