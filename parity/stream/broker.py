"""What a worker needs of a broker, be it Redis Streams or Kafka: events of partitions, in order, from any offset on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from parity.stream.events import Bad, Raw


class Lost(Exception):
    """A broker, or Redis, does not answer. It may come back: the message says who and why, without a secret."""


class Lag(NamedTuple):
    """How far behind the end of a partition reading is."""

    events: int
    seconds: float


class Reached(NamedTuple):
    """How far the events of a partition were brought before."""

    landed: int
    """Up to which offset they have landed."""
    kept: int
    """Up to which offset the rows online surely have them. What comes after it is read once more."""
    is_whole: bool = True
    """Whether the rows are all there that were written until the last landing, as far as the online store knows."""


class Progress(Protocol):
    """What a broker asks of the worker that it serves."""

    def reached(self) -> Mapping[str, Reached]:
        """By partition. Those of which nothing has landed are left out."""

    def has_landed(self, partition: str, offsets: Sequence[int]) -> bool:
        """Whether an event of any of these offsets has."""

    def settle(self) -> None:
        """Land all that was applied: partitions are about to be given to another worker."""

    def refill(self, why: str) -> None:
        """Bring the rows online back from what has landed, as events that they had taken up can't be read again."""

    def is_emptied(self) -> bool:
        """Whether the online store has lost all that it had. It is refilled then."""


class Broker(Protocol):
    """The partitions that a worker reads. Every method may raise `Lost`, or `UserError` for what does not pass."""

    place: str
    """Where it is, for people."""

    def start(self, progress: Progress, skip_lost: bool) -> None:
        """Begin to read behind what the rows online are sure to have.

        `UserError` if events are gone that had not landed, unless they are to be skipped.
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
