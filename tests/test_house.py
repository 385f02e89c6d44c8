"""How the library is laid out: each room imports from those before it, and nothing imports against the flow."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import parity
from tests.conftest import ROOT

LOWER = ["edge", "definition", "transactions", "compute", "compare", "offline", "served", "online"]
UPPER = [
    "stream",
    "proof",
    "report",
    "model",
    "experiment",
    "audit",
    "quality",
    "drift",
    "watch",
    "plan",
    "deploy",
    "check",
]
ROOMS = [*LOWER, *UPPER]
FLOW = [*LOWER, "registry_store", "repository", "materialization", *UPPER, "__main__"]
"""The rooms and the modules beside them: each may import what stands before it."""


@cache
def imports() -> list[tuple[str, str]]:
    """Every (module, module that it imports) of the library."""
    return list(_imports())


def _imports() -> Iterator[tuple[str, str]]:
    for file in sorted((ROOT / "parity").rglob("*.py")):
        module = ".".join(file.relative_to(ROOT).with_suffix("").parts)
        for node in _run(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("parity"):
                for alias in node.names:
                    name = f"{node.module}.{alias.name}"
                    yield module, name if (ROOT / f"{name.replace('.', '/')}.py").exists() else node.module
            elif isinstance(node, ast.Import):
                yield from ((module, alias.name) for alias in node.names if alias.name.startswith("parity"))


def _run(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes of a module but for those that only a type checker looks at."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"):
            yield node
            yield from _run(node)


def room(module: str) -> str:
    return module.split(".")[1]


@pytest.mark.smoke
def test_nothing_imports_against_the_flow():
    found = imports()
    assert len(found) > 100
    against = [(a, b) for a, b in found if FLOW.index(room(b)) > FLOW.index(room(a))]
    assert against == []


def test_no_modules_import_each_other_in_a_circle():
    graph: dict[str, set[str]] = {}
    for module, imported in imports():
        graph.setdefault(module, set()).add(imported)
    assert list(TopologicalSorter(graph).static_order())  # raises CycleError


def test_every_room_is_named_where_a_reader_looks():
    there = {path.name for path in (ROOT / "parity").iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert there == set(ROOMS)
    assert all(name in parity.__doc__ for name in [*ROOMS, "registry_store", "repository", "materialization"])


def test_the_library_never_imports_the_project():
    for file in Path(ROOT / "parity").rglob("*.py"):
        assert "import feature_repo" not in file.read_text()
        assert "from feature_repo" not in file.read_text()


def test_what_imports_feast_quickly_does_so_ahead_of_every_other_import_of_it():
    """One import of Feast ahead of parity.edge.quick_feast, and each run takes a second or more longer."""
    quickly, found = "import parity.edge.quick_feast", 0
    for file in [*ROOT.glob("*.py"), *(ROOT / "parity").rglob("*.py"), *(ROOT / "examples").rglob("*.py")]:
        imports = [
            ast.unparse(n) for n in ast.parse(file.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)
        ]
        if quickly in imports:
            found += 1
            assert next(one for one in imports if "feast" in one) == quickly, file
    assert found > 8
