"""Transactions and feature tables, held to what features.py expects of them: which suites they have, and what is kept.

What is known of days from earlier runs lies in the folder of results, a JSON file a suite: the digest of each day that
failed nothing, and what was observed of days for the weekdays to come.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from parity.definition.checks import FeatureTable
from parity.definition.expectations import Expectation
from parity.edge.errors import UserError
from parity.edge.files import Location, absolute, location, replacing
from parity.quality.by_definition import NOT_NULL, ByDefinition, by_definition
from parity.quality.days import Spool, feature_files, spool_features, spool_transactions, spooling
from parity.quality.gx import Store, file_name
from parity.quality.judge import Judged, Past, judge
from parity.quality.page import write_page
from parity.transactions.refusals import RefusedError

LOCK, SECONDS_TO_WAIT = ".lock", 60
Source = tuple[Location, tuple[FeatureTable, ...]]
"""A place of transactions, and the feature tables that are computed of it."""


def folder_of(repository: Path) -> Path:
    """Where the results of a repository are kept if nothing else is said."""
    return repository.parent / "data" / "quality"


def sources_of(tables: Sequence[FeatureTable], places: Sequence[Location]) -> list[Source]:
    """The tables by the transactions that they share."""
    found: dict[tuple[str, Location], list[FeatureTable]] = {}
    for table, place in zip(tables, places, strict=True):
        found.setdefault((table.definition.reading.name, absolute(place)), []).append(table)
    return [(place, tuple(some)) for (_, place), some in found.items()]


def declared_of(tables: Sequence[FeatureTable]) -> list[Expectation]:
    """What is declared of the transactions that ``tables`` share."""
    return list(getattr(tables[0].view.transactions, "expectations", ()))


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Keep other runs from keeping results in ``folder`` for as long as the block lasts. `UserError` if one does."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / LOCK, SECONDS_TO_WAIT, 0o600, fallback_to_soft=False):
            yield
    except Timeout:
        raise UserError(
            f"{folder}: another run keeps its results here. Wait until it has ended, or name another folder: --store"
        ) from None


class Checker:
    """Checks that keep what they find in a ``folder``, as of the instant ``at``.

    They note ``whose`` rows failed, if that is asked for, of which all are named then.
    """

    def __init__(self, folder: Path, at: datetime, incremental: bool = False, whose: bool = False):
        self.folder, self.at, self.incremental, self.whose = folder, at, incremental, whose
        self.store = Store(folder)
        self.judged: list[Judged] = []

    @contextmanager
    def transactions(self, source: Source) -> Iterator[Spool | None]:
        """Check the transactions of a source; they are there for its features for as long as the block lasts.

        None if they can't be read as they are declared, which is a failure of its own.
        """
        place, tables = source
        declared = declared_of(tables)
        expectations = [*declared, *_not_null(tables)]
        name = tables[0].definition.reading.name
        with spooling() as spooled:
            try:
                spool = spool_transactions(spooled, place, tables, expectations)
            except RefusedError as error:
                self.judged.append(Judged(name, 0, 0, [], {}, (str(error),)))
                yield None
                return
            expectations = [one for one in expectations if spool.absent.isdisjoint(one.columns)]
            self._judge(name, f"transactions {name}", tables[0], spool, expectations)
            yield spool

    def features(self, table: FeatureTable, transactions: Spool | None, place: Location | None = None) -> None:
        """Check the features of a table, or those at another ``place`` that are to become it."""
        derived = by_definition(table.definition, declared_of([table]))
        with ExitStack() as stack:
            files = feature_files(place or location(table.source.path), stack)
            spooled = stack.enter_context(spooling()) if transactions is None else transactions.spooled
            spool = spool_features(spooled, files, table.definition, derived, transactions)
            if transactions is None:
                derived = _without_windows(derived)
            expectations = [*table.view.expectations, *derived.expectations]
            self._judge(table.name, f"features {table.name}", table, spool, expectations)

    def publish(self) -> Path:
        """Build the page of what was found, and Data Docs; that page."""
        docs, page = self.store.build_docs(self.at), self.folder / "index.html"
        failed = {(one.suite, date) for one in self.judged for tally in one.tallies for date in tally.dates}
        write_page(page, self.judged, self.at, docs, self.store.pages(self.at, failed))
        return page

    def _judge(
        self, name: str, suite: str, table: FeatureTable, spool: Spool, expectations: Sequence[Expectation]
    ) -> None:
        past, whose = self._past(suite, spool, expectations), table.definition.keys.names if self.whose else None
        self.judged.append(judge(name, spool, self.store.suite(suite, expectations), self.at, past, whose))
        self._keep(suite, spool, expectations, past)

    def _past(self, suite: str, spool: Spool, expectations: Sequence[Expectation]) -> Past:
        try:
            noted = json.loads(self._note(suite).read_text())
            if not self.incremental or noted["expected"] != _digest(spool, expectations):
                return Past()
            passed = {int(day): digest for day, digest in noted["passed"].items()}
            observed = {one: {int(day): seen for day, seen in days.items()} for one, days in noted["observed"].items()}
            return Past(passed, observed)
        except (OSError, ValueError, LookupError, AttributeError):  # there is none, or it is damaged
            return Past()

    def _keep(self, suite: str, spool: Spool, expectations: Sequence[Expectation], past: Past) -> None:
        noted: dict[str, Any] = {
            "expected": _digest(spool, expectations),
            "passed": past.passed,
            "observed": past.observed,
        }
        with replacing(self._note(suite)) as temporary:
            temporary.write_text(json.dumps(noted))

    def _note(self, suite: str) -> Path:
        return self.folder / "days" / f"{file_name(suite)}.json"


def _digest(spool: Spool, expectations: Sequence[Expectation]) -> str:
    """What days were held to: they are held to it anew once it is another."""
    told = [repr(one) for one in expectations]
    return hashlib.sha256(json.dumps([told, spool.instant, spool.derived]).encode()).hexdigest()


def _not_null(tables: Sequence[FeatureTable]) -> list[Expectation]:
    """What all tables need of every row, as they have no condition: keys, and the columns of features."""
    names = [
        name
        for table in tables
        if table.definition.condition is None
        for name in table.definition.transactions.names
        if name != table.definition.reading.timestamp
    ]
    return [Expectation(NOT_NULL, column=name) for name in dict.fromkeys(names)]


def _without_windows(derived: ByDefinition) -> ByDefinition:
    """What is derived but for what takes transactions."""
    of_windows = {name for window in derived.windows.values() for name in window}
    expectations = [one for one in derived.expectations if not of_windows & set(one.columns)]
    return ByDefinition(expectations, derived.columns)
