"""What is applied, held against what a model was trained on: each change named, and nothing that is none of its own."""

import pyarrow.parquet as pq
import pytest

from parity.edge.errors import UserError
from parity.model.applied import require_served
from parity.model.contract import Contract
from tests.online import applied, opened, rows_of
from tests.test_model import declare  # noqa: F401


@pytest.fixture
def served(declare, tmp_path, redis_port):  # noqa: F811
    """A contract of a service, and a function that applies changed definitions and says why they are refused."""
    before = declare()
    store = opened(tmp_path, redis_port, before.tables)

    def after(*changes: tuple[str, str], service: str = "churn") -> str | None:
        now = declare(*changes)
        store.apply([*applied(now.tables), *now.services])
        try:
            require_served(store, Contract.of(before, service), before.of(service=service).tables)
        except UserError as error:
            return str(error)
        return None

    return after


WINDOW = ("time_window=timedelta(days=7)", "time_window=timedelta(days=8)")


def test_what_is_as_it_was_is_served(served):
    assert served() is None


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (WINDOW, "customer_orders:spent_7d is made in another way"),
        (('function="max"', 'function="min"'), "customer_orders:largest is made in another way"),
        (('name="largest", function="max", column="total"', 'name="largest", function="max", column="pieces"'),
         "customer_orders:largest was Float64 and is Int64"),
        (("status = 'paid'", "status = 'sent'"), "customer_orders:pieces is made in another way"),
        (("ttl=timedelta(days=30)", "ttl=timedelta(days=31)"), "the ttl of customer_orders was 30 days"),
        (("ttl=timedelta(days=30)", "ttl=None"), "the ttl of customer_orders was 30 days, 0:00:00 and is none"),
        (('name="largest"', 'name="most"'), "customer_orders:largest is not applied any more"),
        (("ValueType.STRING", "ValueType.INT64"), "the keys of customer_orders were customer_id String and are"),
        (('"Europe/Berlin"', '"Europe/Paris"'), "customer_orders:spent_7d is made in another way"),
        (("    where=", "    continuous=True,\n    where="), "customer_orders:spent_7d is made in another way"),
    ],
)  # fmt: skip
def test_a_change_that_is_applied_is_named(served, change, named):
    refused = served(change)
    assert named in refused
    assert "\n" not in refused
    assert served() is None


def test_a_model_of_another_project_is_refused(declare, tmp_path, redis_port):  # noqa: F811
    now = declare()
    store = opened(tmp_path, redis_port, now.tables)
    store.apply([*applied(now.tables), *now.services])
    for project in ("", store.project):
        require_served(store, Contract.of(now, "churn", project=project), now.of(service="churn").tables)
    with pytest.raises(UserError, match="was trained in the project 'another', not in"):
        require_served(store, Contract.of(now, "churn", project="another"), now.of(service="churn").tables)


def test_another_order_of_the_service_is_named(served):
    other = (
        "features=[customer_orders])\nwithout",
        'features=[customer_orders[["pieces", "largest", "spent_7d"]]])\nwithout',
    )
    assert "customer_orders:spent_7d (Float64) as feature 1" in served(other)


def test_a_feature_that_the_model_does_not_take_may_change(served):
    change = ('name="pieces", function="sum"', 'name="pieces", function="max"')
    assert "customer_orders:pieces is made in another way" in served(change)
    assert served(change, service="few") is None


def test_a_view_that_is_gone_is_named(served, declare, tmp_path, redis_port):  # noqa: F811
    before = declare()
    store = opened(tmp_path, redis_port, [])
    with pytest.raises(UserError, match="the model of churn needs customer_orders, which is not applied"):
        require_served(store, Contract.of(before, "churn"), before.tables)


def test_a_table_that_was_computed_by_other_definitions_is_named(served, declare, tmp_path, redis_port):  # noqa: F811
    place = ("/nowhere/orders.parquet", f"{tmp_path}/orders.parquet")
    before, other = declare(place), declare(place, WINDOW)
    store = opened(tmp_path, redis_port, before.tables)
    contract = Contract.of(before, "churn")
    for [table], refused in ((before.tables, False), (other.tables, True)):
        pq.write_table(rows_of(table, []), table.source.path)
        if refused:
            with pytest.raises(UserError, match="customer_orders was computed by other definitions"):
                require_served(store, contract, before.tables)
        else:
            require_served(store, contract, before.tables)
