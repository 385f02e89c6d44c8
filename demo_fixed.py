"""Prove that serving equals training equals what the transactions say, for every key and every feature of every view.

    python demo_fixed.py [--view NAME ...] [--service NAME] [--key KEY] [--at INSTANT] [--explain KEY] [--repair]
        [--sample N] [--report FILE] [--certificate FILE] [--input FILE]

A key is written as it is, 7, or with the names of its join keys: customer_id=0042,store_id=7.
Exit status 0: all equal. 1: skew, each differing value named. 2: it could not be checked.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import argparse
import secrets
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

import parity.edge.quick_feast  # noqa: F401
from parity.definition.checks import FeatureTable, declared
from parity.definition.instants import utc_now
from parity.definition.keys import Key, parse_key
from parity.edge.command import argument_parser, file_named, instant, run, whole_number
from parity.edge.errors import UserError
from parity.edge.files import location, progress
from parity.offline.side import origin_of
from parity.proof.found import Comparison, Sample, require_same_definition, require_values
from parity.proof.proof import Proof, proving, unseen_views
from parity.report import terminal as report
from parity.report.certificate import Watched, certificate, watched, write_certificate
from parity.report.page import Gallery, Seen, write_page
from parity.repository import opened

REPOSITORY = Path(__file__).resolve().parent / "feature_repo"


def main() -> int:
    args = arguments()
    now = utc_now()
    found = declared(REPOSITORY)
    chosen = found.of(args.view, args.service)
    asked = key_asked_for(args.key if args.explain is None else args.explain, chosen.tables)
    tables = [table for table in chosen.tables if table.name in asked] if args.explain is not None else chosen.tables
    transactions = transactions_of(tables, args)
    files = [*transactions, *(location(table.source.path) for table in tables)]
    with (
        opened(REPOSITORY, tables, redefined=True) as store,
        watched(files, hashed=bool(args.certificate or args.report)) as files,
        proving(store, tables, transactions, args.at, now) as proofs,
    ):
        shown = [proof.number(asked.get(proof.table.name)) for proof in proofs]
        if args.explain is not None:
            return explain(proofs[0], shown[0], files)
        for proof, number in zip(proofs, shown, strict=True):
            print(report.one_key(heading(proof, number, proofs), proof.table, proof.sides_of(number)))

        drawn = [proof.chosen(args.sample, args.seed) for proof in proofs]
        unseen = unseen_views(store, tables, chosen.others)
        seen, galleries = compared(proofs, drawn, files)
        print(report.every_view(seen, unseen))
        if args.repair and any(one.differences for one in seen):
            repair(proofs, seen, now)
            seen, galleries = compared(proofs, drawn, files)
            print(f"Repaired, and compared again:\n{report.every_view(seen, unseen)}")
        times = [proof.latency(number) for proof, number in zip(proofs, shown, strict=True)]
        for proof, milliseconds in zip(proofs, times, strict=True):
            line = report.latency(proof.table.noun(1), milliseconds)
            print(report.heading(proof.table.name, line, len(proofs) > 1))

        if args.certificate or args.report:
            proven = certificate(seen, proofs, unseen, files.hashes, now, len(tables) == len(found.tables))
        if args.certificate:
            write_certificate(proven, args.certificate)
        if args.report:
            write_page(args.report, list(map(Seen, seen, galleries, times)), unseen, proven)
    return 1 if any(one.differences for one in seen) else 0


def key_asked_for(text: str | None, tables: Sequence[FeatureTable]) -> dict[str, Key]:
    """Find the one feature table that has a key such as ``text``, and read it: by the name of the table."""
    if text is None:
        return {}
    fitting = [table for table in tables if fits(text, table)] or list(tables)
    if len(fitting) > 1:
        names = " or ".join(f"--view {table.name}" for table in fitting)
        raise UserError(f"the key {text!r} may be of {len(fitting)} feature views. Say of which: {names}")
    return {fitting[0].name: parse_key(text, fitting[0].definition.keys)}


def fits(text: str, table: FeatureTable) -> bool:
    """Whether ``text`` names just the join keys of ``table``, or names none and it has one."""
    named = {part.partition("=")[0] for part in text.split(",") if "=" in part}
    return named == set(table.definition.keys.names) if named else len(table.definition.keys) == 1


def transactions_of(tables: Sequence[FeatureTable], args: argparse.Namespace) -> list:
    """Where the transactions of each table are: those named, or those that its features were computed from."""
    if args.input and len({table.transactions for table in tables}) > 1:
        raise UserError("--input names one file, and these feature views have several sources. Say of which: --view")
    return [args.input or origin_of(table) for table in tables]


def heading(proof: Proof, number: int, proofs: Sequence[Proof]) -> str:
    return report.heading(proof.table.name, proof.named(proof.key(number)), len(proofs) > 1)


def explain(proof: Proof, number: int, files: Watched) -> int:
    """Show what the features of one key are made of, and compare them."""
    name = heading(proof, number, [proof])
    purchases, left_out = proof.purchases_of(number), proof.left_out(number)
    print(report.explanation(name, proof.table, purchases, left_out, proof.sides_of(number), proof.at))
    found, batches = proof.compared(np.array([number]))
    list(batches)
    files.require_unchanged()
    print("\n".join(report.differences(found)) or "  All sides agree.")
    return 1 if found.differences else 0


def compared(
    proofs: Sequence[Proof], drawn: Sequence[tuple[np.ndarray, Sample | None]], files: Watched
) -> tuple[list[Comparison], list[Gallery]]:
    """Compare the keys that are drawn for each proof, and keep what a page shows of them."""
    seen, galleries = [], [Gallery(len(numbers)) for numbers, _ in drawn]
    with progress("compare", sum(len(numbers) for numbers, _ in drawn), "key") as bar:
        for proof, (numbers, sample), gallery in zip(proofs, drawn, galleries, strict=True):
            found, batches = proof.compared(numbers, sample)
            for batch in batches:
                gallery.look(batch)
                bar.update(len(batch.numbers))
            seen.append(found)
    files.require_unchanged()
    require_values(seen)
    require_same_definition(seen)
    return seen, galleries


def repair(proofs: Sequence[Proof], seen: Sequence[Comparison], now: datetime) -> None:
    """Put right online what differs, and nothing else."""
    for proof, found in zip(proofs, seen, strict=True):
        if found.differences:
            proof.repair(found, now)


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__)
    parser.add_argument("--view", action="extend", nargs="+", metavar="NAME", help="only these feature views")
    parser.add_argument("--service", metavar="NAME", help="only the feature views of this service")
    parser.add_argument("--key", "--user", metavar="KEY", help="the key to show first (default: the first)")
    parser.add_argument("--at", type=instant, help="compare as of this instant, ISO 8601, by a replay (default: now)")
    parser.add_argument("--explain", metavar="KEY", help="show only what the features of this key are made of")
    parser.add_argument("--repair", action="store_true", help="put right the keys that differ, then compare again")
    parser.add_argument("--sample", type=whole_number(1), help="compare so many keys of each view, drawn at random")
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
        parser.error("--explain shows one key and does nothing else; of the other options it takes --at and --input")
    return args


if __name__ == "__main__":
    run(main)
