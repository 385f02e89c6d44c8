"""The stream as a job of a real Apache Flink, killed under load: it goes on from its checkpoint, none counts twice."""

import os
import signal
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

import psutil
import pytest

from tests.brokers import FLINK, fetch_connector, kafka, needs_flink, needs_kafka
from tests.stream_shop import Producer, Redis, Shop, killed

pytestmark = [pytest.mark.scale, needs_kafka, needs_flink]

SECONDS = 180
"""To start a job and drain a topic, at most."""


@pytest.fixture
def shop(tmp_path):
    with ExitStack() as stack:
        server = stack.enter_context(Redis(tmp_path / "redis"))
        broker = stack.enter_context(kafka(tmp_path / "kafka"))
        (tmp_path / "shop").mkdir()
        yield stack.enter_context(Shop(tmp_path / "shop", server.port, broker, landing_seconds=0.1))


def job(shop: Shop):
    """Start the job of a shop, which goes on from its newest checkpoint."""
    options = ["--connector", fetch_connector(), "--checkpoints", checkpoints(shop), "--every", 500]
    command = (str(FLINK), "-m", "parity.stream.flink", *map(str, options), "--parallelism", "2")
    return shop.worker(command=command)


def checkpoints(shop: Shop) -> Path:
    return shop.root / "checkpoints"


def tasks_of(process) -> list[psutil.Process]:
    """The processes in which the tasks of a job run."""
    children = psutil.Process(process.pid).children(recursive=True)
    return [child for child in children if any("beam_boot" in word for word in child.cmdline())]


def test_a_job_that_is_killed_goes_on_from_its_checkpoint_and_loses_and_doubles_nothing(shop, record_property):
    first = job(shop)
    producer = Producer(shop, 300)
    producer.start()
    shop.wait(lambda: len(shop.landed()) > 500, SECONDS)

    for task in tasks_of(first):  # Flink starts it again by itself
        os.kill(task.pid, signal.SIGKILL)
    there = len(shop.landed())
    shop.wait(lambda: len(shop.landed()) > there + 1000, SECONDS)
    assert first.poll() is None

    shop.wait(lambda: any(checkpoints(shop).glob("*/chk-*/_metadata")), SECONDS)
    killed(first)  # the client, Flink and its tasks, at once
    time.sleep(2)
    second = job(shop)
    there = len(shop.landed())
    shop.wait(lambda: len(shop.landed()) > there + 500, SECONDS)
    events = producer.stopped()
    seconds = shop.wait(shop.drained, SECONDS)
    killed(second)

    found = shop.found(events, datetime.now(UTC))
    record_property("counts", f"Flink, killed twice: {found.landed:,} of {found.sent:,} landed, {seconds:.1f} s after")
    assert found.bad == []
    assert "purchases: going on from" in (shop.root / "worker-2.log").read_text()


def test_workers_take_over_from_a_job_and_a_job_from_workers(shop):
    producer = Producer(shop, 200)
    producer.start()
    worker = shop.worker()
    shop.wait(lambda: len(shop.landed()) > 200, SECONDS)
    shop.ended(worker)
    first = job(shop)
    there = len(shop.landed())
    shop.wait(lambda: len(shop.landed()) > there + 500, SECONDS)
    killed(first)
    worker = shop.worker()
    events = producer.stopped()
    shop.wait(shop.drained, SECONDS)
    shop.ended(worker)
    assert shop.found(events, datetime.now(UTC)).bad == []
