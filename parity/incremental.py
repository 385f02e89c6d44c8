"""Features by day, brought in step with a folder of transaction files: only what can have changed is computed again.

The folder is the truth: the result is what the whole of it gives, whatever was added to it, changed or removed, and in
whichever order. Beside the days lies a manifest of the files they were computed from, each with its size, the time of
its last modification (which a bucket tells to the second), and the days of its purchases. A file for which name, size
and time are the same has not changed.

From the first day of any file that has changed, all days are computed anew. That takes the purchases from the longest
window before that day on, so no file is read whose purchases are all older; and how many each user had made before
those, which is told by the counts in the older days of the features, or by `TOTALS`, which spares reading most of them.

Before any day is replaced the manifest says from which day on they are in doubt, and it takes in the new files only
when all is done. So after a run that was killed, the next one does that work again, and does it right.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
from feast.aggregation import Aggregation

from parity.command import UserError
from parity.continued import aggregate_from, counts_to_continue, reach
from parity.files import Location, location, on_disk
from parity.partitions import (
    MANIFEST,
    MICROSECONDS_PER_DAY,
    Partitions,
    Staged,
    day_of,
    split_by_day,
    transaction_files,
)
from parity.transactions import FIRST_INSTANT, MICROSECOND, TIMESTAMP, read_part

TOTALS = "_totals.arrow"
"""A note of what each user's counts were before a certain day."""


@dataclass(frozen=True)
class Manifest:
    """What the days were computed from."""

    definition: str
    stamps: dict[str, str] = field(default_factory=dict)
    days: dict[str, list[int]] = field(default_factory=dict)
    in_doubt_from: int | None = None
    totals_before: int | None = None
    """The day before which `TOTALS` counts, if it is of use."""


def update(
    source: Location, output: Location, aggregations: Sequence[Aggregation], schema: pa.Schema
) -> list[Staged] | None:
    """Bring the offline table of ``schema`` at ``output`` in step with the transactions at ``source``, a folder.

    ``schema`` begins with the key and the event timestamp. Returns what was written, or None if nothing had changed.
    Raises `UserError` as reading the transactions does; then nothing was touched.
    """
    table = Partitions(output)
    try:
        return _update(source, table, aggregations, schema)
    finally:
        table.clear()


def _update(
    source: Location, table: Partitions, aggregations: Sequence[Aggregation], schema: pa.Schema
) -> list[Staged] | None:
    key, event = schema.names[:2]
    old = _manifest(table, _definition(aggregations, schema))
    files = transaction_files(source)
    stamps = {file.removeprefix(str(source)).lstrip("/"): stamp for file, stamp in files.items()}
    path = dict(zip(stamps, files, strict=True))
    changed = {name for name, stamp in stamps.items() if old.stamps.get(name) != stamp}
    gone = old.stamps.keys() - stamps.keys()
    if not changed and not gone and old.in_doubt_from is None:
        return None

    def read(name: str) -> pa.Table:
        with on_disk(location(path[name])) as file:
            return read_part(file, key, {a.column for a in aggregations})

    parts = {name: read(name) for name in sorted(changed)}
    days = {name: np.unique(_days(parts[name])).tolist() if name in parts else old.days[name] for name in stamps}
    if not any(days.values()):
        raise UserError(f"{source}: there are no rows, so there is nothing to compute.")
    touched = [day for name in changed | gone for day in [*old.days.get(name, []), *days.get(name, [])]]
    start = min(touched + ([] if old.in_doubt_from is None else [old.in_doubt_from]), default=None)
    new = Manifest(old.definition, stamps, days, None, old.totals_before)
    if start is None:  # files without rows have come or gone
        _note(table, new)
        return []

    since = _first_day_needed(start, aggregations)
    parts |= {name: read(name) for name in stamps if name not in parts and max(days[name], default=since - 1) >= since}
    rows = pa.concat_tables(parts.values()).combine_chunks() if parts else read(next(iter(stamps))).slice(0, 0)
    rows = rows.filter(pa.array(_days(rows) >= since))
    earlier = _totals(table, old.totals_before, since, key, counts_to_continue(aggregations))
    history = aggregate_from(start * MICROSECONDS_PER_DAY, rows, earlier, key, TIMESTAMP, aggregations)
    history = history.rename_columns({TIMESTAMP: event}).select(schema.names).cast(schema)

    staged = _stage(table, history, event, schema)
    _note(table, replace(old, in_doubt_from=start))
    table.replace(staged, [day for day in table.days() if day >= start])
    table.note(TOTALS, _to_bytes(earlier.replace_schema_metadata({"before": str(since)})))
    _note(table, replace(new, totals_before=since))
    return staged


def _first_day_needed(start: int, aggregations: Sequence[Aggregation]) -> int:
    """The first day of the purchases that the features from day ``start`` on are made of, but for counts."""
    span = reach(aggregations)
    first = FIRST_DAY if span is None else (start * MICROSECONDS_PER_DAY - span) // MICROSECONDS_PER_DAY
    return max(first, FIRST_DAY)


def _stage(table: Partitions, history: pa.Table, event: str, schema: pa.Schema) -> list[Staged]:
    days = day_of(history[event].cast(pa.int64()).to_numpy())
    order = np.argsort(days, kind="stable")  # in a day they stay sorted by key and instant
    return [table.stage([rows], day, schema) for day, rows in split_by_day(history.take(order), days[order])]


def _totals(table: Partitions, noted_before: int | None, before: int, key: str, counts: list[str]) -> pa.Table:
    """Find the ``counts`` of each key as they stood when the day ``before`` began."""
    columns = [key, *counts]
    totals, first = pa.schema([(name, pa.int64()) for name in columns]).empty_table(), FIRST_DAY
    if not counts:
        return totals
    if noted_before is not None and noted_before <= before and (note := table.noted(TOTALS)):
        noted = feather.read_table(pa.BufferReader(note))
        if noted.schema.metadata[b"before"] == str(noted_before).encode():
            totals, first = noted.replace_schema_metadata(), noted_before
    for day in table.days():
        if first <= day < before:
            # A count never falls, so the highest is the last.
            both = pa.concat_tables([totals, table.read(day, columns).cast(totals.schema)])
            grouped = both.group_by(key).aggregate([(name, "max") for name in counts])
            totals = grouped.rename_columns({f"{name}_max": name for name in counts}).select(columns)
    return totals


def _manifest(table: Partitions, definition: str) -> Manifest:
    """Read the manifest; one that is empty, with all days in doubt, if it is not that of these days."""
    days = table.days()
    anew = Manifest(definition, in_doubt_from=min(days, default=None))
    noted = table.noted(MANIFEST)
    if noted is None:
        return anew
    manifest = Manifest(**json.loads(noted))
    expected = {day for some in manifest.days.values() for day in some}
    differing = expected.symmetric_difference(days)
    if manifest.definition != definition or any(
        manifest.in_doubt_from is None or day < manifest.in_doubt_from for day in differing
    ):
        return anew
    return manifest


def _note(table: Partitions, manifest: Manifest) -> None:
    table.note(MANIFEST, json.dumps(asdict(manifest)).encode())


def _definition(aggregations: Sequence[Aggregation], schema: pa.Schema) -> str:
    """Tell apart what the days may have been computed as."""
    declared = [
        (a.name, a.function, a.column, (a.time_window or MICROSECOND * 0).total_seconds()) for a in aggregations
    ]
    return hashlib.sha256(repr((declared, str(schema))).encode()).hexdigest()


def _days(rows: pa.Table) -> np.ndarray:
    return day_of(rows[TIMESTAMP].cast(pa.int64()).to_numpy())


def _to_bytes(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    feather.write_feather(rows, sink)
    return sink.getvalue().to_pybytes()


FIRST_DAY = int(day_of(np.array(pa.scalar(FIRST_INSTANT, pa.timestamp("us", "UTC")).value)))
