"""The model of CDNOW, served for real: what is answered, what is refused, and a proof that catches what is planted.

On a copy of the example with a few customers, a Redis of its own where one has to go away, and a real server.
"""

import dataclasses
import hashlib
import json
import re
import struct
import sys
import time
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import redis
import yaml

from parity.definition.checks import declared
from parity.edge.errors import UserError
from parity.edge.redis_server import find_server, free_port, launch
from parity.model.contract import Contract
from tests.cdnow import PRESENT, module, prepared
from tests.conftest import BIN

pytest.importorskip("skops")
pytest.importorskip("sklearn")
pytestmark = pytest.mark.scale

PURCHASES = {
    "00001": [("19970101", 11.77)],  # more than a year after it has left its windows
    "00002": [("19970112", 12.0), ("19980612", 77.0)],
    "00003": [("19970102", 20.76), ("19971229", 37.48), ("19980401", 0.0), ("19980630", 15.99)],
    **{f"{n:05}": [("19970301", n / 7), (f"199805{n:02}", 3.5 * n)] for n in range(10, 30)},
}


@pytest.fixture(scope="module")
def modules():
    return module("serve"), module("model")


@pytest.fixture(scope="module")
def example(tmp_path_factory, redis_port):
    return prepared(tmp_path_factory.mktemp("served") / "cdnow", redis_port, PURCHASES)


@pytest.fixture(scope="module")
def client(example):
    with example.served() as client:
        yield client


class TestWhatIsAnswered:
    def test_the_score_is_that_of_the_features_to_the_bit(self, example, client, modules):
        serve, model = modules
        scorer, _ = serve.trained(example.model, model.SERVICE, declared(example.folder))
        answers = [client.predict(id) for id in ("00002", "00003", "00017")]
        assert {answer.status for answer in answers} == {200}
        for answer in (answer.content for answer in answers):
            assert (answer["status"], answer["service"], answer["model"]) == ("ok", "buys_again", scorer.id)
            columns = {name: [value] for name, value in answer["features"].items()}
            matrix = model.matrix(columns, [datetime.fromisoformat(answer["as_of"])])
            [expected] = model.scores(scorer.model, matrix).tolist()
            assert struct.pack("<d", answer["score"]) == struct.pack("<d", expected)
        assert len({answer.content["score"] for answer in answers}) > 1

    def test_features_are_those_of_the_purchases(self, client):
        features = client.predict("00003").content["features"]
        assert features["purchases"] == 4
        assert (features["purchases_7d"], features["dollars_7d"]) == (1, 15.99)
        assert (features["purchases_90d"], features["first_date"]) == (1, 19970102)

    def test_several_are_answered_as_each_alone_in_their_order(self, client):
        ids = ["00017", "nobody", "00003", "00001", "00017"]
        several = client.predict(*ids).content["predictions"]
        assert [one["customer_id"] for one in several] == ids
        for one in several:
            alone = client.predict(one["customer_id"]).content
            assert one == {name: alone[name] for name in one}

    @pytest.mark.parametrize("id", ["nobody", "1", "3", "00003x", "€", "99999"])
    def test_one_who_is_unknown_is_said_to_be(self, client, id):
        answer = client.predict(id)
        assert (answer.status, answer.content["customer_id"]) == (200, id)
        assert (answer.content["status"], answer.content["score"]) == ("unknown", None)
        assert set(answer.content["features"].values()) == {None}

    def test_one_whose_features_are_too_old_is_said_to_be(self, client):
        answer = client.predict("00001")
        assert (answer.status, answer.content["status"], answer.content["score"]) == (200, "expired", None)
        assert set(answer.content["features"].values()) == {None}

    def test_the_present_is_that_of_the_command_line_and_goes_on(self, client, example):
        first, then = (datetime.fromisoformat(client.predict("00003").content["as_of"]) for _ in range(2))
        assert datetime.fromisoformat(PRESENT) < first < then < datetime(1998, 7, 2, tzinfo=UTC)
        with example.served("--present", "1998-07-08T12:00:00Z") as later:
            answer = later.predict("00003").content
        assert answer["as_of"].startswith("1998-07-08T12:00:")
        assert answer["features"]["purchases_7d"] == 0  # of the last one a week has passed

    def test_one_who_is_past_the_horizon_is_no_expired_one(self, example):
        with example.served("--present", "1998-09-15") as later:
            answer = later.predict("00003")
            several = later.predict("00001", "00003").content["predictions"]
        assert (answer.status, answer.content["status"], answer.content["score"]) == (200, "outdated", None)
        assert "materialize_to_online.py" in answer.content["detail"]
        assert [one["status"] for one in several] == ["expired", "outdated"]
        done = example.script("prove.py", "--present", "1998-09-15")
        assert done.returncode == 1, done
        assert " are past the horizon of their row online: " in done.stdout

    def test_health_names_the_model(self, client):
        answer = client.ask("/health")
        assert (answer.status, answer.content["status"], answer.content["service"]) == (200, "ok", "buys_again")


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        "query",
        [
            "",
            "?customer_id=",
            "?customer=00003",
            "?customer_id=00003&customer_id=00002",
            "?customer_id=%FF",
            "?customer_id=%00",
            "?customer_id=%2000003",
            "?customer_id=00003%0A",
            "?customer_id=%ED%A0%80",
            f"?customer_id={'9' * 101}",
        ],
    )
    def test_an_id_that_can_be_nobodys(self, client, query):
        answer = client.ask(f"/predict{query}")
        assert answer.status == 422
        assert "customer_id" in answer.content["detail"]

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"nonsense",
            b"\xff",
            b"[" * 100_000,
            [],
            {},
            "00003",
            {"customer_ids": []},
            {"customer_ids": "00003"},
            {"customer_ids": [3]},
            {"customer_ids": [None]},
            {"customer_ids": ["00003", ""]},
            {"customer_ids": ["00003", ["00002"]]},
            {"customer_ids": ["\ud800"]},
            {"customer_ids": [float("nan")]},
            {"customer_ids": ["00003"] * 1001},
        ],
        ids=str,
    )
    def test_a_body_that_names_no_customers(self, client, body):
        answer = client.ask("/predict", body)
        assert answer.status == 422
        assert "customer" in answer.content["detail"]

    def test_a_body_that_is_too_large(self, client):
        assert client.ask("/predict", {"customer_ids": ["x" * 2_000_000]}).status == 413

    def test_other_paths_and_ways(self, client):
        assert client.ask("/elsewhere").status == 404
        assert client.ask("/health", {}).status == 405
        assert client.predict("00003").status == 200  # nothing of all this has hurt


WHERE = "where='dollars > 0',"
CHANGES = {
    "a window": ('"7d": timedelta(days=7)', '"7d": timedelta(days=8)', "customer_purchases:purchases_7d"),
    "a function": ('name="largest", function="max"', 'name="largest", function="min"', "customer_purchases:largest"),
    "a column": (
        'name="dollars", function="sum", column="dollars"',
        'name="dollars", function="sum", column="cds"',
        "customer_purchases:dollars:",
    ),
    "a condition": ("    continuous=True,", f"    continuous=True, {WHERE}", "where was none and is dollars > 0"),
    "the ttl": ("ttl=timedelta(days=365)", "ttl=timedelta(days=366)", "ttl was 365 days and is 366 days"),
    "a name": ('name="largest"', 'name="greatest"', "customer_purchases:largest is not in buys_again any more"),
    "the key": ("ValueType.STRING", "ValueType.INT64", "keys was customer_id string and is customer_id int64"),
    "a view that slides": ("    continuous=True,\n    horizon=timedelta(days=30),", "", "continuous"),
    "a service": ('name="buys_again"', 'name="buys"', "there is no FeatureService 'buys_again'"),
}


class TestOtherDefinitions:
    @pytest.mark.parametrize("change", CHANGES)
    def test_than_those_of_the_training_are_not_served_and_named(self, example, modules, monkeypatch, change):
        serve, model = modules
        before, after, named = CHANGES[change]
        monkeypatch.delitem(sys.modules, "cdnow.features", raising=False)
        with example.edited(before, after), pytest.raises(UserError) as error:
            serve.trained(example.model, model.SERVICE, declared(example.folder))
        monkeypatch.delitem(sys.modules, "cdnow.features", raising=False)
        assert named in str(error.value)
        assert "\n" not in str(error.value)

    def test_end_the_server_with_one_line(self, example):
        with example.edited('"7d": timedelta(days=7)', '"7d": timedelta(days=8)'):
            line = example.refused("serve.py", "--port", 0)
            assert "customer_purchases:purchases_7d: window was 7 days and is 8 days" in line
            assert line == example.refused("prove.py")

    def test_that_are_applied_are_not_served_though_the_file_is_as_it_was(self, example):
        try:
            with example.edited('name="largest", function="max"', 'name="largest", function="min"'):
                example.apply()
            line = example.refused("serve.py", "--port", 0)
            assert "customer_purchases:largest is made in another way" in line
            assert "feast apply" in line
            assert line == example.refused("prove.py")
        finally:
            example.apply()

    def test_that_are_applied_meanwhile_are_noticed_and_named(self, example):
        with example.served() as client:
            try:
                assert client.predict("00003").status == 200
                with example.edited('"30d": timedelta(days=30)', '"30d": timedelta(days=31)'):
                    example.apply()
                client.until(503, "/health")  # a request may fail before, of what is half applied
                answer = client.predict("00003")
                assert answer.status == 503
                assert "customer_purchases:purchases_30d is made in another way" in answer.content["detail"]
                assert "customer_purchases:dollars_30d" in answer.content["detail"]
                assert "purchases_7d" not in answer.content["detail"]
                health = client.ask("/health")
                assert (health.status, health.content["detail"]) == (503, answer.content["detail"])
                assert client.ask("/predict?customer_id=").status == 422  # which is wrong in any case
            finally:
                example.apply()
            assert client.until(200).content["status"] == "ok"
        said = client.log.read_text().splitlines()
        assert [line.partition(":")[0] for line in said] == ["not serving", "serving again"], said

    def test_that_something_was_computed_by_meanwhile_are_noticed(self, example):
        table = example.folder / "data" / "customer_purchases.parquet"
        with example.served() as client:
            try:
                with example.edited("    continuous=True,", f"    continuous=True, {WHERE}"):
                    example.compute()
                answer = client.until(503)
                assert "customer_purchases was computed by other definitions" in answer.content["detail"]
                table.unlink()  # what is not there says nothing of what is online
                assert client.until(200).content["status"] == "ok"
            finally:
                example.compute()

    def test_a_view_that_is_taken_away_meanwhile_is_named(self, example):
        with example.served() as client:
            try:
                example.succeed(BIN / "feast", "-c", example.folder, "delete", "buys_again")
                assert "buys_again" in client.until(503).content["detail"]
            finally:
                example.apply()
            assert client.until(200).content["status"] == "ok"


class TestWhatGoesAway:
    @pytest.fixture
    def own(self, tmp_path):
        """An example on a Redis that may go."""
        port = free_port()
        server = launch(find_server(), port, tmp_path / "redis")
        servers = [server]
        try:
            yield prepared(tmp_path / "cdnow", port, PURCHASES), servers
        finally:
            servers[-1].kill()
            servers[-1].wait()

    def test_redis_may_go_and_come_back_without_a_restart(self, own, tmp_path):
        example, servers = own
        with example.served() as client:
            before = client.predict("00003")
            assert before.status == 200
            servers[-1].kill()
            servers[-1].wait()
            for _ in range(2):
                answer = client.predict("00003")
                assert (answer.status, answer.content) == (503, {"detail": "the online store does not answer"})
            assert client.ask("/health").status == 503
            servers.append(launch(find_server(), example.port, tmp_path / "redis"))
            assert client.until(200).content["status"] == "unknown"  # it came back empty
            example.materialize()
            after = client.predict("00003").content
            assert after["score"] == before.content["score"]
            assert client.ask("/health").status == 200

    def test_a_server_without_redis_does_not_start(self, own):
        example, servers = own
        servers[-1].kill()
        servers[-1].wait()
        assert f"Redis at localhost:{example.port} does not answer" in example.refused("serve.py", "--port", 0)


class TestAModel:
    def test_that_is_not_there_or_not_whole_is_refused_in_one_line(self, example, tmp_path):
        assert "there is no model" in example.refused("serve.py", "--model", tmp_path / "none.model")
        cut = tmp_path / "cut.model"
        cut.write_bytes(example.model.read_bytes()[:-100])
        assert f"{cut}: it is truncated or damaged" in example.refused("serve.py", "--model", cut)
        assert "truncated or damaged" in example.refused("prove.py", "--model", cut)

    def test_of_another_service_is_refused_in_one_line(self, example):
        line = example.refused("serve.py", "--service", "nothing", "--model", example.model)
        assert "was trained on the FeatureService 'buys_again', not on 'nothing'" in line

    def test_of_another_scikit_learn_is_refused_in_one_line(self, example, tmp_path):
        from parity.model.file import MAGIC

        _, line, packed = example.model.read_bytes().split(b"\n", 2)
        contract = Contract.from_json(line)
        other = dataclasses.replace(contract, versions=dict(contract.versions) | {"scikit-learn": "0.24.2"})
        content, file = other.to_json().encode() + b"\n" + packed, tmp_path / "old.model"
        file.write_bytes(MAGIC + hashlib.sha256(content).hexdigest().encode() + b"\n" + content)
        assert "trained by scikit-learn 0.24.2" in example.refused("serve.py", "--model", file)


def test_an_address_that_is_taken_is_refused_in_one_line(example, client):
    line = example.refused("serve.py", "--port", client.port)
    assert f"nothing can listen at 127.0.0.1, port {client.port}: Address already in use" in line
    assert "nothing can listen at no.such.host.invalid" in example.refused("serve.py", "--host", "no.such.host.invalid")


class TestTheLog:
    @pytest.fixture(scope="class")
    def log(self):
        return pytest.importorskip("parity.served.log")

    def test_has_the_vector_of_each_prediction_at_its_instant(self, example, log, tmp_path):
        with example.logged(str(tmp_path / "served")) as folder, example.served() as client:
            single = [client.predict(id).content for id in ("00003", "00001", "nobody")]
            several = client.predict("00017", "00002").content
        answers = [*single, *(one | {"as_of": several["as_of"]} for one in several["predictions"])]
        parts = log.parts(folder, service="buys_again")
        rows = {row["customer_id"]: row for part in parts for row in log.read(part).to_pylist()}
        assert {part.dropped for part in parts} == {0}
        assert rows.keys() == {answer["customer_id"] for answer in answers}
        for answer in answers:
            row = rows[answer["customer_id"]]
            assert row["__as_of"] == datetime.fromisoformat(answer["as_of"])
            assert {name: row[f"customer_purchases__{name}"] for name in answer["features"]} == answer["features"]

    def test_may_fail_and_serving_goes_on(self, example, log, tmp_path):
        (tmp_path / "file").touch()
        with example.logged(str(tmp_path / "file" / "served")), example.served() as client:
            for _ in range(3):
                assert client.predict("00003").content["status"] == "ok"
                time.sleep(2)  # in which it is tried to write
            assert client.ask("/health").status == 200


class TestTheProof:
    def test_finds_every_score_the_same(self, example, tmp_path):
        done = example.script("prove.py", "--json", tmp_path / "proof.json")
        assert done.returncode == 0, done
        assert f"{len(PURCHASES)} customers as of {PRESENT}: {len(PURCHASES) - 1} ok, 1 expired" in done.stdout
        assert f"each of the {len(PURCHASES) - 1} scores is the same, to the bit" in done.stdout
        found = json.loads((tmp_path / "proof.json").read_text())
        assert (found["customers"], found["differ"], found["scores_differ"]) == (len(PURCHASES), 0, 0)

    def test_catches_a_value_that_was_changed_online_by_one_bit(self, example):
        changed = {}
        with redis.Redis(port=example.port) as client:
            project = yaml.safe_load((example.folder / "feature_store.yaml").read_text())["project"]
            [key] = client.scan_iter(f"*00017*{project}")
            for field, value in client.hgetall(key).items():
                if len(value) == 9 and value[0] == 0x29:  # a double
                    changed[field] = value
            field, value = max(changed.items(), key=lambda one: struct.unpack("<d", one[1][1:]))
            client.hset(key, field, value[:1] + bytes([value[1] ^ 1]) + value[2:])
            try:
                done = example.script("prove.py")
            finally:
                client.hset(key, field, value)
        assert done.returncode == 1, done
        assert re.search(r"1 differ, 0 of them in the score:\n  00017: dollars \S+ offline, \S+ online\n", done.stdout)
        assert example.script("prove.py").returncode == 0

    def test_catches_a_row_that_is_missing_online_or_a_customer_offline_does_not_know(self, example):
        with redis.Redis(port=example.port) as client:
            project = yaml.safe_load((example.folder / "feature_store.yaml").read_text())["project"]
            [key] = client.scan_iter(f"*00003*{project}")
            row, other = client.hgetall(key), key.replace(b"00003", b"77777")
            client.delete(key)
            client.hset(other, mapping=row)
            try:
                done = example.script("prove.py")
            finally:
                client.hset(key, mapping=row)
                client.delete(other)
        assert done.returncode == 1, done
        assert "2 differ, 2 of them in the score:" in done.stdout
        assert re.search(r"  00003: score 0\.\d+ offline, None online; ", done.stdout)
        assert re.search(r"  77777: score None offline, 0\.\d+ online; ", done.stdout)

    def test_catches_what_was_changed_offline(self, example):
        path = example.folder / "data" / "customer_purchases.parquet"
        before, table = path.read_bytes(), pq.read_table(path)
        rows = table.to_pylist()
        for row in rows:
            row["purchases"] += row["customer_id"] == "00025"
        pq.write_table(pa.Table.from_pylist(rows, table.schema), path)
        try:
            done = example.script("prove.py")
        finally:
            path.write_bytes(before)
        assert done.returncode == 1, done
        said = r"1 differ, [01] of them in the score:\n  00025: .*purchases 3 offline, 2 online\n"
        assert re.search(said, done.stdout)

    def test_needs_somebody_to_prove_it_of(self, example):
        line = example.refused("prove.py", "--present", "1996-01-01")
        assert f"none of {len(PURCHASES)} customers has a score as of 1996-01-01T00:00:00+00:00" in line
