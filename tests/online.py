"""Feature stores of the tests of the online store: applied in a folder, on the tests' Redis, their rows as a test has
them."""

import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, RepoConfig

from parity.definition.checks import FeatureTable
from parity.definition.keys import as_table, as_tuples
from parity.online.side import online_store_of, stored_events
from parity.proof.sides import serving_values

OURS, STOCK = "parity.online.store.ParityRedisOnlineStore", "redis"
OFFLINE = "parity.offline.store.ParityDuckDBOfflineStore"
ENGINE = "parity.online.engine.ParityComputeEngine"
NOW = datetime(2026, 3, 8, 12, 0, 0, 123456, tzinfo=UTC)


def opened(
    folder: Path,
    port: int,
    tables: Sequence[FeatureTable],
    online: str = OURS,
    engine: str = ENGINE,
    project: str | None = None,
    now: datetime = NOW,
    **options: Any,
) -> FeatureStore:
    """A store to which ``tables`` are applied, whose clock stands at ``now``; online at ``port`` of this machine."""
    name = project or f"online_{uuid.uuid4().hex}"
    config = RepoConfig(
        project=name,
        provider="local",
        registry=str(folder / f"{name}_{online}_{engine}.db".replace("/", "_")),
        offline_store={"type": OFFLINE},
        batch_engine={"type": engine},
        online_store={"type": online, "connection_string": f"localhost:{port}"} | options,
        entity_key_serialization_version=3,
    )
    store = FeatureStore(config=config)
    store.apply(applied(tables))
    online_store_of(store).now = lambda: now
    return store


def applied(tables: Sequence[FeatureTable]) -> list:
    """What `feast apply` finds of ``tables``."""
    entities = {name: entity for table in tables for name, entity in entities_of(table).items()}
    services = {table.service.name: table.service for table in tables}
    return [*entities.values(), *(table.view for table in tables), *services.values()]


def entities_of(table: FeatureTable) -> dict:

    fields = zip(table.view.entities, table.view.entity_columns, strict=True)
    return {
        name: Entity(name=name, join_keys=[column.name], value_type=column.dtype.to_value_type())
        for name, column in fields
    }


def rows_of(table: FeatureTable, rows: Iterable[Sequence]) -> pa.Table:
    """Rows of (join keys ..., event, features ...) as the offline table has them."""
    schema = table.definition.schema
    columns = list(zip(*rows, strict=True)) or [()] * len(schema)
    return pa.table([pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)], schema)


def write_history(table: FeatureTable, *rows: Sequence) -> None:
    """Write the offline table anew."""
    pq.write_table(rows_of(table, rows).sort_by(table.definition.event), table.source.path)


def require_in_step(store: FeatureStore, table: FeatureTable, at: datetime) -> None:
    """Assert that training gets what serving gives, of every key that either has."""
    names = table.definition.keys.names
    keys = {*as_tuples(pq.read_table(table.source.path).select(names)), *as_tuples(stored_events(store, table).keys)}
    asked = as_table(sorted(keys), table.definition.keys)
    entities = asked.to_pandas().assign(event_timestamp=pd.Timestamp(at))
    training = store.get_historical_features(entities, table.requested).to_arrow()
    trained = dict(zip(as_tuples(training.select(names)), training.to_pylist(), strict=True))
    served = serving_values(store, table, asked)
    for place, key in enumerate(as_tuples(asked)):
        assert {name: values[place] for name, values in served.items()} == {name: trained[key][name] for name in served}
