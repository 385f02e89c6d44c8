"""Quality, drift and the proof of a sample in one go, and one page for whoever is on call.

    python -m parity watch [-c REPO] [--at INSTANT] [--sample N] [--report FILE.html] [--json]
        [--fail-on quality,drift,proof]

What is wrong, since when, for how many users, and what to do, the most urgent first. All parts are done, whatever
comes of one. Exit status 1: something is to be seen to. 2: nothing is, as far as could be checked, and something could
not. 0: all was checked, and all is well.
"""

import argparse
import json
import secrets
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast
from parity.definition.checks import Declared
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, explained, file_named, instant, shown, traced, whole_number
from parity.edge.files import replacing
from parity.repository import in_force
from parity.watch.found import DRIFT, PARTS, PROOF, QUALITY, Part, Watched, as_json
from parity.watch.found import shown as summary
from parity.watch.page import write_page

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"
SAMPLE = 1000
"""Keys of each view that are proven."""


def main() -> int:
    args, now = arguments(), utc_now()
    page = args.report or args.repository.parent / "data" / "watch" / "watch.html"
    page.parent.mkdir(parents=True, exist_ok=True)
    watched = watch(in_force(args.repository), args, page.parent, now)
    write_page(page, watched)
    found = json.dumps(as_json(watched), indent=2, allow_nan=False)
    with replacing(page.with_suffix(".json")) as temporary:
        temporary.write_text(f"{found}\n")
    print(found if args.json else f"{summary(watched)}\nPage: {shown(page)}")
    return watched.status


def watch(chosen: Declared, args: argparse.Namespace, folder: Path, now: datetime) -> Watched:
    """Do all parts, and write their pages into ``folder``."""
    at, repository = args.at or now, args.repository

    def quality() -> Part:
        from parity.watch.of_quality import watch_quality

        return watch_quality(chosen, folder, at)

    def drift() -> Part:
        from parity.watch.of_drift import watch_drift

        return watch_drift(chosen, repository, folder, at, parts[0].findings)

    def proof() -> Part:
        from parity.watch.of_proof import watch_proof

        return watch_proof(chosen, repository, folder, args.at, now, args.sample, args.seed)

    parts: list[Part] = []
    for name, part in ((QUALITY, quality), (DRIFT, drift), (PROOF, proof)):
        parts.append(_done(name, part))
    return Watched(at, parts, args.fail_on)


def _done(name: str, part: Callable[[], Part]) -> Part:
    """A part; or that it could not be done, and why, which is not to hide what the others find."""
    try:
        return part()
    except Exception as error:
        sys.stderr.write(traced(error))
        found = Part(name)
        found.unchecked(" ".join(explained(error).split()))
        return found


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    parser.add_argument("--at", type=instant, metavar="INSTANT", help="what is taken for now, ISO 8601 (default: now)")
    drawn = "how many keys of each view are proven, drawn at random (default: %(default)s)"
    parser.add_argument("--sample", type=whole_number(1), default=SAMPLE, metavar="N", help=drawn)
    parser.add_argument("--seed", type=whole_number(0), default=secrets.randbits(32), help="of that draw")
    where = "the page; all that belongs to it lies beside it (default: data/watch/watch.html beside the repository)"
    parser.add_argument("--report", type=file_named(".html"), metavar="FILE.html", help=where)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    parts = f"only these parts decide the exit status, all are done (default: {','.join(PARTS)})"
    parser.add_argument("--fail-on", type=_parts, default=PARTS, metavar="PART,PART", help=parts)
    return parser.parse_args()


def _parts(text: str) -> tuple[str, ...]:
    named = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in named if name not in PARTS]:
        raise argparse.ArgumentTypeError(f"{unknown[0]!r} is none of {', '.join(PARTS)}")
    return named
