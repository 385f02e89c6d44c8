"""The stream: from an event to the served value, how many events a worker takes, what a state weighs, and a backlog.

What is measured is a whole worker, from the broker to Redis and to the landed files. The peer of its throughput is Quix
Streams with the same features, from the same topic to the same Redis, in an environment of its own.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import redis

from benchmarks.measure import ROOT, Row, at_most
from parity.online.side import redis_keys
from tests.brokers import MISSING, Broker, kafka
from tests.stream_shop import Redis, Shop

QUIX = Path(sys.prefix) / "quix" / "bin" / "python"
RATE = 1000
"""Events a second while latency is measured."""
PROBES_EVERY = 20
"""Of so many events, one is of a user of whom nothing is known, so that the row that appears is that event's."""
BARE = "the same client, and HSET alone"


def works(rows: Callable[[int], int], whole: bool) -> dict[str, Callable[[], Row]]:
    """What can be measured here, by name."""
    found = {
        "stream-latency redis": lambda: latency("redis", 20 if whole else 5),
        "stream-latency kafka": lambda: latency("kafka", 20 if whole else 5),
        "stream-throughput 100": lambda: throughput(rows(200_000), 100),
        "stream-throughput 1M": lambda: throughput(rows(200_000), 1_000_000),
        "stream-state": lambda: state(rows(20_000)),
        "stream-backlog": lambda: backlog(rows(1_000_000)),
    }
    return {name: work for name, work in found.items() if not MISSING or name == "stream-latency redis"}


def latency(by: str, seconds: int) -> Row:
    """From an event, sent among `RATE` a second, to the row that it changes, beside a loop that computes nothing."""
    with _shop(by) as shop:
        ours = _latencies(shop, shop.worker(), seconds)
        bare = [sys.executable, "-m", "benchmarks.streams", "bare", by, _address(shop), shop.topic]
        theirs = _latencies(shop, subprocess.Popen([*bare, str(shop.port)], cwd=ROOT), seconds, 10**9)
    must = {"redis": "p50 5 ms, p99 25 ms", "kafka": "p50 20 ms"}[by]
    p50, p99 = statistics.median(ours), float(np.percentile(ours, 99))
    note = f"p99 {p99:.1f} ms, of {len(ours):,} events; the peer's {np.percentile(theirs, 99):.1f} ms"
    name = {"redis": "Redis Streams", "kafka": "Kafka"}[by]
    return at_most(
        f"event to served value by {name}", f"at most {must}", BARE, p50, statistics.median(theirs), "ms", note
    )


def _address(shop: Shop) -> str:
    return shop.broker.address if shop.broker else shop.stream(0)


def _latencies(shop: Shop, worker: subprocess.Popen, seconds: int, first: int = 10**6) -> list[float]:
    """Milliseconds from the sending of some events to their rows. Users from ``first`` on are new."""
    try:
        with redis.Redis(port=shop.port) as client, _sender(shop) as send:
            probes = [first + number for number in range(seconds * RATE // PROBES_EVERY + 100)]
            keys = dict(zip(probes, _keys(shop, probes), strict=True))
            while not client.exists(keys[probes[0]]):  # until it reads
                send(probes[0])
                time.sleep(0.2)
            sent: dict[int, float] = {}
            thread = threading.Thread(target=_send_all, args=(send, probes[1:], seconds, sent))
            thread.start()
            found, waiting = [], {}
            while thread.is_alive() or waiting:
                waiting |= {probe: at for probe, at in list(sent.items()) if probe not in waiting}
                for probe in list(waiting):
                    sent.pop(probe, None)
                there = client.exists(keys[next(iter(waiting))]) if waiting else 0
                if there:
                    probe = next(iter(waiting))
                    found.append((time.perf_counter() - waiting.pop(probe)) * 1000)
                else:
                    time.sleep(0.0002)
            return found[len(found) // 5 :]  # the first are of a worker that has just begun
    finally:
        worker.terminate()
        worker.wait()


def _keys(shop: Shop, users: list[int]) -> list[bytes]:
    import pyarrow as pa

    return redis_keys(shop.store, shop.table, pa.table({"user_id": pa.array(users)}))


def _send_all(send: Callable[[int], None], probes: list[int], seconds: int, sent: dict[int, float]) -> None:
    begun = time.perf_counter()
    for number in range(seconds * RATE):
        if (rest := begun + number / RATE - time.perf_counter()) > 0:
            time.sleep(rest)
        if number % PROBES_EVERY:
            send(number % 500)
        else:
            probe, at = probes[number // PROBES_EVERY], time.perf_counter()
            send(probe)
            sent[probe] = at


@contextmanager
def _sender(shop: Shop) -> Iterator[Callable[[int], None]]:
    """Sends an event of a user, now."""
    numbers = iter(range(10**12))

    def text(user: int) -> str:
        values = {"purchase_id": f"{time.time_ns()}-{next(numbers)}", "user_id": user}
        return json.dumps(values | {"timestamp": datetime.now(UTC).isoformat(), "amount": 9.99})

    if shop.broker:
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": shop.broker.address, "linger.ms": 0, "log_level": 0})

        def send(user: int) -> None:
            producer.produce(shop.topic, text(user), str(user))
            producer.poll(0)

        yield send
        producer.flush(30)
    else:
        with redis.Redis(port=shop.port) as client:
            yield lambda user: client.xadd(shop.stream(0), {"event": text(user)})


def throughput(events: int, users: int) -> Row:
    """Of one worker, against Quix Streams in its faster way."""
    with _shop("kafka") as shop:
        _fill(shop.broker, shop.topic, events, users)
        ours = _drained(shop, events)
        theirs = {}
        with tempfile.TemporaryDirectory() as folder, Redis(Path(folder) / "redis") as server:
            for way in ("windows", "state"):
                place = [shop.broker.address, shop.topic, str(events), str(server.port), f"{folder}/{way}"]
                command = [QUIX, "benchmarks/quix_stream.py", way, *place]
                done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
                theirs[way] = events / json.loads(done.stdout.splitlines()[-1])["seconds"]
        way = max(theirs, key=theirs.__getitem__)
        rate = events / ours["seconds"]
        others = ", ".join(f"by {name} {value:,.0f}/s" for name, value in theirs.items())
        cpu = f"{events / ours['cpu']:,.0f} for each second of its processor"
        note = f"{rate:,.0f} events/s, landing included, {cpu}; Quix Streams {others}"
        work, peer = f"stream {events:,} events of {users:,} keys", f"Quix Streams by its {way}"
        return Row(work, peer, rate, theirs[way], "1/s", "20,000 events/s", rate / theirs[way], note)


def state(users: int) -> Row:
    """What Redis holds of a user of three events, against the same without what a stream needs."""
    with _shop("kafka") as shop, redis.Redis(port=shop.port) as client:
        _fill(shop.broker, shop.topic, 3 * users, users)
        _drained(shop, 3 * users)
        keys = _keys(shop, list(range(users)))
        with_state = sum(client.memory_usage(key) for key in keys) / users
        for key in keys:
            client.hdel(key, "_state:spending", "_applied:spending")
        without = sum(client.memory_usage(key) for key in keys) / users
    note = f"{with_state:.0f} bytes a user, {with_state - without:.0f} of them state and offsets, of 3 events at most"
    return at_most("memory of a user with its state", "", "the row alone", with_state, without, "bytes", note)


def backlog(events: int) -> Row:
    """A worker that finds many events: its memory when it has done a tenth, and at most."""
    with _shop("kafka") as shop:
        _fill(shop.broker, shop.topic, events, 10_000)
        found = _drained(shop, events)
    rate = events / found["seconds"]
    note = f"drained in {found['seconds']:.0f} s, {rate:,.0f} events/s"
    work = f"memory of a worker at the end of {events:,} events"
    return at_most(work, "at most 1.5x", "the same at a tenth of them", found["peak_mb"], found["early_mb"], "MB", note)


@contextmanager
def _shop(by: str) -> Iterator[Shop]:
    """A shop with one partition, on servers of its own, and windows of an hour, as the peer has them."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = stack.enter_context(Redis(folder / "redis"))
        broker = stack.enter_context(kafka(folder / "kafka")) if by == "kafka" else None
        (folder / "shop").mkdir()
        yield stack.enter_context(Shop(folder / "shop", server.port, broker, partitions=1, hours=1))


def _fill(broker: Broker, topic: str, events: int, users: int) -> None:
    """Put events into a topic, a second apart, the last of them now."""
    from confluent_kafka import Producer

    producer = Producer({"bootstrap.servers": broker.address, "linger.ms": 20, "log_level": 0})
    first = int(time.time()) - events
    for number in range(events):
        user, at = number * 7919 % users, datetime.fromtimestamp(first + number, UTC)
        values = {"user_id": user, "timestamp": at.isoformat(), "at": (first + number) * 1_000_000}
        text = json.dumps(values | {"amount": number % 1000 / 100})
        while True:
            try:
                producer.produce(topic, text, str(user), partition=0)
                break
            except BufferError:
                producer.poll(0.1)
    assert producer.flush(60) == 0


def _drained(shop: Shop, events: int) -> dict[str, Any]:
    """Have one worker take so many events, in a process of its own: the seconds, and its memory."""
    command = [sys.executable, str(ROOT / "benchmarks" / "streams.py"), "drain", str(events)]
    environment = os.environ | {"PYTHONPATH": f"{shop.root}{os.pathsep}{ROOT}"}
    done = subprocess.run(command, cwd=shop.root, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def drain(events: int) -> None:
    """What `_drained` runs, of the project whose package comes first."""
    from parity.definition.checks import declared
    from parity.repository import opened
    from parity.stream.command import REPOSITORY, worker_of
    from parity.stream.configuration import stream_sources
    from parity.stream.kafka_source import KafkaBroker
    from parity.stream.metrics import Metrics

    [source] = stream_sources(REPOSITORY / "stream.yaml", declared(REPOSITORY).tables)
    found: dict[str, float] = {}
    with opened(REPOSITORY, source.tables) as store:
        metrics, process = Metrics(source.name), psutil.Process()
        worker = worker_of(source, store, KafkaBroker(source), metrics)

        def watch() -> None:
            while "seconds" not in found:
                memory = process.memory_info().rss / 1e6
                if sum(metrics.counts.values()) - metrics.counts["landed"] >= events / 10:
                    found.setdefault("early_mb", memory)
                found["peak_mb"] = max(found.get("peak_mb", 0), memory)
                if metrics.counts["landed"] >= events:
                    found["cpu"] = sum(process.cpu_times()[:2]) - before
                    found["seconds"] = time.perf_counter() - begun
                    worker.end()
                time.sleep(0.01)

        begun, before = time.perf_counter(), sum(process.cpu_times()[:2])
        threading.Thread(target=watch).start()
        worker.run()
    print(json.dumps(found))


def bare(by: str, address: str, topic: str, port: int) -> None:
    """Take events as a worker does, and write a row of each that says nothing."""
    client = redis.Redis(port=port)
    keys = _KeysOf()
    for event in _from_kafka(address, topic) if by == "kafka" else _from_redis(client, address):
        client.hset(keys[json.loads(event)["user_id"]], mapping={"a": b"1" * 8, "b": b"2" * 8})


class _KeysOf(dict):
    """The name of a user's row, as Feast has it."""

    def __missing__(self, user: int) -> bytes:
        from feast.infra.online_stores.helpers import _redis_key
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        key = EntityKey(join_keys=["user_id"], entity_values=[Value(int64_val=user)])
        return self.setdefault(user, _redis_key("shop", key, entity_key_serialization_version=3))


def _from_redis(client: redis.Redis, stream: str) -> Iterator[bytes]:
    reached = b"$"
    while True:
        for _, entries in client.xread({stream: reached}, 2000, 50):
            yield from (entry[b"event"] for _, entry in entries)
            reached = entries[-1][0]


def _from_kafka(address: str, topic: str) -> Iterator[bytes]:
    from confluent_kafka import Consumer

    consumer = Consumer({"bootstrap.servers": address, "group.id": "bare", "auto.offset.reset": "latest"})
    consumer.subscribe([topic])
    while True:
        first = consumer.poll(0.2)
        for message in [] if first is None else [first, *consumer.consume(2000, 0)]:
            yield message.value()


if __name__ == "__main__":
    what, *arguments = sys.argv[1:]
    drain(int(arguments[0])) if what == "drain" else bare(*arguments[:3], int(arguments[3]))
