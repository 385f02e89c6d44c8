"""Small charts as SVG text, drawn in the colours of the page that holds them."""

import math
from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 320, 300, 56, 44, 12, 12


def scatter(points: Sequence[tuple[float, float]], across: str, up: str) -> str:
    """Draw (x, y) points against the diagonal; those off it stand out. Both axes have the same scale."""
    low, high = _span([value for point in points for value in point])

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)

    marks = [f'<line class="diagonal" x1="{x(low)}" y1="{y(low)}" x2="{x(high)}" y2="{y(high)}"/>']
    for tick in _ticks(low, high):
        marks.append(f'<line class="grid" x1="{x(tick):.1f}" y1="{y(low)}" x2="{x(tick):.1f}" y2="{y(high)}"/>')
        marks.append(f'<line class="grid" x1="{x(low)}" y1="{y(tick):.1f}" x2="{x(high)}" y2="{y(tick):.1f}"/>')
        marks.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_label(tick)}</text>')
        marks.append(f'<text x="{LEFT - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{_label(tick)}</text>')
    for a, b in sorted(points, key=lambda point: point[0] != point[1]):  # what is off is drawn on top
        marks.append(f'<circle class="{"on" if a == b else "off"}" cx="{x(a):.1f}" cy="{y(b):.1f}" r="3"/>')
    off = sum(a != b for a, b in points)
    return _figure(marks, across, up, f"{len(points)} points, {off} of them off the diagonal")


def histogram(values: np.ndarray, across: str, marked: dict[str, float]) -> str:
    """Draw how ``values`` are distributed, with lines at the ``marked`` ones. The slowest 0.5 % may lie outside."""
    low, high = 0.0, float(np.percentile(values, 99.5)) * 1.1 or 1.0
    counts, edges = np.histogram(values, bins=40, range=(low, high))
    most = max(1, counts.max())

    def x(value: float) -> float:
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    marks = []
    for count, start, end in zip(counts, edges, edges[1:], strict=False):
        tall = count / most * (HEIGHT - BOTTOM - TOP)
        marks.append(
            f'<rect class="bar" x="{x(start):.1f}" y="{HEIGHT - BOTTOM - tall:.1f}" '
            f'width="{max(1, x(end) - x(start) - 1):.1f}" height="{tall:.1f}"/>'
        )
    for tick in _ticks(low, high):
        marks.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - BOTTOM + 16}" text-anchor="middle">{_label(tick)}</text>')
    for line, (name, value) in enumerate(marked.items()):
        if low <= value <= high:
            marks.append(
                f'<line class="mark" x1="{x(value):.1f}" y1="{TOP}" x2="{x(value):.1f}" y2="{HEIGHT - BOTTOM}"/>'
            )
            marks.append(f'<text x="{x(value) + 4:.1f}" y="{TOP + 12 + 14 * line}">{escape(name)} {value:.2f}</text>')
    return _figure(marks, across, "calls", f"{len(values)} values")


def _figure(marks: list[str], across: str, up: str, description: str) -> str:
    centre, middle = (WIDTH + LEFT - RIGHT) / 2, (HEIGHT - BOTTOM + TOP) / 2
    across, up = escape(across), escape(up)
    return "\n".join(
        [
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
            f'aria-label="{up} against {across}: {escape(description)}">',
            *marks,
            f'<text class="axis" x="{centre}" y="{HEIGHT - 8}" text-anchor="middle">{across}</text>',
            f'<text class="axis" transform="translate(12 {middle}) rotate(-90)" text-anchor="middle">{up}</text>',
            "</svg>",
        ]
    )


def _span(values: Sequence[float]) -> tuple[float, float]:
    low, high = min([*values, 0.0]), max([*values, 0.0])
    margin = (high - low) * 0.04 or 1.0
    return (low - margin if low < 0 else 0.0), high + margin


def _ticks(low: float, high: float) -> list[float]:
    """About five round numbers between ``low`` and ``high``."""
    rough = (high - low) / 5
    scale = 10 ** math.floor(math.log10(rough))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= rough)
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _label(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e6 else f"{value:.3g}"
