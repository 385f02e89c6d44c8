"""Compare two windows of days, and say what has drifted, by a test whose unit is the entity: few alarms are false.

    python -m parity drift [-c REPO] [--view NAME ...] [--of features|raw|served] [--reference A..B] [--current C..D]
        [--matters FEATURE=SIZE ...] [--rate P] [--windows N] [--oracle N] [--report FILE] [--metrics FILE] [--json]

Exit status 0: nothing has drifted. 1: something has, named. 2: something could not be compared, or there is too little
of everything to judge any of it.
"""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, file_named, run, whole_number
from parity.edge.errors import UserError
from parity.edge.files import Location, location
from parity.repository import in_force

if TYPE_CHECKING:
    from parity.drift.found import Found
    from parity.drift.matters import Matters
    from parity.drift.spans import Span

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"
RATE = 0.001
ORACLE_ASKED = 200
"""Entities about which the oracle is asked when something has drifted."""


@dataclass
class Asked:
    """What is compared, and how, where nothing else is said: see the options of the command line."""

    repository: Path
    view: list[str] | None = None
    service: str | None = None
    of: str = "features"
    reference: Span | None = None
    current: Span | None = None
    matters: Sequence[tuple[str, Matters]] = ()
    rate: float = RATE
    windows: int = 1
    oracle: int = ORACLE_ASKED
    input: Location | None = None


def main() -> int:
    args, now = _arguments(), utc_now()
    found = compared(args, now)
    return _report(args, found, now)


def compared(args: argparse.Namespace | Asked, now: datetime) -> Found:
    """Compare what is asked: days that are over at ``now``, where no others are named; it may be that nothing could
    be judged. `UserError` for what concerns all of it."""
    try:
        import scipy  # noqa: F401
    except ModuleNotFoundError:
        raise UserError("drift needs scipy. Run: pip install -r requirements-drift.txt") from None
    with tempfile.TemporaryDirectory() as folder:
        return _compared(args, now, Path(folder))


def _compared(args: argparse.Namespace | Asked, now: datetime, folder: Path) -> Found:
    from parity.drift import alarms, sources
    from parity.drift.found import Found
    from parity.drift.matters import matters_of, require_known
    from parity.drift.spans import TooLittleError, end_of_yesterday, spans_of
    from parity.drift.windows import count, newest_day

    matters = dict(args.matters)
    found, counted, spans, of = Found(args.rate / args.windows), [], [], {}
    if isinstance(args.input, Path) and not args.input.exists():
        raise UserError(
            f"{args.input}: there is no such file. Name the transactions that the features were computed from."
        )
    chosen = in_force(args.repository).of(args.view, args.service if args.of != sources.SERVED else None)
    until = now if args.current else end_of_yesterday(now)
    every = list(_sources(args, chosen, found, folder))
    require_known(matters, [name for source in every for name in sources.names_of(source)])
    for source in every:
        title = source.table.name
        try:
            days = spans_of(args.reference, args.current, newest_day(source.rows, until, now))
            counting = count(source.rows, days)
            _require_enough(source, counting, alarms.fewest(counting, found.rate))
        except TooLittleError as error:
            found.too_little.append(error)
            continue
        except UserError as error:
            found.not_compared.append(error)
            continue
        least = matters_of(sources.names_of(source), source.tags, matters, title)
        found.left += [f"{title}: {reason}" for reason in source.left]
        counted.append((title, source.rows.noun, counting, least))
        spans.append(days)
        of[title] = source, days
    found.verdicts = alarms.judged(counted, spans, found.rate)
    for title, (source, days) in of.items():
        some = [one for one in found.verdicts if one.table == title]
        others = [one for one in found.verdicts if one.table != title]
        found.verdicts = [*others, *_with_origin(args, source, days, some)]
    return found


def _report(args: argparse.Namespace, found: Found, now: datetime) -> int:
    from parity.drift.found import as_json, metrics, shown
    from parity.drift.page import write_page

    if not found.verdicts and (reasons := [*found.not_compared, *found.too_little]):
        raise reasons[0]
    if args.report:
        write_page(args.report, found, now)
    if args.metrics:
        metrics(found, args.metrics, now)
    print(json.dumps(as_json(found), indent=2, allow_nan=False) if args.json else shown(found))
    if found.drifted:
        return 1
    if found.not_compared:
        raise found.not_compared[0]
    return 0


def _sources(args: argparse.Namespace | Asked, chosen, found, folder: Path) -> Iterator:
    """The rows of each view; what can't be read is noted in ``found``. In ``folder`` is room for what is read."""
    from parity.drift import sources
    from parity.offline.side import deliveries_of

    for number, table in enumerate(chosen):
        try:
            if args.of == sources.FEATURES:
                yield sources.features(table)
            elif args.of == sources.RAW:
                (own := folder / str(number)).mkdir()
                yield sources.raw(table, deliveries_of([table], args.input)[0], own)
            else:
                yield sources.served(table, *_log(args), args.service)
        except UserError as error:
            found.not_compared.append(error)


def _log(args: argparse.Namespace | Asked) -> tuple[Path, str]:
    """The folder of the log of what was served, and the project."""
    from parity.edge.configuration import configuration_file, read_configuration
    from parity.served.options import log_options

    file = configuration_file(args.repository)
    config = read_configuration(file)
    online = config.get("online_store")
    options = log_options(online.get("log_served")) if isinstance(online, dict) else None
    if not options:
        raise UserError(
            f"nothing that is served is logged: log_served is off. Set it in {file.name}, "
            "online_store: log_served: true."
        )
    return (Path(args.repository) / options["path"]).resolve(), str(config.get("project"))


def _require_enough(source, counting, least: int) -> None:
    """Raise a `TooLittleError` if there are fewer entities than ``least``."""
    from parity.drift.spans import TooLittleError

    count = counting.entities.in_any
    if count < least:
        noun = source.table.noun(count)
        raise TooLittleError(
            f"{source.table.name}: {count} {noun} {'has' if count == 1 else 'have'} rows in these windows, and at this "
            f"rate of false alarms drift is judged across at least {least} {source.table.noun()}",
            "Name longer windows.",
        )


def _with_origin(args: argparse.Namespace | Asked, source, days, verdicts: list) -> list:
    """The same verdicts with what the oracle says of those that moved."""
    from parity.drift import sources
    from parity.drift.origin import agreements
    from parity.offline.side import origins_of

    moved = {one.name: one.moved for one in verdicts if one.moved}
    said, found = "", {}
    if args.of == sources.RAW:
        data = {"origin": "data: these are the transactions", "by_pipeline": False}
        return [replace(one, **data) if one.moved else one for one in verdicts]
    if not args.oracle:
        said = "data or pipeline not asked: --oracle 0"
    elif moved and args.of == sources.SERVED:
        try:
            asked = _audited(args, source, days, moved)
            return [_of_served(one, *asked) if one.moved else one for one in verdicts]
        except UserError as error:
            said = f"data or pipeline not known, ask {audit_command(args, days.current)}: {error}"
    elif moved:
        transactions = origins_of([source.table], args.input)[0]
        try:
            found = agreements(source.table, source.rows, transactions, days.current, moved, args.oracle)
        except UserError as error:
            said = f"data or pipeline not known: {error}"
    return [_said(one, found.get(one.name), said) if one.moved else one for one in verdicts]


def _audited(args: argparse.Namespace | Asked, source, days, moved: dict) -> tuple:
    """What the audit says of some of the keys, and the command that asks it about all."""
    from parity.drift.answered import audited
    from parity.drift.origin import keys_asked
    from parity.offline.side import origins_of
    from parity.repository import opened
    from parity.served.log import parts

    folder, project = _log(args)
    transactions = origins_of([source.table], args.input)[0]
    keys = keys_asked(source.rows, days.current, moved, args.oracle)
    log = [one for one in parts(folder, args.service, days.current.begin, days.current.end) if one.project == project]
    with opened(args.repository, [source.table], redefined=True, may_be_new=True, online=False) as store:
        found = audited(store, source.table, transactions, log, keys, days.current, utc_now())
    return found, audit_command(args, days.current)


def audit_command(args: argparse.Namespace | Asked, span) -> str:
    """The command that audits what was served in the days of ``span``."""
    where = "" if Path(args.repository) == REPOSITORY else f" -c {shlex.quote(str(args.repository))}"
    service = f" --service {shlex.quote(args.service)}" if args.service else ""
    since, until = (f"{one.isoformat().replace('+00:00', 'Z')}" for one in (span.begin, span.end))
    return f"python -m parity audit{where}{service} --since {since} --until {until}"


def _of_served(verdict, found, command: str):
    """The same verdict with what the audit says of what was served."""
    whom = f"served to {found.entities:,} {verdict.noun}"
    if not found.values:
        said = f"data or pipeline not known: the audit can't tell of any value {whom}; ask {command}"
    elif not found.differing:
        said = f"data: the audit finds all {found.values:,} values {whom} to be the truth, or to have been it then"
    else:
        said = (
            f"PIPELINE: {found.differing:,} of {found.values:,} values {whom} are not the truth ({found.example}); "
            f"more by {command}"
        )
    return replace(verdict, origin=said, by_pipeline=bool(found.differing) if found.values else None)


def _said(verdict, agreement, otherwise: str):
    if agreement is None:
        return replace(verdict, origin=otherwise, by_pipeline=None)
    by_pipeline = bool(agreement.differing) if agreement.values else None
    return replace(verdict, origin=agreement.said(verdict.noun), by_pipeline=by_pipeline)


def _arguments() -> argparse.Namespace:
    from parity.drift.matters import declared_matters
    from parity.drift.spans import span

    parser = argument_parser(__doc__, REPOSITORY)
    parser.add_argument("--view", action="extend", nargs="+", metavar="NAME", help="only these feature views")
    parser.add_argument("--service", metavar="NAME", help="only the feature views of this service, or what it served")
    what = "what is compared: stored features, the raw transactions, or what was served (default: %(default)s)"
    parser.add_argument("--of", choices=["features", "raw", "served"], default="features", help=what)
    days = "days, both included, in UTC: 2026-03-01..2026-03-28"
    parser.add_argument("--reference", type=span, metavar="A..B", help=f"{days} (default: the 28 before the current)")
    parser.add_argument("--current", type=span, metavar="C..D", help=f"{days} (default: the last 7 that are over)")
    smallest = (
        "the smallest effect that matters: FEATURE=0.5 in its unit, FEATURE=5%%, FEATURE:share=1%%; * is every one"
    )
    parser.add_argument(
        "--matters", type=declared_matters, action="append", default=[], metavar="F=SIZE", help=smallest
    )
    rate = "the chance of any false alarm, over all features of a run (default: %(default)s)"
    parser.add_argument("--rate", type=_rate, default=RATE, metavar="P", help=rate)
    many = "over how many runs the rate holds, as over 365 daily ones (default: 1)"
    parser.add_argument("--windows", type=whole_number(1), default=1, metavar="N", help=many)
    ask = "about how many keys to ask the oracle, if something drifted; 0 is not to ask (default: %(default)s)"
    parser.add_argument("--oracle", type=whole_number(0, 100_000), default=ORACLE_ASKED, metavar="N", help=ask)
    parser.add_argument("--input", type=location, help="the transactions (default: those that were computed from)")
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    page = "write an HTML page that shows what was found"
    parser.add_argument("--report", type=file_named(".html"), metavar="FILE.html", help=page)
    text = "write metrics for Prometheus, as its node exporter collects them from files"
    parser.add_argument("--metrics", type=_collected, metavar="FILE.prom", help=text)
    return parser.parse_args()


def _rate(text: str) -> float:
    value = float(text)
    if not 0 < value <= 0.5:
        raise argparse.ArgumentTypeError(f"{text} is not above 0 and at most 0.5")
    return value


def _collected(text: str) -> Path:
    """Read the name of a file of metrics. Its folder has to be there: in another one nobody collects them."""
    path = file_named(".prom")(text)
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{str(path.parent)!r} is no folder, so nobody collects metrics there")
    return path


_rate.__name__ = "rate"  # argparse names it in its error


if __name__ == "__main__":
    run(main)
