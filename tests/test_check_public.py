"""`parity check` on what public repositories are like: old data, other people's machines, careless definitions."""

import pandas as pd
import pytest
from feast import FeatureView, Field, FileSource, PushSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float32, Float64, Int64, String

from tests.strangers import DAY, HOUR, customers, orders, stranger


@pytest.fixture
def theirs(tmp_path, capfd):
    return stranger(tmp_path, capfd, "dask")


def test_times_that_lost_their_zone_are_named_beneath_what_the_types_change(theirs):
    frame = orders(theirs.now, keys=3, total=lambda key: key * 0.1, orders=lambda key: key % 2 == 0)
    frame["at"] = frame["event_timestamp"]
    types = {"total": Float32, "orders": Int64, "at": String}
    fields = [Field(name=name, dtype=kind) for name, kind in types.items()]
    theirs.apply(*customers(PushSource(name="pushed", batch_source=theirs.write("orders", frame)), 2 * DAY, fields))
    last = frame.groupby("customer_id").tail(1)
    theirs.store.push("pushed", last.assign(event_timestamp=last["event_timestamp"] - 5 * HOUR))
    found = theirs.check()
    assert found.status == 1
    assert found.of("time-zone")["keys"] == 3
    assert not {"pushed", "deleted"} & set(found.kinds)


def test_a_feature_by_the_name_of_the_time_that_is_asked_for_is_left_out_and_said(theirs):
    fields = [Field(name="total", dtype=Float64), Field(name="event_timestamp", dtype=String)]
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now)), fields=fields))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 20)
    assert "the time that is asked for" in found.said["not_compared"]["customers:event_timestamp"]


def test_what_an_on_demand_view_serves_where_training_has_no_row_is_of_the_dropped_row(theirs):
    made = customers(theirs.write("orders", orders(theirs.now - 30 * DAY)))

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="score", dtype=Float64)])
    def scored(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"score": inputs["total"].fillna(0.0) * 2})

    theirs.apply(*made, scored)
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["inherited dropped"])
    assert "Nothing is proven of customers." in found.out.splitlines()[-1]


def test_old_rows_are_proven_as_of_the_instant_that_is_advised(theirs):
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now - 30 * DAY))))
    theirs.store.materialize_incremental(theirs.now)
    found = theirs.check()
    [advice] = [line for line in found.out.splitlines() if "to prove something of customers" in line]
    assert found.status == 2
    assert "feast materialize over a span" in advice
    at = advice.partition("--at ")[2].partition(",")[0]
    theirs.materialize()
    found = theirs.check("--at", at)
    assert (found.status, found.said["equal"]) == (0, 40)


def test_many_views_of_which_nothing_is_proven_are_named_once(theirs):
    entity, view = customers(theirs.write("orders", orders(theirs.now - 30 * DAY)))
    views = []
    for number in range(9):
        views.append(customers(view.batch_source)[1])
        views[-1].name = f"view_{number}"
    theirs.apply(entity, *views)
    last = theirs.check().out.splitlines()[-1]
    assert last.startswith("NOTHING IS PROVEN of view_")
    assert last.endswith(" and 3 more.")
    assert len(last) < 120


@pytest.mark.parametrize(
    ("spoilt", "said"),
    [
        (lambda frame: frame.drop(columns="total"), "has no column total, which is declared; it has customer_id, "),
        (lambda frame: frame.drop(columns="customer_id"), "has no column customer_id"),
        (lambda frame: frame.assign(event_timestamp=range(len(frame))), "in event_timestamp, are int64: Feast needs"),
    ],
)
def test_a_source_that_is_not_as_declared_is_said_at_once(theirs, spoilt, said):
    frame = orders(theirs.now, keys=300)
    theirs.apply(*customers(theirs.write("orders", frame)))
    theirs.materialize()
    spoilt(frame).to_parquet(theirs.root / "orders.parquet")
    found = theirs.check()
    assert found.status == 2
    assert said in found.compared("customers")["error"]


def test_a_source_on_another_machine_is_said(theirs):
    frame = orders(theirs.now)
    theirs.write("orders", frame)
    away = theirs.root / "orders.parquet"
    theirs.apply(*customers(FileSource(name="orders", path=str(away), timestamp_field="event_timestamp")))
    theirs.materialize()
    away.unlink()
    found = theirs.check()
    assert found.status == 2
    assert found.compared("customers")["error"] == f"the source of customers is not there: {away}"


def test_a_kind_that_many_views_have_is_explained_once(theirs):
    frame = orders(theirs.now, total=lambda key: key * 0.1)
    entity, view = customers(theirs.write("orders", frame), fields=[Field(name="total", dtype=Float32)])
    views = []
    for number in range(5):
        views.append(customers(view.batch_source, fields=[Field(name="total", dtype=Float32)])[1])
        views[-1].name = f"view_{number}"
    theirs.apply(entity, *views)
    theirs.materialize()
    found = theirs.check()
    assert found.kinds == ["float32"] * 5
    assert [line.partition(" ")[0] for line in found.out.splitlines() if "like 1: " in line] == ["2.", "3.", "4.", "5."]
    assert found.out.count("Do: ") == 1


FACTOR = 2.0


def test_an_on_demand_view_that_lost_the_names_of_its_module_is_said_with_the_issue_of_feast(theirs):
    made = customers(theirs.write("orders", orders(theirs.now)))

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="score", dtype=Float64)])
    def scored(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"score": inputs["total"] * FACTOR})

    theirs.apply(*made, scored)
    theirs.materialize()
    found = theirs.check()
    assert found.status == 2
    error = found.compared("scored")["error"]
    assert "name 'FACTOR' is not defined" in error
    assert "Import or define FACTOR within the function" in error
    assert "/issues/6815" in error


def test_a_registry_without_join_keys_as_an_old_feast_wrote_it_is_said(theirs):
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now))))
    theirs.materialize()
    registry = theirs.store.registry
    view = registry.get_feature_view("customers", "theirs")
    view.entity_columns = []
    registry.apply_feature_view(view, "theirs", commit=True)
    found = theirs.check()
    assert found.status == 2
    assert "no join key for customer, the entity of customers. Run feast apply" in found.compared("customers")["error"]


def test_a_store_that_was_written_for_another_feast_is_said(theirs):
    (theirs.root / "own_store.py").write_text("from feast.infra.offline_stores.gone import GoneOfflineStore\n")
    yaml = theirs.root / "feature_store.yaml"
    yaml.write_text(yaml.read_text().replace("type: dask", "type: own_store.OwnOfflineStore"))
    (theirs.root / "registry.db").touch()
    (theirs.root / "online.db").touch()
    found = theirs.check()
    assert found.status == 2
    assert "No module named 'feast.infra.offline_stores.gone'" in found.err
    assert "was written for another one" in found.err


def test_rows_of_one_moment_are_ties_of_a_view_without_entities(theirs):
    schema = [Field(name="total", dtype=Float64)]
    source = theirs.write("all", orders(theirs.now, keys=5).drop(columns="customer_id"))
    theirs.apply(FeatureView(name="overall", entities=[], ttl=10 * DAY, schema=schema, source=source))
    theirs.materialize()
    found = theirs.check()
    assert "Keys with ties in the source: 1 in overall." in found.out
    assert "For example the view without entities: total is " in found.out
