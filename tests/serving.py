"""Readers that never rest, beside materializations that run, die and fail: every answer is the old or the new row.

    python -m tests.serving [--seconds N] [--registry file|sql|s3] [--key int64|text]

It makes a project of its own and starts a Redis and a `feast serve` of its own. Readers ask it by the SDK, sync and
async, and over HTTP, while `materialize_to_online.py`, `feast materialize` and `feast materialize-incremental` run, are
killed, and lose their Redis halfway. Then it prints how many answers there were, errors and wrong values among them.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

import yaml
from feast import FeatureStore

from parity.definition.checks import declared
from parity.edge.command import run, whole_number
from parity.edge.files import write_table
from parity.edge.redis_server import free_port, launch, require_server
from tests.conftest import BIN, PARTS, ROOT, s3_server
from tests.online import applied, rows_of

USERS = 500
REST = 0.01
"""Seconds that a reader leaves to the others after each request."""
HOURS = timedelta(hours=1)
BEGIN = datetime.now(UTC).replace(microsecond=0) - 48 * HOURS
FEATURES = """
from datetime import timedelta

from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.types import Float64

from parity import AggregatedFeatureView, TransactionSource, check_definitions

user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.{value_type})
spending = AggregatedFeatureView(
    name="spending",
    entities=[user],
    ttl=timedelta(days=30),
    transactions=TransactionSource(name="transactions", path="../transactions.csv"),
    aggregations=[
        Aggregation(name="spent_mean", function="mean", column="spent", time_window=timedelta(days=3)),
        Aggregation(name="spent_count", function="count", column="spent"),
    ],
    source=FileSource(name="source", path={path!r}, timestamp_field="event_timestamp"),
)
spending_service = FeatureService(name="spending_service", features=[spending])
check_definitions(globals())
"""
KEYS = {"int64": ("INT64", int), "text": ("STRING", "{:04}".format)}
"""The type of the join key, and the id of a user, who has a number."""
COMMANDS = {
    "materialize_to_online.py": [sys.executable, "materialize_to_online.py", "--retract"],
    "feast materialize": [str(BIN / "feast"), "-c", "feature_repo", "materialize", "2000-01-01T00:00:00+00:00"],
    "feast materialize-incremental": [str(BIN / "feast"), "-c", "feature_repo", "materialize-incremental"],
}

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["feast.infra.registry.sql", "parity.materialization", "parity.online.engine"])


def row(version: int, user: int) -> tuple[datetime, float, int] | None:
    """The row of a user in a version of the features: event, mean, count. Some are gone, some events are earlier."""
    if (user + version) % 11 == 0:
        return None
    return BEGIN + HOURS * ((user * 7 + version * 5) % 24), float(version * 10_000 + user), version


class Counts(NamedTuple):
    """What a reader got: answers of a user, errors, and values that are of no version that may be served."""

    answers: int
    errors: list[str]
    wrong: list[str]


class Shop:
    """A project in a folder, whose features come in versions, on a Redis and a registry of its own."""

    def __init__(self, root: Path, port: int, registry: dict, key: str, **environment: str):
        self.root, self.port, self.environment = root, port, environment
        value_type, self.id = KEYS[key]
        for part in PARTS:
            copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
            copy(ROOT / part, root / part)
        (root / "feature_repo").mkdir()
        path = str(root / "data" / "features.parquet")
        (root / "feature_repo" / "features.py").write_text(FEATURES.format(value_type=value_type, path=path))
        [self.table] = declared(root / "feature_repo")
        config = yaml.safe_load((ROOT / "feature_repo" / "feature_store.yaml").read_text())
        config |= {"project": "shop", "registry": config["registry"] | registry}
        if "registry_type" in registry:
            del config["registry"]["registry_store_type"]
        self._config = config
        self.configure("feature_store.yaml", port)
        os.environ.update(environment)
        self.low, self.high = processes.Value("q", 1), processes.Value("q", 1)

    def configure(self, name: str, port: int) -> Path:
        """Write a configuration with its Redis at ``port``."""
        self._config["online_store"]["connection_string"] = f"localhost:{port},socket_timeout=2"
        path = self.root / "feature_repo" / name
        path.write_text(yaml.safe_dump(self._config))
        return path

    def write(self, version: int) -> None:
        """Write a version of the features, which may be served from now on, beside those before it."""
        self.high.value = version
        rows = [(self.id(user), *values) for user in range(USERS) if (values := row(version, user))]
        write_table(rows_of(self.table, rows), self.root / "data" / "features.parquet")

    def next_version(self) -> None:
        self.write(self.high.value + 1)

    def settled(self) -> None:
        """Nothing but the latest version may be served from now on: a full materialization has succeeded."""
        self.low.value = self.high.value

    def command(self, *arguments: str, configuration: Path | None = None) -> subprocess.Popen:
        environment = os.environ | self.environment
        if configuration:
            environment |= {"FEAST_FS_YAML_FILE_PATH": str(configuration)}
        quiet = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(arguments, cwd=self.root, env=environment, **quiet)

    def succeed(self, *arguments: str) -> None:
        process = self.command(*arguments)
        out, _ = process.communicate(timeout=120)
        assert process.returncode == 0, out

    def materialize(self, name: str, configuration: Path | None = None) -> subprocess.Popen:
        """Start one of `COMMANDS` up to now."""
        end = [] if name.endswith(".py") else [datetime.now(UTC).isoformat()]
        return self.command(*COMMANDS[name], *end, configuration=configuration)

    def check(self, user: int, mean: float | None, count: int | None, low: int) -> str | None:
        """Say what is wrong with an answer, if the versions from ``low`` up to the present one may be served."""
        versions = range(low, self.high.value + 1)
        if mean is None and count is None:
            return None if any(row(version, user) is None for version in versions) else f"user {user} is null"
        if count in versions and row(count, user) is not None and row(count, user)[1:] == (mean, count):
            return None
        return f"user {user} has ({mean}, {count}), of the versions {versions}"


@contextmanager
def shop(kind: str, key: str = "int64") -> Iterator[Shop]:
    """Make a shop whose registry is a ``file``, in a database (``sql``) or in a bucket (``s3``)."""
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        port = free_port()
        server = launch(require_server(), port, root / "redis")
        stack.callback(server.wait)
        stack.callback(server.kill)
        environment, registry = {}, {}
        if kind == "sql":
            registry = {"registry_type": "sql", "path": f"sqlite:///{root / 'registry.sqlite'}", "cache_ttl_seconds": 1}
        elif kind == "s3":
            url = stack.enter_context(s3_server())
            urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT"), timeout=10).close()
            keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
            environment, registry = keys | {"AWS_ENDPOINT_URL": url}, {"path": "s3://bucket/registry.db"}
        (root / "project").mkdir()
        made = Shop(root / "project", port, registry | {"cache_ttl_seconds": 1}, key, **environment)
        made.write(1)
        process = processes.Process(target=apply_and_materialize, args=(made.root, environment))
        process.start()
        process.join()
        assert process.exitcode == 0
        made.settled()
        yield made


# Readers


def read(shop: Shop, ask: str, url: str | None, stop, results) -> None:
    """What a reader's process does: ask for users, one or some at a time, until ``stop`` is set."""
    os.environ.update(shop.environment)
    read_by = {"sync": _by_sdk, "async": _by_async_sdk, "http": _by_http}[ask]
    answers, errors, wrong = 0, [], []
    draw, ask_once, asked = random.Random(ask), None, 0
    while not stop.is_set():
        users = [draw.randrange(USERS) for _ in range(draw.choice([1, 20]))]
        low = shop.low.value
        try:
            if ask_once is None or asked % 50 == 0:  # also as one who has just opened the repository
                ask_once = read_by(shop, url)
            found = ask_once(users)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}"[:300])
            ask_once = None
        else:
            answers += len(users)
            wrong += filter(None, (shop.check(*one, low) for one in zip(users, *found, strict=True)))
        asked += 1
        time.sleep(REST)
    results.put((ask, Counts(answers, errors, wrong)))


def _by_sdk(shop: Shop, url: None):
    store = FeatureStore(repo_path=str(shop.root / "feature_repo"))
    service = store.get_feature_service("spending_service")

    def ask(users: list[int]) -> tuple:
        answer = store.get_online_features(service, {"user_id": [*map(shop.id, users)]}).to_dict()
        return answer["spent_mean"], answer["spent_count"]

    return ask


def _by_async_sdk(shop: Shop, url: None):
    store, loop = FeatureStore(repo_path=str(shop.root / "feature_repo")), asyncio.new_event_loop()
    service = store.get_feature_service("spending_service")

    def ask(users: list[int]) -> tuple:
        answer = loop.run_until_complete(
            store.get_online_features_async(service, {"user_id": [*map(shop.id, users)]})
        ).to_dict()
        return answer["spent_mean"], answer["spent_count"]

    return ask


def _by_http(shop: Shop, url: str):
    def ask(users: list[int]) -> tuple:
        body = json.dumps({"feature_service": "spending_service", "entities": {"user_id": [*map(shop.id, users)]}})
        with closing(HTTPConnection(url, timeout=30)) as connection:
            connection.request("POST", "/get-online-features", body, {"Content-Type": "application/json"})
            response = connection.getresponse()
            content = json.loads(response.read())
        assert response.status == 200, f"HTTP {response.status}: {content}"
        names = content["metadata"]["feature_names"]
        return tuple(content["results"][names.index(name)]["values"] for name in ("spent_mean", "spent_count"))

    return ask


@contextmanager
def served(shop: Shop) -> Iterator[str]:
    """The address of a real `feast serve`, for as long as the block lasts."""
    port = free_port()
    with open(shop.root / "serve.log", "w") as log:
        # Feast's server replaces its worker after so many requests, and resets the connections that it has then.
        options = ["--port", str(port), "--no-access-log", "--max-requests", "0"]
        server = subprocess.Popen(
            [BIN / "feast", "-c", "feature_repo", "serve", *options],
            cwd=shop.root,
            stdout=log,
            stderr=log,
            env=os.environ | shop.environment,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while True:
                with suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                    break
                assert server.poll() is None, (shop.root / "serve.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield f"127.0.0.1:{port}"
        finally:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


class Readers:
    """Readers of all kinds, who ask until they are `stopped`."""

    def __init__(self, shop: Shop, url: str):
        self._stop, self._results = processes.Event(), processes.Queue()
        kinds = [("sync", None), ("async", None), ("http", url)]
        self._running = [
            processes.Process(target=read, args=(shop, ask, at, self._stop, self._results), daemon=True)
            for ask, at in kinds
        ]
        for process in self._running:
            process.start()

    def stopped(self) -> dict[str, Counts]:
        self._stop.set()
        found = dict(self._results.get(timeout=60) for _ in self._running)
        for process in self._running:
            process.join()
        return found


# What goes wrong


class Proxy:
    """A way to Redis that is cut after some bytes."""

    def __init__(self, port: int, bytes_until_cut: int):
        self._port, self._left = port, bytes_until_cut
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while self._left > 0:
                ours, _ = self._listener.accept()
                theirs = socket.create_connection(("127.0.0.1", self._port))
                for one, other in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass_on, args=(one, other), daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while self._left > 0 and (some := source.recv(1 << 14)):
                self._left -= len(some)
                target.sendall(some)
            if self._left <= 0:
                self._listener.close()
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def materialize_here(root: Path, environment: dict[str, str]) -> None:
    """What `materialize_to_online.py` does, in a process that has imported Feast already."""
    from parity.materialization import materialize_all

    os.environ.update(environment)
    store = FeatureStore(repo_path=str(root / "feature_repo"))
    now = datetime.now(UTC)
    materialize_all(store, declared(root / "feature_repo").tables, None, now, now, any_share=True)


def apply_and_materialize(root: Path, environment: dict[str, str]) -> None:
    """What `feast apply` does, and then `materialize_to_online.py`."""
    os.environ.update(environment)
    FeatureStore(repo_path=str(root / "feature_repo")).apply(applied(declared(root / "feature_repo").tables))
    materialize_here(root, environment)


def killed(shop: Shop, seconds: float) -> bool:
    """Materialize the next version, and kill that after some time. Say whether it was still running then."""
    shop.next_version()
    process = processes.Process(target=materialize_here, args=(shop.root, shop.environment))
    process.start()
    process.join(seconds)
    was_running = process.is_alive()
    process.kill()
    process.join()
    if not was_running and process.exitcode == 0:
        shop.settled()
    return was_running


def disturb(shop: Shop, draw: random.Random) -> str:
    """Let a command materialize the next version: to its end, killed, or cut off from Redis. Say what was done."""
    name, fate = draw.choice(list(COMMANDS)), draw.choice(["ends", "killed", "terminated", "cut"])
    shop.next_version()
    configuration = None
    if fate == "cut":
        proxy = Proxy(shop.port, draw.randrange(1_000, 60_000))
        configuration = shop.configure("cut.yaml", proxy.port)
    process = shop.materialize(name, configuration)
    if fate in ("killed", "terminated"):
        with suppress(subprocess.TimeoutExpired):
            process.wait(draw.uniform(0.5, 3.5))
        process.send_signal(signal.SIGKILL if fate == "killed" else signal.SIGTERM)
    process.communicate(timeout=60)
    if process.returncode == 0 and name.endswith(".py"):
        shop.settled()
    return f"{name} {'succeeded' if process.returncode == 0 else 'failed' if fate == 'cut' else 'died'}"


def chaos(kind: str, seconds: float, key: str = "int64") -> tuple[dict[str, Counts], Counter]:
    """Read and disturb for some time; at last materialize, and see that the latest version is served to all."""
    draw, done = random.Random(), Counter()
    with shop(kind, key) as made, served(made) as url:
        readers = Readers(made, url)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            done[disturb(made, draw)] += 1
        made.next_version()
        made.succeed(*COMMANDS["materialize_to_online.py"])
        made.settled()
        time.sleep(1)
        return readers.stopped(), done


def shown(kind: str, found: dict[str, Counts]) -> str:
    return "\n".join(
        f"{kind} registry, {ask}: {one.answers:,} answers, {len(one.errors)} errors, {len(one.wrong)} wrong values"
        for ask, one in sorted(found.items())
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=whole_number(1), default=60, help="how long (default: 60)")
    parser.add_argument("--registry", choices=["file", "sql", "s3"], default="file", help="where it is (default: file)")
    parser.add_argument("--key", choices=list(KEYS), default="int64", help="the type of the join key (default: int64)")
    args = parser.parse_args()
    found, done = chaos(args.registry, args.seconds, args.key)
    for what, times in sorted(done.items()):
        print(f"{what}: {times} times")
    print(shown(args.registry, found))
    bad = [text for one in found.values() for text in (*one.errors, *one.wrong)]
    for text in bad[:10]:
        print(f"  {text}")
    return 1 if bad or not all(one.answers for one in found.values()) else 0


if __name__ == "__main__":
    run(main)
