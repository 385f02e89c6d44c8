"""Events through workers, a Redis and a Kafka that are killed at random: none lost, none counted twice, none wrong.

    python -m tests.chaos [--seconds N] [--seed N] [--rate N] [--workers N] [--by kafka|redis]

It makes a project of its own, starts a Redis (with an append-only file), an Apache Kafka and workers, and a producer
that sends late, repeated and corrected events all the while. One of them after another is killed by `kill -9` and
started again, beside batch runs that are killed too. At last it waits until all events have landed, and holds what has
landed and what is served against all that was sent; demo_fixed.py proves the same after a batch run. Then it prints how
much of everything there was. ``--by redis`` has the events in Redis Streams, without Kafka.
"""

import argparse
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from parity.edge.command import run, whole_number
from parity.edge.redis_server import free_port
from tests.brokers import MISSING, kafka
from tests.stream_shop import ENDED, Found, Producer, Redis, Shop, killed

REST = (0.2, 3.0)
"""Seconds between two kills, at least and at most."""
SECONDS_TO_DRAIN = 180
BATCH = f"{sys.executable} compute_features.py && exec {sys.executable} materialize_to_online.py"


class Crew:
    """Workers, each of which is replaced when it is killed."""

    def __init__(self, shop: Shop, size: int):
        self._shop, self.ended, self.events, self.restarted = shop, [], Counter(), 0
        self._running = [self._one() for _ in range(size)]

    def _one(self) -> tuple[subprocess.Popen, int]:
        port = free_port()
        return self._shop.worker("--metrics-port", str(port)), port

    def kill(self, number: int) -> None:
        self._note(*self._running[number])
        killed(self._running[number][0])
        self._running[number] = self._one()

    def look_after(self) -> None:
        """Start those again that have ended, as a service manager does: they do while a server is away at their start.

        Any other end is noted.
        """
        for number, (process, _) in enumerate(self._running):
            if process.poll() is None:
                continue
            if "does not answer" in self._shop.log(process).splitlines()[-1]:
                self.restarted += 1
            else:
                self.ended.append(process.returncode)
            self._running[number] = self._one()

    def _note(self, process: subprocess.Popen, port: int) -> None:
        """Add up what became of the events that a worker has read, as it says itself."""
        with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            for line in answer.read().decode().splitlines():
                if line.startswith("parity_stream_events_total{"):
                    became = line.partition('became="')[2].partition('"')[0]
                    self.events[became] += int(float(line.rpartition(" ")[2]))

    def stopped(self) -> None:
        """End all in order."""
        self.look_after()
        for one in self._running:
            self._note(*one)
        for process, _ in self._running:
            process.terminate()
        self.ended += [status for process, _ in self._running if (status := process.wait(60)) not in ENDED]

    def __len__(self) -> int:
        return len(self._running)


class Batches:
    """Batch runs beside the workers, one at a time: some are killed, others fail as Redis is, others succeed."""

    def __init__(self, shop: Shop):
        self._shop, self._running, self.succeeded = shop, None, 0

    def next(self) -> bool:
        """Start one, or kill the one that runs; whether one was killed."""
        if self._running and self._running.poll() is None:
            killed(self._running)
            return True
        self.wait()
        self._running = self._shop.worker(command=("sh", "-c", BATCH))
        return False

    def wait(self) -> None:
        if self._running and self._running.wait(120) == 0:
            self.succeeded += 1
        self._running = None


class Outcome(NamedTuple):
    """What a run came to."""

    kills: Counter
    """By what was killed."""
    batches: int
    """Batch runs that succeeded meanwhile."""
    producer: Producer
    found: Found
    drained: float
    """Seconds from the last event until all had landed."""
    restarted: int
    """Workers that were started again, as a server was away when they had been started."""
    ended: list[int]
    """The status of workers that ended in another way than they should."""
    events: Counter
    """What became of the events that workers have read, as far as those that were killed had said."""

    @property
    def is_good(self) -> bool:
        return not (self.found.bad or self.ended)

    def __str__(self) -> str:
        found, sent = self.found, self.producer
        kills = ", ".join(f"{what} {count} times" for what, count in sorted(self.kills.items()))
        again = self.events["already"]
        return (
            f"killed: {kills or 'nothing'}; {self.batches} batch runs succeeded meanwhile\n"
            f"started again, as a server was away when they were started: {self.restarted} workers\n"
            f"sent: {sent.sent:,} events, {sent.repeated:,} of them repeated and {sent.corrected:,} corrected another\n"
            f"delivered again and refused by their offset: {again:,}, as workers said before they were killed\n"
            f"all had landed {self.drained:.1f} seconds after the last was sent\n"
            f"landed: {found.landed:,} of {found.sent:,}; {len(found.lost):,} lost, {len(found.doubled):,} doubled, "
            f"{len(found.differences):,} differences"
        )


def chaos(seconds: float, seed: int = 0, rate: float = 300, workers: int = 3, by: str = "kafka") -> Outcome:
    """Kill at random for some time, and see what has become of the events."""
    draw, kills = random.Random(seed), Counter()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        fsync = "everysec" if by == "kafka" else "always"  # as it is the truth itself there
        server = stack.enter_context(Redis(folder / "redis", fsync))
        broker = stack.enter_context(kafka(folder / "kafka")) if by == "kafka" else None
        (folder / "shop").mkdir()
        shop = stack.enter_context(Shop(folder / "shop", server.port, broker, shared=bool(broker)))
        crew, batches = Crew(shop, workers), Batches(shop)
        producer = Producer(shop, rate, seed=seed)
        producer.start()
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            time.sleep(min(left, draw.uniform(*REST)))
            crew.look_after()
            what = draw.choice(["worker", "worker", "batch run", "Redis", *(["Kafka"] if broker else [])])
            if what == "worker":
                crew.kill(draw.randrange(len(crew)))
            elif what == "batch run":
                if not batches.next():
                    continue
            else:
                one = server if what == "Redis" else broker
                one.kill()
                time.sleep(draw.random())
                one.start()
            kills[what] += 1
        events = producer.stopped()
        batches.wait()
        crew.look_after()
        drained = shop.wait(shop.drained, SECONDS_TO_DRAIN)
        crew.stopped()
        found = shop.found(events, datetime.now(UTC))
        shop.batch()
        outcome = Outcome(kills, batches.succeeded, producer, found, drained, crew.restarted, crew.ended, crew.events)
        if not outcome.is_good:
            print(shop.logs())
        return outcome


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=whole_number(1), default=600, help="how long (default: 600)")
    parser.add_argument("--seed", type=whole_number(0), default=0, help="of what is drawn (default: 0)")
    parser.add_argument("--rate", type=whole_number(1), default=300, help="events a second (default: 300)")
    parser.add_argument("--workers", type=whole_number(1), default=3, help="how many (default: 3)")
    parser.add_argument("--by", choices=["kafka", "redis"], default="kafka", help="where events are (default: kafka)")
    args = parser.parse_args()
    if MISSING and args.by == "kafka":
        parser.error(f"{' and '.join(MISSING)} missing, which Kafka takes: --by redis does without")
    outcome = chaos(args.seconds, args.seed, args.rate, args.workers, args.by)
    print(outcome)
    for text in [*map(str, outcome.found.bad), *(f"a worker ended with status {status}" for status in outcome.ended)]:
        print(f"  {text}")
    return 0 if outcome.is_good else 1


if __name__ == "__main__":
    run(main)
