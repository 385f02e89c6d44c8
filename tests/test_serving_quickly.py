"""The quick route of `python -m parity serve` answers as Feast's own route does: the same status, headers and bytes."""

import asyncio
import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from feast import Entity, FeatureService, Field, RequestSource, ValueType
from feast.feature_server import get_app
from feast.on_demand_feature_view import on_demand_feature_view
from feast.permissions.security_manager import no_security_manager, set_security_manager
from feast.types import Float64, Int64
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.edge.redis_server import free_port
from parity.materialization import materialize
from parity.online.quick_route import QuickRoute
from parity.online.server import ReadOnly
from parity.online.side import online_store_of
from parity.served.log import parts
from tests.definition import AVERAGE, TOTAL, TTL, aggregation, purchases
from tests.definition import customers_in_stores as in_stores
from tests.definition import table as table_of
from tests.online import NOW, opened, write_history

PATH = "/get-online-features"
AS_JSON = ((b"content-type", b"application/json"),)


class Answer(NamedTuple):
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes


class Counting:
    """An application, and how often it was asked."""

    def __init__(self, application):
        self.application, self.asked, self.exception_handlers = application, 0, application.exception_handlers

    async def __call__(self, scope, receive, send) -> None:
        self.asked += 1
        await self.application(scope, receive, send)


class World:
    """A store with views of several kinds, served by Feast's application alone, and with the quick route before it."""

    def __init__(self, folder: Path, port: int, **options):
        self.view, self.stores = purchases(folder), in_stores(folder)
        codes = Entity(name="code", join_keys=["code"], value_type=ValueType.INT32)
        self.codes = table_of(folder, "codes", [codes], [aggregation("last", "x", name="latest")], {"x": Float64})

        @on_demand_feature_view(sources=[self.view.view], schema=[Field(name="doubled", dtype=Float64)], mode="python")
        def doubled(inputs):
            return {"doubled": [None if value is None else 2 * value for value in inputs["average_amount_3d"]]}

        asked = RequestSource(name="asked", schema=[Field(name="amount", dtype=Int64)])

        @on_demand_feature_view(sources=[asked], schema=[Field(name="more", dtype=Int64)], mode="python")
        def more(inputs):
            return {"more": [amount + 1 for amount in inputs["amount"]]}

        self.store = opened(folder, port, [self.view, self.stores, self.codes], **options)
        self.store.apply(
            [
                doubled,
                more,
                FeatureService(name="ahead", features=[self.view.view], precompute_online=True),
                FeatureService(name="both", features=[self.view.view, self.stores.view]),
                FeatureService(name="on_demand", features=[doubled]),
            ]
        )
        self.write(1.5)
        write_history(self.stores, ("Zoë", 1, NOW, 9.5, None, 3, 4), ('"\\', -1, NOW - TTL * 2, 0.1, 1e300, 5, 6))
        write_history(self.codes, (1, NOW, 1e16), (2, NOW - timedelta(microseconds=123_000), 5e-324), (3, NOW, -0.0))
        for table in (self.stores, self.codes):
            materialize(self.store, table, None, NOW, NOW)
        application = get_app(self.store)
        route = QuickRoute(application, self.store)
        self.feast = route.feast = Counting(application)
        self.slow, self.quick = ReadOnly(application), ReadOnly(route)
        self.runner = asyncio.Runner()

    def write(self, average: float) -> None:
        old = NOW - TTL - timedelta(seconds=1)
        write_history(self.view, (1, NOW, average, 3), (2, NOW, 1e22, 2**63 - 1), (3, old, 7.25, 1), (-5, NOW, 0.1, 0))
        materialize(self.store, self.view, None, NOW, NOW)

    def ask(self, application, body: bytes, headers=AS_JSON) -> Answer:
        sent = []

        async def receive() -> dict:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict) -> None:
            sent.append(message)

        scope = {"type": "http", "method": "POST", "path": PATH, "headers": list(headers), "query_string": b""}
        try:
            self.runner.run(application(scope | {"app": None}, receive, send))
        except Exception:  # which Starlette raises anew, after it was answered
            assert sent
        start, *rest = sent
        return Answer(start["status"], start["headers"], b"".join(message.get("body", b"") for message in rest))

    def same(self, body: bytes, headers=AS_JSON) -> tuple[Answer, bool]:
        """What both answer, which is the same, and whether Feast's route was not asked for it."""
        expected, before = self.ask(self.slow, body, headers), self.feast.asked
        found = self.ask(self.quick, body, headers)
        assert found == expected
        return found, self.feast.asked == before

    def close(self) -> None:
        self.runner.run(online_store_of(self.store).close())
        self.runner.close()


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Feast logs each error that it answers, with what no log can show in it."""
    monkeypatch.setattr(logging.getLogger("fastapi"), "disabled", True)


@pytest.fixture(scope="module")
def world(redis_port, tmp_path_factory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("quick"), redis_port)
    yield world
    world.close()


FEATURES = [f"purchases:{AVERAGE}", f"purchases:{TOTAL}"]
STORES = ["customers_in_stores:max_total_90d", "customers_in_stores:last_quantity_ever"]
USERS = {"user_id": [1, 2, 3, -5, 4, 1]}
PAIRS = {"customer_id": ["Zoë", '"\\', "nobody", ""], "store_id": [1, -1, 2, 2**63 - 1]}
QUICK = {
    "features": {"features": FEATURES, "entities": USERS},
    "one feature": {"features": FEATURES[1:], "entities": {"user_id": [1]}},
    "a service": {"feature_service": "purchases_service", "entities": USERS},
    "a service and no features": {"feature_service": "purchases_service", "features": [], "entities": USERS},
    "full names": {"features": FEATURES, "entities": USERS, "full_feature_names": True},
    "several keys": {"features": STORES, "entities": PAIRS},
    "keys in another order": {"features": STORES, "entities": dict(reversed(PAIRS.items()))},
    "views of different keys": {"feature_service": "both", "entities": PAIRS | {"user_id": [1, 2, 3, 4]}},
    "numbers of all sizes": {"features": ["codes:latest"], "entities": {"code": [1, 2, 3, 4]}},
    "as many as may be at once": {"features": FEATURES, "entities": {"user_id": [*range(-5000, 5000)]}},
    "vectors that were computed ahead": {"feature_service": "ahead", "entities": USERS},
    "all that may be said": {"features": FEATURES, "feature_service": None, "entities": USERS}
    | {"full_feature_names": False, "include_feature_view_version_metadata": False},
}
OTHERS = {
    "an on-demand view": (200, {"feature_service": "on_demand", "entities": USERS}),
    "request data": (200, {"features": ["more:more"], "entities": {"user_id": [1], "amount": [7]}}),
    "versions": (200, QUICK["features"] | {"include_feature_view_version_metadata": True}),
    "an id as text": (200, {"features": FEATURES, "entities": {"user_id": ["1"]}}),
    "a whole number as float": (200, {"features": FEATURES, "entities": {"user_id": [1.0]}}),
    "a word for true": (200, QUICK["features"] | {"full_feature_names": "yes"}),
    "more fields": (200, QUICK["features"] | {"more": 1}),
    "more columns": (200, {"features": FEATURES, "entities": {"user_id": [1], "other": [1]}}),
    "features and a service": (200, QUICK["features"] | {"feature_service": "purchases_service"}),
    "an id of another type": (422, {"features": FEATURES, "entities": {"user_id": ["abc"]}}),
    "an id that is null": (422, {"features": FEATURES, "entities": {"user_id": [1, None]}}),
    "an id that is too large": (422, {"features": FEATURES, "entities": {"user_id": [2**63]}}),
    "a boolean": (422, {"features": FEATURES, "entities": {"user_id": [True]}}),
    "the name of an entity": (422, {"features": FEATURES, "entities": {"user": [1]}}),
    "lengths that differ": (422, {"features": STORES, "entities": {"customer_id": ["a"], "store_id": [1, 2]}}),
    "a key too few": (422, {"features": STORES, "entities": {"customer_id": ["a"]}}),
    "no entities": (422, {"features": FEATURES, "entities": {}}),
    "no entity": (422, {"features": FEATURES, "entities": {"user_id": []}}),
    "no features": (422, {"features": [], "entities": USERS}),
    "nothing": (422, {}),
    "entities in rows": (422, {"features": FEATURES, "entities": [{"user_id": 1}]}),
    "a scalar": (422, {"features": FEATURES, "entities": {"user_id": 1}}),
    "features in a text": (422, {"features": FEATURES[0], "entities": USERS}),
    "a feature of no text": (422, {"features": [1], "entities": USERS}),
    "an unknown feature": (422, {"features": ["purchases:nothing"], "entities": USERS}),
    "a feature twice": (422, {"features": FEATURES[:1] * 2, "entities": USERS}),
    "no view in front": (422, {"features": [AVERAGE], "entities": USERS}),
    "an unknown view": (404, {"features": ["nowhere:nothing"], "entities": USERS}),
    "an unknown service": (404, {"feature_service": "nothing", "entities": USERS}),
    "10,001 at once": (422, {"features": FEATURES, "entities": {"user_id": [1] * 10_001}}),
    "half of a surrogate pair": (422, {"features": FEATURES, "entities": {"\ud800": [1]}}),
    "half of one, in a feature": (422, {"features": ["\ud800"], "entities": USERS}),
    "half of one, in what is not asked for": (422, {"feature_service": "both", "features": ["\ud800"], "entities": {}}),
}


@pytest.mark.parametrize("request_", QUICK.values(), ids=QUICK)
def test_what_is_asked_for_mostly_is_answered_quickly_and_byte_for_byte(world, request_):
    answer, quick = world.same(json.dumps(request_).encode())
    assert (answer.status, quick) == (200, True)
    assert json.loads(answer.body)["results"]


@pytest.mark.parametrize(("status", "request_"), OTHERS.values(), ids=OTHERS)
def test_anything_else_is_answered_by_feasts_route_with_its_status_and_body(world, status, request_):
    answer, quick = world.same(json.dumps(request_).encode())
    assert (answer.status, quick) == (status, False)


BODY = json.dumps(QUICK["features"]).encode()


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b"1", BODY + b"}", BODY[:-1], b"[" * 100_000, b"\xff", BODY.replace(b"1", b"NaN")],
)
def test_what_is_no_request_at_all_is_refused_as_feast_does(world, body):
    answer, quick = world.same(body)
    assert answer.status >= 400
    assert not quick


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32-be"])
@pytest.mark.parametrize("ascii", [True, False])
def test_a_request_in_any_encoding_of_json(world, encoding, ascii):
    body = json.dumps(QUICK["several keys"], ensure_ascii=ascii, indent=2).encode(encoding)
    assert world.same(body)[0].status == 200


@pytest.mark.parametrize(
    ("headers", "status", "quick"),
    [
        (AS_JSON, 200, True),
        ((), 422, False),
        (((b"content-type", b"application/json; charset=utf-8"),), 200, False),
        (((b"content-type", b"application/problem+json"),), 200, False),
        (((b"content-type", b"text/plain"),), 422, False),
        ((*AS_JSON, (b"content-type", b"text/plain")), 200, False),
    ],
)
def test_by_the_type_of_the_content_that_is_said(world, headers, status, quick):
    found, taken = world.same(BODY, headers)
    assert (found.status, taken) == (status, quick)


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64), 2**64) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
IDS = st.integers(-6, 6) | st.sampled_from(["1", "Zoë", '"\\', 2**63, 1.0, True, None])
COLUMNS = st.dictionaries(
    st.sampled_from(["user_id", "customer_id", "store_id", "code", "user"]), st.lists(IDS, max_size=3), max_size=3
)
REFERENCES = st.lists(st.sampled_from([*FEATURES, *STORES, "codes:latest", "doubled:doubled", "", ":"]), max_size=3)
DRAWN = st.fixed_dictionaries(
    {"entities": COLUMNS | ANYTHING},
    optional={
        "features": REFERENCES | ANYTHING,
        "feature_service": st.sampled_from(["both", "ahead", "purchases_service", "on_demand", "no", ""]) | ANYTHING,
        "full_feature_names": st.booleans() | ANYTHING,
        "include_feature_view_version_metadata": st.booleans() | ANYTHING,
    },
)


@settings(max_examples=60, deadline=None)
@given(DRAWN)
def test_whatever_is_asked_is_answered_as_by_feast(world, request_):
    world.same(json.dumps(request_).encode())


def test_an_apply_is_noticed_once_the_registry_is_read_again(redis_port, tmp_path):
    world = World(tmp_path, redis_port)
    ask = json.dumps({"feature_service": "purchases_service", "entities": USERS}).encode()
    first, _ = world.same(ask)
    world.view.view.ttl = timedelta(days=60)
    world.store.apply([world.view.view, FeatureService(name="purchases_service", features=[world.stores.view])])
    world.store.refresh_registry()
    assert world.same(ask)[0].status == 422  # it is of other keys now
    features, quick = world.same(BODY)
    assert quick
    assert first.body.count(b"OUTSIDE_MAX_AGE") == 2
    assert b"OUTSIDE_MAX_AGE" not in features.body
    world.close()


def test_a_registry_that_has_to_be_read_first_is_read_by_feasts_route(world):
    """In a thread, as it may take long."""
    world.store.registry.cached_registry_proto_ttl = timedelta(microseconds=1)
    try:
        assert world.same(BODY)[1] is False
    finally:
        world.store.registry.cached_registry_proto_ttl = timedelta(0)
    assert world.same(BODY)[1] is True


def test_a_row_that_is_written_is_in_the_next_answer(redis_port, tmp_path):
    world = World(tmp_path, redis_port)
    assert b"[1.5," in world.same(BODY)[0].body
    world.write(2.5)
    assert b"[2.5," in world.same(BODY)[0].body
    world.close()


def test_whoever_has_to_say_who_they_are_is_asked_by_feast(world):
    set_security_manager(object())
    try:
        assert QuickRoute(get_app(world.store), world.store).open is False
    finally:
        no_security_manager()


def test_what_feast_puts_around_its_routes_as_its_audit_log_is_not_left_out(world):
    application = get_app(world.store)
    application.add_middleware(Counting)
    assert QuickRoute(application, world.store).open is False
    assert QuickRoute(get_app(world.store), world.store).open is True


def test_a_redis_that_is_away_is_said_as_by_feast_and_not_asked_twice(redis_port, tmp_path, monkeypatch):
    world = World(tmp_path, redis_port)
    away = f"localhost:{free_port()}"
    monkeypatch.setattr(world.store.config.online_store, "connection_string", away)
    world.runner.run(online_store_of(world.store).close())
    answer, quick = world.same(BODY)
    assert (answer.status, quick) == (503, True)
    assert b"does not answer" in answer.body
    world.close()


def test_what_is_answered_quickly_is_logged_too(redis_port, tmp_path):
    log = tmp_path / "log"
    world = World(tmp_path, redis_port, log_served={"path": str(log), "flush_seconds": 0.05})
    assert world.ask(world.quick, BODY).status == 200
    assert world.feast.asked == 0
    world.close()
    assert sum(part.rows for part in parts(log)) == len(USERS["user_id"])
