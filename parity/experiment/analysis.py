"""The analysis of an experiment: who was exposed, whether the arms have the shares that they should, and the effect.

- The ratio of the arms is tested by Pearson's chi-square (`scipy.stats.chisquare`) against the weights. Where it is
  off, units have gone missing in one arm more than in another, so the arms can't be compared, whatever the effect seems
  to be (Fabijan et al., "Diagnosing Sample Ratio Mismatch in Online Controlled Experiments", KDD 2019).
- The effect is the difference of means, of two proportions where all outcomes are 0 or 1. Its interval and p-value are
  those of Welch's t-test (Welch, "The generalization of 'Student's' problem when several different population variances
  are involved", Biometrika 1947), by `scipy.stats.ttest_ind` with ``equal_var=False``. Each arm is held against the
  first one; with several, nothing is corrected for how many comparisons there are.

A verdict is refused where a ratio is off, where a unit was in two arms or in another than the hash gives, and where
there is too little to say anything.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from parity.definition.experiments import OUTSIDE, Experiment
from parity.edge.errors import UserError
from parity.experiment.exposures import AS_OF, exposure_parts
from parity.experiment.outcomes import OUTCOME, TIMESTAMP, UNIT
from parity.served.log import read

CONFIDENCE = 0.95
MISMATCH_BELOW = 0.001
"""The p-value below which a ratio is off: one experiment in a thousand is refused by chance."""
LEAST_EXPECTED = 5
"""Units of an arm, by the weights, below which chi-square says nothing (Cochran 1954); ones, and zeros, of an arm."""
LISTED = 10
ZERO, LEFT_OUT = "zero", "left-out"


@dataclass(frozen=True)
class Exposed:
    """The units that were exposed: each once, at its first exposure."""

    units: pa.Array
    """The texts of their ids, distinct."""
    arms: np.ndarray
    """The arm of each, objects; that of the first exposure."""
    since: pa.Array | None
    """When each was exposed first, us UTC; None if that is not known."""
    exposures: int = 0
    dropped: int = 0
    in_two_arms: list[str] = field(default_factory=list)
    in_another_arm: list[str] = field(default_factory=list)
    """Units that the hash gives another arm, or none."""


@dataclass(frozen=True)
class Arm:
    """What is known of an arm."""

    name: str
    service: str
    weight: float
    units: int
    expected: float
    """Units by the weights."""
    with_outcome: int
    counted: int
    """Units in the mean: all, or those with an outcome."""
    mean: float | None
    deviation: float | None


@dataclass(frozen=True)
class Effect:
    """An arm held against the first one."""

    arm: str
    against: str
    difference: float
    low: float
    high: float
    p: float
    degrees: float


@dataclass(frozen=True)
class Analysis:
    """What came out, and the ``reasons`` for which there is no verdict."""

    experiment: Experiment
    arms: list[Arm]
    exposed: Exposed
    mismatch_p: float | None
    mismatch_below: float
    missing: str
    proportions: bool
    timed: bool
    """Whether the outcomes have timestamps."""
    too_early: int
    """Outcomes from before the exposure of their unit, which don't count."""
    not_exposed: int
    """Outcomes of units that were not exposed, which don't count."""
    empty: int
    """Outcomes that are empty or NaN."""
    effects: list[Effect]
    reasons: list[str]


def exposed_by_log(folder: Path, experiment: Experiment) -> Exposed:
    """Read who was exposed from the parts in ``folder``; `UserError` if nobody was, or by an arm that is not there."""
    firsts, exposures, dropped = [], 0, 0
    for part in exposure_parts(folder, experiment):
        rows = read(part, [UNIT, "arm", AS_OF])
        exposures, dropped = exposures + rows.num_rows, dropped + part.dropped
        firsts.append(rows.group_by([UNIT, "arm"]).aggregate([(AS_OF, "min")]))
    if not exposures:
        lost = f", and {dropped:,} exposures were dropped" if dropped else ""
        raise UserError(f"{folder}: it has no exposures of the experiment {experiment.name!r}{lost}.")
    by_arm = pa.concat_tables(firsts).group_by([UNIT, "arm"]).aggregate([(f"{AS_OF}_min", "min")])
    by_arm = by_arm.rename_columns([UNIT, "arm", "since"]).sort_by([("since", "ascending"), (UNIT, "ascending")])
    for arm in by_arm["arm"].unique().to_pylist():
        experiment.service_called(arm)
    units = by_arm[UNIT].combine_chunks()
    distinct = units.unique()
    first = by_arm.take(pc.index_in(distinct, units))  # the rows are sorted by when
    counts = by_arm.group_by(UNIT).aggregate([("arm", "count")])
    in_two = counts.filter(pc.greater(counts["arm_count"], 1))[UNIT].to_pylist()
    arms = np.array(first["arm"].to_pylist(), object)
    by_hash = experiment.arms_of(distinct)
    another = distinct.filter(pa.array(arms != by_hash)).to_pylist()
    since = first["since"].combine_chunks()
    return Exposed(distinct, arms, since, exposures, dropped, sorted(in_two), sorted(another))


def exposed_by_hash(outcomes: pa.Table, experiment: Experiment) -> Exposed:
    """Take every unit that has a row among the ``outcomes`` as exposed, in the arm that the hash gives."""
    units = outcomes[UNIT].combine_chunks().unique()
    arms = experiment.arms_of(units)
    inside = np.array([arm is not OUTSIDE for arm in arms], bool)
    return Exposed(units.filter(pa.array(inside)), arms[inside], None)


def analyse(
    experiment: Experiment,
    exposed: Exposed,
    outcomes: pa.Table,
    missing: str = ZERO,
    mismatch_below: float = MISMATCH_BELOW,
) -> Analysis:
    """Hold the arms against each other by the ``outcomes``: several of a unit are added up.

    Those from before a unit's first exposure don't count. A unit without any has 0, or is left out, as ``missing``
    says.
    """
    place = pc.index_in(outcomes[UNIT].combine_chunks(), exposed.units)
    known = place.is_valid()
    early = pa.array(np.zeros(len(known), bool))
    if exposed.since is not None and TIMESTAMP in outcomes.column_names:
        since = exposed.since.take(pc.fill_null(place, 0)) if len(exposed.since) else None
        if since is not None:
            early = pc.and_(known, pc.less(outcomes[TIMESTAMP].combine_chunks(), since))
    empty = pc.is_null(outcomes[OUTCOME].combine_chunks())
    counts = pc.and_(pc.and_(known, pc.invert(early)), pc.invert(empty)).to_numpy(zero_copy_only=False)
    places = pc.fill_null(place, 0).to_numpy(zero_copy_only=False)[counts]
    numbers = outcomes[OUTCOME].combine_chunks().to_numpy(zero_copy_only=False)[counts]
    sums = np.bincount(places, numbers, len(exposed.units)).astype(float)
    has_one = np.bincount(places, minlength=len(exposed.units)) > 0
    is_counted = has_one if missing == LEFT_OUT else np.ones(len(has_one), bool)
    of_arm = {arm: sums[(exposed.arms == arm) & is_counted] for arm in experiment.arms}
    units = {arm: int((exposed.arms == arm).sum()) for arm in experiment.arms}
    arms = [
        Arm(
            name=arm,
            service=service.name,
            weight=experiment.shares[arm],
            units=units[arm],
            expected=sum(units.values()) * experiment.shares[arm],
            with_outcome=int((has_one & (exposed.arms == arm)).sum()),
            counted=len(of_arm[arm]),
            mean=_finite(np.mean, of_arm[arm], 1),
            deviation=_finite(_deviation, of_arm[arm], 2),
        )
        for arm, service in experiment.arms.items()
    ]
    proportions = bool(is_counted.any()) and bool(np.isin(sums[is_counted], (0.0, 1.0)).all())
    mismatch_p = mismatch([arm.units for arm in arms], [arm.weight for arm in arms])
    reasons = [*_reasons(exposed, arms, mismatch_p, mismatch_below), *_too_little(of_arm, proportions)]
    first, *others = experiment.arms
    effects = [] if reasons else [effect(of_arm, arm, first) for arm in others]
    return Analysis(
        experiment,
        arms,
        exposed,
        mismatch_p,
        mismatch_below,
        missing,
        proportions,
        timed=TIMESTAMP in outcomes.column_names,
        too_early=int(pc.sum(early).as_py() or 0),
        not_exposed=len(known) - int(pc.sum(known).as_py() or 0),
        empty=int(pc.sum(empty).as_py() or 0),
        effects=effects,
        reasons=reasons,
    )


def mismatch(units: list[int], weights: list[float]) -> float | None:
    """The p-value of these numbers of ``units`` of the arms, by their ``weights``; None if they are too few."""
    expected = np.array(weights) / sum(weights) * sum(units)
    if min(expected) < LEAST_EXPECTED:
        return None
    return float(_scipy().chisquare(units, expected).pvalue)


def effect(outcomes: dict[str, np.ndarray], arm: str, against: str) -> Effect:
    """The difference of the means of two arms, with Welch's interval and p-value."""
    test = _scipy().ttest_ind(outcomes[arm], outcomes[against], equal_var=False)
    low, high = test.confidence_interval(CONFIDENCE)
    difference = outcomes[arm].mean() - outcomes[against].mean()
    return Effect(arm, against, *map(float, (difference, low, high, test.pvalue, test.df)))


def _reasons(exposed: Exposed, arms: list[Arm], p: float | None, below: float) -> list[str]:
    """Why the arms can't be compared."""
    reasons = []
    if exposed.in_two_arms:
        some = _some(exposed.in_two_arms)
        reasons.append(f"{_units(exposed.in_two_arms)} in two arms ({some})")
    if exposed.in_another_arm:
        some = _some(exposed.in_another_arm)
        reasons.append(f"{_units(exposed.in_another_arm)} in another arm than the hash gives ({some})")
    if p is None:
        least = min(arm.expected for arm in arms)
        reasons.append(
            f"an arm should have {least:.3g} units, and the ratio can't be tested with under {LEAST_EXPECTED}"
        )
    elif p < below:
        ratio = " to ".join(f"{arm.units:,}" for arm in arms)
        right = " to ".join(f"{arm.expected:,.0f}" for arm in arms)
        reasons.append(
            f"the sample ratio is off: {ratio} units, and {right} were expected (p {p:.2g}, below {below:g})"
        )
    return reasons


def _too_little(outcomes: dict[str, np.ndarray], proportions: bool) -> list[str]:
    """Why nothing can be said of the outcomes."""
    few = [arm for arm, some in outcomes.items() if len(some) < 2]
    if few:
        have = "has" if len(few) == 1 else "have"
        return [f"{' and '.join(few)} {have} fewer than two units with an outcome"]
    if proportions:
        for arm, some in outcomes.items():
            ones = int(some.sum())
            if min(ones, len(some) - ones) < LEAST_EXPECTED:
                return [
                    f"{arm} has {ones:,} ones among {len(some):,} units, and {LEAST_EXPECTED} ones and zeros are needed"
                ]
    for arm, some in outcomes.items():
        if _finite(_deviation, some, 2) is None:
            return [f"the outcomes of {arm} are so large that a float64 does not hold how they vary"]
    first, *others = outcomes
    for arm in others:
        if np.ptp(outcomes[arm]) == np.ptp(outcomes[first]) == 0:
            return [f"all outcomes of {first}, and all of {arm}, are the same, so nothing is known of how they vary"]
    return []


def _deviation(some: np.ndarray) -> float:
    return some.std(ddof=1)


def _finite(function: Callable[[np.ndarray], float], some: np.ndarray, least: int) -> float | None:
    """What a function gives of some numbers, ``least`` at least; None if they are fewer, or if it is not finite."""
    with np.errstate(over="ignore", invalid="ignore"):
        found = float(function(some)) if len(some) >= least else math.nan
    return found if math.isfinite(found) else None


def _units(units: list[str]) -> str:
    return "1 unit was" if len(units) == 1 else f"{len(units):,} units were"


def _some(units: list[str]) -> str:
    return ", ".join(units[:LISTED]) + (", ..." if len(units) > LISTED else "")


def as_json(analysis: Analysis) -> dict[str, Any]:
    """The analysis, ready for JSON."""
    experiment, exposed = analysis.experiment, analysis.exposed
    return {
        "experiment": experiment.name,
        "unit": experiment.unit,
        "seed": experiment.seed,
        "coverage": experiment.coverage,
        "arms": [
            {
                "arm": arm.name,
                "feature_service": arm.service,
                "weight": arm.weight,
                "units": arm.units,
                "units_expected": arm.expected,
                "units_with_outcome": arm.with_outcome,
                "units_counted": arm.counted,
                "mean": arm.mean,
                "standard_deviation": arm.deviation,
            }
            for arm in analysis.arms
        ],
        "exposures": {
            "by": "hash" if exposed.since is None else "log",
            "logged": exposed.exposures,
            "dropped": exposed.dropped,
            "units_in_two_arms": len(exposed.in_two_arms),
            "units_in_another_arm": len(exposed.in_another_arm),
            "examples": [*exposed.in_two_arms, *exposed.in_another_arm][:LISTED],
        },
        "sample_ratio": {"p": analysis.mismatch_p, "refused_below": analysis.mismatch_below},
        "outcomes": {
            "units_without": analysis.missing,
            "before_exposure": analysis.too_early,
            "of_units_not_exposed": analysis.not_exposed,
            "empty": analysis.empty,
            "are": "proportions" if analysis.proportions else "numbers",
        },
        "effects": [
            {
                "arm": one.arm,
                "against": one.against,
                "difference": one.difference,
                "interval": [one.low, one.high],
                "confidence": CONFIDENCE,
                "p": one.p,
                "degrees_of_freedom": one.degrees,
            }
            for one in analysis.effects
        ],
        "no_verdict_because": analysis.reasons,
    }


def _scipy() -> Any:
    try:
        from scipy import stats
    except ModuleNotFoundError:
        raise UserError(
            "the package scipy is missing, which has the tests. Run: pip install -r requirements-model.txt"
        ) from None
    return stats
