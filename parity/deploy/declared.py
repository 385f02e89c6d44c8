"""What `feast apply` would make of a repository, in a registry of its own that nobody reads."""

import contextlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

from feast import FeatureStore, Project
from feast.protos.feast.core.Registry_pb2 import Registry
from feast.repo_operations import parse_repo

from parity.edge.feast_internals import with_registry


def applied(path: Path, store: FeatureStore) -> Registry:
    """Apply all that the folder ``path`` declares, by Feast itself, to an empty registry, and return that.

    ``store`` says of which project, and with which stores; nothing is written to any of them.
    """
    with TemporaryDirectory() as folder, _as_feast_runs(path):
        contents = parse_repo(path)
        config = with_registry(store.config, path=str(Path(folder) / "registry.db"))
        scratch = FeatureStore(repo_path=str(path), config=config)
        objects = [one for kind in contents for one in kind]
        projects = [] if contents.projects else [Project(name=store.project)]
        with contextlib.redirect_stdout(io.StringIO()):
            scratch.apply([*projects, *objects])
        found = Registry()
        found.CopyFrom(scratch.registry.proto())
    return found


@contextlib.contextmanager
def _as_feast_runs(path: Path) -> Iterator[None]:
    """In the folder of the repository, whose modules are imported by their names there, and forgotten again."""
    root, before, flag = path.resolve(), list(sys.path), sys.dont_write_bytecode
    known = {name: module for name, module in sys.modules.items() if _lies_in(root, module)}
    for name in known:
        del sys.modules[name]
    sys.path.insert(0, str(root))
    sys.dont_write_bytecode = True
    try:
        with contextlib.chdir(root):
            yield
    finally:
        sys.path[:], sys.dont_write_bytecode = before, flag
        for name in [name for name, module in sys.modules.items() if _lies_in(root, module)]:
            del sys.modules[name]
        sys.modules.update(known)


def _lies_in(root: Path, module: object) -> bool:
    file = getattr(module, "__file__", None)
    return bool(file) and Path(file).is_relative_to(root)
