"""The online store of another instant: materialized anew up to it, beside the real one, and removed again."""

import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

from feast import FeatureService, FeatureStore, RepoConfig

from parity.definition.checks import FeatureTable
from parity.edge.errors import UserError
from parity.edge.signals import deferred
from parity.materialization import materialize_all
from parity.online.side import clock_of, online_store_of

SECONDS_TO_LIVE = 3600
"""Redis drops the keys of a replay by itself after this, should the process be killed before it does."""


def store_at(
    store: FeatureStore, tables: Sequence[FeatureTable], at: datetime | None, now: datetime
) -> AbstractContextManager[FeatureStore]:
    """Give ``store`` itself for the present (None), or its replay at another instant; `UserError` after ``now``."""
    if at is None:
        return nullcontext(store)
    if at > now:
        raise UserError(f"{at.isoformat()} lies in the future; its features can't be known yet.")
    return replayed(store, tables, at)


@contextmanager
def replayed(store: FeatureStore, tables: Sequence[FeatureTable], at: datetime) -> Iterator[FeatureStore]:
    """Yield a store with the same definitions and offline data of ``tables``, whose online side was materialized up to
    the instant ``at``.

    It lives in the Redis of ``store`` under a project name of its own, with a registry in a temporary file.
    """
    folder = tempfile.TemporaryDirectory()
    replay = FeatureStore(config=_beside(store.config, Path(folder.name) / "registry.db"))
    try:
        replay.apply(_definitions(store, tables))
        with clock_of(replay, at):
            materialize_all(replay, list({table.name: table for table in tables}.values()), None, at, at)
        yield replay
    finally:
        with deferred(), folder:  # all of it, even if one is in a hurry
            for join_keys in {tuple(table.view.join_keys) for table in tables}:
                online_store_of(replay).delete_entity_values(replay.config, list(join_keys))


def _definitions(store: FeatureStore, tables: Sequence[FeatureTable]) -> list:
    """What has to be applied to read ``tables`` alone: no service that asks for more."""
    entities = {name: store.get_entity(name) for table in tables for name in table.view.entities}
    asked = [table.requested for table in tables]
    services = {one.name: one for one in asked if isinstance(one, FeatureService)}
    views = {table.name: table.view for table in tables}
    return [*entities.values(), *views.values(), *services.values()]


def _beside(config: RepoConfig, registry: Path) -> RepoConfig:
    """The same stores under another project name, registered elsewhere, in keys that do not last."""
    beside = RepoConfig(
        project=f"{config.project}_replay_{uuid.uuid4().hex}",
        provider=config.provider,
        registry=str(registry),
        offline_store=config.offline_store.model_dump(),
        batch_engine=config.batch_engine_config,
        online_store=config.online_store.model_dump() | {"key_ttl_seconds": SECONDS_TO_LIVE},
        entity_key_serialization_version=config.entity_key_serialization_version,
        materialization_config=config.materialization_config.model_dump(),
    )
    beside.repo_path = config.repo_path
    return beside
