"""Run the whole table and write it down.

python -m benchmarks [--size SHARE] [--only WORD] [--output FOLDER]
"""

import argparse
import os
import platform
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import matplotlib.pyplot as plt

from benchmarks import audits, checks, features, functions, model, serving, stores, streams
from benchmarks.measure import ROOT, Row
from parity.edge.command import run
from parity.edge.redis_server import free_port, launch, require_server

PACKAGES = ["feast", "pandas", "numpy", "pyarrow", "duckdb", "polars", "redis", "hiredis"]


def works(size: float, folder: Path, port: int) -> dict[str, Callable[[], Row | list[Row]]]:
    def rows(full: int) -> int:
        return max(1000, int(full * size))

    return {
        "memory 1M": lambda: features.in_memory(rows(1_000_000), 5),
        "memory 10M": lambda: features.in_memory(rows(10_000_000), 3),
        "file csv": lambda: features.file_to_file(rows(10_000_000), "csv", 3, folder),
        "file parquet": lambda: features.file_to_file(rows(10_000_000), "parquet", 3, folder),
        "growth": lambda: features.growth(rows(10_000_000), 3),
        "100M": lambda: features.within_memory(rows(100_000_000), folder),
        **{name: lambda name=name: functions.in_memory(name, rows(10_000_000), 3) for name in functions.WORKS},
        "memory of functions": lambda: functions.memory(rows(10_000_000), folder),
        "bar": lambda: features.bar(rows(10_000_000), 9 if size >= 1 else 3, folder),
        "materialize 1M x 1": lambda: stores.materialization("int64", rows(1_000_000), 1, 3, folder, port),
        "materialize 100k x 50": lambda: stores.materialization("int64", rows(100_000), 50, 3, folder, port),
        "materialize text": lambda: stores.materialization("text", rows(1_000_000), 1, 3, folder, port),
        "materialize two keys": lambda: stores.materialization("two", rows(1_000_000), 1, 3, folder, port),
        "online": lambda: stores.online_reads(3000, folder, port),
        "logged": lambda: stores.logged_reads(40_000, folder, port),
        "sliding": lambda: stores.sliding_reads(3000, folder, port),
        "historical": lambda: stores.historical(rows(1_000_000), rows(5_000_000), 5, folder, port),
        "audit": lambda: audits.audited(rows(1_000_000), folder, port),
        "check": lambda: checks.checked(rows(1_000_000), folder, port),
        "server": lambda: serving.served(rows(20_000), rows(100_000), folder, port),
        "model": lambda: model.served(4000, rows(20_000), folder, port),
        "start": lambda: stores.start(5 if size >= 1 else 3),
        **streams.works(rows, whole=size >= 1),
    }


def measured(size: float, only: str) -> Iterator[Row]:
    """Go through the works whose names hold ``only``, on a Redis of their own."""
    with tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        server = launch(require_server(), port, folder / "redis")
        try:
            for work, measure in works(size, folder, port).items():
                if only in work:
                    found = measure()
                    yield from [found] if isinstance(found, Row) else found
        finally:
            server.terminate()
            server.wait()


def line(row: Row) -> str:
    ours, theirs = (f"{_short(value)} {row.unit}" for value in (row.ours, row.theirs))
    return f"| {row.work} | {ours} | {row.peer}: {theirs} | {row.ratio:.2f}x | {row.must} | {row.note} |"


def _short(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:,.0f}"


def picture(rows: list[Row], path: Path) -> None:
    """Draw how many times faster than its peer each work is."""
    faster = [row for row in rows if not row.must.startswith(("at most", "p99")) and row.must]
    figure, axes = plt.subplots(figsize=(9, 0.45 * len(faster) + 1.2), layout="constrained")
    names = [f"{row.work}\nagainst {row.peer}" for row in faster]
    bars = axes.barh(names, [row.ratio for row in faster], color="#3b7dd8")
    axes.bar_label(bars, [f"{row.ratio:.1f}x" for row in faster], padding=3)
    axes.axvline(1, color="#888888", linewidth=1)
    axes.set_xlabel("times faster than the peer, in the same run")
    axes.tick_params(axis="y", labelsize=7)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=float, default=1.0, help="share of the full size (default: 1)")
    parser.add_argument("--only", default="", help="of the works, those with this in their name; nothing is written")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks", help="where results.md and .svg go")
    args = parser.parse_args()

    head = "| work | ours | peer | ratio | must reach | |\n|---|---|---|---|---|---|"
    print(head, flush=True)
    rows = []
    for row in measured(args.size, args.only):
        rows.append(row)
        print(line(row), flush=True)
    if args.only:
        return
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    where = f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}"
    text = [
        "# Speed, side by side",
        f"Made by `make bench SIZE={args.size:g}` on {datetime.now(UTC).date()}: {where}; {versions}.",
        "A ratio is how many times faster ours is than the peer; where the target says *at most*, how many times as "
        "long it takes. Medians of runs that alternate, after their results were found equal.",
        "\n".join([head, *map(line, rows)]),
    ]
    (args.output / "results.md").write_text("\n\n".join(text) + "\n")
    picture(rows, args.output / "results.svg")


if __name__ == "__main__":
    run(main)
