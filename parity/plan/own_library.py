"""Start a side of a plan: let `parity` be the library of this side and nothing but that, then run `probe.py`."""

import contextlib
import runpy
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType


class OwnLibrary(MetaPathFinder):
    """Finds `parity` where the path has it and nowhere else: an editable installation would lend an older library the
    modules that it does not have."""

    @staticmethod
    def find_spec(name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name.partition(".")[0] != "parity":
            return None
        if found := PathFinder.find_spec(name, path, target):
            return found
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)


if __name__ == "__main__":
    sys.meta_path.insert(0, OwnLibrary)
    with contextlib.suppress(ImportError):
        import parity.edge.quick_feast  # noqa: F401, ahead of anything that imports Feast
    runpy.run_path(str(Path(__file__).with_name("probe.py")), run_name="__main__")
