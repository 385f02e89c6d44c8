"""The smallest effect that matters, as declared: a drift that is smaller is no alarm, however significant.

    FEATURE=0.50         in the feature's unit: of its mean, or of the mean distance from its median
    FEATURE=5%           of the reference's mean
    FEATURE:share=1%     of the rows: of a share of nulls, zeros, a category, ...

``*`` is every feature that is not named. In features.py the tags of an AggregatedFeatureView say the same,
``tags={"matters.FEATURE": "5%", "matters.FEATURE:share": "1%"}``; a command line goes before them.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from parity.edge.errors import UserError

SHARE = "share"
TAG = "matters."
EVERY = "*"


@dataclass(frozen=True)
class Matters:
    """Of one feature: a size in its unit, or relative to the reference's mean, and a share of rows."""

    size: float = 0.0
    relative: float = 0.0
    share: float = 0.0

    def least(self, mean: float) -> float:
        """The size that matters, in the unit, where the reference's mean is ``mean``."""
        return max(self.size, self.relative * abs(mean))


def declared_matters(text: str) -> tuple[str, str]:
    """Split ``FEATURE=SIZE`` for argparse, and see that the size can be read."""
    name, equals, size = text.rpartition("=")
    try:
        if not equals or not name:
            raise ValueError
        _number(size)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no smallest effect, such as FEATURE=0.5, FEATURE=5% or FEATURE:share=1%"
        ) from None
    return name, size


def matters_of(
    names: Iterable[str], tags: Mapping[str, str], options: Mapping[str, str], where: str
) -> dict[str, Matters]:
    """What matters of each of the features with these ``names``. `UserError` for a tag that can't be read."""
    said = {tag.removeprefix(TAG): size for tag, size in tags.items() if tag.startswith(TAG)} | dict(options)
    found = {}
    for name in names:
        size, share = (said.get(f"{name}{what}", said.get(f"{EVERY}{what}", "0")) for what in ("", f":{SHARE}"))
        try:
            kind = "relative" if size.endswith("%") else "size"
            found[name] = Matters(**{kind: _number(size)}, share=_number(share))
        except ValueError:
            raise UserError(
                f"{where}: the smallest effect of {name} that matters can't be read: {size!r}, {share!r}. "
                "Write a size, as 0.5, or a share, as 5%."
            ) from None
    return found


def require_known(options: Mapping[str, str], names: Iterable[str]) -> None:
    """Raise a `UserError` for a name that no feature has."""
    known = {*names, EVERY}
    for name in options:
        if name.removesuffix(f":{SHARE}") not in known:
            raise UserError(f"--matters: there is no feature {name!r}; there is {', '.join(sorted(known - {EVERY}))}.")


def _number(text: str) -> float:
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not math.isfinite(value) or value < 0:
        raise ValueError
    return value
