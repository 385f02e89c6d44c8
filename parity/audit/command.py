"""Audit what was really served: every logged value against what training gets for that very instant, today and then.

    python -m parity audit [-c REPO] [--service NAME] [--view NAME ...] [--since INSTANT] [--until INSTANT]
        [--fail-on today|then] [--json] [--report FILE.html]

The log is the one that `log_served` in feature_store.yaml switches on. Each value is held against the truth as known
today: what the offline store gives for the instant that was asked about, and the oracle on today's transactions; and
against what training would have got as it was served, as far as that is known. Redis is not asked.

Exit status 0: nothing that was served differs. 1: something differs, each cause named. 2: it could not be audited.
"""

import argparse
import json
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast

# isort: split
from feast import FeatureStore

from parity.audit.audit import Question, audit
from parity.audit.found import Audit
from parity.audit.logged import Requests, View, views_of
from parity.audit.page import write_page
from parity.audit.terminal import as_json, summary
from parity.definition.instants import utc_now
from parity.edge.command import argument_parser, file_named, instant, shown
from parity.edge.errors import UserError
from parity.edge.files import location
from parity.edge.shown import counted
from parity.offline.side import origin_of
from parity.offline.versions import Versions
from parity.report.certificate import watched
from parity.repository import in_force, opened
from parity.served.log import Part, parts
from parity.served.options import folder_of_log

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"
TODAY, THEN = "today", "then"


def main() -> int:
    args, now = arguments(), utc_now()
    everything = in_force(args.repository)
    with opened(args.repository, everything, redefined=True, may_be_new=True, online=False) as store:
        folder = _log_of(store)
        found = Audit(shown(folder), [], Requests(), since=args.since, until=args.until)
        chosen = _parts(found, folder, store.config.project, args.service)
        views = views_of(store, everything.tables)
        asked = _asked(views, args.view)
        tables = [view.table for view in views.values() if view.table and (not asked or view.name in asked)]
        transactions = {table.name: origin_of(table) for table in tables}
        question = Question(chosen, views, asked, transactions, args.since, args.until, now)
        for table in tables:
            Versions.of(table)  # what a killed run owes is made ahead, as it touches the table
        data = [*transactions.values(), *(location(table.source.path) for table in tables)]
        with watched(data, hashed=False) as files:
            audit(store, question, found)
            files.require_unchanged()
    _require_audited(found, args.fail_on)
    print(json.dumps(as_json(found, now), indent=2, default=datetime.isoformat) if args.json else summary(found))
    if args.report:
        write_page(args.report, found, now)
    return 1 if (found.differing if args.fail_on == TODAY else found.then_differing) else 0


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    parser.add_argument("--service", metavar="NAME", help="only what was served of this feature service")
    parser.add_argument("--view", action="extend", nargs="+", metavar="NAME", help="only these feature views")
    parser.add_argument("--since", type=instant, metavar="INSTANT", help="only what was served from then on, ISO 8601")
    parser.add_argument("--until", type=instant, metavar="INSTANT", help="only what was served up to then")
    what = "which truth decides the exit status: as known today (default), or as known when it was served"
    parser.add_argument("--fail-on", choices=[TODAY, THEN], default=TODAY, help=what)
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")
    page = "write an HTML page that shows what was found"
    parser.add_argument("--report", type=file_named(".html"), metavar="FILE.html", help=page)
    args = parser.parse_args()
    if args.since and args.until and args.until < args.since:
        parser.error(f"--until {args.until.isoformat()} is before --since {args.since.isoformat()}")
    return args


def _log_of(store: FeatureStore) -> Path:
    """The folder of the log; `UserError` if there is none."""
    folder = folder_of_log(store.config)
    if folder is None:
        raise UserError(
            "nothing that is served is logged: log_served is off. Set it in feature_store.yaml, "
            "online_store: log_served: true, and restart what serves."
        )
    if not folder.is_dir():
        raise UserError(f"{shown(folder)}: there is no such folder, so nothing was logged yet. Serve something first.")
    return folder


def _parts(found: Audit, folder: Path, project: str, service: str | None) -> list[Part]:
    """The parts of the log that are audited, noted in ``found``; `UserError` for none."""
    there = parts(folder, service, found.since, found.until)
    own = [part for part in there if part.project == project]
    found.others.update(part.project for part in there if part.project != project)
    if not own:
        of = f" of the service {service}" if service else ""
        others = ", ".join(sorted(found.others))
        but = f", but {counted(sum(found.others.values()), 'part')} of {others}" if found.others else ""
        raise UserError(
            f"{found.folder}: there is nothing{of} of the project {project}{_in_time(found)}{but}. {_SERVE}"
        )
    return own


def _in_time(found: Audit) -> str:
    return " in that time" if found.since or found.until else ""


_SERVE = "Serve something, wait until it is written, or name another time."


def _asked(views: Mapping[str, View], names: list[str] | None) -> list[str]:
    """The ``names`` of views, each of which has to be one; none for all."""
    for name in names or []:
        if name not in views:
            raise UserError(f"there is no feature view {name!r}; there is {', '.join(views) or 'none'}.")
    return names or []


def _require_audited(found: Audit, fail_on: str) -> None:
    """Raise a `UserError` if nothing was audited, or if it is not known what the exit status is to say."""
    if not found.rows:
        raise UserError(f"{found.folder}: nothing was served{_in_time(found)}. {_SERVE}")
    if not found.views:
        why = (
            ", ".join(f"{view}: {why}" for view, why in sorted(found.unseen))
            or "no row has a feature that is asked for"
        )
        raise UserError(f"{found.folder}: nothing in it can be audited ({why}).")
    if fail_on == THEN and not found.then_known:
        raise UserError(
            "what was known then is not known of anything that was served: the features were computed anew since, and "
            "no earlier version is kept. Versions are kept while log_served is on. Use --fail-on today."
        )
