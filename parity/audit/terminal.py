"""What an audit looks like on a terminal, and as JSON."""

import math
from collections import Counter
from datetime import datetime
from typing import Any

from parity.audit.causes import MEANING
from parity.audit.found import Audit, Audited, Cause, Example, by_size, share
from parity.edge.shown import counted, cut
from parity.proof.found import MATCH


def summary(found: Audit) -> str:
    """Show what was audited, each view with its counts and causes, what was not audited, and one verdict."""
    lines = [_heading(found)]
    for view in found.views:
        lines += [f"{view.name}: {counted(view.rows, 'row')} of {view.keys:,} {_keys(view)}, {counts(view)}"]
        lines += [f"  {line}" for line in notes(view)]
        for cause, one in by_size(view.causes):
            lines += [f"  {cause}: {tally(one)}, served {span(one)}", f"    {example(view, one.example)}"]
    lines += [f"  {line}" for line in [*not_audited(found), *about_log(found)]]
    lines += shares(found)
    return "\n".join([*lines, verdict(found), *_meanings(found)])


def _heading(found: Audit) -> str:
    until = f"{found.first.isoformat()} to {found.last.isoformat()}" if found.first else "never"
    requests, rows = counted(found.requests.count, "request"), counted(found.rows, "row")
    return f"{found.folder}: {requests}, {rows}, served {until}"


def _keys(view: Audited) -> str:
    return view.view.table.noun(view.keys) if view.view.table else ("key" if view.keys == 1 else "keys")


def counts(view: Audited) -> str:
    return ", ".join(f"{kind} {count:,}" for kind, count in view.counts.items())


def notes(view: Audited) -> list[str]:
    """Say what the counts of a view are to be taken with."""
    lines = []
    if view.view.table is None:
        lines.append("no oracle: the view has no aggregations, so what was served is held against training alone")
    if view.redefined:
        lines.append("definition: the table was computed by another one than features.py has now")
    if view.nulls:
        lines.append(f"no value on any side: {view.nulls:,} of {view.values:,}")
    if view.to_come:
        lines.append(f"asked about an instant to come: {counted(view.to_come, 'row')}, whose truth may yet change")
    if view.then_known < view.values:
        since = f", which is known since {view.known_since.isoformat()}" if view.known_since else ""
        unknown = view.values - view.then_known
        lines.append(f"what was known then is not known of {unknown:,} of {counted(view.values, 'value')}{since}")
    return lines


def tally(one: Cause) -> str:
    """How many values and rows a cause has, and against which truth."""
    text = f"{counted(one.values, 'value')} in {counted(one.rows, 'row')}"
    if one.today == one.then:
        return text
    if one.unknown == one.values:
        return f"{text} (it is not known what was known then)"
    if not one.then and not one.unknown:
        return f"{text} (as was known then)"
    if not one.today:
        return f"{text} (the truth today, and not what was known then)"
    unknown = f", and of {one.unknown:,} it is not known" if one.unknown else ""
    return f"{text} ({one.today:,} other than known today, {one.then:,} than known then{unknown})"


def span(one: Cause) -> str:
    if one.first == one.last:
        return f"at {one.first.isoformat()}"
    return f"{one.first.isoformat()} to {one.last.isoformat()}"


def example(view: Audited, one: Example) -> str:
    """One value: what was served, and what it should have been."""
    then = f", {_shown(one.then)} as known then" if one.is_then_known else ""
    as_of = "" if one.as_of == one.when else f" for {one.as_of.isoformat()}"
    return (
        f"{view.named(one.key)} at {one.when.isoformat()}{as_of}: {one.feature} was served {_shown(one.served)}, "
        f"the truth is {_shown(one.truth)}{then}"
    )


def not_audited(found: Audit) -> list[str]:
    """Say what was logged and not audited, and why."""
    return [
        f"not audited: {counted(values, 'value')} of {view}, as {why}"
        for (view, why), values in sorted(found.unseen.items())
    ]


def about_log(found: Audit) -> list[str]:
    """Say what the log itself leaves out."""
    lines = []
    if found.dropped:
        lines.append(
            f"dropped: the log says that {counted(found.dropped, 'row')} could not be written, and are not here"
        )
    for project, parts in sorted(found.others.items()):
        lines.append(f"not looked at: {counted(parts, 'part')} of another project, {project}")
    return lines


def shares(found: Audit) -> list[str]:
    """Say of which share of the requests something else was served than the truth, as known today and then."""
    lines = [
        f"Served other than the truth as known today: {found.wrong_today:,} of {counted(found.audited, 'request')}, "
        f"{share(found.wrong_today, found.audited)}"
    ]
    if found.known_then:
        lines.append(
            f"Served other than the truth as known then: {found.wrong_then:,} of "
            f"{counted(found.known_then, 'request')}, {share(found.wrong_then, found.known_then)}"
        )
    else:
        lines.append("Served other than the truth as known then: it is not known what was known then")
    return lines


def verdict(found: Audit) -> str:
    """Say in one line what the audit comes to."""
    values = sum(view.values for view in found.views)
    if not found.differing and not found.then_differing:
        oracle = " equals the oracle" if all(view.view.table for view in found.views) else ""
        return f"What was served equals training{oracle}: each of {counted(values, 'value')} at its own instant."
    causes: Counter[str] = Counter()
    for view in found.views:
        for cause, one in view.causes.items():
            if count := one.today if found.differing else one.values:
                causes[cause] += count
    named = ", ".join(f"{cause} {count:,}" for cause, count in sorted(causes.items(), key=lambda one: -one[1]))
    if found.differing:
        return f"DIFFERS: {found.differing:,} of {counted(values, 'value')} that were served. Causes: {named}."
    return (
        f"What was served is the truth as known today; {found.then_differing:,} of {counted(values, 'value')} "
        f"were other than was known then. Causes: {named}."
    )


def _meanings(found: Audit) -> list[str]:
    causes = {cause for view in found.views for cause in view.causes}
    return [f"  {cause}: {MEANING[cause]}" for cause in MEANING if cause in causes]


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    return "null" if value is None else cut(str(value))


def as_json(found: Audit, now: datetime) -> dict[str, Any]:
    """The same for programs."""
    return {
        "verdict": "differs" if found.differing else "equal",
        "audited_at": now.isoformat(),
        "log": found.folder,
        "since": found.since,
        "until": found.until,
        "served_first": found.first,
        "served_last": found.last,
        "rows": found.rows,
        "rows_dropped_by_the_log": found.dropped,
        "requests": {
            "served": found.requests.count,
            "audited": found.audited,
            "other_than_known_today": found.wrong_today,
            "known_then": found.known_then,
            "other_than_known_then": found.wrong_then,
        },
        "views": [_view(view) for view in found.views],
        "not_audited": [
            {"view": view, "why": why, "values": values} for (view, why), values in sorted(found.unseen.items())
        ],
        "parts_of_other_projects": dict(found.others),
    }


def _view(view: Audited) -> dict[str, Any]:
    return {
        "view": view.name,
        "rows": view.rows,
        "keys": view.keys,
        "values": view.values,
        "counts": dict(view.counts),
        "match": view.counts[MATCH],
        "null_on_all_sides": view.nulls,
        "has_oracle": view.view.table is not None,
        "then_known": view.then_known,
        "then_known_since": view.known_since,
        "other_than_known_then": view.then_differing,
        "rows_to_come": view.to_come,
        "causes": {
            cause: {
                "today": one.today,
                "then": one.then,
                "then_unknown": one.unknown,
                "rows": one.rows,
                "first": one.first,
                "last": one.last,
                "example": {name: _plain(value) for name, value in one.example._asdict().items()},
            }
            for cause, one in by_size(view.causes)
        },
    }


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value if value is None or isinstance(value, bool | int | float | str) else cut(str(value))
