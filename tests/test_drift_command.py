"""python -m parity drift: what a person reads of two windows, and its exit status."""

import json
import re
import runpy
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from prometheus_client.parser import text_string_to_metric_families

pytest.importorskip("scipy")

from parity.compute.history import compute_here
from parity.definition.checks import declared
from parity.drift.command import main
from parity.edge.errors import UserError
from parity.edge.files import location
from parity.quality import pieces
from parity.served.hourly import HourlyParts

pytestmark = pytest.mark.scale  # make test has no scipy

FEATURES = """
from datetime import timedelta
from pathlib import Path
from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.data_format import ParquetFormat
from feast.types import Float64, String
from parity import AggregatedFeatureView, TransactionSource, check_definitions

HERE = Path(__file__).parent
buyer = Entity(name="buyer", join_keys=["buyer_id"], value_type=ValueType.INT64)
bought = TransactionSource(
    name="bought",
    path=str(HERE / "bought.parquet"),
    timestamp_field="at",
    schema=[Field(name="amount", dtype=Float64, tags={"unit": "EUR"}), Field(name="shop", dtype=String)],
)
spending = AggregatedFeatureView(
    name="spending",
    entities=[buyer],
    ttl=timedelta(days=30),
    transactions=bought,
    aggregations=[
        Aggregation(name="mean_2d", function="mean", column="amount", time_window=timedelta(days=2)),
        Aggregation(name="last_shop", function="last", column="shop"),
        Aggregation(name="count_ever", function="count", column="amount"),
    ],
    source=FileSource(
        name="spending_source",
        path=str(HERE / "spending.parquet"),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    ),
    tags=TAGS,
)
service = FeatureService(name="spending", features=[spending])
check_definitions(globals())
"""
CONFIGURATION = """
project: shop
provider: local
registry: registry.db
offline_store: {type: parity.offline.store.ParityDuckDBOfflineStore}
online_store: {type: parity.online.store.ParityRedisOnlineStore, connection_string: "localhost:1", LOGGED}
entity_key_serialization_version: 3
"""
BEGIN = datetime(2026, 1, 5, tzinfo=UTC)
DAYS, BUYERS = 42, 150
CHANGED = 37
"""The day, from the first one, since when amounts are others."""


def bought(seed: int = 1, factor: float = 1.0, buyers: int = BUYERS, days: int = DAYS) -> pa.Table:
    """Purchases of 42 days, by buyers with a level of their own; amounts times ``factor`` in the last five days."""
    rng = np.random.default_rng(seed)
    rows = buyers * days
    who, seconds = rng.integers(0, buyers, rows), np.sort(rng.integers(0, days * 86400, rows))
    amounts = np.exp(3 + rng.normal(0, 0.5, buyers)[who] + rng.normal(0, 0.4, rows))
    amounts[seconds >= CHANGED * 86400] *= factor
    at = np.datetime64(BEGIN.replace(tzinfo=None), "us") + seconds.astype("timedelta64[s]")
    shops = np.array(["north", "south", "east"])[rng.choice(3, rows, p=[0.6, 0.3, 0.1])]
    columns = {"buyer_id": who, "at": pa.array(at, pa.timestamp("us", "UTC")), "amount": np.round(amounts, 2)}
    return pa.table({**columns, "shop": shops})


class Shop:
    """A repository in a folder, with transactions, and features computed of them."""

    def __init__(self, folder: Path, transactions: pa.Table, tags: str = "{}", features: str = FEATURES):
        self.folder = folder
        folder.mkdir(exist_ok=True)
        (folder / "features.py").write_text(features.replace("TAGS", tags))
        pq.write_table(transactions, folder / "bought.parquet")
        for table in declared(folder):
            compute_here(table, table.transactions, location(table.source.path))

    @property
    def stored(self) -> Path:
        return self.folder / "spending.parquet"

    def change(self, column: str, change) -> None:
        """Change what is stored of a feature: of its values, and of the days since the first one."""
        table = pq.read_table(self.stored)
        days = (table["event_timestamp"].to_numpy() - np.datetime64(BEGIN.replace(tzinfo=None))).astype("m8[D]")
        values = pa.array(change(np.array(table[column].to_pylist()), days.astype(int)), table[column].type)
        place = table.column_names.index(column)
        pq.write_table(table.set_column(place, table.schema.field(place).with_nullable(True), values), self.stored)


@pytest.fixture
def drift(monkeypatch, capsys):
    """Run the command; its status, and what it printed."""

    def command(shop: Shop, *arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["drift", "-c", str(shop.folder), *map(str, arguments)])
        capsys.readouterr()
        status = main()
        return status, capsys.readouterr().out

    return command


@pytest.fixture(scope="module")
def steady(tmp_path_factory) -> Shop:
    return Shop(tmp_path_factory.mktemp("steady"), bought())


@pytest.fixture(scope="module")
def dearer(tmp_path_factory) -> Shop:
    return Shop(tmp_path_factory.mktemp("dearer"), bought(factor=1.6))


def column(output: str, name: str) -> dict:
    [found] = [one for one in json.loads(output)["columns"] if one["column"] == name]
    return found


def test_nothing_has_drifted_where_nothing_did(drift, steady):
    status, out = drift(steady)
    assert status == 0, out
    assert "spending: 2026-01-12..2026-02-08 (" in out
    assert "against 2026-02-09..2026-02-15 (" in out
    assert "No drift: 0 of 4 columns" in out


def test_a_day_that_is_not_over_is_compared_only_if_it_is_named(drift, tmp_path, monkeypatch):
    """Of today there are the hours up to now: another time of day, and no drift."""
    shop = Shop(tmp_path / "shop", bought())
    noon = BEGIN + timedelta(days=DAYS, hours=-12)
    table = bought()
    pq.write_table(
        table.filter(pc.less(table["at"], pa.scalar(noon, table["at"].type))), shop.folder / "bought.parquet"
    )
    monkeypatch.setattr("parity.drift.command.utc_now", lambda: noon)
    status, out = drift(shop, "--of", "raw")
    assert status == 0, out
    assert "against 2026-02-08..2026-02-14 (" in out
    assert "against 2026-02-15..2026-02-15 (" in drift(shop, "--of", "raw", "--current", "2026-02-15")[1]
    monkeypatch.setattr("parity.drift.command.utc_now", lambda: noon + timedelta(days=1))
    assert "against 2026-02-09..2026-02-15 (" in drift(shop, "--of", "raw")[1], (
        "the newest row is of a day that is over"
    )


def test_an_alarm_says_what_moved_by_how_much_since_when_and_that_it_is_the_data(drift, dearer):
    status, out = drift(dearer)
    assert status == 1
    assert re.search(r"mean_2d: DRIFT, up: mean [\d.]+ EUR -> [\d.]+ EUR \(\+[\d.]+ EUR\), standard error", out), out
    assert re.search(r"PSI [\d.]+, KS [\d.]+, Wasserstein [\d.]+ EUR", out)
    assert "since 2026-02-11; data: the oracle agrees with all " in out
    assert re.search(r"most in 10th decile \(.*\): 10\.0\d% -> \d+\.\d+% of rows", out)
    assert "DRIFT: 1 of 4 columns" in out


def test_it_is_the_pipeline_if_the_oracle_gives_other_values(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought())
    shop.change("mean_2d", lambda values, days: np.where(days >= CHANGED, values * 1.2, values))
    status, out = drift(shop)
    assert status == 1
    assert re.search(r"since 2026-02-11; PIPELINE: \d+ of \d+ stored values of \d+ buyers are not what the", out), out
    assert column(drift(shop, "--json")[1], "mean_2d")["moved"]["origin"] == "pipeline"


def test_a_few_rows_that_are_broken_are_those_that_the_oracle_is_asked_about(drift, tmp_path):
    """One row in fifty: of a sample at random, most would be whole."""
    shop = Shop(tmp_path / "shop", bought())
    rng = np.random.default_rng(3)
    shop.change(
        "mean_2d", lambda values, days: np.where((days >= CHANGED) & (rng.random(len(days)) < 0.03), 0.0, values)
    )
    status, out = drift(shop, "--oracle", 10)
    assert status == 1
    assert "share of zero up: 0.00% -> " in out
    assert "PIPELINE: " in out


def test_a_count_of_all_there_ever_was_grows_and_is_no_alarm(drift, steady):
    _, out = drift(steady)
    assert "count_ever: grows by definition" in out


def test_an_effect_smaller_than_what_matters_is_no_alarm_however_significant(drift, dearer):
    for least in ("mean_2d=80%", "mean_2d=30", "*=70%"):
        status, out = drift(dearer, "--matters", least)
        assert status == 0, out
        assert "mean_2d: moved, but by less than matters (p " in out
    assert drift(dearer, "--matters", "mean_2d=1%")[0] == 1
    assert drift(dearer, "--matters", "last_shop=50%")[0] == 1


def test_what_matters_is_declared_beside_the_features(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought(factor=1.2), '{"matters.mean_2d": "50%"}')
    assert drift(shop)[0] == 0
    assert drift(shop, "--matters", "mean_2d=1%")[0] == 1


def test_raw_columns_are_compared_and_are_data(drift, dearer):
    status, out = drift(dearer, "--of", "raw")
    assert status == 1
    assert "amount: DRIFT, up: mean " in out
    assert "data: these are the transactions" in out
    assert column(drift(dearer, "--of", "raw", "--json")[1], "amount")["moved"]["origin"] == "data"
    assert "shop: steady" in out


def log_of(shop: Shop, late: float = 1.0) -> pa.Table:
    """Every stored row as it was served at its own instant, with means times ``late`` since the change."""
    stored = pq.read_table(shop.stored)
    at = stored["event_timestamp"].cast(pa.timestamp("us", "UTC"))
    since = pa.scalar(BEGIN + timedelta(days=CHANGED), at.type)
    mean = pc.multiply(stored["mean_2d"], pc.if_else(pc.greater_equal(at, since), late, 1.0))
    ids = pa.array([f"a-{number}" for number in range(len(stored))])
    columns = {"buyer_id": stored["buyer_id"], "__log_timestamp": at, "__as_of": at, "__request_id": ids}
    for name in ("mean_2d", "last_shop", "count_ever"):
        columns[f"spending__{name}"] = mean if name == "mean_2d" else stored[name]
        columns[f"spending__{name}__timestamp"] = at
        columns[f"spending__{name}__status"] = pa.array([2] * len(stored), pa.int32())  # present
    return pa.table(columns)


def serve(shop: Shop, log: pa.Table) -> None:
    """Write a log of what was served, beside rows of another project, and apply the repository."""
    for project in ("shop", "another"):
        rows = log if project == "shop" else log.slice(0, 5)
        facts = {"project": project, "service": "spending", "references": []}
        written = HourlyParts(shop.folder / "served" / "service=spending", log.schema.remove_metadata(), facts)
        written.append(rows)
        written.close()
    (shop.folder / "feature_store.yaml").write_text(CONFIGURATION.replace("LOGGED", "log_served: served"))
    there = runpy.run_path(str(shop.folder / "features.py"))
    FeatureStore(repo_path=str(shop.folder)).apply([there[name] for name in ("buyer", "spending", "service")])


def test_a_large_file_of_transactions_is_read_in_pieces(drift, dearer, monkeypatch):
    whole = drift(dearer, "--of", "raw", "--json")
    monkeypatch.setattr(pieces, "ROWS", 1000)
    assert drift(dearer, "--of", "raw", "--json") == whole


def test_keys_may_be_texts_and_composite(drift, tmp_path):
    """Of a text and a number: counted, and asked about."""
    table = bought()
    texts = pa.array([f"b'{number}" for number in table["buyer_id"].to_pylist()])
    table = table.set_column(0, "buyer_id", texts).append_column("store_id", pc.multiply(table["buyer_id"], 0))
    store = 'store = Entity(name="store", join_keys=["store_id"], value_type=ValueType.INT64)\nbought ='
    of_two = (
        FEATURES.replace("bought =", store)
        .replace("[buyer]", "[buyer, store]")
        .replace("value_type=ValueType.INT64", "value_type=ValueType.STRING", 1)
    )
    shop = Shop(tmp_path / "shop", table, features=of_two)
    shop.change("mean_2d", lambda values, days: np.where(days >= CHANGED, values * 1.5, values))
    status, out = drift(shop)
    assert status == 1, out
    assert re.search(r"; PIPELINE: .*, of b'\d+, 0 at 2026-02-1", out), out


def test_what_was_served_is_compared_and_the_audit_says_that_it_is_the_data(drift, tmp_path):
    """By its log, whatever else is in it."""
    shop = Shop(tmp_path / "shop", bought(factor=1.6))
    serve(shop, log := log_of(shop))
    status, out = drift(shop, "--of", "served")
    assert status == 1
    assert "mean_2d: DRIFT, up: mean " in out
    assert re.search(r"data: the audit finds all [\d,]+ values served to \d+ buyers to be the truth", out), out
    assert f"({log.num_rows:,}" not in out
    assert "data or pipeline not asked: --oracle 0" in drift(shop, "--of", "served", "--oracle", 0)[1]
    (shop.folder / "registry.db").unlink()
    _, out = drift(shop, "--of", "served")
    asked = (
        f"ask python -m parity audit -c {shop.folder} --since 2026-02-09T00:00:00Z --until 2026-02-15T23:59:59.999999Z"
    )
    assert f"data or pipeline not known, {asked}: " in out
    (shop.folder / "feature_store.yaml").write_text(CONFIGURATION.replace("LOGGED", "db: 0"))
    with pytest.raises(UserError, match="log_served is off"):
        drift(shop, "--of", "served")


def test_it_is_the_pipeline_if_what_was_served_is_not_the_truth(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought())
    serve(shop, log_of(shop, late=1.6))
    status, out = drift(shop, "--of", "served")
    assert status == 1
    assert re.search(
        r"PIPELINE: [\d,]+ of [\d,]+ values served to \d+ buyers are not the truth \(.*\); more by python -m", out
    ), out


def test_a_new_category_is_named(drift, tmp_path):
    table = bought()
    late = table["at"].to_numpy() >= np.datetime64((BEGIN + timedelta(days=CHANGED)).replace(tzinfo=None))
    rng = np.random.default_rng(4)
    shops = np.where(late & (rng.random(len(late)) < 0.05), "west", np.array(table["shop"].to_pylist()))
    shop = Shop(tmp_path / "shop", table.set_column(3, "shop", pa.array(shops)))
    status, out = drift(shop, "--of", "raw")
    assert status == 1
    assert "shop: DRIFT, new categories, as 'west': 0.00% -> " in out
    assert "since 2026-02-11" in out


def test_a_shifted_clock_is_found_in_the_time_of_the_day(drift, tmp_path):
    table = bought()
    at = table["at"].to_numpy()
    rng = np.random.default_rng(5)
    seconds = (rng.normal(14, 2, len(at)).clip(4, 22) * 3600).astype("m8[s]")
    shift = np.where(at >= np.datetime64((BEGIN + timedelta(days=CHANGED)).replace(tzinfo=None)), 3600, 0)
    at = at.astype("M8[D]").astype("M8[us]") + seconds + shift.astype("m8[s]")
    shop = Shop(tmp_path / "shop", table.set_column(1, "at", pa.array(at, pa.timestamp("us", "UTC"))))
    status, out = drift(shop, "--of", "raw")
    assert status == 1
    assert re.search(r"time of day: DRIFT, up: mean 1[34]\.\d+ h -> 1[45]\.\d+ h", out), out


def test_a_feature_that_appeared_meanwhile_is_named_and_no_alarm(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought())
    shop.change("mean_2d", lambda values, days: [None if d < CHANGED else v for v, d in zip(values, days, strict=True)])
    status, out = drift(shop)
    assert status == 0, out
    assert "mean_2d: appeared meanwhile: " in out


def test_a_feature_that_no_file_has_yet_is_named(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought())
    pq.write_table(pq.read_table(shop.stored).drop_columns(["last_shop"]), shop.stored)
    status, out = drift(shop)
    assert status == 0
    assert "Not compared: spending: last_shop is not in " in out


def test_infinite_and_huge_values_are_counted_and_named(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought())
    rng = np.random.default_rng(6)
    shop.change(
        "mean_2d", lambda values, days: np.where((days >= CHANGED) & (rng.random(len(days)) < 0.05), np.inf, values)
    )
    status, out = drift(shop)
    assert status == 1
    assert "mean_2d: DRIFT, share of infinite up: 0.00% -> " in out


@pytest.mark.parametrize("value", [None, np.nan, np.inf, -1e308, 1e290, 0.0, -3.0, 7.77])
def test_the_few_rows_that_broke_are_those_that_the_oracle_is_asked_about(drift, tmp_path, value):
    """One row in fifty, and six buyers are asked about: by whatever is wrong with the rows."""
    shop = Shop(tmp_path / "shop", bought())
    shop.change(
        "mean_2d",
        lambda values, days: [
            value if day >= 35 and place % 50 == 0 else one
            for place, (one, day) in enumerate(zip(values, days, strict=True))
        ],
    )
    status, out = drift(shop, "--oracle", 6)
    assert status == 1, out
    assert "; PIPELINE: " in out


@pytest.mark.parametrize(
    ("value", "said"), [(None, "share of null up: 0.00% -> "), (np.inf, "share of infinite up"), (1e305, "infinite up")]
)
def test_a_feature_that_all_rows_lose_is_an_alarm(drift, tmp_path, value, said):
    shop = Shop(tmp_path / "shop", bought())
    shop.change("mean_2d", lambda values, days: [value if d >= 35 else v for v, d in zip(values, days, strict=True)])
    status, out = drift(shop)
    assert status == 1
    assert "mean_2d: DRIFT, share of " in out
    assert said in out
    assert "since 2026-02-09; PIPELINE" in out


@pytest.mark.parametrize("value", [None, np.inf])
def test_a_feature_that_never_has_a_number_is_steady(drift, tmp_path, value):
    shop = Shop(tmp_path / "shop", bought())
    shop.change("mean_2d", lambda values, days: [value] * len(values))
    status, out = drift(shop, "--report", tmp_path / "page.html", "--json")
    assert status == 0, out
    assert column(out, "mean_2d")["status"] == "steady"


def test_a_constant_feature_is_steady(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought())
    shop.change("mean_2d", lambda values, days: np.full(len(values), 5.0))
    status, out = drift(shop)
    assert status == 0, out
    assert "mean_2d: constant, 5 " in out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--reference", "2026-02-09..2026-02-15", "--current", "2026-01-05..2026-01-11"], "is newer than the current"),
        (["--reference", "2026-01-05..2026-02-10", "--current", "2026-02-09..2026-02-15"], "share days"),
        (["--reference", "2020-01-01..2020-01-31"], "the reference, 2020-01-01..2020-01-31, has no rows"),
        (["--current", "2027-01-01..2027-01-07"], "the current window, 2027-01-01..2027-01-07, has no rows"),
        (["--reference", "0001-01-01..2026-01-31"], "span more than 3,660 days"),
        (["--matters", "mean_3d=5%"], "--matters: there is no feature 'mean_3d'; there is "),
        (["--of", "served"], "feature_store.yaml"),
        (["--input", "/nowhere/at/all.parquet"], "/nowhere/at/all.parquet: there is no such file"),
        (["--of", "raw", "--current", "2026-02-16..2026-02-20"], "has no rows that have a buyer_id"),
    ],
)
def test_what_can_not_be_compared_is_said_in_one_line(drift, steady, arguments, expected):
    with pytest.raises(UserError) as refused:
        drift(steady, *arguments)
    assert expected in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--reference", "yesterday"],
        ["--current", "2026-02-15..2026-02-09"],
        ["--matters", "mean_2d"],
        ["--matters", "mean_2d=inf"],
        ["--matters", "mean_2d=-1"],
        ["--rate", "0"],
        ["--rate", "2"],
        ["--rate", "nan"],
        ["--windows", "0"],
        ["--windows", "1e3"],
        ["--oracle", "-1"],
        ["--current", "2026-02-30"],
        ["--reference", ".."],
        ["--matters", "mean_2d=5 EUR"],
        ["--of", "online"],
        ["--report", "page.txt"],
    ],
)
def test_an_option_that_can_not_be_read_is_refused(drift, steady, arguments):
    with pytest.raises(SystemExit) as refused:
        drift(steady, *arguments)
    assert refused.value.code == 2


@pytest.mark.parametrize(
    ("buyers", "said"), [(1, "1 buyer has rows"), (5, "5 buyers have rows"), (13, "13 buyers have rows")]
)
def test_of_one_entity_or_few_nothing_can_be_said(drift, tmp_path, buyers, said):
    shop = Shop(tmp_path / "shop", bought(buyers=buyers))
    with pytest.raises(UserError, match=said) as refused:
        drift(shop)
    assert "at least 15 buyers" in str(refused.value)


def with_shops() -> str:
    """The features of buyers, and one of the three shops."""
    view = FEATURES.partition("spending = ")[2].partition("service = ")[0].replace("spending", "by_shop")
    last = 'Aggregation(name="last_shop", function="last", column="shop"),'
    view = view.replace("[buyer]", "[shop]").replace(last, "").replace("mean_2d", "shop_mean_2d").replace("TAGS", "{}")
    entity = 'shop = Entity(name="shop", join_keys=["shop"], value_type=ValueType.STRING)\n'
    service = 'shops = FeatureService(name="by_shop", features=[by_shop])\n'
    return FEATURES.replace("service = ", f"{entity}by_shop = {view}{service}service = ")


@pytest.mark.parametrize(("factor", "expected"), [(1.0, 0), (1.6, 1)])
def test_a_view_of_few_entities_is_said_in_a_line_and_the_others_decide(drift, tmp_path, factor, expected):
    shop = Shop(tmp_path / "shop", bought(factor=factor), features=with_shops())
    metrics, page = tmp_path / "drift.prom", tmp_path / "page.html"
    status, out = drift(shop, "--report", page, "--metrics", metrics)
    assert status == expected, out
    line = "Not judged: by_shop: 3 shops have rows in these windows, and at this rate of false alarms drift is judged "
    assert line in out
    assert f"{expected} of 4 columns" in out
    assert "Not judged: by_shop: 3 shops have rows" in page.read_text()
    assert "parity_drift_not_judged 1.0" in metrics.read_text()
    found = json.loads(drift(shop, "--json")[1])
    assert [len(found[name]) for name in ("not_judged", "not_compared")] == [1, 0]
    with pytest.raises(UserError, match="by_shop: 3 shops have rows"):
        drift(shop, "--view", "by_shop")
    (tmp_path / "shop" / "spending.parquet").unlink()
    with pytest.raises(UserError, match=r"spending\.parquet"):
        drift(shop)


def test_a_view_without_a_history_is_not_judged_yet(drift, tmp_path, monkeypatch):
    """And its neighbour with one is."""
    shop = Shop(tmp_path / "shop", bought(), features=with_shops())
    stored = pq.read_table(shop.folder / "by_shop.parquet")
    since = pa.scalar(BEGIN + timedelta(days=DAYS - 3), stored["event_timestamp"].type)
    pq.write_table(stored.filter(pc.greater(stored["event_timestamp"], since)), shop.folder / "by_shop.parquet")
    status, out = drift(shop)
    assert status == 0, out
    assert "by_shop.parquet: the reference, 2026-01-12..2026-02-08, has no rows" in out
    monkeypatch.setattr("parity.drift.command.utc_now", lambda: BEGIN + timedelta(hours=12))
    with pytest.raises(UserError, match="it has no rows of a day that is over"):
        drift(shop, "--view", "spending")


def test_of_the_fewest_entities_that_are_judged_all_move_and_that_is_found(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought(factor=3, buyers=15))
    status, out = drift(shop)
    assert status == 1, out
    assert "mean_2d: DRIFT, up: mean " in out
    with pytest.raises(UserError, match="at least 22 buyers"):
        drift(shop, "--windows", 100)
    assert drift(Shop(tmp_path / "other", bought(buyers=15)))[0] == 0


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("event_timestamp", "yesterday", "event_timestamp is string and no instant. Compute"),
        ("event_timestamp", None, "it has no column event_timestamp. Compute the features anew."),
        ("buyer_id", None, "it has no column buyer_id. Compute the features anew."),
    ],
)
def test_a_table_without_keys_or_instants_is_refused(drift, tmp_path, name, values, said):
    shop = Shop(tmp_path / "shop", bought())
    table = pq.read_table(shop.stored)
    other = table.drop_columns([name])
    pq.write_table(other.append_column(name, pa.array([values] * len(table))) if values else other, shop.stored)
    with pytest.raises(UserError, match=re.escape(said)):
        drift(shop)


@pytest.mark.parametrize("value", ["text", [1.5]])
def test_a_feature_of_another_type_than_is_declared_is_not_compared(drift, tmp_path, value):
    shop = Shop(tmp_path / "shop", bought())
    table = pq.read_table(shop.stored)
    values = pa.array([value] * len(table))
    pq.write_table(table.set_column(table.column_names.index("mean_2d"), "mean_2d", values), shop.stored)
    status, out = drift(shop)
    assert status == 0
    assert re.search("Not compared: spending: mean_2d is (string|list<.*>) in .*, and declared as double", out), out


def test_rows_without_a_key_do_not_count(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought())
    table = pq.read_table(shop.stored)
    pq.write_table(table.set_column(0, "buyer_id", pa.nulls(len(table), pa.int64())), shop.stored)
    assert table.column_names[0] == "buyer_id"
    with pytest.raises(UserError, match="has no rows that have a buyer_id"):
        drift(shop)


def test_a_folder_of_which_one_file_lacks_a_feature_is_compared(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought())
    table = pq.read_table(shop.stored)
    shop.stored.unlink()
    shop.stored.mkdir()
    pq.write_table(table.slice(0, 500).drop_columns(["mean_2d"]), shop.stored / "0.parquet")
    pq.write_table(table.slice(500), shop.stored / "1.parquet")
    status, out = drift(shop)
    assert status in (0, 1)
    assert " of 4 columns" in out


def test_neither_time_zone_nor_working_directory_matters(drift, dearer, monkeypatch, tmp_path):
    usual = drift(dearer, "--json")
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    monkeypatch.chdir(tmp_path)
    try:
        assert drift(dearer, "--json") == usual
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_table_without_rows_is_refused(drift, tmp_path):
    shop = Shop(tmp_path / "shop", bought())
    pq.write_table(pq.read_table(shop.stored).slice(0, 0), shop.stored)
    with pytest.raises(UserError, match="has no rows up to"):
        drift(shop)


def test_rows_that_are_not_of_either_window_do_not_count(drift, dearer):
    """Before the change there is nothing to find."""
    status, out = drift(dearer, "--reference", "2026-01-05..2026-01-25", "--current", "2026-01-26..2026-02-08")
    assert status == 0, out


def test_json_has_numbers_that_a_machine_can_read(drift, dearer):
    status, out = drift(dearer, "--json")
    assert status == 1
    found = column(out, "mean_2d")
    assert found["status"] == "drift"
    assert found["unit"] == "EUR"
    moved = found["moved"]
    assert (moved["since"], moved["origin"], moved["what"]) == ("2026-02-11", "data", "location")
    assert moved["size"]["difference"] > 3 * moved["size"]["standard_error"] > 0
    assert found["entities"]["both"] <= found["entities"]["reference"]
    assert json.loads(out)["drift"] is True
    assert json.loads(out)["correction"] == "harmonic mean over the tests of a column, doubled; Holm over all columns"


def test_the_page_shows_the_verdicts_first_and_loads_nothing(drift, dearer, tmp_path):
    drift(dearer, "--report", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.index("<h1") < page.index("mean_2d") < page.index("drift of the data") < page.index("count_ever")
    assert page.count("<svg") == 8
    assert "prefers-color-scheme: dark" in page
    assert not re.search(r"<script|https?://|@import|\bNaN\b|\bnan\b", page)


def test_metrics_are_those_of_prometheus(drift, dearer, tmp_path):
    drift(dearer, "--metrics", tmp_path / "drift.prom")
    text = (tmp_path / "drift.prom").read_text()
    assert 'parity_drift_alarm{column="mean_2d",view="spending"} 1.0' in text
    assert 'parity_drift_alarm{column="last_shop",view="spending"} 0.0' in text
    families = {one.name: one for one in text_string_to_metric_families(text)}
    assert {one.type for one in families.values()} == {"gauge"}
    assert {one.labels["column"] for one in families["parity_drift_p"].samples} >= {"mean_2d", "time of day"}


def test_the_same_windows_give_the_same_answer(drift, dearer):
    assert drift(dearer, "--json") == drift(dearer, "--json")


def test_a_rate_over_many_windows_is_shared_out(drift, steady):
    assert "at most 1e-05." in drift(steady, "--windows", 100)[1]


def test_the_command_is_one_of_parity(monkeypatch, capsys, steady):
    monkeypatch.setattr(sys, "argv", ["parity", "drift", "-c", str(steady.folder)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("parity", run_name="__main__")
    assert not ended.value.code
    assert "No drift" in capsys.readouterr().out
