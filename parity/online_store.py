"""The online store: Feast's Redis store, with the guarantees that keep serving equal to training.

feature_store.yaml names it, through Feast's own plug-in mechanism:

    online_store:
      type: parity.online_store.ParityRedisOnlineStore
      connection_string: localhost:6379

Keys, fields and bytes are those of Feast's stock Redis store, so either can read what the other wrote. It differs in
what it lets in and in what it gives out:

- A write is compared with what is stored and set in one atomic step inside Redis. The same instant or a newer one is
  let in (so a correction and an added feature arrive), an older one is not, however many writers there are.
- A value older than the feature view's ttl reads as null, OUTSIDE_MAX_AGE; its age may be the ttl exactly, as in the
  offline store. An unknown entity reads as null, NOT_FOUND, and so does what is not readable. A value from the
  future is neither written nor served.
- What was retracted offline can be taken out again (`retract`).
- Every call to Redis is bounded in time.
"""

import logging
import re
import struct
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Any, Literal

from feast import FeatureView, RepoConfig, utils
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, _versioned_fv_name
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value, ValueType
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff
from redis.retry import Retry

from parity.command import utc_now

logger = logging.getLogger(__name__)

TIMEOUTS = {"socket_timeout": 2, "socket_connect_timeout": 2}
"""Seconds that one attempt may take, unless the connection string says otherwise."""
RETRIES = 1
KEYS_PER_ROUND_TRIP = 1000
INT64_HEADER = struct.pack("<II", ValueType.INT64, 8)  # before the eight bytes of an int64 in an entity key
NOTHING = Value()
UNREADABLE = datetime.min.replace(tzinfo=UTC)
"""Stands for a stored event timestamp that can't be read."""

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

# A stored timestamp is a protobuf Timestamp: seconds (field 1) and nanoseconds (field 2), as varints, zeros left out.
# Seconds before 1970 are a negative int64: ten bytes in two's complement, read here by their complement because a
# number in Lua is exact up to 2^53 only. Bytes that are no timestamp are older than none, so a write mends them.
_READ_TIMESTAMP = """
local function varint(bytes, at)
  local value, complement, scale, length = 0, 0, 1, 0
  while true do
    local byte = string.byte(bytes, at + length)
    if not byte then return nil end
    length = length + 1
    value = value + (byte % 128) * scale
    complement = complement + (127 - byte % 128) * scale
    if byte < 128 then break end
    scale = scale * 128
    if length == 9 then
      return -(complement + 1), at + 10
    end
  end
  return value, at + length
end
local function timestamp(bytes)
  local seconds, nanos, at = 0, 0, 1
  while at <= #bytes do
    local tag, value = string.byte(bytes, at), nil
    value, at = varint(bytes, at + 1)
    if tag == 8 then seconds = value elseif tag == 16 then nanos = value else return nil end
    if not value then return nil end
  end
  return seconds, nanos
end
local function older(a, b)
  local a_seconds, a_nanos = timestamp(a)
  local b_seconds, b_nanos = timestamp(b)
  if not b_seconds then return false end
  return a_seconds < b_seconds or (a_seconds == b_seconds and a_nanos < b_nanos)
end
"""

# KEYS: the entity. ARGV: the present, then the fields to set, the event timestamp's name and bytes first.
# A stored timestamp that lies in the future was let in by another writer and must not shut out the present.
COMPARE_AND_SET = (
    _READ_TIMESTAMP
    + """
local stored = redis.call('HGET', KEYS[1], ARGV[2])
if stored and stored ~= ARGV[3] and older(ARGV[3], stored) and not older(ARGV[1], stored) then
  return 0
end
redis.call('HSET', KEYS[1], unpack(ARGV, 2))
return 1
"""
)

# KEYS: the entity. ARGV: the event timestamp's name, its bytes as last seen, the fields to delete.
COMPARE_AND_DELETE = """
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[1], unpack(ARGV, 3))
return 1
"""


class ParityRedisOnlineStoreConfig(RedisOnlineStoreConfig):
    """The options of Feast's stock Redis store; ``skip_dedup`` has no effect, since every write is compared."""

    type: Literal["parity.online_store.ParityRedisOnlineStore"] = "parity.online_store.ParityRedisOnlineStore"


class ParityRedisOnlineStore(RedisOnlineStore):
    """See the module's docstring. ``now`` is the store's clock, aware UTC; who asks about another instant sets it."""

    now: Callable[[], datetime] = staticmethod(utc_now)

    # Connections

    @staticmethod
    def _parse_connection_string(connection_string: str) -> tuple[list[dict], dict[str, Any]]:
        nodes, options = RedisOnlineStore._parse_connection_string(connection_string)
        return nodes, TIMEOUTS | options

    def _get_client(self, online_store_config: RedisOnlineStoreConfig):
        if not self._client:
            super()._get_client(online_store_config).set_retry(Retry(_backoff(), RETRIES))
        return self._client

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig):
        if not self._client_async:
            (await super()._get_client_async(online_store_config)).set_retry(AsyncRetry(_backoff(), RETRIES))
        return self._client_async

    def ping(self, config: RepoConfig) -> None:
        """Ask Redis for a sign of life; raises `redis.RedisError` if none comes in time."""
        self._get_client(config.online_store).ping()

    def server_version(self, config: RepoConfig) -> str:
        return self._get_client(config.online_store).info("server")["redis_version"]

    # Writing

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Write (entity key, values, event timestamp, created timestamp) rows, each if nothing newer is stored."""
        client = self._get_client(config.online_store)
        compare_and_set = client.register_script(COMPARE_AND_SET)
        for rows in _batches(self._encode(config, table, data)):
            with client.pipeline(transaction=False) as pipeline:
                for key, arguments in rows:
                    compare_and_set([key], arguments, pipeline)
                    self._expire(config, pipeline, key)
                pipeline.execute()
            if progress:
                progress(len(rows))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """The same, through the asynchronous client."""
        client = await self._get_client_async(config.online_store)
        compare_and_set = client.register_script(COMPARE_AND_SET)
        for rows in _batches(self._encode(config, table, data)):
            async with client.pipeline(transaction=False) as pipeline:
                for key, arguments in rows:
                    await compare_and_set([key], arguments, pipeline)
                    self._expire(config, pipeline, key)
                await pipeline.execute()
            if progress:
                progress(len(rows))

    def _encode(self, config: RepoConfig, table: FeatureView, data: list[Row]) -> Iterator[tuple[bytes, list]]:
        """Give each row's key and script arguments, in stock's bytes; leave out, and tell of, rows from the future."""
        now, from_the_future = self.now(), 0
        present, fields = _timestamp_bytes(now), _Fields(config, table)
        for entity_key, values, event_timestamp, _ in data:
            event_timestamp = utils.make_tzaware(event_timestamp)
            if event_timestamp > now:
                from_the_future += 1
                continue
            arguments = [present, fields.timestamp, _timestamp_bytes(event_timestamp)]
            for feature, value in values.items():
                arguments += [fields[feature], value.SerializeToString()]
            yield _redis_key(config.project, entity_key, config.entity_key_serialization_version), arguments
        if from_the_future:
            logger.warning("%s: %d rows from after %s were not written online", table.name, from_the_future, now)

    @staticmethod
    def _expire(config: RepoConfig, pipeline, key: bytes) -> None:
        if config.online_store.key_ttl_seconds:
            pipeline.expire(key, config.online_store.key_ttl_seconds)

    # Reading

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read (event timestamp, values) per entity key: (None, None) if unknown, no values if older than the ttl."""
        read = _Read(config, table, entity_keys, requested_features)
        return read.rows(self._read_hash_fields(config, read.commands), self.now())

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """The same, through the asynchronous client."""
        read = _Read(config, table, entity_keys, requested_features)
        return read.rows(await self._read_hash_fields_async(config, read.commands), self.now())

    async def _read_hash_fields_async(self, config: RepoConfig, commands: list[tuple[bytes, list]]) -> list[list]:
        client = await self._get_client_async(config.online_store)
        async with client.pipeline(transaction=False) as pipeline:
            for key, fields in commands:
                pipeline.hmget(key, fields)
            return await pipeline.execute()

    def _read_features_per_fv(
        self, config, grouped_refs, join_key_values, entity_name_to_join_key_map, response, full_names, versions
    ) -> None:
        reads = _plan(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        replies = iter(self._read_hash_fields(config, [command for read, *_ in reads for command in read.commands]))
        _answer(reads, replies, self.now(), response, full_names, versions)

    async def _read_features_per_fv_async(
        self, config, grouped_refs, join_key_values, entity_name_to_join_key_map, response, full_names, versions
    ) -> None:
        reads = _plan(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        commands = [command for read, *_ in reads for command in read.commands]
        _answer(
            reads,
            iter(await self._read_hash_fields_async(config, commands)),
            self.now(),
            response,
            full_names,
            versions,
        )

    # Looking through what is stored

    def inspect(
        self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey]
    ) -> list[tuple[datetime | None, dict[str, Value]]]:
        """Read (event timestamp, values) per entity key as they are stored, whether or not they are fit to be served.

        What is stored and not readable comes as `UNREADABLE`, or as a value of no kind.
        """
        read = _Read(config, table, entity_keys, None)
        return [read.stored(reply) for reply in self._read_hash_fields(config, read.commands)]

    def stored(self, config: RepoConfig, table: FeatureView) -> Iterator[tuple[EntityKey, datetime]]:
        """Go through every entity that has a row of ``table`` in Redis, fit to be served or not, in no order.

        One whose event timestamp is not readable comes with `UNREADABLE`.
        The other keys of the same Redis, also those of a project whose name ends like this one's, are passed over.
        """
        client, timestamp_field = self._get_client(config.online_store), _Fields(config, table).timestamp
        for batch in _batches(self._keys(config, table.join_keys)):
            with client.pipeline(transaction=False) as pipeline:
                for key, _ in batch:
                    pipeline.hget(key, timestamp_field)
                for (_, entity_key), timestamp in zip(batch, pipeline.execute(), strict=True):
                    if timestamp is not None:
                        yield entity_key, _datetime(timestamp)

    def _keys(self, config: RepoConfig, join_keys: list[str]) -> Iterator[tuple[bytes, EntityKey]]:
        project = config.project.encode()
        prefix = serialize_entity_key_prefix(join_keys)
        pattern = b"".join([_GLOB.sub(rb"\\\g<0>", prefix), b"*", _GLOB.sub(rb"\\\g<0>", project)])
        for key in self._get_client(config.online_store).scan_iter(pattern, count=KEYS_PER_ROUND_TRIP):
            if entity_key := _entity_key(key[: -len(project)], join_keys, prefix):
                yield key, entity_key

    def retract(self, config: RepoConfig, table: FeatureView, rows: Iterable[tuple[EntityKey, datetime]]) -> int:
        """Delete the rows of ``table`` for these entities, each only while its stored event timestamp is the given one.

        Returns how many were deleted. Other feature views of the entities keep their rows.
        """
        client, fields = self._get_client(config.online_store), _Fields(config, table)
        compare_and_delete = client.register_script(COMPARE_AND_DELETE)
        doomed = [fields.timestamp, *(fields[feature.name] for feature in table.features)]
        deleted = 0
        for batch in _batches(rows):
            with client.pipeline(transaction=False) as pipeline:
                for entity_key, timestamp in batch:
                    key = _redis_key(config.project, entity_key, config.entity_key_serialization_version)
                    compare_and_delete([key], [fields.timestamp, _timestamp_bytes(timestamp), *doomed], pipeline)
                deleted += sum(pipeline.execute())
        return deleted

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete every row of ``table`` (`feast apply` asks, once a view is gone), and none of another project."""
        self.retract(config, table, self.stored(config, table))

    def delete_entity_values(self, config: RepoConfig, join_keys: list[str]) -> None:
        """Delete every entity with these join keys (`feast teardown` asks), and none of another project."""
        client = self._get_client(config.online_store)
        for batch in _batches(self._keys(config, join_keys)):
            with client.pipeline(transaction=False) as pipeline:
                for key, _ in batch:
                    pipeline.delete(key)
                pipeline.execute()


class _Fields(dict):
    """The names of a feature view's fields in a Redis hash, by feature, and that of its event timestamp."""

    def __init__(self, config: RepoConfig, table: FeatureView):
        self._view = _versioned_fv_name(table, config)
        self.timestamp = f"_ts:{self._view}"

    def __missing__(self, feature: str) -> bytes:
        return self.setdefault(feature, _mmh3(f"{self._view}:{feature}"))


class _Read:
    """What to ask Redis for some entities of one feature view, and what its replies mean at an instant."""

    def __init__(self, config: RepoConfig, table: FeatureView, entity_keys, requested_features: list[str] | None):
        self.table = table
        self.features = requested_features or [feature.name for feature in table.features]
        fields = _Fields(config, table)
        names = [*(fields[feature] for feature in self.features), fields.timestamp]
        keys = (_redis_key(config.project, key, config.entity_key_serialization_version) for key in entity_keys)
        self.commands = [(key, names) for key in keys]

    def rows(self, replies: Iterable[list], now: datetime) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        return [self._row(reply, now) for reply in replies]

    def stored(self, reply: list) -> tuple[datetime | None, dict[str, Value]]:
        *values, timestamp = reply
        return _datetime(timestamp), {
            feature: _value(value) for feature, value in zip(self.features, values, strict=True) if value is not None
        }

    def _row(self, reply: list, now: datetime) -> tuple[datetime | None, dict[str, Value] | None]:
        event_timestamp, values = self.stored(reply)
        if event_timestamp in (None, UNREADABLE) or event_timestamp > now:
            return None, None
        if self.table.ttl and now - event_timestamp > self.table.ttl:
            return event_timestamp, None
        return event_timestamp, {feature: value for feature, value in values.items() if value is not NOTHING}


def _plan(config: RepoConfig, grouped_refs, join_key_values, entity_name_to_join_key_map) -> list[tuple]:
    reads = []
    for table, features in grouped_refs:
        entities, places, length = utils._get_unique_entities(table, join_key_values, entity_name_to_join_key_map)
        reads.append((_Read(config, table, utils._get_entity_key_protos(entities), features), places, length))
    return reads


def _answer(
    reads: list[tuple], replies: Iterator[list], now: datetime, response, full_names: bool, versions: bool
) -> None:
    for read, places, length in reads:
        rows = read.rows(islice(replies, len(read.commands)), now)
        utils._populate_response_from_feature_data(
            read.features, rows, places, response, full_names, read.table, length, versions
        )
        # Feast's own code knows PRESENT and NOT_FOUND only.
        expired = [i for row, at in zip(rows, places, strict=True) if row[0] and row[1] is None for i in at]
        for vector in response.results[-len(read.features) :]:
            for i in expired:
                vector.statuses[i] = FieldStatus.OUTSIDE_MAX_AGE


def _entity_key(serialized: bytes, join_keys: list[str], prefix: bytes) -> EntityKey | None:
    """Read an entity key back, whose serialization begins with ``prefix``; None for bytes that are not exactly one."""
    if len(join_keys) == 1 and len(serialized) == len(prefix) + len(INT64_HEADER) + 8:
        head, number = serialized[:-8], serialized[-8:]
        if head == prefix + INT64_HEADER:  # by far the most common, and read many times faster than by Feast
            value = Value(int64_val=int.from_bytes(number, "little", signed=True))
            return EntityKey(join_keys=join_keys, entity_values=[value])
    try:
        entity_key = deserialize_entity_key(serialized)
    except (ValueError, struct.error):
        return None
    return entity_key if serialize_entity_key(entity_key) == serialized else None


def _timestamp_bytes(instant: datetime) -> bytes:
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp.SerializeToString()


def _datetime(timestamp_bytes: bytes | None) -> datetime | None:
    """Read a stored timestamp; None where there is none."""
    try:
        return None if timestamp_bytes is None else Timestamp.FromString(timestamp_bytes).ToDatetime(UTC)
    except (DecodeError, ValueError, OverflowError):
        logger.error("a stored event timestamp is not readable: %r", timestamp_bytes)
        return UNREADABLE


def _value(value_bytes: bytes) -> Value:
    try:
        return Value.FromString(value_bytes)
    except DecodeError:
        logger.error("a stored value is not readable: %r", value_bytes)
        return NOTHING


def _batches(items: Iterable) -> Iterator[list]:
    items = iter(items)
    while batch := list(islice(items, KEYS_PER_ROUND_TRIP)):
        yield batch


def _backoff() -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(base=0.05, cap=0.5)


_GLOB = re.compile(rb"[*?\[\]\\]")
