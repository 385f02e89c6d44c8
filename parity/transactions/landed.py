"""Events that were landed: rows of a stream among the files of transactions, each with its place in the stream.

A partition of a stream lands in files ``stream-SOURCE-P-OFFSET.parquet``, OFFSET being that of the file's first row.
They hold the columns of the source, as it calls them, as typed values, and `PARTITION`, `OFFSET` and `ID`. All but the
last file of a partition are full and stay as they are (but for a row that is corrected in its place); the last one is
replaced, as a whole and in one step, until it is full. Its metadata has the greatest offset that the files cover: what
is beyond that has not landed, what is not beyond it has. So a process that is killed leaves no row twice, and one that
reads on from there leaves none out.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pyarrow.fs import FileSelector, FileSystem, FileType

from parity.edge.errors import UserError
from parity.edge.files import Location, filesystem_of, replacing

PARTITION, OFFSET, ID = "_partition", "_offset", "_id"
"""The columns that a landed row has beside those of its source: "SOURCE/P", int64, and text or null."""
PLACE = pa.schema([(PARTITION, pa.string()), (OFFSET, pa.int64()), (ID, pa.string())])
ROWS_PER_FILE = 100_000
FILES_LOOKED_AT = 50
"""In how many files of a partition, the last ones, an event that is produced again is looked for by its id."""
SECONDS_TO_WAIT = 60
OF_ANOTHER_FILE = -1
NOWHERE = -1
"""The offset before the first one."""
LOCK = ".stream.lock"
LONGEST_NAME = 200
_PARTITION, _LAST = b"parity.partition", b"parity.last_offset"
_NAME = re.compile(r"(stream-[^-]+-[^-]+)-(\d{20})\.parquet")


def high_water(place: Location) -> dict[str, int]:
    """The greatest offset that has landed of each partition, in the folder of transactions at ``place``.

    Empty for a place that is no folder, or has none. `UserError` for a file that can't be read.
    """
    if isinstance(place, Path) and not place.is_dir():
        return {}
    filesystem, root = filesystem_of(place)
    if filesystem.get_file_info(root).type != FileType.Directory:
        return {}
    files = filesystem.get_file_info(FileSelector(root))
    newest = {found[1]: info.path for info in sorted(files, key=lambda i: i.path) if (found := _matched(info.path))}
    return dict(_covered(filesystem, path) for path in newest.values())


def is_landed(path: str) -> bool:
    """Whether a file is one of landed events, by its name."""
    return _matched(path) is not None


def _matched(path: str) -> re.Match | None:
    return _NAME.fullmatch(PurePosixPath(path).name)


def _covered(filesystem: FileSystem, path: str) -> tuple[str, int]:
    """The partition of a landed file, and the greatest offset that it covers."""
    try:
        with filesystem.open_input_file(path) as file:
            metadata = pq.read_metadata(file).metadata
        return metadata[_PARTITION].decode(), int(metadata[_LAST])
    except (pa.ArrowException, KeyError, TypeError, ValueError):
        raise UserError(
            f"{path}: this is not a file of landed events, as its name says. Get it from a copy; without one, remove "
            "it: what the stream still has is landed again."
        ) from None


def file_name(partition: str, first: int) -> str:
    """What the landed file is called whose first row has the offset ``first``."""
    parts = (quote(part, safe="").replace("-", "%2D") for part in partition.split("/", 1))
    return f"stream-{'-'.join(parts)}-{first:020d}.parquet"


class _File(NamedTuple):
    """The last file of a partition."""

    path: Path
    stamp: tuple[int, ...]
    last: int
    rows: pa.Table


class _Row(NamedTuple):
    """Where an earlier row is that has the id of another one."""

    path: Path | None
    """That of its file; None if it is only landing."""
    number: int
    values: dict[str, Any]


class Landing:
    """The folder that the events of a source land in.

    ``keys`` are the key columns of each view that reads it. ``others`` gives, for some ids, the keys and `ID` of the
    rows of other files that have them: these have landed, too. A folder in a bucket is a `UserError`.
    """

    def __init__(
        self,
        folder: Location,
        keys: Sequence[Sequence[str]] = (),
        rows_per_file: int = ROWS_PER_FILE,
        others: Callable[[pa.Array], Iterable[dict[str, Any]]] = lambda ids: (),
    ):
        if not isinstance(folder, Path):
            raise UserError(
                f"{folder}: events can't land in a bucket, where no file is locked. Let them land in a folder on a "
                "disk, and copy its files there."
            )
        if folder.exists() and not folder.is_dir():
            raise UserError(f"{folder}: this is a file, and events land in a folder. Name one.")
        self.folder, self._keys, self._rows_per_file = folder, [tuple(key) for key in keys], rows_per_file
        self._others = others
        self._files: dict[str, _File] = {}
        self._reached: dict[str, int] = {}

    def high_water(self) -> dict[str, int]:
        """As `high_water`; from then on, what has landed by now must stay there."""
        found = high_water(self.folder)
        self._reached |= found
        return found

    def has(self, partition: str, offsets: Sequence[int]) -> bool:
        """Whether a row of any of these offsets has landed."""
        wanted = pa.array(offsets, pa.int64())
        columns = (pq.read_table(path, columns=[OFFSET], partitioning=None)[OFFSET] for path in self._paths(partition))
        return any(pc.any(pc.is_in(column, value_set=wanted)).as_py() for column in columns)

    def land(self, rows: pa.Table | None, until: Mapping[str, int], again: np.ndarray | None = None) -> int:
        """Land ``rows``: columns of the source and those of `PLACE`, of each partition in the order of its offsets.
        None is no row at all.

        ``until`` has the greatest offset of each partition that they are all rows up to. What has landed already is
        left out. Of rows that are ``again`` (bool), one that has the id and all keys of a row landed before is either
        the same, and left out, or a correction, which takes the place of that row and keeps its offset.

        Returns how many rows are new. When it returns, the disk has them.
        """
        rows = PLACE.empty_table() if rows is None else rows
        again = np.zeros(rows.num_rows, bool) if again is None else again
        with self._alone():
            return sum(self._land(partition, rows, again, offset) for partition, offset in until.items())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(self.folder / LOCK, SECONDS_TO_WAIT, 0o600, fallback_to_soft=False):
                yield
        except Timeout:
            raise UserError(
                f"{self.folder}: another process lands events here, and does not end. Look for it, and run again."
            ) from None

    def _land(self, partition: str, rows: pa.Table, again: np.ndarray, until: int) -> int:
        newest = self._newest(partition)
        reached = newest.last if newest else NOWHERE
        if reached < self._reached.get(partition, NOWHERE):
            raise UserError(
                f"{self.folder}: files with events of {partition} that had landed are gone. Put them back, or run "
                "again: what the stream still has is landed again."
            )
        if until <= reached:
            return 0
        mine = pc.and_(pc.equal(rows[PARTITION], partition), pc.greater(rows[OFFSET], reached))
        new, again = rows.filter(mine), again[mine.to_numpy().astype(bool)]
        new, corrected = self._sorted_out(partition, new, again) if again.any() else (new, {})
        if newest and newest.path in corrected:
            newest = newest._replace(rows=_corrected(newest.rows, corrected.pop(newest.path)))
        for path, values in corrected.items():  # first, as with the last file all of it has landed
            self._write(path, partition, _corrected(pq.read_table(path, partitioning=None), values), None)
        self._append(partition, newest, new, until)
        self._reached[partition] = until
        return new.num_rows

    def _append(self, partition: str, newest: _File | None, new: pa.Table, until: int) -> None:
        if newest and (not new.num_rows or self._has_room(newest, new.schema)):
            path, rows = newest.path, pa.concat_tables([newest.rows, new]) if new.num_rows else newest.rows
        else:
            if newest and newest.rows is not self._files[partition].rows:  # it was corrected
                self._write(newest.path, partition, newest.rows, newest.last)
            path, rows = self._path(partition, new, until), new
        while rows.num_rows >= 2 * self._rows_per_file:  # too many for one file
            full, rows = rows.slice(0, self._rows_per_file), rows.slice(self._rows_per_file)
            self._write(path, partition, full, full[OFFSET][-1].as_py())
            path = self._path(partition, rows, until)
        rows = rows.combine_chunks()
        self._write(path, partition, rows, until)
        self._files[partition] = _File(path, _stamp(path), until, rows)

    def _has_room(self, newest: _File, schema: pa.Schema) -> bool:
        return newest.rows.num_rows < self._rows_per_file and newest.rows.schema.equals(schema)

    def _path(self, partition: str, rows: pa.Table, until: int) -> Path:
        name = file_name(partition, rows[OFFSET][0].as_py() if rows.num_rows else until)
        if len(name) > LONGEST_NAME:
            raise UserError(f"{partition}: events of a partition with so long a name can't land. Shorten it.")
        return self.folder / name

    def _newest(self, partition: str) -> _File | None:
        """The last file of a partition, as it is now: another process may have landed more."""
        paths = self._paths(partition)
        if not paths:
            self._files.pop(partition, None)
            return None
        held = self._files.get(partition)
        if held is None or (held.path, held.stamp) != (paths[-1], _stamp(paths[-1])):
            filesystem, path = filesystem_of(paths[-1])
            stamp, (_, last) = _stamp(paths[-1]), _covered(filesystem, path)
            rows = pq.read_table(paths[-1], partitioning=None).replace_schema_metadata()
            held = self._files[partition] = _File(paths[-1], stamp, last, rows)
        return held

    def _paths(self, partition: str) -> list[Path]:
        start = file_name(partition, 0).rpartition("-")[0]
        found = ((path, _matched(path.name)) for path in self.folder.glob(f"{start}-*.parquet"))
        return sorted(path for path, name in found if name and name[1] == start)

    def _write(self, path: Path, partition: str, rows: pa.Table, last: int | None) -> None:
        """Put ``rows`` in the place of a file; without ``last``, it goes on covering what it did."""
        if last is None:
            filesystem, name = filesystem_of(path)
            _, last = _covered(filesystem, name)
        metadata = {_PARTITION: partition.encode(), _LAST: str(last).encode()}
        of_partition = path.name.rpartition("-")[0]  # so that what is left of a full file is found as well
        with replacing(path, of_partition) as temporary:
            pq.write_table(rows.replace_schema_metadata(metadata), temporary)

    # Repeated and corrected rows

    def _sorted_out(
        self, partition: str, new: pa.Table, again: np.ndarray
    ) -> tuple[pa.Table, dict[Path, dict[int, dict[str, Any]]]]:
        """Take out of ``new`` what repeats or corrects an earlier row.

        Returns what is left, and, by file and row, the values that corrected rows are to have.
        """
        wanted = new.filter(pa.array(again))[ID].drop_null().unique()
        earlier: dict[str, list[_Row]] = {}
        of_others = (_Row(None, OF_ANOTHER_FILE, values) for values in self._others(wanted))
        for row in chain(of_others, self._rows_of(partition, wanted)):
            earlier.setdefault(row.values[ID], []).append(row)
        kept = np.ones(new.num_rows, bool)
        corrected: dict[Path | None, dict[int, dict[str, Any]]] = {}
        for number in np.flatnonzero(pc.is_in(new[ID], value_set=wanted).to_numpy()).tolist():
            [values] = new.slice(number, 1).to_pylist()
            same = [row for row in earlier.get(values[ID], ()) if again[number] and self._is_one(row.values, values)]
            if not same:
                earlier.setdefault(values[ID], []).append(_Row(None, number, values))
                continue
            kept[number] = False
            row = same[-1]
            if row.number == OF_ANOTHER_FILE:
                continue
            values[OFFSET] = row.values[OFFSET]
            if values != row.values:
                corrected.setdefault(row.path, {})[row.number] = values
                row.values.update(values)
        new = _corrected(new, corrected.pop(None, {})).filter(pa.array(kept))
        return new, corrected

    def _is_one(self, earlier: Mapping[str, Any], later: Mapping[str, Any]) -> bool:
        """Whether two rows with one id are of one key in every view."""
        return all(earlier.get(name) == later[name] for key in self._keys for name in key)

    def _rows_of(self, partition: str, ids: pa.Array) -> Iterator[_Row]:
        """The rows that have landed with one of these ``ids``, in the last files of the partition."""
        least, most = pc.min_max(ids).as_py().values()
        for path in self._paths(partition)[-FILES_LOOKED_AT:]:
            held = self._files.get(partition)
            if held and held.path == path:
                found = held.rows
                numbers = np.flatnonzero(pc.is_in(found[ID], value_set=ids).to_numpy())
            elif _may_have(path, least, most):
                column = pq.read_table(path, columns=[ID], partitioning=None)[ID]
                numbers = np.flatnonzero(pc.is_in(column, value_set=ids).to_numpy())
                found = pq.read_table(path, partitioning=None) if len(numbers) else None
            else:
                continue
            for number in numbers.tolist():
                yield _Row(path, number, found.slice(number, 1).to_pylist()[0])


def _may_have(path: Path, least: str, most: str) -> bool:
    """Whether a file has an id between these, as far as its statistics say."""
    metadata = pq.read_metadata(path)
    place = metadata.schema.to_arrow_schema().names.index(ID)
    for group in range(metadata.num_row_groups):
        found = metadata.row_group(group).column(place).statistics
        if found is None or not found.has_min_max or (found.min <= most and least <= found.max):
            return True
    return False


def _corrected(rows: pa.Table, values: Mapping[int, Mapping[str, Any]]) -> pa.Table:
    """The same rows, with other ``values`` in those of these numbers."""
    rows = rows.replace_schema_metadata()
    for number, others in values.items():
        row = pa.Table.from_pylist([{name: others.get(name) for name in rows.column_names}], rows.schema)
        rows = pa.concat_tables([rows.slice(0, number), row, rows.slice(number + 1)])
    return rows.combine_chunks()


def _stamp(path: Path) -> tuple[int, ...]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, status.st_size
