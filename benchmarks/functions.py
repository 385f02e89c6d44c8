"""Every function beside those of the seed, and keys of other types: in memory, against the best query of each peer.

python -m benchmarks.functions TRANSACTIONS WORK    computes a Parquet file, to see how much memory that takes
"""

import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.features import ROWS_A_USER, TIMESTAMP, declared, transactions
from benchmarks.measure import Row, alternately, at_most, child, faster
from parity.compute.windows import aggregate
from parity.definition.table import Definition, Rule
from parity.edge.files import write_table

DAYS = {3: timedelta(days=3), 7: timedelta(days=7), None: None}
AMOUNT, PRODUCT = "purchase_amount", "product_id"
TOLERANCE = 1e-6
"""Of a std, relative to its value or to one cent: the peers add up floats."""


class Work(NamedTuple):
    """Features of a table: what ours are declared by, and what the peers' queries are made of."""

    features: tuple[tuple[str, int | None], ...]
    """Function and days of the window, of amounts; of products if distinct values are counted."""
    keys: tuple[str, ...] = ("user_id",)
    rows_a_key: int = ROWS_A_USER
    texts: bool = False
    """Whether the first key is a text."""

    @property
    def names(self) -> list[str]:
        return [f"{function}_{days}" for function, days in self.features]


SEED = Work((("mean", 3), ("count", None)))
WORKS = {
    "min and max over 7 days": Work((("min", 7), ("max", 7))),
    "std over 7 days": Work((("std", 7),)),
    "count_distinct over 7 days": Work((("count_distinct", 7),)),
    "last over 7 days": Work((("last", 7),)),
    "text keys, a tenth of the rows": Work((("mean", 3), ("count", None)), rows_a_key=10, texts=True),
    "two keys": Work((("mean", 3), ("count", None)), ("user_id", PRODUCT), 500),
    "ten features": Work(
        (
            ("mean", 3),
            ("count", None),
            ("sum", 7),
            ("min", 7),
            ("max", 7),
            ("std", 7),
            ("last", 7),
            ("count_distinct", 7),
            ("max", None),
            ("count", 7),
        )
    ),
}


def table_of(work: Work, rows: int) -> pa.Table:
    table = transactions(rows, max(1, rows // work.rows_a_key))
    if work.texts:
        padded = pc.utf8_lpad(table["user_id"].cast(pa.string()), 10, "0")
        table = table.set_column(0, "user_id", pc.binary_join_element_wise("customer", padded, "-"))
    return table.combine_chunks()


def definition_of(work: Work, table: pa.Table) -> Definition:
    rules = []
    for name, (function, days) in zip(work.names, work.features, strict=True):
        column = PRODUCT if function == "count_distinct" else AMOUNT
        rules.append(Rule(name, function, column, DAYS[days], table.schema.field(column).type))
    return declared(tuple(rules), **{key: table.schema.field(key).type for key in work.keys})


def with_duckdb(work: Work, table: pa.Table) -> pa.Table:
    """Windows in SQL, and a grouping that takes one row of those at one instant.

    For ``last`` that is all: a window and `last_value` give the same, and take longer.
    """
    sql = {
        "mean": "sum(cent) OVER {w} / (count(*) OVER {w} * 100.0)",
        "sum": "sum(cent) OVER {w} / 100.0",
        "count": "count(*) OVER {w}",
        "min": "min(purchase_amount) OVER {w}",
        "max": "max(purchase_amount) OVER {w}",
        "std": "stddev_samp(purchase_amount) OVER {w}",
        "last": "purchase_amount",
        "count_distinct": "count(DISTINCT product_id) OVER {w}",
    }
    keys = ", ".join(work.keys)
    columns = [
        f"{sql[function].format(w=f'w{days}')} AS {name}"
        for name, (function, days) in zip(work.names, work.features, strict=True)
    ]
    windows = [
        f"w{days} AS (PARTITION BY {keys} ORDER BY timestamp RANGE BETWEEN "
        f"{f'INTERVAL {days} DAY' if days else 'UNBOUNDED'} PRECEDING AND CURRENT ROW)"
        for days in {days for function, days in work.features if function != "last"}
    ]
    picked = [
        f"{'max' if function == 'last' else 'any_value'}({name}) AS {name}"
        for name, (function, _) in zip(work.names, work.features, strict=True)
    ]
    query = f"""
        SELECT {keys}, event_timestamp, {", ".join(picked)}
        FROM (
            SELECT {keys}, timestamp AS event_timestamp, {", ".join(columns)}
            FROM (SELECT *, CAST(round(purchase_amount * 100) AS BIGINT) AS cent FROM transactions)
            {"WINDOW" if windows else ""} {", ".join(windows)}
        ) GROUP BY {keys}, event_timestamp ORDER BY {keys}, event_timestamp
    """
    with duckdb.connect() as connection:
        connection.register("transactions", table)
        return connection.execute(query).fetch_arrow_table()


def with_polars(work: Work, table: pa.Table) -> pa.Table:
    """Rolling expressions over each key, and a rolling grouping for distinct values, which has no such expression."""
    frame = pl.from_arrow(table).with_columns(
        cent=(pl.col(AMOUNT) * 100).round().cast(pl.Int64), one=pl.col("purchase_amount").is_not_null().cast(pl.Int64)
    )
    keys = list(work.keys)
    frame = frame.sort(*keys, TIMESTAMP)

    def rolling(column: str, function: str, days: int | None) -> pl.Expr:
        values = pl.col(column)
        if days is None:
            return getattr(values, {"sum": "cum_sum", "max": "cum_max", "min": "cum_min"}[function])().over(keys)
        window = {"by": TIMESTAMP, "window_size": f"{days}d", "closed": "both"}
        return getattr(values, f"rolling_{function}_by")(**window).over(keys)

    made = {}
    for name, (function, days) in zip(work.names, work.features, strict=True):
        match function:
            case "mean":
                made[name] = rolling("cent", "sum", days) / (rolling("one", "sum", days) * 100.0)
            case "sum":
                # By a column: by a number it would multiply, with its inexact inverse.
                made[name] = rolling("cent", "sum", days) / (pl.col("one") * 100.0)
            case "count":
                made[name] = rolling("one", "sum", days)
            case "min" | "max" | "std":
                made[name] = rolling(AMOUNT, function, days)
            case "last":
                made[name] = pl.col(AMOUNT)
    distinct = [name for name in work.names if name not in made]
    last = [pl.col(name).max() if name.startswith("last") else pl.col(name).last() for name in made]
    frame = frame.with_columns(**made)
    result = frame.group_by(*keys, TIMESTAMP, maintain_order=True).agg(*last) if made else None
    for name in distinct:
        counted = (
            frame.rolling(TIMESTAMP, period="7d", closed="both", group_by=keys)
            .agg(pl.col(PRODUCT).n_unique().alias(name).cast(pl.Int64))
            .group_by(*keys, TIMESTAMP, maintain_order=True)
            .last()
        )
        result = counted if result is None else result.with_columns(counted[name])
    return result.select(*keys, TIMESTAMP, *work.names).to_arrow()


PEERS = {"Polars": with_polars, "DuckDB": with_duckdb}


def require_equal(work: Work, one: pa.Table, other: pa.Table) -> None:
    """All but a std exactly."""
    assert one.num_rows == other.num_rows
    for key in work.keys:
        assert one[key].cast(other[key].type).combine_chunks().equals(other[key].combine_chunks()), key
    for name, (function, _) in zip(work.names, work.features, strict=True):
        mine, theirs = (table[name].to_numpy() for table in (one, other))
        if function == "std":
            assert np.allclose(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE / 100, equal_nan=True), name
        else:
            assert np.array_equal(mine, theirs), name


def in_memory(name: str, rows: int, repeats: int) -> Row:
    work = WORKS[name]
    table = table_of(work, rows)
    definition = definition_of(work, table)
    ways: dict[str, Callable] = {"ours": partial(aggregate, table, definition)}
    computed = ways["ours"]()
    for peer, compute in PEERS.items():
        ways[peer] = partial(compute, work, table)
        require_equal(work, computed, ways[peer]())
    del computed
    seconds = alternately(ways, repeats)
    slower = ", ".join(f"{peer} {seconds[peer] / seconds['ours']:.1f}x" for peer in PEERS)
    return faster(f"{name}, {rows:,} rows", "1.5x", seconds, slower)


def memory(rows: int, folder: Path) -> list[Row]:
    """The peak of a process that reads the rows of a work, computes its features and writes them."""
    peaks, source = {}, folder / "work.parquet"
    for name in ("seed", *WORKS):
        write_table(table_of(WORKS.get(name, SEED), rows), source)
        peaks[name] = child("script", "-m", "benchmarks.functions", source, name)["peak_mb"] / 1024
    seed = peaks.pop("seed")
    return [
        at_most(f"memory of {name}, {rows:,} rows", "at most 1.5x", "the seed's table", peak, seed, "GiB")
        for name, peak in peaks.items()
    ]


def main(source: str, name: str) -> None:
    definition = definition_of(WORKS.get(name, SEED), pq.read_schema(source).empty_table())
    history = aggregate(pq.read_table(source, columns=definition.transactions.names), definition)
    write_table(history, Path(source).with_suffix(".made.parquet"))


if __name__ == "__main__":
    main(*sys.argv[1:])
