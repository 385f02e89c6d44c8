"""One project on every kind of Redis, by a change of YAML: the pipeline, both reads, the proof, and no secret shown."""

import asyncio
import threading
import time
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from parity.definition.checks import FeatureTable, declared
from parity.definition.keys import as_table, as_tuples
from parity.materialization import Materialized, materialize_all
from parity.online.side import online_store_of, redis_keys, stored_events, stored_rows
from parity.proof.sides import serving_values
from tests import deployments
from tests.definition import customers, customers_in_stores, purchases
from tests.deployments import Deployment, wait_until
from tests.online import NOW, opened, require_in_step, write_history

VIEW, SERVICE = "user_purchase_features", "user_features"
AVERAGE, TOTAL = "user_avg_3day_purchase_amount", "user_total_transactions"
KINDS = ["password", "acl", "tls", "cluster", "sentinel"]
FEW_KINDS = [
    "password",
    "cluster",
    *(pytest.param(kind, marks=pytest.mark.scale) for kind in ("acl", "tls", "sentinel")),
]
"""A whole pipeline on each takes its time."""


class Production:
    """The project in its production configuration, on a deployment; whatever it prints must hold no secret."""

    def __init__(self, project, deployment: Deployment, monkeypatch):
        self.project, self.deployment = project, deployment
        yaml = project.root / "feature_repo" / "feature_store.production.yaml"
        monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(yaml))
        monkeypatch.setenv("FEATURE_STORE_REGISTRY", str(project.root / "data" / "production.db"))
        for name, value in deployment.environment.items():
            monkeypatch.setenv(name, value)

    @property
    def table(self) -> FeatureTable:
        [table] = declared(self.project.root / "feature_repo")
        return table

    def open(self) -> FeatureStore:
        return FeatureStore(repo_path=str(self.project.root / "feature_repo"))

    def discreet(self, text: str) -> str:
        assert not [secret for secret in self.deployment.secrets if secret in text]
        return text

    def succeed(self, script: str, *arguments: object) -> str:
        outcome = self.project.run(script, *arguments)
        assert outcome.status == 0, outcome
        return self.discreet(outcome.out + outcome.err)

    def fail(self, script: str) -> str:
        return self.discreet(self.project.fail(script))

    def feast(self, *arguments: str) -> None:
        outcome = self.project.feast(*arguments)
        self.discreet(outcome.out + outcome.err)

    def prepare(self, *arguments: object) -> None:
        self.succeed("generate_synthetic_data.py", *arguments)
        self.succeed("compute_features.py")


@pytest.fixture
def production(project, monkeypatch, tmp_path, request):
    """On the kind of deployment that the test asks for."""
    folder = tmp_path / "servers"
    folder.mkdir()
    name, *options = request.param.split()
    with getattr(deployments, name)(folder, **dict.fromkeys(options, True)) as deployment:
        yield Production(project, deployment, monkeypatch)


def latest(features: Path) -> dict[int, tuple]:
    return {row["user_id"]: (row[AVERAGE], row[TOTAL]) for row in pq.read_table(features).to_pylist()}


def served(answer, users: list[int]) -> dict[int, tuple]:
    columns = answer.to_dict()
    return dict(zip(users, zip(columns[AVERAGE], columns[TOTAL], strict=True), strict=True))


async def read_async(store: FeatureStore, users: list[int]) -> dict[int, tuple]:
    service = store.get_feature_service(SERVICE)
    try:
        one = await store.get_online_features_async(service, [{"user_id": users[0]}])
        many = await store.get_online_features_async(service, [{"user_id": user} for user in users])
    finally:
        await online_store_of(store)._client_async.aclose()
    assert served(one, users[:1])[users[0]] == served(many, users)[users[0]]
    return served(many, users)


@pytest.mark.parametrize("production", FEW_KINDS, indirect=True)
def test_the_pipeline_and_the_proof_on(production, caplog):
    project = production.project
    production.prepare()
    production.feast("apply")
    production.feast("materialize", "2020-01-01T00:00:00+00:00", "2100-01-01T00:00:00+00:00")
    history = latest(project.features)
    store, users = production.open(), sorted(history)
    service = store.get_feature_service(SERVICE)
    assert served(store.get_online_features(service, {"user_id": users}), users) == history
    assert asyncio.run(read_async(store, users)) == history

    production.succeed("materialize_to_online.py")
    report, certificate = project.root / "report.html", project.root / "certificate.json"
    out = production.succeed("demo_fixed.py", "--report", report, "--certificate", certificate)
    assert "match 40, mismatch 0, missing online 0, extra online 0, equal but wrong 0" in out
    production.discreet(report.read_text() + certificate.read_text())
    at = pq.read_table(project.features)["event_timestamp"].to_pylist()[50]
    assert "Training equals serving equals the oracle" in production.succeed("demo_fixed.py", "--at", at.isoformat())

    online, table = online_store_of(store), production.table
    found = stored_events(store, table)
    assert sorted(found.keys["user_id"].to_pylist()) == users, "nothing of the replay is left, and all of the present"
    assert online.retract(store.config, table.view, found.found[:5]) == 5
    skewed = project.run("demo_fixed.py")
    assert skewed.status == 1
    assert "missing online 10" in production.discreet(skewed.out)
    assert "Repaired, and compared again" in production.succeed("demo_fixed.py", "--repair")
    online.delete_entity_values(store.config, ["user_id"])
    assert stored_events(store, table).found == []
    production.discreet(caplog.text)


@pytest.mark.parametrize("production", ["cluster", "sentinel"], indirect=True)
def test_the_asynchronous_write_keeps_the_order_and_survives_scripts_that_are_gone(production):
    production.prepare()
    production.feast("apply")
    store = production.open()
    online, history = online_store_of(store), pq.read_table(production.project.features).to_pandas()

    async def write(rows) -> None:
        try:
            await store.write_to_online_store_async(VIEW, rows)
        finally:
            await online._client_async.aclose()
            online._client_async = None

    asyncio.run(write(history[::-1]))
    online._get_client(store.config.online_store).script_flush()
    asyncio.run(write(history))
    store.write_to_online_store(VIEW, history[:50])
    users = sorted(set(history["user_id"]))
    service = store.get_feature_service(SERVICE)
    answer = served(store.get_online_features(service, {"user_id": users}), users)
    assert answer == latest(production.project.features)
    table = production.table
    [(_, row)] = stored_rows(store, table, as_table([(users[0],)], table.definition.keys))
    assert row[TOTAL] == answer[users[0]][1]


@pytest.mark.parametrize("kind", ["acl", "cluster", "sentinel"])
def test_keys_of_any_type_are_written_replaced_and_retracted_on(kind, tmp_path):
    """By columns on each: in a Cluster every key goes to its own master."""
    tables = [purchases(tmp_path), customers(tmp_path), customers_in_stores(tmp_path)]
    ids = {
        1: [(n,) for n in range(300)],
        2: [(f"{n:04}",) for n in range(300)],
        3: [(f"{n:04}", n) for n in range(300)],
    }
    folder = tmp_path / "servers"
    folder.mkdir()

    def write(hours: int, but: int = 0) -> None:
        for number, table in enumerate(tables, 1):
            values = [VALUES[rule.type] for rule in table.definition.rules]
            write_history(table, *((*key, NOW - timedelta(hours=hours), *values) for key in ids[number][but:]))

    with getattr(deployments, kind)(folder) as deployment:
        options = {"connection_string": deployment.connection_string, "redis_type": deployment.redis_type}
        store = opened(tmp_path, 0, tables, **options)
        write(1)
        assert materialize_all(store, tables, None, NOW, NOW) == [Materialized(300, 0)] * 3
        write(2, but=100)
        assert materialize_all(store, tables, None, NOW, NOW, any_share=True) == [Materialized(200, 300)] * 3
        for number, table in enumerate(tables, 1):
            require_in_step(store, table, NOW)
            found = stored_events(store, table)
            assert sorted(as_tuples(found.keys)) == ids[number][100:]
            assert sorted(key for key, _ in found.found) == sorted(redis_keys(store, table, found.keys))
            first, *_ = serving_values(store, table, found.keys).values()
            assert first == [VALUES[table.definition.rules[0].type]] * 200


VALUES = {pa.float64(): 1.5, pa.int64(): 7, pa.int32(): 3, pa.string(): "x"}
SECONDS_TO_RESUME = 15
"""Reads of a Redis whose master died are bound to be answered again after this, and are after a fraction of it."""


@pytest.mark.scale
@pytest.mark.parametrize("production", ["cluster replica", "sentinel"], indirect=True)
def test_reads_resume_when_a_master_dies_and_the_next_materialization_restores_parity(production, record_property):
    project = production.project
    production.prepare("--rows", 3000, "--users", 1000)
    production.feast("apply")
    production.succeed("materialize_to_online.py")
    history, store = latest(project.features), production.open()
    users, service = sorted(history), store.get_feature_service(SERVICE)

    def read() -> bool:
        begun = time.monotonic()
        try:
            answer = served(store.get_online_features(service, {"user_id": users}), users)
        finally:
            attempts.append(time.monotonic() - begun)
        assert all(answer[user] in (history[user], (None, None)) for user in users), "what is answered is right"
        return answer[users[0]] is not None

    attempts: list[float] = []
    assert read()
    production.deployment.masters[0].kill()
    seconds = wait_until(read)
    asynchronous = asyncio.run(read_async(production.open(), users))
    assert all(asynchronous[user] in (history[user], (None, None)) for user in users)
    record_property("seconds until reads resumed, and of the longest attempt", (seconds, max(attempts)))
    assert seconds < SECONDS_TO_RESUME
    assert max(attempts) < SECONDS_TO_RESUME
    production.succeed("materialize_to_online.py")
    assert "Training equals serving equals the oracle" in production.succeed("demo_fixed.py")


@pytest.mark.scale
@pytest.mark.parametrize("production", ["cluster replica", "sentinel"], indirect=True)
def test_a_master_that_dies_during_a_materialization_leaves_nothing_wrong_after_the_next(production, record_property):
    project, deployment = production.project, production.deployment
    production.prepare("--rows", 60_000, "--users", 20_000)
    production.feast("apply")

    def kill_half_way() -> None:
        wait_until(lambda: deployment.keys() > 2_000)
        held.append(deployment.keys())
        deployment.masters[0].kill()

    held: list[int] = []
    killer = threading.Thread(target=kill_half_way)
    killer.start()
    outcome = project.run("materialize_to_online.py")
    killer.join()
    assert held[0] < 18_000, "it died half-way"
    production.discreet(outcome.out + outcome.err)
    assert outcome.status in (0, 2), outcome
    assert outcome.err.count("error: ") == (outcome.status == 2), outcome

    def materialized() -> bool:
        again = project.run("materialize_to_online.py")
        assert again.status in (0, 2), production.discreet(again.err)
        return again.status == 0

    seconds = wait_until(materialized, 60)
    record_property("status of the first run, and seconds until the next went through", (outcome.status, seconds))
    assert "Training equals serving equals the oracle" in production.succeed("demo_fixed.py")
