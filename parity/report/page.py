"""The report as one self-contained page: no script, nothing loaded from elsewhere, light and dark, wide and narrow."""

import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from parity.edge.files import replacing
from parity.online.side import cut
from parity.proof.causes import MEANING, same
from parity.proof.compare import Comparison, Subject, Values
from parity.proof.oracle import Purchase, expected
from parity.report import charts
from parity.report.shortcuts import IMPLEMENTATIONS
from parity.report.terminal import PROMISED_MILLISECONDS, looked_at

USERS_DRAWN = 1000
DIFFERENCES_LISTED = 50
LARGEST_DRAWN = 1e300
TEMPLATE = Path(__file__).with_name("page.html")


class Gallery:
    """Looks on while a comparison runs, and keeps what the page draws: values of some users, and their purchases."""

    def __init__(self, users: int):
        self._every = max(1, math.ceil(users / USERS_DRAWN))
        self.points: dict[str, list[tuple[Any, Any]]] = {}
        self.purchases: dict[int, list[Purchase]] = {}

    def look(self, ids: list[int], sides: dict[str, Values], purchases: dict[int, list[Purchase]]) -> None:
        """Take up every so many-th user, and every user that differs while there is room."""
        for feature, values in sides.items():
            points = self.points.setdefault(feature, [])
            for place, (training, serving, oracle) in enumerate(zip(*values, strict=True)):
                odd = not (same(training, serving) and same(training, oracle))
                if place % self._every == 0 or (odd and len(points) < 2 * USERS_DRAWN):
                    points.append((training, serving))
        self.purchases.update((user, purchases[user]) for user in ids[:: self._every] if user in purchases)


def write_page(
    path: Path,
    subject: Subject,
    found: Comparison,
    gallery: Gallery,
    milliseconds: np.ndarray,
    certificate: dict[str, Any],
) -> None:
    """Write the page to ``path``, replacing an earlier one. No secret of the configuration is in it."""
    environment = jinja2.Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    p50, p99 = np.percentile(milliseconds, [50, 99])
    with replacing(path) as temporary:
        temporary.write_text(
            environment.from_string(TEMPLATE.read_text()).render(
                found=found,
                certificate=certificate,
                meaning=MEANING,
                looked_at=looked_at(found),
                shown=lambda value: "null" if value is None else cut(str(value)),
                listed=found.differences[:DIFFERENCES_LISTED],
                features=[
                    (name, charts.scatter(_drawable(points), "training (offline)", "serving (online)"), len(points))
                    for name, points in gallery.points.items()
                ],
                prevented=_prevented(subject, found, gallery),
                latency=charts.histogram(milliseconds, "milliseconds", {"p50": p50, "p99": p99}),
                p99=p99,
                promise=PROMISED_MILLISECONDS,
                calls=len(milliseconds),
            ),
            encoding="utf-8",
        )


def _prevented(subject: Subject, found: Comparison, gallery: Gallery) -> list[dict[str, Any]]:
    """Hold the naive implementations of the first windowed mean against the true values at each last purchase."""
    for aggregation in subject.aggregations:
        if aggregation.function == "mean" and (aggregation.time_window or timedelta()) >= timedelta(days=1):
            break
    else:
        return []
    past = {user: [p for p in some if p.time <= found.at] for user, some in gallery.purchases.items()}
    past = {user: some for user, some in past.items() if some}
    true = {user: expected(aggregation, some, found.at, None) for user, some in past.items()}
    drawn = []
    for name, implementation in IMPLEMENTATIONS.items():
        naive = implementation(past, aggregation) if past else {}
        pairs = [(true[user], _unless_close(naive.get(user), true[user])) for user in past]
        drawn.append(
            {
                "name": name,
                "chart": charts.scatter(_drawable(pairs), "true value", "naive value"),
                "users": len(pairs),
                "wrong": sum(value != right for right, value in pairs),
                "null": sum(value is None for _, value in pairs),
            }
        )
    return drawn


def _unless_close(value: float | None, right: float) -> float | None:
    """Forgive a naive implementation its float arithmetic: here, other than anywhere else, only the window counts."""
    return right if value is not None and math.isclose(value, right) else value


def _drawable(points: list[tuple[Any, Any]]) -> list[tuple[float, float]]:
    """Points as numbers, null as 0; what is huge, infinite or no number has no place in a drawing."""
    numbers = [(0.0 if a is None else a, 0.0 if b is None else b) for a, b in points]
    return [pair for pair in numbers if all(isinstance(n, int | float) and abs(n) < LARGEST_DRAWN for n in pair)]
