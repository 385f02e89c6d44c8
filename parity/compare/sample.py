"""A sample of keys: how it is drawn, and what it says of the others."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95


class Sample(NamedTuple):
    """A draw of ``size`` of ``of`` keys, every one as likely as another, that ``seed`` repeats."""

    size: int
    of: int
    seed: int

    def draw(self) -> np.ndarray:
        return np.sort(np.random.default_rng(self.seed).choice(self.of, self.size, replace=False))


def bound(keys: int) -> float:
    """The share of all keys that differ at most, with none among so many drawn at random, at `CONFIDENCE`.

    It is the rule of three: 3/n at 95 % (Hanley and Lippman-Hand, "If nothing goes wrong, is everything all right?",
    JAMA 1983).
    """
    return min(1.0, 3 / keys)
