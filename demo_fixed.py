"""Prove that serving equals training equals what the transactions say, for every user and every feature.

    python demo_fixed.py [--user ID] [--at INSTANT] [--explain ID] [--repair] [--sample N]
        [--report FILE] [--certificate FILE]

Exit status 0: all equal. 1: skew, each differing value named. 2: it could not be checked.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import argparse
import secrets
from pathlib import Path

import numpy as np

import parity.edge.quick_feast  # noqa: F401
from parity.definition.checks import declared
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, file_named, instant, run, whole_number
from parity.edge.files import location
from parity.materialization import repair
from parity.offline.side import origin_of
from parity.online.side import online_latency
from parity.proof.compare import Subject, compare, known_users, require_values, surveyed, three_sides
from parity.proof.oracle import raw_transactions
from parity.proof.replay import store_at
from parity.report import terminal as report
from parity.report.certificate import certificate, watched, write_certificate
from parity.report.page import Gallery, write_page
from parity.repository import opened

REPOSITORY = Path(__file__).resolve().parent / "feature_repo"


def main() -> int:
    args = arguments()
    now = utc_now()
    at = args.at or now
    found = declared(REPOSITORY)
    [table] = found
    view, aggregations = table.view, table.definition.rules
    transactions = args.input or origin_of(table)
    data = [transactions, location(view.batch_source.path)]
    with (
        opened(REPOSITORY, [table]) as live,
        surveyed(live, table, found.others) as unseen,
        watched(data, hashed=bool(args.certificate or args.report)) as files,
        raw_transactions(transactions, table.definition) as raw,
        store_at(live, table, args.at, now) as store,
    ):
        subject = Subject(store, table, unseen)
        users = known_users(subject, raw, at)
        shown = users.choose(args.user if args.explain is None else args.explain)
        purchases = raw.of(shown)
        sides = three_sides(subject, {shown: purchases}, np.array([shown]), at)
        if args.explain is not None:
            print(report.explanation(shown, view, aggregations, purchases, sides, at))
            found = compare(subject, raw, transactions, users, np.array([shown]), at, past=bool(args.at))
            files.require_unchanged()
            print("\n".join(report.differences(found)) or "  All sides agree.")
            return 1 if found.differences else 0
        print(report.one_user(shown, view, sides))

        ids, sample = users.sampled(args.sample, args.seed)
        gallery = Gallery(len(ids))
        found = compare(subject, raw, transactions, users, ids, at, gallery.look, past=bool(args.at))
        files.require_unchanged()
        require_values(found)
        print(report.every_user(found, sample))
        if args.repair and found.differences:
            repair(store, table, found.users_skewed, at, now)
            gallery = Gallery(len(ids))
            found = compare(subject, raw, transactions, users, ids, at, gallery.look)
            print("Repaired, and compared again:")
            files.require_unchanged()
            print(report.every_user(found, sample))
        milliseconds = online_latency(store, table, shown)
        print(report.latency(milliseconds))

        if args.certificate or args.report:
            proof = certificate(subject, found, sample, transactions, files.hashes, now)
        if args.certificate:
            write_certificate(proof, args.certificate)
        if args.report:
            write_page(args.report, subject, found, gallery, milliseconds, proof)
    return 1 if found.differences else 0


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--user", type=int, help="the user to show first (default: the first)")
    parser.add_argument("--at", type=instant, help="compare as of this instant, ISO 8601, by a replay (default: now)")
    parser.add_argument("--explain", type=int, metavar="USER", help="show only what this user's features are made of")
    parser.add_argument("--repair", action="store_true", help="put right the users that differ, then compare again")
    parser.add_argument("--sample", type=whole_number(1), help="compare this many users, drawn at random")
    parser.add_argument("--seed", type=whole_number(0), default=secrets.randbits(32), help="of that draw")
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
    if args.repair and args.at:
        parser.error("--repair puts the present right; it does not go with --at")
    if args.explain is not None and (args.repair or args.sample or args.report or args.certificate):
        parser.error("--explain shows one user and does nothing else; of the other options it takes --at and --input")
    return args


if __name__ == "__main__":
    run(main)
