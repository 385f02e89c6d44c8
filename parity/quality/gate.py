"""The gate of compute_features.py --require-quality: nothing is replaced by what is not as expected.

The transactions of all views are held to their expectations, and so are the features that they give, before the first
table is written. Rows that fail an expectation with a quarantine are set aside, and the features computed of the rest.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from parity.compute.windows import aggregate
from parity.definition.checks import FeatureTable
from parity.edge.command import shown
from parity.edge.errors import UserError
from parity.edge.files import Location, location, on_disk, write_table
from parity.quality.check import Checker, Source, folder_of, sources_of
from parity.quality.command import report
from parity.quality.days import Spool
from parity.quality.gx import file_name
from parity.quality.judge import Judged
from parity.transactions.listing import transaction_files
from parity.transactions.quarantine import SET_ASIDE, set_aside
from parity.transactions.read import read_transactions


def passed(
    tables: Sequence[FeatureTable], places: Sequence[Location], repository: Path, at: datetime, incremental: bool
) -> list[Location] | None:
    """The transactions to compute each of ``tables`` of: those at ``places``, or what a quarantine leaves of them.

    None if they, or the features of them, are not as expected: prints what is not, and keeps results as
    `python -m parity quality` does. Of days that passed before, and are the same, nothing is asked again if
    ``incremental``.
    """
    checker = Checker(folder_of(repository), at, incremental)
    chosen: dict[str, Location] = {}
    fine = True
    for source in sources_of(tables, places):
        stamps = transaction_files(source[0])
        rest = _rest(checker, source)
        fine = fine and rest is not None
        chosen |= {table.name: rest for table in source[1] if rest is not None}
        if transaction_files(source[0]) != stamps:
            raise UserError(
                f"{source[0]}: it changed while it was checked, so nothing was computed. Run this again when nothing "
                "writes there."
            )
    docs = shown(checker.store.build_docs(at))
    print(f"Data Docs: {docs}" if fine else f"nothing was computed or replaced. Data Docs: {docs}")
    return [chosen[table.name] for table in tables] if fine else None


def _rest(checker: Checker, source: Source) -> Location | None:
    """What the features of a source are to be computed of; None if something is not as expected."""
    place, tables = source
    with checker.transactions(source) as transactions:
        judged = checker.judged[-1]
        report(judged.without_quarantine())
        if not judged.without_quarantine().is_fine:
            return None
        if not judged.is_fine:
            place = _set_aside(checker, source, transactions, judged)
        for table in tables:
            with TemporaryDirectory() as folder, on_disk(place) as file:
                features = Path(folder) / f"{table.name}.parquet"
                write_table(aggregate(read_transactions(file, table.definition), table.definition), features)
                checker.features(table, transactions, features)
            report(checker.judged[-1])
            if not checker.judged[-1].is_fine:
                return None
    return place


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
    folder = checker.folder / "quarantine" / file_name(judged.name)
    note = {"of": judged.rows, "expectations": {str(one.expectation): one.unexpected for one in judged.failures}}
    rest = set_aside(place, chosen, tables[0].definition.reading, folder, note)
    count = sum(map(len, chosen.values()))
    print(f"{judged.name}: {count:,} of {judged.rows:,} rows set aside -> {shown(folder / SET_ASIDE)}")
    return rest
