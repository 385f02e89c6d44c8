"""The features computed on Apache Spark: the same bits, by the same code, on as many machines as there are.

Spark schedules, shuffles and sorts. What a transaction is and what a feature is worth it does not know: a file is read,
typed and refused by `parity.transactions.read`, and aggregated by `parity.compute.windows`, in Spark's Python workers.
Instants travel as whole microseconds, columns under names that Spark can't mistake, and the workers write the Parquet
files: so no time zone, calendar, capital letter or Parquet setting of Spark plays a part.

A worker needs this package, PySpark, pyarrow, numpy, filelock and tqdm; no Feast. It holds one file of transactions,
then a stretch of one bucket of keys (`aggregate_sorted`), then a part of a day: no key and no day has to fit in its
memory.
"""

import os
import re
import sys
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

import pyarrow as pa
from py4j.protocol import Py4JError
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema

from parity.compute.days import MANIFEST, Partitions, Staged, split_by_day
from parity.compute.tail import aggregate_sorted
from parity.definition.instants import day_of
from parity.definition.table import Definition
from parity.edge.errors import UserError
from parity.edge.files import Location, location, on_disk
from parity.transactions.listing import transaction_files
from parity.transactions.read import read_part

DAY = "event_date"
READERS_PER_CORE = 4


class Job(NamedTuple):
    """What every worker has to know."""

    definition: Definition
    output: Location
    run: str

    @property
    def transactions(self) -> pa.Schema:
        """What is computed on, as Spark sees it."""
        return _for_spark(self.definition.transactions)

    @property
    def features(self) -> pa.Schema:
        """The offline table, as Spark sees it, and the day."""
        return _for_spark(self.definition.schema).append(pa.field(DAY, pa.int64()))

    @property
    def key_columns(self) -> list[str]:
        return self.transactions.names[: len(self.definition.keys)]

    @property
    def instant_column(self) -> str:
        return self.transactions.names[len(self.definition.keys)]


def _for_spark(schema: pa.Schema) -> pa.Schema:
    """The same columns under other names, with instants as whole microseconds."""
    types = [pa.int64() if pa.types.is_timestamp(field.type) else field.type for field in schema]
    return pa.schema([pa.field(f"c{number}", type, schema[number].nullable) for number, type in enumerate(types)])


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Give the columns of ``table``, by their places, the names and types of ``schema``."""
    return table.rename_columns(schema.names).cast(schema)


def compute(source: Location, output: Location, definition: Definition) -> list[Staged]:
    """Compute the table of ``definition`` from the transactions at ``source`` into daily partitions at ``output``.

    ``source`` is a file or a folder of them. Returns what each day got. An
    earlier table is replaced if all went well, and left whole if not.

    Raises `UserError` for transactions that the laptop refuses, with its message.
    """
    table = Partitions(output)
    job = Job(definition, output, table.run)
    files = list(transaction_files(source))
    try:
        with table.alone():
            session = _session()
            staged = _run(session, files, job)
            if not staged:
                raise UserError(f"{source}: there are no rows, so there is nothing to compute.")
            table.forget(MANIFEST)  # the next incremental run starts anew
            table.replace(staged, table.days())
    except (PySparkException, Py4JError) as error:
        refused = re.search(r"parity\.edge\.errors\.UserError: (.*)", str(error))
        raise UserError(refused[1] if refused else _failure(error)) from None
    return staged


def _failure(error: Exception) -> str:
    if "JAVA_GATEWAY_EXITED" in str(error):
        return "Spark does not start: it needs Java 17 or newer. Install one, or say where it is in JAVA_HOME."
    return f"Spark could not finish: {str(error).strip():.1000}"


def _session() -> SparkSession:
    """The session of spark-submit; without it one on this machine, on all of its cores."""
    builder = SparkSession.builder.appName("compute_features")
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
        builder = builder.master("local[*]")
        for name, value in {
            "spark.ui.enabled": "false",
            "spark.ui.showConsoleProgress": str(sys.stderr.isatty()).lower(),
            "spark.log.level": "FATAL",  # a refused file is one line of ours, not fifty of Java's
        }.items():
            builder = builder.config(name, value)
    return builder.getOrCreate()


def _run(session: SparkSession, files: list[str], job: Job) -> list[Staged]:
    context = session.sparkContext
    readers = min(len(files), READERS_PER_CORE * context.defaultParallelism)
    listed = context.parallelize([(file,) for file in files], readers)
    staged = (
        session.createDataFrame(listed, "file string")
        .mapInArrow(_on(job, _read), from_arrow_schema(job.transactions))
        .repartition(*job.key_columns)
        .sortWithinPartitions(*job.key_columns, job.instant_column)
        .mapInArrow(_on(job, _aggregate), from_arrow_schema(job.features))
        .repartition(DAY)
        .sortWithinPartitions(DAY, *job.key_columns, job.instant_column)
        .mapInArrow(_on(job, _write), "day long, file string, rows long")
        .collect()
    )
    return [Staged(*row) for row in staged]


def _on(job: Job, step):
    """Make a step of the job a function from batches to batches, as Spark's `mapInArrow` takes it."""

    def batches(incoming: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for table in step(job, (pa.table(batch) for batch in incoming)):
            yield from table.to_batches()

    return batches


def _read(job: Job, listed: Iterator[pa.Table]) -> Iterator[pa.Table]:
    for file in chain.from_iterable(table["file"].to_pylist() for table in listed):
        try:
            with on_disk(location(file)) as path:
                rows = read_part(path, job.definition).select(job.definition.transactions.names)
                yield _cast(rows, job.transactions)
        except UserError as error:
            raise UserError(" ".join(str(error).split())) from None  # one line, for the driver to find


def _aggregate(job: Job, sorted_rows: Iterator[pa.Table]) -> Iterator[pa.Table]:
    rows = (_cast(table, job.definition.transactions) for table in sorted_rows)
    for history in aggregate_sorted(rows, job.definition):
        days = pa.array(day_of(history[job.definition.event].cast(pa.int64()).to_numpy()))
        yield _cast(history.append_column(DAY, days), job.features)


def _write(job: Job, sorted_rows: Iterator[pa.Table]) -> Iterator[pa.Table]:
    table, schema = Partitions(job.output, job.run), job.definition.schema
    for day, rows in _by_day(sorted_rows):
        staged = table.stage((_cast(part.drop_columns([DAY]), schema) for part in rows), day, schema)
        yield pa.table({name: [value] for name, value in staged._asdict().items()})


def _by_day(sorted_rows: Iterator[pa.Table]) -> Iterator[tuple[int, Iterator[pa.Table]]]:
    """Split rows that are sorted by day into the days; each is to be used up before the next is asked for."""
    runs = chain.from_iterable(split_by_day(rows, rows[DAY].to_numpy()) for rows in sorted_rows)
    ahead = next(runs, None)

    def of_one_day() -> Iterator[pa.Table]:
        nonlocal ahead
        day = ahead[0]
        while ahead and ahead[0] == day:
            yield ahead[1]
            ahead = next(runs, None)

    while ahead:
        yield ahead[0], of_one_day()
