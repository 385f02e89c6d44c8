"""The online store of another instant: materialized anew up to it, beside the real one, and removed again."""

import tempfile
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import datetime
from pathlib import Path

from feast import FeatureStore, RepoConfig

from parity.definition.checks import FeatureTable
from parity.edge.errors import UserError
from parity.edge.signals import deferred
from parity.materialization import materialize
from parity.online.side import clock_of, online_store_of

SECONDS_TO_LIVE = 3600
"""Redis drops the keys of a replay by itself after this, should the process be killed before it does."""


def store_at(
    store: FeatureStore, table: FeatureTable, at: datetime | None, now: datetime
) -> AbstractContextManager[FeatureStore]:
    """Give ``store`` itself for the present (None), or its replay at another instant; `UserError` after ``now``."""
    if at is None:
        return nullcontext(store)
    if at > now:
        raise UserError(f"{at.isoformat()} lies in the future; its features can't be known yet.")
    return replayed(store, table, at)


@contextmanager
def replayed(store: FeatureStore, table: FeatureTable, at: datetime) -> Iterator[FeatureStore]:
    """Yield a store with the same definitions and offline data, whose online side was materialized up to ``at``.

    It lives in the Redis of ``store`` under a project name of its own, with a registry in a temporary file.
    """
    folder = tempfile.TemporaryDirectory()
    replay = FeatureStore(config=_beside(store.config, Path(folder.name) / "registry.db"))
    try:
        replay.apply([*(store.get_entity(name) for name in table.view.entities), table.view, table.service])
        with clock_of(replay, at):
            materialize(replay, table, None, at, at)
        yield replay
    finally:
        with deferred(), folder:  # all of it, even if one is in a hurry
            online_store_of(replay).delete_entity_values(replay.config, table.view.join_keys)


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
