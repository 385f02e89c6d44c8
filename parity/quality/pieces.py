"""A large file of transactions in pieces, each a file of its own that is read alike, so that none has to be held whole.

Text is cut between lines where a line is a row: not where there are quotes, comments or a footer, and not where it is
compressed or in another encoding. Such a file, JSON, and a small one is a piece itself.
"""

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from parity.definition.reading import Reading
from parity.edge.files import kind_of, partition_of
from parity.transactions import text

BYTES, ROWS = 64 << 20, 1 << 20
"""What a piece has at the most: bytes of text, or rows of Parquet."""


def pieces(path: Path, reading: Reading, folder: Path) -> Iterator[Path]:
    """Files that have the rows of the file at ``path`` in their order, each for as long as the next is not asked for.

    They are written to ``folder``, below the same ``name=value`` folders.
    """
    for name, value in partition_of(path.absolute()):
        folder = folder / f"{name}={value}"
    folder.mkdir(parents=True, exist_ok=True)
    piece = folder / path.name
    kind = kind_of(path)
    if kind == "text" and path.stat().st_size > BYTES and _lines_are_rows(path, reading):
        cut = _of_text(path, piece, has_header=not reading.column_names)
    elif kind == "parquet" and _rows(path) > ROWS:
        cut = _of_parquet(path, piece)
    else:
        cut = iter([path])
    yield from cut
    piece.unlink(missing_ok=True)


def _lines_are_rows(path: Path, reading: Reading) -> bool:
    with text.readable(path, reading) as file:
        return file.path == path and not file.has_quotes


def _of_text(path: Path, piece: Path, has_header: bool) -> Iterator[Path]:
    with open(path, "rb") as file:
        header = next(line for line in file if line.strip()) if has_header else b""
        while lines := file.read(BYTES):
            lines += file.readline()
            piece.write_bytes(header + lines)
            yield piece


def _rows(path: Path) -> int:
    try:
        return pq.read_metadata(path).num_rows
    except (pa.ArrowException, OSError):  # which reading it will say
        return 0


def _of_parquet(path: Path, piece: Path) -> Iterator[Path]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(ROWS):
            pq.write_table(pa.Table.from_batches([batch]), piece)
            yield piece
