"""Anybody's Feast repository, opened as its own YAML says, for reading only.

Feast writes in places where one does not expect it: opening a registry that is not there creates it, and so does an
SQLite online store; a SQL registry creates its tables; a retrieval is logged with MLflow. So what is not there is
refused here before Feast is asked, and what can be told to refuse writes is told so. The definitions are taken from
the registry, as they were applied: no file of the repository is run, but for what stores and on-demand views import.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlparse

import feast
from feast import FeatureStore, RepoConfig
from feast.repo_config import load_repo_config

from parity.edge.command import shown
from parity.edge.errors import UserError, of_error

OLDEST, NEWEST = (0, 60), (0, 67)
"""The versions of Feast that this was tried on; others may do."""
YAML = "feature_store.yaml"


@dataclass(frozen=True)
class Opened:
    """A repository, and the file that configures it."""

    repository: Path
    name: str
    """The folder, as whoever runs this would write it."""
    yaml: Path
    config: RepoConfig

    def store(self) -> FeatureStore:
        """A feature store of its own: historical retrieval leaves traces in one that an online read stumbles over."""
        store = FeatureStore(config=_configuration(self.repository, self.yaml))
        store.repo_path = self.repository
        return store

    @property
    def offline(self) -> str:
        return _type(self.config.offline_store)

    @property
    def online(self) -> str:
        return _type(self.config.online_store)


@contextmanager
def opening(repository: Path, yaml: Path | None = None) -> Iterator[Opened]:
    """Open ``repository`` as ``yaml`` says, by default its feature_store.yaml. Within the block it is the working
    directory, as relative paths in it are meant from there, and its modules can be imported."""
    file = (yaml or Path(os.environ.get("FEAST_FS_YAML_FILE_PATH") or repository / YAML)).resolve()
    if not file.is_file():
        raise UserError(f"{shown(file)}: there is no such file. Name the folder of a Feast repository with -c, or -f.")
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    sys.path.append(str(repository))  # last: a module of theirs is not to stand in for an installed one
    try:
        name = shown(repository)
        with chdir(repository):
            yield Opened(repository, name, file, _configuration(repository, file))
    finally:
        sys.dont_write_bytecode = writes
        sys.path.remove(str(repository))


def version_note() -> str | None:
    """What to say of a Feast that this was not tried on."""
    installed = version("feast")
    numbers = tuple(int(part) for part in installed.split(".")[:2] if part.isdigit())
    if OLDEST <= numbers <= NEWEST:
        return None
    tried = " to ".join(".".join(map(str, one)) for one in (OLDEST, NEWEST))
    return f"Feast {installed} is installed; this was tried on {tried}. What it says may be wrong"


def _configuration(repository: Path, file: Path) -> RepoConfig:
    """The configuration, by which nothing is written; `UserError` for what Feast would create."""
    try:
        config = load_repo_config(repository, file)
        registry, online, _offline = config.registry, config.online_store, config.offline_store
    except (Exception, SystemExit) as error:
        raise UserError(f"{shown(file)} can't be read: {_without_values(of_error(error))}") from None
    for listener in ("mlflow_config", "openlineage_config"):  # which would note what is retrieved here
        if getattr(config, listener, None) is not None:
            setattr(config, listener, None)
    _require_registry(registry, repository)
    _require_online(online, repository, config.provider)
    return config


def _without_values(text: str) -> str:
    """What pydantic says without the values that it was given: a password may be among them."""
    return re.sub(r"\[type=[^\]]*\]", "", text)


def _require_registry(registry: Any, repository: Path) -> None:
    kind, path = getattr(registry, "registry_type", "file"), str(registry.path)
    if kind == "file" and not getattr(registry, "registry_store_type", None):
        place = urlparse(path)
        if place.scheme in ("", "file"):
            _require(repository / (place.path if place.scheme else path), "registry", "feast apply")
    elif kind == "sql":
        registry.path = _reading_url(path, repository)
        registry.sqlalchemy_config_kwargs = _reading_options(path, dict(registry.sqlalchemy_config_kwargs or {}))
        if hasattr(registry, "schema_mode"):
            registry.schema_mode = "verify"


def _reading_url(url: str, repository: Path) -> str:
    """The URL of a database, by which SQLite neither creates nor writes it."""
    if not url.startswith("sqlite:///") or "mode=" in url:
        return url
    path = repository / url.removeprefix("sqlite:///").partition("?")[0]
    _require(path, "registry", "feast apply")
    return f"sqlite:///file:{quote(str(path))}?mode=ro&uri=true"


def _reading_options(url: str, options: dict[str, Any]) -> dict[str, Any]:
    """Options of SQLAlchemy by which a server refuses to write."""
    arguments = dict(options.get("connect_args") or {})
    if url.startswith("postgresql"):
        arguments["options"] = f"{arguments.get('options', '')} -c default_transaction_read_only=on".strip()
    elif url.startswith("mysql"):
        arguments.setdefault("init_command", "SET SESSION TRANSACTION READ ONLY")
    return options | ({"connect_args": arguments} if arguments else {})


def _require_online(online: Any, repository: Path, provider: str) -> None:
    kind = _type(online)
    in_file = kind == "milvus" and provider == "local" and online.path and not getattr(online, "uri", None)
    if kind == "sqlite" or in_file:
        _require(repository / online.path, "online store", "feast apply, and feast materialize")


def _require(path: Path, what: str, run: str) -> None:
    if not path.exists():
        raise UserError(f"the {what} {shown(path)} is not there, and is not created by a check. Run: {run}")


def _type(store: Any) -> str:
    """The name of a kind of store, short for those of Feast."""
    name = str(getattr(store, "type", None) or type(store).__name__)
    if not name.startswith("feast."):
        return name
    short = name.rpartition(".")[2].lower()
    return short.removesuffix("onlinestore").removesuffix("offlinestore")


def feast_version() -> str:
    return getattr(feast, "__version__", None) or version("feast")
