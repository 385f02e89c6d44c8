"""The edge to the disk and to buckets (S3): tables in and out, each output replaced in one step or not at all."""

import errno
import fcntl
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import takewhile
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from pyarrow import fs
from tqdm import tqdm

from parity.edge.errors import UserError, printable

ROWS_PER_WRITE = 1 << 20
CSV_OPTIONS = pacsv.WriteOptions(quoting_header="none", batch_size=1 << 16)


S3_BOUNDS = {
    "connect_timeout": 3,
    "request_timeout": 20,
    "retry_strategy": fs.AwsStandardS3RetryStrategy(max_attempts=3),
}
"""Within seconds it is told that nobody answers: the timeouts count the seconds of silence."""

Location = Path | str
"""A path on a disk, or the URI of a bucket's folder or file."""


def location(text: str) -> Location:
    """Read a path or a URI, as of argparse."""
    return text if "://" in text else Path(text)


def absolute(place: Location) -> Location:
    """The same place, told in a way that does not depend on the working directory."""
    return place.resolve() if isinstance(place, Path) else place


def filesystem_of(place: Location, endpoint: str = "") -> tuple[fs.FileSystem, str]:
    """Give the file system that ``place`` is in, and its path there.

    S3 is at ``endpoint``, or where `AWS_ENDPOINT_URL` says; credentials and region are those of the `AWS_...`
    variables, or of the machine.
    """
    if isinstance(place, Path):
        return fs.LocalFileSystem(), str(place.absolute())
    scheme, _, path = place.partition("://")
    path = path.rstrip("/")
    try:
        if scheme == "file":
            return fs.FileSystem.from_uri(place)
        if scheme not in ("s3", "s3a") or not all(path.split("/")):
            raise UserError(f"{place}: not the address of a bucket, which is s3://bucket/folder/file, or s3a://.")
        environment = os.environ
        endpoint = endpoint or environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or ""
        region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION")
        if not endpoint and not region:
            region = fs.resolve_s3_region(path.partition("/")[0])
        return fs.S3FileSystem(endpoint_override=endpoint, region=region, **S3_BOUNDS), path
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{place}: {error}") from None


def files_at(place: Location, hidden: bool = False) -> tuple[fs.FileSystem, str, list[fs.FileInfo]]:
    """Give the file system of ``place``, its path there, and the file itself or those in that folder, sorted.

    `UserError` if there is no such place.

    As in Spark and in Arrow, names that begin with ``.`` or ``_`` are not looked at in a folder, unless ``hidden``.
    """
    filesystem, path = filesystem_of(place)
    itself = filesystem.get_file_info(path)
    if itself.is_file:
        return filesystem, path, [itself]
    if itself.type == fs.FileType.Directory:
        found = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
        for info in found:
            if "//" in info.path:  # an object of a bucket can have that name, and Arrow can't read it
                raise UserError(f"{place}: it has {info.path}, with nothing between two slashes. Rename that.")
        files = (info for info in found if info.is_file and (hidden or not _is_hidden(info, path)))
        return filesystem, path, sorted(files, key=lambda info: info.path)
    [bucket, *_] = path.split("/")
    if isinstance(place, str) and filesystem.get_file_info(bucket).type == fs.FileType.NotFound:
        raise UserError(f"{place}: there is no such bucket. Create it, or name another.")
    raise UserError(f"{place}: there is no such file.")


def _is_hidden(info: fs.FileInfo, folder: str) -> bool:
    return any(part[0] in "._" for part in PurePosixPath(info.path).relative_to(folder).parts)


def parquet_files(place: Location) -> tuple[fs.FileSystem, list[fs.FileInfo]]:
    """List the Parquet files of the table at ``place``: itself, or those in a folder, sorted. `UserError` for none.

    They are those that DuckDB reads, hidden ones too.
    """
    filesystem, root, files = files_at(place, hidden=True)
    if files and files[0].path == root:
        return filesystem, files
    files = [info for info in files if info.extension == "parquet"]
    if not files:
        raise UserError(f"{place}: there is no Parquet file in this folder.")
    return filesystem, files


@contextmanager
def on_disk(place: Location) -> Iterator[Path]:
    """Yield ``place`` as a path on this machine: itself, or, of a bucket, a copy for as long as the block lasts."""
    if isinstance(place, Path):
        yield place
        return
    filesystem, root, files = files_at(place)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder).joinpath(
            *(f"{name}={value}" for name, value in partition_of(root)), PurePosixPath(root).name
        )
        try:
            for info in files:
                file = copy / PurePosixPath(info.path).relative_to(root)
                file.parent.mkdir(parents=True, exist_ok=True)
                with naming(f"{place}, copied to {file}"):
                    fs.copy_files(
                        info.path, str(file), source_filesystem=filesystem, destination_filesystem=fs.LocalFileSystem()
                    )
            yield copy
        except UserError as error:
            raise UserError(str(error).replace(str(copy), place)) from None


def partition_of(path: Location) -> list[tuple[str, str]]:
    """The folders right above a file that are called ``name=value``, from the outermost on, as Hive has them."""
    folders = list(takewhile(lambda name: "=" in name.strip("="), reversed(PurePosixPath(path).parts[:-1])))
    return [(name, value) for name, _, value in (folder.partition("=") for folder in reversed(folders))]


def is_parquet(path: Location) -> bool:
    """Tell, by suffix, whether features go to a Parquet or a CSV file; any other suffix is a `UserError`."""
    match PurePosixPath(path).suffix.lower():
        case ".parquet":
            return True
        case ".csv":
            return False
    raise UserError(f"{path}: the suffix must be .csv or .parquet")


KINDS = {
    "text": (".csv", ".tsv", ".txt"),
    "json": (".json", ".jsonl", ".ndjson"),
    "parquet": (".parquet",),
}
COMPRESSIONS = (".gz", ".bz2", ".xz", ".zst")


def kind_of(path: Location) -> str:
    """What a file of transactions holds, by its suffix: one of `KINDS`. Any other suffix is a `UserError`."""
    pure = PurePosixPath(path)
    suffix = pure.with_suffix("").suffix if compression_of(path) else pure.suffix
    for kind, suffixes in KINDS.items():
        if suffix.lower() in suffixes and not (kind == "parquet" and compression_of(path)):
            return kind
    known = ", ".join(suffix for suffixes in KINDS.values() for suffix in suffixes)
    raise UserError(
        f"{path}: what it holds is told by the suffix, which must be one of {known}; "
        f"{', '.join(COMPRESSIONS)} may follow those of text."
    )


def compression_of(path: Location) -> str | None:
    """The suffix of a file that is compressed."""
    suffix = PurePosixPath(path).suffix.lower()
    return suffix if suffix in COMPRESSIONS else None


@contextmanager
def replacing(place: Location, temporary_name: str | None = None) -> Iterator[Path]:
    """Yield a temporary path that replaces the file at ``place``, atomically, if the block succeeds.

    The path lies in a folder that nobody else may enter, so nothing can be put in its way. What a killed process left
    is removed by the next that writes this file, or, for files that are written once only, one of that
    ``temporary_name`` beside it. A link at ``place`` stays, and the file that it points to is replaced. The new file
    has the mode of the earlier one, or what the umask leaves. `UserError`, and the earlier file whole, if the disk is
    full.
    """
    if isinstance(place, str):
        with _uploading(place) as temporary:
            yield temporary
        return
    if place.is_dir():
        raise UserError(f"{place}: this is a directory; name a file to write, or remove it first.")
    target = _followed(place)
    if target.exists() and not target.is_file():
        raise UserError(f"{place}: this is a device or a pipe; name a file to write.")
    target.parent.mkdir(parents=True, exist_ok=True)
    with naming(place), _temporary_beside(target, temporary_name or target.name) as temporary:
        yield temporary
        sync(temporary)
        _keep_mode(temporary, target)
        temporary.replace(target)
        sync_folder(target.parent)


def _followed(place: Path) -> Path:
    """Give the file that a link at ``place`` points to, or ``place`` itself.

    A link of somebody else in a folder that others may write to is a `UserError`: it may point to what only we may
    write. (Linux refuses to open such a link in a sticky folder, but we never open it.)
    """
    for _ in range(LINKS_AT_MOST):
        if not place.is_symlink():
            return place
        folder, owner = place.parent.stat(), place.lstat().st_uid
        if folder.st_mode & (stat.S_IWGRP | stat.S_IWOTH) and owner not in (os.geteuid(), 0, folder.st_uid):
            raise UserError(f"{place}: this is a link that another user made. Remove it, or name the file to write.")
        place = place.parent / place.readlink()
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(place))


LINKS_AT_MOST = 40  # as Linux


@contextmanager
def _temporary_beside(target: Path, name: str) -> Iterator[Path]:
    """Yield a path for a file that is to become ``target``, in a new folder, which is removed in the end.

    The folder is locked while it is in use, and the kernel drops the lock of a process that dies: so one that is not
    locked is nobody's, and removed here.
    """
    prefix = f".{name[:NAMED_AT_MOST]}."
    for folder in _left_over(target.parent, prefix):
        _remove_unless_in_use(folder)
    folder, descriptor = _make_folder(target.parent, prefix)
    try:
        # By the descriptor, it stays this folder even if somebody who may write to the one around it renames it.
        anchored = Path(f"{DESCRIPTORS}{descriptor}")
        yield (anchored if anchored.exists() else folder) / NEW
    finally:
        _remove(folder, descriptor)


TEMPORARY = ".tmp"
NEW = f"new{TEMPORARY}"  # no suffix that a reader of the folder around it looks for
DESCRIPTORS = "/proc/self/fd/"
NAMED_AT_MOST = 50  # characters of a name that may have 255 bytes
TRIES = 5


def _left_over(parent: Path, prefix: str) -> list[Path]:
    pattern = re.compile(rf"{re.escape(prefix)}\w{{8}}{re.escape(TEMPORARY)}")
    with suppress(PermissionError), os.scandir(parent) as entries:
        return [parent / entry.name for entry in entries if pattern.fullmatch(entry.name)]
    return []


def _make_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make a folder that only we may enter, and open and lock it."""
    for left in reversed(range(TRIES)):
        folder = Path(tempfile.mkdtemp(TEMPORARY, prefix, parent))
        descriptor = _open_locked(folder)
        if descriptor is None:
            continue  # another process has found it before it was locked, and removed it
        if _is_own(descriptor) or not left:  # some file systems make every folder somebody else's
            return folder, descriptor
        os.close(descriptor)
        with suppress(OSError):
            folder.rmdir()
    raise UserError(f"{parent}: somebody removes or renames what is written here. Write to another folder.")


def _open_locked(folder: Path) -> int | None:
    """Open a folder, locked if the file system has locks; None if it is gone or in use."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:
        return None
    if not _is_in_use(descriptor):
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), folder.lstat()):
                return descriptor
    os.close(descriptor)
    return None


def _is_in_use(descriptor: int) -> bool:
    """Lock a folder, unless another process does. Without locks nobody can tell, and nothing is removed."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return isinstance(error, BlockingIOError)
    return False


def _is_own(descriptor: int) -> bool:
    status = os.fstat(descriptor)
    return status.st_uid == os.geteuid() and stat.S_IMODE(status.st_mode) & 0o777 == stat.S_IRWXU


def _remove_unless_in_use(folder: Path) -> None:
    if (descriptor := _open_locked(folder)) is None:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # an error where there are no locks
        ours = _is_own(descriptor)
    except OSError:
        ours = False
    if ours:
        _remove(folder, descriptor)
    else:
        os.close(descriptor)


def _remove(folder: Path, descriptor: int) -> None:
    """Remove the file in an open folder, then the folder, if nothing else is in it: it may have been swapped."""
    with suppress(FileNotFoundError):
        os.unlink(NEW, dir_fd=descriptor)
    with suppress(OSError):
        folder.rmdir()
    os.close(descriptor)


def _keep_mode(temporary: Path, target: Path) -> None:
    """Give a file the mode of the one that it replaces; of somebody else's, not more than a new file has."""
    with suppress(FileNotFoundError):
        earlier = target.stat()
        mode = stat.S_IMODE(earlier.st_mode) & 0o777
        if earlier.st_uid != os.geteuid():
            mode &= temporary.stat().st_mode
        temporary.chmod(mode)


def link(file: Path, name: Path) -> None:
    """Give a file another ``name``, or a copy where the file system has no links. It may lie behind a link itself.

    `FileExistsError` if there is something of that name, `FileNotFoundError` if there is no such file.
    """
    file = file.resolve(strict=True)
    try:
        name.hardlink_to(file)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP, errno.ENOSYS):
            raise
        with replacing(name) as temporary:
            shutil.copy2(file, temporary)


def sync(path: Path) -> None:
    """Have the disk keep a file, or the names in a folder, through a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """As `sync`, where the file system can do that for a folder, and we may read it."""
    try:
        sync(folder)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise


@contextmanager
def naming(place: Location) -> Iterator[None]:
    """Name ``place`` in a `UserError` where the system's error names no file, as Arrow's do, or a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno not in DISK_TROUBLE if error.filename is None else not OURS.search(str(error.filename)):
            raise
        hint = " Make room, and run again." if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise UserError(f"{place}: {os.strerror(error.errno)}.{hint}") from None


OURS = re.compile(rf"^{DESCRIPTORS}|(^|/)\.[^/]*\.\w{{8}}{re.escape(TEMPORARY)}(/|$)")
DISK_TROUBLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS}


@contextmanager
def _uploading(uri: str) -> Iterator[Path]:
    """As `replacing` in a bucket, where an object is there when all of it is."""
    filesystem, path = filesystem_of(uri)
    if filesystem.get_file_info(path).type == fs.FileType.Directory:
        raise UserError(f"{uri}: this is a directory; name a file to write, or remove it first.")
    with tempfile.TemporaryDirectory() as folder, naming(f"{uri}, written to {tempfile.gettempdir()} first"):
        temporary = Path(folder) / PurePosixPath(path).name
        yield temporary
        fs.copy_files(str(temporary), path, source_filesystem=fs.LocalFileSystem(), destination_filesystem=filesystem)


def read_bytes(place: Location) -> bytes | None:
    """The content of a file; None if there is none."""
    filesystem, path = filesystem_of(place)
    if not filesystem.get_file_info(path).is_file:
        return None
    with filesystem.open_input_file(path) as file:
        return file.read()


def remove(place: Location) -> None:
    """Remove a file, if there is one."""
    filesystem, path = filesystem_of(place)
    if filesystem.get_file_info(path).is_file:
        filesystem.delete_file(path)


def write_table(table: pa.Table, place: Location) -> None:
    """Write ``table`` to ``place``, as CSV or Parquet by its suffix, replacing an earlier file atomically.

    CSV timestamps are ISO 8601 with a trailing Z, and floats have the fewest digits that read back the same.
    """
    parquet = is_parquet(place)
    with replacing(place) as temporary:
        if parquet:
            writer = pq.ParquetWriter(temporary, table.schema)
        else:
            writer = pacsv.CSVWriter(temporary, table.schema, write_options=CSV_OPTIONS)
        with writer, progress(f"write {PurePosixPath(place).name}", table.num_rows, "row") as bar:
            for start in range(0, table.num_rows, ROWS_PER_WRITE):
                writer.write_table(table.slice(start, ROWS_PER_WRITE))
                bar.update(min(ROWS_PER_WRITE, table.num_rows - start))


def modified(place: Location) -> datetime:
    """When the file at ``place`` was last written, or the last file in that folder."""
    if isinstance(place, Path):
        files = [file for file in place.rglob("*") if file.is_file()] if place.is_dir() else [place]
        return datetime.fromtimestamp(max((file.stat().st_mtime for file in files), default=0), UTC)
    return max((info.mtime for info in files_at(place)[2]), default=datetime.fromtimestamp(0, UTC))


def progress(what: str, total: int | None, unit: str) -> tqdm:
    """A progress bar on stderr that shows itself on a terminal only, and only when the work takes a second."""
    return tqdm(desc=printable(what), total=total, unit=unit, unit_scale=True, leave=False, disable=None, delay=1)
