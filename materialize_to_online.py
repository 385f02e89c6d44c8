"""Bring the latest features of every user, or other entity, into Redis, the online store, through Feast.

    python materialize_to_online.py [-c REPO] [--view NAME ...] [--service NAME] [--start INSTANT] [--end INSTANT]
        [--retract]

Of every feature view in feature_repo/features.py, or of those named. Without --start, the whole history: rows that it
no longer has are removed from Redis too. If these are more than half of any view's, nothing is done unless --retract
is given.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

from pathlib import Path

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, instant, run
from parity.materialization import materialize_all
from parity.repository import in_force, opened
from parity.stream.seed import seed_streamed

REPOSITORY = Path(__file__).resolve().parent / "feature_repo"


def main() -> None:
    now = utc_now()
    parser = argument_parser(__doc__, REPOSITORY)
    views = "materialize these feature views (default: all)"
    parser.add_argument("--view", action="extend", nargs="+", metavar="NAME", help=views)
    parser.add_argument("--service", metavar="NAME", help="materialize the feature views of this service")
    parser.add_argument("--start", type=instant, help="ISO 8601, UTC without an offset (default: the first event)")
    parser.add_argument("--end", type=instant, default=now, help="ISO 8601, UTC without an offset (default: now)")
    parser.add_argument("--retract", action="store_true", help="remove even more than half of the rows in Redis")
    args = parser.parse_args()

    tables = in_force(args.repository).of(args.view, args.service).tables
    with opened(args.repository, tables) as store:
        materialized = materialize_all(store, tables, args.start, args.end, now, args.retract)
        seeded = seed_streamed(store, tables, now) if args.start is None and args.end == now else {}
    for table, (keys, retracted, ahead) in zip(tables, materialized, strict=True):
        view = f"{table.name}: " if len(tables) > 1 else ""
        print(f"{view}{keys:,} {table.noun(keys)} in Redis, materialized up to {args.end.isoformat()}")
        if retracted:
            print(f"{view}{retracted:,} rows removed that the features no longer have")
        if ahead:
            print(f"{view}{ahead:,} rows left alone, where a stream is ahead of the features")
        if of_view := seeded.get(table.name):
            print(f"{view}{of_view.keys:,} {table.noun(of_view.keys)} seeded for the stream")
        if of_view and of_view.left:
            print(f"{view}{of_view.left:,} left to the next time, as their last events have not landed yet")


if __name__ == "__main__":
    run(main)
