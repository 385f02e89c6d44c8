"""The configuration that Feast opens: which file, with every variable it names set, and what in it is secret.

It is feature_store.yaml, or the file that FEAST_FS_YAML_FILE_PATH names. Feast puts the environment's variables in the
place of ${NAME}, and leaves ${NAME} standing where there is none, so that it is looked for as a host or as a folder.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from parity.command import UserError

SECRETS = re.compile(r"(sentinel_)?(password|username|ssl_(keyfile|password|certfile|ca_\w+))")
"""The options of a connection string that are shown to nobody: secrets, and where they lie."""
HIDDEN = "***"


def configuration_file(repository: Path) -> Path:
    """The file that Feast opens for the ``repository``."""
    return Path(os.environ.get("FEAST_FS_YAML_FILE_PATH", repository / "feature_store.yaml"))


def read_configuration(path: Path) -> dict[str, Any]:
    """Read a configuration as Feast does; `UserError`, without a secret in it, if that can't be done."""
    try:
        text = path.read_text()
        _require_variables(yaml.safe_load(text), path)
        content = yaml.safe_load(os.path.expandvars(text))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:  # which quotes the line, and a password with it
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise UserError(f"{path}: it can't be read: {error.problem or error.context} in line {line}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: it can't be read: {type(error).__name__}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: it can't be read: it holds no options")
    return content


def _require_variables(content: Any, path: Path) -> None:
    missing = sorted({name for text in _texts(content) for name in _VARIABLE.findall(text)} - set(os.environ))
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(f"{path}: it names {', '.join(missing)}, which {verb} not set in the environment.")


def _texts(content: Any) -> Iterator[str]:
    if isinstance(content, dict):
        content = [*content.keys(), *content.values()]
    if isinstance(content, list):
        for part in content:
            yield from _texts(part)
    elif isinstance(content, str):
        yield content


_VARIABLE = re.compile(r"\$\{([^}]*)\}")


def connection(text: str) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Take a connection string apart as Feast does: (host, port) of each node, and the options.

    A name or password stays the text that it is, where Feast would make a number of 0123 or of 1e5.
    """
    parts = [part.partition("=") for part in text.split(",")]
    nodes = [tuple(node.split(":"))[:2] for node, equals, _ in parts if not equals]
    return nodes, {name: _option(name, value) for name, equals, value in parts if equals}


def _option(name: str, value: str) -> Any:
    if SECRETS.fullmatch(name):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def addresses(text: str) -> str:
    """Name the nodes of a connection string, and nothing else that it may hold."""
    return ", ".join(part.rpartition("@")[2] for part in text.split(",") if "=" not in part)


def without_secrets(message: str, text: str) -> str:
    """Hide in a ``message`` what the connection string ``text`` holds of secrets."""
    _, options = connection(text)
    secrets = [value for name, value in options.items() if SECRETS.fullmatch(name)]
    for part in text.split(","):  # redis://name:password@host:port, which is not how it is written, but often tried
        user, at, _ = part.rpartition("@")
        if at and "=" not in user:
            secrets += [*re.split(r"[:/]+", user)[1:], user]
    for secret in sorted(filter(None, secrets), key=len, reverse=True):
        message = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, message)
    return message
