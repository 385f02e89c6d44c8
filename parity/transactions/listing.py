"""Which files the transactions at a place are: one, or all that a folder of them has, on a disk or in a bucket."""

from pathlib import Path
from urllib.parse import unquote

from pyarrow.fs import FileInfo

from parity.edge.errors import UserError
from parity.edge.files import Location, files_at, kind_of, location, partition_of

NO_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def transaction_files(place: Location) -> dict[str, str]:
    """List the files of transactions at ``place``, itself one or a folder of them, as paths or URIs, sorted.

    Each with a stamp that changes when the file does: its size and the time of its last modification.
    """
    _, root, found = files_at(place)
    if not found:
        raise UserError(f"{place}: there is no file of transactions in this folder.")
    if found[0].path == root:
        return {str(place): stamp_of(found[0])}
    folder = str(place).rstrip("/")
    files = {f"{folder}{info.path.removeprefix(root)}": stamp_of(info) for info in found}
    for file in files:
        kind_of(location(file))
    return files


def stamp_of(info: FileInfo) -> str:
    return f"{info.size}-{info.mtime_ns}"


def partition_columns(path: Path) -> dict[str, str | None]:
    """The columns that each row of a file has by the folders right above it, such as ``user_id=7``."""
    values = {unquote(name): unquote(value) for name, value in partition_of(path.absolute())}
    return {name: None if value == NO_PARTITION else value for name, value in values.items()}
