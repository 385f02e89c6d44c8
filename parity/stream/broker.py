"""What a worker needs of a broker, be it Redis Streams or Kafka: events of partitions, in order, from any offset on."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

from parity.stream.events import Bad, Raw


class Lost(Exception):
    """A broker, or Redis, does not answer. It may come back: the message says who and why, without a secret."""


class Lag(NamedTuple):
    """How far behind the end of a partition reading is."""

    events: int
    seconds: float


class Broker(Protocol):
    """The partitions that a worker reads. Every method may raise `Lost`, or `UserError` for what does not pass."""

    place: str
    """Where it is, for people."""

    def start(self, reached: Callable[[], Mapping[str, int]], skip_lost: bool, revoked: Callable[[], None]) -> None:
        """Begin to read behind ``reached``, the offsets that have landed, less what is to be read once more.

        `UserError` if entries behind them are gone that were not read, unless they are to be skipped. ``revoked`` is
        called before partitions are given to another worker.
        """

    def read(self, seconds: float) -> list[Raw]:
        """What there is now, at most a micro-batch; wait for so long if there is nothing."""

    def rewind(self) -> None:
        """Begin anew as `start` does."""

    def commit(self, until: Mapping[str, int]) -> None:
        """Note, for others to see, that all up to these offsets has landed."""

    def lag(self) -> dict[str, Lag]:
        """By partition, as far as is known without asking."""

    def bury(self, bad: Sequence[Bad]) -> None:
        """Put events among the dead letters, each with its place and the reason."""

    def send(self, events: Sequence[tuple[int, bytes]]) -> None:
        """Put events into partitions of these numbers; those beyond the last one go round."""

    def partitions(self) -> int:
        """How many there are."""

    def ping(self) -> None:
        """Ask for a sign of life."""

    def close(self) -> None:
        """Let go of it."""
