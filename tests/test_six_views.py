"""A repository with six feature views, through the whole pipeline, as its user runs it."""

import json
import random
import shutil
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests import deployments

VIEWS = ["customer_orders", "store_orders", "paid_orders", "product_orders", "visitor_pages", "visitor_products"]
NEW_YORK = ZoneInfo("America/New_York")


def write_orders(path: Path, draw: random.Random, now: datetime, rows: int) -> None:
    """Orders with ids that start with zeros, unpaid and negative ones, and several at one minute."""
    lines = ["Customer ID,Order Date,Store,sku,quantity,total,status"]
    for _ in range(rows):
        local = (now - timedelta(minutes=draw.randrange(5, 40 * 24 * 60))).astimezone(NEW_YORK)
        if local.replace(fold=0).utcoffset() != local.replace(fold=1).utcoffset():  # there twice, and so refused
            local = local.replace(hour=12)
        customer = draw.choice(["007", "7", "0007", "café", "o'neil", "a b", f"{draw.randrange(30):04}"])
        lines.append(
            f"{customer},{local.month}/{local.day}/{local:%Y %H:%M},{draw.randrange(1, 6)},"
            f"{draw.choice('ABCDE')}-{draw.randrange(4)},{draw.randrange(1, 9)},"
            f"{draw.choice([1, 1, 1, -1]) * draw.gammavariate(2, 25):.2f},{draw.choice(['paid', 'paid', 'open', ''])}"
        )
    path.write_text("\n".join([*lines, ""]))


def write_visits(path: Path, draw: random.Random, now: datetime, rows: int) -> None:
    lines = [
        json.dumps(
            {
                "visitor_id": draw.randrange(1, 20),
                "at": int(now.timestamp() * 1000) - draw.randrange(1, 20 * 86_400_000),
                "page": draw.choice(["home", "search", "item"]),
                "seconds": draw.randrange(300),
                "sku": draw.choice(["A-1", "B-2", None]),
            }
        )
        for _ in range(rows)
    ]
    path.write_text("\n".join([*lines, ""]))


@pytest.fixture
def shop(project):
    """The six views, and their transactions: one CSV file, and a folder with two files of JSON lines."""
    now, draw = datetime.now(UTC), random.Random(42)
    shutil.copy(Path(__file__).parent / "six" / "features.py", project.root / "feature_repo")
    write_orders(project.root / "orders.csv", draw, now, 400)
    visits = project.root / "visits"
    visits.mkdir()
    for name in ("a.jsonl", "b.jsonl"):
        write_visits(visits / name, draw, now, 150)
    project.apply()
    return project


def assert_same_rows(folder: Path, table: pa.Table) -> None:
    """Assert that a folder of days holds the rows of ``table``, in any order."""
    days = pa.concat_tables(pq.read_table(file, partitioning=None) for file in folder.rglob("*.parquet"))
    order = [(name, "ascending") for name in table.column_names]
    assert days.sort_by(order).equals(table.sort_by(order)), folder.name


def test_the_whole_pipeline_proves_every_view(shop):
    computed = shop.succeed("compute_features.py")
    assert [view in computed for view in VIEWS] == [True] * 6
    shop.succeed("materialize_to_online.py")
    proven = shop.succeed(
        "demo_fixed.py", "--certificate", shop.root / "proof.json", "--report", shop.root / "proof.html"
    )
    assert all(view in proven for view in VIEWS)
    assert proven.count("mismatch 0, missing online 0, extra online 0, equal but wrong 0") == 6
    assert proven.count("Training equals serving equals the oracle") == 1
    ids = pq.read_table(shop.root / "data" / "customer_orders.parquet")["customer_id"].unique().to_pylist()
    assert {"007", "7", "0007", "café", "o'neil", "a b"} <= set(ids)


@pytest.mark.scale
def test_incrementally_it_is_the_same(shop):
    shop.succeed("compute_features.py")
    whole = {view: pq.read_table(shop.root / "data" / f"{view}.parquet") for view in VIEWS}
    for view in VIEWS:
        (shop.root / "data" / f"{view}.parquet").unlink()
    first, second = shop.root / "visits" / "b.jsonl", shop.root / "b.jsonl"
    first.rename(second)
    shop.succeed("compute_features.py", "--incremental")
    second.rename(first)
    shop.succeed("compute_features.py", "--incremental")
    for view, table in whole.items():
        assert_same_rows(shop.root / "data" / f"{view}.parquet", table)
    shop.succeed("materialize_to_online.py")
    assert "Training equals serving equals the oracle" in shop.succeed("demo_fixed.py")


@pytest.mark.scale
@pytest.mark.skipif(not (find_spec("pyspark") and shutil.which("java")), reason="PySpark or Java missing")
def test_on_spark_it_is_the_same(shop):
    shop.succeed("compute_features.py")
    whole = {view: pq.read_table(shop.root / "data" / f"{view}.parquet") for view in VIEWS}
    for view in VIEWS:
        (shop.root / "data" / f"{view}.parquet").unlink()
    shop.succeed("compute_features.py", "--engine", "spark")
    for view, table in whole.items():
        assert_same_rows(shop.root / "data" / f"{view}.parquet", table)
    shop.succeed("materialize_to_online.py")
    assert "Training equals serving equals the oracle" in shop.succeed("demo_fixed.py")


@pytest.mark.scale
def test_in_production_on_a_cluster(shop, tmp_path, monkeypatch):
    folder = tmp_path / "servers"
    folder.mkdir()
    with deployments.cluster(folder) as cluster:
        yaml = shop.root / "feature_repo" / "feature_store.production.yaml"
        monkeypatch.setenv("FEAST_FS_YAML_FILE_PATH", str(yaml))
        monkeypatch.setenv("FEATURE_STORE_REGISTRY", str(shop.root / "data" / "production.db"))
        monkeypatch.setenv("FEATURE_STORE_OFFLINE_FOLDER", str(shop.root / "production"))
        for name, value in cluster.environment.items():
            monkeypatch.setenv(name, value)
        shop.apply()
        shop.succeed("compute_features.py")
        shop.succeed("materialize_to_online.py")
        assert "Training equals serving equals the oracle" in shop.succeed("demo_fixed.py")
    assert sorted(path.stem for path in (shop.root / "production").glob("*.parquet")) == sorted(VIEWS)


@pytest.mark.scale
def test_one_view_or_one_service_at_a_time(shop):
    for view in VIEWS:
        shop.succeed("compute_features.py", "--view", view)
    shop.succeed("materialize_to_online.py", "--service", "shop_service")
    proven = shop.succeed("demo_fixed.py", "--service", "shop_service")
    assert "visitor_pages" in proven  # not looked at, and said so
    shop.succeed("materialize_to_online.py", "--view", "visitor_pages", "--view", "visitor_products")
    shown = shop.succeed("demo_fixed.py", "--view", "paid_orders", "--key", "customer_id=007,store_id=3")
    assert "customer_id=007,store_id=3" in shown


def test_an_input_or_an_output_is_of_one_view(shop):
    assert "several sources. Say of which: --view" in shop.fail("compute_features.py", "--input", "orders.csv")
    assert "several feature views. Say of which: --view" in shop.fail("compute_features.py", "--output", "x.parquet")
    assert not (shop.root / "data").exists() or not list((shop.root / "data").glob("*.parquet"))


def test_a_fault_in_one_view_is_found_among_six(shop):
    shop.succeed("compute_features.py")
    shop.succeed("materialize_to_online.py")
    lines = (shop.root / "orders.csv").read_text().splitlines()
    (shop.root / "orders.csv").write_text("\n".join([*lines[:-1], ""]))
    outcome = shop.run("demo_fixed.py")
    assert outcome.status == 1
    assert "SKEW" in outcome.out


def test_a_definition_that_has_changed_since_is_named_as_the_cause(shop):
    shop.succeed("compute_features.py")
    shop.succeed("materialize_to_online.py")
    features = shop.root / "feature_repo" / "features.py"
    features.write_text(features.read_text().replace('WEEK, "spent_7d"', 'MONTH, "spent_7d"'))
    shop.apply()
    outcome = shop.run("demo_fixed.py", "--view", "customer_orders")
    assert outcome.status == 1
    assert "definition changed" in outcome.out
