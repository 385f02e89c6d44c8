"""`parity check` on repositories as others have them: what was met in such, and imitated here in small."""

from datetime import timedelta

import pandas as pd
import pytest
from feast import FeatureView, Field, RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64

from tests.strangers import DAY, HOUR, customers, orders, stranger


@pytest.fixture
def theirs(tmp_path, capfd):
    return stranger(tmp_path, capfd, "duckdb")


def rates(now):
    """A rate of each customer, as a 32-bit float in the source, too."""
    frame = orders(now, rate=lambda key: key / 7)
    return frame.astype({"rate": "float32"})


def test_an_on_demand_view_that_computes_in_32_bits_is_told_to_cast(theirs):
    entity, view = customers(theirs.write("orders", rates(theirs.now)), fields=[Field(name="rate", dtype=Float32)])
    asked = RequestSource(name="asked", schema=[Field(name="factor", dtype=Float64)])

    @on_demand_feature_view(sources=[view, asked], schema=[Field(name="weighted", dtype=Float64)])
    def weighted(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"weighted": inputs["rate"] * 0.6})

    @on_demand_feature_view(sources=[view, asked], schema=[Field(name="weighted_double", dtype=Float64)])
    def weighted_in_doubles(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"weighted_double": inputs["rate"].astype("float64") * 0.6})

    theirs.apply(entity, view, weighted, weighted_in_doubles)
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["float32"])
    assert found.compared("customers")["differing"] == found.compared("weighted_in_doubles")["differing"] == 0
    said = found.of("float32")
    assert said["view"] == "weighted"
    assert "have weighted cast its inputs" in said["advice"]
    assert "declare" not in said["advice"]
    assert theirs.check("--accept", "float32").status == 0


def test_hourly_rows_that_are_served_under_the_time_of_another_zone_are_named_so(theirs):
    frame = orders(theirs.now, rows=24)
    theirs.apply(*customers(theirs.write("orders", frame)))
    last = frame.groupby("customer_id").tail(1)
    shifted = last.assign(event_timestamp=last["event_timestamp"] - 9 * HOUR)
    theirs.store.write_to_online_store("customers", shifted)
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["time-zone"])
    assert found.of("time-zone")["keys"] == 20


def test_hourly_rows_that_are_behind_are_not_taken_for_those_of_another_zone(theirs):
    frame = orders(theirs.now, rows=24)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize(theirs.now - timedelta(hours=5.5))
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["behind"])


def test_ties_that_training_takes_otherwise_when_asked_again_are_still_ties(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd, "dask")
    frame = orders(theirs.now, keys=400, rows=1)
    twice = pd.concat([frame, frame.assign(total=frame["total"] + 1000)], ignore_index=True)
    theirs.apply(*customers(theirs.write("orders", twice.sample(frac=1, random_state=3))))
    theirs.materialize()
    found = theirs.check("--at", theirs.now.isoformat())
    assert (found.status, found.kinds) == (1, ["tie"])
    assert "when asked again" not in found.out
    assert found.of("tie")["keys"] > 200  # of 400: which rows dask takes is any, and changes with what is asked for


def test_what_is_to_be_known_of_several_views_is_said_once(theirs):
    source = theirs.write("orders", orders(theirs.now))
    entity, view = customers(source, ttl=2 * DAY)
    other = FeatureView(name="others", entities=[entity], ttl=view.ttl, schema=view.schema, source=source)
    hidden = FeatureView(name="hidden", entities=[entity], schema=view.schema, source=source, online=False)
    theirs.apply(entity, view, other, hidden)
    theirs.materialize()
    found = theirs.check()
    assert found.status == 0
    [line] = [line for line in found.out.splitlines() if "will expire" in line]
    assert line.startswith(("customers, others: 0 keys", "others, customers: 0 keys"))
    assert "not compared: hidden: it is not served: online=False" in found.out


def test_one_key_with_ties_has_them(theirs):
    frame = orders(theirs.now)
    first = frame[frame["customer_id"] == 3].head(1)
    theirs.apply(*customers(theirs.write("orders", pd.concat([frame, first.assign(total=first["total"] + 1)]))))
    theirs.materialize()
    found = theirs.check()
    assert found.status == 0
    assert "ties: 1 key of customers has rows of different values at one event time" in found.out
