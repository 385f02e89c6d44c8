"""The switch in feature_store.yaml that has what is served logged, off by default.

    online_store:
      log_served: ../data/served     # a folder, from the folder of this file; true is this one

or with its bounds: `log_served: {path: ../data/served, buffer_rows: 100000, flush_seconds: 5}`.
"""

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from feast import RepoConfig

from parity.edge.configuration import OptionError

DEFAULT = "../data/served"


@dataclass(frozen=True)
class LogServed:
    """Where the log is, how many rows may wait to be written, and for how many seconds."""

    path: str = DEFAULT
    buffer_rows: int = 100_000
    flush_seconds: float = 5


def log_options(value: Any) -> dict[str, Any] | None:
    """Read the option; None for off. Raises `OptionError`."""
    if isinstance(value, LogServed):
        value = asdict(value)
    if value is None or value is False:
        return None
    options = {"path": value} if isinstance(value, str) else {} if value is True else value
    if not isinstance(options, dict):
        raise OptionError("log_served", "it is no folder", f"Write the path of one, such as {DEFAULT}, or true")
    if unknown := [str(name) for name in options if name not in LogServed.__dataclass_fields__]:
        known = ", ".join(LogServed.__dataclass_fields__)
        raise OptionError("log_served", f"it has {', '.join(unknown)}, which is not known here", f"It may have {known}")
    found = asdict(LogServed(**options))
    if not isinstance(found["path"], str) or not found["path"].strip() or "\0" in found["path"]:
        raise OptionError("log_served", "its path names no folder", f"Write the path of one, such as {DEFAULT}")
    if "://" in found["path"]:
        raise OptionError("log_served", "its path is a URI", "Write the path of a folder on a disk")
    if type(found["buffer_rows"]) is not int or found["buffer_rows"] < 1:
        raise OptionError("log_served", "its buffer_rows is not a whole number above 0", "Write one, such as 100000")
    seconds = found["flush_seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
        raise OptionError("log_served", "its flush_seconds is not a number above 0", "Write one, such as 5")
    return found


def options_of(config: RepoConfig) -> LogServed | None:
    """The options of the log of a store; None where it is off, or the store is of another kind."""
    return getattr(config.online_store, "log_served", None)


def folder_of_log(config: RepoConfig) -> Path | None:
    """The folder of the log, as an absolute path; None where it is off."""
    options = options_of(config)
    if options is None:
        return None
    return Path(config.repo_path or ".", options.path).resolve()
