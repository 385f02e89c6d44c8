"""Outcomes: what units did, read from a file: CSV, or Parquet by its suffix.

The columns are ``unit``, or the name of the experiment's unit, ``outcome``, a number, and perhaps ``timestamp``. A unit
may have several. Ids are read as they are written: 0042 stays 0042.
"""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

from parity.definition.experiments import Experiment
from parity.definition.instants import UTC_MICROSECONDS
from parity.edge.command import instant, shown
from parity.edge.errors import UserError, printable

UNIT, OUTCOME, TIMESTAMP = "unit", "outcome", "timestamp"
NUMBER = re.compile(r" *([-+]?[0-9.]+(e[-+]?[0-9]+)?|nan) *", re.IGNORECASE)
"""Python reads more than that as a number, such as 1_000."""


def read_outcomes(path: Path, experiment: Experiment) -> pa.Table:
    """Read the outcomes in a file: `UNIT` (the text of the id), `OUTCOME` (float64, null where there is none: an empty
    cell or NaN), and `TIMESTAMP` (us UTC; one without an offset is UTC), if the file has it.

    Raises `UserError` for what can't be read, with the row.
    """
    if path.suffix.lower() not in (".csv", ".parquet"):
        raise UserError(f"{shown(path)}: outcomes are read from a .csv or a .parquet file. Rename or convert it.")
    found = _read(path)
    unit = _column(path, found, (UNIT, experiment.unit))
    columns = {
        UNIT: _units(path, found[unit], experiment),
        OUTCOME: _outcomes(path, found[_column(path, found, (OUTCOME,))]),
    }
    if TIMESTAMP in found.column_names:
        columns[TIMESTAMP] = _timestamps(path, found[TIMESTAMP])
    return pa.table(columns)


def _read(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() == ".parquet":
            return pq.read_table(path, partitioning=None)
        with pa_csv.open_csv(path) as file:
            names = file.schema.names
        # every column is read as text, so that ids keep their zeros; an empty cell is null
        options = pa_csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()), strings_can_be_null=True, null_values=[""]
        )
        return pa_csv.read_csv(path, convert_options=options)
    except FileNotFoundError:
        raise UserError(f"{shown(path)}: there is no such file. Name the outcomes: --outcomes FILE") from None
    except pa.ArrowInvalid as error:
        reason = printable(str(error).partition("\n")[0].rstrip("."))
        raise UserError(f"{shown(path)}: the outcomes can't be read: {reason:.200}.") from None


def _column(path: Path, found: pa.Table, names: tuple[str, ...]) -> str:
    there = [name for name in dict.fromkeys(names) if found.column_names.count(name)]
    if len(there) != 1 or found.column_names.count(there[0]) > 1:
        wanted = " or ".join(dict.fromkeys(names))
        raise UserError(
            f"{shown(path)}: one column has to be called {wanted}, and there is {', '.join(found.column_names)}. "
            "Rename one."
        )
    return there[0]


def _each(path: Path, column: pa.ChunkedArray, read: Callable[[Any], Any], what: str) -> list:
    """Read every value of a column, equal ones once; a `UserError` names the first row that can't be read."""
    encoded = column.combine_chunks()
    try:
        encoded = encoded if isinstance(encoded, pa.DictionaryArray) else encoded.dictionary_encode()
    except pa.ArrowNotImplementedError:
        raise UserError(f"{shown(path)}: a column of type {column.type} can't be {what}.") from None
    values: list[Any] = []
    for place, value in enumerate(encoded.dictionary.to_pylist()):
        try:
            values.append(read(value))
        except (UserError, ValueError, TypeError, OverflowError) as error:
            row = pc.index(encoded.indices, pa.scalar(place, encoded.indices.type)).as_py()
            reason = f": {error}" if isinstance(error, UserError) else ""
            raise UserError(f"{shown(path)}, row {row + 1}: {value!r} can't be {what}{reason}") from None
    return [None if place is None else values[place] for place in encoded.indices.to_pylist()]


def _units(path: Path, column: pa.ChunkedArray, experiment: Experiment) -> pa.Array:
    units = _each(path, column, experiment.text_of, f"a {experiment.unit}")
    if None in units:
        raise UserError(f"{shown(path)}, row {units.index(None) + 1}: it has no unit. Fill it in, or remove the row.")
    return pa.array(units, pa.string())


def _outcomes(path: Path, column: pa.ChunkedArray) -> pa.Array:
    def number(value: Any) -> float | None:
        read = float(value)
        if np.isinf(read) or (isinstance(value, str) and not NUMBER.fullmatch(value)):
            raise ValueError(value)
        return None if np.isnan(read) else read

    return pa.array(_each(path, column, number, "an outcome, which is a number"), pa.float64())


def _timestamps(path: Path, column: pa.ChunkedArray) -> pa.Array:
    def time(value: Any) -> datetime:
        if isinstance(value, datetime):
            return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
        return instant(value)

    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz), safe=False)
    times = _each(path, column, time, "a timestamp, such as 2026-03-01T10:00:00+00:00. ISO 8601 is read")
    if None in times:
        raise UserError(f"{shown(path)}, row {times.index(None) + 1}: it has no timestamp. Fill it in.")
    return pa.array(times, UTC_MICROSECONDS)
