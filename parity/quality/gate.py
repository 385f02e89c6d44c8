"""The gate of compute_features.py --require-quality: nothing is replaced by what is not as expected.

The transactions of all views are held to their expectations, and so are the features that they give, before the first
table is written. Rows that fail an expectation with a quarantine are set aside, and the features computed of the rest.
The features that were checked are those that are put in place; only days that are brought up to date are computed anew.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq

from parity.compute.history import write_here
from parity.compute.windows import aggregate
from parity.definition.checks import FeatureTable
from parity.edge.command import shown
from parity.edge.errors import UserError
from parity.edge.files import Location, location, on_disk, write_table
from parity.quality.check import Checker, Source, alone, folder_of, sources_of
from parity.quality.command import report
from parity.quality.days import Spool
from parity.quality.gx import file_name
from parity.quality.judge import Judged
from parity.transactions.listing import transaction_files
from parity.transactions.quarantine import SET_ASIDE, set_aside
from parity.transactions.read import read_transactions

NEW = ".new"
"""How the name of a quarantine ends for as long as the features of what it leaves are not checked."""


class Passed(NamedTuple):
    """What was as expected, by the names of tables."""

    transactions: dict[str, Location]
    """Those that were checked, or what a quarantine left of them."""
    features: dict[str, Path]
    """Parquet files."""

    def put(self, table: FeatureTable, source: Location, output: Location) -> str:
        """Put the features of a table in place, as `compute_here` would; say in words what was written."""
        return write_here(table, pq.read_table(self.features[table.name], partitioning=None), output)


@contextmanager
def passed(
    tables: Sequence[FeatureTable], places: Sequence[Location], repository: Path, at: datetime, incremental: bool
) -> Iterator[Passed | None]:
    """Check the transactions at ``places`` and the features of ``tables``, which are there for as long as the block is.

    None if something is not as expected: prints what is not, and keeps results as `python -m parity quality` does. Of
    days that passed before, and are the same, nothing is asked again if ``incremental``.
    """
    folder = folder_of(repository)
    with alone(folder), TemporaryDirectory() as computed:
        checker = Checker(folder, at, incremental)
        found = Passed({}, {table.name: Path(computed) / f"{file_name(table.name)}.parquet" for table in tables})
        fine = True
        for source in sources_of(tables, places):
            stamps = transaction_files(source[0])
            rest = _rest(checker, source, found.features)
            fine = fine and rest is not None
            found.transactions.update({table.name: rest for table in source[1] if rest is not None})
            if transaction_files(source[0]) != stamps:
                raise UserError(
                    f"{source[0]}: it changed while it was checked, so nothing was computed. Run this again when "
                    "nothing writes there."
                )
        if fine:
            _take_their_places(checker, found.transactions)
        page = shown(checker.publish())
        print(f"page: {page}" if fine else f"nothing was computed or replaced. page: {page}")
        yield found if fine else None


def _rest(checker: Checker, source: Source, features: Mapping[str, Path]) -> Location | None:
    """What the ``features`` of a source, which are written, are computed of; None if something is not as expected."""
    place, tables = source
    with checker.transactions(source) as transactions:
        judged = checker.judged[-1]
        report(judged.without_quarantine())
        if not judged.without_quarantine().is_fine:
            return None
        if not judged.is_fine:
            place = _set_aside(checker, source, transactions, judged)
        for table in tables:
            with on_disk(place) as file:
                history = aggregate(read_transactions(file, table.definition), table.definition)
            write_table(history, features[table.name])
            del history  # it is in the file
            checker.features(table, transactions, features[table.name])
            report(checker.judged[-1])
            if not checker.judged[-1].is_fine:
                return None
    return place


def _quarantine(checker: Checker) -> Path:
    return checker.folder / "quarantine"


def _take_their_places(checker: Checker, transactions: dict[str, Location]) -> None:
    """Let what a quarantine left take the place of what an earlier one did, whose features are about to be replaced."""
    for name, place in transactions.items():
        new = next((new for new in _quarantine(checker).glob(f"*{NEW}") if new in getattr(place, "parents", ())), None)
        if new is not None:
            transactions[name] = new.with_name(new.name.removesuffix(NEW)) / place.relative_to(new)
    for new in _quarantine(checker).glob(f"*{NEW}"):
        earlier = new.with_name(new.name.removesuffix(NEW))
        if earlier.exists():
            shutil.rmtree(earlier)
        new.rename(earlier)


def _set_aside(checker: Checker, source: Source, transactions: Spool, judged: Judged) -> Path:
    """Set the rows aside that fail an expectation with a quarantine, and print how many."""
    place, tables = source
    if isinstance(place, str):
        raise UserError(f"{place}: rows can be set aside of files on a disk. Copy them to one, and name that: --input")
    rows: dict[Path, list[np.ndarray]] = {Path(file): [] for file in transaction_files(place)}
    for tally in judged.failures:
        print(f"quarantine: {tally.line(judged.name)}")
        for file, some in tally.set_aside.items():
            rows[Path(location(str(transactions.files[file])))] += some
    chosen = {file: np.unique(np.concatenate([np.empty(0, np.int64), *some])) for file, some in rows.items()}
    folder = _quarantine(checker) / file_name(judged.name)
    note = {"of": judged.rows, "expectations": {str(one.expectation): one.unexpected for one in judged.failures}}
    rest = set_aside(place, chosen, tables[0].definition.reading, folder.with_name(folder.name + NEW), note)
    count = sum(map(len, chosen.values()))
    print(f"{judged.name}: {count:,} of {judged.rows:,} rows set aside -> {shown(folder / SET_ASIDE)}")
    return rest
