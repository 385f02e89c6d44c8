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

import hashlib
import logging
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, islice
from operator import methodcaller
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import redis
import redis.asyncio
from feast import FeatureService, FeatureView, RepoConfig, metrics, utils
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import (
    RedisClient,
    RedisOnlineStore,
    RedisOnlineStoreConfig,
    RedisType,
    _versioned_fv_name,
)
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from pydantic import ConfigDict
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.exceptions import NoScriptError
from redis.retry import Retry

from parity.command import utc_now
from parity.configuration import connection
from parity.online_columns import decode_timestamps, encode_keys, encode_timestamps, encode_values, takes
from parity.online_read import (
    INT64_HEADER,
    FastRead,
    NotTaken,
    key_prefix,
)
from parity.transactions import EPOCH, MICROSECOND

logger = logging.getLogger(__name__)

TIMEOUTS = {"socket_timeout": 2, "socket_connect_timeout": 2}
"""Seconds that one attempt may take, unless the connection string says otherwise."""
RETRIES = 1
KEYS_PER_ROUND_TRIP = 1000
KEYS_PER_SCRIPT = 250
"""So many keys are written by one call, during which Redis does nothing else; it takes less than a millisecond."""
NOTHING = Value()
UNREADABLE = datetime.min.replace(tzinfo=UTC)
"""Stands for a stored event timestamp that can't be read."""

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]

# A stored timestamp is a protobuf Timestamp: seconds (field 1) and nanoseconds (field 2), as varints, zeros left out.
# Seconds before 1970 are a negative int64: ten bytes in two's complement, read here by their complement because a
# number in Lua is exact up to 2^53 only. What is less than a microsecond is left aside, as everywhere. Bytes that are
# no timestamp are older than none, so a write mends them.
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
    if not value then return nil end
    if tag == 8 then seconds = value elseif tag == 16 then nanos = value - value % 1000 else return nil end
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

# KEYS: entities. ARGV: the present; seconds to live, or 0; the number of fields; their names, the event timestamp's
# first; then the fields of each entity. Returns how many entities were written.
# A stored timestamp that lies in the future was let in by another writer and must not shut out the present.
COMPARE_AND_SET = (
    _READ_TIMESTAMP
    + """
local present, seconds, fields, written, row = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), 0, {}
for field = 1, fields do
  row[2 * field - 1] = ARGV[3 + field]
end
for i, key in ipairs(KEYS) do
  local before = 3 + fields * i
  local event, stored = ARGV[before + 1], redis.call('HGET', key, ARGV[4])
  if not (stored and stored ~= event and older(event, stored) and not older(present, stored)) then
    for field = 1, fields do
      row[2 * field] = ARGV[before + field]
    end
    redis.call('HSET', key, unpack(row))
    if seconds > 0 then
      redis.call('EXPIRE', key, seconds)
    end
    written = written + 1
  end
end
return written
"""
)

# ARGV: a cursor, a pattern, a count, and a field. Returns the next cursor, the keys, and that field of each.
SCAN = """
local cursor, keys = unpack(redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3]))
local fields = {}
for i, key in ipairs(keys) do
  fields[i] = redis.call('HGET', key, ARGV[4])
end
return {cursor, keys, fields}
"""

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

    model_config = ConfigDict(hide_input_in_errors=True)  # the connection string holds secrets

    type: Literal["parity.online_store.ParityRedisOnlineStore"] = "parity.online_store.ParityRedisOnlineStore"


class ParityRedisOnlineStore(RedisOnlineStore):
    """See the module's docstring. ``now`` is the store's clock, aware UTC; who asks about another instant sets it."""

    now: Callable[[], datetime] = staticmethod(utc_now)

    def __init__(self):
        super().__init__()
        self._reads: dict[tuple, tuple[FastRead, dict]] = {}

    # Connections

    @staticmethod
    def _parse_connection_string(connection_string: str) -> tuple[list[dict], dict[str, Any]]:
        nodes, options = connection(connection_string)
        options = TIMEOUTS | options | {"decode_responses": False}
        return [dict(zip(("host", "port"), node, strict=False)) for node in nodes], options

    def _get_client(self, online_store_config: RedisOnlineStoreConfig):
        if not self._client:
            if online_store_config.redis_type == RedisType.redis_sentinel:
                master = self._sentinel(redis.Sentinel, online_store_config, Retry(NoBackoff(), 0))
                self._client = master.master_for(online_store_config.sentinel_master)
            else:
                super()._get_client(online_store_config)
            self._client.set_retry(Retry(_backoff(), RETRIES))
        return self._client

    async def _get_client_async(self, online_store_config: RedisOnlineStoreConfig):
        if not self._client_async:
            if online_store_config.redis_type == RedisType.redis_sentinel:
                master = self._sentinel(redis.asyncio.Sentinel, online_store_config, AsyncRetry(NoBackoff(), 0))
                self._client_async = master.master_for(online_store_config.sentinel_master)
            else:
                await super()._get_client_async(online_store_config)
            self._client_async.set_retry(AsyncRetry(_backoff(), RETRIES))
        return self._client_async

    def _sentinel(self, kind: type, online_store_config: RedisOnlineStoreConfig, retry: Retry | AsyncRetry):
        """Make a client of the sentinels, which are asked once each, in as much time as Redis has.

        They get the options of the connection string that say how to connect: timeouts and TLS. Theirs alone are those
        that begin with sentinel_, such as their password.
        """
        nodes, options = self._parse_connection_string(online_store_config.connection_string)
        theirs = {name: options.pop(name) for name in list(options) if name.startswith("sentinel_")}
        shared = {name: value for name, value in options.items() if name.startswith(("socket_", "ssl"))}
        theirs = shared | {name.removeprefix("sentinel_"): value for name, value in theirs.items()} | {"retry": retry}
        return kind([(node["host"], int(node["port"])) for node in nodes], sentinel_kwargs=theirs, **options)

    def ping(self, config: RepoConfig) -> None:
        """Ask Redis for a sign of life; raises `redis.RedisError` if none comes in time."""
        self._get_client(config.online_store).ping()

    def server_version(self, config: RepoConfig) -> str:
        client = self._get_client(config.online_store)
        if config.online_store.redis_type == RedisType.redis_cluster:
            return client.info("server", target_nodes=client.get_default_node())["redis_version"]
        return client.info("server")["redis_version"]

    # Writing

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Write (entity key, values, event timestamp, created timestamp) rows, each if nothing newer is stored."""
        for calls in _batches(self._encode(config, table, data)):
            self._run_script(config, COMPARE_AND_SET, calls)
            if progress:
                progress(len(calls))

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """The same, through the asynchronous client."""
        client = await self._get_client_async(config.online_store)
        for calls in _batches(self._encode(config, table, data)):
            pending = _Pending(COMPARE_AND_SET, calls)
            while pending:
                async with client.pipeline(transaction=False) as pipeline:
                    pending.send(pipeline)
                    pending.receive(await pipeline.execute(raise_on_error=False))
                if pending:
                    await client.script_load(COMPARE_AND_SET)
            if progress:
                progress(len(calls))

    def _run_script(self, config: RepoConfig, script: str, calls: list[tuple[bytes, list]]) -> list:
        """Run a script for each (key, arguments), atomic for that key, and give the replies."""
        client, pending = self._get_client(config.online_store), _Pending(script, calls)
        while pending:
            with client.pipeline(transaction=False) as pipeline:
                pending.send(pipeline)
                pending.receive(pipeline.execute(raise_on_error=False))
            if pending:
                client.script_load(script)  # on every master of a Cluster
        return pending.replies

    def _encode(self, config: RepoConfig, table: FeatureView, data: list[Row]) -> Iterator[tuple[bytes, list]]:
        """Give each row's key and script arguments, in stock's bytes; leave out, and tell of, rows from the future."""
        now, from_the_future = self.now(), 0
        names = _Fields(config, table)
        for entity_key, values, event_timestamp, _ in data:
            event_timestamp = utils.make_tzaware(event_timestamp)
            if event_timestamp > now:
                from_the_future += 1
                continue
            key = _redis_key(config.project, entity_key, config.entity_key_serialization_version)
            fields = [names.timestamp, *(names[feature] for feature in values)]
            row = [_timestamp_bytes(event_timestamp), *(value.SerializeToString() for value in values.values())]
            yield key, [*_header(config, now, fields), *row]
        _tell_of_the_future(table, from_the_future, now)

    def takes_columns(self, config: RepoConfig, table: FeatureView, rows: pa.RecordBatch) -> bool:
        """Tell whether `write_columns` takes ``rows``. In a Cluster one script can't write keys of many slots."""
        one_node = config.online_store.redis_type != RedisType.redis_cluster
        return one_node and config.entity_key_serialization_version == 3 and takes(table, rows)

    def write_columns(self, config: RepoConfig, table: FeatureView, rows: pa.RecordBatch) -> Callable[[], None]:
        """Encode ``rows`` (join key, event timestamp, features of ``table``) and give what remains: to write them.

        Each is written if nothing newer is stored, as by `online_write_batch`. What is given back waits for Redis
        most of the time, and may run in another thread.
        """
        client = self._get_client(config.online_store)
        now, names, [join_key] = self.now(), _Fields(config, table), table.join_keys
        events = rows.column(table.batch_source.timestamp_field).cast(pa.int64()).to_numpy()
        past = events <= (now - EPOCH) // MICROSECOND
        if not past.all():
            _tell_of_the_future(table, len(past) - np.count_nonzero(past), now)
            rows, events = rows.filter(pa.array(past)), events[past]
        keys = encode_keys(rows.column(join_key).to_numpy(), key_prefix(join_key), config.project.encode())
        columns = [encode_timestamps(events), *(encode_values(rows.column(f.name)) for f in table.features)]
        header = _header(config, now, [names.timestamp, *(names[feature.name] for feature in table.features)])
        compare_and_set = client.register_script(COMPARE_AND_SET)

        def write() -> None:
            for start in range(0, len(keys), KEYS_PER_SCRIPT):
                some = slice(start, start + KEYS_PER_SCRIPT)
                fields = chain.from_iterable(zip(*(column[some] for column in columns), strict=True))
                compare_and_set(keys[some], [*header, *fields])

        return write

    # Reading

    def get_online_features(self, config: RepoConfig, features, entity_rows, *args, **kwargs) -> OnlineResponse:
        """Answer as Feast does: mostly by the fast path, and else by Feast's own."""
        try:
            read, types = self._fast_read(config, features, *args, **kwargs)
            ids = read.ids(entity_rows)
            replies = self._read_hash_fields(config, read.commands(ids))
            return read.response(ids, replies, self.now(), types)
        except NotTaken:
            return super().get_online_features(config, features, entity_rows, *args, **kwargs)

    async def get_online_features_async(
        self, config: RepoConfig, features, entity_rows, *args, **kwargs
    ) -> OnlineResponse:
        """The same, through the asynchronous client."""
        try:
            read, types = self._fast_read(config, features, *args, **kwargs)
            ids = read.ids(entity_rows)
            replies = await self._read_hash_fields_async(config, read.commands(ids))
            return read.response(ids, replies, self.now(), types)
        except NotTaken:
            return await super().get_online_features_async(config, features, entity_rows, *args, **kwargs)

    def _fast_read(
        self,
        config: RepoConfig,
        features,
        registry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> tuple[FastRead, dict[str, Any]]:
        """Resolve a request, once for as long as Feast's own cache holds what it resolves to."""
        if include_feature_view_version_metadata or metrics._config.online_features:
            raise NotTaken
        context = utils._get_cached_request_context(registry, project, features, full_feature_names)
        key = (project, features.name if isinstance(features, FeatureService) else tuple(features), full_feature_names)
        found = self._reads.get(key)
        if found is None or found[0].context is not context:
            read = FastRead(config, context, features, full_feature_names)
            found = self._reads[key] = read, self._build_feature_types(context[5])
        return found

    def _read_hash_fields(self, config: RepoConfig, commands: list[tuple[bytes, list]]) -> list[list]:
        if config.online_store.client != RedisClient.redis:
            return super()._read_hash_fields(config, commands)
        client = self._get_client(config.online_store)
        if len(commands) == 1:
            [(key, fields)] = commands
            return [client.execute_command("HMGET", key, *fields)]
        with client.pipeline(transaction=False) as pipeline:
            for key, fields in commands:
                pipeline.execute_command("HMGET", key, *fields)
            return pipeline.execute()

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
        if len(commands) == 1:
            return [await client.hmget(*commands[0])]
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

    def scan(self, config: RepoConfig, table: FeatureView) -> Iterator[tuple[bytes, bytes]]:
        """Go through every entity that has a row of ``table`` in Redis, fit to be served or not, in no order.

        Gives its Redis key and the bytes of its event timestamp; one may come more than once. The other keys of the
        same Redis, also those of a project whose name ends like this one's, are passed over.
        """
        client, timestamp_field = self._get_client(config.online_store), _Fields(config, table).timestamp
        keys = _Keys(config, table.join_keys)
        if config.online_store.redis_type == RedisType.redis_cluster:
            for some in _batches(filter(keys.__contains__, client.scan_iter(keys.pattern, KEYS_PER_ROUND_TRIP))):
                found = self._read_hash_fields(config, [(key, [timestamp_field]) for key in some])
                yield from ((key, event) for key, [event] in zip(some, found, strict=True) if event is not None)
            return
        scan, cursor = client.register_script(SCAN), None
        while cursor != b"0":
            cursor, some, events = scan([], [cursor or 0, keys.pattern, KEYS_PER_ROUND_TRIP, timestamp_field])
            rows = zip(some, events, strict=True)
            if None in events or not keys.are_int64(some):
                rows = (row for row in rows if row[1] is not None and row[0] in keys)
            yield from rows

    def retract(self, config: RepoConfig, table: FeatureView, rows: Iterable[tuple[bytes, bytes]]) -> int:
        """Delete the rows of ``table`` that `scan` found, each only while its event timestamp is still the one found.

        Returns how many were deleted. Other feature views of the entities keep their rows.
        """
        fields = _Fields(config, table)
        doomed = [fields.timestamp, *(fields[feature.name] for feature in table.features)]
        deleted = 0
        for batch in _batches(rows):
            calls = [(key, [fields.timestamp, timestamp, *doomed]) for key, timestamp in batch]
            deleted += sum(self._run_script(config, COMPARE_AND_DELETE, calls))
        return deleted

    def delete_table(self, config: RepoConfig, table: FeatureView) -> None:
        """Delete every row of ``table`` (`feast apply` asks, once a view is gone), and none of another project."""
        self.retract(config, table, self.scan(config, table))

    def delete_entity_values(self, config: RepoConfig, join_keys: list[str]) -> None:
        """Delete every entity with these join keys (`feast teardown` asks), and none of another project."""
        client, keys = self._get_client(config.online_store), _Keys(config, join_keys)
        for batch in _batches(filter(keys.__contains__, client.scan_iter(keys.pattern, KEYS_PER_ROUND_TRIP))):
            with client.pipeline(transaction=False) as pipeline:
                for key in batch:
                    pipeline.delete(key)
                pipeline.execute()


class _Pending:
    """Calls of a script, one key each, until all are answered: a Redis that does not know the script has to be told.

    That may be one master of a Cluster among others, such as a replica that has just become one. Those that it did not
    run are sent again, in what order does not matter. redis-py's own way, `register_script`, does none of that in a
    Cluster, where a key of each call says which master it goes to.
    """

    def __init__(self, script: str, calls: list[tuple[bytes, list]]):
        self._sha, self._calls = hashlib.sha1(script.encode()).hexdigest(), calls
        self._waiting, self._attempts = list(range(len(calls))), 3
        self.replies: list = [None] * len(calls)

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def send(self, pipeline: Any) -> None:
        for place in self._waiting:
            key, arguments = self._calls[place]
            pipeline.execute_command("EVALSHA", self._sha, 1, key, *arguments)

    def receive(self, replies: list) -> None:
        """Keep the replies; raises the first error that is another than a script that is not known."""
        self._attempts -= 1
        unknown = []
        for place, reply in zip(self._waiting, replies, strict=True):
            if isinstance(reply, NoScriptError) and self._attempts:
                unknown.append(place)
            elif isinstance(reply, Exception):
                raise reply
            self.replies[place] = reply
        self._waiting = unknown


def _header(config: RepoConfig, now: datetime, fields: list) -> list:
    """The first arguments of `COMPARE_AND_SET`."""
    return [_timestamp_bytes(now), config.online_store.key_ttl_seconds or 0, len(fields), *fields]


def _tell_of_the_future(table: FeatureView, rows: int, now: datetime) -> None:
    if rows:
        logger.warning("%s: %d rows from after %s were not written online", table.name, rows, now)


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
        return read_timestamp(timestamp), {
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


class _Keys:
    """The Redis keys of all entities with some join keys in a project: a pattern that finds them, and a closer look."""

    def __init__(self, config: RepoConfig, join_keys: list[str]):
        prefix, self._project = serialize_entity_key_prefix(join_keys), config.project.encode()
        self.pattern = b"".join([_GLOB.sub(rb"\\\g<0>", prefix), b"*", _GLOB.sub(rb"\\\g<0>", self._project)])
        self._int64 = prefix + INT64_HEADER
        self._int64_size = len(self._int64) + 8 + len(self._project) if len(join_keys) == 1 else None

    def __contains__(self, key: bytes) -> bool:
        return self.are_int64([key]) or _is_entity_key(key[: -len(self._project)])

    def are_int64(self, keys: Sequence[bytes]) -> bool:
        """Tell whether all of them have an int64 id: by far the most common, and known many times faster."""
        return {*map(len, keys)} <= {self._int64_size} and all(map(methodcaller("startswith", self._int64), keys))


def _is_entity_key(serialized: bytes) -> bool:
    """Tell whether these bytes are exactly one entity key, as Feast serializes it."""
    try:
        return serialize_entity_key(deserialize_entity_key(serialized)) == serialized
    except (ValueError, struct.error):
        return False


def _timestamp_bytes(instant: datetime) -> bytes:
    timestamp = Timestamp()
    timestamp.FromDatetime(instant)
    return timestamp.SerializeToString()


def read_timestamps(stored: Sequence[bytes]) -> np.ndarray:
    """Read many stored timestamps: datetime64[us] in UTC, `UNREADABLE` for those that can't be read."""
    microseconds, read = decode_timestamps(stored)
    instants = microseconds.astype("datetime64[us]")
    for place in np.flatnonzero(~read):
        instants[place] = read_timestamp(stored[place]).replace(tzinfo=None)
    return instants


def read_timestamp(timestamp_bytes: bytes | None) -> datetime | None:
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
