"""What becomes of each view and of each of its features: by their values, whatever they are made of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import SequenceMatcher
from typing import Any

import numpy as np
import pyarrow as pa

from parity.plan.align import Aligned, Table, align
from parity.plan.found import (
    ADDED,
    CHANGED,
    REMOVED,
    RENAMED,
    RETYPED,
    UNCHANGED,
    UNKNOWN,
    VALUE_CHANGING,
    FeatureFound,
    Note,
    ViewFound,
)
from parity.plan.side import Computed
from parity.plan.values import Beside, Column, change_of, column_pair, differing

Described = Mapping[str, Any]
"""A view, as `parity.plan.probe` describes it."""
SAME_ENOUGH = 0.5
"""Of the features of a view that is gone: with so many under another name, by their values, it is renamed."""


class ViewPair:
    """A view of the base beside one of the head, whose keys are the same."""

    def __init__(self, base: Described, head: Described, computed: tuple[Computed, Computed], is_stored: bool = False):
        self.base, self.head = base, head
        names = tuple(name for name, _ in head["keys"])
        self.tables = [
            Table(one.features, names, view["event"]) for one, view in zip(computed, (base, head), strict=True)
        ]
        self.aligned: Aligned = align(*self.tables, is_stored)
        self.types = [{one["name"]: one["type"] for one in view["features"]} for view in (base, head)]

    def beside(self, base: str, head: str) -> Beside:
        """A feature of each, at all instants."""
        columns = [table.read([name])[name] for table, name in zip(self.tables, (base, head), strict=True)]
        if columns[0].type != columns[1].type:
            alike = pa.float64() if all(_is_number(column.type) for column in columns) else pa.string()
            columns = [column.cast(alike, safe=False) for column in columns]
        return Beside(self.aligned, *column_pair(*columns))

    def renamed(self) -> dict[str, str]:
        """By the name in the head, what features were called that have the values of one that is gone."""
        gone, came = ([name for name in one if name not in other] for one, other in (self.types, self.types[::-1]))
        found: dict[str, str] = {}
        pairs = [(before, now) for before in gone for now in came if self.types[0][before] == self.types[1][now]]
        for before, now in sorted(pairs, key=self._unlike):
            if now not in found and before not in found.values() and self._is_same(before, now):
                found[now] = before
        return found

    def _unlike(self, pair: tuple[str, str]) -> tuple:
        before, now = pair
        return not self._made_alike(before, now), -SequenceMatcher(None, before, now).ratio(), before, now

    def _made_alike(self, before: str, now: str) -> bool:
        rules = _rule(self.base, before), _rule(self.head, now)
        return rules[0] is not None and rules[0] == rules[1]

    def _is_same(self, before: str, now: str) -> bool:
        """Whether all values are the same; where they are all one, that says nothing, and how they are made does."""
        beside = self.beside(before, now)
        return not differing(beside).any() and (_varies(beside.head) or self._made_alike(before, now))

    def likeness(self) -> float:
        """The share of the base's features that are in the head with the same values, under any name."""
        same = [name for name in self.types[0] if self.types[1].get(name) == self.types[0][name]]
        count = sum(not differing(self.beside(name, name)).any() for name in same) + len(self.renamed())
        return count / max(1, len(self.types[0])) if self.aligned.same_rows else 0.0

    def features(self) -> Iterator[FeatureFound]:
        """What becomes of each feature: those of the head in its order, then those that are gone."""
        renamed = self.renamed()
        for one in self.head["features"]:
            name, kind = one["name"], one["type"]
            before = name if name in self.types[0] else renamed.get(name)
            made = (_rule(self.base, before), _rule(self.head, name))
            if before is None:
                yield FeatureFound(name, ADDED, kind, unit=one["unit"], rules=made)
                continue
            found = FeatureFound(name, UNCHANGED, kind, unit=one["unit"], rules=made)
            if self.types[0][before] != kind:
                found.status, found.type_before = RETYPED, self.types[0][before]
            found.change = change_of(self.beside(before, name))
            if before != name:
                found.status, found.before = RENAMED, before
            elif found.change.rows and found.status == UNCHANGED:
                found.status = CHANGED
            yield found
        for one in self.base["features"]:
            if one["name"] not in self.types[1] and one["name"] not in renamed.values():
                made = (_rule(self.base, one["name"]), None)
                yield FeatureFound(one["name"], REMOVED, one["type"], unit=one["unit"], rules=made)


def found_of(pair: ViewPair, is_renamed: bool = False) -> ViewFound:
    """What becomes of a view that is on both sides."""
    aligned, features = pair.aligned, list(pair.features())
    found = ViewFound(pair.head["name"], UNCHANGED, features=features, keys=aligned.keys, rows=len(aligned))
    found.only_base, found.only_head = aligned.only_base, aligned.only_head
    found.key_names = tuple(name for name, _ in pair.head["keys"])
    if any(one.status != UNCHANGED for one in features):
        found.status = CHANGED if any(one.status == CHANGED for one in features) else UNCHANGED
    if is_renamed:
        found.status, found.before = RENAMED, pair.base["name"]
    if not aligned.same_rows:
        found.notes.append(
            Note(
                f"{found.only_head:,} rows are added and {found.only_base:,} are gone: what is read, and how long the "
                "ttl lets it be, counts from other rows",
                VALUE_CHANGING,
            )
        )
    return found


def found_alone(view: Described, status: str) -> ViewFound:
    """What becomes of a view that is on one side only, or has other keys now."""
    features = [
        FeatureFound(
            one["name"],
            status,
            one["type"],
            unit=one["unit"],
            rules=(None, _rule(view, one["name"])) if status == ADDED else (_rule(view, one["name"]), None),
        )
        for one in view["features"]
    ]
    return ViewFound(view["name"], status, features=features, key_names=tuple(name for name, _ in view["keys"]))


def found_rekeyed(base: Described, head: Described) -> ViewFound:
    """What becomes of a view that has other keys now: nothing of it can be compared."""
    found = found_alone(head, UNKNOWN)
    before = {one["name"]: one for one in base["features"]}
    for one in found.features:
        one.rules = (_rule(base, one.name), _rule(head, one.name))
        if one.name not in before:
            one.status = ADDED
        elif before[one.name]["type"] != one.type:
            one.status, one.type_before = RETYPED, before[one.name]["type"]
    gone = [
        one for one in found_alone(base, REMOVED).features if one.name not in {now["name"] for now in head["features"]}
    ]
    found.features += gone
    return found


def found_uncomputed(base: Described, head: Described) -> ViewFound:
    """What becomes of a view of a kind that is not computed here: no more than its types say."""
    found = found_rekeyed(base, head)
    for one in found.features:
        if one.status == UNKNOWN:
            one.status = UNCHANGED
    found.status = UNCHANGED
    found.notes.append(Note("it is of a kind that is not computed here, so its values are not compared"))
    return found


def same_keys(base: Described, head: Described) -> bool:
    """Whether both are of the same join keys, of the same types, in whatever order."""
    return sorted(base["keys"]) == sorted(head["keys"])


def _rule(view: Described, name: str | None) -> dict[str, Any] | None:
    rule = view.get("rules", {}).get(name)
    return None if rule is None else rule | {"where": view.get("where")}


def _is_number(type: pa.DataType) -> bool:
    return pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_boolean(type)


def _varies(column: Column) -> bool:
    """Whether there is more than one value."""
    codes = column.codes[column.valid]
    return bool(len(codes)) and not np.all(codes == codes[0])
