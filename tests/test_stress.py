"""The guarantee under stress: real processes that write at once, die half-way, and lose their Redis."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from datetime import datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import redis
from feast import FeatureStore, FileSource, RepoConfig

from parity.definition.checks import FeatureTable
from parity.definition.keys import as_table, as_tuples
from parity.edge.redis_server import find_server, free_port, launch
from parity.materialization import EVER, materialize
from parity.online.side import clock_of, redis_keys, stored_rows
from parity.proof.sides import serving_values
from tests.definition import customers_in_stores, purchases
from tests.online import NOW, opened, require_in_step, write_history

MANY = 5_000
TABLES = {"int64": purchases, "several": customers_in_stores}

processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["tests.test_stress"])  # Feast is imported once, for all of them


class Shop:
    """A store with a table of many keys, which other processes write to as well."""

    def __init__(self, folder: Path, port: int, kind: str, count: int, seed: int):
        self.folder, self.kind, self.random = folder, kind, random.Random(seed)
        self.table: FeatureTable = TABLES[kind](folder)
        self.keys = [(f"{n:05}", n) if kind == "several" else (n,) for n in range(1, count + 1)]
        self.asked = as_table(self.keys, self.table.definition.keys)
        self.events = {key: sorted({self._event() for _ in range(self.random.randint(1, 6))}) for key in self.keys}
        self.store = opened(folder, port, [self.table])
        self.write(0)
        self.materialize()

    def _event(self) -> datetime:
        return NOW - timedelta(seconds=self.random.randrange(35 * 86_400), microseconds=self.random.randrange(10**6))

    def write(self, version: int) -> None:
        """Write the offline table; each version has other values, the same in all features of a row."""
        rules = self.table.definition.rules
        rows = [
            (*key, event, *(rule.type.to_pandas_dtype()(version * 1000 + place) for rule in rules))
            for key, events in self.events.items()
            for place, event in enumerate(events)
        ]
        write_history(self.table, *rows)

    @property
    def features(self) -> Path:
        return Path(self.table.source.path)

    def latest(self, features: Path) -> dict[tuple, dict]:
        """Each key's last row of a Parquet file."""
        table = pq.read_table(features)
        rows = zip(as_tuples(table.select(self.table.definition.keys.names)), table.to_pylist(), strict=True)
        return dict(rows)

    def materialize(self) -> None:
        materialize(self.store, self.table, None, NOW, NOW, any_share=True)

    def writer(self, number: int, features: Path, start: datetime | None, end: datetime, times: int = 1):
        """A process that materializes a window, again and again."""
        # Each has the registry of a machine of its own: Feast's file registry is not made to be shared by writers.
        folder = self.folder / f"writer{number}"
        folder.mkdir()
        registry = shutil.copy(self.store.config.registry.path, folder)
        config = self.store.config
        options = {
            "project": config.project,
            "provider": "local",
            "registry": str(registry),
            "offline_store": config.offline_store.model_dump(),
            "batch_engine": config.batch_engine_config,
            "online_store": config.online_store.model_dump(),
            "entity_key_serialization_version": 3,
        }
        process = processes.Process(
            target=write_window, args=(self.folder, self.kind, options, features, start, end, times)
        )
        process.start()
        return process


def write_window(
    folder: Path, kind: str, options: dict, features: Path, start: datetime | None, end: datetime, times: int
) -> None:
    """What a writer's process does."""
    table, store = TABLES[kind](folder), FeatureStore(config=RepoConfig(**options))
    view = store.get_feature_view(table.name)
    for one in (view, table.view):
        one.batch_source = FileSource(name="features", path=str(features), timestamp_field="event_timestamp")
    store.registry.apply_feature_view(view, store.project)
    with clock_of(store, NOW):
        for _ in range(times):
            if start:
                store.materialize(start, end, [view.name])
            else:
                materialize(store, table, None, end, NOW)


@pytest.mark.parametrize("kind", TABLES)
def test_eight_writers_at_once_leave_no_stale_value_and_no_row_of_two_halves(redis_port, tmp_path, kind):
    shop = Shop(tmp_path, redis_port, kind, 300, seed=1)
    stale = Path(shutil.copy(shop.features, tmp_path / "stale.parquet"))
    shop.write(1)  # all rows are corrected
    day = timedelta(days=1)
    windows = [
        (EVER, NOW),
        (EVER, NOW),
        (EVER, NOW - 5 * day),
        (EVER, NOW - 20 * day),
        (NOW - 40 * day, NOW),
        (NOW - 40 * day, NOW - 2 * day),
        (NOW - 10 * day, NOW),
        (NOW - 3 * day, NOW - day),
    ]
    running = [
        shop.writer(number, [shop.features, stale][number % 2], *window, times=3)
        for number, window in enumerate(windows)
    ]
    for process in running:
        process.join(120)
        assert process.exitcode == 0

    corrected, before = shop.latest(shop.features), shop.latest(stale)
    rows = stored_rows(shop.store, shop.table, shop.asked)
    for key, (event, values) in zip(shop.keys, rows, strict=True):
        assert event == corrected[key]["event_timestamp"], "an older event has overwritten a newer one"
        versions = [{name: row[key][name] for name in values} for row in (corrected, before)]
        assert values in versions, "a row has one feature of each of two writers"
        assert len(values) == len(shop.table.definition.rules)

    shop.materialize()
    require_in_step(shop.store, shop.table, NOW)


def test_a_writer_killed_half_way_is_made_up_for_by_the_next(redis_port, tmp_path):
    shop = Shop(tmp_path, redis_port, "several", MANY, seed=2)
    with redis.Redis(port=redis_port) as client:
        client.delete(*redis_keys(shop.store, shop.table, shop.asked))
        empty = client.dbsize()
        process = shop.writer(1, shop.features, None, NOW)
        _wait_until(lambda: client.dbsize() > empty + MANY // 10)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        written = client.dbsize() - empty
    assert 0 < written < MANY, "the writer was killed half-way"
    right = shop.latest(shop.features)
    for key, (event, values) in zip(shop.keys, stored_rows(shop.store, shop.table, shop.asked), strict=True):
        assert (event, values) in (
            (None, {}),
            (right[key]["event_timestamp"], {name: right[key][name] for name in values}),
        )
    shop.materialize()
    require_in_step(shop.store, shop.table, NOW)


def test_a_redis_that_dies_and_comes_back_empty_while_it_is_written_and_read(tmp_path):
    port, server = free_port(), find_server()
    first = launch(server, port, tmp_path / "redis")
    folder = tmp_path / "shop"
    folder.mkdir()
    shop = Shop(folder, port, "int64", MANY, seed=3)
    right = shop.latest(shop.features)
    some = shop.keys[:: MANY // 100]
    asked = as_table(some, shop.table.definition.keys)
    client = redis.Redis(port=port)

    def reads() -> int:
        """Read some keys as serving does: whatever is answered must be right, or null. Returns how many are."""
        answer = serving_values(shop.store, shop.table, asked)
        for name, values in answer.items():
            assert all(value in (None, right[key][name]) for key, value in zip(some, values, strict=True))
        return sum(value is not None for value in values)

    served = reads()
    assert served > 20
    process = shop.writer(1, shop.features, None, NOW, times=100)
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
        shop.materialize()
        assert reads() == served
        require_in_step(shop.store, shop.table, NOW)
    finally:
        second.kill()
        second.wait()


def _wait_until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)
