"""Faults, each with what plants it and what `parity check` has to say of it: how many keys, and since when."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
from feast import FeatureService, Field
from feast.types import Array, Float32, Float64, Int32, Int64, Json, String, UnixTimestamp, Uuid

from tests.strangers import DAY, HOUR
from tests.strangers.planting import PLANTS, Expected, Named, Planted, plant, since
from tests.strangers.tables import EVENT
from tests.strangers.values import TYPES, Drawable

__all__ = ["PLANTS"]


def more(value: float) -> float:
    """Another number, whatever its size."""
    return value * 2 + 1


# Faults of single keys, which leave all others alone.


@plant(is_local=True, has_created=False)
def corrected(p: Planted) -> Expected:
    rows = p.lasts()
    p.write(p.frame.assign(double=p.frame["double"].where(~p.last, p.frame["double"].map(more))))
    return {"correction": Named(len(rows), since(rows))}


@plant(is_local=True, has_created=True)
def corrected_by_a_later_row(p: Planted) -> Expected:
    rows = p.lasts()
    p.add(rows.assign(double=rows["double"].map(more), created=p.now + timedelta(seconds=30)))
    if p.drawn.pair.offline == "dask":  # which goes by the created timestamp by chance
        return {"correction": Named(None)}
    return {"correction": Named(len(rows), since(rows))}


@plant(is_local=True, way="batch")
def deleted(p: Planted) -> Expected:
    rows = p.lasts()
    p.write(p.frame[~p.chosen])
    return {"deleted": Named(len(rows), since(rows))}


@plant(is_local=True)
def behind(p: Planted) -> Expected:
    event, rows = p.now + timedelta(seconds=1), p.lasts()
    p.add(rows.assign(**{EVENT: event, "double": rows["double"].map(more)}))
    return {"behind": Named(len(rows), event)}


@plant()
def new_keys_behind(p: Planted) -> Expected:
    """Keys that came after the materialization: not online at all."""
    rows = p.lasts()
    p.write(p.frame[~p.chosen])
    p.serve()
    event = p.now + timedelta(seconds=1)
    p.add(rows.assign(**{EVENT: event}))
    return {"behind": Named(len(rows), p.now)}


@plant(is_local=True)
def late(p: Planted) -> Expected:
    event, rows = p.now - timedelta(minutes=1), p.lasts()
    p.add(rows.assign(**{EVENT: event, "double": rows["double"].map(more)}))
    return {"late": Named(len(rows), event)}


@plant(is_local=True, way="push")
def pushed(p: Planted) -> Expected:
    rows = p.lasts()
    p.store.push("pushed_to_drawn", rows.assign(**{EVENT: p.now, "double": rows["double"].map(more)}))
    return {"pushed": Named(len(rows), p.now)}


@plant(is_local=True, way="push", kind="text")
def pushed_of_new_keys(p: Planted) -> Expected:
    rows = p.lasts().assign(text_key=lambda rows: "new" + rows["text_key"])
    p.store.push("pushed_to_drawn", rows)
    return {"pushed": Named(len(rows), since(rows))}


@plant(is_local=True, way="push")
def from_the_future(p: Planted) -> Expected:
    rows, event = p.lasts(), p.now + 5 * HOUR
    p.store.push("pushed_to_drawn", rows.assign(**{EVENT: event, "double": rows["double"].map(more)}))
    return {"future": Named(len(rows), event)}


@plant(is_local=True)
def off_by_a_time_zone(p: Planted) -> Expected:
    p.write(p.frame.assign(**{EVENT: p.frame[EVENT].where(~p.chosen, p.frame[EVENT] - 5.5 * HOUR)}))
    rows = p.lasts()
    return {"time-zone": Named(len(rows), since(rows))}


@plant(is_local=True)
def of_another_event_time(p: Planted) -> Expected:
    rows = p.lasts()
    moved = p.frame[EVENT] - timedelta(minutes=7, seconds=3)
    p.write(p.frame.assign(**{EVENT: p.frame[EVENT].where(~p.chosen, moved)}))
    return {"event-time": Named(len(rows), since(rows))}


# Faults for which what is online is written again.


@plant()
def tied(p: Planted) -> Expected:
    if p.drawn.pair.offline == "dask":  # which takes any row, another one each time
        rows = p.lasts()
        p.add(pd.concat([rows.assign(double=rows["double"].map(more) + n) for n in range(20)]))
        return {"tie": Named(None)}
    rows = _tie(p, alike=False)
    return {"tie": Named(len(rows), since(rows))}


@plant(offline=("duckdb",))
def tied_alike(p: Planted) -> Expected:
    """Both sides take the same row, today. In dask any row is taken each time."""
    return {"latent tie": Named(len(_tie(p, alike=True)))}


def _tie(p: Planted, alike: bool) -> pd.DataFrame:
    """Add a second row of each last event, and serve the one that training takes, or the other."""
    rows, former = p.lasts(), p.table.last
    chosen = p.chosen[former.index]
    p.add(rows.assign(double=rows["double"].map(more)))
    entities = former[p.table.keys].assign(**{EVENT: p.now + timedelta(seconds=50)})
    trained = set(p.store.get_historical_features(entities, ["drawn:double"]).to_df()["double"])
    taken = former["double"].map(lambda value: more(value) if (value in trained) != alike else value)
    p.serve(former.assign(double=former["double"].where(~chosen, taken)))
    return rows


@plant(has_created=True)
def overwritten(p: Planted) -> Expected:
    rows = p.lasts()
    p.serve(p.served(more))
    return {"overwritten": Named(len(rows), since(rows))}


@plant(holes=("double",))
def zero_for_null(p: Planted) -> Expected:
    rows = p.lasts()
    p.serve(p.table.last.fillna({"double": 0.0}).astype({"double": float}))
    return {"null": Named(len(rows), since(rows))}


@plant(holes=("double",), first=TYPES["text"])
def empty_text_for_null(p: Planted) -> Expected:
    rows = p.lasts()
    p.serve(p.table.last.fillna({"double": ""}))
    empty = int((rows["double"].isna()).sum())
    return {"null": Named(empty, since(rows))}


@plant(is_materialized=False)
def never_materialized(p: Planted) -> Expected:
    p.store.materialize(p.now - 900 * DAY, p.now, ["beside"], disable_event_timestamp=False)
    return {"never-materialized": Named(len(p.table.last), since(p.frame))}


@plant()
def lost(p: Planted) -> Expected:
    rows = p.lasts()
    p.serve(p.table.last[~p.chosen[p.table.last.index]])
    return {"lost": Named(len(rows), since(rows))}


@plant()
def expired(p: Planted) -> Expected:
    p.write(p.frame.assign(**{EVENT: p.frame[EVENT].where(~p.chosen, p.frame[EVENT] - 31 * DAY)}))
    p.serve()
    rows = p.lasts()
    kind = "dropped" if p.drawn.pair.offline == "dask" else "ttl"
    return {kind: Named(len(rows), since(rows, 30 * DAY))}


@plant(kind="text", change=lambda frame: frame.__setitem__("text_key", "00" + frame["text_key"].str[1:]))
def keys_cast(p: Planted) -> Expected:
    rows = p.table.last
    p.serve(rows.assign(text_key=rows["text_key"].map(lambda key: str(int(key)))))
    return {"key-cast": Named(len(rows))}


@plant(is_materialized=False)
def written_by_hand(p: Planted) -> Expected:
    """Other values of events that nobody materialized."""
    p.store.materialize(p.now - 900 * DAY, p.now, ["beside"], disable_event_timestamp=False)
    rows = p.lasts()
    p.store.write_to_online_store("drawn", p.served(more))
    return {"unexplained": Named(len(rows), since(rows))}


# Faults of the types.


def _all(p: Planted, kind: str) -> Expected:
    return {kind: Named(len(p.table.last), since(p.table.last))}


@plant(first=Drawable(Float32, lambda r, now: float(r.normal())))
def doubles_as_singles(p: Planted) -> Expected:
    return _all(p, "float32")


@plant(first=Drawable(Array(Float32), lambda r, now: r.normal(size=3).tolist()))
def arrays_as_singles(p: Planted) -> Expected:
    return _all(p, "float32")


@plant(first=Drawable(Int64, lambda r, now: int(r.integers(99)) + 0.5))
def halves_as_whole_numbers(p: Planted) -> Expected:
    return _all(p, "coercion")


@plant(first=Drawable(UnixTimestamp, lambda r, now: now - int(r.integers(99)) * HOUR + timedelta(microseconds=7)))
def instants_cut(p: Planted) -> Expected:
    return _all(p, "coercion")


@plant(first=Drawable(Int32, lambda r, now: np.int32(r.integers(2**31))))
def wrapped(p: Planted) -> Expected:
    rows = p.lasts()
    numbers = p.frame["double"].astype("int64")
    p.write(p.frame.assign(double=numbers.where(~p.last, numbers + 2**32)))
    return {"coercion": Named(len(rows), since(rows))}


@plant(first=Drawable(Json, TYPES["json"].draw))
def json_text(p: Planted) -> Expected:
    return _all(p, "json")


@plant(first=Drawable(Uuid, TYPES["uuid"].draw))
def uuid_text(p: Planted) -> Expected:
    return _all(p, "type")


@plant(first=Drawable(String, lambda r, now: int(r.integers(99))), is_materialized=False)
def numbers_as_text(p: Planted) -> Expected:
    p.serve(p.table.last.assign(double=lambda rows: rows["double"].astype(str)))
    return _all(p, "type")


@plant(first=Drawable(Float64, lambda r, now: 0.0))
def zeros_of_another_sign(p: Planted) -> Expected:
    rows = p.lasts()
    p.write(p.frame.assign(double=p.frame["double"].where(~p.last, -0.0)))
    return {"type": Named(len(rows), since(rows))}


# Faults of views on demand, and of services. ``drawn`` itself is equal.

RESULT = [Field(name="result", dtype=Float64)]


@plant()
def on_demand_of_the_clock(p: Planted) -> Expected:
    def computed(inputs):
        import time

        import pandas as pd

        return pd.DataFrame({"result": inputs["double"] * 0 + time.time()})

    p.on_demand(computed, RESULT)
    return {"on-demand": Named(len(p.table.last))}


@plant()
def on_demand_of_the_batch(p: Planted) -> Expected:
    def computed(inputs):
        import pandas as pd

        return pd.DataFrame({"result": inputs["double"] - inputs["double"].mean()})

    p.on_demand(computed, RESULT)
    return {"on-demand": Named(None)}  # those that are asked for alone, and whom another order of the sum changes


@plant(holes=("double",), number=12)
def on_demand_of_a_null(p: Planted) -> Expected:
    """A null alone is "None", and "nan" beside numbers. All keys are few enough to be asked for alone."""

    def computed(inputs):
        import pandas as pd

        return pd.DataFrame({"result": inputs["double"].astype(str)})

    p.on_demand(computed, [Field(name="result", dtype=String)])
    return {"on-demand-null": Named(len(p.lasts()))}


@plant(holes=("double",), number=12)
def on_demand_that_fails(p: Planted) -> Expected:
    """A null alone is no number in serving, and a NaN in training."""

    def computed(inputs):
        import numpy as np
        import pandas as pd

        return pd.DataFrame({"result": np.arctan(inputs["double"])})

    p.on_demand(computed, RESULT)
    return {"crash": Named(len(p.lasts()) + 1)}  # and a key that is not known


@plant()
def on_demand_that_fails_for_new_keys(p: Planted) -> Expected:
    def computed(inputs):
        import pandas as pd

        if inputs["double"].isna().all():
            raise ValueError("nothing to compute")
        return pd.DataFrame({"result": inputs["double"] / 2})

    p.on_demand(computed, RESULT)
    return {"crash": Named(1)}


@plant(first=TYPES["single"])
def on_demand_in_32_bits(p: Planted) -> Expected:
    def computed(inputs):
        import pandas as pd

        return pd.DataFrame({"result": inputs["double"] * 1.1})

    p.on_demand(computed, RESULT)
    return {"float32": Named(None)}  # of most keys


@plant()
def mixed_keys(p: Planted) -> Expected:
    """A service in which the keys of one view are mapped, and those of the other are not."""
    first, second = (table.view() for table in p.drawn.tables)
    mapped = first.with_join_key_map({key: f"their_{key}" for key in p.table.keys})
    p.drawn.others.append(FeatureService(name="served", features=[mapped.with_name("mapped"), second]))
    p.drawn.apply()
    return {"key-mixed": Named(None)}
