"""Whether training equals serving in anybody's Feast repository: which keys differ, since when, why, and what to do.

    parity check [-c REPO] [-f YAML] [--view NAME ...] [--service NAME ...] [--sample N] [--at INSTANT] [--url URL]
        [--accept KIND ...] [--fail-on KIND ...] [--report FILE] [--certificate FILE] [--junit FILE]

Nothing is written but the files that are named. Exit status 0: all equal. 1: there are differences, of the kinds that
count. 2: something could not be checked, or nothing is proven.
"""

from __future__ import annotations

import argparse
import logging
import os
import secrets
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast

# isort: split
import pandas as pd
from feast import FeatureStore
from tqdm import tqdm

from parity.check import terminal
from parity.check.about import Stores, fill
from parity.check.batches import Sides, compare
from parity.check.certificate import Context, write_certificate
from parity.check.choosing import choose
from parity.check.found import LISTED, Compared
from parity.check.http import Server
from parity.check.junit import write_junit
from parity.check.keys import Known
from parity.check.online_count import counted, note_extras, note_strays
from parity.check.opening import Opened, feast_version, opening, version_note
from parity.check.page import write_page
from parity.check.proven import is_own, is_provable, proven
from parity.check.sources import trouble_of_sources
from parity.check.ties import TieFinder
from parity.check.upstream import known_fault
from parity.check.verdict import Verdict, kinds_named
from parity.compare.dividing import Failed
from parity.compare.sides import Sdk, Training
from parity.compare.subjects import LABEL_VIEW, NotCompared, Subject
from parity.edge.command import argument_parser, file_named, instant, whole_number
from parity.edge.errors import UserError, of_error

COMPARED = 100_000
"""Keys of each view that are compared, at most, unless --sample says otherwise."""


def main() -> int:
    args = arguments()
    started = datetime.now(UTC)
    with _quiet(), opening(args.repository, args.file) as opened:
        verdict = check(opened, args)
        for text in terminal.details(verdict):
            print(text)
        print(terminal.last_line(verdict))
    ended, online = datetime.now(UTC), args.url or opened.online
    project, place = opened.config.project, opened.name
    context = Context(project, place, opened.offline, online, args.at, started, ended, args.seed)
    for path, write in ((args.report, write_page), (args.certificate, write_certificate), (args.junit, write_junit)):
        if path:
            write(path, verdict, context)
    return int(verdict.status)


def check(opened: Opened, args: argparse.Namespace) -> Verdict:
    """Compare what is asked for, and print a line for each subject as soon as it is known."""
    online, offline, history = opened.store(), opened.store(), opened.store()
    with _named(f"the registry of {opened.name}"):
        chosen = choose(online, args.view, args.service)
    side = Server(args.url) if args.url else Sdk(online)
    if args.url:
        side.require()
    said = f"{opened.offline} offline, {args.url or opened.online} online"
    print(terminal.heading(online.project, opened.name, said, feast_version()))
    if note := version_note():
        print(note)
    known = Known(offline, None if args.url else online, args.at or datetime.now(UTC))
    stores, ties = Stores.of(online), TieFinder(history, args.at or datetime.now(UTC))
    broken = [Compared(name, "not read", error=why) for name, why in chosen.broken.items()]
    for one in broken:
        print(terminal.line(one))
    verdict = Verdict(broken, args.accept, args.fail_on, chosen.left)
    proofs = _proofs(opened, chosen.subjects, verdict, args)
    for subject in chosen.subjects:
        if subject.name in proofs:
            for one in proofs[subject.name]:
                verdict.compared.append(one)
                print(terminal.line(one), flush=True)
            continue
        one = Compared(subject.name, subject.what)
        one.notes += _of_transactions(subject, args)
        try:
            sides = Sides(Training(offline, trouble_of_sources), side, history)
            _compare(subject, one, sides, known, args, stores, None if args.url else online)
            _look_for_ties(subject, one, ties)
        except NotCompared as why:
            verdict.left[subject.name] = str(why)
            continue
        except Exception as error:  # of any store, driver or on-demand view: the others are compared all the same
            why = f"{error}{_aside(subject)}" if isinstance(error, Failed) else of_error(error)
            one.error = trouble_of_sources(offline, subject) or f"{why}{known_fault(why, subject)}"
        verdict.compared.append(one)
        print(terminal.line(one), flush=True)
    return verdict


def _proofs(
    opened: Opened, subjects: list[Subject], verdict: Verdict, args: argparse.Namespace
) -> dict[str, list[Compared]]:
    """What the proof found of the subjects that it can be made of; of none for an earlier instant, which would have to
    be written to the online store, or where another store answers than is opened here."""
    provable = [subject for subject in subjects if is_provable(subject)]
    if not provable or args.at or args.url:
        return {}
    try:
        return proven(opened.repository, provable, args.sample or None, args.seed, datetime.now(UTC))
    except UserError as error:
        verdict.compared.append(Compared("the transactions", "oracle", error=str(error)))
        print(terminal.line(verdict.compared[-1]))
        return {}


def _of_transactions(subject: Subject, args: argparse.Namespace) -> list[str]:
    """Why the transactions of a subject that has some are not compared."""
    if not any(map(is_own, subject.sources)):
        return []
    if args.at:
        return ["its transactions are not compared as of --at; demo_fixed.py --at does that, in a replay"]
    if args.url:
        return ["its transactions are not compared with --url, where another online store may answer"]
    return [] if is_provable(subject) else ["its transactions are not compared: it has more than views that carry them"]


def _compare(
    subject: Subject,
    one: Compared,
    sides: Sides,
    known: Known,
    args: argparse.Namespace,
    stores: Stores,
    online: FeatureStore | None,
) -> None:
    """Compare a subject, and say what is found; ``online`` is whose keys are counted, where they can't be named."""
    stored = None if online is None else counted(online, subject)
    keys = known.of(subject, args.sample or None, args.seed)
    if subject.what == LABEL_VIEW and not len(keys):
        raise NotCompared("it has no labels yet, offline or online")
    one.sample = keys.sample
    one.notes += keys.notes
    with tqdm(total=len(keys), desc=subject.name, unit=" keys", disable=None, leave=False, delay=1) as bar:
        for done in compare(subject, keys, sides, one, args.at, not stores.expires_too):
            bar.update(done)
    if stored is not None:
        note_extras(one, subject, stored)
    for finding in one.findings.values():
        finding.listed = [keys.named(place) for place in sorted(finding.places)[:LISTED] if place >= 0]
        fill(finding, subject, stores, sides.history, datetime.now(UTC))
    note_strays(one, subject, keys)


def _aside(subject: Subject) -> str:
    """What to know of a subject that a side fails for."""
    made_up = f" (its request data are made up here: {', '.join(subject.request_data)})" if subject.request_data else ""
    return made_up + subject.aside


def _look_for_ties(subject: Subject, one: Compared, ties: TieFinder) -> None:
    """Warn of ties in the sources of a subject, of each source once."""
    for source in subject.sources:
        found = ties.of(source, one.of)
        if isinstance(found, str):
            one.notes.append(found)
        elif found is not None:
            one.ties.append(found)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out what Feast and its libraries log and warn of: it is no part of the result."""
    logging.disable(logging.WARNING)
    os.environ.setdefault("ACERO_ALIGNMENT_HANDLING", "reallocate")  # in place of a line on stderr of DuckDB's buffers
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Say what could not be read, of any error of Feast."""
    try:
        yield
    except (UserError, KeyboardInterrupt):
        raise
    except Exception as error:
        raise UserError(f"{what} can't be read: {of_error(error)}") from None


def _instant_of_pandas(text: str) -> datetime:
    """Read an instant that Feast can ask for: pandas counts nanoseconds, for which the years up to 2262 have room."""
    value = instant(text)
    first, last = pd.Timestamp.min.tz_localize(UTC), pd.Timestamp.max.tz_localize(UTC)
    if not first <= value <= last:
        raise argparse.ArgumentTypeError(f"{text} is not between {first:%Y-%m-%d} and {last:%Y-%m-%d}")
    return value


_instant_of_pandas.__name__ = "instant"  # argparse names it in its error


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, Path.cwd())
    parser.prog = "parity check" if "__main__" not in parser.prog else parser.prog
    what = "the configuration (default: feature_store.yaml in REPO)"
    parser.add_argument("-f", "--feature-store-yaml", dest="file", type=Path, metavar="YAML", help=what)
    parser.add_argument("--view", action="extend", nargs="+", metavar="NAME", help="only these views")
    parser.add_argument("--service", action="extend", nargs="+", metavar="NAME", help="only these feature services")
    sample = f"compare so many keys of each view, drawn at random; 0 is all (default: {COMPARED})"
    parser.add_argument("--sample", type=whole_number(0), default=COMPARED, metavar="N", help=sample)
    parser.add_argument("--seed", type=whole_number(0), default=secrets.randbits(32), help="of that draw")
    at = "ask training for this instant, ISO 8601 (default: the instant of each online read)"
    parser.add_argument("--at", type=_instant_of_pandas, metavar="INSTANT", help=at)
    url = "compare what this feature server answers over HTTP, such as http://localhost:6566"
    parser.add_argument("--url", metavar="URL", help=url)
    accept = "leave these kinds of differences out of the verdict, and count them"
    parser.add_argument("--accept", action="extend", nargs="+", metavar="KIND", help=accept)
    only = "let these kinds of differences decide the exit status, and no others (default: all)"
    parser.add_argument("--fail-on", action="extend", nargs="+", metavar="KIND", help=only)
    parser.add_argument(
        "--report", type=file_named(".html"), metavar="FILE.html", help="write what was found as a page"
    )
    certificate = "write down as JSON what was compared, how, and what was found"
    parser.add_argument("--certificate", type=file_named(".json"), metavar="FILE.json", help=certificate)
    parser.add_argument("--junit", type=file_named(".xml"), metavar="FILE.xml", help="write a JUnit report, for CI")
    args = parser.parse_args()
    if args.view and args.service:
        parser.error("--view and --service both say what to compare; give one of them")
    is_limited = args.fail_on is not None
    args.accept, args.fail_on = kinds_named(args.accept), kinds_named(args.fail_on)
    if is_limited and not args.fail_on:
        parser.error("--fail-on names no kind of difference; leave it out to let all decide")
    args.repository = args.repository.resolve()
    for name in ("file", "report", "certificate", "junit"):  # the repository becomes the working directory
        if getattr(args, name):
            setattr(args, name, getattr(args, name).resolve())
    return args
