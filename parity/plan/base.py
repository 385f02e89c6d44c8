"""The base of a plan: a commit of git, in a process of its own, or nothing, where that has no such repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from parity.edge.errors import UserError
from parity.plan.checkout import checkout_of, commit_of, head_of, uncommitted, unpack
from parity.plan.side import LIBRARY, Computed, Side, library_in, python_path


class Base(Protocol):
    """What a plan asks of its base; `Side` is one."""

    title: str
    is_stored: bool

    def description(self) -> dict[str, Any]: ...
    def computing(self, view: str, transactions: Path, below: int | None) -> Callable[[], Computed]: ...


class Nothing:
    """A base that has no such repository yet."""

    is_stored = False

    def __init__(self, title: str):
        self.title = title

    def description(self) -> dict[str, Any]:
        return {"project": None, "views": [], "on_demand": [], "services": [], "experiments": [], "contracts": {}}

    def computing(self, view: str, transactions: Path, below: int | None) -> Callable[[], Computed]:
        raise LookupError(view)


@contextmanager
def at_commit(repository: Path, ref: str, folder: Path) -> Iterator[Base]:
    """The repository as it was at ``ref``, by the library that was there then. `UserError` if there is none."""
    checkout = checkout_of(repository)
    commit = commit_of(checkout, ref)
    tree = folder / "tree"
    tree.mkdir(parents=True)
    unpack(checkout, commit, tree)
    place = tree / checkout.repository
    title = f"the base, {commit}"
    if not (place / "features.py").is_file():
        yield Nothing(title)
        return
    library = library_in(tree, place) or LIBRARY
    cwd, *there = (_moved(path, checkout.top, tree) for path in (Path.cwd(), *python_path()))
    cwd = cwd if cwd.is_relative_to(tree) and cwd.is_dir() else tree
    with Side(title, place, library, folder, cwd, there, (tree, checkout.top)) as side:
        yield side


def head_title(repository: Path) -> str:
    """The working tree, and what of it no commit has."""
    try:
        checkout = checkout_of(repository)
    except UserError:  # which --applied can do without
        return "features.py as it is"
    commit = head_of(checkout) or "no commit"
    return f"the working tree at {commit}{', with changes that are not committed' if uncommitted(checkout) else ''}"


def _moved(path: Path, top: Path, tree: Path) -> Path:
    """Where a folder of the checkout is unpacked; another stays where it is."""
    path = path.resolve()
    return tree / path.relative_to(top.resolve()) if path.is_relative_to(top.resolve()) else path
