"""The test bed of `parity check`: healthy repositories, drawn, and each fault planted in each pair of stores.

    python -m tests.strangers.bed [--healthy N] [--planted N] [--both N] [--redis PORT] [--seed N] [--only FAULT ...]

Prints how many healthy repositories were said to be equal, and of each fault how often it was found, named as what it
is and as nothing else, with the right number of keys and the right instant; then what was said otherwise.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from feast import OnDemandFeatureView

from tests.strangers import Outcome
from tests.strangers.drawing import healthy
from tests.strangers.planting import Expected, Named, Planted, ground
from tests.strangers.plants import PLANTS
from tests.strangers.tables import Drawn, Pair

LATENT = "latent tie"


@dataclass
class Trial:
    """What was expected of a repository, and what was said."""

    name: str
    seed: int
    pair: Pair
    expected: dict[tuple[str, str], Any] = field(default_factory=dict)
    """By kind and view."""
    said: dict[tuple[str, str], tuple[int, str | None]] = field(default_factory=dict)
    """The same: the number of keys, and since when."""
    status: int | None = None
    described: str = ""
    trouble: str = ""

    @property
    def is_found(self) -> bool:
        return self.status == 1 or any(kind == LATENT for kind, _ in self.said)

    @property
    def is_named(self) -> bool:
        """Whether what is expected is said, and nothing else."""
        return not self.trouble and self.said.keys() == self.expected.keys() and self.status == self._due

    @property
    def _due(self) -> int:
        return int(any(kind != LATENT for kind, _ in self.expected))

    @property
    def is_counted(self) -> bool:
        return self.is_named and all(named.keys in (None, self.said[one][0]) for one, named in self.expected.items())

    @property
    def is_dated(self) -> bool:
        return self.is_named and all(
            named.since is None or _moment(self.said[one][1]) == named.since for one, named in self.expected.items()
        )

    def __str__(self) -> str:
        wanted = {one: (named.keys, str(named.since)) for one, named in self.expected.items()}
        return f"{self.name}, {self.described}: status {self.status}, {self.said}, not {wanted} {self.trouble}"


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def tried(name: str, seed: int, pair: Pair, make: Callable[[Path], tuple[Drawn, Any]]) -> Trial:
    """Make a repository, and check it."""
    trial, drawn = Trial(name, seed, pair), None
    with tempfile.TemporaryDirectory() as folder:
        try:
            drawn, trial.expected = make(Path(folder))
            trial.described = drawn.described
            _note(trial, drawn.theirs.check(), drawn)
        except Exception:
            trial.trouble = traceback.format_exc()
        finally:
            if drawn is not None:
                drawn.theirs.forget()
    return trial


def _note(trial: Trial, found: Outcome, drawn: Drawn) -> None:
    trial.status = found.status
    if found.said is None:
        trial.trouble = found.err
        return
    for one in found.said["findings"]:
        marks = "".join(f"{mark} " for mark in ("inherited", "hidden_by_the_ttl") if one[mark])
        trial.said[marks + one["kind"], one["view"]] = one["keys"], one["since"]
    for one in found.said["compared"]:
        trial.said |= {(LATENT, ties["view"]): (ties["keys"], None) for ties in one["ties"] if trial.status == 0}
        if one["error"]:
            trial.trouble += f"{one['name']}: {one['error']}"


def try_healthy(seed: int, pair: Pair) -> Trial:
    """A repository that is healthy but for what Feast's two sides always differ in."""

    def make(folder: Path) -> tuple[Drawn, Any]:
        drawn = healthy(folder, seed, pair)
        return drawn, {one: Named(keys) for one, keys in drawn.differs.items()}

    return tried("healthy", seed, pair, make)


def try_planted(names: tuple[str, ...], seed: int, pair: Pair) -> Trial:
    """A repository with one fault, or with two, of other keys."""

    def make(folder: Path) -> tuple[Drawn, Any]:
        faults = [PLANTS[name] for name in names]
        planted = ground(folder, seed, pair, **{name: value for one in faults for name, value in one.options.items()})
        expected: Expected = {}
        for planted.slot, fault in enumerate(faults):
            for kind, named in fault.sow(planted).items():
                expected[kind] = named if kind not in expected else expected[kind].and_(named)
        return planted.drawn, {_of(kind, planted): named for kind, named in expected.items()}

    return tried(" and ".join(names), seed, pair, make)


def _of(kind: str, planted: Planted) -> tuple[str, str]:
    others = [one for one in planted.drawn.others if isinstance(one, OnDemandFeatureView)]
    return kind, (others[0].name if others else planted.table.name)


def couples() -> list[tuple[str, str]]:
    """The faults that can be planted side by side."""
    local = [one for one in PLANTS.values() if one.is_local]
    return [
        (one.name, other.name)
        for place, one in enumerate(local)
        for other in local[place + 1 :]
        if all(one.options.get(name, value) == value for name, value in other.options.items())
    ]


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Leave out what Feast and the check print."""
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
        yield


def quietly(trial: Callable[..., Trial], *arguments: Any) -> Trial:
    with silence():
        return trial(*arguments)


def pairs_of(redis: int | None) -> list[Pair]:
    """The pairs of stores that run here: with Redis, if there is one at this port."""
    stores = [None] + ([{"type": "redis", "connection_string": f"localhost:{redis}"}] if redis else [])
    return [Pair(offline, online) for offline in ("dask", "duckdb") for online in stores]


def run(
    healthy: int, planted: int, both: int, pairs: list[Pair], seed: int, only: list[str] | None = None
) -> Iterator[Trial]:
    """Try so many healthy repositories, each fault so often in each pair of stores, and so many couples of faults."""
    for number in range(healthy):
        yield quietly(try_healthy, seed + number, pairs[number % len(pairs)])
    for name in only or PLANTS:
        within = [pair for pair in pairs if pair.offline in PLANTS[name].offline]
        for number in range(planted * len(within)):
            yield quietly(try_planted, (name,), seed + number, within[number % len(within)])
    drawn = np.random.default_rng(seed).permutation(couples()).tolist()
    for number, names in enumerate((drawn * (1 + both // len(drawn)))[:both]):
        yield quietly(try_planted, tuple(names), seed + number, pairs[number % len(pairs)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--healthy", type=int, default=100)
    parser.add_argument("--planted", type=int, default=1, help="of each fault, in each pair of stores")
    parser.add_argument("--both", type=int, default=40, help="repositories with two faults")
    parser.add_argument("--redis", type=int, metavar="PORT", help="of a Redis to use, beside SQLite")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=PLANTS, help="only these faults")
    args = parser.parse_args()
    counts: dict[str, Counter] = {}
    for trial in run(args.healthy, args.planted, args.both, pairs_of(args.redis), args.seed, args.only):
        name = "two faults" if " and " in trial.name else trial.name
        found = {"found": trial.is_found, "named": trial.is_named, "keys": trial.is_counted, "since": trial.is_dated}
        counts.setdefault(name, Counter()).update(tried=1, **found)
        if not (trial.is_counted and trial.is_dated):
            print(trial, file=sys.stderr)
    for name, count in counts.items():
        if name == "healthy":
            print(f"healthy: {count['named']} of {count['tried']} said to be as they are")
        else:
            said = f"{count['found']} found, {count['named']} named, {count['keys']} with the right keys"
            print(f"{name}: of {count['tried']}: {said}, {count['since']} with the right instant")


if __name__ == "__main__":
    main()
