"""Rows of transactions set aside: the files once more without them, and those rows in files beside.

    FOLDER/accepted/...      the files without the rows that were set aside, to compute of
    FOLDER/set_aside/...     those rows, with the header of their file
    FOLDER/quarantine.json   how many they are, and why

Lines of text are copied as they are, and columns of Parquet with all that the files hold.
"""

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parity.definition.reading import Reading
from parity.edge.errors import UserError
from parity.edge.files import Location, absolute, compression_of, kind_of, location, replacing
from parity.transactions.text import Rows, decoded

ACCEPTED, SET_ASIDE, NOTE = "accepted", "set_aside", "quarantine.json"


def set_aside(
    place: Path, files: Mapping[Path, Sequence[int]], reading: Reading, folder: Path, note: Mapping[str, Any]
) -> Path:
    """Copy the transactions at ``place`` to ``folder``, without some rows: those of ``files``, all that it has, from 0.

    Returns where they are now. `UserError` for files of which rows can't be taken.
    """
    if folder.exists():
        shutil.rmtree(folder)
    for file, rows in files.items():
        name = file.relative_to(place) if place.is_dir() else Path(file.name)
        if suffix := compression_of(name):
            name = name.with_name(name.name.removesuffix(suffix))
        split = {"parquet": _split_parquet, "text": _split_text}.get(kind_of(file))
        if split is None:
            raise UserError(
                f"{file}: rows can be set aside of text with columns and of Parquet, and not of JSON. Correct them, or "
                "leave quarantine=True out of the expectations."
            )
        for part in (ACCEPTED, SET_ASIDE):
            (folder / part / name).parent.mkdir(parents=True, exist_ok=True)
        split(file, np.unique(rows), reading, folder / ACCEPTED / name, folder / SET_ASIDE / name)
        if not len(rows):
            (folder / SET_ASIDE / name).unlink()
    content = {"transactions": str(absolute(delivered(place))), "rows": sum(map(len, files.values())), **note}
    with replacing(folder / NOTE) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")
    return folder / ACCEPTED if place.is_dir() else folder / ACCEPTED / name


def quarantine_of(place: Location) -> dict[str, Any] | None:
    """What was set aside of the transactions at ``place``; None if they are not what a quarantine has left."""
    if isinstance(place, str):
        return None
    folder = next((folder for folder in (place, place.parent) if folder.name == ACCEPTED), None)
    try:
        return json.loads((folder.parent / NOTE).read_text()) if folder else None
    except (OSError, ValueError):
        return None


def delivered(place: Location) -> Location:
    """The transactions as they are delivered: if those at ``place`` are what a quarantine left, what it was left of."""
    note = quarantine_of(place) or {}
    return location(note["transactions"]) if "transactions" in note else place


def _split_text(file: Path, rows: np.ndarray, reading: Reading, accepted: Path, aside: Path) -> None:
    header, lines = _lines_of(file, rows, reading)
    options = {"mode": "w", "encoding": reading.encoding, "newline": ""}
    with decoded(file, reading) as source, open(accepted, **options) as kept, open(aside, **options) as taken:
        for number, line in enumerate(source, 1):
            if number <= header:
                kept.write(line)
                taken.write(line)
            else:
                (taken if number in lines else kept).write(line)


def _lines_of(file: Path, rows: np.ndarray, reading: Reading) -> tuple[int, set[int]]:
    """How many lines come before the first row, and which lines the ``rows`` are."""
    wanted, found = set(rows.tolist()), set()
    reader = Rows(file, reading)
    first = 0 if reading.column_names else 1
    header = before = 0
    for number, _ in enumerate(reader):
        if number < first:
            header = reader.number
        elif number - first in wanted:
            found.update(range(before + 1, reader.number + 1))
        before = reader.number
    return header, found


def _split_parquet(file: Path, rows: np.ndarray, reading: Reading, accepted: Path, aside: Path) -> None:
    start = 0
    with pq.ParquetFile(file) as source:
        schema = source.schema_arrow
        with pq.ParquetWriter(accepted, schema) as kept, pq.ParquetWriter(aside, schema) as taken:
            for batch in _batches(source):
                mask = np.zeros(batch.num_rows, bool)
                mask[rows[(rows >= start) & (rows < start + batch.num_rows)] - start] = True
                kept.write_table(batch.filter(pa.array(~mask)))
                taken.write_table(batch.filter(pa.array(mask)))
                start += batch.num_rows


def _batches(source: pq.ParquetFile) -> Iterator[pa.Table]:
    for batch in source.iter_batches():
        yield pa.Table.from_batches([batch])
