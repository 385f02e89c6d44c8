"""Text with columns, as people have it: unpacked, decoded, without the lines that are no rows, and read by Arrow.

What is taken is written in `parity.definition.reading`. Arrow reads UTF-8 with a delimiter of one byte; a file of that
form is read as it is, by all cores, and any other is first written to a temporary file of that form.
"""

import bz2
import codecs
import csv
import gzip
import io
import itertools
import lzma
import re
import tempfile
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple, NoReturn

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from tqdm.utils import CallbackIOWrapper

from parity.definition.reading import WHITESPACE, Reading
from parity.edge.errors import UserError
from parity.edge.files import compression_of, naming, progress
from parity.transactions.refusals import (
    ROWS_SHOWN,
    advice_on_bytes,
    brief,
    broken_quote,
    footer_advice,
    names_shown,
    other_format,
    quoted,
)

BLOCK = 1 << 24
csv.field_size_limit(2 * BLOCK)  # a column that nobody asks for may hold anything, up to what Arrow reads as a value
BYTE_ORDER_MARK = "\ufeff"
TAB = "\t"
_STAND_IN = "\x1f"
"""In place of a delimiter that is not ASCII, which Arrow can't take; it is made for that, and in no text of people."""


class Text(NamedTuple):
    """A file that Arrow can read, and how."""

    place: Path
    """What people are told of."""
    path: Path
    delimiter: str
    quote: str
    has_quotes: bool
    names: list[str]
    has_header: bool


def delimiter_of(path: Path, reading: Reading) -> str:
    """The delimiter of the file at ``path``: one character, or `WHITESPACE`."""
    if reading.delimiter is not None:
        return reading.delimiter
    return TAB if path.name.lower().removesuffix(compression_of(path) or "").endswith(".tsv") else ","


# Reading with Arrow


@contextmanager
def readable(path: Path, reading: Reading) -> Iterator[Text]:
    """Yield the file at ``path`` as Arrow can read it, for as long as the block lasts. `UserError` if it can't."""
    delimiter, quote = delimiter_of(path, reading), reading.quote
    if delimiter == WHITESPACE:
        delimiter, quote = TAB, ""
    elif not delimiter.isascii():
        delimiter = _STAND_IN
    with tempfile.TemporaryDirectory() if _is_other(path, reading) else _nothing() as folder:
        if folder is None:
            copy, has_quotes = path, _require_utf8(path, quote)
        else:
            copy = Path(folder) / "text"
            with naming(f"{path}, unpacked to {folder}"):
                has_quotes = _write_plainly(path, reading, copy, quote)
        names = list(reading.column_names) or _header(path, reading)
        yield Text(path, copy, delimiter, quote, has_quotes, names, not reading.column_names)


@contextmanager
def _nothing() -> Iterator[None]:
    yield None


def _is_other(path: Path, reading: Reading) -> bool:
    """Whether Arrow can't read the file as it is."""
    is_utf8 = codecs.lookup(reading.encoding).name in ("utf-8", "utf-8-sig")
    return compression_of(path) is not None or not is_utf8 or _has_other_lines(path, reading)


def _has_other_lines(path: Path, reading: Reading) -> bool:
    """Whether there are lines that are no rows, or that Arrow can't split."""
    delimiter = delimiter_of(path, reading)
    if reading.skip_rows or reading.skip_footer or reading.comment or delimiter == WHITESPACE:
        return True
    if not delimiter.isascii():
        return True
    return any(_is_note(line) for _, line in _first_line(path, reading))


def _first_line(path: Path, reading: Reading) -> list[tuple[int, str]]:
    with suppress(UserError, UnicodeError):  # which is said where all of the file is read
        return list(itertools.islice(_numbered(path, reading, errors="replace"), 1))
    return []


def _is_note(line: str) -> bool:
    """Whether a line is a note of the delimiter for a spreadsheet."""
    return line[:4].lower() == "sep="


def parse(
    text: Text, names: Sequence[str], types: dict[str, pa.DataType], use_threads: bool = True, invalid=None, **convert
) -> pa.Table:
    """Read columns of a text, as Arrow does. Raises `pa.ArrowInvalid`."""
    with progress(f"read {text.place.name}", text.path.stat().st_size, "B") as bar, open(text.path, "rb") as file:
        # The bar looks on only where it is shown: reading through Python costs a little.
        return pacsv.read_csv(
            str(text.path) if bar.disable else CallbackIOWrapper(bar.update, file, "read"),
            read_options=pacsv.ReadOptions(
                use_threads=use_threads, block_size=BLOCK, column_names=None if text.has_header else text.names
            ),
            parse_options=pacsv.ParseOptions(
                delimiter=text.delimiter,
                quote_char=text.quote or False,
                newlines_in_values=text.has_quotes,
                invalid_row_handler=invalid,
            ),
            convert_options=pacsv.ConvertOptions(
                column_types=types, include_columns=list(names), strings_can_be_null=True, **convert
            ),
        )


def as_texts(text: Text, names: Sequence[str], reading: Reading) -> pa.Table:
    """Read columns as texts, null where they are empty. `UserError` for rows of another length than the header."""
    types, ragged = {name: pa.string() for name in names}, _Ragged()
    try:
        return parse(text, names, types, null_values=[""])
    except pa.ArrowInvalid as error:
        if "Empty CSV" in str(error):  # what Arrow says of a header without an end of the line
            return pa.schema([(name, pa.string()) for name in names]).empty_table()
    try:
        table = parse(text, names, types, use_threads=False, invalid=ragged.note, null_values=[""])
    except pa.ArrowInvalid as error:
        raise UserError(f"{text.place}: {brief(error)}") from None
    if ragged.texts:
        raise UserError(f"{text.place}, {_told_of_ragged(text, reading, ragged.texts)}")
    return table


class _Ragged:
    """What rows hold that have more or fewer values than the header: the first ones."""

    def __init__(self):
        self.texts: list[str] = []

    def note(self, row: pacsv.InvalidRow) -> str:
        if len(self.texts) < ROWS_SHOWN:
            self.texts.append(row.text.replace(_STAND_IN, " "))
        return "skip"


def _told_of_ragged(text: Text, reading: Reading, texts: Sequence[str]) -> str:
    """Say which rows have more or fewer values than the header, and what to do."""
    wanted, first = len(text.names), 1 if text.has_header else 0
    reader, found, total = Rows(text.place, reading), [], 0
    for place, values in enumerate(reader):
        if place >= first and len(values) != wanted:
            found.append((place - first, reader.number, len(values)))
        total = place + 1 - first
    shown = [
        f"row {row + 1} (line {line}) has {count} values: {quoted(content)}"
        for (row, line, count), content in zip(found, texts, strict=False)
    ]
    counted = f"{len(found):,} of {total:,} rows {'is' if len(found) == 1 else 'are'} refused."
    told = f"{'; '.join(shown)}; {'the header has' if text.has_header else 'column_names has'} {wanted}. {counted}"
    if footer := footer_advice([row for row, *_ in found], total):
        return f"{told} Correct those rows.{footer}"
    if len(found) * 2 > total:
        separators = f'delimiter=";" or delimiter="{WHITESPACE}"'
        told = f"{told} If values are separated otherwise, declare it: {separators}."
    if any(count > wanted for *_, count in found):
        inside = "Put a value that holds a delimiter in quotes, and write amounts with a decimal point."
    else:
        inside = "Put a value that holds the end of a line in quotes."
    return f"{told} {inside} Leave out what is no row."


# Unpacking and decoding


def unpacked(path: Path) -> BinaryIO:
    """Open a file, and unpack it as its suffix says."""
    match compression_of(path):
        case ".gz":
            return gzip.open(path, "rb")
        case ".bz2":
            return bz2.open(path, "rb")
        case ".xz":
            return lzma.open(path, "rb")
        case ".zst":
            return pa.CompressedInputStream(pa.OSFile(str(path)), "zstd")
    return open(path, "rb")


@contextmanager
def refusing_damage(path: Path) -> Iterator[None]:
    """Say that a file is not compressed as its suffix says, or was cut off."""
    try:
        yield
    except EOFError:
        raise UserError(f"{path}: it was cut off, and can't be unpacked to its end. Get all of it.") from None
    except (gzip.BadGzipFile, zlib.error, lzma.LZMAError, pa.ArrowException) as error:
        raise UserError(f"{path}: it can't be unpacked as its suffix says: {brief(error)}") from None
    except OSError as error:
        if error.errno is not None or compression_of(path) is None:
            raise
        raise UserError(f"{path}: it can't be unpacked as its suffix says: {brief(error)}") from None


def decoded(path: Path, reading: Reading, errors: str = "strict") -> io.TextIOBase:
    """Open a file as text, its ends of lines as they are. Raises `UnicodeDecodeError` where it can't be decoded."""
    if compression_of(path) is None:
        return open(path, encoding=reading.encoding, errors=errors, newline="")
    return io.TextIOWrapper(io.BufferedReader(_Raw(unpacked(path)), 1 << 20), reading.encoding, errors, newline="")


class _Raw(io.RawIOBase):
    """A file of Arrow or of the standard library, as `io` has it."""

    def __init__(self, file: BinaryIO):
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _write_plainly(path: Path, reading: Reading, copy: Path, quote: str) -> bool:
    """Write the rows of a file as UTF-8, and say whether there is a quote."""
    require_text(path, reading)
    has_quotes = False
    blocks = _joined(rows_of(path, reading)) if _has_other_lines(path, reading) else _blocks(path, reading)
    with refusing_damage(path), refusing_undecodable(path, reading), open(copy, "wb") as file:
        delimiter = delimiter_of(path, reading)
        for block in blocks:
            has_quotes = has_quotes or (quote != "" and quote in block)
            file.write((block if delimiter.isascii() else _stood_in(path, block, delimiter)).encode())
    return has_quotes


def _stood_in(path: Path, block: str, delimiter: str) -> str:
    if _STAND_IN in block:
        raise UserError(f"{path}: it holds the character {_STAND_IN!r}, and the delimiter is {delimiter!r}: remove it.")
    return block.replace(delimiter, _STAND_IN)


def put_back(column: pa.ChunkedArray, path: Path, reading: Reading) -> pa.ChunkedArray:
    """Texts as they are in the file, where another character stands for the delimiter."""
    delimiter = delimiter_of(path, reading)
    return column if delimiter.isascii() else pc.replace_substring(column, _STAND_IN, delimiter)


def _blocks(path: Path, reading: Reading) -> Iterator[str]:
    with decoded(path, reading) as file:
        first = file.read(1 << 20).removeprefix(BYTE_ORDER_MARK)
        yield first
        while block := file.read(1 << 20):
            yield block


def _joined(rows: Iterator[tuple[int, str]]) -> Iterator[str]:
    while lines := [line for _, line in itertools.islice(rows, 1 << 14)]:
        yield "".join(lines)


# Lines


def rows_of(path: Path, reading: Reading) -> Iterator[tuple[int, str]]:
    """The lines of the header and of rows, with their numbers from 1 on; of values that blanks separate, by tabs."""
    lines = _without_footer(_numbered(path, reading), reading.skip_footer)
    lines = itertools.dropwhile(lambda line: line[0] <= reading.skip_rows, lines)
    if reading.comment:
        lines = (line for line in lines if not line[1].startswith(reading.comment))
    delimiter = delimiter_of(path, reading)
    if delimiter == WHITESPACE:
        lines = ((number, _by_tabs(line)) for number, line in lines)
    is_first = True
    for number, line in lines:
        if is_first and line.strip("\r\n"):
            is_first = False
            if _is_note(line):
                _require_noted(path, number, line, delimiter)
                continue
        yield number, line


def _numbered(path: Path, reading: Reading, errors: str = "strict") -> Iterator[tuple[int, str]]:
    with refusing_damage(path), decoded(path, reading, errors) as file:
        for number, line in enumerate(file, 1):
            yield number, line.removeprefix(BYTE_ORDER_MARK) if number == 1 else line


def _without_footer(lines: Iterator[tuple[int, str]], count: int) -> Iterator[tuple[int, str]]:
    held: deque = deque()
    for line in lines:
        held.append(line)
        if len(held) > count:
            yield held.popleft()


_RUNS = re.compile("[ \t]+")


def _by_tabs(line: str) -> str:
    return _RUNS.sub(TAB, line.strip(" \t\r\n")) + "\n"


def _require_noted(path: Path, number: int, line: str, delimiter: str) -> None:
    noted = line[4:].rstrip("\r\n")
    if noted != delimiter:
        raise UserError(
            f"{path}, line {number}: it notes that {noted!r} separates values, and {delimiter!r} is declared. "
            f"Declare delimiter={noted!r}."
        )


class Rows:
    """The rows of a text with columns, as `csv` reads them: lists of texts. Raises `csv.Error` if one is not sound."""

    def __init__(self, path: Path, reading: Reading, strict: bool = False):
        delimiter = delimiter_of(path, reading)
        quote = "" if delimiter == WHITESPACE else reading.quote
        self._has_others, self._number = _has_other_lines(path, reading), 0
        self.reader = csv.reader(
            self._noted(path, reading) if self._has_others else _all_lines(path, reading),
            delimiter=TAB if delimiter == WHITESPACE else delimiter,
            quotechar=quote or None,
            quoting=csv.QUOTE_MINIMAL if quote else csv.QUOTE_NONE,
            strict=strict,
        )

    def _noted(self, path: Path, reading: Reading) -> Iterator[str]:
        for number, line in rows_of(path, reading):
            self._number = number
            yield line

    @property
    def number(self) -> int:
        """The number of the last line that was read."""
        return self._number if self._has_others else self.reader.line_num

    def __iter__(self) -> Iterator[list[str]]:
        """Every row but for those with nothing in them, the header with them."""
        return filter(None, self.reader)


def _all_lines(path: Path, reading: Reading) -> Iterator[str]:
    """The lines of a file in which all of them are rows."""
    with decoded(path, reading) as file:
        yield from (line.removeprefix(BYTE_ORDER_MARK) for line in itertools.islice(file, 1))
        yield from file


def _header(path: Path, reading: Reading) -> list[str]:
    try:
        with refusing_damage(path), refusing_undecodable(path, reading):
            for names in Rows(path, reading):
                return names
    except csv.Error as error:
        raise UserError(f"{path}: the header can't be read: {error}. Is this a CSV file?") from None
    raise UserError(f"{path}: the file is empty.")


def lines_of(path: Path, reading: Reading, rows: Sequence[int]) -> list[int]:
    """The lines that some ``rows`` end in, which are ascending from 0, without the header."""
    wanted, first = set(rows), 0 if reading.column_names else 1
    reader = Rows(path, reading)
    lines = ((row - first, reader.number) for row, _ in enumerate(reader))
    found = dict(itertools.islice(((row, line) for row, line in lines if row in wanted), len(wanted)))
    return [found.get(row, row + 1 + first) for row in rows]


def first_lines(path: Path, reading: Reading, count: int) -> list[str]:
    """The first lines of a text, whatever they are."""
    return [line.rstrip("\r\n") for _, line in itertools.islice(_numbered(path, reading, "replace"), count)]


# What is refused


def require_text(path: Path, reading: Reading) -> None:
    """Refuse what is no text, by how it begins."""
    with refusing_damage(path), unpacked(path) as file:
        if told := other_format(bytes(file.read(1 << 12)), reading.encoding):
            raise UserError(f"{path}: {told}")


def _require_utf8(path: Path, quote: str) -> bool:
    """Refuse what is not UTF-8, and tell whether there is a quote, as then a value may hold the end of a line."""
    has_quotes, sign = False, quote.encode()
    decoder = codecs.getincrementaldecoder("utf-8")()
    is_first = True
    with open(path, "rb") as file:
        while block := file.read(BLOCK):
            if is_first and (told := other_format(block, "utf-8")):
                raise UserError(f"{path}: {told}")
            is_first = False
            has_quotes = has_quotes or (quote != "" and sign in block)
            if block.isascii() and not decoder.getstate()[0]:
                continue
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                refuse_undecodable(path, Reading())
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        refuse_undecodable(path, Reading())
    return has_quotes


@contextmanager
def refusing_undecodable(path: Path, reading: Reading) -> Iterator[None]:
    try:
        yield
    except UnicodeError:
        refuse_undecodable(path, reading)


def refuse_undecodable(path: Path, reading: Reading) -> NoReturn:
    """Say where a file is not in the encoding that it should be in, and which one it may be in."""
    decoder = codecs.getincrementaldecoder(reading.encoding)()
    lines, has_others = 1, False
    with unpacked(path) as file:
        while True:
            block = bytes(file.read(1 << 16))
            held_back = decoder.getstate()[0]
            try:
                text = decoder.decode(block, final=not block)
            except UnicodeError as error:
                start = getattr(error, "start", 0)
                before = (held_back + block)[:start].decode(reading.encoding, "replace")
                lines += before.count("\n")
                byte = (held_back + block)[start : start + 1]
                _refuse_byte(path, reading, lines, byte, block, has_others or not before.isascii())
            if not block:
                break
            lines += text.count("\n")
            has_others = has_others or not text.isascii()
    raise UserError(f"{path}: it can't be decoded as {reading.encoding}. Declare another encoding.")


def _refuse_byte(path: Path, reading: Reading, line: int, byte: bytes, block: bytes, has_others: bool) -> NoReturn:
    name = "UTF-8" if codecs.lookup(reading.encoding).name == "utf-8" else reading.encoding
    if has_others:
        help = f"What comes before is {name}, so that place may be damaged: correct it, or declare another encoding."
    elif name == "UTF-8":
        help = advice_on_bytes(block)
    elif _is_utf8(block):
        help = "The file seems to be in UTF-8: leave out encoding."
    else:
        help = "Declare another encoding."
    told = f"the byte 0x{byte[0]:02x}" if byte else "the end"
    raise UserError(f"{path}, line {line}: {told} is not {name}. {help}")


def _is_utf8(block: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(block)
    except UnicodeDecodeError:
        return False
    return True


def require_whole_quotes(path: Path, reading: Reading) -> None:
    """Refuse a value whose quote is not closed, or is closed before its end: Arrow makes one value of all in between.

    Such a value may hold whole rows, which then are none.
    """
    rows, end = Rows(path, reading, strict=True), 0  # the last line of the last row that is sound
    try:
        for _ in rows.reader:
            end = rows.number
        return
    except csv.Error:
        last = rows.number
    lines = [line for line in rows_of(path, reading) if end < line[0] <= last]
    if found := broken_quote(
        lines, delimiter_of(path, reading), reading.quote
    ):  # or a value is too long, as Arrow says
        raise UserError(f"{path}, line {found[0]}: {found[1]}")


def require_columns(path: Path, names: Sequence[str], wanted: Sequence[str], advice: str) -> None:
    """Refuse a file that lacks a column, or has it twice."""
    for name in wanted:
        if name not in names:
            raise UserError(f"{path}: the column {name} is missing; the columns are {names_shown(names)}. {advice}")
        if names.count(name) > 1:
            times = f"is there {names.count(name)} times"
            raise UserError(f"{path}: the column {name} {times}; the columns are {names_shown(names)}.")
