"""What is fast gives what is slow: the same bytes in Redis, the same answers from it."""

import asyncio
import copy
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Bytes, Float32, Float64, Int32, Int64, String, UnixTimestamp
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from parity.definition.instants import MICROSECOND
from parity.definition.keys import as_table
from parity.edge.feast_internals import Request
from parity.materialization import materialize
from parity.online.columns import decode_timestamps, encode_timestamps, encode_values, read_timestamps
from parity.online.engine import ParityComputeEngine
from parity.online.fast_read import FastRead, NotTaken
from parity.online.requests import InvalidRequest
from parity.online.rows import EXPIRED, SERVED, UNKNOWN, Fields, read_timestamp, standing
from parity.online.side import online_store_of, redis_keys
from parity.online.writing import Writes
from tests.definition import AVERAGE, TOTAL, TTL, aggregation, customers_in_stores, purchases, user
from tests.definition import table as table_of
from tests.online import ENGINE, OFFLINE, OURS, opened, write_history
from tests.online import NOW as T

YEARS_1_TO_9999 = st.datetimes(timezones=st.just(UTC))
INT64 = st.integers(-(2**63), 2**63 - 1)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
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

    @given(st.lists(st.none() | st.integers(-(2**31), 2**31 - 1)))
    def test_int32_values_are_what_protobuf_writes(self, numbers):
        expected = [Value() if n is None else Value(int32_val=n) for n in numbers]
        assert encode_values(pa.array(numbers, pa.int32())) == [value.SerializeToString() for value in expected]

    @given(st.lists(st.none() | TEXT))
    def test_texts_are_what_protobuf_writes(self, texts):
        expected = [Value() if text is None else Value(string_val=text) for text in texts]
        assert encode_values(pa.array(texts, pa.string())) == [value.SerializeToString() for value in expected]

    @given(TEXT, TEXT)
    def test_fields_are_those_of_feast(self, view, feature):
        assert Fields(view)[feature] == _mmh3(f"{view}:{feature}")

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


MONTH = TTL // MICROSECOND


@pytest.mark.parametrize(
    ("event", "ttl", "expected"),
    [
        (None, MONTH, UNKNOWN),
        (1, MONTH, UNKNOWN),
        (0, MONTH, SERVED),
        (-MONTH, MONTH, SERVED),
        (-MONTH - 1, MONTH, EXPIRED),
        (-(2**60), None, SERVED),
    ],
)
def test_what_is_served_at_which_age(event, ttl, expected):
    assert standing(event, ttl, present=0) == expected


@pytest.mark.parametrize(
    ("event", "expected"), [(61, UNKNOWN), (60, SERVED), (1, SERVED), (-MONTH, SERVED), (-MONTH - 1, EXPIRED)]
)
def test_a_tolerance_lets_in_what_lies_ahead_and_makes_nothing_older(event, expected):
    assert standing(event, MONTH, present=0, tolerance=60) == expected


T1 = datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)
KINDS = {
    "int64": ("INT64", [(1,), (2,), (3,), (-5,), (2**63 - 1,)], [(4,), (-(2**63),)]),
    "int32": ("INT32", [(1,), (2,), (3,), (-5,), (2**31 - 1,)], [(4,), (-(2**31),)]),
    "text": ("STRING", [("0042",), ("42",), ("ü" * 100,), ("",), ("a b",)], [("unknown",), ("x" * 1000,)]),
    "bytes": ("BYTES", [(b"a",), (b"\x00\xff",), (b"b" * 300,), (b"0",)], [(b"unknown",), (b"x" * 1000,)]),
    "instants": ("UNIX_TIMESTAMP", [(T.replace(microsecond=0) - timedelta(days=n * 9000),) for n in range(4)], [(T1,)]),
    "several": (None, [("0042", 1), ("0042", 2), ("42", 1), ("", -1), ("ü" * 100, 7)], [("42", 2), ("x", 2**63 - 1)]),
}
"""The type of the key; keys that are stored, keys that are not."""


class Shop:
    """A store with one table, with rows of some keys online, and a clock that a test sets."""

    def __init__(self, folder: Path, port: int, kind: str):
        value_type, self.known, self.unknown = KINDS[kind]
        if value_type is None:
            self.table = customers_in_stores(folder)
        elif value_type == "INT64":
            self.table = purchases(folder)
        else:
            entity = Entity(name="user", join_keys=["user_id"], value_type=ValueType[value_type])
            features = [
                aggregation("mean", "amount", 3, AVERAGE),
                aggregation("count", "amount", name=TOTAL),
                aggregation("last", "sku"),
                aggregation("var", "amount", 3),
            ]
            self.table = table_of(folder, "purchases", [entity], features, {"sku": String})
        self.names, self.view, self.service = self.table.definition.keys.names, self.table.view, self.table.service
        self.features = [rule.name for rule in self.table.definition.rules]
        self.store, self.now = opened(folder, port, [self.table]), T
        online_store_of(self.store).now = lambda: self.now
        write_history(self.table, *((*key, self.last(key), *self._values(n)) for n, key in enumerate(self.known)))
        materialize(self.store, self.table, None, T, T)

    def _values(self, number: int) -> list:
        of = {pa.float64(): number + 0.5, pa.int64(): number * 100, pa.string(): "x" * 60 * number}
        return [None if rule.nullable and number == 1 else of[rule.type] for rule in self.table.definition.rules]

    def last(self, key: tuple) -> datetime:
        return T - timedelta(days=self.known.index(key), microseconds=self.known.index(key))

    def rows(self, *keys: tuple) -> list[dict]:
        return [dict(zip(self.names, key, strict=True)) for key in keys]

    def columns(self, keys: Sequence[tuple]) -> dict[str, list]:
        return {name: list(values) for name, values in zip(self.names, zip(*keys, strict=True), strict=True)}

    def key(self, key: tuple) -> bytes:
        return redis_keys(self.store, self.table, as_table([key], self.table.definition.keys))[0]

    @property
    def client(self):
        return online_store_of(self.store)._get_client(self.store.config.online_store)

    def slow(self, rows: Any, full: bool = False, features: Any = None):
        """The answer by Feast's own way through the same store."""
        store, online = self.store, online_store_of(self.store)
        return RedisOnlineStore.get_online_features(
            online, store.config, features or self.service, rows, store.registry, store.project, full
        ).proto

    def fast(self, rows: Any, full: bool = False, features: Any = None):
        """The answer of the store, both of its synchronous and of its asynchronous client."""
        store, online = self.store, online_store_of(self.store)
        answer = store.get_online_features(features or self.service, rows, full).proto

        async def ask():
            try:
                return (await store.get_online_features_async(features or self.service, rows, full)).proto
            finally:
                await online._client_async.aclose()
                online._client_async = None

        assert asyncio.run(ask()) == answer
        return answer


@pytest.fixture
def shop(redis_port, tmp_path):
    return Shop(tmp_path, redis_port, "int64")


@pytest.fixture(params=KINDS)
def any_shop(redis_port, tmp_path, request):
    return Shop(tmp_path, redis_port, request.param)


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
    @pytest.mark.parametrize("full", [False, True])
    def test_one_key_and_many_in_both_forms_of_a_request(self, any_shop, full):
        keys = [*any_shop.known, *any_shop.unknown, any_shop.known[0]]
        for key in keys:
            assert any_shop.fast(any_shop.rows(key), full) == any_shop.slow(any_shop.rows(key), full)
        for asked in (any_shop.rows(*keys), any_shop.columns(keys)):
            assert any_shop.fast(asked, full) == any_shop.slow(asked, full)

    def test_join_keys_in_any_order(self, redis_port, tmp_path):
        shop = Shop(tmp_path, redis_port, "several")
        asked = dict(reversed(shop.columns(shop.known).items()))
        assert list(asked) == shop.names[::-1]
        answer = shop.fast(asked)
        assert answer == shop.slow(asked)
        assert list(answer.metadata.feature_names.val)[:2] == shop.names[::-1]

    @pytest.mark.parametrize("age", [-MICROSECOND, timedelta(0), TTL - MICROSECOND, TTL, TTL + MICROSECOND])
    def test_at_the_bounds_of_age(self, any_shop, age):
        key = any_shop.known[1]
        any_shop.now = any_shop.last(key) + age
        assert any_shop.fast(any_shop.rows(key)) == any_shop.slow(any_shop.rows(key))

    @pytest.mark.parametrize("stored", STORED.values(), ids=STORED)
    def test_whatever_is_stored(self, shop, stored):
        key = shop.key((1,))
        shop.client.delete(key)
        for name, content in stored.items():
            field = f"_ts:{shop.view.name}" if name == "_ts" else _mmh3(f"{shop.view.name}:{name}")
            shop.client.hset(key, field, content)
        rows = shop.rows((2,), (1,), (3,))
        assert shop.fast(rows) == shop.slow(rows)

    def test_single_features_in_the_order_that_is_asked_for(self, any_shop):
        one, other, *_ = any_shop.features
        for features in ([other], [other, one], [one, other]):
            references = [f"{any_shop.view.name}:{feature}" for feature in features]
            rows = any_shop.rows(*any_shop.known[:2])
            assert any_shop.fast(rows, features=references) == any_shop.slow(rows, features=references)

    def test_more_keys_than_one_byte_can_count(self, any_shop):
        asked = any_shop.columns([*any_shop.known, *any_shop.unknown] * 150)
        assert any_shop.fast(asked) == any_shop.slow(asked)

    def test_views_of_different_keys_together(self, redis_port, tmp_path):
        shop = Shop(tmp_path, redis_port, "several")
        of_store = table_of(
            tmp_path,
            "stores",
            [Entity(name="store", join_keys=["store_id"], value_type=ValueType.INT64)],
            [aggregation("count", "x", name="orders")],
        )
        both = FeatureService(name="both", features=[shop.view, of_store.view])
        shop.store.apply([of_store.view, both])
        write_history(of_store, (1, T, 10), (2, T - TTL - MICROSECOND, 20))
        materialize(shop.store, of_store, None, T, T)
        asked = shop.columns([*shop.known, *shop.unknown])
        assert shop.fast(asked, features=both) == shop.slow(asked, features=both)

    def test_it_is_really_taken(self, any_shop, monkeypatch):
        monkeypatch.delattr(OnlineStore, "get_online_features")
        any_shop.store.get_online_features(any_shop.service, any_shop.rows(any_shop.known[0]))

    @pytest.mark.parametrize("user", ["7", 7.0, np.int64(7)], ids=["text", "float", "numpy"])
    def test_what_is_no_int_goes_feasts_way(self, shop, user):
        assert shop.fast([{"user_id": user}]) == shop.slow([{"user_id": user}])

    def test_a_text_of_numpy_goes_feasts_way(self, redis_port, tmp_path):
        shop = Shop(tmp_path, redis_port, "text")
        rows = [{"user_id": np.str_("0042")}]
        assert shop.fast(rows).results[1].values[0] == shop.slow([{"user_id": "0042"}]).results[1].values[0]

    @pytest.mark.parametrize("rows", [[{"user_id": 2**63}], [{"other": 1}], [{"user_id": 1}, {}], [{"user_id": None}]])
    def test_what_feast_fails_on_is_refused_as_a_request_that_is_wrong(self, shop, rows):
        with pytest.raises(InvalidRequest):
            shop.fast(rows)

    @pytest.mark.parametrize("user", [7.9, True, "7.9", "007"])
    def test_an_id_that_feast_would_make_another_of_is_refused(self, shop, user):
        with pytest.raises(InvalidRequest, match=r"user_id .* is not of type INT64"):
            shop.fast([{"user_id": user}])

    @pytest.mark.parametrize("user", [42, 4.2, True, b"42", "\ud800"])
    def test_a_text_key_that_is_no_text_is_refused(self, redis_port, tmp_path, user):
        shop = Shop(tmp_path, redis_port, "text")
        with pytest.raises(InvalidRequest, match=r"user_id .* is not of type STRING"):
            shop.fast([{"user_id": user}])

    @pytest.mark.parametrize("instant", [0, -1, T1, int(T.timestamp())])
    def test_seconds_and_instants_are_asked_for_alike(self, redis_port, tmp_path, instant):
        shop = Shop(tmp_path, redis_port, "instants")
        rows = [{"user_id": instant}, {"user_id": T.replace(microsecond=0)}]
        assert shop.fast(rows) == shop.slow(rows)

    @pytest.mark.parametrize(
        "beside", [{}, {"BOOL": True}, {"UNIX_TIMESTAMP": T.replace(microsecond=0)}, {"INT64": 7}], ids=str
    )
    def test_a_key_of_no_bytes_is_served_like_any_other(self, redis_port, tmp_path, beside):
        """Feast's own way takes it for null if no other is asked for at once."""
        key = {"BYTES": b""} | beside
        entities = [Entity(name=type, join_keys=[type], value_type=ValueType[type]) for type in key]
        things = table_of(tmp_path, "things", entities, [aggregation("count", "x", name="n")])
        store = opened(tmp_path, redis_port, [things])
        write_history(things, (*key.values(), T, 5))
        materialize(store, things, None, T, T)
        for asked, count in (([key], 1), ({name: [value] * 2 for name, value in key.items()}, 2)):
            answer = store.get_online_features(things.service, asked).to_dict()
            assert answer == {name: [value] * count for name, value in (key | {"n": 5}).items()}

    def test_where_feasts_own_way_can_not_ask_for_it_the_request_is_refused(self, redis_port, tmp_path):
        shop = Shop(tmp_path, redis_port, "bytes")
        with pytest.raises(InvalidRequest, match="user_id is empty, and Feast"):
            shop.store.get_online_features(shop.service, [{"user_id": b""}], include_feature_view_version_metadata=True)

    def test_a_changed_definition_is_seen_once_the_registry_is_read_again(self, shop):
        shop.fast(shop.rows((1,)))
        shop.view.ttl = MICROSECOND
        shop.store.apply([shop.view, shop.service])
        shop.store.refresh_registry()
        assert shop.fast(shop.rows((1,), (2,))) == shop.slow(shop.rows((1,), (2,)))

    def test_a_request_that_it_can_not_take_is_not_taken(self, shop):
        request = Request([], ["on demand"], {}, {}, set(), [], set(), set(), False)
        with pytest.raises(NotTaken):
            FastRead(shop.store.config, online_store_of(shop.store), request, False)

    def test_no_number_of_kinds_of_requests_fills_the_memory(self, shop, monkeypatch):
        from feast import utils

        monkeypatch.setattr("parity.online.reading.RESOLVED_REQUESTS", 3)
        monkeypatch.setattr("parity.edge.feast_internals.RESOLVED_REQUESTS", 4)
        references = [f"{shop.view.name}:{feature}" for feature in shop.features]
        for number in range(20):
            shop.store.get_online_features([references[number % 2]] if number % 3 else references, shop.rows((1,)))
            shop.store.get_online_features(references[:: 1 if number % 2 else -1], shop.rows((1,)), number % 5 == 0)
        assert len(online_store_of(shop.store)._reads) <= 3
        assert len(utils._feature_resolution_cache) <= 4


def stored(client: redis.Redis, project: str) -> dict[bytes, dict[bytes, bytes]]:
    """Everything that a project has in Redis, by the key without the project's name."""
    keys = client.scan_iter(b"*" + project.encode())
    return {key.removesuffix(project.encode()): client.hgetall(key) for key in keys}


def materialized(
    folder, port: int, rows: pa.Table, view: FeatureView, entities: Sequence[Entity], online: str, engine: str
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
    store.apply([*entities, view])
    store.materialize(datetime(2, 1, 1, tzinfo=UTC), T, [view.name])
    with redis.Redis(port=port) as client:
        return stored(client, project)


def history(ids: pa.Array, instants: list, **features: pa.Array) -> pa.Table:
    times = pa.array(instants, pa.timestamp("us", "UTC"))
    return pa.table({"user_id": ids, "event_timestamp": times, **features})


class TestMaterialize:
    def same_by_every_way(self, folder, port, rows, view, *entities) -> None:
        ways = [("redis", "local"), (OURS, "local"), (OURS, ENGINE), ("redis", ENGINE)]
        first, *others = (materialized(folder, port, rows, view, entities, *way) for way in ways)
        assert len(first) == len({*zip(*(rows[key].to_pylist() for key in view.join_keys), strict=True)})
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
            purchases(tmp_path).view,
            user,
        )

    def test_nulls_and_nan_too(self, redis_port, tmp_path):
        rows = history(
            pa.array([1, 2, 3, 4]),
            [T] * 4,
            **{AVERAGE: pa.array([None, float("nan"), 1.5, 2.5]), TOTAL: pa.array([1, 2, None, 4])},
        )
        self.same_by_every_way(tmp_path, redis_port, rows, purchases(tmp_path).view, user)

    def test_other_types_go_feasts_way(self, redis_port, tmp_path):
        view = FeatureView(
            name="others",
            entities=[user],
            schema=[Field(name="user_id", dtype=Int64), Field(name="f", dtype=Float32), Field(name="s", dtype=String)],
            source=FileSource(name="x", path="x", timestamp_field="event_timestamp"),
        )
        rows = history(pa.array([1, 2]), [T] * 2, f=pa.array([0.5, 1.5], pa.float32()), s=pa.array(["a", "ü"]))
        self.same_by_every_way(tmp_path, redis_port, rows, view, user)

    @pytest.mark.parametrize(
        ("value_type", "dtype", "ids"),
        [
            (ValueType.STRING, String, pa.array(["a", "ü" * 100, ""])),
            (ValueType.INT32, Int32, pa.array([1, -(2**31), 2**31 - 1], pa.int32())),
            (ValueType.BYTES, Bytes, pa.array([b"a", b"\xff", b""])),
            (ValueType.UNIX_TIMESTAMP, UnixTimestamp, pa.array([0, -(10**15), 10**15], pa.timestamp("us", "UTC"))),
        ],
        ids=["text", "int32", "bytes", "timestamps"],
    )
    def test_keys_of_other_types_too(self, redis_port, tmp_path, taken, value_type, dtype, ids):
        who = Entity(name="who", join_keys=["user_id"], value_type=value_type)
        names = {"f": Float64, "n": Int32, "s": String}
        view = FeatureView(
            name="others",
            entities=[who],
            schema=[
                Field(name="user_id", dtype=dtype),
                *(Field(name=name, dtype=type) for name, type in names.items()),
            ],
            source=FileSource(name="x", path="x", timestamp_field="event_timestamp"),
        )
        features = {"f": [0.5, None, 1.5], "n": pa.array([1, -1, None], pa.int32()), "s": [None, "", "ü" * 200]}
        self.same_by_every_way(tmp_path, redis_port, history(ids, [T] * 3, **features), view, who)
        assert set(taken) == {True}

    def test_several_keys_too(self, redis_port, tmp_path, taken):
        """In the order of their names, whatever the order of the entities is."""
        keys = {"z": (ValueType.INT64, Int64), "a": (ValueType.STRING, String), "m": (ValueType.INT32, Int32)}
        entities = [Entity(name=f"of_{key}", join_keys=[key], value_type=type) for key, (type, _) in keys.items()]
        view = FeatureView(
            name="of_three",
            entities=entities,
            schema=[
                *(Field(name=key, dtype=dtype) for key, (_, dtype) in keys.items()),
                Field(name="f", dtype=Float64),
            ],
            source=FileSource(name="x", path="x", timestamp_field="event_timestamp"),
        )
        rows = pa.table(
            {
                "z": pa.array([1, 2, 1]),
                "a": pa.array(["x", "x", ""]),
                "m": pa.array([7, 7, 7], pa.int32()),
                "event_timestamp": pa.array([T] * 3, pa.timestamp("us", "UTC")),
                "f": [0.5, 1.5, 2.5],
            }
        )
        self.same_by_every_way(tmp_path, redis_port, rows, view, *entities)
        assert set(taken) == {True}

    @pytest.fixture
    def taken(self, monkeypatch) -> list[bool]:
        """Whether batches of rows were taken by columns."""
        found = []
        takes = Writes.takes_columns

        def noted(self, *arguments) -> bool:
            found.append(takes(self, *arguments))
            return found[-1]

        monkeypatch.setattr(Writes, "takes_columns", noted)
        return found

    def test_a_failure_is_raised(self, shop, monkeypatch):
        monkeypatch.setattr(ParityComputeEngine, "_latest", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            shop.store.materialize(T - TTL, T, [shop.view.name])
