"""A plan, made: both sides described, computed on the same transactions, and held against each other."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from parity.edge.errors import UserError
from parity.edge.files import location, on_disk
from parity.plan.base import Base
from parity.plan.compare import ViewPair
from parity.plan.found import Plan, ViewFound
from parity.plan.pairing import noun_of, views_found
from parity.plan.purchases import add_users
from parity.plan.side import Computed, Side

HASHES = 1 << 64


def make_plan(base: Base, head: Side, sample: int | None, title: str) -> Plan:
    """Hold ``head`` against ``base``: on all keys, or on a ``sample`` of about so many of each kind of key."""
    now = head.description()
    before = base.description()
    with ExitStack() as stack:
        places = _places(before, now, stack)
        below, said = _sample(head, now, places, sample)
        with ThreadPoolExecutor(2) as pool:
            jobs = [
                pool.submit(_compute, side, described, places[title], below)
                for side, described, title in ((head, now, "head"), (base, before, "base"))
            ]
            computed = tuple(job.result() for job in reversed(jobs))
    found = Plan(base.title.removeprefix("the base, "), title, said)
    found.views = views_found(before, now, computed, _closer)
    return found


def _closer(pair: ViewPair, computed: tuple[Computed, Computed], view: ViewFound) -> None:
    add_users(pair, computed, view.features)


def _places(base: Mapping[str, Any], head: Mapping[str, Any], stack: ExitStack) -> dict[str, dict[str, Path]]:
    """Where the transactions of each view of each side are, on this machine: those that the head declares."""
    declared = {view["name"]: view["transactions"] for view in head["views"] if view["transactions"]}
    named = {view["transactions_name"]: view["transactions"] for view in head["views"] if view["transactions_name"]}
    only = next(iter(set(declared.values()))) if len(set(declared.values())) == 1 else None
    found: dict[str, dict[str, str]] = {"head": declared, "base": {}}
    for view in base["views"]:
        place = declared.get(view["name"]) or named.get(view["transactions_name"]) or only or view["transactions"]
        if place:
            found["base"][view["name"]] = place
    copies = {
        place: stack.enter_context(on_disk(location(place)))
        for place in {place for side in found.values() for place in side.values()}
    }
    return {side: {view: copies[place] for view, place in some.items()} for side, some in found.items()}


def _sample(
    head: Side, described: Mapping[str, Any], places: Mapping[str, Mapping[str, Path]], size: int | None
) -> tuple[dict[tuple, int], str]:
    """Below which hash keys are taken, by their names; and that in words."""
    if size is None:
        return {}, "all keys"
    counts: dict[tuple, int] = {}
    nouns = {}
    for view in described["views"]:
        names = _names(view)
        counts[names] = max(counts.get(names, 0), head.count(view["name"], places["head"][view["name"]]))
        nouns[names] = noun_of(view)
    below = {names: size * HASHES // count for names, count in counts.items() if size < count}
    said = [f"{size:,} of {count:,} {nouns[names]}" for names, count in counts.items() if names in below]
    return below, f"about {', '.join(said)}, by the hash of the key" if said else "all keys"


def _names(view: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(sorted(name for name, _ in view["keys"]))


def _compute(
    side: Base, described: Mapping[str, Any], places: Mapping[str, Path], below: Mapping[tuple, int]
) -> dict[str, Computed]:
    """The features of every view of a side whose transactions are known."""
    found = {}
    for view in described["views"]:
        name = view["name"]
        if name in places:
            try:
                found[name] = side.compute(name, places[name], below.get(_names(view)))
            except UserError as error:
                raise UserError(f"{error!s}".replace(": ", f": {name}: ", 1)) from None
    return found
