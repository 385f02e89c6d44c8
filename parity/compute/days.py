"""Tables that are folders: of transaction files, and of features by day. On a disk, or in a bucket (s3://, s3a://).

Features lie in ``event_date=YYYY-MM-DD/features.parquet``, a file for each day (UTC) that has any. A run first writes
all its days to a folder of their own, then puts each in its place, in one step a day. So a run that fails leaves the
earlier table whole; one that is killed while it puts them in place leaves every day either old or new, and is mended by
running it again.

On a disk one run at a time writes to a table: it holds a lock, which the kernel drops when the process dies. A bucket
has no locks.
"""

import os
import re
import socket
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from datetime import date, timedelta
from itertools import groupby, pairwise
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock, Timeout
from pyarrow.fs import FileInfo, FileSelector, FileType, LocalFileSystem

from parity.definition.instants import utc_now
from parity.edge.errors import UserError, bucket_trouble
from parity.edge.files import ROWS_PER_WRITE, Location, filesystem_of, link, naming, sync, sync_folder
from parity.transactions.listing import stamp_of

STAGING = "_staging"
MANIFEST = "_manifest.json"
TOTALS = "_totals.arrow"
"""A note of what the features that continue had come to, for each key, before a certain day."""

FEATURES = "features.parquet"
LOCK = "_lock"
SECONDS_TO_WAIT = 1
ABANDONED_AFTER = timedelta(days=1)
DAY_FOLDER = "event_date="


def superseded_beside(place: Path) -> Path:
    """The folder that keeps, beside the table at ``place``, the files that a run puts others in the place of.

    It is there while `parity.offline.versions` watches a run.
    """
    return place.with_suffix(".versions") / "previous"


def split_by_day(rows: pa.Table, days: np.ndarray) -> Iterator[tuple[int, pa.Table]]:
    """Split ``rows``, which lie in ``days``, ascending, into the rows of each day."""
    starts = np.flatnonzero(np.append(True, days[1:] != days[:-1])) if len(days) else []
    for start, end in pairwise([*starts, len(days)]):
        yield int(days[start]), rows.slice(start, end - start)


class Staged(NamedTuple):
    """A day's features, written whole, and not yet in their place."""

    day: int
    file: str
    rows: int


class Damaged(Exception):
    """A day's file does not hold what was written to it."""


class Partitions:
    """A table of features, a file for each day. ``run`` names the run that writes, of which workers may have a part."""

    def __init__(self, place: Location, run: str | None = None):
        self.place = place
        self.run = run or uuid.uuid4().hex
        self._filesystem, self._root = filesystem_of(place)
        self._is_disk = isinstance(self._filesystem, LocalFileSystem)  # a bucket has no folders to make
        if self._filesystem.get_file_info(self._root).is_file:
            raise UserError(f"{place}: this is a file, and features by day need a folder. Remove it first.")

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other runs from writing to this table for as long as the block lasts, and clean up after it.

        `UserError` if one writes already, or if there is something in the folder that is no part of such a table. In a
        bucket nothing keeps others out: `parity.compute.incremental` notices them in the end.
        """
        with self._locked() if self._is_disk else nullcontext():
            try:
                self.stamps()
                self._clear_left_over()
                yield
            finally:
                self.clear()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        root, path = Path(self._root), f"{self._root}/{LOCK}"
        is_new = not root.exists()
        lock = FileLock(path, SECONDS_TO_WAIT, 0o600, fallback_to_soft=False, on_acquired=_sign)  # or all could hold it
        while not lock.is_locked:
            root.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire()
            except FileNotFoundError:
                continue  # the run before has removed the folder, as it had no days to put there
            except Timeout:
                raise UserError(
                    f"{self.place}: {_holder(path)} writes to this folder. Wait until it has ended, and run again."
                ) from None
            except IsADirectoryError:
                raise UserError(f"{path}: this is a folder, and a file belongs there. Remove it.") from None
            except OSError as error:
                raise UserError(
                    f"{path}: {error.strerror}. A run locks this file; if none of another user is at work, remove it."
                ) from None
        try:
            yield
        finally:
            with suppress(OSError):
                Path(path).unlink()  # while it is ours; who waits for it makes another
                if is_new:
                    root.rmdir()  # if there are no days to keep
            lock.release()

    def days(self) -> list[int]:
        """The days that the table has, in order."""
        return sorted(self.stamps())

    def stamps(self) -> dict[int, str]:
        """Each day of the table, with a stamp that changes when its file does.

        `UserError` for what is no part of such a table, but would be read with it, or is in the way.
        """
        found = self._filesystem.get_file_info(FileSelector(self._root, allow_not_found=True, recursive=True))
        stamps = {}
        for info in found:
            name = info.path[len(self._root) :].strip("/")
            day = day_named(name)
            if day is not None and info.is_file and not self._is_link(name):
                stamps[day] = self._stamp(info)
            elif trouble := self._in_the_way(name, day, info):
                raise UserError(f"{self.place}/{name}: {trouble} Remove it, or move it elsewhere.")
        return stamps

    def _in_the_way(self, name: str, day: int | None, info: FileInfo) -> str | None:
        """Say what is wrong with something that is not the file of a day."""
        first, _, rest = name.partition("/")
        is_folder = not rest and (first == STAGING or first.startswith(DAY_FOLDER))
        if (is_folder or day is not None) and self._is_link(name):
            return "this is a link, and not a part of the table."
        if is_folder and info.type != FileType.Directory:
            return "this is not a folder, and a folder belongs there."
        if (day is not None or name in (MANIFEST, TOTALS)) and not info.is_file:
            return "this is not a file, and a file belongs there."
        if day is None and first != STAGING and info.is_file and info.extension == "parquet":
            return f"this is not a day of features, as {DAY_FOLDER}2026-01-31/{FEATURES} is, and would be read as one."
        return None

    def _is_link(self, name: str) -> bool:
        return self._is_disk and Path(self._root, name).is_symlink()

    def _stamp(self, info: FileInfo) -> str:
        """As `stamp_of`; a disk also notes when anything about a file was last changed, which nobody can set."""
        return f"{stamp_of(info)}-{Path(info.path).stat().st_ctime_ns}" if self._is_disk else stamp_of(info)

    def stage(self, tables: Iterable[pa.Table], day: int, schema: pa.Schema) -> Staged:
        """Write the features of ``day``, to be put in their place by `replace`."""
        path, rows = self._staged_path(), 0
        place = f"{self.place}/{_folder_name(day)}/{FEATURES}"
        with naming(place), self._create(path) as file, pq.ParquetWriter(file, schema) as writer:
            for table in _of_size(tables, ROWS_PER_WRITE):
                writer.write_table(table.cast(schema))
                rows += table.num_rows
        return Staged(day, path, rows)

    def replace(self, staged: Iterable[Staged], days: Iterable[int]) -> None:
        """Put staged days in their places, and take out those of ``days`` that are not among them."""
        new = {part.day: part.file for part in staged}
        for day, file in sorted(new.items()):
            self._keep(day)
            self._put(file, f"{self._folder(day)}/{FEATURES}")
        for day in set(days) - new.keys():
            self._keep(day)
            self._delete(day)
        if self._is_disk:
            for day in new:
                sync_folder(Path(self._folder(day)))
            sync_folder(Path(self._root))

    def read(self, day: int, columns: list[str]) -> pa.Table:
        """Read some columns of the features of a day. `Damaged` if its file does not hold them."""
        path = f"{self._folder(day)}/{FEATURES}"
        try:
            with naming(path):
                table = pq.read_table(path, columns=columns, filesystem=self._filesystem, partitioning=None)
            return table.select(columns)
        except (pa.ArrowInvalid, KeyError) as error:
            raise Damaged(path) from error
        except OSError as error:
            if error.errno is None and not bucket_trouble(error):  # how Arrow tells of pages that it can't read
                raise Damaged(path) from error
            raise

    def note(self, name: str, content: bytes) -> None:
        """Keep ``content`` beside the days, in place of an earlier note of that name. Such names begin with ``_``."""
        path = self._staged_path()
        with naming(f"{self.place}/{name}"):
            with self._create(path) as file:
                file.write(content)
            self._put(path, f"{self._root}/{name}")
            if self._is_disk:
                sync_folder(Path(self._root))

    def noted(self, name: str) -> bytes | None:
        path = f"{self._root}/{name}"
        if not self._filesystem.get_file_info(path).is_file:
            return None
        with naming(path), self._filesystem.open_input_stream(path) as file:
            return file.read()

    def forget(self, name: str) -> None:
        """Remove a note, if there is one."""
        if self._filesystem.get_file_info(f"{self._root}/{name}").is_file:
            self._filesystem.delete_file(f"{self._root}/{name}")

    def clear(self) -> None:
        """Remove what this run has staged and not put in its place."""
        if self._filesystem.get_file_info(self._staging).type == FileType.Directory:
            self._filesystem.delete_dir(self._staging)
        root = f"{self._root}/{STAGING}"
        if self._is_disk:
            with suppress(OSError):
                Path(root).rmdir()  # unless another run has something in it
            return
        found = self._filesystem.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
        if not any(info.is_file for info in found):
            with suppress(FileNotFoundError):
                self._filesystem.delete_dir(root)

    def _clear_left_over(self) -> None:
        """Remove what runs that were killed have staged: all on a disk, where no other run is at work.

        In a bucket that of runs that have not staged anything for `ABANDONED_AFTER`.
        """
        root = f"{self._root}/{STAGING}"
        if self._is_disk:
            if self._filesystem.get_file_info(root).type == FileType.Directory:
                self._filesystem.delete_dir(root)
            return
        found = self._filesystem.get_file_info(FileSelector(root, allow_not_found=True, recursive=True))
        files = sorted((info for info in found if info.is_file), key=lambda info: info.path)
        for _, of_run in groupby(files, lambda info: info.path[len(root) :].split("/")[1]):
            staged = list(of_run)
            if max(info.mtime for info in staged) < utc_now() - ABANDONED_AFTER:
                for info in staged:
                    self._filesystem.delete_file(info.path)

    @property
    def _staging(self) -> str:
        return f"{self._root}/{STAGING}/{self.run}"

    def _staged_path(self) -> str:
        if self._is_disk:
            with naming(self.place):
                self._filesystem.create_dir(self._staging)
        return f"{self._staging}/{uuid.uuid4().hex}"

    def _create(self, path: str) -> BinaryIO | pa.NativeFile:
        return open(path, "xb") if self._is_disk else self._filesystem.open_output_stream(path)

    def _put(self, staged: str, path: str) -> None:
        with naming(path):
            if self._is_disk:
                sync(Path(staged))
                self._filesystem.create_dir(str(PurePosixPath(path).parent))
            self._filesystem.move(staged, path)  # in one step, on a disk as in a bucket

    def _keep(self, day: int) -> None:
        """Link the file of a day that is about to go where it is kept, if it is. Not earlier: its stamp changes."""
        if not self._is_disk or not (kept := superseded_beside(Path(self._root))).is_dir():
            return
        folder = kept / _folder_name(day)
        folder.mkdir(exist_ok=True)
        with suppress(FileNotFoundError, FileExistsError):  # a new day; one that a run that was killed has kept
            link(Path(self._folder(day), FEATURES), folder / FEATURES)

    def _delete(self, day: int) -> None:
        with suppress(FileNotFoundError):  # in a bucket another run may have been first
            self._filesystem.delete_dir(self._folder(day))

    def _folder(self, day: int) -> str:
        return f"{self._root}/{_folder_name(day)}"


def _folder_name(day: int) -> str:
    return f"{DAY_FOLDER}{np.datetime64(day, 'D')}"


def day_named(name: str) -> int | None:
    """The day of the file of a day, by its path in the table; None for any other path."""
    found = re.fullmatch(rf"{DAY_FOLDER}(\d{{4}}-\d{{2}}-\d{{2}})/{re.escape(FEATURES)}", name, re.ASCII)
    try:
        return None if found is None else int(np.datetime64(date.fromisoformat(found[1]), "D").astype(int))
    except ValueError:  # as of February 30
        return None


def _sign(descriptor: int) -> None:
    """Write who we are into a lock that we hold, for others to read. Without room on the disk they do without it."""
    with suppress(OSError):
        os.truncate(descriptor, 0)
        text = f"process {os.getpid()} on {socket.gethostname()}, since {utc_now().isoformat(timespec='seconds')}"
        os.write(descriptor, text.encode())


def _holder(path: str) -> str:
    with suppress(OSError, UnicodeDecodeError):
        text = Path(path).read_text()
        if text and text.isprintable():
            return f"another run ({text:.200})"
    return "another run"


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
