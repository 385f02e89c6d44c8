"""A plan for machines: see docs/plan.md for what is where. Its shape stays as it is within one `FORMAT`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from parity.plan.found import NO_OP, UNCHANGED, FeatureFound, ModelFound, Note, Plan, ViewFound
from parity.plan.purchases import Purchase, User
from parity.plan.values import Change

FORMAT = 1
ALTERED = "changed"
"""The status of a view that is not what it was, though no value differs: by a name, a ttl, a feature."""


def as_json(plan: Plan) -> dict[str, Any]:
    """The whole plan. A number that is none is null; a value of Bytes is text."""
    differ, compared = plan.values
    return {
        "format": FORMAT,
        "verdict": plan.verdict,
        "base": plan.base,
        "head": plan.head,
        "sample": plan.sample,
        "values": {"compared": compared, "differ": differ},
        "views": [_view(view) for view in plan.views],
        "notes": _notes(plan.notes),
        "models": [_model(model) for model in plan.models],
        "not_asked": plan.not_asked,
        "seconds": round(plan.seconds, 3),
    }


def _view(view: ViewFound) -> dict[str, Any]:
    return {
        "view": view.name,
        "status": ALTERED if view.status == UNCHANGED and view.verdict != NO_OP else view.status,
        "verdict": view.verdict,
        "before": view.before,
        "keys": view.keys,
        "rows": view.rows,
        "rows_only_in_base": view.only_base,
        "rows_only_in_head": view.only_head,
        "features": [_feature(one) for one in view.features],
        "notes": _notes(view.notes),
        "cost": view.cost and view.cost.as_json(),
    }


def _feature(feature: FeatureFound) -> dict[str, Any]:
    return {
        "feature": feature.name,
        "status": feature.status,
        "verdict": feature.verdict,
        "before": feature.before,
        "type": feature.type,
        "type_before": feature.type_before,
        "unit": feature.unit,
        "made_before": feature.rules[0],
        "made": feature.rules[1],
        "change": feature.change and _change(feature.change),
        "services": feature.readers.services,
        "arms": feature.readers.arms,
        "models": feature.readers.models,
    }


def _change(change: Change) -> dict[str, Any]:
    return {
        "rows": {"differ": change.rows, "compared": change.of_rows},
        "keys": {"differ": change.keys, "compared": change.of_keys, "differ_at_latest": change.latest},
        "nulls": {"gained": change.nulls_gained, "lost": change.nulls_lost},
        "difference": change.quantiles and {name: _plain(value) for name, value in change.quantiles.items()},
        "moves": [{"before": _plain(a), "after": _plain(b), "rows": rows} for a, b, rows in change.moves],
        "users": [_user(user) for user in change.users],
        "drift": change.drift and change.drift.as_json(),
    }


def _user(user: User) -> dict[str, Any]:
    return {
        "key": user.key,
        "at": _plain(user.at),
        "before": _plain(user.before),
        "after": _plain(user.after),
        "entered": _purchases(user.entered),
        "left": _purchases(user.left),
    }


def _purchases(some: Sequence[Purchase] | None) -> list[dict[str, Any]] | None:
    return None if some is None else [{"at": _plain(one.at), "value": _plain(one.value)} for one in some]


def _model(model: ModelFound) -> dict[str, Any]:
    return {
        "model": model.title,
        "service": model.service,
        "places": model.places,
        "served_other_values": model.features,
        "refused": model.refused,
        "stale": model.stale,
    }


def _notes(notes: Sequence[Note]) -> list[dict[str, str]]:
    return [{"text": note.text, "verdict": note.verdict} for note in notes]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    return value.isoformat() if isinstance(value, datetime) else value
