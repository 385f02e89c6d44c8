"""demo_fixed.py: equal is shown, skew is found and named."""

import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from feast.protos.feast.types.Value_pb2 import Value

from parity.definition.checks import FeatureTable
from parity.online.side import stored_events
from tests.repository.features import user_features, user_purchase_features

AVERAGE, TOTAL = "user_avg_3day_purchase_amount", "user_total_transactions"


@pytest.fixture
def ready(project):
    project.prepare()
    return project


def hashes(project) -> dict[int, bytes]:
    """The Redis key of each user."""
    store = FeatureStore(repo_path=str(project.root / "feature_repo"))
    view = user_purchase_features
    stored = stored_events(store, FeatureTable(view, view.definition, user_features, project.transactions))
    return {user: key for user, (key, _) in zip(stored.keys["user_id"].to_pylist(), stored.found, strict=True)}


def plant(project, user: int, feature_value: Value) -> None:
    """Overwrite the feature of this type behind everybody's back, its event timestamp left as it is."""
    key = hashes(project)[user]
    for field, stored in project.client.hgetall(key).items():
        if not field.startswith(b"_ts") and Value.FromString(stored).WhichOneof("val") == feature_value.WhichOneof(
            "val"
        ):
            project.client.hset(key, field, feature_value.SerializeToString())


@pytest.mark.smoke
def test_the_headline(every_read, ready):
    out = ready.succeed("demo_fixed.py")
    assert re.search(rf"{AVERAGE} +\$95\.32 +\$95\.32 +0\.0 +\$95\.32\n", out)
    assert re.search(rf"{TOTAL} +5 +5 +0 +5\n", out)
    assert "20 users, 2 features" in out
    assert "match 40, mismatch 0, missing online 0, extra online 0, equal but wrong 0" in out
    assert "Training equals serving equals the oracle" in out
    assert re.search(r"1,000 calls: p50 \d+\.\d\d ms, p99 \d+\.\d\d ms", out)


def test_one_user_is_shown_on_request(ready):
    assert ready.succeed("demo_fixed.py", "--user", 7).startswith("User 7\n")


@pytest.mark.parametrize("user", [0, 21, -1])
def test_an_unknown_user_is_an_error(ready, user):
    assert f"user {user} has no transactions; ids run from 1 to 20" in ready.fail("demo_fixed.py", f"--user={user}")


@pytest.mark.parametrize("user", ["seven", 2**70, "007", "7.0", " 7"])
def test_a_user_that_is_no_such_number_is_an_error(ready, user):
    error = ready.fail("demo_fixed.py", f"--user={user}")
    assert f"'{user}' can't be a user_id, which is of type int64" in error


class TestSkew:
    def skew(self, project) -> str:
        outcome = project.run("demo_fixed.py")
        assert outcome.status == 1, outcome
        assert "Training equals serving equals the oracle" not in outcome.out
        return outcome.out

    def test_a_value_changed_in_redis(self, ready):
        plant(ready, 3, Value(int64_val=99))
        out = self.skew(ready)
        assert re.search(
            rf"user 3: {TOTAL} is \d in training, 99 in serving, \d by the oracle \(mismatch: tampered\)", out
        )
        assert "match 39, mismatch 1, missing online 0, extra online 0, equal but wrong 0" in out

    def test_the_smallest_possible_change(self, ready):
        plant(ready, 1, Value(double_val=95.32000000000001))
        out = self.skew(ready)
        assert f"user 1: {AVERAGE} is 95.32 in training, 95.32000000000001 in serving, 95.32 by the oracle" in out
        assert "$95.32000000000001" in out

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -95.32])
    def test_a_value_that_is_no_average(self, ready, value):
        plant(ready, 1, Value(double_val=value))
        assert f"user 1: {AVERAGE} is 95.32 in training" in self.skew(ready)

    def test_a_key_deleted_from_redis(self, ready):
        ready.client.delete(hashes(ready)[20])
        out = self.skew(ready)
        assert re.search(rf"user 20: {TOTAL} is \d in training, null in serving, \d by the oracle", out)
        assert "(missing online: never materialized)" in out
        assert "match 38, mismatch 0, missing online 2, extra online 0, equal but wrong 0" in out

    def test_an_extra_key_in_redis(self, ready):
        keys = hashes(ready)
        extra = keys[1].replace((1).to_bytes(8, "little"), (777).to_bytes(8, "little"))
        ready.client.hset(extra, mapping=ready.client.hgetall(keys[1]))
        out = self.skew(ready)
        assert (
            f"user 777: {AVERAGE} is null in training, 95.32 in serving, null by the oracle (extra online: row deleted)"
            in out
        )
        assert "match 40, mismatch 0, missing online 0, extra online 2, equal but wrong 0" in out

    def test_a_parquet_that_changed_after_it_was_materialized(self, ready):
        table = pq.read_table(ready.features)
        totals = pa.array([value + 1 for value in table[TOTAL].to_pylist()], pa.int64())
        pq.write_table(
            table.set_column(table.schema.get_field_index(TOTAL), table.schema.field(TOTAL), totals), ready.features
        )
        assert "mismatch 20" in self.skew(ready)

    @pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Feast's, of version 2
    def test_keys_written_under_another_serialization_version(self, ready):
        ready.configure(entity_key_serialization_version=2)
        out = self.skew(ready)
        assert "missing online 40" in out
        assert "Causes: never materialized 40." in out

    def test_every_differing_user_is_named(self, ready):
        for user in (2, 4, 6):
            plant(ready, user, Value(int64_val=99))
        out = self.skew(ready)
        assert re.findall(r"user (\d+):", out) == ["2", "4", "6"]
        assert "SKEW: 3 values of 3 users" in out


def test_integers_beyond_2_to_the_53_are_compared_exactly(ready):
    table = pq.read_table(ready.features)
    totals = pa.array([2**53 + 1] * table.num_rows, pa.int64())
    pq.write_table(
        table.set_column(table.schema.get_field_index(TOTAL), table.schema.field(TOTAL), totals), ready.features
    )
    ready.succeed("materialize_to_online.py")
    assert "mismatch 0, missing online 0, extra online 0, equal but wrong 20" in ready.run("demo_fixed.py").out
    plant(ready, 5, Value(int64_val=2**53))
    out = ready.run("demo_fixed.py").out
    assert "mismatch 1, missing online 0, extra online 0, equal but wrong 19" in out
    assert f"user 5: {TOTAL} is {2**53 + 1} in training, {2**53} in serving" in out
