"""Prove that serving equals training equals what the transactions say, for every key and every feature of every view.

    python demo_fixed.py [-c REPO] [--view NAME ...] [--service NAME ...] [--key KEY] [--at INSTANT] [--explain KEY]
        [--repair] [--sample N] [--report FILE] [--certificate FILE] [--input FILE]

A key is written as it is, 7, or with the names of its join keys: customer_id=0042,store_id=7.
Exit status 0: all equal. 1: skew, each differing value named. 2: it could not be checked.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import argparse
import secrets
from pathlib import Path

import numpy as np

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, file_named, instant, run, whole_number
from parity.edge.files import location
from parity.offline.side import origins_of
from parity.proof.proof import Proof, proving, unseen_views
from parity.report import terminal as report
from parity.report.certificate import Watched, certificate, watched, write_certificate
from parity.report.page import write_page
from parity.report.seen import look_through
from parity.repository import in_force, opened

REPOSITORY = Path(__file__).resolve().parent / "feature_repo"


def main() -> int:
    args, now = arguments(), utc_now()
    everything = in_force(args.repository)
    chosen = everything.through(args.service) if args.service else everything.of(args.view)
    asked = chosen.asked_for(args.key) or chosen.asked_for(args.explain, alone=True)
    tables = [table for table in chosen if args.explain is None or table.name in asked]
    transactions = origins_of(tables, args.input)
    data = [*transactions, *(location(table.source.path) for table in tables)]
    with (
        opened(args.repository, tables, redefined=True) as store,
        watched(data, hashed=bool(args.certificate or args.report)) as files,
        proving(store, tables, transactions, args.at, now, args.seed) as proofs,
    ):
        shown = [proof.number(asked.get(proof.table.name)) for proof in proofs]
        if args.explain is not None:
            return explain(proofs[0], shown[0], files)
        print(report.first_keys(proofs, shown))

        drawn = [proof.chosen(args.sample, args.seed) for proof in proofs]
        unseen = unseen_views(store, tables, chosen.others)
        seen = look_through(proofs, drawn, files)
        print(report.every_view([one.found for one in seen], unseen))
        if args.repair and any(one.found.differences for one in seen):
            for proof, one in zip(proofs, seen, strict=True):
                proof.repair(one.found, now)
            seen = look_through(proofs, drawn, files)
            print(f"Repaired, and compared again:\n{report.every_view([one.found for one in seen], unseen)}")
        milliseconds = [proof.latency(number) for proof, number in zip(proofs, shown, strict=True)]
        print(report.latencies(proofs, milliseconds))

        found = [one.found for one in seen]
        if args.certificate or args.report:
            proven = certificate(found, proofs, unseen, files.hashes, now, len(tables) == len(everything.tables))
        if args.certificate:
            write_certificate(proven, args.certificate)
        if args.report:
            write_page(args.report, seen, milliseconds, unseen, proven)
    return 1 if any(one.differences for one in found) else 0


def explain(proof: Proof, number: int, files: Watched) -> int:
    """Show what the features of one key are made of, and compare them."""
    print(report.explanation(proof, number))
    found, batches = proof.compared(np.array([number]))
    list(batches)
    files.require_unchanged()
    print("\n".join(report.differences(found)) or "  All sides agree.")
    return 1 if found.differences else 0


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    parser.add_argument("--view", action="extend", nargs="+", metavar="NAME", help="only these feature views")
    parser.add_argument(
        "--service", action="extend", nargs="+", metavar="NAME", help="only what these services give, by themselves"
    )
    parser.add_argument("--key", "--user", metavar="KEY", help="the key to show first (default: the first)")
    parser.add_argument("--at", type=instant, help="compare as of this instant, ISO 8601, by a replay (default: now)")
    parser.add_argument("--explain", metavar="KEY", help="show only what the features of this key are made of")
    parser.add_argument("--repair", action="store_true", help="put right the keys that differ, then compare again")
    parser.add_argument("--sample", type=whole_number(1), help="compare so many keys of each view, drawn at random")
    parser.add_argument("--seed", type=whole_number(0), default=secrets.randbits(32), help="of that draw, and of edges")
    parser.add_argument(
        "--report", type=file_named(".html"), metavar="FILE.html", help="write an HTML page that shows what was found"
    )
    parser.add_argument(
        "--certificate",
        type=file_named(".json"),
        metavar="FILE.json",
        help="write down as JSON what was proven, and how",
    )
    parser.add_argument("--input", type=location, help="the transactions (default: those that were computed from)")
    args = parser.parse_args()
    if args.view and args.service:
        parser.error("--view and --service both say what to compare; give one of them")
    if args.repair and args.at:
        parser.error("--repair puts the present right; it does not go with --at")
    if args.explain is not None and (args.repair or args.sample or args.report or args.certificate):
        parser.error("--explain shows one key and does nothing else; of the other options it takes --at and --input")
    return args


if __name__ == "__main__":
    run(main)
