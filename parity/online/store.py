"""The online store: Feast's Redis store, with the guarantees that keep serving equal to training.

feature_store.yaml names it, through Feast's own plug-in mechanism:

    online_store:
      type: parity.online.store.ParityRedisOnlineStore
      connection_string: localhost:6379

Keys, fields and bytes are those of Feast's stock Redis store, so either can read what the other wrote. It differs in
what it lets in and in what it gives out:

- A write is compared with what is stored and set in one atomic step inside Redis. The same instant or a newer one is
  let in (so a correction and an added feature arrive), an older one is not, however many writers there are.
- A value older than the feature view's ttl reads as null, OUTSIDE_MAX_AGE; its age may be the ttl exactly, as in the
  offline store. An unknown entity reads as null, NOT_FOUND, and so does what is not readable. A value from the
  future is neither written nor served; how far a producer's clock may be ahead can be declared.
- What was retracted offline can be taken out again (`retract`), or replaced by the row before it (`replace`).
- A view is served while it is materialized, and a FeatureService with ``precompute_online`` from the same rows as all
  others: its vectors would know of no ttl and no retraction.
- Every call to Redis is bounded in time, and a request that can't be answered is refused as such (`online_requests`).
"""

import copy
import logging
import re
import struct
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain, islice
from operator import methodcaller
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from feast import FeatureService, FeatureView, RepoConfig, utils
from feast.infra.key_encoding_utils import deserialize_entity_key, serialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.infra.online_stores.redis import (
    RedisClient,
    RedisType,
    _versioned_fv_name,
)
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp
from redis.exceptions import InvalidResponse, ResponseError

from parity.definition.instants import EPOCH, MICROSECOND, utc_now
from parity.online.columns import decode_timestamps, encode_keys, encode_timestamps, encode_values, takes
from parity.online.connection import RedisConnections, RedisOptions
from parity.online.fast_read import (
    INT64_HEADER,
    FastRead,
    NotTaken,
    key_prefix,
)
from parity.online.requests import ServingRegistry, answering, require_few, require_valid, resolve
from parity.online.scripts import (
    ARGUMENTS_PER_SCRIPT,
    COMPARE_AND_DELETE,
    COMPARE_AND_SET,
    COMPARE_AND_SWAP,
    SCAN,
    ForeignKeys,
    Pending,
)

logger = logging.getLogger(__name__)

KEYS_PER_ROUND_TRIP = 1000
KEYS_PER_SCRIPT = 250
RESOLVED_REQUESTS = 256
"""How many kinds of requests are kept as they were resolved."""
LONGEST_REPORTED = 200
"""Bytes of what is not readable that are logged."""
NOTHING = Value()
UNREADABLE = datetime.min.replace(tzinfo=UTC)
"""Stands for a stored event timestamp that can't be read."""

Row = tuple[EntityKey, dict[str, Value], datetime, datetime | None]


class ParityRedisOnlineStoreConfig(RedisOptions):
    """The options of the store, under the name that Feast looks for."""

    type: Literal["parity.online.store.ParityRedisOnlineStore"] = "parity.online.store.ParityRedisOnlineStore"


@dataclass
class Leftovers:
    """What a scan met beside the rows that it looked for."""

    foreign: list[bytes] = field(default_factory=list)
    """Keys of this project that hold something else than a hash."""
    fuller: list[bytes] = field(default_factory=list)
    """Keys with fields that are not of the view's row: of other views, or of none any more."""


class ParityRedisOnlineStore(RedisConnections):
    """See the module's docstring. ``now`` is the store's clock, aware UTC; set it to ask about another instant."""

    now: Callable[[], datetime] = staticmethod(utc_now)

    def __init__(self):
        super().__init__()
        self._reads: dict[tuple, tuple[FastRead, dict]] = {}

    # Writing

    def online_write_batch(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """Write (entity key, values, event timestamp, created timestamp) rows, each if nothing newer is stored.

        Raises `ForeignKeys`, once all others are written, if a key holds something else than a row.
        """
        foreign = []
        for calls in _batches(self._encode(config, table, data)):
            foreign += _refused(calls, self._run_script(config, COMPARE_AND_SET, calls))
            if progress:
                progress(len(calls))
        if foreign:
            raise ForeignKeys(foreign)

    async def online_write_batch_async(
        self, config: RepoConfig, table: FeatureView, data: list[Row], progress: Callable[[int], Any] | None
    ) -> None:
        """The same, through the asynchronous client."""
        client, foreign = await self._get_client_async(config.online_store), []
        for calls in _batches(self._encode(config, table, data)):
            pending = Pending(COMPARE_AND_SET, calls)
            while pending:
                async with client.pipeline(transaction=False) as pipeline:
                    pending.send(pipeline)
                    pending.receive(await pipeline.execute(raise_on_error=False))
                if pending:
                    await client.script_load(COMPARE_AND_SET)
            foreign += _refused(calls, pending.replies)
            if progress:
                progress(len(calls))
        if foreign:
            raise ForeignKeys(foreign)

    def _run_script(self, config: RepoConfig, script: str, calls: list[tuple[bytes, list]]) -> list:
        """Run a script for each (key, arguments), atomic for that key, and give the replies."""
        client, pending = self._get_client(config.online_store), Pending(script, calls)
        while pending:
            with client.pipeline(transaction=False) as pipeline:
                pending.send(pipeline)
                pending.receive(pipeline.execute(raise_on_error=False))
            if pending:
                client.script_load(script)  # on every master of a Cluster
        return pending.replies

    def _encode(self, config: RepoConfig, table: FeatureView, data: list[Row]) -> Iterator[tuple[bytes, list]]:
        """Give each row's key and the arguments of `COMPARE_AND_SET`."""
        latest = self._latest(config)
        for key, names, values in self._rows(config, table, data):
            yield key, [*_header(config, latest, names), *values]

    def _rows(self, config: RepoConfig, table: FeatureView, data: list[Row]) -> Iterator[tuple[bytes, list, list]]:
        """Give each row's key, fields and values, in stock's bytes; leave out, and report, rows from the future."""
        latest, from_the_future = self._latest(config), 0
        names = _Fields(config, table)
        for entity_key, values, event_timestamp, _ in data:
            event_timestamp = utils.make_tzaware(event_timestamp)
            if event_timestamp > latest:
                from_the_future += 1
                continue
            key = _redis_key(config.project, entity_key, config.entity_key_serialization_version)
            fields = [names.timestamp, *(names[feature] for feature in values)]
            row = [_timestamp_bytes(event_timestamp), *(value.SerializeToString() for value in values.values())]
            yield key, fields, row
        _warn_of_the_future(table, from_the_future, latest)

    def _latest(self, config: RepoConfig) -> datetime:
        """The latest instant of an event that is known by now."""
        seconds = getattr(config.online_store, "future_tolerance_seconds", 0)
        return self.now() + timedelta(seconds=seconds) if seconds else self.now()

    def replace(self, config: RepoConfig, table: FeatureView, data: list[Row], seen: dict[bytes, bytes]) -> int:
        """Put rows in the place of those that `scan` found, each only while its event timestamp is the one ``seen``.

        Unlike a write it lets in an older event, in one step: a reader gets the one row or the other. ``seen`` has the
        bytes of the event timestamp by key. Returns how many were replaced.
        """
        seconds = config.online_store.key_ttl_seconds or 0
        swaps = (
            (key, [seen[key], seconds, *chain.from_iterable(zip(names, values, strict=True))])
            for key, names, values in self._rows(config, table, data)
        )
        return sum(sum(self._run_script(config, COMPARE_AND_SWAP, calls)) for calls in _batches(swaps))

    def takes_columns(self, config: RepoConfig, table: FeatureView, rows: pa.RecordBatch) -> bool:
        """Tell whether `write_columns` takes ``rows``. In a Cluster one script can't write keys of many slots."""
        one_node = config.online_store.redis_type != RedisType.redis_cluster
        return one_node and config.entity_key_serialization_version == 3 and takes(table, rows)

    def write_columns(self, config: RepoConfig, table: FeatureView, rows: pa.RecordBatch) -> Callable[[], list[bytes]]:
        """Encode ``rows`` (join key, event timestamp, features of ``table``) and return a function that writes them.

        Each is written if nothing newer is stored, as by `online_write_batch`. The function waits for Redis most of the
        time, may run in another thread, and returns the keys that hold something else than a row.
        """
        client = self._get_client(config.online_store)
        latest, names, [join_key] = self._latest(config), _Fields(config, table), table.join_keys
        events = rows.column(table.batch_source.timestamp_field).cast(pa.int64()).to_numpy()
        past = events <= (latest - EPOCH) // MICROSECOND
        if not past.all():
            _warn_of_the_future(table, len(past) - np.count_nonzero(past), latest)
            rows, events = rows.filter(pa.array(past)), events[past]
        keys = encode_keys(rows.column(join_key).to_numpy(), key_prefix(join_key), config.project.encode())
        columns = [encode_timestamps(events), *(encode_values(rows.column(f.name)) for f in table.features)]
        header = _header(config, latest, [names.timestamp, *(names[feature.name] for feature in table.features)])
        compare_and_set = client.register_script(COMPARE_AND_SET)
        size = max(1, min(KEYS_PER_SCRIPT, ARGUMENTS_PER_SCRIPT // len(columns)))

        def write() -> list[bytes]:
            foreign = []
            for start in range(0, len(keys), size):
                some = slice(start, start + size)
                fields = chain.from_iterable(zip(*(column[some] for column in columns), strict=True))
                foreign += [keys[start + place - 1] for place in compare_and_set(keys[some], [*header, *fields])]
            return foreign

        return write

    # Reading

    def get_online_features(
        self,
        config: RepoConfig,
        features,
        entity_rows,
        registry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Answer as Feast does: mostly by the fast path, and else by Feast's own.

        Raises `InvalidRequest`, another `FeastError` that is the caller's fault, or `Unavailable`.
        """
        registry, features = ServingRegistry(registry), _from_rows(features)
        context = resolve(registry, project, features, full_feature_names)
        with answering():
            try:
                read, types = self._fast_read(
                    config, context, features, project, full_feature_names, include_feature_view_version_metadata
                )
                ids = read.ids(entity_rows)
                replies = self._read_hash_fields(config, read.commands(ids))
                return read.response(ids, replies, self._latest(config), types)
            except NotTaken:
                require_valid(context, entity_rows)
                flags = full_feature_names, include_feature_view_version_metadata
                return super().get_online_features(config, features, entity_rows, registry, project, *flags)

    async def get_online_features_async(
        self,
        config: RepoConfig,
        features,
        entity_rows,
        registry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """The same, through the asynchronous client, and of not too many entities at once."""
        require_few(entity_rows, config.online_store.max_entities_per_request)
        registry, features = ServingRegistry(registry), _from_rows(features)
        context = resolve(registry, project, features, full_feature_names)
        with answering():
            try:
                read, types = self._fast_read(
                    config, context, features, project, full_feature_names, include_feature_view_version_metadata
                )
                ids = read.ids(entity_rows)
                replies = await self._read_hash_fields_async(config, read.commands(ids))
                return read.response(ids, replies, self._latest(config), types)
            except NotTaken:
                require_valid(context, entity_rows)
                flags = full_feature_names, include_feature_view_version_metadata
                return await super().get_online_features_async(config, features, entity_rows, registry, project, *flags)

    def _fast_read(
        self,
        config: RepoConfig,
        context: tuple,
        features,
        project: str,
        full_feature_names: bool,
        include_feature_view_version_metadata: bool,
    ) -> tuple[FastRead, dict[str, Any]]:
        """Prepare a request, once for as long as Feast's own cache holds ``context``, which it was resolved to."""
        metrics = sys.modules.get("feast.metrics")  # importing it makes a temporary folder
        if include_feature_view_version_metadata or (metrics and metrics._config.online_features):
            raise NotTaken
        key = (project, features.name if isinstance(features, FeatureService) else tuple(features), full_feature_names)
        found = self._reads.get(key)
        if found is None or found[0].context is not context:
            if len(self._reads) >= RESOLVED_REQUESTS:
                self._reads.clear()
            read = FastRead(config, context, full_feature_names)
            found = self._reads[key] = read, self._build_feature_types(context[5])
        return found

    def _read_hash_fields(self, config: RepoConfig, commands: list[tuple[bytes, list]]) -> list[list]:
        if config.online_store.client != RedisClient.redis:
            return super()._read_hash_fields(config, commands)
        client = self._get_client(config.online_store)
        if len(commands) == 1:
            [(key, fields)] = commands
            try:
                return [_hash_fields(commands[0], client.execute_command("HMGET", key, *fields))]
            except ResponseError as error:
                return [_hash_fields(commands[0], error)]
        with client.pipeline(transaction=False) as pipeline:
            for key, fields in commands:
                pipeline.execute_command("HMGET", key, *fields)
            return list(map(_hash_fields, commands, pipeline.execute(raise_on_error=False)))

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read (event timestamp, values) per entity key: (None, None) if unknown, no values if older than the ttl."""
        read = _Read(config, table, entity_keys, requested_features)
        return read.rows(self._read_hash_fields(config, read.commands), self._latest(config))

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """The same, through the asynchronous client."""
        read = _Read(config, table, entity_keys, requested_features)
        return read.rows(await self._read_hash_fields_async(config, read.commands), self._latest(config))

    async def _read_hash_fields_async(self, config: RepoConfig, commands: list[tuple[bytes, list]]) -> list[list]:
        client = await self._get_client_async(config.online_store)
        if len(commands) == 1:
            try:
                return [_hash_fields(commands[0], await client.hmget(*commands[0]))]
            except ResponseError as error:
                return [_hash_fields(commands[0], error)]
        async with client.pipeline(transaction=False) as pipeline:
            for key, fields in commands:
                pipeline.hmget(key, fields)
            return list(map(_hash_fields, commands, await pipeline.execute(raise_on_error=False)))

    def _read_features_per_fv(
        self, config, grouped_refs, join_key_values, entity_name_to_join_key_map, response, full_names, versions
    ) -> None:
        reads = _plan(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        replies = iter(self._read_hash_fields(config, [command for read, *_ in reads for command in read.commands]))
        _answer(reads, replies, self._latest(config), response, full_names, versions)

    async def _read_features_per_fv_async(
        self, config, grouped_refs, join_key_values, entity_name_to_join_key_map, response, full_names, versions
    ) -> None:
        reads = _plan(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        commands = [command for read, *_ in reads for command in read.commands]
        _answer(
            reads,
            iter(await self._read_hash_fields_async(config, commands)),
            self._latest(config),
            response,
            full_names,
            versions,
        )

    def write_precomputed_vector(self, config, feature_service_name, project, entity_key, vector_bytes) -> None:
        """Do nothing: a FeatureService with ``precompute_online`` is answered from the rows, as any other."""

    # Looking through what is stored

    def inspect(
        self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey]
    ) -> list[tuple[datetime | None, dict[str, Value]]]:
        """Read (event timestamp, values) per entity key as they are stored, whether or not they are fit to be served.

        What is stored and not readable comes as `UNREADABLE`, or as a value of no kind.
        """
        read = _Read(config, table, entity_keys, None)
        return [read.stored(reply) for reply in self._read_hash_fields(config, read.commands)]

    def scan(
        self, config: RepoConfig, table: FeatureView, leftovers: Leftovers | None = None
    ) -> Iterator[tuple[bytes, bytes]]:
        """Go through every entity that has a row of ``table`` in Redis, fit to be served or not, in no order.

        Gives its Redis key and the bytes of its event timestamp; one may come more than once. The other keys of the
        same Redis, also those of a project whose name ends like this one's, are passed over. What else is met among the
        keys of this project is noted in ``leftovers``.
        """
        timestamp, own = _Fields(config, table).timestamp, 1 + len(table.features)
        keys = _Keys(config, table.join_keys)
        pages = self._pages_of_cluster if config.online_store.redis_type == RedisType.redis_cluster else self._pages
        for some, events, fuller in pages(config, keys, timestamp, own):
            if leftovers is not None and (fuller or 0 in events):
                leftovers.fuller += [some[place] for place in fuller if some[place] in keys]
                leftovers.foreign += [
                    key for key, event in zip(some, events, strict=True) if event == 0 and key in keys
                ]
            rows = zip(some, events, strict=True)
            if None in events or 0 in events or not keys.are_int64(some):
                rows = (row for row in rows if row[1] not in (None, 0) and row[0] in keys)
            yield from rows

    def _pages(self, config: RepoConfig, keys: "_Keys", timestamp: str, own: int) -> Iterator[tuple]:
        """A page of keys at a time: the keys, their event timestamps, and the places of those with more fields."""
        scan, cursor = self._get_client(config.online_store).register_script(SCAN), None
        while cursor != b"0":
            cursor, some, events, fuller = scan([], [cursor or 0, keys.pattern, KEYS_PER_ROUND_TRIP, timestamp, own])
            yield some, events, [place - 1 for place in fuller]

    def _pages_of_cluster(self, config: RepoConfig, keys: "_Keys", timestamp: str, own: int) -> Iterator[tuple]:
        """The same in a Cluster, where a script sees the keys of one slot only."""
        client = self._get_client(config.online_store)
        for some in _batches(client.scan_iter(keys.pattern, KEYS_PER_ROUND_TRIP)):
            with client.pipeline(transaction=False) as pipeline:
                for key in some:
                    pipeline.hget(key, timestamp)
                    pipeline.hlen(key)
                replies = pipeline.execute(raise_on_error=False)
            events = [0 if _is_wrong_type(reply) else _unless_error(reply) for reply in replies[::2]]
            fuller = [
                place
                for place, (event, size) in enumerate(zip(events, replies[1::2], strict=True))
                if event != 0 and (event is None or _unless_error(size) > own)
            ]
            yield some, events, fuller

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

    def delete_unknown_fields(
        self, config: RepoConfig, keys: Iterable[bytes], views: Callable[[], Iterable[FeatureView]]
    ) -> int:
        """Delete, in ``keys`` of this project, the fields of features that none of its ``views`` has any more.

        A key with a row of a view that is not known at all is left alone, and so is everything where several versions
        of a view are served. Returns how many fields were deleted.
        """
        if config.registry.enable_online_feature_view_versioning:
            return 0
        client, deleted = self._get_client(config.online_store), 0
        for batch in _batches(keys):
            with client.pipeline(transaction=False) as pipeline:
                for key in batch:
                    pipeline.hkeys(key)
                found = pipeline.execute()
            rows, features = _known_fields(config, views())  # as late as can be: a new view may be written meanwhile
            doomed = {
                key: [field for field in fields if len(field) == 4 and field not in features]
                for key, fields in zip(batch, found, strict=True)
                if all(field in rows for field in fields if field.startswith(b"_ts:"))
            }
            with client.pipeline(transaction=False) as pipeline:
                for key, fields in doomed.items():
                    if fields:
                        pipeline.hdel(key, *fields)
                deleted += sum(pipeline.execute())
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


def _header(config: RepoConfig, now: datetime, fields: list) -> list:
    """The first arguments of `COMPARE_AND_SET`."""
    return [_timestamp_bytes(now), config.online_store.key_ttl_seconds or 0, len(fields), *fields]


def _warn_of_the_future(table: FeatureView, rows: int, latest: datetime) -> None:
    if rows:
        logger.warning(
            "%s: %d rows from after %s were not written online: they lie in the future. Are their timestamps in UTC? "
            "For a producer whose clock is ahead, set future_tolerance_seconds of the online store.",
            table.name,
            rows,
            latest,
        )


def _refused(calls: list[tuple[bytes, list]], replies: list[list]) -> list[bytes]:
    """The keys that `COMPARE_AND_SET` left alone, as they hold something else than a row."""
    return [key for (key, _), places in zip(calls, replies, strict=True) if places]


def _hash_fields(command: tuple[bytes, list], reply: Any) -> list:
    """What a hash holds: nothing, if the key holds something else. Raises what Redis could not answer."""
    key, fields = command
    if _is_wrong_type(reply):
        _report("the key %r holds no hash", key)
        return [None] * len(fields)
    reply = _unless_error(reply)
    if not isinstance(reply, list) or len(reply) != len(fields) or not {*map(type, reply)} <= {bytes, type(None)}:
        raise InvalidResponse(f"HMGET of {len(fields)} fields was answered by {type(reply).__name__} {reply!r:.100}")
    return reply


def _is_wrong_type(reply: Any) -> bool:
    return isinstance(reply, ResponseError) and "WRONGTYPE" in str(reply)


def _unless_error(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


def _from_rows(features: Any) -> Any:
    """The same features, of a service too, without precomputed vectors."""
    if getattr(features, "precompute_online", False):
        features = copy.copy(features)
        features.precompute_online = False
    return features


def _known_fields(config: RepoConfig, views: Iterable[FeatureView]) -> tuple[set[bytes], set[bytes]]:
    """The fields that hold event timestamps, and those that hold features, of these views."""
    rows, features = set(), set()
    for view in views:
        names = _Fields(config, view)
        rows.add(names.timestamp.encode())
        features.update(names[feature.name] for feature in view.features)
    return rows, features


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
        ttl = getattr(self.table, "ttl", None)  # an on-demand view that is written has none
        if ttl and now - event_timestamp > ttl:
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
        _report("a stored event timestamp is not readable: %r", timestamp_bytes)
        return UNREADABLE


def _report(message: str, stored: bytes) -> None:
    _report_once(message, stored[:LONGEST_REPORTED])


@lru_cache(1024)
def _report_once(message: str, stored: bytes) -> None:
    """Log what is wrong with something that is ``stored``, once and not at every read of it."""
    logger.error(message, stored)


def _value(value_bytes: bytes) -> Value:
    try:
        return Value.FromString(value_bytes)
    except DecodeError:
        _report("a stored value is not readable: %r", value_bytes)
        return NOTHING


def _batches(items: Iterable) -> Iterator[list]:
    items = iter(items)
    while batch := list(islice(items, KEYS_PER_ROUND_TRIP)):
        yield batch


_GLOB = re.compile(rb"[*?\[\]\\]")
