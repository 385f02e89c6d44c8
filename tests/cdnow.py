"""Copies of the example of CDNOW, with purchases as a test or a benchmark has them: computed, trained and served.

What is imported of scikit-learn and of the example itself is imported when it is asked for.
"""

import contextlib
import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from urllib.parse import quote

import numpy as np
import yaml

from tests.conftest import BIN, ROOT

EXAMPLE = ROOT / "examples" / "cdnow"
PRESENT = "1998-07-01T00:00:00+00:00"
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT)}
SECONDS = 60
"""How long at most anything is waited for."""
Purchases = Mapping[str, Sequence[tuple[str, float]]]
"""The dates, as 19970101, and the dollars of each customer."""


def module(name: str) -> ModuleType:
    """A module of the example, which its scripts import from their own folder."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        return __import__(name)
    finally:
        sys.path.remove(str(EXAMPLE))


@dataclass
class Answer:
    status: int
    content: dict


@dataclass
class Example:
    """A copy of the example, computed, trained and in Redis."""

    folder: Path
    port: int

    @property
    def features(self) -> Path:
        return self.folder / "features.py"

    @property
    def model(self) -> Path:
        return self.folder / "data" / "buys_again.model"

    def configure(self, port: int, **online) -> None:
        self.port, path = port, self.folder / "feature_store.yaml"
        content = yaml.safe_load(path.read_text())
        content.pop("mlflow", None)
        content["project"] = f"cdnow_{uuid.uuid4().hex}"
        content["online_store"] = {
            "type": content["online_store"]["type"],
            "connection_string": f"localhost:{port},socket_timeout=1",
        } | online
        path.write_text(yaml.safe_dump(content))

    @contextlib.contextmanager
    def logged(self, where: str) -> Iterator[Path]:
        """Have what is served logged, for a while: ``where``, from the folder of feature_store.yaml."""
        path = self.folder / "feature_store.yaml"
        before = path.read_text()
        content = yaml.safe_load(before)
        content["online_store"]["log_served"] = where
        path.write_text(yaml.safe_dump(content))
        try:
            yield self.folder / where
        finally:
            path.write_text(before)

    def run(self, *command: object) -> subprocess.CompletedProcess:
        return subprocess.run([*map(str, command)], cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True)

    def script(self, name: str, *arguments: object) -> subprocess.CompletedProcess:
        return self.run(sys.executable, self.folder / name, *arguments)

    def succeed(self, *command: object) -> str:
        done = self.run(*command)
        assert done.returncode == 0, done
        return done.stdout

    def refused(self, name: str, *arguments: object) -> str:
        """Run a script that has to end with status 2 and one line; return that."""
        done = self.script(name, *arguments)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done
        assert done.stderr.startswith("error: "), done
        return done.stderr

    def apply(self) -> None:
        self.succeed(BIN / "feast", "-c", self.folder, "apply")

    def compute(self) -> None:
        self.succeed(sys.executable, "compute_features.py", "-c", self.folder)

    def materialize(self) -> None:
        self.succeed(sys.executable, "materialize_to_online.py", "-c", self.folder, "--end", PRESENT, "--retract")

    @contextlib.contextmanager
    def edited(self, before: str, after: str) -> Iterator[None]:
        """Let features.py be another, for a while."""
        text = self.features.read_text()
        assert before in text, before
        self.features.write_text(text.replace(before, after))
        try:
            yield
        finally:
            self.features.write_text(text)

    @contextlib.contextmanager
    def served(self, *arguments: object) -> Iterator["Client"]:
        """A server of the model, with a log of its own beside those of others, ended by SIGTERM."""
        place = self.folder / f"serve-{uuid.uuid4().hex}.log"
        command = [sys.executable, str(self.folder / "serve.py"), "--port", "0", *map(str, arguments)]
        with open(place, "w") as log:
            streams = {"stdout": subprocess.PIPE, "stderr": log, "text": True}
            process = subprocess.Popen(command, cwd=ROOT, env=ENVIRONMENT, **streams)
        try:
            said = process.stdout.readline()
            found = re.search(r"at http://127\.0\.0\.1:([0-9]+), as of ", said)
            assert found, (said, place.read_text())
            yield Client(int(found[1]), process.pid, place)
            process.terminate()
            assert process.wait(SECONDS) == 0
        finally:
            process.kill()
            process.wait()
            process.stdout.close()


@dataclass
class Client:
    port: int
    process: int
    log: Path

    def ask(self, path: str, body: object = None) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        with contextlib.closing(connection):
            if body is None:
                connection.request("GET", path)
            else:
                connection.request("POST", path, body if isinstance(body, bytes) else json.dumps(body))
            response = connection.getresponse()
            return Answer(response.status, json.loads(response.read()))

    def predict(self, *ids: str) -> Answer:
        return self.ask(f"/predict?customer_id={quote(ids[0])}" if len(ids) == 1 else "/predict", self._body(ids))

    @staticmethod
    def _body(ids: tuple[str, ...]) -> object:
        return {"customer_ids": list(ids)} if len(ids) > 1 else None

    def until(self, status: int, path: str = "/predict?customer_id=00003") -> Answer:
        """Ask until the answer has this status."""
        deadline = time.monotonic() + SECONDS
        while (answer := self.ask(path)).status != status:
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
        return answer


def prepared(folder: Path, port: int, purchases: Purchases, trees: int = 20, **online) -> Example:
    """Copy the example to ``folder``, with these ``purchases``; a model of so many ``trees`` is trained on noise."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    from parity.definition.checks import declared
    from parity.model.contract import Contract
    from parity.model.file import save

    shutil.copytree(EXAMPLE, folder, ignore=shutil.ignore_patterns("data", "__pycache__", "mlruns"))
    (folder / "data").mkdir()
    rows = [f" {who} {date}  1  {dollars:.2f}" for who, some in purchases.items() for date, dollars in some]
    (folder / "data" / "CDNOW_master.txt").write_text("\n".join(["customer_id date cds dollars", *rows, ""]))
    example = Example(folder, port)
    example.configure(port, **online)
    example.apply()
    example.compute()
    example.materialize()
    model = module("model")
    inputs = np.random.default_rng(7).gamma(2, 20, (400, len(model.INPUTS)))
    fitted = HistGradientBoostingClassifier(max_iter=trees, random_state=0).fit(inputs, inputs[:, -1] > 30)
    save(fitted, Contract.of(declared(folder), model.SERVICE, model.INPUTS), example.model)
    return example
