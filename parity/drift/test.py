"""The statistics of drift: two windows of one column, compared with the entity as the unit.

Rows of one entity are not independent: windows overlap, and every user has a level of their own. So each comparison is
a difference between the two windows whose covariance comes from entities: the delete-one-entity jackknife. An entity
in both windows is left out of both at once, so what it is by itself cancels.

Numpy and scipy only; nothing here knows of files. A column comes as `Counts`: rows by unit (an entity, or several at
random) and by bin (an interval of values, or a category) of both windows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy import special, stats

NULL, ZERO, NEGATIVE, INFINITE, NEW = "null", "zero", "negative", "infinite", "new category"
EXTREME = "extreme"
"""Values so far out that none, or few, are: a mean knows them, a rank does not."""
OTHERS = "others"
"""The categories that are too rare for a bin of their own."""
LOCATION, TAILS, SPREAD, SHARES, SHARE = "location", "tails", "spread", "deciles", "share"
HIGH, LOW = "high", "low"
"""The two tails."""

WEIGHTS = {LOCATION: 0.35, TAILS: 0.25, SPREAD: 0.1, SHARES: 0.1, SHARE: 0.2}
"""How the chance of a false alarm of one column is divided among what is tested of it. What can't be tested leaves its
part to the others."""
MARGIN = 2
"""By so much the chance is raised: that far in the tails, t and F are good to a factor of two where users are few."""
MOST_GROUPS = 10
UNITS_PER_GROUP = 12
"""With fewer units per group of values than this, the covariance of shares is too uncertain: then there are fewer."""
FEWEST_UNITS = 12
"""Signs of so many units, all alike, have a chance of 1 in 2048; of fewer nothing can be said at 1 in 1,000."""
AFFECTED_EXACTLY = 100
"""Shares of which no more units are affected are tested exactly."""
FREQUENT_CATEGORIES = 30
"""Categories with a bin of their own; the others have one together."""
PSI_FLOOR = 1e-4
LEAST_CHANCE = 1e-300
"""What is smaller is 0 to a computer."""


class Bins(NamedTuple):
    """What the columns of `Counts` are. Bins that are ``ordered`` come in the order of their ``values``, each of which
    stands for those in a bin; ``special`` bins, by name, have their share tested by itself, as have single values."""

    values: np.ndarray
    """NaN of a bin without an order."""
    special: Mapping[str, np.ndarray]
    """By name, which bins: a mask."""
    fences: tuple[float, float] = (-np.inf, np.inf)
    """Values below the first are extreme, as are those from the second one on."""

    @property
    def ordered(self) -> np.ndarray:
        return ~np.isnan(self.values)


class Counts(NamedTuple):
    """Rows by unit and bin of both windows. A unit that is ``paired`` consists of entities that are in both."""

    reference: np.ndarray
    current: np.ndarray
    paired: np.ndarray

    def of_bins(self, scores: np.ndarray) -> Sums:
        """The sums, by unit, of ``scores`` of bins: (bins, scores). Bins whose scores are NaN count as no rows."""
        counted = ~np.isnan(scores).any(axis=1)
        both = np.column_stack([np.where(counted[:, None], scores, 0.0), counted])
        reference, current = (_product(window, both) for window in (self.reference, self.current))
        return Sums(reference[:, :-1], reference[:, -1], current[:, :-1], current[:, -1], self.paired)


UNITS_AT_ONCE = 2048


def _product(counts: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Counts times scores, in little memory: of float64 are but some rows at a time."""
    found = np.empty((len(counts), scores.shape[1]))
    for start in range(0, len(counts), UNITS_AT_ONCE):
        found[start : start + UNITS_AT_ONCE] = counts[start : start + UNITS_AT_ONCE].astype(float) @ scores
    return found


class Sums(NamedTuple):
    """Sums of scores (units, scores) and rows (units,), by unit and window."""

    reference: np.ndarray
    reference_rows: np.ndarray
    current: np.ndarray
    current_rows: np.ndarray
    paired: np.ndarray

    def where(self, mask: np.ndarray) -> Sums:
        return Sums(*(part[mask] for part in self))


class Estimate(NamedTuple):
    """A difference of means per row, current less reference, and what each unit adds to it: its square sums up to the
    covariance."""

    difference: np.ndarray
    influence: np.ndarray
    weights: np.ndarray
    """How much of the variance is of each unit, if rows of a unit were all alike."""

    @property
    def covariance(self) -> np.ndarray:
        return self.influence.T @ self.influence

    @property
    def error(self) -> np.ndarray:
        """The standard error of each difference."""
        return np.sqrt(np.einsum("ij,ij->j", self.influence, self.influence))

    @property
    def units(self) -> int:
        return int(np.count_nonzero(self.weights))

    @property
    def freedom(self) -> float:
        """The degrees of freedom of the variance (Satterthwaite): by how unequal the units are, in rows and in what
        they add, whichever is less."""
        by_rows = _freedom(self.weights)
        squares = self.influence**2
        by_value = [2 / max(2 / self.units, 1 / _freedom(one) - 1 / self.units) for one in squares.T if one.any()]
        return min([by_rows, *by_value, self.units - 1.0])


def _freedom(weights: np.ndarray) -> float:
    total = weights.sum()
    return float(total**2 / (weights**2).sum()) if total else 0.0


def estimate(sums: Sums) -> Estimate | None:
    """The difference of two windows, by the delete-one-unit jackknife. None if a window has no rows, or all of its
    rows are of one unit."""
    parts = []
    for totals, rows in ((sums.reference, sums.reference_rows), (sums.current, sums.current_rows)):
        every = rows.sum()
        if not every or rows.max() == every:
            return None
        mean = totals.sum(axis=0) / every
        parts.append((mean, (totals - rows[:, None] * mean) / (every - rows)[:, None], (rows / every) ** 2))
    (reference, of_reference, a), (current, of_current, b) = parts
    return Estimate(current - reference, of_current - of_reference, a + b)


def within(sums: Sums) -> Estimate | None:
    """The difference that units show by themselves, those with rows in both windows: each unit's own difference of
    means, with the weight that is best where rows vary alike. Who has how many rows does not matter then, so that
    neither what is particular to a unit nor a busy week of one adds noise. None if there are none, or only one."""
    both = (sums.reference_rows > 0) & (sums.current_rows > 0)
    reference, before, current, after, _ = sums.where(both)
    weights = before * after / (before + after)
    total = weights.sum()
    if not total or weights.max() == total:
        return None
    own = current / after[:, None] - reference / before[:, None]
    mean = weights @ own / total
    return Estimate(mean, weights[:, None] * (own - mean) / (total - weights)[:, None], (weights / total) ** 2)


def estimates(sums: Sums) -> list[Estimate]:
    """The difference over all rows; and that of paired units by themselves together with that of the others, each with
    the weight that makes it the most precise: units that come and go add much noise, and say little."""
    whole = estimate(sums)
    if whole is None or whole.units < FEWEST_UNITS:
        return []
    paired, others = within(sums.where(sums.paired)), estimate(sums.where(~sums.paired))
    if paired is None or paired.units < FEWEST_UNITS:
        return [whole]
    if others is None or others.units < FEWEST_UNITS:
        return [whole, paired]
    a, b = (float((one.error**2).sum()) for one in (paired, others))
    share = b / (a + b) if a + b else 0.5
    return [whole, _mixed(paired, others, share)]


def _mixed(one: Estimate, other: Estimate, share: float) -> Estimate:
    return Estimate(
        share * one.difference + (1 - share) * other.difference,
        np.concatenate([share * one.influence, (1 - share) * other.influence]),
        np.concatenate([share**2 * one.weights, (1 - share) ** 2 * other.weights]),
    )


def chance_of(found: Estimate) -> float:
    """The chance of a difference as large as this, or larger, where there is none: Student's t of one score,
    Hotelling's T squared of several. It is never less than that of all units having moved in one direction by chance.
    """
    freedom = found.freedom
    values, vectors = np.linalg.eigh(found.covariance)
    kept = values > max(values[-1], 0) * 1e-9
    along = vectors.T @ found.difference
    rank = int(kept.sum())
    least = 2.0 ** (1 - found.units)
    outside = np.abs(along[~kept]).max(initial=0) > 1e-9 * max(np.abs(found.difference).max(), 1e-300)
    if np.abs(found.difference).max() < 1e-12:
        return 1.0
    if outside and (rank == 0 or np.abs(along[~kept]).max() > 1e-6):
        return least  # in a direction in which no unit differs from another
    second = freedom - rank + 1
    if rank == 0 or second < 3:
        return 1.0
    squared = float((along[kept] ** 2 / values[kept]).sum())
    return max(least, float(stats.f.sf(squared * second / (freedom * rank), rank, second)))


def exact_chance(sums: Sums, affected: tuple[np.ndarray, np.ndarray]) -> float:
    """The chance that units affected by something rare fall on the two windows as unevenly as these or more so.

    ``affected`` are a unit's rows in question, in the reference and in the current window. Given that a unit is
    affected at all, each of its rows is as likely to be the one: so a paired unit falls on the current window with the
    share that its rows have there, on average. Another one does with a chance between the share of rows and the share
    of units, depending on how much rows of a unit are alike: the less favourable of the two counts.
    """
    reference, current = affected
    paired = sums.paired & (reference + current > 0)
    now = current[paired] / (reference + current)[paired]
    here = sums.current_rows[paired] / (sums.current_rows + sums.reference_rows)[paired]
    alone = ~sums.paired
    came, went = int((current[alone] > 0).sum()), int((reference[alone] > 0).sum())
    seen = now.sum() + came
    rows = sums.current_rows[alone].sum(), sums.reference_rows[alone].sum()
    units = (sums.current_rows[alone] > 0).sum(), (sums.reference_rows[alone] > 0).sum()
    shares = {float(a / (a + b)) for a, b in (rows, units) if a + b} or {0.5}
    tails = []
    for share in shares:
        chances = _sum_of_flips(np.concatenate([here, np.full(came + went, share)]))
        upper, lower = np.floor(seen + 1e-9), np.ceil(seen - 1e-9)
        tails.append((chances[int(upper) :].sum(), chances[: int(lower) + 1].sum()))
    more, less = np.max(tails, axis=0)
    return float(min(1.0, 2 * min(more, less)))


def _sum_of_flips(chances: np.ndarray) -> np.ndarray:
    """The distribution of the number of successes, each with a chance of its own (Poisson's binomial)."""
    found = np.ones(1)
    for chance in chances:
        found = np.convolve(found, [1 - chance, chance])
    return found


class Part(NamedTuple):
    """One test of a column: of which kind, of what (a special value, say), and how it came out."""

    kind: str
    what: str
    chance: float
    weight: float


@dataclass(frozen=True)
class Effect:
    """By how much a mean per row moved, in its own unit, with the standard error that entities give it."""

    reference: float
    current: float
    error: float

    @property
    def difference(self) -> float:
        return self.current - self.reference


@dataclass(frozen=True)
class Tested:
    """What the comparison of one column came to."""

    chance: float
    """Of a false alarm, corrected for the tests of this column, and for no other column. 1 if nothing can be said."""
    parts: tuple[Part, ...]
    units: int
    shares: Mapping[str, Effect] = field(default_factory=dict)
    """Of null, zero, negative, ... rows, among all rows."""
    mean: Effect | None = None
    """Of values, less what is extreme: see `Bins.values`."""
    spread: Effect | None = None
    """Of the mean distance from the reference's median."""
    psi: float = 0.0
    ks: float = 0.0
    wasserstein: float = 0.0

    @property
    def strongest(self) -> Part | None:
        return min(self.parts, key=lambda part: part.chance / part.weight, default=None)


def compare(counts: Counts, bins: Bins, others: Sequence[tuple[str, str, float]] = (), grows: bool = False) -> Tested:
    """Test whether a column has drifted, and measure by how much. ``others`` are tests made elsewhere: kind, what, and
    chance. Of a column that ``grows`` by definition only the shares of what it never becomes by growing are tested."""
    tests = [*_tests(counts, bins), *others]
    if grows:
        tests = [test for test in tests if test[1] in (NULL, NEGATIVE, INFINITE)]
    parts = tuple(_weighted(tests))
    chance = min(1.0, MARGIN * _together(parts))
    rows = counts.reference.any(axis=1) | counts.current.any(axis=1)
    shares = {name: effect for name, mask in bins.special.items() if (effect := _share(counts, mask))}
    mean, spread = _in_unit(counts, bins)
    return Tested(chance, parts, int(rows.sum()), shares, mean, spread, *familiar(counts, bins))


def _together(parts: Sequence[Part]) -> float:
    """The weighted harmonic mean of the chances: never more than Bonferroni's p / weight of the strongest, and less
    where several tests agree, as they do of few units. It holds for tests that depend on each other, as far out as a
    false alarm is; `MARGIN` covers what it is short of there (D. J. Wilson, PNAS 116, 2019)."""
    total = sum(part.weight / max(part.chance, LEAST_CHANCE) for part in parts)
    return 1 / total if total else 1.0


def _weighted(tests: Sequence[tuple[str, str, float]]) -> Iterator[Part]:
    kinds = [kind for kind, _, _ in tests]
    there = sum(WEIGHTS[kind] for kind in set(kinds))
    for kind, what, chance in tests:
        yield Part(kind, what, chance, WEIGHTS[kind] / there / kinds.count(kind))


def _tests(counts: Counts, bins: Bins) -> Iterator[tuple[str, str, float]]:
    """Kind, what, and the chance of each test that can be made."""
    if bins.ordered.any():
        ranks = mid_ranks(counts, bins)
        centred = 2 * ranks - 1
        for found in estimates(counts.of_bins(ranks[:, None])):
            yield LOCATION, "", chance_of(found)
        for tail, scores in tail_scores(counts, bins).items():
            for found in estimates(counts.of_bins(scores[:, None]))[-1:]:  # the more precise one
                yield TAILS, tail, chance_of(found)
        for found in estimates(counts.of_bins(centred[:, None] ** 2)):
            yield SPREAD, "", chance_of(found)
    groups = groups_of(counts, bins)
    if groups is not None and groups.shape[1] > 2:
        for found in estimates(counts.of_bins(groups)):
            yield SHARES, "", chance_of(found)
    for name, mask in bins.special.items():
        if name in (NEW, OTHERS):  # a category is new because the reference has none: its share says nothing
            continue
        yield from ((SHARE, name, chance) for chance in _share_chances(counts, mask))


def _share_chances(counts: Counts, mask: np.ndarray) -> Iterator[float]:
    affected = counts.reference[:, mask].sum(axis=1), counts.current[:, mask].sum(axis=1)
    rare = int(((affected[0] + affected[1]) > 0).sum())
    sums = counts.of_bins(mask[:, None].astype(float))
    if not rare or (len(mask) and sums.reference.sum() + sums.current.sum() == _rows(sums)):
        return  # none, or all
    if rare <= AFFECTED_EXACTLY:
        yield exact_chance(sums, affected)
    else:
        yield from map(chance_of, estimates(sums))


def _rows(sums: Sums) -> float:
    return sums.reference_rows.sum() + sums.current_rows.sum()


def totals(counts: Counts, of: np.ndarray | slice = slice(None)) -> tuple[np.ndarray, np.ndarray]:
    """The shares of rows by bin, of the bins in question, in the reference and in the current window."""
    parts = (window.sum(axis=0)[of].astype(float) for window in (counts.reference, counts.current))
    return tuple(part / max(part.sum(), 1) for part in parts)


def mid_ranks(counts: Counts, bins: Bins) -> np.ndarray:
    """The rank of each ordered bin, from 0 to 1, among rows of both windows, which have the same weight; else NaN."""
    reference, current = totals(counts, bins.ordered)
    shares = (reference + current) / 2
    ranks = np.full(len(bins.values), np.nan)
    ranks[bins.ordered] = np.cumsum(shares) - shares / 2
    return ranks


def tail_scores(counts: Counts, bins: Bins) -> dict[str, np.ndarray]:
    """By tail, the mean of -log(1 - rank), or of -log(rank), over each ordered bin; else NaN (Savage's scores). A mean
    of them moves with the values at that end, so it shows the few entities that moved far, whom a rank caps."""
    reference, current = totals(counts, bins.ordered)
    ends = np.concatenate([[0.0], np.cumsum(reference + current) / 2]).clip(max=1)
    found = {}
    for tail, edges in ((HIGH, ends), (LOW, 1 - ends)):
        below, above = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
        wide = above - below
        area = special.xlogy(1 - above, 1 - above) - special.xlogy(1 - below, 1 - below) + wide
        thin = -np.log(np.maximum(1 - (below + above) / 2, 1e-9))
        found[tail] = np.full(len(bins.values), np.nan)
        found[tail][bins.ordered] = np.divide(area, wide, out=thin, where=wide > 1e-9)
    return found


def groups_of(counts: Counts, bins: Bins) -> np.ndarray | None:
    """Which bins make which group of values: a column each, of the reference's deciles, or of the categories. Fewer
    where units are few. None where nothing is to be divided."""
    chosen = bins.ordered if bins.ordered.any() else ~bins.special.get(NULL, np.zeros(len(bins.values), bool))
    reference, current = totals(counts, chosen)
    units = int((counts.reference.any(axis=1) | counts.current.any(axis=1)).sum())
    most = min(MOST_GROUPS, units // UNITS_PER_GROUP)
    if most < 2:
        return None
    of_bin = np.full(len(bins.values), -1)
    if bins.ordered.any():
        middle = np.cumsum(reference) - reference / 2
        of_bin[chosen] = np.minimum((middle * most).astype(int), most - 1)
    else:
        places = np.argsort(-(reference + current), kind="stable")
        order = np.empty(len(places), int)
        order[places] = np.minimum(np.arange(len(places)), most - 1)
        of_bin[chosen] = order
        if NEW in bins.special:
            of_bin[bins.special[NEW]] = of_bin[bins.special[OTHERS]]
    names = np.unique(of_bin[of_bin >= 0])
    groups = (of_bin[:, None] == names).astype(float)
    groups[of_bin < 0] = np.nan
    return groups


def _share(counts: Counts, mask: np.ndarray) -> Effect | None:
    return _effect(counts.of_bins(mask[:, None].astype(float)))


def _effect(sums: Sums) -> Effect | None:
    if not sums.reference_rows.sum() or not sums.current_rows.sum():
        return None
    found = estimate(sums)
    error = float(found.error[0]) if found else float("nan")
    means = (float(a.sum() / b.sum()) for a, b in (sums[:2], sums[2:4]))
    return Effect(*means, error)


def _in_unit(counts: Counts, bins: Bins) -> tuple[Effect | None, Effect | None]:
    if not bins.ordered.any():
        return None, None
    reference, _ = totals(counts, bins.ordered)
    middle = bins.values[bins.ordered][np.searchsorted(np.cumsum(reference), 0.5 - 1e-12).clip(max=len(reference) - 1)]
    mean = _effect(counts.of_bins(bins.values[:, None]))
    return mean, _effect(counts.of_bins(np.abs(bins.values - middle)[:, None]))


def familiar(counts: Counts, bins: Bins) -> tuple[float, float, float]:
    """PSI over the reference's deciles, the distance of Kolmogorov and Smirnov, and Wasserstein's in the column's unit:
    by rows, as other tools have them, on the grid of the bins."""
    groups = groups_of(counts, bins)
    psi = 0.0
    if groups is not None:
        known = np.nan_to_num(groups)
        parts = [window.sum(axis=0) @ known for window in (counts.reference, counts.current)]
        a, b = (np.maximum(part / max(part.sum(), 1), PSI_FLOOR) for part in parts)
        psi = float(((b - a) * np.log(b / a)).sum())
    if not bins.ordered.any():
        return psi, 0.0, 0.0
    reference, current = totals(counts, bins.ordered)
    apart = np.abs(np.cumsum(current - reference))
    return psi, float(apart.max(initial=0)), float((apart[:-1] * np.diff(bins.values[bins.ordered])).sum())


def holm(chances: Sequence[float], rate: float) -> list[bool]:
    """Which of several tests are alarms, so that there is any false one with a chance of at most ``rate`` (Holm)."""
    order = np.argsort(chances, kind="stable")
    alarms = [False] * len(chances)
    for place, number in enumerate(order):
        if chances[number] * (len(chances) - place) > rate:
            break
        alarms[int(number)] = True
    return alarms
