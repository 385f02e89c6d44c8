"""What the offline table was before: what training would have got at an earlier instant, of the table as it was then.

A run that replaces the table leaves a delta beside it, in ``NAME.versions/``: of each row that is not as it was, the
features that it had, or that it was not there. Going from the table as it is back through the deltas gives each
version. So what is kept grows with what changes, not with how often a run repeats the same.

While a run is at work, the files that it replaces stay in ``NAME.versions/previous/``, as further names of the same
files, which takes no room. A run that was killed leaves them there, and the next run, or whoever asks first, makes the
delta that it owes. A note, ``chain.json``, has the deltas in order and a stamp of each file of the table that they lead
to. If the table is another one by then, as somebody has put a file in its place by hand, or computed it while nothing
was kept, what it was before is not known: the chain begins anew.

A table in a bucket has no versions.
"""

import errno
import glob
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from filelock import FileLock, Timeout

from parity.compute.days import superseded_beside
from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND, UTC_MICROSECONDS, utc_now
from parity.definition.table import COMPUTED_BY, Definition
from parity.edge.configuration import configuration_file
from parity.edge.errors import UserError
from parity.edge.files import Location, absolute, link, location, naming, replacing, sync, sync_folder
from parity.offline.known_then import (
    IS,
    KNOWN,
    KNOWN_AT,
    ROWS_AT_ONCE,
    WAS,
    Delta,
    Lookup,
    as_schema,
    computed_by,
    counts,
)

SECONDS_TO_WAIT, SECONDS_TO_WAIT_TO_READ = 1, 60
CLOCK_TICK = 10_000
"""By how many microseconds the clock of a file system may be behind that of Python."""
STAMPED_BYTES = 1 << 16
MEMORY = "1GB"
"""What comparing a table with what it was may take; what is beyond waits on disk."""


def are_kept(repository: Path) -> bool:
    """Whether the repository logs what it serves: only then anybody asks what was known."""
    try:
        online = yaml.safe_load(configuration_file(repository).read_text())["online_store"]
        return bool(online.get("log_served"))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
        return False  # a configuration that can't be read is refused by those who need it


@contextmanager
def superseding(table: FeatureTable, output: Location, now: Callable[[], datetime] = utc_now) -> Iterator[None]:
    """Keep what the offline table is before the block, in which a run replaces it, as a delta from what it is then.

    An ``output`` that is not that table, or lies in a bucket, is nobody's concern. `UserError` if another run is at
    work on the table, or if there is no room.
    """
    place = location(table.source.path)
    if isinstance(place, str) or absolute(output) != absolute(place):
        yield
        return
    kept = _Kept(place, table.definition)
    with kept.alone(SECONDS_TO_WAIT):
        kept.finish(now)
        kept.begin(now)
        try:
            yield
        finally:  # a run that fails leaves nothing to be done by whoever comes next
            kept.finish(now)


@dataclass(frozen=True)
class _Chain:
    """The deltas of a table, oldest first, and the files that they lead to."""

    known_since: int
    """From when on, in microseconds since 1970, it is known what the table was."""
    deltas: list[str]
    files: dict[str, str]
    """Their stamps, by their path in the table."""
    run: str | None = None
    """The last run that it takes in."""


@dataclass(frozen=True)
class _Begun:
    """What the table was when a run began."""

    run: str
    at: int
    files: dict[str, str]
    computed_by: list[str]


class _Incomparable(Exception):
    """What the table was can't be told from what there is."""


class _Kept:
    """The folder beside a table that keeps what it was."""

    def __init__(self, place: Path, definition: Definition):
        self.place, self.definition = place, definition
        self.previous = superseded_beside(place)
        self.folder = self.previous.parent
        self._chain, self._note = self.folder / "chain.json", self.previous / "begun.json"
        self._new, self._spilled = self.folder / "new", self.folder / "spilled"

    @contextmanager
    def alone(self, seconds: float) -> Iterator[None]:
        """Keep other runs out for as long as the block lasts. `UserError` if one is at work for so many seconds."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.folder / "_lock", seconds, 0o600, fallback_to_soft=False)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(f"{self.place}: a run is replacing it. Wait until it has ended, and run again.") from None
        try:
            yield
        finally:
            lock.release()

    def chain(self) -> _Chain | None:
        """None if there is none, or if it is damaged."""
        try:
            return _Chain(**json.loads(self._chain.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return None

    def begin(self, now: Callable[[], datetime]) -> None:
        files, chain = stamps_of(self.place), self.chain()
        started = _count(now())
        if chain is None or chain.files != files:
            self._note_chain(_Chain(min(started, unchanged_since(self.place)), [], files))
        making = self.folder / "making"
        for left in (making, self.previous, self.folder / "gone"):
            shutil.rmtree(left, ignore_errors=True)
        making.mkdir()
        if self.place.is_file():
            link(self.place, making / self.place.name)
        begun = _Begun(uuid.uuid4().hex, started, files, computed_by(self._paths(files)))
        (making / self._note.name).write_text(json.dumps(asdict(begun)))
        sync(making / self._note.name)
        making.rename(self.previous)

    def finish(self, now: Callable[[], datetime]) -> None:
        """Make the delta of the run that began last, if it has not been made."""
        try:
            begun = _Begun(**json.loads(self._note.read_bytes()))
        except (FileNotFoundError, ValueError, TypeError):
            return
        files, chain = stamps_of(self.place), self.chain()
        if files != begun.files and (chain is None or chain.run != begun.run):
            self._note_chain(self._followed(chain, begun, files, _count(now())))
        gone = self.folder / "gone"
        shutil.rmtree(gone, ignore_errors=True)
        self.previous.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)
        self._remove_unnamed()

    def _followed(self, chain: _Chain | None, begun: _Begun, files: dict[str, str], now: int) -> _Chain:
        changed = sorted(name for name in begun.files | files if begun.files.get(name) != files.get(name))
        at = min(now, max(begun.at, self._replaced_at([name for name in changed if name in files])))
        if chain is None or chain.files != begun.files or not begun.files:
            return _Chain(at, [], files, begun.run)
        at = max([at, *(instant_of(name) + 1 for name in chain.deltas[-1:])])
        try:
            deltas = self._write(at, changed, begun, files)
        except (duckdb.IOException, duckdb.OutOfMemoryException) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{self.folder}: what the features were before can't be kept: {reason:.200}") from None
        except (_Incomparable, duckdb.Error, pa.ArrowException, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.ENOENT):
                raise
            return _Chain(at, [], files, begun.run)  # what was there is no such table
        return _Chain(chain.known_since, [*chain.deltas, *deltas], files, begun.run)

    def _replaced_at(self, names: list[str]) -> int:
        """When the last of some files of the table was put in its place; in a folder, when it last lost one."""
        paths = [self._path(name) for name in names] or [path for path in [self.place] if path.exists()]
        return max((path.stat().st_ctime_ns // 1000 for path in paths), default=0)

    def _write(self, at: int, changed: list[str], begun: _Begun, files: dict[str, str]) -> list[str]:
        """Write the delta of a run that has ``changed`` some files; none if all is as it was."""
        groups: dict[str, tuple[list[Path], list[Path]]] = {}
        schemas: list[pa.Schema] = []
        for name in changed:
            old = [self.previous / name] if name in begun.files else []
            new = [self._path(name)] if name in files else []
            read = [_plain(pq.read_schema(path)) for path in [*old, *new]]
            for schema in read:
                self._require_keys(schema)
            schemas += read[: len(old)]
            group = groups.setdefault(repr([(len(old), len(new)), *map(str, read)]), ([], []))
            group[0].extend(old)
            group[1].extend(new)
        schema = self._schema(schemas).with_metadata({COMPUTED_BY: ",".join(begun.computed_by)})
        name, rows = f"{_name_of(at)}.parquet", 0
        with naming(self.folder / name):
            with pq.ParquetWriter(self._new, schema) as writer:
                for old, new in groups.values():
                    for batch in self._differing(old, new):
                        writer.write_table(as_schema(pa.table(batch), schema))
                        rows += batch.num_rows
            if not rows and begun.computed_by == computed_by(self._paths(files)):
                return []
            sync(self._new)
            self._new.rename(self.folder / name)
            sync_folder(self.folder)
        return [name]

    def _require_keys(self, schema: pa.Schema) -> None:
        for field in self._key_fields:
            if schema.names.count(field.name) != 1 or schema.field(field.name).type != field.type:
                raise _Incomparable

    @property
    def _key_fields(self) -> list[pa.Field]:
        return [*self.definition.keys, pa.field(self.definition.event, UTC_MICROSECONDS, nullable=False)]

    def _schema(self, schemas: Sequence[pa.Schema]) -> pa.Schema:
        fields = {field.name: field for field in self._key_fields}
        for field in (field for schema in schemas for field in schema):
            if fields.setdefault(field.name, pa.field(field.name, field.type)).type != field.type:
                raise _Incomparable  # half of the table by one definition, half by another
        return pa.schema([*fields.values(), pa.field(WAS, pa.bool_()), pa.field(IS, pa.bool_())])

    def _differing(self, old: list[Path], new: list[Path]) -> Iterator[pa.RecordBatch]:
        """The rows that are not the same, to the bit, in two lists of files, each of one schema: as they were."""
        keys = [field.name for field in self._key_fields]
        before, after = (
            {field.name: field.type for field in pq.read_schema(some[0]) if field.name not in keys} if some else {}
            for some in (old, new)
        )
        names = ", ".join(map(_quoted, keys))
        was = ", ".join(f"o.{_quoted(name)}" for name in before)
        if not new:
            query = f"SELECT *, true AS {_quoted(WAS)}, false AS {_quoted(IS)} FROM {_files(old)}"
        elif not old:
            query = f"SELECT {names}, false AS {_quoted(WAS)}, true AS {_quoted(IS)} FROM {_files(new)}"
        else:
            differ = " OR ".join(f"({_unlike(name, type)})" for name, type in before.items()) or "false"
            differ = differ if before == after else "true"
            query = f"""
                SELECT {names}, {was + "," if was else ""} o.{_quoted(WAS)} IS NOT NULL AS {_quoted(WAS)},
                    n.{_quoted(IS)} IS NOT NULL AS {_quoted(IS)}
                FROM (SELECT *, true AS {_quoted(WAS)} FROM {_files(old)}) o
                FULL OUTER JOIN (SELECT *, true AS {_quoted(IS)} FROM {_files(new)}) n USING ({names})
                WHERE o.{_quoted(WAS)} IS NULL OR n.{_quoted(IS)} IS NULL OR {differ}"""
        with duckdb.connect(config={"temp_directory": str(self._spilled), "memory_limit": MEMORY}) as connection:
            connection.execute("SET TimeZone = 'UTC'; SET preserve_insertion_order = false")
            yield from connection.execute(query).fetch_record_batch(ROWS_AT_ONCE)

    def _path(self, name: str) -> Path:
        return self.place / name if self.place.is_dir() else self.place

    def _paths(self, files: dict[str, str]) -> list[Path]:
        return [self._path(name) for name in files]

    def _note_chain(self, chain: _Chain) -> None:
        with replacing(self._chain) as temporary:
            temporary.write_text(json.dumps(asdict(chain)))

    def _remove_unnamed(self) -> None:
        """Remove the deltas of a chain that has ended, and what a run that was killed had begun to write."""
        chain = self.chain()
        self._new.unlink(missing_ok=True)
        shutil.rmtree(self._spilled, ignore_errors=True)
        for path in self.folder.glob("*.parquet"):
            if chain is None or path.name not in chain.deltas:
                path.unlink()


def stamps_of(place: Path) -> dict[str, str]:
    """The files of the table at ``place``, none if there is no such table, each with a stamp to know it again by.

    It is made of the size, the time of the last modification, and the end, where a Parquet file says what is where.
    """
    if place.is_file():
        return {place.name: _stamp(place)}
    return {str(path.relative_to(place)): _stamp(path) for path in sorted(place.rglob("*.parquet")) if path.is_file()}


def _stamp(path: Path) -> str:
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        file.seek(max(0, status.st_size - STAMPED_BYTES))
        return f"{status.st_size}-{status.st_mtime_ns}-{hashlib.sha256(file.read()).hexdigest()[:16]}"


def unchanged_since(place: Path) -> int:
    """From when on, in microseconds since 1970, nobody can have changed anything about the table at ``place``."""
    paths = [place, *place.rglob("*")] if place.is_dir() else [place]
    paths = [path for path in paths if path.is_dir() or path.suffix == ".parquet"]
    return max((path.stat().st_ctime_ns // 1000 + CLOCK_TICK for path in paths if path.exists()), default=2**62)


class Versions:
    """What the offline table was, as far as it is known."""

    def __init__(self, table: FeatureTable, files: dict[str, str], since: int | None, deltas: list[Delta]):
        self._table, self._files, self._since, self._deltas = table, files, since, deltas
        self._place = location(table.source.path)

    @classmethod
    def of(cls, table: FeatureTable, now: Callable[[], datetime] = utc_now) -> "Versions":
        """Make the delta that a killed run owes, and find the others. `UserError` while a run replaces the table."""
        place = location(table.source.path)
        if isinstance(place, str):
            return cls(table, {}, None, [])
        kept = _Kept(place, table.definition)
        if kept.previous.exists():
            with kept.alone(SECONDS_TO_WAIT_TO_READ):
                kept.finish(now)
        with _unchanged(place):
            files, chain = stamps_of(place), kept.chain()
            if not files:
                return cls(table, {}, None, [])
            if chain is None or chain.files != files:
                return cls(table, files, unchanged_since(place), [])
        since, deltas = chain.known_since, []
        for name in chain.deltas:
            deltas.append(Delta(instant_of(name), kept.folder / name))
            if not _is_readable(deltas[-1].path):  # what was before it is lost
                since, deltas = deltas[-1].at, []
        return cls(table, files, since, deltas)

    @property
    def known_since(self) -> datetime | None:
        """From when on it is known what the table was; None if there is none, or if it lies in a bucket."""
        return None if self._since is None else EPOCH + self._since * MICROSECOND

    @property
    def instants(self) -> list[datetime]:
        """When the table became another, oldest first, for as long as it is known what it was."""
        return [EPOCH + delta.at * MICROSECOND for delta in self._deltas]

    def known_then(self, asked: pa.Table) -> pa.Table:
        """What training would have got for each key at `AS_OF` of the table as it was at `KNOWN_AT`.

        ``asked`` has the join keys and these two, in microseconds. The answer has a row for each, in the same order:
        `KNOWN`, false before `known_since`; `THEN_EVENT`, the event of the row that training would have got, null if
        there was none or if it was older than the ttl; the features, of which those are null that were of another type
        or not there; `COMPUTED_BY_THEN`, the fingerprint of the definition of that version; `SUPERSEDED_AT`, when it
        first became something else, and `SUPERSEDED_HOW`: a row was `ADDED`, or that one was `REMOVED` or `CHANGED`.
        What is changed is so mostly as other rows were: `SUPERSEDED_WITH` says whether the same run has added or
        removed one before it, of the same key, that its features can be made of.

        The keys of the whole table are read once a call, and two numbers are kept of each row of a key that is asked
        for. `UserError` if somebody replaces the table meanwhile.
        """
        known = np.zeros(asked.num_rows, bool)
        if self._since is not None:
            known = counts(asked[KNOWN_AT]) >= self._since
        places = np.flatnonzero(known)
        found = Lookup(self._table, self._paths, self._deltas, asked.take(pa.array(places))).answer()
        if self._since is not None:
            with _unchanged(self._place):
                if stamps_of(self._place) != self._files:
                    raise FileNotFoundError
        back = np.full(len(known), -1)
        back[places] = np.arange(len(places))
        found = found.take(pa.array(back, mask=back < 0))
        return found.add_column(0, KNOWN, pa.array(known))

    @property
    def _paths(self) -> list[Path]:
        return [self._place / name if self._place.is_dir() else self._place for name in self._files]


@contextmanager
def _unchanged(place: Path) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise UserError(f"{place}: it was replaced while it was read. Run again when it stays as it is.") from None


def _is_readable(path: Path) -> bool:
    try:
        return {WAS, IS} <= set(pq.read_schema(path).names)
    except (pa.ArrowException, OSError):
        return False


def _plain(schema: pa.Schema) -> pa.Schema:
    return pa.schema([pa.field(field.name, field.type) for field in schema])


def _unlike(name: str, type: pa.DataType) -> str:
    """A condition: a feature differs, in any bit that means something. There is one NaN, and it is not null."""
    old, new = f"o.{_quoted(name)}", f"n.{_quoted(name)}"
    unlike = f"{old} IS DISTINCT FROM {new}"
    return f"{unlike} OR ({old} = 0 AND signbit({old}) <> signbit({new}))" if pa.types.is_floating(type) else unlike


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _files(paths: Sequence[Path]) -> str:
    """The Parquet files, for DuckDB, which takes [a].parquet for a pattern."""
    literal = (glob.escape(str(path.absolute())).replace("'", "''") for path in paths)
    return "read_parquet([{}], hive_partitioning = false)".format(", ".join(f"'{path}'" for path in literal))


def _count(instant: datetime) -> int:
    return (instant - EPOCH) // MICROSECOND


_NAMES = "%Y-%m-%dT%H-%M-%S.%fZ"


def _name_of(at: int) -> str:
    return (EPOCH + at * MICROSECOND).strftime(_NAMES)


def instant_of(name: str) -> int:
    """When a delta was made, in microseconds since 1970, by its name."""
    return _count(datetime.strptime(name.removesuffix(".parquet"), _NAMES).replace(tzinfo=UTC))
