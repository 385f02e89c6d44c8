"""The online store's guarantees, on a real Redis, through Feast's own calls."""

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64
from hypothesis import given
from hypothesis import strategies as st

from parity.definition.instants import EPOCH
from parity.definition.keys import KEY_TYPES, as_table, as_tuples, key_schema
from parity.online.encoding import KeyEncoding, entity_keys, redis_key
from parity.online.requests import InvalidRequest
from parity.online.scanning import Leftovers
from parity.online.scripts import ForeignKeys
from parity.online.side import key_of, online_store_of, redis_keys, stored_events, stored_rows
from parity.online.store import ParityRedisOnlineStore
from parity.proof.sides import serving_values
from tests.definition import AVERAGE, TOTAL, TTL, aggregation, customers_in_stores, purchases
from tests.definition import table as table_of
from tests.online import NOW, STOCK, opened, rows_of

VIEW, SERVICE = "purchases", "purchases_service"
MICROSECOND = timedelta(microseconds=1)


@pytest.fixture
def table(tmp_path):
    return purchases(tmp_path)


@pytest.fixture
def store(tmp_path, redis_port, table):
    """The applied store, whose clock stands at NOW."""
    return opened(tmp_path, redis_port, [table])


@pytest.fixture
def client(redis_port):
    with redis.Redis(port=redis_port) as client:
        yield client


def at(store: FeatureStore, instant: datetime) -> FeatureStore:
    online_store_of(store).now = lambda: instant
    return store


def write(store: FeatureStore, user: int, instant: datetime, average: float, total: int = 1) -> None:
    row = {"user_id": [user], "event_timestamp": [instant], AVERAGE: [average], TOTAL: [total]}
    store.write_to_online_store(VIEW, pd.DataFrame(row))


def read(store: FeatureStore, user: int = 1) -> tuple:
    answer = store.get_online_features(store.get_feature_service(SERVICE), [{"user_id": user}]).to_dict()
    return answer[AVERAGE][0], answer[TOTAL][0]


def statuses(response) -> list[str]:
    names = response.proto.metadata.feature_names.val
    return [
        FieldStatus.Name(result.statuses[0])
        for name, result in zip(names, response.proto.results, strict=True)
        if name != "user_id"
    ]


class TestAge:
    @pytest.mark.smoke
    def test_a_value_whose_age_is_exactly_the_ttl_is_served(self, store):
        write(store, 1, NOW - TTL, 5.0)
        assert read(store) == (5.0, 1)

    def test_a_value_a_microsecond_older_than_the_ttl_is_null(self, store):
        write(store, 1, NOW - TTL - MICROSECOND, 5.0)
        assert read(store) == (None, None)

    def test_the_status_tells_present_from_expired_from_unknown(self, store):
        write(store, 1, NOW, 5.0)
        write(store, 2, NOW - TTL - MICROSECOND, 5.0)
        service = store.get_feature_service(SERVICE)

        async def ask_async(user):
            return await store.get_online_features_async(service, [{"user_id": user}])

        for user, status in [(1, "PRESENT"), (2, "OUTSIDE_MAX_AGE"), (3, "NOT_FOUND")]:
            assert statuses(store.get_online_features(service, [{"user_id": user}])) == [status] * 2
            assert statuses(asyncio.run(_fresh_async(store, ask_async, user))) == [status] * 2

    def test_many_users_asked_at_once_each_get_their_own_status_also_when_asked_twice(self, store):
        write(store, 1, NOW, 5.0)
        write(store, 2, NOW - TTL - MICROSECOND, 6.0)
        users = [3, 2, 1, 2, 3, 1]
        response = store.get_online_features(store.get_feature_service(SERVICE), [{"user_id": user} for user in users])
        assert response.to_dict()[AVERAGE] == [None, None, 5.0, None, None, 5.0]
        assert response.to_dict()["user_id"] == users
        result = response.proto.results[list(response.proto.metadata.feature_names.val).index(AVERAGE)]
        names = [FieldStatus.Name(status) for status in result.statuses]
        expected = {1: "PRESENT", 2: "OUTSIDE_MAX_AGE", 3: "NOT_FOUND"}
        assert names == [expected[user] for user in users]

    def test_a_feature_that_was_never_written_is_not_found(self, store, client):
        write(store, 1, NOW, 5.0)
        [key] = keys(store, client)
        [field] = [f for f in client.hkeys(key) if client.hget(key, f) == b"\x20\x01"]
        client.hdel(key, field)
        response = store.get_online_features([f"{VIEW}:{TOTAL}"], [{"user_id": 1}])
        assert statuses(response) == ["NOT_FOUND"]

    def test_the_first_instant_of_1970_is_an_instant_like_any_other(self, store):
        at(store, datetime(1970, 1, 2, tzinfo=UTC))
        write(store, 1, datetime(1970, 1, 1, tzinfo=UTC), 5.0)
        assert read(store) == (5.0, 1)
        write(store, 1, datetime(1969, 12, 31, tzinfo=UTC), 6.0)
        assert read(store) == (5.0, 1)

    def test_the_low_level_read_hides_what_is_expired_too(self, store, table):
        write(store, 1, NOW, 5.0)
        write(store, 2, NOW - TTL - MICROSECOND, 5.0)
        online, view = online_store_of(store), table.view
        (ts_1, values_1), (ts_2, values_2) = online.online_read(
            store.config, view, [key_of(table, (1,)), key_of(table, (2,))]
        )
        assert ts_1 == NOW
        assert values_1[AVERAGE].double_val == 5.0
        assert (ts_2, values_2) == (NOW - TTL - MICROSECOND, None)


class TestOrder:
    INSTANTS = (
        datetime(1, 1, 1, tzinfo=UTC),
        datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
        datetime(1970, 1, 1, tzinfo=UTC),
        datetime(1970, 1, 1, 0, 0, 0, 1, tzinfo=UTC),
        datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC),
        NOW - MICROSECOND,
        NOW,
    )

    @pytest.mark.parametrize("older", INSTANTS)
    @pytest.mark.parametrize("newer", INSTANTS)
    def test_a_newer_or_equal_event_replaces_and_an_older_one_does_not(self, store, older, newer, table):
        write(store, 1, older, 1.0)
        write(store, 1, newer, 2.0)
        [instant] = stored_events(store, table).events.tolist()
        assert instant.replace(tzinfo=UTC) == max(older, newer)

    def test_a_correction_at_the_same_instant_gets_through(self, store):
        write(store, 1, NOW, 1.0, 1)
        write(store, 1, NOW, 2.0, 3)
        assert read(store) == (2.0, 3)

    def test_within_one_batch_the_newest_wins_in_any_order(self, store):
        for order in ([0, 1, 2], [2, 1, 0], [1, 2, 0]):
            rows = pd.DataFrame(
                {
                    "user_id": 1,
                    "event_timestamp": [NOW - MICROSECOND * i for i in order],
                    AVERAGE: [float(i) for i in order],
                    TOTAL: 1,
                }
            )
            store.write_to_online_store(VIEW, rows)
            assert read(store) == (0.0, 1)

    def test_the_asynchronous_write_keeps_the_same_order(self, store):
        async def write_async(instant, average):
            row = {"user_id": [1], "event_timestamp": [instant], AVERAGE: [average], TOTAL: [1]}
            await store.write_to_online_store_async(VIEW, pd.DataFrame(row))

        for instant, average, expected in [
            (NOW - MICROSECOND, 1.0, 1.0),
            (NOW - 2 * MICROSECOND, 2.0, 1.0),
            (NOW - MICROSECOND, 3.0, 3.0),
            (NOW, 4.0, 4.0),
            (NOW + MICROSECOND, 5.0, 4.0),
        ]:
            asyncio.run(_fresh_async(store, write_async, instant, average))
            assert read(store) == (expected, 1)


async def _fresh_async(store, call, *arguments):
    """Await a call on an asynchronous client of its own: one belongs to one event loop."""
    online = online_store_of(store)
    try:
        return await call(*arguments)
    finally:
        await online._client_async.aclose()
        online._client_async = None


class TestFuture:
    def test_an_event_from_the_future_is_not_written(self, store, caplog):
        write(store, 1, NOW, 1.0)
        write(store, 1, NOW + MICROSECOND, 2.0)
        assert read(store) == (1.0, 1)
        assert "1 rows from after" in caplog.text

    def test_a_value_that_another_writer_put_in_the_future_is_not_served_until_then(self, store):
        at(store, NOW + timedelta(days=1))
        write(store, 1, NOW + timedelta(hours=1), 2.0)
        assert read(at(store, NOW)) == (None, None)
        assert read(at(store, NOW + timedelta(hours=1))) == (2.0, 1)

    def test_a_value_in_the_future_does_not_shut_out_the_present(self, store):
        at(store, NOW + timedelta(days=1))
        write(store, 1, NOW + timedelta(hours=1), 2.0)
        write(at(store, NOW), 1, NOW, 1.0)
        assert read(store) == (1.0, 1)

    def test_how_far_a_clock_may_be_ahead_can_be_declared(self, tmp_path, redis_port, table):
        store = opened(tmp_path, redis_port, [table], future_tolerance_seconds=2)
        write(store, 1, NOW + timedelta(seconds=2), 1.0)
        write(store, 2, NOW + timedelta(seconds=2) + MICROSECOND, 2.0)
        assert read(store, 1) == (1.0, 1)
        assert read(store, 2) == (None, None)

    def test_a_clock_that_may_be_ahead_makes_no_value_older_than_it_is(self, tmp_path, redis_port, table):
        store = opened(tmp_path, redis_port, [table], future_tolerance_seconds=3600)
        write(store, 1, NOW, 1.0)
        assert read(at(store, NOW + TTL)) == (1.0, 1)
        assert read(at(store, NOW + TTL + MICROSECOND)) == (None, None)


class TestReplace:
    """A row that gives way to an older one, in one step."""

    def test_the_older_row_takes_the_place_of_the_newer_one(self, store, table):
        view, online = table.view, online_store_of(store)
        write(store, 1, NOW, 1.0, 5)
        [(key, seen)] = online.scan(store.config, view)
        assert online.replace(store.config, view, rows_of(table, [(1, NOW - MICROSECOND, 2.0, 4)]), {key: seen}) == 1
        assert read(store) == (2.0, 4)

    def test_a_row_that_changed_since_it_was_seen_stays(self, store, table):
        view, online = table.view, online_store_of(store)
        write(store, 1, NOW - MICROSECOND, 1.0)
        [(key, seen)] = online.scan(store.config, view)
        write(store, 1, NOW, 3.0)
        assert (
            online.replace(store.config, view, rows_of(table, [(1, NOW - 2 * MICROSECOND, 2.0, 4)]), {key: seen}) == 0
        )
        assert read(store) == (3.0, 1)


class TestForeignKeys:
    """A key of this project that holds something else than a row."""

    @pytest.fixture
    def foreign(self, store, client, table) -> bytes:
        for user in (1, 2, 3):
            write(store, user, NOW - MICROSECOND, float(user))
        key = redis_keys(store, table, as_table([(2,)], table.definition.keys))[0]
        client.delete(key)
        client.rpush(key, "something")
        return key

    def test_all_others_are_served(self, store, foreign, caplog):
        service = store.get_feature_service(SERVICE)
        answer = store.get_online_features(service, {"user_id": [1, 2, 3]}).to_dict()
        assert answer[AVERAGE] == [1.0, None, 3.0]
        assert repr(foreign) in caplog.text
        assert read(store, 2) == (None, None)

    def test_it_is_logged_once_and_not_at_every_read(self, store, foreign, caplog):
        for _ in range(5):
            read(store, 2)
        assert caplog.text.count(repr(foreign)) == 1

    def test_all_others_are_written_and_the_key_is_named(self, store, foreign):
        rows = {"user_id": [1, 2, 3], "event_timestamp": NOW, AVERAGE: [4.0, 5.0, 6.0], TOTAL: 1}
        with pytest.raises(ForeignKeys) as error:
            store.write_to_online_store(VIEW, pd.DataFrame(rows))
        assert repr(foreign) in str(error.value)
        assert read(store, 1) == (4.0, 1)
        assert read(store, 3) == (6.0, 1)

    def test_it_is_found_by_a_scan_and_left_alone(self, store, foreign, client, table):
        leftovers = Leftovers()
        found = stored_events(store, table, leftovers)
        assert sorted(found.keys["user_id"].to_pylist()) == [1, 3]
        assert leftovers.foreign == [foreign]
        assert client.lrange(foreign, 0, -1) == [b"something"]


class TestFeastsOwnKinds:
    """Views and services of Feast's that this project does not make itself."""

    SPENT = Field(name="spent", dtype=Float64)

    def test_an_on_demand_view_that_is_written_is_read(self, store, table):
        @on_demand_feature_view(
            sources=[table.view],
            schema=[self.SPENT],
            write_to_online_store=True,
            entities=[store.get_entity("user")],
            mode="python",
        )
        def spent(inputs: dict) -> dict:
            both = zip(inputs["average_amount_3d"], inputs["purchases"], strict=True)
            return {"spent": [average * total for average, total in both]}

        store.apply([spent])
        row = {"user_id": [1], "event_timestamp": [NOW], AVERAGE: [2.5], TOTAL: [4]}
        at(store, datetime.now(UTC) + timedelta(hours=1))  # Feast gives such a row the time of its writing
        store.write_to_online_store("spent", pd.DataFrame(row))
        assert store.get_online_features(["spent:spent"], [{"user_id": 1}]).to_dict()["spent"] == [10.0]

    def test_a_service_with_precomputed_vectors_is_answered_from_the_rows(self, store, table):
        service = FeatureService(name="precomputed", features=[table.view], precompute_online=True)
        write(store, 1, NOW, 95.32)
        store.apply([service])
        store.precompute_feature_service("precomputed")
        write(store, 1, NOW, 96.0)
        service = store.get_feature_service("precomputed")
        assert store.get_online_features(service, [{"user_id": 1}]).to_dict()[AVERAGE] == [96.0]
        online_store_of(store).delete_table(store.config, table.view)
        assert store.get_online_features(service, [{"user_id": 1}]).to_dict()[AVERAGE] == [None]

    @pytest.mark.scale
    def test_a_view_of_five_thousand_features_is_written_read_and_deleted(self, store, tmp_path, table):
        names = [f"f{number}" for number in range(5_000)]
        source = FileSource(path=str(tmp_path / "wide.parquet"), timestamp_field="event_timestamp")
        schema = [Field(name="user_id", dtype=Int64), *(Field(name=name, dtype=Float64) for name in names)]
        wide = FeatureView(name="wide", entities=[store.get_entity("user")], schema=schema, source=source)
        columns = {name: [float(number), number + 0.5] for number, name in enumerate(names)}
        events = pa.array([NOW, NOW], pa.timestamp("us", "UTC"))
        pq.write_table(pa.table({"user_id": [1, 2], "event_timestamp": events, **columns}), tmp_path / "wide.parquet")
        store.apply([wide])
        store.materialize(NOW - TTL, NOW, ["wide"])
        answer = store.get_online_features(["wide:f4999", "wide:f0"], [{"user_id": 2}]).to_dict()
        assert (answer["f4999"], answer["f0"]) == ([4999.5], [0.5])
        online_store_of(store).delete_table(store.config, wide)
        assert list(online_store_of(store).scan(store.config, wide)) == []


class TestLeftBehind:
    """Fields of features that were renamed or dropped."""

    def test_a_view_that_is_deleted_takes_what_its_older_definitions_left_with_it(self, store, client, table):
        write(store, 1, NOW, 1.0)
        [key] = keys(store, client)
        client.hset(key, b"\x01\x02\x03\x04", b"left by a feature that was dropped")
        online_store_of(store).delete_table(store.config, table.view)
        assert keys(store, client) == []

    def test_fields_of_no_view_are_deleted_and_those_of_others_stay(self, store, client, table):
        write(store, 1, NOW, 1.0)
        write(store, 2, NOW, 1.0)
        one, two = keys(store, client)
        before = set(client.hkeys(one))
        for key in (one, two):
            client.hset(key, b"\x01\x02\x03\x04", b"left")
        client.hset(two, "_ts:a_view_of_another_registry", b"")
        leftovers = Leftovers()
        stored_events(store, table, leftovers)
        assert set(leftovers.fuller) == {one, two}
        deleted = online_store_of(store).delete_unknown_fields(store.config, leftovers.fuller, store.list_feature_views)
        assert deleted == 1
        assert set(client.hkeys(one)) == before
        assert client.hexists(two, b"\x01\x02\x03\x04")


class TestLayout:
    """Stock readers and writers share the keys, the fields and the bytes."""

    @pytest.fixture
    def stock(self, tmp_path, redis_port, store, table):
        """Stock Feast's store on the same project."""
        return opened(tmp_path, redis_port, [table], STOCK, project=store.project)

    def test_stock_reads_what_this_store_wrote(self, store, stock):
        write(store, 1, NOW, 19.99, 7)
        assert read(stock) == (19.99, 7)

    def test_this_store_reads_what_stock_wrote(self, store, stock):
        write(stock, 1, NOW, 19.99, 7)
        assert read(store) == (19.99, 7)

    def test_the_same_bytes_as_stock(self, store, stock, client):
        instants = [NOW, NOW.replace(microsecond=0), datetime(1970, 1, 1, tzinfo=UTC)]
        written = []
        for target in (store, stock):
            for user, instant in enumerate(instants):
                write(target, user, instant, 19.99, user)
            written.append({key: client.hgetall(key) for key in keys(store, client)})
            client.delete(*keys(store, client))
        assert written[0] == written[1]
        assert len(written[0]) == 3


def keys(store: FeatureStore, client: redis.Redis) -> list[bytes]:
    return sorted(client.scan_iter(b"*" + store.project.encode()))


class TestNeighbours:
    def test_keys_of_a_project_whose_name_ends_alike_are_not_ours(self, store, client, table):
        write(store, 1, NOW, 1.0)
        [key] = keys(store, client)
        name = store.project.encode()
        neighbour = key.removesuffix(name) + b"my_" + name
        client.hset(neighbour, mapping=client.hgetall(key))
        assert stored_events(store, table).found == [(key, client.hget(key, f"_ts:{VIEW}"))]
        store.teardown()
        assert not client.exists(key)
        assert client.exists(neighbour)
        client.delete(neighbour)

    def test_deleting_a_view_deletes_its_rows_and_no_other_field(self, store, client, table):
        write(store, 1, NOW, 1.0)
        [key] = keys(store, client)
        client.hset(key, "_ts:another_view", b"")
        online_store_of(store).delete_table(store.config, table.view)
        assert client.hkeys(key) == [b"_ts:another_view"]
        client.delete(key)

    def test_a_text_of_eight_bytes_is_no_int64_user(self, store, client, table):
        text = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val="12345678")])
        key = redis_key(store.project, text)
        write(store, 1, NOW, 1.0)
        [of_user] = keys(store, client)
        client.hset(key, f"_ts:{VIEW}", client.hget(of_user, f"_ts:{VIEW}"))
        found = stored_events(store, table)
        assert found.keys["user_id"].to_pylist() == [1]
        assert str(found.others) == "1 key of another type in Redis (user_id '12345678' of type string)"
        assert found.others.found == ((key, found.found[0][1]),)
        client.delete(key)

    def test_a_row_that_changed_since_it_was_seen_is_not_retracted(self, store, table):
        view, online = table.view, online_store_of(store)
        write(store, 1, NOW - MICROSECOND, 1.0)
        seen = list(online.scan(store.config, view))
        write(store, 1, NOW, 2.0)
        assert online.retract(store.config, view, seen) == 0
        assert read(store) == (2.0, 1)


def test_key_ttl_seconds_is_kept_as_stock_keeps_it(tmp_path, redis_port, table, client):
    store = opened(tmp_path, redis_port, [table], key_ttl_seconds=500)
    write(store, 1, NOW, 1.0)
    [key] = keys(store, client)
    assert 490 < client.ttl(key) <= 500


def test_every_call_is_bounded_in_time_unless_the_connection_string_says_otherwise():
    parse = ParityRedisOnlineStore._parse_connection_string
    assert parse("localhost:6379")[1].items() >= {"socket_timeout": 2, "socket_connect_timeout": 2}.items()
    assert parse("localhost:6379,socket_timeout=9,db=1")[1]["socket_timeout"] == 9


def test_a_redis_that_went_away_and_came_back_empty_takes_writes_again(store, client):
    write(store, 1, NOW, 1.0)
    client.script_flush()  # a restarted Redis knows no scripts
    write(store, 1, NOW, 2.0)
    assert read(store) == (2.0, 1)


def test_a_lost_redis_raises(store):
    config = store.config.online_store
    config.connection_string = "localhost:1"
    online_store_of(store)._client = None
    with pytest.raises(redis.ConnectionError):
        read(store)


VALUES = {
    "INT32": st.integers(-(2**31), 2**31 - 1),
    "INT64": st.integers(-(2**63), 2**63 - 1),
    "STRING": st.text(st.characters(exclude_categories=["Cs"])),
    "BOOL": st.booleans(),
    "BYTES": st.binary(),
    "UNIX_TIMESTAMP": st.integers(-(10**10), 2 * 10**11).map(lambda seconds: EPOCH + timedelta(seconds=seconds)),
}
NAMES = st.sampled_from(["user_id", "id", "ü", "Z", "a", "aa", ""])


SCHEMAS = st.dictionaries(NAMES, st.sampled_from(sorted(KEY_TYPES)), min_size=1, max_size=3)
"""The types of one join key or several, whose names are in any order."""


def keys_of(types: dict[str, str]) -> st.SearchStrategy[pa.Table]:
    schema = key_schema({name: KEY_TYPES[type] for name, type in types.items()})
    keys = st.lists(st.tuples(*(VALUES[type] for type in types.values())), max_size=5)
    return keys.map(lambda keys: as_table(keys, schema))


class TestKeyBytes:
    @given(SCHEMAS.flatmap(keys_of))
    def test_keys_are_written_as_feast_writes_them_and_read_back(self, keys):
        encoding = KeyEncoding(keys.schema, "name")
        stored = encoding.encode(keys)
        for key, entity in zip(stored, entity_keys(keys), strict=True):
            assert key == redis_key("name", entity)
            if not any(value.HasField("bool_val") for value in entity.entity_values):
                assert key == serialize_entity_key(entity, 3) + b"name"
        found, own = encoding.decode(stored)
        assert own.all()
        assert found.equals(keys)

    @given(st.data(), st.binary(max_size=12))
    def test_keys_of_other_types_and_other_bytes_are_not_taken_for_keys(self, data, more):
        types = data.draw(SCHEMAS)
        changed = {name: data.draw(st.sampled_from(sorted(KEY_TYPES.keys() - {type}))) for name, type in types.items()}
        keys, others = data.draw(keys_of(types)), data.draw(keys_of(types | dict([changed.popitem()])))
        encoding = KeyEncoding(keys.schema, "name")
        stored, strange = encoding.encode(keys), KeyEncoding(others.schema, "name").encode(others)
        spoilt = [key.removesuffix(b"name") + b"x" + more + b"name" for key in stored]
        found, own = encoding.decode([*strange, *stored, *spoilt])
        assert own.tolist() == [False] * len(strange) + [True] * len(stored) + [False] * len(spoilt)
        assert found.equals(keys)
        assert all(key in encoding for key in [*stored, *strange])
        assert not any(key in encoding for key in spoilt)

    @pytest.mark.parametrize(
        "value", [Value(bool_val=True), Value(bool_val=False), Value(string_val="\x00"), Value(bytes_val=b"\xff")]
    )
    def test_a_bool_stands_in_the_layout_that_other_values_have(self, value):
        entity = EntityKey(join_keys=["b", "a"], entity_values=[value, Value(int64_val=7)])
        one = redis_key("name", entity)
        prefix = b"\x02\0\0\0" + b"\x02\0\0\0\x01\0\0\0a" + b"\x02\0\0\0\x01\0\0\0b"
        assert one.startswith(prefix + b"\x04\0\0\0\x08\0\0\0\x07\0\0\0\0\0\0\0")
        if value.HasField("bool_val"):
            assert one.endswith(b"\x07\0\0\0\x01\0\0\0" + bytes([value.bool_val]) + b"name")

    def test_a_text_that_is_none_and_a_bool_of_another_byte_are_of_another_type(self):
        for type, size, content in (("STRING", 1, b"\xff"), ("BOOL", 1, b"\x02")):
            encoding = KeyEncoding(key_schema({"id": KEY_TYPES[type]}), "name")
            number = {"STRING": 2, "BOOL": 7}[type]
            key = encoding.prefix + bytes([number, 0, 0, 0, size, 0, 0, 0]) + content + b"name"
            assert encoding.decode([key])[1].tolist() == [False]
            assert key in encoding

    def test_a_date_that_no_datetime_holds_is_of_another_type(self):
        encoding = KeyEncoding(key_schema({"id": KEY_TYPES["UNIX_TIMESTAMP"]}), "name")
        [good] = encoding.encode(as_table([(NOW.replace(microsecond=0),)], encoding.schema))
        bad = good[:-12] + b"\xff" * 7 + b"\x7f" + b"name"
        assert encoding.decode([good, bad])[1].tolist() == [True, False]
        assert encoding.shown(bad) == f"id {2**63 - 1} of type unix_timestamp"


SOME = {
    "INT32": [(1,), (-(2**31),), (0,)],
    "INT64": [(1,), (2**63 - 1,), (0,)],
    "STRING": [("0042",), ("ü" * 200,), ("",)],
    "BOOL": [(True,), (False,)],
    "BYTES": [(b"a",), (b"\xff\x00",), (b"",)],
    "UNIX_TIMESTAMP": [
        (NOW.replace(microsecond=0),),
        (datetime(1950, 1, 1, tzinfo=UTC),),
        (datetime(1970, 1, 1, tzinfo=UTC),),
    ],
}


class TestKeysOfAnyType:
    """What holds of int64 keys holds of all types, and of several join keys."""

    @pytest.fixture(params=[*SOME, "two"])
    def shop(self, request, tmp_path, redis_port):
        """A store, a table, and some of its keys."""
        if request.param == "two":
            table = customers_in_stores(tmp_path)
            return opened(tmp_path, redis_port, [table]), table, [("0042", 7), ("42", 7), ("", -1)]
        entity = Entity(name="thing", join_keys=["id"], value_type=ValueType[request.param])
        table = table_of(tmp_path, "things", [entity], [aggregation("mean", "x", 3), aggregation("count", "x")])
        return opened(tmp_path, redis_port, [table]), table, SOME[request.param]

    def features(self, table, number: int) -> list:
        return [float(number) if rule.type == pa.float64() else number for rule in table.definition.rules]

    def test_they_are_written_served_found_and_retracted(self, shop):
        store, table, keys = shop
        rows = rows_of(table, [(*key, NOW, *self.features(table, number)) for number, key in enumerate(keys)])
        store.write_to_online_store(table.name, rows.to_pandas())
        asked = as_table(keys, table.definition.keys)
        for values in serving_values(store, table, asked).values():
            assert values == list(range(len(keys)))
        found = stored_events(store, table)
        assert sorted(as_tuples(found.keys), key=str) == sorted(keys, key=str)
        assert found.others.count == 0
        assert [event for event, _ in stored_rows(store, table, asked)] == [NOW] * len(keys)
        some = found[np.array([key == keys[0] for key in as_tuples(found.keys)])]
        assert online_store_of(store).retract(store.config, table.view, some.found) == 1
        for values in serving_values(store, table, asked).values():
            assert values == [None, *range(1, len(keys))]

    def test_asynchronously_too(self, shop):
        store, table, keys = shop
        rows = rows_of(table, [(*key, NOW, *self.features(table, number)) for number, key in enumerate(keys)])

        async def write_and_read():
            await store.write_to_online_store_async(table.name, rows.to_pandas())
            asked = [dict(zip(table.definition.keys.names, key, strict=True)) for key in keys]
            return (await store.get_online_features_async(table.service, asked)).to_dict()

        answer = asyncio.run(_fresh_async(store, write_and_read))
        assert answer[table.definition.rules[0].name] == list(range(len(keys)))

    def test_one_that_is_not_known_is_null(self, shop):
        store, table, keys = shop
        for values in serving_values(store, table, as_table(keys, table.definition.keys)).values():
            assert values == [None] * len(keys)

    def test_a_row_under_a_key_of_another_type_is_named(self, shop, client):
        store, table, keys = shop
        write = rows_of(table, [(*keys[0], NOW, *self.features(table, 1))])
        store.write_to_online_store(table.name, write.to_pandas())
        [(key, event)] = stored_events(store, table).found
        other = "INT64" if table.definition.keys.types[0] != pa.int64() else "STRING"
        entity = EntityKey(
            join_keys=table.definition.keys.names,
            entity_values=[Value(string_val="7") if other == "STRING" else Value(int64_val=7)]
            * len(table.definition.keys),
        )
        client.hset(redis_key(store.project, entity), f"_ts:{table.name}", event)
        found = stored_events(store, table)
        assert found.found == [(key, event)]
        assert found.others.count == 1
        assert f"of type {other.lower()}" in str(found.others)


TEXTS = {
    "INT64": {"7": 7, "-7": -7},
    "STRING": {"007": "007", "true": "true"},
    "BOOL": {"true": True, "FALSE": False},
    "BYTES": {"abc": b"abc", "caf\u00e9": b"caf\xc3\xa9"},
    "UNIX_TIMESTAMP": {
        "2026-03-08T12:00:00+01:00": datetime(2026, 3, 8, 11, tzinfo=UTC),
        "2026-03-08": datetime(2026, 3, 8, tzinfo=UTC),
        "1772967600": datetime(2026, 3, 8, 11, tzinfo=UTC),
    },
}


@pytest.mark.parametrize(("type", "text"), [(type, text) for type, texts in TEXTS.items() for text in texts])
def test_a_key_may_be_asked_for_by_its_text_as_a_command_line_has_it(tmp_path, redis_port, type, text):
    entity = Entity(name="thing", join_keys=["id"], value_type=ValueType[type])
    table = table_of(tmp_path, "things", [entity], [aggregation("count", "x")])
    store = opened(tmp_path, redis_port, [table])
    store.write_to_online_store(table.name, rows_of(table, [(TEXTS[type][text], NOW, 5)]).to_pandas())
    for rows in ([{"id": text}], {"id": [text]}):
        assert store.get_online_features(table.service, rows).to_dict()["count_x_ever"] == [5]


WRONG = {
    "INT32": [2**31, "x", 1.5, True, None],
    "INT64": [2**63, "007", 1.5, True, None],
    "STRING": [42, b"42", None],
    "BOOL": [1, "yes", "", None],
    "BYTES": [1, True, "\ud800", None],
    "UNIX_TIMESTAMP": ["yesterday", "2026-03-08T12:00:00.5", 1.5, True, 2**62, NOW, None],
}


@pytest.mark.parametrize(("type", "value"), [(type, value) for type, values in WRONG.items() for value in values])
def test_a_key_that_feast_would_make_another_of_is_refused(tmp_path, redis_port, type, value):
    entity = Entity(name="thing", join_keys=["id"], value_type=ValueType[type])
    table = table_of(tmp_path, "things", [entity], [aggregation("count", "x")])
    store, good = opened(tmp_path, redis_port, [table]), SOME[type][0][0]
    for asked in ({"id": [value]}, {"id": [good, value]}):
        with pytest.raises(InvalidRequest, match=r"^id "):
            store.get_online_features(table.service, asked)


def test_seconds_are_as_good_as_the_instant(tmp_path, redis_port):
    entity = Entity(name="thing", join_keys=["id"], value_type=ValueType.UNIX_TIMESTAMP)
    table = table_of(tmp_path, "things", [entity], [aggregation("count", "x")])
    store, instant = opened(tmp_path, redis_port, [table]), NOW.replace(microsecond=0)
    store.write_to_online_store("things", rows_of(table, [(instant, NOW, 5)]).to_pandas())
    asked = {"id": [instant, int(instant.timestamp()), np.int64(instant.timestamp()), instant + timedelta(hours=1)]}
    assert store.get_online_features(table.service, asked).to_dict()["count_x_ever"] == [5, 5, 5, None]


class TestTwoViewsOfOneEntity:
    """They share a hash, and nothing else."""

    @pytest.fixture
    def two(self, tmp_path):
        entity = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
        return [
            table_of(tmp_path, name, [entity], [aggregation("count", "x", name=f"{name}_count")])
            for name in ("first", "second")
        ]

    @pytest.fixture
    def store(self, tmp_path, redis_port, two):
        store = opened(tmp_path, redis_port, two)
        for table in two:
            rows = rows_of(table, [(1, NOW, 5), (2, NOW, 6)])
            store.write_to_online_store(table.name, rows.to_pandas())
        return store

    def values(self, store, table) -> list:
        keys = as_table([(1,), (2,)], table.definition.keys)
        [values] = serving_values(store, table, keys).values()
        return values

    def test_retracting_the_one_leaves_the_other(self, store, two, client):
        first, second = two
        online_store_of(store).retract(store.config, first.view, stored_events(store, first).found)
        assert (self.values(store, first), self.values(store, second)) == ([None, None], [5, 6])
        assert len(keys(store, client)) == 2

    def test_deleting_the_one_leaves_the_other(self, store, two):
        first, second = two
        online_store_of(store).delete_table(store.config, first.view)
        assert (self.values(store, first), self.values(store, second)) == ([None, None], [5, 6])

    def test_a_key_with_rows_of_both_has_nothing_left_over(self, store, two):
        """So a materialization does not look through the fields of each key of entities that have several views."""
        known = online_store_of(store).known_fields(store.config, store.list_feature_views())
        for table in two:
            leftovers = Leftovers(known=known)
            stored_events(store, table, leftovers)
            assert leftovers.fuller == []

    def test_fields_of_no_view_are_deleted_and_those_of_both_stay(self, store, two, client):
        for key in keys(store, client):
            client.hset(key, b"\x01\x02\x03\x04", b"left")
        for table in two:
            online = online_store_of(store)
            leftovers = Leftovers(known=online.known_fields(store.config, store.list_feature_views()))
            stored_events(store, table, leftovers)
            assert len(leftovers.fuller) == (2 if table is two[0] else 0)
            online.delete_unknown_fields(store.config, leftovers.fuller, store.list_feature_views)
        assert {len(client.hkeys(key)) for key in keys(store, client)} == {4}
        assert [self.values(store, table) for table in two] == [[5, 6], [5, 6]]


def test_a_service_over_views_of_different_keys_is_answered(tmp_path, redis_port):
    """One of int64, one of text and int64: each view is asked by its own join keys."""
    stores = table_of(
        tmp_path,
        "stores",
        [Entity(name="store", join_keys=["store_id"], value_type=ValueType.INT64)],
        [aggregation("count", "x", name="all_orders")],
    )
    pairs = customers_in_stores(tmp_path)
    store = opened(tmp_path, redis_port, [stores, pairs])
    store.write_to_online_store("stores", rows_of(stores, [(7, NOW, 3), (8, NOW, 4)]).to_pandas())
    store.write_to_online_store(pairs.name, rows_of(pairs, [("a", 7, NOW, 1.0, None, 2, 3)]).to_pandas())
    both = FeatureService(name="both", features=[stores.view, pairs.view])
    store.apply([both])
    asked = {"store_id": [7, 8, 7], "customer_id": ["a", "a", "b"]}
    answer = store.get_online_features(both, asked).to_dict()
    assert answer["all_orders"] == [3, 4, 3]
    assert answer["count_total_ever"] == [2, None, None]
    assert store.get_online_features(["stores:all_orders"], {"store_id": [8]}).to_dict()["all_orders"] == [4]
