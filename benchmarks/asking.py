"""A client that costs little: it keeps connections busy, in a process of its own, and prints the seconds of each call.

python -m benchmarks.asking PORT CLIENTS CALLS < BODIES

Each of the clients has a connection of its own, and asks again as soon as it has its answer; it opens a new one if the
server ends it. The bodies, one a line, are asked for in turn.
"""

import asyncio
import json
import sys
import time
from itertools import cycle

import uvloop

LONGEST_WAIT = 60
"""Seconds in which a server has to take a new connection."""
HEAD = "POST /get-online-features HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


class _Client(asyncio.Protocol):
    """One connection's calls, and the seconds that each has ``taken``."""

    def __init__(self, port: int, requests: list[bytes], calls: int):
        self._port, self._requests, self._left = port, cycle(requests), calls
        self.taken: list[float] = []
        self.done = asyncio.get_running_loop().create_future()
        self._request, self._asked = next(self._requests), 0.0
        self._again: asyncio.Task | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport, self._received = transport, b""
        if not self._asked:
            self._asked = time.perf_counter()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, content = self._received.partition(b"\r\n\r\n")
        if not end or len(content) < int(head.lower().partition(b"content-length:")[2].split(b"\r\n", 1)[0]):
            return
        if not self._received.startswith(b"HTTP/1.1 200 "):
            self.done.set_exception(AssertionError(self._received))
            return
        self.taken.append(time.perf_counter() - self._asked)
        self._left -= 1
        if not self._left:
            self.done.set_result(None)
            self._transport.close()
            return
        self._request, self._received = next(self._requests), b""
        self._asked = time.perf_counter()
        self._transport.write(self._request)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():  # Feast has its workers replaced after some thousand requests: ask again, and wait
            self._again = asyncio.get_running_loop().create_task(self.connect())

    async def connect(self) -> None:
        deadline = time.monotonic() + LONGEST_WAIT
        while True:
            try:
                await asyncio.get_running_loop().create_connection(lambda: self, "127.0.0.1", self._port)
                return
            except OSError as error:
                if time.monotonic() > deadline:
                    self.done.set_exception(error)
                    return
                await asyncio.sleep(0.02)


async def asked(port: int, clients: int, calls: int, bodies: list[str]) -> dict:
    requests = [f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode() for body in bodies]
    each = [_Client(port, requests[place:] + requests[:place], calls // clients) for place in range(clients)]
    start = time.perf_counter()
    for one in each:
        await one.connect()
    await asyncio.gather(*(one.done for one in each))
    return {"seconds": time.perf_counter() - start, "taken": [taken for one in each for taken in one.taken]}


if __name__ == "__main__":
    port, clients, calls = map(int, sys.argv[1:4])
    print(json.dumps(uvloop.run(asked(port, clients, calls, sys.stdin.read().splitlines()))))
