"""How good the analysis of experiments is, over simulated runs whose truth is known: the tables of docs/experiments.md.

    python -m tests.experiments [--runs N] [--units N] [--seed N]

Who is in which arm is decided by the hash itself, with another seed in each run.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from scipy.stats import chi2, ncx2

from parity.experiment.analysis import LEAST_EXPECTED, MISMATCH_BELOW, effect, mismatch
from tests.test_experiment import experiment

HALVES = [0.5, 0.5]
PLANTED = 0.52
"""The share of one of two arms, where the other has lost units."""


def assignments(runs: int, units: int, folder: Path) -> np.ndarray:
    """Whether each unit is in the treatment of an even split: a row for each run, of other ids and another seed."""
    rows = []
    for run in range(runs):
        arms = experiment(folder, seed=f"run {run}").arms_of([f"{run}-{unit:06}" for unit in range(units)])
        rows.append(arms == "treatment")
    return np.array(rows)


def mismatches(treated: np.ndarray, below: float = MISMATCH_BELOW) -> float:
    """The share of runs whose ratio is off."""
    counts = treated.sum(axis=1)
    return float(np.mean([mismatch([treated.shape[1] - n, n], HALVES) < below for n in counts.tolist()]))


def caught(treated: np.ndarray, draw: np.random.Generator) -> float:
    """The share of runs whose ratio is off, where the treatment has lost units until the split is 52 to 48."""
    kept = treated & (draw.random(treated.shape) < (1 - PLANTED) / PLANTED)
    control, treatment = (~treated).sum(axis=1).tolist(), kept.sum(axis=1).tolist()
    return float(np.mean([mismatch([a, b], HALVES) < MISMATCH_BELOW for a, b in zip(control, treatment, strict=True)]))


def power(units: float) -> float:
    """The share of runs in which a 52/48 split of so many units is caught, by the noncentral chi-square."""
    return float(ncx2.sf(chi2.isf(MISMATCH_BELOW, 1), 1, units * (2 * PLANTED - 1) ** 2))


def coverage(treated: np.ndarray, draw: np.random.Generator, kind: str) -> tuple[float, float]:
    """The share of runs whose interval has the true effect, and of those that show a difference where there is none."""
    inside, shown = [], []
    for row in treated:
        if kind == "proportions":
            control, treatment, none = (draw.random(row.size) < share for share in (0.10, 0.13, 0.10))
            true = 0.03
        else:  # of a heavy tail, as what customers spend has
            control, treatment, none = (draw.lognormal(mean, 1, row.size) for mean in (3.0, 3.1, 3.0))
            true = np.exp(3.1 + 0.5) - np.exp(3.0 + 0.5)
        found = effect({"control": control[~row].astype(float), "treatment": treatment[row]}, "treatment", "control")
        inside.append(found.low <= true <= found.high)
        found = effect({"control": control[~row].astype(float), "treatment": none[row]}, "treatment", "control")
        shown.append(found.p < 0.05)
    return float(np.mean(inside)), float(np.mean(shown))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--units", type=int, default=20_000, help="of a run, at most")
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        treated = assignments(args.runs, args.units, Path(folder))
    draw = np.random.default_rng(args.seed)
    print(f"{args.runs:,} runs\n\n| units | even split refused | p below 0.05 | 52/48 refused | by theory |")
    print("|--:|--:|--:|--:|--:|")
    sizes = [size for size in (1000, 2000, 5000, 10_000, 15_000, 20_000) if 2 * LEAST_EXPECTED <= size <= args.units]
    for size in sizes:
        some = treated[:, :size]
        lost = size * (1 - (1 - PLANTED) / PLANTED) / 2
        shares = mismatches(some), mismatches(some, 0.05), caught(some, draw), power(size - lost)
        print(f"| {size:,} | {' | '.join(f'{share:.1%}' for share in shares)} |")
    print("\n| outcomes | units | interval has the true effect | difference shown where there is none |")
    print("|---|--:|--:|--:|")
    for kind in ("proportions", "amounts"):
        for size in sizes[:2]:
            inside, shown = coverage(treated[:, :size], draw, kind)
            print(f"| {kind} | {size:,} | {inside:.1%} | {shown:.1%} |")


if __name__ == "__main__":
    main()
