"""Where faults are planted: repositories that are healthy otherwise, with what a fault may do to them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from feast import Field
from feast.on_demand_feature_view import on_demand_feature_view

from tests.strangers import DAY, HOUR
from tests.strangers.tables import EVENT, Drawn, Pair, Table, of_folder
from tests.strangers.values import TYPES, Drawable

EXTRAS = ("single", "whole", "text", "flag", "since", "raw", "doubles", "texts", "struct", "text_set", "smalls")
"""What a view in which a fault is planted may have beside its first feature, which is named double."""


class Named(NamedTuple):
    """What has to be said of a kind: of how many keys, and since when, where these are known."""

    keys: int | None
    since: datetime | None = None

    def and_(self, other: Named) -> Named:
        """What is to be said of two faults of one kind, of other keys."""
        keys = None if None in (self.keys, other.keys) else self.keys + other.keys
        return Named(keys, None if None in (self.since, other.since) else min(self.since, other.since))


Expected = dict[str, Named]


@dataclass
class Planted:
    """A repository with a view in which something is planted, and another one which stays as it is."""

    drawn: Drawn
    slots: list[set]
    """The keys for a first fault, and for a second one."""
    slot: int = 0

    @property
    def table(self) -> Table:
        return self.drawn.table

    @property
    def frame(self) -> pd.DataFrame:
        return self.table.frame

    @property
    def now(self) -> datetime:
        return self.drawn.theirs.now

    @property
    def store(self) -> Any:
        return self.drawn.theirs.store

    @property
    def chosen(self) -> pd.Series:
        """The rows of the keys that a fault is for."""
        return pd.Series([key in self.slots[self.slot] for key in _tuples(self.table)], self.frame.index, dtype=bool)

    @property
    def last(self) -> pd.Series:
        """The last rows of these keys."""
        return self.chosen & self.frame.index.isin(self.table.last.index)

    def lasts(self) -> pd.DataFrame:
        return self.frame[self.last]

    def write(self, frame: pd.DataFrame) -> None:
        self.table.write(frame.reset_index(drop=True))

    def add(self, rows: pd.DataFrame) -> None:
        self.write(pd.concat([self.frame, rows]))

    def serve(self, rows: pd.DataFrame | None = None) -> None:
        """Empty what is online, and write these rows there; or materialize it again."""
        store, view = self.store, self.table.name
        views = [*store.list_feature_views()]
        store.provider.teardown_infra(store.project, views, store.list_entities())
        store.provider.update_infra(store.project, [], views, [], store.list_entities(), False)
        for table in self.drawn.tables:
            if table.name != view or rows is None:
                store.materialize(self.now - 900 * DAY, self.now, [table.name], disable_event_timestamp=False)
        if rows is not None and len(rows):
            store.write_to_online_store(view, rows)

    def served(self, change: Callable[[Any], Any]) -> pd.DataFrame:
        """What is online, with another first value for the chosen keys, computed of the former."""
        rows = self.table.last
        return rows.assign(double=rows["double"].where(~self.chosen[rows.index], rows["double"].map(change)))

    def on_demand(self, udf: Callable, schema: list[Field], **more: Any) -> None:
        view = self.table.view()[["double"]]
        self.drawn.others.append(on_demand_feature_view(sources=[view], schema=schema, **more)(udf))
        self.drawn.apply()


def _tuples(table: Table) -> list[tuple]:
    return list(zip(*(table.frame[key] for key in table.keys), strict=True))


def since(rows: pd.DataFrame, after: timedelta = timedelta(0)) -> datetime:
    """The first event of some rows."""
    return rows[EVENT].min().to_pydatetime() + after


class Plant(NamedTuple):
    """A fault: what plants it, and in what."""

    name: str
    sow: Callable[[Planted], Expected]
    options: dict[str, Any]
    is_local: bool
    """Whether another fault can be planted beside it, of other keys."""
    offline: tuple[str, ...]
    """The offline stores in which it can exist."""


PLANTS: dict[str, Plant] = {}


def plant(is_local: bool = False, offline: tuple[str, ...] = ("dask", "duckdb"), **options: Any) -> Callable:
    """Note a fault, with what the repository is to be like: see `ground`."""

    def note(sow: Callable[[Planted], Expected]) -> Callable:
        PLANTS[sow.__name__] = Plant(sow.__name__, sow, options, is_local, offline)
        return sow

    return note


def ground(
    folder: Path,
    seed: int,
    pair: Pair,
    way: str = "batch",
    has_created: bool = False,
    kind: str | None = None,
    number: int | None = None,
    first: Drawable = TYPES["double"],
    is_materialized: bool = True,
    holes: tuple[str, ...] = (),
    change: Callable[[pd.DataFrame], None] = lambda frame: None,
) -> Planted:
    """A healthy repository in which a fault can be planted: two views of the same keys, the first with a feature named
    double, of any type; the keys of a quarter are for a fault, those of another quarter for a second one. ``holes`` are
    features that have a null at the last event of the first quarter; ``change`` is done to the table at last."""
    r = np.random.default_rng(seed)
    theirs = of_folder(folder, pair)
    kind = kind or str(r.choice(["whole", "large", "small", "text", "odd", "raw", "instant", "two", "three"]))
    number = number or int(r.integers(8, 25))
    tables = []
    for name, of_first in (("drawn", first), ("beside", TYPES["double"])):
        extras = sorted(r.choice(EXTRAS, r.integers(1, 4), replace=False).tolist())
        features = {"double": of_first} | {extra: TYPES[extra] for extra in extras}
        table = Table(theirs, name, kind, features, 30 * DAY, has_created, way, number=number)
        rows = []
        for n in range(number):
            for age in np.sort(r.choice(10_000, r.integers(2, 5), replace=False))[::-1].tolist():
                event = theirs.now - 2 * HOUR - timedelta(minutes=age)
                rows.append(table.row(r, n, event))
        table.frame = pd.DataFrame(rows)
        tables.append(table)
    change(tables[0].frame)
    keys = list(dict.fromkeys(_tuples(tables[0])))
    quarter = max(2, number // 4)
    planted = Planted(Drawn(theirs, pair, tables), [set(keys[:quarter]), set(keys[quarter : 2 * quarter])])
    for name in holes:
        planted.table.frame[name] = planted.frame[name].astype(object).where(~planted.last, None)
    planted.drawn.described = f"seed {seed}, {pair}, {number} {kind} keys: " + ", ".join(tables[0].features)
    planted.drawn.apply()
    if is_materialized:
        planted.drawn.materialize()
    return planted
