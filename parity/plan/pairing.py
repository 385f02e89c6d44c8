"""Which view of the base is which of the head, and what becomes of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import numpy as np

from parity.edge.command import shown
from parity.edge.files import absolute, location
from parity.plan.compare import (
    SAME_ENOUGH,
    Described,
    ViewPair,
    found_alone,
    found_of,
    found_rekeyed,
    found_uncomputed,
    same_keys,
)
from parity.plan.found import ADDED, ADDITIVE, BREAKING, REMOVED, VALUE_CHANGING, Note, ViewFound
from parity.plan.side import Computed

Paired = Callable[[ViewPair, tuple[Computed, Computed], ViewFound], None]


def views_found(
    base: Mapping[str, Any],
    head: Mapping[str, Any],
    computed: tuple[Mapping[str, Computed], Mapping[str, Computed]],
    look_closer: Paired,
    is_stored: bool = False,
) -> list[ViewFound]:
    """What becomes of every view. ``computed`` has the features of each side by the name of the view; ``look_closer``
    is called with each pair of views that was compared. A base that ``is_stored`` has no rows of later transactions."""
    before, now = ({view["name"]: view for view in side["views"]} for side in (base, head))
    renamed = _renamed(before, now, computed, is_stored)
    found = []
    for name, view in now.items():
        old = before.get(name) or before.get(renamed.get(name, ""))
        if old is None:
            one = found_alone(view, ADDED)
        elif not same_keys(old, view):
            one = found_rekeyed(old, view)
            one.notes += notes_of(old, view)
        elif old["name"] not in computed[0] or name not in computed[1]:
            one = found_uncomputed(old, view)
            one.notes += notes_of(old, view)
        else:
            both = computed[0][old["name"]], computed[1][name]
            pair = ViewPair(old, view, both, is_stored)
            one = found_of(pair, name in renamed)
            one.is_aliased = name in renamed and _is_aliased(old["name"], name, base["services"], head["services"])
            one.notes += notes_of(old, view)
            if not pair.aligned.only_base + pair.aligned.only_head and old["ttl"] != view["ttl"]:
                one.notes += _effect_of_ttl(pair)
            one.noun = noun_of(view)
            if pair.aligned.later:
                one.notes.append(
                    Note(f"{pair.aligned.later:,} rows are left out, as they are later than all that is stored")
                )
            look_closer(pair, both, one)
        one.noun = noun_of(view)
        found.append(one)
    gone = [view for name, view in before.items() if name not in now and name not in renamed.values()]
    return [*found, *(found_alone(view, REMOVED) for view in gone)]


def _renamed(
    before: Mapping[str, Described],
    now: Mapping[str, Described],
    computed: tuple[Mapping[str, Computed], Mapping[str, Computed]],
    is_stored: bool,
) -> dict[str, str]:
    """By the name in the head, what a view was called that has the rows and values of one that is gone."""
    scores = []
    for old in (view for name, view in before.items() if name not in now and name in computed[0]):
        for new in (view for name, view in now.items() if name not in before and name in computed[1]):
            if same_keys(old, new):
                pair = ViewPair(old, new, (computed[0][old["name"]], computed[1][new["name"]]), is_stored)
                scores.append((pair.likeness(), new["name"], old["name"]))
    found: dict[str, str] = {}
    for score, new, old in sorted(scores, key=lambda one: (-one[0], *one[1:])):
        if score >= SAME_ENOUGH and new not in found and old not in found.values():
            found[new] = old
    return found


def _is_aliased(old: str, new: str, before: Sequence[Mapping], now: Sequence[Mapping]) -> bool:
    """Whether every service that gave the view still gives it, called as it was."""
    given = [one["name"] for one in before if any(view == old for view, _ in one["features"])]
    still = {one["name"] for one in now if one["called"].get(new) == old}
    return bool(given) and still.issuperset(given)


def notes_of(base: Described, head: Described) -> list[Note]:
    """What a view is otherwise than it was, beside its features."""
    notes = []
    if not same_keys(base, head):
        notes.append(Note(f"it is found by {_keys(head)}, and was by {_keys(base)}", BREAKING))
    elif base["entities"] != head["entities"]:
        notes.append(Note(f"its entity is called {', '.join(head['entities'])}, and was {', '.join(base['entities'])}"))
    if base["ttl"] != head["ttl"]:
        limit, shorter = _time(head["ttl"]), head["ttl"] is not None and (base["ttl"] or np.inf) > head["ttl"]
        what = f"a row older than {limit} is null" if shorter else f"a row is served until it is {limit} old"
        if head["ttl"] is None:
            what = "a row is served however old it is"
        notes.append(Note(f"its ttl is {limit}, and was {_time(base['ttl'])}: {what}, in training too", VALUE_CHANGING))
    if base["online"] != head["online"]:
        verdict, what = (ADDITIVE, "on") if head["online"] else (BREAKING, "off")
        notes.append(Note(f"serving it online is switched {what}", verdict))
    if base["continuous"] != head["continuous"]:
        what = "between transactions too" if head["continuous"] else "at transactions only, and no more between them"
        notes.append(Note(f"its windows slide {what}", VALUE_CHANGING))
    elif base["horizon"] != head["horizon"]:
        before, now = _time(base["horizon"]), _time(head["horizon"])
        notes.append(
            Note(
                f"its horizon is {now}, and was {before}: for so long after a materialization it is served",
                VALUE_CHANGING,
            )
        )
    if base["event"] != head["event"]:
        notes.append(Note(f"its timestamp is called {head['event']}, and was {base['event']}: compute it anew"))
    if base["source"] != head["source"] and not base["version"]:  # by which it is kept in a place of its own
        kept, before = (shown(location(side["source"])) for side in (head, base))
        notes.append(Note(f"its features are kept at {kept}, and were at {before}: compute them there"))
    places = [absolute(location(side["transactions"])) for side in (head, base) if side.get("transactions")]
    if len(places) == 2 and places[0] != places[1]:
        place, before = map(shown, places)
        notes.append(
            Note(f"its transactions are at {place}, and were at {before}: other rows give other values", VALUE_CHANGING)
        )
    return notes


def _effect_of_ttl(pair: ViewPair) -> list[Note]:
    """How many keys a ttl takes or gives, as of the newest row."""
    aligned = pair.aligned
    if pair.head["continuous"] or not len(aligned):
        return []
    age = (aligned.instant.max() - aligned.instant[aligned.last]) / 1e6
    was, now = (age <= (np.inf if view["ttl"] is None else view["ttl"]) for view in (pair.base, pair.head))
    gone, came = np.count_nonzero(was & ~now), np.count_nonzero(now & ~was)
    noun = noun_of(pair.head)
    return [
        Note(
            f"by that ttl, at the newest row, {gone:,} of {aligned.keys:,} {noun} are served nothing any more, and "
            f"{came:,} are again"
        )
    ]


def noun_of(view: Described) -> str:
    """What its keys are called: users, of the entity user."""
    [*others, last] = view["entities"] or ["key"]
    return f"keys of {' and '.join([*others, last])}" if others else f"{last.replace('_', ' ')}s"


def _keys(view: Described) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in view["keys"])


def _time(seconds: float | None) -> str:
    return "without end" if seconds is None else str(timedelta(seconds=seconds)).removesuffix(", 0:00:00")
