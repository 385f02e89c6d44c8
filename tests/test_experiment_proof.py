"""The proof of what a feature service gives: a part of a view, several views, other names."""

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value

from tests.repository.features import user_purchase_features
from tests.test_definition import changed
from tests.test_demo import hashes

AVERAGE, TOTAL = (rule.name for rule in user_purchase_features.definition.rules)
ARMS = f"""
product = Entity(name="product", join_keys=["product_id"], value_type=ValueType.STRING)
recent = AggregatedFeatureView(
    name="recent",
    entities=[user],
    ttl=timedelta(days=60),
    continuous=True,
    transactions=transactions,
    aggregations=[
        Aggregation(name="{TOTAL}", function="count", column="purchase_amount", time_window=timedelta(days=7)),
        Aggregation(name="largest", function="max", column="purchase_amount", time_window=timedelta(days=9)),
    ],
)
of_products = AggregatedFeatureView(
    name="of_products",
    entities=[product],
    transactions=transactions,
    aggregations=[
        Aggregation(name="sold", function="count", column="purchase_amount"),
        Aggregation(name="highest", function="max", column="purchase_amount"),
    ],
)
whole = FeatureService(name="whole", features=[recent, of_products])
average_only = FeatureService(name="average_only", features=[user_purchase_features[["{AVERAGE}"]]])
same_names = FeatureService(name="same_names", features=[user_purchase_features[["{TOTAL}"]], recent[["{TOTAL}"]]])
other_names = FeatureService(
    name="other_names",
    features=[
        recent[["largest"]].with_name("mine").with_join_key_map({{"user_id": "buyer"}}),
        user_purchase_features.with_name("theirs").with_join_key_map({{"user_id": "buyer"}}),
    ],
)
twice = FeatureService(
    name="twice", features=[recent[["largest"]].with_name("one"), recent[["{TOTAL}"]].with_name("other")]
)
other_keys = FeatureService(name="other_keys", features=[recent[["largest"]], of_products[["sold"]]])
"""
SERVICES = ["average_only", "same_names", "other_names", "twice", "other_keys", "user_features"]


@pytest.fixture
def shop(project):
    (project.root / "feature_repo" / "features.py").write_text(changed(("", ARMS)))
    project.prepare()
    return project


def plant(shop, feature: str) -> None:
    value = Value(double_val=1.5) if feature == AVERAGE else Value(int64_val=999)
    shop.client.hset(hashes(shop)[1], _mmh3(f"user_purchase_features:{feature}"), value.SerializeToString())


@pytest.mark.scale
def test_every_service_is_proven_with_a_verdict_of_its_own_now_and_in_the_past(shop, tmp_path):
    file = tmp_path / "proof.json"
    out = shop.succeed(
        "demo_fixed.py", "--service", *SERVICES, "--certificate", file, "--report", tmp_path / "proof.html"
    )
    assert "user_purchase_features through average_only: 20 users, 1 of 2 features, at" in out
    assert "recent as mine through other_names: 20 users, 1 of 2 features, at" in out
    for service in SERVICES:
        assert f"\n{service}: Training equals serving equals the oracle: every value of every " in out
    assert out.count("\nTraining equals serving equals the oracle: every value of every key of 3 feature views") == 1
    proven = json.loads(file.read_text())
    assert proven["services"] == [{"feature_service": name, "verdict": "equal"} for name in SERVICES]
    parts = [(view["feature_service"], view["view"], view["features"]) for view in proven["views"]]
    assert parts[:3] == [
        ("average_only", "user_purchase_features", [AVERAGE]),
        ("same_names", "user_purchase_features", [TOTAL]),
        ("same_names", "recent", [TOTAL]),
    ]
    assert proven["views"][0]["features_left_out"] == [TOTAL]
    assert [view["history"]["counts"]["match"] > 0 for view in proven["views"]] == [True] * len(parts)
    assert f"--service {' '.join(SERVICES)}" in proven["replay"]
    assert "recent as mine through other_names" in (tmp_path / "proof.html").read_text()

    alone = shop.succeed("demo_fixed.py", "--service", "average_only")
    assert alone.count("Training equals serving") == 1
    assert "average_only: Training equals serving equals the oracle: every value of every user that the" in alone
    assert TOTAL not in alone

    yesterday = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    then = shop.succeed("demo_fixed.py", "--service", "twice", "other_names", "--at", yesterday)
    assert "twice: Training equals serving equals the oracle" in then


def test_skew_online_and_in_the_history_is_that_of_the_services_that_give_it(shop, tmp_path):
    plant(shop, TOTAL)
    file = tmp_path / "proof.json"
    outcome = shop.run("demo_fixed.py", "--service", "average_only", "same_names", "--certificate", file)
    assert outcome.status == 1
    assert "\naverage_only: Training equals serving" in outcome.out
    assert "\nsame_names: SKEW: 1 values of 1 key in 1 of 2 feature views" in outcome.out
    assert "\nSKEW: 1 values of 1 vector through 1 of 2 services" in outcome.out
    verdicts = {one["feature_service"]: one["verdict"] for one in json.loads(file.read_text())["services"]}
    assert verdicts == {"average_only": "equal", "same_names": "skew"}
    assert shop.run("demo_fixed.py", "--service", "average_only").status == 0
    shop.succeed("demo_fixed.py", "--service", "same_names", "--repair")
    assert shop.run("demo_fixed.py").status == 0

    history = pq.read_table(shop.features)
    counts = history[TOTAL].to_pylist()
    column = history.schema.get_field_index(TOTAL)
    wrong = pa.array([counts[0] + 5, *counts[1:]], pa.int64())
    pq.write_table(history.set_column(column, history.schema.field(TOTAL), wrong), shop.features)
    assert shop.run("demo_fixed.py", "--service", "same_names").status == 1
    assert shop.run("demo_fixed.py", "--service", "average_only").status == 0


@pytest.mark.scale
def test_what_a_service_gives_as_applied_has_to_be_what_is_declared(shop):
    features = shop.root / "feature_repo" / "features.py"
    text = features.read_text()
    part = f'user_purchase_features[["{AVERAGE}"]]'
    features.write_text(text.replace(f"features=[{part}]", "features=[user_purchase_features]"))
    assert f"as applied, leaves out {TOTAL} of" in shop.fail("demo_fixed.py", "--service", "average_only")
    shop.apply()
    assert shop.run("demo_fixed.py", "--service", "average_only").status == 0
    features.write_text(text)
    assert f"as applied, gives {TOTAL} of" in shop.fail("demo_fixed.py", "--service", "average_only")
    shop.succeed("demo_fixed.py")

    assert "there is no FeatureService 'arms'" in shop.fail("demo_fixed.py", "--service", "average_only", "arms")
    assert shop.run("demo_fixed.py", "--service", "whole", "--view", "recent").status == 2
    shop.client.flushdb()
    shop.succeed("materialize_to_online.py", "--service", "twice")  # whole rows of the view, once
    shop.succeed("demo_fixed.py", "--view", "recent")
