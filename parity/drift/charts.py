"""Two small charts of a column, as SVG text in the colours of the page: its mean by day, and rows by group of values.

Drawn here and not by a library: matplotlib's SVG has fixed colours, and what follows light and dark needs a script.
"""

from collections.abc import Sequence
from html import escape

import numpy as np

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 460, 190, 58, 10, 14, 34


def daily(
    means: np.ndarray, labels: Sequence[str], current: int, since: int | None, described: str, is_share: bool = False
) -> str:
    """Draw a mean by day; the days from number ``current`` on are the current window, and ``since`` marks a change.
    The scale of a share begins at 0."""
    known = np.flatnonzero(np.isfinite(means))
    low, high = (0.0, max(float(means[known].max(initial=0)) * 1.1, 0.01)) if is_share else _span(means[known])
    step = (WIDTH - LEFT - RIGHT) / max(len(means), 1)

    def x(day: float) -> float:
        return LEFT + (day + 0.5) * step

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - BOTTOM - TOP)

    first = x(current - 0.5)
    marks = [f'<rect class="now" x="{first:.1f}" y="{TOP}" width="{WIDTH - RIGHT - first:.1f}" height="{_deep()}"/>']
    marks += _levels(low, high, y, percent=is_share)
    marks += [
        f'<text x="{x(day):.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="{anchor}">{escape(labels[day])}</text>'
        for day, anchor in ((0, "start"), (current, "middle"), (len(means) - 1, "end"))
        if day in (0, len(means) - 1) or min(day, len(means) - 1 - day) * step > 44
    ]
    for run in np.split(known, np.flatnonzero(np.diff(known) > 1) + 1):
        path = "L".join(f"{x(day):.1f} {y(means[day]):.1f}" for day in run)
        marks.append(f'<path class="line" d="M{path}"/>')
    marks += [f'<circle class="dot" cx="{x(day):.1f}" cy="{y(means[day]):.1f}" r="2"/>' for day in known]
    if since is not None:
        at = x(since - 0.5)
        marks.append(f'<line class="since" x1="{at:.1f}" y1="{TOP}" x2="{at:.1f}" y2="{HEIGHT - BOTTOM}"/>')
    return _figure(marks, described)


def groups(reference: np.ndarray, current: np.ndarray, labels: Sequence[str], described: str) -> str:
    """Draw the shares of rows by group in both windows, side by side."""
    high = max(float(reference.max()), float(current.max()), 1e-9) * 1.08
    step = (WIDTH - LEFT - RIGHT) / len(labels)
    wide = min(step * 0.4, 26)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - value / high * (HEIGHT - BOTTOM - TOP)

    marks = _levels(0.0, high, y, percent=True)
    for place, (before, after) in enumerate(zip(reference, current, strict=True)):
        middle = LEFT + (place + 0.5) * step
        for looks, value, at in (("before", before, middle - wide), ("after", after, middle)):
            top = y(float(value))
            marks.append(
                f'<rect class="{looks}" x="{at:.1f}" y="{top:.1f}" width="{wide - 1:.1f}" '
                f'height="{max(0.0, HEIGHT - BOTTOM - top):.1f}"/>'
            )
        label = labels[place] if len(labels[place]) * 5.5 < step * 1.15 else f"{labels[place][: int(step / 6)]}…"
        marks.append(
            f'<text x="{middle:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{escape(label)}'
            f"<title>{escape(labels[place])}</title></text>"
        )
    return _figure(marks, described)


def _deep() -> int:
    return HEIGHT - BOTTOM - TOP


def _levels(low: float, high: float, y, percent: bool = False) -> list[str]:
    marks = []
    for value in np.linspace(low, high, 4):
        label = f"{value:.1%}" if percent else f"{value:.4g}"
        marks.append(f'<line class="grid" x1="{LEFT}" y1="{y(value):.1f}" x2="{WIDTH - RIGHT}" y2="{y(value):.1f}"/>')
        marks.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{label}</text>')
    return marks


def _span(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    margin = (high - low) * 0.1 or abs(high) * 0.1 or 1.0
    return low - margin, high + margin


def _figure(marks: Sequence[str], described: str) -> str:
    body = "\n".join(marks)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(described)}">\n{body}\n</svg>'
