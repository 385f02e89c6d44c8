"""`parity check` on repositories of others: what is equal, what differs, and why, with what it takes to say so."""

from datetime import timedelta

import pandas as pd
import pytest
from feast import FeatureView, Field
from feast.types import Float32, Int64

from parity.check.found import Compared
from parity.check.verdict import merged
from parity.compare.kinds import CORRECTION
from tests.strangers import DAY, HOUR, customers, orders, stranger


@pytest.fixture(params=["dask", pytest.param("duckdb", marks=pytest.mark.scale)])
def offline(request):
    return request.param


@pytest.fixture
def theirs(tmp_path, capfd, offline):
    return stranger(tmp_path, capfd, offline)


@pytest.mark.smoke
def test_a_healthy_repository_is_equal_and_not_touched(theirs):
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now))))
    theirs.materialize()
    before = {path: path.read_bytes() for path in theirs.root.rglob("*") if path.is_file()}
    found = theirs.check()
    assert (found.status, found.said["verdict"], found.kinds) == (0, "equal", [])
    assert (found.said["values"], found.said["equal"]) == (40, 40)
    assert found.out.splitlines()[-1] == "EQUAL: training equals serving in 40 values."
    assert {path: path.read_bytes() for path in theirs.root.rglob("*") if path.is_file()} == before


def test_a_key_past_the_ttl_is_served_and_not_trained_on(theirs, offline):
    frame = orders(theirs.now)
    frame.loc[frame["customer_id"] <= 7, "event_timestamp"] -= 11 * DAY
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    found = theirs.check()
    kind = {"dask": "dropped", "duckdb": "ttl"}[offline]
    assert (found.status, found.kinds, found.of(kind)["keys"]) == (1, [kind], 7)
    assert found.of(kind)["features"] == {"total": 7, "orders": 7}
    accepted = theirs.check("--accept", f"{kind},float32")
    assert accepted.status == 0
    assert f"{kind} 14" in accepted.out.splitlines()[-1]


def test_float32_is_named_and_also_beneath_the_ttl(theirs, offline):
    frame = orders(theirs.now, total=lambda key: key + 0.1)
    frame.loc[frame["customer_id"] <= 7, "event_timestamp"] -= 11 * DAY
    fields = [Field(name="total", dtype=Float32), Field(name="orders", dtype=Int64)]
    theirs.apply(*customers(theirs.write("orders", frame), fields=fields))
    theirs.materialize()
    found = theirs.check()
    kind = {"dask": "dropped", "duckdb": "ttl"}[offline]
    assert found.kinds == [kind, "float32", "beneath float32"]
    assert (found.of("float32")["features"], found.of("float32")["keys"]) == ({"total": 13}, 13)
    assert theirs.check("--accept", kind, "float32").status == 0
    assert theirs.check("--fail-on", "tie").status == 0


def test_nothing_materialized_is_never_materialized(theirs):
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now))))
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["never-materialized"])
    assert found.of("never-materialized")["keys"] == 20


def test_rows_since_the_watermark_are_behind_and_late_rows_are_late(theirs):
    frame = orders(theirs.now, rows=6)
    source = theirs.write("orders", frame[frame["event_timestamp"] <= theirs.now - 3 * HOUR])
    theirs.apply(*customers(source))
    theirs.materialize(theirs.now - 2.5 * HOUR)
    newer = frame[(frame["customer_id"] <= 4) | (frame["event_timestamp"] <= theirs.now - 3 * HOUR)]
    late = pd.DataFrame(
        {"customer_id": [9], "event_timestamp": [theirs.now - 2.75 * HOUR], "total": [1.5], "orders": [1]}
    )
    theirs.write("orders", pd.concat([newer, late]))
    found = theirs.check()
    assert found.status == 1
    assert {kind: found.of(kind)["keys"] for kind in found.kinds} == {"behind": 4, "late": 1}


def test_a_correction_is_named(theirs):
    frame = orders(theirs.now)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    frame.loc[frame["customer_id"] == 3, "total"] += 1
    theirs.write("orders", frame)
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["correction"])
    assert (found.of("correction")["keys"], found.of("correction")["features"]) == (1, {"total": 1})
    assert found.of("correction")["keys_listed"] == [{"customer_id": 3}]


def test_rows_deleted_offline_are_still_served(theirs):
    frame = orders(theirs.now)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    theirs.write("orders", frame[frame["customer_id"] > 2])
    found = theirs.check()
    assert (found.status, found.kinds, found.of("deleted")["keys"]) == (1, ["deleted"], 2)


def test_shifted_event_times_of_equal_values_are_found(theirs):
    frame = orders(theirs.now)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    theirs.write("orders", frame.assign(event_timestamp=frame["event_timestamp"] - timedelta(hours=2)))
    found = theirs.check()
    assert (found.status, found.kinds, found.of("time-zone")["keys"]) == (1, ["time-zone"], 20)
    theirs.write("orders", frame.assign(event_timestamp=frame["event_timestamp"] - timedelta(minutes=7)))
    found = theirs.check()
    assert (found.status, found.kinds, found.of("event-time")["keys"]) == (1, ["event-time"], 20)


def test_old_data_prove_nothing(theirs):
    frame = orders(theirs.now)
    frame["event_timestamp"] -= 100 * DAY
    theirs.apply(*customers(theirs.write("orders", frame)))
    found = theirs.check()
    assert (found.status, found.said["verdict"]) == (2, "not proven")
    assert "all rows are older than the ttl of 10 days" in found.out.splitlines()[-1]


def test_what_expired_on_one_side_proves_nothing_where_that_is_accepted(theirs, offline):
    frame = orders(theirs.now)
    frame["event_timestamp"] -= 100 * DAY
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    kind = {"dask": "dropped", "duckdb": "ttl"}[offline]
    assert theirs.check().kinds == [kind]
    found = theirs.check("--accept", kind)
    assert (found.status, found.said["verdict"]) == (2, "not proven")
    assert "of 40 values none is equal, and all that differ are accepted" in found.out.splitlines()[-1]


@pytest.mark.parametrize("zone", ["UTC", None])
def test_a_table_without_rows_proves_nothing(theirs, zone):
    frame = orders(theirs.now)[:0]
    frame["event_timestamp"] = pd.Series([], dtype=f"datetime64[us, {zone}]" if zone else "datetime64[us]")
    theirs.apply(*customers(theirs.write("orders", frame)))
    found = theirs.check()
    assert (found.status, found.said["verdict"]) == (2, "not proven")
    assert found.out.splitlines()[-1] == "NOTHING IS PROVEN of customers: there are no keys, offline or online."
    assert "to prove something of customers: write rows to the sources, and materialize them" in found.out


def test_a_view_that_proves_nothing_is_named_beside_one_that_is_equal(theirs):
    frame = orders(theirs.now)
    old = frame.assign(event_timestamp=frame["event_timestamp"] - 100 * DAY)
    entity, view = customers(theirs.write("orders", frame))
    past = theirs.write("old", old)
    theirs.apply(entity, view, FeatureView(name="past", entities=[entity], ttl=DAY, schema=view.schema, source=past))
    theirs.store.write_to_online_store("customers", frame.groupby("customer_id").tail(1))
    found = theirs.check()
    assert (found.status, found.compared("customers")["equal"]) == (2, 40)
    assert found.out.splitlines()[-1] == (
        "NOTHING IS PROVEN of past: all 40 values are null on both sides, because all rows are older than the ttl of 1 "
        "day, and nothing is online. The rest is equal: 40 values."
    )
    assert theirs.check("--accept", "nothing-proven").status == 0


def test_the_forecast_says_what_expires(theirs):
    frame = orders(theirs.now)
    frame.loc[frame["customer_id"] <= 7, "event_timestamp"] -= 9.5 * DAY
    frame.loc[frame["customer_id"] > 15, "event_timestamp"] -= 5 * DAY
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.compared("customers")["expire_in_training_only"]) == (
        0,
        {"within_a_day": 7, "within_a_week": 12},
    )


def test_a_finding_counts_the_keys_of_its_view_and_not_pairs_with_those_of_others():
    view, service = Compared("customers", "feature view"), Compared("both", "feature service")
    for compared, keys in ((view, 1), (service, 7)):
        for place in range(keys):
            compared.finding(CORRECTION, "customers").add(place, None, None)
    assert [one.keys for one in merged([service, view])] == [one.keys for one in merged([view, service])] == [1]
    assert [one.keys for one in merged([service])] == [7]
