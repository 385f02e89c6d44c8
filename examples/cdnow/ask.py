"""Serve the model, and ask it for customers over HTTP, as an application does.

    python examples/cdnow/ask.py [-c REPO] [--service NAME] [--requests N] [--clients N]

Starts serve.py on a free port, asks for customers spread over all, and for one that nobody knows, and ends it. What was
answered is in the log of what was served, to be audited.
"""

if __name__ == "__main__":  # ahead of the slow imports, so that Ctrl-C ends them in order too
    from parity.edge.command import start

    start()

import http.client
import json
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from cdnow import PURCHASES, REPOSITORY
from model import SERVICE

from parity.edge.command import argument_parser, run, whole_number
from parity.edge.errors import UserError
from parity.edge.redis_server import free_port

NOBODY = "99999"
SECONDS_TO_START = 60


def main() -> None:
    parser = argument_parser(__doc__, REPOSITORY)
    parser.add_argument("--service", default=SERVICE, metavar="NAME", help=f"(default: {SERVICE})")
    parser.add_argument("--requests", type=whole_number(1, 10**6), default=2000, metavar="N", help="(default: 2000)")
    parser.add_argument("--clients", type=whole_number(1, 64), default=1, metavar="N", help="at a time (default: 1)")
    args = parser.parse_args()
    customers = sorted({line.split()[0] for line in PURCHASES.read_text().splitlines()[1:]})
    spread = [customers[place * len(customers) // args.requests % len(customers)] for place in range(args.requests - 1)]
    with served(args.repository, args.service) as port:
        shares = [[*spread, NOBODY][first :: args.clients] for first in range(args.clients)]
        with ThreadPoolExecutor(args.clients) as pool:
            answers = [answer for some in pool.map(lambda share: list(asked(port, share)), shares) for answer in some]
    statuses = Counter(status for status, _ in answers)
    p50, p99 = np.percentile([milliseconds for _, milliseconds in answers], [50, 99])
    counted = ", ".join(f"{count:,} {status}" for status, count in statuses.most_common())
    print(f"Asked for {len(answers):,} customers over HTTP: {counted}; p50 {p50:.2f} ms, p99 {p99:.2f} ms")


@contextmanager
def served(repository: Path, service: str) -> Iterator[int]:
    """The port of a server of the model, for as long as the block lasts."""
    port = free_port()
    command = [sys.executable, str(REPOSITORY / "serve.py"), "-c", str(repository), "--service", service]
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + SECONDS_TO_START
        while not _answers(port):
            if server.poll() is not None:
                raise UserError("the server did not start, for the reason above.")
            if time.monotonic() > deadline:
                raise UserError(f"the server did not answer within {SECONDS_TO_START} seconds.")
            time.sleep(0.1)
        yield port
    finally:
        server.terminate()
        server.wait(30)


def asked(port: int, customers: Sequence[str]) -> Iterator[tuple[str, float]]:
    """What becomes of each of ``customers``, and how long that takes in milliseconds, over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    for customer in customers:
        begin = time.perf_counter()
        connection.request("GET", f"/predict?customer_id={customer}")
        response = connection.getresponse()
        content = response.read()
        milliseconds = (time.perf_counter() - begin) * 1000
        if response.status != http.client.OK:
            raise UserError(f"the server answered {response.status} for {customer}: {content[:300]!r}")
        yield json.loads(content)["status"], milliseconds
    connection.close()


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == http.client.OK
    except OSError:
        return False
    finally:
        connection.close()


if __name__ == "__main__":
    run(main)
