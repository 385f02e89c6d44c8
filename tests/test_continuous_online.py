"""Continuous views online: a row that carries its own future, and one that a stream has written and no batch takes
back."""

import json
from datetime import timedelta

import pyarrow as pa
import pytest
import redis

from parity.online.marks import is_ahead, marks_beside, marks_text
from parity.online.scanning import Leftovers
from parity.online.side import online_store_of, redis_keys, stored_events
from parity.online.steps import at_present, every_step
from parity.online.writing import BYTES_PER_SCRIPT, _parts
from tests.definition import aggregation, purchases, table, user
from tests.online import NOW, opened, rows_of

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
        client.hset(key, "_applied:purchases", NOT_LANDED)
        rows = rows_of(plain, [(1, NOW, 2.0, 2)]).to_pandas()
        store.write_to_online_store("purchases", rows)
        assert client.hgetall(key) == {b"_applied:purchases": NOT_LANDED}
        assert "1 rows were not written online, where a stream has written them" in caplog.text

    def test_the_marks_lie_beside_the_offline_table(self, tmp_path):
        path = str(tmp_path / "purchases.parquet")
        assert marks_beside(path) == {}
        (tmp_path / "purchases.marks").write_text(json.dumps(LANDED))
        assert marks_beside(path) == LANDED
        assert marks_text(LANDED) == "shop/0=00000000000000000007 shop/1=09007199254740993001"
        (tmp_path / "purchases.marks").write_text("{")
        with pytest.raises(Exception, match=r"purchases\.marks is not readable.*compute_features"):
            marks_beside(path)
