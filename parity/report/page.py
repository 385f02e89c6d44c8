"""The report as one self-contained page: no script, nothing loaded from elsewhere, light and dark, wide and narrow."""

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from parity.compare.equal import same
from parity.definition.functions import NUMBERS
from parity.definition.instants import MICROSECOND
from parity.definition.table import Rule
from parity.proof.causes import MEANING
from parity.proof.found import Comparison, duration
from parity.proof.oracle import evaluate_each, expected, slides_of
from parity.report import charts
from parity.report.html import write_html
from parity.report.seen import Gallery, Seen
from parity.report.shortcuts import IMPLEMENTATIONS
from parity.report.terminal import PROMISED_MILLISECONDS, looked_at, not_looked_at

DIFFERENCES_LISTED = 50
PURCHASES_DRAWN = 12
"""How many of a key's last purchases its value over time is drawn of."""
LARGEST_DRAWN = 1e300
TEMPLATE = Path(__file__).with_name("page.html")


def write_page(
    path: Path,
    seen: Sequence[Seen],
    milliseconds: Sequence[np.ndarray],
    unseen: Sequence[str],
    certificate: dict[str, Any],
) -> None:
    """Write the page to ``path``, replacing an earlier one. No secret of the configuration is in it.

    ``milliseconds`` are those of online reads, of each view.
    """
    comparisons = [one.found for one in seen]
    write_html(
        path,
        TEMPLATE,
        skew=any(found.differences for found in comparisons),
        differing=sum(found.differing for found in comparisons),
        keys_skewed=sum(found.keys_skewed for found in comparisons),
        keys=sum(found.keys for found in comparisons),
        values=sum(found.values for found in comparisons),
        names=", ".join(found.title for found in comparisons),
        nouns=comparisons[0].table.noun() if len(seen) == 1 else "keys",
        not_looked_at=not_looked_at(unseen) if unseen else "",
        certificate=certificate,
        meaning=MEANING,
        views=list(map(_view, seen, milliseconds, certificate["views"])),
        promise=PROMISED_MILLISECONDS,
    )


def _view(seen: Seen, milliseconds: np.ndarray, proven: dict[str, Any]) -> dict[str, Any]:
    """What the page shows of one feature view, of which the certificate has what is ``proven``."""
    found, gallery = seen
    p50, p99 = np.percentile(milliseconds, [50, 99])
    return {
        "found": found,
        "proven": proven,
        "looked_at": looked_at(found),
        "listed": found.differences[:DIFFERENCES_LISTED],
        "features": [_feature(rule, gallery.points.get(rule.name, [])) for rule in found.table.rules],
        "sliding": _sliding(found, gallery),
        "prevented": _prevented(found, gallery),
        "latency": charts.histogram(milliseconds, "milliseconds", {"p50": p50, "p99": p99}),
        "p99": p99,
        "calls": len(milliseconds),
    }


def _feature(rule: Rule, points: list[tuple[Any, Any]]) -> dict[str, Any]:
    """A chart of one feature, if it is a number."""
    chart = charts.scatter(_drawable(points), "training (offline)", "serving (online)") if rule.type in NUMBERS else ""
    return {
        "name": rule.name,
        "chart": chart,
        "drawn": len(points),
        "off": sum(not same(training, serving) for training, serving in points),
    }


def _prevented(found: Comparison, gallery: Gallery) -> list[dict[str, Any]]:
    """Hold the naive implementations of the first windowed mean against the true values at each last purchase."""
    rules = [rule for rule in found.table.rules if rule.function == "mean"]
    rule = next((rule for rule in rules if (rule.time_window or timedelta()) >= timedelta(days=1)), None)
    if rule is None:
        return []
    past = {key: [p for p in some if p.time <= found.at] for key, some in gallery.purchases.items()}
    past = {key: some for key, some in past.items() if some}
    true = {key: expected(rule, some, found.at, None) for key, some in past.items()}
    drawn = []
    for name, implementation in IMPLEMENTATIONS.items():
        naive = implementation(past, rule) if past else {}
        pairs = [(true[key], _unless_close(naive.get(key), true[key])) for key in past]
        drawn.append(
            {
                "name": name,
                "chart": charts.scatter(_drawable(pairs), "true value", "naive value"),
                "keys": len(pairs),
                "wrong": sum(value != right for right, value in pairs),
                "null": sum(value is None for _, value in pairs),
            }
        )
    return drawn


def _sliding(found: Comparison, gallery: Gallery) -> dict[str, Any] | None:
    """Draw one feature of one key over time, of a continuous table, and what it would be if windows did not slide."""
    slides, known = slides_of(found.table.definition), {}
    rules = [rule for rule in found.table.rules if rule.time_window and rule.type in NUMBERS]
    if slides and rules:
        known = {number: [p for p in some if p.time <= found.at] for number, some in gallery.purchases.items()}
    number = max(known, key=lambda number: (len(known[number]), -number), default=None)
    if number is None or not known[number]:
        return None
    rule = next((rule for rule in rules if rule.function == "mean"), rules[0])
    some = sorted(known[number], key=lambda purchase: purchase.time)
    begin = sorted({purchase.time for purchase in some})[-PURCHASES_DRAWN:][0]
    rows = [row for row in evaluate_each(rule, some, {rule.time_window}) if begin <= row[0] <= found.at]
    staying = [row for row in evaluate_each(rule, some) if begin <= row[0]]
    end = min(found.at, rows[-1][0] + max(rule.time_window / 2, MICROSECOND))
    lines = {"stay": _over_time(staying), "slide": _over_time(rows)}
    return {
        "feature": rule.name,
        "key": found.named(gallery.names[number]),
        "window": duration(rule.time_window),
        "chart": charts.timeline(lines, [instant.timestamp() for instant, _ in staying], end.timestamp(), rule.name),
    }


def _over_time(rows: list[tuple[datetime, Any]]) -> list[tuple[float, float | None]]:
    """Rows as they can be drawn; see `_drawable`."""
    return [(i.timestamp(), v if v is not None and _drawable([(v, v)]) else None) for i, v in rows]


def _unless_close(value: float | None, right: float) -> float | None:
    """Forgive a naive implementation its float arithmetic: here, other than anywhere else, only the window counts."""
    return right if value is not None and math.isclose(value, right) else value


def _drawable(points: list[tuple[Any, Any]]) -> list[tuple[float, float]]:
    """Points as numbers, null as 0; what is huge, infinite or no number has no place in a drawing."""
    numbers = [(0.0 if a is None else a, 0.0 if b is None else b) for a, b in points]
    return [pair for pair in numbers if all(isinstance(n, int | float) and abs(n) < LARGEST_DRAWN for n in pair)]
