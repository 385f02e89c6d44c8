"""The ids of transactions in files that no stream has written, such as those of the time before there was one."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.checks import FeatureTable
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.edge.files import files_at
from parity.stream.identity import known_ids, numbered, with_columns
from parity.transactions.landed import ID, is_landed
from parity.transactions.listing import stamp_of
from parity.transactions.read import read_part


class IdsOfFiles:
    """Those in a folder, of the source that feeds ``tables``: read when they are first asked for, and kept in memory
    for as long as the files stay as they are."""

    def __init__(self, tables: Sequence[FeatureTable], folder: Path):
        self._tables, self._folder = tables, folder
        self._known: dict[str, tuple[str, pa.Table]] = {}

    def __call__(self, ids: pa.Array) -> Iterator[dict[str, Any]]:
        """The rows that have some of these ``ids``: with the keys of all views, called as in a file, and `ID`."""
        if self._tables[0].event_id is None:
            return
        stamps = {one.path: stamp_of(one) for one in files_at(self._folder)[2] if not is_landed(one.path)}
        self._known = {file: known for file, known in self._known.items() if stamps.get(file) == known[0]}
        for file, stamp in stamps.items():
            if file not in self._known:
                with suppress(UserError, OSError):  # it may be only half written; compute_features.py says what it is
                    self._known[file] = stamp, self._read(Path(file))
            if file in self._known:
                rows = self._known[file][1]
                yield from rows.filter(pc.is_in(rows[ID], value_set=ids)).to_pylist()

    def _read(self, path: Path) -> pa.Table:
        definition, keys = self._definition
        rows, in_file = read_part(path, definition), self._tables[0].definition.reading.in_file
        columns = {in_file(key.name): rows[name] for name, key in keys} | {ID: known_ids(rows[ID])}
        return pa.table(columns).filter(pc.is_valid(columns[ID]))

    @cached_property
    def _definition(self) -> tuple[Definition, list[tuple[str, pa.Field]]]:
        """What is read, of all rows: no more than their instants, ids and keys."""
        first = self._tables[0]
        keys = numbered(list({key.name: key for table in self._tables for key in table.definition.keys}.values()))
        bare = replace(first.definition, keys=pa.schema([]), rules=(), condition=None)
        return with_columns(bare, [(ID, pa.field(first.event_id, pa.string())), *keys]), keys
