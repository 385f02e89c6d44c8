"""How much memory transactions may take: a small file can hold any number of rows, or texts of any length."""

import math
import resource
from collections.abc import Sequence
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from parity.edge.errors import UserError

ROWS_LOOKED_AT = 256
FEW_BYTES, MANY_BYTES = 4, 1 << 12
TIMES_AS_LARGE = 4
"""So much more memory than the transactions takes what is computed of them: 106 MiB, measured, for a million rows."""
BYTES_OF_A_TEXT = 16
"""What a text is counted as, before it is read; `require_room` counts it once it is."""
MOST_BYTES_OF_TEXTS = 2**31 - 1
"""What Arrow holds in one piece of a column."""
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def require_memory(path: Path, rows: int, schema: pa.Schema) -> None:
    """Refuse a file of so many ``rows`` that they can't be held."""
    width = sum(_width(field.type) for field in schema)
    _require(path, rows * width * TIMES_AS_LARGE, f"it has {rows:,} rows, which take")


def _width(type: pa.DataType) -> int:
    try:
        return max(1, type.byte_width)
    except ValueError:  # of values of any length, or of a bit each
        return BYTES_OF_A_TEXT


def packed(file: pq.ParquetFile, names: Sequence[str]) -> list[str]:
    """Those of the columns ``names``, of text, that may take far more memory than the file does.

    They are to be read as dictionaries, which is slow where nearly all values differ; but then the file is as large.
    """
    first = next(file.iter_batches(ROWS_LOOKED_AT, columns=list(names)), None) if names else None
    return [
        name
        for name in names
        if first is not None
        and (_bytes_per_row(file.metadata, name) < FEW_BYTES or _longest(first.column(name)) > MANY_BYTES)
    ]


def _bytes_per_row(metadata: pq.FileMetaData, name: str) -> float:
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    chunks = [group.column(place) for group in groups for place in range(group.num_columns)]
    of_name = [chunk for chunk in chunks if chunk.path_in_schema == name]
    return min((chunk.total_uncompressed_size / max(1, chunk.num_values) for chunk in of_name), default=0)


def _longest(texts: pa.Array) -> int:
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary
    return pc.max(pc.binary_length(texts.cast(pa.large_string()))).as_py() or 0


def require_room(path: Path, columns: Sequence[pa.Array]) -> None:
    """Refuse texts, which are dictionaries still, that can't be held once they are taken out of them."""
    for column in columns:
        if pa.types.is_dictionary(column.type) and len(column.dictionary):
            lengths = pc.binary_length(column.dictionary).cast(pa.int64())
            size = pc.sum(lengths.take(column.indices)).as_py() or 0
            _require(path, size * 2, f"{len(column):,} of its rows have texts, which take")
            if size > MOST_BYTES_OF_TEXTS:
                raise UserError(f"{path}: the texts of {len(column):,} of its rows are {_gigabytes(size)}: too long.")


def _require(path: Path, needed: int, told: str) -> None:
    available = available_memory()
    if needed > available:
        raise UserError(
            f"{path}: {told} {_gigabytes(needed)} of memory to compute, and only {_gigabytes(available)} are "
            "available. Split it into files that fit, and use --incremental or --engine spark."
        )


def available_memory() -> int:
    """How many bytes this process may still take: of the machine, of its address space, and of its container."""
    rooms = [psutil.virtual_memory().available, *map(_room_in_group, _memory_groups())]
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        rooms.append(limit - psutil.Process().memory_info().vms)
    return max(0, min(rooms))


def _memory_groups() -> list[Path]:
    """The folders of the control groups that this process is in: a container sees its own one as the outermost."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), "")
    innermost = CONTROL_GROUPS / name
    return [innermost, *innermost.parents, CONTROL_GROUPS]  # what is above has no limits to read


def _room_in_group(group: Path) -> float:
    """What the limit of a control group leaves, counting as free the cache of files that the kernel gives up first."""
    try:
        limit, used = int((group / "memory.max").read_text()), int((group / "memory.current").read_text())
    except (OSError, ValueError):  # no such group, or "max", which is no limit
        return math.inf
    try:
        counts = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):
        counts = {}
    return limit - used + int(counts.get("inactive_file", 0))


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:,.1f} GB"
