"""Rows that are sorted away by part, on disk, and read again part by part: so that memory does not grow with them."""

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa

from parity.edge.errors import UserError


class Spool:
    """Rows of one schema, that of the first that are appended. ``what`` says, in an error, what is sorted there."""

    def __init__(self, parts: int, what: str):
        self.schema: pa.Schema | None = None
        self._places: list[list[int]] = [[] for _ in range(parts)]
        self._what, self._written = what, 0
        self._writer: pa.RecordBatchFileWriter | None = None

    def __enter__(self) -> "Spool":
        self._file = tempfile.TemporaryFile()
        return self

    def __exit__(self, *error: Any) -> None:
        self._file.close()

    def append(self, rows: pa.Table, part: np.ndarray) -> None:
        """Sort ``rows`` away, each into its ``part``. Raises `UserError` if there is no room."""
        rows = rows.take(pa.array(np.argsort(part, kind="stable"))).combine_chunks()
        ends = np.cumsum(np.bincount(part, minlength=len(self._places)))
        try:
            if self._writer is None:
                self.schema = rows.schema
                self._writer = pa.ipc.new_file(self._file, rows.schema)
            for places, start, end in zip(self._places, [0, *ends[:-1]], ends, strict=True):
                for some in rows.slice(start, end - start).to_batches() if end > start else []:
                    self._writer.write_batch(some)
                    places.append(self._written)
                    self._written += 1
        except OSError as error:
            raise UserError(
                f"{tempfile.gettempdir()}: {error.strerror}. {self._what} there: make room, or name another folder in "
                "TMPDIR."
            ) from None

    def close(self) -> None:
        """End appending: what there is can be read from here on."""
        if self._writer:
            self._writer.close()

    def batches(self, part: int) -> Iterator[pa.RecordBatch]:
        """The rows of a part, in the order in which they came, as they lie on disk."""
        if self._places[part]:
            with pa.ipc.open_file(self._file) as reader:
                yield from map(reader.get_batch, self._places[part])
