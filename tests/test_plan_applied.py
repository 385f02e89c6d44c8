"""python -m parity plan --applied: what is declared against what the registry and the stored table have."""

import sys

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from parity.compute.history import compute_here
from parity.definition.checks import declared
from parity.edge.errors import UserError
from parity.edge.files import location
from parity.plan.command import planned
from parity.plan.found import BREAKING, NO_OP, VALUE_CHANGING
from parity.plan.terminal import shown
from tests.plans import Shop, transactions

SPENDING = """
spending = view("spending", [buyer], [made("mean_3d", "mean", "amount", 3), made("ever", "count", "amount")])
service = FeatureService(name="service", features=[spending])
"""


def compute(shop: Shop) -> None:
    sys.modules.pop("shop.features", None)
    [table] = declared(shop.folder)
    compute_here(table, table.transactions, location(table.source.path))


def apply(shop: Shop) -> None:
    sys.modules.pop("shop.features", None)
    found = declared(shop.folder)
    entity = sys.modules["shop.features"].buyer
    FeatureStore(repo_path=str(shop.folder)).apply([entity, *(table.view for table in found), *found.services])


@pytest.fixture
def shop(tmp_path):
    shop = Shop(tmp_path, SPENDING)
    apply(shop)
    compute(shop)
    return shop


def refused(shop: Shop) -> str:
    with pytest.raises(UserError) as caught:
        planned(shop.folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_another_window_than_is_applied_is_shown_with_the_purchases_that_entered(shop):
    shop.write(SPENDING.replace('"amount", 3)', '"amount", 4)'))
    later = transactions(20, seed=2).set_column(
        2, "at", pa.array([f"2027-01-{day:02}T00:00:00Z" for day in range(1, 21)])
    )
    pacsv.write_csv(pa.concat_tables([transactions(), later]), shop.folder / "bought.csv")
    before = shop.files()
    found = planned(shop.folder)
    assert shop.files() == before
    [view] = found.views
    mean, ever = view.features
    assert found.verdict == VALUE_CHANGING
    assert (mean.status, ever.status, view.rows) == ("values changed", "unchanged", 400)
    assert "20 rows are left out, as they are later than all that is stored" in [note.text for note in view.notes]
    assert all(user.entered and not user.left for user in mean.change.users)
    assert "was mean of amount in 3 days, is mean of amount in 4 days" in shown(found)
    assert mean.readers.services == ["service"]


@pytest.mark.scale
def test_what_is_stored_and_was_changed_by_hand_is_no_no_op(shop):
    stored = pq.read_table(shop.folder / "spending.parquet")
    place = stored.column_names.index("ever")
    values = stored["ever"].to_pylist()
    values[11] += 1
    changed = stored.set_column(place, stored.schema.field(place), pa.array(values, pa.int64()))
    pq.write_table(changed, shop.folder / "spending.parquet")
    found = planned(shop.folder)
    assert (found.verdict, found.values) == (VALUE_CHANGING, (1, 800))


@pytest.mark.scale
def test_what_is_applied_and_computed_is_a_no_op_on_all_keys_and_on_some(shop):
    assert planned(shop.folder).verdict == NO_OP
    found = planned(shop.folder, sample=10)
    assert (found.verdict, found.views[0].only_base, found.views[0].only_head) == (NO_OP, 0, 0)
    assert 0 < found.views[0].keys < 30


@pytest.mark.scale
def test_transactions_that_are_declared_elsewhere_are_value_changing_though_no_value_differs(shop):
    (shop.folder / "others.csv").write_bytes((shop.folder / "bought.csv").read_bytes())
    file = shop.folder / "features.py"
    file.write_text(file.read_text().replace("bought.csv", "others.csv"))
    found = planned(shop.folder)
    assert (found.values[0], found.verdict) == (0, VALUE_CHANGING)


@pytest.mark.scale
def test_a_feature_that_is_gone_and_another_ttl_are_seen(shop):
    shop.write(SPENDING.replace(', made("ever", "count", "amount")]', "], ttl=timedelta(days=1)"))
    found = planned(shop.folder)
    assert found.verdict == BREAKING
    assert any("its ttl is 1 day, and was 30 days" in note.text for note in found.views[0].notes)


def test_a_repository_to_which_nothing_is_applied(tmp_path):
    assert "there is no registry, so nothing is applied. Run: cd feature_repo && feast apply" in refused(
        Shop(tmp_path, SPENDING)
    )


def test_a_registry_of_another_project(shop):
    file = shop.folder / "feature_store.yaml"
    file.write_text(file.read_text().replace("project: shop", "project: bakery"))
    message = refused(shop)
    assert "this is the registry of the project shop, and feature_store.yaml names bakery" in message
    assert (shop.folder / "registry.db").exists()


def test_a_registry_that_is_damaged(shop):
    (shop.folder / "registry.db").write_bytes(b"\xff" * 100)
    assert "the registry is damaged" in refused(shop)


@pytest.mark.scale
def test_a_table_of_other_definitions_than_are_applied(shop):
    shop.write(SPENDING.replace('"amount", 3)', '"amount", 4)'))
    compute(shop)
    assert "it was computed by the definitions that features.py has by now, which are not applied" in refused(shop)
    shop.write(SPENDING)
    assert "it was computed by other definitions than are applied" in refused(shop)


@pytest.mark.scale
def test_features_that_are_not_computed_yet(shop):
    (shop.folder / "spending.parquet").unlink()
    assert "there is no such file. Run: python compute_features.py" in refused(shop)
