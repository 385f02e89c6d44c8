"""Events by a real Apache Kafka: workers added, killed and rebalanced, and a broker that dies, lose and double none."""

import json
import re
import time
from contextlib import ExitStack
from datetime import UTC, datetime

import pytest

from tests.brokers import kafka, needs_kafka
from tests.stream_shop import Event, Producer, Redis, Shop, killed

pytestmark = [pytest.mark.scale, needs_kafka]

SECONDS = 120
"""To drain a topic, at most."""


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


@pytest.fixture
def shop(tmp_path, broker):
    """Makes a shop whose events come by the broker, and that ends with the test."""
    with ExitStack() as stack:

        def make(**source) -> Shop:
            server = stack.enter_context(Redis(tmp_path / "redis"))
            (tmp_path / "shop").mkdir()
            return stack.enter_context(Shop(tmp_path / "shop", server.port, broker, **source))

        yield make


def produce(settings: dict, topic: str, texts: list[bytes]) -> None:
    from confluent_kafka import Producer as KafkaProducer

    producer = KafkaProducer({"acks": "all", "enable.idempotence": True, "log_level": 0} | settings)
    for text in texts:
        producer.produce(topic, text, partition=0)
    assert producer.flush(60) == 0


def messages(settings: dict, topic: str) -> list:
    """All that partition 0 of a topic holds."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"group.id": "none", "enable.auto.commit": False} | settings)
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)
        consumer.assign([TopicPartition(topic, 0, 0)])
        return consumer.consume(end, timeout=30) if end else []
    finally:
        consumer.close()


def values(settings: dict, topic: str) -> list[bytes]:
    return [message.value() for message in messages(settings, topic)]


class TestTheBroker:
    """What the tests rely on."""

    def test_it_has_after_a_kill_what_it_had_acknowledged(self, broker):
        broker.create("kept", 1)
        plain = {"bootstrap.servers": broker.address}
        texts = [b"%d" % number for number in range(1000)]
        produce(plain, "kept", texts)
        broker.kill()
        broker.start()
        produce(plain, "kept", [b"more"])
        assert values(plain, "kept") == [*texts, b"more"]

    def test_it_is_reached_by_tls_with_a_password_and_by_no_other(self, broker):
        from confluent_kafka import Consumer, KafkaException

        broker.create("secret", 1)
        produce(broker.secured, "secret", [b"hidden"])
        assert values(broker.secured, "secret") == [b"hidden"]
        wrong = Consumer(broker.secured | {"group.id": "none", "sasl.password": "wrong", "log_level": 0})
        with pytest.raises(KafkaException):
            wrong.list_topics(timeout=3)
        wrong.close()


class TestTheShop:
    """A checker is trusted after it has found what was planted."""

    def test_it_finds_what_is_lost_doubled_and_wrong(self, shop):
        shop = shop(partitions=1)
        now = datetime.now(UTC)
        events = {str(number): Event(str(number), number, now, 100 + number) for number in range(1, 4)}
        produce({"bootstrap.servers": shop.broker.address}, shop.topic, [event.text for event in events.values()])
        worker = shop.worker()
        shop.wait(shop.drained, SECONDS)
        shop.ended(worker)
        assert shop.found(events, now).bad == []
        never = Event("4", 99, now, 400)
        found = shop.found(events | {"4": never}, now)
        assert found.lost == ["4"]
        assert len(found.differences) == 4
        other = shop.found(events | {"1": events["1"]._replace(cents=999)}, now)
        assert {text.partition(":")[0] for text in other.differences} == {"landed", "served"}
        [file] = shop.landing.glob("stream-*.parquet")
        (shop.landing / file.name.replace("-0", "-1", 1)).write_bytes(file.read_bytes())
        assert sorted(shop.found(events, now).doubled[:3]) == ["1", "2", "3"]


class TestWorkers:
    def test_those_that_come_go_and_are_killed_under_load_lose_and_double_nothing(self, shop, record_property):
        shop = shop(shared=True)
        workers = [shop.worker()]
        producer = Producer(shop, 300)
        producer.start()
        time.sleep(3)
        workers += [shop.worker(), shop.worker()]
        shop.wait(lambda: shop.members() == 3, SECONDS)
        time.sleep(2)
        killed(workers[0])
        time.sleep(2)
        shop.ended(workers[1])
        workers.append(shop.worker())
        shop.wait(lambda: shop.members() == 2, SECONDS)
        time.sleep(2)
        events = producer.stopped()
        shop.wait(shop.drained, SECONDS)
        for worker in (workers[2], workers[3]):
            shop.ended(worker)
        found = shop.found(events, datetime.now(UTC))
        record_property("counts", f"Kafka, workers that come and go: {found.landed:,} of {found.sent:,} events landed")
        assert found.bad == []
        assert found.landed > 2000
        said = re.findall(r"([\d,]+) events, ", shop.logs())
        assert sum(count != "0" for count in said) > 1, "one worker has done all"

    @pytest.mark.parametrize("continuous", [False, True])
    def test_two_that_read_the_same_partitions_double_nothing(self, shop, continuous):
        shop = shop(continuous=continuous)
        workers = [shop.worker(), shop.worker()]
        producer = Producer(shop, 300)
        producer.start()
        time.sleep(6)
        events = producer.stopped()
        shop.wait(shop.drained, SECONDS)
        for worker in workers:
            shop.ended(worker)
        assert shop.found(events, datetime.now(UTC)).bad == []
        assert len(re.findall(r"[1-9][\d,]+ events, ", shop.logs())) == 2

    def test_they_wait_for_a_broker_that_is_killed_under_load(self, shop, broker, record_property):
        shop = shop(shared=True)
        workers = [shop.worker(), shop.worker()]
        producer = Producer(shop, 300)
        producer.start()
        for _ in range(2):
            time.sleep(4)
            broker.kill()
            time.sleep(1)
            broker.start()
        time.sleep(4)
        events = producer.stopped()
        seconds = shop.wait(shop.drained, SECONDS)
        for worker in workers:
            shop.ended(worker)
        found = shop.found(events, datetime.now(UTC))
        record_property("counts", f"Kafka, killed twice: all {found.landed:,} events landed, {seconds:.1f} s after")
        assert found.bad == []

    def test_bad_events_go_to_the_dead_letters_with_the_reason_and_stop_nothing(self, shop):
        shop = shop(partitions=1)
        now = datetime.now(UTC)
        good = [Event(str(number), 7, now, 100) for number in (1, 2)]
        row = json.loads(good[0].text)
        bad = [
            b"{no JSON",
            json.dumps({name: value for name, value in row.items() if name != "amount"}).encode(),
            json.dumps(row | {"amount": float("nan")}).encode(),
            json.dumps(row | {"user_id": "seven"}).encode(),
            json.dumps(row | {"timestamp": "3000-01-01T00:00:00Z"}).encode(),
        ]
        plain = {"bootstrap.servers": shop.broker.address}
        produce(plain, shop.topic, [good[0].text, *bad, good[1].text])
        worker = shop.worker()
        shop.wait(shop.drained, SECONDS)
        shop.ended(worker)
        assert shop.found({event.id: event for event in good}, now).bad == []
        buried = {message.value(): dict(message.headers()) for message in messages(plain, f"{shop.topic}.dead")}
        assert set(buried) == set(bad)
        assert all(headers["reason"] and headers["partition"] for headers in buried.values())
        assert [buried[text]["offset"] for text in bad] == [b"1", b"2", b"3", b"4", b"5"]

    def test_they_read_by_tls_with_a_password(self, shop, broker):
        options = dict(broker.secured)
        address = options.pop("bootstrap.servers")
        shop = shop(brokers=address, options=options)
        producer = Producer(shop, 100)
        producer.start()
        worker = shop.worker()
        time.sleep(3)
        events = producer.stopped()
        shop.wait(shop.drained, SECONDS)
        shop.ended(worker)
        assert shop.found(events, datetime.now(UTC)).bad == []
        assert broker.password not in shop.logs()
