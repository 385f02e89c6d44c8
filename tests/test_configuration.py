"""One switch: another configuration file, by Feast's own means, for the scripts, `feast` and `make redis` alike."""

import subprocess
import sys

import pytest
import yaml

from parity.configuration import HIDDEN, connection, without_secrets
from tests.conftest import ROOT

BOTH = pytest.mark.parametrize("script", ["materialize_to_online.py", "demo_fixed.py"])
SECRET = "s3cret"


@pytest.fixture
def production(project, monkeypatch):
    """The project in its production configuration, on the tests' Redis."""
    path = project.root / "feature_repo" / "feature_store.production.yaml"
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(path))
    monkeypatch.setenv("FEATURE_STORE_REGISTRY", str(project.root / "data" / "production.db"))
    monkeypatch.setenv("FEATURE_STORE_REDIS_TYPE", "redis")
    monkeypatch.setenv("FEATURE_STORE_REDIS", f"localhost:{project.port},db=1")
    yield project
    project.client.select(1)
    project.client.flushdb()


def start_redis(project) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "parity.redis_server", "start"]
    return subprocess.run(command, cwd=project.root, capture_output=True, text=True, timeout=60)


def test_production_differs_from_the_laptop_in_where_things_live_and_in_nothing_else():
    laptop, production = (
        yaml.safe_load((ROOT / "feature_repo" / name).read_text())
        for name in ("feature_store.yaml", "feature_store.production.yaml")
    )
    del laptop["registry"], laptop["online_store"]["connection_string"]
    del (
        production["registry"],
        production["online_store"]["connection_string"],
        production["online_store"]["redis_type"],
    )
    assert production == laptop


def test_the_scripts_and_feast_follow_the_environment_alike(production):
    (production.root / "feature_repo" / "feature_store.yaml").unlink()
    production.prepare()
    assert "Training equals serving equals the oracle" in production.succeed("demo_fixed.py")
    assert (production.root / "data" / "production.db").exists()
    assert "localhost" in start_redis(production).stdout


@BOTH
def test_a_variable_that_is_not_set_is_named_with_the_file(production, script, monkeypatch):
    monkeypatch.delenv("FEATURE_STORE_REDIS")
    error = production.fail(script)
    assert error.endswith("production.yaml: it names FEATURE_STORE_REDIS, which is not set in the environment.\n")
    assert start_redis(production).stderr == error
    assert start_redis(production).returncode == 2
    monkeypatch.delenv("FEATURE_STORE_REGISTRY")
    assert "FEATURE_STORE_REDIS, FEATURE_STORE_REGISTRY, which are not set" in production.fail(script)


@BOTH
def test_a_file_that_is_not_there_is_named(production, script, monkeypatch):
    monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", "/nowhere/production.yaml")
    assert "/nowhere/production.yaml: No such file" in production.fail(script)


@pytest.mark.parametrize(
    ("connection_string", "redis_type"),
    [
        ("localhost:1,password=s3cret", "redis"),
        ("localhost:1,ssl=true", "redis"),
        ("localhost:1,ssl=true,ssl_ca_certs=/nowhere/s3cret.crt", "redis"),
        ("localhost:1,localhost:2", "redis_cluster"),
        ("localhost:1", "redis_sentinel"),
        ("redis.invalid:6379", "redis"),
    ],
)
def test_no_redis_is_started_where_it_would_not_be_the_one_that_is_wanted(
    production, connection_string, redis_type, monkeypatch
):
    monkeypatch.setenv("FEATURE_STORE_REDIS", connection_string)
    monkeypatch.setenv("FEATURE_STORE_REDIS_TYPE", redis_type)
    outcome = start_redis(production)
    assert outcome.returncode == 2
    assert outcome.stderr.startswith(f"error: no Redis answers at {connection_string.partition(',')[0]}")
    assert SECRET not in outcome.stderr
    assert not (production.root / ".redis").exists()


@BOTH
@pytest.mark.parametrize(
    ("connection_string", "redis_type"),
    [
        ("localhost:{port},password=s3cret", "redis"),  # that Redis has none
        ("localhost:{port},username=s3cret,password=x", "redis"),
        ("redis://user:s3cret@localhost:{port}", "redis"),
        ("user:s3cret@localhost:{port}", "redis"),
        ("localhost:1,password=s3cret", "redis"),
        ("localhost:1,password=s3cret", "redis_cluster"),
        ("localhost:1,password=s3cret,sentinel_password=s3cret", "redis_sentinel"),
        ("localhost:{port},password=s3cret", "s3cret"),
        ("localhost:{port},password=s3cret,ssl=true,ssl_ca_certs=/nowhere/s3cret.crt", "redis"),
        ("localhost:{port},password=s3cret,nonsense=1", "redis"),
        ("localhost:{port},password=s3cret: and more", "redis"),  # no YAML
        ("[localhost:{port}, password=s3cret]", "redis"),  # a list
    ],
)
def test_no_secret_is_in_an_error(production, script, connection_string, redis_type, monkeypatch, caplog):
    production.succeed("generate_synthetic_data.py")
    production.succeed("compute_features.py")
    production.apply()
    monkeypatch.setenv("FEATURE_STORE_REDIS", connection_string.replace("{port}", str(production.port)))
    monkeypatch.setenv("FEATURE_STORE_REDIS_TYPE", redis_type)
    assert SECRET not in production.fail(script).replace(f"'{redis_type}'", "") + caplog.text


def test_a_password_stays_the_text_that_it_is():
    nodes, options = connection("a:1,b:2,password=0123e5,username=true,db=3,ssl=true")
    assert nodes == [("a", "1"), ("b", "2")]
    assert options == {"password": "0123e5", "username": "true", "db": 3, "ssl": True}


def test_secrets_are_hidden_and_other_words_stay():
    hidden = without_secrets("app: the application can't apply 'app' with pw at /k.pem", "h:1,username=app,password=pw")
    assert hidden == f"{HIDDEN}: the application can't apply '{HIDDEN}' with {HIDDEN} at /k.pem"
    assert without_secrets("port 'name:pw@h'", "redis://name:pw@h:1") == f"port '{HIDDEN}:{HIDDEN}@h'"
