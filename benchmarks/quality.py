"""How good `python -m parity quality` is: planted faults found, false alarms on clean days, time and memory.

    python -m benchmarks.quality                faults and clean days, with the expectations of feature_repo
    python -m benchmarks.quality --rows 1000000 --users 50000     a whole run, in a process of its own

It takes requirements-quality.txt. The clean world has weekdays, days that differ by 10 %, refunds and zeros; 56 days to
look back on and 100 to judge. Each fault is planted in a world of its own, on one day of those.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

ROOT = Path(__file__).resolve().parents[1]
END = datetime(2026, 3, 2, tzinfo=UTC)
BEFORE, CLEAN = 56, 100
FAULTY = BEFORE + 71
"""The day, of those in the world, that a fault is planted on."""
HEADER = ["user_id", "product_id", "timestamp", "purchase_amount"]


def world(per_day: int, seed: int) -> pd.DataFrame:
    """Purchases of some 5 users a row of a day, in which nothing is wrong."""
    random = np.random.default_rng(seed)
    start, frames = END - timedelta(days=BEFORE + CLEAN), []
    for day in range(BEFORE + CLEAN):
        weekday = 1 + 0.3 * ((start + timedelta(days=day)).weekday() >= 5)
        rows = random.poisson(per_day * weekday * random.lognormal(0, 0.1))
        amounts = random.gamma(2, 25, rows).round(2)
        amounts[random.random(rows) < 0.002] = 0
        amounts = np.where(random.random(rows) < 0.01, -amounts, amounts)
        seconds = random.integers(0, 86_400, rows)
        frames.append(
            pd.DataFrame(
                {
                    "user_id": random.integers(1, 5 * per_day, rows),
                    "product_id": random.integers(100, 150, rows),
                    "timestamp": pd.to_datetime(start + timedelta(days=day)) + pd.to_timedelta(np.sort(seconds), "s"),
                    "purchase_amount": amounts,
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def _on_day(rows: pd.DataFrame, day: int = FAULTY) -> pd.Series:
    first = pd.Timestamp(END - timedelta(days=BEFORE + CLEAN - day))
    return (rows.timestamp >= first) & (rows.timestamp < first + pd.Timedelta(days=1))


def _some(rows: pd.DataFrame, share: float) -> pd.Series:
    """A share of the rows of the day, and one at least."""
    day = _on_day(rows)
    drawn = pd.Series(np.random.default_rng(1).random(len(rows)) < share, rows.index)
    drawn[rows.index[day][7]] = True
    return drawn & day


def _setting(column: str, share: float, value: Callable | object) -> Callable:
    def plant(rows: pd.DataFrame) -> pd.DataFrame:
        chosen = _some(rows, share)
        values = value(rows.loc[chosen, column]) if callable(value) else value
        changed = rows[column].astype(object) if isinstance(value, str) or value is None else rows[column].copy()
        changed[chosen] = values
        return rows.assign(**{column: changed})

    return plant


def _one_outlier(rows: pd.DataFrame) -> pd.DataFrame:
    changed = rows.copy()
    changed.loc[rows.index[_on_day(rows)][7], "purchase_amount"] = 1e9
    return changed


def _again(share: float) -> Callable:
    return lambda rows: pd.concat([rows, rows[_some(rows, share)]], ignore_index=True)


FAULTS = {
    "a day is missing": lambda rows: rows[~_on_day(rows)],
    "two thirds of a day are lost": lambda rows: rows[~_some(rows, 2 / 3)],
    "a third of a day is lost": lambda rows: rows[~_some(rows, 1 / 3)],
    "a day is there twice": _again(1),
    "5 % of a day are there twice": _again(0.05),
    "four days are late": lambda rows: rows[rows.timestamp < pd.Timestamp(END - timedelta(days=4))],
    "amounts in cents": _setting("purchase_amount", 1, lambda amounts: amounts * 100),
    "amounts in cents in 1 % of rows": _setting("purchase_amount", 0.01, lambda amounts: amounts * 100),
    "one amount of 1e9": _one_outlier,
    "signs are turned in 10 % of rows": _setting("purchase_amount", 0.1, lambda amounts: -amounts),
    "amounts are 0 in 5 % of rows": _setting("purchase_amount", 0.05, 0.0),
    "amounts are null in 1 % of rows": _setting("purchase_amount", 0.01, None),
    "amounts are text in one row": _setting("purchase_amount", 0.001, "n/a"),
    "ids are null in 1 % of rows": _setting("user_id", 0.01, None),
    "timestamps are a year ahead in 1 % of rows": _setting(
        "timestamp", 0.01, lambda times: times + pd.Timedelta(days=365)
    ),
    "the clock is 8 hours ahead": _setting("timestamp", 1, lambda times: times + pd.Timedelta(hours=8)),
    "one product only": _setting("product_id", 1, 123),
    "half of the products are lost": lambda rows: rows[~(_on_day(rows) & (rows.product_id >= 125))],
    "products are -1 in 1 % of rows": _setting("product_id", 0.01, -1),
    "a column is missing": lambda rows: rows.drop(columns="product_id"),
}
"""Of transactions: each by what is wrong, and how it is planted."""


def _tampered(column: str, change: Callable) -> Callable:
    def plant(features: pa.Table) -> pa.Table:
        values = features[column].to_pandas().copy()
        values.iloc[len(values) // 2] = change(values.iloc[len(values) // 2])
        place = features.schema.get_field_index(column)
        return features.set_column(
            place, features.schema.field(place), pa.array(values, features.schema.field(place).type)
        )

    return plant


FEATURE_FAULTS = {
    "a mean beyond its window, in one row": _tampered("user_avg_3day_purchase_amount", lambda value: value + 500),
    "a count that does not rise, in one row": _tampered("user_total_transactions", lambda value: 0),
    "a row is there twice": lambda features: pa.concat_tables([features, features.slice(len(features) // 2, 1)]),
    "means of another column": _tampered("user_avg_3day_purchase_amount", lambda value: 123.0),
}


class Project:
    """A copy of feature_repo with its own data."""

    def __init__(self, folder: Path):
        self.root = folder
        shutil.copytree(ROOT / "feature_repo", folder / "feature_repo", ignore=shutil.ignore_patterns("__pycache__"))
        (folder / "data").mkdir()
        os.environ["FEATURE_STORE_OFFLINE_PATH"] = str(self.features)

    @property
    def transactions(self) -> Path:
        return self.root / "user_transactions.csv"

    @property
    def features(self) -> Path:
        return self.root / "data" / "user_features.parquet"

    def write(self, rows: pd.DataFrame) -> None:
        text = rows.assign(timestamp=rows.timestamp.dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        text.to_csv(self.transactions, index=False)

    def check(self) -> list:
        """Hold what has changed to what is expected, as of the end of the world."""
        from parity.definition.checks import declared
        from parity.quality.check import Checker, sources_of

        tables = declared(self.root / "feature_repo").tables
        checker = Checker(self.root / "data" / "quality", END, incremental=True)
        for source in sources_of(tables, [table.transactions for table in tables]):
            with checker.transactions(source) as transactions:
                for table in source[1]:
                    if self.features.exists() and transactions is not None:
                        checker.features(table, transactions)
        return checker.judged

    def compute(self) -> None:
        from parity.compute.history import compute_here
        from parity.definition.checks import declared

        for table in declared(self.root / "feature_repo").tables:
            compute_here(table, self.transactions, self.features)


def faults(per_day: int, seed: int) -> None:
    """Print what was found of each fault, and how many clean days raised an alarm."""
    rows = world(per_day, seed)
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        project.write(rows)
        judged = project.check()
        alarms = {day for one in judged for tally in one.failures for day in tally.failed}
        first = (END - datetime(1970, 1, 1, tzinfo=UTC)).days - CLEAN
        print(f"{per_day:,} rows a day, seed {seed}: {sum(day >= first for day in alarms)} of {CLEAN} clean days alarm")
        state = {file: file.read_bytes() for file in (project.root / "data" / "quality" / "days").iterdir()}
        found = 0
        for name, plant in FAULTS.items():
            for file, content in state.items():
                file.write_bytes(content)
            project.write(plant(rows))
            seen = [line for one in project.check() for line in one.lines]
            found += bool(seen)
            print(f"  {'found ' if seen else 'MISSED'} {name}: {seen[0][:150] if seen else ''}")
        project.write(rows)
        project.compute()
        features = pq.read_table(project.features)
        assert all(one.is_fine for one in project.check())
        for name, plant in FEATURE_FAULTS.items():
            pq.write_table(plant(features), project.features)
            seen = [line for one in project.check() for line in one.lines]
            found += bool(seen)
            print(f"  {'found ' if seen else 'MISSED'} features: {name}: {seen[0][:150] if seen else ''}")
        print(f"{found} of {len(FAULTS) + len(FEATURE_FAULTS)} found")


def whole_run(rows: int, users: int) -> None:
    """Print the time and the memory of `python -m parity quality` on so many rows of 30 days."""
    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        repository = ["-c", str(project.root / "feature_repo")]
        draw = ["generate_synthetic_data.py", "--rows", rows, "--users", users, "--output", project.transactions]
        _run([*draw])
        _run(["compute_features.py", *repository])
        for more in ([], ["--incremental"]):
            seconds, cpu, memory = _run(["-m", "parity", "quality", *repository, *more])
            what = f"{rows:,} rows, {users:,} users{' --incremental' if more else ''}"
            print(f"{what}: {seconds:.0f} s, {cpu:.0f} s of a core, {memory:,.0f} MiB")


def _run(command: list) -> tuple[float, float, float]:
    """Seconds, seconds of a core, and MiB at the most."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *map(str, command)], cwd=ROOT)
    _, status, usage = os.wait4(process.pid, 0)
    assert status == 0, command
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="measure a whole run on so many rows")
    parser.add_argument("--users", type=int, default=50_000)
    parser.add_argument("--per-day", type=int, default=1000, help="rows a day of the world for faults (default: 1000)")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    whole_run(args.rows, args.users) if args.rows else faults(args.per_day, args.seed)


if __name__ == "__main__":
    main()
