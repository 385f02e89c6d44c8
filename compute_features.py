"""Compute the features of every user at every instant of a purchase: the offline store.

    python compute_features.py [--input FILE] [--output FILE]
    python compute_features.py --incremental [--input FILE_OR_FOLDER] [--output FOLDER]
    python compute_features.py --engine spark [--input FILE_OR_FOLDER] [--output FOLDER]

What is computed is declared in feature_repo/features.py. Files are CSV or Parquet, by suffix, on a disk or in a bucket
(s3://). Incrementally or with Spark, the input may be a folder of such files, and the output is a folder of Parquet
files, one a day. Incrementally, only what can have changed since the last such run is computed.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.command import start

    start()

import argparse
from pathlib import Path, PurePath

import pyarrow.compute as pc

import parity.quick_feast  # noqa: F401
from feature_repo.features import AGGREGATIONS, user, user_features_source, user_purchase_features
from parity.command import UserError, argument_parser, run, shown
from parity.files import Location, absolute, location, on_disk, write_table
from parity.incremental import update
from parity.offline import feature_history, history_schema, note_origin
from parity.partitions import Staged
from parity.transactions import TIMESTAMP, read_transactions

TRANSACTIONS = Path(__file__).parent / "user_transactions.csv"


def main() -> None:
    args = arguments()
    if args.engine == "spark":
        written = compute_on_spark(args.input, args.output)
    elif args.incremental:
        written = update_here(args.input, args.output)
    else:
        written = compute_here(args.input, args.output)
    note_origin(user_purchase_features, args.output, args.input, TRANSACTIONS)
    print(f"{written} -> {shown(args.output)}")


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--input", type=location, default=TRANSACTIONS)
    parser.add_argument("--output", type=location, default=location(user_features_source.path))
    parser.add_argument("--engine", choices=["local", "spark"], default="local", help="what computes (default: local)")
    parser.add_argument("--incremental", action="store_true", help="only what can have changed since the last time")
    args = parser.parse_args()
    places = [PurePath(absolute(p)) for p in (args.input, args.output)]
    if places[1] == places[0]:
        parser.error("--output is the same file as --input")
    if places[1].is_relative_to(places[0]):
        parser.error("--output lies in the folder that is --input, and would be read with it")
    if args.incremental and args.engine == "spark":
        parser.error("--incremental computes on this machine; it does not go with --engine spark")
    return args


def compute_here(source: Location, output: Location) -> str:
    with on_disk(source) as file:
        transactions = read_transactions(file, user.join_key, {a.column for a in AGGREGATIONS})
    history = feature_history(transactions, TIMESTAMP, AGGREGATIONS, user_purchase_features)
    write_table(history, output)
    return f"{history.num_rows:,} feature rows of {pc.count_distinct(history[user.join_key]).as_py():,} users"


def update_here(source: Location, output: Location) -> str:
    days = update(source, output, AGGREGATIONS, history_schema(user_purchase_features))
    return "nothing has changed" if days is None else written_by_day(days)


def compute_on_spark(source: Location, output: Location) -> str:
    try:
        from parity.spark import compute  # an extra, and slow to import
    except ModuleNotFoundError:
        raise UserError("PySpark is not installed. Run: pip install -r requirements-spark.txt") from None
    days = compute(source, output, AGGREGATIONS, history_schema(user_purchase_features))
    return written_by_day(days)


def written_by_day(days: list[Staged]) -> str:
    return f"{sum(day.rows for day in days):,} feature rows of {len(days):,} days"


if __name__ == "__main__":
    run(main)
