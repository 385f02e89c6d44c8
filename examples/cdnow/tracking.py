"""Runs of the training, kept by MLflow through Feast's own integration, `store.mlflow`.

By default they are in data/ of the repository, wherever one is: a SQLite file, as MLflow keeps runs in plain files no
more, and a folder of models. `tracking_uri` in feature_store.yaml, or MLFLOW_TRACKING_URI, names another store.
"""

import importlib.util
import logging
import os
import re
import sqlite3
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

from feast import FeatureStore

from parity.edge.configuration import HIDDEN
from parity.edge.errors import UserError

LOCAL = "sqlite:///"
IMPORTANCE, SPREAD = "importance/", "importance_sd/"
"""What the names of metrics begin with, which end in that of an input."""
QUIETLY = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "GIT_PYTHON_REFRESH": "quiet",
}
"""Where the environment says nothing else."""
SECRET_VARIABLES = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
HINT = "Mend it; or name another store by MLFLOW_TRACKING_URI, or train with --untracked."


def tracker(store: FeatureStore) -> Any:
    """Feast's client of MLflow, whose store is ready to take runs. Raises `UserError` if it is not.

    Tracking is switched on here, and not in feature_store.yaml: there, every process that reads features would import
    MLflow, and the server of the model would ask it at every request whether a run is going on.
    """
    configured = store.config.mlflow
    if configured is None:
        raise UserError(f"{store.repo_path}/feature_store.yaml has no section mlflow. Add one, or use --untracked.")
    data = Path(store.repo_path) / "data"
    here = f"{LOCAL}{data / 'mlflow.db'}"
    for name, value in (QUIETLY | {"MLFLOW_TRACKING_URI": here}).items():
        os.environ.setdefault(name, value)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"  # with its password
    logging.getLogger("alembic").setLevel(logging.ERROR)
    uri = configured.get_tracking_uri()
    _require_local(uri)
    configured.enabled = configured.auto_log = True
    if importlib.util.find_spec("mlflow") is None:
        raise UserError("MLflow is not installed. Run: pip install -r requirements-model.txt, or use --untracked.")
    with warnings.catch_warnings(), named(uri):
        warnings.simplefilter("ignore")  # of Feast, which say what a trial without it says below
        client = store.mlflow
        if client is None:
            from feast.mlflow_integration.client import FeastMlflowClient

            client = FeastMlflowClient(store)  # which raises what Feast keeps to itself, such as a missing driver
        if client.client.get_experiment_by_name(store.project) is None:
            place = (data / "mlflow").as_uri() if uri == here else None
            client.client.create_experiment(store.project, artifact_location=place)
        _require_writable(client.client.get_experiment_by_name(store.project).artifact_location)
    return client


@contextmanager
def run(client: Any, name: str) -> Iterator[str]:
    """A run of MLflow for as long as the block lasts, by its id. What MLflow raises at its begin and at its end
    becomes a `UserError`; what the block raises stays what it is."""
    uri = uri_of(client)
    with named(uri):
        active = client.start_run(run_name=name)
    try:
        yield active.info.run_id
    except BaseException as error:
        with suppress(Exception):
            active.__exit__(type(error), error, error.__traceback__)
        raise
    with named(uri):
        active.__exit__(None, None, None)


def uri_of(client: Any) -> str:
    """Where a client keeps runs, with the password if there is one."""
    return client.client.tracking_uri


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


def _require_writable(location: str) -> None:
    """Refuse a folder of models that can't be written, before anything is trained. Elsewhere than here, MLflow asks."""
    if location.startswith("file:"):
        location = unquote(urlsplit(location).path)
    elif "://" in location or location.startswith("mlflow-artifacts:"):
        return
    try:
        Path(location).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=location):
            pass
    except OSError as error:
        raise UserError(f"MLflow's folder of models {location}: {error.strerror}. {HINT}") from None


@contextmanager
def named(uri: str) -> Iterator[None]:
    """Make a `UserError`, without a secret, of what MLflow raises, of whatever kind, as its stores are of many."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        kind = "" if type(error).__module__.startswith("mlflow") else f"{type(error).__name__}: "
        reason = " ".join(without_secrets(str(error), uri).split())
        raise UserError(f"MLflow's store {without_secrets(uri, uri)}: {kind}{reason:.300}. {HINT}") from None


def without_secrets(text: str, uri: str) -> str:
    """Hide in a ``text`` the name and password of the ``uri``, as it is written or read, what its query says, such as
    `?password=`, and what MLflow takes from the environment; and of any other URL, what stands before the @."""
    found = {os.environ.get(name, "") for name in SECRET_VARIABLES}
    rest = uri.partition("://")[2]
    if "@" in rest:
        before = rest.rpartition("@")[0]
        found |= {before, before.partition(":")[2]}
    found |= {value for _, value in parse_qsl(rest.partition("?")[2])}
    found |= {part.partition("=")[2] for part in rest.partition("?")[2].split("&")}
    found |= {read(secret) for secret in found for read in (unquote, unquote_plus)}
    for secret in sorted(filter(None, found), key=len, reverse=True):
        text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, text)
    return re.sub(r"(?<=://)[^/\s@]*@", f"{HIDDEN}@", text)
