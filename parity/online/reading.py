"""How rows get out of Redis, as they are to be served: by the fast path where it can be, and else Feast's own way.

Every read has a synchronous and an asynchronous form, which share all but the line that waits for Redis.
"""

import asyncio
import copy
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from datetime import datetime
from itertools import islice
from typing import Any, NamedTuple

from feast import FeatureService, FeatureView, RepoConfig
from feast.infra.online_stores.redis import RedisClient
from feast.online_response import OnlineResponse
from feast.protos.feast.serving.ServingService_pb2 import FieldStatus, GetOnlineFeaturesResponse
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.message import DecodeError
from redis.exceptions import ResponseError

from parity.definition.declare import horizon_of
from parity.definition.instants import EPOCH, MICROSECOND, utc_now
from parity.edge.feast_internals import Request, add_to_response, counts_reads, distinct_entities, stored_name
from parity.online.connection import RedisConnections, tolerance_of
from parity.online.encoding import redis_key
from parity.online.fast_read import Entities, FastRead, NotTaken
from parity.online.requests import ServingRegistry, answering, read_texts, require_few, require_valid, resolve
from parity.online.rows import (
    EXPIRED,
    UNKNOWN,
    Fields,
    hash_fields,
    instant_of,
    microseconds,
    read_timestamp,
    report,
    standing,
)
from parity.online.steps import as_held
from parity.served.answers import Kind, rows_of, with_request_data
from parity.served.hourly import warn
from parity.served.recorder import Recorder, recorder_of

RESOLVED_REQUESTS = 256
"""How many kinds of requests are kept as they were resolved."""
NOTHING = Value()

Command = tuple[bytes, list]
"""A key, and the fields of its hash."""


class Present(NamedTuple):
    """The instant at which rows are asked for, in microseconds since 1970, and how far ahead of it they may be."""

    present: int
    tolerance: int


_DECIDED_AT: ContextVar[Present] = ContextVar("the present that an answer was decided at")


class Reads(RedisConnections):
    """What a store does that gives rows out; it ``logs`` that where it is configured to."""

    now: Callable[[], datetime]

    def __init__(self):
        super().__init__()
        self._reads: dict[Kind, FastRead] = {}
        self.logs, self._configured = True, False
        self._recorder: Recorder | None = None

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
        kind, request = _resolved(registry, project, features, full_feature_names)
        flags = full_feature_names, include_feature_view_version_metadata
        with answering():
            try:
                entities = self._fast_read(config, kind, request, include_feature_view_version_metadata).of(entity_rows)
                replies = self._read_hash_fields(config, entities.commands())
                present = self._present(config)
                response = entities.response(replies, *present)
            except NotTaken:
                entity_rows = read_texts(request, entity_rows)
                require_valid(request, entity_rows)
                response = super().get_online_features(config, features, entity_rows, registry, project, *flags)
                present, entities = _DECIDED_AT.get(), None
        if self.logs:
            self._note(config, kind, request, entities or response.proto, entity_rows, present)
        return response

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
        registry, features = ServingRegistry(registry), _from_rows(features)
        flags = full_feature_names, include_feature_view_version_metadata
        try:
            return await self.read_quickly(config, features, entity_rows, registry, project, *flags)
        except NotTaken:
            kind, request = _resolved(registry, project, features, full_feature_names)
            with answering():
                entity_rows = read_texts(request, entity_rows)
                require_valid(request, entity_rows)
                asked = super().get_online_features_async(config, features, entity_rows, registry, project, *flags)
                response = await asked
        if self.logs:
            self._note(config, kind, request, response.proto, entity_rows, _DECIDED_AT.get())
        return response

    async def read_quickly(
        self,
        config: RepoConfig,
        features,
        entity_rows,
        registry: ServingRegistry,
        project: str,
        full_feature_names: bool = False,
        include_feature_view_version_metadata: bool = False,
    ) -> OnlineResponse:
        """Answer by the fast path, through the asynchronous client. Raises `NotTaken` where that can't, and else what
        `get_online_features_async` raises."""
        require_few(entity_rows, config.online_store.max_entities_per_request)
        kind, request = _resolved(registry, project, features, full_feature_names)
        with answering():
            entities = self._fast_read(config, kind, request, include_feature_view_version_metadata).of(entity_rows)
            replies = await self._read_hash_fields_async(config, entities.commands())
            present = self._present(config)
            response = entities.response(replies, *present)
        if self.logs:
            self._note(config, kind, request, entities, entity_rows, present)
        return response

    def _present(self, config: RepoConfig) -> Present:
        return Present((self.now() - EPOCH) // MICROSECOND, tolerance_of(config))

    def _decided(self, config: RepoConfig) -> Present:
        """The present, noted as that of an answer that Feast itself puts together."""
        present = self._present(config)
        _DECIDED_AT.set(present)
        return present

    def _note(
        self,
        config: RepoConfig,
        kind: Kind,
        request: Request,
        answer: Entities | GetOnlineFeaturesResponse,
        entity_rows: Any,
        present: Present,
    ) -> None:
        """Note an answer in the log of what is served, if that is on."""
        try:
            if not self._configured:
                self._recorder, self._configured = recorder_of(config), True
            if self._recorder:
                as_of = present.present
                answered = as_of if self.now is utc_now else time.time_ns() // 1000
                if isinstance(answer, Entities):
                    content, rows = answer.parts, answer.count
                else:
                    content, rows = with_request_data(answer, request, entity_rows), rows_of(answer)
                self._recorder.note((kind, request, content, as_of, answered, rows))
        except Exception as error:  # serving goes on when only the log fails
            warn(f"an answer to {kind.name} is not logged: {error!r}")

    async def close(self) -> None:
        """Write what was noted, as a server does that ends."""
        if self._recorder:
            await asyncio.to_thread(self._recorder.close)
        await super().close()

    def _fast_read(self, config: RepoConfig, key: Kind, request: Request, versions: bool) -> FastRead:
        """Prepare a request, once for as long as Feast's own cache holds what it was resolved to."""
        if versions or counts_reads():
            raise NotTaken
        found = self._reads.get(key)
        if found is None or found.request.groups is not request.groups:
            if len(self._reads) >= RESOLVED_REQUESTS:
                self._reads.clear()
            found = self._reads[key] = FastRead(config, self, request, key.full_names)
        return found

    def online_read(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """Read (event timestamp, values) per entity key: (None, None) if unknown, no values if older than the ttl."""
        read = Read(config, table, entity_keys, requested_features)
        return read.rows(self._read_hash_fields(config, read.commands), *self._present(config))

    async def online_read_async(
        self,
        config: RepoConfig,
        table: FeatureView,
        entity_keys: list[EntityKey],
        requested_features: list[str] | None = None,
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        """The same, through the asynchronous client."""
        read = Read(config, table, entity_keys, requested_features)
        return read.rows(await self._read_hash_fields_async(config, read.commands), *self._present(config))

    def _read_features_per_fv(
        self, config, grouped_refs, join_key_values, entity_name_to_join_key_map, response, *flags
    ) -> None:
        plan = _Plan(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        plan.answer(self._read_hash_fields(config, plan.commands), self._decided(config), response, *flags)

    async def _read_features_per_fv_async(
        self, config, grouped_refs, join_key_values, entity_name_to_join_key_map, response, *flags
    ) -> None:
        plan = _Plan(config, grouped_refs, join_key_values, entity_name_to_join_key_map)
        plan.answer(await self._read_hash_fields_async(config, plan.commands), self._decided(config), response, *flags)

    def _read_hash_fields(self, config: RepoConfig, commands: list[Command]) -> list[list]:
        if config.online_store.client != RedisClient.redis:
            return super()._read_hash_fields(config, commands)
        client = self._get_client(config.online_store)
        if len(commands) == 1:
            try:
                replies = [client.execute_command(*_hmget(commands[0]))]
            except ResponseError as error:
                replies = [error]
        else:
            with client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*_hmget(command))
                replies = pipeline.execute(raise_on_error=False)
        return list(map(hash_fields, commands, replies))

    async def _read_hash_fields_async(self, config: RepoConfig, commands: list[Command]) -> list[list]:
        client = await self._get_client_async(config.online_store)
        if len(commands) == 1:
            try:
                replies = [await client.execute_command(*_hmget(commands[0]))]
            except ResponseError as error:
                replies = [error]
        else:
            async with client.pipeline(transaction=False) as pipeline:
                for command in commands:
                    pipeline.execute_command(*_hmget(command))
                replies = await pipeline.execute(raise_on_error=False)
        return list(map(hash_fields, commands, replies))

    def inspect(
        self, config: RepoConfig, table: FeatureView, entity_keys: list[EntityKey]
    ) -> list[tuple[datetime | None, dict[str, Value]]]:
        """Read (event timestamp, values) per entity key as they are stored, whether or not they are fit to be served.

        What is stored and not readable comes as `UNREADABLE`, or as a value of no kind.
        """
        read = Read(config, table, entity_keys, None)
        return [read.stored(reply) for reply in self._read_hash_fields(config, read.commands)]

    def write_precomputed_vector(self, config, feature_service_name, project, entity_key, vector_bytes) -> None:
        """Do nothing: a FeatureService with ``precompute_online`` is answered from the rows, as any other."""


class Read:
    """What to ask Redis for some entities of one feature view, and what its replies mean at an instant.

    That is in microseconds since 1970, as is the tolerance: how far ahead of it a row may be.
    """

    def __init__(self, config: RepoConfig, table: FeatureView, entity_keys, requested_features: list[str] | None):
        self.features = requested_features or [feature.name for feature in table.features]
        self._ttl = microseconds(getattr(table, "ttl", None))  # an on-demand view that is written has none
        fields, version = Fields(stored_name(config, table)), config.entity_key_serialization_version
        timestamp, *self._names = fields.of(self.features)
        self._slides = horizon_of(table) is not None
        names = [*self._names, fields.steps, timestamp] if self._slides else [*self._names, timestamp]
        self.commands: list[Command] = [(redis_key(config.project, key, version), names) for key in entity_keys]

    def rows(
        self, replies: Iterable[list], present: int, tolerance: int
    ) -> list[tuple[datetime | None, dict[str, Value] | None]]:
        return [self._row(reply, present, tolerance) for reply in replies]

    def stored(self, reply: list) -> tuple[datetime | None, dict[str, Value]]:
        """The row itself: event timestamp and features, whatever follows it."""
        return read_timestamp(reply[-1]), {
            feature: _value(value) for feature, value in zip(self.features, reply, strict=False) if value is not None
        }

    def _row(self, reply: list, present: int, tolerance: int) -> tuple[datetime | None, dict[str, Value] | None]:
        event = instant_of(reply[-1])
        if self._slides:
            held = as_held(reply, self._names, event, present)
            if held is None:
                return read_timestamp(reply[-1]), None
            reply, event = held
        how = standing(event, self._ttl, present, tolerance)
        if how is UNKNOWN:
            return None, None
        instant, values = self.stored(reply)
        if how is EXPIRED:
            return instant, None
        return instant, {feature: value for feature, value in values.items() if value is not NOTHING}


class _Plan:
    """A request for features of several views, as Feast makes one of what it was asked for."""

    def __init__(self, config: RepoConfig, grouped_refs, join_key_values, entity_name_to_join_key_map):
        self._reads = []
        for table, features in grouped_refs:
            entities, places, length = distinct_entities(table, join_key_values, entity_name_to_join_key_map)
            self._reads.append((table, Read(config, table, entities, features), places, length))
        self.commands: list[Command] = [command for _, read, *_ in self._reads for command in read.commands]

    def answer(
        self, replies: Sequence[list], present: Present, response: Any, full_names: bool, versions: bool
    ) -> None:
        """Add what the ``replies`` to the commands mean to Feast's ``response``."""
        rest: Iterator[list] = iter(replies)
        for table, read, places, length in self._reads:
            rows = read.rows(islice(rest, len(read.commands)), *present)
            add_to_response(read.features, rows, places, response, full_names, table, length, versions)
            # Feast's own code knows PRESENT and NOT_FOUND only.
            expired = [i for row, at in zip(rows, places, strict=True) if row[0] and row[1] is None for i in at]
            for vector in response.results[-len(read.features) :]:
                for i in expired:
                    vector.statuses[i] = FieldStatus.OUTSIDE_MAX_AGE


def _hmget(command: Command) -> tuple:
    key, fields = command
    return "HMGET", key, *fields


def _resolved(registry: Any, project: str, features: Any, full_feature_names: bool) -> tuple[Kind, Request]:
    request = resolve(registry, project, features, full_feature_names)
    asked = features.name if isinstance(features, FeatureService) else tuple(features)
    return Kind(project, asked, full_feature_names), request


def _from_rows(features: Any) -> Any:
    """The same features, of a service too, without precomputed vectors."""
    if getattr(features, "precompute_online", False):
        features = copy.copy(features)
        features.precompute_online = False
    return features


def _value(stored: bytes) -> Value:
    try:
        return Value.FromString(stored)
    except DecodeError:
        report("a stored value is not readable: %r", stored)
        return NOTHING
