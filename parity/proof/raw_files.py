"""The rows of raw files, as the oracle takes them apart: by the text of `parity.definition.reading`, one at a time."""

import bz2
import csv
import gzip
import io
import json
import lzma
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, count, islice
from operator import itemgetter
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from parity.definition.reading import WHITESPACE, Reading
from parity.edge.files import progress
from parity.proof.raw_values import NumberOfJson

ROWS_PER_BLOCK = 30_000
LONGEST_OBJECT = 1 << 25
"""Characters of one object in a JSON file."""
BYTES_PER_ROW = 40
NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"
COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
JSON = (".json", ".jsonl", ".ndjson")
KINDS = (".csv", ".tsv", ".txt", ".parquet", *JSON)
csv.field_size_limit(1 << 25)  # a column that nobody asks for may hold anything; a quote that is left open, not all


def raw_files(path: Path) -> list[Path]:
    """The file itself, or those in a folder that are of a kind that is read, but for the ones that are hidden."""
    if not path.is_dir():
        return [path]
    return [
        file
        for file in sorted(path.rglob("*"))
        if file.is_file() and not any(part.startswith((".", "_")) for part in file.relative_to(path).parts)
    ]


def weight(file: Path) -> int:
    """The size of a file, or of a Parquet file what its rows take as text: packed they may take next to nothing."""
    size = file.stat().st_size
    try:
        return max(size, pq.read_metadata(file).num_rows * BYTES_PER_ROW) if kind(file) == ".parquet" else size
    except (OSError, pa.ArrowException):  # which reading it shows
        return size


def kind(file: Path) -> str:
    """The suffix that says what is in a file, in small letters, whatever it is compressed with."""
    name = file.name.lower()
    for packed in (*COMPRESSED, ".zst"):
        name = name.removesuffix(packed)
    return Path(name).suffix


def is_text(file: Path) -> bool:
    """Whether it is text with columns."""
    return kind(file) not in (".parquet", *JSON)


def blocks(file: Path, reading: Reading, columns: Sequence[str]) -> Iterator[list[tuple]]:
    """Go through a file, some rows at a time, each row as what the file shows in ``columns``, called as in the file.

    That is a text, a value of Parquet, or None.
    """
    if kind(file) not in KINDS:
        raise ValueError(f"{file.name} is of no kind that can be read: {', '.join(KINDS)}")
    partitions = _partitions(file)
    with progress(f"read {file.name}", None, "row") as bar:
        if kind(file) == ".parquet":
            found = _of_parquet(file, columns, partitions)
        elif kind(file) in JSON:
            found = _in_blocks(_of_json(file, reading, columns, partitions))
        else:
            found = _in_blocks(_of_text(file, reading, columns, partitions))
        for block in found:
            yield block
            bar.update(len(block))


def _partitions(file: Path) -> dict[str, str | None]:
    """What the folders right above a file say of all its rows."""
    found: dict[str, str | None] = {}
    for folder in file.absolute().parents:
        name, separator, value = folder.name.partition("=")
        if not separator:
            break
        found.setdefault(name, None if value == NO_PARTITION else unquote(value))
    return found


def _in_blocks(rows: Iterator[tuple]) -> Iterator[list[tuple]]:
    while block := list(islice(rows, ROWS_PER_BLOCK)):
        yield block


def _opened(file: Path) -> IO[bytes]:
    suffix = file.suffix.lower()
    if suffix == ".zst":  # which Python can't unpack by itself
        return pa.CompressedInputStream(str(file), "zstd")
    return COMPRESSED.get(suffix, open)(file, "rb")


# Text with columns


def _of_text(
    file: Path, reading: Reading, columns: Sequence[str], partitions: Mapping[str, str | None]
) -> Iterator[tuple]:
    delimiter = reading.delimiter or ("\t" if kind(file) == ".tsv" else ",")
    with _opened(file) as raw, io.TextIOWrapper(raw, encoding=reading.encoding, newline="") as text:
        lines = _Lines(text, reading, delimiter)
        rows = _split(lines, delimiter) if delimiter == WHITESPACE else _quoted(lines, delimiter, reading.quote)
        names = list(reading.column_names) or next(rows, [])
        places = [_place(names, name, partitions) for name in columns]
        beside = [partitions[name] for name, place in zip(columns, places, strict=True) if place is None]
        after = count(len(names))  # what the path shows is put behind the values of each row
        pick = itemgetter(*(next(after) if place is None else place for place in places))
        for row in rows:
            if len(row) != len(names):
                raise ValueError(f"line {lines.number} has {len(row)} values, and the header {len(names)}")
            yield pick(row + beside if beside else row)


def _place(names: Sequence[str], name: str, partitions: Mapping[str, str | None]) -> int | None:
    """Where a column is among ``names``; None if it is one that the path shows."""
    if name not in names and name in partitions:
        return None
    if names.count(name) != 1:
        raise ValueError(f"the column {name} is there {names.count(name)} times")
    return names.index(name)


class _Lines:
    """The lines of a file that are of its table, with their ends."""

    def __init__(self, text: IO[str], reading: Reading, delimiter: str):
        self._read, self._ahead = 0, reading.skip_footer
        lines = islice(self._counted(text), reading.skip_rows, None)
        if reading.skip_footer:
            lines = _without_last(lines, reading.skip_footer)
        if reading.comment:
            lines = (line for line in lines if not line.startswith(reading.comment))
        self._lines = self._without_separator(lines, delimiter, reading.quote)

    def __iter__(self) -> Iterator[str]:
        return self._lines

    @property
    def number(self) -> int:
        """That of the last line that was given, from 1 on."""
        return self._read - self._ahead

    def _counted(self, text: IO[str]) -> Iterator[str]:
        for self._read, line in enumerate(text, 1):
            yield line.removeprefix("\ufeff") if self._read == 1 else line

    def _without_separator(self, lines: Iterator[str], delimiter: str, quote: str) -> Iterator[str]:
        """The same, but for a first line that names the delimiter for Excel, in quotes or not."""
        first = next((line for line in lines if line.strip("\r\n")), "")
        note = first.strip("\r\n").removeprefix(quote)
        if note[:4].lower() != "sep=":
            return chain([first], lines)
        if note[4:].removesuffix(quote if first.startswith(quote) else "") != delimiter:
            raise ValueError(f"line {self.number} says {first.strip()!r:.80}, and declared is {delimiter!r}")
        return lines


def _without_last(lines: Iterator[str], count: int) -> Iterator[str]:
    held: deque[str] = deque()
    for line in lines:
        held.append(line)
        if len(held) > count:
            yield held.popleft()


def _split(lines: _Lines, _delimiter: str) -> Iterator[list[str]]:
    for line in lines:
        if stripped := line.strip(" \t\r\n"):
            yield re.split(r"[ \t]+", stripped)


def _quoted(lines: _Lines, delimiter: str, quote: str) -> Iterator[list[str]]:
    """The rows but for empty ones; `ValueError` with the line where an unsound one starts."""
    quoting = {"quotechar": quote} if quote else {"quoting": csv.QUOTE_NONE}
    reader = csv.reader(lines, delimiter=delimiter, strict=True, **quoting)  # not strict, an open quote swallows rows
    end = 0
    try:
        for row in reader:
            end = lines.number
            if row:
                yield row
    except csv.Error as error:
        raise ValueError(f"the row that starts in line {end + 1} can't be read: {error}") from None


# JSON


def _of_json(
    file: Path, reading: Reading, columns: Sequence[str], partitions: Mapping[str, str | None]
) -> Iterator[tuple]:
    with _opened(file) as raw, io.TextIOWrapper(raw, encoding=reading.encoding) as text:
        for found in _objects(text):
            yield tuple(_member(found, name, partitions) for name in columns)


def _objects(text: IO[str]) -> Iterator[dict]:
    """The objects of an array, or one after the other."""
    decoder = json.JSONDecoder(
        parse_float=NumberOfJson, parse_int=NumberOfJson, parse_constant=lambda name: None if name == "NaN" else name
    )
    buffer, place, in_array, ended = text.read(1 << 20).removeprefix("\ufeff"), 0, False, False
    if not buffer:
        raise ValueError("the file is empty")
    begin = len(buffer) - len(buffer.lstrip())
    if buffer[begin : begin + 1] == "[":
        in_array, place = True, begin + 1
    separator = False  # whether a comma has to come before the next object
    while True:
        while place < len(buffer) and buffer[place] in " \t\r\n":
            place += 1
        if place < len(buffer) and in_array and separator and buffer[place] == ",":
            place, separator = place + 1, False
            continue
        if place < len(buffer) and in_array and buffer[place] == "]":
            in_array, ended, place = False, True, place + 1
            continue
        if place < len(buffer):
            if ended or buffer[place] != "{" or (in_array and separator):
                raise ValueError(f"{buffer[place : place + 40]!r} is not a JSON object where one has to be")
            try:
                found, place = decoder.raw_decode(buffer, place)
            except json.JSONDecodeError:
                if len(buffer) - place > LONGEST_OBJECT:
                    raise
            else:
                yield found
                separator = True
                continue
        more = text.read(1 << 20)
        if not more:
            if place < len(buffer) or in_array:
                raise ValueError("the last JSON object is not whole")
            return
        buffer, place = buffer[place:] + more, 0


def _member(found: dict, name: str, partitions: Mapping[str, str | None]) -> Any:
    """What an object has under a name, in which dots lead into objects in it."""
    value: Any = found
    if name in found:
        value = found[name]
    elif name in partitions:
        return partitions[name]
    else:
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
    if isinstance(value, dict | list):
        raise ValueError(f"{name} is {json.dumps(value):.80}, and neither a text nor a number")
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else value


# Parquet


def _of_parquet(file: Path, columns: Sequence[str], partitions: Mapping[str, str | None]) -> Iterator[list[tuple]]:
    with pq.ParquetFile(file) as table:
        names = table.schema_arrow.names
        there = [name for name in columns if _place(names, name, partitions) is not None]
        for batch in table.iter_batches(columns=there):
            shown = {name: [partitions.get(name)] * batch.num_rows for name in columns}
            shown |= {name: _python(batch.column(name)) for name in there}
            yield list(zip(*(shown[name] for name in columns), strict=True))


def _python(values: pa.Array) -> list:
    """Values in Python. Instants are in UTC, as Python does not know every zone; what is finer than a microsecond is
    refused."""
    if pa.types.is_timestamp(values.type):
        values = values.cast(pa.timestamp("us", "UTC" if values.type.tz else None))
    return (values.cast(pa.string()) if pa.types.is_time(values.type) else values).to_pylist()
