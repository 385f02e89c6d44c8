"""Say what a change of definitions does to values, before it ships: of which features, for whom, and who reads them.

    python -m parity plan [-c REPO] [--against GIT_REF | --applied] [--sample N] [--json | --markdown]
        [--fail-on VERDICT]

Nothing is applied, and nothing is written but into a temporary folder. Exit status 0: here is the plan. 1: its verdict
is that of --fail-on, or a worse one. 2: no plan could be made.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

from parity.edge.command import argument_parser, run, whole_number
from parity.edge.errors import UserError
from parity.plan.as_json import as_json
from parity.plan.base import Base, at_commit, head_title
from parity.plan.found import VERDICTS, Plan, is_as_bad
from parity.plan.markdown import as_markdown
from parity.plan.models import places_of
from parity.plan.planning import make_plan
from parity.plan.side import LIBRARY, Side, python_path
from parity.plan.terminal import shown

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"


def main() -> int:
    sys.dont_write_bytecode = True
    args = _arguments()
    plan = planned(args.repository, args.against, args.sample, _models(args))
    print(_written(plan, args))
    return int(args.fail_on is not None and is_as_bad(plan.verdict, args.fail_on))


def planned(
    repository: Path, against: str | None = None, sample: int | None = None, models: Sequence[Path] | None = None
) -> Plan:
    """Hold the ``repository`` as it is against a commit, or against what is applied; on about ``sample`` keys, or on
    all. `UserError` if that can't be done."""
    start = time.monotonic()
    models = places_of(repository) if models is None else models
    with TemporaryDirectory(prefix="parity-plan-") as name:
        folder = Path(name)
        (folder / "head").mkdir()
        with (
            Side("the head", repository, LIBRARY, folder / "head", Path.cwd(), python_path()) as head,
            _base(repository, against, folder / "base") as base,
        ):
            plan = make_plan(base, head, sample, models, head_title(repository), folder)
    plan.seconds = time.monotonic() - start
    return plan


def _base(repository: Path, against: str | None, folder: Path) -> AbstractContextManager[Base]:
    if against is not None:
        return at_commit(repository, against, folder)
    from parity.plan.applied import as_applied  # which imports Feast

    return as_applied(repository, folder)


def _models(args: argparse.Namespace) -> list[Path]:
    for place in args.models or ():
        if not place.exists():
            raise UserError(f"--models {place}: there is no such file or folder.")
    return args.models or places_of(args.repository)


def _written(plan: Plan, args: argparse.Namespace) -> str:
    if args.json:
        return json.dumps(as_json(plan), indent=2, allow_nan=False)
    return as_markdown(plan) if args.markdown else shown(plan)


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    base = parser.add_mutually_exclusive_group()
    base.add_argument("--against", metavar="GIT_REF", help="the base is this commit, branch or tag")
    base.add_argument("--applied", action="store_true", help="the base is what is applied and computed (the default)")
    some = "compare about so many keys of each kind, chosen by their hash (default: all)"
    parser.add_argument("--sample", type=whole_number(1), metavar="N", help=some)
    where = "where logged models are, files or folders (default: the folder data in REPO and beside it)"
    parser.add_argument("--models", type=Path, action="extend", nargs="+", metavar="PLACE", help=where)
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="print the plan as JSON")
    form.add_argument("--markdown", action="store_true", help="print the plan as the comment of a pull request")
    gate = "exit with status 1 if the verdict is this one or a worse one"
    parser.add_argument("--fail-on", choices=VERDICTS[1:], metavar="VERDICT", help=f"{gate}: {', '.join(VERDICTS[1:])}")
    args = parser.parse_args()
    if args.against is not None and not args.against.strip():
        parser.error("argument --against: name a commit, a branch or a tag")
    return args


if __name__ == "__main__":
    run(main)
