"""The features themselves: in memory, from file to file, and how the time grows."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.duckdb_file_to_file import FEATURES
from benchmarks.measure import Row, alternately, at_most, child, faster
from generate_synthetic_data import draw_transactions
from parity.compute.windows import aggregate
from parity.definition.keys import key_schema
from parity.definition.table import Definition, Rule
from parity.edge.files import write_table

TIMESTAMP = "timestamp"
AVERAGE, TOTAL = "user_avg_3day_purchase_amount", "user_total_transactions"
SEED = (
    Rule(AVERAGE, "mean", "purchase_amount", timedelta(days=3)),
    Rule(TOTAL, "count", "purchase_amount", None),
)
END = datetime(2026, 3, 8, tzinfo=UTC)
ROWS_A_USER = 50


def transactions(rows: int, users: int) -> pa.Table:
    return draw_transactions(rows, users, 30, 42, END)


def declared(rules: tuple[Rule, ...], **keys: pa.DataType) -> Definition:
    return Definition("view", key_schema(keys or {"user_id": pa.int64()}), "event_timestamp", rules)


def ours(table: pa.Table, rules: tuple[Rule, ...] = SEED) -> pa.Table:
    return aggregate(table, declared(rules))


def with_polars(table: pa.Table) -> pa.Table:
    frame = pl.from_arrow(table).with_columns(
        cent=(pl.col("purchase_amount") * 100).round().cast(pl.Int64), one=pl.lit(1, pl.Int64)
    )
    recent = {"by": TIMESTAMP, "window_size": "3d", "closed": "both"}
    frame = frame.sort("user_id", TIMESTAMP).with_columns(
        cents=pl.col("cent").rolling_sum_by(**recent).over("user_id"),
        rows=pl.col("one").rolling_sum_by(**recent).over("user_id"),
        total=pl.col("one").cum_sum().over("user_id"),
    )
    last = frame.group_by("user_id", TIMESTAMP, maintain_order=True).last()
    average = (pl.col("cents") / (pl.col("rows") * 100.0)).alias(AVERAGE)
    return last.select("user_id", TIMESTAMP, average, pl.col("total").alias(TOTAL)).to_arrow()


def with_duckdb(table: pa.Table) -> pa.Table:
    with duckdb.connect() as connection:
        connection.register("transactions", table)
        return connection.execute(FEATURES.format(source="transactions")).fetch_arrow_table()


def require_equal(one: pa.Table, other: pa.Table) -> None:
    for name in (AVERAGE, TOTAL):
        assert np.array_equal(one[name].to_numpy(), other[name].to_numpy()), f"the results differ in {name}"


def in_memory(rows: int, repeats: int) -> Row:
    table = transactions(rows, max(1, rows // ROWS_A_USER))
    peers = {"Polars": with_polars, "DuckDB": with_duckdb}
    for peer in peers.values():
        require_equal(ours(table), peer(table))
    ways = {"ours": ours} | peers
    seconds = alternately({name: lambda way=way: way(table) for name, way in ways.items()}, repeats)
    slower = ", ".join(f"{name} {taken / seconds['ours']:.1f}x" for name, taken in seconds.items() if name != "ours")
    return faster(f"both features in memory, {rows:,} rows", "1.3x", seconds, slower)


def file_to_file(rows: int, suffix: str, repeats: int, folder: Path) -> Row:
    source = folder / f"transactions.{suffix}"
    write_table(transactions(rows, max(1, rows // ROWS_A_USER)), source)
    made, theirs = folder / "ours.parquet", folder / "theirs.parquet"
    ways = {
        "ours": lambda: child("script", "compute_features.py", "--input", source, "--output", made),
        "DuckDB": lambda: child("script", "-m", "benchmarks.duckdb_file_to_file", source, theirs),
    }
    seconds = alternately(ways, repeats)
    require_equal(pq.read_table(made), pq.read_table(theirs))
    return faster(f"compute_features.py, {suffix.upper()} to Parquet, {rows:,} rows", "1x", seconds)


def growth(rows: int, repeats: int) -> list[Row]:
    some, more = transactions(rows // 10, max(1, rows // 10 // ROWS_A_USER)), transactions(rows, rows // ROWS_A_USER)
    one = transactions(rows, 1)
    tables = {"a tenth": some, "all": more, "one user": one}
    seconds = alternately({name: lambda table=table: ours(table) for name, table in tables.items()}, repeats)
    return [
        at_most(f"10 times the rows, {rows:,}", "at most 12x", "a tenth", seconds["all"], seconds["a tenth"], "s"),
        at_most(f"one user owns all {rows:,}", "at most 1.5x", "50 each", seconds["one user"], seconds["all"], "s"),
    ]


def within_memory(rows: int, folder: Path) -> Row:
    """Compute ``rows`` from Parquet to Parquet in a process of its own, and look at its peak."""
    source = folder / "many.parquet"
    write_table(transactions(rows, rows // ROWS_A_USER), source)
    start = time.perf_counter()
    done = child("script", "compute_features.py", "--input", source, "--output", folder / "made.parquet")
    note = f"in {time.perf_counter() - start:.0f} s"
    return at_most(
        f"compute_features.py, {rows:,} rows", "at most 1x", "16 GiB", done["peak_mb"] / 1024, 16, "GiB", note
    )


def bar(rows: int, repeats: int, folder: Path) -> Row:
    """The cost of a progress bar: the same run on a terminal and without one.

    One per cent is less than what runs differ by, upwards only: so the fastest of each are compared.
    """
    source = folder / "transactions.parquet"
    write_table(transactions(rows, rows // ROWS_A_USER), source)
    ways = {
        name: lambda name=name: child("script", f"--{name}", "compute_features.py", "--input", source, "--output", made)
        for name in ("terminal", "pipe")
    }
    made = folder / "made.parquet"
    seconds = alternately(ways, repeats, min)
    note = f"fastest of {repeats}"
    return at_most(
        "progress bar on a terminal", "at most 1.01x", "without", seconds["terminal"], seconds["pipe"], "s", note
    )
