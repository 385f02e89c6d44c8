"""A plan as the comment of a pull request: what matters on one screen, and the rest folded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from parity.edge.errors import printable
from parity.plan.found import (
    ADDED,
    ADDITIVE,
    BREAKING,
    NO_OP,
    REMOVED,
    UNCHANGED,
    VERDICTS,
    FeatureFound,
    Plan,
    ViewFound,
)
from parity.plan.words import details, model_line, readers, share, status, summary, title_of

MARK = "<!-- parity plan -->"
"""The first line, by which a workflow finds its comment again."""
ROWS, FOLDS = 14, 8
"""Lines of the table, and as many others, that are not folded; and views with a fold of their own."""
LONGEST = 60_000
"""GitHub takes comments of 65,536 characters."""
SIGNS = dict(zip(VERDICTS, ("🟢", "🔵", "🟠", "🔴"), strict=True))


def as_markdown(plan: Plan) -> str:
    """The whole comment."""
    lines = [MARK, f"### {SIGNS[plan.verdict]} Plan: {plan.verdict}. {summary(plan).capitalize()}.", ""]
    lines += [_text(f"{plan.head[0].upper()}{plan.head[1:]}, against {plan.base}, on {plan.sample}."), ""]
    rows = list(_rows(plan))
    if rows:
        lines += ["| feature | what becomes of it | rows | keys | read by |", "|---|---|---|---|---|", *rows[:ROWS]]
        lines += [f"| | and {len(rows) - ROWS} more, below | | | |"] if len(rows) > ROWS else []
        lines.append("")
    said = [*_notes(plan), *(f"- {_text(model_line(model))}" for model in plan.models if model.features)]
    lines += said[:ROWS]
    lines += [f"- and {len(said) - ROWS} more, below"] if len(said) > ROWS else []
    anew = [view for view in plan.views if view.verdict != NO_OP]
    same = [view for view in plan.views if view.verdict == NO_OP]
    lines.append("")
    for view in anew[:FOLDS]:
        lines += _fold(_text(title_of(view)), _whole(view))
    if anew[FOLDS:]:
        lines += _fold(f"and {len(anew) - FOLDS} more views", _each(anew[FOLDS:]))
    if same:
        lines += _fold(f"{_text(', '.join(view.name for view in same)):.200}: no-op", _each(same))
    more = [*rows[ROWS:], *said[ROWS:]]
    more += [f"- {_text(model_line(model))}" for model in plan.models if not model.features]
    more += [f"- not asked: {_text(what)}" for what in plan.not_asked]
    if more:
        lines += _fold("More", more)
    return _short("\n".join(lines))


def _rows(plan: Plan) -> Iterator[str]:
    for view in plan.views:
        for feature in view.features:
            if feature.status != UNCHANGED or view.status in (ADDED, REMOVED):
                yield _row(view, feature)


def _row(view: ViewFound, feature: FeatureFound) -> str:
    change = feature.change
    parts = [share(change.rows, change.of_rows), share(change.keys, change.of_keys)] if change else ["", ""]
    was = f", was {_code(feature.before)}" if feature.before else ""
    what = f"{SIGNS[feature.verdict]} {feature.status}{was}"
    cells = [_code(f"{view.name}:{feature.name}"), what, *parts, _text(readers(feature.readers))]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _notes(plan: Plan) -> Iterator[str]:
    for view in plan.views:
        for note in view.notes:
            if note.verdict != NO_OP:
                yield f"- {SIGNS[note.verdict]} {_code(view.name)}: {_text(note.text)}"
        if view.before:
            sign = SIGNS[ADDITIVE if view.is_aliased else BREAKING]
            yield f"- {sign} {_code(view.name)}: renamed, was {_code(view.before)}"
    yield from (f"- {SIGNS[note.verdict]} {_text(note.text)}" for note in plan.notes if note.verdict != NO_OP)


def _fold(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield from (f"<details><summary>{title}</summary>", "", *lines, "", "</details>")


def _each(views: Iterable[ViewFound]) -> Iterator[str]:
    for view in views:
        yield from (f"#### {_text(title_of(view))}", *_whole(view))


def _whole(view: ViewFound) -> Iterator[str]:
    yield from (f"- {_text(note.text)}" for note in view.notes)
    for feature in view.features:
        yield f"- {_code(feature.name)}: {_text(status(feature, view.noun))}"
        if feature.status != UNCHANGED:
            yield from (f"  - {_text(line)}" for line in details(feature, view))
    if view.cost:
        yield from (f"- {_text(line)}" for line in view.cost.lines(view.noun))


def _short(text: str) -> str:
    """What GitHub takes of it, with every fold closed."""
    if len(text) <= LONGEST:
        return text
    kept = text[:LONGEST].rpartition("\n")[0]
    unclosed = kept.count("<details>") - kept.count("</details>")
    return "\n".join([kept, *["", "</details>"] * unclosed, "", "The rest is left out: it is too long for a comment."])


def _text(text: str) -> str:
    """A text of which nothing is taken for Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]<>#|~@])", r"\\\1", printable(text))


def _code(text: str | None) -> str:
    """A name, in the font of code."""
    clean = printable(text or "").replace("`", "'")
    return f"`{clean}`"


def lines_not_folded(text: Iterable[str]) -> int:
    """How many lines of a comment are seen before anything is unfolded."""
    depth, seen = 0, 0
    for line in text:
        if line.startswith("<details>"):
            seen += depth == 0
            depth += 1
        elif line.startswith("</details>"):
            depth -= 1
        elif depth == 0 and line:
            seen += 1
    return seen
