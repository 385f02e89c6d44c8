"""`parity check` on keys, views and services of every shape."""

import pandas as pd
import pytest
from feast import (
    Entity,
    FeatureService,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    LabelView,
    PushSource,
    RequestSource,
    StreamFeatureView,
    ValueType,
)
from feast.data_format import JsonFormat
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import (
    Array,
    Bool,
    Bytes,
    Decimal,
    Float32,
    Float64,
    Int32,
    Int64,
    Json,
    Map,
    Set,
    String,
    Struct,
    UnixTimestamp,
    Uuid,
)
from redis import Redis

from tests.strangers import DAY, HOUR, customers, orders, stranger


@pytest.fixture(params=[pytest.param("dask sqlite", marks=pytest.mark.scale), "duckdb redis"])
def theirs(request, tmp_path, capfd):
    offline, online = request.param.split()
    stores = None
    if online == "redis":
        port = request.getfixturevalue("redis_port")
        stores = {"type": "redis", "connection_string": f"localhost:{port}"}
    made = stranger(tmp_path, capfd, offline, stores, project=f"t{abs(hash(request.node.name)) % 10**9}")
    yield made
    made.forget()


def test_text_keys_are_compared(theirs):
    frame = orders(theirs.now)
    frame["customer_id"] = "c-" + frame["customer_id"].astype(str)
    made = customers(theirs.write("orders", frame), key_type=String, value_type=ValueType.STRING)
    theirs.apply(*made)
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 40)


def test_instants_are_keys_that_are_found_online_too(theirs):
    frame = orders(theirs.now)
    frame["customer_id"] = [theirs.now - key * HOUR for key in frame["customer_id"]]
    made = customers(theirs.write("orders", frame), key_type=UnixTimestamp, value_type=ValueType.UNIX_TIMESTAMP)
    theirs.apply(*made)
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.compared("customers")["keys"]) == (0, [], 20)
    theirs.write("orders", frame[frame["customer_id"] < theirs.now - 3 * HOUR])
    found = theirs.check()
    assert (found.status, found.kinds, found.of("deleted")["keys"]) == (1, ["deleted"], 3)


def test_keys_of_several_columns_are_compared(theirs):
    frame = orders(theirs.now)
    frame["shop"] = ["a" if key % 2 else "b" for key in frame["customer_id"]]
    one = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    two = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
    view = FeatureView(
        name="in_shops",
        entities=[one, two],
        ttl=10 * DAY,
        schema=[Field(name="total", dtype=Float64), Field(name="shop", dtype=String)],
        source=theirs.write("orders", frame),
    )
    theirs.apply(one, two, view)
    theirs.materialize()
    frame.loc[frame["customer_id"] == 3, "total"] += 1
    theirs.write("orders", frame)
    found = theirs.check()
    assert (found.status, found.kinds, found.of("correction")["keys"]) == (1, ["correction"], 1)
    assert found.of("correction")["examples"][0]["key"] == {"customer_id": 3, "shop": "a"}


def test_a_view_without_entities_is_compared(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd)  # with duckdb, Feast 0.67 can't materialize one
    frame = orders(theirs.now, keys=1).drop(columns="customer_id")
    schema = [Field(name="total", dtype=Float64), Field(name="orders", dtype=Int64)]
    view = FeatureView(name="overall", entities=[], ttl=10 * DAY, schema=schema, source=theirs.write("all", frame))
    theirs.apply(view)
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 2)
    theirs.write("all", frame.assign(total=frame["total"] + 1))
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["correction"])


def test_values_of_every_type_are_equal_where_they_are(theirs):
    frame = orders(theirs.now, rows=1)
    frame["small"] = frame["customer_id"].astype("int32")
    frame["single"] = (frame["customer_id"] / 7).astype("float32")
    frame["text"] = ["" if key == 1 else f"é{key}" for key in frame["customer_id"]]
    frame["flag"] = frame["customer_id"] % 2 == 0
    frame["raw"] = [f"{key}".encode() for key in frame["customer_id"]]
    frame["since"] = [theirs.now - key * HOUR for key in frame["customer_id"]]
    frame["ids"] = [[key, key + 1] for key in frame["customer_id"]]
    frame["weights"] = [[key / 3, -0.0] for key in frame["customer_id"]]
    frame["words"] = [["a", f"{key}"] for key in frame["customer_id"]]
    frame["some"] = [None if key % 3 else key / 3 for key in frame["customer_id"]]
    frame["maybe"] = [None if key % 3 else f"{key}" for key in frame["customer_id"]]
    types = {
        "small": Int32,
        "single": Float32,
        "text": String,
        "flag": Bool,
        "raw": Bytes,
        "since": UnixTimestamp,
        "ids": Array(Int64),
        "weights": Array(Float64),
        "words": Array(String),
        "some": Float64,
        "maybe": String,
    }
    fields = [Field(name=name, dtype=kind) for name, kind in types.items()]
    theirs.apply(*customers(theirs.write("orders", frame), fields=fields))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds) == (0, [])
    assert found.compared("customers")["null_on_both_sides"] == 28


def test_a_service_with_aliases_and_other_keys_is_compared(theirs):
    made = customers(theirs.write("orders", orders(theirs.now)))
    buyer = made[1].with_name("buyer").with_join_key_map({"customer_id": "buyer_id"})
    seller = made[1][["total"]].with_name("seller").with_join_key_map({"customer_id": "seller_id"})
    theirs.apply(*made, FeatureService(name="deals", features=[buyer, seller]))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds) == (0, [])
    assert [one["name"] for one in found.said["compared"]] == ["customers", "deals"]
    assert found.compared("deals")["values"] == found.compared("deals")["equal"] >= 60
    only = theirs.check("--service", "deals")
    assert [one["name"] for one in only.said["compared"]] == ["deals"]


def test_a_mapped_key_beside_one_of_the_same_name_is_mixed_up_by_serving(theirs):
    frame = orders(theirs.now)
    made = customers(theirs.write("orders", frame))
    seller = made[1].with_name("seller").with_join_key_map({"customer_id": "seller_id"})
    visits = FeatureView(
        name="visits",
        entities=[made[0]],
        schema=[Field(name="visited", dtype=Int64)],
        source=theirs.write("visits", frame.assign(visited=frame["orders"])),
    )
    theirs.apply(*made, visits, FeatureService(name="deals", features=[seller, visits]))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["key-mixed"])
    assert [found.compared(name)["differing"] for name in ("customers", "visits")] == [0, 0]
    assert found.of("key-mixed")["features"].keys() == {"total", "orders"}
    assert "takes the first, its serving either" in found.out


def test_keys_that_pairs_share_are_compared_in_dask_too(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd)
    made = customers(theirs.write("orders", orders(theirs.now, keys=3)))
    shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.INT64)
    shops = FeatureView(
        name="shops",
        entities=[shop],
        schema=[Field(name="shop_id", dtype=Int64), Field(name="orders", dtype=Int64)],
        source=theirs.write("shops", orders(theirs.now, keys=7).rename(columns={"customer_id": "shop_id"})),
    )
    theirs.apply(*made, shop, shops, FeatureService(name="both", features=[made[1].with_name("buyer"), shops]))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds) == (0, [])
    assert (found.compared("both")["keys"], found.compared("both")["equal"]) == (7, 21)


def test_a_stream_view_with_a_batch_source_is_compared(theirs):
    batch = theirs.write("orders", orders(theirs.now))
    entity = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    source = KafkaSource(
        name="events",
        kafka_bootstrap_servers="nowhere:9092",
        topic="orders",
        timestamp_field="event_timestamp",
        message_format=JsonFormat(schema_json="customer_id long"),
        batch_source=batch,
    )
    schema = [Field(name=name, dtype=kind) for name, kind in (("customer_id", Int64), ("total", Float64))]
    view = StreamFeatureView(name="live", entities=[entity], ttl=10 * DAY, schema=schema, source=source)
    theirs.apply(entity, view)
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 20)


def test_rows_pushed_online_only_are_named(theirs):
    frame = orders(theirs.now)
    source = PushSource(name="pushed", batch_source=theirs.write("orders", frame))
    theirs.apply(*customers(source))
    theirs.materialize()
    pushed = pd.DataFrame(
        {"customer_id": [1, 99], "event_timestamp": [theirs.now] * 2, "total": [7.0, 8.0], "orders": [1, 2]}
    )
    theirs.store.push("pushed", pushed)
    found = theirs.check()
    assert (found.status, found.kinds, found.of("pushed")["keys"]) == (1, ["pushed"], 2)


def test_request_data_are_made_up_alike_for_both_sides(theirs):
    made = customers(theirs.write("orders", orders(theirs.now)))
    asked = RequestSource(name="asked", schema=[Field(name="rate", dtype=Float64), Field(name="who", dtype=String)])

    @on_demand_feature_view(sources=[made[1], asked], schema=[Field(name="worth", dtype=Float64)])
    def worth(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"worth": inputs["total"] * inputs["rate"]})

    theirs.apply(*made, worth)
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.compared("worth")["equal"]) == (0, [], 20)


TYPES_OF_REQUESTS = {
    "instant": UnixTimestamp, "raw": Bytes, "sizes": Array(Float64), "ids": Array(Int64), "words": Array(String),
    "times": Array(UnixTimestamp), "names": Set(String), "options": Json, "car": Map, "price": Decimal, "uuid": Uuid,
    "point": Struct({"x": Float64, "label": String}),
}  # fmt: skip


def test_request_data_of_any_type_are_made_up(theirs):
    made = customers(theirs.write("orders", orders(theirs.now)))
    fields = [Field(name=name, dtype=kind) for name, kind in TYPES_OF_REQUESTS.items()]

    @on_demand_feature_view(
        sources=[made[1], RequestSource(name="asked", schema=fields)], schema=[Field(name="said", dtype=String)]
    )
    def said(inputs: pd.DataFrame) -> pd.DataFrame:
        texts = inputs["options"].map(str) + inputs["point"].map(lambda point: str(sorted(point or {})))
        texts += inputs["sizes"].map(sum).map(str) + inputs["words"].map(" ".join) + inputs["instant"].map(str)
        texts += inputs["names"].map(sorted).map(str) + inputs["price"].map(str) + inputs["uuid"].map(str)
        return pd.DataFrame({"said": texts + inputs["raw"].map(str) + inputs["car"].map(str)})

    theirs.apply(*made, said)
    theirs.materialize()
    found = theirs.check("--view", "said")
    assert (found.status, found.kinds, found.compared("said")["equal"]) == (0, [], 20)


def test_request_data_that_a_view_does_not_take_are_those_that_it_was_applied_with(theirs):
    made = customers(theirs.write("orders", orders(theirs.now)))
    asked = RequestSource(name="asked", schema=[Field(name="level", dtype=String)])

    @on_demand_feature_view(sources=[made[1], asked], schema=[Field(name="worth", dtype=Float64)])
    def worth(inputs: pd.DataFrame) -> pd.DataFrame:
        levels = {"gold": 2.0, "hello world": 0.5}  # the latter, as Feast tries it when it is applied
        return pd.DataFrame({"worth": inputs["level"].map(lambda level: levels[level])})

    theirs.apply(*made, worth)
    theirs.materialize()
    found = theirs.check("--view", "worth")
    assert (found.status, found.kinds, found.compared("worth")["equal"]) == (0, [], 20)


def test_keys_that_both_sides_fail_for_are_a_crash_unless_that_may_be_for_what_is_made_up(theirs):
    made = customers(theirs.write("orders", orders(theirs.now)))
    asked = RequestSource(name="asked", schema=[Field(name="rate", dtype=Float64)])

    fields = [Field(name="worth", dtype=Float64)]

    @on_demand_feature_view(sources=[made[1]], schema=fields)
    def plain(inputs: pd.DataFrame) -> pd.DataFrame:
        if (inputs["total"] > 200).any():
            raise ValueError("too much")
        return pd.DataFrame({"worth": inputs["total"] * 2})

    @on_demand_feature_view(sources=[made[1], asked], schema=fields)
    def asking(inputs: pd.DataFrame) -> pd.DataFrame:
        if (inputs["total"] > 200).any():
            raise ValueError("too much")
        return pd.DataFrame({"worth": inputs["total"] * 2})

    theirs.apply(*made, plain, asking)
    theirs.materialize()
    found = theirs.check("--view", "plain")
    assert (found.status, found.kinds, found.compared("plain")["equal"]) == (1, ["crash"], 19)
    assert found.of("crash")["features"] == {"all, by an error in both": 1}
    found = theirs.check("--view", "asking")
    assert (found.status, found.kinds, found.compared("asking")["equal"]) == (0, [], 19)
    assert "both sides fail for 1 of the keys, with request data that are made up here: ValueError" in found.out


def test_an_on_demand_view_of_another_is_said_to_fail_on_both_sides(theirs):
    made = customers(theirs.write("orders", orders(theirs.now)))

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="twice", dtype=Float64)])
    def first(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["total"] * 2})

    @on_demand_feature_view(sources=[first.projection, made[1]], schema=[Field(name="more", dtype=Float64)])
    def second(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"more": inputs["twice"] * inputs["total"]})

    theirs.apply(*made, first, second)
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.compared("first")["equal"]) == (2, 20)
    error = found.compared("second")["error"]
    assert "it is computed of the on-demand view first, which Feast" in error
    assert "fail" in error


def test_a_service_with_a_view_and_what_is_computed_of_it_finds_the_causes_of_both(theirs):
    frame = orders(theirs.now)
    made = customers(theirs.write("orders", frame))

    @on_demand_feature_view(sources=[made[1]], schema=[Field(name="twice", dtype=Float64)])
    def computed(inputs: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"twice": inputs["total"] * 2})

    theirs.apply(*made, computed, FeatureService(name="both", features=[computed, made[1]]))
    theirs.materialize()
    theirs.write("orders", frame.assign(total=frame["total"] + 1))
    found = theirs.check("--service", "both")
    assert (found.status, found.kinds) == (1, ["correction", "inherited correction"])
    assert found.said["differing"] == 40


def labels(theirs, frame, **more):
    """A label view of customers, with its push source."""
    entity = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    source = PushSource(name="labelled", batch_source=theirs.write("labels", frame))
    types = {"customer_id": Int64, "labeler": String, "good": Int64}
    schema = [Field(name=name, dtype=kind) for name, kind in types.items()]
    return [entity, LabelView(name="labels", entities=[entity], schema=schema, source=source, **more)]


def test_label_views_are_compared_and_those_without_labels_are_left(theirs):
    frame = orders(theirs.now, good=1, labeler="me")[["customer_id", "event_timestamp", "good", "labeler"]]
    theirs.apply(*labels(theirs, frame[:0]))
    found = theirs.check()
    assert found.said["not_compared"] == {"labels": "it has no labels yet, offline or online"}
    theirs.write("labels", frame)
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["never-materialized"])
    assert "label views are not materialized" in found.of("never-materialized")["advice"]
    theirs.store.push("labelled", frame)
    found = theirs.check()
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 40)
    assert found.said["compared"][0]["what"] == "label view"
    theirs.write("labels", frame.assign(good=0))
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["correction"])


def test_what_has_not_two_sides_is_said_not_to_be_compared(theirs):
    made = customers(theirs.write("orders", orders(theirs.now)), online=False)
    theirs.apply(*made)
    found = theirs.check()
    assert (found.status, found.said["not_compared"]) == (2, {"customers": "customers is not served: online=False"})


def test_json_is_text_on_one_side(theirs):
    frame = orders(theirs.now, options=lambda key: f'{{"level": {key}}}')
    fields = [Field(name="options", dtype=Json), Field(name="total", dtype=Float64)]
    theirs.apply(*customers(theirs.write("orders", frame), fields=fields))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.of("json")["keys"]) == (1, ["json"], 20)
    assert theirs.check("--accept", "json").status == 0


def test_columns_of_other_names_are_compared(theirs):
    frame = orders(theirs.now).rename(columns={"total": "sum", "customer_id": "cust", "event_timestamp": "at"})
    path = theirs.root / "renamed.parquet"
    frame.to_parquet(path)
    source = FileSource(
        name="renamed",
        path=str(path),
        timestamp_field="at",
        field_mapping={"sum": "total", "cust": "customer_id"},
    )
    theirs.apply(*customers(source))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 40)
    frame["sum"] += 1
    frame.to_parquet(path)
    found = theirs.check()
    assert (found.status, found.kinds) == (1, ["correction"])


def test_maps_are_objects_on_both_sides(theirs):
    frame = orders(theirs.now)
    frame["car"] = [{"make": "vw", "year": f"{key}"} for key in frame["customer_id"]]
    fields = [Field(name="car", dtype=Map), Field(name="total", dtype=Float64)]
    theirs.apply(*customers(theirs.write("orders", frame), fields=fields))
    theirs.materialize()
    found = theirs.check()
    assert (found.status, found.kinds) == (0, [])


def test_rows_of_the_very_instant_that_is_asked_for_are_seen_for_two_entities(tmp_path, capfd):
    theirs = stranger(tmp_path, capfd)  # dask takes rows of an instant for the same that share a key
    at = theirs.now - 3 * HOUR
    users, shops = ({name: range(number), "event_timestamp": at} for name, number in (("uid", 60), ("shop", 50)))
    views, entities = [], []
    for name, columns in (("uid", users), ("shop", shops)):
        frame = pd.DataFrame(columns)
        frame[f"x_{name}"] = frame[name] / 7
        entities.append(Entity(name=f"e_{name}", join_keys=[name], value_type=ValueType.INT64))
        fields, source = [Field(name=f"x_{name}", dtype=Float64)], theirs.write(name, frame)
        views.append(FeatureView(name=f"v_{name}", entities=entities[-1:], ttl=DAY, schema=fields, source=source))
    theirs.apply(*entities, *views, FeatureService(name="both", features=views[::-1]))
    theirs.materialize()
    found = theirs.check("--service", "both", "--at", at.isoformat())
    assert (found.status, found.kinds) == (0, [])
    assert found.compared("both")["equal"] == 2 * found.compared("both")["keys"] == 120
    found = theirs.check("--service", "both", "--at", (at + DAY).isoformat())
    assert (found.status, found.kinds) == (0, [])


def test_a_missing_event_time_in_redis_is_none_of_the_source(tmp_path, capfd, redis_port):
    stores = {"type": "redis", "connection_string": f"localhost:{redis_port}"}
    theirs = stranger(tmp_path, capfd, "dask", stores, project="undated")
    theirs.apply(*customers(theirs.write("orders", orders(theirs.now, keys=3))))
    theirs.materialize()
    client = Redis(port=redis_port)
    [first, *_] = client.keys("*undated")
    client.hset(first, "_ts:customers", b"")  # which is how protobuf writes the first instant
    found = theirs.check()
    assert (found.status, found.kinds, found.of("event-time")["keys"]) == (1, ["event-time"], 1)
    theirs.forget()
