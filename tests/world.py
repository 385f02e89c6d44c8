"""A small feature store of its own, in a folder and a project of a real Redis, that tests may break in every way.

A world has one feature table, of one of `KINDS`: keys of any type, and some or all functions. Tests know its keys by
numbers, from 1 on, whatever their type.
"""

import os
import random
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, RepoConfig, ValueType
from feast.infra.online_stores.helpers import _mmh3
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Float64, Int64, String

from parity.compute.windows import aggregate
from parity.definition.checks import FeatureTable
from parity.definition.instants import EPOCH
from parity.definition.keys import Key, as_table
from parity.definition.table import Definition
from parity.edge.feast_internals import stored_name
from parity.edge.files import write_table
from parity.materialization import materialize
from parity.offline.side import note_marks
from parity.online.rows import Fields
from parity.online.side import clock_of, online_store_of, redis_keys, stored_rows
from parity.online.steps import at_present, horizon_of_steps
from parity.proof.found import Comparison, OtherKey, plain
from parity.proof.proof import Proof
from parity.proof.raw import raw_transactions
from parity.stream.apply import Applier
from parity.stream.decisions import Became
from parity.stream.seed import seed
from parity.transactions.landed import PLACE, Landing, high_water
from parity.transactions.read import read_transactions
from tests.definition import AVERAGE, TOTAL, TTL, WINDOW, aggregation, table
from tests.online import ENGINE, OFFLINE, OURS, STOCK, applied

__all__ = ["AVERAGE", "OFFLINE", "OURS", "STOCK", "TOTAL", "TTL", "WINDOW", "World", "world"]

T = datetime(2026, 3, 8, 12, 0, 0, 123456, tzinfo=UTC)
EVENT = "event_timestamp"
MICROSECOND = timedelta(microseconds=1)
KEYS_DRAWN = 25
DAY = timedelta(days=1)
MINUTES_LATER = timedelta(minutes=4)
"""After `T`, when a world is compared that nothing was done to."""

Row = tuple[int, datetime, str]
"""The number of a key, when, and for how much. What else a transaction has follows from these: see `World.beside`."""


class Event(NamedTuple):
    """A transaction where a stream has it."""

    row: Row
    partition: str
    offset: int
    id: str | None = None


class Kind(NamedTuple):
    """What the table of a world is like: its join keys, and the key that a number stands for."""

    keys: dict[str, str]
    """Their names, and the names of their Feast types."""
    key_of: Callable[[int], Key]
    more: tuple = ()
    """Aggregations beside the mean and the count."""
    where: str | None = None
    time_zone: str | None = None
    continuous: bool = False
    ttl: timedelta = TTL
    streamed: bool = False
    """Whether a stream writes beside the batch, and lands among the transactions, which are a folder."""


EVERY = (
    aggregation("sum", "amount", 7),
    aggregation("min", "amount", 7),
    aggregation("max", "amount", 7),
    aggregation("var", "amount", 7),
    aggregation("std", "amount", 30),
    aggregation("first", "sku", 7),
    aggregation("last", "sku"),
    aggregation("max", "sku", 7),
    aggregation("count_distinct", "sku", 7),
    aggregation("sum", "quantity", 7),
    aggregation("last", "quantity"),
    aggregation("mean", "quantity", 1 / 24),
)
"""Every function, over amounts, whole numbers and texts."""

KINDS = {
    "int64": Kind({"user_id": "INT64"}, lambda n: (n,)),
    "int32": Kind({"user_id": "INT32"}, lambda n: (-n,)),
    "text": Kind({"customer_id": "STRING"}, lambda n: (f"{n:05}",)),
    "bytes": Kind({"token": "BYTES"}, lambda n: (f"é{n}".encode(),)),
    "instant": Kind({"born": "UNIX_TIMESTAMP"}, lambda n: (datetime(1970, 1, 1, tzinfo=UTC) + n * DAY,)),
    "text and int64": Kind({"customer_id": "STRING", "store_id": "INT64"}, lambda n: (f"c{n // 3:03}", n % 3)),
    "two texts": Kind({"buyer": "STRING", "seller": "STRING"}, lambda n: (f"a{n}", f"b{n % 5}")),
    "every function": Kind({"customer_id": "STRING"}, lambda n: (f"{n:05}",), EVERY),
    "every function of two keys": Kind({"customer_id": "STRING", "store_id": "INT64"}, lambda n: (f"{n:05}", n), EVERY),
    "condition": Kind({"user_id": "INT64"}, lambda n: (n,), EVERY, "status = 'paid'"),
    "local times": Kind({"user_id": "INT64"}, lambda n: (n,), EVERY, time_zone="Asia/Kolkata"),
    "sliding": Kind({"user_id": "INT64"}, lambda n: (n,), continuous=True),
    "sliding texts": Kind({"customer_id": "STRING"}, lambda n: (f"{n:05}",), continuous=True),
    "sliding, short life": Kind({"user_id": "INT64"}, lambda n: (n,), EVERY, continuous=True, ttl=DAY),
    "sliding, every function": Kind(
        {"customer_id": "STRING", "store_id": "INT64"}, lambda n: (f"{n:05}", n), EVERY, continuous=True
    ),
    "sliding, condition": Kind({"user_id": "INT64"}, lambda n: (n,), EVERY, "status = 'paid'", continuous=True),
    "streamed": Kind({"user_id": "INT64"}, lambda n: (n,), streamed=True),
    "streamed texts": Kind({"buyer": "STRING", "seller": "STRING"}, lambda n: (f"a{n}", f"b{n % 5}"), streamed=True),
    "streamed, every function": Kind({"customer_id": "STRING"}, lambda n: (f"{n:05}",), EVERY, streamed=True),
    "streamed, sliding": Kind({"user_id": "INT64"}, lambda n: (n,), continuous=True, streamed=True),
    "streamed, sliding, every function": Kind(
        {"customer_id": "STRING", "store_id": "INT64"}, lambda n: (f"{n:05}", n), EVERY, continuous=True, streamed=True
    ),
}
LOCAL = timedelta(hours=5, minutes=30)
"""How far the clocks of `KINDS["local times"]` are ahead of UTC, all year round."""
SIMPLE = ["int64", "int32", "text", "bytes", "instant", "text and int64", "two texts"]
"""Kinds with two features, so that it is plain which values a fault spoils."""
COLUMNS = {"amount": Float64, "quantity": Int64, "sku": String, "status": String}
SKUS = ["A-1", "a-1", " A-1", "007", "7", "é", "ß", "B-2"]


class World:
    """A feature store of its own in a real Redis, with a clock that starts at T and moves by steps of a minute."""

    def __init__(
        self,
        folder: Path,
        port: int,
        seed: int,
        online: str = OURS,
        offline: str = OFFLINE,
        keys: int = KEYS_DRAWN,
        kind: str = "int64",
    ):
        self.random = random.Random(seed)
        self.now = T
        self.kind = KINDS[kind]
        self.numbers: dict[Any, int] = {}
        self.named: dict[int, Key] = {}
        self.others: dict[Row, tuple[int, str, str]] = {}
        self.table = self._table(folder)
        self.transactions, self.features = Path(self.table.transactions), folder / "zoo.parquet"
        self.file = self.transactions / "first.csv" if self.kind.streamed else self.transactions
        self.file.parent.mkdir(exist_ok=True)
        self.came: list[Event] = []
        self.offsets: Counter[str] = Counter()
        self.is_late = False
        """Whether some event of the stream was too late to be taken up before the next batch run."""
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
        self.rows = self.draw(keys)
        self.write()
        self.compute()
        self.store.apply(applied([self.table]))
        online_store_of(self.store).now = lambda: self.now
        self.materialize()

    def _table(self, folder: Path) -> FeatureTable:
        entities = [Entity(name=n, join_keys=[n], value_type=ValueType[t]) for n, t in self.kind.keys.items()]
        aggregations = [aggregation("mean", "amount", 3, AVERAGE), aggregation("count", "amount", name=TOTAL)]
        features = [*aggregations, *self.kind.more]
        kind = self.kind
        return table(
            folder,
            "zoo",
            entities,
            features,
            COLUMNS,
            kind.where,
            kind.ttl,
            continuous=kind.continuous,
            time_zone=kind.time_zone,
            transactions="transactions" if kind.streamed else "transactions.csv",
        )

    def draw(self, keys: int) -> list[Row]:
        """Purchases with ties, with window edges and ttl bounds hit exactly or missed by a microsecond."""
        rows = []
        for number in range(1, keys + 1):
            draw = self.random
            last = T - draw.choice([TTL, TTL + MICROSECOND, TTL - MICROSECOND, *[draw.random() * 35 * DAY] * 4])
            times = [last] * draw.choice([1, 1, 2, 3])
            times += [last - WINDOW + step * MICROSECOND for step in draw.sample([-1, 0, 1], draw.randint(0, 3))]
            times += [last - draw.random() * 10 * DAY for _ in range(draw.randint(0, 4))]
            if self.kind.continuous:  # left the window of three days when it is compared, or a microsecond beside
                left = T + MINUTES_LATER - WINDOW - MICROSECOND
                times += [left + step * MICROSECOND for step in draw.sample([-1, 0, 1], draw.choice([0, 0, 1, 3]))]
                times += [left + draw.random() * DAY for _ in range(draw.choice([0, 1]))]
            rows += [(number, time, self.amount()) for time in times]
        draw.shuffle(rows)
        return rows

    def amount(self) -> str:
        draw = self.random
        return draw.choice([f"{draw.gammavariate(2, 25):.2f}"] * 6 + [f"{-draw.random():.2f}", repr(draw.random())])

    # Keys

    def key(self, number: int) -> Key:
        key = self.named.get(number) or self.kind.key_of(number)
        self.numbers[plain(key)] = number
        return key

    def number(self, key: Any) -> int | OtherKey:
        """That of a key as it is in a difference."""
        return key if isinstance(key, OtherKey) else self.numbers[key]

    def columns_of(self, number: int) -> dict[str, list]:
        return {name: [value] for name, value in zip(self.kind.keys, self.key(number), strict=True)}

    def is_of(self, row: dict, number: int) -> bool:
        """Whether a row of the Parquet file is of this key."""
        return tuple(row[name] for name in self.kind.keys) == self.key(number)

    # The pipeline

    @property
    def view(self):
        return self.table.view

    def tick(self) -> None:
        self.now += timedelta(minutes=1)

    def beside(self, row: Row) -> tuple[int, str, str]:
        """The quantity, the sku and the status of a purchase: drawn, and always the same of the same purchase; unless
        they are laid down in ``others``."""
        draw = random.Random(repr(row))
        status = draw.choice(["paid", "paid", "paid", "open", ""]) if self.kind.where else "paid"
        return self.others.get(row) or (draw.randint(-3, 9), draw.choice(SKUS), status)

    def looked_at(self, number: int) -> list[Row]:
        """The purchases of a key that meet the condition."""
        return [row for row in self.every_row if row[0] == number and self.beside(row)[2] == "paid"]

    def write(self) -> None:
        self.tick()
        lines = [",".join([*self.kind.keys, "timestamp", *COLUMNS])]
        shift = LOCAL if self.kind.time_zone else timedelta()
        for row in self.rows:
            number, time, amount = row
            key = [value.decode() if isinstance(value, bytes) else str(value) for value in self.key(number)]
            shown = (time + shift).replace(tzinfo=None).isoformat() if shift else time.isoformat()
            lines.append(",".join([*key, shown, amount, *map(str, self.beside(row))]))
        self.file.write_text("\n".join([*lines, ""]))
        os.utime(self.file, (self.now.timestamp(),) * 2)

    def compute(self, shift: timedelta = timedelta(), definition: Definition | None = None) -> None:
        """Compute the features: moved in time, or by another ``definition`` without saying so, as an engine may."""
        marks = high_water(self.transactions)
        self.save(self.history(definition, shift))
        note_marks(self.table, self.features, marks)

    def history(self, definition: Definition | None = None, shift: timedelta = timedelta()) -> pa.Table:
        declared = self.table.definition
        definition = definition or declared
        rows = read_transactions(self.transactions, definition)
        place = rows.schema.get_field_index("timestamp")
        moved = pa.array([time + shift for time in rows["timestamp"].to_pylist()], rows.schema.field(place).type)
        found = aggregate(rows.set_column(place, rows.schema.field(place), moved), definition)
        return found.replace_schema_metadata(declared.schema.metadata)

    def save(self, history: pa.Table) -> None:
        self.tick()
        write_table(history, self.features)
        os.utime(self.features, (self.now.timestamp(),) * 2)

    def materialize(self) -> None:
        self.tick()
        materialize(self.store, self.table, None, self.now, self.now, any_share=True)
        if self.kind.streamed:
            seed(self.store, self.table, self.transactions, self.now)

    @contextmanager
    def proof(self) -> Iterator[Proof]:
        self.tick()
        with raw_transactions(self.transactions, self.table.definition) as raw:
            yield Proof(self.store, self.table, self.transactions, raw, self.now)

    def compare(self) -> Comparison:
        with self.proof() as proof:
            found, batches = proof.compared(np.arange(len(proof)))
            list(batches)
            return found

    # The stream

    def event(self, number: int, time: datetime, amount: str, id: str | None = None, partition: str = "zoo/0") -> Event:
        """The next event of a partition."""
        self.offsets[partition] += 1
        return Event((number, time, amount), partition, self.offsets[partition], id)

    def batch(self, events: Sequence[Event]) -> pa.Table:
        """Events as they land: with all columns of a transaction, and their places."""
        rows = [event.row for event in events]
        beside = [self.beside(row) for row in rows]
        keys = [self.key(number) for number, *_ in rows]
        columns = {name: [key[place] for key in keys] for place, name in enumerate(self.kind.keys)}
        columns |= {"timestamp": [time for _, time, _ in rows], "amount": [float(amount) for *_, amount in rows]}
        columns |= dict(zip(["quantity", "sku", "status"], zip(*beside, strict=True), strict=True))
        columns |= dict(zip(PLACE.names, zip(*(event[1:] for event in events), strict=True), strict=True))
        others = [pa.field(name, dtype) for name, dtype in (("quantity", pa.int64()), ("sku", pa.string()))]
        known = {field.name: field for field in [*self.table.definition.transactions, *PLACE, *others]}
        return pa.table({n: pa.array(v, known[n].type) if n in known else pa.array(v) for n, v in columns.items()})

    def apply(self, *events: Event, table: FeatureTable | None = None) -> list[Became]:
        """Apply events as a worker does, by the definition of ``table``; those that it may not write are left."""
        self.tick()
        table = table or self.table
        applier, names = Applier(self.store, table), [*table.definition.transactions.names, *PLACE.names]
        found = applier.apply(self.batch(events).select(names), self.now)
        if found.unseeded.num_rows:
            seed(self.store, table, self.transactions, self.now, keys=found.unseeded)
            found = applier.apply(self.batch(events).select(names), self.now)
        self.is_late |= bool(found.late.any())
        return [Became(number) for number in found.became.tolist()]

    def land(self, *events: Event, rows_per_file: int = 100_000) -> None:
        self.tick()
        until = {event.partition: event.offset for event in events}
        landing = Landing(self.transactions, [list(self.kind.keys)], rows_per_file)
        landing.land(self.batch(events), until, np.array([event.id is not None for event in events]))
        self.came += events
        self.touch()

    @property
    def landed(self) -> list[Path]:
        """The files of landed events, in order."""
        return sorted(self.transactions.glob("stream-*.parquet"))

    def touch(self) -> None:
        """Let what has landed have been written by the clock of this world."""
        for path in self.landed:
            if path.stat().st_mtime > self.now.timestamp():
                os.utime(path, (self.now.timestamp(),) * 2)

    def with_window(self, days: float) -> FeatureTable:
        """The table as it was declared yesterday: with a window of so many days where there is one of three."""
        definition = self.table.definition
        rules = tuple(
            replace(rule, time_window=timedelta(days=days)) if rule.time_window == WINDOW else rule
            for rule in definition.rules
        )
        return replace(self.table, definition=replace(definition, rules=rules))

    def live(self) -> None:
        """Let a stream bring events, and its worker or the batch do what they may at any time, until all is in step."""
        draw = self.random
        for _ in range(draw.choice([0, 1, 1, 2, 3])):
            events = [self._drawn() for _ in range(draw.choice([1, 2, 5]))]
            if draw.random() < 0.3:
                self.client.hdel(self.redis_key(events[0].row[0]), f"_{draw.choice(['state', 'applied'])}:zoo")
            if draw.random() < 0.3:
                assert set(self.apply(*events, table=self.with_window(4))) == {Became.LEFT}
            if draw.random() < 0.3:  # a worker that dies, and whose events come again
                self.apply(*events[: draw.randint(1, len(events))])
            self.apply(*events)
            self.land(*events)
            if draw.random() < 0.5:
                self.apply(*events)
            if draw.random() < 0.5:
                self.compute()
            if draw.random() < 0.5:
                self.materialize()
        self.compute()
        if self.is_late:
            self.materialize()

    def _drawn(self) -> Event:
        """An event now or earlier, seldom too late; perhaps one again that has landed, or a correction of it."""
        draw = self.random
        number = draw.choice([*self.users[:5], 700 + draw.randrange(3)])
        known = [event for event in self.came if event.row[0] == number and event.id]
        if known and draw.random() < 0.3:
            event = draw.choice(known)
            amount = event.row[2] if draw.random() < 0.5 else self.amount()
            return self.event(number, event.row[1], amount, event.id, event.partition)
        times = [time for _, time, _ in self.looked_at(number)]
        edges = [self.now, *times, *(time + WINDOW + step * MICROSECOND for time in times for step in (-1, 0, 1))]
        fitting = [time for time in edges if max(times, default=self.now) - WINDOW <= time <= self.now]
        id = f"e{sum(self.offsets.values())}" if draw.random() < 0.7 else None
        partition = f"zoo/{draw.choice([number % 2] * 3 + [2])}"  # and in any order across partitions
        return self.event(number, draw.choice(fitting), self.amount(), id, partition)

    # What faults are made with

    @property
    def every_feature(self) -> list[str]:
        return [rule.name for rule in self.table.definition.rules]

    @property
    def users(self) -> list[int]:
        return sorted({number for number, *_ in self.every_row if self.looked_at(number)})

    @property
    def every_row(self) -> list[Row]:
        """Those of the file, and those that a stream has brought."""
        return [*self.rows, *(event.row for event in self.came)]

    def last(self, number: int) -> datetime:
        return max(time for _, time, _ in self.looked_at(number))

    def events(self, number: int) -> set[datetime]:
        return {time for _, time, _ in self.looked_at(number)}

    def fresh(self) -> int:
        """A key whose values are far from expiring, now and for days to come."""
        return self.random.choice([number for number in self.users if T - self.last(number) < TTL - 2 * DAY])

    def change_history(self, number: int, event: datetime, **values: Any) -> None:
        """Overwrite features of one row of the Parquet file."""
        rows = pq.read_table(self.features).to_pylist()
        for row in rows:
            if self.is_of(row, number) and row[EVENT] == event:
                row.update(values)
        self.save_rows(rows)

    def save_rows(self, rows: list[dict]) -> None:
        self.save(pa.Table.from_pylist(rows, pq.read_schema(self.features)))

    def row(self, number: int) -> dict:
        """The key's last row in the Parquet file."""
        rows = [row for row in pq.read_table(self.features).to_pylist() if self.is_of(row, number)]
        return max(rows, key=lambda row: row[EVENT])

    def redis_key(self, number: int) -> bytes:
        [key] = redis_keys(self.store, self.table, as_table([self.key(number)], self.table.definition.keys))
        return key

    @property
    def client(self):
        return online_store_of(self.store)._get_client(self.store.config.online_store)

    def put(self, number: int, feature: str, value: Value | bytes) -> None:
        """Overwrite a feature in Redis, behind everybody's back."""
        stored = value if isinstance(value, bytes) else value.SerializeToString()
        self.client.hset(self.redis_key(number), _mmh3(f"{self.view.name}:{feature}"), stored)

    def steps(self, number: int) -> bytes:
        """What a key's row in Redis says will follow."""
        return self.client.hget(self.redis_key(number), self.steps_field)

    def put_steps(self, number: int, rows: list[dict] | bytes) -> None:
        """Let a key's row in Redis say that these ``rows`` of the Parquet file follow, or have any bytes for them."""
        if not isinstance(rows, bytes):
            schema = pq.read_schema(self.features)
            [(row, _)] = stored_rows(self.store, self.table, as_table([self.key(number)], self.table.definition.keys))
            present, until = (row - EPOCH) // MICROSECOND, horizon_of_steps(self.steps(number))
            _, [rows] = at_present(pa.Table.from_pylist(rows, schema), self.table.definition, present, until)
        self.client.hset(self.redis_key(number), self.steps_field, rows)

    @property
    def steps_field(self) -> str:
        return Fields(stored_name(self.store.config, self.view)).steps

    def push(self, number: int, event: datetime, values: dict[str, Any]) -> None:
        """Replace a key's row in Redis by another, as a careless writer would."""
        self.client.delete(self.redis_key(number))
        row = {name: [values[name]] for name in self.every_feature}
        columns = self.columns_of(number) | {EVENT: [event]} | row
        typed = [pa.array(columns[field.name], field.type) for field in self.table.definition.schema]
        frame = pa.table(typed, self.table.definition.schema.names).to_pandas()
        with clock_of(self.store, event):
            self.store.write_to_online_store(self.view.name, frame)


@contextmanager
def world(port: int, seed: int, online: str = OURS, offline: str = OFFLINE, kind: str = "int64") -> Iterator[World]:
    """Make a random world, drawn by ``seed``, on the Redis at ``port``: computed, materialized, healthy."""
    with tempfile.TemporaryDirectory() as folder:
        yield World(Path(folder), port, seed, online, offline, kind=kind)
