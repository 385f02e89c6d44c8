"""The online store's guarantees, on a real Redis, through Feast's own calls."""

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureService, FeatureStore, FeatureView, Field, FileSource
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.helpers import _redis_key
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64
from hypothesis import given
from hypothesis import strategies as st

from parity.online.columns import encode_keys
from parity.online.fast_read import key_prefix
from parity.online.scripts import ForeignKeys
from parity.online.side import key_of, online_store_of, stored_events
from parity.online.store import Leftovers, ParityRedisOnlineStore, _is_entity_key

VIEW, SERVICE = "user_purchase_features", "user_features"
AVERAGE, TOTAL = "user_avg_3day_purchase_amount", "user_total_transactions"
MICROSECOND, TTL = timedelta(microseconds=1), timedelta(days=30)
NOW = datetime(2026, 3, 8, 12, 0, 0, 123456, tzinfo=UTC)


@pytest.fixture
def store(project):
    """The applied store, whose clock stands at NOW."""
    project.apply()
    return at(FeatureStore(repo_path=str(project.root / "feature_repo")), NOW)


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

    def test_a_feature_that_was_never_written_is_not_found(self, store, project):
        write(store, 1, NOW, 5.0)
        [key] = keys(project)
        [field] = [f for f in project.client.hkeys(key) if project.client.hget(key, f) == b"\x20\x01"]
        project.client.hdel(key, field)
        response = store.get_online_features([f"{VIEW}:{TOTAL}"], [{"user_id": 1}])
        assert statuses(response) == ["NOT_FOUND"]

    def test_the_first_instant_of_1970_is_an_instant_like_any_other(self, store):
        at(store, datetime(1970, 1, 2, tzinfo=UTC))
        write(store, 1, datetime(1970, 1, 1, tzinfo=UTC), 5.0)
        assert read(store) == (5.0, 1)
        write(store, 1, datetime(1969, 12, 31, tzinfo=UTC), 6.0)
        assert read(store) == (5.0, 1)

    def test_the_low_level_read_hides_what_is_expired_too(self, store):
        write(store, 1, NOW, 5.0)
        write(store, 2, NOW - TTL - MICROSECOND, 5.0)
        online, view = online_store_of(store), store.get_feature_view(VIEW)
        (ts_1, values_1), (ts_2, values_2) = online.online_read(store.config, view, [key_of(view, 1), key_of(view, 2)])
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
    def test_a_newer_or_equal_event_replaces_and_an_older_one_does_not(self, store, older, newer):
        write(store, 1, older, 1.0)
        write(store, 1, newer, 2.0)
        [instant] = stored_events(store, store.get_feature_view(VIEW)).events.tolist()
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

    def test_how_far_a_clock_may_be_ahead_can_be_declared(self, project):
        project.configure(online_store__future_tolerance_seconds=2)
        project.apply()
        store = at(FeatureStore(repo_path=str(project.root / "feature_repo")), NOW)
        write(store, 1, NOW + timedelta(seconds=2), 1.0)
        write(store, 2, NOW + timedelta(seconds=2) + MICROSECOND, 2.0)
        assert read(store, 1) == (1.0, 1)
        assert read(store, 2) == (None, None)


class TestReplace:
    """A row that gives way to an older one, in one step."""

    def test_the_older_row_takes_the_place_of_the_newer_one(self, store):
        view, online = store.get_feature_view(VIEW), online_store_of(store)
        write(store, 1, NOW, 1.0, 5)
        [(key, seen)] = online.scan(store.config, view)
        assert online.replace(store.config, view, [rows_of(1, NOW - MICROSECOND, 2.0, 4)], {key: seen}) == 1
        assert read(store) == (2.0, 4)

    def test_a_row_that_changed_since_it_was_seen_stays(self, store):
        view, online = store.get_feature_view(VIEW), online_store_of(store)
        write(store, 1, NOW - MICROSECOND, 1.0)
        [(key, seen)] = online.scan(store.config, view)
        write(store, 1, NOW, 3.0)
        assert online.replace(store.config, view, [rows_of(1, NOW - 2 * MICROSECOND, 2.0, 4)], {key: seen}) == 0
        assert read(store) == (3.0, 1)


def rows_of(user: int, instant: datetime, average: float, total: int) -> tuple:
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=user)])
    return key, {AVERAGE: Value(double_val=average), TOTAL: Value(int64_val=total)}, instant, None


class TestForeignKeys:
    """A key of this project that holds something else than a row."""

    @pytest.fixture
    def foreign(self, store, project) -> bytes:
        for user in (1, 2, 3):
            write(store, user, NOW - MICROSECOND, float(user))
        key = _redis_key(store.project, key_of(store.get_feature_view(VIEW), 2), 3)
        project.client.delete(key)
        project.client.rpush(key, "something")
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

    def test_it_is_found_by_a_scan_and_left_alone(self, store, foreign, project):
        leftovers = Leftovers()
        found = stored_events(store, store.get_feature_view(VIEW), leftovers)
        assert sorted(found.ids.tolist()) == [1, 3]
        assert leftovers.foreign == [foreign]
        assert project.client.lrange(foreign, 0, -1) == [b"something"]


class TestFeastsOwnKinds:
    """Views and services of Feast's that this project does not make itself."""

    SPENT = Field(name="spent", dtype=Float64)

    def test_an_on_demand_view_that_is_written_is_read(self, store):
        @on_demand_feature_view(
            sources=[store.get_feature_view(VIEW)],
            schema=[self.SPENT],
            write_to_online_store=True,
            entities=[store.get_entity("user")],
            mode="python",
        )
        def spent(inputs: dict) -> dict:
            both = zip(inputs["user_avg_3day_purchase_amount"], inputs["user_total_transactions"], strict=True)
            return {"spent": [average * total for average, total in both]}

        store.apply([spent])
        row = {"user_id": [1], "event_timestamp": [NOW], AVERAGE: [2.5], TOTAL: [4]}
        at(store, datetime.now(UTC) + timedelta(hours=1))  # Feast gives such a row the time of its writing
        store.write_to_online_store("spent", pd.DataFrame(row))
        assert store.get_online_features(["spent:spent"], [{"user_id": 1}]).to_dict()["spent"] == [10.0]

    def test_a_service_with_precomputed_vectors_is_answered_from_the_rows(self, store):
        service = FeatureService(name="precomputed", features=[store.get_feature_view(VIEW)], precompute_online=True)
        write(store, 1, NOW, 95.32)
        store.apply([service])
        store.precompute_feature_service("precomputed")
        write(store, 1, NOW, 96.0)
        service = store.get_feature_service("precomputed")
        assert store.get_online_features(service, [{"user_id": 1}]).to_dict()[AVERAGE] == [96.0]
        online_store_of(store).delete_table(store.config, store.get_feature_view(VIEW))
        assert store.get_online_features(service, [{"user_id": 1}]).to_dict()[AVERAGE] == [None]

    def test_a_view_of_five_thousand_features_is_written_read_and_deleted(self, store, tmp_path):
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

    def test_a_view_that_is_deleted_takes_what_its_older_definitions_left_with_it(self, store, project):
        write(store, 1, NOW, 1.0)
        [key] = keys(project)
        project.client.hset(key, b"\x01\x02\x03\x04", b"left by a feature that was dropped")
        online_store_of(store).delete_table(store.config, store.get_feature_view(VIEW))
        assert keys(project) == []

    def test_fields_of_no_view_are_deleted_and_those_of_others_stay(self, store, project):
        write(store, 1, NOW, 1.0)
        write(store, 2, NOW, 1.0)
        one, two = keys(project)
        before = set(project.client.hkeys(one))
        for key in (one, two):
            project.client.hset(key, b"\x01\x02\x03\x04", b"left")
        project.client.hset(two, "_ts:a_view_of_another_registry", b"")
        leftovers = Leftovers()
        stored_events(store, store.get_feature_view(VIEW), leftovers)
        assert set(leftovers.fuller) == {one, two}
        deleted = online_store_of(store).delete_unknown_fields(store.config, leftovers.fuller, store.list_feature_views)
        assert deleted == 1
        assert set(project.client.hkeys(one)) == before
        assert project.client.hexists(two, b"\x01\x02\x03\x04")


class TestLayout:
    """Stock readers and writers share the keys, the fields and the bytes."""

    def stock(self, project, store):
        project.configure(online_store__type="redis")
        return FeatureStore(repo_path=str(project.root / "feature_repo"))

    def test_stock_reads_what_this_store_wrote(self, project, store):
        write(store, 1, NOW, 19.99, 7)
        assert read(self.stock(project, store)) == (19.99, 7)

    def test_this_store_reads_what_stock_wrote(self, project, store):
        write(self.stock(project, store), 1, NOW, 19.99, 7)
        assert read(store) == (19.99, 7)

    def test_the_same_bytes_as_stock(self, project, store):
        instants = [NOW, NOW.replace(microsecond=0), datetime(1970, 1, 1, tzinfo=UTC)]
        written = []
        for target in (store, self.stock(project, store)):
            for user, instant in enumerate(instants):
                write(target, user, instant, 19.99, user)
            written.append({key: project.client.hgetall(key) for key in keys(project)})
            project.client.delete(*keys(project))
        assert written[0] == written[1]
        assert len(written[0]) == 3


def keys(project) -> list[bytes]:
    name = FeatureStore(repo_path=str(project.root / "feature_repo")).project.encode()
    return sorted(project.client.scan_iter(b"*" + name))


class TestNeighbours:
    def test_keys_of_a_project_whose_name_ends_alike_are_not_ours(self, project, store):
        write(store, 1, NOW, 1.0)
        [key] = keys(project)
        name = store.project.encode()
        neighbour = key.removesuffix(name) + b"my_" + name
        project.client.hset(neighbour, mapping=project.client.hgetall(key))
        view = store.get_feature_view(VIEW)
        assert stored_events(store, view).found == [(key, project.client.hget(key, f"_ts:{VIEW}"))]
        store.teardown()
        assert not project.client.exists(key)
        assert project.client.exists(neighbour)
        project.client.delete(neighbour)

    def test_deleting_a_view_deletes_its_rows_and_no_other_field(self, project, store):
        write(store, 1, NOW, 1.0)
        [key] = keys(project)
        project.client.hset(key, "_ts:another_view", b"")
        online_store_of(store).delete_table(store.config, store.get_feature_view(VIEW))
        assert project.client.hkeys(key) == [b"_ts:another_view"]
        project.client.delete(key)

    def test_a_text_of_eight_bytes_is_no_int64_user(self, project, store):
        text = EntityKey(join_keys=["user_id"], entity_values=[Value(string_val="12345678")])
        key = _redis_key(store.project, text, 3)
        write(store, 1, NOW, 1.0)
        [of_user] = keys(project)
        project.client.hset(key, f"_ts:{VIEW}", project.client.hget(of_user, f"_ts:{VIEW}"))
        assert stored_events(store, store.get_feature_view(VIEW)).ids.tolist() == [1]
        project.client.delete(key)

    def test_a_row_that_changed_since_it_was_seen_is_not_retracted(self, store):
        view, online = store.get_feature_view(VIEW), online_store_of(store)
        write(store, 1, NOW - MICROSECOND, 1.0)
        seen = list(online.scan(store.config, view))
        write(store, 1, NOW, 2.0)
        assert online.retract(store.config, view, seen) == 0
        assert read(store) == (2.0, 1)


def test_key_ttl_seconds_is_kept_as_stock_keeps_it(project):
    project.configure(online_store__key_ttl_seconds=500)
    project.apply()
    store = at(FeatureStore(repo_path=str(project.root / "feature_repo")), NOW)
    write(store, 1, NOW, 1.0)
    [key] = keys(project)
    assert 490 < project.client.ttl(key) <= 500


def test_every_call_is_bounded_in_time_unless_the_connection_string_says_otherwise():
    parse = ParityRedisOnlineStore._parse_connection_string
    assert parse("localhost:6379")[1].items() >= {"socket_timeout": 2, "socket_connect_timeout": 2}.items()
    assert parse("localhost:6379,socket_timeout=9,db=1")[1]["socket_timeout"] == 9


def test_a_redis_that_went_away_and_came_back_empty_takes_writes_again(store, project):
    write(store, 1, NOW, 1.0)
    project.client.script_flush()  # a restarted Redis knows no scripts
    write(store, 1, NOW, 2.0)
    assert read(store) == (2.0, 1)


def test_a_lost_redis_raises(project, store):
    config = store.config.online_store
    config.connection_string = "localhost:1"
    online_store_of(store)._client = None
    with pytest.raises(redis.ConnectionError):
        read(store)


@given(st.integers(-(2**63), 2**63 - 1) | st.text(), st.sampled_from(["user_id", "id", "ü"]))
def test_an_entity_key_is_told_from_other_bytes_and_written_as_feast_writes_it(value, join_key):
    entity_value = Value(string_val=value) if isinstance(value, str) else Value(int64_val=value)
    serialized = serialize_entity_key(EntityKey(join_keys=[join_key], entity_values=[entity_value]))
    assert _is_entity_key(serialized)
    assert not _is_entity_key(serialized + b"x")
    if isinstance(value, int):
        assert encode_keys(np.array([value]), key_prefix(join_key), b"name") == [serialized + b"name"]
