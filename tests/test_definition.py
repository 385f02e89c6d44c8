"""features.py as people write it: what it may look like, and each fault refused in one line before anything runs."""

import re
import shutil
import subprocess
import sys

import pyarrow as pa
import pytest
from feast import FeatureView

from parity.definition.checks import check_definitions, declared
from parity.definition.declare import horizon_of, made_by
from parity.definition.instants import MICROSECONDS_PER_DAY as DAY
from parity.definition.instants import UTC_MICROSECONDS
from parity.edge.errors import UserError
from tests.conftest import ROOT
from tests.repository import features as ours

SEED = (ROOT / "tests" / "repository" / "features.py").read_text()
AVERAGE, TOTAL = "user_avg_3day_purchase_amount", "user_total_transactions"
SOURCE = 'FileSource(name="shops", path="/nowhere/shops.parquet", timestamp_field="event_timestamp")'
SHOP = 'shop = Entity(name="shop", join_keys=["shop_id"], value_type=ValueType.STRING)\n'
OTHER_TABLE = f"""
{SHOP}
shop_features = AggregatedFeatureView(
    name="shop_features",
    entities=[shop],
    transactions=transactions,
    aggregations=[Aggregation(name="turnover", function="sum", column="purchase_amount")],
    source={SOURCE},
)
"""
OTHER_SERVICE = 'shop_service = FeatureService(name="shop_service", features=[shop_features])\n'
ON_DEMAND = f"""
from feast import RequestSource
from feast.on_demand_feature_view import on_demand_feature_view
@on_demand_feature_view(
    sources=[user_purchase_features, RequestSource(name="now", schema=[Field(name="x", dtype=Float64)])],
    schema=[Field(name="doubled", dtype=Float64)],
)
def doubled(inputs):
    inputs["doubled"] = inputs["{AVERAGE}"] * 2
    return inputs[["doubled"]]
"""
SERVICE = "    features=[user_purchase_features],"
MEAN = 'function="mean",\n            column="purchase_amount",\n            time_window=timedelta(days=3),'
COUNT = f'Aggregation(name="{TOTAL}", function="count", column="purchase_amount")'
VIEW_SOURCE = """    source=FileSource(
        name="user_features_source",
        path=str(absolute(location(OFFLINE_PATH))),
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    ),
"""
COLUMNS = 'schema=[Field(name="purchase_amount", dtype=Float64, tags={"unit": "$"})],'


def more(aggregation: str) -> tuple[str, str]:
    """One more feature, called ``more``."""
    return COUNT, f'{COUNT},\n        Aggregation(name="more", {aggregation})'


def described(*fields: str) -> tuple[str, str]:
    """The view with fields of its own."""
    return "    aggregations=[", f"    schema=[{', '.join(fields)}],\n    aggregations=["


def changed(*changes: tuple[str, str]) -> str:
    """The text of features.py, each ``before`` in it replaced by its ``after``; an empty one stands for the end."""
    text = SEED.replace("check_definitions(globals())\n", "")
    for before, after in changes:
        assert before in text, before
        text = text.replace(before, after) if before else text + after
    return text + "check_definitions(globals())\n"


@pytest.fixture
def read(tmp_path, monkeypatch):
    """Take up the definitions of a features.py with this text."""
    folder = tmp_path / "feature_repo"
    folder.mkdir()
    monkeypatch.delitem(sys.modules, "feature_repo.features", raising=False)

    def read(text: str):
        (folder / "features.py").write_text(text)
        sys.modules.pop("feature_repo.features", None)
        return declared(folder)

    yield read
    sys.modules.pop("feature_repo.features", None)


def names(named) -> list[str]:
    return [one.name for one in named]


class TestWhatItMayLookLike:
    @pytest.mark.smoke
    def test_as_it_is(self):
        [table] = check_definitions(vars(ours))
        assert table.view is ours.user_purchase_features
        assert table.service is ours.user_features
        assert names(table.definition.rules) == names(table.view.features) == [AVERAGE, TOTAL]
        assert table.definition.columns == {"purchase_amount": pa.float64()}
        assert table.view.features[0].tags == {"unit": "$"}
        assert table.view.join_keys == ["user_id"]

    @pytest.mark.smoke
    def test_the_features_that_ship_are_sound(self):
        assert list(declared(ROOT / "feature_repo"))

    def test_variables_may_have_any_name(self, read):
        text = SEED
        for number, name in enumerate(["user_purchase_features", "user", "user_features"]):
            text = re.sub(rf"(?<!\")\b{name}\b(?!\")", f"name_{number}", text)
        [found] = read(text)
        assert (found.view.name, found.service.name) == ("user_purchase_features", "user_features")

    def test_several_tables_each_have_their_service(self, read):
        found = read(changed(("", OTHER_TABLE + OTHER_SERVICE)))
        assert names(found) == ["user_purchase_features", "shop_features"]
        assert [table.service.name for table in found] == ["user_features", "shop_service"]
        assert [table.requested for table in found] == [table.service for table in found]
        assert names(found.of(["shop_features"])) == names(found.of(service="shop_service")) == ["shop_features"]
        assert found.of(["shop_features"]).others == ("user_purchase_features",)

    def test_one_service_may_give_several_tables(self, read):
        both = 'both = FeatureService(name="both", features=[user_purchase_features, shop_features])\n'
        found = read(changed(("", OTHER_TABLE + both)))
        assert [table.service.name for table in found] == ["user_features", "both"]
        assert found.tables[1].requested == ["shop_features:turnover"]
        assert names(found.of(service="both")) == names(found)

    def test_a_name_that_is_not_declared_is_refused(self, read):
        found = read(SEED)
        with pytest.raises(UserError, match="no AggregatedFeatureView 'shops'; there is user_purchase_features"):
            found.of(["shops"])
        with pytest.raises(UserError, match="no FeatureService 'shops'; there is user_features"):
            found.of(service="shops")

    def test_other_kinds_of_views_are_named(self, read):
        assert list(read(changed(("", ON_DEMAND))).others) == ["doubled"]

    def test_types_follow_from_the_aggregations(self, read):
        columns = COLUMNS.replace("])", "]), ").replace(
            'tags={"unit": "$"})',
            'tags={"unit": "$"}), Field(name="sku", dtype=String), Field(name="pieces", dtype=Int32)',
        )
        features = {
            'function="max", column="purchase_amount"': (pa.float64(), {"unit": "$"}),
            'function="sum", column="pieces"': (pa.int64(), {}),
            'function="min", column="pieces"': (pa.int32(), {}),
            'function="mean", column="pieces"': (pa.float64(), {}),
            'function="last", column="sku"': (pa.string(), {}),
            'function="count_distinct", column="sku"': (pa.int64(), {}),
            'function="std", column="purchase_amount"': (pa.float64(), {"unit": "$"}),
            'function="var", column="purchase_amount"': (pa.float64(), {}),
            'function="count", column="anything"': (pa.int64(), {}),
        }
        for feature, (type, tags) in features.items():
            text = changed((COLUMNS, columns), more(feature), ("import Float64", "import Float64, Int32, String"))
            [table] = read(text)
            assert table.definition.schema.field("more").type == type
            assert table.view.features[-1].tags == tags
            assert table.definition.schema.field("more").nullable == ("std" in feature or "var" in feature)

    @pytest.mark.parametrize(
        ("kind", "type"),
        [
            ("INT32", pa.int32()),
            ("STRING", pa.string()),
            ("BOOL", pa.bool_()),
            ("BYTES", pa.binary()),
            ("UNIX_TIMESTAMP", UTC_MICROSECONDS),
        ],
    )
    def test_keys_have_any_scalar_type(self, read, kind, type):
        [table] = read(changed(("ValueType.INT64", f"ValueType.{kind}")))
        assert table.definition.keys.field("user_id").type == type

    def test_several_entities_are_several_join_keys(self, read):
        [table] = read(
            changed(("entities=[user]", "entities=[user, shop]"), ("transactions = Tr", SHOP + "transactions = Tr"))
        )
        assert table.definition.keys.names == table.view.join_keys == ["user_id", "shop_id"]

    def test_a_key_without_a_type_is_int64(self, read):
        [table] = read(changed(("    value_type=ValueType.INT64,\n", "")))
        assert table.definition.keys.field("user_id").type == pa.int64()

    def test_a_condition_names_its_columns_and_their_types(self, read):
        condition = "    where=\"purchase_amount > 0 AND status = 'paid'\",\n    aggregations=["
        [table] = read(changed(("    aggregations=[", condition)))
        assert dict(table.definition.condition.columns) == {"purchase_amount": pa.float64(), "status": pa.string()}
        assert "status" in table.definition.raw.names

    @pytest.mark.parametrize(
        ("condition", "types"),
        [
            ("more_amount IS NOT NULL", {"more_amount": "double"}),
            ("NOT (more_amount IS NULL)", {"more_amount": "double"}),
            ("more_amount IS NOT NULL AND more_amount > 0", {"more_amount": "double"}),
            ("more_amount > 0 AND more_amount IS NOT NULL", {"more_amount": "double"}),
            ("status IS NOT NULL", {"status": "string"}),
            ("status IS NOT NULL AND status > 0", {"status": "double"}),
            ("status IS NULL OR status", {"status": "bool"}),
            ("status = 'paid' AND status IS NOT NULL", {"status": "string"}),
            ("status = other AND other IN ('paid')", {"status": "string", "other": "string"}),
            ("other = third AND status = other AND 'x' < third", dict.fromkeys(["other", "status", "third"], "string")),
            ("status = other AND other IS NULL", {"status": "double", "other": "double"}),
            ("purchase_amount > other AND other IS NOT NULL", {"purchase_amount": "double", "other": "double"}),
            ("user_id IS NOT NULL AND user_id = other", {"user_id": "int64", "other": "int64"}),
            ("timestamp IS NOT NULL", {"timestamp": "timestamp[us, tz=UTC]"}),
        ],
    )
    def test_types_follow_from_comparisons_in_any_order_and_not_from_is_null(self, read, condition, types):
        where = ("    aggregations=[", f'    where="{condition}",\n    aggregations=[')
        [table] = read(changed(where, more('function="sum", column="more_amount"')))
        assert {name: str(type) for name, type in table.definition.condition.columns} == types
        assert table.definition.columns["more_amount"] == pa.float64()
        assert "status" not in table.definition.transactions.names

    def test_fields_may_be_described(self, read):
        field = f'Field(name="{TOTAL}", dtype=Int64, description="how many", tags={{"unit": "x"}})'
        [table] = read(changed(described(field), ("import Float64", "import Float64, Int64")))
        assert [feature.description for feature in table.view.features][1] == "how many"

    def test_windows_slide_where_it_is_declared(self, read):
        [still] = read(SEED)
        [sliding] = read(changed(("    aggregations=[", "    continuous=True,\n    aggregations=[")))
        assert [still.definition.continuous, sliding.definition.continuous] == [False, True]
        assert [still.definition.reach, sliding.definition.reach] == [3 * DAY, 3 * DAY + 1]
        assert [still.definition.schema.field(name).nullable for name in (AVERAGE, TOTAL)] == [False, False]
        assert [sliding.definition.schema.field(name).nullable for name in (AVERAGE, TOTAL)] == [True, False]
        assert horizon_of(still.view) is None
        assert horizon_of(sliding.view) == 2 * DAY
        assert horizon_of(FeatureView.from_proto(sliding.view.to_proto())) == 2 * DAY

    def test_any_file_source_may_hold_the_transactions(self, read):
        start = SEED.index("transactions = TransactionSource(")
        end = SEED.index("\n)\n", start)
        plain = 'transactions = FileSource(path="visits.csv", timestamp_field="at", field_mapping={"User": "user_id"}'
        [table] = read(SEED[:start] + plain + SEED[end:])
        assert table.definition.reading.timestamp == "at"
        assert table.definition.reading.renamed == (("User", "user_id"),)
        assert table.transactions.is_absolute()
        assert table.transactions.name == "visits.csv"

    def test_features_are_kept_beside_the_repository_if_nothing_else_is_said(self, read, tmp_path):
        [table] = read(changed((VIEW_SOURCE, "")))
        assert table.source.path == str(tmp_path / "data" / "user_purchase_features.parquet")

    def test_or_in_a_folder_or_bucket_of_the_environment(self, read, tmp_path, monkeypatch):
        for folder, expected in [("s3://bucket/features", "s3://bucket/features"), (str(tmp_path), str(tmp_path))]:
            monkeypatch.setenv("FEATURE_STORE_OFFLINE_FOLDER", folder)
            [table] = read(changed((VIEW_SOURCE, "")))
            assert table.source.path == f"{expected}/user_purchase_features.parquet"

    @pytest.mark.parametrize("ttl", ["None", "timedelta(0)", "timedelta(days=3_652_058)"])
    def test_a_ttl_of_none_of_nothing_or_of_ages(self, project, ttl):
        file = project.root / "feature_repo" / "features.py"
        file.write_text(changed(("ttl=timedelta(days=30)", f"ttl={ttl}")))
        project.prepare()
        assert "Training equals serving" in project.succeed("demo_fixed.py")

    def test_other_names_through_the_whole_pipeline(self, project):
        file = project.root / "feature_repo" / "features.py"
        file.write_text(
            changed(
                (f'"{AVERAGE}"', '"purchase_amount"'),  # as the column that it is made of
                (f'"{TOTAL}"', '"how many; l\'été"'),
            )
        )
        project.prepare()
        assert "match 40, mismatch 0" in project.succeed("demo_fixed.py")
        output = project.root / "data" / "by_day"
        project.succeed("compute_features.py", "--incremental", "--output", output)


class TestTheFingerprint:
    @pytest.mark.parametrize(
        "change",
        [
            ("days=3", "days=4"),
            ('"mean"', '"sum"'),
            ('"user_id"', '"customer_id"'),
            ("dtype=Float64", "dtype=Int64"),
            ("    aggregations=[", "    where='purchase_amount > 0',\n    aggregations=["),
            ('timestamp_field="timestamp"', 'timestamp_field="timestamp", time_zone="Europe/Berlin"'),
            more('function="max", column="purchase_amount"'),
            ("    aggregations=[", "    continuous=True,\n    aggregations=["),
        ],
    )
    def test_it_changes_with_whatever_is_computed(self, read, change):
        [before] = read(SEED)
        [after] = read(changed(change, ("import Float64", "import Float64, Int64")))
        assert before.definition.fingerprint != after.definition.fingerprint

    @pytest.mark.parametrize(
        "change",
        [
            ("days=30", "days=31"),
            ('name="user_transactions"', 'name="purchases"'),
            ('"user_transactions.csv"', '"elsewhere.csv"'),
            ('description="A customer of the shop"', 'description="Somebody"'),
            ("schema=[Field", 'event_id="order_id", schema=[Field'),
        ],
    )
    def test_it_stays_where_the_values_do(self, read, change):
        [before] = read(SEED)
        [after] = read(changed(change))
        assert before.definition.fingerprint == after.definition.fingerprint

    def test_how_far_rows_know_their_future_is_not_computed(self, read):
        slides = "    continuous=True,\n    aggregations=["
        [before] = read(changed(("    aggregations=[", slides)))
        [after] = read(changed(("    aggregations=[", f"    horizon=timedelta(days=5),\n{slides}")))
        assert before.definition.fingerprint == after.definition.fingerprint
        assert [horizon_of(table.view) for table in (before, after)] == [2 * DAY, 5 * DAY]

    def test_the_order_of_features_does_not_matter(self, read):
        first = f'Aggregation(\n            name="{AVERAGE}",\n            {MEAN}\n        )'
        [before] = read(SEED)
        [after] = read(changed((first, "FIRST"), (COUNT, first), ("FIRST", COUNT)))
        assert names(after.definition.rules) == [TOTAL, AVERAGE]
        assert before.definition.fingerprint == after.definition.fingerprint

    @pytest.mark.parametrize(
        ("change", "others"),
        [
            (("days=3", "days=4"), {AVERAGE}),
            (('"mean"', '"max"'), {AVERAGE}),
            (("", ""), set()),
            (("days=30", "days=31"), set()),
            (more('function="max", column="purchase_amount"'), {"more"}),
            (("    aggregations=[", "    where='purchase_amount > 0',\n    aggregations=["), {AVERAGE, TOTAL}),
            (("    aggregations=[", "    continuous=True,\n    aggregations=["), {AVERAGE, TOTAL}),
        ],
    )
    def test_a_registry_knows_how_each_feature_is_made(self, read, change, others):
        [before] = read(SEED)
        [after] = read(changed(change))
        applied = FeatureView.from_proto(after.view.to_proto())  # as a registry has it
        assert made_by(applied) == after.definition.fingerprints
        assert {name for name in made_by(applied) if made_by(applied)[name] != made_by(before.view).get(name)} == others


FAULTS = {
    "an unknown function": ([('function="mean"', 'function="median"')], f"{AVERAGE}: the function 'median' is not one"),
    "no function": ([('function="mean",', "")], "the function '' is not one of count, sum, mean, min, max, first"),
    "a function in capitals": ([('"count"', '"COUNT"')], "the function 'COUNT' is not one of"),
    "no column": ([('            column="purchase_amount",\n', "")], f"{AVERAGE}: its Aggregation names no column"),
    "a slide interval": (
        [("time_window=timedelta(days=3),", "time_window=timedelta(days=3), slide_interval=timedelta(days=1),")],
        f"{AVERAGE}: slide_interval is not supported",
    ),
    "a slide interval without a window": (
        [('function="count",', 'function="count", slide_interval=timedelta(days=1),')],
        f"{TOTAL}: slide_interval is not supported",
    ),
    "a window of nothing": ([("window=timedelta(days=3)", "window=timedelta(0)")], "time_window is not longer"),
    "a negative window": ([("window=timedelta(days=3)", "window=-timedelta(days=3)")], "time_window is not longer"),
    "a window that is a number": ([("time_window=timedelta(days=3)", "time_window=3")], None),
    "a window that is text": ([("time_window=timedelta(days=3)", 'time_window="3d"')], None),
    "an Aggregation without a name": ([(f'name="{TOTAL}", ', "")], "has no name"),
    "one name twice": ([(f'"{TOTAL}"', f'"{AVERAGE}"')], f"2 Aggregations are called '{AVERAGE}'"),
    "no aggregations": (
        [(SEED[SEED.index("    aggregations=[") : SEED.index("    source=FileSource(")], "")],
        "user_purchase_features: it has no aggregations",
    ),
    "what is no Aggregation": ([(COUNT, '"count"')], "'count' among its aggregations is no Aggregation"),
    "distinct values of a column without a type": (
        [more('function="count_distinct", column="sku"')],
        "more: distinct values are counted of a column of a declared type. Add Field(name='sku', dtype=String)",
    ),
    "a mean of text": (
        [
            more('function="mean", column="sku"'),
            (COLUMNS, COLUMNS.replace("],", ', Field(name="sku", dtype=String)],')),
        ],
        None,
    ),
    "a column as Float32": (
        [("dtype=Float64", "dtype=Float32"), ("import Float64", "import Float32")],
        "is declared Float32",
    ),
    "a column as a list": (
        [("dtype=Float64", "dtype=Array(Float64)"), ("import Float64", "import Array, Float64")],
        "the column purchase_amount is declared Array(Float64)",
    ),
    "a Field without an Aggregation": (
        [described('Field(name="other", dtype=Float64)')],
        "the Field 'other' has no Aggregation",
    ),
    "two Fields of one name": (
        [described(*[f'Field(name="{AVERAGE}", dtype=Float64)'] * 2)],
        f"2 Fields are called '{AVERAGE}'",
    ),
    "a mean as Float32": (
        [described(f'Field(name="{AVERAGE}", dtype=Float32)'), ("import Float64", "import Float32, Float64")],
        f"{AVERAGE} is declared Float32, and a mean of purchase_amount is Float64",
    ),
    "a count as Int32": (
        [described(f'Field(name="{TOTAL}", dtype=Int32)'), ("import Float64", "import Int32, Float64")],
        f"{TOTAL} is declared Int32, and a count of purchase_amount is Int64",
    ),
    "a count as Float64": (
        [described(f'Field(name="{TOTAL}", dtype=Float64)')],
        f"{TOTAL} is declared Float64, and a count of purchase_amount is Int64",
    ),
    "a key of another type than its entity's": (
        [described('Field(name="user_id", dtype=String)'), ("import Float64", "import String, Float64")],
        "user_id is declared String, and a join key is Int64",
    ),
    "a condition that can't be parsed": (
        [("    aggregations=[", '    where="purchase_amount >",\n    aggregations=[')],
        "user_purchase_features: the condition 'purchase_amount >' can't be parsed, at '>': is a part missing there",
    ),
    "a condition that is no text": (
        [("    aggregations=[", "    where=5,\n    aggregations=[")],
        'user_purchase_features: the condition is 5, and has to be a text, such as "amount > 0".',
    ),
    "a condition of nothing": (
        [("    aggregations=[", "    where=' ',\n    aggregations=[")],
        "user_purchase_features: the condition ' ' is empty: leave it out.",
    ),
    "a condition that compares an instant": (
        [("    aggregations=[", "    where=\"timestamp > '2025-01-01'\",\n    aggregations=[")],
        "timestamp is an instant, which can't be compared; only IS NULL and IS NOT NULL can be asked of it.",
    ),
    "a condition that takes a text for true": (
        [("    aggregations=[", "    where=\"status AND status = 'paid'\",\n    aggregations=[")],
        "'paid' is compared with a column that is Bool",
    ),
    "distinct values of a column that is only asked to be there": (
        [
            ("    aggregations=[", '    where="sku IS NOT NULL",\n    aggregations=['),
            more('function="count_distinct", column="sku"'),
        ],
        "more: distinct values are counted of a column of a declared type",
    ),
    "a condition on a number as text": (
        [("    aggregations=[", "    where=\"purchase_amount = 'x'\",\n    aggregations=[")],
        "'x' is compared with a column that is Float64",
    ),
    "a condition that is no comparison": (
        [("    aggregations=[", "    where=\"lower(status) LIKE 'p%'\",\n    aggregations=[")],
        "is not a comparison of a column",
    ),
    "an unknown option of a source": (
        [('timestamp_field="timestamp"', 'timestamp_field="timestamp", seperator=";"')],
        "a TransactionSource has no option 'seperator'",
    ),
    "a zone that is none": (
        [('timestamp_field="timestamp"', 'timestamp_field="timestamp", time_zone="CEST"')],
        "the time_zone 'CEST' is not the IANA name of one",
    ),
    "no transactions": ([("    transactions=transactions,\n", "")], "its transactions are no TransactionSource"),
    "a ttl of days and hours": ([("timedelta(days=30)", "timedelta(hours=36)")], "mixes days and parts of a day"),
    "a negative ttl": ([("ttl=timedelta(days=30)", "ttl=-timedelta(days=30)")], "its ttl is -30 days"),
    "a ttl of longer than there are years": ([("ttl=timedelta(days=30)", "ttl=timedelta.max")], "its ttl is"),
    "features that are written back": ([("entities=[user],", "entities=[user], offline=True,")], "offline=True"),
    "a view that is not served": ([("entities=[user],", "entities=[user], online=False,")], "so it can't be served"),
    "a view that is disabled": ([("entities=[user],", "entities=[user], enabled=False,")], "Feast does not serve it"),
    "a pinned version": ([("entities=[user],", 'entities=[user], version="v2",')], "the version 'v2' is pinned"),
    "a view with a colon": ([('name="user_purchase_features"', 'name="a:b"')], "can't be called 'a:b'"),
    "a view with a version": ([('name="user_purchase_features"', 'name="a@v1"')], "can't be called 'a@v1'"),
    "a view without a name": ([('name="user_purchase_features"', 'name=""')], "a FeatureView can't be called ''"),
    "an entity without a name": ([('name="user",', 'name="",')], None),
    "a service without a name": ([('name="user_features",', 'name="",')], None),
    "an end of the program": ([("", "raise SystemExit\n")], "SystemExit"),
    "an end of the program with a reason": ([("", 'import sys\nsys.exit("set REGION first")\n')], "set REGION first"),
    "an end of the program as if all were well": ([("", "import sys\nsys.exit(0)\n")], "SystemExit"),
    "no view": (
        [("user_purchase_features = Agg", "user_purchase_features = dict; Agg"), (SERVICE, "    features=[],")],
        "it declares no AggregatedFeatureView, which is what is computed and proven.",
    ),
    "a view without aggregations": (
        [("", f'from feast import FeatureView\nplain = FeatureView(name="plain", entities=[user], source={SOURCE})\n')],
        "plain is a FeatureView without aggregations",
    ),
    "a source that names no timestamp": (
        [('        timestamp_field="event_timestamp",\n', "")],
        "names no timestamp_field",
    ),
    "a source of another kind": (
        [
            (VIEW_SOURCE, '    source=BigQuerySource(name="t", table="t", timestamp_field="t"),\n'),
            ("from feast.types", "from feast import BigQuerySource\nfrom feast.types"),
        ],
        "its source is not a FileSource",
    ),
    "a source with a relative path": (
        [("str(absolute(location(OFFLINE_PATH)))", '"../data/user_features.parquet"')],
        "the path of its source, ../data/user_features.parquet, depends on the folder",
    ),
    "a source that is the transactions": (
        [("str(absolute(location(OFFLINE_PATH)))", 'str(ROOT / "user_transactions.csv")')],
        "its source is a file of transactions, which would be overwritten",
    ),
    "a created timestamp": (
        [('timestamp_field="event', 'created_timestamp_column="made", timestamp_field="event')],
        "a created_timestamp_column is not supported",
    ),
    "a field mapping": (
        [('timestamp_field="event', 'field_mapping={"a": "b"}, timestamp_field="event')],
        "a field_mapping of its source is not supported",
    ),
    "no entity": ([("    entities=[user],\n", "")], "user_purchase_features: it has no entity"),
    "two entities of one join key": (
        [("entities=[user]", "entities=[user, user]")],
        "share a join key: user_id, user_id",
    ),
    "two join keys of one entity": (
        [('join_keys=["user_id"]', 'join_keys=["user_id", "shop_id"]')],
        ": ValueError: An entity may only have a single join key",
    ),
    "an entity that Feast does not find": (
        [("entities=[user]", 'entities=[Entity(name="shop", join_keys=["user_id"], value_type=ValueType.INT64)]')],
        "0 variables are an Entity 'shop'",
    ),
    "keys that are numbers with a point": (
        [("ValueType.INT64", "ValueType.DOUBLE")],
        "the Entity 'user' has the value_type DOUBLE; a key is one of INT32, INT64, STRING",
    ),
    "a key called as the timestamp": (
        [('"user_id"', '"timestamp"')],
        "the column timestamp is both a join key and the timestamp",
    ),
    "a key called as the event": ([('"user_id"', '"event_timestamp"')], "a join key is called event_timestamp"),
    "a feature called as the event": ([(f'"{TOTAL}"', '"event_timestamp"')], "a feature is called event_timestamp"),
    "a feature called as the day": ([(f'"{TOTAL}"', '"event_date"')], "a feature is called event_date"),
    "a feature called as the key": ([(f'"{TOTAL}"', '"user_id"')], "a feature is called user_id, and so is"),
    "a feature called nearly as the key": ([(f'"{TOTAL}"', '"USER_ID"')], "a feature is called USER_ID, and so is"),
    "features that differ in capitals": ([(f'"{TOTAL}"', f'"{AVERAGE.upper()}"')], "differ in capitals only"),
    "a name with a colon": ([(f'"{TOTAL}"', '"a:b"')], "'a:b' can't be the name of a column"),
    "a name that is no text": ([(f'"{TOTAL}"', r'"a\udc80"')], r"'a\udc80' can't be the name of a column"),
    "an empty line as a name": ([(f'"{TOTAL}"', r'"a\nb"')], "can't be the name of a column"),
    "distinct ids": ([more('function="count_distinct", column="user_id"')], "it aggregates the column user_id"),
    "a feature called as a key": (
        [
            more('function="count", column="purchase_amount"'),
            ('name="more"', 'name="user_id"'),
            ("value_type=ValueType.INT64", "value_type=ValueType.STRING"),
        ],
        "a feature is called user_id, and so is a join key. Rename one.",
    ),
    "windows that slide, and none": (
        [
            ("            time_window=timedelta(days=3),\n", ""),
            ("    aggregations=[", "    continuous=True, aggregations=["),
        ],
        "it is continuous, and no aggregation has a time_window",
    ),
    "a horizon of nothing that slides": (
        [("    aggregations=[", "    horizon=timedelta(days=1), aggregations=[")],
        "a horizon is that of a continuous view",
    ),
    "a horizon that is no time": (
        [("    aggregations=[", "    continuous=True, horizon=2, aggregations=[")],
        "its horizon is 2. Let it be such as timedelta(days=2)",
    ),
    "a horizon of nothing": (
        [("    aggregations=[", "    continuous=True, horizon=timedelta(0), aggregations=[")],
        "Let it be such as timedelta(days=2), of at most 1000 days",
    ),
    "sliding in words": ([("    aggregations=[", "    continuous='yes', aggregations=[")], "continuous is 'yes'"),
    "a horizon as a tag": (
        [("    aggregations=[", "    tags={'parity.horizon': '1'}, aggregations=[")],
        "Declare continuous=True, horizon=timedelta(...)",
    ),
    "how features are made as a tag": (
        [("    aggregations=[", "    tags={'parity.made': '{}'}, aggregations=[")],
        "the tag parity.made says how features are made, and follows from the aggregations",
    ),
    "an event id that is no name": ([("schema=[Field", "event_id=7, schema=[Field")], "its event_id is 7"),
    "a column that is a key of another type": (
        [(COLUMNS, COLUMNS.replace("[", '[Field(name="user_id", dtype=Float64), '))],
        "the schema of its transactions declares user_id Float64, and the join key of that name has",
    ),
    "a column that is the timestamp": (
        [(COLUMNS, COLUMNS.replace("[", '[Field(name="timestamp", dtype=Float64), '))],
        "the schema of its transactions declares timestamp, which is the timestamp. Leave out the Field",
    ),
    "a key under the name that it had": (
        [(COLUMNS, f'{COLUMNS} field_mapping={{"user_id": "customer_id"}},')],
        "field_mapping calls the column 'user_id' 'customer_id', and it is read as 'user_id' here",
    ),
    "a timestamp under the name that it had": (
        [(COLUMNS, f'{COLUMNS} field_mapping={{"timestamp": "at"}},')],
        "field_mapping calls the column 'timestamp' 'at', and it is read as 'timestamp' here",
    ),
    "a condition on a name that a column had": (
        [
            (COLUMNS, f'{COLUMNS} field_mapping={{"Status": "status"}},'),
            ("    aggregations=[", "    where=\"Status = 'paid'\",\n    aggregations=["),
        ],
        "field_mapping calls the column 'Status' 'status', and it is read as 'Status' here",
    ),
    "a quote that is the usual delimiter": ([(COLUMNS, f"{COLUMNS} quote=',',")], "the delimiter are both ','"),
    "a count of ids": ([more('function="count", column="user_id"')], "it aggregates the column user_id"),
    "a count of times": ([more('function="count", column="timestamp"')], "it aggregates the column timestamp"),
    "two views of one name": (
        [("", OTHER_TABLE.replace('"shop_features"', '"user_purchase_features"'))],
        "2 views are called 'user_purchase_features'",
    ),
    "two views with one source": (
        [("", OTHER_TABLE.replace('"/nowhere/shops.parquet"', "str(absolute(location(OFFLINE_PATH)))"))],
        "another view has its source at",
    ),
    "a view without a service": (
        [("", OTHER_TABLE)],
        "a FeatureService has to ask for all of shop_features: user_features does not ask for it.",
    ),
    "no service": (
        [("user_features = FeatureService(", "user_features = dict(")],
        "user_purchase_features: there is none.",
    ),
    "a service with a part of the view": (
        [(SERVICE, f'    features=[user_purchase_features[["{AVERAGE}"]]],')],
        "user_features asks for a part of it",
    ),
    "a service that names its view": (
        [(SERVICE, '    features=["user_purchase_features"],')],
        "user_features does not name the view as an object",
    ),
    "a service with nothing": ([(SERVICE, "    features=[],")], "user_features does not"),
    "a view under another name": (
        [(SERVICE, '    features=[user_purchase_features.with_name("mine")],')],
        "user_features gives it or its join key another name",
    ),
    "a module that is not there": (
        [("import os\n", "import os\nimport nonsense\n")],
        ", line 11: ModuleNotFoundError: No module named 'nonsense'",
    ),
    "a syntax error": ([("    ttl=timedelta(days=30),", "    ttl=,")], ", line 43: SyntaxError: invalid syntax"),
    "an error of its own": (
        [("transactions = Tr", "1 / 0\ntransactions = Tr")],
        ": ZeroDivisionError: division by zero",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_the_file(read, fault):
    changes, said = FAULTS[fault]
    with pytest.raises(UserError) as refused:
        read(changed(*changes))
    message = str(refused.value)
    assert re.match(r"/\S+/feature_repo/features\.py(, line \d+)?: ", message)
    assert "\n" not in message
    assert said is None or said in message
    assert len(message) < 500


@pytest.mark.parametrize("script", ["compute_features.py", "materialize_to_online.py", "demo_fixed.py"])
@pytest.mark.parametrize("fault", ["no aggregations", "a syntax error", "a count as Int32", "a window of nothing"])
def test_no_script_begins_with_a_fault(project, script, fault):
    changes, said = FAULTS[fault]
    (project.root / "feature_repo" / "features.py").write_text(changed(*changes))
    assert said in project.fail(script)
    assert project.run(script, "--help").status == 0


@pytest.mark.parametrize(
    "fault", ["a slide interval", pytest.param("a view without a service", marks=pytest.mark.scale)]
)
def test_feast_apply_refuses_it_too_in_one_line(project, fault):
    changes, said = FAULTS[fault]
    (project.root / "feature_repo" / "features.py").write_text(changed(*changes))
    outcome = project.shell("feast apply", cwd=project.root / "feature_repo")
    assert outcome.status == 2
    assert outcome.err.startswith("Error: features.py")
    assert said in outcome.err
    assert outcome.err.count("\n") == 1
    assert not (project.root / "data" / "registry.db").exists()


def test_without_its_last_line_the_scripts_check_all_the_same(read):
    with pytest.raises(UserError, match="a FeatureService has to ask for all of shop_features"):
        read(SEED.replace("check_definitions(globals())", OTHER_TABLE))


def test_a_repository_without_features(tmp_path):
    with pytest.raises(UserError, match=r"features\.py: there is no such file"):
        declared(tmp_path)


def test_an_archive_on_the_path_stands_for_the_folder(tmp_path):
    """As `spark-submit --py-files package.zip` has it."""
    (tmp_path / "feature_repo").mkdir()
    shutil.copy(ROOT / "tests" / "repository" / "features.py", tmp_path / "feature_repo")
    archive = shutil.make_archive(str(tmp_path / "package"), "zip", tmp_path, "feature_repo")
    shutil.copytree(ROOT / "parity", tmp_path / "cluster" / "parity")
    code = f"""
import sys
from pathlib import Path
from parity.definition.checks import declared
sys.path.append({archive!r})
print(*[table.name for table in declared(Path("feature_repo"))])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "cluster", capture_output=True, text=True)
    assert done.stdout == "user_purchase_features\n", done.stderr


def test_the_half_that_workers_need_imports_no_feast():
    code = "import sys, parity.definition.table, parity.compute.tail; print('feast' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "False\n", done.stderr


def test_the_public_names_are_few_and_there():
    import parity

    for name in parity.__all__:
        assert getattr(parity, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        parity.nonsense  # noqa: B018
