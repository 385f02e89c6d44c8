"""Continuous views online: a row that carries its own future, and one that a stream has written and no batch takes
back."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
import urllib.request
from datetime import UTC, datetime, timedelta
from functools import partial

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import yaml
from feast import FeatureService
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.types import Int32, Int64, String

from parity.compute.windows import aggregate
from parity.definition.declare import DefinitionError
from parity.definition.functions import FUNCTIONS
from parity.edge.errors import UserError
from parity.edge.redis_server import free_port
from parity.materialization import Materialized, materialize, repair
from parity.online.marks import is_ahead, marks_text
from parity.online.scanning import Leftovers
from parity.online.side import online_store_of, redis_keys, stored_events
from parity.online.steps import at_present, every_step
from parity.online.writing import BYTES_PER_SCRIPT, _parts
from parity.proof.sides import serving_values
from tests import deployments
from tests.conftest import BIN, ROOT
from tests.definition import EVERY_FUNCTION, ORDERS, aggregation, customer, purchases, table, user
from tests.online import ENGINE, NOW, OFFLINE, OURS, STOCK, opened, require_in_step, rows_of, write_history

MICROSECOND, HOUR, DAY = timedelta(microseconds=1), timedelta(hours=1), timedelta(days=1)
NOT_LANDED = b"0123456789abcdef shop/0=00000000000000000007 shop/1=09007199254740993001"
LANDED = {"shop/0": 7, "shop/1": 9007199254740993001}


@pytest.fixture
def client(redis_port):
    with redis.Redis(port=redis_port) as client:
        yield client


def spending(folder, horizon=2 * DAY, ttl=30 * DAY, name="spending"):
    """A sum and a count over a day, and a count of all, continuous."""
    features = [
        aggregation("sum", "amount", 1, "spent"),
        aggregation("count", "amount", 1, "bought"),
        aggregation("count", "amount", name="ever"),
    ]
    return table(folder, name, [user], features, continuous=True, horizon=horizon, ttl=ttl)


@pytest.fixture
def sliding(tmp_path):
    return spending(tmp_path)


@pytest.fixture
def store(tmp_path, redis_port, sliding):
    return opened(tmp_path, redis_port, [sliding])


def micros(instant):
    return int(pa.scalar(instant, pa.timestamp("us", "UTC")).value)


def write(store, table, rows, marks=None, with_steps=True):
    """Write each key's latest row of ``rows``, with what follows."""
    latest, steps = at_present(rows_of(table, rows), table.definition, micros(NOW), micros(NOW + 2 * DAY))
    online = online_store_of(store)
    written = [
        online.write_columns(store.config, table.view, batch, steps if with_steps else None, marks or {})()
        for batch in latest.to_batches()
    ]
    return written[0]


def hash_of(store, table, client, user_id=1):
    keys = pa.table({"user_id": pa.array([user_id])})
    return client.hgetall(redis_keys(store, table, keys)[0])


ROWS = [(1, NOW - HOUR, 7.5, 2, 2), (1, NOW + HOUR, 5.0, 1, 2), (1, NOW + 2 * HOUR, 0.0, 0, 2), (2, NOW, 1.0, 1, 1)]


class TestWrites:
    def test_steps_arrive_with_their_row(self, store, sliding, client):
        assert write(store, sliding, ROWS) == ([], 0)
        steps = every_step(hash_of(store, sliding, client)[b"_steps:spending"])
        assert [instant for instant, _ in steps] == [micros(NOW + HOUR), micros(NOW + 2 * HOUR)]
        assert every_step(hash_of(store, sliding, client, 2)[b"_steps:spending"]) == []

    def test_a_row_that_comes_without_steps_does_not_keep_those_of_another(self, store, sliding, client):
        write(store, sliding, ROWS)
        write(store, sliding, ROWS, with_steps=False)
        assert b"_steps:spending" not in hash_of(store, sliding, client)

    def test_an_older_row_leaves_row_and_steps_alone(self, store, sliding, client):
        write(store, sliding, ROWS)
        before = hash_of(store, sliding, client)
        write(store, sliding, [(1, NOW - 2 * HOUR, 1.0, 1, 1)])
        assert hash_of(store, sliding, client) == before

    def test_a_row_that_is_deleted_takes_along_what_lies_beside_it(self, store, sliding, client):
        write(store, sliding, ROWS)
        [key] = redis_keys(store, sliding, pa.table({"user_id": pa.array([1])}))
        client.hset(key, mapping={"_state:spending": b"state", "_applied:spending": NOT_LANDED})
        found = [row for row in stored_events(store, sliding).found if row[0] == key]
        online = online_store_of(store)
        assert online.retract(store.config, sliding.view, found, marks={}) == 0
        assert online.retract(store.config, sliding.view, found) == 1
        assert not client.exists(key)

    @pytest.mark.parametrize("sizes", [[], [0] * 7, [1] * 7, [BYTES_PER_SCRIPT * 2] * 3, [5, BYTES_PER_SCRIPT, 5]])
    def test_every_row_is_in_one_part(self, sizes):
        parts = list(_parts(sizes, 3))
        assert [place for part in parts for place in range(part.start, part.stop)] == list(range(len(sizes)))
        assert all(sum(sizes[part]) <= BYTES_PER_SCRIPT or part.stop - part.start == 1 for part in parts)


def answer_of(store, table, user_id=1):
    """What is served: values, statuses and instants by the fast path, which are those of Feast's own way, by either
    client."""
    names = [rule.name for rule in table.definition.rules]
    online, rows = online_store_of(store), [{"user_id": user_id}]
    answer = store.get_online_features(table.service, rows).proto
    slow = RedisOnlineStore.get_online_features(
        online, store.config, table.service, rows, store.registry, store.project, False
    ).proto
    assert slow == answer

    async def ask():
        try:
            fast = await store.get_online_features_async(table.service, rows)
            slow = await RedisOnlineStore.get_online_features_async(
                online, store.config, table.service, rows, store.registry, store.project, False
            )
            return [fast.proto, slow.proto]
        finally:
            await online._client_async.aclose()
            online._client_async = None

    assert asyncio.run(ask()) == [answer, answer]
    vectors = dict(zip(answer.metadata.feature_names.val, answer.results, strict=True))
    return {
        name: (
            getattr(vector.values[0], vector.values[0].WhichOneof("val") or "", None),
            FieldStatus.Name(vector.statuses[0]),
            vector.event_timestamps[0].ToDatetime(UTC),
        )
        for name, vector in ((name, vectors[name]) for name in names)
    }


def values_at(store, table, instant, user_id=1):
    online_store_of(store).now = lambda: instant
    return [value for value, *_ in answer_of(store, table, user_id).values()]


class TestReads:
    """At each instant, by the fast path, Feast's own, and both clients."""

    @pytest.fixture
    def written(self, store, sliding):
        write(store, sliding, ROWS)
        return store

    @pytest.mark.smoke
    @pytest.mark.parametrize(
        ("after", "row"),
        [
            (timedelta(0), ROWS[0]),
            (HOUR - MICROSECOND, ROWS[0]),
            (HOUR, ROWS[1]),
            (HOUR + MICROSECOND, ROWS[1]),
            (2 * HOUR - MICROSECOND, ROWS[1]),
            (2 * HOUR, ROWS[2]),
            (2 * DAY, ROWS[2]),
        ],
    )
    def test_a_step_is_served_from_its_instant_on_with_that_for_event_timestamp(self, written, sliding, after, row):
        online_store_of(written).now = lambda: NOW + after
        _, event, *values = row
        assert list(answer_of(written, sliding).values()) == [(value, "PRESENT", event) for value in values]

    @pytest.mark.parametrize(("after", "status"), [(0 * MICROSECOND, "PRESENT"), (MICROSECOND, "OUTSIDE_MAX_AGE")])
    @pytest.mark.parametrize("user_id", [1, 2])
    def test_nothing_is_served_past_the_horizon(self, written, sliding, after, status, user_id):
        online_store_of(written).now = lambda: NOW + 2 * DAY + after
        answer = answer_of(written, sliding, user_id)
        assert {how for _, how, _ in answer.values()} == {status}
        assert all((value is None) == (status != "PRESENT") for value, *_ in answer.values())

    def test_before_its_own_instant_a_row_is_unknown(self, written, sliding):
        online_store_of(written).now = lambda: NOW - HOUR - MICROSECOND
        assert {how for _, how, _ in answer_of(written, sliding).values()} == {"NOT_FOUND"}

    @pytest.mark.parametrize(
        ("after", "row", "how"),
        [
            (-2 * HOUR - MICROSECOND, None, "NOT_FOUND"),
            (-2 * HOUR, ROWS[0], "PRESENT"),
            (0 * HOUR, ROWS[0], "PRESENT"),
            (HOUR - MICROSECOND, ROWS[0], "PRESENT"),
            (HOUR, ROWS[1], "PRESENT"),
            (2 * DAY, ROWS[2], "PRESENT"),
            (2 * DAY + MICROSECOND, None, "OUTSIDE_MAX_AGE"),
        ],
    )
    def test_a_clock_that_may_be_ahead_brings_no_step_and_no_horizon_forward(
        self, tmp_path, redis_port, sliding, after, row, how
    ):
        store = opened(tmp_path, redis_port, [sliding], future_tolerance_seconds=3600)
        write(store, sliding, ROWS)
        online_store_of(store).now = lambda: NOW + after
        values = [None] * 3 if row is None else row[2:]
        assert [(value, status) for value, status, _ in answer_of(store, sliding).values()] == [
            (value, how) for value in values
        ]

    @pytest.mark.parametrize(("age", "served"), [(HOUR, True), (HOUR + MICROSECOND, False)])
    def test_the_ttl_counts_from_the_step(self, tmp_path, redis_port, age, served):
        sliding = spending(tmp_path, ttl=HOUR)
        store = opened(tmp_path, redis_port, [sliding])
        write(store, sliding, ROWS)
        online_store_of(store).now = lambda: ROWS[2][1] + age
        how = "PRESENT" if served else "OUTSIDE_MAX_AGE"
        assert list(answer_of(store, sliding).values()) == [
            (value if served else None, how, ROWS[2][1]) for value in ROWS[2][2:]
        ]

    def test_a_row_without_steps_is_past_its_horizon(self, store, sliding):
        write(store, sliding, ROWS, with_steps=False)
        assert {how for _, how, _ in answer_of(store, sliding).values()} == {"OUTSIDE_MAX_AGE"}

    def test_a_pushed_row_is_past_its_horizon(self, written, sliding):
        written.write_to_online_store("spending", rows_of(sliding, [(1, NOW, 2.0, 2, 2)]).to_pandas())
        assert {how for _, how, _ in answer_of(written, sliding).values()} == {"OUTSIDE_MAX_AGE"}

    def test_a_row_that_stock_feast_wrote_is_not_followed_by_the_steps_of_another(
        self, tmp_path, redis_port, written, sliding
    ):
        stock = opened(tmp_path, redis_port, [sliding], online=STOCK, project=written.project)
        stock.write_to_online_store("spending", rows_of(sliding, [(1, NOW, 2.0, 2, 2)]).to_pandas())
        assert {how for _, how, _ in answer_of(written, sliding).values()} == {"OUTSIDE_MAX_AGE"}

    def test_stock_feast_reads_the_row_as_of_its_materialization(self, tmp_path, redis_port, written, sliding):
        stock = opened(tmp_path, redis_port, [sliding], online=STOCK, project=written.project)
        answer = stock.get_online_features(sliding.service, [{"user_id": 1}]).to_dict()
        assert answer == {"user_id": [1], "spent": [7.5], "bought": [2], "ever": [2]}

    @pytest.mark.parametrize("damage", [b"", b"\x00", b"\xff" * 200], ids=["empty", "short", "noise"])
    def test_steps_that_are_not_readable_are_past_the_horizon(self, written, sliding, client, damage, caplog):
        [key] = redis_keys(written, sliding, pa.table({"user_id": pa.array([1])}))
        client.hset(key, "_steps:spending", damage)
        assert {how for _, how, _ in answer_of(written, sliding).values()} == {"OUTSIDE_MAX_AGE"}
        assert len([record for record in caplog.records if "steps" in record.message]) <= 1

    def test_single_features_full_names_and_several_entities(self, written, sliding):
        online_store_of(written).now = lambda: NOW + HOUR
        references = ["spending:ever", "spending:spent"]
        answer = written.get_online_features(references, {"user_id": [2, 1, 3, 1]}, full_feature_names=True).to_dict()
        assert answer == {
            "user_id": [2, 1, 3, 1],
            "spending__ever": [1, 2, None, 2],
            "spending__spent": [1.0, 5.0, None, 5.0],
        }

    def test_an_alias_and_a_projection_are_read_alike(self, written, sliding):
        renamed = sliding.view.with_name("other").with_join_key_map({"user_id": "buyer"})
        service = FeatureService(name="renamed", features=[renamed[["bought"]]])
        written.apply([service])
        online_store_of(written).now = lambda: NOW + 2 * HOUR
        assert written.get_online_features(service, [{"buyer": 1}]).to_dict() == {"buyer": [1], "bought": [0]}

    def test_two_views_in_one_hash_one_of_them_continuous(self, tmp_path, redis_port, sliding):
        plain = table(tmp_path, "plain", [user], [aggregation("sum", "amount", 1, "total")])
        both = FeatureService(name="both", features=[sliding.view, plain.view])
        store = opened(tmp_path, redis_port, [sliding, plain])
        store.apply([both])
        write(store, sliding, ROWS)
        [batch] = rows_of(plain, [(1, NOW - HOUR, 7.5)]).to_batches()
        online_store_of(store).write_columns(store.config, plain.view, batch)()
        for after, spent in ((HOUR, 5.0), (2 * HOUR, 0.0), (2 * DAY + MICROSECOND, None)):
            online_store_of(store).now = lambda after=after: NOW + after
            answer = store.get_online_features(both, [{"user_id": 1}]).to_dict()
            assert (answer["spent"], answer["total"]) == ([spent], [7.5])

    def test_features_in_another_order_or_number_are_read_by_their_names(self, tmp_path, redis_port, written, sliding):
        fewer = table(
            tmp_path,
            "spending",
            [user],
            [*reversed(sliding.view.aggregations[:2]), aggregation("max", "amount", 1, "most")],
            continuous=True,
        )
        changed = opened(tmp_path, redis_port, [fewer], project=written.project)
        assert values_at(changed, fewer, NOW + HOUR) == [1, 5.0, None]

    def test_an_unwindowed_feature_follows_a_purchase_that_comes_after(self, store, sliding):
        write(store, sliding, [ROWS[0], (1, NOW + HOUR, 9.5, 3, 3), ROWS[2]])
        assert values_at(store, sliding, NOW + HOUR) == [9.5, 3, 3]
        assert values_at(store, sliding, NOW + HOUR - MICROSECOND) == [7.5, 2, 2]


class TestFields:
    def test_those_beside_a_row_are_known_and_go_where_no_view_has_them(self, tmp_path, store, sliding, client):
        write(store, sliding, ROWS)
        [key] = redis_keys(store, sliding, pa.table({"user_id": pa.array([1])}))
        client.hset(key, mapping={"_state:spending": b"state", "_applied:spending": NOT_LANDED})
        online = online_store_of(store)
        leftovers = Leftovers(known=online.known_fields(store.config, [sliding.view]))
        stored_events(store, sliding, leftovers)
        assert leftovers.fuller == []
        client.hset(key, mapping={"_steps:gone": b"", "_state:gone": b"", "_applied:gone": b"", "other": b""})
        stored_events(store, sliding, leftovers)
        assert leftovers.fuller == [key]
        assert online.delete_unknown_fields(store.config, [key], lambda: [sliding.view]) == 3
        assert {b"_steps:spending", b"_state:spending", b"_applied:spending", b"other"} <= client.hgetall(key).keys()

    def test_steps_go_once_the_view_is_not_continuous_any_more(self, tmp_path, store, sliding, client):
        write(store, sliding, ROWS)
        [key] = redis_keys(store, sliding, pa.table({"user_id": pa.array([1])}))
        plain = table(tmp_path, "spending", [user], sliding.view.aggregations)
        online = online_store_of(store)
        assert online.delete_unknown_fields(store.config, [key], lambda: [plain.view]) == 1
        assert b"_steps:spending" not in client.hgetall(key)


class TestMarks:
    """A row with events of a stream that the files do not have is left alone by whatever comes from the files."""

    @pytest.fixture
    def streamed(self, tmp_path, redis_port):
        """A plain view: what holds of streams does so whether it is continuous or not."""
        plain = purchases(tmp_path)
        return opened(tmp_path, redis_port, [plain]), plain

    @pytest.mark.parametrize(
        ("marks", "ahead"),
        [
            ({}, True),
            ({"shop/0": 7}, True),
            ({"shop/0": 6, "shop/1": 9007199254740993001}, True),
            ({"shop/0": 7, "shop/1": 9007199254740993000}, True),  # equal as a number of Lua
            (LANDED, False),
            ({"shop/0": 8, "shop/1": 9007199254740993002, "other/0": 1}, False),
        ],
    )
    def test_a_row_is_ahead_if_any_offset_is_beyond_the_marks(self, streamed, client, marks, ahead):
        store, plain = streamed
        online = online_store_of(store)
        [batch] = rows_of(plain, [(1, NOW - HOUR, 1.0, 1)]).to_batches()
        online.write_columns(store.config, plain.view, batch)()
        [key] = redis_keys(store, plain, pa.table({"user_id": pa.array([1])}))
        client.hset(key, "_applied:purchases", NOT_LANDED)
        before, found = client.hgetall(key), stored_events(store, plain).found
        assert is_ahead(NOT_LANDED, marks) is ahead
        assert online.are_ahead(store.config, plain.view, [key, b"no such key"], marks) == [ahead, False]

        [newer] = rows_of(plain, [(1, NOW, 2.0, 2)]).to_batches()
        assert online.write_columns(store.config, plain.view, newer, marks=marks)() == ([], int(ahead))
        assert (client.hgetall(key) == before) is ahead
        found = stored_events(store, plain).found
        older = rows_of(plain, [(1, NOW - DAY, 3.0, 3)])
        assert online.replace(store.config, plain.view, older, dict(found), marks=marks) == (not ahead)
        found = stored_events(store, plain).found
        assert online.retract(store.config, plain.view, found, marks) == (not ahead)
        assert (client.hgetall(key) == before) is ahead

    def test_a_push_leaves_a_row_of_a_stream_alone_and_says_so(self, streamed, client, caplog):
        store, plain = streamed
        [key] = redis_keys(store, plain, pa.table({"user_id": pa.array([1])}))
        rows = rows_of(plain, [(1, NOW, 2.0, 2)]).to_pandas()
        store.write_to_online_store("purchases", rows)
        client.hset(key, "_applied:purchases", NOT_LANDED)
        before = client.hgetall(key)
        store.write_to_online_store("purchases", rows_of(plain, [(1, NOW, 3.0, 3)]).to_pandas())
        assert client.hgetall(key) == before
        assert "1 rows were not written online, where a stream has written them" in caplog.text

    def test_marks_are_stored_as_digits_that_compare_as_texts(self):
        assert marks_text(LANDED) == "shop/0=00000000000000000007 shop/1=09007199254740993001"


class TestMaterialization:
    """By Feast's own commands, and by ours, which bring what follows from the offline store."""

    @pytest.fixture
    def offline(self, store, sliding):
        write_history(sliding, *ROWS, (3, NOW + HOUR, 4.0, 1, 1))
        return store

    def _materialize(store, table):
        store.materialize(NOW - 2 * HOUR, NOW, [table.name])

    def _incremental(store, table):
        store.materialize(NOW - 3 * HOUR, NOW - 2 * HOUR, [table.name])
        store.materialize_incremental(NOW, [table.name])

    def _ours(store, table):
        assert materialize(store, table, None, NOW, NOW) == Materialized(2, 0)

    def _from_a_start(store, table):
        assert materialize(store, table, NOW - HOUR, NOW, NOW) == Materialized(2, 0)

    def _repaired(store, table):
        repair(store, table, pa.table({"user_id": pa.array([2, 1])}), NOW, NOW)

    @pytest.mark.parametrize("by", [_materialize, _incremental, _ours, _from_a_start, _repaired])
    @pytest.mark.parametrize("rows_per_batch", [1, 1000])
    def test_rows_bring_what_follows(self, offline, sliding, by, rows_per_batch, monkeypatch):
        monkeypatch.setattr("parity.online.engine.ROWS_PER_BATCH", rows_per_batch)
        monkeypatch.setattr("parity.materialization.ROWS_PER_BATCH", rows_per_batch)
        by(offline, sliding)
        for instant, values in [
            (NOW, [7.5, 2, 2]),
            (NOW + HOUR - MICROSECOND, [7.5, 2, 2]),
            (NOW + HOUR, [5.0, 1, 2]),
            (NOW + 2 * HOUR, [0.0, 0, 2]),
            (NOW + 2 * DAY, [0.0, 0, 2]),
            (NOW + 2 * DAY + MICROSECOND, [None] * 3),
        ]:
            assert values_at(offline, sliding, instant) == values
        assert values_at(offline, sliding, NOW + HOUR, 2) == [1.0, 1, 1]
        assert values_at(offline, sliding, NOW + HOUR, 3) == [None] * 3  # no row by the end

    @pytest.mark.parametrize("after", [0 * HOUR, HOUR - MICROSECOND, HOUR, HOUR + MICROSECOND, 2 * HOUR, 2 * DAY])
    def test_serving_equals_training_at_every_instant(self, offline, sliding, after):
        write_history(sliding, *ROWS)
        materialize(offline, sliding, None, NOW, NOW)
        online_store_of(offline).now = lambda: NOW + after
        require_in_step(offline, sliding, NOW + after)

    def test_a_later_run_moves_the_horizon_of_a_row_that_has_not_changed(self, offline, sliding):
        materialize(offline, sliding, None, NOW, NOW)
        later = NOW + 30 * MICROSECOND
        online_store_of(offline).now = lambda: later
        materialize(offline, sliding, None, later, later)
        assert values_at(offline, sliding, later + 2 * DAY) == [0.0, 0, 2]

    def test_an_end_in_the_past_knows_as_far_as_its_own_horizon(self, offline, sliding):
        materialize(offline, sliding, None, NOW - HOUR, NOW)
        assert values_at(offline, sliding, NOW + HOUR) == [5.0, 1, 2]
        assert values_at(offline, sliding, NOW - HOUR + 2 * DAY + MICROSECOND) == [None] * 3

    @pytest.mark.parametrize("by_feast", [False, True])
    def test_a_backfill_takes_back_no_horizon_and_no_step(self, offline, sliding, client, by_feast):
        materialize(offline, sliding, None, NOW, NOW)
        before = hash_of(offline, sliding, client)
        write_history(sliding, (1, NOW - HOUR, 1.5, 1, 1), ROWS[3])
        if by_feast:
            offline.materialize(NOW - 2 * HOUR, NOW - HOUR, ["spending"])
        else:
            assert materialize(offline, sliding, None, NOW - HOUR, NOW) == Materialized(2, 0)
        assert hash_of(offline, sliding, client) == before

    @pytest.mark.parametrize("later", [0 * MICROSECOND, MICROSECOND])
    def test_a_correction_gets_in_by_a_run_that_ends_no_earlier_even_with_a_shorter_horizon(
        self, tmp_path, offline, sliding, later
    ):
        materialize(offline, sliding, None, NOW, NOW)
        shorter = spending(tmp_path, horizon=HOUR)
        offline.apply([shorter.view])
        write_history(shorter, (1, NOW - HOUR, 1.5, 1, 1), ROWS[3])
        materialize(offline, shorter, None, NOW + later, NOW + later)
        assert values_at(offline, shorter, NOW + HOUR) == [1.5, 1, 1]
        assert values_at(offline, shorter, NOW + HOUR + 2 * MICROSECOND) == [None] * 3

    def test_an_end_that_another_clock_had_in_the_future_shuts_out_nothing(self, offline, sliding):
        online_store_of(offline).now = lambda: NOW + DAY / 2
        materialize(offline, sliding, None, NOW + MICROSECOND, NOW + MICROSECOND)
        online_store_of(offline).now = lambda: NOW
        write_history(sliding, (1, NOW - HOUR, 1.5, 1, 1), ROWS[3])
        materialize(offline, sliding, None, NOW, NOW)
        assert values_at(offline, sliding, NOW) == [1.5, 1, 1]

    def _of_windows_that_do_not_slide_any_more(self, tmp_path, store, sliding, rows):
        """Materialize a row that has become a step, and apply and compute the view without steps."""
        write_history(sliding, (1, NOW - DAY, 7.5, 2, 2), (1, NOW - HOUR, 0.0, 0, 2))
        materialize(store, sliding, None, NOW, NOW)
        plain = table(tmp_path, "spending", [user], sliding.view.aggregations)
        store.apply([plain.view])
        write_history(plain, *rows)
        return plain

    def test_rows_of_windows_that_slid_give_way_to_those_they_came_from_without_being_asked_to(
        self, tmp_path, store, sliding, client
    ):
        plain = self._of_windows_that_do_not_slide_any_more(tmp_path, store, sliding, [(1, NOW - DAY, 7.5, 2, 2)])
        assert materialize(store, plain, None, NOW, NOW) == Materialized(1, 1)
        assert values_at(store, plain, NOW) == [7.5, 2, 2]
        assert b"_steps:spending" not in hash_of(store, plain, client)

    @pytest.mark.parametrize(("number", "behind"), [(1, DAY / 2), (2, 0 * DAY)], ids=["clock behind", "key gone"])
    def test_what_else_would_be_removed_then_is_still_asked_about(self, tmp_path, store, sliding, number, behind):
        rows = [(number, NOW - DAY, 7.5, 2, 2)]
        plain = self._of_windows_that_do_not_slide_any_more(tmp_path, store, sliding, rows)
        with pytest.raises(UserError, match="1 of 1 rows online would be removed"):
            materialize(store, plain, None, NOW - behind, NOW - behind)

    def test_where_windows_slide_on_their_length_is_asked_about_too(self, store, sliding):
        write_history(sliding, (1, NOW - DAY, 7.5, 2, 2), (1, NOW - HOUR, 0.0, 0, 2))
        materialize(store, sliding, None, NOW, NOW)
        write_history(sliding, (1, NOW - DAY, 7.5, 2, 2))
        with pytest.raises(UserError, match=r"and did windows change their length.*--retract"):
            materialize(store, sliding, None, NOW, NOW)

    @pytest.mark.parametrize("slides", [True, False])
    def test_feasts_own_command_refuses_a_table_whose_windows_slide_otherwise(self, tmp_path, store, sliding, slides):
        plain = table(tmp_path, "spending", [user], sliding.view.aggregations)
        applied, computed = (sliding, plain) if slides else (plain, sliding)
        store.apply([applied.view])
        write_history(computed, *ROWS)
        said = f"windows {'do not slide' if slides else 'slide'} in .*feast apply; then: python compute_features.py$"
        for run in (store.materialize_incremental, partial(store.materialize, NOW - DAY)):
            with pytest.raises(DefinitionError, match=said):
                run(NOW, ["spending"])
        assert stored_events(store, applied).found == []
        assert computed.definition.fingerprint != applied.definition.fingerprint

    def test_rows_of_the_future_offline_are_normal(self, offline, sliding, caplog):
        materialize(offline, sliding, None, NOW, NOW)
        assert materialize(offline, sliding, None, NOW, NOW) == Materialized(2, 0)
        assert caplog.text == ""

    def test_a_row_newer_than_the_history_gives_way_to_the_one_before_with_its_steps(self, offline, sliding):
        materialize(offline, sliding, None, NOW, NOW)
        write_history(sliding, (1, NOW - 2 * HOUR, 3.0, 1, 1), (1, NOW + HOUR, 0.0, 0, 1), ROWS[3])
        assert materialize(offline, sliding, None, NOW, NOW) == Materialized(2, 1)
        assert values_at(offline, sliding, NOW + HOUR - MICROSECOND) == [3.0, 1, 1]
        assert values_at(offline, sliding, NOW + HOUR) == [0.0, 0, 1]

    @pytest.mark.parametrize("first", [True, False])
    def test_an_incremental_run_brings_a_row_that_is_too_old_and_becomes_a_step_that_is_not(
        self, tmp_path, redis_port, first
    ):
        sliding, now = spending(tmp_path, ttl=HOUR), datetime.now(UTC)
        store = opened(tmp_path, redis_port, [sliding], now=now)
        write_history(sliding, (1, now - 23 * HOUR, 7.5, 2, 2), (1, now + HOUR + MICROSECOND, 0.0, 0, 2))
        if not first:
            store.materialize(now - HOUR, now - 2 * MICROSECOND, ["spending"])
        store.materialize_incremental(now, ["spending"])
        for after in (0 * HOUR, HOUR, HOUR + MICROSECOND, 2 * HOUR + MICROSECOND, 2 * HOUR + 2 * MICROSECOND):
            online_store_of(store).now = lambda after=after: now + after
            require_in_step(store, sliding, now + after)
        assert values_at(store, sliding, now + HOUR + MICROSECOND) == [0.0, 0, 2]

    def test_with_a_key_ttl_a_row_still_brings_what_follows(self, tmp_path, redis_port, sliding, client):
        store = opened(tmp_path, redis_port, [sliding], key_ttl_seconds=1000)
        write_history(sliding, *ROWS)
        materialize(store, sliding, None, NOW, NOW)
        assert values_at(store, sliding, NOW + HOUR) == [5.0, 1, 2]
        [key] = redis_keys(store, sliding, pa.table({"user_id": pa.array([1])}))
        assert 0 < client.ttl(key) <= 1000

    def test_feasts_own_engine_writes_rows_that_are_past_their_horizon(self, tmp_path, redis_port, sliding):
        store = opened(tmp_path, redis_port, [sliding], engine="local")
        write_history(sliding, *ROWS)
        store.materialize(NOW - 2 * HOUR, NOW, ["spending"])
        assert {how for _, how, _ in answer_of(store, sliding).values()} == {"OUTSIDE_MAX_AGE"}

    def test_every_function_empties_in_serving_as_in_training(self, tmp_path, redis_port):
        schema = {"number": Int64, "small": Int32, "text": String}
        functions = ["count", "sum", "mean", "min", "max", "var", "std", "first", "last"]
        features = [aggregation(function, "amount", 1) for function in functions]
        features += [
            aggregation(function, "number", 1) for function in ("sum", "min", "max", "first", "last", "count_distinct")
        ]
        features += [aggregation(function, "small", 1) for function in ("min", "max", "last")]
        features += [aggregation(function, "text", 1) for function in ("min", "max", "first", "last")]
        every = table(tmp_path, "every", [user], features, schema, continuous=True)
        store = opened(tmp_path, redis_port, [every])
        extremes = {pa.int64(): [2**63 - 1, -(2**63)], pa.int32(): [2**31 - 1, -(2**31)]}
        extremes |= {pa.float64(): [0.1, 1e308], pa.string(): ["", "ä" * 100]}

        def row(key, instant, which):
            rules = every.definition.rules
            nothing = [FUNCTIONS[rule.function].of_nothing for rule in rules]
            return key, instant, *([extremes[rule.type][which] for rule in rules] if which < 2 else nothing)

        write_history(every, *(row(1, NOW + (which - 1) * HOUR, which) for which in range(3)), row(2, NOW, 0))
        materialize(store, every, None, NOW - HOUR, NOW)
        for after in (-HOUR, -MICROSECOND, 0 * HOUR, HOUR - MICROSECOND, HOUR, DAY):
            online_store_of(store).now = lambda after=after: NOW + after
            answer_of(store, every)
            served = serving_values(store, every, pa.table({"user_id": pa.array([1])}))
            [trained] = (
                store.get_historical_features(
                    pd.DataFrame({"user_id": [1], "event_timestamp": [pd.Timestamp(NOW + after)]}), every.service
                )
                .to_arrow()
                .to_pylist()
            )
            assert {name: values[0] for name, values in served.items()} == {name: trained[name] for name in served}

    def test_computed_features_are_served_as_trained_on_at_the_edges_of_their_steps(self, tmp_path, redis_port):
        features = [one for one in EVERY_FUNCTION if one.time_window] + [aggregation("sum", "quantity")]
        every = table(tmp_path, "every", [customer], features, ORDERS, continuous=True, horizon=40 * DAY)
        store, draw = opened(tmp_path, redis_port, [every]), np.random.default_rng(3)
        ages = draw.choice(864_000, 12, replace=False).tolist()
        columns = {
            "customer_id": draw.choice(["0042", "ü"], 12),
            "timestamp": [NOW - timedelta(seconds=age) for age in ages],
            "total": draw.integers(1, 9999, 12) / 100,
            "quantity": draw.integers(0, 9, 12),
            "sku": draw.choice(["a", "b", ""], 12),
        }
        orders = every.definition.transactions
        rows = pa.table({name: pa.array(columns[name], orders.field(name).type) for name in orders.names}, orders)
        history = aggregate(rows, every.definition)
        pq.write_table(history, every.source.path)
        materialize(store, every, None, NOW, NOW)
        steps = sorted({instant for instant in history["event_timestamp"].to_pylist() if instant > NOW})
        assert len(steps) > 20
        for step in steps[:3] + steps[3::7] + steps[-1:]:
            for instant in (step - MICROSECOND, step, step + MICROSECOND):
                online_store_of(store).now = lambda instant=instant: instant
                require_in_step(store, every, instant)

    @pytest.mark.parametrize("count", [0, 3])
    def test_a_text_key_and_two_keys_are_followed_alike(self, tmp_path, redis_port, count):
        view = table(tmp_path, "both", [customer, user], [aggregation("count", "x", 1, "n")], continuous=True)
        store = opened(tmp_path, redis_port, [view])
        rows = [(name, 7, NOW + hours * HOUR, 9 - hours) for name in ("0042", "ü") for hours in range(count + 1)]
        write_history(view, *rows)
        materialize(store, view, None, NOW, NOW)
        for hours in range(count + 1):
            online_store_of(store).now = lambda hours=hours: NOW + hours * HOUR
            require_in_step(store, view, NOW + hours * HOUR)


@pytest.fixture
def cluster(tmp_path):
    folder = tmp_path / "servers"
    folder.mkdir()
    with deployments.cluster(folder) as deployment:
        yield {"connection_string": deployment.connection_string, "redis_type": deployment.redis_type}


def test_a_cluster_holds_what_follows_and_leaves_alone_what_is_ahead(tmp_path, cluster, sliding):
    store = opened(tmp_path, 0, [sliding], **cluster)
    rows = [row for key in range(1, 41) for row in ((key, *ROWS[0][1:]), (key, *ROWS[1][1:]))]
    write_history(sliding, *rows)
    assert materialize(store, sliding, None, NOW, NOW) == Materialized(40, 0)
    online_store_of(store).now = lambda: NOW + HOUR
    require_in_step(store, sliding, NOW + HOUR)
    online_store_of(store).now = lambda: NOW
    client = online_store_of(store)._get_client(store.config.online_store)
    for key in redis_keys(store, sliding, pa.table({"user_id": pa.array([1, 2, 3])})):
        client.hset(key, "_applied:spending", NOT_LANDED)
    write_history(sliding, *((key, NOW - 2 * HOUR, 1.0, 1, 1) for key in range(2, 41)))
    assert materialize(store, sliding, None, NOW, NOW, any_share=True) == Materialized(40, 37, 2)
    assert values_at(store, sliding, NOW, 1) == values_at(store, sliding, NOW, 2) == [7.5, 2, 2]
    assert values_at(store, sliding, NOW, 4) == [1.0, 1, 1]


@pytest.mark.scale
def test_feasts_own_commands_and_server_serve_the_step_that_holds(tmp_path, redis_port):
    """With the real clock: materialized ten minutes ago, of which a view with a horizon of a minute knows nothing."""
    now = datetime.now(UTC)
    end = now - timedelta(minutes=10)
    views = [spending(tmp_path), spending(tmp_path, horizon=timedelta(minutes=1), name="brief")]
    store = opened(tmp_path, redis_port, views)
    for view in views:
        write_history(view, (1, end - HOUR, 7.5, 2, 2), (1, end + timedelta(minutes=5), 5.0, 1, 2))
    config = {"project": store.project, "provider": "local", "registry": store.config.registry.path}
    config |= {"offline_store": {"type": OFFLINE}, "batch_engine": {"type": ENGINE}}
    config |= {"online_store": {"type": OURS, "connection_string": f"localhost:{redis_port}"}}
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(config | {"entity_key_serialization_version": 3}))
    feast, environment = [BIN / "feast", "-c", tmp_path], os.environ | {"PYTHONPATH": str(ROOT)}
    begin = (end - DAY).isoformat()
    subprocess.run([*feast, "materialize", begin, end.isoformat()], check=True, env=environment, capture_output=True)
    port = free_port()
    with open(tmp_path / "serve.log", "wb") as log:
        command = [*feast, "serve", "--port", str(port), "--no-access-log"]
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 60
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            assert server.poll() is None, (tmp_path / "serve.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.1)
        body = json.dumps({"features": ["spending:spent", "brief:bought"], "entities": {"user_id": [1, 2]}})
        url, kind = f"http://127.0.0.1:{port}/get-online-features", {"Content-Type": "application/json"}
        request = urllib.request.Request(url, body.encode(), kind)
        answer = json.load(urllib.request.urlopen(request, timeout=10))
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    results = dict(zip(answer["metadata"]["feature_names"], answer["results"], strict=True))
    assert results["spent"]["values"] == [5.0, None]
    assert results["spent"]["statuses"] == ["PRESENT", "NOT_FOUND"]
    instant = datetime.fromisoformat(results["spent"]["event_timestamps"][0])
    assert abs(instant - (end + timedelta(minutes=5))) < timedelta(seconds=1)
    assert results["bought"]["values"] == [None, None]
    assert results["bought"]["statuses"] == ["OUTSIDE_MAX_AGE", "NOT_FOUND"]


class TestStreamedRows:
    """What a materialization does where a stream has written, and the files may not have its events yet."""

    @pytest.fixture
    def streamed(self, store, sliding, client):
        """User 1 is ahead of the files by a later row; user 9, whom the files do not have, is too."""
        write_history(sliding, *ROWS)
        materialize(store, sliding, None, NOW - MICROSECOND, NOW, any_share=True)
        for user_id in (1, 9):
            row = (user_id, NOW - MICROSECOND, 99.0, 9, 9)
            write(store, sliding, [row, (user_id, NOW + HOUR, 98.0, 8, 9)])
            [key] = redis_keys(store, sliding, pa.table({"user_id": pa.array([user_id])}))
            client.hset(key, "_applied:spending", NOT_LANDED)
        return store

    @pytest.mark.parametrize("start", [None, NOW - 2 * HOUR])
    def test_what_is_ahead_is_left_alone_and_counted(self, streamed, sliding, start):
        write_history(sliding, *ROWS, (1, NOW, 8.5, 3, 3))
        done = materialize(streamed, sliding, start, NOW, NOW)
        assert done == Materialized(3, 0, 1)
        assert values_at(streamed, sliding, NOW) == [99.0, 9, 9]
        assert values_at(streamed, sliding, NOW + HOUR, 9) == [98.0, 8, 9]
        assert values_at(streamed, sliding, NOW, 2) == [1.0, 1, 1]

    def test_a_repair_leaves_it_alone(self, streamed, sliding):
        repair(streamed, sliding, pa.table({"user_id": pa.array([1, 2])}), NOW, NOW)
        assert values_at(streamed, sliding, NOW) == [99.0, 9, 9]

    def test_feasts_own_command_leaves_it_alone(self, streamed, sliding):
        streamed.materialize(NOW - 2 * HOUR, NOW, ["spending"])
        assert values_at(streamed, sliding, NOW) == [99.0, 9, 9]

    def test_what_the_files_have_is_brought_in_step(self, tmp_path, streamed, sliding):
        (tmp_path / "spending.marks").write_text(json.dumps(LANDED))
        assert materialize(streamed, sliding, None, NOW, NOW, any_share=True) == Materialized(2, 2)
        assert values_at(streamed, sliding, NOW) == [7.5, 2, 2]
        assert values_at(streamed, sliding, NOW, 9) == [None] * 3
