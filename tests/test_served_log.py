"""The log of what is served: each answer in it once, as it was given, at the instant that decided it."""

import asyncio
import logging
import math
import os
import struct
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from click import ClickException
from feast import FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource
from feast.feature_logging import FeatureServiceLoggingSource
from feast.on_demand_feature_view import on_demand_feature_view
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Bool, Bytes, Float32, Float64, Int32, Int64, Map, String, UnixTimestamp

from parity.definition.instants import utc_now
from parity.edge.redis_server import free_port
from parity.online.requests import InvalidRequest, Unavailable
from parity.online.side import online_store_of
from parity.proof.sides import serving_values
from parity.served import hourly, recorder
from parity.served.log import parts, read
from parity.served.options import folder_of_log
from tests.definition import AVERAGE, TOTAL, aggregation, customers_in_stores, purchases, table, user
from tests.online import NOW, opened, rows_of

DAY = timedelta(days=1)
PRESENT, NOT_FOUND, OUTSIDE = 1, 3, 4


@pytest.fixture(autouse=True)
def _warn_anew(monkeypatch):
    monkeypatch.setattr(hourly, "_warned", [float("-inf")])


@pytest.fixture
def shop(tmp_path, redis_port):
    """A store whose log is on, with users 1 (fresh) and 2 (expired) online."""
    made = purchases(tmp_path)
    store = opened(tmp_path, redis_port, [made], log_served=str(tmp_path / "log"))
    write(store, made, (1, NOW - DAY, 2.5, 3), (2, NOW - 31 * DAY, 1.0, 1))
    return store, made


def write(store: FeatureStore, made, *rows) -> None:
    frame = rows_of(made, rows).to_pandas()
    store.write_to_online_store(made.view.name, frame)


def logged(store: FeatureStore, **which) -> list[dict]:
    """All rows of the log, as they are when all is written, by the instant of the answer."""
    recorder_of(store).close()
    tables = [read(part) for part in parts(folder_of_log(store.config), **which)]
    rows = [row for one in tables for row in one.to_pylist()]
    return sorted(rows, key=lambda row: row["__log_timestamp"])


def recorder_of(store: FeatureStore) -> recorder.Recorder:
    return online_store_of(store)._recorder


def column(name: str) -> str:
    return f"purchases__{name}"


def ask_async(store: FeatureStore, *arguments, **options):
    async def ask():
        try:
            return await store.get_online_features_async(*arguments, **options)
        finally:
            client, online_store_of(store)._client_async = online_store_of(store)._client_async, None
            if client:
                await client.aclose()

    return asyncio.run(ask())


ASK = {"sync": FeatureStore.get_online_features, "async": ask_async}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
class TestAnswer:
    def test_is_logged_once_as_it_was_given(self, shop, ask):
        store, made = shop
        before = utc_now()
        answer = ask(store, made.service, [{"user_id": 1}, {"user_id": 2}, {"user_id": 3}]).to_dict()
        rows = logged(store)
        assert [row["user_id"] for row in rows] == [1, 2, 3]
        assert [row[column(TOTAL)] for row in rows] == answer[TOTAL] == [3, None, None]
        assert [row[column(AVERAGE)] for row in rows] == answer[AVERAGE] == [2.5, None, None]
        assert [row[f"{column(TOTAL)}__status"] for row in rows] == [PRESENT, OUTSIDE, NOT_FOUND]
        assert [row[f"{column(TOTAL)}__timestamp"] for row in rows] == [NOW - DAY, NOW - 31 * DAY, None]
        assert {row["__as_of"] for row in rows} == {NOW}
        assert before <= rows[0]["__log_timestamp"] <= utc_now()
        assert rows[0]["__log_date"] == rows[0]["__log_timestamp"].date()
        assert len({row["__request_id"] for row in rows}) == 1

    def test_of_feasts_own_path_is_logged_once_at_the_instant_that_decided_it(self, shop, ask):
        store, made = shop
        ticks = iter(NOW + timedelta(microseconds=tick) for tick in range(100))
        online_store_of(store).now = lambda: next(ticks)
        ask(store, made.service, [{"user_id": 1}], include_feature_view_version_metadata=True)
        [row] = logged(store)
        assert row[column(TOTAL)] == 3
        assert row["__as_of"] == next(ticks) - timedelta(microseconds=1)  # the store looked at its clock once

    def test_of_an_edge_is_logged_with_the_very_microsecond(self, shop, ask):
        store, made = shop
        for way in (False, True):
            for late in (0, 1):
                at = NOW - DAY + timedelta(days=30, microseconds=late)
                online_store_of(store).now = lambda at=at: at
                ask(store, made.service, [{"user_id": 1}], include_feature_view_version_metadata=way)
        found = [(row["__as_of"], row[column(TOTAL)]) for row in logged(store)]
        last = NOW + timedelta(days=29)
        assert found == [(last, 3), (last + timedelta(microseconds=1), None)] * 2

    def test_at_the_present_is_logged_as_of_when_it_was_given(self, shop, ask):
        store, made = shop
        online_store_of(store).now = utc_now
        ask(store, made.service, [{"user_id": 1}])
        [row] = logged(store)
        assert row["__as_of"] == row["__log_timestamp"]

    def test_that_fails_is_not_logged(self, shop, ask, monkeypatch):
        store, made = shop
        ask(store, made.service, [{"user_id": 1}])
        for wrong in ([{"user_id": "x"}], [], [{"customer": 1}]):
            with pytest.raises(InvalidRequest):
                ask(store, made.service, wrong)
        monkeypatch.setattr(store.config.online_store, "connection_string", f"localhost:{free_port()}")
        online_store_of(store)._client = None
        with pytest.raises(Unavailable):
            ask(store, made.service, [{"user_id": 1}])
        assert len(logged(store)) == 1

    def test_to_references_is_logged_under_a_name_made_of_them(self, shop, ask):
        store, _ = shop
        for names in (False, True):
            ask(store, [f"purchases:{TOTAL}"], {"user_id": [1]}, full_feature_names=names)
        ask(store, [f"purchases:{AVERAGE}"], {"user_id": [1]})
        one, other = logged(store)[0], logged(store)[2]
        assert one[column(TOTAL)] == 3
        assert column(AVERAGE) not in one
        assert other[column(AVERAGE)] == 2.5
        found = parts(folder_of_log(store.config))
        assert {part.service for part in found} == {None}
        assert sorted(part.references for part in found)[0] == [f"purchases:{AVERAGE}"]
        assert len({part.path.parent.parent.name for part in found}) == 2
        assert all(part.path.parent.parent.name.startswith("service=references-") for part in found)


def test_columns_are_those_of_feasts_own_log(shop):
    store, made = shop
    store.get_online_features(made.service, [{"user_id": 1}])
    recorder_of(store).close()
    [part] = parts(folder_of_log(store.config))
    ours = {field.name: field.type for field in read(part).schema}
    feast = FeatureServiceLoggingSource(made.service, store.project).get_schema(store.registry)
    assert ours.pop("__as_of") == pa.timestamp("us", "UTC")
    assert ours.keys() == set(feast.names)
    timestamps = {name for name in ours if name.endswith("__timestamp")}
    assert {ours[name] for name in timestamps} == {pa.timestamp("us", "UTC")}  # Feast's are whole seconds
    assert {n: t for n, t in ours.items() if n not in timestamps | {"__log_timestamp"}} == {
        field.name: field.type for field in feast if field.name not in timestamps | {"__log_timestamp"}
    }
    assert (part.service, part.project, part.dropped) == ("purchases_service", store.project, 0)
    assert part.references == [f"purchases:{AVERAGE}", f"purchases:{TOTAL}"]
    assert part.path.parent.parent == folder_of_log(store.config) / "service=purchases_service"


def test_by_default_nothing_is_logged(tmp_path, redis_port):
    made = purchases(tmp_path)
    store = opened(tmp_path, redis_port, [made])
    store.get_online_features(made.service, [{"user_id": 1}])
    assert recorder_of(store) is None
    assert folder_of_log(store.config) is None


def test_reads_of_a_proof_are_not_logged(shop):
    store, made = shop
    store.get_online_features(made.service, [{"user_id": 1}])
    assert serving_values(store, made, pa.table({"user_id": [1, 2]}))[TOTAL] == [3, None]
    store.get_online_features(made.service, [{"user_id": 2}])
    assert [row["user_id"] for row in logged(store)] == [1, 2]


def test_texts_several_keys_and_features_named_alike_in_two_views(tmp_path, redis_port):
    orders = customers_in_stores(tmp_path)
    twins = [table(tmp_path, name, [user], [aggregation("count", "total", name="n")]) for name in ("one", "other")]
    both = FeatureService(name="both", features=[one.view for one in twins])
    store = opened(tmp_path, redis_port, [orders, *twins], log_served=str(tmp_path / "log"))
    store.apply([both])
    write(store, orders, ("né", 7, NOW - DAY, 9.0, 0.5, 2, 4))
    write(store, twins[0], (1, NOW - DAY, 11))
    write(store, twins[1], (1, NOW - 2 * DAY, 12))
    store.get_online_features(orders.service, [{"store_id": 7, "customer_id": "né"}])
    store.get_online_features(both, [{"user_id": 1}], full_feature_names=True)
    one, other = logged(store)
    assert (one["customer_id"], one["store_id"], one["customers_in_stores__last_quantity_ever"]) == ("né", 7, 4)
    assert (other["one__n"], other["other__n"]) == (11, 12)
    assert (other["one__n__timestamp"], other["other__n__timestamp"]) == (NOW - DAY, NOW - 2 * DAY)


VALUES = {
    "int32": (Int32, -(2**31)),
    "int64": (Int64, 2**63 - 1),
    "float32": (Float32, 0.10000000149011612),
    "negative_zero": (Float64, -0.0),
    "infinite": (Float64, -math.inf),
    "text": (String, "a\0é😀"),
    "none": (String, ""),
    "raw": (Bytes, b"\xff\0"),
    "flag": (Bool, False),
    "at": (UnixTimestamp, datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC)),
    "floats": (Array(Float64), [1.5, -0.0]),
    "texts": (Array(String), ["", "b"]),
    "empty": (Array(Int64), []),
    "long": (String, "x" * 70_000),
}


def plain_view(folder: Path, name: str, features: dict) -> FeatureView:
    source = FileSource(name=f"{name}_source", path=str(folder / f"{name}.parquet"), timestamp_field="event_timestamp")
    fields = [Field(name=feature, dtype=dtype) for feature, dtype in features.items()]
    return FeatureView(name=name, entities=[user], ttl=30 * DAY, schema=fields, source=source)


def test_values_of_every_type_are_logged_bit_for_bit(tmp_path, redis_port):
    made, view = purchases(tmp_path), plain_view(tmp_path, "all", {n: of for n, (of, _) in VALUES.items()})
    store = opened(tmp_path, redis_port, [made], log_served=str(tmp_path / "log"))
    service = FeatureService(name="all_types", features=[view])
    store.apply([view, service])
    frame = pd.DataFrame({"user_id": [1], "event_timestamp": [NOW - DAY]} | {n: [v] for n, (_, v) in VALUES.items()})
    store.write_to_online_store("all", frame)
    answer = store.get_online_features(service, [{"user_id": 1}, {"user_id": 2}]).to_dict()
    row, unknown = logged(store)
    for name in VALUES:
        served, found = answer[name][0], row[f"all__{name}"]
        if name == "at":
            assert found.replace(tzinfo=UTC) == served
        else:
            assert found == served, name
        assert unknown[f"all__{name}"] is None
    assert math.copysign(1, row["all__negative_zero"]) == -1


def test_a_nan_keeps_its_bits(shop):
    store, made = shop
    [odd] = struct.unpack("<d", bytes.fromhex("0123456789abf87f"))
    key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=1)])
    values = {AVERAGE: Value(double_val=odd)}
    online_store_of(store).online_write_batch(store.config, made.view, [(key, values, NOW, None)], None)
    store.get_online_features(made.service, [{"user_id": 1}])
    [row] = logged(store)
    assert struct.pack("<d", row[column(AVERAGE)]).hex() == "0123456789abf87f"


def test_what_has_no_column_type_is_logged_as_its_bytes(tmp_path, redis_port):
    made, view = purchases(tmp_path), plain_view(tmp_path, "maps", {"m": Map})
    store = opened(tmp_path, redis_port, [made], log_served=str(tmp_path / "log"))
    store.apply([view])
    store.write_to_online_store(
        "maps", pd.DataFrame({"user_id": [1], "event_timestamp": [NOW - DAY], "m": [{"a": "b"}]})
    )
    store.get_online_features(["maps:m"], [{"user_id": 1}])
    [row] = logged(store)
    assert Value.FromString(row["maps__m"]).map_val.val["a"].string_val == "b"


def test_a_value_of_another_type_than_declared_is_logged_with_the_type_that_was_served(shop, tmp_path, redis_port):
    store, _ = shop
    changed = table(tmp_path, "purchases", [user], [aggregation("mean", "quantity", 3, TOTAL)])
    store.apply([changed.view, FeatureService(name="purchases_service", features=[changed.view])])
    service = store.get_feature_service("purchases_service")
    write(store, changed, (4, NOW - DAY, 1.5))
    # Of user 1 an Int64 is stored, as TOTAL was before.
    answer = store.get_online_features(service, [{"user_id": 1}, {"user_id": 4}, {"user_id": 5}])
    kinds = [value.WhichOneof("val") for value in answer.proto.results[1].values]
    assert kinds == ["int64_val", "double_val", None]
    recorder_of(store).close()
    found = {}
    for part in parts(folder_of_log(store.config)):
        rows = read(part)
        found |= {
            key: (rows.schema.field(column(TOTAL)).type, value)
            for key, value in zip(rows["user_id"].to_pylist(), rows[column(TOTAL)].to_pylist(), strict=True)
        }
    assert found == {1: (pa.int64(), 3), 4: (pa.float64(), 1.5), 5: (pa.float64(), None)}


def test_a_feature_that_comes_while_a_process_serves_gets_its_column(shop, tmp_path):
    store, made = shop
    store.get_online_features(made.service, [{"user_id": 1}])
    features = [aggregation("mean", "purchase_amount", 3, AVERAGE), aggregation("count", "purchase_amount", name=TOTAL)]
    wider = table(tmp_path, "purchases", [user], [*features, aggregation("max", "purchase_amount", name="most")])
    service = FeatureService(name="purchases_service", features=[wider.view])
    store.apply([wider.view, service])
    write(store, wider, (1, NOW, 2.5, 4, 9.0))
    store.get_online_features(service, [{"user_id": 1}])
    first, second = logged(store)
    assert column("most") not in first
    assert (second[column("most")], second[column(TOTAL)]) == (9.0, 4)
    assert len(parts(folder_of_log(store.config))) == 2


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
@pytest.mark.parametrize(
    "asked", [[{"user_id": 1, "factor": 1.5}, {"user_id": 2, "factor": 2.0}], {"factor": [1.5, 2.0], "user_id": [1, 2]}]
)
def test_on_demand_features_are_logged_as_answered_with_what_they_took_from_the_request(
    tmp_path, redis_port, ask, asked
):
    made = purchases(tmp_path)
    given = RequestSource(name="given", schema=[Field(name="factor", dtype=Float64)])

    @on_demand_feature_view(sources=[made.view, given], schema=[Field(name="scaled", dtype=Float64)], mode="python")
    def scale(inputs: dict) -> dict:
        return {"scaled": [n and n * f for n, f in zip(inputs["purchases"], inputs["factor"], strict=True)]}

    service = FeatureService(name="scaled", features=[made.view, scale])
    store = opened(tmp_path, redis_port, [made], log_served=str(tmp_path / "log"))
    store.apply([scale, service])
    write(store, made, (1, NOW - DAY, 2.5, 3))
    answer = ask(store, service, asked).to_dict()
    assert "factor" not in answer
    row, unknown = logged(store)
    assert (row["scale__scaled"], row[column(TOTAL)], row["user_id"], row["factor"]) == (4.5, 3, 1, 1.5)
    assert (unknown["scale__scaled"], unknown[column(TOTAL)], unknown["factor"]) == (None, None, 2.0)
    assert row["scale__scaled__timestamp"] is None
    assert row["__as_of"] == NOW
    feast = FeatureServiceLoggingSource(service, store.project).get_schema(store.registry)
    assert row.keys() == {*feast.names, "__as_of"}


def test_a_service_with_precomputed_vectors_is_logged_as_any_other(tmp_path, redis_port):
    made = purchases(tmp_path)
    service = FeatureService(name="ahead", features=[made.view], precompute_online=True)
    store = opened(tmp_path, redis_port, [made], log_served=str(tmp_path / "log"))
    store.apply([service])
    write(store, made, (1, NOW - DAY, 2.5, 3))
    store.get_online_features(store.get_feature_service("ahead"), [{"user_id": 1}])
    [row] = logged(store, service="ahead")
    assert row[column(TOTAL)] == 3


def test_ten_thousand_entities_at_once(shop):
    store, made = shop
    store.get_online_features(made.service, {"user_id": [1, *range(10_000, 19_999)]})
    rows = logged(store)
    assert len(rows) == 10_000
    assert sum(row[column(TOTAL)] is not None for row in rows) == 1


def test_many_threads_at_once(shop):
    store, made = shop
    write(store, made, *((number, NOW - DAY, number / 7, number) for number in range(100, 108)))

    def ask(number: int) -> None:
        for size in range(1, 51):
            store.get_online_features(made.service, [{"user_id": number}] * (1 + size % 3))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(100, 108)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = logged(store)
    assert len({row["__request_id"] for row in rows}) == 8 * 50
    assert len(rows) == 8 * sum(1 + size % 3 for size in range(1, 51))
    assert all((row["user_id"], row["user_id"] / 7) == (row[column(TOTAL)], row[column(AVERAGE)]) for row in rows)


def test_it_is_written_within_seconds_while_the_process_serves(tmp_path, redis_port):
    made = purchases(tmp_path)
    options = {"path": str(tmp_path / "log"), "flush_seconds": 0.1}
    store = opened(tmp_path, redis_port, [made], log_served=options)
    store.get_online_features(made.service, [{"user_id": 1}])
    deadline = time.monotonic() + 20
    while not parts(tmp_path / "log"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    store.get_online_features(made.service, [{"user_id": 2}])
    assert len(logged(store)) == 2


def test_what_does_not_fit_into_the_buffer_is_dropped_and_counted(tmp_path, redis_port, caplog):
    made = purchases(tmp_path)
    store = opened(tmp_path, redis_port, [made], log_served={"path": str(tmp_path / "log"), "buffer_rows": 10})
    with caplog.at_level(logging.WARNING):
        assert len(store.get_online_features(made.service, {"user_id": list(range(11))}).to_dict()[TOTAL]) == 11
        store.get_online_features(made.service, {"user_id": [1]})
        assert [row["user_id"] for row in logged(store)] == [1]
    assert sum(part.dropped for part in parts(tmp_path / "log")) == 11
    assert "11 rows were dropped, as 10 were waiting to be written" in caplog.text


def test_serving_goes_on_when_only_the_log_fails(tmp_path, redis_port, caplog):
    made = purchases(tmp_path)
    (tmp_path / "log").write_text("a file where a folder belongs")
    store = opened(tmp_path, redis_port, [made], log_served={"path": str(tmp_path / "log"), "flush_seconds": 0.05})
    write(store, made, (1, NOW - DAY, 2.5, 3))
    with caplog.at_level(logging.WARNING):
        deadline = time.monotonic() + 20
        while "log" not in caplog.text:
            assert store.get_online_features(made.service, [{"user_id": 1}]).to_dict()[TOTAL] == [3]
            assert time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3)
        assert len(caplog.messages) == 1
    assert "Traceback" not in caplog.text
    (tmp_path / "log").unlink()
    store.get_online_features(made.service, [{"user_id": 1}])
    assert len(logged(store)) >= 1
    assert sum(part.dropped for part in parts(tmp_path / "log")) >= 1


def test_an_answer_that_can_not_be_noted_is_given_all_the_same(shop, monkeypatch, caplog):
    store, made = shop
    store.get_online_features(made.service, [{"user_id": 1}])
    monkeypatch.setattr(recorder_of(store), "_lock", None)
    with caplog.at_level(logging.WARNING):
        assert store.get_online_features(made.service, [{"user_id": 1}]).to_dict()[TOTAL] == [3]
    assert "an answer to purchases_service is not logged: " in caplog.text


def test_an_answer_that_can_not_be_decoded_is_dropped_alone(shop, caplog, monkeypatch):
    store, made = shop
    monkeypatch.setattr(recorder, "POLL_SECONDS", 3600)
    store.get_online_features(made.service, [{"user_id": 1}])
    with recorder_of(store)._lock:
        kind, request, content, *rest = recorder_of(store)._waiting.pop()
        recorder_of(store)._held += 2
        for broken in (content[:2], [content[0], *(b"\x12\x02\xff\xff" for _ in content[1:])], content):
            recorder_of(store)._waiting.append((kind, request, broken, *rest))
    assert [row["user_id"] for row in logged(store)] == [1]
    assert sum(part.dropped for part in parts(folder_of_log(store.config))) == 2
    assert caplog.text.count("an answer to purchases_service can't be logged") == 2


def test_a_fork_writes_what_it_served_and_nothing_of_its_parents(shop):
    store, made = shop
    store.get_online_features(made.service, [{"user_id": 1}])
    child = os.fork()
    if not child:
        status = 1
        try:
            online_store_of(store)._client = None
            store.get_online_features(made.service, [{"user_id": 2}])
            recorder_of(store).close()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert [row["user_id"] for row in logged(store)] == [1, 2]
    assert len(parts(folder_of_log(store.config))) == 2


@pytest.mark.parametrize(
    ("given", "path"),
    [("logs", "logs"), (True, "../data/served"), ({"path": "logs"}, "logs"), ({"buffer_rows": 7}, "../data/served")],
)
def test_the_folder_is_named_from_that_of_the_configuration(tmp_path, redis_port, given, path, monkeypatch):
    store = opened(tmp_path, redis_port, [purchases(tmp_path)], log_served=given)
    store.config.repo_path = tmp_path / "repo"
    assert folder_of_log(store.config) == (tmp_path / "repo" / path).resolve()
    store.config.repo_path = None
    monkeypatch.chdir(tmp_path)
    assert folder_of_log(store.config) == (tmp_path / path).resolve()


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        ({"folder": "x"}, "it has folder, which is not known here. It may have path, buffer_rows, flush_seconds"),
        ("", "its path names no folder"),
        (["x"], "it is no folder"),
        (7, "it is no folder"),
        ({"path": 3}, "its path names no folder"),
        ("s3://bucket/log", "its path is a URI"),
        ({"buffer_rows": 0}, "its buffer_rows is not a whole number above 0"),
        ({"buffer_rows": True}, "its buffer_rows is not a whole number above 0"),
        ({"flush_seconds": "5"}, "its flush_seconds is not a number above 0"),
        ({"flush_seconds": math.nan}, "its flush_seconds is not a number above 0"),
    ],
)
def test_an_option_that_can_not_be_used_is_refused_in_one_line(project, wrong, reason):
    project.configure(online_store__log_served=wrong)
    line = project.fail("materialize_to_online.py")
    assert f"feature_store.yaml: log_served of online_store can't be used: {reason}" in line


def test_feasts_own_command_line_refuses_such_an_option_in_one_line_too(project):
    project.configure(online_store__log_served={"folder": "x"})
    with pytest.raises(ClickException, match="log_served of online_store can't be used: it has folder") as refused:
        project.apply()
    assert refused.value.exit_code == 2


@pytest.mark.parametrize("off", [None, False])
def test_it_can_be_off(tmp_path, redis_port, off):
    assert folder_of_log(opened(tmp_path, redis_port, [purchases(tmp_path)], log_served=off).config) is None
