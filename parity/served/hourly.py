"""Rows appended to Parquet parts by the hour, for as long as a process runs and whatever becomes of the disk.

    FOLDER/hour=2026-03-01T10/HOST-PID-TOKEN-0000.parquet

A part is there when all of it is. The parts of a process are merged into one per hour when the hour has passed, or the
process ends; the merged part names those that it takes the place of, so a reader (log.py) sees no row twice, and none
goes missing, wherever a process is killed.
"""

import contextlib
import json
import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.feature_logging import LOG_TIMESTAMP_FIELD

from parity.definition.instants import utc_now
from parity.edge.errors import UserError
from parity.edge.files import replacing

METADATA = b"parity.served"
"""The key of a part's metadata: a JSON object."""
FORMAT = 1
HOUR = "%Y-%m-%dT%H"
LOG_TIMESTAMP, AS_OF = LOG_TIMESTAMP_FIELD, "__as_of"
"""Columns of every log: when a row was served, and the instant that was asked about."""
GRACE = timedelta(minutes=1)
"""For so long after its end, rows of an hour may come: none of its parts is merged yet."""
ROWS_PER_GROUP = 100_000
"""Rows in memory at a time, while parts are merged."""
SECONDS_BETWEEN_WARNINGS = 60


class HourlyParts:
    """Parts in a ``folder``, of rows of one ``schema``; ``instants`` names the column that says the hour of each.

    ``metadata`` is kept in each part, as is how many rows were dropped since the part before. What can't be written is
    dropped, counted and warned of, and raises nothing. It is for one thread at a time, and of one process: in a fork
    make another.
    """

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema,
        metadata: Mapping[str, Any],
        instants: str = LOG_TIMESTAMP,
        now: Callable[[], datetime] = utc_now,
    ):
        self.dropped = 0
        self._folder, self._schema, self._metadata, self._instants, self._now = folder, schema, metadata, instants, now
        host = re.sub(r"[^\w.]", "_", socket.gethostname())[:60]
        self._name, self._count = f"{host}-{os.getpid()}-{secrets.token_hex(4)}", 0
        self._parts: dict[datetime, list[Path]] = {}

    def append(self, rows: pa.Table) -> None:
        """Write a part per hour of the ``rows``, and merge the parts of hours that have passed."""
        for hour, some in self._by_hour(rows):
            self._write(hour, some)
        self.merge_passed()

    def drop(self, count: int) -> None:
        """Note that so many rows were dropped; the next part says so."""
        self.dropped += count

    def merge_passed(self) -> None:
        """Merge the parts of hours that have passed."""
        for hour in sorted(self._parts):
            if hour + timedelta(hours=1) + GRACE <= self._now():
                self._merge(hour)

    def write_dropped(self) -> None:
        """Write a part without rows where something was dropped since the last."""
        if self.dropped:
            self._write(_hour_of(self._now()), self._schema.empty_table())

    def close(self) -> None:
        """Merge what there is, and note what was dropped and is in no part yet."""
        self.write_dropped()
        for hour in sorted(self._parts):
            self._merge(hour)
        if self.dropped:
            warn(f"{self._folder}: {self.dropped:,} rows were dropped that no file of this log says", always=True)

    def _by_hour(self, rows: pa.Table) -> Iterator[tuple[datetime, pa.Table]]:
        hours = pc.floor_temporal(rows[self._instants], unit="hour")
        for hour in sorted(pc.unique(hours).to_pylist()):
            yield hour.astimezone(UTC), rows.filter(pc.equal(hours, hour))

    def _write(self, hour: datetime, rows: pa.Table) -> None:
        schema = self._with_metadata(self.dropped)
        with self._counting(rows.num_rows):
            path = self._next(hour)
            with replacing(path, TEMPORARY_NAME) as temporary:
                pq.write_table(rows.cast(schema), temporary, compression="zstd")
            self.dropped = 0
            self._parts.setdefault(hour, []).append(path)

    def _merge(self, hour: datetime) -> None:
        """Put a part in the place of all of an hour. Where that fails they stay, which is as good to a reader."""
        with self._counting(0):
            paths = [path for path in self._parts.pop(hour) if path.exists()]
            if len(paths) < 2:
                return
            merged = self._next(hour)
            merge(paths, merged, self._schema, self._metadata)
            for path in paths:
                path.unlink(missing_ok=True)

    def _next(self, hour: datetime) -> Path:
        path = self._folder / f"hour={hour:{HOUR}}" / f"{self._name}-{self._count:04}.parquet"
        self._count += 1
        return path

    def _with_metadata(self, dropped: int) -> pa.Schema:
        return with_metadata(self._schema, self._metadata, dropped)

    @contextlib.contextmanager
    def _counting(self, rows: int) -> Iterator[None]:
        try:
            yield
        except (OSError, UserError, pa.ArrowException) as error:
            self.dropped += rows
            unsaid = f"Rows dropped from this log that none of its files says yet: {self.dropped:,}"
            warn(f"{_reason(error, self._folder)} {unsaid}")


TEMPORARY_NAME = "part"
"""What is temporary has the same name for all parts, so that what a killed process left is found, and removed."""


def with_metadata(
    schema: pa.Schema, metadata: Mapping[str, Any], dropped: int, merged: Sequence[tuple[str, int, int]] = ()
) -> pa.Schema:
    facts = {**metadata, "dropped": dropped, "format": FORMAT}
    if merged:
        facts["merged"] = list(merged)
    return schema.with_metadata({METADATA: json.dumps(facts).encode()})


def facts_of(schema: pa.Schema) -> dict[str, Any] | None:
    """What the metadata of a part says; None if this is no part."""
    try:
        facts = json.loads((schema.metadata or {})[METADATA])
    except (KeyError, ValueError):
        return None
    whole = isinstance(facts, dict) and facts.get("format") == FORMAT and isinstance(facts.get("dropped"), int)
    return facts if whole and isinstance(facts.get("merged", []), list) else None


def merge(paths: list[Path], merged: Path, schema: pa.Schema, metadata: Mapping[str, Any]) -> None:
    """Write a part of the rows of all these: with (name, first row, rows) of each, and of those merged in them."""
    held, dropped, first = [], 0, 0
    for path in paths:
        with pq.ParquetFile(path) as file:
            facts, rows = facts_of(file.schema_arrow) or {}, file.metadata.num_rows
        held += [(path.name, first, rows)]
        held += [(name, first + start, count) for name, start, count in facts.get("merged", ())]
        dropped, first = dropped + facts.get("dropped", 0), first + rows
    with replacing(merged, TEMPORARY_NAME) as temporary:
        whole = with_metadata(schema, metadata, dropped, held)
        with pq.ParquetWriter(temporary, whole, compression="zstd") as writer:
            for table in _groups(paths):
                writer.write_table(table.cast(whole))


def _groups(paths: list[Path]) -> Iterator[pa.Table]:
    """The rows of all these, in tables of about `ROWS_PER_GROUP`."""
    some: list[pa.Table] = []
    for path in paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                some.append(file.read_row_group(group))
                if sum(table.num_rows for table in some) >= ROWS_PER_GROUP:
                    yield pa.concat_tables(some)
                    some = []
    if some:
        yield pa.concat_tables(some)


def _hour_of(instant: datetime) -> datetime:
    return instant.replace(minute=0, second=0, microsecond=0)


def _reason(error: Exception, folder: Path) -> str:
    if isinstance(error, OSError):
        return f"{error.filename or folder}: {error.strerror or error}."
    return str(error)


_warned = [float("-inf")]


def warn(text: str, always: bool = False) -> None:
    """Write a warning on the log, one a minute at most unless ``always``."""
    if not always and time.monotonic() - _warned[0] < SECONDS_BETWEEN_WARNINGS:
        return
    _warned[0] = time.monotonic()
    logging.getLogger("parity.served").warning("%s", text)
