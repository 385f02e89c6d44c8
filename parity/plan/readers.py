"""Who reads what changes: FeatureServices, the arms of experiments, and logged models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from parity.plan.found import ADDITIVE, BREAKING, CHANGED, REMOVED, RENAMED, VALUE_CHANGING, Note, ViewFound

Description = Mapping[str, Any]
"""A side, as `parity.plan.probe` describes it."""

LISTED = 6
"""So many features are named in one note."""


def add_readers(views: Sequence[ViewFound], base: Description, head: Description) -> None:
    """Note, of every feature, the services and arms that read it; of one that is gone, those that did."""
    for view in views:
        for feature in view.features:
            gone = feature.status == REMOVED
            side = base if gone else head
            name = (view.before or view.name) if gone else view.name
            feature.readers.services = [
                one["name"] for one in side["services"] if [name, feature.name] in one["features"]
            ]
            feature.readers.arms = [
                f"{one['name']}/{arm}"
                for one in side["experiments"] or ()
                for arm, service in one["arms"].items()
                if service in feature.readers.services
            ]


def notes_of_readers(views: Sequence[ViewFound], base: Description, head: Description) -> list[Note]:
    """What becomes of services, experiments and on-demand views."""
    found = [*_of_names(views), *_of_services(views, base, head)]
    if base["experiments"] is not None:  # of which a registry knows nothing
        found += _of_experiments(base, head)
    if base["on_demand"] is not None:
        found += _of_on_demand(views, base, head)
    return found


def _of_names(views: Sequence[ViewFound]) -> Iterator[Note]:
    """What would get other values online under the name that it has."""
    served = [
        (view.name, one.name)
        for view in views
        for one in view.features
        if one.status == CHANGED and one.readers.services
    ]
    if served:
        yield Note(
            f"{_listed(served)}: served online, and would get other values under the same name. Deploy them as a new "
            "version (python -m parity deploy), or give them a name of their own",
            VALUE_CHANGING,
        )


def _of_services(views: Sequence[ViewFound], base: Description, head: Description) -> Iterator[Note]:
    before, now = _by_name(base["services"]), _by_name(head["services"])
    renamed = {view.before: view.name for view in views if view.status == RENAMED}
    called = {
        (view.before or view.name, feature.before or feature.name): (view.name, feature.name)
        for view in views
        for feature in view.features
    }
    for name, service in now.items():
        if name not in before:
            yield Note(f"the service {name} is added", ADDITIVE)
            continue
        old = [called.get(tuple(one), tuple(one)) for one in before[name]["features"]]
        new = [tuple(one) for one in service["features"]]
        gone, came = [one for one in old if one not in new], [one for one in new if one not in old]
        if gone:
            yield Note(f"the service {name} does not give {_listed(gone)} any more", BREAKING)
        if came:
            yield Note(f"the service {name} gives {_listed(came)} too", ADDITIVE)
        if not gone and not came and old != new:
            yield Note(
                f"the service {name} gives its features in another order, which matters to who takes them by place"
            )
        aliases = {renamed.get(view, view): alias for view, alias in before[name]["called"].items()}
        for view in dict.fromkeys([*aliases, *service["called"]]):
            was, is_now = aliases.get(view), service["called"].get(view)
            if was != is_now and is_now not in renamed:
                yield Note(
                    f"the service {name} gives {view} as {is_now or view}, and gave it as {was or view}", BREAKING
                )
    yield from (Note(f"the service {name} is removed", BREAKING) for name in before if name not in now)


def _of_experiments(base: Description, head: Description) -> Iterator[Note]:
    before, now = _by_name(base["experiments"]), _by_name(head["experiments"])
    for name, experiment in now.items():
        if name not in before:
            yield Note(f"the experiment {name} is added", ADDITIVE)
            continue
        for what, said in (
            ("arms", "its arms"),
            ("shares", "the shares of its arms"),
            ("seed", "its seed"),
            ("coverage", "its coverage"),
            ("unit", "its unit"),
        ):
            was, is_now = before[name][what], experiment[what]
            if was != is_now or (isinstance(was, dict) and list(was) != list(is_now)):
                yield Note(
                    f"the experiment {name}: {said} were {_said(was)} and are {_said(is_now)}, so units are served by "
                    "another arm",
                    VALUE_CHANGING,
                )
    yield from (Note(f"the experiment {name} is removed", VALUE_CHANGING) for name in before if name not in now)


def _said(what: Any) -> str:
    return ", ".join(f"{name} {value}" for name, value in what.items()) if isinstance(what, dict) else str(what)


def _of_on_demand(views: Sequence[ViewFound], base: Description, head: Description) -> Iterator[Note]:
    """On-demand views are functions of a request, so nothing says what they are asked: values are not compared."""
    before, now = _by_name(base["on_demand"]), _by_name(head["on_demand"])
    changing = {view.name for view in views if view.verdict in (VALUE_CHANGING, BREAKING)}
    for name, view in now.items():
        if name not in before:
            yield Note(f"the on-demand view {name} is added", ADDITIVE)
            continue
        old, new = ({one["name"]: one["type"] for one in side[name]["features"]} for side in (before, now))
        for feature in dict.fromkeys([*old, *new]):
            if feature not in new:
                yield Note(f"the on-demand view {name}: {feature} is removed", BREAKING)
            elif feature not in old:
                yield Note(f"the on-demand view {name}: {feature} is added", ADDITIVE)
            elif old[feature] != new[feature]:
                yield Note(f"the on-demand view {name}: {feature} was {old[feature]} and is {new[feature]}", BREAKING)
        if view["code"] != before[name]["code"]:
            yield Note(
                f"the on-demand view {name}: its function is another, and its values are not compared", VALUE_CHANGING
            )
        if of := sorted(changing.intersection(view["sources"])):
            yield Note(f"the on-demand view {name} is made of {', '.join(of)}, whose values change", VALUE_CHANGING)
    yield from (Note(f"the on-demand view {name} is removed", BREAKING) for name in before if name not in now)


def _by_name(some: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    return {one["name"]: one for one in some}


def _listed(features: Sequence[tuple[str, str]]) -> str:
    more = f" and {len(features) - LISTED} more" if len(features) > LISTED else ""
    return ", ".join(f"{view}:{name}" for view, name in features[:LISTED]) + more
