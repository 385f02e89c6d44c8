"""Features by day, brought in step with a folder of transaction files: only what can have changed is computed again.

The folder is the truth: the result is what the whole of it gives, whatever was added to it, changed or removed, and in
whichever order. Beside the days lies a manifest of the files they were computed from, each with its size, the time of
its last modification (which a bucket tells to the second), and the days of its purchases. A file for which name, size
and time are the same has not changed.

From the first day of any file that has changed, all days are computed anew. That takes the purchases from the longest
window before that day on, so no file is read whose purchases are all older; and what features without a window had come
to before those (`parity.compute.tail`), which the older days of the features hold, and `TOTALS`, which spares reading
most of them. If any feature has no window and can't be continued, all files are read.

Before any day is replaced the manifest says from which day on they are in doubt, and it takes in the new files only
when all is done. So after a run that was killed, the next one does that work again, and does it right.

The manifest has a checksum, that of `TOTALS`, and a stamp of each day's file: size, times of modification and (on a
disk) of any change. What is damaged, or was changed by anybody else, is computed anew.

On a disk a lock keeps a second run out. In a bucket there is none, so a run reads the manifest again before it puts its
days in place, and before it says that they are right. If another run has changed it meanwhile, it refuses, and the next
run heals. Two runs that overlap there do no lasting harm, though readers may see the days of both until then.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.feather as feather

from parity.compute.days import MANIFEST, TOTALS, Damaged, Partitions, Staged, split_by_day
from parity.compute.tail import aggregate_from, tail_of
from parity.definition.instants import FIRST_INSTANT, MICROSECONDS_PER_DAY, day_of
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.edge.files import Location, location, on_disk
from parity.transactions.listing import transaction_files
from parity.transactions.read import read_part


@dataclass(frozen=True)
class Manifest:
    """What the days were computed from."""

    definition: str
    stamps: dict[str, str] = field(default_factory=dict)
    days: dict[str, list[int]] = field(default_factory=dict)
    """The days of the purchases in each file."""

    written: dict[int, str] = field(default_factory=dict)
    """The stamp of each day's file of features."""

    in_doubt_from: int | None = None
    run: str | None = None
    """Which run has put days in doubt; no other may say that they are right."""

    totals_before: int | None = None
    """The day before whose rows `TOTALS` is the tail of, if it is of use."""

    totals_sha256: str | None = None


def update(source: Location, output: Location, definition: Definition) -> list[Staged] | None:
    """Bring the offline table of ``definition`` at ``output`` in step with the transactions at ``source``, a folder.

    Returns what was written, or None if nothing had changed.
    Raises `UserError` as reading the transactions does; then nothing was touched.
    """
    table = Partitions(output)
    with table.alone():
        try:
            return _update(source, table, definition)
        except Damaged:  # behind the back of the stamps, so none of the days is to be trusted
            table.forget(MANIFEST)
            return _update(source, table, definition)


def _update(source: Location, table: Partitions, definition: Definition) -> list[Staged] | None:
    noted = table.noted(MANIFEST)
    written = table.stamps()
    old = _manifest(noted, written, definition.fingerprint)
    files = transaction_files(source)
    stamps = {file.removeprefix(str(source)).lstrip("/"): stamp for file, stamp in files.items()}
    path = dict(zip(stamps, files, strict=True))
    changed = {name for name, stamp in stamps.items() if old.stamps.get(name) != stamp}
    gone = old.stamps.keys() - stamps.keys()
    if not changed and not gone and old.in_doubt_from is None:
        return None

    def read(name: str) -> pa.Table:
        with on_disk(location(path[name])) as file:
            return read_part(file, definition)

    parts = {name: read(name) for name in sorted(changed)}
    days = {name: _days(parts[name], definition) if name in parts else old.days[name] for name in stamps}
    if not any(days.values()):
        raise UserError(f"{source}: there are no rows, so there is nothing to compute.")
    touched = [day for name in changed | gone for day in [*old.days.get(name, []), *days.get(name, [])]]
    start = min(touched + ([] if old.in_doubt_from is None else [old.in_doubt_from]), default=None)
    new = replace(old, stamps=stamps, days=days, in_doubt_from=None, run=None)
    if start is None:  # files without rows have come or gone
        _require_unchanged(table, noted)
        table.note(MANIFEST, _to_json(new))
        return []

    since = _first_day_needed(start, definition)
    parts |= {name: read(name) for name in stamps if name not in parts and max(days[name], default=since - 1) >= since}
    rows = pa.concat_tables(parts.values()).combine_chunks() if parts else read(next(iter(stamps))).slice(0, 0)
    instants = rows[definition.reading.timestamp].cast(pa.int64())
    rows = rows.filter(pc.greater_equal(instants, since * MICROSECONDS_PER_DAY))
    earlier = _totals(table, old, sorted(written), since, definition)
    history = aggregate_from(start * MICROSECONDS_PER_DAY, rows, earlier, definition)

    staged, totals = _stage(table, history, definition), _to_bytes(earlier)
    in_doubt = _to_json(replace(old, in_doubt_from=start, run=table.run))
    _require_unchanged(table, noted)
    table.note(MANIFEST, in_doubt)
    table.replace(staged, [day for day in written if day >= start])
    table.note(TOTALS, totals)
    new = replace(new, written=table.stamps(), totals_before=since, totals_sha256=hashlib.sha256(totals).hexdigest())
    if table.noted(MANIFEST) != in_doubt:
        table.forget(MANIFEST)  # nobody knows whose days are whose: the next run computes all of them
        raise UserError(_ANOTHER_RUN.format(table.place))
    table.note(MANIFEST, _to_json(new))
    return staged


def _require_unchanged(table: Partitions, noted: bytes | None) -> None:
    """Refuse to go on if another run has written to the table, as one can in a bucket, where nothing locks it out."""
    if table.noted(MANIFEST) != noted:
        raise UserError(_ANOTHER_RUN.format(table.place))


_ANOTHER_RUN = "{}: another run has written to this folder meanwhile. Run again when it has ended."


def _first_day_needed(start: int, definition: Definition) -> int:
    """The first day of the purchases that the features from day ``start`` on are made of, but for what continues."""
    span = definition.reach
    first = FIRST_DAY if span is None else (start * MICROSECONDS_PER_DAY - span) // MICROSECONDS_PER_DAY
    return max(first, FIRST_DAY)


def _stage(table: Partitions, history: pa.Table, definition: Definition) -> list[Staged]:
    days = day_of(history[definition.event].cast(pa.int64()).to_numpy())
    order = np.argsort(days, kind="stable")  # in a day they stay sorted by key and instant
    return [table.stage([rows], day, definition.schema) for day, rows in split_by_day(history.take(order), days[order])]


def _totals(table: Partitions, old: Manifest, written: list[int], before: int, definition: Definition) -> pa.Table:
    """The tail of all rows up to the day ``before``, from the days ``written``."""
    schema = definition.tail
    totals, first = schema.empty_table(), FIRST_DAY
    if len(schema) == len(definition.keys):
        return totals  # there is nothing to continue
    if old.totals_before is not None and old.totals_before <= before:
        note = table.noted(TOTALS)
        if note and hashlib.sha256(note).hexdigest() == old.totals_sha256:
            totals, first = feather.read_table(pa.BufferReader(note)), old.totals_before
    for day in written:
        if first <= day < before:
            # The rows of a day are sorted by key and instant, and a later day replaces what an earlier one came to.
            rows = _typed(table.read(day, schema.names), schema)
            totals = tail_of(pa.concat_tables([totals, rows]), definition)
    return totals


def _typed(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    try:
        return rows.cast(schema)
    except (pa.ArrowException, ValueError) as error:
        raise Damaged from error


def _manifest(noted: bytes | None, written: dict[int, str], definition: str) -> Manifest:
    """Read the manifest of the days that are ``written``, and put those in doubt that it does not know as they are.

    All are if the manifest is missing, damaged, or of another definition.
    """
    manifest = _from_json(noted)
    if manifest is None or manifest.definition != definition:
        return Manifest(definition, in_doubt_from=min(written, default=None))
    differing = [day for day in manifest.written | written if manifest.written.get(day) != written.get(day)]
    if manifest.in_doubt_from is not None:
        differing.append(manifest.in_doubt_from)
    return replace(manifest, in_doubt_from=min(differing, default=None))


def _to_json(manifest: Manifest) -> bytes:
    content = asdict(manifest)
    content["written"] = {str(day): stamp for day, stamp in manifest.written.items()}
    return json.dumps({**content, "checksum": _checksum(content)}).encode()


def _from_json(noted: bytes | None) -> Manifest | None:
    """Read a manifest; None if it is not, to the letter, one that `_to_json` wrote."""
    try:
        content = json.loads(noted or b"")
        if content.pop("checksum") != _checksum(content):
            return None
        written = {int(day): stamp for day, stamp in content.pop("written").items()}
        return Manifest(**content, written=written)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return None


def _checksum(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _days(rows: pa.Table, definition: Definition) -> list[int]:
    return np.unique(day_of(rows[definition.reading.timestamp].cast(pa.int64()).to_numpy())).tolist()


def _to_bytes(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    feather.write_feather(rows, sink)
    return sink.getvalue().to_pybytes()


FIRST_DAY = int(day_of(np.array(pa.scalar(FIRST_INSTANT, pa.timestamp("us", "UTC")).value)))
