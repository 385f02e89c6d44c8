"""A small feature store of its own, in a folder and a project of a real Redis, that tests may break in every way."""

import copy
import os
import random
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore, FeatureView, FileSource, RepoConfig
from feast.infra.online_stores.helpers import _mmh3, _redis_key
from feast.protos.feast.types.Value_pb2 import Value

from feature_repo.features import AGGREGATIONS, user, user_features, user_purchase_features
from parity.edge.files import write_table
from parity.materialization import materialize
from parity.offline.side import feature_history
from parity.online.side import clock_of, key_of, online_store_of
from parity.proof.compare import Comparison, Subject, compare, known_users
from parity.proof.oracle import raw_transactions
from parity.transactions.read import TIMESTAMP, read_transactions

T = datetime(2026, 3, 8, 12, 0, 0, 123456, tzinfo=UTC)
AVERAGE, TOTAL = (aggregation.name for aggregation in AGGREGATIONS)
WINDOW, TTL = AGGREGATIONS[0].time_window, user_purchase_features.ttl
MICROSECOND = timedelta(microseconds=1)
OURS, STOCK = "parity.online.store.ParityRedisOnlineStore", "redis"
OFFLINE = "parity.offline.store.ParityDuckDBOfflineStore"
ENGINE = "parity.online.engine.ParityComputeEngine"
USERS = 25
DAY = timedelta(days=1)

Row = tuple[int, datetime, str]


class World:
    """A feature store of its own in a real Redis, with a clock that starts at T and moves by steps of a minute."""

    def __init__(
        self, folder: Path, port: int, seed: int, online: str = OURS, offline: str = OFFLINE, users: int = USERS
    ):
        self.random = random.Random(seed)
        self.now = T
        self.transactions = folder / "transactions.csv"
        self.features = folder / "features.parquet"
        self.view: FeatureView = copy.copy(user_purchase_features)
        self.view.batch_source = FileSource(
            name=self.view.batch_source.name,
            path=str(self.features),
            timestamp_field=self.view.batch_source.timestamp_field,
        )
        self.options = {
            "project": f"zoo_{uuid.uuid4().hex}",
            "provider": "local",
            "registry": str(folder / "registry.db"),
            "offline_store": {"type": offline},
            "batch_engine": {"type": ENGINE},
            "online_store": {"type": online, "connection_string": f"localhost:{port}"},
            "entity_key_serialization_version": 3,
        }
        self.store = FeatureStore(config=RepoConfig(**self.options))
        self.rows = self.draw(users)
        self.write()
        self.compute()
        self.store.apply([user, self.view, user_features])
        online_store_of(self.store).now = lambda: self.now
        self.materialize()

    def draw(self, users: int) -> list[Row]:
        """Purchases with ties, with window edges and ttl bounds hit exactly or missed by a microsecond."""
        rows = []
        for user_id in range(1, users + 1):
            draw = self.random
            last = T - draw.choice([TTL, TTL + MICROSECOND, TTL - MICROSECOND, *[draw.random() * 35 * DAY] * 4])
            times = [last] * draw.choice([1, 1, 2, 3])
            times += [last - WINDOW + step * MICROSECOND for step in draw.sample([-1, 0, 1], draw.randint(0, 3))]
            times += [last - draw.random() * 10 * DAY for _ in range(draw.randint(0, 4))]
            rows += [(user_id, time, self.amount()) for time in times]
        draw.shuffle(rows)
        return rows

    def amount(self) -> str:
        draw = self.random
        return draw.choice([f"{draw.gammavariate(2, 25):.2f}"] * 6 + [f"{-draw.random():.2f}", repr(draw.random())])

    # The pipeline

    def tick(self) -> None:
        self.now += timedelta(minutes=1)

    def write(self) -> None:
        self.tick()
        lines = [f"{user_id},100,{time.isoformat()},{amount}" for user_id, time, amount in self.rows]
        self.transactions.write_text("\n".join(["user_id,product_id,timestamp,purchase_amount", *lines, ""]))
        os.utime(self.transactions, (self.now.timestamp(),) * 2)

    def compute(self, shift: timedelta = timedelta()) -> None:
        table = read_transactions(self.transactions, user.join_key, {a.column for a in AGGREGATIONS})
        moved = pa.array([time + shift for time in table[TIMESTAMP].to_pylist()], table.schema.field(TIMESTAMP).type)
        table = table.set_column(table.schema.get_field_index(TIMESTAMP), table.schema.field(TIMESTAMP), moved)
        self.save(feature_history(table, TIMESTAMP, AGGREGATIONS, self.view))

    def save(self, history: pa.Table) -> None:
        self.tick()
        write_table(history, self.features)
        os.utime(self.features, (self.now.timestamp(),) * 2)

    def materialize(self) -> None:
        self.tick()
        materialize(self.store, self.view, None, self.now, self.now, any_share=True)

    def compare(self) -> Comparison:
        self.tick()
        subject = Subject(self.store, user_features, self.view, AGGREGATIONS)
        columns = sorted({aggregation.column for aggregation in AGGREGATIONS})
        with raw_transactions(self.transactions, user.join_key, TIMESTAMP, columns) as raw:
            users = known_users(subject, raw, self.now)
            return compare(subject, raw, self.transactions, users, users.all, self.now)

    # What faults are made with

    @property
    def users(self) -> list[int]:
        return sorted({user_id for user_id, *_ in self.rows})

    def last(self, user_id: int) -> datetime:
        return max(time for who, time, _ in self.rows if who == user_id)

    def events(self, user_id: int) -> set[datetime]:
        return {time for who, time, _ in self.rows if who == user_id}

    def fresh(self) -> int:
        """A user whose values are far from expiring, now and for days to come."""
        users = [user_id for user_id in self.users if T - self.last(user_id) < TTL - 2 * DAY]
        return self.random.choice(users)

    def change_history(self, user_id: int, event: datetime, **values: float | int) -> None:
        """Overwrite features of one row of the Parquet file."""
        rows = pq.read_table(self.features).to_pylist()
        for row in rows:
            if (row[user.join_key], row["event_timestamp"]) == (user_id, event):
                row.update(values)
        self.save(pa.Table.from_pylist(rows, pq.read_schema(self.features)))

    def row(self, user_id: int) -> dict:
        """The user's last row in the Parquet file."""
        rows = [row for row in pq.read_table(self.features).to_pylist() if row[user.join_key] == user_id]
        return max(rows, key=lambda row: row["event_timestamp"])

    def key(self, user_id: int) -> bytes:
        config = self.store.config
        return _redis_key(config.project, key_of(self.view, user_id), config.entity_key_serialization_version)

    @property
    def client(self):
        return online_store_of(self.store)._get_client(self.store.config.online_store)

    def put(self, user_id: int, feature: str, value: Value | bytes) -> None:
        """Overwrite a feature in Redis, behind everybody's back."""
        stored = value if isinstance(value, bytes) else value.SerializeToString()
        self.client.hset(self.key(user_id), _mmh3(f"{self.view.name}:{feature}"), stored)

    def push(self, user_id: int, event: datetime, values: dict[str, float | int]) -> None:
        """Replace a user's row in Redis by another, as a careless writer would."""
        self.client.delete(self.key(user_id))
        row = {name: [values[name]] for name in (AVERAGE, TOTAL)}
        frame = pa.table({user.join_key: [user_id], "event_timestamp": [event], **row}).to_pandas()
        with clock_of(self.store, event):
            self.store.write_to_online_store(self.view.name, frame)


@contextmanager
def world(port: int, seed: int, online: str = OURS, offline: str = OFFLINE) -> Iterator[World]:
    """Make a random world, drawn by ``seed``, on the Redis at ``port``: computed, materialized, healthy."""
    with tempfile.TemporaryDirectory() as folder:
        yield World(Path(folder), port, seed, online, offline)
