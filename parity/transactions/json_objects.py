"""JSON: objects one after the other, or an array of them, as columns of the texts that their values are written as.

What is taken is written in `parity.definition.reading`. A number stays the text that it is written as, so no digit of
an amount or of an id is lost on the way.
"""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from parity.definition.reading import Reading
from parity.edge.errors import UserError
from parity.transactions.refusals import quoted
from parity.transactions.text import BYTE_ORDER_MARK, decoded, refusing_damage, refusing_undecodable, require_text

_GAP = re.compile(r"[ \t\r\n]*")
ROWS_TOGETHER = 1 << 16


class _Number(str):
    __slots__ = ()


AS_WRITTEN = json.JSONDecoder(parse_float=_Number, parse_int=_Number, parse_constant=_Number)


def json_texts(path: Path, reading: Reading, names: Sequence[str], whole: Collection[str]) -> tuple[pa.Table, set[str]]:
    """The columns ``names`` as texts, and which of them are there at all.

    In those of ``whole`` numbers are as they are written, with a point. Raises `UserError`, with the line, for what is
    no such JSON.
    """
    tables = []
    rows: list[tuple] = []
    paths = {name: name.split(".") for name in names}
    found: set[str] = set()
    text = _text(path, reading)
    for number, (position, value) in enumerate(_objects(path, text), 1):
        if not isinstance(value, dict):
            shown = "null" if value is None else quoted(str(value))
            raise UserError(f"{_place(path, text, position)}: {shown} is no object with names and values.")
        row = []
        for name, parts in paths.items():
            inner = value[name] if name in value else value_inside(value, parts)
            if inner is not ABSENT:
                found.add(name)
            if isinstance(inner, list | dict):
                raise UserError(f"{_place(path, text, position)}: {no_single_value(name, inner)}")
            row.append(as_text(inner, name in whole, reading))
        rows.append(tuple(row))
        if number % ROWS_TOGETHER == 0:
            tables.append(_table(path, rows, names))
            rows = []
    return pa.concat_tables([*tables, _table(path, rows, names)]), found


def json_names(path: Path, reading: Reading) -> list[str]:
    """The names of the values of the first object."""
    for _, value in _objects(path, _text(path, reading)):
        return list(_names_in(value)) if isinstance(value, dict) else []
    return []


def lines_of_objects(path: Path, reading: Reading, rows: Sequence[int]) -> list[int]:
    """The lines that some rows, which are ascending from 0, begin in."""
    text, wanted = _text(path, reading), set(rows)
    positions = {row: position for row, (position, _) in enumerate(_objects(path, text)) if row in wanted}
    return [_line(text, positions[row]) for row in rows]


def _text(path: Path, reading: Reading) -> str:
    require_text(path, reading)
    with refusing_damage(path), refusing_undecodable(path, reading), decoded(path, reading) as file:
        return file.read().removeprefix(BYTE_ORDER_MARK)


def _objects(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Each value of the file, with its position."""
    position = _GAP.match(text).end()
    is_array = text.startswith("[", position)
    position += is_array
    is_first = True
    while True:
        position = _GAP.match(text, position).end()
        if position == len(text) or (is_array and text[position] == "]"):
            break
        if is_array and not is_first:
            if text[position] != ",":
                raise UserError(f"{_place(path, text, position)}: there is no comma between two objects.")
            position = _GAP.match(text, position + 1).end()
        is_first = False
        try:
            value, end = AS_WRITTEN.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            at = getattr(error, "pos", position)
            why = getattr(error, "msg", "it is nested too deeply")
            raise UserError(f"{_place(path, text, at)}: this is not JSON: {why}.") from None
        yield position, value
        position = end
    if is_array and (position == len(text) or text[position + 1 :].strip()):
        raise UserError(f"{path}: its array is not closed at the end of the file. Get all of it.")


class _Absent:
    pass


ABSENT = _Absent()


def value_inside(value: Any, parts: Sequence[str]) -> Any:
    for part in parts:
        if not isinstance(value, dict) or part not in value:
            return ABSENT
        value = value[part]
    return value


def as_text(value: Any, is_whole: bool, reading: Reading) -> str | None:
    if type(value) is str:
        return value
    if isinstance(value, _Number):
        if value == "NaN":
            return None
        return str(value) if is_whole or reading.decimal == "." else value.replace(".", reading.decimal)
    if value is None or value is ABSENT:
        return None
    return "true" if value else "false"


def no_single_value(name: str, value: list | dict) -> str:
    if isinstance(value, dict) and value:
        return f'{name} is an object. Name a value in it, such as field_mapping={{"{name}.{next(iter(value))}": ...}}.'
    return f"{name} is {'a list' if isinstance(value, list) else 'an object'}, and only single values are read."


def _table(path: Path, rows: list[tuple], names: Sequence[str]) -> pa.Table:
    columns = list(zip(*rows, strict=True)) or [()] * len(names)
    try:
        return pa.table([pa.array(column, pa.string()) for column in columns], list(names))
    except UnicodeEncodeError as error:
        raise UserError(f"{path}: {quoted(error.object)} holds half of a character. Correct it.") from None


def _names_in(value: dict, before: str = "") -> Iterator[str]:
    for name, inner in value.items():
        if isinstance(inner, dict) and inner:
            yield from _names_in(inner, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def _place(path: Path, text: str, position: int) -> str:
    return f"{path}, line {_line(text, position)}"


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
