"""`python -m parity serve` with several workers beside `feast serve`: as it is run, on one repository and one Redis."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection

import psutil
import pytest

from parity.edge.redis_server import free_port
from tests.conftest import BIN
from tests.deployments import wait_until
from tests.serving import Shop, served, shop

pytestmark = pytest.mark.scale
WORKERS = 2
SECONDS_UNTIL_NOTICED = 15
"""The registry is read again within 5 seconds, and its cache holds one."""
WARM, REQUESTS = 2_000, 20_000
SPENT = {"features": ["spending:spent_count", "spending:spent_mean"], "entities": {"user_id": [1, 2, 3, 999]}}
FORMS = [
    SPENT,
    SPENT | {"full_feature_names": True},
    {"feature_service": "spending_service", "entities": {"user_id": [7]}},
    {"feature_service": "spending_service", "entities": {"user_id": ["7"]}},
    {"feature_service": "spending_service", "entities": {"user_id": ["x"]}},
    {"feature_service": "nothing", "entities": {"user_id": [7]}},
    {"features": ["spending:nothing"], "entities": {"user_id": [7]}},
    {"entities": {}},
    {},
]


@contextmanager
def served_by_workers(made: Shop) -> Iterator[tuple[str, psutil.Process]]:
    """The address of a real server of ours, and its process."""
    port = free_port()
    command = [sys.executable, "-m", "parity", "serve", "--port", str(port), "--no-access-log"]
    with open(made.root / "quick.log", "w") as log:
        server = subprocess.Popen(
            [*command, "--workers", str(WORKERS)],
            cwd=made.root,
            stdout=log,
            stderr=log,
            env=os.environ | made.environment | {"PYTHONPATH": str(made.root)},
            start_new_session=True,
        )
    try:
        wait_until(lambda: _is_up(f"http://127.0.0.1:{port}/health"), 60)
        yield f"127.0.0.1:{port}", psutil.Process(server.pid)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def _is_up(url: str) -> bool:
    with suppress(OSError):
        return urllib.request.urlopen(url, timeout=5).status == 200
    return False


def asked(connection: HTTPConnection, request: dict) -> tuple[int, list, bytes]:
    connection.request("POST", "/get-online-features", json.dumps(request), {"Content-Type": "application/json"})
    response = connection.getresponse()
    headers = [header for header in response.getheaders() if header[0] != "date"]
    return response.status, headers, response.read()


def answers(url: str, request: dict, times: int = 1) -> set[str]:
    """The different answers that new connections get."""
    found = set()
    for _ in range(times):
        with closing(HTTPConnection(url, timeout=30)) as connection:
            found.add(repr(asked(connection, request)))
    return found


@pytest.mark.parametrize("kind", ["file", "sql"])
def test_all_workers_answer_as_feast_does_and_notice_what_is_applied(kind):
    with shop(kind) as made:
        made.environment["PYTHONHASHSEED"] = "1"  # Feast answers features in the order of a set
        with served(made) as feast, served_by_workers(made) as (quick, _):
            require_the_same(made, feast, quick)


def require_the_same(made: Shop, feast: str, quick: str) -> None:
    for request in FORMS:
        assert answers(quick, request, 10) == answers(feast, request), request
    other = {"feature_service": "added", "entities": {"user_id": [1]}}
    assert "404" in next(iter(answers(quick, other)))

    features = made.root / "feature_repo" / "features.py"
    text = features.read_text().replace("ttl=timedelta(days=30)", "ttl=timedelta(hours=1)")
    features.write_text(text + 'added = FeatureService(name="added", features=[spending])\n')
    made.succeed(str(BIN / "feast"), "-c", "feature_repo", "apply")

    def noticed() -> bool:
        found = answers(quick, SPENT, 20)
        return len(found) == 1 and "OUTSIDE_MAX_AGE" in found.pop()

    wait_until(noticed, SECONDS_UNTIL_NOTICED)
    wait_until(lambda: answers(quick, other, 20) == answers(feast, other), SECONDS_UNTIL_NOTICED)
    for request in FORMS:
        assert answers(quick, request, 10) == answers(feast, request), request


def test_workers_answer_alike_and_their_memory_does_not_grow_with_requests(record_property):
    with shop("file") as made, served_by_workers(made) as (url, server):
        assert len(answers(url, SPENT, 20)) == 1  # in one order of the features, whichever worker answers

        def load(requests: int) -> int:
            """Ask by one connection for each worker, at least; then, what all have in memory."""
            for _ in range(2 * WORKERS):
                with closing(HTTPConnection(url, timeout=30)) as connection:
                    for number in range(requests // WORKERS // 2):
                        request = FORMS[number % 3] | {"entities": {"user_id": [number % 500]}}
                        assert asked(connection, request)[0] == 200
            return sum(one.memory_info().rss for one in server.children(recursive=True))

        before = load(WARM)
        after = load(REQUESTS)
    record_property("counts", f"{before / 2**20:.1f} MB before {REQUESTS:,} requests, and {after / 2**20:.1f} MB after")
    assert after < 1.01 * before
