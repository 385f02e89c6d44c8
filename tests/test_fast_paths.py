"""What is fast gives what is slow: the same bytes in Redis, the same answers from it."""

import asyncio
import copy
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float32, Float64, Int64, String
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from feature_repo.features import user, user_features, user_purchase_features
from parity.definition.instants import MICROSECOND
from parity.online.columns import decode_timestamps, encode_timestamps, encode_values
from parity.online.engine import ParityComputeEngine
from parity.online.fast_read import FastRead, NotTaken
from parity.online.requests import InvalidRequest
from parity.online.side import online_store_of
from parity.online.store import read_timestamp, read_timestamps
from tests.world import AVERAGE, ENGINE, OFFLINE, OURS, TOTAL, TTL, T, World

YEARS_1_TO_9999 = st.datetimes(timezones=st.just(UTC))
INT64 = st.integers(-(2**63), 2**63 - 1)
TIMESTAMPS = (
    st.builds(Timestamp, seconds=INT64 | st.integers(0, 2**35), nanos=st.integers(-1, 2**31 - 1)).map(
        Timestamp.SerializeToString
    )
    | st.lists(st.sampled_from([8, 16, 0, 1, 0x7F, 0x80, 0xFF]), max_size=13).map(bytes)
    | st.binary(max_size=13)
)
"""The bytes of a Timestamp, or of none."""


class TestEncoding:
    @given(st.lists(st.none() | INT64 | st.sampled_from([0, 127, 128, -1, 2**62])))
    def test_int64_values_are_what_protobuf_writes(self, numbers):
        expected = [Value() if n is None else Value(int64_val=n) for n in numbers]
        assert encode_values(pa.array(numbers, pa.int64())) == [value.SerializeToString() for value in expected]

    @given(st.lists(st.none() | st.floats()))
    def test_float64_values_are_what_protobuf_writes_and_nan_is_null(self, numbers):
        expected = [Value() if n is None or n != n else Value(double_val=n) for n in numbers]
        assert encode_values(pa.array(numbers, pa.float64())) == [value.SerializeToString() for value in expected]

    @given(st.lists(YEARS_1_TO_9999 | st.sampled_from([datetime(1970, 1, 1, tzinfo=UTC), T, T.replace(microsecond=0)])))
    def test_timestamps_are_what_protobuf_writes(self, instants):
        expected = []
        for instant in instants:
            expected.append(Timestamp())
            expected[-1].FromDatetime(instant)
        microseconds = pa.array(instants, pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy()
        assert encode_timestamps(microseconds) == [timestamp.SerializeToString() for timestamp in expected]

    @given(
        st.lists(st.integers(2**28 * 10**6, 2**35 * 10**6 - 1) | st.sampled_from([2**28 * 10**6, 10**15, 10**15 + 1]))
    )
    def test_timestamps_of_our_days_are_read_back(self, microseconds):
        found, read = decode_timestamps(encode_timestamps(np.array(microseconds, np.int64)))
        assert read.all()
        assert found.tolist() == microseconds

    @given(st.lists(TIMESTAMPS))
    def test_whatever_is_stored_is_read_as_protobuf_reads_it(self, stored):
        expected = [read_timestamp(one).replace(tzinfo=None) for one in stored]
        assert read_timestamps(stored).tolist() == expected


@pytest.fixture
def world(redis_port, tmp_path):
    return World(tmp_path, redis_port, seed=5)


def slow(world: World, rows, full_feature_names: bool = False, features=user_features):
    """The answer by Feast's own way through the same store."""
    store, online = world.store, online_store_of(world.store)
    return RedisOnlineStore.get_online_features(
        online, store.config, features, rows, store.registry, store.project, full_feature_names
    ).proto


def fast(world: World, rows, full_feature_names: bool = False, features=user_features):
    """The answer of the store, both of its synchronous and of its asynchronous client."""
    answer = world.store.get_online_features(features, rows, full_feature_names).proto

    async def ask():
        try:
            return (await world.store.get_online_features_async(features, rows, full_feature_names)).proto
        finally:
            await online_store_of(world.store)._client_async.aclose()
            online_store_of(world.store)._client_async = None

    assert asyncio.run(ask()) == answer
    return answer


def timestamp(**fields: int) -> bytes:
    return Timestamp(**fields).SerializeToString()


STORED = {
    "nothing": {},
    "no event timestamp": {AVERAGE: Value(double_val=1.5).SerializeToString()},
    "no average": {TOTAL: Value(int64_val=3).SerializeToString(), "_ts": timestamp(seconds=1772971200)},
    "a null": {AVERAGE: b"", TOTAL: Value(int64_val=3).SerializeToString(), "_ts": timestamp(seconds=1772971200)},
    "another type": {AVERAGE: Value(string_val="x" * 300).SerializeToString(), "_ts": timestamp(seconds=1772971200)},
    "not a value": {AVERAGE: b"\xff", "_ts": timestamp(seconds=1772971200)},
    "not an event timestamp": {AVERAGE: Value(double_val=1.5).SerializeToString(), "_ts": b"\xff"},
    "nanoseconds": {AVERAGE: Value(double_val=1.5).SerializeToString(), "_ts": timestamp(seconds=1772971200, nanos=1)},
    "the year 10000": {AVERAGE: Value(double_val=1.5).SerializeToString(), "_ts": timestamp(seconds=253402300800)},
}


class TestRead:
    @pytest.mark.parametrize("full_feature_names", [False, True])
    def test_one_user_and_many_in_both_forms_of_a_request(self, world, full_feature_names):
        ids = [*world.users, 10**9, -5, 2**63 - 1, world.users[0]]
        for who in ids:
            assert fast(world, [{"user_id": who}], full_feature_names) == slow(
                world, [{"user_id": who}], full_feature_names
            )
        assert fast(world, {"user_id": ids}, full_feature_names) == slow(world, {"user_id": ids}, full_feature_names)

    @pytest.mark.parametrize("age", [-MICROSECOND, timedelta(0), TTL - MICROSECOND, TTL, TTL + MICROSECOND])
    def test_at_the_bounds_of_age(self, world, age):
        world.now = world.last(1) + age
        assert fast(world, [{"user_id": 1}]) == slow(world, [{"user_id": 1}])

    @pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
    def test_whatever_is_stored(self, world, stored):
        world.client.delete(world.key(1))
        for name, content in stored.items():
            field = f"_ts:{world.view.name}" if name == "_ts" else _mmh3(f"{world.view.name}:{name}")
            world.client.hset(world.key(1), field, content)
        rows = [{"user_id": who} for who in (2, 1, 3)]
        assert fast(world, rows) == slow(world, rows)

    def test_single_features_in_the_order_that_is_asked_for(self, world):
        for features in ([TOTAL], [TOTAL, AVERAGE], [AVERAGE, TOTAL]):
            references = [f"{world.view.name}:{feature}" for feature in features]
            rows = [{"user_id": 1}, {"user_id": 2}]
            assert fast(world, rows, features=references) == slow(world, rows, features=references)

    def test_more_ids_than_one_byte_can_count(self, world):
        rows = {"user_id": list(range(1000))}
        assert fast(world, rows) == slow(world, rows)

    def test_it_is_really_taken(self, world, monkeypatch):
        monkeypatch.delattr(OnlineStore, "get_online_features")
        world.store.get_online_features(user_features, [{"user_id": 1}])

    @pytest.mark.parametrize(
        "rows",
        [[{"user_id": "7"}], [{"user_id": 7.0}], [{"user_id": np.int64(7)}]],
        ids=["text", "float", "numpy"],
    )
    def test_what_is_no_int_goes_feasts_way(self, world, rows):
        assert fast(world, rows) == slow(world, rows)

    @pytest.mark.parametrize("rows", [[{"user_id": 2**63}], [{"other": 1}], [{"user_id": 1}, {}], [{"user_id": None}]])
    def test_what_feast_fails_on_is_refused_as_a_request_that_is_wrong(self, world, rows):
        with pytest.raises(InvalidRequest):
            fast(world, rows)

    @pytest.mark.parametrize("user", [7.9, True, "7.9", "007"])
    def test_an_id_that_feast_would_make_another_of_is_refused(self, world, user):
        with pytest.raises(InvalidRequest, match=r"user_id .* is not of type INT64"):
            fast(world, [{"user_id": user}])

    def test_a_changed_definition_is_seen_once_the_registry_is_read_again(self, world):
        fast(world, [{"user_id": 1}])
        world.view.ttl = MICROSECOND
        world.store.apply([user, world.view, user_features])
        world.store.refresh_registry()
        assert fast(world, [{"user_id": 1}]) == slow(world, [{"user_id": 1}])

    def test_a_request_that_it_can_not_take_is_told(self, world):
        with pytest.raises(NotTaken):
            FastRead(world.store.config, ([], ["on demand"], {}, {}, set(), [], set(), set(), False), False)


def stored(client: redis.Redis, project: str) -> dict[bytes, dict[bytes, bytes]]:
    """Everything that a project has in Redis, by the key without the project's name."""
    keys = client.scan_iter(b"*" + project.encode())
    return {key.removesuffix(project.encode()): client.hgetall(key) for key in keys}


def materialized(
    folder, port: int, rows: pa.Table, view: FeatureView, entity: Entity, online: str, engine: str
) -> dict:
    """What is in Redis after a materialization of ``rows`` by this online store and engine."""
    path = folder / "rows.parquet"
    pq.write_table(rows, path)
    view = copy.copy(view)
    view.batch_source = FileSource(name="rows", path=str(path), timestamp_field="event_timestamp")
    project = f"same_{online}_{engine}_{abs(hash(str(folder)))}".replace(".", "_")
    store = FeatureStore(
        config=RepoConfig(
            project=project,
            provider="local",
            registry=str(folder / f"{project}.db"),
            offline_store={"type": OFFLINE},
            online_store={"type": online, "connection_string": f"localhost:{port}"},
            batch_engine={"type": engine},
            entity_key_serialization_version=3,
        )
    )
    store.apply([entity, view])
    store.materialize(datetime(2, 1, 1, tzinfo=UTC), T, [view.name])
    with redis.Redis(port=port) as client:
        return stored(client, project)


def history(ids: pa.Array, instants: list, **features: pa.Array) -> pa.Table:
    times = pa.array(instants, pa.timestamp("us", "UTC"))
    return pa.table({"user_id": ids, "event_timestamp": times, **features})


class TestMaterialize:
    def same_by_every_way(self, folder, port, rows, view, entity=user) -> None:
        ways = [("redis", "local"), (OURS, "local"), (OURS, ENGINE), ("redis", ENGINE)]
        first, *others = (materialized(folder, port, rows, view, entity, *way) for way in ways)
        assert len(first) == len(set(rows[view.join_keys[0]].to_pylist()))
        assert all(other == first for other in others)

    def test_it_leaves_the_bytes_that_stock_feast_leaves(self, redis_port, tmp_path):
        random = np.random.default_rng(3)
        ids = random.choice([0, -1, 2**63 - 1, -(2**63), *range(1, 400)], 3000)
        instants = [T - timedelta(microseconds=int(age)) for age in random.integers(0, 10**13, len(ids))]
        averages = pa.array(random.choice([0.0, -0.0, 1e308, -5e-324, float("inf"), 95.32, 1 / 3], len(ids)))
        totals = pa.array(random.choice([0, 1, -1, 127, 128, 2**63 - 1, -(2**63)], len(ids)))
        self.same_by_every_way(
            tmp_path,
            redis_port,
            history(pa.array(ids), instants, **{AVERAGE: averages, TOTAL: totals}),
            user_purchase_features,
        )

    def test_nulls_and_nan_too(self, redis_port, tmp_path):
        rows = history(
            pa.array([1, 2, 3, 4]),
            [T] * 4,
            **{AVERAGE: pa.array([None, float("nan"), 1.5, 2.5]), TOTAL: pa.array([1, 2, None, 4])},
        )
        self.same_by_every_way(tmp_path, redis_port, rows, user_purchase_features)

    def test_other_types_go_feasts_way(self, redis_port, tmp_path):
        view = FeatureView(
            name="others",
            entities=[user],
            schema=[Field(name="user_id", dtype=Int64), Field(name="f", dtype=Float32), Field(name="s", dtype=String)],
            source=FileSource(name="x", path="x", timestamp_field="event_timestamp"),
        )
        rows = history(pa.array([1, 2]), [T] * 2, f=pa.array([0.5, 1.5], pa.float32()), s=pa.array(["a", "ü"]))
        self.same_by_every_way(tmp_path, redis_port, rows, view)

    def test_keys_of_text_go_feasts_way(self, redis_port, tmp_path):
        who = Entity(name="who", join_keys=["user_id"], value_type=ValueType.STRING)
        view = FeatureView(
            name="named",
            entities=[who],
            schema=[Field(name="user_id", dtype=String), Field(name="f", dtype=Float64)],
            source=FileSource(name="x", path="x", timestamp_field="event_timestamp"),
        )
        rows = history(pa.array(["a", "b"]), [T] * 2, f=pa.array([0.5, 1.5]))
        self.same_by_every_way(tmp_path, redis_port, rows, view, who)

    def test_a_failure_is_raised(self, world, monkeypatch):
        monkeypatch.setattr(ParityComputeEngine, "_latest", lambda *_: 1 / 0)
        config = RepoConfig(**world.options | {"batch_engine": {"type": ENGINE}})
        with pytest.raises(ZeroDivisionError):
            FeatureStore(config=config).materialize(T - TTL, T, [world.view.name])
