"""The model of CDNOW, served: latency at one client and at eight, and memory over many requests."""

import http.client
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from benchmarks.measure import Row, at_most
from tests.cdnow import Client, prepared

CUSTOMERS = 2000
TREES = 60
"""As many as train.py has of them."""
CALLS_TO_WARM_UP = 1000


def served(calls: int, requests: int, folder: Path, port: int) -> list[Row]:
    """Predictions over HTTP by clients that keep their connections, in another process than the server.

    Of the customers, a tenth are expired, so that they have no score.
    """
    draw, rows = np.random.default_rng(1), []
    days = [f"199805{day:02}" for day in range(1, 31)]
    purchases = {
        f"{number:05}": [("19970101", 10.0)]
        + [(day, 7.5 + number % 9) for day in sorted(draw.choice(days, number % 10, replace=False))]
        for number in range(CUSTOMERS)
    }
    with prepared(folder / "cdnow", port, purchases, TREES).served() as client:
        _load(client, 8, CALLS_TO_WARM_UP)
        for clients, most in ((1, 10), (8, 20)):
            start = time.perf_counter()
            taken = np.array(_load(client, clients, calls)) * 1000
            rate = len(taken) / (time.perf_counter() - start)
            p50, p99, p999 = np.percentile(taken, [50, 99, 99.9])
            note = f"p50 {p50:.1f} ms, p99.9 {p999:.1f} ms, {rate:,.0f} requests/s"
            work = f"serve.py of CDNOW, {clients} client{'s' * (clients > 1)}, p99"
            rows.append(at_most(work, f"p99 under {most} ms", f"{most} ms", p99, most, "ms", note))
        before = _resident(client)
        _load(client, 8, requests)
        work = f"serve.py of CDNOW, memory after {requests:,} more requests"
        rows.append(at_most(work, "at most 1.01x", "before", _resident(client), before, "MB"))
    return rows


def _resident(client: Client) -> float:
    return psutil.Process(client.process).memory_info().rss / 1024**2


def _load(client: Client, clients: int, calls: int) -> list[float]:
    """Seconds of ``calls`` predictions, shared among ``clients``."""
    taken: list[float] = []
    threads = [
        threading.Thread(target=_ask, args=(client.port, number, clients, calls // clients, taken))
        for number in range(clients)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == calls // clients * clients, "a client failed"
    return taken


def _ask(port: int, number: int, clients: int, calls: int, taken: list[float]) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    for call in range(calls):
        start = time.perf_counter()
        connection.request("GET", f"/predict?customer_id={(call * clients + number) % CUSTOMERS:05}")
        response = connection.getresponse()
        answer = response.read()
        assert response.status == 200, answer
        taken.append(time.perf_counter() - start)
    connection.close()
