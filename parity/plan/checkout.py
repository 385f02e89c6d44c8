"""What git has: a commit, unpacked into a temporary folder. Nothing is written into the checkout."""

import os
import subprocess
from pathlib import Path
from typing import NamedTuple

from parity.edge.errors import UserError

OF_A_HOOK = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY"}
"""What git tells its hooks, in one of which this may run."""


class Checkout(NamedTuple):
    """Where a repository lies in a checkout of git."""

    top: Path
    """The checkout."""
    repository: Path
    """The folder of features.py, from there."""


class Commit(NamedTuple):
    name: str
    """What it was asked for as, such as origin/main."""
    hash: str

    def __str__(self) -> str:
        short = self.hash[:8]
        return short if self.hash.startswith(self.name) else f"{self.name} ({short})"


def checkout_of(repository: Path) -> Checkout:
    """The checkout that a repository lies in. `UserError` if it lies in none, or if there is no git."""
    top = Path(_git(repository, "rev-parse", "--show-toplevel").removesuffix("\n"))
    return Checkout(top, repository.resolve().relative_to(top.resolve()))


def commit_of(checkout: Checkout, ref: str) -> Commit:
    """The commit that ``ref`` means. `UserError` if there is none."""
    try:
        found = _git(checkout.top, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{ref}^{{commit}}")
    except UserError:
        shallow = _git(checkout.top, "rev-parse", "--is-shallow-repository").strip() == "true"
        fetch = "This clone is shallow: git fetch --unshallow, or fetch-depth: 0 in a workflow" if shallow else ""
        raise UserError(
            f"--against {ref}: there is no such commit in {checkout.top}. "
            f"{fetch or 'Name a branch, a tag or a commit; or fetch it first: git fetch'}."
        ) from None
    return Commit(ref, found.strip())


def uncommitted(checkout: Checkout) -> bool:
    """Whether the working tree has changes of code or configuration that no commit has."""
    return bool(_git(checkout.top, "status", "--porcelain", "--", *(f"*.{suffix}" for suffix in ("py", "yaml", "yml"))))


def head_of(checkout: Checkout) -> str | None:
    """The short hash of the commit that is checked out; None if there is none yet."""
    try:
        return _git(checkout.top, "rev-parse", "--short=8", "--verify", "--quiet", "HEAD").strip()
    except UserError:
        return None


def unpack(checkout: Checkout, commit: Commit, folder: Path) -> None:
    """Write the files of a ``commit`` into ``folder``, which is there, by an index of its own."""
    index = folder.parent / f"{folder.name}.index"
    _git(checkout.top, "read-tree", commit.hash, GIT_INDEX_FILE=str(index))
    _git(checkout.top, "checkout-index", "--all", "--quiet", f"--prefix={folder}/", GIT_INDEX_FILE=str(index))


def _git(folder: Path, *arguments: str, **environment: str) -> str:
    """What git answers. On the way it locks and refreshes nothing, and runs no hook and no daemon."""
    command = ["git", "-C", str(folder), "-c", f"core.hooksPath={os.devnull}", "-c", "core.fsmonitor=false", *arguments]
    known = {name: value for name, value in os.environ.items() if name not in OF_A_HOOK}
    variables = known | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"} | environment
    try:
        done = subprocess.run(command, env=variables, capture_output=True, text=True, errors="surrogateescape")
    except FileNotFoundError:
        raise UserError(
            "git is not installed, which --against takes the base from. Install it, or use --applied."
        ) from None
    if done.returncode:
        said = (done.stderr.strip() or f"git {arguments[0]} failed").splitlines()[0].removeprefix("fatal: ")
        if "not a git repository" in said:
            said = f"{folder}: this is no checkout of git, which --against takes the base from. Use --applied"
        raise UserError(f"{said}.")
    return done.stdout
