"""materialize_to_online.py: whatever happened before, afterwards the online store is in step."""

from datetime import UTC, datetime, timedelta

import pytest
import yaml
from feast import FeatureStore
from feast.feature_view import FeatureViewState
from feast.protos.feast.core.Registry_pb2 import Registry
from google.protobuf.timestamp_pb2 import Timestamp

from parity.online.side import stored_events

NOW = datetime.now(UTC).replace(microsecond=0)


def hours_ago(hours: float) -> datetime:
    return NOW - timedelta(hours=hours)


def purchase(user: int, hours: float, amount: float) -> str:
    return f"{user},100,{hours_ago(hours).isoformat()},{amount}"


def online(project) -> dict[int, datetime]:
    """Who is in Redis, and with which event."""
    store = FeatureStore(repo_path=str(project.root / "feature_repo"))
    stored = stored_events(store, store.get_feature_view("user_purchase_features"))
    return {
        user: event.replace(tzinfo=UTC) for user, event in zip(stored.ids.tolist(), stored.events.tolist(), strict=True)
    }


def compute(project, *purchases: str) -> None:
    project.write_transactions(*purchases)
    project.succeed("compute_features.py")


def bring_in_step(project) -> str:
    """Materialize; the demo has to find training and serving equal then."""
    out = project.succeed("materialize_to_online.py")
    project.succeed("demo_fixed.py")
    return out


@pytest.fixture
def materialized(project):
    """Three users online: 1 with two purchases, 2 and 3 with one each."""
    project.apply()
    compute(project, purchase(1, 30, 10), purchase(1, 20, 20), purchase(2, 20, 30), purchase(3, 20, 40))
    assert bring_in_step(project).startswith("3 users in Redis")
    return project


def test_a_correction_of_an_amount_arrives(materialized):
    compute(materialized, purchase(1, 30, 10), purchase(1, 20, 21), purchase(2, 20, 30), purchase(3, 20, 40))
    bring_in_step(materialized)


@pytest.mark.parametrize("nanoseconds", [1, 999])
def test_a_stored_instant_that_is_finer_than_a_microsecond_is_mended(materialized, nanoseconds):
    store = FeatureStore(repo_path=str(materialized.root / "feature_repo"))
    view = store.get_feature_view("user_purchase_features")
    for key, event in stored_events(store, view).found:
        finer = Timestamp.FromString(event)
        finer.nanos += nanoseconds
        materialized.client.hset(key, f"_ts:{view.name}", finer.SerializeToString())
    compute(materialized, purchase(1, 30, 10), purchase(1, 20, 21), purchase(2, 20, 30))
    assert bring_in_step(materialized).startswith("2 users in Redis")


@pytest.mark.parametrize("event", [b"\xff", b"", b"\x18\x01"])
def test_a_row_whose_instant_can_not_be_read_is_mended_or_taken_out(materialized, event):
    for key in materialized.client.scan_iter(
        b"*" + FeatureStore(str(materialized.root / "feature_repo")).project.encode()
    ):
        materialized.client.hset(key, "_ts:user_purchase_features", event)
    compute(materialized, purchase(1, 30, 10), purchase(2, 20, 30))
    assert bring_in_step(materialized).startswith("2 users in Redis")


def test_a_late_purchase_arrives(materialized):
    compute(
        materialized,
        *[purchase(1, 30, 10), purchase(1, 25, 99), purchase(1, 20, 20), purchase(2, 20, 30), purchase(3, 20, 40)],
    )
    bring_in_step(materialized)


def test_a_retracted_latest_purchase_gives_way_to_the_one_before(materialized):
    compute(materialized, purchase(1, 30, 10), purchase(2, 20, 30), purchase(3, 20, 40))
    bring_in_step(materialized)
    assert online(materialized)[1] == hours_ago(30)


def test_a_user_who_is_gone_offline_is_gone_online(materialized):
    compute(materialized, purchase(2, 20, 30), purchase(3, 20, 40))
    assert bring_in_step(materialized).startswith("2 users in Redis")
    assert set(online(materialized)) == {2, 3}


def test_a_redis_that_came_back_empty_is_filled(materialized):
    name = FeatureStore(repo_path=str(materialized.root / "feature_repo")).project.encode()
    materialized.client.delete(*materialized.client.scan_iter(b"*" + name))
    assert bring_in_step(materialized).startswith("3 users in Redis")


def test_with_a_start_only_newer_events_are_brought_and_nothing_is_taken_out(materialized):
    compute(materialized, purchase(1, 1, 50), purchase(2, 40, 1))
    out = materialized.succeed("materialize_to_online.py", "--start", hours_ago(2).isoformat())
    assert out.startswith("3 users in Redis")
    assert online(materialized) == {1: hours_ago(1), 2: hours_ago(20), 3: hours_ago(20)}


def test_an_end_in_the_past_leaves_out_what_came_after(project):
    project.apply()
    compute(project, purchase(1, 30, 10), purchase(1, 20, 20), purchase(2, 10, 30))
    project.succeed("materialize_to_online.py", "--end", hours_ago(20).isoformat())
    assert online(project) == {1: hours_ago(20)}


def test_an_end_in_the_past_takes_out_nothing_newer(materialized):
    materialized.succeed("materialize_to_online.py", "--end", hours_ago(25).isoformat())
    assert online(materialized) == {1: hours_ago(20), 2: hours_ago(20), 3: hours_ago(20)}


def test_a_purchase_in_the_future_is_kept_offline_and_left_out_online(project):
    project.apply()
    compute(project, purchase(1, 1, 10), purchase(1, -100, 20), purchase(2, -100, 20))
    assert bring_in_step(project).startswith("1 users in Redis")
    assert online(project) == {1: hours_ago(1)}


def test_a_user_whose_last_purchase_is_older_than_the_ttl_is_null_on_both_sides(project):
    project.apply()
    compute(project, purchase(1, 1, 10), purchase(2, 24 * 30 + 1, 20))
    bring_in_step(project)
    out = project.succeed("demo_fixed.py", "--user", 2)
    assert out.count("null") == 6
    assert "match 4, mismatch 0, missing online 0, extra online 0" in out


@pytest.mark.parametrize("end", [timedelta(minutes=5), timedelta(days=400)])
def test_an_end_in_the_future_is_refused(materialized, end):
    before = online(materialized)
    error = materialized.fail("materialize_to_online.py", "--end", (datetime.now(UTC) + end).isoformat())
    assert "in the future" in error
    assert online(materialized) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--end", hours_ago(1000).isoformat()], "has no rows up to"),
        (["--start", hours_ago(2).isoformat()], "has no rows from"),
        (["--start", hours_ago(1).isoformat(), "--end", hours_ago(2).isoformat()], "lies after the end"),
    ],
)
def test_an_interval_without_rows_is_an_error_and_changes_nothing(materialized, arguments, message):
    before = online(materialized)
    assert message in materialized.fail("materialize_to_online.py", *arguments)
    assert online(materialized) == before


def test_an_interval_that_is_no_instant_is_refused(project):
    outcome = project.run("materialize_to_online.py", "--end", "today")
    assert outcome.status == 2
    assert "invalid instant value" in outcome.err


def test_start_and_end_without_an_offset_are_utc_whatever_the_machines_zone(materialized, monkeypatch):
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    naive = hours_ago(25).replace(tzinfo=None).isoformat()
    out = materialized.succeed("materialize_to_online.py", "--end", naive)
    assert hours_ago(25).isoformat() in out


def test_a_host_whose_clock_is_behind_takes_out_nothing(project, monkeypatch):
    project.apply()
    compute(project, *[purchase(user, 1, 10) for user in (1, 2, 3)], purchase(4, 10, 20), purchase(5, 10, 20))
    bring_in_step(project)
    before = online(project)
    monkeypatch.setattr("parity.definition.instants.utc_now", lambda: hours_ago(5))
    error = project.fail("materialize_to_online.py")
    assert "3 of 5 rows online would be removed, 3 of them from after" in error
    assert "--retract" in error
    assert online(project) == before
    project.succeed("materialize_to_online.py", "--retract")
    assert set(online(project)) == {4, 5}


def test_what_is_taken_out_is_counted(materialized):
    compute(materialized, purchase(1, 30, 10), purchase(2, 20, 30), purchase(3, 20, 40))
    assert "1 rows removed that the features no longer have" in bring_in_step(materialized)


def test_of_many_rows_a_sample_is_looked_at_first(project):
    users = range(1, 2_001)
    project.apply()
    compute(project, *[purchase(user, 20, user) for user in users])
    bring_in_step(project)
    compute(project, *[purchase(user, 20, user) for user in users if user > 1_200])
    assert "1,200 of 2,000 rows online would be removed" in project.fail("materialize_to_online.py")
    compute(project, *[purchase(user, 20, user) for user in users if user > 800])
    assert "800 rows removed" in bring_in_step(project)


def test_fields_of_a_feature_that_was_renamed_leave_redis(materialized):
    features = materialized.root / "feature_repo" / "features.py"
    project = FeatureStore(repo_path=str(materialized.root / "feature_repo")).project.encode()
    keys = list(materialized.client.scan_iter(b"*" + project))
    before = {key: set(materialized.client.hkeys(key)) for key in keys}
    features.write_text(features.read_text().replace("user_total_transactions", "user_purchase_count"))
    materialized.apply()
    materialized.succeed("compute_features.py")
    bring_in_step(materialized)
    for key in keys:
        fields = set(materialized.client.hkeys(key))
        assert len(fields) == len(before[key])
        assert len(fields - before[key]) == 1


def test_a_materialization_that_was_killed_changes_nothing_for_training_and_serving(materialized):
    """Feast leaves its view in the state MATERIALIZING then, and in GENERATED if the next run fails."""
    for state in (FeatureViewState.MATERIALIZING, FeatureViewState.GENERATED):
        config = yaml.safe_load((materialized.root / "feature_repo" / "feature_store.yaml").read_text())
        path = (materialized.root / "feature_repo" / config["registry"]["path"]).resolve()
        registry = Registry.FromString(path.read_bytes())
        for view in registry.feature_views:
            view.meta.state = state.to_proto()
        path.write_bytes(registry.SerializeToString())
        materialized.succeed("demo_fixed.py")
        bring_in_step(materialized)
