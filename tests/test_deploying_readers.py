"""Readers that never rest beside a deployment and its rollback; and deployments that are killed, or lose their Redis.

Every answer is that of the old definitions or that of the new ones, worked out here of the transactions: never a part
of each, never none, and never the old one again once the new one was there.
"""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from parity.edge.redis_server import find_server, free_port, launch
from tests.conftest import ROOT
from tests.deploying import BUYERS, SECOND, Shop
from tests.deployments import wait_until

pytestmark = pytest.mark.scale
SOAK = partial(pytest.param, marks=pytest.mark.soak)
ALLOWED = ("--allow", "value-changing")
OLD, NEW = "old", "new"
SECONDS_OF_ONE_MORE_READ = 2.5
REST = 0.01
"""Seconds that a reader leaves to the others after each request."""


@pytest.fixture
def shop(tmp_path, redis_port, capsys):
    shop = Shop(tmp_path, redis_port, capsys)
    assert shop.deploy().status == 0
    shop.declare(SECOND)
    return shop


class Reader(threading.Thread):
    """Asks again and again until it is stopped, and notes which answer it got whenever that is another than before."""

    def __init__(self, ask: Callable[[], dict[str, list]], right: dict[str, dict]):
        super().__init__(daemon=True)
        self._ask, self._right, self._over = ask, right, threading.Event()
        self.answers, self.got, self.odd = 0, [], []

    def run(self) -> None:
        while not self._over.is_set():
            try:
                answer = self._ask()
                found = [name for name, right in self._right.items() if answer == right]
                self.odd += [] if found else [answer]
                self.got += [name for name in found if self.got[-1:] != [name]]
            except Exception as error:
                self.odd.append(error)
            self.answers += 1
            time.sleep(REST)

    def end(self) -> None:
        self._over.set()
        self.join(30)
        assert not self.is_alive()


@pytest.fixture
def server(shop) -> Iterator[str]:
    """The URL of a real feature server of the shop."""
    port = free_port()
    environment = os.environ | {"FEAST_FS_YAML_FILE_PATH": str(shop.folder / "feature_store.yaml")}
    command = [sys.executable, "-m", "parity", "serve", "--host", "127.0.0.1", "--port", str(port)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **quiet)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: _is_up(url), 60)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def _is_up(url: str) -> bool:
    try:
        return urllib.request.urlopen(f"{url}/health", timeout=5).status == 200
    except OSError:
        return False


def over_http(url: str) -> dict[str, list]:
    body = {"feature_service": "shop", "entities": {"buyer_id": list(range(1, BUYERS + 1))}}
    request = urllib.request.Request(
        f"{url}/get-online-features", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        found = json.load(answer)
    names = found["metadata"]["feature_names"]
    return {name: one["values"] for name, one in zip(names, found["results"], strict=True)}


def readers_of(shop: Shop, url: str) -> dict[str, Reader]:
    """Of every kind: by the service, asked for anew or kept from the start; by the names of the features; over HTTP."""
    right = {OLD: shop.right(), NEW: shop.right(spent=4, visits_7d=5)}
    assert right[OLD]["spent"] != right[NEW]["spent"]
    assert right[OLD]["visits_7d"] != right[NEW]["visits_7d"]
    rows = [{"buyer_id": buyer} for buyer in range(1, BUYERS + 1)]
    anew, kept, by_name = shop.store(), shop.store(), shop.store()
    service = kept.get_feature_service("shop")
    names = ["spending:spent", "spending:visits", "visiting:visits_7d"]
    return {
        "anew": Reader(lambda: shop.read(anew), right),
        "kept": Reader(lambda: kept.get_online_features(service, rows).to_dict(), right),
        "by name": Reader(lambda: by_name.get_online_features(names, rows).to_dict(), right),
        "over HTTP": Reader(lambda: over_http(url), right),
    }


def test_readers_have_the_old_or_the_new_through_a_deployment_and_its_rollback(shop, server, record_property):
    readers = readers_of(shop, server)
    for reader in readers.values():
        reader.start()
    for arguments in (ALLOWED, ("--rollback",)):
        with shop.begun(*arguments) as process:
            said, _ = process.communicate()
        assert process.returncode == 0, said
        time.sleep(SECONDS_OF_ONE_MORE_READ)  # in which caches of the registry, of one second, become too old
    for reader in readers.values():
        reader.end()
    assert {name: reader.odd[:3] for name, reader in readers.items() if reader.odd} == {}
    assert {name: reader.got for name, reader in readers.items() if reader.got != [OLD, NEW, OLD]} == {}
    assert all(reader.answers > 100 for reader in readers.values())
    counts = ", ".join(f"{reader.answers:,} {name}" for name, reader in readers.items())
    record_property("counts", f"a deployment and its rollback beside readers: {counts}, each of them right")


@pytest.mark.parametrize("step", [*map(SOAK, ["plan", "apply", "compute"]), "materialize", SOAK("prove"), "switch"])
def test_a_deployment_that_is_killed_leaves_one_version_served_and_is_done_again(shop, step):
    old, new = shop.right(), shop.right(spent=4, visits_7d=5)
    killed(shop.begun(*ALLOWED), step)
    assert shop.read() == (new if step == "switch" else old)
    for script in ("compute_features.py", "materialize_to_online.py", "demo_fixed.py"):
        assert shop.script(script).status == 0  # the pipeline of what is served goes on
    again = shop.deploy(*ALLOWED)
    assert again.status == 0, again
    assert shop.read() == new
    assert [line.split()[:2] for line in shop.deploy("--status").out.splitlines()] == [["1", "kept"], ["2", "served"]]


@pytest.mark.parametrize("step", [*map(SOAK, ["rollback", "materialize"]), "switch"])
def test_a_rollback_that_is_killed_leaves_one_version_served_and_is_done_again(shop, step):
    old, new = shop.right(), shop.right(spent=4, visits_7d=5)
    assert shop.deploy(*ALLOWED).status == 0
    killed(shop.begun("--rollback"), step)
    assert shop.read() == (old if step == "switch" else new)
    again = shop.deploy("--rollback")
    assert again.status == 0, again
    assert shop.read() == old
    assert [line.split()[:2] for line in shop.deploy("--status").out.splitlines()] == [["1", "served"], ["2", "kept"]]


def killed(process: subprocess.Popen, step: str) -> None:
    """Kill a deployment once it says that it has done a step."""
    for line in process.stdout:
        if line.startswith(f"{step}: "):
            break
    else:
        pytest.fail(f"it did not get as far as {step}")
    process.kill()
    process.wait(30)


def test_a_deployment_that_is_killed_anywhere_leaves_one_version_served(shop):
    old, new = shop.right(), shop.right(spent=4, visits_7d=5)
    draw = random.Random(5)
    for _ in range(3):
        process = shop.begun(*ALLOWED)
        next(iter(process.stdout))
        time.sleep(draw.random())
        process.kill()
        process.wait(30)
        assert shop.read() in (old, new)
    assert shop.deploy(*ALLOWED).status == 0
    assert shop.read() == new


@pytest.mark.parametrize("step", [*map(SOAK, ["apply", "switch"]), "materialize"])
def test_a_redis_that_goes_away_leaves_the_old_version_served(tmp_path: Path, capsys, step):
    port = free_port()
    redis = launch(find_server(), port, tmp_path / "redis")
    try:
        (tmp_path / "shop").mkdir()
        shop = Shop(tmp_path / "shop", port, capsys)
        assert shop.deploy().status == 0
        old = shop.right()
        shop.declare(SECOND)
        process = shop.begun(*ALLOWED)
        said = ""
        for line in process.stdout:
            said += line
            if line.startswith(f"{step}: "):
                redis.send_signal(signal.SIGSTOP)
                break
        said += process.stdout.read()
        assert process.wait(60) == 2, said
        assert "error: Redis at" in said
        assert ("deployment 1 is served again" in said) == (step == "switch")
        redis.send_signal(signal.SIGCONT)
        assert shop.read() == old
        assert shop.deploy(*ALLOWED).status == 0
        assert shop.read() == shop.right(spent=4, visits_7d=5)
    finally:
        redis.kill()
        redis.wait()
