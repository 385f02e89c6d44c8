"""How the online store gets to Redis: its options, the connection string, and clients that are bounded in time.

One node, a Cluster, or a master that Sentinels know; by TCP, TLS or a unix socket.
"""

from typing import Any

import redis
import redis.asyncio
from feast import RepoConfig
from feast.infra.online_stores.redis import RedisOnlineStore, RedisOnlineStoreConfig, RedisType
from pydantic import ConfigDict, Field, StrictStr, field_serializer, field_validator, model_validator
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialWithJitterBackoff, NoBackoff
from redis.retry import Retry

from parity.edge.configuration import connection, connection_of, without_secrets
from parity.served.options import LogServed, log_options

TIMEOUTS = {"socket_timeout": 2, "socket_connect_timeout": 2}
"""Seconds that one attempt may take, unless the connection string says otherwise."""
RETRIES = 1


class RedisOptions(RedisOnlineStoreConfig):
    """The options of Feast's stock Redis store; ``skip_dedup`` has no effect, since every write is compared.

    The connection string is looked through before Feast does, whose errors quote it. It is hidden in ``repr`` and in
    ``model_dump``.
    """

    model_config = ConfigDict(hide_input_in_errors=True)  # the connection string holds secrets

    connection_string: StrictStr = Field("localhost:6379", repr=False)
    future_tolerance_seconds: float = Field(default=0, ge=0)
    """How far ahead of this machine's clock an event may be, and still be written and served."""
    max_entities_per_request: int = Field(default=10_000, gt=0)
    """How many entities one asynchronous read may ask for. A feature server answers nobody else meanwhile."""
    log_served: LogServed | None = None
    """Where to log what is served, if at all (parity/served)."""

    @model_validator(mode="before")
    @classmethod
    def _take_the_connection_string(cls, options: dict[str, Any]) -> dict[str, Any]:
        text = options.get("connection_string", "localhost:6379")
        return options | {"connection_string": connection_of(text, options.get("redis_type", "redis"))}

    @field_validator("log_served", mode="before")
    @classmethod
    def _take_the_log(cls, value: Any) -> dict[str, Any] | None:
        return log_options(value)

    @field_serializer("connection_string")
    def _hide_secrets(self, text: str) -> str:
        return without_secrets(text, text)


def tolerance_of(config: RepoConfig) -> int:
    """How many microseconds ahead of the clock an event may be; none in a store of another kind."""
    return round(getattr(config.online_store, "future_tolerance_seconds", 0) * 1_000_000)


class RedisConnections(RedisOnlineStore):
    """Feast's Redis store, with clients that are bounded in time."""

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

    def identity(self, config: RepoConfig) -> str:
        """Who answers: another text after each start of a server. Raises `redis.RedisError` if none comes in time."""
        client = self._get_client(config.online_store)
        if config.online_store.redis_type == RedisType.redis_cluster:
            servers = client.info("server", target_nodes=redis.RedisCluster.PRIMARIES)
            return " ".join(sorted(server["run_id"] for server in servers.values()))
        return client.info("server")["run_id"]

    def server_version(self, config: RepoConfig) -> str:
        client = self._get_client(config.online_store)
        if config.online_store.redis_type == RedisType.redis_cluster:
            return _own_version(client.info("server", target_nodes=client.get_default_node()))
        return _own_version(client.info("server"))


def _own_version(server: dict[str, Any]) -> str:
    """The version of what answers: Valkey and others give that of the Redis that they are like beside their own."""
    return str(server.get(f"{server.get('server_name', 'redis')}_version", server["redis_version"]))


def _backoff() -> ExponentialWithJitterBackoff:
    return ExponentialWithJitterBackoff(base=0.05, cap=0.5)
