"""Events from a topic of Kafka, by librdkafka (confluent-kafka, which requirements-kafka.txt installs).

All partitions are read, or those that are named; with a ``group``, those that Kafka gives to this worker. In either
case reading begins where events have landed: what is committed to Kafka is for others to see, and nothing depends on
it.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from parity.definition.instants import utc_now
from parity.edge.errors import UserError
from parity.stream.broker import Lag, Lost, Progress, Reached
from parity.stream.configuration import StreamSource
from parity.stream.events import Bad, Raw
from parity.transactions.landed import NOWHERE

SECONDS_TO_ANSWER = 5
SECONDS_TO_SEND = 30


def _library() -> Any:
    try:
        import confluent_kafka  # an extra
    except ModuleNotFoundError:
        raise UserError(
            "confluent-kafka is not installed, which reads Kafka. Run: pip install -r requirements-kafka.txt"
        ) from None
    return confluent_kafka


class KafkaBroker:
    """The topic of a source."""

    def __init__(self, source: StreamSource, only: Sequence[int] | None = None):
        self._kafka = _library()
        self.source, self.place = source, f"Kafka at {source.brokers}"
        if only is not None and source.group:
            raise source.refuse("its group has Kafka say which partitions are read. Leave out --partitions, or group.")
        self._only = only
        self._trouble: str | None = None
        self._assigned: list[int] = []
        self._read_up_to: dict[int, tuple[int, float]] = {}
        self._producer: Any = None
        self._consumer: Any = None

    # Connections

    def _options(self) -> dict[str, Any]:
        return {
            "bootstrap.servers": self.source.brokers,
            "client.id": "feature-store",
            "error_cb": self._on_error,
            "log_level": 0,
            "logger": _silence(),
            **self.source.options,
        }

    def _on_error(self, error: Any) -> None:
        if error.code() in (self._kafka.KafkaError._ALL_BROKERS_DOWN, self._kafka.KafkaError._AUTHENTICATION):
            self._trouble = error.str()
        if error.fatal() or error.code() == self._kafka.KafkaError._AUTHENTICATION:
            self._trouble = error.str()

    def _lost(self, error: object) -> Lost:
        told = error.args[0].str() if isinstance(error, self._kafka.KafkaException) else str(error)
        return Lost(self.source.without_secrets(f"{self.place} does not answer: {told}".rstrip(".")))

    def _made(self, kind: Any, options: dict[str, Any]) -> Any:
        try:
            return kind(options)
        except (self._kafka.KafkaException, TypeError, ValueError) as error:
            told = error.args[0].str() if isinstance(error, self._kafka.KafkaException) else str(error)
            raise self.source.refuse(f"its options can't be used: {told}") from None

    @property
    def consumer(self) -> Any:
        if self._consumer is None:
            more = {
                "group.id": self.source.group or f"feature-store-{self.source.name}",
                "enable.auto.commit": False,
                "auto.offset.reset": "error",
                "enable.partition.eof": False,
            }
            self._consumer = self._made(self._kafka.Consumer, self._options() | more)
        return self._consumer

    @property
    def producer(self) -> Any:
        if self._producer is None:
            more = {"enable.idempotence": True, "linger.ms": 0, "delivery.timeout.ms": SECONDS_TO_SEND * 1000}
            self._producer = self._made(self._kafka.Producer, more | self._options())
        return self._producer

    def ping(self) -> None:
        self._metadata(self.consumer)
        self._trouble = None

    def _metadata(self, client: Any) -> dict[int, Any]:
        """The partitions of the topic."""
        try:
            topic = client.list_topics(self.source.topic, timeout=SECONDS_TO_ANSWER).topics[self.source.topic]
        except self._kafka.KafkaException as error:
            raise self._lost(error) from None
        if topic.error is not None:
            if topic.error.retriable():
                raise self._lost(topic.error.str())
            advice = "Create it, or correct its name in stream.yaml"
            raise self.source.refuse(f"the topic {self.source.topic} can't be read: {topic.error.str()}. {advice}.")
        return topic.partitions

    def partitions(self) -> int:
        return len(self._metadata(self.producer))

    # Where to read

    def start(self, progress: Progress, skip_lost: bool) -> None:
        self._progress, self._skip_lost = progress, skip_lost
        there = sorted(self._metadata(self.consumer))
        if self.source.group:
            self.consumer.subscribe(
                [self.source.topic], on_assign=self._on_assign, on_revoke=self._on_revoke, on_lost=self._on_lost
            )
            return
        for number in self._only or ():
            if number not in there:
                raise self.source.refuse(
                    f"the topic {self.source.topic} has no partition {number}: {there[-1]} is the last."
                )
        self._assign(there if self._only is None else list(self._only))

    def rewind(self) -> None:
        if self._assigned:
            self._skip_lost = False
            self._assign(self._assigned)

    def _assign(self, numbers: Sequence[int]) -> None:
        reached = self._progress.reached()
        places = [self._place(number, reached) for number in numbers]
        self.consumer.assign(places)
        self._assigned = list(numbers)

    def _place(self, number: int, reached: Mapping[str, Reached]) -> Any:
        """Where to begin in a partition: behind what the rows online are sure to have, as far as the topic has it."""
        landed, kept, is_whole = reached.get(self.source.partition(number), Reached(NOWHERE, NOWHERE))
        partition = self._kafka.TopicPartition(self.source.topic, number)
        try:
            first, end = self.consumer.get_watermark_offsets(partition, timeout=SECONDS_TO_ANSWER)
        except self._kafka.KafkaException as error:
            raise self._lost(error) from None
        if landed != NOWHERE:
            self._require_whole(number, landed, first, end)
        if not is_whole and first > kept + 1:
            self._progress.refill(f"the topic {self.source.topic} has deleted events that the rows online had")
            kept = landed
        partition.offset = max(first, kept + 1)
        self._read_up_to[number] = partition.offset - 1, utc_now().timestamp()
        return partition

    def _require_whole(self, number: int, reached: int, first: int, end: int) -> None:
        """Refuse a partition that has lost events that were not read."""
        what = f"partition {number} of the topic {self.source.topic}"
        if end < reached + 1:
            raise self.source.refuse(
                f"{what} was made anew, or lost events: it ends at {end - 1}, and events up to {reached} had landed. "
                f"Write generation: {self.source.generation + 1} for this source, so that its events count from the "
                "beginning"
            )
        if first > reached + 1 and not self._skip_lost:
            raise self.source.refuse(
                f"{what} begins at {first} now, and was read up to {reached}: {first - reached - 1:,} events were "
                "deleted before they were read. Keep them longer (retention.ms), produce them once more, or go on "
                "without them: --skip-lost"
            )

    def _on_assign(self, _consumer: Any, partitions: list) -> None:
        self._assign([partition.partition for partition in partitions])

    def _on_revoke(self, _consumer: Any, _partitions: list) -> None:
        self._progress.settle()
        self._assigned = []

    def _on_lost(self, _consumer: Any, _partitions: list) -> None:
        self._assigned = []

    # Events

    def read(self, seconds: float) -> list[Raw]:
        consumer = self.consumer
        try:
            first = consumer.poll(seconds)
            if self._trouble and first is None:
                raise self._lost(self._trouble)
            messages = [] if first is None else [first, *consumer.consume(self.source.batch - 1, 0)]
        except self._kafka.KafkaException as error:
            raise self._lost(error) from None
        self._trouble = None if messages else self._trouble
        return self._raw(messages)

    def _raw(self, messages: Sequence[Any]) -> list[Raw]:
        found: dict[int, tuple[list[int], list[bytes | None]]] = {}
        for message in messages:
            if (error := message.error()) is not None:
                self._refuse(error, message)
                continue
            offsets, values = found.setdefault(message.partition(), ([], []))
            offsets.append(message.offset())
            values.append(message.value())
        for number, (offsets, _) in found.items():
            self._read_up_to[number] = offsets[-1], utc_now().timestamp()
        return [Raw(self.source.partition(number), *both) for number, both in found.items()]

    def _refuse(self, error: Any, message: Any) -> None:
        kinds = self._kafka.KafkaError
        if error.code() in (kinds._AUTO_OFFSET_RESET, kinds.OFFSET_OUT_OF_RANGE):
            number, reached = message.partition(), self._read_up_to.get(message.partition(), (NOWHERE, 0))[0]
            partition = self._kafka.TopicPartition(self.source.topic, number)
            first, end = self.consumer.get_watermark_offsets(partition, timeout=SECONDS_TO_ANSWER)
            self._skip_lost = False
            self._require_whole(number, reached, first, end)
        if error.fatal() or error.code() in (kinds.TOPIC_AUTHORIZATION_FAILED, kinds.GROUP_AUTHORIZATION_FAILED):
            raise self.source.refuse(f"{self.place} refuses to let {self.source.topic} be read: {error.str()}")
        raise self._lost(error.str())

    def commit(self, until: Mapping[str, int]) -> None:
        places = [
            self._kafka.TopicPartition(self.source.topic, number, offset + 1)
            for partition, offset in until.items()
            if (number := self.source.number_of(partition)) in self._assigned
        ]
        if places:
            try:
                self.consumer.commit(offsets=places, asynchronous=True)
            except self._kafka.KafkaException:
                return  # nothing depends on it, and the next one says more

    def lag(self) -> dict[str, Lag]:
        now, found = utc_now().timestamp(), {}
        for number in self._assigned:
            partition = self._kafka.TopicPartition(self.source.topic, number)
            try:
                _, end = self.consumer.get_watermark_offsets(partition, cached=True)
            except self._kafka.KafkaException:
                continue
            offset, when = self._read_up_to.get(number, (NOWHERE, now))
            behind = max(0, end - 1 - offset)
            found[self.source.partition(number)] = Lag(behind, now - when if behind else 0.0)
        return found

    # Sending

    def bury(self, bad: Sequence[Bad]) -> None:
        for one in bad:
            headers = {
                "reason": one.reason,
                "partition": one.partition,
                "offset": str(one.offset),
                "time": utc_now().isoformat(),
            }
            self._produce(self.source.dead_letters, one.value, headers=list(headers.items()))
        self._flush()

    def send(self, events: Sequence[tuple[int, bytes]]) -> None:
        count = self.partitions()
        for number, event in events:
            self._produce(self.source.topic, event, partition=number % count)
        self._flush()

    def _produce(self, topic: str, value: bytes | None, **options: Any) -> None:
        deadline = time.monotonic() + SECONDS_TO_SEND
        while True:
            try:
                self.producer.produce(topic, value, on_delivery=self._on_delivery, **options)
                self.producer.poll(0)
                return
            except BufferError:
                self.producer.poll(0.1)
                if time.monotonic() > deadline:
                    raise self._lost("it takes no more messages") from None
            except self._kafka.KafkaException as error:
                raise self._lost(error) from None

    def _on_delivery(self, error: Any, _message: Any) -> None:
        if error is not None:
            self._undelivered = error.str()

    _undelivered: str | None = None

    def _flush(self) -> None:
        left = self.producer.flush(SECONDS_TO_SEND)
        undelivered, self._undelivered = self._undelivered, None
        if left or undelivered:
            raise self._lost(undelivered or "messages were not delivered in time")

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()


def _silence() -> Any:
    """A logger that keeps librdkafka's lines, of which there are many while a broker is away, off the terminal."""
    logger = logging.getLogger("parity.stream.librdkafka")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False
    return logger
