"""Runs of the training, kept by MLflow through Feast's own integration, `store.mlflow`.

By default they are in data/ beside this file, wherever one is: a SQLite file, as MLflow keeps runs in plain files no
more, and a folder of models. `tracking_uri` in feature_store.yaml, or MLFLOW_TRACKING_URI, names another store.
"""

import logging
import os
import sqlite3
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from cdnow import DATA
from feast import FeatureStore

from parity.edge.errors import UserError

LOCAL = "sqlite:///"
HERE = f"{LOCAL}{DATA / 'mlflow.db'}"
MODELS = DATA / "mlflow"
"""The folder of what runs keep as files, where the store is `HERE`."""
IMPORTANCE, SPREAD = "importance/", "importance_sd/"
"""What the names of metrics begin with, which end in that of an input."""
QUIETLY = {
    "MLFLOW_TRACKING_URI": HERE,
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Where the environment says nothing else."""
HINT = "Mend it; or name another store by MLFLOW_TRACKING_URI, or train with --untracked."


def tracker(store: FeatureStore) -> Any:
    """Feast's client of MLflow, whose store is ready to take runs. Raises `UserError` if it is not.

    Tracking is switched on here, and not in feature_store.yaml: there, every process that reads features would import
    MLflow, and the server of the model would ask it at every request whether a run is going on.
    """
    configured = store.config.mlflow
    if configured is None:
        raise UserError(f"{store.repo_path}/feature_store.yaml has no section mlflow. Add one, or use --untracked.")
    for name, value in QUIETLY.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.ERROR)
    uri = configured.get_tracking_uri()
    _require_local(uri)
    configured.enabled = configured.auto_log = True
    with warnings.catch_warnings(record=True) as caught, _named(uri):
        warnings.simplefilter("always")
        client = store.mlflow
        if client is None and (failed := [str(one.message) for one in caught if "MLflow" in str(one.message)]):
            raise UserError(f"{_shown(uri)}: {failed[-1]:.300}. {HINT}")
        if client is None:
            raise UserError("MLflow is not installed. Run: pip install -r requirements-model.txt, or use --untracked.")
        if client.client.get_experiment_by_name(store.project) is None:
            place = MODELS.as_uri() if uri == HERE else None
            client.client.create_experiment(store.project, artifact_location=place)
    return client


@contextmanager
def run(client: Any, name: str) -> Iterator[str]:
    """A run of MLflow for as long as the block lasts, by its id. What MLflow raises becomes a `UserError`."""
    with _named(client.client.tracking_uri), client.start_run(run_name=name) as started:
        yield started.info.run_id


def earlier_importance(client: Any, project: str, service: str) -> dict[str, float]:
    """The importance of each input in the last run of this ``service`` that came to its end; nothing without one."""
    experiment = client.client.get_experiment_by_name(project)
    found = client.client.search_runs(
        [experiment.experiment_id],
        f"attributes.status = 'FINISHED' AND params.service = '{service}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    if not found:
        return {}
    metrics: Mapping[str, float] = found[0].data.metrics
    return {name.removeprefix(IMPORTANCE): value for name, value in metrics.items() if name.startswith(IMPORTANCE)}


def _require_local(uri: str) -> None:
    """Refuse a SQLite file that can't be written: MLflow would try for minutes."""
    if not uri.startswith(LOCAL):
        return
    path = Path(uri.removeprefix(LOCAL).partition("?")[0])
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=5)) as database:
            database.execute("BEGIN IMMEDIATE")
            database.rollback()
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise UserError(f"MLflow's store {path}: {reason}. {HINT}") from None


@contextmanager
def _named(uri: str) -> Iterator[None]:
    """Make a `UserError` of what MLflow raises, of whatever kind, as its stores are of many."""
    try:
        yield
    except Exception as error:
        if not type(error).__module__.startswith(("mlflow", "sqlalchemy", "requests", "urllib3")):
            raise
        reason = " ".join(str(error).split())
        raise UserError(f"MLflow's store {_shown(uri)}: {reason:.300}. {HINT}") from None


def _shown(uri: str) -> str:
    """Without a password."""
    scheme, _, rest = uri.partition("://")
    return f"{scheme}://{rest.rpartition('@')[2]}"
