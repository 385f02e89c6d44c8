"""Where the base of a plan comes from, which library computes it, and what can't be one: one clear line each."""

import json
import shutil
import subprocess

import duckdb
import pyarrow as pa
import pyarrow.csv as pacsv
import pytest

from parity.edge.errors import UserError
from parity.plan.command import planned
from parity.plan.found import VALUE_CHANGING, VERDICTS, is_as_bad
from parity.plan.terminal import shown
from tests.conftest import ROOT
from tests.plans import Shop, run, transactions

SPENDING = """
spending = view("spending", [buyer], [made("mean_3d", "mean", "amount", 3), made("ever", "count", "amount")])
service = FeatureService(name="service", features=[spending])
"""
PAIRS = """
visits = view("visits", [buyer, shop], [made("mean_3d", "mean", "amount", 3)])
spending = view("spending", [buyer], [made("ever", "count", "amount")])
service = FeatureService(name="service", features=[visits, spending])
"""
OLD_LIBRARY = """
import argparse, csv, json
import pyarrow as pa, pyarrow.parquet as pq
from datetime import datetime, timezone

parser = argparse.ArgumentParser()
parser.add_argument("-c")
parser.add_argument("--input")
parser.add_argument("--output")
args = parser.parse_args()
rows = sorted((int(row["buyer_id"]), datetime.fromisoformat(row["at"])) for row in csv.DictReader(open(args.input)))
seen, out = {}, []
for buyer, at in rows:
    seen[buyer] = seen.get(buyer, 0) + 1
    out.append((buyer, at, seen[buyer] + EXTRA))
columns = list(zip(*out))
types = [pa.int64(), pa.timestamp("us", "UTC"), pa.int64()]
names = ["buyer_id", "event_timestamp", "ever"]
pq.write_table(pa.table([pa.array(c, t) for c, t in zip(columns, types)], names), args.output)
"""
OLD_FEATURES = """
from datetime import timedelta
from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
from feast.types import Int64
import parity.old

buyer = Entity(name="buyer", join_keys=["buyer_id"], value_type=ValueType.INT64)
spending = FeatureView(
    name="spending", entities=[buyer], ttl=timedelta(days=30),
    schema=[Field(name="buyer_id", dtype=Int64), Field(name="ever", dtype=Int64)],
    source=FileSource(name="s", path="/nowhere/spending.parquet", timestamp_field="event_timestamp"),
)
service = FeatureService(name="service", features=[spending])
"""
EVER = """
spending = view("spending", [buyer], [made("ever", "count", "amount")])
service = FeatureService(name="service", features=[spending])
"""


def own_library(shop: Shop) -> None:
    """Let the checkout have the library that runs, as a copy."""
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "parity", shop.top / "parity", ignore=ignored)


def refused(shop: Shop, against: str | None = "main", **options) -> str:
    with pytest.raises(UserError) as caught:
        planned(shop.folder, against, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.scale
def test_a_library_that_computes_the_least_bit_otherwise_is_found(tmp_path):
    shop = Shop(tmp_path, SPENDING)
    own_library(shop)
    windows = shop.top / "parity" / "compute" / "windows.py"
    whole = windows.read_text()
    lie = """

def _lying(rows, definition, *others, **options):
    import numpy as np
    table = _honest(rows, definition, *others, **options)
    values = table["mean_3d"].to_numpy().copy()
    values[7] = np.nextafter(values[7], np.inf)
    return table.set_column(2, table.schema.field("mean_3d"), pa.array(values))

_honest, aggregate = aggregate, _lying
"""
    windows.write_text(whole + lie)
    shop.commit()
    windows.write_text(f"{whole}\n# put right\n")
    found = planned(shop.folder, "main")
    assert found.verdict == VALUE_CHANGING
    assert found.values == (1, 800)
    text = shown(found)
    assert "mean of amount in 3 days, on both sides: what differs is how it is computed" in text
    assert "of the same purchases" in text


@pytest.mark.scale
def test_a_base_older_than_the_functions_is_computed_by_its_own_command_line(tmp_path):
    shop = Shop(tmp_path, EVER)
    whole = (shop.folder / "features.py").read_text()
    (shop.top / "parity").mkdir()
    (shop.top / "parity" / "__init__.py").touch()
    (shop.top / "parity" / "old.py").touch()
    (shop.folder / "features.py").write_text(OLD_FEATURES)
    found = []
    for extra in (0, 1):
        (shop.top / "compute_features.py").write_text(OLD_LIBRARY.replace("EXTRA", str(extra)))
        shop.commit()
        (shop.folder / "features.py").write_text(whole)
        found.append(planned(shop.folder, "main"))
        (shop.folder / "features.py").write_text(OLD_FEATURES)
    assert [one.values for one in found] == [(0, 400), (400, 400)]
    assert found[0].views[0].features[0].status == "unchanged"


@pytest.mark.scale
def test_a_sample_of_pairs_of_keys_is_the_same_on_both_sides_and_said(tmp_path, monkeypatch, capsys):
    shop = Shop(tmp_path, PAIRS)
    shop.write(PAIRS.replace('"amount", 3', '"amount", 4'))
    given = "--against", "main", "--sample", 20, "--fail-on", "value-changing", "--json"
    status, out = run(monkeypatch, capsys, shop, *given)
    found = json.loads(out)
    changed, same = found["views"]
    assert status == 1
    assert found["sample"] == "about 20 of 60 keys of buyer and shop, 20 of 30 buyers, by the hash of the key"
    assert (changed["verdict"], same["verdict"]) == ("value-changing", "no-op")
    assert (changed["rows_only_in_base"], changed["rows_only_in_head"]) == (0, 0)
    assert 5 < changed["keys"] < 40
    assert changed["cost"]["online"]["keys"] == 60
    assert changed["cost"]["extrapolated"]["offline"] == pytest.approx(60 / changed["keys"])


@pytest.mark.scale
def test_a_repository_that_the_base_does_not_have_is_all_added(tmp_path):
    shop = Shop(tmp_path, SPENDING)
    shop.git("rm", "--quiet", "--cached", "shop/features.py")
    shop.git("commit", "--quiet", "--message=Without")
    found = planned(shop.folder, "main")
    assert found.verdict == "additive"
    assert {one.status for view in found.views for one in view.features} == {"added"}


def test_the_gate_takes_a_verdict_and_all_that_are_worse():
    assert [is_as_bad(one, VALUE_CHANGING) for one in VERDICTS] == [False, False, True, True]


def test_a_commit_that_is_not_there(tmp_path):
    shop = Shop(tmp_path, SPENDING)
    for ref in ("nowhere", "--output=x", "main:shop", "HEAD~9"):
        assert f"--against {ref}: there is no such commit" in refused(shop, ref)


def test_a_shallow_clone_is_told_to_fetch_more(tmp_path):
    shop = Shop(tmp_path / "whole", SPENDING)
    shop.write(f"{SPENDING}# again")
    shop.commit()
    subprocess.run(
        ["git", "clone", "--quiet", "--depth=1", f"file://{shop.top}", tmp_path / "clone"], check=True, timeout=60
    )
    clone = Shop.__new__(Shop)
    clone.top, clone.folder = tmp_path / "clone", tmp_path / "clone" / "shop"
    assert "fetch-depth: 0" in refused(clone, "HEAD~1")


def test_a_folder_that_is_no_checkout(tmp_path):
    shop = Shop(tmp_path, SPENDING)
    shutil.rmtree(shop.top / ".git")
    assert "this is no checkout of git" in refused(shop)


def test_a_machine_without_git(tmp_path, monkeypatch):
    shop = Shop(tmp_path, SPENDING)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git is not installed" in refused(shop)


def test_a_base_that_does_not_import_is_named_with_its_line(tmp_path):
    shop = Shop(tmp_path, f"{SPENDING}\n1 / 0\n")
    shop.write(SPENDING)
    message = refused(shop)
    assert message.startswith("the base, main (")
    assert "shop/features.py, line " in message
    assert "ZeroDivisionError" in message
    assert "/base/tree" not in message


@pytest.mark.scale
def test_a_head_that_does_not_import_is_named_as_the_head(tmp_path):
    shop = Shop(tmp_path, SPENDING)
    shop.write("import nothing_of_this_name")
    assert refused(shop).startswith("the head: ")


@pytest.mark.scale
def test_a_column_that_only_the_head_needs_and_the_transactions_lack(tmp_path):
    shop = Shop(tmp_path, SPENDING)
    shop.write(SPENDING.replace('"ever", "count", "amount"', '"ever", "sum", "discount"'))
    message = refused(shop)
    assert message.startswith("the head: spending: ")
    assert "discount" in message


@pytest.mark.scale
@pytest.mark.parametrize("rows", [0, pytest.param(None, marks=pytest.mark.scale)])
def test_transactions_that_are_empty_or_not_there(tmp_path, rows):
    shop = Shop(tmp_path, SPENDING)
    place = shop.folder / "bought.csv"
    place.unlink()
    if rows is not None:
        pacsv.write_csv(transactions().slice(0, 0), place)
    message = refused(shop)
    assert message.startswith("the head: spending: ")
    assert ("no such file" if rows is None else "it has no rows") in message


@pytest.mark.scale
def test_transactions_that_another_place_is_declared_for_are_those_of_the_head(tmp_path):
    shop = Shop(tmp_path, SPENDING)
    pacsv.write_csv(pa.concat_tables([transactions(100)]), shop.folder / "others.csv")
    shop.write(
        SPENDING, (shop.folder / "features.py").read_text().split("\nspending")[0].replace("bought.csv", "others.csv")
    )
    found = planned(shop.folder, "main")
    assert found.values == (0, 200)
    assert is_as_bad(found.verdict, VALUE_CHANGING), "what the base's own transactions give is not known"
    [note] = [note for note in found.views[0].notes if "its transactions are at" in note.text]
    assert note.text.endswith("bought.csv: other rows give other values")


@pytest.mark.scale
def test_a_module_of_the_checkout_is_never_lent_to_the_base(tmp_path, monkeypatch):
    shop = Shop(tmp_path / "shop", SPENDING)
    whole = (shop.folder / "features.py").read_text().replace('"amount", 3)', '"amount", windows.DAYS)')
    (shop.folder / "features.py").write_text(f"import windows\n{whole}")
    (shop.top / "src").mkdir()
    (shop.top / "src" / "windows.py").write_text("DAYS = 3\n")
    shop.commit()
    (shop.top / "src" / "windows.py").write_text("DAYS = 4\n")
    monkeypatch.setenv("PYTHONPATH", str(shop.top / "src"))
    assert planned(shop.folder, "main").verdict == VALUE_CHANGING
    site = tmp_path / "site"
    site.mkdir()
    finder = f"import sys; sys.path.append({str(shop.top / 'src')!r})"
    (site / "sitecustomize.py").write_text(finder)
    monkeypatch.setenv("PYTHONPATH", str(site))
    assert planned(shop.folder, "main").verdict == VALUE_CHANGING
    (site / "sitecustomize.py").write_text(f"{finder}; import windows")
    assert "it imports windows from the working tree" in refused(shop)


@pytest.mark.scale
def test_a_sample_without_a_key_is_no_no_op(tmp_path):
    far = "SELECT i FROM range(100) ids(i) WHERE md5_number_lower(i::VARCHAR) > 9223372036854775808::UBIGINT LIMIT 3"
    keys = duckdb.sql(far).fetch_arrow_table()["i"]
    shop = Shop(tmp_path, SPENDING, transactions(rows=3).set_column(0, "buyer_id", keys))
    shop.write(SPENDING.replace("3)", "4)"))
    assert "--sample 1: none of the buyers of spending is in it" in refused(shop, sample=1)
