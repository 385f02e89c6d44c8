"""`python -m parity audit`: from a real pipeline whose answers are logged, to what is printed, written and returned."""

import json
import shutil
from datetime import datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value

from parity.definition.checks import declared
from parity.definition.instants import utc_now
from parity.online.side import online_store_of, redis_keys

SERVICE, VIEW = "user_features", "user_purchase_features"
AVERAGE = "user_avg_3day_purchase_amount"


class Shop:
    """The project with its log switched on, up to what is online."""

    def __init__(self, project):
        self.project, self.log = project, project.root / "data" / "served"
        self.repository = project.root / "feature_repo"
        project.configure(online_store__log_served=True)
        project.prepare()

    def serve(self, *users: int, now: datetime | None = None) -> None:
        """Ask for features as a model server does, and end, which has the log written."""
        store = FeatureStore(repo_path=str(self.repository))
        online = online_store_of(store)
        if now:
            online.now = lambda: now
        store.get_online_features(store.get_feature_service(SERVICE), [{"user_id": user} for user in users])
        online._recorder.close()

    def alter(self, user: int, value: float) -> None:
        """Overwrite the average of a user in Redis."""
        store = FeatureStore(repo_path=str(self.repository))
        [table] = declared(self.repository).tables
        [key] = redis_keys(store, table, pa.table({"user_id": [user]}))
        self.project.client.hset(key, _mmh3(f"{VIEW}:{AVERAGE}"), Value(double_val=value).SerializeToString())

    def audit(self, *arguments: object):
        return self.project.run("parity/__main__.py", "audit", "-c", self.repository, *arguments)

    def succeed(self, *arguments: object) -> str:
        outcome = self.audit(*arguments)
        assert outcome.status == 0, outcome
        return outcome.out

    def refused(self, *arguments: object) -> str:
        outcome = self.audit(*arguments)
        assert (outcome.status, outcome.out, outcome.err.count("\n")) == (2, "", 1), outcome
        assert outcome.err.startswith("error: ")
        return outcome.err


@pytest.fixture
def shop(project):
    return Shop(project)


def test_from_what_was_served_to_a_verdict(shop, tmp_path):
    assert "data/served: there is no such folder, so nothing was logged yet" in shop.refused()
    shop.serve(*range(1, 21), 999)
    out = shop.succeed()
    assert "1 request, 21 rows, served" in out
    assert f"{VIEW}: 21 rows of 21 users, match 42, mismatch 0," in out
    assert "Served other than the truth as known today: 0 of 1 request, 0 %\n" in out
    assert "Served other than the truth as known then: 0 of 1 request, 0 %\n" in out
    assert out.endswith("What was served equals training equals the oracle: each of 42 values at its own instant.\n")

    before = utc_now()
    shop.alter(7, 123.25)
    shop.serve(7, 8)
    outcome = shop.audit("--json")
    assert outcome.status == 1
    found = json.loads(outcome.out)
    assert found["requests"] == {
        "served": 2,
        "audited": 2,
        "other_than_known_today": 1,
        "known_then": 2,
        "other_than_known_then": 1,
    }
    [view] = found["views"]
    assert view["causes"]["altered"]["example"]["key"] == 7
    assert view["causes"]["altered"]["example"]["served"] == 123.25

    assert "1 request, 21 rows" in shop.succeed("--until", before.isoformat())
    assert shop.audit("--since", before.isoformat(), "--service", SERVICE, "--fail-on", "then").status == 1
    page = tmp_path / "audit.html"
    assert shop.audit("--view", VIEW, "--report", page).status == 1
    assert "<title>Served otherwise" in page.read_text()
    assert "123.25" in page.read_text()


def test_what_fails_is_one_line(shop):
    shop.serve(1)
    later = (utc_now() + timedelta(hours=3)).isoformat()
    assert "there is nothing of the project" in shop.refused("--since", later)
    assert "there is nothing of the service other" in shop.refused("--service", "other")
    assert f"there is no feature view 'other'; there is {VIEW}." in shop.refused("--view", "other")
    assert "is before --since" in shop.audit("--since", later, "--until", "2026-01-01").err
    [part] = shop.log.rglob("*.parquet")
    whole = part.read_bytes()
    part.write_bytes(whole[: len(whole) // 2])
    assert f"{part.name}: this is not a Parquet file, or a damaged one." in shop.refused()
    part.write_bytes(whole)
    shop.project.configure(online_store__log_served=False)
    assert "nothing that is served is logged: log_served is off" in shop.refused()


def test_neither_redis_nor_the_working_directory_matters(shop, tmp_path, monkeypatch):
    shop.serve(1, 2)
    shop.project.configure(online_store__connection_string="localhost:1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    assert "each of 4 values at its own instant" in shop.succeed()


def test_a_late_purchase_fails_today_and_not_then(shop):
    shop.serve(*range(1, 21))
    lines = shop.project.transactions.read_text().splitlines()
    user, product, time, _ = lines[-1].split(",")
    late = datetime.fromisoformat(time) - timedelta(minutes=1)
    shop.project.transactions.write_text("\n".join([*lines, f"{user},{product},{late.isoformat()},3.25", ""]))
    shop.project.succeed("compute_features.py")
    outcome = shop.audit()
    assert (outcome.status, "  late row: 2 values in 1 row (as was known then), served at" in outcome.out) == (1, True)
    assert f"user {user} at " in outcome.out
    assert "it is the truth as known then" not in shop.succeed("--fail-on", "then")


def test_what_was_known_then_has_to_be_known_to_fail_on_it(shop):
    shop.serve(1, 2)
    shutil.rmtree(shop.project.features.with_suffix(".versions"), ignore_errors=True)
    rows = pq.read_table(shop.project.features)
    pq.write_table(rows, shop.project.features)
    assert "what was known then is not known of anything that was served" in shop.refused("--fail-on", "then")
    assert "it is not known what was known then" in shop.succeed()


def test_the_log_of_another_project_in_the_folder_is_not_looked_at(shop):
    shop.serve(1, 2)
    [part] = shop.log.rglob("*.parquet")
    rows = pq.read_table(part, partitioning=None)
    facts = json.loads(rows.schema.metadata[b"parity.served"]) | {"project": "somebody_else"}
    rows = rows.replace_schema_metadata({b"parity.served": json.dumps(facts).encode()})
    pq.write_table(rows, part.with_name("other-0000.parquet"))
    assert "not looked at: 1 part of another project, somebody_else" in shop.succeed()
    part.unlink()
    assert "but 1 part of somebody_else" in shop.refused()
