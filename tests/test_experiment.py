"""Experiments: what is declared, and which arm a unit is in."""

import subprocess
import sys
from collections import Counter

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from feast import FeatureService

from parity import Experiment
from parity.edge.errors import UserError
from tests import definition
from tests.conftest import ROOT
from tests.test_definition import OTHER_TABLE, changed, read  # noqa: F401

SERVICES = """
from parity import Experiment
average_only = FeatureService(
    name="average_only", features=[user_purchase_features[["user_avg_3day_purchase_amount"]]]
)
"""
SHOPS = OTHER_TABLE + 'shop_service = FeatureService(name="shop_service", features=[shop_features])\n'


def declaration(**changes: str) -> str:
    arguments = {
        "name": '"checkout"',
        "unit": '"user_id"',
        "arms": '{"control": average_only, "treatment": user_features}',
    } | changes
    return f"checkout = Experiment({', '.join(f'{name}={value}' for name, value in arguments.items())})\n"


def experiment(tmp_path, unit: str = "customer_id", **options) -> Experiment:
    """Two arms over text keys, or over int64 keys if the unit is user_id."""
    view = (definition.customers if unit == "customer_id" else definition.purchases)(tmp_path).view
    arms = {
        "control": FeatureService(name="one", features=[view[[view.features[0].name]]]),
        "treatment": FeatureService(name="all", features=[view]),
    }
    return Experiment(**{"name": "checkout", "unit": unit, "arms": arms} | options)


FAULTS = {
    "one arm": ({"arms": '{"control": user_features}'}, "it has 1 arm, and two at least are compared"),
    "no arm": ({"arms": "{}"}, "it has 0 arms"),
    "arms in a list": ({"arms": "[average_only, user_features]"}, "its arms are no mapping"),
    "an arm that is no service": ({"arms": '{"a": user_features, "b": "average_only"}'}, "which is no FeatureServ"),
    "an arm that is not declared": (
        {"arms": '{"a": user_features, "b": FeatureService(name="b", features=[user_purchase_features])}'},
        "the arm b is the FeatureService 'b', of which no variable is",
    ),
    "an arm without a name": ({"arms": '{"": user_features, "b": average_only}'}, "an arm can't be called ''"),
    "an arm with another key": (
        {"arms": '{"control": user_features, "treatment": shop_service}'},
        "the arm treatment has the view shop_features, whose key is shop_id and not the unit user_id",
    ),
    "a unit that no view has": ({"unit": '"customer"'}, "whose key is user_id and not the unit customer"),
    "no unit": ({"unit": "None"}, "its unit is None"),
    "weights beside 1": ({"weights": "[0.5, 0.4]"}, "its weights 0.5, 0.4 come to 0.9, not 1"),
    "weights nearly of 1": ({"weights": "[0.5, 0.499]"}, "come to 0.999, not 1"),
    "a weight of an unknown arm": (
        {"weights": '{"control": 0.5, "treated": 0.5}'},
        "a weight is that of 'treated', which is no arm: there is control, treatment",
    ),
    "an arm without a weight": ({"weights": '{"control": 1.0}'}, "the arm treatment has no weight"),
    "too many weights": ({"weights": "[0.5, 0.3, 0.2]"}, "Give one for each of control, treatment"),
    "a weight of nothing": ({"weights": "[1, 0]"}, "the weight of control is 1"),
    "a negative weight": ({"weights": "[1.5, -0.5]"}, "the weight of control is 1.5"),
    "a weight that is no number": ({"weights": '[float("nan"), 0.5]'}, "the weight of control is nan"),
    "a weight below the hash's grain": ({"weights": "[0.99995, 0.00005]"}, "the arm treatment gets 5e-05"),
    "a coverage of nothing": ({"coverage": "0"}, "its coverage is 0"),
    "a coverage in percent": ({"coverage": "50"}, "its coverage is 50"),
    "a seed that is no text": ({"seed": "7"}, "its seed is 7"),
    "a name that is a path": ({"name": '"a/b"'}, "its name becomes that of a folder"),
    "no name": ({"name": '""'}, "its name becomes that of a folder"),
}


class TestWhatIsDeclared:
    def test_beside_the_features_and_found_by_its_name(self, read):  # noqa: F811
        found = read(changed(("", SERVICES + declaration())))
        checkout = found.experiment("checkout")
        assert checkout.shares == {"control": 0.5, "treatment": 0.5}
        assert checkout.seed == "checkout"
        assert checkout.unit_type == pa.int64()
        with pytest.raises(UserError, match="there is no Experiment 'search'; there is checkout"):
            found.experiment("search")

    @pytest.mark.parametrize("fault", FAULTS)
    def test_a_fault_is_named_in_one_line_with_the_file(self, read, fault):  # noqa: F811
        changes, said = FAULTS[fault]
        with pytest.raises(UserError) as refused:
            read(changed(("", SERVICES + SHOPS + declaration(**changes))))
        message = str(refused.value)
        assert said in message
        assert "features.py" in message.split(": ")[0]
        assert "checkout" in message or fault in ("no name", "a name that is a path")
        assert "\n" not in message

    def test_two_of_one_name(self, read):  # noqa: F811
        again = declaration(name='"Checkout"').replace("checkout =", "again =")
        with pytest.raises(UserError, match="two experiments are called 'checkout'"):
            read(changed(("", SERVICES + declaration() + again)))

    @pytest.mark.parametrize("kind", ["BOOL", "BYTES", "UNIX_TIMESTAMP"])
    def test_a_unit_whose_text_is_not_one_thing(self, read, kind):  # noqa: F811
        with pytest.raises(
            UserError, match=r"its unit user_id is of type .* Let it be a key of the type STRING, INT64"
        ):
            read(changed(("ValueType.INT64", f"ValueType.{kind}"), ("", SERVICES + declaration())))

    def test_a_part_of_a_view_that_is_a_variable_is_refused_as_feast_would_apply_it(self, read):  # noqa: F811
        part = 'part = user_purchase_features[["user_total_transactions"]]\n'
        with pytest.raises(UserError, match="Write it where it is asked for: FeatureService"):
            read(changed(("", part)))


class TestWithoutGrowthBook:
    def test_declarations_need_it_not_and_assignment_says_what_is_missing(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "growthbook", None)
        checkout = experiment(tmp_path)
        with pytest.raises(UserError, match=r"the package growthbook is missing.*requirements-model\.txt"):
            checkout.arm_of("0042")

    def test_what_is_no_id_is_refused(self, tmp_path):
        by_text, by_number = experiment(tmp_path), experiment(tmp_path, "user_id")
        for strange in (None, 7.0, float("nan"), True, np.bool_(True), b"7", ("7",), "", pd.NA, pd.Timestamp("2025")):
            for checkout in (by_text, by_number):
                with pytest.raises(UserError, match="can't be a"):
                    checkout.text_of(strange)
        for strange in ("0042", "4_2", " 42", "42.0", "x", "٤٢", str(2**63), 2**63):
            with pytest.raises(UserError, match="can't be a user_id, which is of type int64"):
                by_number.text_of(strange)

    def test_one_id_is_not_several(self, tmp_path):
        with pytest.raises(TypeError, match="'0042' is one unit"):
            experiment(tmp_path).arms_of("0042")

    def test_an_id_is_its_text_as_it_is(self, tmp_path):
        by_text, by_number = experiment(tmp_path), experiment(tmp_path, "user_id")
        assert by_text.text_of("0042") == "0042"
        assert by_text.text_of(" 42") == " 42"
        assert by_number.text_of(7) == by_number.text_of("7") == by_number.text_of(np.int64(7)) == by_text.text_of(7)
        assert by_number.text_of(-7) == "-7"


@pytest.mark.scale
class TestAssignment:
    @pytest.fixture(autouse=True)
    def growthbook(self):
        return pytest.importorskip("growthbook")

    def test_is_growthbooks_own_with_hash_version_2(self, tmp_path, growthbook):
        three = experiment(tmp_path).arms | {"third": FeatureService(name="third", features=[])}
        checkout = experiment(
            tmp_path, arms=three, seed="s", weights={"third": 0.2, "control": 0.5, "treatment": 0.3}, coverage=0.7
        )
        for unit in ["0042", "42", "", "é", "\N{GRINNING FACE}", *(f"customer {n}" for n in range(500))][3:]:
            client = growthbook.GrowthBook(attributes={"customer_id": unit})
            result = client.run(
                growthbook.Experiment(
                    key="checkout",
                    variations=["control", "treatment", "third"],
                    weights=[0.5, 0.3, 0.2],
                    coverage=0.7,
                    hashAttribute="customer_id",
                    hashVersion=2,
                    seed="s",
                )
            )
            assert checkout.arm_of(unit) == (result.value if result.inExperiment else None)

    def test_stays_what_it_was_in_the_first_release(self, tmp_path):
        """Experiments run for months: an arm that changed with a release would mix them."""
        checkout = experiment(tmp_path)
        arms = {"0042": "treatment", "42": "control", "é": "control", "3": "treatment", "99": "control"}
        assert {unit: checkout.arm_of(unit) for unit in arms} == arms

    def test_many_at_once_are_as_one_by_one_and_in_order(self, tmp_path):
        checkout = experiment(tmp_path, coverage=0.8)
        units = [f"{n:04}" for n in range(300)] * 2
        one_by_one = [checkout.arm_of(unit) for unit in units]
        assert set(one_by_one) == {"control", "treatment", None}
        frame = pd.DataFrame({"customer_id": units}).iloc[::-1]
        for some in (units, tuple(units), pa.array(units), pa.chunked_array([units[:7], units[7:]]), np.array(units)):
            assert checkout.arms_of(some).tolist() == one_by_one
        assert frame.assign(arm=checkout.arms_of(frame["customer_id"]))["arm"].tolist() == one_by_one[::-1]
        assert checkout.arms_of([]).tolist() == []

    def test_of_whole_numbers_however_they_are_held(self, tmp_path):
        checkout = experiment(tmp_path, "user_id")
        expected = [checkout.arm_of(str(n)) for n in range(100)]
        for some in (list(range(100)), np.arange(100, dtype=np.int32), pa.array(range(100)), pd.Series(range(100))):
            assert checkout.arms_of(some).tolist() == expected
        with pytest.raises(UserError, match="pandas makes floats of whole numbers beside empty cells"):
            checkout.arms_of(pd.Series([1, None]))
        with pytest.raises(UserError, match="True can't be a user_id"):
            checkout.arms_of([1, True])

    def test_the_same_in_other_processes_whatever_their_hash_seed(self, tmp_path):
        code = (
            "from pathlib import Path; from tests.test_experiment import experiment; "
            f"print(*experiment(Path({str(tmp_path)!r})).arms_of([f'{{n:05}}' for n in range(200)]))"
        )
        ours = " ".join(experiment(tmp_path).arms_of([f"{n:05}" for n in range(200)]))
        for hash_seed, zone in (("1", "UTC"), ("2", "Asia/Kathmandu")):
            done = subprocess.run(
                [sys.executable, "-c", code],
                cwd=ROOT,
                env={"PYTHONHASHSEED": hash_seed, "TZ": zone, "PATH": "/usr/bin:/bin"},
                capture_output=True,
                text=True,
            )
            assert done.stdout.strip() == ours, done.stderr

    def test_shares_are_the_weights_and_coverage(self, tmp_path):
        checkout = experiment(tmp_path, weights=[0.2, 0.8], coverage=0.5)
        counts = Counter(checkout.arms_of([f"{n}" for n in range(20_000)]).tolist())
        for arm, share in (("control", 0.1), ("treatment", 0.4), (None, 0.5)):
            assert abs(counts[arm] / 20_000 - share) < 5 * (share * (1 - share) / 20_000) ** 0.5

    def test_more_coverage_moves_nobody_to_another_arm(self, tmp_path):
        units = [f"{n}" for n in range(2000)]
        few, more = (experiment(tmp_path, coverage=share).arms_of(units) for share in (0.2, 0.9))
        assert all(one in (None, other) for one, other in zip(few, more, strict=True))

    def test_experiments_are_independent_of_each_other(self, tmp_path):
        """A chi-square test of independence over four cells; that it fails one run in a million is the same each run,
        as nothing here is random."""
        stats = pytest.importorskip("scipy.stats")
        units = [f"{n:06}" for n in range(20_000)]
        one, other = (experiment(tmp_path, name=name).arms_of(units) for name in ("checkout", "search"))
        table = pd.crosstab(one, other)
        assert table.shape == (2, 2)
        assert stats.chi2_contingency(table).pvalue > 1e-6
        again = experiment(tmp_path, name="search", seed="checkout").arms_of(units)
        assert (again == one).all()

    def test_the_service_of_a_unit_is_that_of_its_arm(self, tmp_path):
        checkout = experiment(tmp_path, coverage=0.9)
        for unit in map(str, range(50)):
            arm = checkout.arm_of(unit)
            assert checkout.service_of(unit) is (checkout.arms[arm] if arm else None)
