"""Worlds of users for the tests and the benchmark of drift: who has rows, of what amounts, and what is planted.

A world has 20 rows per user and window, more or less. Amounts are log-normal; in a clustered world each user has a
level of their own, and with turnover 30 % of the current window's users are new.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from parity.drift.bins import grid_of
from parity.drift.test import Counts, Tested, compare

WORLDS = "independent", "clustered", "turnover"
ROWS_PER_USER = 20
TURNOVER = 0.3
HOURS = np.array([1, 1, 1, 1, 1, 2, 3, 5, 7, 8, 9, 9, 9, 8, 8, 8, 9, 10, 11, 12, 10, 7, 4, 2], float)
"""How purchases spread over the day."""


class Window(NamedTuple):
    users: np.ndarray
    amounts: np.ndarray
    hours: np.ndarray
    """The time of the day."""


def windows(
    rng: np.random.Generator, rows: int, world: str = "clustered", longer: int = 1, spread: float = 0.5
) -> tuple[Window, Window]:
    """A reference of ``rows`` times ``longer``, and a current window of ``rows``, in which nothing has drifted."""
    users = max(rows // ROWS_PER_USER, 1)
    levels = rng.normal(0, spread, 2 * users) * (world != "independent")
    new = int(TURNOVER * users) if world == "turnover" else 0
    return tuple(
        _window(rng, some, count, levels)
        for some, count in ((np.arange(users), rows * longer), (np.arange(new, users + new), rows))
    )


def _window(rng: np.random.Generator, users: np.ndarray, rows: int, levels: np.ndarray) -> Window:
    of = rng.choice(users, rows)
    amounts = np.round(np.exp(3 + levels[of] + rng.normal(0, 0.5, rows)), 2)
    return Window(of, amounts, rng.choice(24, rows, p=HOURS / HOURS.sum()) + rng.random(rows))


def compared(reference: tuple[np.ndarray, np.ndarray], current: tuple[np.ndarray, np.ndarray]) -> Tested:
    """Compare users and values of two windows, all in memory."""
    grid = grid_of(reference[1], current[1])
    size = int(max(users.max() for users, _ in (reference, current))) + 1
    before, after = (
        np.bincount(users * len(grid) + grid.place(values), minlength=size * len(grid))
        .reshape(size, len(grid))
        .astype(float)
        for users, values in (reference, current)
    )
    there = before.any(axis=1) | after.any(axis=1)
    paired = before.any(axis=1) & after.any(axis=1)
    return compare(Counts(before[there], after[there], paired[there]), grid.bins)


def amounts_compared(reference: Window, current: Window) -> Tested:
    return compared(reference[:2], current[:2])


Change = Callable[[np.random.Generator, Window], Window]


def changed(change: Callable[[np.random.Generator, np.ndarray, np.ndarray], np.ndarray]) -> Change:
    """A change of amounts: of a generator, the amounts and the users."""
    return lambda rng, one: one._replace(amounts=np.round(change(rng, one.amounts, one.users), 2))


def sometimes(share: float, value: float) -> Change:
    return changed(lambda rng, amounts, _: np.where(rng.random(len(amounts)) < share, value, amounts))


STUCK = 20.09
PLANTED: dict[str, Change] = {
    "location: amounts +5 %": changed(lambda _, amounts, users: amounts * 1.05),
    "scale: distance from the median +10 %": changed(lambda _, amounts, users: 20.09 + (amounts - 20.09) * 1.1),
    "spread: sd of logarithms +10 %": changed(lambda _, amounts, users: np.exp(3 + (np.log(amounts) - 3) * 1.1)),
    "zeros: 1 % of rows": sometimes(0.01, 0.0),
    "nulls: 1 % of rows": sometimes(0.01, np.nan),
    "segment: every tenth user +50 %": changed(lambda _, amounts, users: np.where(users % 10 == 0, 1.5, 1) * amounts),
    "unit: 2 % of rows in cents": changed(
        lambda rng, amounts, _: np.where(rng.random(len(amounts)) < 0.02, 100 * amounts, amounts)
    ),
    "clock: 30 minutes late": lambda _, one: one._replace(hours=(one.hours + 0.5) % 24),
    "stuck: 2 % of rows at one value": sometimes(0.02, STUCK),
}
