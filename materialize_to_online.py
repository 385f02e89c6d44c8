"""Bring every user's latest features into Redis, the online store, through Feast.

    python materialize_to_online.py [--start INSTANT] [--end INSTANT] [--retract]

Without --start, the whole history: rows that it no longer has are removed from Redis too. If these are more than
half, nothing is done unless --retract is given.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

from pathlib import Path

import parity.edge.quick_feast  # noqa: F401
from parity.definition.checks import declared
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, instant, run
from parity.materialization import materialize
from parity.repository import opened

REPOSITORY = Path(__file__).resolve().parent / "feature_repo"


def main() -> None:
    now = utc_now()
    parser = argument_parser(__doc__)
    parser.add_argument("--start", type=instant, help="ISO 8601, UTC without an offset (default: the first event)")
    parser.add_argument("--end", type=instant, default=now, help="ISO 8601, UTC without an offset (default: now)")
    parser.add_argument("--retract", action="store_true", help="remove even more than half of the rows in Redis")
    args = parser.parse_args()

    [table] = declared(REPOSITORY)
    with opened(REPOSITORY, [table]) as store:
        users, retracted = materialize(store, table, args.start, args.end, now, args.retract)
    print(f"{users:,} users in Redis, materialized up to {args.end.isoformat()}")
    if retracted:
        print(f"{retracted:,} rows removed that the features no longer have")


if __name__ == "__main__":
    run(main)
