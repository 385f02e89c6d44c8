"""Compute the features of every user at every instant of a purchase: the offline store.

    python compute_features.py [--input FILE] [--output FILE]

What is computed is declared in feature_repo/features.py. Files are CSV or Parquet, by suffix.
"""

import argparse
from pathlib import Path

import pyarrow.compute as pc

import parity.quick_feast  # noqa: F401
from feature_repo.features import AGGREGATIONS, user, user_features_source, user_purchase_features
from parity.command import run, shown
from parity.files import write_table
from parity.offline import feature_history, note_origin
from parity.transactions import TIMESTAMP, read_transactions

TRANSACTIONS = Path(__file__).parent / "user_transactions.csv"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--input", type=Path, default=TRANSACTIONS)
    parser.add_argument("--output", type=Path, default=Path(user_features_source.path))
    args = parser.parse_args()
    if args.output.resolve() == args.input.resolve():
        parser.error("--output is the same file as --input")

    transactions = read_transactions(args.input, user.join_key, {a.column for a in AGGREGATIONS})
    history = feature_history(transactions, TIMESTAMP, AGGREGATIONS, user_purchase_features)
    write_table(history, args.output)
    note_origin(user_purchase_features, args.output, args.input, TRANSACTIONS)
    users = pc.count_distinct(history[user.join_key]).as_py()
    print(f"{history.num_rows:,} feature rows of {users:,} users -> {shown(args.output)}")


if __name__ == "__main__":
    run(main)
