"""`parity check` on what only shows in a value: each cause planted, and named."""

import math
import sqlite3
import sys
from contextlib import closing

import numpy as np
import pandas as pd
import pytest
from feast import FeatureService, FeatureView, Field, PushSource, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float32, Float64, Int32, Int64, String, UnixTimestamp

from parity.check import batches
from parity.compare import sides
from tests.strangers import DAY, HOUR, customers, orders, stranger


@pytest.fixture
def theirs(tmp_path, capfd):
    return stranger(tmp_path, capfd, "duckdb")


def test_rows_of_one_event_time_are_a_tie(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd, "dask")
    frame = orders(theirs.now)
    last = frame.groupby("customer_id").tail(1)
    twice = pd.concat([frame, last[last["customer_id"] <= 5].assign(total=lambda one: one["total"] + 1)])
    theirs.apply(*customers(theirs.write("orders", twice)))
    theirs.materialize()
    other = pd.concat([last[last["customer_id"] <= 5].assign(total=lambda one: one["total"] + 1), frame])
    theirs.write("orders", other)
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["tie"])
    assert 1 <= found.of("tie")["keys"] <= 5  # the one that dask takes of a tie is any


def created(frame, ago):
    """The same rows, that came into the table so long before now."""
    return frame.assign(created=frame["event_timestamp"].max() + HOUR - ago)


def test_a_row_that_was_there_when_it_was_materialized_was_overwritten_online_and_not_corrected(theirs):
    frame = created(orders(theirs.now), 2 * HOUR)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    last = frame.groupby("customer_id").tail(1)
    theirs.store.write_to_online_store("customers", last[last["customer_id"] <= 4].assign(total=7.0))
    corrected = frame["customer_id"] == 9
    frame.loc[corrected, "total"] += 1
    frame.loc[corrected, "created"] += 3 * HOUR
    theirs.write("orders", frame)
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["overwritten", "correction"])
    assert (found.of("overwritten")["keys"], found.of("correction")["keys"]) == (4, 1)
    assert found.of("correction")["meaning"].endswith("it was corrected after it was materialized")


def test_a_later_created_row_of_an_event_that_was_materialized_is_a_correction_and_no_tie(theirs):
    frame = created(orders(theirs.now), 2 * HOUR)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    later = created(frame, -HOUR).groupby("customer_id").tail(1)
    theirs.write("orders", pd.concat([frame, later[later["customer_id"] <= 4].assign(total=7.0)]))
    found = theirs.check()
    assert (found.status, found.kinds, found.of("correction")["keys"]) == (1, ["correction"], 4)
    assert found.compared("customers")["ties"] == []


def test_without_a_created_timestamp_a_correction_may_be_what_somebody_wrote_online(theirs):
    frame = orders(theirs.now)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    theirs.store.write_to_online_store("customers", frame.groupby("customer_id").tail(1).assign(total=7.0))
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["correction"])
    assert "or something else wrote it online" in found.of("correction")["meaning"]
    assert found.of("correction")["upstream"] is None  # SQLite lets a corrected row in


@pytest.mark.scale
def test_a_double_in_a_whole_number_field_is_a_coercion(theirs):
    frame = orders(theirs.now, orders=lambda key: key + 0.75)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.of("coercion")["features"]) == (1, ["coercion"], {"orders": 20})
    assert "the type that the source has (double), or" in found.of("coercion")["advice"]


def test_a_default_in_place_of_a_null_is_named(theirs):
    frame = orders(theirs.now)
    frame["total"] = [None if key <= 4 else 1.5 for key in frame["customer_id"]]
    frame["name"] = [None if key <= 4 else "x" for key in frame["customer_id"]]
    fields = [Field(name="total", dtype=Float64), Field(name="name", dtype=String)]
    theirs.apply(*customers(PushSource(name="pushed", batch_source=theirs.write("orders", frame)), fields=fields))
    theirs.materialize()
    last = frame.groupby("customer_id").tail(1)
    theirs.store.push("pushed", last.fillna({"total": 0.0, "name": ""}))
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["null"])
    assert found.of("null")["features"] == {"total": 4, "name": 4}


def test_instants_are_cut_to_seconds(theirs):
    frame = orders(theirs.now, since=[theirs.now - DAY] * 60)
    frame["since"] += pd.Timedelta(microseconds=250)
    fields = [Field(name="since", dtype=UnixTimestamp), Field(name="total", dtype=Float64)]
    theirs.apply(*customers(theirs.write("orders", frame), fields=fields))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.of("coercion")["features"]) == (1, ["coercion"], {"since": 20})


def test_numbers_in_a_text_field_are_equal_but_of_another_type(theirs):
    frame = orders(theirs.now, name=lambda key: key)
    fields = [Field(name="name", dtype=String), Field(name="total", dtype=Float64)]
    made = customers(theirs.write("orders", frame), fields=fields)
    theirs.apply(*made)
    written = frame.groupby("customer_id").tail(1)
    theirs.store.write_to_online_store("customers", written.assign(name=written["name"].astype(str)))
    found = theirs.check()
    assert (found.status, found.kinds, found.of("type")["features"]) == (1, ["type"], {"name": 20})


def test_keys_of_another_spelling_are_named(theirs):
    frame = orders(theirs.now, keys=5)
    frame["customer_id"] = [f"00{key}" for key in frame["customer_id"]]
    made = customers(theirs.write("orders", frame), key_type=String, value_type=ValueType.STRING)
    theirs.apply(*made)
    written = frame.groupby("customer_id").tail(1)
    cast = written.assign(customer_id=[str(int(key)) for key in written["customer_id"]])
    theirs.store.write_to_online_store("customers", cast)
    found = theirs.check()
    assert found.status == 1
    assert (found.kinds, found.of("key-cast")["keys"]) == (["key-cast"], 5)
    assert (found.compared("customers")["keys"], found.compared("customers")["values"]) == (5, 10)


def test_an_event_to_come_is_named(theirs):
    frame = orders(theirs.now)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    ahead = pd.DataFrame(
        {"customer_id": [1], "event_timestamp": [theirs.now + 3 * HOUR], "total": [9.0], "orders": [1]}
    )
    theirs.store.write_to_online_store("customers", ahead)
    found = theirs.check()
    assert (found.status, found.kinds, found.of("future")["keys"]) == (1, ["future"], 1)


def test_times_that_lost_their_zone_are_named(theirs):
    frame = orders(theirs.now)
    source = PushSource(name="pushed", batch_source=theirs.write("orders", frame))
    theirs.apply(*customers(source))
    last = frame.groupby("customer_id").tail(1)
    theirs.store.push("pushed", last.assign(event_timestamp=last["event_timestamp"] - 5.5 * HOUR))
    found = theirs.check()
    assert (found.status, found.kinds, found.of("time-zone")["keys"]) == (1, ["time-zone"], 20)


def on_demand(theirs, frame, mode="pandas", **fields):
    """Apply and materialize a view of customers, and one on demand that is computed of it as ``mode`` says."""
    schema = [Field(name=name, dtype=kind) for name, kind in (fields or {"total": Float64}).items()]
    made = customers(theirs.write("orders", frame), fields=schema)

    if mode == "python":

        @on_demand_feature_view(sources=[made[1]], schema=[Field(name="root", dtype=Float64)], mode="python")
        def computed(inputs):
            return {"root": [0.5 if value is None else value * 2 for value in inputs["total"]]}
    elif mode == "crash":

        @on_demand_feature_view(sources=[made[1]], schema=[Field(name="root", dtype=Float64)], mode="python")
        def computed(inputs):
            return {"root": [value * 2 for value in inputs["total"]]}
    elif mode == "clock":

        @on_demand_feature_view(sources=[made[1]], schema=[Field(name="root", dtype=Float64)])
        def computed(inputs):
            import time

            return pd.DataFrame({"root": inputs["total"] + time.time()})
    else:

        @on_demand_feature_view(sources=[made[1]], schema=[Field(name="root", dtype=Float64)])
        def computed(inputs):
            return pd.DataFrame({"root": inputs["total"] * 1.1})

    theirs.apply(*made, computed)
    theirs.materialize()


def test_what_an_on_demand_view_makes_of_one_key_alone_is_compared(theirs):
    frame = orders(theirs.now)
    frame["orders"] = [None if key <= 4 else key for key in frame["customer_id"]]
    made = customers(theirs.write("orders", frame), fields=[Field(name="orders", dtype=Int64)])

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="text", dtype=String)])
    def computed(inputs):
        return pd.DataFrame({"text": inputs["orders"].astype(str)})

    theirs.apply(*made, computed)
    theirs.materialize()
    found = theirs.check()  # with a null in the batch, "5.0"; alone, "5"; and a null alone is "None", not "nan"
    assert (found.status, found.kinds) == (1, ["on-demand", "on-demand-null"])


def computed_of(theirs, frame, compute, **fields):
    """Apply and materialize a view of customers, and one on demand with the feature ``made`` that ``compute`` makes."""
    made = customers(theirs.write("orders", frame), fields=[Field(name=n, dtype=kind) for n, kind in fields.items()])
    compute.__name__ = "computed"
    theirs.apply(*made, on_demand_feature_view(sources=[made[1]], schema=[Field(name="made", dtype=Float64)])(compute))
    theirs.materialize()


def test_an_on_demand_view_that_depends_on_its_batch_is_on_demand_logic_for_a_single_key(theirs):
    def compute(inputs):
        return pd.DataFrame({"made": inputs["total"].fillna(inputs["total"].mean())})

    frame = orders(theirs.now, keys=4, total=lambda key: {1: 2.0, 2: 4.0, 3: 5.0}.get(key))
    computed_of(theirs, frame, compute, total=Float64)
    found = theirs.check()
    assert (found.status, found.kinds, found.of("on-demand")["keys"]) == (1, ["on-demand"], 1)


def test_a_value_of_equal_inputs_that_differs_once_only_is_on_demand_logic(theirs, monkeypatch):
    monkeypatch.setenv("LOOKS", "0")

    def compute(inputs):
        import os

        made = inputs["total"] * 2
        if "event_timestamp" in inputs and len(inputs) == 20:  # a training set of all keys: the first is otherwise
            os.environ["LOOKS"] = str(int(os.environ["LOOKS"]) + 1)
            made[0] += os.environ["LOOKS"] == "1"
        return pd.DataFrame({"made": made})

    computed_of(theirs, orders(theirs.now), compute, total=Float64)
    found = theirs.check()
    assert (found.status, found.kinds, found.of("on-demand")["keys"]) == (1, ["on-demand"], 1)


def test_a_value_on_demand_whose_input_was_written_between_the_two_looks_is_no_difference(theirs, monkeypatch):
    def compute(inputs):
        return pd.DataFrame({"made": inputs["total"] * 2})

    computed_of(theirs, frame := orders(theirs.now), compute, total=Float64)
    store, last = theirs.store, frame.groupby("customer_id", as_index=False).last()
    store.write_to_online_store("customers", last.assign(total=last["total"] + (last["customer_id"] == 3)))

    def count(run, *arguments, looked=batches._Run._count):
        odd = looked(run, *arguments)
        store.write_to_online_store("customers", last)
        return odd

    monkeypatch.setattr(batches._Run, "_count", count)
    found = theirs.check("--view", "computed")
    assert (found.status, found.kinds) == (0, [])
    assert "1 key differed once and not when asked again" in found.out


def test_an_input_of_another_precision_does_not_hide_what_other_rows_make_of_the_value(theirs):
    def compute(inputs):
        return pd.DataFrame({"made": inputs["orders"] - inputs["orders"].mean() + 1000.0})

    frame = orders(theirs.now, keys=6, total=lambda key: key / 3, orders=lambda key: float(key))
    computed_of(theirs, frame, compute, total=Float32, orders=Float64)
    found = theirs.check("--accept", "float32")
    assert (found.status, found.kinds) == (1, ["on-demand", "float32"])
    assert found.of("on-demand")["keys"] == 6


def test_a_value_that_follows_from_an_input_of_another_precision_is_inherited_however_far_it_is(theirs):
    def compute(inputs):
        return pd.DataFrame({"made": (inputs["total"] * 3e9) % 1000})

    computed_of(theirs, orders(theirs.now, total=lambda key: key / 7), compute, total=Float32)
    assert theirs.check().kinds == ["float32", "inherited float32"]
    assert theirs.check("--accept", "float32").status == 0


def test_a_view_beside_it_in_a_service_is_not_to_blame_for_what_is_made_on_demand(theirs):
    frame = orders(theirs.now, total=lambda key: key / 7)
    source = theirs.write("orders", frame)
    made = customers(source, fields=[Field(name="orders", dtype=Int64)])
    key = Field(name="customer_id", dtype=Int64)
    schema = [key, Field(name="total", dtype=Float32)]
    beside = FeatureView(name="beside", entities=[made[0]], ttl=10 * DAY, schema=schema, source=source)

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="made", dtype=Float64)])
    def computed(inputs):
        return pd.DataFrame({"made": inputs["orders"] - inputs["orders"].mean()})

    theirs.apply(*made, beside, computed, FeatureService(name="all", features=[beside, made[1], computed]))
    theirs.materialize()
    found = theirs.check("--service", "all", "--accept", "float32")
    assert (found.status, found.kinds) == (1, ["on-demand", "float32"])


def test_what_is_made_on_demand_of_an_expired_row_is_inherited(theirs):
    def compute(inputs):
        return pd.DataFrame({"made": inputs["total"].fillna(-1) * 2})

    frame = orders(theirs.now, rows=1)
    frame.loc[frame["customer_id"] <= 5, "event_timestamp"] -= 20 * DAY
    computed_of(theirs, frame, compute, total=Float64)
    found = theirs.check("--view", "computed", "--accept", "ttl")
    assert (found.status, found.kinds) == (0, ["inherited ttl"])


def test_a_null_that_is_made_of_other_rows_is_no_null_of_an_input(theirs):
    def compute(inputs):
        return pd.DataFrame({"made": inputs["total"].shift(1)})

    computed_of(theirs, orders(theirs.now), compute, total=Float64)
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["on-demand"])
    assert "nothing of other rows" in found.out


def test_an_on_demand_view_that_fails_for_new_keys_is_a_crash(theirs):
    made = customers(theirs.write("orders", orders(theirs.now)))

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="scaled", dtype=Float64)])
    def computed(inputs):
        if inputs["total"].isna().all():
            raise ValueError("nothing to scale")
        return pd.DataFrame({"scaled": inputs["total"] / 2})

    theirs.apply(*made, computed)
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["crash"])
    assert "all, of a key that is not known" in found.out
    assert "nothing to scale" in found.out


def test_an_on_demand_view_that_fails_for_a_null_alone_is_a_crash_for_these_keys(theirs):
    frame = orders(theirs.now, keys=12)
    frame["total"] = [None if key <= 4 else key / 4 for key in frame["customer_id"]]
    made = customers(theirs.write("orders", frame))

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="bent", dtype=Float64)])
    def computed(inputs):
        import numpy

        return pd.DataFrame({"bent": numpy.arctan(inputs["total"])})

    theirs.apply(*made, computed)
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.compared("computed")["equal"]) == (1, ["crash"], 8)
    assert found.of("crash")["features"]["all, by an error in serving"] == 4
    assert "could not be compared" not in found.out


@pytest.mark.scale
def test_an_on_demand_view_that_fails_for_some_keys_is_a_crash(theirs):
    frame = orders(theirs.now)
    frame["total"] = [None if key <= 4 else key / 4 for key in frame["customer_id"]]
    on_demand(theirs, frame, "crash")
    found = theirs.check()
    assert (found.status, found.kinds, found.of("crash")["keys"]) == (1, ["crash"], 4)
    assert "NoneType" in found.out


def test_an_on_demand_view_inherits_what_its_inputs_have(theirs):
    frame = orders(theirs.now, total=lambda key: key + 0.1)
    on_demand(theirs, frame, total=Float32)
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["float32", "inherited float32"])
    assert theirs.check("--accept", "float32").status == 0


def test_an_on_demand_view_of_the_clock_is_on_demand_logic(theirs):
    on_demand(theirs, orders(theirs.now), "clock")
    found = theirs.check()
    assert (found.status, found.kinds, found.of("on-demand")["keys"]) == (1, ["on-demand"], 20)


def test_a_null_and_a_nan_are_equal(theirs):
    frame = orders(theirs.now)
    frame["total"] = [math.nan if key % 2 else None if key == 4 else 1.0 for key in frame["customer_id"]]
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds) == (0, [])


def test_infinities_and_large_numbers_are_equal(theirs):
    frame = orders(theirs.now, keys=4, rows=1)
    frame["total"] = [math.inf, -math.inf, 5e-324, 1.7e308]
    frame["orders"] = np.array([2**53 + 1, -(2**62), 2**63 - 1, 0])
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds) == (0, [])


def test_a_number_that_does_not_fit_is_no_equal_one(theirs):
    frame = orders(theirs.now, keys=3, small=7)
    fields = [Field(name="small", dtype=Int32), Field(name="orders", dtype=Int64)]
    theirs.apply(*customers(theirs.write("orders", frame), fields=fields))
    theirs.materialize()
    frame["small"] = 2**32 + 7
    theirs.write("orders", frame)
    found = theirs.check()
    assert (found.status, found.kinds, found.of("coercion")["features"]) == (1, ["coercion"], {"small": 3})


def test_an_on_demand_view_may_import_modules_of_its_repository(theirs):
    made = customers(theirs.write("orders", orders(theirs.now)))
    (theirs.root / "theirs_own_module.py").write_text("def twice(value):\n    return value * 2\n")
    sys.path.append(str(theirs.root))
    try:
        import theirs_own_module

        @on_demand_feature_view(sources=[made[1]], schema=[Field(name="twice", dtype=Float64)])
        def computed(inputs, twice=theirs_own_module.twice):
            return pd.DataFrame({"twice": twice(inputs["total"])})

        theirs.apply(*made, computed)
        theirs.materialize()
    finally:
        sys.path.remove(str(theirs.root))
        del sys.modules["theirs_own_module"]
    found = theirs.check()
    assert (found.status, found.compared("computed")["equal"]) == (0, 20)
    sys.modules.pop("theirs_own_module", None)


def test_zeros_of_another_sign_differ_in_the_weakest_way(theirs):
    frame = orders(theirs.now, total=lambda key: -0.0 if key % 2 else 0.0)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    assert theirs.check().status == 0
    theirs.write("orders", frame.assign(total=0.0))
    found = theirs.check()
    assert (found.status, found.kinds, found.of("type")["features"]) == (1, ["type"], {"total": 10})


def test_a_list_that_a_text_field_does_not_take_is_left_out_and_not_just_not_materialized(theirs):
    frame = orders(theirs.now, tags=lambda key: [key, key + 1])
    fields = [Field(name="tags", dtype=String), Field(name="total", dtype=Float64)]
    theirs.apply(*customers(theirs.write("orders", frame), fields=fields))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.of("coercion")["features"]) == (1, ["coercion"], {"tags": 20})


def test_rows_that_a_watermark_ahead_of_now_has_passed_are_late_by_an_issue_of_feast(theirs):
    frame = orders(theirs.now)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize(theirs.now + 900 * DAY)
    late = frame.groupby("customer_id").tail(1)
    late = late.assign(event_timestamp=late["event_timestamp"] + HOUR / 2, total=1.0)
    theirs.write("orders", pd.concat([frame, late]))
    found = theirs.check()
    assert (found.status, found.kinds, found.of("late")["keys"]) == (1, ["late"], 20)
    assert found.of("late")["upstream"].endswith("/4222")


def test_what_dask_takes_of_rows_with_created_timestamps_is_a_tie_by_an_issue_of_feast(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd, "dask")
    frame = created(orders(theirs.now), 2 * HOUR)
    last = frame.groupby("customer_id").tail(1)
    both = pd.concat([last.assign(total=7.0, created=last["created"] + HOUR / 2), frame])
    theirs.apply(*customers(theirs.write("orders", both)))
    theirs.materialize()
    theirs.store.write_to_online_store("customers", last)  # the older of the two, as dask may take it
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["tie"])
    assert found.of("tie")["upstream"].endswith("/3360")


def test_an_on_demand_view_that_fails_for_every_key_in_serving_only_is_a_crash(theirs, monkeypatch):
    made = customers(theirs.write("orders", orders(theirs.now)))

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="score", dtype=Float64)])
    def scored(inputs: pd.DataFrame) -> pd.DataFrame:
        if "event_timestamp" not in inputs and (inputs["total"] > 5).any():  # which only a training set has
            raise ValueError("no time")
        return pd.DataFrame({"score": inputs["total"] * 2})

    theirs.apply(*made, scored)
    theirs.materialize()
    monkeypatch.setattr(batches, "FIRST_BATCH", 12)
    found = theirs.check()
    assert (found.status, found.kinds, found.of("crash")["keys"]) == (1, ["crash"], 12)
    assert "serving failed for each of the first 12 keys" in found.out
    assert found.compared("customers")["equal"] == 40


def write_online(theirs, statement, *values):
    """Change what is online as nobody should."""
    with closing(sqlite3.connect(theirs.root / "online.db")) as connection, connection:
        assert connection.execute(statement, values).rowcount


@pytest.mark.parametrize("where", ["", " where entity_key = (select min(entity_key) from theirs_customers)"])
def test_a_missing_event_time_of_a_value_is_none_of_the_source(theirs, where):
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now, keys=3))))
    theirs.materialize()
    write_online(theirs, f"update theirs_customers set event_ts = 0{where}")
    found = theirs.check()
    assert (found.status, found.kinds, found.of("event-time")["keys"]) == (1, ["event-time"], 1 if where else 3)


def test_event_times_of_a_side_that_says_none_are_not_compared_which_is_said(theirs, monkeypatch):
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now, keys=3))))
    theirs.materialize()
    write_online(theirs, "update theirs_customers set event_ts = 0")
    monkeypatch.setattr(sides, "SAY_EVENTS", {"of none"})  # as of a remote store, or one of somebody's own
    found = theirs.check()
    assert (found.status, found.kinds) == (0, [])
    assert "customers: the online side says no event times, so these are not compared" in found.out


def test_an_event_time_of_an_older_row_with_other_values_is_of_none(theirs):
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now, keys=3))))
    theirs.materialize()
    older = (theirs.now - 3 * HOUR).timestamp()
    write_online(
        theirs,
        "update theirs_customers set event_ts = ? where entity_key = (select min(entity_key) from theirs_customers)",
        older + 7 * 60,
    )
    frame = orders(theirs.now, keys=3)
    frame.loc[::3, "event_timestamp"] += pd.Timedelta(minutes=7)
    theirs.write("orders", frame)
    found = theirs.check()
    assert (found.status, found.kinds, found.of("event-time")["keys"]) == (1, ["event-time"], 1)
    theirs.write("orders", frame.assign(total=frame.groupby("customer_id")["total"].transform("last")).assign(orders=1))
    theirs.store.write_to_online_store("customers", frame[2::3].assign(orders=1))
    write_online(
        theirs,
        "update theirs_customers set event_ts = ? where entity_key = (select min(entity_key) from theirs_customers)",
        older + 7 * 60,
    )
    found = theirs.check()
    assert (found.status, found.compared("customers")["newer_rows_of_equal_values"]) == (0, 1)  # of a row like it


def test_every_key_that_differs_is_explained_however_many_these_are(theirs, monkeypatch):
    frame = orders(theirs.now, keys=25, rows=1)
    frame.loc[frame["customer_id"] <= 20, "event_timestamp"] -= 20 * DAY
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    theirs.store.write_to_online_store("customers", frame[frame["customer_id"] > 20].assign(total=-1.0))
    monkeypatch.setattr(batches, "EXPLAINED", 10)
    found = theirs.check("--accept", "ttl")
    assert (found.status, found.kinds) == (1, ["correction", "ttl"])
    assert (found.of("correction")["keys"], found.of("ttl")["keys"]) == (5, 20)


def test_keys_of_a_type_that_the_source_can_not_have_are_counted_and_not_asked_for(theirs):
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now, keys=4))))
    theirs.materialize()
    for text in ("abc", "3", "77"):  # the second beside the whole number 3
        key = EntityKey(join_keys=["customer_id"], entity_values=[Value(string_val=text)])
        write_online(
            theirs,
            "insert into theirs_customers (entity_key, feature_name, value, event_ts) "
            "select ?, feature_name, value, event_ts from theirs_customers where entity_key = ?",
            serialize_entity_key(key, 3),
            serialize_entity_key(of_whole(2), 3),
        )
    found = theirs.check()
    assert (found.status, found.kinds, found.of("only-online")["keys"]) == (1, ["only-online"], 3)
    assert found.compared("customers")["keys"] == 4
    assert sorted(key["customer_id"] for key in found.of("only-online")["keys_listed"]) == ["3", "77", "abc"]
    assert (
        "of another type or spelling than the source can have, such as customer_id='"
        in found.of("only-online")["meaning"]
    )
    write_online(theirs, "delete from theirs_customers where entity_key = ?", serialize_entity_key(of_whole(3), 3))
    found = theirs.check()  # then 3 is online as a text only
    assert (found.kinds, found.of("key-cast")["keys"]) == (["key-cast", "only-online"], 1)
    assert (found.of("only-online")["keys"], found.compared("customers")["keys"]) == (2, 4)


def of_whole(number):
    return EntityKey(join_keys=["customer_id"], entity_values=[Value(int64_val=number)])


def test_of_a_comparison_that_fails_no_value_is_equal(theirs, monkeypatch):
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now, keys=4))))
    theirs.materialize()

    def failing(*_):
        raise RuntimeError("no history")

    monkeypatch.setattr(batches.Explanation, "of", failing)
    found = theirs.check("--report", theirs.root / "it.html")
    assert (found.status, found.said["equal"]) == (2, 0)
    assert found.out.splitlines()[-1] == "NOTHING IS PROVEN of customers: RuntimeError: no history."
    assert 'class="good" style="width: 0.00%"' in (theirs.root / "it.html").read_text()


def test_what_an_on_demand_view_serves_of_a_row_that_training_leaves_out_is_inherited(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd, "dask")
    frame = orders(theirs.now, keys=6, rows=1)
    frame.loc[frame["customer_id"] <= 2, "event_timestamp"] -= 20 * DAY
    made = customers(theirs.write("orders", frame))

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="score", dtype=Float64)])
    def scored(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"score": inputs["total"].fillna(0.0) + 1})

    theirs.apply(*made, scored)
    theirs.materialize()
    found = theirs.check("--accept", "dropped")
    assert (found.status, set(found.kinds)) == (0, {"dropped", "inherited dropped"})


def test_what_an_on_demand_view_makes_of_another_null_is_not_inherited_from_an_expired_input(theirs):
    frame = orders(theirs.now, keys=6, rows=1, other=lambda key: None if key <= 3 else 1.0)
    frame["other"] = frame["other"].astype(float)
    frame.loc[frame["customer_id"] <= 3, "event_timestamp"] -= 20 * DAY
    fields = [Field(name=name, dtype=Float64) for name in ("total", "other")]
    made = customers(theirs.write("orders", frame), 10 * DAY, fields)

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="score", dtype=Float64)])
    def scored(inputs: pd.DataFrame) -> pd.DataFrame:
        other = inputs["other"].apply(lambda one: 500.0 if one is None else one if one == one else 7.0)
        return pd.DataFrame({"score": inputs["total"].fillna(0.0) + other})

    theirs.apply(*made, scored)
    theirs.materialize()
    found = theirs.check("--accept", "ttl")
    [finding] = [one for one in found.said["findings"] if one["kind"] != "ttl"]
    assert (found.status, finding["view"], finding["keys"]) == (1, "scored", 3)


def test_what_an_on_demand_view_can_not_make_of_a_key_alone_is_not_inherited(theirs):
    frame = orders(theirs.now, keys=8, rows=1, total=4.0)
    frame.loc[frame["customer_id"] <= 3, "event_timestamp"] -= 20 * DAY
    frame.loc[frame["customer_id"] <= 3, "total"] = 1.0
    made = customers(theirs.write("orders", frame))

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="score", dtype=Float64)])
    def scored(inputs: pd.DataFrame) -> pd.DataFrame:
        total = inputs["total"]
        return pd.DataFrame({"score": total.fillna(total.mode()[0]) if total.isna().any() else total})

    theirs.apply(*made, scored)
    theirs.materialize()
    found = theirs.check("--accept", "ttl,crash")
    assert (found.status, found.of("on-demand")["keys"]) == (1, 3)
