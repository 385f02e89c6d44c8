"""Streams of drawn events for the tests, and what is right after each of them, worked out in the plainest way."""

import random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from feast import FeatureStore
from feast.aggregation import Aggregation
from feast.types import Float64, Int64, String

from parity.definition.checks import FeatureTable
from parity.definition.functions import FUNCTIONS
from parity.definition.keys import as_table
from parity.proof.sides import serving_values
from parity.transactions.landed import ID, OFFSET, PARTITION
from tests.brute_force import MICROSECOND, Row, evaluate
from tests.definition import aggregation, customer, store, table
from tests.online import NOW

COLUMNS = {"total": Float64, "quantity": Int64, "sku": String}
LONG, SHORT, HORIZON = timedelta(days=3), timedelta(hours=1), timedelta(days=2)
TOTALS, QUANTITIES, SKUS = (0.1, 0.2, 19.99, -5.0, 1e15, 1e-7), (1, 2, 7, -3, 2**40), ("a", "b", "", "é", "zz")


class Event(NamedTuple):
    """An event where a stream has it."""

    row: Row
    partition: str
    offset: int
    id: str | None = None


EVERY_FUNCTION = [
    *(aggregation(function, "total", days) for function in FUNCTIONS for days in (3, None)),
    *(aggregation(function, "total", 1 / 24, f"{function}_1h") for function in ("count", "sum", "var")),
    *(aggregation(function, "sku", days) for function in ("first", "count_distinct") for days in (3, None)),
    *(aggregation(function, "quantity", None) for function in ("sum", "mean", "count_distinct")),
]
"""All functions with a window and without one, and some with a shorter one."""


def drawn_table(folder: Path, name: str, continuous: bool, features: Sequence[Aggregation]) -> FeatureTable:
    """Features of keys of two columns, of what `Drawn` draws."""
    horizon = HORIZON if continuous else None
    entities = [customer, store]
    return table(folder, name, entities, features, COLUMNS, ttl=None, continuous=continuous, horizon=horizon)


def batch(events: Sequence[Event], table: FeatureTable) -> pa.Table:
    """A micro-batch of a view."""
    definition = table.definition
    columns = {
        **{name: [event.row.key[i] for event in events] for i, name in enumerate(definition.keys.names)},
        definition.reading.timestamp: [event.row.time for event in events],
        **{name: [event.row.values[name] for event in events] for name in definition.columns},
    }
    fields = [*definition.transactions, (PARTITION, pa.string()), (OFFSET, pa.int64()), (ID, pa.string())]
    places = {
        PARTITION: [event.partition for event in events],
        OFFSET: [event.offset for event in events],
        ID: [event.id for event in events],
    }
    return pa.table(columns | places, pa.schema(fields))


def effective(events: Iterable[Event]) -> dict[Any, Row]:
    """The rows that events come to: a later one with the same key and id is in the place of the one before."""
    rows = {}
    for event in events:
        rows[(event.row.key, event.id) if event.id else (event.partition, event.offset)] = event.row
    return rows


def right(table: FeatureTable, rows: Iterable[Row], at: datetime) -> dict[str, Any]:
    """What the features of a key with these ``rows`` are ``at`` an instant, from Feast's point of view."""
    past = [row for row in rows if row.time <= at]
    definition = table.definition
    if not past:
        return {rule.name: None for rule in definition.rules}
    instant = at if definition.continuous else max(row.time for row in past)
    return {rule.name: _value(rule, past, instant) for rule in definition.rules}


def _value(rule, rows: list[Row], instant: datetime) -> Any:
    if rule.time_window is not None and all(instant - row.time > rule.time_window for row in rows):
        nothing = FUNCTIONS[rule.function].of_nothing
        return nothing if nothing is None or rule.type == pa.int64() else float(nothing)
    return evaluate(rule, rows, instant)


def exact(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value.hex() if isinstance(value, float) else value for name, value in values.items()}


def require_right(
    feature_store: FeatureStore, table: FeatureTable, rows: Iterable[Row], keys: Iterable[tuple], at: datetime
) -> None:
    """Assert that serving gives, of each of ``keys``, bit for bit what its ``rows`` are worth."""
    keys, rows = list(keys), list(rows)
    served = serving_values(feature_store, table, as_table(keys, table.definition.keys))
    for place, key in enumerate(keys):
        found = {name: values[place] for name, values in served.items()}
        wanted = right(table, [row for row in rows if row.key == key], at)
        different = {name: (found[name], wanted[name]) for name in wanted if exact(found)[name] != exact(wanted)[name]}
        assert not different, (key, at, different)


class Drawn:
    """Events drawn at random, as they come: late ones, ties, at the edges of windows, duplicates and corrections."""

    def __init__(self, seed: int, keys: int = 24, partitions: int = 3, now: datetime = NOW, step=timedelta(minutes=20)):
        self.random = random.Random(seed)
        self.keys = [(f"c{number % 7}", number) for number in range(keys)]
        self.partitions, self.now, self.step = partitions, now - 30 * LONG, step
        self.log: list[Event] = []
        self._offsets = [0] * partitions

    def next(self) -> Event:
        """One more event, after a while; none is too late, and no correction leaves its place in time."""
        draw = self.random
        self.now += self.step * draw.choice((0, 0, 1, 1, 2, 30, 200)) * draw.random()
        key = draw.choice(self.keys)
        own = [event for event in self.log if event.row.key == key]
        number = key[1] % self.partitions
        id = f"e{len(self.log)}"
        if own and draw.random() < 0.15:
            reaching = max(event.row.time for event in own) - LONG
            known = {e.id: e for e in own if e.id}
            for event in draw.sample(sorted(known.values(), key=lambda e: e.offset), len(known)):
                if event.row.time > reaching:
                    row = event.row if draw.random() < 0.5 else event.row._replace(values=self._values())
                    return self._logged(Event(row, event.partition, self._offset(number), event.id))
        return self._logged(
            Event(
                Row(key, self._time(own), self._values()),
                f"orders/{number}",
                self._offset(number),
                id if draw.random() < 0.7 else None,
            )
        )

    def _logged(self, event: Event) -> Event:
        self.log.append(event)
        return event

    def _offset(self, partition: int) -> int:
        self._offsets[partition] += self.random.choice((1, 1, 5))
        return self._offsets[partition]

    def _values(self) -> dict[str, Any]:
        draw = self.random
        total = draw.choice(TOTALS) if draw.random() < 0.2 else draw.randrange(-1000, 100_000) / 100
        quantity = draw.choice(QUANTITIES)
        return {"total": total, "quantity": quantity, "sku": draw.choice(SKUS)}

    def _time(self, own: list[Event]) -> datetime:
        draw = self.random
        if not own or draw.random() < 0.5:
            return self.now
        last = max(event.row.time for event in own)
        event = draw.choice(own).row.time
        edges = [event, *(event + window + more * MICROSECOND for window in (LONG, SHORT) for more in (-1, 0, 1))]
        edges += [last, last - LONG, last - SHORT, last - SHORT - MICROSECOND, last - draw.random() * LONG]
        fitting = [edge for edge in edges if last - LONG <= edge <= self.now]
        return draw.choice(fitting) if fitting else self.now
