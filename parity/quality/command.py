"""Whether transactions and features are as features.py expects them, day by day, by Great Expectations.

    python -m parity quality [-c REPO] [--view NAME] [--input FILE_OR_FOLDER] [--at INSTANT]
    python -m parity quality --incremental

Each expectation that fails is one line, with how many, what share, and three examples. A page, results and Data Docs
are kept in data/quality. Status 0: all is as expected; 1: something is not; 2: it could not be checked.
"""

import argparse
from pathlib import Path

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast
from parity.definition.checks import FeatureTable
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, instant, shown
from parity.edge.files import filesystem_of, location
from parity.offline.side import deliveries_of
from parity.quality.check import Checker, alone, folder_of, sources_of
from parity.quality.judge import Judged
from parity.repository import in_force, require_own

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"


def main() -> int:
    args = arguments()
    tables = in_force(args.repository).of(args.view).tables
    folder = args.store or folder_of(args.repository)
    with alone(folder):
        checker = Checker(folder, args.at or utc_now(), args.incremental)
        for source in sources_of(tables, deliveries_of(tables, args.input)):
            with checker.transactions(source) as transactions:
                report(checker.judged[-1])
                for table in source[1]:
                    if _is_computed(table):
                        checker.features(table, transactions)
                        report(checker.judged[-1])
        print(f"page: {shown(checker.publish())}")
    return 0 if all(one.is_fine for one in checker.judged) else 1


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    views = "only these feature views, and their transactions (default: all)"
    parser.add_argument("--view", action="extend", nargs="+", metavar="NAME", help=views)
    source = "the transactions (default: those that the features were computed from, and what was set aside of them)"
    parser.add_argument("--input", type=location, metavar="FILE_OR_FOLDER", help=source)
    changed = "only days that have changed, or failed, since the last run"
    parser.add_argument("--incremental", action="store_true", help=changed)
    parser.add_argument("--at", type=instant, metavar="INSTANT", help="what is taken for now, ISO 8601 (default: now)")
    folder = "the folder of results and Data Docs (default: data/quality beside the repository)"
    parser.add_argument("--store", type=Path, metavar="FOLDER", help=folder)
    return parser.parse_args()


def report(judged: Judged) -> None:
    """Print what days came to."""
    for line in judged.lines:
        print(f"failed: {line}")
    for tally in judged.remarks:
        print(f"{tally.severity}: {tally.line(judged.name)}")
    verdict = "as expected" if judged.is_fine else f"{len(judged.lines)} failed"
    expected = f"{len(judged.tallies)} expectations"
    print(f"{judged.name}: {judged.rows:,} rows, {judged.days:,} days looked at, {expected}: {verdict}")


def _is_computed(table: FeatureTable) -> bool:
    """Whether there are features to check. `UserError` if they were computed by other definitions."""
    filesystem, path = filesystem_of(location(table.source.path))
    if filesystem.get_file_info(path).type.name == "NotFound":
        print(f"{table.name}: not computed yet, so there are no features to check")
        return False
    require_own(table)
    return True
