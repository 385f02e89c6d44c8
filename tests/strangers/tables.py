"""The views of a repository of the test bed, with the rows of their sources; and the repository itself."""

from __future__ import annotations

import secrets
from collections import Counter
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from feast import (
    Entity,
    FeatureView,
    Field,
    FileSource,
    KafkaSource,
    PushSource,
    StreamFeatureView,
)
from feast.data_format import JsonFormat

from tests.strangers import DAY, Stranger, stranger
from tests.strangers.values import KEYS, SPELLED, Drawable

EVENT = "event_timestamp"
START = 900 * DAY
"""How far back everything is materialized."""


class Pair(NamedTuple):
    """An offline and an online store."""

    offline: str
    online: dict[str, Any] | None = None
    """None is SQLite."""

    def __str__(self) -> str:
        return f"{self.offline} and {(self.online or {}).get('type', 'sqlite')}"


@dataclass
class Table:
    """A view, its source, and the rows that are in it."""

    theirs: Stranger
    name: str
    kind: str
    """Of the keys, by its name in `KEYS`."""
    features: dict[str, Drawable]
    ttl: timedelta | None = None
    has_created: bool = False
    way: str = "batch"
    """How rows come: by materialization alone, by a push or a stream as well."""
    called: dict[str, str] = field(default_factory=dict)
    """The names of columns in the source, where they are others."""
    is_naive: bool = False
    frame: pd.DataFrame = field(default_factory=pd.DataFrame)
    since: timedelta = START
    """How far back it is materialized."""
    number: int = 0
    """The keys."""

    @property
    def key_types(self) -> dict[str, Any]:
        return {f"{self.kind}_{name}": kind for name, kind in KEYS[self.kind].types.items()}

    @property
    def keys(self) -> list[str]:
        return list(self.key_types)

    def key(self, n: int) -> dict[str, Any]:
        return {f"{self.kind}_{name}": value for name, value in KEYS[self.kind].make(n, self.theirs.now).items()}

    @property
    def entities(self) -> list[Entity]:
        return [
            Entity(name=f"of_{name}", join_keys=[name], value_type=SPELLED[t]) for name, t in self.key_types.items()
        ]

    def row(self, r: np.random.Generator, n: int, event: Any) -> dict[str, Any]:
        values = {name: one.draw(r, self.theirs.now) for name, one in self.features.items()}
        created = {"created": event + timedelta(minutes=1)} if self.has_created else {}
        return self.key(n) | {EVENT: event} | values | created

    def write(self, frame: pd.DataFrame) -> FileSource:
        """Write these rows in place of those that there are."""
        self.frame = frame
        written = frame.copy()
        if self.is_naive:
            for name in {EVENT, "created"} & set(written):
                written[name] = pd.to_datetime(written[name], utc=True).dt.tz_localize(None)
        source = self.theirs.write(self.name, written.rename(columns=self.called))
        return FileSource(
            name=f"table_of_{self.name}",
            path=source.path,
            timestamp_field=self.called.get(EVENT, EVENT),
            created_timestamp_column=self.called.get("created", "created") if self.has_created else "",
            field_mapping={new: old for old, new in self.called.items() if old not in (EVENT, "created")},
        )

    def view(self) -> FeatureView:
        """The view, over the source as it is written now."""
        batch = self.write(self.frame)
        given = self.key_types | {name: one.type for name, one in self.features.items()}
        schema = [Field(name=name, dtype=kind) for name, kind in given.items()]
        about = {"name": self.name, "entities": self.entities, "ttl": self.ttl, "schema": schema}
        if self.way == "stream":
            stream = KafkaSource(
                name=f"stream_of_{self.name}",
                kafka_bootstrap_servers="nowhere:9092",
                topic=self.name,
                timestamp_field=EVENT,
                message_format=JsonFormat(schema_json="key long"),
                batch_source=batch,
            )
            return StreamFeatureView(**about | {"ttl": self.ttl or timedelta(0)}, source=stream)
        source = PushSource(name=f"pushed_to_{self.name}", batch_source=batch) if self.way == "push" else batch
        return FeatureView(**about, source=source)

    @property
    def last(self) -> pd.DataFrame:
        """The last row up to now of each key."""
        past = self.frame[pd.to_datetime(self.frame[EVENT], utc=True) <= self.theirs.now]
        ordered = past.sort_values([EVENT, "created"] if self.has_created else [EVENT], kind="stable")
        return ordered.groupby(self.keys, sort=False).tail(1) if self.keys else ordered.tail(1)

    @property
    def differs(self) -> Counter:
        """By kind, the keys that Feast's two sides differ in whatever one does."""
        last = self.last
        served = last[pd.to_datetime(last[EVENT], utc=True) >= self.theirs.now - self.since]
        found: dict[str, pd.Series] = {}
        for name, one in self.features.items():
            if one.differs:
                there = served[name].notna()
                found[one.differs] = found.get(one.differs, there) | there
        return Counter({kind: int(there.sum()) for kind, there in found.items() if there.any()})


@dataclass
class Drawn:
    """A repository that was drawn."""

    theirs: Stranger
    pair: Pair
    tables: list[Table]
    described: str = ""
    others: list = field(default_factory=list)
    """On-demand views and services."""

    @property
    def table(self) -> Table:
        return self.tables[0]

    def apply(self) -> None:
        entities = {one.name: one for table in self.tables for one in table.entities}
        self.theirs.apply(*entities.values(), *(table.view() for table in self.tables), *self.others)

    def materialize(self) -> None:
        now = self.theirs.now
        for table in self.tables:
            self.theirs.store.materialize(now - table.since, now, [table.name], disable_event_timestamp=False)

    @property
    def differs(self) -> dict[tuple[str, str], int]:
        """By kind and view, the keys that differ whatever one does."""
        return {(kind, table.name): keys for table in self.tables for kind, keys in table.differs.items()}


def of_folder(folder: Path, pair: Pair) -> Stranger:
    """An empty repository."""
    theirs = stranger(folder, Nothing(), *pair, project=f"bed{secrets.token_hex(4)}")
    theirs.now -= timedelta(minutes=1)  # so that what a fault adds since is past too
    return theirs


class Nothing:
    """Captures nothing: what is printed is seen."""

    def readouterr(self) -> tuple[str, str]:
        return "", ""
