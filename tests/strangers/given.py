"""Online stores whose servers a test does not start: each is tried where a variable says where one runs.

Of those, MongoDB was FerretDB 1.24 (by Go's module proxy), Cassandra 5.0 the jar cassandra-all, Hazelcast 5.3 the jars
hazelcast and hazelcast-sql (both by Maven), and Bigtable the emulator of cloud.google.com/go/bigtable (by Go).
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.strangers.stores import Here, Store


def _given(variable: str, package: str) -> str:
    """Where a server runs; the test is skipped where none is named, or its client is not installed."""
    pytest.importorskip(package)
    return os.environ.get(variable) or pytest.skip(f"{variable} names no server")


def online_mongodb(here: Here) -> Store:
    """CHECK_MONGODB=mongodb://127.0.0.1:27017"""
    url = _given("CHECK_MONGODB", "pymongo")
    import pymongo

    client = here.stack.enter_context(pymongo.MongoClient(url))

    def dump() -> dict[str, Any]:
        return {name: list(client["feast"][name].find()) for name in sorted(client["feast"].list_collection_names())}

    return Store({"type": "mongodb", "connection_string": url, "database_name": "feast"}, dump)


def online_cassandra(here: Here) -> Store:
    """CHECK_CASSANDRA=127.0.0.1:9042, of the data center datacenter1"""
    host, _, port = _given("CHECK_CASSANDRA", "cassandra").partition(":")
    from cassandra.cluster import Cluster

    cluster = Cluster([host], port=int(port))
    here.stack.callback(cluster.shutdown)
    replication = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
    cluster.connect().execute(f"CREATE KEYSPACE IF NOT EXISTS feast WITH replication = {replication}")
    balancing = {"local_dc": "datacenter1", "load_balancing_policy": "DCAwareRoundRobinPolicy"}
    place = {"hosts": [host], "port": int(port), "keyspace": "feast", "protocol_version": 5}
    return Store({"type": "cassandra", **place, "load_balancing": balancing})


def online_hazelcast(here: Here) -> Store:
    """CHECK_HAZELCAST=127.0.0.1:5701, of the cluster dev"""
    place = _given("CHECK_HAZELCAST", "hazelcast")
    return Store({"type": "hazelcast", "cluster_name": "dev", "cluster_members": [place]}, lists_keys=False)


def online_bigtable(here: Here) -> Store:
    """BIGTABLE_EMULATOR_HOST=127.0.0.1:8086, which its client takes by itself"""
    _given("BIGTABLE_EMULATOR_HOST", "google.cloud.bigtable")
    return Store({"type": "bigtable", "project_id": "theirs", "instance": "theirs"}, lists_keys=False)


GIVEN = {
    make.__name__.removeprefix("online_"): make
    for make in (online_mongodb, online_cassandra, online_hazelcast, online_bigtable)
}
