"""A certificate: what was compared and how, and what was found, as JSON."""

from __future__ import annotations

import json
import math
import platform
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from parity.check import terminal
from parity.check.found import Compared, Example, Finding, Ties
from parity.check.verdict import Verdict
from parity.compare.sample import bound
from parity.edge.files import replacing


class Context(NamedTuple):
    """What was compared, and when; no secret of the configuration is in it."""

    project: str
    repository: str
    offline: str
    online: str
    at: datetime | None
    """The instant that training was asked for; None for that of each online read."""
    started: datetime
    ended: datetime
    seed: int


def certificate(verdict: Verdict, context: Context) -> dict[str, Any]:
    """What was found, for programs."""
    return {
        "verdict": verdict.word,
        "exit_status": int(verdict.status),
        "project": context.project,
        "repository": context.repository,
        "offline_store": context.offline,
        "online_store": context.online,
        "training_asked_for": context.at or "the instant of each online read",
        "started": context.started,
        "ended": context.ended,
        "seed": context.seed,
        "versions": {"python": platform.python_version()}
        | {name: _version(name) for name in ("feature-store-mvp", "feast", "pyarrow", "numpy")},
        "accepted": sorted(verdict.accepted),
        "fails_on": sorted(verdict.fail_on) or "every kind",
        "values": verdict.values,
        "equal": verdict.proven,
        "differing": verdict.differing,
        "findings": [_finding(one, verdict) for one in verdict.findings],
        "compared": [_compared(one) for one in verdict.compared],
        "not_compared": dict(verdict.left),
    }


def write_certificate(path: Path, verdict: Verdict, context: Context) -> None:
    text = json.dumps(certificate(verdict, context), indent=2, default=_plain, allow_nan=False)
    with replacing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _finding(one: Finding, verdict: Verdict) -> dict[str, Any]:
    return {
        "kind": one.kind.name,
        "view": one.view,
        "features": dict(one.features),
        "keys": one.keys,
        "values": one.values,
        "since": one.since,
        "hidden_by_the_ttl": one.beneath,
        "inherited": one.inherited,
        "fails": verdict.fails(one.kind),
        "meaning": terminal.meaning(one),
        "advice": terminal.advice(one),
        "upstream": one.link or None,
        "keys_listed": [{name: _value(value) for name, value in key.items()} for key in one.listed],
        "examples": [_example(example) for example in one.examples],
    }


def _example(one: Example) -> dict[str, Any]:
    return {
        "key": {name: _value(value) for name, value in one.key.items()},
        "feature": one.feature,
        "training": _value(one.training),
        "serving": _value(one.serving),
        "trained_on_event": one.trained,
        "served_of_event": one.served,
    }


def _compared(one: Compared) -> dict[str, Any]:
    return {
        "name": one.name,
        "what": one.what,
        "error": one.error,
        "keys": one.keys,
        "of_keys": one.of,
        "at_most_differing_if_none_does": bound(one.sample.size) if one.sample else None,
        "values": one.values,
        "equal": max(one.proven, 0),
        "differing": one.differing,
        "keys_differing": len(one.differing_places),
        "null_on_both_sides": one.nulls.values,
        "keys_expired": one.nulls.expired,
        "nothing_proven": one.is_vacuous,
        "newer_rows_of_equal_values": one.latent,
        "ties": [_ties(ties) for ties in one.ties],
        "expire_in_training_only": one.forecast
        and {"within_a_day": one.forecast.day, "within_a_week": one.forecast.week},
        "notes": terminal.notes(one),
    }


def _ties(ties: Ties) -> dict[str, Any]:
    """Keys with several rows of different values at one event time: a warning, and no difference by itself."""
    return {
        "view": ties.view,
        "keys": ties.keys,
        "keys_at_their_last_event": ties.last,
        "example": {
            "key": {name: _value(value) for name, value in ties.key.items()},
            "event": ties.event,
            "feature": ties.feature,
            "values": list(map(_value, ties.values)),
        },
    }


def _value(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return value if isinstance(value, str) and len(value) <= terminal.LONGEST else terminal.short(value)


def _plain(value: Any) -> Any:
    return terminal.moment(value) if isinstance(value, datetime) else str(value)
