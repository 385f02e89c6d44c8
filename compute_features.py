"""Compute the features of every user at every instant of a purchase: the offline store.

    python compute_features.py [--input FILE] [--output FILE]
    python compute_features.py --incremental [--input FILE_OR_FOLDER] [--output FOLDER]
    python compute_features.py --engine spark [--input FILE_OR_FOLDER] [--output FOLDER]

What is computed is declared in feature_repo/features.py. Files are CSV or Parquet, by suffix, on a disk or in a bucket
(s3://). Incrementally or with Spark, the input may be a folder of such files, and the output is a folder of Parquet
files, one a day. Incrementally, only what can have changed since the last such run is computed.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import argparse
from pathlib import Path, PurePath

import pyarrow.compute as pc

import parity.edge.quick_feast  # noqa: F401
from parity.compute.days import Staged
from parity.compute.incremental import update
from parity.definition.checks import FeatureTable, feature_table
from parity.edge.command import argument_parser, run, shown
from parity.edge.errors import UserError
from parity.edge.files import Location, absolute, location, on_disk, write_table
from parity.offline.side import feature_history, history_schema, note_origin
from parity.transactions.read import TIMESTAMP, read_transactions

REPOSITORY = Path(__file__).resolve().parent / "feature_repo"
TRANSACTIONS = Path(__file__).parent / "user_transactions.csv"


def main() -> None:
    args = arguments()
    table = feature_table(REPOSITORY)
    output = args.output or location(table.source.path)
    require_apart(args.input, output)
    if args.engine == "spark":
        written = compute_on_spark(table, args.input, output)
    elif args.incremental:
        written = update_here(table, args.input, output)
    else:
        written = compute_here(table, args.input, output)
    note_origin(table.view, output, args.input, TRANSACTIONS)
    print(f"{written} -> {shown(output)}")


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--input", type=location, default=TRANSACTIONS)
    parser.add_argument("--output", type=location)
    parser.add_argument("--engine", choices=["local", "spark"], default="local", help="what computes (default: local)")
    parser.add_argument("--incremental", action="store_true", help="only what can have changed since the last time")
    args = parser.parse_args()
    if args.incremental and args.engine == "spark":
        parser.error("--incremental computes on this machine; it does not go with --engine spark")
    return args


def require_apart(source: Location, output: Location) -> None:
    places = [PurePath(absolute(place)) for place in (source, output)]
    if places[1] == places[0]:
        raise UserError("--output is the same file as --input; name another.")
    if places[1].is_relative_to(places[0]):
        raise UserError("--output lies in the folder that is --input, and would be read with it; name another.")


def compute_here(table: FeatureTable, source: Location, output: Location) -> str:
    key = table.entity.join_key
    with on_disk(source) as file:
        transactions = read_transactions(file, key, set(table.columns))
    history = feature_history(transactions, TIMESTAMP, table.aggregations, table.view)
    write_table(history, output)
    return f"{history.num_rows:,} feature rows of {pc.count_distinct(history[key]).as_py():,} users"


def update_here(table: FeatureTable, source: Location, output: Location) -> str:
    days = update(source, output, table.aggregations, history_schema(table.view, table.aggregations))
    return "nothing has changed" if days is None else written_by_day(days)


def compute_on_spark(table: FeatureTable, source: Location, output: Location) -> str:
    try:
        from parity.compute.spark import compute  # an extra, and slow to import
    except ModuleNotFoundError:
        raise UserError("PySpark is not installed. Run: pip install -r requirements-spark.txt") from None
    days = compute(source, output, table.aggregations, history_schema(table.view, table.aggregations))
    return written_by_day(days)


def written_by_day(days: list[Staged]) -> str:
    return f"{sum(day.rows for day in days):,} feature rows of {len(days):,} days"


if __name__ == "__main__":
    run(main)
