"""The keys of online stores that no server of ran where this was written: by the statements of Feast's own stores."""

from __future__ import annotations

from collections.abc import Iterator

from feast import FeatureStore

from parity.compare.subjects import Source
from parity.edge.feast_internals import cassandra_table, mongodb_collection


def of_mongodb(store: FeatureStore, source: Source) -> Iterator[bytes]:
    """All views share a collection, whose documents have an event timestamp for each view that has a row."""
    is_there = {f"event_timestamps.{source.name}": {"$exists": True}}
    for document in mongodb_collection(store).find(is_there, {"_id": 1}):
        yield bytes(document["_id"])


def of_cassandra(store: FeatureStore, source: Source) -> Iterator[bytes]:
    session, table = cassandra_table(store, source.view)
    for row in session.execute(f"SELECT DISTINCT entity_key FROM {table}"):
        yield bytes.fromhex(row[0])


def of_snowflake(store: FeatureStore, source: Source) -> Iterator[bytes]:
    from feast.infra.utils.snowflake import snowflake_utils

    path = snowflake_utils.get_snowflake_online_store_path(store.config, source.view)
    table = f'{path}."[online-transient] {store.project}_{source.name}"'
    with snowflake_utils.GetSnowflakeConnection(store.config.online_store) as connection:
        for (key,) in snowflake_utils.execute_snowflake_statement(
            connection, f'SELECT DISTINCT "entity_key" FROM {table}'
        ):
            yield bytes(key)
