"""What the wheel is made of: what `parity check` imports, what is declared, and what is shipped."""

import ast
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from importlib.metadata import requires

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.conftest import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DECLARED = {Requirement(one).name for one in PROJECT["project"]["dependencies"]}
OF_FEAST = {"click", "jinja2", "pandas", "typeguard"}
"""What Feast itself requires without an extra, and `parity check` imports too."""
OF_JINJA = {"markupsafe"}


def required_by(package: str) -> set[str]:
    """What a package requires without an extra."""
    found = map(Requirement, requires(package) or ())
    return {canonicalize_name(one.name) for one in found if not one.marker or "extra" not in str(one.marker)}


def imported_at_once(tree: ast.AST) -> Iterator[str]:
    """The modules, and the names in them, that a module imports as soon as it is imported itself."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not (
            isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        ):
            yield from imported_at_once(node)


def closure(*modules: str) -> tuple[set[str], dict[str, str]]:
    """The modules of parity that these import, and by whom each package of others is imported."""
    seen, others, waiting = set(), {}, list(modules)
    while waiting:
        module = waiting.pop()
        path = ROOT / module.replace(".", "/")
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if module in seen or not file.exists():  # a name in a module, and no module
            continue
        seen.add(module)
        waiting.append(module.rpartition(".")[0] or module)
        for name in imported_at_once(ast.parse(file.read_text())):
            top = name.partition(".")[0]
            if top == "parity":
                waiting += [name, name.rpartition(".")[0]]
            elif top not in sys.stdlib_module_names:
                others[top] = module
    return seen, others


def test_the_check_imports_what_the_wheel_declares_and_nothing_else():
    modules, others = closure("parity.__main__", "parity.check.command")
    assert {"parity.edge.files", "parity.check.keys", "parity.compare.sides", "parity.report.html"} <= modules
    assert DECLARED == {"feast", "pyarrow", "numpy", "tqdm"}
    assert {top: by for top, by in others.items() if top not in DECLARED | OF_FEAST | OF_JINJA} == {}
    assert required_by("feast") >= OF_FEAST
    assert required_by("jinja2") >= OF_JINJA


def test_every_page_and_style_is_shipped():
    shipped = PROJECT["tool"]["setuptools"]["package-data"]["*"]
    files = [path for path in (ROOT / "parity").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    others = {path.name for path in files if path.suffix != ".py"}
    assert others
    assert {name for name in others if not any(fnmatch(name, pattern) for pattern in shipped)} == set()
    folders = {path.parent for path in files}
    assert all((folder / "__init__.py").exists() for folder in folders), "or its modules are in no package"


def test_the_version_is_written_once_and_its_changes_are_on_top_of_the_changelog():
    version = PROJECT["project"]["version"]
    headings = [line for line in (ROOT / "CHANGELOG.md").read_text().splitlines() if line.startswith("## ")]
    assert headings[0] == f"## {version}"
    [written] = [line for line in (ROOT / "pyproject.toml").read_text().splitlines() if f'"{version}"' in line]
    assert written.startswith("version = ")
