"""Small charts as SVG text, drawn in the colours of the page that holds them."""

import math
from collections.abc import Sequence
from datetime import timedelta
from html import escape

import numpy as np

from parity.definition.instants import EPOCH, FIRST_INSTANT

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 320, 300, 56, 44, 12, 12
LONG_WIDTH, LONG_HEIGHT = 960, 300
DAY = 86_400
DATE_STEPS = [
    60,
    300,
    900,
    3600,
    3 * 3600,
    6 * 3600,
    12 * 3600,
    *(days * DAY for days in (1, 2, 4, 7, 14, 28, 91, 365)),
]
"""How far apart dates may stand on an axis, in seconds."""


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


def timeline(
    lines: dict[str, Sequence[tuple[float, float | None]]], marks: Sequence[float], end: float, up: str
) -> str:
    """Draw values over time: each of ``lines``, by the class of its looks, holds a value from an instant on, null where
    it has none, up to ``end``. ``marks`` stand on the axis. Instants are in seconds since 1970."""
    begin = min(seconds for line in lines.values() for seconds, _ in line)
    begin, end = begin - (end - begin) * 0.02, end + ((end - begin) * 0.02 or 1.0)
    low, high = _span([value for line in lines.values() for _, value in line if value is not None])
    bottom, right = LONG_HEIGHT - BOTTOM, LONG_WIDTH - RIGHT

    def x(seconds: float) -> str:
        return f"{LEFT + (seconds - begin) / (end - begin) * (right - LEFT):.1f}"

    def y(value: float) -> str:
        return f"{bottom - (value - low) / (high - low) * (bottom - TOP):.1f}"

    drawn = []
    for tick in _ticks(low, high):
        drawn.append(f'<line class="grid" x1="{LEFT}" y1="{y(tick)}" x2="{right}" y2="{y(tick)}"/>')
        drawn.append(f'<text x="{LEFT - 6}" y="{float(y(tick)) + 4:.1f}" text-anchor="end">{_label(tick)}</text>')
    for seconds, label in _dates(begin, end):
        drawn.append(f'<line class="grid" x1="{x(seconds)}" y1="{bottom}" x2="{x(seconds)}" y2="{TOP}"/>')
        drawn.append(f'<text x="{x(seconds)}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    for looks, line in lines.items():
        path, ahead = [], [*(seconds for seconds, _ in line[1:]), end]
        before = None
        for (seconds, value), until in zip(line, ahead, strict=True):
            if value is not None:
                path.append(f"{'M' if before is None else 'L'}{x(seconds)} {y(value)}H{x(until)}")
            before = value
        drawn.append(f'<path class="{looks}" d="{"".join(path)}"/>')
    drawn += [f'<path class="bought" d="M{x(mark)} {bottom + 1}l-4 7h8z"/>' for mark in marks]
    figure = (LONG_WIDTH, LONG_HEIGHT)
    return _figure(drawn, "UTC", up, f"{len(marks)} marks, {len(lines)} lines", figure)


def _dates(begin: float, end: float) -> list[tuple[float, str]]:
    """At most eight round instants between two, with what people call them."""
    step = next((step for step in DATE_STEPS if (end - begin) / step <= 8), math.ceil((end - begin) / 8 / DAY) * DAY)
    found, first = [], (FIRST_INSTANT - EPOCH).total_seconds()
    for number in range(math.ceil(max(begin, first) / step), math.floor(end / step) + 1):
        instant = EPOCH + timedelta(seconds=number * step)
        day = f"{instant.day} {instant:%b}"
        label = instant.strftime("%H:%M") if step < DAY and instant.hour + instant.minute else day
        found.append((number * step, label if step < 300 * DAY else f"{day} {instant.year}"))
    return found


def _figure(marks: list[str], across: str, up: str, description: str, size: tuple[int, int] = (WIDTH, HEIGHT)) -> str:
    width, height = size
    centre, middle = (width + LEFT - RIGHT) / 2, (height - BOTTOM + TOP) / 2
    across, up = escape(across), escape(up)
    return "\n".join(
        [
            f'<svg viewBox="0 0 {width} {height}" role="img" '
            f'aria-label="{up} against {across}: {escape(description)}">',
            *marks,
            f'<text class="axis" x="{centre}" y="{height - 8}" text-anchor="middle">{across}</text>',
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
