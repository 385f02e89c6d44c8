"""What stock Feast gets wrong, which this project works around: each test says when a workaround can go.

A test that fails here is good news: Feast has mended the fault. Then delete the test and what it names.
"""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import ibis
import pandas as pd
import pytest
from feast import FeatureStore, FeatureView, Field, RepoConfig, ValueType
from feast.errors import FeastError
from feast.feature_view import FeatureViewState
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.type_map import python_values_to_proto_values
from feast.types import Float64

from tests.definition import AVERAGE, TOTAL, TTL, aggregation, purchases, table, user
from tests.online import OFFLINE, write_history

VIEW = "purchases"
NOW = datetime.now(UTC).replace(microsecond=0)


class Stock:
    """A Feast store with stock parts, and a Parquet file of the rows that a test names."""

    def __init__(self, folder, port: int, offline: str):
        self.table = purchases(folder)
        self.view, self.path = self.table.view, folder / "purchases.parquet"
        config = RepoConfig(
            project=f"stock_{abs(hash(str(folder)))}",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": offline},
            online_store={"type": "redis", "connection_string": f"localhost:{port}"},
            entity_key_serialization_version=3,
        )
        self.feast = FeatureStore(config=config)
        self.write((1, NOW, 1.0, 1))
        self.feast.apply([user, self.view, self.table.service])

    def write(self, *rows: tuple[int, datetime, float, int]) -> None:
        write_history(self.table, *rows)

    def materialize(self, end: datetime = NOW) -> None:
        self.feast.materialize(NOW - timedelta(days=400), end, [VIEW])

    def push(self, user_id: int, instant: datetime, average: float) -> None:
        row = {user.join_key: [user_id], "event_timestamp": [instant], AVERAGE: [average], TOTAL: [1]}
        self.feast.write_to_online_store(VIEW, pd.DataFrame(row))

    def online(self, user_id: int) -> tuple[float | None, str]:
        answer = self.feast.get_online_features([f"{VIEW}:{AVERAGE}"], [{user.join_key: user_id}])
        place = list(answer.proto.metadata.feature_names.val).index(AVERAGE)
        return answer.to_dict()[AVERAGE][0], FieldStatus.Name(answer.proto.results[place].statuses[0])

    def offline(self, *users: int, at: datetime = NOW) -> pd.DataFrame:
        entities = pd.DataFrame({user.join_key: list(users), "event_timestamp": [at] * len(users)})
        return self.feast.get_historical_features(entities, [f"{VIEW}:{AVERAGE}"]).to_df()


@pytest.fixture
def stock(tmp_path, redis_port):
    return Stock(tmp_path, redis_port, "duckdb")


@pytest.fixture
def stock_file(tmp_path, redis_port):
    return Stock(tmp_path, redis_port, "file")


class TestRedisOnlineStore:
    """Why there is parity/online/store.py."""

    def test_it_serves_a_value_older_than_the_ttl(self, stock):
        stock.push(1, NOW - TTL - timedelta(days=1), 5.0)
        assert stock.online(1) == (5.0, "PRESENT")

    def test_it_skips_a_correction_at_the_same_instant(self, stock):
        stock.push(1, NOW, 5.0)
        stock.push(1, NOW, 6.0)
        assert stock.online(1)[0] == 5.0

    def test_it_serves_a_value_from_the_future_which_shuts_out_the_present(self, stock):
        stock.push(1, NOW + timedelta(days=1), 5.0)
        stock.push(1, NOW, 6.0)
        assert stock.online(1)[0] == 5.0

    def test_it_calls_an_unknown_user_present(self, stock):
        assert stock.online(404) == (None, "PRESENT")

    def test_it_still_serves_what_was_deleted_offline(self, stock):
        stock.write((1, NOW, 1.0, 1), (2, NOW, 2.0, 1))
        stock.materialize()
        stock.write((1, NOW, 1.0, 1))
        stock.materialize()
        assert stock.online(2)[0] == 2.0


class TestKeys:
    """Why there is parity/online/encoding.py, and why a key has whole seconds."""

    def test_it_can_not_write_a_bool(self):
        with pytest.raises(ValueError, match="Value type not supported"):
            serialize_entity_key(EntityKey(join_keys=["flag"], entity_values=[Value(bool_val=True)]), 3)

    def test_it_truncates_an_instant_to_seconds(self):
        [value] = python_values_to_proto_values([NOW + timedelta(milliseconds=1)], ValueType.UNIX_TIMESTAMP)
        assert value.unix_timestamp_val == NOW.timestamp()


class TestRegistry:
    """Why there is parity/registry_store.py, and why serving looks at a view through `ServingRegistry`."""

    def test_a_view_that_is_materialized_is_neither_served_nor_given_for_training(self, stock):
        stock.materialize()
        view = stock.feast.get_feature_view(VIEW)
        view.state = FeatureViewState.MATERIALIZING
        stock.feast.registry.apply_feature_view(view, stock.feast.project)
        with pytest.raises(ValueError, match="is in state 'MATERIALIZING' and cannot serve"):
            stock.online(1)
        with pytest.raises(ValueError, match="is in state 'MATERIALIZING' and cannot serve"):
            stock.offline(1)

    def test_a_run_that_fails_after_one_that_was_killed_leaves_a_view_that_is_not_served(self, stock):
        """Feast's switch serve_features_while_materializing, which the file registry heeds too, does not help here."""
        stock.materialize()
        view = stock.feast.get_feature_view(VIEW)
        view.state = FeatureViewState.MATERIALIZING
        stock.feast.registry.apply_feature_view(view, stock.feast.project)
        stock.path.unlink()
        with pytest.raises(Exception, match=r"purchases\.parquet"):
            stock.materialize()
        assert stock.feast.get_feature_view(VIEW).state == FeatureViewState.GENERATED

    def test_of_two_who_read_the_same_registry_the_later_writer_takes_back_what_the_first_wrote(self, stock):
        one, two = (FeatureStore(config=stock.feast.config) for _ in range(2))
        views = [store.get_feature_view(VIEW) for store in (one, two)]
        for store, day in ((one, 1), (two, 2)):
            view = store.registry.cached_registry_proto.feature_views[0]
            view.meta.materialization_intervals.add().start_time.FromDatetime(NOW + timedelta(days=day))
        one.registry.commit()
        two.registry.commit()
        assert [view.materialization_intervals for view in views] == [[], []]
        assert len(stock.feast.get_feature_view(VIEW).materialization_intervals) == 1


class TestRequests:
    """Why requests are looked through before Feast answers them (parity/online/requests.py)."""

    def ask(self, stock, rows: dict):
        return stock.feast.get_online_features([f"{VIEW}:{AVERAGE}"], rows).to_dict()[AVERAGE]

    def test_the_name_of_an_entity_gives_null_where_its_join_key_gives_the_value(self, stock):
        stock.push(1, NOW, 5.0)
        assert self.ask(stock, {user.join_key: ["1"]}) == [5.0]
        assert self.ask(stock, {user.name: ["1"]}) == [None]

    @pytest.mark.parametrize("rows", [{user.join_key: ["abc"]}, {}])
    def test_what_is_wrong_with_a_request_is_no_error_of_feasts_and_so_http_500(self, stock, rows):
        with pytest.raises(Exception) as error:  # noqa: PT011 - of many kinds
            self.ask(stock, rows)
        assert not isinstance(error.value, FeastError)

    @pytest.mark.parametrize(("given", "used"), [(7.9, 7), (True, 1)])
    def test_an_id_of_another_type_is_taken_for_another_id(self, stock, given, used):
        stock.push(used, NOW, 5.0)
        assert self.ask(stock, {user.join_key: [given]}) == [5.0]


class TestIncrementalMaterialization:
    """Why materialize_to_online.py takes the whole history, and why online/engine.py notes what was materialized."""

    def test_it_passes_over_rows_that_come_late(self, stock):
        stock.materialize()
        stock.write((1, NOW, 1.0, 1), (2, NOW - timedelta(hours=1), 2.0, 1))
        stock.feast.materialize_incremental(NOW + timedelta(minutes=1), [VIEW])
        assert stock.online(2)[0] is None

    def test_it_begins_where_an_end_in_the_future_lay(self, stock):
        stock.materialize(NOW + timedelta(days=1))
        stock.write((1, NOW, 1.0, 1), (2, NOW + timedelta(minutes=1), 2.0, 1))
        stock.feast.materialize_incremental(NOW + timedelta(hours=1), [VIEW])
        assert stock.online(2)[0] is None

    def test_it_does_not_fill_a_redis_that_was_emptied(self, stock):
        stock.write((1, NOW - timedelta(hours=1), 1.0, 1))
        stock.materialize()
        stock.feast._get_provider().online_store.delete_entity_values(stock.feast.config, [user.join_key])
        stock.feast.materialize_incremental(NOW + timedelta(minutes=1), [VIEW])
        assert stock.online(1)[0] is None


class TestFilesThatAreRewritten:
    def answers(self, stock, rewritten: int = 300) -> Iterator[bool]:
        """Whether training reads what was written, each time that the file has been."""
        for value in range(rewritten):
            stock.write(*[(1, NOW, float(value), 1)] * random.randint(1, 50))
            try:
                frame = pd.DataFrame({user.join_key: [1], "event_timestamp": [NOW]})
                [answer] = stock.feast.get_historical_features(frame, [f"{VIEW}:{AVERAGE}"]).to_df()[AVERAGE]
            except Exception:  # of many kinds, by what of the old file is kept; and in no case what was written
                answer = None
            yield answer == value

    @pytest.mark.scale
    def test_it_reads_what_was_in_a_file_before_it_was_rewritten(self, tmp_path, redis_port):
        """Why ours has DuckDB forget files."""
        ibis.get_backend().raw_sql("SET enable_external_file_cache = true")
        assert not all(self.answers(Stock(tmp_path, redis_port, "duckdb")))
        assert all(self.answers(Stock(tmp_path, redis_port, OFFLINE), 100))


class TestFileOfflineStore:
    """Why the offline store is made of the duckdb one."""

    def test_it_drops_the_row_of_an_expired_user(self, stock_file):
        stock_file.write((1, NOW, 1.0, 1), (2, NOW - TTL - timedelta(days=1), 2.0, 1))
        assert stock_file.offline(1, 2)[user.join_key].tolist() == [1]

    def test_it_collapses_a_row_that_is_asked_for_twice(self, stock_file):
        assert len(stock_file.offline(1, 1)) == 1


class TestDuckDBOfflineStore:
    """What holds, and why results are read as Arrow and sorted by key."""

    def test_an_expired_user_is_null_to_the_microsecond(self, stock):
        stock.write((1, NOW - TTL, 1.0, 1), (2, NOW - TTL - timedelta(microseconds=1), 2.0, 1))
        assert stock.offline(1, 2).set_index(user.join_key)[AVERAGE].to_dict()[1] == 1.0
        assert stock.offline(1, 2).set_index(user.join_key)[AVERAGE].isna().to_dict()[2]

    def test_a_large_integer_is_rounded_in_a_data_frame_with_an_unknown_user(self, stock):
        stock.write((1, NOW, 1.0, 2**53 + 1))
        entities = pd.DataFrame({user.join_key: [1, 404], "event_timestamp": [NOW] * 2})
        job = stock.feast.get_historical_features(entities, [f"{VIEW}:{TOTAL}"])
        assert 2**53 + 1 not in job.to_df()[TOTAL].tolist()
        assert 2**53 + 1 in job.to_arrow()[TOTAL].to_pylist()


class TestEntitylessViews:
    """A view without entities is Feast's alone so far; docs/serving.md says so."""

    def test_it_can_not_be_materialized(self, stock):
        schema = [Field(name=AVERAGE, dtype=Float64)]
        view = FeatureView(name="of_all", entities=[], schema=schema, source=stock.view.batch_source)
        stock.feast.apply([view])
        with pytest.raises(ValueError, match="Column __dummy_id not found in table"):
            stock.feast.materialize(NOW - TTL, NOW, ["of_all"])


class TestVersionsOfViews:
    """Why `python -m parity deploy` keeps versions of its own (parity/definition/recorded.py)."""

    def versions(self, folder, *conditions: str) -> tuple[FeatureStore, list]:
        """What a registry lists of a view that was applied with each of these conditions."""
        config = RepoConfig(
            project="versions",
            provider="local",
            registry={"path": str(folder / "registry.db"), "enable_online_feature_view_versioning": True},
            online_store={"type": "sqlite", "path": str(folder / "online.db")},
            entity_key_serialization_version=3,
        )
        store = FeatureStore(config=config)
        for where in conditions:
            view = table(folder, VIEW, [user], [aggregation("sum", "amount", 3, "spent")], where=where).view
            store.apply([user, view])
        return store, store.list_feature_view_versions(VIEW)

    def test_a_view_of_other_transactions_is_no_version(self, tmp_path):
        _, versions = self.versions(tmp_path, "amount > 0", "amount > 100")
        assert len(versions) == 1

    def test_readers_of_a_version_get_other_names(self, tmp_path):
        store, _ = self.versions(tmp_path, "amount > 0")
        rows = [{user.join_key: 1}]
        names = [
            list(store.get_online_features([f"{view}:spent"], rows, full_feature_names=True).to_dict())[-1]
            for view in (VIEW, f"{VIEW}@v0")
        ]
        assert names == ["purchases__spent", "purchases@v0__spent"]
