"""What a comparison looks like on a terminal."""

from typing import Any

import numpy as np
import pyarrow as pa
from feast import FeatureView

from parity.proof import Comparison

PROMISED_MILLISECONDS = 10


def one_user(user: int, view: FeatureView, training: pa.Table, serving: pa.Table) -> str:
    """Show both values of each feature of one user and their difference; the tables have one row."""
    lines = [("", "training (Parquet)", "serving (Redis)", "difference")]
    for feature in view.features:
        unit, sides = (
            feature.tags.get("unit", ""),
            (training[feature.name][0].as_py(), serving[feature.name][0].as_py()),
        )
        difference = "-" if None in sides else str(sides[0] - sides[1])
        lines.append((feature.name, _shown(sides[0], unit), _shown(sides[1], unit), difference))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = ("  ".join([name.ljust(widths[0]), *map(str.rjust, cells, widths[1:])]) for name, *cells in lines)
    return "\n".join([f"User {user}", *(f"  {line}" for line in table)])


def every_user(found: Comparison) -> str:
    """Show the counts of a comparison, each difference, and the verdict."""
    counts = ", ".join(f"{kind} {count:,}" for kind, count in found.counts.items())
    lines = [f"All {found.users:,} users, {len(found.features)} features, at {found.at.isoformat()}", f"  {counts}"]
    lines += [
        f"  user {d.user}: {d.feature} is {_shown(d.training)} in training, {_shown(d.serving)} in serving ({d.kind})"
        for d in found.differences
    ]
    if found.differences:
        skewed = len({d.user for d in found.differences})
        lines.append(
            f"SKEW: {len(found.differences):,} values of {skewed:,} users differ between training and serving."
        )
    else:
        lines.append("Training equals serving: every value of every user.")
    return "\n".join(lines)


def latency(milliseconds: np.ndarray) -> str:
    """Show how long online reads of one user took, against the promise."""
    p50, p99 = np.percentile(milliseconds, [50, 99])
    kept = "kept" if p99 < PROMISED_MILLISECONDS else "NOT kept"
    return (
        f"Online read of one user, {len(milliseconds):,} calls: p50 {p50:.2f} ms, p99 {p99:.2f} ms "
        f"(promise: under {PROMISED_MILLISECONDS} ms, {kept})"
    )


def _shown(value: Any, unit: str = "") -> str:
    return "null" if value is None else f"{unit}{value}"
