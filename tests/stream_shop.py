"""A project whose events go through real servers, a producer that knows all it has sent, and what has to hold after it.

The producer draws purchases: late ones, the same one twice, and corrections, each with an id. What must be served, and
what must have landed, is worked out from what it has sent by nothing but the oracle.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple
from zlib import crc32

import pyarrow.parquet as pq
import redis
import yaml
from feast import FeatureStore

from parity.definition.checks import declared
from parity.edge.redis_server import free_port, launch, require_server
from parity.online.side import online_store_of
from parity.proof.oracle import evaluate
from parity.proof.raw import Purchase
from parity.transactions.landed import high_water
from tests.brokers import Broker
from tests.conftest import PARTS, ROOT
from tests.online import applied

SOURCE = "purchases"
WORKER = (sys.executable, "-m", "parity", "stream")
ENDED = {0, 143}
"""The status of a worker that was told to end: once it runs, and before."""
SECONDS_TO_MISS = 6
"""After which Kafka gives the partitions of a worker that was killed to another one."""
LATEST = timedelta(days=2)
"""How late an event may be: less than the longest window, so that no value needs the next batch run."""
FEATURES = """
from datetime import timedelta

from feast import Entity, FeatureService, ValueType
from feast.aggregation import Aggregation

from parity import AggregatedFeatureView, TransactionSource, check_definitions

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
purchases = TransactionSource(name="purchases", path="../purchases", event_id="purchase_id")
spending = AggregatedFeatureView(
    name="spending",
    entities=[user],
    ttl=timedelta(days=30),
    transactions=purchases,
    aggregations=[
        Aggregation(name="mean_lately", function="mean", column="amount", time_window=timedelta(hours={hours})),
        Aggregation(name="count_1h", function="count", column="amount", time_window=timedelta(hours=1)),
        Aggregation(name="sum_ever", function="sum", column="amount"),
        Aggregation(name="count_ever", function="count", column="amount"),
    ],
    continuous={continuous},
)
spending_service = FeatureService(name="spending_service", features=[spending])
check_definitions(globals())
"""


class Event(NamedTuple):
    """A purchase."""

    id: str
    user: int
    time: datetime
    cents: int

    @property
    def text(self) -> bytes:
        values = {"purchase_id": self.id, "user_id": self.user, "timestamp": self.time.isoformat()}
        return json.dumps(values | {"amount": self.cents / 100}).encode()


class Shop:
    """A project in the folder ``root``, whose events come by the Redis at ``port``, or by a Kafka ``broker``.

    With ``shared``, Kafka shares the partitions among the workers; else each reads all of them. The longest window has
    so many ``hours``.
    """

    def __init__(
        self,
        root: Path,
        port: int,
        broker: Broker | None = None,
        partitions: int = 4,
        shared: bool = False,
        continuous: bool = True,
        hours: int = 72,
        **source: Any,
    ):
        self.root, self.port, self.broker, self.partitions = root, port, broker, partitions
        self.landing = root / "purchases"
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, root / part)
        repository = root / "feature_repo"
        repository.mkdir()
        self.landing.mkdir()
        (repository / "features.py").write_text(FEATURES.format(continuous=continuous, hours=hours))
        config = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text()) | {"project": "shop"}
        config["online_store"]["connection_string"] = f"localhost:{port},socket_timeout=5"
        (repository / "feature_store.yaml").write_text(yaml.safe_dump(config))
        self.topic = f"purchases-{uuid.uuid4().hex}"
        if shared:
            source |= {"group": self.topic, "options": {"session.timeout.ms": 1000 * SECONDS_TO_MISS}}
        if broker:
            source = {"type": "kafka", "brokers": broker.address, "topic": self.topic} | source
            broker.create(self.topic, partitions)
            broker.create(f"{self.topic}.dead", 1)
        else:
            source = {"type": "redis", "partitions": partitions} | source
        (repository / "stream.yaml").write_text(yaml.safe_dump({"sources": {SOURCE: source}}))
        [self.table] = declared(repository)
        self.store = FeatureStore(repo_path=str(repository))
        self.store.apply(applied([self.table]))
        self._workers: list[subprocess.Popen] = []
        now = datetime.now(UTC)
        self.before = [Event(f"before {user}", user, now - user * timedelta(hours=1), 100 * user) for user in range(9)]
        self._write_before()
        self.run("compute_features.py")
        self.run("materialize_to_online.py")

    def _write_before(self) -> None:
        """What has happened before there were events, in a file."""
        rows = [f"{one.id},{one.user},{one.time.isoformat()},{one.cents / 100}" for one in self.before]
        text = "\n".join(["purchase_id,user_id,timestamp,amount", *rows, ""])
        (self.landing / "before.csv").write_text(text)

    def run(self, *arguments: str) -> None:
        """Run a script, which has to succeed."""
        command = [sys.executable, *arguments]
        done = subprocess.run(command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert done.returncode == 0, done.stdout

    def worker(self, *arguments: str, command: tuple[str, ...] = WORKER) -> subprocess.Popen:
        """Start a worker, with a process group of its own, whose output goes to a file of its own."""
        with open(self.root / f"worker-{len(self._workers) + 1}.log", "w") as log:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=self.root,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._workers.append(process)
        return process

    def ended(self, worker: subprocess.Popen) -> None:
        """End a worker in order."""
        worker.terminate()
        assert worker.wait(60) in ENDED, self.logs()

    def log(self, worker: subprocess.Popen) -> str:
        """What a worker said; of one that says nothing, a blank line."""
        return (self.root / f"worker-{self._workers.index(worker) + 1}.log").read_text() or "\n"

    def logs(self) -> str:
        """The end of what each worker said."""
        files = sorted(self.root.glob("worker-*.log"))
        return "\n".join(f"{file.name}: {file.read_text()[-2000:]}" for file in files)

    def __enter__(self) -> "Shop":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._workers:
            killed(process)

    def batch(self) -> None:
        """What a batch run does, and the proof: all are equal, or it fails."""
        for script in ("compute_features.py", "materialize_to_online.py", "demo_fixed.py"):
            self.run(script)

    # What there is

    def ends(self) -> dict[int, int]:
        """How many events each partition has, or, of Redis, something that is 0 if there is none."""
        if self.broker:
            from confluent_kafka import Consumer, TopicPartition

            consumer = Consumer({"bootstrap.servers": self.broker.address, "group.id": "ends", "log_level": 0})
            try:
                places = [TopicPartition(self.topic, partition) for partition in range(self.partitions)]
                return {place.partition: consumer.get_watermark_offsets(place, timeout=30)[1] for place in places}
            finally:
                consumer.close()
        with redis.Redis(port=self.port) as client:
            found = {}
            for partition in range(self.partitions):
                with suppress(redis.ResponseError):  # no such key
                    ms, _, count = client.xinfo_stream(self.stream(partition))["last-generated-id"].partition(b"-")
                    found[partition] = int(ms) * 2**21 + int(count) + 1
            return found

    def members(self) -> int:
        """How many workers share the partitions, each of which has some; 0 while Kafka can't say."""
        from confluent_kafka import KafkaException

        admin = self.broker.admin()
        try:
            group = admin.describe_consumer_groups([self.topic])[self.topic].result(30)
        except KafkaException:
            return 0
        return sum(bool(member.assignment.topic_partitions) for member in group.members)

    def stream(self, partition: int) -> str:
        return f"{SOURCE}:{partition}" if self.partitions > 1 else SOURCE

    def drained(self) -> bool:
        """Whether all events have landed, which comes after they were applied."""
        landed = high_water(self.landing)
        return all(landed.get(f"{SOURCE}/{p}", -1) >= end - 1 for p, end in self.ends().items())

    def wait(self, condition: Callable[[], bool], seconds: float) -> float:
        """Wait for a ``condition``; return how many seconds it took."""
        begun = time.monotonic()
        while not condition():
            assert time.monotonic() - begun < seconds, self.logs()
            time.sleep(0.1)
        return time.monotonic() - begun

    def landed(self) -> list[dict]:
        files = sorted(self.landing.glob("stream-*.parquet"))
        return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]

    def served(self, users: list[int], at: datetime) -> list[dict]:
        """What is served of ``users`` at an instant."""
        online_store_of(self.store).now = lambda: at
        service = self.store.get_feature_service("spending_service")
        answer = self.store.get_online_features(service, {"user_id": users}).to_dict()
        return [dict(zip(answer, values, strict=True)) for values in zip(*answer.values(), strict=True)]

    # What has to be there

    def found(self, events: dict[str, Event], at: datetime) -> "Found":
        """Hold what has landed and what is served at an instant against all ``events``, by their ids.

        Served is what was before, too.
        """
        landed = self.landed()
        times = Counter(row["purchase_id"] for row in landed)
        places = Counter((row["_partition"], row["_offset"]) for row in landed)
        lost = [id for id in events if id not in times]
        doubled = [id for id, count in times.items() if count > 1] + [at for at, count in places.items() if count > 1]
        differences = [f"landed: {row}" for row in landed if not _is(row, events.get(row["purchase_id"]))]
        bought: dict[int, list[Purchase]] = {}
        for event in (*self.before, *events.values()):
            bought.setdefault(event.user, []).append(Purchase(event.time, {"amount": repr(event.cents / 100)}))
        users = sorted(bought)
        for user, values in zip(users, self.served(users, at), strict=True):
            last = max(purchase.time for purchase in bought[user])
            for rule in self.table.definition.rules:
                right = evaluate(rule, bought[user], at if self.table.definition.continuous else last)
                if values[rule.name] != right:
                    differences.append(f"served: user {user}, {rule.name}: {values[rule.name]}, and not {right}")
        return Found(len(events), len(landed), lost, doubled, differences)


def _is(row: dict, event: Event | None) -> bool:
    """Whether a landed row is what was sent."""
    if event is None:
        return False
    return (row["user_id"], row["timestamp"], row["amount"]) == (event.user, event.time, event.cents / 100)


class Found(NamedTuple):
    """What came of the events."""

    sent: int
    landed: int
    lost: list
    doubled: list
    differences: list[str]

    @property
    def bad(self) -> list:
        return [*self.lost[:5], *self.doubled[:5], *self.differences[:5]]


class Producer(threading.Thread):
    """Sends events at a ``rate`` a second, until it is `stopped`; through deaths of the server."""

    def __init__(self, shop: Shop, rate: float, users: int = 200, seed: int = 0):
        super().__init__(daemon=True)
        self.shop, self.rate, self.users = shop, rate, users
        self.events: dict[str, Event] = {}
        """The last content of each that was sent, by its id."""
        self.sent = self.repeated = self.corrected = 0
        self.failure: BaseException | None = None
        self._random, self._end = random.Random(seed), threading.Event()

    def stopped(self) -> dict[str, Event]:
        """Stop, and give all events, which the server has."""
        self._end.set()
        self.join()
        if self.failure:
            raise self.failure
        return self.events

    def run(self) -> None:
        try:
            with _sending(self.shop) as send:
                begun = time.monotonic()
                while not self._end.is_set():
                    due = int((time.monotonic() - begun) * self.rate) - self.sent
                    for _ in range(min(due, 1000)):
                        event = self._draw()
                        send(event.user, event.text)
                        self.sent += 1
                    time.sleep(0.005)
        except BaseException as failure:
            self.failure = failure

    def _draw(self) -> Event:
        draw = self._random
        known = draw.randrange(max(1, len(self.events)))
        luck = draw.random()
        if luck < 0.02 and self.events:  # the same once more
            self.repeated += 1
            return self.events[str(known)]
        if luck < 0.03 and self.events:
            self.corrected += 1
            event = self.events[str(known)]._replace(cents=draw.randrange(1, 100_000))
        else:
            late = draw.random() * LATEST if draw.random() < 0.1 else timedelta()
            number, user = str(len(self.events)), draw.randrange(1, self.users + 1)
            event = Event(number, user, datetime.now(UTC) - late, draw.randrange(-5_000, 100_000))
        self.events[event.id] = event
        return event


@contextmanager
def _sending(shop: Shop) -> Iterator[Callable[[int, bytes], None]]:
    """How an event of a user is sent, so that it arrives once at least, in the order of the user's events."""
    if shop.broker:
        from confluent_kafka import Producer as KafkaProducer

        settings = {"enable.idempotence": True, "linger.ms": 1, "log_level": 0, "delivery.timeout.ms": 600_000}
        producer = KafkaProducer({"bootstrap.servers": shop.broker.address} | settings)
        failed: list[str] = []

        def send(user: int, text: bytes) -> None:
            producer.produce(shop.topic, text, str(user), callback=_noted)
            producer.poll(0)

        def _noted(error: Any, _message: Any) -> None:
            if error:
                failed.append(str(error))

        yield send
        assert producer.flush(120) == 0
        assert not failed, failed[:3]
        return

    client = redis.Redis(port=shop.port, socket_timeout=5)

    def send(user: int, text: bytes) -> None:
        while True:
            with suppress(redis.RedisError):
                client.xadd(shop.stream(crc32(str(user).encode()) % shop.partitions), {"event": text})
                return
            time.sleep(0.05)  # it is there already, perhaps, and comes twice

    with client:
        yield send


class Redis:
    """A server that keeps its data in a file, and is killed and started again.

    With ``fsync`` "always" it then has what it had answered; with "everysec" it may have lost the last seconds of it.
    """

    def __init__(self, folder: Path, fsync: str = "everysec"):
        self.folder, self.port, self._process = folder, free_port(), None
        self._options = ["--appendonly", "yes", "--appendfsync", fsync]

    def start(self) -> None:
        self._process = launch(require_server(), self.port, self.folder, *self._options)
        with redis.Redis(port=self.port) as client:
            while True:
                with suppress(redis.BusyLoadingError):
                    client.ping()
                    return
                time.sleep(0.02)

    def kill(self) -> None:
        if self._process:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "Redis":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def killed(process: subprocess.Popen) -> None:
    """Kill a worker, with all that it has started, by `kill -9`."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
