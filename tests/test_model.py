"""The contract of a model: it names the features that it was trained on, and each way in which they are others now."""

import json

import pytest

from parity.definition.checks import declared
from parity.edge.errors import UserError
from parity.model.contract import Contract
from tests.test_definition import ON_DEMAND

FEATURES = """
from datetime import timedelta
from feast import Entity, FeatureService, Field, FileSource, ValueType
from feast.aggregation import Aggregation
from feast.types import Float64, Int64, String
from parity import AggregatedFeatureView, TransactionSource, check_definitions

customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.STRING)
orders = TransactionSource(
    name="orders",
    path="orders.csv",
    time_zone="Europe/Berlin",
    schema=[Field(name="total", dtype=Float64), Field(name="pieces", dtype=Int64)],
)
customer_orders = AggregatedFeatureView(
    name="customer_orders",
    entities=[customer],
    ttl=timedelta(days=30),
    transactions=orders,
    where="status = 'paid'",
    aggregations=[
        Aggregation(name="spent_7d", function="sum", column="total", time_window=timedelta(days=7)),
        Aggregation(name="pieces", function="sum", column="pieces"),
        Aggregation(name="largest", function="max", column="total"),
    ],
    source=FileSource(name="at", path="/nowhere/orders.parquet", timestamp_field="event_timestamp"),
)
service = FeatureService(name="churn", features=[customer_orders])
without_pieces = [field.name for field in customer_orders.features if field.name != "pieces"]
few = FeatureService(name="few", features=[customer_orders[without_pieces]])
all_of_it = FeatureService(name="all", features=[customer_orders])
"""


@pytest.fixture
def declare(tmp_path):
    """Declare `FEATURES` with changes, each in a folder of its own."""
    folders = iter(range(100))

    def declare(*changes: tuple[str, str]):
        text = FEATURES
        for before, after in changes:
            assert before in text
            text = text.replace(before, after)
        folder = tmp_path / f"repository{next(folders)}"
        folder.mkdir()
        (folder / "features.py").write_text(text)
        return declared(folder)

    return declare


def refusal(contract: Contract, now) -> str:
    with pytest.raises(UserError) as refused:
        contract.require_same(now)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_contract_has_the_features_of_the_service_in_order_with_their_types(declare):
    contract = Contract.of(declare(), "churn")
    there = [(feature.view, feature.name, feature.type) for feature in contract.features]
    view = "customer_orders"
    assert there == [(view, "spent_7d", "Float64"), (view, "pieces", "Int64"), (view, "largest", "Float64")]
    assert contract.inputs == ("spent_7d", "pieces", "largest")
    assert Contract.of(declare(), "few").inputs == ("spent_7d", "largest")


def test_a_contract_survives_json(declare):
    contract = Contract.of(declare(), "churn", inputs=["spent_7d", "largest_twice"])
    assert Contract.from_json(contract.to_json()) == contract
    assert "\n" not in contract.to_json()


def test_the_same_definitions_elsewhere_are_the_same(declare):
    """Files may lie elsewhere, be known longer ahead online, and a condition may be written with other blanks."""
    contract = Contract.of(declare(), "churn")
    contract.require_same(declare())
    contract.require_same(declare(("orders.csv", "elsewhere/orders.parquet"), ("status = 'paid'", "status  =  'paid'")))
    contract.require_same(declare(('name="few"', 'name="another"')))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("days=7", "days=9"), "customer_orders:spent_7d: window was 7 days and is 9 days"),
        (('"max"', '"min"'), "customer_orders:largest: function was max and is min"),
        (('"sum", column="pieces"', '"sum", column="total"'), "pieces: type was Int64 and is Float64, column was"),
        (('name="pieces", dtype=Int64', 'name="pieces", dtype=Float64'), "customer_orders:pieces: type was Int64"),
        (("'paid'", "'sent'"), "where was status = 'paid' and is status = 'sent'"),
        (("days=30", "days=31"), "spent_7d: ttl was 30 days and is 31 days"),
        (("ttl=timedelta(days=30)", "ttl=None"), "ttl was 30 days and is none"),
        (("Europe/Berlin", "Europe/London"), "source was time_zone='Europe/Berlin' and is time_zone='Europe/London'"),
        (("transactions=orders,", "transactions=orders, continuous=True,"), "continuous was no and is yes"),
        (("ValueType.STRING", "ValueType.INT64"), "keys was customer_id string and is customer_id int64"),
        (("customer_id", "client_id"), "keys was customer_id string and is client_id string"),
        (
            ('"churn", features=[customer_orders]', "'churn', features=[customer_orders[['largest', 'pieces']]]"),
            "customer_orders:spent_7d is not in churn any more",
        ),
        (('name="largest"', 'name="biggest"'), "customer_orders:largest is not in churn any more"),
        (('"largest"', '"biggest"'), "customer_orders:biggest is new in churn"),
    ],
)
def test_what_changed_is_named_and_how(declare, change, said):
    assert said in refusal(Contract.of(declare(), "churn"), declare(change))


def test_another_order_of_features_is_named(declare):
    line = '        Aggregation(name="pieces", function="sum", column="pieces"),\n'
    last = '        Aggregation(name="largest", function="max", column="total"),\n'
    said = refusal(Contract.of(declare(), "churn"), declare((line + last, last + line)))
    assert "the order of the features: number 2 was customer_orders:pieces and is customer_orders:largest" in said


def test_of_many_changes_some_are_named_and_the_others_counted(declare):
    more = "".join(
        f'        Aggregation(name="f{n}", function="sum", column="total", time_window=timedelta(days={n})),\n'
        for n in range(1, 9)
    )
    place = "    aggregations=[\n"
    contract = Contract.of(declare((place, place + more)), "churn")
    said = refusal(contract, declare((place, place + more), ("'paid'", "'sent'")))
    assert said.count("where was") == 5
    assert "; and 6 more." in said


def test_a_model_of_another_service_is_refused(declare):
    with pytest.raises(UserError, match="was trained on the FeatureService 'churn', not on 'few'"):
        Contract.of(declare(), "churn").require_of("few")
    with pytest.raises(UserError, match="there is no FeatureService 'nothing'; there is churn, few, all"):
        Contract.of(declare(), "nothing")
    contract = Contract.of(declare(), "few")
    with pytest.raises(UserError, match="there is no FeatureService 'few'; there is churn, lots, all"):
        contract.require_same(declare(('name="few"', 'name="lots"')))


def test_other_inputs_are_refused(declare):
    contract = Contract.of(declare(), "churn", inputs=["a", "b"])
    contract.require_inputs(["a", "b"])
    with pytest.raises(UserError, match="was trained on b as input 2, and would be given c there"):
        contract.require_inputs(["a", "c"])
    with pytest.raises(UserError, match="was trained on nothing as input 3, and would be given c there"):
        contract.require_inputs(["a", "b", "c"])


def test_what_is_not_aggregated_has_no_contract(declare):
    more = ON_DEMAND.replace("user_purchase_features", "customer_orders")
    with_more = 'service = FeatureService(name="churn", features=[customer_orders, doubled])'
    changed = declare(('service = FeatureService(name="churn", features=[customer_orders])', f"{more}\n{with_more}"))
    with pytest.raises(UserError, match="churn asks for doubled, which is no AggregatedFeatureView"):
        Contract.of(changed, "churn")


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content | {"format": 1},
        lambda content: content | {"service": "another"},
        lambda content: content | {"surprise": 1},
        lambda content: {name: value for name, value in content.items() if name != "features"},
        lambda content: content | {"features": content["features"][:1]},
        lambda content: content | {"features": "text"},
        lambda content: [content],
    ],
)
def test_what_is_no_contract_is_not_read_as_one(declare, damage):
    content = json.loads(Contract.of(declare(), "churn").to_json())
    with pytest.raises(ValueError, match=r"contract|format|fingerprint"):
        Contract.from_json(json.dumps(damage(content)))


def test_half_a_contract_is_no_contract(declare):
    text = Contract.of(declare(), "churn").to_json()
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        Contract.from_json(text[: len(text) // 2])
