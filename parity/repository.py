"""The Feast repository: opened with every reason to fail checked first, each told with the command that mends it."""

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import redis
from feast import Entity, FeatureService, FeatureStore, FeatureView
from feast.errors import FeastError, FeastObjectNotFoundException
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_config import FeastConfigError, RegistryConfig
from google.protobuf.message import DecodeError
from pyarrow.fs import FileSystem, FileType

from parity.definition.checks import Declared, FeatureTable, check_definitions, declared
from parity.definition.declare import horizon_of
from parity.definition.recorded import are_one_version, recalled, under_version
from parity.definition.table import COMPUTED_BY, Definition
from parity.edge.configuration import addresses, configuration_file, read_configuration, without_secrets
from parity.edge.errors import UserError, bucket_trouble
from parity.edge.feast_internals import names_no_object, stored_as, with_registry
from parity.edge.files import Location, filesystem_of, location, parquet_files
from parity.edge.redis_server import startable
from parity.online.side import online_store_of
from parity.registry_store import ParityRegistryStore, deployment, given_by, is_deployed

REGISTRY_STORE = f"{ParityRegistryStore.__module__}.{ParityRegistryStore.__name__}"
DEPLOY = "Run: python -m parity deploy"
APPLY = "Run: cd feature_repo && feast apply"
COMPUTE = "Run: python compute_features.py"
MATERIALIZE = "Run: python materialize_to_online.py"


def in_force(path: Path) -> Declared:
    """What is to be computed, brought online and proven of the repository at ``path``: what its features.py declares,
    or, once `python -m parity deploy` was used, what that has brought into force.

    The two are one but after a change that is not deployed yet, and after a rollback; then a line on stderr says so.
    """
    said = declared(path)
    registry = _registry_of(path)
    if registry is None:
        return said
    project, proto = registry
    if not is_deployed(proto, project):
        return said
    views = [FeatureView.from_proto(view) for view in proto.feature_views if view.spec.project == project]
    served = {view.name: view for view in views}
    tables = [_as_served(table, served.get(table.name)) for table in said]
    others = [table.name for table in tables if table.name in served and not _is(served[table.name], table.view)]
    others += sorted(served.keys() ^ {table.name for table in said})
    services = {one.spec.name: given_by(one) for one in proto.feature_services if one.spec.project == project}
    others += [
        one.name
        for one in said.services
        if not names_no_object(one) and services.get(one.name) != given_by(one.to_proto())
    ]
    others += sorted(services.keys() - {one.name for one in said.services})
    if not others:
        registered = {
            one.spec.name: FeatureService.from_proto(one)  # or Feast warns that features.py names other places
            for one in proto.feature_services
            if one.spec.project == project
        }
        tables = [replace(table, service=registered.get(table.service.name, table.service)) for table in tables]
        return replace(
            said, tables=tuple(tables), services=tuple(registered.get(one.name, one) for one in said.services)
        )
    named = ", ".join(dict.fromkeys(others))
    print(f"features.py has another {named} than is deployed; this goes by what is deployed", file=sys.stderr)
    return replace(recall(path, proto, project), experiments=said.experiments)


def _as_served(table: FeatureTable, served: FeatureView | None) -> FeatureTable:
    """A table as declared, kept under the version that is served of it, if it has one."""
    version = stored_as(served)
    return replace(table, view=under_version(table.view, version)) if version else table


def _is(served: FeatureView, view: FeatureView) -> bool:
    return are_one_version(served, view) and _contract(served) == _contract(view)


def recall(path: Path, proto: Registry, project: str) -> Declared:
    """What was declared of the views and services that a project has in a registry. `UserError` if that has no note."""
    entities = {one.spec.name: Entity.from_proto(one) for one in proto.entities if one.spec.project == project}
    views = [FeatureView.from_proto(one) for one in proto.feature_views if one.spec.project == project]
    services = [FeatureService.from_proto(one) for one in proto.feature_services if one.spec.project == project]
    found = [*entities.values(), *(recalled(view, entities) for view in views), *services]
    return check_definitions({"__file__": str(path / "features.py")} | dict(enumerate(found)))


def _registry_of(path: Path) -> tuple[str, Registry] | None:
    """The project, and its registry as it is stored; None if it is of another kind than has deployments, or empty."""
    store = registry_store_of(path)
    registry = stored(path, store[1]) if store else None
    return (store[0], registry) if store and registry is not None else None


def stored(path: Path, store: ParityRegistryStore) -> Registry | None:
    """What a registry holds, by the store that keeps that of the repository at ``path``; None if there is none."""
    try:
        return store.get_registry_proto()
    except FileNotFoundError:
        return None
    except DecodeError:
        raise _damaged(path) from None
    except Exception as error:  # of which there are as many kinds as there are places
        raise UserError(f"the registry of {path} can't be read: {error!s:.300}") from None


def _damaged(path: Path) -> UserError:
    return UserError(f"the registry of {path} is damaged. Delete data/registry.db. {APPLY}")


def registry_store_of(path: Path) -> tuple[str, ParityRegistryStore] | None:
    """The project, and where its registry is kept; None if it is kept otherwise than by `ParityRegistryStore`."""
    file = configuration_file(path)
    if not file.exists():
        return None
    configuration = read_configuration(file)
    registry = configuration.get("registry")
    if not isinstance(registry, dict) or registry.get("registry_store_type") != REGISTRY_STORE:
        return None
    return str(configuration.get("project")), ParityRegistryStore(RegistryConfig(**registry), path)


@contextmanager
def opened(
    path: Path,
    tables: Iterable[FeatureTable],
    redefined: bool = False,
    may_be_new: bool = False,
    online: bool = True,
    of: int | None = None,
) -> Iterator[FeatureStore]:
    """Open the repository at ``path``, ready to be read: definitions applied, features computed, Redis answering.

    ``tables`` are the definitions as declared; the registry must hold the same, and the features must have been
    computed by them, but where they may be ``redefined`` since: to be compared. Of those that ``may_be_new`` nothing
    may have been computed yet. Redis need not answer where nothing ``online`` is read. With ``of``, the
    number of a deployment, the project is as that has it, and not as it is served. What Feast or Redis raise inside
    the block becomes a `UserError` too.
    """
    store = _open(path)
    if of is not None:
        options = store.config.registry.model_dump() | {"deployment": [store.project, deployment(store.project, of)]}
        store = FeatureStore(repo_path=str(path), config=with_registry(store.config, **options))
    try:
        with _told(store, path):
            for table in tables:
                _require_applied(store, table.service, table.view)
                if not may_be_new or _is_there(location(table.source.path)):
                    _require_computed(table, redefined)
            if online:
                _connect(store)
            yield store
    except UserError as error:
        raise UserError(without_secrets(str(error), _connection_string(store))) from None


@contextmanager
def _told(store: FeatureStore, path: Path) -> Iterator[None]:
    """Make a `UserError` of what Feast, DuckDB or Redis raise."""
    file = configuration_file(path).name
    try:
        yield
    except redis.AuthenticationError as error:
        reason = str(error).rstrip(".")
        raise UserError(f"{_redis(store)} refuses the password: {reason}. Mend connection_string in {file}.") from None
    except redis.ResponseError as error:
        hint = " Delete that key, and materialize again." if "WRONGTYPE" in str(error) else ""
        raise UserError(f"{_redis(store)} refuses a command: {str(error)[:300]!r}.{hint}") from None
    except (redis.RedisError, redis.RedisClusterException) as error:
        reason = f"{_redis(store)} does not answer: {str(error).rstrip('.')}."
        raise UserError(f"{reason} {_hint(store)}") from None
    except duckdb.Error as error:
        raise UserError(f"the features can't be read: {error!s:.300}. {COMPUTE}") from None
    except DecodeError:
        raise _damaged(path) from None
    except FeastError as error:
        raise UserError(str(error)) from None


def _open(path: Path) -> FeatureStore:
    file = configuration_file(path)
    online = read_configuration(file).get("online_store")
    secrets = str(online.get("connection_string")) if isinstance(online, dict) else ""
    try:
        return FeatureStore(repo_path=str(path), fs_yaml_file=file)
    except FeastConfigError as error:  # which quotes what is wrong, a connection string too
        reasons = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.args[0].errors()]
        raise UserError(without_secrets(f"{file}: {'; '.join(reasons)}", secrets)) from None
    except FeastError as error:
        raise UserError(without_secrets(str(error), secrets)) from None
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise UserError(without_secrets(f"{file}: it can't be read: {error}", secrets)) from None


def _connect(store: FeatureStore) -> None:
    try:
        online_store_of(store).ping(store.config)
    except (TypeError, ValueError, KeyError, AttributeError, OSError) as error:
        file = configuration_file(store.repo_path).name
        raise UserError(f"{file}: its online_store is not a Redis that can be reached: {error!r}") from None


def _require_applied(store: FeatureStore, service: FeatureService, view: FeatureView) -> None:
    try:
        store.get_feature_service(service.name)
        registered = store.get_feature_view(view.name)
    except FeastObjectNotFoundException:
        raise UserError(f"the definitions in {store.repo_path} are not applied. {APPLY}") from None
    except (DecodeError, FeastError):
        raise
    except Exception as error:  # of which there are as many kinds as there are registries
        raise UserError(f"the registry of {store.repo_path} can't be read: {error!s:.300}") from None
    if _contract(registered) != _contract(view):
        raise UserError(f"{view.name} has changed since it was applied. {APPLY}")


def _contract(view: FeatureView) -> tuple:
    """What the registry says of a view that has to be what the code says; there, no ttl is one of nothing.

    Feast answers no request for a feature that has another description or other tags.
    """
    fields = sorted((one.name, str(one.dtype)) for one in view.entity_columns)
    fields += sorted((one.name, str(one.dtype), one.description, sorted(one.tags.items())) for one in view.features)
    source = view.batch_source
    place = source.path, source.timestamp_field, stored_as(view)
    return fields, view.ttl or None, view.online, place, horizon_of(view)


def computed_by(table: FeatureTable) -> set[str]:
    """The fingerprints of the definitions that the offline table was computed by, as far as its files say."""
    filesystem, files = parquet_files(location(table.source.path))
    found = set()
    for file in files:
        metadata = pq.read_schema(file.path, filesystem=filesystem).metadata or {}
        found.add(metadata.get(COMPUTED_BY, b"").decode())
    return found - {""}


def require_own(table: FeatureTable) -> None:
    """Raise a `UserError` if the offline table was computed by other definitions than features.py has, or is none."""
    try:
        others = computed_by(table) - {table.definition.fingerprint}
    except UserError as error:
        raise UserError(f"{error} {COMPUTE}") from None
    if others:
        place = table.source.path
        raise UserError(f"{place}: it was computed by other definitions than features.py now has. {COMPUTE}")


def _is_there(place: Location) -> bool:
    filesystem, path = filesystem_of(place)
    return filesystem.get_file_info(path).type != FileType.NotFound


def _require_computed(table: FeatureTable, redefined: bool) -> None:
    place = location(table.source.path)
    try:
        filesystem, files = parquet_files(place)
    except UserError as error:
        raise UserError(f"{error} {COMPUTE}") from None
    for file in files:
        name = place if len(files) == 1 else file.path
        _require_strict(name, filesystem, file.path, table.definition, redefined)


def _require_strict(name: Location, filesystem: FileSystem, path: str, definition: Definition, redefined: bool) -> None:
    try:
        with pq.ParquetFile(path, filesystem=filesystem) as file:
            found = file.schema_arrow
            by = (found.metadata or {}).get(COMPUTED_BY)
            other = bool(by) and by.decode() != definition.fingerprint
            free = {rule.name for rule in definition.rules} if redefined and other else set()
            for field in definition.schema:
                there = found.names.count(field.name) == 1
                if not there or (found.field(field.name).type != field.type and field.name not in free):
                    raise UserError(f"{name}: it has no column {field.name} of type {field.type}. {COMPUTE}")
            if other and not redefined:
                raise UserError(f"{name}: it was computed by other definitions than features.py now has. {COMPUTE}")
            for field in definition.schema:
                if not field.nullable and field.name not in free and _has_nulls(file, found.names.index(field.name)):
                    raise UserError(f"{name}: the column {field.name} has nulls. {COMPUTE}")
    except (pa.ArrowInvalid, OSError) as error:
        if bucket_trouble(error):
            raise
        if isinstance(error, OSError) and error.errno:
            raise UserError(f"{name}: it can't be read: {os.strerror(error.errno)}. {COMPUTE}") from None
        raise UserError(f"{name}: this is not a Parquet file. {COMPUTE}") from None


def _has_nulls(file: pq.ParquetFile, place: int) -> bool:
    """Look at the statistics of a column, or at the column itself where it has none."""
    for group in range(file.num_row_groups):
        column = file.metadata.row_group(group).column(place)
        if column.statistics and column.statistics.has_null_count:
            nulls = column.statistics.null_count
        else:
            nulls = file.read_row_group(group, [column.path_in_schema]).column(0).null_count
        if nulls:
            return True
    return False


def _redis(store: FeatureStore) -> str:
    return f"Redis at {addresses(_connection_string(store))}"


def _connection_string(store: FeatureStore) -> str:
    return str(getattr(store.config.online_store, "connection_string", ""))


def _hint(store: FeatureStore) -> str:
    """What to do where nothing answers: `make redis` starts a Redis on this machine, and of one node."""
    if startable(_connection_string(store), store.config.online_store.redis_type.value):
        return "Start one with: make redis"
    return f"Mend it, or connection_string in {configuration_file(store.repo_path).name}."
