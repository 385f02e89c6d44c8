"""The two sides of a plan: each a process that imports its own features.py by its own library, and computes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from parity.edge.errors import UserError

START = Path(__file__).with_name("own_library.py")
LIBRARY = Path(__file__).resolve().parents[2]
"""The folder that the library which runs lies in."""


class Computed(NamedTuple):
    """The features of a view, in a file."""

    features: Path
    rows: Path | None
    """The transactions that they were computed of, as read; None if that library does not say."""
    count: int
    keys: int
    bytes: int
    seconds: dict[str, float]


class Side:
    """A process that answers of one side; a context manager, after which it has ended."""

    is_stored = False
    """Whether its features are computed by now, of transactions that there were then."""

    def __init__(
        self,
        title: str,
        repository: Path,
        library: Path,
        folder: Path,
        cwd: Path,
        paths: list[Path],
        moved: tuple[Path, Path] | None = None,
    ):
        self.title, self.repository, self.library, self.folder = title, repository, library, folder
        self.moved = moved and tuple(map(str, moved))
        """Where the side is unpacked, and where it lies for people."""
        self._errors = (folder / "stderr").open("w+")
        there = {self.moved[1]: self.moved[0]} if self.moved else {}
        self._first = {"root": str(library), "repository": str(repository), "moved": there}
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-B", str(START)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            cwd=cwd,
            env=_environment(folder, [library, cwd, *paths]),
        )
        self._send({"do": "describe"})
        self._views = 0

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: Any) -> None:
        self._process.kill()
        self._process.communicate()
        self._errors.close()

    def description(self) -> dict[str, Any]:
        """What is declared, as `parity.plan.probe` describes it. `UserError` if it can't be imported."""
        found = self._answer()
        if self.moved:
            found = json.loads(json.dumps(found).replace(*self.moved))
        return found

    def count(self, view: str, transactions: Path) -> int:
        """How many keys of the ``transactions`` a view has."""
        self._send({"do": "count", "view": view, "transactions": str(transactions)})
        return self._answer()["keys"]

    def computing(self, view: str, transactions: Path, below: int | None) -> Callable[[], Computed]:
        """Begin to compute a view on the ``transactions``, of the keys whose hash is ``below``; return a function that
        waits for it, or raises `UserError`."""
        self._views += 1
        folder = self.folder / f"view-{self._views}"
        folder.mkdir()
        request = {"view": view, "transactions": str(transactions), "below": below, "folder": str(folder)}
        self._send({"do": "compute", **request})
        return self._computed

    def _computed(self) -> Computed:
        found = self._answer()
        rows = found["rows"] and Path(found["rows"])
        return Computed(Path(found["features"]), rows, *(found[name] for name in ("count", "keys", "bytes", "seconds")))

    def online(self, view: str, computed: Computed, port: int) -> dict[str, Any] | None:
        """What the latest rows of a view take in the empty Redis at ``port``; None if that can't be measured."""
        self._send({"do": "online", "view": view, "features": str(computed.features), "port": port})
        return self._answer()

    def recall(self, view: str, made: Mapping[str, str]) -> dict[str, Any]:
        """How features were made that have these fingerprints, as far as that can be found out."""
        self._send({"do": "recall", "view": view, "made": dict(made)})
        return self._answer()

    def _send(self, request: dict[str, Any]) -> None:
        try:
            self._process.stdin.write(json.dumps(request | self._first) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended, which its answer says
        self._first = {}

    def _answer(self) -> Any:
        line = self._process.stdout.readline()
        answer = json.loads(line) if line else {"error": self._last_words()}
        if "error" in answer:
            said = answer["error"]
            if self.moved:
                said = said.replace(*self.moved)
            raise UserError(f"{self.title}: {said}")
        return answer["answer"]

    def _last_words(self) -> str:
        status = self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return lines[-1] if lines else f"its process ended with status {status}"


def _environment(folder: Path, paths: list[Path]) -> dict[str, str]:
    """The environment of a side: its own library ahead of all others, and bytecode and temporary files nowhere else."""
    found = {"PYTHONDONTWRITEBYTECODE": "1", "TMPDIR": str(folder), "PYTHONWARNINGS": "ignore"}
    return os.environ | found | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(map(str, paths)))}


def python_path() -> list[Path]:
    """What PYTHONPATH names."""
    return [Path(path).absolute() for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def library_in(top: Path, repository: Path) -> Path | None:
    """The folder with a `parity` package beside or above a ``repository``, up to ``top``; None if there is none."""
    for folder in (repository, *repository.parents):
        if (folder / "parity" / "__init__.py").is_file():
            return folder
        if folder == top:
            return None
    return None
