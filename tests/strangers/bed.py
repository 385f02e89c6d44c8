"""The test bed of `parity check`: healthy repositories, drawn, and each fault planted in them.

    python -m tests.strangers.bed [--healthy N] [--planted N] [--redis PORT] [--seed N]

Prints how many healthy repositories were said to be equal, and of each fault how often it was found, and named.
"""

import argparse
import secrets
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from feast import Entity, FeatureService, FeatureView, Field, PushSource, ValueType
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp

from tests.strangers import DAY, HOUR, Outcome, Stranger, stranger

KEYS = {
    "whole": ({"key": Int64}, lambda n: {"key": n * 3 - 7}),
    "small": ({"key": Int32}, lambda n: {"key": np.int32(n)}),
    "text": ({"key": String}, lambda n: {"key": f"k{n:03}"}),
    "several": ({"key": Int64, "shop": String}, lambda n: {"key": n // 2, "shop": "ab"[n % 2]}),
}
"""By name, the types of the join keys, and the n-th of them."""
TYPES: dict[str, tuple[Any, Callable]] = {
    "double": (Float64, lambda r, now: float(r.normal())),
    "single": (Float32, lambda r, now: np.float32(r.normal())),
    "whole": (Int64, lambda r, now: int(r.integers(-(2**62), 2**62))),
    "small": (Int32, lambda r, now: np.int32(r.integers(-(2**31), 2**31))),
    "text": (String, lambda r, now: "".join(map(chr, r.integers(32, 0x2FF, r.integers(0, 9))))),
    "flag": (Bool, lambda r, now: bool(r.integers(2))),
    "raw": (Bytes, lambda r, now: r.bytes(5)),
    "since": (UnixTimestamp, lambda r, now: now - int(r.integers(1, 9999)) * HOUR),
    "doubles": (Array(Float64), lambda r, now: r.normal(size=r.integers(1, 4)).tolist()),
    "wholes": (Array(Int64), lambda r, now: r.integers(-9, 9, r.integers(1, 4)).tolist()),
    "texts": (Array(String), lambda r, now: [f"t{n}" for n in r.integers(0, 9, r.integers(1, 4))]),
}
"""By name, the type of a feature, and how a value is drawn."""
NULLABLE = ["double", "text", "single", "since"]


@dataclass
class Drawn:
    """A repository that was drawn: its table, and what it was drawn to have."""

    theirs: Stranger
    frame: pd.DataFrame
    keys: list[str]
    features: list[str]
    ttl: timedelta | None
    described: str
    objects: list = field(default_factory=list)

    def write(self, frame: pd.DataFrame) -> None:
        self.theirs.write("table", frame)

    @property
    def last(self) -> pd.Series:
        """Which rows are the last of their keys."""
        ordered = self.frame.sort_values("event_timestamp")
        return ~ordered.duplicated(self.keys, keep="last").reindex(self.frame.index)

    def some(self, share: float = 0.25) -> pd.Series:
        """The rows of some of the keys."""
        codes = self.frame.groupby(self.keys).ngroup()
        return codes < max(1, int(share * (codes.max() + 1)))


def draw(folder: Path, seed: int, offline: str, online: dict | None, plain: bool = False) -> Drawn:
    """Draw a healthy repository, apply it and materialize it. A ``plain`` one has a double first, and no more than a
    view, in which anything can be planted."""
    r = np.random.default_rng(seed)
    theirs = stranger(folder, _Nothing(), offline, online, project=f"bed{secrets.token_hex(4)}")
    theirs.now -= timedelta(minutes=1)  # so that what a fault adds since is past too
    kind = str(r.choice(list(KEYS)))
    types, make = KEYS[kind]
    chosen = sorted(r.choice(list(TYPES), r.integers(1, 6), replace=False).tolist())
    chosen = ["double", *(name for name in chosen if name != "double")] if plain else chosen
    ttl = [None, 2 * DAY, 30 * DAY][r.integers(3)] if not plain else 30 * DAY
    reach = (ttl or 60 * DAY) * 0.9
    rows = []
    for number in range(int(r.integers(8, 25))):
        offsets = r.choice(10_000, r.integers(1, 5), replace=False)
        for offset in sorted(offsets.tolist()):
            row = {**make(number), "event_timestamp": theirs.now - HOUR - offset / 10_000 * (reach - HOUR)}
            row["event_timestamp"] = row["event_timestamp"].replace(microsecond=0)
            rows.append(row | {name: TYPES[name][1](r, theirs.now) for name in chosen})
    frame = pd.DataFrame(rows).drop_duplicates([*types, "event_timestamp"], ignore_index=True)
    if not plain:
        for name in set(chosen) & set(NULLABLE):
            if r.integers(2):
                holes = r.random(len(frame)) < 0.2
                frame.loc[holes, name] = None
    if r.integers(2) and not plain:
        frame["created"] = frame["event_timestamp"] + pd.Timedelta(minutes=1)
    entities = [
        Entity(name=f"{name}_entity", join_keys=[name], value_type=getattr(ValueType, _VALUE_TYPES[str(type_)]))
        for name, type_ in types.items()
    ]
    schema = [Field(name=name, dtype=type_) for name, type_ in types.items()]
    schema += [Field(name=name, dtype=TYPES[name][0]) for name in chosen]
    source = theirs.write("table", frame)
    if plain:
        source = PushSource(name="pushed", batch_source=source)
    view = FeatureView(name="drawn", entities=entities, ttl=ttl, schema=schema, source=source)
    objects = [*entities, view]
    if not plain and r.integers(2):
        objects.append(FeatureService(name="served", features=[view.with_name("again")]))
    if not plain and "double" in chosen and r.integers(2):

        @on_demand_feature_view(sources=[view], schema=[Field(name="twice", dtype=Float64)])
        def computed(inputs):
            return pd.DataFrame({"twice": inputs["double"] * 2})

        objects.append(computed)
    theirs.apply(*objects)
    theirs.materialize()
    described = f"seed {seed}: {offline}, {(online or {}).get('type', 'sqlite')}, {kind} keys, {chosen}, ttl {ttl}"
    return Drawn(theirs, frame, list(types), chosen, ttl, described, objects)


_VALUE_TYPES = {"Int64": "INT64", "Int32": "INT32", "String": "STRING"}


class _Nothing:
    """Captures nothing: what is printed is seen."""

    def readouterr(self) -> tuple[str, str]:
        return "", ""


def plant_tie(drawn: Drawn) -> set[str]:
    last = drawn.frame[drawn.last & drawn.some()]
    other = last.assign(double=last["double"] + 1)
    drawn.write(pd.concat([other, drawn.frame, other.assign(double=other["double"] + 1)]))
    return {"tie"}


def plant_correction(drawn: Drawn) -> set[str]:
    chosen = drawn.last & drawn.some()
    drawn.write(drawn.frame.assign(double=drawn.frame["double"].where(~chosen, drawn.frame["double"] + 5)))
    return {"correction"}


def plant_deletion(drawn: Drawn) -> set[str]:
    drawn.write(drawn.frame[~drawn.some()])
    return {"deleted", "pushed"}


def plant_behind(drawn: Drawn) -> set[str]:
    newer = drawn.frame[drawn.last & drawn.some()]
    newer = newer.assign(event_timestamp=drawn.theirs.now + timedelta(seconds=1), double=newer["double"] + 1)
    drawn.write(pd.concat([drawn.frame, newer]))
    return {"behind"}


def plant_late(drawn: Drawn) -> set[str]:
    late = drawn.frame[drawn.last & drawn.some()]
    late = late.assign(event_timestamp=drawn.theirs.now - timedelta(minutes=1), double=late["double"] + 1)
    drawn.write(pd.concat([drawn.frame, late]))
    return {"late"}


def plant_expiry(drawn: Drawn) -> set[str]:
    frame = drawn.frame
    old = frame["event_timestamp"].where(~drawn.some(), frame["event_timestamp"] - 31 * DAY)
    drawn.write(frame.assign(event_timestamp=old))
    _anew(drawn)
    return {"ttl", "dropped"}


def plant_float32(drawn: Drawn) -> set[str]:
    fields = [Field(name=one.name, dtype=Float32 if one.name == "double" else one.dtype) for one in _view(drawn).schema]
    _apply_again(drawn, fields)
    _anew(drawn)
    return {"float32"}


def plant_coercion(drawn: Drawn) -> set[str]:
    drawn.write(drawn.frame.assign(double=drawn.frame["double"] * 100 + 0.5))
    fields = [Field(name=one.name, dtype=Int64 if one.name == "double" else one.dtype) for one in _view(drawn).schema]
    _apply_again(drawn, fields)
    _anew(drawn)
    return {"coercion"}


def plant_time_zone(drawn: Drawn) -> set[str]:
    drawn.write(drawn.frame.assign(event_timestamp=drawn.frame["event_timestamp"] - 2 * HOUR))
    return {"time-zone"}


def plant_event_time(drawn: Drawn) -> set[str]:
    drawn.write(drawn.frame.assign(event_timestamp=drawn.frame["event_timestamp"] - timedelta(minutes=7)))
    return {"event-time"}


def plant_null(drawn: Drawn) -> set[str]:
    frame = drawn.frame.assign(double=drawn.frame["double"].where(~(drawn.last & drawn.some())))
    drawn.write(frame)
    _anew(drawn, lambda: drawn.theirs.store.push("pushed", frame[drawn.last].fillna({"double": 0.0})))
    return {"null"}


def plant_never(drawn: Drawn) -> set[str]:
    _anew(drawn, lambda: None)
    return {"never-materialized", "lost"}


def plant_push(drawn: Drawn) -> set[str]:
    pushed = drawn.frame[drawn.last & drawn.some()]
    pushed = pushed.assign(event_timestamp=drawn.theirs.now, double=pushed["double"] + 3)
    drawn.theirs.store.push("pushed", pushed)
    return {"pushed"}


def plant_future(drawn: Drawn) -> set[str]:
    pushed = drawn.frame[drawn.last & drawn.some()]
    pushed = pushed.assign(event_timestamp=drawn.theirs.now + 5 * HOUR, double=pushed["double"] + 3)
    drawn.theirs.store.push("pushed", pushed)
    return {"future"}


PLANTS = {name.removeprefix("plant_"): plant for name, plant in globals().items() if name.startswith("plant_")}


def _view(drawn: Drawn) -> FeatureView:
    return next(one for one in drawn.objects if isinstance(one, FeatureView))


def _apply_again(drawn: Drawn, fields: list[Field]) -> None:
    view = _view(drawn)
    source = drawn.theirs.store.get_data_source("pushed")
    entities = [one for one in drawn.objects if isinstance(one, Entity)]
    again = FeatureView(name=view.name, entities=entities, ttl=view.ttl, schema=fields, source=source)
    drawn.theirs.apply(*entities, again)


def _anew(drawn: Drawn, write: Callable[[], Any] | None = None) -> None:
    """Empty the online store, and fill it again."""
    store = drawn.theirs.store
    views = store.list_feature_views()
    store.provider.teardown_infra(store.project, views, store.list_entities())
    store.provider.update_infra(store.project, [], views, [], store.list_entities(), False)
    (write or drawn.theirs.materialize)()


def tried(seed: int, offline: str, online: dict | None, fault: str | None) -> tuple[Drawn, Outcome, set[str]]:
    """Draw a repository, plant a fault, and check it."""
    with tempfile.TemporaryDirectory() as folder:
        drawn = draw(Path(folder), seed, offline, online, plain=fault is not None)
        try:
            expected = PLANTS[fault](drawn) if fault else set()
            return drawn, drawn.theirs.check(), expected
        finally:
            drawn.theirs.forget()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--healthy", type=int, default=100)
    parser.add_argument("--planted", type=int, default=3, help="of each fault, in each pair of stores")
    parser.add_argument("--redis", type=int, help="the port of a Redis to use, beside SQLite")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    stores = [None] + ([{"type": "redis", "connection_string": f"localhost:{args.redis}"}] if args.redis else [])
    pairs = [(offline, online) for offline in ("dask", "duckdb") for online in stores]
    alarms = []
    for number in range(args.healthy):
        drawn, found, _ = tried(args.seed + number, *pairs[number % len(pairs)], None)
        if found.status:
            alarms.append(f"{drawn.described}: {found.kinds if found.said else found.err}")
    counts: dict[str, Counter] = {}
    for fault in PLANTS:
        counts[fault] = Counter()
        for number in range(args.planted * len(pairs)):
            drawn, found, expected = tried(args.seed + number, *pairs[number % len(pairs)], fault)
            kinds = set(found.kinds) if found.said else set()
            counts[fault].update(tried=1, found=found.status == 1, named=bool(kinds & expected), more=kinds > expected)
            if not kinds & expected:
                alarms.append(f"{fault}, {drawn.described}: {sorted(kinds) or found.err}")
    print(f"healthy: {args.healthy - sum('seed' == one[:4] for one in alarms)} of {args.healthy} equal")
    for fault, count in counts.items():
        print(f"{fault}: {count['found']} of {count['tried']} found, {count['named']} named")
    print("\n".join(alarms))


if __name__ == "__main__":
    main()
