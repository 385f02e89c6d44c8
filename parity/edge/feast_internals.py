"""Every private name of Feast that this package uses, each under a name that says what it does.

What Feast does not promise may be gone in its next release: tests/test_feast_internals.py has a test for each, which
says what misses it. Nothing else in this package imports a name of Feast that begins with an underscore.

Beside what is defined here, these are used on purpose, as Feast's classes are made to be derived from:

- `RedisOnlineStore` (parity/online): `_get_client`, `_get_client_async`, `_parse_connection_string`,
  `_read_hash_fields`, `_read_features_per_fv` and `_read_features_per_fv_async` are overridden, and the clients are
  kept where it keeps them, in `_client` and `_client_async`.
- `LocalComputeEngine` (parity/online/engine.py): `_materialize_one` is overridden.
- `FileRegistryStore` (parity/registry_store.py): `_filepath` is where it has the file.

parity/edge/quick_feast.py changes how Feast is imported, which has to come before this module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from functools import lru_cache
from types import FrameType
from typing import Any, NamedTuple

from feast import FeatureService, FeatureStore, FeatureView, RepoConfig, ValueType, utils
from feast.infra.online_stores.online_store import OnlineStore
from feast.infra.registry.registry import Registry
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.repo_config import RegistryConfig

try:
    from feast.infra.online_stores.helpers import compute_versioned_name
except ImportError:  # of a Feast that keeps one version of a view, which `parity check` may meet

    def compute_versioned_name(table: Any, enable_versioning: bool = False) -> str:
        return table.name


RESOLVED_REQUESTS = 1024
"""How many kinds of requests Feast keeps as it resolved them; by itself it would keep any number."""
FEATURES_OF_SERVICES = "_feature_service_cache"
"""Where Feast keeps, on a registry, which features a service has, by what the caller has kept of it: also once the
registry has another service of that name."""
STORED_AS = "parity.version"
"""The tag of a view whose rows are kept apart from those of its other versions; see `stored_name`."""


class Request(NamedTuple):
    """What Feast resolves a request for features to."""

    feature_refs: Sequence[str]
    on_demand: Sequence[Any]
    """The on-demand views that are asked for."""
    join_key_of: Mapping[str, str]
    """By the name of the entity."""
    types: Mapping[str, ValueType]
    """By the join key."""
    join_keys: set[str]
    groups: list[tuple[FeatureView, list[str]]]
    """The views that are asked for, and the features of each. The very same list, for as long as Feast's cache holds
    what the request was resolved to."""
    result_names: Iterable[str]
    request_data: set[str]
    """What on-demand views take from the request."""
    entityless: bool


def resolved_request(
    registry: Any, project: str, features: FeatureService | Sequence[str], full_feature_names: bool
) -> Request:
    """Resolve a request as Feast does, through its cache; raises what it raises.

    A service is taken as the registry has it, whatever the caller has kept of it: Feast would take the names of the
    features from the one, and the views from the other.
    """
    if isinstance(features, FeatureService):
        features = _as_registered(features.name)
    if len(utils._feature_resolution_cache) >= RESOLVED_REQUESTS:
        with utils._feature_resolution_cache_lock:
            utils._feature_resolution_cache.clear()
    return Request(*utils._get_cached_request_context(registry, project, features, full_feature_names))


@lru_cache(RESOLVED_REQUESTS)
def _as_registered(service: str) -> FeatureService:
    """A service that Feast looks up by its name, as one that names its features by text."""
    return FeatureService(name=service, features=[service])


def of_one_moment(registry: Any) -> Any:
    """The same registry, of Feast's own class, as it is at this moment, whoever writes it meanwhile.

    Feast looks each view up by itself, and may read the registry anew between two of them.
    """
    if type(registry) is not Registry:
        return registry
    registry._get_registry_proto(None, allow_cache=True)
    moment = object.__new__(Registry)
    with registry._refresh_lock:
        moment.__dict__.update(vars(registry))
    moment.cached_registry_proto_ttl, moment._file_path = timedelta(0), None  # never read anew
    return moment


def with_registry(config: RepoConfig, **options: Any) -> RepoConfig:
    """The same configuration with another registry, of these options."""
    copy = config.model_copy()
    copy._registry, copy.repo_path = RegistryConfig(**options), config.repo_path
    return copy


def distinct_entities(
    view: FeatureView, join_key_values: Mapping[str, list], join_key_of: Mapping[str, str]
) -> tuple[list[EntityKey], Sequence[list[int]], int]:
    """The entities that are asked of a view, each once, the places of each in the request, and how many rows it has."""
    entities, places, length = utils._get_unique_entities(view, join_key_values, join_key_of)
    return utils._get_entity_key_protos(entities), places, length


def add_to_response(
    features: list[str], rows: list, places: Sequence[list[int]], response: Any, full: bool, view: Any, length: int,
    versions: bool,
) -> None:  # fmt: skip
    """Add to a ``response`` the ``rows`` of the entities of `distinct_entities`."""
    utils._populate_response_from_feature_data(features, rows, places, response, full, view, length, versions)


def feature_types(online: OnlineStore, request: Request) -> dict[str, Any]:
    """What `OnlineResponse` has to know of the types of features."""
    return online._build_feature_types(request.groups)


def stored_name(config: RepoConfig, view: Any) -> str:
    """The name under which the rows of a view are stored: its own, with its version if it has one."""
    versions = getattr(config.registry, "enable_online_feature_view_versioning", False)
    name, version = compute_versioned_name(view, versions), stored_as(view)
    return f"{name}__{version}" if version else name


def stored_as(view: Any) -> str:
    """The version of a view that its rows are of; empty if it has none. ``view`` may be what a registry has of it."""
    return (getattr(view, "tags", None) or {}).get(STORED_AS, "")


def counts_reads() -> bool:
    """Whether Feast counts online reads for a monitor. Importing its metrics makes a temporary folder, so it is not."""
    metrics = sys.modules.get("feast.metrics")
    return bool(metrics and metrics._config.online_features)


def online_store_of(store: FeatureStore) -> OnlineStore:
    """The online store that a feature store reads and writes through."""
    return store._get_provider().online_store


def redis_client(store: FeatureStore) -> Any:
    """The client that Feast's Redis online store reads through."""
    return online_store_of(store)._get_client(store.config.online_store)


def postgres_connection(store: FeatureStore) -> Any:
    """The connection that Feast's PostgreSQL online store reads through, as a context manager."""
    return online_store_of(store)._get_conn(store.config)


def mysql_connection(store: FeatureStore) -> Any:
    """The connection that Feast's MySQL online store reads through, which stays open."""
    return online_store_of(store)._get_conn(store.config)


def dynamodb_table(store: FeatureStore, view: Any) -> tuple[Any, str]:
    """The client of boto3 that Feast's DynamoDB online store reads through, and the name of the table of a view."""
    from feast.infra.online_stores import dynamodb

    options = store.config.online_store
    client = online_store_of(store)._get_dynamodb_client(
        options.region, options.endpoint_url, options.session_based_auth
    )
    return client, dynamodb._get_table_name(options, store.config, view)


def mongodb_collection(store: FeatureStore) -> Any:
    """The collection that Feast's MongoDB online store reads."""
    return online_store_of(store)._get_collection(store.config)


def cassandra_table(store: FeatureStore, view: Any) -> tuple[Any, str]:
    """The session that Feast's Cassandra online store reads through, and the full name of the table of a view."""
    online = online_store_of(store)
    session = online._get_session(store.config)
    return session, online._fq_table_name(online._keyspace, store.project, view)


def names_no_object(service: FeatureService) -> bool:
    """Whether a service names features by text, which Feast resolves later."""
    return bool(service._pending_feature_refs)


def views_of(service: FeatureService) -> list[Any]:
    """The views that a service was declared with, as objects; those that it names by text are not among them."""
    return [view for view in service._features if not isinstance(view, str)]


def is_read_by_itself(caller: FrameType) -> bool:
    """Whether Feast's registry reads its store as its cache is out of date, and not as it was asked to.

    ``caller`` is the frame that called the store. Feast has no other sign: its registry is asked to use what it holds.
    """
    return caller.f_locals.get("allow_cache") is True


def write_data_source(*arguments: Any, **options: Any) -> None:
    """Write to a data source as Feast's DuckDB store does."""
    from feast.infra.offline_stores import duckdb  # slow, and imported by now wherever it is asked for

    duckdb._write_data_source(*arguments, **options)


def answered_by(job: Any, answer: Any) -> Any:
    """Let ``answer`` take the place of the query of ``job``, if it gives the same columns of the same types.

    It is one of Feast's `IbisRetrievalJob`.
    """
    if answer.schema() == job.table.schema():
        job.table = answer
    return job
