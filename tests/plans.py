"""A small shop in a checkout of git of its own, whose features.py the tests of plans change."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv

from parity.plan.command import main

HEAD = """
from datetime import timedelta
from pathlib import Path
from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.types import Float64, Int64, String
from parity import AggregatedFeatureView, Experiment, TransactionSource, check_definitions

HERE = Path(__file__).parent


def made(name, function, column, days=None):
    window = None if days is None else timedelta(days=days)
    return Aggregation(name=name, function=function, column=column, time_window=window)


def view(name, entities, aggregations, **options):
    kept = FileSource(name=name + "_source", path=str(HERE / f"{name}.parquet"), timestamp_field="event_timestamp")
    return AggregatedFeatureView(
        name=name, entities=entities, transactions=bought, aggregations=aggregations, source=kept,
        **{"ttl": timedelta(days=30)} | options
    )


buyer = Entity(name="buyer", join_keys=["buyer_id"], value_type=ValueType.INT64)
shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)
bought = TransactionSource(
    name="bought",
    path="bought.csv",
    timestamp_field="at",
    schema=[
        Field(name="amount", dtype=Float64, tags={"unit": "EUR"}),
        Field(name="pieces", dtype=Int64),
        Field(name="product", dtype=String),
    ],
)
"""
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)


def transactions(rows: int = 400, buyers: int = 30, days: int = 40, seed: int = 1) -> pa.Table:
    """Purchases of some buyers in some shops, of whole cents."""
    rng = np.random.default_rng(seed)
    seconds = rng.choice(days * 86400, rows, replace=False)
    at = [(BEGIN + timedelta(seconds=int(second))).isoformat() for second in seconds]
    return pa.table(
        {
            "buyer_id": rng.integers(1, buyers + 1, rows),
            "shop": rng.choice(["north", "south"], rows),
            "at": at,
            "amount": np.round(rng.lognormal(3, 1, rows), 2),
            "pieces": rng.integers(1, 9, rows),
            "product": rng.choice(["tea", "cup", "pot"], rows),
        }
    )


class Shop:
    """A checkout with a repository in its folder `shop`."""

    def __init__(self, folder: Path, features: str, bought: pa.Table | None = None, head: str = HEAD):
        self.top, self.folder = folder, folder / "shop"
        self.folder.mkdir(parents=True)
        self.git("init", "--quiet", "--initial-branch=main")
        (self.top / ".gitignore").write_text("*.csv\n*.parquet\n*.db\ndata\n")
        (self.folder / "feature_store.yaml").write_text(
            "project: shop\nprovider: local\nregistry: registry.db\nentity_key_serialization_version: 3\n"
        )
        pacsv.write_csv(transactions() if bought is None else bought, self.folder / "bought.csv")
        self.write(features, head)
        self.commit()

    def write(self, features: str, head: str = HEAD) -> None:
        (self.folder / "features.py").write_text(f"{head}{features}\ncheck_definitions(globals())\n")

    def git(self, *arguments: str) -> str:
        who = ["-c", "user.name=Test", "-c", "user.email=test@example.org"]
        done = subprocess.run(["git", "-C", self.top, *who, *arguments], check=True, capture_output=True, text=True)
        return done.stdout

    def commit(self) -> None:
        self.git("add", ".")
        self.git("commit", "--quiet", "--message=Change")

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Every file of the checkout, that of git too, as it is."""
        found = [path for path in self.top.rglob("*") if path.is_file()]
        return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in found}


def run(monkeypatch, capsys, shop: Shop, *arguments: object) -> tuple[int, str]:
    """Run the command in this process: its status, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["plan", "-c", str(shop.folder), *map(str, arguments)])
    capsys.readouterr()
    status = main()
    return status, capsys.readouterr().out


def as_json(monkeypatch, capsys, shop: Shop, *arguments: object) -> dict:
    return json.loads(run(monkeypatch, capsys, shop, *arguments, "--json")[1])
