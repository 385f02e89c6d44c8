"""A file of transactions as events: each row a JSON object, at the pace of its timestamps or as fast as it goes.

What a text file shows is what the events have, so they are read as the file is. Rows go in the order of their
timestamps, and those of one entity to one partition.
"""

import json
import re
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND
from parity.definition.reading import Reading
from parity.edge.errors import UserError
from parity.edge.files import kind_of, progress
from parity.stream.broker import Broker
from parity.stream.events import EventReader, Raw, microseconds
from parity.transactions import json_objects, text
from parity.transactions.landed import OFFSET
from parity.transactions.texts import is_number

ROWS_AT_ONCE = 2_000
LATEST = 2**62
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


class Produced(NamedTuple):
    """Events to send, in the order of their instants."""

    events: list[bytes]
    instants: np.ndarray
    """In microseconds; of one that can't be read, that of the one before it in the file."""
    partitions: list[int]
    """Numbers of which those of one entity are the same."""

    def __len__(self) -> int:
        return len(self.events)


def speed(written: str) -> float:
    """Read a pace, such as ``1000x`` or ``max``, for argparse."""
    if written == "max":
        return float("inf")
    found = re.fullmatch(r"(\d+(?:\.\d+)?)x?", written, re.ASCII)
    if not found or not float(found[1]):
        raise ValueError(written)
    return float(found[1])


def produced(
    path: Path, tables: Sequence[FeatureTable], event_id: str | None, until: datetime | None = None
) -> Produced:
    """Read a file of transactions of the source of ``tables`` as events.

    With ``until``, all are moved in time so that the last one is then. Raises `UserError`.
    """
    reading = tables[0].definition.reading
    if not path.is_file():
        raise UserError(f"{path}: there is no such file.")
    columns = _columns(path, tables, event_id)
    events = list(_objects(columns, reading))
    reader = EventReader(tables, event_id, largest=2**31)
    instants, keys, is_read = _instants_and_keys(events, reader, tables[0])
    if until is not None:
        events, instants = _moved(columns, instants, is_read, reading, microseconds(until))
    order = np.argsort(instants, kind="stable")
    return Produced(
        [events[place] for place in order.tolist()],
        instants[order],
        [zlib.crc32(keys[place].encode(errors="surrogatepass")) for place in order.tolist()],
    )


def _columns(path: Path, tables: Sequence[FeatureTable], event_id: str | None) -> pa.Table:
    """All columns of a file as the texts that it shows."""
    reading = tables[0].definition.reading
    match kind_of(path):
        case "parquet":
            return _texts_of_parquet(path, reading)
        case "json":
            wanted = [reading.in_file(name) for table in tables for name in table.definition.raw.names]
            wanted += [*reading.timestamp_columns, *([reading.in_file(event_id)] if event_id else [])]
            if reading.timestamp_columns:
                wanted = [name for name in wanted if name != reading.timestamp]
            names = list(dict.fromkeys([*json_objects.json_names(path, reading), *wanted]))
            found, there = json_objects.json_texts(path, reading, names, names)
            return found.select([name for name in names if name in there])
    with text.readable(path, reading) as file:
        found = text.as_texts(file, file.names, reading)
        if file.delimiter != text.delimiter_of(path, reading):
            found = pa.table({name: text.put_back(found[name], path, reading) for name in file.names})
        return found


def _texts_of_parquet(path: Path, reading: Reading) -> pa.Table:
    try:
        found = pq.read_table(path, partitioning=None)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: this is not a Parquet file that can be read: {error!s:.200}") from None
    columns = {}
    for name, column in zip(found.column_names, found.columns, strict=True):
        if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
            if name in (reading.in_file(reading.timestamp), *reading.timestamp_columns) and reading.timestamp_format:
                raise UserError(
                    f"{path}: {name} is of type {column.type}, and events have it as {reading.timestamp_format!r}. "
                    "Produce them from a file of text or JSON."
                )
            zone = "UTC" if pa.types.is_timestamp(column.type) and column.type.tz else None
            column = pc.strftime(column.cast(pa.timestamp("us", zone)), "%Y-%m-%dT%H:%M:%S" + ("Z" if zone else ""))
        elif not (is_number(column.type) or pa.types.is_boolean(column.type)):
            column = column.cast(pa.string())
        columns[name] = column.cast(pa.string())
    return pa.table(columns)


def _objects(columns: pa.Table, reading: Reading) -> Iterator[bytes]:
    """Each row as JSON. What is null is left out, and a number is written as the text has it."""
    names = [json.dumps(name, ensure_ascii=False) for name in columns.column_names]
    for batch in columns.to_batches(max_chunksize=ROWS_AT_ONCE):
        for row in zip(*(column.to_pylist() for column in batch.columns), strict=True):
            shown = (
                f"{name}: {_value(value, reading)}" for name, value in zip(names, row, strict=True) if value is not None
            )
            yield f"{{{', '.join(shown)}}}".encode()


def _value(value: str, reading: Reading) -> str:
    if reading.decimal == "." and _NUMBER.fullmatch(value):
        return value
    return json.dumps(value, ensure_ascii=False)


def _instants_and_keys(
    events: Sequence[bytes], reader: EventReader, table: FeatureTable
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """The instant of each event, its key as text, and whether it can be read; one that can't has the instant of the
    one before."""
    instants, keys, is_read = np.zeros(len(events), np.int64), [""] * len(events), np.zeros(len(events), bool)
    reading = table.definition.reading
    name = reading.in_file(reading.timestamp)
    for start in range(0, len(events), ROWS_AT_ONCE):
        some = events[start : start + ROWS_AT_ONCE]
        rows = reader.read([Raw("file/0", list(range(start, start + len(some))), list(some))], LATEST).rows
        places = rows[OFFSET].to_numpy()
        if reading.timestamp_columns:
            instants[places] = places  # in the order of the file
        else:
            instants[places] = rows[name].cast(pa.int64()).to_numpy()
        columns = (rows[key].cast(pa.string()).to_pylist() for key in reader.keys[0])
        for place, *key in zip(places.tolist(), *columns, strict=True):
            keys[place] = "\0".join(map(str, key))
        is_read[places] = True
        for place in (start + np.flatnonzero(~is_read[start : start + len(some)])).tolist():
            instants[place] = instants[place - 1] if place else 0
    return instants, keys, is_read


def _moved(
    columns: pa.Table, instants: np.ndarray, is_read: np.ndarray, reading: Reading, until: int
) -> tuple[list[bytes], np.ndarray]:
    """The same events, moved in time so that the last one is at ``until``."""
    if reading.timestamp_format or reading.timestamp_columns:
        raise UserError(
            "--now moves events in time and writes their timestamps as ISO 8601, and this source declares "
            f"{'timestamp_columns' if reading.timestamp_columns else 'a timestamp_format'}. Leave out --now."
        )
    if is_read.any():
        instants = instants + (until - int(instants[is_read].max()))
    name = reading.in_file(reading.timestamp)
    written = pa.array([(EPOCH + at * MICROSECOND).isoformat() for at in instants.tolist()], pa.string())
    written = pc.if_else(pa.array(is_read), written, columns[name])
    moved = columns.set_column(columns.column_names.index(name), name, written)
    return list(_objects(moved, reading)), instants


def send(
    events: Produced,
    broker: Broker,
    pace: float,
    ending: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] = time.monotonic,
) -> int:
    """Send events at ``pace`` times the speed of their instants; returns how many, less than all once ``ending``."""
    begin, sent = clock(), 0
    due = (events.instants - events.instants[:1]) / 1e6 / pace if len(events) else events.instants
    with progress("send", len(events), "event") as bar:
        while sent < len(events) and not ending():
            end = min(int(np.searchsorted(due, clock() - begin, side="right")), sent + ROWS_AT_ONCE)
            if end > sent:
                broker.send(list(zip(events.partitions[sent:end], events.events[sent:end], strict=True)))
                bar.update(end - sent)
                sent = end
            else:
                time.sleep(min(0.05, max(0.0, due[sent] - (clock() - begin))))
    return sent
