"""How two ways to do the same work are compared, and what a comparison comes to."""

import json
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Row(NamedTuple):
    """One line of the table: median seconds (or another unit) of ours and of a peer, and what has to be reached."""

    work: str
    peer: str
    ours: float
    theirs: float
    unit: str
    must: str
    ratio: float
    """How many times faster than the peer; or, where ``must`` says "at most", how many times as long."""
    note: str = ""


def alternately(
    ways: dict[str, Callable[[], Any]], repeats: int, typical: Callable[[list[float]], float] = statistics.median
) -> dict[str, float]:
    """Run each of ``ways`` in turn, ``repeats`` times round; give the ``typical`` seconds of each."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append(time.perf_counter() - start)
    return {name: typical(taken) for name, taken in seconds.items()}


def faster(work: str, must: str, seconds: dict[str, float], note: str = "", unit: str = "s") -> Row:
    """Hold ``seconds["ours"]`` against the fastest of the others."""
    peer = min((name for name in seconds if name != "ours"), key=seconds.__getitem__)
    ours, theirs = seconds["ours"], seconds[peer]
    return Row(work, peer, ours, theirs, unit, must, theirs / ours, note)


def at_most(work: str, must: str, peer: str, ours: float, theirs: float, unit: str, note: str = "") -> Row:
    """Say how many times as long as the peer, which is a floor, ours takes."""
    return Row(work, peer, ours, theirs, unit, must, ours / theirs, note)


def child(module: str, *arguments: object) -> dict[str, Any]:
    """Run a module of this package in a process of its own, so that its memory is its own, and read what it prints."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_mb() -> float:
    """The most memory that this process has had so far."""
    status = Path("/proc/self/status")
    if status.exists():  # on Linux, getrusage counts in the process that started this one
        return int(re.search(r"VmHWM:\s+(\d+) kB", status.read_text())[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
