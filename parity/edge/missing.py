"""A module that is not installed: which, and what to do about it."""

import re
import sys
from importlib.metadata import version
from pathlib import Path

_WRAPPING = "FeastModuleImportError", "FeastExtrasDependencyImportError"
_REQUIREMENTS = Path(__file__).parents[2] / "requirements.txt"
"""Of a copy of this project; beside an installed package there is none."""


def missing(error: BaseException) -> str | None:
    """Say which module is missing in this Python, and how to get it; None for an error about anything else.

    Feast hides such an error behind others when it loads a store, and has an extra for most of its own stores.
    """
    extra, wrapped = None, False
    while type(error).__name__ in _WRAPPING and (inner := error.__cause__ or error.__context__):
        extra, wrapped, error = extra or _extra_named(str(error)), True, inner
    if not (isinstance(error, ModuleNotFoundError) and str(error).startswith("No module named")):
        return None
    if error.name and error.name.startswith("feast."):
        advice = f"It is not in Feast {version('feast')}: what needs it was written for another one."
    elif extra:
        advice = f"Run: pip install 'feast[{extra}]'"
    elif wrapped:
        advice = "Install it there, or run this with the Python that the repository's own programs run with."
    elif _REQUIREMENTS.exists():
        advice = "Run: pip install -r requirements.txt"
    else:
        advice = "Run: pip install 'feature-store-mvp[pipeline]'"
    return f"{error} in this Python, {sys.executable}. {advice}"


def _extra_named(text: str) -> str | None:
    """The extra of Feast that an error of Feast names, or whose store it names."""
    if found := re.search(r"'feast\[([\w-]+)\]'", text):
        return found[1]
    from importlib.metadata import metadata  # here: it takes a while, and every script imports this module

    store = re.search(r"'feast\.infra\.[\w.]*?(\w+)'", text)
    return store[1] if store and store[1] in (metadata("feast").get_all("Provides-Extra") or ()) else None
