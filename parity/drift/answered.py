"""Data or pipeline, of what was served: whether the audit finds the answers to some of the keys to be the truth.

It is asked as `python -m parity audit` would be, about the current window, with a log that has only these keys.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from parity.audit.audit import Question, audit
from parity.audit.causes import CORRECTION, DELETED, LATE_ROW
from parity.audit.found import Audit
from parity.audit.logged import Requests, views_of
from parity.definition.checks import FeatureTable
from parity.drift.origin import Agreement
from parity.drift.spans import Span
from parity.edge.files import Location
from parity.served.log import Part, read

if TYPE_CHECKING:
    from feast import FeatureStore

OF_DATA = LATE_ROW, CORRECTION, DELETED
"""Causes that are the transactions' own: what was served was right as it was known then."""


def audited(
    store: FeatureStore,
    table: FeatureTable,
    transactions: Location,
    log: Iterable[Part],
    keys: pa.Table,
    span: Span,
    now: datetime,
) -> Agreement:
    """Ask the audit about what was served of ``keys`` in the days of ``span``, by the parts of the ``log``."""
    with tempfile.TemporaryDirectory() as folder:
        some = list(_of_keys(log, keys, Path(folder)))
        found = Audit(folder, [], Requests(), since=span.begin, until=span.end)
        views = views_of(store, [table])
        there = {table.name: transactions}
        audit(store, Question(some, views, [table.name], there, span.begin, span.end, now), found)
    wrong = {cause: one for view in found.views for cause, one in view.causes.items() if cause not in OF_DATA}
    causes = {cause: one.today for cause, one in wrong.items() if one.today}
    values = sum(view.values for view in found.views)
    said = ", ".join(f"{cause} {count:,}" for cause, count in sorted(causes.items(), key=lambda one: -one[1]))
    return Agreement(keys.num_rows, values, sum(causes.values()), said)


def _of_keys(log: Iterable[Part], keys: pa.Table, folder: Path) -> Iterator[Part]:
    """The parts of a log with no other rows than those of ``keys``, written to ``folder``."""
    for number, part in enumerate(log):
        rows = read(part)
        for name in keys.column_names:  # of composite keys, some more rows: those of all combinations
            rows = rows.filter(pc.is_in(rows[name], value_set=keys[name].cast(rows[name].type).combine_chunks()))
        if rows.num_rows:
            path = folder / f"{number}.parquet"
            pq.write_table(rows, path)
            yield part._replace(path=path, rows=rows.num_rows)
