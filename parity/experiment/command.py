"""Analyse an experiment: the sample ratio, the effect with its interval, or why there is no verdict.

    python -m parity experiment NAME --outcomes FILE [-c REPO] [--exposures FOLDER] [--missing zero|left-out]
        [--mismatch P] [--json]

Outcomes are in a CSV or Parquet file: unit, outcome, and perhaps timestamp. Exit status 0: there is a verdict. 2: there
is none, and why.
"""

import argparse
import json
from pathlib import Path

from parity.edge.command import argument_parser, share
from parity.edge.errors import UserError
from parity.experiment.analysis import (
    CONFIDENCE,
    LEFT_OUT,
    MISMATCH_BELOW,
    ZERO,
    Analysis,
    Effect,
    analyse,
    as_json,
    exposed_by_hash,
    exposed_by_log,
)
from parity.experiment.outcomes import read_outcomes
from parity.repository import in_force

REPOSITORY = Path(__file__).resolve().parents[2] / "feature_repo"


def main() -> None:
    args = _arguments()
    experiment = in_force(args.repository).experiment(args.name)
    outcomes = read_outcomes(args.outcomes, experiment)
    if args.exposures is None:
        exposed = exposed_by_hash(outcomes, experiment)
    else:
        exposed = exposed_by_log(args.exposures, experiment)
    analysis = analyse(experiment, exposed, outcomes, args.missing, args.mismatch)
    print(json.dumps(as_json(analysis), indent=2, allow_nan=False) if args.json else shown(analysis))
    if analysis.reasons:
        raise UserError(f"no verdict on {experiment.name}: {'; '.join(analysis.reasons)}.")


def shown(analysis: Analysis) -> str:
    """What a person reads of an analysis."""
    experiment, exposed = analysis.experiment, analysis.exposed
    lines = [f"Experiment {experiment.name}, by {experiment.unit}, {_how(analysis)}"]
    for arm in analysis.arms:
        mean = "-" if arm.mean is None else f"{arm.mean:.6g}"
        lines.append(
            f"  {arm.name} ({arm.service}): {arm.units:,} units, {arm.expected:,.1f} expected; "
            f"{arm.with_outcome:,} with an outcome; {_measure(analysis)} {mean} of {arm.counted:,}"
        )
    if analysis.mismatch_p is not None:
        off = "OFF" if analysis.mismatch_p < analysis.mismatch_below else "as it should be"
        lines.append(
            f"  sample ratio: {off} (chi-square p {analysis.mismatch_p:.3g}, off below {analysis.mismatch_below:g})"
        )
    if exposed.since is not None and not analysis.timed:
        lines.append("  the outcomes have no timestamp, so those from before the exposure of their unit count too")
    without = "count as 0" if analysis.missing == ZERO else "are left out"
    lines.append(f"  units without an outcome {without}")
    for count, what in (
        (analysis.too_early, "outcomes from before the exposure of their unit don't count"),
        (analysis.not_exposed, "outcomes of units that were not exposed don't count"),
        (analysis.empty, "outcomes are empty"),
        (exposed.dropped, "exposures were dropped when they were logged"),
    ):
        lines += [f"  {count:,} {what}"] if count else []
    return "\n".join([*lines, *map(_effect, analysis.effects)])


def _how(analysis: Analysis) -> str:
    exposed = analysis.exposed
    if exposed.since is None:
        return f"{len(exposed.units):,} units of the outcomes, all taken as exposed, in the arms that the hash gives"
    return f"{len(exposed.units):,} units of {exposed.exposures:,} exposures"


def _measure(analysis: Analysis) -> str:
    return "share" if analysis.proportions else "mean"


def _effect(effect: Effect) -> str:
    verdict = "no difference is shown" if effect.low <= 0 <= effect.high else "more" if effect.low > 0 else "less"
    return (
        f"{effect.arm} against {effect.against}: {effect.difference:+.6g}, {CONFIDENCE:.0%} interval "
        f"[{effect.low:+.6g}, {effect.high:+.6g}], p {effect.p:.3g}: {verdict}"
    )


def _arguments() -> argparse.Namespace:
    parser = argument_parser(__doc__, REPOSITORY)
    parser.add_argument("name", metavar="NAME", help="the experiment, as features.py declares it")
    parser.add_argument("--outcomes", type=Path, required=True, metavar="FILE", help="CSV or Parquet: unit, outcome")
    parser.add_argument(
        "--exposures",
        type=Path,
        metavar="FOLDER",
        help="where exposures were logged (default: every unit of the outcomes was exposed)",
    )
    parser.add_argument(
        "--missing",
        choices=[ZERO, LEFT_OUT],
        default=ZERO,
        help="what units without an outcome count as (default: %(default)s)",
    )
    parser.add_argument(
        "--mismatch",
        type=share,
        default=MISMATCH_BELOW,
        metavar="P",
        help="the p-value below which the sample ratio is off (default: %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()
