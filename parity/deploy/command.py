"""Bring what features.py declares into force, beside what is served, and proven ahead of being so; and back.

    python -m parity deploy [-c REPO] [--against REF] [--allow VERDICT] [--input FILE] [--at INSTANT] [--no-quality]
    python -m parity deploy --rollback [-c REPO] [--input FILE] [--at INSTANT]
    python -m parity deploy --status [-c REPO]
    python -m parity deploy --prune KEEP [-c REPO]

Plan, quality gate, apply under a new version, compute, materialize, prove, switch, prove again. Readers have the old
version until the switch, which is one write of the registry, and the new one from then on. Whatever fails leaves the
old one served. Exit status 0: done, or nothing to do. 1: stopped by what a step has found. 2: it could not be done.
"""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast

# isort: split
from feast.protos.feast.core.Registry_pb2 import Registry
from filelock import FileLock, Timeout

from parity.definition.checks import Declared, declared, require_one_source
from parity.definition.instants import utc_now
from parity.deploy import deployments, steps
from parity.deploy.declared import applied
from parity.deploy.deployments import Deployment
from parity.deploy.steps import Stopped, Target
from parity.deploy.verdict import planned
from parity.edge.command import argument_parser, instant, whole_number
from parity.edge.errors import UserError
from parity.edge.files import Location, location
from parity.plan.found import ADDITIVE, BREAKING, VALUE_CHANGING, VERDICTS
from parity.registry_store import deployment, drop_project
from parity.repository import opened, recall

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"


def main() -> int:
    args = arguments()
    target = Target(args.repository)
    if args.status:
        print(status(target))
        return 0
    with _alone(target):
        if args.prune is not None:
            print(prune(target, args.prune))
            return 0
        try:
            rollback(target, args) if args.rollback else deploy(target, args)
        except Stopped as reason:
            print(f"{reason}. {_served(target)}")
            return 1
    return 0


def deploy(target: Target, args: argparse.Namespace) -> None:
    """The whole sequence. Raises `Stopped` at what a step has found, and `UserError` where it could not be done."""
    said = declared(target.path)
    with opened(target.path, [], online=False) as store:
        steps.require_versions(store)
        candidate = applied(target.path, store)
    served = target.registry()
    project = target.project
    deployments.require_declared(served, project)
    deployments.under_versions(candidate, served, project)
    if deployments.are_same(served, project, candidate, project):
        unfinished = deployments.in_force(served, project)
        if unfinished is not None and deployments.PROVEN not in unfinished.notes:
            finish(target, unfinished, None, args.at)
        else:
            print("nothing to deploy: what features.py declares is what is served")
        return

    names = deployments.touched(candidate, project, served, project)
    if not deployments.views_of(served, project):
        print("plan: nothing is served yet, so nothing changes")
    else:
        verdict, what = planned(target.path, args.against)
        print(f"plan: {verdict}{f': {what}' if what else ''}")
        if VERDICTS.index(verdict) > VERDICTS.index(args.allow):
            raise Stopped(f"plan: it is {verdict}, which has to be allowed: --allow {verdict}")
        if verdict in (VALUE_CHANGING, BREAKING) and not names:  # as of an on-demand view: what it is made of is proven
            names = sorted(deployments.views_of(candidate, project))
    sources = given(said, names, args.input)
    if args.no_quality:
        print("quality: left out")
    else:
        sources = steps.judge(target, said, names, sources, args.at or utc_now())
    number, run = steps.apply(target, candidate)
    print(f"apply: deployment {number} of {project}, beside what is served: {_versions(target, number)}")
    prepare(target, number, names, sources, args.at)
    steps.switch(target, number, run, served, utc_now)
    print(f"switch: deployment {number} is served")
    finish(target, deployments.numbered(target.registry(), project, number), names, args.at)


def rollback(target: Target, args: argparse.Namespace) -> None:
    """Back to the deployment that was in force before the one that is."""
    served, project = target.registry(), target.project
    now = deployments.in_force(served, project)
    if now is None:
        raise UserError(f"{project} was never deployed, so there is nothing to go back to.")
    if deployments.BACK_FROM in now.notes and deployments.PROVEN not in now.notes:
        finish(target, now, None, args.at)
        return
    if now.before is None:
        raise UserError(f"deployment {now.number} is the first of {project}, so there is nothing to go back to.")
    old = deployments.numbered(served, project, now.before)
    print(f"rollback: from deployment {now.number} to {old.number}: {_versions(target, old.number)}")
    back = recall(target.path, served, deployment(project, old.number))
    names = deployments.touched(served, deployment(project, old.number), served, project)
    names = names or [table.name for table in back]
    prepare(target, old.number, names, given(back, names, args.input), args.at)
    steps.switch(target, old.number, None, served, utc_now, back=True)
    print(f"switch: deployment {old.number} is served")
    finish(target, deployments.numbered(target.registry(), project, old.number), names, args.at)


def given(said: Declared, names: Sequence[str], place: Location | None) -> dict[str, Location]:
    """What the views of these names are computed of: what is declared, or all of them of one ``place``."""
    tables = [table for table in said if table.name in names]
    if place is not None:
        require_one_source(tables)
    return {table.name: place or table.transactions for table in tables}


def prepare(
    target: Target, number: int, names: Sequence[str], sources: dict[str, Location], at: datetime | None
) -> None:
    """Make the rows of a deployment, and prove them, while another one is served."""
    tables = target.tables(number, names)
    if not tables:
        return
    steps.compute(target, tables, sources)
    steps.materialize(target, number, tables, at, utc_now)
    steps.prove(target, number, tables, at, utc_now)


def finish(target: Target, served: Deployment, names: Sequence[str] | None, at: datetime | None) -> None:
    """Prove what is served now; if that is not equal, or can't be proven, let what was served before be it again."""
    try:
        if tables := target.tables(served.number, names):
            steps.prove(target, None, tables, at, utc_now)
    except BaseException:
        print(f"switch: {steps.switch_back(target, served.number, utc_now)}")
        raise
    steps.note_proven(target, served.number, utc_now())
    kept = f"; deployment {served.before} stays, for: python -m parity deploy --rollback" if served.before else ""
    print(f"done: deployment {served.number} is served{kept}")


def status(target: Target) -> str:
    """A line for each deployment."""
    registry = target.registry()
    lines = []
    for one in deployments.deployments_of(registry, target.project):
        notes = one.notes
        when = f"since {notes[deployments.SINCE]} by {notes[deployments.BY]}" if notes.get(deployments.SINCE) else ""
        state = "served" if one.is_in_force else "kept" if one.is_finished else "never served"
        proven = ", proven as served" if notes.get(deployments.PROVEN) else ""
        lines.append(f"{one.number}  {state} {when}{proven}: {_versions(target, one.number)}".replace(" :", ":"))
    return "\n".join(lines) or f"{target.project} was never deployed"


def prune(target: Target, keep: int) -> str:
    """Forget deployments, with their rows in Redis; say which, and which offline tables are left of them."""
    registry = target.registry()
    gone = deployments.prunable(registry, target.project, keep)
    if not gone:
        return "nothing to forget"
    views = deployments.views_of_none(registry, target.project, gone)
    steps.delete_rows(target, views)

    def forget(registry: Registry) -> None:
        for number in gone:
            drop_project(registry, deployment(target.project, number))

    target.store.change(forget)
    left = [f"read by none any more: {view.spec.batch_source.file_options.uri}" for view in views]
    return "\n".join([f"forgotten: {', '.join(map(str, gone))}", *left])


def _versions(target: Target, number: int) -> str:
    """The views of a deployment, with their versions."""
    views = deployments.views_of(target.registry(), deployment(target.project, number))
    return ", ".join(f"{name} {deployments.stored(view) or 'without a version'}" for name, view in views.items())


def _served(target: Target) -> str:
    now = deployments.in_force(target.registry(), target.project)
    return f"Deployment {now.number} is served" if now else "What was served before is served"


@contextmanager
def _alone(target: Target) -> Iterator[None]:
    """Keep other deployments of the same registry out, where it lies on a disk; in a bucket, the switch finds them."""
    lock = target.lock()
    if lock is None:
        yield
        return
    try:
        with FileLock(lock, timeout=0):
            yield
    except Timeout:
        raise UserError(f"another deployment of {target.project} is at work. Wait for it to end.") from None


def arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--rollback", action="store_true", help="go back to the deployment that was served before")
    keep = "forget all deployments but the one that is served and KEEP before it"
    what.add_argument("--prune", type=whole_number(1), metavar="KEEP", help=keep)
    what.add_argument("--status", action="store_true", help="list the deployments, and do nothing")
    parser.add_argument("--against", metavar="REF", help="plan against this git ref (default: what is served)")
    allow = f"go on if the plan's verdict is this one or a lesser one: {', '.join(VERDICTS)} (default: {ADDITIVE})"
    parser.add_argument("--allow", choices=VERDICTS, default=ADDITIVE, metavar="VERDICT", help=allow)
    parser.add_argument("--at", type=instant, help="materialize up to this instant, and prove it (default: now)")
    place = "the transactions (default: where they are declared to be)"
    parser.add_argument("--input", type=location, help=place)
    parser.add_argument("--no-quality", action="store_true", help="leave the quality gate out")
    return parser.parse_args()
