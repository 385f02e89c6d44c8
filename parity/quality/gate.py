"""The gate of compute_features.py --require-quality: nothing is replaced by what is not as expected.

The transactions of all views are held to their expectations, and so are the features that they give, before the first
table is written.
"""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from parity.compute.windows import aggregate
from parity.definition.checks import FeatureTable
from parity.edge.command import shown
from parity.edge.errors import UserError
from parity.edge.files import Location, on_disk, write_table
from parity.quality.check import Checker, Source, folder_of, sources_of
from parity.quality.command import report
from parity.transactions.listing import transaction_files
from parity.transactions.read import read_transactions


def passes(
    tables: Sequence[FeatureTable], places: Sequence[Location], repository: Path, at: datetime, incremental: bool
) -> bool:
    """Whether the transactions at ``places``, one for each of ``tables``, and the features of them are as expected.

    Prints what is not, and keeps results as `python -m parity quality` does. Of days that passed before, and are the
    same, nothing is asked again if ``incremental``.
    """
    checker = Checker(folder_of(repository), at, incremental)
    for source in sources_of(tables, places):
        stamps = transaction_files(source[0])
        _check(checker, source)
        if transaction_files(source[0]) != stamps:
            raise UserError(
                f"{source[0]}: it changed while it was checked, so nothing was computed. Run this again when nothing "
                "writes there."
            )
    docs = shown(checker.store.build_docs())
    fine = all(one.is_fine for one in checker.judged)
    print(f"Data Docs: {docs}" if fine else f"nothing was computed or replaced. Data Docs: {docs}")
    return fine


def _check(checker: Checker, source: Source) -> None:
    place, tables = source
    with checker.transactions(source) as transactions:
        report(checker.judged[-1])
        if not checker.judged[-1].is_fine:
            return
        for table in tables:
            with TemporaryDirectory() as folder, on_disk(place) as file:
                features = Path(folder) / f"{table.name}.parquet"
                write_table(aggregate(read_transactions(file, table.definition), table.definition), features)
                checker.features(table, transactions, features)
                report(checker.judged[-1])
