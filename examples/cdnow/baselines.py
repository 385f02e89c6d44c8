"""What the model has to beat: the BG/NBD forecast of Fader, Hardie and Lee, "Counting Your Customers" the Easy Way:
An Alternative to the Pareto/NBD Model, Marketing Science 24 (2005).

A customer buys at random times, at a rate of their own, and after each repeat purchase leaves for good with a
probability of their own. Rates are gamma distributed over customers (r, alpha), probabilities beta distributed (a, b).
"""

from dataclasses import astuple, dataclass
from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize
from scipy.special import gammaln, hyp2f1

DAYS_PER_WEEK = 7


class Histories(NamedTuple):
    """What the forecast knows of each customer, float64; times in weeks from the first purchase."""

    repeats: np.ndarray
    """On how many later days they bought: x."""
    last: np.ndarray
    """When they bought last: t_x. 0 if once only."""
    observed: np.ndarray
    """How long they have been observed: T."""


def histories(days_with_purchases: np.ndarray, days_since_first: np.ndarray, days_since_last: np.ndarray) -> Histories:
    """Histories of customers, by three of the model's inputs."""
    return Histories(
        days_with_purchases - 1.0,
        (days_since_first - days_since_last) / DAYS_PER_WEEK,
        days_since_first / DAYS_PER_WEEK,
    )


@dataclass(frozen=True)
class BetaGeometric:
    """The model with its parameters, the rate per week."""

    r: float
    alpha: float
    a: float
    b: float

    @classmethod
    def fit(cls, known: Histories) -> "BetaGeometric":
        """The parameters under which what is ``known`` is the likeliest."""
        distinct, counts = np.unique(np.column_stack(known), axis=0, return_counts=True)
        customers = Histories(*distinct.T)

        def loss(logarithms: np.ndarray) -> float:
            return -float(cls(*np.exp(logarithms)).log_likelihood(customers) @ counts) / counts.sum()

        exact = {"xatol": 1e-7, "fatol": 1e-12, "maxiter": 10_000, "maxfev": 10_000}
        found = minimize(loss, np.zeros(4), method="Nelder-Mead", options=exact)
        return cls(*map(float, np.exp(found.x)))

    def log_likelihood(self, known: Histories) -> np.ndarray:
        """That of each customer, in the form that does not overflow."""
        r, alpha, a, b = astuple(self)
        x, last, observed = known
        rate = gammaln(r + x) - gammaln(r) + r * np.log(alpha)
        stays = gammaln(a + b) + gammaln(b + x) - gammaln(b) - gammaln(a + b + x)
        alive = -(r + x) * np.log(alpha + observed)
        with np.errstate(divide="ignore", invalid="ignore"):
            gone = np.where(x > 0, np.log(a) - np.log(b + x - 1) - (r + x) * np.log(alpha + last), -np.inf)
        return rate + stays + np.logaddexp(alive, gone)

    def alive(self, known: Histories) -> np.ndarray:
        """The probability that each customer has not left for good."""
        r, alpha, a, b = astuple(self)
        x, last, observed = known
        odds = np.where(x > 0, a / (b + np.maximum(x, 1) - 1) * ((alpha + observed) / (alpha + last)) ** (r + x), 0.0)
        return 1 / (1 + odds)

    def expected(self, known: Histories, weeks: float) -> np.ndarray:
        """How many purchases of each customer to expect in the next ``weeks``: equation (10) of the paper."""
        r, alpha, a, b = astuple(self)
        x, _, observed = known
        z = weeks / (alpha + observed + weeks)
        shrunk = ((alpha + observed) / (alpha + observed + weeks)) ** (r + x)
        return (a + b + x - 1) / (a - 1) * (1 - shrunk * hyp2f1(r + x, b + x, a + b + x - 1, z)) * self.alive(known)

    def buys(self, known: Histories, weeks: float) -> np.ndarray:
        """The probability that each customer buys in the next ``weeks``.

        The rate of who is alive is gamma distributed still, (r + x, alpha + T), and one leaves after a purchase only.
        """
        r, alpha, _, _ = astuple(self)
        x, _, observed = known
        return self.alive(known) * (1 - ((alpha + observed) / (alpha + observed + weeks)) ** (r + x))
