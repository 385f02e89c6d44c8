"""A plan, made: both sides described, computed on the same transactions, and held against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from pyarrow.fs import FileType

from parity.edge.command import shown
from parity.edge.errors import UserError
from parity.edge.files import Location, filesystem_of, location, on_disk
from parity.plan.base import Base
from parity.plan.compare import ViewPair
from parity.plan.cost import cost_of
from parity.plan.drifted import add_drift
from parity.plan.found import BREAKING, NO_OP, Note, Plan, ViewFound
from parity.plan.models import models_found
from parity.plan.online_cost import scratch_redis
from parity.plan.pairing import noun_of, views_found
from parity.plan.purchases import add_users
from parity.plan.readers import add_readers, notes_of_readers
from parity.plan.side import Computed, Side

HASHES = 1 << 64


def make_plan(base: Base, head: Side, sample: int | None, models: Sequence[Path], title: str, folder: Path) -> Plan:
    """Hold ``head`` against ``base``: on all keys, or on a ``sample`` of about so many of each kind of key.

    ``models`` are the places of logged models, and ``title`` is what people call the head. What is temporary goes
    into ``folder``.
    """
    now = head.description()
    before = base.description()
    if base.is_stored:
        from parity.plan.applied import require_computed_as_applied  # which imports Feast

        require_computed_as_applied(before, now)
        _recall(head, before, now)
    origins = base.origins() if base.is_stored else {}
    with ExitStack() as stack:
        places = _places(before, now, origins, stack)
        below, totals, said = _sample(head, now, places, sample)
        computed = _computed(((base, before, places["base"]), (head, now, places["head"])), below)
    found = Plan(base.title.removeprefix("the base, "), title, said)

    def look_closer(pair: ViewPair, both: tuple[Computed, Computed], view: ViewFound) -> None:
        add_users(pair, both, view.features)
        if reason := add_drift(pair, view, pair.head["tags"]):
            found.not_asked.append(reason)

    found.views = views_found(before, now, computed, look_closer, base.is_stored)
    if sample is not None:
        _require_keys(found.views, before, sample)
    for view, place in origins.items():
        said = f"{view}: compared on the transactions at {shown(location(place))}, of which what is stored was computed"
        found.notes.append(Note(said))
    found.not_asked = list(dict.fromkeys(found.not_asked))
    add_readers(found.views, before, now)
    _add_costs(found, head, now, computed[1], totals, folder)
    if None not in (before["project"], now["project"]) and before["project"] != now["project"]:
        found.notes.append(Note(f"the project is {now['project']}, and was {before['project']}", BREAKING))
    found.notes += notes_of_readers(found.views, before, now)
    found.models, unread = models_found(models, found.views, before, now)
    found.not_asked += unread
    return found


def _require_keys(views: Sequence[ViewFound], base: Mapping[str, Any], sample: int) -> None:
    """Refuse a sample that has no key of a view: nothing differs where nothing is."""
    there = {view["name"] for view in base["views"]}
    for view in views:
        if view.compared and not view.keys and (view.before or view.name) in there:
            raise UserError(f"--sample {sample}: none of the {view.noun} of {view.name} is in it. Take a larger one.")


def _recall(head: Side, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Say of a base that is stored how its features were made, where the head's definitions lead there."""
    declared = {view["name"]: view for view in now["views"]}
    for view in before["views"]:
        if not view["computed_by"] and view["made"] and declared.get(view["name"], {}).get("computed_by"):
            view["where"] = declared[view["name"]]["where"]
            view["rules"] = head.recall(view["name"], view["made"])


def _add_costs(
    found: Plan,
    head: Side,
    described: Mapping[str, Any],
    computed: Mapping[str, Computed],
    totals: Mapping[tuple, int],
    folder: Path,
) -> None:
    """Measure what each view costs that is to be computed and brought online anew."""
    names = {view["name"]: _names(view) for view in described["views"]}
    anew = [view for view in found.views if view.verdict != NO_OP and view.name in computed]
    if not anew:
        return
    with scratch_redis(folder / "redis") as port:
        for view in anew:
            one = computed[view.name]
            online = None if port is None or not one.count else head.online(view.name, one, port)
            times = totals.get(names[view.name], one.keys) / max(1, one.keys)
            view.cost = cost_of(one, online, times)


def _places(
    base: Mapping[str, Any], head: Mapping[str, Any], origins: Mapping[str, str], stack: ExitStack
) -> dict[str, dict[str, Path]]:
    """Where the transactions of each view of each side are, on this machine: those that the head declares, or the
    ``origins`` of what is stored, by the name of the view."""
    declared = {
        view["name"]: origins.get(view["name"], view["transactions"]) for view in head["views"] if view["transactions"]
    }
    named = {view["transactions_name"]: view["transactions"] for view in head["views"] if view["transactions_name"]}
    only = next(iter(set(declared.values()))) if len(set(declared.values())) == 1 else None
    found: dict[str, dict[str, str]] = {"head": declared, "base": {}}
    for view in base["views"]:
        place = declared.get(view["name"]) or named.get(view["transactions_name"]) or only
        if place is None and view["transactions"] and _is_there(location(view["transactions"])):
            place = view["transactions"]
        if place:
            found["base"][view["name"]] = place
    copies = {
        place: stack.enter_context(on_disk(location(place)))
        for place in {place for side in found.values() for place in side.values()}
    }
    return {side: {view: copies[place] for view, place in some.items()} for side, some in found.items()}


def _sample(
    head: Side, described: Mapping[str, Any], places: Mapping[str, Mapping[str, Path]], size: int | None
) -> tuple[dict[tuple, int], dict[tuple, int], str]:
    """Below which hash keys are taken, by their names; of how many; and that in words."""
    if size is None:
        return {}, {}, "all keys"
    counts: dict[tuple, int] = {}
    nouns = {}
    for view in described["views"]:
        if view["name"] not in places["head"]:
            continue
        names = _names(view)
        counts[names] = max(counts.get(names, 0), head.count(view["name"], places["head"][view["name"]]))
        nouns[names] = noun_of(view)
    below = {names: size * HASHES // count for names, count in counts.items() if size < count}
    said = [f"{size:,} of {count:,} {nouns[names]}" for names, count in counts.items() if names in below]
    return below, counts, f"about {', '.join(said)}, by the hash of the key" if said else "all keys"


def _names(view: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(name for name, _ in view["keys"]))


def _computed(
    sides: Sequence[tuple[Base, Mapping[str, Any], Mapping[str, Path]]], below: Mapping[tuple, int]
) -> tuple[dict[str, Computed], dict[str, Computed]]:
    """The features of every view whose transactions are known, of the base and of the head: a view of both at once."""
    keys = [{view["name"]: _names(view) for view in described["views"]} for _, described, _ in sides]
    found: tuple[dict[str, Computed], dict[str, Computed]] = ({}, {})
    for name in dict.fromkeys([*keys[1], *keys[0]]):
        pending = [
            (place, side.computing(name, transactions[name], below.get(keys[place][name])))
            for place, (side, _, transactions) in enumerate(sides)
            if name in transactions and name in keys[place]
        ]
        for place, computed in reversed(pending):  # so that a fault of the head is said first
            try:
                found[place][name] = computed()
            except UserError as error:
                raise UserError(str(error).replace(": ", f": {name}: ", 1)) from None
    return found


def _is_there(place: Location) -> bool:
    filesystem, path = filesystem_of(place)
    return filesystem.get_file_info(path).type != FileType.NotFound
