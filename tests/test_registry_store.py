"""The registry is replaced in one step, and writers that come together lose nothing of one another."""

import logging
import multiprocessing
import os
import random
import stat
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.feature_view import FeatureViewState
from feast.infra.registry.registry import Registry as FeastRegistry
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import RegistryConfig
from feast.types import Float64, Int64

from parity.registry_store import ParityRegistryStore, RegistryBusy, UnknownPlace, drop_project

OURS = "parity.registry_store.ParityRegistryStore"
NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)
DAY = timedelta(days=1)
ROUNDS = 5

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.test_registry_store"])  # Feast is imported once, for all of them


def opened(path: Path | str, store: str | None = OURS) -> FeatureStore:
    """A store of its own on the registry at ``path``, as another process has it; the online store is not used."""
    return FeatureStore(
        config=RepoConfig(
            project="p",
            provider="local",
            registry={"path": str(path)} | ({"registry_store_type": store} if store else {}),
            offline_store={"type": "duckdb"},
            online_store={"type": "sqlite", "path": ":memory:"},
            entity_key_serialization_version=3,
        )
    )


def definitions(*names: str, ttl: timedelta = DAY) -> list:
    user = Entity(name="user", join_keys=["user_id"], value_type=ValueType.INT64)
    objects = [user]
    for name in names:
        source = FileSource(name=f"{name}_source", path=f"/nowhere/{name}.parquet", timestamp_field="event_timestamp")
        schema = [Field(name="user_id", dtype=Int64), Field(name=f"{name}_mean", dtype=Float64)]
        view = FeatureView(name=name, entities=[user], schema=schema, source=source, ttl=ttl)
        objects += [source, view, FeatureService(name=f"{name}_service", features=[view])]
    return objects


def add(store: FeatureStore, objects: list) -> None:
    """What `feast apply` does to the registry."""
    store.apply(objects, skip_feature_view_validation=True)


def materialized(store: FeatureStore, name: str, day: int) -> None:
    """What a materialization does to the registry."""
    view = store.registry.get_feature_view(name, store.project)
    if view.state != FeatureViewState.STATE_UNSPECIFIED:
        view.state = FeatureViewState.MATERIALIZING
        store.registry.apply_feature_view(view, store.project)
    store.registry.apply_materialization(view, store.project, NOW + day * DAY, NOW + (day + 1) * DAY)


def write_often(path: Path | str, number: int, environment: dict[str, str]) -> None:
    """What a writer's process does: odd ones apply views of their own, even ones materialize a shared one."""
    os.environ.update(environment)
    for step in range(ROUNDS):
        store = opened(path)
        if number % 2:
            add(store, definitions(f"view_{number}_{step}"))
        else:
            materialized(store, "shared", number * ROUNDS + step)


def require_everything(path: Path | str, writers: int) -> None:
    registry, project = opened(path).registry, "p"
    views = {view.name for view in registry.list_feature_views(project)}
    assert views == {"shared"} | {f"view_{n}_{step}" for n in range(1, writers, 2) for step in range(ROUNDS)}
    assert {s.name for s in registry.list_feature_services(project)} == {f"{name}_service" for name in views}
    assert {s.name for s in registry.list_data_sources(project)} >= {f"{name}_source" for name in views}
    shared = registry.get_feature_view("shared", project)
    days = sorted((start - NOW) // DAY for start, _ in shared.materialization_intervals)
    assert days == sorted(n * ROUNDS + step for n in range(0, writers, 2) for step in range(ROUNDS))
    assert shared.state == FeatureViewState.AVAILABLE_ONLINE


def run_together(path: Path | str, writers: int = 8, **environment: str) -> None:
    running = [processes.Process(target=write_often, args=(path, number, environment)) for number in range(writers)]
    for process in running:
        process.start()
    for process in running:
        process.join(120)
        assert process.exitcode == 0


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "registry.db"
    add(opened(path), definitions("shared"))
    return path


@pytest.mark.scale
def test_eight_processes_that_apply_and_materialize_at_once_lose_nothing(path):
    run_together(path)
    require_everything(path, 8)


@pytest.mark.scale
def test_a_reader_never_meets_an_empty_or_broken_registry(path):
    seen, stop = [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            registry = Registry.FromString(path.read_bytes())
            seen.append(any(view.spec.name == "shared" for view in registry.feature_views))

    reader = threading.Thread(target=read)
    reader.start()
    run_together(path, writers=4)
    stop.set()
    reader.join()
    print(f"{len(seen):,} openings beside four writers, {seen.count(False)} without the view")
    assert len(seen) > 100
    assert all(seen)


def test_two_who_read_the_same_registry_both_keep_what_they_changed(path):
    one, two = opened(path), opened(path)
    _ = one.registry, two.registry
    add(one, definitions("first"))
    add(two, definitions("second"))
    materialized(one, "shared", 0)
    assert {view.name for view in opened(path).list_feature_views()} == {"shared", "first", "second"}
    assert len(opened(path).get_feature_view("shared").materialization_intervals) == 1
    assert {view.name for view in one.registry.list_feature_views("p", allow_cache=True)} == {
        "shared",
        "first",
        "second",
    }


def test_a_registry_that_changes_halfway_through_an_apply_costs_neither_side_anything(path):
    one, two = opened(path), opened(path)
    registry, (user, source, view, _) = one.registry, definitions("first")
    registry.apply_entity(user, "p", commit=False)
    registry.apply_data_source(source, "p", commit=False)
    materialized(two, "shared", 0)
    registry.apply_feature_view(view, "p", commit=False)  # Feast looks at the file's time here, and reads it anew
    materialized(two, "shared", 1)
    registry.commit()
    found = opened(path)
    assert {view.name for view in found.list_feature_views()} == {"shared", "first"}
    assert "first_source" in {source.name for source in found.list_data_sources()}
    assert len(found.get_feature_view("shared").materialization_intervals) == 2


def test_what_an_apply_that_failed_left_is_dropped_when_the_registry_is_read_anew(path):
    store = opened(path)
    user, source, view, _ = definitions("half")
    for call, what in [("entity", user), ("data_source", source), ("feature_view", view)]:
        getattr(store.registry, f"apply_{call}")(what, "p", commit=False)
    store.refresh_registry()
    assert [view.name for view in store.list_feature_views()] == ["shared"]
    add(store, definitions("other"))
    assert {view.name for view in opened(path).list_feature_views()} == {"shared", "other"}


def test_the_versions_of_a_view_that_was_deleted_do_not_come_back(path):
    one, two = opened(path), opened(path)
    _ = two.registry
    one.registry.delete_feature_view("shared", "p", commit=False)
    add(two, definitions("other"))
    one.registry.commit()
    records = Registry.FromString(path.read_bytes()).feature_view_version_history.records
    assert {record.feature_view_name for record in records} == {"other"}


@pytest.mark.parametrize("place", ["gs://bucket/registry.db", "hdfs://host/registry.db", "s3a://bucket/registry.db"])
def test_a_registry_elsewhere_is_refused_and_no_folder_made(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownPlace, match="leave out registry_store_type"):
        _ = opened(place).registry
    assert list(tmp_path.iterdir()) == []


def test_what_one_deletes_the_other_does_not_bring_back(path):
    add(opened(path), definitions("gone"))
    one, two = opened(path), opened(path)
    _ = two.registry
    one.registry.delete_feature_service("gone_service", "p")
    one.registry.delete_feature_view("gone", "p")
    materialized(two, "shared", 0)
    assert [view.name for view in opened(path).list_feature_views()] == ["shared"]


def test_a_view_that_was_deleted_while_it_was_materialized_is_gone(path):
    one, two = opened(path), opened(path)
    [view] = two.registry.cached_registry_proto.feature_views
    one.registry.delete_feature_view("shared", "p")
    view.meta.materialization_intervals.add()
    two.registry.commit()
    assert opened(path).list_feature_views() == []


def test_a_definition_and_a_materialization_that_come_together_are_both_kept(path):
    one, two = opened(path), opened(path)
    _ = one.registry, two.registry
    materialized(one, "shared", 0)
    add(two, definitions("shared", ttl=5 * DAY))
    found = opened(path).get_feature_view("shared")
    assert found.ttl == 5 * DAY
    assert len(found.materialization_intervals) == 1


def test_of_two_definitions_of_one_view_the_later_stays_and_the_first_is_named(path, caplog):
    one, two = opened(path), opened(path)
    _ = one.registry
    two.registry.refresh()
    project = two.registry.cached_registry_proto
    with caplog.at_level(logging.WARNING):
        add(one, definitions("shared", ttl=2 * DAY))
        assert not caplog.records
        for view in project.feature_views:
            view.spec.ttl.FromTimedelta(3 * DAY)
        two.registry.commit()
    assert opened(path).get_feature_view("shared").ttl == 3 * DAY
    assert "another process changed the feature view shared first at 20" in caplog.text


def test_a_running_store_sees_at_once_what_another_process_applied(path):
    store = opened(path)
    assert [view.name for view in store.registry.list_feature_views("p", allow_cache=True)] == ["shared"]
    for number in range(20):
        add(opened(path), definitions(f"new_{number}"))
        assert len(store.registry.list_feature_views("p", allow_cache=True)) == number + 2


@pytest.mark.parametrize("state", [FeatureViewState.MATERIALIZING, FeatureViewState.GENERATED])
def test_a_view_that_has_been_materialized_stays_available(path, state):
    """Also where a stock registry has left it in a state that Feast does not serve."""
    materialized(opened(path), "shared", 0)
    stock = opened(path, store=None)
    view = stock.get_feature_view("shared")
    view.state = state
    stock.registry.apply_feature_view(view, "p")
    assert stock.get_feature_view("shared").state == state
    assert opened(path).get_feature_view("shared").state == FeatureViewState.AVAILABLE_ONLINE


def test_a_view_that_was_never_materialized_keeps_its_state(path):
    store = opened(path)
    view = store.get_feature_view("shared")
    for state in (FeatureViewState.CREATED, FeatureViewState.GENERATED, FeatureViewState.MATERIALIZING):
        view.state = state
        store.registry.apply_feature_view(view, "p")
        assert opened(path).get_feature_view("shared").state == state


def test_the_bytes_are_those_of_a_stock_registry(path):
    materialized(opened(path), "shared", 0)
    stock = opened(path, store=None)
    assert [view.name for view in stock.list_feature_views()] == ["shared"]
    add(stock, definitions("by_stock"))
    assert {view.name for view in opened(path).list_feature_views()} == {"shared", "by_stock"}


def test_a_writer_that_is_killed_leaves_a_whole_registry_and_no_lock(path):
    for _ in range(5):
        process = processes.Process(target=write_often, args=(path, 0, {}))
        process.start()
        time.sleep(random.uniform(0.02, 0.15))
        process.kill()
        process.join()
        assert opened(path).get_feature_view("shared")
        materialized(opened(path), "shared", 1000)


def test_a_writer_that_does_not_end_is_waited_for_and_then_named(path, monkeypatch):
    monkeypatch.setattr("parity.registry_store.SECONDS_FOR_THE_LOCK", 0.2)
    one, two = opened(path), opened(path)
    _ = two.registry
    with one.registry._registry_store._alone(), pytest.raises(RegistryBusy, match=r"registry\.db: another process"):
        materialized(two, "shared", 0)


def test_the_file_keeps_its_mode(path):
    path.chmod(0o640)
    materialized(opened(path), "shared", 0)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_registry_that_is_torn_down_is_gone(path):
    opened(path).registry.teardown()
    assert not path.exists()
    with pytest.raises(FileNotFoundError):
        ParityRegistryStore(opened(path, store=None).config.registry, path.parent).get_registry_proto()


class TestDeployments:
    """What is kept of a project beside it: see `parity.deploy`."""

    def registry(self, folder: Path, **options) -> FeastRegistry:
        config = RegistryConfig(path=str(folder / "registry.db"), registry_store_type=OURS, **options)
        return FeastRegistry("shop", config, folder)

    def names(self, registry: FeastRegistry, project: str) -> list[str]:
        return [entity.name for entity in registry.list_entities(project)]

    def test_one_is_shown_in_the_place_of_its_project_and_written_back_there(self, tmp_path):
        plain = self.registry(tmp_path)
        plain.apply_entity(Entity(name="served", value_type=ValueType.INT64), "shop")
        shown = self.registry(tmp_path, deployment=["shop", "shop@2"])
        assert self.names(shown, "shop") == []
        shown.apply_entity(Entity(name="to_come", value_type=ValueType.INT64), "shop")
        assert self.names(shown, "shop") == ["to_come"]
        plain.refresh()
        assert self.names(plain, "shop") == ["served"]
        assert self.names(plain, "shop@2") == ["to_come"]

    def test_changes_of_a_project_and_of_a_deployment_are_both_kept(self, tmp_path):
        plain = self.registry(tmp_path)
        plain.apply_entity(Entity(name="served", value_type=ValueType.INT64), "shop")
        shown = self.registry(tmp_path, deployment=["shop", "shop@2"])
        plain.apply_entity(Entity(name="more", value_type=ValueType.INT64), "shop")
        shown.apply_entity(Entity(name="to_come", value_type=ValueType.INT64), "shop")
        plain.apply_entity(Entity(name="still_more", value_type=ValueType.INT64), "shop")
        again = self.registry(tmp_path)
        assert sorted(self.names(again, "shop")) == ["more", "served", "still_more"]
        assert self.names(again, "shop@2") == ["to_come"]

    def test_a_change_that_fails_leaves_all_as_it_was(self, tmp_path):
        plain = self.registry(tmp_path)
        plain.apply_entity(Entity(name="served", value_type=ValueType.INT64), "shop")
        before = (tmp_path / "registry.db").read_bytes()

        def spoil(registry):
            drop_project(registry, "shop")
            raise LookupError

        with pytest.raises(LookupError):
            ParityRegistryStore(RegistryConfig(path=str(tmp_path / "registry.db")), tmp_path).change(spoil)
        assert (tmp_path / "registry.db").read_bytes() == before
