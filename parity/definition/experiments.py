"""Experiments: which FeatureService a unit is served by, so that two or more of them can be compared.

    checkout = Experiment(
        name="checkout",
        unit="customer_id",
        arms={"control": recency_service, "treatment": full_service},
        weights={"control": 0.5, "treatment": 0.5},
    )

Which arm a unit is in follows from the declaration and the unit's id alone, so training, serving and analysis agree, in
any process and on any machine: it is GrowthBook's documented hashing, version 2, whose package is needed where arms are
asked for, and nowhere else. An id is hashed as its text, as it is: 0042 is not 42, and the int 7 is the text "7".
"""

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from numbers import Integral
from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureService

from parity.definition.declare import column_type, refuse
from parity.definition.keys import parse_value
from parity.edge.errors import UserError
from parity.edge.feast_internals import views_of

HASH_VERSION = 2
UNIT_TYPES = (pa.string(), pa.int64(), pa.int32())
"""Of what type a unit can be: one whose text is the same wherever it is written."""
LEAST_SHARE = 0.0001
"""Of all units, for an arm: the hash knows 10,000 places."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""What the name of an experiment is made of: it becomes that of a folder."""
OUTSIDE = None
"""The arm of a unit that the coverage leaves out."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Experiment:
    """Arms, each a `FeatureService` over views that have the join key ``unit``, and the shares of units that get them.

    ``weights`` are one an arm, by its name or in the order of ``arms``, of the sum 1; all the same by default. The
    ``seed``, by default the name, makes the draws of experiments independent of each other: keep it while an experiment
    runs. With a ``coverage`` below 1 that share of each arm's units is in the experiment, and the rest in no arm.
    Raises `DefinitionError`.
    """

    name: str
    unit: str
    arms: Mapping[str, FeatureService]
    weights: Mapping[str, float] | Sequence[float] | None = None
    seed: str | None = None
    coverage: float = 1.0
    shares: dict[str, float] = field(init=False)
    """The weight of each arm, in their order."""

    def __post_init__(self) -> None:
        for fault in _faults(self):
            raise refuse(f"the experiment {self.name!r}: {fault}")
        weights = self.weights
        if weights is None:
            weights = [1 / len(self.arms)] * len(self.arms)
        elif isinstance(weights, Mapping):
            weights = [weights[arm] for arm in self.arms]
        object.__setattr__(self, "arms", dict(self.arms))
        object.__setattr__(self, "shares", dict(zip(self.arms, map(float, weights), strict=True)))
        object.__setattr__(self, "seed", self.name if self.seed is None else self.seed)

    @cached_property
    def unit_type(self) -> pa.DataType | None:
        """The Arrow type of the unit's join key, as the views of the arms have it; None if none has it."""
        for view in chain.from_iterable(views_of(service) for service in self.arms.values()):
            for column in getattr(view, "entity_columns", ()):
                if view.projection.join_key_map.get(column.name, column.name) == self.unit:
                    return column_type(column.dtype)
        return None

    def arm_of(self, unit: Any) -> str | None:
        """The arm that ``unit`` is in, an id as text or as a whole number; None if the coverage leaves it out.

        Raises `UserError` for what is no id of the unit's type, and where the package growthbook is missing.
        """
        return self._arm(self.text_of(unit))

    def arms_of(self, units: Iterable[Any]) -> np.ndarray:
        """As `arm_of`, of many: an array of objects, in the order of ``units``, which may be an Arrow array, a column
        of a frame, or any other sequence of ids."""
        if isinstance(units, str | bytes):
            raise TypeError(f"{units!r} is one unit, and arms_of takes several; arm_of takes one")
        arrow = isinstance(units, pa.Array | pa.ChunkedArray)
        some = units.to_pylist() if arrow else units.tolist() if hasattr(units, "tolist") else list(units)
        known = {unit: self.arm_of(unit) for unit in set(some)} if _are_plain(some) else None
        arms = np.empty(len(some), object)
        arms[:] = [known[unit] for unit in some] if known is not None else [self.arm_of(unit) for unit in some]
        return arms

    def service_of(self, unit: Any) -> FeatureService | None:
        """The service that ``unit`` is to be served by; None if it is in no arm."""
        arm = self.arm_of(unit)
        return None if arm is None else self.arms[arm]

    def service_called(self, arm: str) -> FeatureService:
        """The service of an arm; `UserError` if there is no such arm."""
        if arm not in self.arms:
            raise UserError(f"the experiment {self.name!r} has no arm {arm!r}; there is {', '.join(self.arms)}.")
        return self.arms[arm]

    def text_of(self, unit: Any) -> str:
        """The text that an id is hashed as. Raises `UserError` for what is no id of the unit's type."""
        if isinstance(unit, str):
            text = str(unit)
        elif isinstance(unit, Integral) and not isinstance(unit, bool | np.bool_):
            text = str(int(unit))
        else:
            raise UserError(
                f"the experiment {self.name!r}: {unit!r} can't be a {self.unit}: an id is a text or a whole number. "
                "Read ids with their own type: pandas makes floats of whole numbers beside empty cells."
            )
        if not text or (self.unit_type is not None and not _is_text_of(text, self.unit_type)):
            raise UserError(
                f"the experiment {self.name!r}: {text!r} can't be a {self.unit}, which is of type "
                f"{self.unit_type or 'text'}. Write ids as the features have them."
            )
        return text

    def _arm(self, text: str) -> str | None:
        gbhash, choose, ranges = self._hashing
        place = choose(gbhash(self.seed, text, HASH_VERSION), ranges)
        return OUTSIDE if place < 0 else self._names[place]

    @cached_property
    def _names(self) -> list[str]:
        return list(self.arms)

    @cached_property
    def _hashing(self) -> tuple:
        """GrowthBook's functions, and where in [0, 1) each arm lies."""
        try:
            from growthbook import core
        except ModuleNotFoundError:
            raise UserError(
                "the package growthbook is missing, which decides who is in which arm. "
                "Run: pip install -r requirements-model.txt"
            ) from None
        ranges = core.getBucketRanges(len(self.arms), self.coverage, list(self.shares.values()))
        return core.gbhash, core.chooseVariation, ranges


def _are_plain(units: list) -> bool:
    """Whether equal ones are the same id: 1, True and 1.0 are equal, and one of them is an id."""
    return all(type(unit) is str or type(unit) is int for unit in units)


def _is_text_of(text: str, type: pa.DataType) -> bool:
    try:
        parse_value(text, type)
    except ValueError:
        return False
    return True


def _faults(experiment: Experiment) -> Iterator[str]:
    if not isinstance(experiment.name, str) or not NAME.fullmatch(experiment.name):
        yield "its name becomes that of a folder. Let it be letters, digits, and any of _ . - after the first."
    if not isinstance(experiment.unit, str) or not experiment.unit:
        yield f"its unit is {experiment.unit!r}. Let it be a join key, such as 'customer_id'."
    arms = experiment.arms
    if not isinstance(arms, Mapping):
        yield 'its arms are no mapping. Write them as {"control": service_a, "treatment": service_b}.'
    if len(arms) < 2:
        yield f"it has {len(arms)} {'arm' if len(arms) == 1 else 'arms'}, and two at least are compared. Add another."
    for arm, service in arms.items():
        if not isinstance(arm, str) or not arm or not arm.isprintable() or arm != arm.strip():
            yield f"an arm can't be called {arm!r}. Let it be a text, such as 'control'."
        if not isinstance(service, FeatureService):
            yield f"the arm {arm} is {service!r}, which is no FeatureService."
    yield from _faults_of_weights(experiment)
    if experiment.seed is not None and (not isinstance(experiment.seed, str) or not experiment.seed):
        yield f"its seed is {experiment.seed!r}. Let it be a text, or leave it out for the name."


def _faults_of_weights(experiment: Experiment) -> Iterator[str]:
    weights, arms = experiment.weights, list(experiment.arms)
    coverage = experiment.coverage
    if not _is_number(coverage) or not 0 < coverage <= 1:
        yield f"its coverage is {coverage!r}. Let it be a share of the units, above 0 and up to 1."
    if isinstance(weights, Mapping):
        for arm in weights:
            if arm not in arms:
                yield f"a weight is that of {arm!r}, which is no arm: there is {', '.join(arms)}."
        for arm in arms:
            if arm not in weights:
                yield f"the arm {arm} has no weight. Give it one, or leave out all weights for equal ones."
        weights = [weights[arm] for arm in arms]
    if weights is None:
        weights = [1 / len(arms)] * len(arms)
    if not isinstance(weights, list | tuple) or len(weights) != len(arms):
        yield f"its weights are {weights!r}. Give one for each of {', '.join(arms)}."
    for arm, weight in zip(arms, weights, strict=True):
        if not _is_number(weight) or not 0 < weight < 1:
            yield f"the weight of {arm} is {weight!r}. Let it be a share of the units, between 0 and 1."
        if weight * coverage < LEAST_SHARE:
            yield f"the arm {arm} gets {weight * coverage:.2g} of all units, and the hash knows {LEAST_SHARE} at least."
    if not math.isclose(math.fsum(weights), 1, abs_tol=1e-9):
        yield f"its weights {', '.join(f'{weight:g}' for weight in weights)} come to {math.fsum(weights):g}, not 1."


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
