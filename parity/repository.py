"""The Feast repository: opened with every reason to fail checked first, each told with the command that mends it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import redis
from feast import FeatureService, FeatureStore, FeatureView
from feast.errors import FeastError, FeastObjectNotFoundException
from feast.repo_config import FeastConfigError

from parity.command import UserError
from parity.offline import history_schema
from parity.online import online_store_of

APPLY = "Run: cd feature_repo && feast apply"
COMPUTE = "Run: python compute_features.py"
MATERIALIZE = "Run: python materialize_to_online.py"


@contextmanager
def opened(path: Path, service: FeatureService, view: FeatureView) -> Iterator[FeatureStore]:
    """Open the repository at ``path``, ready to be read: definitions applied, features computed, Redis answering.

    ``service`` and ``view`` are the definitions as declared; the registry must hold the same. What Feast or Redis
    raise inside the block becomes a `UserError` too.
    """
    try:
        store = FeatureStore(repo_path=str(path))
        _require_applied(store, service, view)
        _require_computed(view)
        online_store_of(store).ping(store.config)
        yield store
    except redis.AuthenticationError as error:
        raise UserError(f"{_redis(store)} refuses the password: {error}. Mend connection_string in {path}.") from None
    except redis.RedisError as error:
        raise UserError(f"{_redis(store)} does not answer: {error}. Start one with: make redis") from None
    except (FeastError, FeastConfigError) as error:
        raise UserError(str(error)) from None


def _require_applied(store: FeatureStore, service: FeatureService, view: FeatureView) -> None:
    try:
        store.get_feature_service(service.name)
        registered = store.get_feature_view(view.name)
    except FeastObjectNotFoundException:
        raise UserError(f"the definitions in {store.repo_path} are not applied. {APPLY}") from None
    if _contract(registered) != _contract(view):
        raise UserError(f"{view.name} has changed since it was applied. {APPLY}")


def _contract(view: FeatureView) -> tuple:
    """What the registry says of a view that has to be what the code says."""
    fields = sorted((field.name, str(field.dtype)) for field in [*view.entity_columns, *view.features])
    return fields, view.ttl, view.online, view.batch_source.path, view.batch_source.timestamp_field


def _require_computed(view: FeatureView) -> None:
    path, expected = Path(view.batch_source.path), history_schema(view)
    if not path.exists():
        raise UserError(f"{path}: there is no such file. {COMPUTE}")
    try:
        found = pq.read_schema(path)
    except pa.ArrowInvalid:
        raise UserError(f"{path}: this is not a Parquet file. {COMPUTE}") from None
    for field in expected:
        if field.name not in found.names or found.field(field.name).type != field.type:
            raise UserError(f"{path}: it has no column {field.name} of type {field.type}. {COMPUTE}")


def _redis(store: FeatureStore) -> str:
    """Name the Redis without its password."""
    return f"Redis at {store.config.online_store.connection_string.split(',')[0]}"
