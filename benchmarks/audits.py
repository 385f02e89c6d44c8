"""The audit of a log: how long it takes, and how much memory, beside the same rows asked of training alone.

python -m benchmarks.audits ROWS FOLDER PORT [LATE]
"""

import json
import resource
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus

from benchmarks.measure import Row, at_most, child
from benchmarks.stores import store_of
from parity.audit.audit import Question, audit
from parity.audit.found import Audit
from parity.audit.logged import LOG_TIMESTAMP, Requests, views_of
from parity.audit.sides import training_of
from parity.compute.history import compute_here
from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH, MICROSECOND, UTC_MICROSECONDS, utc_now
from parity.offline.versions import superseding
from parity.served.hourly import HourlyParts
from parity.served.log import folder_of, parts
from tests.definition import purchases

END = datetime(2026, 3, 1, tzinfo=UTC)
DAYS = 60
PURCHASES_EACH = 10
PER_PART = 100_000


def audited(rows: int, folder: Path, port: int) -> list[Row]:
    """A log of which nothing differs, and one to which some late transactions have come."""
    found = []
    for work, late in (("nothing differs", 0), ("of which some have changed since", max(1, rows // 200))):
        place = folder / f"audit_{late}"
        place.mkdir()
        one = child("audits", rows, place, port, late)
        note = f"peak {one['peak_mb']:.0f} MB, {one['differing']:,} values differ"
        work = f"audit of {rows:,} logged rows, {work}"
        seconds = one["seconds"], one["training"]
        found.append(at_most(work, "at most 60 s", "training alone", *seconds, "s", note))
    return found


def _write_transactions(table: FeatureTable, users: int, late: int = 0) -> None:
    """Purchases of ``users``, and of the first of them, that came ``late``."""
    rows = [_purchases(1, users, users * PURCHASES_EACH), _purchases(3, max(1, users // 10), late)]
    pacsv.write_csv(pa.concat_tables(rows), table.transactions)


def _purchases(seed: int, users: int, count: int) -> pa.Table:
    draw = np.random.default_rng(seed)
    first = (END - timedelta(days=DAYS) - EPOCH) // MICROSECOND
    times = pa.array(first + draw.integers(0, DAYS * 86_400_000_000, count))
    columns = {
        "user_id": draw.integers(1, users + 1, count),
        "product_id": draw.integers(1, 100, count),
        "timestamp": times.cast(pa.timestamp("us")).cast(pa.string()),
        "purchase_amount": np.round(draw.gamma(2, 25, count), 2),
    }
    return pa.table(columns)


def _write_log(store, table: FeatureTable, folder: Path, rows: int, users: int) -> None:
    """Log what is right, by training itself: the answer to each of ``rows`` requests."""
    draw = np.random.default_rng(2)
    for start in range(0, rows, PER_PART):
        count = min(PER_PART, rows - start)
        keys = pa.table({"user_id": draw.integers(1, int(users * 1.02), count)})
        as_of = (END - EPOCH) // MICROSECOND - draw.integers(0, 40 * 86_400_000_000, count)
        names = [rule.name for rule in table.definition.rules]
        right = training_of(store, table.name, names, keys, as_of).values
        now = (utc_now() - EPOCH) // MICROSECOND
        columns = {"user_id": keys["user_id"]}
        for name in names:
            columns[f"{table.name}__{name}"] = right[name]
            columns[f"{table.name}__{name}__timestamp"] = pa.array(as_of).cast(UTC_MICROSECONDS)
            columns[f"{table.name}__{name}__status"] = pa.array([FieldStatus.PRESENT] * count, pa.int32())
        columns[LOG_TIMESTAMP] = pa.array(now + np.arange(count)).cast(UTC_MICROSECONDS)
        columns["__log_date"] = columns[LOG_TIMESTAMP].cast(pa.date32())
        columns["__request_id"] = pa.array([f"{start + number:032x}" for number in range(count)])
        columns["__as_of"] = pa.array(as_of).cast(UTC_MICROSECONDS)
        served = pa.table(columns)
        facts = {"project": store.project, "service": table.service.name, "references": []}
        HourlyParts(folder / folder_of(table.service.name), served.schema, facts).append(served)


def main(rows: int, folder: Path, port: int, late: int) -> None:
    users = max(10, rows // 50)
    table, log = purchases(folder), folder / "served"
    _write_transactions(table, users)
    with superseding(table, Path(table.source.path)):
        compute_here(table, table.transactions, Path(table.source.path))
    store = store_of("ours", [table], folder, port)
    _write_log(store, table, log, rows, users)
    if late:
        _write_transactions(table, users, late)
        with superseding(table, Path(table.source.path)):
            compute_here(table, table.transactions, Path(table.source.path))

    start = time.perf_counter()
    found = Audit(str(log), [], Requests())
    views, transactions = views_of(store, [table]), {table.name: table.transactions}
    audit(store, Question(parts(log), views, [], transactions, None, None, utc_now()), found)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    start = time.perf_counter()
    for part in parts(log):
        served = pq.read_table(part.path, partitioning=None)
        as_of = served["__as_of"].cast(pa.int64()).to_numpy()
        names = [rule.name for rule in table.definition.rules]
        training_of(store, table.name, names, served.select(["user_id"]).combine_chunks(), as_of)
    training = time.perf_counter() - start
    causes = {cause: one.values for view in found.views for cause, one in view.causes.items()}
    print(
        json.dumps(
            {
                "seconds": seconds,
                "training": training,
                "peak_mb": peak,
                "rows": found.rows,
                "differing": found.differing,
                "causes": causes,
            }
        )
    )


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 0)
