"""What the tests share: a Redis of their own, and copies of the project that they may break."""

import compileall
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis
import yaml

from parity.edge.redis_server import find_server, free_port, launch
from parity.edge.signals import ENDING

ROOT = Path(__file__).resolve().parent.parent
PARTS = ["generate_synthetic_data.py", "compute_features.py", "materialize_to_online.py", "demo_fixed.py", "parity"]
BIN = Path(sys.executable).parent
READS = {"WARM_UP_CALLS": 2, "LATENCY_CALLS": 20}
"""How many online reads `demo_fixed.py` times in a test: a thousand took over a quarter of the time of the proofs."""

# In a worker of pytest-xdist the main module has no file, which PySpark takes for doctests, and exits.
vars(sys.modules["__main__"]).setdefault("__file__", str(ROOT / "tests" / "__init__.py"))


@pytest.fixture(scope="session")
def redis_port(tmp_path_factory):
    """The port of a real Redis that lives as long as the tests."""
    port = free_port()
    server = find_server()
    assert server, "there is no redis-server; `make test` installs one"
    process = launch(server, port, tmp_path_factory.mktemp("redis"))
    yield port
    process.terminate()
    process.wait(10)


@contextmanager
def s3_server(*command: str, **environment: str) -> Iterator[str]:
    """The URL of a real S3-speaking server, moto's or another ``command``, for as long as the block lasts."""
    port = free_port()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    server = subprocess.Popen(
        [*(command or [BIN / "moto_server"]), "-p", str(port)], env=os.environ | environment, **quiet
    )
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while True:
            try:
                urllib.request.urlopen(f"{url}/moto-api/", timeout=10).close()
                break
            except urllib.error.URLError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield url
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture(scope="session")
def s3_url():
    with s3_server() as url:
        yield url


@pytest.fixture
def bucket(s3_url):
    """The environment in which s3://bucket is a bucket, and empty, of a real S3-speaking server."""
    for path, method in [("moto-api/reset", "POST"), ("bucket", "PUT")]:
        urllib.request.urlopen(urllib.request.Request(f"{s3_url}/{path}", method=method), timeout=10).close()
    return {
        "AWS_ENDPOINT_URL": s3_url,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }


@dataclass
class Outcome:
    status: int
    out: str
    err: str


@dataclass
class Project:
    """A copy of the project in a folder of its own, with its own name in the tests' Redis."""

    root: Path
    port: int
    capture: object = field(repr=False)
    client: redis.Redis = field(repr=False)

    @property
    def transactions(self) -> Path:
        return self.root / "user_transactions.csv"

    @property
    def features(self) -> Path:
        return self.root / "data" / "user_features.parquet"

    def configure(self, **options) -> None:
        """Change feature_store.yaml; a nested option is named with two underscores."""
        path = self.root / "feature_repo" / "feature_store.yaml"
        config = yaml.safe_load(path.read_text())
        for name, value in options.items():
            *sections, last = name.split("__")
            section = config
            for part in sections:
                section = section[part]
            section[last] = value
        path.write_text(yaml.safe_dump(config, sort_keys=False))

    def run(self, script: str, *arguments: object) -> Outcome:
        """Run a script as its command line would, in this process, which has imported Feast already."""
        path, argv = list(sys.path), sys.argv
        handlers = {number: signal.getsignal(number) for number in ENDING}
        for module in [name for name in sys.modules if name.partition(".")[0] == "feature_repo"]:
            del sys.modules[module]
        sys.path[0:0], sys.argv = [str(self.root)], [script, *map(str, arguments)]
        self.capture.readouterr()
        try:
            runpy.run_path(str(self.root / script), run_name="__main__")
            status = 0
        except SystemExit as stop:
            status = stop.code or 0
        finally:
            sys.path[:], sys.argv = path, argv
            for number, handler in handlers.items():
                signal.signal(number, handler)
        return Outcome(status, *self.capture.readouterr())

    def shell(self, command: str, cwd: Path | None = None, **environment: str) -> Outcome:
        """Run a command line for real, in a shell of its own, with `python` and `feast` those of the tests."""
        environment = os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | environment
        done = subprocess.run(
            command, shell=True, cwd=cwd or self.root, env=environment, capture_output=True, text=True, timeout=300
        )
        return Outcome(done.returncode, done.stdout, done.stderr)

    def apply(self) -> None:
        """What `feast apply` does, in this process."""
        self.feast("apply")

    def feast(self, *arguments: str) -> Outcome:
        """Run the `feast` command in the feature repository, in this process."""
        from feast.cli.cli import cli

        before, path = Path.cwd(), list(sys.path)
        sys.modules.pop("features", None)
        self.capture.readouterr()
        try:
            os.chdir(self.root / "feature_repo")
            sys.path.insert(0, str(self.root / "feature_repo"))
            cli(list(arguments), standalone_mode=False)
        finally:
            os.chdir(before)
            sys.path[:] = path
            sys.modules.pop("features", None)
        return Outcome(0, *self.capture.readouterr())

    def succeed(self, script: str, *arguments: object) -> str:
        outcome = self.run(script, *arguments)
        assert outcome.status == 0, outcome
        return outcome.out

    def fail(self, script: str, *arguments: object) -> str:
        """Run a script that has to fail as people are told: one line, status 2, no traceback; return the line."""
        outcome = self.run(script, *arguments)
        assert outcome.status == 2, outcome
        assert outcome.err.startswith("error: "), outcome
        assert outcome.err.count("\n") == 1, outcome
        return outcome.err

    def prepare(self, *arguments: object) -> None:
        """Run the pipeline up to the online store."""
        self.succeed("generate_synthetic_data.py", *arguments)
        self.apply()
        self.succeed("compute_features.py")
        self.succeed("materialize_to_online.py")

    def write_transactions(self, *rows: str, header: str = "user_id,product_id,timestamp,purchase_amount") -> None:
        self.transactions.write_text("\n".join([header, *rows, ""]))


@pytest.fixture(scope="session")
def library(tmp_path_factory) -> Path:
    """A compiled copy of `parity`, which each `project` has links to: to change a file there, replace it."""
    return shutil.copytree(ROOT / "parity", tmp_path_factory.mktemp("library") / "parity")


@pytest.fixture
def every_read():
    """Have `demo_fixed.py` time as many online reads as it does for people, in place of `READS`."""


@pytest.fixture
def project(request, tmp_path, library, redis_port, capsys, monkeypatch):
    if "every_read" not in request.fixturenames:
        for name, count in READS.items():
            monkeypatch.setattr(f"parity.online.side.{name}", count)
    root = tmp_path / "project"
    root.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(library, root / part, copy_function=os.link)
        else:
            shutil.copy(ROOT / part, root / part)
    shutil.copytree(ROOT / "feature_repo", root / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(Path(__file__).parent / "repository" / "features.py", root / "feature_repo")
    client = redis.Redis(port=redis_port)
    project = Project(root, redis_port, capsys, client)
    project.configure(
        project=f"test_{abs(hash(str(tmp_path)))}", online_store__connection_string=f"localhost:{redis_port}"
    )
    yield project
    client.close()


def pytest_configure(config):
    """Compile the library once, ahead of the workers, as every process of the tests would, where Python keeps nothing
    of what it compiles (PYTHONDONTWRITEBYTECODE)."""
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(ROOT / "parity", quiet=2)


def pytest_terminal_summary(terminalreporter):
    """Print what tests counted, as they note it by ``record_property("counts", ...)``."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "counts":
                terminalreporter.write_line(value)
