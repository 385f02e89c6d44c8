"""The guarantee under stress: real processes that write at once, die half-way, and lose their Redis."""

import multiprocessing
import os
import shutil
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureStore, FileSource, RepoConfig

from feature_repo.features import user
from parity.edge.redis_server import find_server, free_port, launch
from parity.materialization import EVER, materialize
from parity.online.side import clock_of, stored_rows
from tests.world import AVERAGE, TOTAL, World

MANY = 5_000

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.test_stress"])  # Feast is imported once, for all of them


def write_window(world: "Writer", start: datetime | None, end: datetime, times: int = 1) -> None:
    """What a writer's process does: materialize a window, again and again."""
    store, view = world.open()
    with clock_of(store, world.now):
        for _ in range(times):
            if start:
                store.materialize(start, end, [view.name])
            else:
                materialize(store, view, None, end, world.now)


class Writer:
    """What a process needs to write to a world of another process: its configuration and a Parquet file."""

    def __init__(self, world: World, folder: Path, features: Path | None = None):
        folder.mkdir()
        # Each has the registry of a machine of its own: Feast's file registry is not made to be shared by writers.
        registry = shutil.copy(world.options["registry"], folder)
        self.options = world.options | {"registry": str(registry)}
        self.features, self.now = features or world.features, world.now

    def open(self):
        store = FeatureStore(config=RepoConfig(**self.options))
        view = store.get_feature_view("user_purchase_features")
        view.batch_source = FileSource(
            name=view.batch_source.name, path=str(self.features), timestamp_field=view.batch_source.timestamp_field
        )
        store.registry.apply_feature_view(view, store.project)
        return store, view

    def start(self, start: datetime | None, end: datetime, times: int = 1):
        process = processes.Process(target=write_window, args=(self, start, end, times))
        process.start()
        return process


def latest(features: Path) -> dict[int, dict]:
    """Each user's last row of a Parquet file."""
    return {row[user.join_key]: row for row in pq.read_table(features).to_pylist()}


def test_eight_writers_at_once_leave_no_stale_value_and_no_row_of_two_halves(redis_port, tmp_path):
    world = World(tmp_path, redis_port, seed=1, users=300)
    stale = shutil.copy(world.features, tmp_path / "stale.parquet")
    world.rows = [(who, when, f"{float(amount) + 1000:.2f}") for who, when, amount in world.rows]  # all are corrected
    world.write()
    world.compute()
    world.tick()
    now, day = world.now, timedelta(days=1)
    writers = [
        Writer(world, tmp_path / f"writer{number}", features)
        for number, features in enumerate([world.features, stale] * 4)
    ]
    windows = [
        (EVER, now),
        (EVER, now),
        (EVER, now - 5 * day),
        (EVER, now - 20 * day),
        (now - 40 * day, now),
        (now - 40 * day, now - 2 * day),
        (now - 10 * day, now),
        (now - 3 * day, now - day),
    ]
    running = [writer.start(*window, times=3) for writer, window in zip(writers, windows, strict=True)]
    for process in running:
        process.join(120)
        assert process.exitcode == 0

    corrected, before = latest(world.features), latest(stale)
    users = sorted(corrected)
    for who, (event, values) in zip(users, stored_rows(world.store, world.view, users), strict=True):
        assert event == corrected[who]["event_timestamp"], "an older event has overwritten a newer one"
        versions = [{name: row[who][name] for name in (AVERAGE, TOTAL)} for row in (corrected, before)]
        assert values in versions, "a row has one feature of each of two writers"

    world.materialize()
    assert world.compare().differences == []


def test_a_writer_killed_half_way_is_made_up_for_by_the_next(redis_port, tmp_path):
    world = World(tmp_path, redis_port, seed=2, users=MANY)
    client = redis.Redis(port=redis_port)
    client.delete(*(world.key(who) for who in world.users))
    empty = client.dbsize()
    process = Writer(world, tmp_path / "writer").start(None, world.now)
    _wait_until(lambda: client.dbsize() > empty + MANY // 10)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    written = client.dbsize() - empty
    assert 0 < written < MANY, "the writer was killed half-way"
    wrong = world.compare()
    assert wrong.differences
    assert set(wrong.causes) == {"never materialized"}
    world.materialize()
    assert world.compare().differences == []


def test_a_redis_that_dies_and_comes_back_empty_while_it_is_written_and_read(tmp_path):
    port, server = free_port(), find_server()
    first = launch(server, port, tmp_path / "redis")
    folder = tmp_path / "world"
    folder.mkdir()
    world = World(folder, port, seed=3, users=MANY)
    client = redis.Redis(port=port)
    right = latest(world.features)
    some = world.users[:: MANY // 100]

    def reads() -> int:
        """Read some users as serving does: whatever is answered must be right, or null. Returns how many are."""
        answer = world.store.get_online_features(
            [f"{world.view.name}:{TOTAL}"], [{user.join_key: who} for who in some]
        ).to_dict()[TOTAL]
        assert all(value in (None, right[who][TOTAL]) for who, value in zip(some, answer, strict=True))
        return sum(value is not None for value in answer)

    served = reads()
    assert served > 20
    process = Writer(world, tmp_path / "writer").start(None, world.now, times=100)
    time.sleep(1)
    first.kill()
    first.wait()
    with pytest.raises(redis.RedisError):
        reads()
    second = launch(server, port, tmp_path / "redis")
    try:
        assert client.info("server")["process_id"] == second.pid
        reads()
        process.join(3)
        process.kill()
        reads()
        world.materialize()
        assert reads() == served
        assert world.compare().differences == []
    finally:
        second.kill()
        second.wait()


def _wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
