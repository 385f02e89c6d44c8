"""What a comparison came to, for people on a terminal, as JSON, and as metrics."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Gauge, generate_latest

from parity.drift.alarms import APPEARED, DRIFT, SMALL, STEADY, Moved, Verdict
from parity.drift.spans import TooLittleError
from parity.drift.test import LOCATION, NEW, SHARE, SPREAD, TAILS, Effect
from parity.edge.errors import UserError
from parity.edge.files import replacing

ORDER = {DRIFT: 0, APPEARED: 1, SMALL: 2, STEADY: 3}


@dataclass
class Found:
    """Verdicts, at a ``rate`` of false alarms over all of them; what could not be compared, what has too little data to
    be judged, and what was left out."""

    rate: float
    verdicts: list[Verdict] = field(default_factory=list)
    not_compared: list[UserError] = field(default_factory=list)
    too_little: list[TooLittleError] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    @property
    def drifted(self) -> list[Verdict]:
        return [one for one in self.verdicts if one.status == DRIFT]

    @property
    def ordered(self) -> list[Verdict]:
        """Alarms first, the surest first."""
        return sorted(self.verdicts, key=lambda one: (ORDER[one.status], one.tested.chance))


def shown(found: Found) -> str:
    """What a person reads."""
    lines = []
    for table in dict.fromkeys(one.table for one in found.verdicts):
        some = [one for one in found.ordered if one.table == table]
        lines.append(head(some[0]))
        for one in some:
            lines += [f"  {line}" for line in sentences(one)]
    lines += [f"Not compared: {reason}" for reason in found.left]
    lines += [f"Not compared: {error}" for error in found.not_compared]
    lines += [f"Not judged: {error}" for error in found.too_little]
    alarms, columns = len(found.drifted), len(found.verdicts)
    lines.append(
        f"{'DRIFT' if alarms else 'No drift'}: {alarms} of {columns} columns, with a chance of any false alarm of at "
        f"most {found.rate:g}."
    )
    return "\n".join(lines)


def head(one: Verdict) -> str:
    reference, current, both = one.entities
    rows = [int(window.sum()) for window in one.counted.counts[:2]]
    return (
        f"{one.table}: {one.spans.reference} ({rows[0]:,} rows, {reference:,} {one.noun}) against {one.spans.current} "
        f"({rows[1]:,} rows, {current:,} {one.noun}, {both:,} of them in both)"
    )


def sentences(one: Verdict) -> list[str]:
    """What is found of a column: in one line, and for an alarm in some more."""
    tested = one.tested
    familiar = f"PSI {tested.psi:.3f}, KS {tested.ks:.3f}"
    if one.counted.labels is None:
        familiar += f", Wasserstein {number(tested.wasserstein, one)}"
    if one.status == APPEARED:
        return [f"{one.name}: appeared meanwhile: the reference has no value of it, so there is nothing to compare"]
    if one.status != DRIFT:
        why = "steady" if one.status == STEADY else "moved, but by less than matters"
        if one.counted.column.grows and one.status == STEADY:
            why = "grows by definition: only nulls, negative and infinite values are judged, and they are steady"
        constant = _constant(one)
        return [f"{one.name}: {f'constant, {constant}' if constant else why} (p {tested.chance:.3g}; {familiar})"]
    moved = one.moved
    lines = [f"{one.name}: DRIFT, {size(one)} (p {tested.chance:.3g}; {familiar})"]
    lines.append(f"  since {moved.since}{f', mostly on {moved.weekday}s' if moved.weekday else ''}; {one.origin}")
    if moved.group and not (moved.part.kind == SHARE and moved.part.what):
        lines.append(f"  most in {moved.group}")
    if who := by_entities(one):
        lines.append(f"  {who}")
    return lines


def by_entities(one: Verdict) -> str:
    """How old and new entities moved."""
    moved, noun = one.moved, one.noun
    if moved.old is None or moved.new is None:
        return ""
    return (
        f"{noun} in both windows: {_change(moved.old, moved, one)}; "
        f"those that came against those that went: {_change(moved.new, moved, one)}"
    )


def size(one: Verdict) -> str:
    """What moved, in which direction, and by how much."""
    moved, part = one.moved, one.moved.part
    effect = moved.effect
    error = f", standard error {_amount(effect.error, moved, one)}" if math.isfinite(effect.error) else ""
    change = f"{_change(effect, moved, one)}{error}"
    direction = "up" if effect.difference > 0 else "down"
    if part.what == NEW:
        return f"new categories, as {one.counted.new[0]!r}: {change}"
    if part.kind == SHARE:
        return f"share of {part.what} {direction}: {change}"
    if moved.in_rows:
        return f"other shares: {change}"
    if part.kind == LOCATION:
        return f"{direction}: mean {change}"
    if part.kind == TAILS:
        return f"{part.what} values {direction}: mean {change}"
    if part.kind == SPREAD:
        return f"spread {'wider' if effect.difference > 0 else 'narrower'}: mean distance from the median {change}"
    of = "mean" if effect == one.tested.mean else "mean distance from the median"
    return f"another distribution: {of} {change}"


def _change(effect: Effect, moved: Moved, one: Verdict) -> str:
    before, after = (_amount(value, moved, one) for value in (effect.reference, effect.current))
    difference = effect.difference
    by = f"{100 * difference:+.2f} points" if moved.in_rows else f"{difference:+.4g}{_unit(one)}"
    return f"{before} -> {after} ({by})"


def _amount(value: float, moved: Moved, one: Verdict) -> str:
    return f"{value:.2%}" if moved.in_rows else number(value, one)


def number(value: float, one: Verdict) -> str:
    """A number with the unit of its column."""
    return f"{value:.4g}{_unit(one)}"


def _unit(one: Verdict) -> str:
    return f" {one.counted.column.unit}" if one.counted.column.unit else ""


def _constant(one: Verdict) -> str:
    """The only value that a column has in both windows, if there is no more than one."""
    counts = one.counted.counts
    places = (counts.reference.sum(axis=0) + counts.current.sum(axis=0)).nonzero()[0]
    if len(places) != 1:
        return ""
    named = [name for name, mask in one.counted.bins.special.items() if mask[places[0]]]
    return named[0] if named else ""


def as_json(found: Found) -> dict[str, Any]:
    """The same for machines. A number that is none is null."""
    return {
        "drift": bool(found.drifted),
        "rate": found.rate,
        "correction": "harmonic mean over the tests of a column, doubled; Holm over all columns",
        "columns": [_column(one) for one in found.ordered],
        "not_compared": [*found.left, *map(str, found.not_compared)],
        "not_judged": list(map(str, found.too_little)),
    }


def _column(one: Verdict) -> dict[str, Any]:
    tested, counts, moved = one.tested, one.counted.counts, one.moved
    record = {
        "view": one.table,
        "column": one.name,
        "unit": one.counted.column.unit or None,
        "status": one.status,
        "grows_by_definition": one.counted.column.grows,
        "reference": {"first": str(one.spans.reference.first), "last": str(one.spans.reference.last)},
        "current": {"first": str(one.spans.current.first), "last": str(one.spans.current.last)},
        "rows": [int(counts.reference.sum()), int(counts.current.sum())],
        "entities": one.entities._asdict(),
        "p": tested.chance,
        "tests": [
            {"kind": part.kind, "what": part.what or None, "p": part.chance, "weight": part.weight}
            for part in tested.parts
        ],
        "mean": _effect(tested.mean),
        "spread": _effect(tested.spread),
        "shares": {name: _effect(effect) for name, effect in tested.shares.items()},
        "psi": tested.psi,
        "ks": tested.ks,
        "wasserstein": tested.wasserstein if one.counted.labels is None else None,
    }
    if moved:
        record["moved"] = {
            "what": moved.part.kind,
            "of": moved.part.what or None,
            "size": _effect(moved.effect),
            "size_is": "share of rows" if moved.in_rows else one.counted.column.unit or "value",
            "since": str(moved.since),
            "segment": moved.group or None,
            "weekday": moved.weekday or None,
            "old_entities": _effect(moved.old),
            "new_entities": _effect(moved.new),
            "origin": {True: "pipeline", False: "data", None: "unknown"}[one.by_pipeline],
            "origin_reason": one.origin,
        }
    return record


def _effect(effect: Effect | None) -> dict[str, float | None] | None:
    if effect is None:
        return None
    numbers = {
        "reference": effect.reference,
        "current": effect.current,
        "difference": effect.difference,
        "standard_error": effect.error,
    }
    return {name: value if math.isfinite(value) else None for name, value in numbers.items()}


def metrics(found: Found, path: Path, now: datetime) -> None:
    """Write metrics in Prometheus' text format to ``path``, replacing an earlier file."""
    registry = CollectorRegistry()
    labels = ["view", "column"]
    gauges = {
        "alarm": Gauge("parity_drift_alarm", "1 of a column that has drifted", labels, registry=registry),
        "p": Gauge("parity_drift_p", "Chance of such a difference where nothing drifted", labels, registry=registry),
        "psi": Gauge("parity_drift_psi", "Population stability index", labels, registry=registry),
        "ks": Gauge("parity_drift_ks", "Distance of Kolmogorov and Smirnov", labels, registry=registry),
        "pipeline": Gauge("parity_drift_pipeline", "1 if the oracle disagrees", labels, registry=registry),
    }
    for one in found.verdicts:
        values = {
            "alarm": one.status == DRIFT,
            "p": one.tested.chance,
            "psi": one.tested.psi,
            "ks": one.tested.ks,
            "pipeline": one.by_pipeline is True,
        }
        for kind, value in values.items():
            gauges[kind].labels(one.table, one.name).set(float(value))
    gone = Gauge("parity_drift_not_compared", "Feature views that could not be compared", registry=registry)
    gone.set(len(found.not_compared))
    few = Gauge("parity_drift_not_judged", "Feature views with too little data to judge them", registry=registry)
    few.set(len(found.too_little))
    at = Gauge("parity_drift_timestamp_seconds", "When this was compared", registry=registry)
    at.set(now.timestamp())
    with replacing(path) as temporary:
        temporary.write_bytes(generate_latest(registry))
