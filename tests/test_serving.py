"""While features are materialized, and when that dies or fails, readers get the old or the new row of each user."""

import json
import os
import time
from contextlib import closing
from functools import partial
from http.client import HTTPConnection
from importlib.util import find_spec

import pytest

from tests.serving import BIN, COMMANDS, Proxy, Readers, chaos, killed, row, served, shop, shown

KILLS = 20
NEEDS_MOTO = pytest.mark.skipif(not find_spec("moto") and "CI" not in os.environ, reason="moto missing")
SCALE = pytest.mark.scale


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param("file", marks=SCALE),
        pytest.param("sql", marks=[SCALE, pytest.mark.soak]),
        pytest.param("s3", marks=[SCALE, pytest.mark.soak, NEEDS_MOTO]),
    ],
)
def test_readers_never_notice_a_materialization_alive_killed_or_failed(kind, record_property):
    with shop(kind) as made, served(made) as url:
        readers = Readers(made, url)

        for name in COMMANDS:
            made.next_version()
            process = made.materialize(name)
            out, _ = process.communicate(timeout=120)
            assert process.returncode == 0, out
            if name.endswith(".py"):
                made.settled()

        begun = time.monotonic()
        assert not killed(made, 60)
        whole = time.monotonic() - begun
        died = sum(killed(made, whole * (step + 1) / (KILLS + 1)) for step in range(KILLS))

        failed = 0
        for name, cut in zip(COMMANDS, (20_000, 2_000, 30_000), strict=True):
            made.next_version()
            process = made.materialize(name, made.configure("cut.yaml", Proxy(made.port, cut).port))
            process.communicate(timeout=120)
            failed += process.returncode != 0

        made.next_version()
        made.succeed(*COMMANDS["materialize_to_online.py"])
        made.settled()
        time.sleep(0.5)
        found = readers.stopped()
    disturbed = f"beside {len(COMMANDS) + 2} materializations that ended, {died} that were killed, {failed} that failed"
    record_property("counts", f"{shown(kind, found)}\n  {disturbed}")
    for one in found.values():
        assert one.errors == []
        assert one.wrong == []
        assert one.answers > 100
    assert died > KILLS // 2
    assert failed == len(COMMANDS)


@pytest.mark.soak
@pytest.mark.scale
def test_readers_of_text_keys_never_notice_either(record_property):
    found, done = chaos("file", 6, "text")
    record_property("counts", f"{shown('file', found)}\n  of text keys, beside {done.total()} materializations")
    assert done
    for one in found.values():
        assert (one.errors, one.wrong) == ([], [])
        assert one.answers > 100


@pytest.fixture(scope="module")
def made():
    with shop("file") as made:
        yield made


@pytest.fixture(scope="module")
def url(made):
    with served(made) as url:
        yield url


@pytest.fixture
def ask(url):
    return partial(post, url)


def post(url: str, body: str = "", **request) -> tuple[int, str]:
    """Ask a feature server; the status of its answer and the body."""
    headers = {"Content-Type": "application/json"}
    with closing(HTTPConnection(url, timeout=60)) as connection:
        connection.request("POST", "/get-online-features", body or json.dumps(request), headers)
        response = connection.getresponse()
        return response.status, response.read().decode()


class TestRequests:
    """What can't be answered over HTTP is the caller's fault, with a reason, and not the server's."""

    @pytest.mark.parametrize("users", [[1], [1, 2, 1], ["3"], [4.0]])
    def test_ids_of_the_right_type_are_answered(self, ask, users):
        status, content = ask(feature_service="spending_service", entities={"user_id": users})
        assert status == 200, content
        expected = [row(1, int(user))[1] for user in users]
        answer = json.loads(content)
        assert answer["results"][answer["metadata"]["feature_names"].index("spent_mean")]["values"] == expected

    @pytest.mark.parametrize("user", ["abc", "", "007", " 7", "7.0", 7.9, True, None, 2**63, -(2**63) - 1, [1], {}])
    def test_an_id_of_another_type_is_refused(self, ask, user):
        status, content = ask(feature_service="spending_service", entities={"user_id": [1, user]})
        assert status == 422, content
        assert "user_id" in content

    @pytest.mark.parametrize("entities", [{}, {"user_id": []}, {"other": [1]}])
    def test_no_entities_are_refused(self, ask, entities):
        status, content = ask(features=["spending:spent_mean"], entities=entities)
        assert status == 422, content
        assert "no entity" in content or "no values of 'user_id'" in content

    def test_the_name_of_an_entity_is_refused_with_its_join_key(self, ask):
        status, content = ask(features=["spending:spent_mean"], entities={"user": [1]})
        assert status == 422
        assert "'user' is the name of an entity; ask by its join key 'user_id'" in content

    def test_columns_of_different_lengths_are_refused(self, ask):
        status, content = ask(features=["spending:spent_mean"], entities={"user_id": [1, 2], "other": [1]})
        assert (status, "more values of one column" in content) == (422, True)

    @pytest.mark.parametrize(
        ("features", "status", "reason"),
        [
            (["spending:nothing"], 422, "nothing"),
            (["nowhere:spent_mean"], 404, "nowhere"),
            (["spent_mean"], 422, "spent_mean"),
            (["spending:spent_mean", "spending:spent_mean"], 422, "spent_mean"),
            ([""], 422, "features"),
            ([], 422, ""),
        ],
    )
    def test_features_that_do_not_exist_are_refused_and_named(self, ask, features, status, reason):
        found, content = ask(features=features, entities={"user_id": [1]})
        assert found == status, content
        assert reason in content

    def test_too_many_entities_at_once_are_refused(self, ask):
        status, content = ask(feature_service="spending_service", entities={"user_id": list(range(10_001))})
        assert (status, "asks for 10,001 entities, more than 10,000 at once" in content) == (422, True)
        assert ask(feature_service="spending_service", entities={"user_id": list(range(10_000))})[0] == 200

    def test_too_many_columns_are_refused(self, ask):
        columns = {f"column_{number}": [1] * 10_000 for number in range(10)}
        status, content = ask(features=["spending:spent_mean"], entities={"user_id": [1] * 10_000} | columns)
        assert (status, "110,000 values" in content) == (422, True)

    def test_a_service_that_does_not_exist_is_not_found(self, ask):
        status, content = ask(feature_service="nothing", entities={"user_id": [1]})
        assert (status, "nothing" in content) == (404, True)

    def test_the_command_line_refuses_the_name_of_an_entity_too(self, made):
        process = made.command(
            str(BIN / "feast"), "-c", "feature_repo", "get-online-features", "-e", "user=1", "-f", "spending:spent_mean"
        )
        out, _ = process.communicate(timeout=60)
        assert process.returncode != 0
        assert "ask by its join key 'user_id'" in out

    def test_a_redis_that_is_away_is_said_without_its_address(self, made):
        made.configure("feature_store.yaml", Proxy(made.port, 0).port)
        try:
            with served(made) as url:
                status, content = post(url, features=["spending:spent_mean"], entities={"user_id": [1]})
        finally:
            made.configure("feature_store.yaml", made.port)
        assert status == 503
        assert "the online store does not answer" in content
        assert "localhost" not in content
        assert "127.0.0.1" not in content


@pytest.mark.parametrize("value", ['"\\ud800"', "NaN", "1e999"])
def test_feasts_server_fails_on_its_own_refusal_of_what_no_json_can_show(url, value):
    """Such a request never reaches the online store. Where this fails, docs/serving.md can drop the line about it."""
    body = f'{{"features": ["spending:spent_mean"], "entities": {{"user_id": [1]}}, "full_feature_names": {value}}}'
    assert post(url, body)[0] == 500
