"""One switch: another configuration file, by Feast's own means, for the scripts, `feast` and `make redis` alike."""

import inspect
import re
import subprocess
import sys
import tempfile

import pytest
import redis
import yaml

from parity.edge.configuration import _OPTIONS, HIDDEN, addresses, connection, without_secrets
from parity.edge.errors import UserError
from parity.edge.redis_server import find_server, free_port, launch
from parity.online.store import ParityRedisOnlineStore, ParityRedisOnlineStoreConfig
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
    command = [sys.executable, "-m", "parity", "redis", "start"]
    return subprocess.run(command, cwd=project.root, capture_output=True, text=True, timeout=60)


@pytest.mark.smoke
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


HOST = [("h", "1")]


@pytest.mark.parametrize(
    ("text", "nodes", "options"),
    [
        ("h:1,ssl=False", HOST, {"ssl": False}),
        ("h:1,ssl=FALSE", HOST, {"ssl": False}),
        ("h:1,ssl=no", HOST, {"ssl": False}),
        ("h:1,ssl=0", HOST, {"ssl": False}),
        ("h:1,ssl=Off", HOST, {"ssl": False}),
        ("h:1,SSL=True", HOST, {"ssl": True}),
        ("h:1,ssl=yes", HOST, {"ssl": True}),
        ("h:1,tls=1", HOST, {"ssl": True}),
        ("h", [("h", "6379")], {}),
        ("a,b:2, c", [("a", "6379"), ("b", "2"), ("c", "6379")], {}),
        ("[::1]", [("::1", "6379")], {}),
        ("[2001:db8::1]:7000,db=1", [("2001:db8::1", "7000")], {"db": 1}),
        (" h:1 ,\n password = p=w== , db = 2 ,, ", HOST, {"password": "p=w==", "db": 2}),
        ("h:1,socket_timeout=0.5,socket_connect_timeout=2", HOST, {"socket_timeout": 0.5, "socket_connect_timeout": 2}),
        ("redis://h:1", HOST, {}),
        ("redis://", [("localhost", "6379")], {}),
        ("redis://h", [("h", "6379")], {}),
        ("redis://:1", [("localhost", "1")], {}),
        ("redis://[::1]:1/2", [("::1", "1")], {"db": 2}),
        ("REDISS://h:1/", HOST, {"ssl": True}),
        ("redis://u:p%40%2C%3A%2F@h:1/3", HOST, {"username": "u", "password": "p@,:/", "db": 3}),
        ("redis://:p=w@h:1", HOST, {"password": "p=w"}),
        ("redis://u:p@w@h:1", HOST, {"username": "u", "password": "p@w"}),
        ("rediss://h:1?ssl_cert_reqs=CERT_NONE&db=4", HOST, {"ssl": True, "ssl_cert_reqs": "none", "db": 4}),
        ("redis://h:1/2,socket_timeout=3", HOST, {"db": 2, "socket_timeout": 3}),
        ("redis://:p@a:1,redis://:p@b:2", [("a", "1"), ("b", "2")], {"password": "p"}),
        ("unix:///run/redis.sock?db=1", [("localhost", "6379")], {"unix_socket_path": "/run/redis.sock", "db": 1}),
        ("/run/redis.sock", [("localhost", "6379")], {"unix_socket_path": "/run/redis.sock"}),
        (
            "name.redis.cache.windows.net:6380,password=abc+d/e=,ssl=True,abortConnect=False",
            [("name.redis.cache.windows.net", "6380")],
            {"password": "abc+d/e=", "ssl": True},
        ),
        (
            "h:1,user=u,Password=p,connectTimeout=5000,syncTimeout=1500,defaultDatabase=2,connectRetry=3,allowAdmin=true",
            HOST,
            {"username": "u", "password": "p", "socket_connect_timeout": 5, "socket_timeout": 1.5, "db": 2},
        ),
        ("h:1,password=,ssl=true", HOST, {"ssl": True}),
    ],
)
def test_what_people_paste_is_understood(text, nodes, options):
    assert connection(text) == (nodes, options)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("", "HOST:PORT"),
        (" , ", "HOST:PORT"),
        ("password=s3cret", "HOST:PORT first"),
        ("h:s3cret", "HOST:PORT"),
        ("h:0", "1 to 65535"),
        ("h:65536", "1 to 65535"),
        ("h:", "1 to 65535"),
        ("redis://user:s3cret", "1 to 65535"),
        ("user:s3cret@h:1", "username=...,password=..., or redis://"),
        ("::1:6379", "[::1]:6379"),
        ("[s3cret]:1", "[::1]:6379"),
        ("h:1,password=s3,cret", "%2C"),
        ("h:1,password=x,s3cret,db=1", "%2C"),
        ("redis://user:s3/cret@h:1", "%2F"),
        ("redis://user:s3?cret@h:1", "%3F"),
        ("redis://user:%ffs3cret@h:1", "Encode it again"),
        ("redis://user:x,s3cret@h:1", "HOST:PORT"),
        ("h:1;password=s3cret", "with commas between them"),
        ("h:1 password=s3cret", "with commas between them"),
        ("h:1,password=x,s3cret=y", "NAME=VALUE"),
        ("h:1,pasword=s3cret", "Perhaps password is meant"),
        ("h:1,socket_timeot=3", "Perhaps socket_timeout is meant"),
        ("h:1,ssl", "Write ssl=VALUE"),
        ("h:1,ssl=s3cret", "Write true or false"),
        ("h:1,db=s3cret", "0 or more"),
        ("redis://h:1/s3cret", "0 or more"),
        ("h:1,socket_timeout=inf", "above 0"),
        ("h:1,socket_timeout=2s", "above 0"),
        ("h:1,ssl_cert_reqs=s3cret", "none, optional or required"),
        ("h:1,db=1,db=2", "Write it once"),
        ("redis://:s3cret@a,redis://:other@b", "Write it once"),
        ("h:1,password=s3cret,password_file=/run/secret", "Write one of them"),
        ("rediss://h?ssl=false", "redis:// to go without"),
        ("https://s3cret@h", "redis://, rediss:// or unix://"),
        ("redis+sentinel://:s3cret@h/mymaster", "redis_type: redis_sentinel"),
        ("h:1,serviceName=mymaster", "redis_type: redis_sentinel"),
        ("h:1,sslHost=other", "Name Redis by the host"),
        ("host=h,port=1,password=s3cret", "HOST:PORT first"),
        ("${NO_SUCH_VARIABLE}:1", "Set NO_SUCH_VARIABLE"),
        ("env:NO_SUCH_VARIABLE", "Set NO_SUCH_VARIABLE"),
        ("h:1,password_file=/nowhere/s3cret", "No such file"),
        ("h:1,password_file=s3cret", "/PATH"),
        (["h:1", "password=s3cret"], "all in one text"),
        (None, "all in one text"),
        ({"host": "s3cret"}, "all in one text"),
    ],
)
def test_what_is_not_understood_is_refused_with_the_right_way_and_no_secret(text, instead):
    with pytest.raises(UserError) as error:
        connection(text)
    assert str(error.value).startswith("feature_store.yaml: connection_string of online_store can't be used: ")
    assert instead in str(error.value)
    assert not re.search("s3|cret", str(error.value))
    assert "\n" not in str(error.value)


def test_every_option_is_one_of_redis_py_or_said_to_be_our_own():
    own = {"password_file", "started_here", "default_port"}
    takers = (redis.Redis, redis.RedisCluster, redis.Sentinel, redis.connection.SSLConnection)
    known = {name for taker in takers for name in inspect.signature(taker).parameters}
    assert _OPTIONS.keys() - own <= known


def test_a_password_may_lie_in_a_file_and_a_whole_string_in_a_variable(tmp_path, monkeypatch):
    (tmp_path / "secret").write_text("p,a=s s@\n")
    assert connection(f"h:1,password_file={tmp_path}/secret") == (HOST, {"password": "p,a=s s@"})
    monkeypatch.setenv("SOME_REDIS", "redis://u:p%2Cw@h:1")
    assert connection("env:SOME_REDIS,db=1") == (HOST, {"username": "u", "password": "p,w", "db": 1})
    assert without_secrets("p,w is shown to u", "env:SOME_REDIS") == f"{HIDDEN} is shown to {HIDDEN}"
    assert addresses("env:SOME_REDIS") == "h:1"


def test_a_sentinel_without_a_port_is_at_its_own(monkeypatch):
    config = ParityRedisOnlineStoreConfig(redis_type="redis_sentinel", connection_string="a,b:7,password=x")
    nodes, options = ParityRedisOnlineStore._parse_connection_string(config.connection_string)
    assert [(node["host"], node["port"]) for node in nodes] == [("a", "26379"), ("b", "7")]
    assert options.keys().isdisjoint({"default_port"})


def test_nodes_that_the_kind_of_redis_has_no_use_for_are_refused():
    with pytest.raises(UserError, match="redis_cluster or redis_sentinel"):
        ParityRedisOnlineStoreConfig(connection_string="a:1,b:2")
    with pytest.raises(UserError, match="HOST:PORT of each node"):
        ParityRedisOnlineStoreConfig(redis_type="redis_cluster", connection_string="unix:///run/redis.sock")


@pytest.mark.parametrize("written", ["redis://localhost:{port}/0", "localhost:{port},ssl=False,abortConnect=False"])
def test_the_pipeline_runs_on_a_redis_written_another_way(project, written):
    project.configure(online_store__connection_string=written.replace("{port}", str(project.port)))
    project.prepare()
    assert "Training equals serving equals the oracle" in project.succeed("demo_fixed.py")
    assert f"using the one that answers at localhost:{project.port}\n" in start_redis(project).stdout


def test_the_pipeline_runs_on_a_unix_socket(project, tmp_path):
    with tempfile.TemporaryDirectory() as folder:  # whose path is short enough for a socket
        server = launch(find_server(), free_port(), tmp_path / "server", "--unixsocket", f"{folder}/redis.sock")
        try:
            project.configure(online_store__connection_string=f"unix://{folder}/redis.sock?db=0")
            project.prepare()
            assert "Training equals serving equals the oracle" in project.succeed("demo_fixed.py")
            assert f"using the one that answers at {folder}/redis.sock\n" in start_redis(project).stdout
        finally:
            server.terminate()
            server.wait(10)
    assert f"{folder}/redis.sock" in project.fail("demo_fixed.py")


@BOTH
@pytest.mark.parametrize("written", [["localhost:1", "password=s3cret"], {"password": "s3cret"}, 6379, None])
def test_a_connection_string_that_is_no_text_is_refused_without_being_shown(project, script, written):
    project.succeed("generate_synthetic_data.py")
    project.succeed("compute_features.py")
    project.configure(online_store__connection_string=written)
    error = project.fail(script)
    assert "feature_store.yaml" in error
    assert "connection_string" in error
    assert SECRET not in error
    started = start_redis(project)
    assert SECRET not in started.stderr
    assert started.returncode == 2


@pytest.mark.parametrize(
    ("command", "written"),
    [
        ("configuration", "redis://user:s3/cret@localhost:1"),
        ("apply", ["localhost:1", "password=s3cret"]),
    ],
)
@pytest.mark.scale
def test_feast_too_refuses_it_in_one_line_without_a_secret(project, command, written):
    project.configure(online_store__connection_string=written)
    outcome = project.shell(f"feast -c feature_repo {command}")
    assert outcome.status == 2, outcome
    assert "Error: feature_store.yaml: connection_string of online_store can't be used" in outcome.err
    assert "Traceback" not in outcome.err
    assert not re.search("s3|cret", outcome.out + outcome.err)


def test_feast_configuration_prints_no_secret_of_the_production_configuration(production, monkeypatch):
    monkeypatch.setenv("FEATURE_STORE_REDIS", "localhost:1,username=s3cret,password=s3cret")
    outcome = production.feast("configuration")
    assert "env:FEATURE_STORE_REDIS" in outcome.out
    assert SECRET not in outcome.out + outcome.err


def test_stock_feast_prints_a_password_that_its_file_holds(project):
    """No plug-in is asked. Once this fails, docs/security.md can promise more."""
    project.configure(online_store__connection_string="localhost:1,password=s3cret")
    assert SECRET in project.feast("configuration").out


def test_the_options_of_the_store_show_no_secret():
    config = ParityRedisOnlineStoreConfig(connection_string="localhost:1,username=s3cret,password=s3cret,db=1")
    assert SECRET not in f"{config!r} {config} {config.model_dump()} {config.model_dump_json()}"
    assert "localhost:1" in config.model_dump()["connection_string"]
    assert "s3cret" in config.connection_string
