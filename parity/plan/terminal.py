"""A plan for people on a terminal."""

from __future__ import annotations

from collections.abc import Iterator

from parity.edge.errors import printable
from parity.plan.found import UNCHANGED, Plan, ViewFound
from parity.plan.words import details, model_line, status, summary, title_of


def shown(plan: Plan) -> str:
    """The whole plan; the last line is the verdict."""
    lines = [f"{plan.head}, against {plan.base}, on {plan.sample}"]
    for view in plan.views:
        lines += _view(view)
    lines += [f"{note.text}{_marked(note.verdict)}" for note in plan.notes]
    lines += [model_line(model) for model in plan.models]
    lines += [f"not asked: {what}" for what in plan.not_asked]
    lines.append(f"{plan.verdict}: {summary(plan)} ({plan.seconds:.1f} s)")
    return "\n".join(map(printable, lines))


def _view(view: ViewFound) -> Iterator[str]:
    yield title_of(view)
    yield from (f"  {note.text}{_marked(note.verdict)}" for note in view.notes)
    for feature in view.features:
        yield f"  {feature.name}: {status(feature, view.noun)}"
        if feature.status != UNCHANGED:
            yield from (f"    {line}" for line in details(feature, view))
    if view.cost:
        yield from (f"  {line}" for line in view.cost.lines(view.noun))


def _marked(verdict: str) -> str:
    return "" if verdict == "no-op" else f" [{verdict}]"
