"""`parity check` on the stores of Feast that run here for real: equal is equal, faults are named, nothing is written.

Every repository has the same customers and the same faults, each of its own keys: so the kinds, and the number of keys
of each, have to be the same whatever the stores, but for what a store can't say.
"""

from collections.abc import Iterator
from contextlib import ExitStack, chdir
from datetime import timedelta
from typing import Any

import pandas as pd
import pytest
import yaml
from feast import Field, PushSource
from feast.types import Float32, Float64, Int64, String

from tests.strangers import DAY, HOUR, Outcome, customers, orders, services, stranger
from tests.strangers.given import GIVEN
from tests.strangers.stores import NUMBERS, OFFLINE, ONLINE, REGISTRIES, Here, Store

pytestmark = pytest.mark.scale

FIELDS = {"total": Float64, "orders": Int64, "name": String, "single": Float32}


@pytest.fixture(scope="module")
def postgres():
    with services.postgres() as database:
        yield database


@pytest.fixture(scope="module")
def mariadb():
    with services.mariadb() as database:
        yield database


@pytest.fixture
def here(request) -> Iterator[Here]:
    with ExitStack() as stack:
        yield Here(request, stack)


@pytest.fixture(params=ONLINE | GIVEN)
def online(request, here) -> Store:
    return (ONLINE | GIVEN)[request.param](here)


@pytest.fixture(params=OFFLINE)
def offline(request, here) -> Store:
    return OFFLINE[request.param](here)


@pytest.fixture(params=REGISTRIES)
def registry(request, here) -> Store:
    return REGISTRIES[request.param](here)


class Repository:
    """A repository of these stores, and, for the others, of DuckDB, SQLite and a file."""

    def __init__(self, folder: Any, capture: Any, **stores: Store):
        duckdb, sqlite, file = OFFLINE["duckdb"], ONLINE["sqlite"], REGISTRIES["file"]
        default = {"offline": duckdb(None), "online": sqlite(None), "registry": file(None)}
        self.stores = default | stores
        configured = {name: store.configuration for name, store in self.stores.items()}
        self.theirs = stranger(folder, capture, project=f"theirs{next(NUMBERS)}", **configured)

    def write(self, frame: pd.DataFrame) -> Any:
        return self.stores["offline"].write(self.theirs, "orders", frame)

    def fill(self, frame: pd.DataFrame) -> None:
        """Apply a view of customers, and materialize it up to half an hour ago."""
        source = PushSource(name="pushed", batch_source=self.write(frame))
        fields = [Field(name=name, dtype=kind) for name, kind in FIELDS.items()]
        self.theirs.apply(*customers(source, fields=fields))
        self.theirs.materialize(self.theirs.now - HOUR / 2)

    def break_(self) -> None:
        """Plant `FAULTS`, each of its own keys."""
        now, frame = self.theirs.now, self.drawn()
        frame.loc[frame["customer_id"] == 6, "event_timestamp"] -= 11 * DAY
        frame.loc[frame["customer_id"] == 12, "single"] = 12.1
        self.fill(frame)
        last = frame.groupby("customer_id").tail(1)
        pushed = last.tail(4).assign(event_timestamp=now - timedelta(minutes=20), total=-1.5)
        pushed["customer_id"] = [7, 101, 102, 103]
        self.theirs.store.push("pushed", pushed)
        frame.loc[frame["customer_id"] <= 2, "total"] += 1
        newer = last[last["customer_id"].isin([3, 4, 5])]
        newer = newer.assign(event_timestamp=now - timedelta(minutes=10), total=newer["total"] + 7)
        self.write(pd.concat([frame, newer]))

    def drawn(self) -> pd.DataFrame:
        return orders(self.theirs.now, name=lambda key: f"ä{key}", single=lambda key: key / 4)

    def check(self) -> Outcome:
        """Check as users who may only read, and hold the check to have written nothing."""
        file = self.theirs.root / "feature_store.yaml"
        configuration = yaml.safe_load(file.read_text())
        sections = {"offline": "offline_store", "online": "online_store", "registry": "registry"}
        for name, store in self.stores.items():
            configuration[sections[name]] |= store.reading(self.theirs)
        file.write_text(yaml.safe_dump(configuration))
        before = self._contents()
        found = self.theirs.check()
        assert self._contents() == before
        return found

    def _contents(self) -> tuple:
        """All that a check might change."""
        files = sorted(path for path in self.theirs.root.rglob("*") if path.is_file())
        kept = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in files}
        return kept, {name: store.dump() for name, store in self.stores.items()}


def counts(found: Outcome) -> dict[str, int]:
    return {kind: found.of(kind)["keys"] for kind in found.kinds}


def held(repository: Repository, store: Store, broken: bool) -> None:
    """Whether a repository is equal, or the faults that are planted are named."""
    with chdir(repository.theirs.root):
        repository.break_() if broken else repository.fill(repository.drawn())
    found = repository.check()
    if broken:
        assert (found.status, counts(found)) == (1, store.faults())
        return
    assert (found.status, found.kinds, found.said["equal"]) == (0, [], 80)
    assert ("are not looked for" in found.out) == (not store.lists_keys)


@pytest.mark.parametrize("broken", [False, True], ids=["healthy", "broken"])
def test_every_online_store_is_compared_and_only_read(tmp_path, capfd, online, broken):
    held(Repository(tmp_path, capfd, online=online), online, broken)


@pytest.mark.parametrize("broken", [False, True], ids=["healthy", "broken"])
def test_every_offline_store_is_compared_and_only_read(tmp_path, capfd, offline, broken):
    held(Repository(tmp_path, capfd, offline=offline), offline, broken)


@pytest.mark.parametrize("broken", [False, True], ids=["healthy", "broken"])
def test_every_registry_is_read_and_not_written(tmp_path, capfd, registry, broken):
    held(Repository(tmp_path, capfd, registry=registry), registry, broken)


def test_an_offline_store_that_may_not_make_its_table_is_said(tmp_path, capfd, here):
    """PostgreSQL: reading alone is not enough for a training set, as Feast uploads the keys."""
    store = OFFLINE["postgres"](here)
    reading = store.reading
    store.reading = lambda theirs: reading(theirs) | {"db_schema": "public"}
    repository = Repository(tmp_path, capfd, offline=store)
    repository.fill(repository.drawn())
    found = repository.check()
    assert (found.status, found.kinds) == (2, [])
    assert "training fails for every key: InsufficientPrivilege: permission denied for schema public" in found.out


def test_a_milvus_that_is_not_there_is_not_created(tmp_path, capfd, here):
    repository = Repository(tmp_path, capfd, online=ONLINE["milvus"](here))
    with chdir(repository.theirs.root):
        repository.fill(repository.drawn())
    (repository.theirs.root / "milvus.db").rename(tmp_path / "elsewhere")
    found = repository.check()
    assert (found.status, "milvus.db is not there, and is not created by a check" in found.err) == (2, True)
