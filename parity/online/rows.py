"""Rows as Redis has them: one hash for each entity, with the fields of all of its feature views. It knows no Feast.

The field of a feature is the hash of its view's and its own name, and its content a protobuf Value. Beside the features
of a view lies the instant of their event, a protobuf Timestamp, by which is decided what is served (`standing`).
"""

import logging
import struct
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import mmh3
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from redis.exceptions import InvalidResponse, ResponseError

from parity.definition.instants import EPOCH, FIRST_INSTANT, LAST_INSTANT, MICROSECOND

logger = logging.getLogger(__name__)

LONGEST_REPORTED = 200
"""Bytes of what is not readable that are logged."""
UNREADABLE = datetime.min.replace(tzinfo=UTC)
"""Stands for a stored event timestamp that can't be read."""
FIRST_SECOND, LAST_SECOND = ((instant - EPOCH) // timedelta(seconds=1) for instant in (FIRST_INSTANT, LAST_INSTANT))
EVENT = "_ts:"
"""What the field of an event timestamp begins with."""
STEPS, STATE, APPLIED = "_steps:", "_state:", "_applied:"
"""What the fields begin with that a view may have beside it: see `parity.online.steps`, and `parity.stream`."""
NOTHING = b""
"""A Value of no kind, which is how null and NaN are stored."""

# How protobuf begins a field: string_val, int32_val, int64_val and double_val of a Value, seconds and nanos of a
# Timestamp.
TEXT, INT32, INT64, DOUBLE, SECONDS, NANOS = 0x12, 0x18, 0x20, 0x29, 0x08, 0x10
LENGTH = [bytes([length]) for length in range(128)]

SERVED, UNKNOWN, EXPIRED = "served", "unknown", "expired"


def standing(event: int | None, ttl: int | None, present: int, tolerance: int = 0) -> str:
    """What becomes of a row that is asked for: `SERVED`, `UNKNOWN` like none at all, or `EXPIRED`.

    It is served from its ``event`` on, or from ``tolerance`` before it, until it is older than the ``ttl``; its age may
    be the ttl exactly. All are in microseconds, instants since 1970; None for an event that is not there or can't be
    read, and for no ttl.
    """
    if event is None or event - present > tolerance:
        return UNKNOWN
    return EXPIRED if ttl is not None and present - event > ttl else SERVED


def microseconds(time: timedelta | None) -> int | None:
    """A ttl in microseconds; None for one of nothing, which is none."""
    return time // MICROSECOND if time else None


def nanoseconds_of(stored: bytes | None) -> int | None:
    """A stored event timestamp in nanoseconds since 1970; None if there is none, or it can't be read."""
    if stored is None:
        return None
    try:
        timestamp = Timestamp.FromString(stored)
    except DecodeError:
        timestamp = Timestamp(nanos=-1)
    seconds, nanos = timestamp.seconds, timestamp.nanos
    if not FIRST_SECOND <= seconds <= LAST_SECOND or not 0 <= nanos < 10**9:
        report("a stored event timestamp is not readable: %r", stored)
        return None
    return seconds * 10**9 + nanos


def instant_of(stored: bytes | None) -> int | None:
    """The same in microseconds, truncated."""
    nanoseconds = nanoseconds_of(stored)
    return None if nanoseconds is None else nanoseconds // 1000


def read_timestamp(stored: bytes | None) -> datetime | None:
    """Read a stored event timestamp: None where there is none, `UNREADABLE` for one that can't be read."""
    instant = instant_of(stored)
    if instant is None:
        return None if stored is None else UNREADABLE
    return EPOCH + instant * MICROSECOND


def timestamp_bytes(instant: datetime) -> bytes:
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp.SerializeToString()


def instant_bytes(instant: int) -> bytes:
    """The protobuf Timestamp of an instant in microseconds since 1970."""
    seconds, rest = divmod(instant, 1_000_000)
    stored = _SECONDS + varint(seconds) if seconds else b""
    return stored + _NANOS + varint(rest * 1000) if rest else stored


_SECONDS, _NANOS = LENGTH[SECONDS], LENGTH[NANOS]


def varint(number: int) -> bytes:
    """An int64, or a length, as protobuf writes it: seven bits a byte, the lowest first."""
    if 0 <= number < 128:
        return LENGTH[number]
    if number < 0:
        number += 2**64
    encoded = bytearray()
    while number >= 128:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


class Fields(dict):
    """The names of a feature view's fields in a Redis hash, by feature, and those that it has beside them."""

    def __init__(self, view: str):
        self._view = view
        self.timestamp, self.steps = f"{EVENT}{view}", f"{STEPS}{view}"
        self.state, self.applied = f"{STATE}{view}", f"{APPLIED}{view}"
        self.beside = [self.steps, self.state, self.applied]

    def __missing__(self, feature: str) -> bytes:
        return self.setdefault(feature, struct.pack("<I", mmh3.hash(f"{self._view}:{feature}", signed=False)))

    def of(self, features: Iterable[str]) -> list:
        """The fields of ``features``, and the event timestamp's, first."""
        return [self.timestamp, *(self[feature] for feature in features)]


def hash_fields(command: tuple[bytes, list], reply: Any) -> list:
    """What a hash holds: nothing, if the key holds something else. Raises what Redis could not answer."""
    key, fields = command
    if is_wrong_type(reply):
        report("the key %r holds no hash", key)
        return [None] * len(fields)
    reply = unless_error(reply)
    if not isinstance(reply, list) or len(reply) != len(fields) or not {*map(type, reply)} <= {bytes, type(None)}:
        raise InvalidResponse(f"HMGET of {len(fields)} fields was answered by {type(reply).__name__} {reply!r:.100}")
    return reply


def is_wrong_type(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


def unless_error(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def report(message: str, stored: bytes) -> None:
    """Log what is wrong with something that is ``stored``, once and not at every read of it."""
    _report_once(message, stored[:LONGEST_REPORTED])


@lru_cache(1024)
def _report_once(message: str, stored: bytes) -> None:
    logger.error(message, stored)
