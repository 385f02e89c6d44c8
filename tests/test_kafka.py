"""Events by a real Apache Kafka: workers added, killed and rebalanced, and a broker that dies, lose and double none."""

import pytest

from tests.brokers import kafka, needs_kafka

pytestmark = [pytest.mark.scale, needs_kafka]


@pytest.fixture(scope="module")
def broker(tmp_path_factory):
    with kafka(tmp_path_factory.mktemp("kafka")) as broker:
        yield broker


def produce(settings: dict, topic: str, texts: list[str]) -> None:
    from confluent_kafka import Producer

    producer = Producer({"acks": "all", "enable.idempotence": True} | settings)
    for text in texts:
        producer.produce(topic, text)
    assert producer.flush(60) == 0


def texts(settings: dict, topic: str) -> list[str]:
    """All that partition 0 of a topic holds."""
    from confluent_kafka import Consumer, TopicPartition

    consumer = Consumer({"group.id": "none", "enable.auto.commit": False} | settings)
    try:
        _, end = consumer.get_watermark_offsets(TopicPartition(topic, 0), timeout=30)
        consumer.assign([TopicPartition(topic, 0, 0)])
        return [message.value().decode() for message in consumer.consume(end, timeout=30)] if end else []
    finally:
        consumer.close()


class TestTheBroker:
    """What the tests rely on."""

    def test_it_has_after_a_kill_what_it_had_acknowledged(self, broker):
        broker.create("kept", 1)
        plain = {"bootstrap.servers": broker.address}
        produce(plain, "kept", [str(number) for number in range(1000)])
        broker.kill()
        broker.start()
        produce(plain, "kept", ["more"])
        assert texts(plain, "kept") == [*map(str, range(1000)), "more"]

    def test_it_is_reached_by_tls_with_a_password_and_by_no_other(self, broker):
        from confluent_kafka import Consumer, KafkaException

        broker.create("secret", 1)
        produce(broker.secured, "secret", ["hidden"])
        assert texts(broker.secured, "secret") == ["hidden"]
        wrong = Consumer(broker.secured | {"group.id": "none", "sasl.password": "wrong", "log_level": 0})
        with pytest.raises(KafkaException):
            wrong.list_topics(timeout=3)
        wrong.close()
