"""Compute the features of every key at every instant at which it has a transaction: the offline store.

    python compute_features.py [-c REPO] [--view NAME] [--input FILE] [--output FILE]
    python compute_features.py --incremental [-c REPO] [--view NAME] [--input FILE_OR_FOLDER] [--output FOLDER]
    python compute_features.py --engine spark [-c REPO] [--view NAME] [--input FILE_OR_FOLDER] [--output FOLDER]

What is computed, and of which files, is declared in feature_repo/features.py, or in that of another REPO. Incrementally
or with Spark, the output is a folder of Parquet files, one a day. Incrementally, only what can have changed since the
last such run is computed; so it is of what was deployed to such a folder. With --require-quality nothing is replaced
unless transactions and features are as expected.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import argparse
from contextlib import ExitStack, nullcontext
from pathlib import Path

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast
from parity.compute.history import compute_here, compute_on_spark, is_by_day, require_apart, require_one, update_here
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, run, shown
from parity.edge.feast_internals import stored_as
from parity.edge.files import location
from parity.offline.side import note_marks, note_origin
from parity.offline.versions import are_kept, superseding
from parity.repository import in_force
from parity.transactions.landed import high_water

REPOSITORY = Path(__file__).resolve().parent / "feature_repo"


def main() -> int:
    args = arguments()
    tables = in_force(args.repository).of(args.view).tables
    require_one(tables, args.input, args.output)
    is_logged = are_kept(args.repository)
    sources = [args.input or table.transactions for table in tables]
    outputs = [args.output or location(table.source.path) for table in tables]
    for source, output in zip(sources, outputs, strict=True):
        require_apart(source, output)
    deployed = args.output is None and all(stored_as(table.view) for table in tables)
    incremental = args.incremental or (deployed and all(is_by_day(output) for output in outputs))
    compute = compute_on_spark if args.engine == "spark" else update_here if incremental else compute_here
    marks = [high_water(source) for source in sources]
    with ExitStack() as checked:
        if args.require_quality:
            from parity.quality.gate import passed  # an extra, and slow to import

            found = checked.enter_context(passed(tables, sources, args.repository, utc_now(), incremental))
            if found is None:
                return 1
            sources = [found.transactions[table.name] for table in tables]
            compute = compute if incremental else found.put
        for table, source, output, mark in zip(tables, sources, outputs, marks, strict=True):
            with superseding(table, output) if is_logged else nullcontext():
                print(f"{compute(table, source, output)} -> {shown(output)}")
            note_origin(table, output, source)
            note_marks(table, output, mark)
    return 0


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    parser.add_argument(
        "--view", action="extend", nargs="+", metavar="NAME", help="only these feature views (default: all)"
    )
    parser.add_argument("--input", type=location, help="the transactions (default: where they are declared to be)")
    parser.add_argument("--output", type=location, help="where the features go (default: where they are declared)")
    parser.add_argument("--engine", choices=["local", "spark"], default="local", help="what computes (default: local)")
    parser.add_argument("--incremental", action="store_true", help="only what can have changed since the last time")
    quality = "replace nothing unless transactions and features are as features.py expects them"
    parser.add_argument("--require-quality", action="store_true", help=quality)
    args = parser.parse_args()
    if args.incremental and args.engine == "spark":
        parser.error("--incremental computes on this machine; it does not go with --engine spark")
    if args.require_quality and args.engine == "spark":
        parser.error("--require-quality checks on this machine; it does not go with --engine spark")
    return args


if __name__ == "__main__":
    run(main)
