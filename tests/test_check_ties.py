"""`parity check` on several rows of one key at one event time, which both sides may take alike by chance."""

import math

import pandas as pd
import pytest
from feast import Field, ValueType
from feast.types import Array, Float64, String

from parity.check.ties import ties_of
from parity.compare.subjects import Source
from tests.strangers import HOUR, customers, orders, stranger

FIELDS = [Field(name="total", dtype=Float64), Field(name="sizes", dtype=Array(Float64))]


def found(theirs, frame, keys=20):
    """The ties of a view of customers with this table."""
    made = customers(theirs.write("orders", frame), fields=FIELDS)
    theirs.apply(*made)
    view = theirs.store.get_feature_view("customers")
    return ties_of(theirs.store, Source(view, "customers"), theirs.now, keys)


@pytest.fixture(params=["dask", "duckdb"])
def offline(request):
    return request.param


@pytest.fixture
def theirs(tmp_path, capfd, offline):
    return stranger(tmp_path, capfd, offline)


def test_rows_of_one_event_with_different_values_are_ties_at_the_last_event_or_before(theirs):
    frame = orders(theirs.now, sizes=lambda key: [float(key)])
    last, first = frame.groupby("customer_id").tail(1), frame.groupby("customer_id").head(1)
    ties = found(
        theirs,
        pd.concat(
            [
                frame,
                last[last["customer_id"] <= 3].assign(total=60.0),
                first[first["customer_id"].isin([3, 9])].assign(sizes=[[1.0, 2.0]] * 2),
                last[last["customer_id"] == 12],  # twice the same row is no tie
            ]
        ),
    )
    assert (ties.view, ties.keys, ties.last) == ("customers", 4, 3)
    assert (ties.feature, ties.event) == ("total", theirs.now - HOUR)
    assert ties.key["customer_id"] in (1, 2, 3)
    assert set(ties.values) == {60.0, ties.key["customer_id"] * 10.25 + 2}


def test_a_null_and_a_nan_are_the_same_and_a_null_and_a_value_are_not(theirs):
    frame = orders(theirs.now, sizes=lambda key: [float(key)]).astype({"total": object})
    last = frame.groupby("customer_id").tail(1)
    frame.loc[last.index[:2], "total"] = None
    more = pd.concat([last[:1].assign(total=math.nan), last[1:2].assign(total=5.0)])
    ties = found(theirs, pd.concat([frame, more]).astype({"total": float}))
    assert (ties.keys, ties.key, sorted(ties.values, key=str)) == (1, {"customer_id": 2}, [5.0, None])


def test_what_a_created_timestamp_settles_is_no_tie_but_for_dask(theirs, offline):
    frame = orders(theirs.now, sizes=lambda key: [float(key)])
    frame["created"] = frame["event_timestamp"]
    last = frame.groupby("customer_id").tail(1)
    later = last.assign(total=60.0, created=last["created"] + HOUR / 2)
    ties = found(theirs, pd.concat([later, frame]))
    assert (ties and ties.keys) == (20 if offline == "dask" else None)
    again = later[later["customer_id"] == 7].assign(total=61.0)
    ties = found(theirs, pd.concat([again, frame, later]))
    assert (ties.keys, ties.is_left_open) == (20 if offline == "dask" else 1, False)


def test_a_table_without_ties_and_one_without_rows_have_none(theirs):
    frame = orders(theirs.now, sizes=lambda key: [float(key)])
    assert found(theirs, frame) is None
    assert found(theirs, frame[:0]) is None


def test_ties_that_both_sides_take_alike_are_a_warning_and_no_difference(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd, "duckdb")
    frame = orders(theirs.now, keys=5)
    first = frame.groupby("customer_id").head(1)
    theirs.apply(*customers(theirs.write("orders", pd.concat([frame, first[:2].assign(total=60.0)]))))
    theirs.store.write_to_online_store("customers", frame.groupby("customer_id").tail(1))
    checked = theirs.check()
    assert (checked.status, checked.kinds) == (0, [])
    [ties] = checked.compared("customers")["ties"]
    assert (ties["view"], ties["keys"], ties["keys_at_their_last_event"]) == ("customers", 2, 0)
    assert "customers: ties: 2 keys of customers have rows of different values at one event time, 0 of" in checked.out
    assert checked.out.splitlines()[-1].endswith("Keys with ties in the source: 2 in customers.")


def test_texts_by_a_dictionary_are_texts(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd, "dask")
    frame = orders(theirs.now, keys=5, name=lambda key: f"name {key}")
    frame["customer_id"] = "c-" + frame["customer_id"].astype(str)
    by_dictionary = {"customer_id": "category", "name": "category"}
    fields = [Field(name="total", dtype=Float64), Field(name="name", dtype=String)]
    source = theirs.write("orders", frame.astype(by_dictionary))
    theirs.apply(*customers(source, fields=fields, key_type=String, value_type=ValueType.STRING))
    theirs.materialize()
    assert theirs.check().status == 0
    last = frame.groupby("customer_id").tail(1)
    theirs.write("orders", pd.concat([frame, last[:2].assign(name="other")]).astype(by_dictionary))
    found = theirs.check()
    assert (found.status, set(found.kinds) <= {"tie", "correction"}) == (1, True)
    assert found.compared("customers")["ties"][0]["keys"] == 2
