"""Feast repositories drawn at random, equal on both sides but for what Feast's two sides always differ in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import FeatureService, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, String

from tests.strangers import DAY, HOUR, Stranger
from tests.strangers.tables import EVENT, Drawn, Pair, Table, of_folder
from tests.strangers.values import KEYS, TYPES

SAMPLED = ("double", "single", "whole", "small", "text", "flag", "raw", "since", "doubles", "texts")
KEYED = [name for name, kind in KEYS.items() if kind.types]


def healthy(folder: Path, seed: int, pair: Pair) -> Drawn:
    """Draw a healthy repository, apply it and materialize it."""
    r = np.random.default_rng(seed)
    theirs = of_folder(folder, pair)
    first = str(r.choice(list(KEYS)))
    if first == "none" and pair.offline != "dask":
        first = "whole"  # with duckdb Feast 0.67 can't materialize a view without entities
    names = ("drawn", "other", "third")[: r.integers(1, 4)]
    is_alone = pair.offline != "dask" or len(names) == 1
    kinds = [first, *(first if r.integers(2) else str(r.choice(KEYED)) for _ in names[1:])]
    tables = [_table(theirs, r, name, kind, pair, is_alone) for name, kind in zip(names, kinds, strict=True)]
    drawn = Drawn(theirs, pair, tables)
    if first != "none":  # historical retrieval of such a view breaks requests for others beside it
        drawn.others += _on_demand(r, tables)
        drawn.others += _services(r, tables, drawn.others)
    drawn.described = f"seed {seed}, {pair}: " + "; ".join(map(_described, tables))
    drawn.described += "; " + ", ".join(one.name for one in drawn.others)
    drawn.apply()
    drawn.materialize()
    return drawn


def _described(table: Table) -> str:
    options = [table.way, *(["created"] if table.has_created else []), *(["naive"] if table.is_naive else [])]
    options += [f"renamed {', '.join(table.called)}"] if table.called else []
    return f"{table.number} {table.kind} keys, ttl {table.ttl}, {', '.join(options)}: {', '.join(table.features)}"


def _table(theirs: Stranger, r: np.random.Generator, name: str, kind: str, pair: Pair, is_alone: bool) -> Table:
    names = list(TYPES) if r.integers(4) == 0 else [name for name, one in TYPES.items() if not one.differs]
    chosen = sorted(r.choice(names, r.integers(1, 6), replace=False).tolist())
    table = Table(theirs, name, kind, {one: TYPES[one] for one in chosen})
    table.ttl = [None, timedelta(0), 2 * DAY, 30 * DAY][r.integers(4)]
    table.way = ["batch", "batch", "push", "stream"][r.integers(4)]
    table.has_created = bool(r.integers(2))
    table.is_naive = is_alone and r.integers(4) == 0  # dask fails for such times of the second of two views
    if table.way == "batch" and r.integers(4) == 0:
        table.called = {one: f"their {one}" for one in [EVENT, *table.keys, *chosen] if r.integers(2)}
    table.number = int(r.integers(2000, 4000) if r.integers(25) == 0 else r.integers(1, 25))
    table.number = min(table.number, KEYS[kind].number)
    _fill(table, r, pair, is_alone)
    return table


def _fill(table: Table, r: np.random.Generator, pair: Pair, is_alone: bool) -> None:
    """Draw the rows of a table. It ``is_alone`` if there is no request for several views of dask: that leaves out a key
    which is expired in one of them."""
    now, reach = table.theirs.now, (table.ttl or 60 * DAY) * 0.9
    precise = r.integers(3) == 0
    rows = []
    for n in range(table.number):
        for offset in sorted(r.choice(10_000, r.integers(1, 5), replace=False).tolist()):
            event = now - HOUR - offset / 10_000 * (reach - HOUR)
            rows.append(table.row(r, n, event.replace(microsecond=int(r.integers(10**6)) if precise else 0)))
    if r.integers(3) == 0:  # to come, which neither side has yet
        rows += [table.row(r, n, now + (n + 1) * HOUR) for n in range(0, table.number, 3)]
    if table.ttl and is_alone and r.integers(3) == 0:  # expired, and not materialized
        more = range(table.number, min(table.number + 3, KEYS[table.kind].number))
        rows += [table.row(r, n, now - table.ttl - DAY) for n in more]
        table.since = table.ttl
    frame = pd.DataFrame(rows).drop_duplicates([*table.keys, EVENT], ignore_index=True)
    for name in table.features:
        if table.number >= 10 and r.integers(3) == 0:  # of fewer keys all may be null, which proves nothing
            holes = r.random(len(frame)) < r.choice([0.1, 0.3])
            frame[name] = frame[name].astype(object).where(~holes, None)
    if r.integers(4) == 0:  # some rows twice
        frame = pd.concat([frame, frame[: len(frame) // 3]])
    elif table.has_created and pair.offline != "dask" and r.integers(3) == 0:  # dask does not go by it: 3360
        former = frame.assign(created=frame["created"] - timedelta(seconds=30))
        former = former.assign(**{name: frame[name].iloc[::-1].array for name in table.features})
        frame = pd.concat([frame, former])
    table.frame = frame.sample(frac=1, random_state=int(r.integers(2**31))) if r.integers(2) else frame


def _on_demand(r: np.random.Generator, tables: list[Table]) -> list:
    """Views on demand that treat nulls alike on both sides: of one view or two, with request data or without."""
    made = []
    usable = [(table, name) for table in tables for name in table.features if name in ("double", "whole", "small")]
    if not usable:
        return made
    for name, mode in (("computed", "pandas"), ("scripted", "python")):
        if r.integers(2):
            continue
        table, feature = usable[r.integers(len(usable))]
        sources = [table.view()[[feature]]]  # Feast can't try a view in Python on inputs of Map, Struct or Json
        others = [(one, name) for one in tables for name in one.features if name in SAMPLED and one is not table]
        if others and r.integers(2):
            second, other = others[r.integers(len(others))]
            sources.append(second.view()[[other]])
        rate = None
        if r.integers(2):
            rate = f"rate_of_{name}"
            fields = [Field(name=rate, dtype=Float64), Field(name=f"who_{name}", dtype=String)]
            sources.append(RequestSource(name=f"asked_of_{name}", schema=fields))
        decorate = on_demand_feature_view(
            sources=sources, schema=[Field(name=f"twice_{name}", dtype=Float64)], mode=mode
        )
        make = _in_pandas if mode == "pandas" else _in_python
        udf = make(feature, f"twice_{name}", rate)
        udf.__name__ = name
        made.append(decorate(udf))
    return made


def _in_pandas(feature: str, result: str, rate: str | None) -> Callable:
    def computed(inputs, feature=feature, result=result, rate=rate):
        import pandas as pd

        whole = inputs[feature].astype("float64") * 2
        return pd.DataFrame({result: whole if rate is None else whole + inputs[rate].astype("float64")})

    return computed


def _in_python(feature: str, result: str, rate: str | None) -> Callable:
    def computed(inputs, feature=feature, result=result, rate=rate):
        values = [None if one is None or one != one else one * 2.0 for one in inputs[feature]]
        if rate is not None:
            pairs = zip(values, inputs[rate], strict=True)
            values = [None if one is None else one + other for one, other in pairs]
        return {result: values}

    return computed


def _services(r: np.random.Generator, tables: list[Table], on_demand: list) -> list:
    """Services with some of the features, under aliases, and of other join keys."""
    made = []
    for name in ("served", "again")[: r.integers(0, 3)]:
        features = [one for one in on_demand if r.integers(2)]
        is_plain = bool(features)  # the names of what an on-demand view takes are these
        for table in tables:
            view = table.view()
            some = r.choice(list(table.features), r.integers(1, len(table.features) + 1), replace=False).tolist()
            projected = view[some]
            if not is_plain and r.integers(2):
                projected = projected.with_name(f"{table.name}_of_{name}")
            is_only = sum(other.kind == table.kind for other in tables) == 1  # or serving mixes the keys up
            if not is_plain and is_only and r.integers(3) == 0:
                projected = projected.with_join_key_map({key: f"{table.name}_{key}" for key in table.keys})
            features.append(projected)
        made.append(FeatureService(name=name, features=features))
    return made
