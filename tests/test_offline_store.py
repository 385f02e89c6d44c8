"""What the fast offline store answers is what Feast's stock DuckDB store answers."""

import os
from datetime import UTC, datetime, timedelta

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.infra.offline_stores.offline_utils import get_offline_store_from_config
from feast.on_demand_feature_view import on_demand_feature_view
from feast.types import Float64, Int64, String
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online import NOW as T
from tests.online import OFFLINE

STOCK = "duckdb"
MICROSECOND = timedelta(microseconds=1)
TTL = timedelta(days=2)
FIRST = pa.schema(
    [
        ("user_id", pa.int64()),
        ("event_timestamp", pa.timestamp("us", "UTC")),
        ("amount", pa.float64()),
        ("n", pa.int64()),
    ]
)
SECOND = pa.schema(
    [
        ("user_id", pa.int64()),
        ("shop", pa.string()),
        ("happened_at", pa.timestamp("us")),
        ("created", pa.timestamp("us", "UTC")),
        ("raw_mood", pa.string()),
    ]
)

INSTANTS = st.builds(
    lambda base, ages, step: T + base * timedelta(hours=7) - ages * TTL + step * MICROSECOND,
    st.integers(0, 3),
    st.integers(0, 1),
    st.integers(-1, 1),
)
USERS = st.none() | st.integers(-1, 3) | st.just(2**53 + 1)
SHOPS = st.none() | st.sampled_from(["", "a", "ä"])
FIRST_ROWS = st.lists(
    st.tuples(
        USERS,
        st.none() | INSTANTS,
        st.none() | st.floats(allow_nan=False),
        st.none() | st.integers(-(2**63), 2**63 - 1),
    ),
    unique_by=lambda row: row[:2],
    max_size=12,
)
SECOND_ROWS = st.lists(
    st.tuples(USERS, SHOPS, INSTANTS, INSTANTS, st.none() | st.text(max_size=3)),
    unique_by=lambda row: row[:3],
    max_size=12,
)
ENTITY_ROWS = st.lists(st.tuples(USERS, SHOPS, INSTANTS), min_size=1, max_size=12)


class Stores:
    """The stock store and ours, on the same files and with the same definitions."""

    def __init__(self, folder):
        self.files = {name: folder / f"{name}.parquet" for name in ("first", "second")}
        user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
        shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)

        def source(name: str, timestamp: str, file: str, **options) -> FileSource:
            return FileSource(name=name, path=str(self.files[file]), timestamp_field=timestamp, **options)

        def second(name: str, **options) -> FeatureView:
            return FeatureView(
                name=name,
                entities=[user, shop],
                schema=[
                    Field(name="user_id", dtype=Int64),
                    Field(name="shop", dtype=String),
                    Field(name="mood", dtype=String),
                ],
                source=source(name, "happened_at", "second", field_mapping={"raw_mood": "mood"}, **options),
                ttl=timedelta(0),
            )

        self.first = FeatureView(
            name="first",
            entities=[user],
            schema=[Field(name=n, dtype=t) for n, t in [("user_id", Int64), ("amount", Float64), ("n", Int64)]],
            source=source("first", "event_timestamp", "first"),
            ttl=TTL,
        )
        self.second, self.created = second("second"), second("created", created_timestamp_column="created")

        @on_demand_feature_view(sources=[self.first], schema=[Field(name="twice", dtype=Float64)], mode="pandas")
        def doubled(features: pd.DataFrame) -> pd.DataFrame:
            return pd.DataFrame({"twice": features["amount"] * 2})

        service = FeatureService(
            name="renamed",
            features=[
                self.first.with_name("buyer").with_join_key_map({"user_id": "buyer_id"})[["n"]],
                self.second.with_name("there").with_join_key_map({"shop": "place", "user_id": "buyer_id"}),
                self.first.with_name("user")[["amount"]],
            ],
        )
        definitions = [user, shop, self.first, self.second, self.created, doubled, service]
        self.write([], [])
        self.stock, self.ours = (self.open(folder, kind, definitions) for kind in (STOCK, OFFLINE))

    def open(self, folder, kind: str, definitions: list) -> FeatureStore:
        config = RepoConfig(
            project="p",
            provider="local",
            registry=str(folder / f"{kind}.db"),
            offline_store={"type": kind},
            online_store={"type": "sqlite", "path": str(folder / f"{kind}.online.db")},
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        store.apply(definitions)
        return store

    def write(self, first: list[tuple], second: list[tuple]) -> None:
        for file, rows, schema in [(self.files["first"], first, FIRST), (self.files["second"], second, SECOND)]:
            columns = list(zip(*rows, strict=True)) or [[] for _ in schema]
            arrays = [
                pa.array(_naive(c) if not getattr(f.type, "tz", 1) else c, f.type)
                for c, f in zip(columns, schema, strict=True)
            ]
            pq.write_table(pa.table(arrays, schema=schema), file)

    def same(self, entities: pd.DataFrame, features, full_feature_names: bool = False, fast: bool = True) -> pa.Table:
        """Ask both, and require the same answer but for the order of the rows; return it."""
        expected, job = (
            store.get_historical_features(entities.copy(), features, full_feature_names)
            for store in (self.stock, self.ours)
        )
        assert ("ASOF" in ibis.to_sql(job.table)) == fast
        assert "ASOF" not in ibis.to_sql(expected.table)
        assert job.metadata.__dict__ == expected.metadata.__dict__
        pd.testing.assert_frame_equal(_sorted(job.to_df()), _sorted(expected.to_df()))
        answer = job.to_arrow()
        require_same(answer, expected.to_arrow())
        return answer


def require_same(answer: pa.Table, expected: pa.Table) -> None:
    assert answer.schema.equals(expected.schema, check_metadata=True)
    assert sorted(map(repr, answer.to_pylist())) == sorted(map(repr, expected.to_pylist()))


def _sorted(frame: pd.DataFrame) -> pd.DataFrame:
    order = frame.map(repr).sort_values(list(frame.columns)).index
    return frame.loc[order].reset_index(drop=True)


def _naive(instants) -> list:
    return [instant.replace(tzinfo=None) for instant in instants]


def frame(
    rows: list[tuple], zone: str | None = "UTC", event: str = "event_timestamp", key_type: str = "Int64"
) -> pd.DataFrame:
    users, shops, instants = zip(*rows, strict=True)
    stamps = pd.to_datetime(list(instants), utc=True)
    return pd.DataFrame(
        {
            "note": [f"row {place % 2}" for place in range(len(rows))],
            event: stamps.tz_convert(zone) if zone else stamps.tz_localize(None),
            "user_id": pd.array(users, key_type),
            "shop": pd.array(shops, "string"),
        }
    )


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    return Stores(tmp_path_factory.mktemp("stores"))


class TestHistoricalFeatures:
    @settings(max_examples=20, deadline=None)
    @given(
        FIRST_ROWS,
        SECOND_ROWS,
        ENTITY_ROWS,
        st.sampled_from(["UTC", "Asia/Tokyo", "America/Los_Angeles", None]),
        st.sampled_from(["Int64", "float64"]),
        st.booleans(),
    )
    def test_every_answer_is_that_of_the_stock_store(
        self, stores, first, second, entities, zone, key_type, full_feature_names
    ):
        stores.write(first, second)
        entities = frame(entities + entities[:1], zone, key_type=key_type)  # one is asked for twice
        stores.same(entities, ["first:n", "second:mood", "first:amount"], full_feature_names)

    @settings(max_examples=10, deadline=None)
    @given(FIRST_ROWS, SECOND_ROWS, ENTITY_ROWS)
    def test_a_service_that_renames_views_and_join_keys(self, stores, first, second, entities):
        stores.write(first, second)
        entities = frame(entities).rename(columns={"shop": "place"})
        entities["buyer_id"] = entities["user_id"].array[::-1]
        stores.same(entities, stores.ours.get_feature_service("renamed"), full_feature_names=True)

    @pytest.mark.parametrize(("age", "alive"), [(TTL, True), (TTL + MICROSECOND, False), (-MICROSECOND, False)])
    def test_the_ttl_bounds_are_exact_to_the_microsecond(self, stores, age, alive):
        stores.write([(1, T - age, 1.5, 2)], [])
        answer = stores.same(frame([(1, None, T)]), ["first:n"])
        assert answer["n"].to_pylist() == ([2] if alive else [None])

    def test_an_unknown_user_a_null_key_and_a_null_instant_get_nulls(self, stores):
        stores.write([(1, T, 1.5, 2), (None, T, 2.5, 3), (2, None, 3.5, 4)], [])
        answer = stores.same(frame([(404, None, T), (None, None, T), (2, None, T), (1, None, pd.NaT)]), ["first:n"])
        assert answer["n"].to_pylist() == [None] * 4

    def test_another_event_column_extra_columns_and_instants_as_text(self, stores):
        stores.write([(1, T, 1.5, 2)], [])
        entities = frame([(1, None, T), (1, None, T - MICROSECOND)], event="asked_at")
        entities["list"] = [[1, 2], []]
        stores.same(entities, ["first:n"])
        entities = frame([(1, None, T), (1, None, T - MICROSECOND)])
        entities["event_timestamp"] = entities["event_timestamp"].map(lambda instant: instant.isoformat())
        assert sorted(stores.same(entities, ["first:n"])["n"].to_pylist(), key=str) == [2, None]

    def test_a_frame_that_has_columns_named_like_those_of_the_source(self, stores):
        stores.write([(1, T, 1.5, 2)], [(1, "a", T, T, "good")])
        entities = frame([(1, "a", T)])
        entities["n"], entities["happened_at"], entities["raw_mood"] = 7, T, "bad"
        answer = stores.same(entities, ["first:amount", "second:mood"])
        assert answer.select(["n", "raw_mood", "amount", "mood"]).to_pylist() == [
            {"n": 7, "raw_mood": "bad", "amount": 1.5, "mood": "good"}
        ]

    def test_features_on_demand_are_computed_from_the_answer(self, stores):
        stores.write([(1, T, 1.5, 2)], [])
        assert stores.same(frame([(1, None, T)]), ["doubled:twice"])["twice"].to_pylist() == [3.0]

    def test_many_rows_at_once(self, stores):
        users = range(3000)
        stores.write(
            [
                (user, T - hours * timedelta(hours=user % 13), hours + 0.5, user)
                for user in users
                for hours in (0, 1, 5)
                if user % 13 or not hours
            ],
            [],
        )
        entities = frame([(user % 3100, None, T + (user % 7 - 3) * timedelta(hours=9)) for user in range(10_000)])
        stores.same(entities, ["first:amount", "first:n"])


class TestWhatTheFastJoinDoesNotTake:
    """It is left to Feast's own query."""

    @settings(max_examples=10, deadline=None)
    @given(SECOND_ROWS, ENTITY_ROWS)
    def test_a_created_timestamp_column(self, stores, second, entities):
        stores.write([], second)
        stores.same(frame(entities), ["created:mood"], fast=False)

    def test_a_frame_without_any_instant(self, stores):
        stores.write([(1, T, 1.5, 2)], [])
        stores.same(frame([(1, None, pd.NaT)]), ["first:n"], fast=False)

    def test_keys_of_another_kind(self, stores):
        stores.write([(1, T, 1.5, 2)], [])
        entities = frame([(1, None, T)])
        entities["user_id"] = pd.Series([None], dtype=object)
        assert stores.same(entities, ["first:n"], fast=False)["n"].to_pylist() == [None]

    def test_an_entity_frame_in_sql_is_refused_alike(self, stores):
        for store in (stores.stock, stores.ours):
            with pytest.raises(AttributeError, match="'str' object has no attribute 'columns'"):
                store.get_historical_features("SELECT 1", ["first:n"])


def latest(store: FeatureStore, view: FeatureView, start: datetime, end: datetime) -> tuple[str, pa.Table]:
    source = view.batch_source
    job = get_offline_store_from_config(store.config.offline_store).pull_latest_from_table_or_query(
        config=store.config,
        data_source=source,
        join_key_columns=view.join_keys,
        feature_name_columns=["raw_mood"] if source.field_mapping else ["n", "amount"],
        timestamp_field=source.timestamp_field,
        created_timestamp_column=source.created_timestamp_column,
        start_date=start,
        end_date=end,
    )
    return ibis.to_sql(job.table), job.to_arrow()


class TestLatest:
    @settings(max_examples=20, deadline=None)
    @given(FIRST_ROWS, SECOND_ROWS, st.tuples(INSTANTS, INSTANTS).map(sorted))
    def test_the_latest_rows_are_those_of_the_stock_store(self, stores, first, second, interval):
        stores.write(first, second)
        for view in (stores.first, stores.second, stores.created):
            _, expected = latest(stores.stock, view, *interval)
            query, answer = latest(stores.ours, view, *interval)
            assert ("ARG_MAX" in query) == (view is stores.first)
            require_same(answer, expected)

    def test_what_arg_max_does_not_keep_to_the_bit_goes_feasts_way(self, stores):
        stores.write([(1, T, -0.0, 2)], [])
        rows = pq.read_table(stores.files["first"])
        small = pa.field("amount", pa.float32())
        pq.write_table(rows.set_column(2, small, rows["amount"].cast(small.type)), stores.files["first"])
        _, answer = latest(stores.ours, stores.first, T, T)
        assert repr(answer["amount"].to_pylist()) == "[-0.0]"

    def test_of_two_rows_at_the_same_instant_one_comes_whole(self, stores):
        n = np.arange(2_000_000)  # in many parts, each taken by another thread
        rows = pa.table([n % 200, pa.array([T] * len(n), FIRST.field(1).type), n.astype(float), n], schema=FIRST)
        rows = rows.set_column(2, "amount", pc.if_else(pc.equal(rows["n"], 0), None, rows["amount"]))
        pq.write_table(rows, stores.files["first"], row_group_size=50_000)
        _, answer = latest(stores.ours, stores.first, T, T)
        assert sorted(answer["user_id"].to_pylist()) == list(range(200))
        for user, number, amount in zip(
            *(answer[name].to_pylist() for name in ("user_id", "n", "amount")), strict=True
        ):
            assert (number % 200, amount) == (user, number or None)

    def test_the_whole_range_of_instants_that_python_knows(self, stores):
        first, last = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
        stores.write([(1, first, 1.5, 2), (2, last, 1.5, 3)], [])
        _, answer = latest(stores.ours, stores.first, first, last)
        require_same(answer, latest(stores.stock, stores.first, first, last)[1])
        assert answer.num_rows == 2


def test_a_file_that_took_the_place_of_another_within_a_second_is_read_anew(stores):
    for hours in range(3):
        instant = T + hours * timedelta(hours=1)
        stores.write([(1, instant, 1.5, hours)], [])
        os.utime(stores.files["first"], (0, 0))
        _, answer = latest(stores.ours, stores.first, instant, instant)
        assert answer["n"].to_pylist() == [hours]
        assert stores.same(frame([(1, None, instant)]), ["first:n"])["n"].to_pylist() == [hours]
