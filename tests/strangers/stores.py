"""The stores of Feast that run here for real: how each is configured, filled and read, and who may only read it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import pandas as pd
import pytest
import redis
from feast import FileSource
from feast.data_format import ParquetFormat
from feast.data_source import DataSource

from tests.strangers import Stranger, services

FAULTS = {"correction": 2, "behind": 3, "pushed": 4, "ttl": 1, "float32": 1}
"""What is planted: of each kind, the number of keys. Of those that are pushed, one is in the source as well."""
NUMBERS = itertools.count()
Changes = dict[str, Any]


@dataclass
class Store:
    """A store or a registry, as it is configured, with what is in it, and who may only read it."""

    configuration: dict[str, Any]
    dump: Callable[[], Any] = lambda: None
    """What is in it, where that is not a file in the folder of the repository."""
    reading: Callable[[Stranger], Changes] = lambda theirs: {}
    """Make a user that may only read what is there, or a server, and say what has to be configured otherwise for it."""
    lists_keys: bool = True
    counts_keys: bool = False
    """Whether keys that can't be listed are counted."""
    has_events: bool = True
    write: Callable[[Stranger, str, pd.DataFrame], DataSource] = Stranger.write
    """Of an offline store: write a table, and make the source of it."""
    expired: str = "ttl"
    """Of an offline store: what is said of an expired key."""

    def faults(self) -> dict[str, int]:
        """Which of `FAULTS` can be told apart: without event times, what is corrected looks like what is pushed."""
        if not self.has_events:
            together = FAULTS["correction"] + 1
            return {"unexplained": together} | {kind: FAULTS[kind] for kind in ("behind", "ttl", "float32")}
        found = FAULTS | ({} if self.lists_keys else {"pushed": 1})
        found |= {"only-online": FAULTS["pushed"] - 1} if self.counts_keys else {}
        return {self.expired if kind == "ttl" else kind: keys for kind, keys in found.items()}


@dataclass
class Here:
    """What a store may be made of."""

    request: pytest.FixtureRequest
    stack: ExitStack

    def database(self, of: str) -> tuple[services.Database, str]:
        server = self.request.getfixturevalue(of)
        name = f"theirs{next(NUMBERS)}"
        server.run("postgres" if of == "postgres" else "mysql", f"CREATE DATABASE {name}")
        return server, name

    def serving(self, theirs: Stranger, command: str) -> int:
        """The port of a server of Feast, of the repository as it is configured by now."""
        yaml = theirs.root.parent / f"{command}.yaml"
        yaml.write_text((theirs.root / "feature_store.yaml").read_text())
        return self.stack.enter_context(services.feast(theirs.root, yaml, command))


def online_sqlite(here: Here) -> Store:
    return Store({"type": "sqlite", "path": "online.db"})


def online_redis(here: Here) -> Store:
    port = here.request.getfixturevalue("redis_port")
    client = redis.Redis(port=port)
    here.stack.callback(client.close)
    return Store(
        {"type": "redis", "connection_string": f"127.0.0.1:{port}"},
        lambda: {key: client.hgetall(key) for key in client.scan_iter(b"*", 1000) if client.type(key) == b"hash"},
    )


def online_postgres(here: Here) -> Store:
    server, name = here.database("postgres")
    return Store({"type": "postgres", **_postgres(server, name)}, *_only_read(server, name))


def _postgres(server: services.Database, name: str) -> dict[str, Any]:
    place = {"host": "127.0.0.1", "port": server.port, "database": name, "db_schema": "public", "sslmode": "disable"}
    return place | {"user": "owner", "password": ""}


def _only_read(server: services.Database, name: str) -> tuple[Callable[[], Any], Callable[[Stranger], Changes]]:
    return lambda: server.dump(name), lambda theirs: {"user": _postgres_reader(server, name)}


def _postgres_reader(server: services.Database, name: str) -> str:
    """A role that may read all tables there are, and do nothing else."""
    reader = f"reader_of_{name}"
    server.run(name, f"CREATE ROLE {reader} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}")
    return reader


def online_mysql(here: Here) -> Store:
    server, name = here.database("mariadb")
    place = {"host": "127.0.0.1", "port": server.port, "database": name, "password": "secret"}
    reading = lambda theirs: {"user": _mariadb_reader(server, name)}  # noqa: E731
    return Store({"type": "mysql", **place, "user": "owner"}, lambda: server.dump(name), reading)


def _mariadb_reader(server: services.Database, name: str) -> str:
    reader = f"reader_of_{name}"
    server.run(name, f"CREATE USER {reader} IDENTIFIED BY 'secret'", f"GRANT SELECT ON {name}.* TO {reader}")
    return reader


def online_dynamodb(here: Here) -> Store:
    pytest.importorskip("aiobotocore")
    import boto3

    url = here.request.getfixturevalue("s3_url")
    patch = here.stack.enter_context(pytest.MonkeyPatch.context())
    for variable, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        patch.setenv(variable, value)

    def dump() -> dict[str, Any]:
        client = boto3.client("dynamodb", region_name="us-east-1", endpoint_url=url)
        return {name: client.scan(TableName=name)["Items"] for name in client.list_tables()["TableNames"]}

    return Store(
        {"type": "dynamodb", "region": "us-east-1", "endpoint_url": url}, dump, lists_keys=False, counts_keys=True
    )


def online_milvus(here: Here) -> Store:
    """Milvus Lite, in a file."""
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    return Store({"type": "milvus", "path": "milvus.db", "embedding_dim": 4}, lists_keys=False)


def online_remote(here: Here) -> Store:
    def reading(theirs: Stranger) -> Changes:
        return {"type": "remote", "path": f"http://127.0.0.1:{here.serving(theirs, 'serve')}"}

    return Store({"type": "sqlite", "path": "online.db"}, reading=reading, lists_keys=False, has_events=False)


def offline_dask(here: Here) -> Store:
    return Store({"type": "dask"}, expired="dropped")


def offline_duckdb(here: Here) -> Store:
    return Store({"type": "duckdb"}, write=_write_parquet)


def _write_parquet(theirs: Stranger, name: str, frame: pd.DataFrame) -> DataSource:
    """The same, saying of which format: with DuckDB, Feast 0.60 takes no file for Parquet by itself."""
    path = theirs.write(name, frame).path
    return FileSource(name=name, path=path, file_format=ParquetFormat(), timestamp_field="event_timestamp")


def offline_spark(here: Here) -> Store:
    pytest.importorskip("pyspark")
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    def write(theirs: Stranger, name: str, frame: pd.DataFrame) -> DataSource:
        path = theirs.write(name, frame).path
        return SparkSource(name=name, path=path, file_format="parquet", timestamp_field="event_timestamp")

    conf = {"spark.master": "local[1]", "spark.ui.enabled": "false", "spark.sql.shuffle.partitions": "1"}
    conf |= {"spark.sql.session.timeZone": "UTC", "spark.driver.bindAddress": "127.0.0.1"}
    return Store({"type": "spark", "spark_conf": conf}, write=write)


def offline_postgres(here: Here) -> Store:
    server, name = here.database("postgres")
    from feast.infra.offline_stores.contrib.postgres_offline_store.postgres_source import PostgreSQLSource

    types = {"int64": "bigint", "float64": "double precision", "object": "text"}

    def write(theirs: Stranger, table: str, frame: pd.DataFrame) -> DataSource:
        columns = [f"{name} {types.get(str(kind), 'timestamptz')}" for name, kind in frame.dtypes.items()]
        server.run(name, f"DROP TABLE IF EXISTS {table}", f"CREATE TABLE {table} ({', '.join(columns)})")
        with server.connect(server.port, name) as connection, connection.cursor() as cursor:
            marks = ", ".join(["%s"] * len(columns))
            cursor.executemany(f"INSERT INTO {table} VALUES ({marks})", frame.astype(object).values.tolist())
        return PostgreSQLSource(name=table, query=f"SELECT * FROM {table}", timestamp_field="event_timestamp")

    def reading(theirs: Stranger) -> Changes:
        reader = _postgres_reader(server, name)  # for a training set, Feast makes a table, in the first schema
        server.run(name, f"CREATE SCHEMA scratch AUTHORIZATION {reader}")
        return {"user": reader, "db_schema": "scratch"}

    return Store({"type": "postgres", **_postgres(server, name)}, lambda: server.dump(name), reading, write=write)


def offline_remote(here: Here) -> Store:
    def reading(theirs: Stranger) -> Changes:
        return {"type": "remote", "host": "127.0.0.1", "port": here.serving(theirs, "serve_offline")}

    return Store({"type": "duckdb"}, reading=reading, write=_write_parquet)


def registry_file(here: Here) -> Store:
    return Store({"registry_type": "file", "path": "registry.db", "cache_ttl_seconds": 1})


def registry_sqlite(here: Here) -> Store:
    return Store({"registry_type": "sql", "path": "sqlite:///sql.db"})


def registry_postgres(here: Here) -> Store:
    return _registry_of(here, "postgres", "postgresql+psycopg://%s", _postgres_reader)


def registry_mysql(here: Here) -> Store:
    return _registry_of(here, "mariadb", "mysql+pymysql://%s:secret", _mariadb_reader)


def _registry_of(here: Here, kind: str, user: str, reader: Callable[[services.Database, str], str]) -> Store:
    """A registry that a server keeps, and that a ``reader`` made there may read."""
    server, name = here.database(kind)
    url = f"{user}@127.0.0.1:{server.port}/{name}"
    return Store(
        {"registry_type": "sql", "path": url % "owner"},
        lambda: server.dump(name),
        lambda theirs: {"path": url % reader(server, name)},
    )


def registry_cached(here: Here) -> Store:
    """What reads the registry in a thread of its own, again and again."""
    return Store({"registry_type": "sql", "path": "sqlite:///sql.db", "cache_mode": "thread", "cache_ttl_seconds": 1})


def registry_remote(here: Here) -> Store:
    pytest.importorskip("grpc_health")

    def reading(theirs: Stranger) -> Changes:
        return {"registry_type": "remote", "path": f"127.0.0.1:{here.serving(theirs, 'serve_registry')}"}

    return Store({"registry_type": "file", "path": "registry.db"}, reading=reading)


def _makers(prefix: str) -> dict[str, Callable[[Here], Store]]:
    return {name.removeprefix(prefix): make for name, make in globals().items() if name.startswith(prefix)}


ONLINE, OFFLINE, REGISTRIES = _makers("online_"), _makers("offline_"), _makers("registry_")
