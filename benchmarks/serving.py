"""`python -m parity serve` beside `feast serve`, on the same store in the same run: latency, rate, and memory."""

import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np
import psutil
import yaml

from benchmarks.measure import ROOT, Row, at_most
from benchmarks.stores import AVERAGE, TOTAL, WAYS, Served, store_of, table_of
from parity.edge.redis_server import free_port

USERS = 2000
WORKERS = "2"
ROUNDS = 5
SERVICE = "by_int64_service"
FEATURES = [f"by_int64:{AVERAGE}", f"by_int64:{TOTAL}"]
SOME = {"user_id": [1, 7, 0, -(2**63), 1]}
FORMS = [
    {"feature_service": SERVICE, "entities": {"user_id": [7]}},
    {"feature_service": SERVICE, "entities": SOME},
    {"features": FEATURES, "entities": SOME},
    {"features": FEATURES[:1], "entities": SOME, "full_feature_names": True},
    {"features": FEATURES, "entities": {"user_id": ["7", 7.0]}},
    {"features": FEATURES, "entities": {"user_id": ["x"]}},
    {"features": ["by_int64:nothing"], "entities": SOME},
    {"feature_service": "nothing", "entities": SOME},
    {"features": FEATURES, "entities": {}},
    {},
]
"""Requests of all kinds, that are answered and that are refused: both servers answer the same bytes."""


class Load(NamedTuple):
    """What clients took: milliseconds of each call, and calls in a second."""

    taken: np.ndarray
    rate: float


def served(calls: int, requests: int, folder: Path, port: int) -> list[Row]:
    """Requests of one user each, by one client and by eight, who keep their connections, in turn of each server.

    The peer is `feast serve` that does not replace its workers, of one or of two, whichever answers more.
    """
    table = table_of("int64", folder)
    store = store_of("ours", [table], folder, port)
    Served(store, table, "int64", port, USERS)
    config = {"project": store.project, "provider": "local", "registry": store.config.registry.path} | {
        name: WAYS["ours"][name] for name in ("offline_store", "batch_engine", "entity_key_serialization_version")
    }
    config["online_store"] = WAYS["ours"]["online_store"] | {"connection_string": f"localhost:{port}"}
    path = folder / "feature_store.yaml"
    path.write_text(yaml.safe_dump(config))

    feast = [Path(sys.executable).with_name("feast"), "-c", folder, "serve", "--no-access-log", "--max-requests", "0"]
    ours = [sys.executable, "-m", "parity", "serve", "--no-access-log"]
    ways = {"feast serve": feast, f"feast serve, {WORKERS} workers": [*feast, "--workers", WORKERS]}
    ways["ours"] = [*ours, "--workers", WORKERS]
    bodies = [json.dumps(FORMS[0] | {"entities": {"user_id": [user]}}) for user in range(1, USERS + 1)]
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(_serving(command, path, folder)) for name, command in ways.items()}
        answers = {name: [_answer(address, form) for form in FORMS] for name, (address, _) in servers.items()}
        assert all(some == answers["ours"] for some in answers.values()), "the answers differ"
        rows = []
        for clients in (1, 8):
            loads: dict[str, list[Load]] = {name: [] for name in ways}
            for turn in range(ROUNDS + 1):
                for name, (address, _) in servers.items():
                    load = _load(address, clients, calls // ROUNDS, bodies)
                    loads[name] += [load] if turn else []  # the first warms up
            rows += _rows(clients, loads)
        address, process = servers["ours"]
        before = _resident(process)
        _load(address, 8, requests, bodies)
        work = f"parity serve, {WORKERS} workers, memory after {requests:,} more requests"
        rows.append(at_most(work, "at most 1.01x", "before", _resident(process), before, "MB"))
    return rows


def _rows(clients: int, loads: dict[str, list[Load]]) -> list[Row]:
    rate = {name: statistics.median(load.rate for load in some) for name, some in loads.items()}
    p50, p99, p999 = (
        {name: statistics.median(np.percentile(load.taken, share) for load in some) for name, some in loads.items()}
        for share in (50, 99, 99.9)
    )
    peer = max((name for name in loads if name != "ours"), key=rate.__getitem__)
    work = f"parity serve, {WORKERS} workers, {clients} client{'s' * (clients > 1)}"
    note = f"p50 {p50['ours']:.2f} ms and {p50[peer]:.2f} ms, p99.9 {p999['ours']:.1f} ms and {p999[peer]:.1f} ms"
    others = [f"{name} {rate[name]:,.0f}, p99 {p99[name]:.1f} ms" for name in loads if name not in ("ours", peer)]
    must = "2,000 requests/s" if clients > 1 else ""
    return [
        Row(f"{work}, p99", peer, p99["ours"], p99[peer], "ms", "p99 under 10 ms", p99[peer] / p99["ours"], note),
        Row(f"{work}, rate", peer, rate["ours"], rate[peer], "requests/s", must, rate["ours"] / rate[peer], *others),
    ]


@contextlib.contextmanager
def _serving(command: list, configuration: Path, folder: Path) -> Iterator[tuple[int, subprocess.Popen]]:
    """The port of a server, and its process, from its first answer on."""
    address = free_port()
    # Feast answers features in the order of a set, which is the same by the same seed.
    environment = os.environ | {"FEAST_FS_YAML_FILE_PATH": str(configuration), "PYTHONHASHSEED": "1"}
    with open(folder / f"serve_{address}.log", "wb") as log:
        command = [*command, "--port", str(address)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert _answer(address, FORMS[0])[0] == 200
                break
            except ConnectionRefusedError:
                assert process.poll() is None, Path(log.name).read_text()
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield address, process
    finally:
        process.terminate()
        process.wait(30)


def _answer(address: int, request: dict) -> tuple[int, list, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", address, timeout=30)) as connection:
        connection.request("POST", "/get-online-features", json.dumps(request), {"Content-Type": "application/json"})
        response = connection.getresponse()
        headers = [header for header in response.getheaders() if header[0] != "date"]
        return response.status, headers, response.read()


def _load(address: int, clients: int, calls: int, bodies: list[str]) -> Load:
    command = [sys.executable, "-m", "benchmarks.asking", str(address), str(clients), str(calls)]
    done = subprocess.run(command, cwd=ROOT, input="\n".join(bodies), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    return Load(np.array(found["taken"]) * 1000, len(found["taken"]) / found["seconds"])


def _resident(process: subprocess.Popen) -> float:
    """What a server and its workers have in memory, in MB."""
    first = psutil.Process(process.pid)
    return sum(one.memory_info().rss for one in (first, *first.children(recursive=True))) / 1024**2
