"""The tools that `make bench-drift` compares, each asked about one column of two windows.

A tool gives a score, higher for more drift, and whether it raises an alarm by its own threshold.
"""

import pickle
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy import stats

from tests.drifting import Window, compared

RATE = 0.001
DECILES = np.arange(1, 10) / 10
OURS, KS, PSI, EVIDENTLY = "ours", "KS", "PSI", "Evidently"
PEERS = "peers"
"""All others than ours, which are asked together, as they look at the same sorted values."""
OWN = {OURS: f"p <= {RATE}", KS: "p < 0.05", "PSI 0.1": ">= 0.1", "PSI 0.2": ">= 0.2", EVIDENTLY: "its default"}


class Answer(NamedTuple):
    score: float
    alarms: Mapping[str, bool]
    """By the name of the threshold, as in `OWN`."""


def ours(reference: Window, current: Window, column: int) -> dict[str, Answer]:
    chance = compared((reference.users, reference[column]), (current.users, current[column])).chance
    return {OURS: Answer(-np.log10(max(chance, 1e-300)), {OURS: chance <= RATE})}


class Peers:
    """KS and PSI, and Evidently, which runs in an environment of its own and is asked through a pipe."""

    def __init__(self, evidently: Path):
        worker = Path(__file__).with_name("drift_evidently.py")
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
        self._evidently = subprocess.Popen([evidently, worker], **pipes)
        self._reference: tuple[np.ndarray, np.ndarray] | None = None

    def __call__(self, reference: Window, current: Window, column: int) -> dict[str, Answer]:
        before, after = self._before(reference[column]), _sorted(current[column])
        ks, psi = stats.ks_2samp(before, after, method="asymp"), _psi(before, after)
        score, alarm = self._ask(before, after)
        return {
            KS: Answer(float(ks.statistic), {KS: bool(ks.pvalue < 0.05)}),
            PSI: Answer(psi, {"PSI 0.1": psi >= 0.1, "PSI 0.2": psi >= 0.2}),
            EVIDENTLY: Answer(score, {EVIDENTLY: alarm}),
        }

    def _before(self, values: np.ndarray) -> np.ndarray:
        """The reference's values, sorted once for all that is planted in the current window."""
        if self._reference is None or self._reference[0] is not values:
            self._reference = values, _sorted(values)
        return self._reference[1]

    def _ask(self, reference: np.ndarray, current: np.ndarray) -> tuple[float, bool]:
        pickle.dump((reference, current), self._evidently.stdin)
        self._evidently.stdin.flush()
        name, score, alarm = pickle.load(self._evidently.stdout)
        return (-score if name == "ks" else score), alarm


def _sorted(values: np.ndarray) -> np.ndarray:
    """What is not null, in order: what these tools look at."""
    return np.sort(values[np.isfinite(values)])


def _psi(reference: np.ndarray, current: np.ndarray) -> float:
    """Of sorted values, by the reference's deciles: a value at an edge is of the part above."""
    edges = np.quantile(reference, DECILES)
    ends = (np.concatenate([[0], np.searchsorted(some, edges, "left"), [len(some)]]) for some in (reference, current))
    a, b = (np.maximum(np.diff(end) / end[-1], 1e-4) for end in ends)
    return float(((b - a) * np.log(b / a)).sum())
