"""`parity check` on the stores of Feast that run here for real: equal is equal, faults are named, nothing is written.

Every repository has the same customers and the same faults, each of its own keys, so that a store that hides one of
them shows: the kinds and numbers of keys are the same, whatever the stores, but for what a store can't say.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
import redis
import yaml
from feast import Field, PushSource
from feast.types import Float32, Float64, Int64, String

from tests.strangers import DAY, HOUR, Stranger, customers, orders, services, stranger

pytestmark = pytest.mark.scale

FAULTS = {"correction": 2, "behind": 3, "pushed": 4, "ttl": 1, "float32": 1}
"""What `broken` plants: of each kind, the number of keys. Of those that are pushed, one is in the source as well."""
_NUMBERS = itertools.count()


@dataclass
class Store:
    """A store, as it is configured, with what is in it, and who may only read it."""

    configuration: dict[str, Any]
    dump: Callable[[], Any] = lambda: None
    """What is in it, where that is not a file in the folder of the repository."""
    reading: Callable[[Stranger], dict[str, Any]] = lambda theirs: {}
    """Make a user that may only read what is there, or a server, and say what has to be configured otherwise for it."""
    lists_keys: bool = True
    has_events: bool = True

    def faults(self) -> dict[str, int]:
        """Which of `FAULTS` can be told apart: without event times, what is corrected looks like what is pushed."""
        if not self.has_events:
            together = FAULTS["correction"] + 1
            return {"unexplained": together} | {kind: FAULTS[kind] for kind in ("behind", "ttl", "float32")}
        return FAULTS | ({} if self.lists_keys else {"pushed": 1})


@pytest.fixture(scope="module")
def postgres():
    with services.postgres() as database:
        yield database


@pytest.fixture(scope="module")
def mariadb():
    with services.mariadb() as database:
        yield database


@dataclass
class Here:
    """What a store may be made of."""

    request: pytest.FixtureRequest
    stack: ExitStack

    def database(self, of: str) -> tuple[services.Database, str]:
        server = self.request.getfixturevalue(of)
        name = f"theirs{next(_NUMBERS)}"
        server.run("postgres" if of == "postgres" else "mysql", f"CREATE DATABASE {name}")
        return server, name

    def serving(self, theirs: Stranger, *command: str) -> int:
        """The port of a server of Feast, of the repository as it is configured by now."""
        yaml = theirs.root.parent / "server.yaml"
        yaml.write_text((theirs.root / "feature_store.yaml").read_text())
        return self.stack.enter_context(services.feast(theirs.root, yaml, *command))


@pytest.fixture
def here(request) -> Iterator[Here]:
    with ExitStack() as stack:
        yield Here(request, stack)


def of_sqlite(here: Here) -> Store:
    return Store({"type": "sqlite", "path": "online.db"})


def of_redis(here: Here) -> Store:
    port = here.request.getfixturevalue("redis_port")
    client = redis.Redis(port=port)
    here.stack.callback(client.close)
    return Store(
        {"type": "redis", "connection_string": f"127.0.0.1:{port}"},
        lambda: {key: client.hgetall(key) for key in client.scan_iter(b"*", 1000) if client.type(key) == b"hash"},
    )


def of_postgres(here: Here) -> Store:
    server, name = here.database("postgres")
    place = {
        "host": "127.0.0.1",
        "port": server.port,
        "database": name,
        "db_schema": "public",
        "password": "",
        "sslmode": "disable",
    }
    return Store(
        {"type": "postgres", **place, "user": "owner"},
        lambda: server.dump(name),
        lambda theirs: {"user": _postgres_reader(server, name)},
    )


def _postgres_reader(server: services.Database, name: str) -> str:
    reader = f"reader_of_{name}"
    server.run(name, f"CREATE ROLE {reader} LOGIN", f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {reader}")
    return reader


def of_mysql(here: Here) -> Store:
    server, name = here.database("mariadb")
    place = {"host": "127.0.0.1", "port": server.port, "database": name, "password": "secret"}

    def reading(theirs: Stranger) -> dict[str, Any]:
        reader = f"reader_of_{name}"
        server.run(name, f"CREATE USER {reader} IDENTIFIED BY 'secret'", f"GRANT SELECT ON {name}.* TO {reader}")
        return {"user": reader}

    return Store({"type": "mysql", **place, "user": "owner"}, lambda: server.dump(name), reading)


def of_dynamodb(here: Here) -> Store:
    pytest.importorskip("aiobotocore")
    import boto3

    url = here.request.getfixturevalue("s3_url")
    patch = here.stack.enter_context(pytest.MonkeyPatch.context())
    for variable, value in {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}.items():
        patch.setenv(variable, value)

    def dump() -> dict[str, Any]:
        client = boto3.client("dynamodb", region_name="us-east-1", endpoint_url=url)
        return {name: client.scan(TableName=name)["Items"] for name in client.list_tables()["TableNames"]}

    return Store({"type": "dynamodb", "region": "us-east-1", "endpoint_url": url}, dump, lists_keys=False)


def of_remote(here: Here) -> Store:
    def reading(theirs: Stranger) -> dict[str, Any]:
        return {"type": "remote", "path": f"http://127.0.0.1:{here.serving(theirs, 'serve')}"}

    return Store({"type": "sqlite", "path": "online.db"}, reading=reading, lists_keys=False, has_events=False)


ONLINE = {name.removeprefix("of_"): make for name, make in globals().items() if name.startswith("of_")}


@pytest.fixture(params=ONLINE)
def online(request, here) -> Store:
    return ONLINE[request.param](here)


def made(tmp_path, capfd, **stores: Any) -> Stranger:
    return stranger(tmp_path, capfd, project=f"theirs{next(_NUMBERS)}", **stores)


FIELDS = {"total": Float64, "orders": Int64, "name": String, "single": Float32}


def healthy(theirs: Stranger, write: Callable[[str, pd.DataFrame], Any] | None = None) -> pd.DataFrame:
    """A view of customers, applied and materialized."""
    frame = orders(theirs.now, name=lambda key: f"ä{key}", single=lambda key: key / 4)
    source = (write or theirs.write)("orders", frame)
    fields = [Field(name=name, dtype=kind) for name, kind in FIELDS.items()]
    theirs.apply(*customers(PushSource(name="pushed", batch_source=source), fields=fields))
    theirs.materialize(theirs.now - HOUR / 2)
    return frame


def broken(theirs: Stranger, write: Callable[[str, pd.DataFrame], Any] | None = None) -> None:
    """The same with `FAULTS`, each of its own keys."""
    write = write or theirs.write
    frame = orders(theirs.now, name=lambda key: f"ä{key}", single=lambda key: key / 4)
    frame.loc[frame["customer_id"] == 6, "event_timestamp"] -= 11 * DAY
    frame.loc[frame["customer_id"] == 12, "single"] = 12.1
    source = write("orders", frame)
    fields = [Field(name=name, dtype=kind) for name, kind in FIELDS.items()]
    theirs.apply(*customers(PushSource(name="pushed", batch_source=source), fields=fields))
    theirs.materialize(theirs.now - HOUR / 2)
    last = frame.groupby("customer_id").tail(1)
    pushed = last[last["customer_id"] >= 17].assign(event_timestamp=theirs.now - timedelta(minutes=20), total=-1.5)
    pushed["customer_id"] = [7, 101, 102, 103]
    theirs.store.push("pushed", pushed)
    frame.loc[frame["customer_id"] <= 2, "total"] += 1
    newer = last[last["customer_id"].isin([3, 4, 5])]
    newer = newer.assign(event_timestamp=theirs.now - timedelta(minutes=10), total=newer["total"] + 7)
    write("orders", pd.concat([frame, newer]))


def contents(theirs: Stranger, *stores: Store) -> tuple:
    """All that a check might change."""
    files = {path: path.read_bytes() for path in sorted(theirs.root.rglob("*")) if path.is_file()}
    return files, {path: path.stat().st_mtime_ns for path in files}, [store.dump() for store in stores]


def read_only(theirs: Stranger, **sections: dict[str, Any]) -> None:
    """Configure users that may only read."""
    file = theirs.root / "feature_store.yaml"
    configuration = yaml.safe_load(file.read_text())
    for name, changes in sections.items():
        configuration[name] |= changes
    file.write_text(yaml.safe_dump(configuration))


def counts(found: Any) -> dict[str, int]:
    return {kind: found.of(kind)["keys"] for kind in found.kinds}


def test_a_healthy_online_store_is_equal_and_only_read(tmp_path, capfd, online):
    theirs = made(tmp_path, capfd, offline="duckdb", online=online.configuration)
    healthy(theirs)
    read_only(theirs, online_store=online.reading(theirs))
    before = contents(theirs, online)
    found = theirs.check()
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 80), found.out + found.err
    assert ("are not looked for" in found.out) == (not online.lists_keys)
    assert contents(theirs, online) == before


def test_faults_are_named_whatever_the_online_store(tmp_path, capfd, online):
    theirs = made(tmp_path, capfd, offline="duckdb", online=online.configuration)
    broken(theirs)
    read_only(theirs, online_store=online.reading(theirs))
    found = theirs.check()
    assert (found.status, counts(found)) == (1, online.faults())
