"""The edge to the disk: tables in and out, each output replaced in one step or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from tqdm import tqdm

from parity.command import UserError

ROWS_PER_WRITE = 1 << 20
CSV_OPTIONS = pacsv.WriteOptions(quoting_header="none", batch_size=1 << 16)


def is_parquet(path: Path) -> bool:
    """Tell Parquet from CSV by suffix; any other suffix is a `UserError`."""
    match path.suffix.lower():
        case ".parquet":
            return True
        case ".csv":
            return False
    raise UserError(f"{path}: the suffix must be .csv or .parquet")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` that replaces it, atomically, if the block succeeds."""
    if path.is_dir():
        raise UserError(f"{path}: this is a directory; name a file to write.")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_table(table: pa.Table, path: Path) -> None:
    """Write ``table`` to ``path``, as CSV or Parquet by its suffix, replacing an earlier file atomically.

    CSV timestamps are ISO 8601 with a trailing Z, and floats have the fewest digits that read back the same.
    """
    parquet = is_parquet(path)
    with replacing(path) as temporary:
        if parquet:
            writer = pq.ParquetWriter(temporary, table.schema)
        else:
            writer = pacsv.CSVWriter(temporary, table.schema, write_options=CSV_OPTIONS)
        with writer, progress(f"write {path.name}", table.num_rows, "row") as bar:
            for start in range(0, table.num_rows, ROWS_PER_WRITE):
                writer.write_table(table.slice(start, ROWS_PER_WRITE))
                bar.update(min(ROWS_PER_WRITE, table.num_rows - start))


def modified(path: Path) -> datetime:
    """When the file at ``path`` was last written, or the last file in that folder."""
    files = [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
    return datetime.fromtimestamp(max((file.stat().st_mtime for file in files), default=0), UTC)


def progress(what: str, total: int | None, unit: str) -> tqdm:
    """A progress bar on stderr that shows itself on a terminal only, and only when the work takes a second."""
    return tqdm(desc=what, total=total, unit=unit, unit_scale=True, leave=False, disable=None, delay=1)
