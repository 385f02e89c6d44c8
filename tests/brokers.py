"""A real Apache Kafka for the tests: one broker in KRaft mode, started, killed and started again on the same data.

    python -m tests.brokers     fetch its jars, and the one by which Flink reads Kafka, once for an environment

They come from Maven Central, by Maven, and take Java 17 or newer.
"""

import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from parity.edge.redis_server import free_port
from tests.deployments import certificates

POM = Path(__file__).resolve().parent / "kafka.xml"
VERSION = re.search("<version>(.+)</version>", POM.read_text())[1]
JARS = Path(sys.prefix) / f"kafka-{VERSION}"
CONNECTOR = Path(sys.prefix) / "flink-sql-connector-kafka-5.0.0-2.2.jar"
FLINK = Path(sys.prefix) / "flink" / "bin" / "python"
"""The Python of the environment that requirements-flink.txt is installed in."""
SECONDS_TO_START = 60
JAVA = shutil.which("java", path=f"{os.environ['JAVA_HOME']}/bin" if "JAVA_HOME" in os.environ else None)
MISSING = [
    name
    for name, there in {
        "confluent-kafka": find_spec("confluent_kafka"),
        "Java": JAVA,
        "Maven": (JARS.exists() and CONNECTOR.exists()) or shutil.which("mvn"),
    }.items()
    if not there
]
needs_kafka = pytest.mark.skipif(
    bool(MISSING) and "CI" not in os.environ, reason=f"{' and '.join(MISSING)} missing, which Kafka takes"
)
needs_flink = pytest.mark.skipif(
    not FLINK.exists(), reason="Apache Flink missing, which make test-scale installs where this Python has one"
)

SETTINGS = """
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller}
listeners=CONTROLLER://127.0.0.1:{controller},PLAINTEXT://127.0.0.1:{plain},SECURED://localhost:{secured}
advertised.listeners=PLAINTEXT://127.0.0.1:{plain},SECURED://localhost:{secured}
listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURED:SASL_SSL
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={folder}/data
auto.create.topics.enable=false
offsets.topic.replication.factor=1
offsets.topic.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=200
broker.session.timeout.ms=1000
broker.heartbeat.interval.ms=200
sasl.enabled.mechanisms=PLAIN
listener.name.secured.ssl.keystore.type=PEM
listener.name.secured.ssl.keystore.location={folder}/server.pem
listener.name.secured.plain.sasl.jaas.config=\
org.apache.kafka.common.security.plain.PlainLoginModule required user_{user}="{password}";
"""
"""Of a broker that is soon back after a kill: it waits until its session of before is over."""


def fetch() -> Path:
    """The folder with the jars of a broker, which are fetched if they are not there."""
    with FileLock(f"{JARS}.lock"):
        if not JARS.exists():
            with tempfile.TemporaryDirectory(dir=JARS.parent) as name:
                _maven("copy-dependencies", f"-DoutputDirectory={name}/jars", "-DincludeScope=runtime", "--file", POM)
                Path(name, "jars").rename(JARS)
    return JARS


def fetch_connector() -> Path:
    """The jar by which Flink reads Kafka, which is fetched if it is not there."""
    with FileLock(f"{CONNECTOR}.lock"):
        if not CONNECTOR.exists():
            name, version = re.fullmatch(r"(\D+)-(.+)\.jar", CONNECTOR.name).groups()
            with tempfile.TemporaryDirectory(dir=CONNECTOR.parent) as folder:
                _maven("copy", f"-Dartifact=org.apache.flink:{name}:{version}", f"-DoutputDirectory={folder}")
                Path(folder, CONNECTOR.name).rename(CONNECTOR)
    return CONNECTOR


def _maven(goal: str, *arguments: object) -> None:
    command = ["mvn", "--quiet", "--batch-mode", f"dependency:{goal}", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


@dataclass
class Broker:
    """One that lives in ``folder``, and listens on this machine only."""

    folder: Path
    user: str = field(default_factory=lambda: f"name{secrets.token_hex(6)}")
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    process: subprocess.Popen | None = None

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._plain, self._secured, controller = (free_port() for _ in range(3))
        certificates(self.folder, self.folder / "server")
        pem = [(self.folder / f"server.{part}").read_text() for part in ("key", "crt")]
        (self.folder / "server.pem").write_text("".join(pem))
        values = {"controller": controller, "plain": self._plain, "secured": self._secured, "folder": self.folder}
        values |= {"user": self.user, "password": self.password}
        (self.folder / "server.properties").write_text(SETTINGS.format(**values))
        cluster = "K" + secrets.token_urlsafe(16)[1:]  # as a - would begin an option
        identity = ["-t", cluster, "-c", self.folder / "server.properties"]
        with open(self.folder / "format.log", "w") as log:
            command = self._java("kafka.tools.StorageTool", "format", *identity)
            subprocess.run(command, check=True, stdout=log, stderr=log)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._plain}"

    @property
    def secured(self) -> dict[str, str]:
        """How a client comes in by TLS and with a password."""
        return {
            "bootstrap.servers": f"localhost:{self._secured}",
            "security.protocol": "SASL_SSL",
            "ssl.ca.location": str(self.folder / "ca.crt"),
            "sasl.mechanism": "PLAIN",
            "sasl.username": self.user,
            "sasl.password": self.password,
        }

    def start(self) -> None:
        """Start on the data of before, and wait until it answers."""
        with open(self.folder / "kafka.log", "ab") as log:
            command = self._java("kafka.Kafka", self.folder / "server.properties")
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + SECONDS_TO_START
        while not self._answers():
            assert self.process.poll() is None, (self.folder / "kafka.log").read_text()[-3000:]
            assert time.monotonic() < deadline, (self.folder / "kafka.log").read_text()[-3000:]

    def _java(self, *arguments: object) -> list[str]:
        options = ["-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        options += ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{fetch()}/*"]
        return [JAVA, *options, *map(str, arguments)]

    def _answers(self) -> bool:
        from confluent_kafka import KafkaException

        with suppress(KafkaException):
            return bool(self.admin().list_topics(timeout=1).brokers)
        return False

    def admin(self) -> Any:
        from confluent_kafka.admin import AdminClient

        return AdminClient({"bootstrap.servers": self.address, "log_level": 0})

    def create(self, topic: str, partitions: int) -> None:
        from confluent_kafka.admin import NewTopic

        admin = self.admin()
        for made in admin.create_topics([NewTopic(topic, partitions, 1)]).values():
            made.result(30)

    def kill(self) -> None:
        """As `kill -9` does."""
        if self.process:
            self.process.kill()
            self.process.wait()


@contextmanager
def kafka(folder: Path) -> Iterator[Broker]:
    """A broker in a new ``folder``, for as long as the block lasts."""
    broker = Broker(folder)
    try:
        broker.start()
        yield broker
    finally:
        broker.kill()


if __name__ == "__main__":
    if MISSING:
        print(f"Apache Kafka: {' and '.join(MISSING)} missing, so its tests are skipped")
    else:
        print(f"Apache Kafka {VERSION}: {fetch()}\nApache Flink's connector: {fetch_connector()}")
