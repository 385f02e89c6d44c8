"""The log of what is served, and how processes end: by themselves, by a signal, by a disk that is full."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from parity.edge.redis_server import free_port
from parity.served.log import parts, read
from tests.conftest import BIN

pytestmark = pytest.mark.scale

READS = """
import logging, os, signal, sys, time
from feast import FeatureStore
logging.basicConfig()
store = FeatureStore(repo_path="feature_repo")
service = store.get_feature_service("user_features")
def ask(*users):
    return store.get_online_features(service, {"user_id": list(users)}).to_dict()
def wait(seconds):
    time.sleep(seconds)
"""


@pytest.fixture
def shop(project):
    project.apply()
    project.configure(online_store__log_served={"path": "../log", "flush_seconds": 0.2})
    return project


def users(project) -> list[int]:
    return sorted(user for part in parts(project.root / "log") for user in read(part)["user_id"].to_pylist())


def files(project) -> list[Path]:
    return sorted(path for path in (project.root / "log").rglob("*") if path.is_file())


def run(project, script: str, **options) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", READS + script],
        cwd=project.root,
        env=os.environ | {"PYTHONPATH": str(project.root)},
        capture_output=True,
        text=True,
        timeout=120,
        **options,
    )


@pytest.mark.parametrize(
    ("end", "status"),
    [
        ("", 0),
        ("sys.exit(3)", 3),
        ("os.kill(os.getpid(), signal.SIGTERM); wait(60)", 128 + signal.SIGTERM),
        ("os.kill(os.getpid(), signal.SIGINT); wait(60)", -signal.SIGINT),
        ("raise ValueError", 1),
    ],
)
def test_a_process_that_ends_in_order_leaves_nothing_unwritten(shop, end, status):
    done = run(shop, f"ask(1)\nask(2, 3)\n{end}")
    assert done.returncode == status, done.stderr
    assert users(shop) == [1, 2, 3]
    assert len(files(shop)) == 1


def test_a_process_that_is_killed_leaves_whole_what_was_written(shop):
    script = """
for number in range(1000):
    ask(number)
    wait(0.005)
    if number == 300:
        os.kill(os.getpid(), signal.SIGKILL)
"""
    assert run(shop, script).returncode == -signal.SIGKILL
    found = users(shop)
    assert found == list(range(len(found)))
    assert 20 < len(found) <= 301


def test_forks_that_end_as_those_of_multiprocessing_do_write_what_they_served(shop):
    script = """
import multiprocessing
def child(number):
    ask(number)
ask(0)
context = multiprocessing.get_context("fork")
children = [context.Process(target=child, args=(number,)) for number in (1, 2, 3)]
[one.start() for one in children]
[one.join() for one in children]
assert all(one.exitcode == 0 for one in children)
"""
    done = run(shop, script)
    assert done.returncode == 0, done.stderr
    assert users(shop) == [0, 1, 2, 3]


def test_a_disk_that_is_full_drops_rows_and_reads_go_on(shop):
    script = """
import resource
for number in range(3):
    ask(number)
wait(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
for number in range(3, 10):
    assert len(ask(number)["user_id"]) == 1
wait(1)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
ask(10)
"""
    done = run(shop, script)
    assert done.returncode == 0, done.stderr
    assert users(shop) == [0, 1, 2, 10]
    assert sum(part.dropped for part in parts(shop.root / "log")) == 7
    [line] = done.stderr.splitlines()
    assert "File too large" in line
    assert str(shop.root / "log") in line


@pytest.mark.parametrize("after", ["", "os.chmod('log', 0o755)"])
def test_a_folder_that_may_not_be_written_is_named_and_reads_go_on(shop, after):
    if not os.geteuid():
        pytest.skip("root may write everywhere")
    (shop.root / "log").mkdir(mode=0o555)
    done = run(shop, f"ask(1)\nwait(1)\nask(2)\n{after}")
    (shop.root / "log").chmod(0o755)
    assert done.returncode == 0, done.stderr
    assert "Permission denied" in done.stderr.splitlines()[0]


SERVERS = {
    "feast serve": [BIN / "feast", "-c", "feature_repo", "serve", "-p"],
    "parity serve": [sys.executable, "-m", "parity", "serve", "--port"],
}


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGTERM, ("feast serve",)),
        (signal.SIGTERM, ("parity serve",)),
        (signal.SIGTERM, ("parity serve", "--workers", "2")),
        (signal.SIGINT, ("parity serve",)),
    ],
)
def test_a_server_that_is_asked_to_end_writes_all_that_it_served(shop, options, number):
    name, *more = options
    port = free_port()
    command = [*map(str, SERVERS[name]), str(port), *more]
    with open(shop.root / "serve.log", "w") as output:
        server = subprocess.Popen(
            command, cwd=shop.root, stdout=output, stderr=output, env=os.environ | {"PYTHONPATH": str(shop.root)}
        )
    try:
        for user in range(20):
            asked(port, user, server)
    finally:
        server.send_signal(number)
        server.wait(60)
    assert users(shop) == list(range(20)), (shop.root / "serve.log").read_text()
    assert len(files(shop)) == len({part.path.name.rsplit("-", 1)[0] for part in parts(shop.root / "log")})


def asked(port: int, user: int, server: subprocess.Popen) -> None:
    body = json.dumps({"feature_service": "user_features", "entities": {"user_id": [user]}}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/get-online-features", body)
    request.add_header("Content-Type", "application/json")
    deadline = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                assert json.load(response)["results"]
                return
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
