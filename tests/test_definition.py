"""features.py as people write it: what it may look like, and each fault refused in one line before anything runs."""

import re
import shutil
import subprocess
import sys

import pytest

from feature_repo import features as ours
from parity.definition.checks import check_definitions, feature_table
from parity.edge.errors import UserError
from tests.conftest import ROOT

SEED = (ROOT / "feature_repo" / "features.py").read_text()
AVERAGE, TOTAL = "user_avg_3day_purchase_amount", "user_total_transactions"
OTHER_VIEW = """
shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.INT64)
shop_features = FeatureView(
    name="shop_features",
    entities=[shop],
    schema=[Field(name="shop_id", dtype=Int64), Field(name="turnover", dtype=Float64)],
    source=FileSource(name="shops", path="/nowhere/shops.parquet", timestamp_field="event_timestamp"),
)
"""
ON_DEMAND = f"""
from feast import RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
@on_demand_feature_view(
    sources=[user_purchase_features, RequestSource(name="now", schema=[Field(name="x", dtype=Int64)])],
    schema=[Field(name="doubled", dtype=Float64)],
)
def doubled(inputs):
    inputs["doubled"] = inputs["{AVERAGE}"] * 2
    return inputs[["doubled"]]
"""
SERVICE = "    features=[user_purchase_features],"


def changed(*changes: tuple[str, str]) -> str:
    """The text of our features.py, each ``before`` in it replaced by its ``after``; an empty one stands for the end."""
    text = SEED.replace("check_definitions(globals())\n", "")
    for before, after in changes:
        assert before in text
        text = text.replace(before, after) if before else text + after
    return text + "check_definitions(globals())\n"


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Take up the definitions of a features.py with this text."""
    folder = tmp_path / "feature_repo"
    folder.mkdir()
    monkeypatch.setitem(sys.modules, "feature_repo.features", ours)

    def read(text: str):
        (folder / "features.py").write_text(text)
        return feature_table(folder)

    return read


def names(aggregations) -> list[str]:
    return [aggregation.name for aggregation in aggregations]


class TestWhatItMayLookLike:
    def test_as_it_is(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "feature_repo.features", ours)
        table = feature_table(ROOT / "feature_repo")
        assert table.view is ours.user_purchase_features  # the module that others import
        assert (table.entity, table.service) == (ours.user, ours.user_features)
        assert table.source is ours.user_features_source
        assert names(table.aggregations) == [AVERAGE, TOTAL]
        assert table.columns == ["purchase_amount"]
        assert table.others == ()

    def test_variables_may_have_any_name(self, table):
        text = SEED
        for number, name in enumerate(
            ["AGGREGATIONS", "average_3day", "total_transactions", "user_features_source", "user_purchase_features"]
        ):
            text = re.sub(rf"(?<!\")\b{name}\b(?!\")", f"name_{number}", text)
        text = (
            text.replace("\nuser = ", "\ncustomer = ")
            .replace("[user]", "[customer]")
            .replace("user.join", "customer.join")
        )
        text = text.replace("\nuser_features = ", "\nasked = ")
        found = table(text)
        assert (found.view.name, found.service.name) == ("user_purchase_features", "user_features")
        assert names(found.aggregations) == [AVERAGE, TOTAL]

    def test_fields_and_aggregations_may_have_different_orders(self, table):
        turned = table(changed(("[average_3day, total_transactions]", "(total_transactions, average_3day)")))
        assert names(turned.aggregations) == [AVERAGE, TOTAL]

    @pytest.mark.parametrize("beside", [OTHER_VIEW, ON_DEMAND, OTHER_VIEW + ON_DEMAND])
    def test_other_views_are_named(self, table, beside):
        expected = [name for name, text in [("shop_features", OTHER_VIEW), ("doubled", ON_DEMAND)] if text in beside]
        found = table(changed(("", beside)))
        assert list(found.others) == expected
        assert found.view.name == "user_purchase_features"

    def test_a_service_with_another_view_does_not_matter_beside_one_without(self, table):
        both = 'both = FeatureService(name="both", features=[user_purchase_features, shop_features])\n'
        text = changed(("user_features = FeatureService", OTHER_VIEW + both + "user_features = FeatureService"))
        assert table(text).service.name == "user_features"

    def test_the_type_of_the_key_may_be_said_by_its_field_alone(self, table):
        found = table(changed(("    value_type=ValueType.INT64,\n", "")))
        assert found.view.join_keys == ["user_id"]

    @pytest.mark.parametrize("ttl", ["None", "timedelta(0)", "timedelta(days=3_652_058)"])
    def test_a_ttl_of_none_of_nothing_or_of_ages(self, project, ttl):
        file = project.root / "feature_repo" / "features.py"
        file.write_text(changed(("ttl=timedelta(days=30)", f"ttl={ttl}")))
        project.prepare()
        assert "Training equals serving" in project.succeed("demo_fixed.py")

    def test_another_order_and_other_names_through_the_whole_pipeline(self, project):
        file = project.root / "feature_repo" / "features.py"
        file.write_text(
            changed(
                ("[average_3day, total_transactions]", "[total_transactions, average_3day]"),
                (f'"{AVERAGE}"', '"purchase_amount"'),  # as the column that it is made of
                (f'"{TOTAL}"', '"how many; l\'été"'),
                ("", OTHER_VIEW),
            )
        )
        project.prepare()
        assert "match 40, mismatch 0" in project.succeed("demo_fixed.py")
        output = project.root / "data" / "by_day"
        project.succeed("compute_features.py", "--incremental", "--output", output)


FAULTS = {
    "an unknown function": ([('function="mean"', 'function="median"')], f"{AVERAGE}: the function 'median' is not one"),
    "no function": ([('    function="mean",\n', "")], "the function '' is not one of mean, sum, count"),
    "a function in capitals": ([('"count"', '"COUNT"')], "the function 'COUNT' is not one of"),
    "no column": (
        [('    column="purchase_amount",\n    time', "    time")],
        f"{AVERAGE}: its Aggregation names no column",
    ),
    "a slide interval": (
        [
            (
                "    time_window=timedelta(days=3),",
                "    time_window=timedelta(days=3), slide_interval=timedelta(days=1),",
            )
        ],
        f"{AVERAGE}: slide_interval is not supported",
    ),
    "a slide interval without a window": (
        [('function="count",', 'function="count", slide_interval=timedelta(days=1),')],
        f"{TOTAL}: slide_interval is not supported",
    ),
    "a window of nothing": (
        [("time_window=timedelta(days=3)", "time_window=timedelta(0)")],
        "time_window is not longer",
    ),
    "a negative window": ([("window=timedelta(days=3)", "window=-timedelta(days=3)")], "time_window is not longer"),
    "a window that is a number": ([("time_window=timedelta(days=3)", "time_window=3")], None),
    "a window that is text": ([("time_window=timedelta(days=3)", 'time_window="3d"')], None),
    "a ttl of days and hours": ([("timedelta(days=30)", "timedelta(hours=36)")], "mixes days and parts of a day"),
    "features that are written back": ([("online=True", "online=True, offline=True")], "offline=True"),
    "a view with a colon": ([('name="user_purchase_features"', 'name="a:b"')], "can't be called 'a:b'"),
    "a view with a version": ([('name="user_purchase_features"', 'name="a@v1"')], "can't be called 'a@v1'"),
    "a view without a name": ([('name="user_purchase_features"', 'name=""')], "a FeatureView can't be called ''"),
    "an entity without a name": ([('name="user",', 'name="",')], None),
    "a service without a name": ([('name="user_features",', 'name="",')], None),
    "an end of the program": ([("", "raise SystemExit\n")], "SystemExit"),
    "an end of the program with a reason": ([("", 'import sys\nsys.exit("set REGION first")\n')], "set REGION first"),
    "an end of the program as if all were well": ([("", "import sys\nsys.exit(0)\n")], "SystemExit"),
    "an Aggregation without a name": (
        [(f'    name="{TOTAL}",\n', ""), ("total_transactions.name", f'"{TOTAL}"')],
        "has no name",
    ),
    "one name twice": ([(f'"{TOTAL}"', f'"{AVERAGE}"')], f"2 Aggregations are called '{AVERAGE}'"),
    "no Aggregations": (
        [("[average_3day, total_transactions]", "[]")],
        "it declares no features: list their Aggregations",
    ),
    "no list": ([("AGGREGATIONS = [average_3day, total_transactions]", "")], "it declares no features"),
    "a Field without an Aggregation": (
        [("[average_3day, total_transactions]", "[average_3day]")],
        f"the Field '{TOTAL}' has no Aggregation",
    ),
    "an Aggregation without a Field": (
        [("AGGREGATIONS = [", 'AGGREGATIONS = [Aggregation(name="more", function="sum", column="purchase_amount"), ')],
        "the Aggregation 'more' has no Field",
    ),
    "another name": ([("name=average_3day.name", 'name="average"')], "the Field 'average' has no Aggregation"),
    "two Fields of one name": (
        [
            ("    source=user_features_source", "    source=user_features_source"),
            ("schema=[", f'schema=[Field(name="{TOTAL}", dtype=Int64),'),
        ],
        f"2 Fields are called '{TOTAL}'",
    ),
    "a mean as Float32": (
        [("dtype=Float64", "dtype=Float32"), ("import Float64", "import Float32")],
        f"{AVERAGE} is declared Float32, and a mean is Float64",
    ),
    "a count as Int32": (
        [
            ("total_transactions.name,\n            dtype=Int64", "total_transactions.name,\n            dtype=Int32"),
            ("Float64, Int64", "Float64, Int32, Int64"),
        ],
        f"{TOTAL} is declared Int32, and a count is Int64",
    ),
    "a count as Float64": (
        [("total_transactions.name,\n            dtype=Int64", "total_transactions.name,\n            dtype=Float64")],
        f"{TOTAL} is declared Float64, and a count is Int64",
    ),
    "a mean as text": (
        [("dtype=Float64", "dtype=String"), ("import Float64", "import String")],
        f"{AVERAGE} is declared String",
    ),
    "a mean as a list": (
        [("dtype=Float64", "dtype=Array(Float64)"), ("import Float64", "import Array, Float64")],
        f"{AVERAGE} is declared Array(Float64)",
    ),
    "a negative ttl": ([("ttl=timedelta(days=30)", "ttl=-timedelta(days=30)")], "its ttl is -30 days"),
    "a ttl of longer than there are years": ([("ttl=timedelta(days=30)", "ttl=timedelta.max")], "its ttl is"),
    "a view that is not served": ([("online=True", "online=False")], "online=False, so it can't be served"),
    "a view that is disabled": ([("online=True", "enabled=False")], "enabled=False, so Feast does not serve it"),
    "a pinned version": ([("online=True", 'version="v2"')], "the version 'v2' is pinned"),
    "no view": (
        [
            ("user_purchase_features = FeatureView(", "user_purchase_features = dict("),
            ("features=[user_purchase_features]", "features=[]"),
        ],
        "it declares no FeatureView, which is what is supported.",
    ),
    "a view of another kind": (
        [
            ("user_purchase_features = FeatureView(", "user_purchase_features = BatchFeatureView("),
            ("    online=True,", '    online=True, mode="python", udf=lambda rows: rows,'),
            ("from feast.types", "from feast import BatchFeatureView\nfrom feast.types"),
        ],
        "it declares no FeatureView, which is what is supported; user_purchase_features is a BatchFeatureView.",
    ),
    "no source": ([("    source=user_features_source,\n", "")], "user_purchase_features: it has no source"),
    "a source that names no timestamp": (
        [('    timestamp_field="event_timestamp",\n', "")],
        "names no timestamp_field",
    ),
    "a source of another kind": (
        [
            ("source=user_features_source", "source=table"),
            (
                "user_purchase_features = ",
                'table = BigQuerySource(name="t", table="t", timestamp_field="t")\nuser_purchase_features = ',
            ),
            ("from feast.types", "from feast import BigQuerySource\nfrom feast.types"),
        ],
        "its source is not a FileSource",
    ),
    "a source with a relative path": (
        [("str(absolute(location(OFFLINE_PATH)))", '"../data/user_features.parquet"')],
        "the path of its source, ../data/user_features.parquet, depends on the folder",
    ),
    "a created timestamp": (
        [('timestamp_field="event', 'created_timestamp_column="made", timestamp_field="event')],
        "a created_timestamp_column is not supported",
    ),
    "a field mapping": (
        [('timestamp_field="event', 'field_mapping={"a": "b"}, timestamp_field="event')],
        "a field_mapping is not supported",
    ),
    "no entity": ([("    entities=[user],\n", "")], "user_purchase_features: it has no entity"),
    "two entities": (
        [
            ("entities=[user]", "entities=[user, shop]"),
            ("user_purchase_features = ", OTHER_VIEW + "user_purchase_features = "),
        ],
        "it has several join keys, of user, shop",
    ),
    "two join keys": (
        [('join_keys=["user_id"]', 'join_keys=["user_id", "shop_id"]')],
        ": ValueError: An entity may only have a single join key",
    ),
    "an entity that Feast does not find": (
        [("entities=[user]", 'entities=[Entity(name="shop", join_keys=["user_id"], value_type=ValueType.INT64)]')],
        "0 variables are an Entity 'shop'",
    ),
    "ids of text": (
        [
            ("ValueType.INT64", "ValueType.STRING"),
            ("join_key, dtype=Int64", "join_key, dtype=String"),
            ("import Float64", "import String, Float64"),
        ],
        "the Entity 'user' has the value_type STRING",
    ),
    "short ids": (
        [
            ("ValueType.INT64", "ValueType.INT32"),
            ("join_key, dtype=Int64", "join_key, dtype=Int32"),
            ("import Float64", "import Int32, Float64"),
        ],
        "the Entity 'user' has the value_type INT32",
    ),
    "ids of text, by their Field": (
        [
            ("    value_type=ValueType.INT64,\n", ""),
            ("join_key, dtype=Int64", "join_key, dtype=String"),
            ("import Float64", "import String, Float64"),
        ],
        "its join key user_id is declared String",
    ),
    "no Field for the key": (
        [("        Field(name=user.join_key, dtype=Int64),\n", "")],
        "its schema lacks the join key",
    ),
    "a key called as the time of a purchase": ([('"user_id"', '"timestamp"')], "the join key is called timestamp"),
    "a key called as the event": ([('"user_id"', '"event_timestamp"')], "the join key is called event_timestamp"),
    "a feature called as the event": ([(f'"{TOTAL}"', '"event_timestamp"')], "a feature is called event_timestamp"),
    "a feature called as the time": ([(f'"{TOTAL}"', '"timestamp"')], "a feature is called timestamp"),
    "a feature called as the day": ([(f'"{TOTAL}"', '"event_date"')], "a feature is called event_date"),
    "a feature called as the key": ([(f'"{TOTAL}"', '"user_id"')], "'user_id' has no Field"),
    "a feature called nearly as the key": ([(f'"{TOTAL}"', '"USER_ID"')], "a feature is called USER_ID, and so is"),
    "features that differ in capitals": ([(f'"{TOTAL}"', f'"{AVERAGE.upper()}"')], "differ in capitals only"),
    "a name with a colon": ([(f'"{TOTAL}"', '"a:b"')], "'a:b' can't be the name of a column"),
    "a name that is no text": ([(f'"{TOTAL}"', r'"a\udc80"')], r"'a\udc80' can't be the name of a column"),
    "an empty line as a name": ([(f'"{TOTAL}"', r'"a\nb"')], "can't be the name of a column"),
    "a sum of ids": ([('"purchase_amount",\n    time', '"user_id",\n    time')], "it aggregates the column user_id"),
    "a sum of times": (
        [('"purchase_amount",\n    time', '"timestamp",\n    time')],
        "it aggregates the column timestamp",
    ),
    "two views with Aggregations": (
        [
            ("", OTHER_VIEW + 'MORE = [Aggregation(name="turnover", function="sum", column="purchase_amount")]\n'),
        ],
        "both user_purchase_features and shop_features have Aggregations",
    ),
    "two lists for one view": (
        [("", f'OLD = [Aggregation(name="{AVERAGE}", function="sum", column="x"), total_transactions]\n')],
        "it has two lists of Aggregations for user_purchase_features",
    ),
    "no service": ([("user_features = FeatureService(", "user_features = dict(")], "nothing else: there is none."),
    "a service with another view": (
        [
            (SERVICE, "    features=[user_purchase_features, shop_features],"),
            ("user_features = FeatureService", OTHER_VIEW + "user_features = FeatureService"),
        ],
        "user_features asks for shop_features",
    ),
    "a service with an on-demand view": (
        [
            (SERVICE, "    features=[user_purchase_features, doubled],"),
            ("user_features = FeatureService", ON_DEMAND + "user_features = FeatureService"),
        ],
        "user_features asks for doubled",
    ),
    "a service with a part of the view": (
        [(SERVICE, "    features=[user_purchase_features[[average_3day.name]]],")],
        "user_features asks for a part of it",
    ),
    "a service that names its view": (
        [(SERVICE, '    features=["user_purchase_features"],')],
        "user_features does not name the view as an object",
    ),
    "a service with nothing": ([(SERVICE, "    features=[],")], "user_features does not name the view as an object"),
    "a view under another name": (
        [(SERVICE, '    features=[user_purchase_features.with_name("mine")],')],
        "user_features gives it or its join key another name",
    ),
    "a module that is not there": (
        [("import os\n", "import os\nimport nonsense\n")],
        ", line 11: ModuleNotFoundError: No module named 'nonsense'",
    ),
    "a syntax error": ([("    online=True,", "    online=True,,")], ", line 72: SyntaxError: invalid syntax"),
    "an error of its own": ([("AGGREGATIONS = ", "1 / 0\nAGGREGATIONS = ")], ": ZeroDivisionError: division by zero"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_told_with_the_file(table, fault):
    changes, said = FAULTS[fault]
    with pytest.raises(UserError) as refused:
        table(changed(*changes))
    told = str(refused.value)
    assert re.match(r"/\S+/feature_repo/features\.py(, line \d+)?: ", told)
    assert "\n" not in told
    assert said is None or said in told
    assert len(told) < 500


@pytest.mark.parametrize("script", ["compute_features.py", "materialize_to_online.py", "demo_fixed.py"])
@pytest.mark.parametrize("fault", ["no Aggregations", "a syntax error", "ids of text", "a window of nothing"])
def test_no_script_begins_with_a_fault(project, script, fault):
    changes, said = FAULTS[fault]
    (project.root / "feature_repo" / "features.py").write_text(changed(*changes))
    assert said in project.fail(script)
    assert project.run(script, "--help").status == 0


def test_feast_apply_refuses_it_too_in_one_line(project):
    changes, said = FAULTS["a slide interval"]
    (project.root / "feature_repo" / "features.py").write_text(changed(*changes))
    outcome = project.shell("feast apply", cwd=project.root / "feature_repo")
    assert outcome.status == 2
    assert outcome.err.startswith("Error: features.py: ")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (project.root / "data" / "registry.db").exists()


def test_without_its_last_line_the_scripts_check_all_the_same(table):
    with pytest.raises(UserError, match="is not one of mean, sum, count"):
        table(SEED.replace("check_definitions(globals())", "").replace('"mean"', '"max"'))


def test_a_repository_without_features(tmp_path):
    with pytest.raises(UserError, match=r"features\.py: there is no such file"):
        feature_table(tmp_path)


def test_an_archive_on_the_path_stands_for_the_folder(tmp_path):
    """As `spark-submit --py-files package.zip` has it."""
    archive = shutil.make_archive(str(tmp_path / "package"), "zip", ROOT, "feature_repo")
    shutil.copytree(ROOT / "parity", tmp_path / "cluster" / "parity")
    code = f"""
import sys
from pathlib import Path
from parity.definition.checks import feature_table
sys.path.append({archive!r})
print(feature_table(Path("feature_repo")).view.name)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path / "cluster",
        capture_output=True,
        text=True,
    )
    assert done.stdout == "user_purchase_features\n", done.stderr


def test_what_is_checked_are_the_variables_of_any_module():
    assert check_definitions(vars(ours)).view is ours.user_purchase_features
