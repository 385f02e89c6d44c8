"""The fast path of an online read: from a request to Feast's response, through Redis, without a detour.

It takes what is asked for nearly always: feature views with one and the same int64 join key, and ids that are Python
ints. The stored bytes of values and timestamps are parts of the response as they are, so it is put together as bytes
and parsed once, by protobuf. What this path can't take, or finds not readable, it leaves to Feast's own (`NotTaken`);
the answer is the same.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import islice
from typing import Any

from feast import RepoConfig, ValueType
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _mmh3, compute_versioned_name
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from parity.definition.instants import EPOCH, FIRST_INSTANT, LAST_INSTANT, MICROSECOND

FIRST_SECOND, LAST_SECOND = ((instant - EPOCH) // timedelta(seconds=1) for instant in (FIRST_INSTANT, LAST_INSTANT))
INT64 = struct.Struct("<q")
INT64_HEADER = struct.pack("<II", ValueType.INT64.value, INT64.size)  # before the eight bytes of an int64 in a key


class NotTaken(Exception):
    """This request, or what Redis replied to it, is not for the fast path."""


def key_prefix(join_key: str) -> bytes:
    """What comes before the eight bytes of an int64 id in the Redis key of an entity with this join key."""
    return serialize_entity_key_prefix([join_key]) + INT64_HEADER


class _View:
    """What is asked of one feature view: its fields in a Redis hash, the event timestamp last, and its ttl."""

    def __init__(self, config: RepoConfig, view: Any, features: list[str]):
        stored_as = compute_versioned_name(view, config.registry.enable_online_feature_view_versioning)
        self.features = len(features)
        self.fields = [*(_mmh3(f"{stored_as}:{feature}") for feature in features), f"_ts:{stored_as}"]
        ttl = getattr(view, "ttl", None)  # an on-demand view that is written has none
        self.ttl = ttl // MICROSECOND if ttl else None


class FastRead:
    """A resolved request for features, to be asked of any ids.

    ``context`` is what Feast resolves a request to (`feast.utils._get_cached_request_context`). Raises `NotTaken`.
    """

    def __init__(self, config: RepoConfig, context: tuple, full_feature_names: bool):
        _, on_demand, _, entity_types, _, groups, _, request_data, entityless = context
        join_keys = {key for view, _ in groups for key in view.join_keys}
        renamed = any(view.projection.join_key_map for view, _ in groups)
        if on_demand or request_data or entityless or renamed or len(join_keys) != 1:
            raise NotTaken
        [self.join_key] = join_keys
        if entity_types.get(self.join_key) != ValueType.INT64 or config.entity_key_serialization_version != 3:
            raise NotTaken
        self.context = context
        self._views = [_View(config, view, names) for view, names in groups]
        self._prefix, self._suffix = key_prefix(self.join_key), config.project.encode()
        response = GetOnlineFeaturesResponse()
        response.metadata.feature_names.val.append(self.join_key)
        for view, names in groups:
            prefix = f"{view.projection.name_to_use()}__" if full_feature_names else ""
            response.metadata.feature_names.val.extend(prefix + name for name in names)
        self._metadata = response.SerializeToString()

    def ids(self, entity_rows: Any) -> list[int]:
        """Take the ids out of ``entity_rows``, in either of the forms that Feast takes. Raises `NotTaken`."""
        if isinstance(entity_rows, list):
            if not entity_rows or not all(len(row) == 1 for row in entity_rows):
                raise NotTaken
            ids = [row.get(self.join_key) for row in entity_rows]
        else:
            ids = entity_rows.get(self.join_key) if len(entity_rows) == 1 else None
        if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
            raise NotTaken
        return ids

    def commands(self, ids: Sequence[int]) -> list[tuple[bytes, list]]:
        """What to ask Redis: key and fields, per view and id."""
        try:
            keys = [self._prefix + INT64.pack(i) + self._suffix for i in ids]
        except struct.error:  # an id that does not fit
            raise NotTaken from None
        return [(key, view.fields) for view in self._views for key in keys]

    def response(self, ids: Sequence[int], replies: Sequence[list], now: datetime, types: dict) -> OnlineResponse:
        """Put the replies together, as they are to be answered at the instant ``now``. Raises `NotTaken`."""
        present = (now - EPOCH) // MICROSECOND
        vectors = [
            _vector([Value(int64_val=i).SerializeToString() for i in ids], _PRESENT * len(ids), _EMPTY * len(ids))
        ]
        rest = iter(replies)
        for view in self._views:
            vectors += _vectors(view, list(islice(rest, len(ids))), present)
        try:
            return OnlineResponse(GetOnlineFeaturesResponse.FromString(self._metadata + b"".join(vectors)), types)
        except DecodeError:
            raise NotTaken from None


# Field numbers of FeatureVector: values 1, statuses 2, event timestamps 3. Of GetOnlineFeaturesResponse: results 2.
_VALUE, _STATUSES, _TIMESTAMP, _RESULT = b"\x0a", b"\x12", b"\x1a", b"\x12"
_LENGTH = [bytes([length]) for length in range(128)]
_EMPTY = _TIMESTAMP + _LENGTH[0]
_PRESENT, _NOT_FOUND, _OUTSIDE = (
    bytes([status]) for status in (FieldStatus.PRESENT, FieldStatus.NOT_FOUND, FieldStatus.OUTSIDE_MAX_AGE)
)


def _vectors(view: _View, rows: list[list], present: int) -> list[bytes]:
    """Encode a feature vector for each feature of a view. ``present`` is in microseconds since the epoch."""
    missing, timestamps = [], []
    for row in rows:
        stored = row[-1]
        if stored is None:
            missing.append(_NOT_FOUND)
            timestamps.append(_EMPTY)
            continue
        instant = _microseconds(stored)
        if instant > present:
            missing.append(_NOT_FOUND)
            timestamps.append(_EMPTY)
        else:
            expired = view.ttl is not None and present - instant > view.ttl
            missing.append(_OUTSIDE if expired else None)
            timestamps.append(_TIMESTAMP + _LENGTH[len(stored)] + stored)
    event_timestamps = b"".join(timestamps)
    vectors = []
    for place in range(view.features):
        values = [b"" if why or row[place] is None else row[place] for row, why in zip(rows, missing, strict=True)]
        statuses = [
            why or (_NOT_FOUND if row[place] is None else _PRESENT) for row, why in zip(rows, missing, strict=True)
        ]
        vectors.append(_vector(values, b"".join(statuses), event_timestamps))
    return vectors


def _vector(values: list[bytes], statuses: bytes, event_timestamps: bytes) -> bytes:
    try:
        encoded = b"".join([part for value in values for part in (_VALUE, _LENGTH[len(value)], value)])
    except IndexError:  # a long value
        raise NotTaken from None
    vector = encoded + _STATUSES + _varint(len(statuses)) + statuses + event_timestamps
    return _RESULT + _varint(len(vector)) + vector


def _microseconds(stored: bytes) -> int:
    """Read a stored timestamp; `NotTaken` for what no datetime can hold."""
    try:
        timestamp = Timestamp.FromString(stored)
    except DecodeError:
        raise NotTaken from None
    seconds, nanos = timestamp.seconds, timestamp.nanos
    if not FIRST_SECOND <= seconds <= LAST_SECOND or not 0 <= nanos < 10**9 or nanos % 1000 or len(stored) > 127:
        raise NotTaken
    return seconds * 1_000_000 + nanos // 1000


def _varint(number: int) -> bytes:
    if number < 128:
        return _LENGTH[number]
    encoded = bytearray()
    while number >= 128:
        encoded.append(number % 128 + 128)
        number //= 128
    return bytes([*encoded, number])
