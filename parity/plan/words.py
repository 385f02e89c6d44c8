"""What a plan found, in words: what the terminal and the comment of a pull request both say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Any

from parity.plan.found import (
    ADDED,
    CHANGED,
    REMOVED,
    RENAMED,
    RETYPED,
    UNCHANGED,
    UNKNOWN,
    FeatureFound,
    ModelFound,
    Plan,
    Readers,
    ViewFound,
)
from parity.plan.purchases import Purchase, User
from parity.plan.values import Change

PURCHASES = 4
"""So many are shown of those that entered or left a window."""
TEXT = 40


def summary(plan: Plan) -> str:
    """The proof in one line."""
    differ, compared = plan.values
    if not compared:
        return "no values were compared"
    return f"{differ:,} of {compared:,} values differ"


def status(feature: FeatureFound, noun: str) -> str:
    """What became of a feature, in one line without its name."""
    change, of = feature.change, change_of(feature)
    said = {
        UNCHANGED: f"unchanged, 0 of {of} values differ"
        if change
        else "declared as it was; its values are not compared",
        ADDED: f"added, {made(feature.rules[1])}",
        REMOVED: "removed",
        RENAMED: f"renamed, was {feature.before}: all {of} values are the same",
        RETYPED: f"type changed, {feature.type_before} -> {feature.type}",
        UNKNOWN: "not compared, as its keys are others",
    }
    if feature.status == RETYPED and change:
        return f"{said[RETYPED]}; written alike, {_of(change.rows, change.of_rows)} values differ"
    if feature.status != CHANGED:
        return said[feature.status]
    return (
        f"values changed: {_of(change.rows, change.of_rows)} rows, {_of(change.keys, change.of_keys)} {noun}, "
        f"{_of(change.latest, change.of_keys)} {noun} at their latest row"
    )


def change_of(feature: FeatureFound) -> str:
    """How many values were compared."""
    return f"{feature.change.of_rows:,}" if feature.change else "no"


def _of(part: int, whole: int) -> str:
    return f"{part:,} of {whole:,} ({share(part, whole)})"


def share(part: int, whole: int) -> str:
    """A share of a whole that is 0 % or 100 % only if it is that."""
    if not whole or part in (0, whole):
        return f"{100 * part // max(1, whole)} %"
    percent = 100 * part / whole
    return "< 0.1 %" if percent < 0.1 else "> 99.9 %" if percent > 99.9 else f"{percent:.1f} %"


def details(feature: FeatureFound, view: ViewFound) -> Iterator[str]:
    """What else there is to say of a feature that changed, a line each."""
    yield from _definition(feature)
    change = feature.change
    if change and change.rows:
        yield from _differences(change, feature.unit)
        yield from (user_line(user, view, feature.unit) for user in change.users)
        if change.drift:
            yield f"drift of new against old: {change.drift}"
    if who := readers(feature.readers):
        yield f"read by {who}"


def _definition(feature: FeatureFound) -> Iterator[str]:
    before, now = feature.rules
    if feature.status in (CHANGED, RETYPED):
        if before is None or now is None:
            return
        if before == now:
            yield f"{made(now)}, on both sides: what differs is how it is computed, or what it is computed of"
        else:
            yield f"was {made(before)}, is {made(now)}"


def made(rule: Mapping[str, Any] | None) -> str:
    """How a feature is made."""
    if rule is None:
        return "made in a way that is not known"
    window = "" if rule["window"] is None else f" in {duration(rule['window'])}"
    where = f" where {_cut(rule['where'])}" if rule.get("where") else ""
    return f"{rule['function']} of {rule['column']}{window}{where}"


def duration(seconds: float) -> str:
    return str(timedelta(seconds=seconds)).removesuffix(", 0:00:00")


def _differences(change: Change, unit: str | None) -> Iterator[str]:
    if change.quantiles:
        low, *_, high = change.quantiles.values()
        some = ", ".join(f"{float(name):.0%} {_signed(change.quantiles[name])}" for name in ("0.05", "0.5", "0.95"))
        yield f"difference{_in(unit)} where it differs: {some}; from {_signed(low)} to {_signed(high)}"
    for before, now, count in change.moves:
        yield f"{value(before)} -> {value(now)}: {count:,} rows"
    if change.nulls_gained or change.nulls_lost:
        yield f"nulls: {change.nulls_gained:,} gained, {change.nulls_lost:,} lost"


def user_line(user: User, view: ViewFound, unit: str | None) -> str:
    """One of the keys that change most."""
    name = f"{view.key_names[0]} {user.key}" if len(view.key_names) == 1 else user.key
    line = f"{name} at {_instant(user.at)}: {value(user.before)} -> {value(user.after)}"
    if user.entered is None or user.left is None:
        return line
    moved = [_moved("entered", user.entered), _moved("left", user.left)]
    return f"{line}; {', '.join(filter(None, moved)) or 'of the same purchases'}"


def _moved(how: str, purchases: list[Purchase]) -> str:
    if not purchases:
        return ""
    some = ", ".join(f"{value(one.value)} of {_instant(one.at)}" for one in purchases[:PURCHASES])
    more = f" and {len(purchases) - PURCHASES} more" if len(purchases) > PURCHASES else ""
    return f"{how}: {some}{more}"


def _instant(at: Any) -> str:
    return at.isoformat(" ", "microseconds" if at.microsecond else "seconds").removesuffix("+00:00")


def value(one: Any) -> str:
    """A value of a feature or of a transaction."""
    if one is None:
        return "null"
    return _cut(repr(one)) if isinstance(one, str | bytes) else f"{one:.6g}" if isinstance(one, float) else str(one)


def _signed(number: float) -> str:
    return f"{number:+.4g}"


def _in(unit: str | None) -> str:
    return f" in {unit}" if unit else ""


def _cut(text: str) -> str:
    return text if len(text) <= TEXT else f"{text[: TEXT - 3]}..."


def readers(who: Readers) -> str:
    """Who reads a feature."""
    parts = [(_noun("service", who.services), who.services), (_noun("arm", who.arms), who.arms)]
    parts.append((_noun("model", who.models), who.models))
    return "; ".join(f"{noun} {', '.join(names)}" for noun, names in parts if names)


def _noun(noun: str, names: list[str]) -> str:
    return noun if len(names) == 1 else f"{noun}s"


def model_line(model: ModelFound) -> str:
    """What a model would be served, and whether it would be served at all."""
    told = f"model {model.title} of {model.service}"
    again = "; it is refused until it is trained again" if model.refused else ""
    if model.stale:
        again += "; it was trained on other definitions than the base has"
    if not model.features:
        return f"{told}: it is served the values that it was trained on{again}"
    return f"{told} would be served other values than it was trained on: {', '.join(model.features)}{again}"


def title_of(view: ViewFound) -> str:
    """What became of a view, in one line."""
    was = f", renamed, was {view.before}" if view.status == RENAMED else ""
    if view.status in (ADDED, REMOVED):
        return f"{view.name}: {view.status}"
    compared = f"; {view.keys:,} {view.noun}, {view.rows:,} rows" if view.rows else ""
    return f"{view.name}{was}: {view.verdict}{compared}"
