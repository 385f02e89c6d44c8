"""Feast's materialize and materialize-incremental through this project's engine: nothing is passed over for good."""

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Float64, Int64

from parity.online.side import online_store_of
from tests.online import ENGINE, OFFLINE, OURS

NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
SCHEMA = pa.schema([("id", pa.int64()), ("event_timestamp", pa.timestamp("us", "UTC")), ("spent", pa.float64())])


class Shop:
    """A view of one feature, with a Parquet file of the rows that a test names, and a clock that a test sets."""

    def __init__(self, folder, port: int, ttl: timedelta | None):
        self.path, self.now = folder / "features.parquet", NOW
        customer = Entity(name="customer", join_keys=["id"], value_type=ValueType.INT64)
        source = FileSource(name="rows", path=str(self.path), timestamp_field="event_timestamp")
        schema = [Field(name="id", dtype=Int64), Field(name="spent", dtype=Float64)]
        view = FeatureView(name="spending", entities=[customer], schema=schema, source=source, ttl=ttl)
        config = RepoConfig(
            project=f"engine_{abs(hash(str(folder)))}",
            provider="local",
            registry=str(folder / "registry.db"),
            offline_store={"type": OFFLINE},
            batch_engine={"type": ENGINE},
            online_store={"type": OURS, "connection_string": f"localhost:{port}"},
            entity_key_serialization_version=3,
        )
        self.feast = FeatureStore(config=config)
        self.write((1, NOW - HOUR, 1.0))
        self.feast.apply([customer, view])
        online_store_of(self.feast).now = lambda: self.now

    def write(self, *rows: tuple[int, datetime, float]) -> None:
        pq.write_table(pa.table(list(map(list, zip(*rows, strict=True))), schema=SCHEMA), self.path)

    def materialize(self, start: datetime, end: datetime) -> None:
        self.feast.materialize(start, end, ["spending"])

    def incremental(self, end: datetime) -> None:
        self.feast.materialize_incremental(end, ["spending"])

    def served(self, *ids: int) -> list[float | None]:
        return self.feast.get_online_features(["spending:spent"], {"id": list(ids)}).to_dict()["spent"]

    def intervals(self) -> list[tuple[datetime, datetime]]:
        return self.feast.get_feature_view("spending").materialization_intervals


@pytest.fixture(params=[30 * DAY, None], ids=["ttl", "no ttl"])
def shop(tmp_path, redis_port, request):
    return Shop(tmp_path, redis_port, request.param)


def test_a_row_of_the_past_arrives_though_the_end_and_a_newer_row_lie_in_the_future(shop):
    shop.write((1, NOW - HOUR, 1.0), (1, NOW + HOUR, 2.0))
    shop.materialize(NOW - DAY, NOW + 2 * HOUR)
    assert shop.served(1) == [1.0]


@pytest.mark.smoke
def test_an_end_in_the_future_is_noted_as_the_present(shop):
    shop.materialize(NOW - DAY, datetime(2099, 1, 1, tzinfo=UTC))
    assert shop.intervals() == [(NOW - DAY, NOW)]


def test_an_incremental_run_after_an_end_in_the_future_brings_what_has_come(shop):
    shop.materialize(NOW - DAY, datetime(2099, 1, 1, tzinfo=UTC))
    shop.write((1, NOW - HOUR, 1.0), (1, NOW + HOUR, 2.0), (2, NOW + HOUR, 3.0))
    shop.now = NOW + 2 * HOUR
    shop.incremental(shop.now)
    assert shop.served(1, 2) == [2.0, 3.0]


def test_a_row_a_moment_ahead_arrives_once_its_moment_has_come(shop):
    shop.materialize(NOW - DAY, NOW)
    shop.write((1, NOW - HOUR, 1.0), (1, NOW + timedelta(seconds=20), 2.0))
    shop.incremental(NOW + timedelta(seconds=60))
    assert shop.served(1) == [1.0]
    shop.now = NOW + timedelta(seconds=30)
    shop.incremental(NOW + timedelta(seconds=90))
    assert shop.served(1) == [2.0]


def test_an_incremental_run_brings_rows_that_came_late(shop):
    shop.materialize(NOW - DAY, NOW)
    shop.write((1, NOW - HOUR, 1.0), (2, NOW - 10 * DAY, 2.0))
    shop.now = NOW + HOUR
    shop.incremental(shop.now)
    assert shop.served(1, 2) == [1.0, 2.0]


def test_an_incremental_run_fills_a_redis_that_came_back_empty(shop):
    shop.materialize(NOW - DAY, NOW)
    online_store_of(shop.feast).delete_entity_values(shop.feast.config, ["id"])
    shop.now = NOW + HOUR
    shop.incremental(shop.now)
    assert shop.served(1) == [1.0]


def test_the_first_incremental_run_brings_what_is_older_than_a_year_where_nothing_expires(tmp_path, redis_port):
    shop = Shop(tmp_path, redis_port, None)
    shop.write((1, NOW - 400 * DAY, 1.0))
    shop.incremental(NOW)
    assert shop.served(1) == [1.0]


def test_an_interval_that_is_asked_for_is_the_one_that_is_brought(shop):
    shop.write((1, NOW - 5 * HOUR, 1.0), (2, NOW - HOUR, 2.0))
    shop.materialize(NOW - 2 * HOUR, NOW)
    assert shop.served(1, 2) == [None, 2.0]


def test_a_run_that_begins_after_the_present_brings_and_notes_nothing(shop):
    shop.materialize(NOW + HOUR, NOW + 2 * HOUR)
    assert shop.served(1) == [None]
    assert shop.intervals() == []


def test_a_run_that_failed_is_not_noted(shop):
    shop.path.unlink()
    with pytest.raises(Exception, match=r"features\.parquet"):
        shop.materialize(NOW - DAY, NOW)
    assert shop.intervals() == []
