"""Tables that are folders: of transaction files, and of features by day. On a disk, or in a bucket (s3://, s3a://).

Features lie in ``event_date=YYYY-MM-DD/features.parquet``, a file for each day (UTC) that has any. A run first writes
all its days to a folder of their own, then puts each in its place, in one step a day. So a run that fails leaves the
earlier table whole; one that is killed while it puts them in place leaves every day either old or new, and is mended by
running it again.
"""

import os
import uuid
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileInfo, FileSelector, FileType, LocalFileSystem

from parity.command import UserError
from parity.files import ROWS_PER_WRITE, Location, files_at, filesystem_of, is_parquet, location

MICROSECONDS_PER_DAY = 86_400_000_000
STAGING = "_staging"
MANIFEST = "_manifest.json"
FEATURES = "features.parquet"


def day_of(times: np.ndarray) -> np.ndarray:
    """Number the UTC days of ``times``, in microseconds, from 1970-01-01."""
    return times // MICROSECONDS_PER_DAY


def split_by_day(rows: pa.Table, days: np.ndarray) -> Iterator[tuple[int, pa.Table]]:
    """Split ``rows``, which lie in ``days``, ascending, into the rows of each day."""
    starts = np.flatnonzero(np.append(True, days[1:] != days[:-1])) if len(days) else []
    for start, end in pairwise([*starts, len(days)]):
        yield int(days[start]), rows.slice(start, end - start)


def transaction_files(place: Location) -> dict[str, str]:
    """List the files of transactions at ``place``, itself one or a folder of them, as paths or URIs, sorted.

    Each with a stamp that changes when the file does: its size and the time of its last modification.
    """
    _, root, found = files_at(place)
    if not found:
        raise UserError(f"{place}: there is no CSV or Parquet file in this folder.")
    if found[0].path == root:
        return {str(place): _stamp(found[0])}
    folder = str(place).rstrip("/")
    files = {f"{folder}{info.path.removeprefix(root)}": _stamp(info) for info in found}
    for file in files:
        is_parquet(location(file))
    return files


def _stamp(info: FileInfo) -> str:
    return f"{info.size}-{info.mtime_ns}"


class Staged(NamedTuple):
    """A day's features, written whole, and not yet in their place."""

    day: int
    file: str
    rows: int


class Partitions:
    """A table of features, a file for each day."""

    def __init__(self, place: Location):
        self.place = place
        self._filesystem, self._root = filesystem_of(place)
        self._is_disk = isinstance(self._filesystem, LocalFileSystem)  # a bucket has no folders to make
        if self._filesystem.get_file_info(self._root).is_file:
            raise UserError(f"{place}: this is a file, and features by day need a folder. Remove it first.")

    def days(self) -> list[int]:
        """The days that the table has, in order."""
        found = self._filesystem.get_file_info(FileSelector(self._root, allow_not_found=True, recursive=True))
        names = [PurePosixPath(info.path).parent.name for info in found if info.base_name == FEATURES]
        dates = [name.removeprefix("event_date=") for name in names if name.startswith("event_date=")]
        return sorted(np.array(dates, "datetime64[D]").astype(int).tolist())

    def stage(self, tables: Iterable[pa.Table], day: int, schema: pa.Schema) -> Staged:
        """Write the features of ``day``, to be put in their place by `replace`."""
        path, rows = self._staged_path(), 0
        with pq.ParquetWriter(path, schema, filesystem=self._filesystem) as writer:
            for table in _of_size(tables, ROWS_PER_WRITE):
                writer.write_table(table.cast(schema))
                rows += table.num_rows
        return Staged(day, path, rows)

    def replace(self, staged: Iterable[Staged], days: Iterable[int]) -> None:
        """Put staged days in their places, and take out those of ``days`` that are not among them."""
        new = {part.day: part.file for part in staged}
        for day, file in sorted(new.items()):
            self._put(file, f"{self._folder(day)}/{FEATURES}")
        for day in set(days) - new.keys():
            self._delete(day)

    def read(self, day: int, columns: list[str]) -> pa.Table:
        """Read some columns of the features of a day."""
        path = f"{self._folder(day)}/{FEATURES}"
        return pq.read_table(path, columns=columns, filesystem=self._filesystem, partitioning=None)

    def note(self, name: str, content: bytes) -> None:
        """Keep ``content`` beside the days, in place of an earlier note of that name. Such names begin with ``_``."""
        path = self._staged_path()
        with self._filesystem.open_output_stream(path) as file:
            file.write(content)
        self._put(path, f"{self._root}/{name}")

    def noted(self, name: str) -> bytes | None:
        path = f"{self._root}/{name}"
        if not self._filesystem.get_file_info(path).is_file:
            return None
        with self._filesystem.open_input_stream(path) as file:
            return file.read()

    def forget(self, name: str) -> None:
        """Remove a note, if there is one."""
        if self._filesystem.get_file_info(f"{self._root}/{name}").is_file:
            self._filesystem.delete_file(f"{self._root}/{name}")

    def clear(self) -> None:
        """Remove what a run has staged and not put in its place."""
        if self._filesystem.get_file_info(f"{self._root}/{STAGING}").type == FileType.Directory:
            self._filesystem.delete_dir(f"{self._root}/{STAGING}")

    def _staged_path(self) -> str:
        if self._is_disk:
            self._filesystem.create_dir(f"{self._root}/{STAGING}")
        return f"{self._root}/{STAGING}/{uuid.uuid4().hex}"

    def _put(self, staged: str, path: str) -> None:
        if self._is_disk:
            with open(staged, "rb") as file:
                os.fsync(file.fileno())
            self._filesystem.create_dir(str(PurePosixPath(path).parent))
        self._filesystem.move(staged, path)  # in one step, on a disk as in a bucket

    def _delete(self, day: int) -> None:
        self._filesystem.delete_dir(self._folder(day))

    def _folder(self, day: int) -> str:
        return f"{self._root}/event_date={np.datetime64(day, 'D')}"


def _of_size(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of at least so many, but for the last."""
    held: list[pa.Table] = []
    for table in tables:
        held.append(table)
        if sum(some.num_rows for some in held) >= rows:
            yield pa.concat_tables(held).combine_chunks()
            held = []
    if held:
        yield pa.concat_tables(held).combine_chunks()
