"""Draw synthetic e-commerce transactions.

    python generate_synthetic_data.py [--rows N] [--users N] [--days N] [--seed N] [--end INSTANT] [--output FILE]

The same --seed and --end give the same bytes. The draws are NumPy's legacy stream, frozen for good by its authors.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from parity.definition.instants import UTC_MICROSECONDS, utc_now
from parity.edge.command import argument_parser, instant, run, shown, whole_number
from parity.edge.files import write_table

PRODUCTS = np.arange(100, 150)
AMOUNT_SHAPE, AMOUNT_SCALE = 2, 25  # of a gamma distribution: many small purchases, few large ones
SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.int64(), nullable=False),
        pa.field("product_id", pa.int64(), nullable=False),
        pa.field("timestamp", UTC_MICROSECONDS, nullable=False),
        pa.field("purchase_amount", pa.float64(), nullable=False),
    ]
)
"""One row per purchase: who, what, when, and for how much."""


def draw_transactions(rows: int, users: int, days: int, seed: int, end: datetime) -> pa.Table:
    """Draw ``rows`` purchases of users 1 to ``users`` over the ``days`` days before ``end``, sorted by time.

    Raises `OverflowError` if they would begin before the year 1.
    """
    start = np.datetime64((end - timedelta(days=days)).replace(tzinfo=None), "us")
    random = np.random.RandomState(seed)
    user_ids = random.choice(users, rows) + 1
    product_ids = random.choice(PRODUCTS, rows)
    minutes = random.randint(0, [days, 24, 60], size=(rows, 3)) @ [24 * 60, 60, 1]
    amounts = random.gamma(AMOUNT_SHAPE, AMOUNT_SCALE, rows).round(2)

    timestamps = pa.array(start + minutes.astype("timedelta64[m]")).cast(UTC_MICROSECONDS)
    by_time = np.argsort(minutes, kind="stable")
    return pa.table([user_ids, product_ids, timestamps, amounts], schema=SCHEMA).take(by_time)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--rows", type=whole_number(1, 10**12), default=100, help="purchases to draw (default: 100)")
    parser.add_argument("--users", type=whole_number(1, 2**62), default=20, help="ids run from 1 to this (default: 20)")
    parser.add_argument("--days", type=whole_number(1), default=30, help="days before --end they span (default: 30)")
    parser.add_argument("--seed", type=whole_number(0, 2**32 - 1), default=42, help="of the random draws (default: 42)")
    parser.add_argument("--end", type=instant, default=utc_now().replace(microsecond=0), help="ISO 8601 (default: now)")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "user_transactions.csv")
    args = parser.parse_args()

    try:
        transactions = draw_transactions(args.rows, args.users, args.days, args.seed, args.end)
    except OverflowError:
        parser.error(f"argument --days: {args.days} days before {args.end.isoformat()} there was no calendar")
    write_table(transactions, args.output)
    print(f"{transactions.num_rows:,} transactions -> {shown(args.output)}")


if __name__ == "__main__":
    run(main)
