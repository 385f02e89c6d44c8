"""The runs of `make bench-drift`: simulated in blocks by two processes or more, and kept, so that they can be resumed.

A block is kept under a digest of the code that it was made by: what was made by other code is made again. Every run
has a random generator of its own, so that each tool, asked at another time, is shown the same windows.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.drift_tools import OURS, PEERS, Peers, ours
from benchmarks.measure import ROOT
from tests.drifting import PLANTED, WORLDS, windows

KEPT = ROOT / "data" / "bench-drift"
COLUMNS = {"amounts": 1, "hours": 2}
"""The place of each column in a window."""
NULL, PLANT = "null", "planted"
ROWS_OF_BLOCK = 1_000_000
"""About as many rows of a window, in several runs, make a block."""
MADE_BY = {
    OURS: ["parity/drift/test.py", "parity/drift/bins.py"],
    PEERS: ["benchmarks/drift_evidently.py", "benchmarks/requirements-evidently.txt"],
}
MADE_BY_BOTH = ["tests/drifting.py", "benchmarks/drift_tools.py", "benchmarks/drift_runs.py"]

Found = dict[tuple[str, ...], np.ndarray]
"""Scores by what was planted (or =amounts, =hours where nothing was) and tool; alarms by that, alarm, and threshold."""


class Sizes(NamedTuple):
    """How many runs with something planted, and how many without drift."""

    planted: int
    nulls: int


class Block(NamedTuple):
    who: str
    kind: str
    world: str
    rows: int
    seed: int
    first: int
    last: int

    @property
    def path(self) -> Path:
        name = f"{self.kind}-{self.world}-{self.rows}-{self.seed}-{self.first}-{self.last}.json"
        return KEPT / f"{self.who}-{digest(self.who)}" / name


@cache
def digest(who: str) -> str:
    """Of the code that decides what ``who`` answers."""
    text = b"".join((ROOT / name).read_bytes() for name in (*MADE_BY[who], *MADE_BY_BOTH))
    return hashlib.sha256(text).hexdigest()[:12]


def simulated(evidently: Path, sizes: Mapping[int, Sizes], seed: int, who: list[str]) -> dict[tuple[str, int], Found]:
    """What each tool found, by world and rows; what an earlier run has made is read."""
    blocks = [block for one in who for rows, size in sizes.items() for block in _blocks(one, rows, size, seed)]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        futures: dict[Block, Future] = {
            block: pool.submit(_make, block, evidently) for block in blocks if not block.path.exists()
        }
        for future in futures.values():
            future.result()
    found: dict[tuple[str, int], dict] = {}
    for block in blocks:
        of = found.setdefault((block.world, block.rows), {})
        for name, values in json.loads(block.path.read_text()).items():
            of.setdefault(tuple(name.split("|")), []).extend(values)
    return {key: {name: np.array(values) for name, values in of.items()} for key, of in found.items()}


def _blocks(who: str, rows: int, size: Sizes, seed: int) -> Iterator[Block]:
    many = max(5, min(100, ROWS_OF_BLOCK // rows))
    for kind, runs in ((NULL, size.nulls), (PLANT, size.planted)):
        for first in range(0, runs, many):
            for world in WORLDS:
                yield Block(who, kind, world, rows, seed, first, min(first + many, runs))


@cache
def _peers(evidently: Path) -> Peers:
    """One in each process."""
    return Peers(evidently)


def _make(block: Block, evidently: Path) -> None:
    ask = ours if block.who == OURS else _peers(evidently)
    found: dict[str, list[float]] = {}
    for run in range(block.first, block.last):
        rng = np.random.default_rng([block.seed, block.rows, WORLDS.index(block.world), run])
        reference, current = windows(rng, block.rows, block.world)
        changes = PLANTED if block.kind == PLANT else dict.fromkeys(f"={name}" for name in COLUMNS)
        for name, change in changes.items():
            answers = ask(reference, change(rng, current) if change else current, column_of(name))
            for tool, (score, alarms) in answers.items():
                found.setdefault(f"{name}|{tool}", []).append(float(score))
                for threshold, alarm in alarms.items():
                    found.setdefault(f"{name}|alarm|{threshold}", []).append(float(alarm))
    block.path.parent.mkdir(parents=True, exist_ok=True)
    part = block.path.with_suffix(f".{os.getpid()}")
    part.write_text(json.dumps(found))
    part.replace(block.path)


def column_of(planted: str) -> int:
    """The place of the column that is compared: nothing but a clock moves the hours."""
    return COLUMNS["hours" if planted.startswith(("clock", "=hours")) else "amounts"]
