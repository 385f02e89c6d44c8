"""The configuration that Feast opens: which file, with every variable it names set, and what in it is secret.

It is feature_store.yaml, or the file that FEAST_FS_YAML_FILE_PATH names. Feast puts the environment's variables in the
place of ${NAME}, and leaves ${NAME} standing where there is none, so that it is looked for as a host or as a folder.
"""

import contextlib
import ipaddress
import math
import os
import platform
import re
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote

import click
import psutil
import yaml

from parity.edge.errors import UserError

SECRETS = re.compile(r"(sentinel_)?(password(_file)?|username|ssl_(keyfile|password|certfile|ca_\w+))")
"""The options of a connection string that are shown to nobody: secrets, and where they lie."""
HIDDEN = "***"
REDIS_PORT, SENTINEL_PORT = 6379, 26379
RIGHT = "Write HOST:PORT, then redis-py's options as NAME=VALUE, all in one text with commas between them"


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
    named = {name for text in _texts(content) for name in _VARIABLE.findall(text)}
    online = content.get("online_store") if isinstance(content, dict) else None
    if isinstance(online, dict) and (variable := _FROM_ENVIRONMENT.fullmatch(str(online.get("connection_string")))):
        named.add(variable[1])
    missing = sorted(named - set(os.environ))
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


class OptionError(UserError, click.ClickException):
    """An option of online_store that is refused. The message quotes no part of it that could be a secret.

    The `feast` command prints a `ClickException` as one line. It must not be a `ValueError`: pydantic turns those into
    a `ValidationError`, and Feast prints that with the whole configuration.
    """

    exit_code = 2

    def __init__(self, option: str, what: str, instead: str):
        file = configuration_file(Path("feature_store.yaml").parent).name
        super().__init__(f"{file}: {option} of online_store can't be used: {what}. {instead}.")


class ConnectionStringError(OptionError):
    """A connection string that is refused."""


def connection(text: str) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """Take a connection string apart: (host, port) of each node, both always there, and redis-py's options.

    Raises `ConnectionStringError`. A Unix socket is the option ``unix_socket_path``, and its node localhost.
    """
    nodes, options = written_connection(text)
    options.pop("default_port", None)
    if options.pop("started_here", False) and (secret := _password_of_started(nodes[0][1])):
        options.setdefault("password", secret)
    for option in ("password", "sentinel_password"):
        if file := options.pop(f"{option}_file", None):
            options[option] = _read_secret(file)
    return nodes, options


def written_connection(text: str) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """The same with the options as they are written: ``password_file`` still names the file of the password.

    These are understood: ``HOST:PORT,...,NAME=VALUE,...`` as Feast has it, with the port left out too; the URLs of
    redis-py, redis:// and rediss:// (TLS), percent-encoded, and unix://; the options of redis-py by name in any
    capitals, and those of StackExchange.Redis (Azure) that mean the same or concern nobody else. ``env:NAME`` stands
    for what that variable holds.
    """
    if not isinstance(text, str):
        raise _refused("it is not text", RIGHT)
    nodes, options, only_options = [], {}, False
    for number, part in enumerate(_parts(text), 1):
        if url := _URL.fullmatch(part):
            node, found = _url(*url.groups())
        elif part.startswith("/"):
            node, found = ("localhost", None), {"unix_socket_path": part}
        elif "=" in part:
            node, found, only_options = None, _option(*map(str.strip, part.split("=", 1)), number), True
        elif part.lower() in _OPTIONS.keys() | _ALIASES.keys() - {"name"}:
            raise _refused(f"{part.lower()} has no value", f"Write {part.lower()}=VALUE")
        else:
            node, found = _node(part), {}
        if node and only_options:
            raise _refused(
                f"part {number} between the commas is not NAME=VALUE",
                "Nodes come first. A comma in a password is %2C in redis://:PASSWORD@HOST:PORT, "
                "or put the password in a file and write password_file=PATH",
            )
        nodes += [node] if node else []
        for name, value in found.items():
            if options.setdefault(name, value) != value:
                raise _refused(f"it gives {name} twice, with different values", "Write it once")
    if not nodes:
        raise _refused("it names no Redis", "Write HOST:PORT first")
    for option in ("password", "sentinel_password"):
        if {option, f"{option}_file"} <= options.keys():
            raise _refused(f"it gives {option} and {option}_file", "Write one of them")
    port = options.get("default_port", REDIS_PORT)
    return [(host, str(own or port)) for host, own in nodes], options


def connection_of(text: str, redis_type: str) -> str:
    """The connection string for a ``redis_type``: its own, or with the port of sentinels where none is written."""
    nodes, options = connection(text)
    if redis_type == "redis" and len(nodes) > 1:
        raise _refused("it names several nodes", "Write one, or redis_type: redis_cluster or redis_sentinel beside it")
    if redis_type != "redis" and "unix_socket_path" in options:
        raise _refused(f"it names a Unix socket, and redis_type is {redis_type}", "Write HOST:PORT of each node")
    return f"{text},default_port={SENTINEL_PORT}" if redis_type == "redis_sentinel" else text


def _refused(what: str, instead: str) -> ConnectionStringError:
    return ConnectionStringError("connection_string", what, instead)


def _parts(text: str) -> Iterator[str]:
    """What stands between commas, with what the variables hold in the place of env:NAME."""
    for part in filter(None, map(str.strip, text.split(","))):
        if variable := _FROM_ENVIRONMENT.fullmatch(part):
            name = variable[1]
            if name not in os.environ:
                raise _refused(f"it names {name}, which is not set in the environment", f"Set {name}")
            yield from filter(None, map(str.strip, os.environ[name].split(",")))
        else:
            yield part


_FROM_ENVIRONMENT = re.compile(r"env:([A-Za-z_]\w*)")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)


def _node(part: str) -> tuple[str, int | None]:
    """Read HOST, HOST:PORT, [IPv6] or [IPv6]:PORT."""
    if unset := re.search(r"\$\{(\w+)\}", part):
        raise _refused(f"it names {unset[1]}, which is not set in the environment", f"Set {unset[1]}")
    if "@" in part:
        raise _refused(
            "it holds an @ outside of a URL",
            "Write HOST:PORT,username=...,password=..., or redis://USER:PASSWORD@HOST:PORT",
        )
    if part.count(":") > 1 and not part.startswith("["):
        raise _refused("it has too many colons", "Write HOST:PORT, and an IPv6 address in brackets: [::1]:6379")
    address = _ADDRESS.fullmatch(part)
    if not address:
        raise _refused("its host is not a host name", RIGHT)
    host, ipv6, port = address.group("host", "ipv6", "port")
    if ipv6 is not None:
        try:
            ipaddress.IPv6Address(ipv6)
        except ValueError:
            raise _refused("the address in brackets is not an IPv6 address", "Write [::1]:6379") from None
    if port is not None and not (re.fullmatch("[0-9]{1,5}", port) and 1 <= int(port) <= 65535):
        raise _refused("its port is not a number from 1 to 65535", RIGHT)
    return ipv6 or host, port and int(port)


_ADDRESS = re.compile(r"(?:\[(?P<ipv6>[^\]]*)\]|(?P<host>[\w.-]+))(?::(?P<port>.*))?")


def _url(scheme: str, rest: str) -> tuple[tuple[str, int | None], dict[str, Any]]:
    scheme = scheme.lower()
    if scheme not in _SCHEMES:
        sentinel = "redis_type: redis_sentinel and sentinel_master: NAME, with SENTINEL:26379,... here"
        cluster = "redis_type: redis_cluster, with NODE:6379,... here"
        known = {"sentinel": f"Write {sentinel}", "cluster": f"Write {cluster}"}
        instead = next((hint for word, hint in known.items() if word in scheme), "Write redis://, rediss:// or unix://")
        raise _refused("its URL has a scheme that is not known", instead)
    user, at, place = rest.rpartition("@")
    if at and scheme != "unix" and re.search(r"[/?#]", user):
        raise _refused(
            "the user name or password in its URL holds a character that ends it",
            "Write / as %2F, ? as %3F, # as %23 and @ as %40",
        )
    place, _, query = place.partition("?")
    options = {}
    for number, (name, value) in enumerate(parse_qsl(query, keep_blank_values=True), 1):
        options |= _option(name, value, number, "option {} of its URL")
    username, _, password = user.partition(":")
    options |= {name: _decoded(value) for name, value in [("username", username), ("password", password)] if value}
    if scheme in _SOCKETS:
        if not place.startswith("/"):
            raise _refused("the path of its Unix socket is not absolute", "Write unix:///PATH")
        return ("localhost", None), options | {"unix_socket_path": _decoded(place)}
    host, _, database = place.partition("/")
    if database:
        options |= _option("db", database, 1, "the database in its URL")
    if _SCHEMES[scheme]:
        if options.get("ssl") is False:
            raise _refused("it asks for TLS and against it", "Write redis:// to go without")
        options["ssl"] = True
    return _node("localhost" + host if host.startswith(":") or not host else host), options


_SOCKETS = {"unix", "redis+socket"}
_SCHEMES = dict.fromkeys(["redis", "valkey", "tcp", *_SOCKETS], False) | dict.fromkeys(["rediss", "valkeys"], True)
"""The schemes of URLs, and whether they ask for TLS."""


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise _refused("its URL is percent-encoded in another way than UTF-8", "Encode it again") from None


def _option(name: str, value: str, number: int, where: str = "part {} between the commas") -> dict[str, Any]:
    """Read an option for redis-py; an empty one if it concerns another client, or is left blank."""
    where = where.format(number)
    lower = name.lower()
    if lower in _OTHERS:
        return {}
    if lower in _INSTEAD:
        raise _refused(f"it has {lower}, which is not known here", _INSTEAD[lower])
    lower, scale = _ALIASES.get(lower, (lower, 1))
    read = _OPTIONS.get(lower.removeprefix("sentinel_"))
    if not read:
        if re.search(r"[\s;&]", name):
            raise _refused(f"{where} holds several options", RIGHT)
        near = get_close_matches(lower, [*_OPTIONS, *_ALIASES, *_INSTEAD], 1)
        hint = f"Perhaps {near[0]} is meant" if near else RIGHT
        raise _refused(f"{where} is not an option of redis-py", hint)
    if not value and read in (_flag, _text):
        return {}
    try:
        found = read(value)
    except ValueError as error:
        raise _refused(f"the value of {lower} can't be used", str(error)) from None
    return {lower: found if scale == 1 else found / scale}


def _text(value: str) -> str:
    return value


def _flag(value: str) -> bool:
    if value.lower() in ("true", "yes", "on", "1", "false", "no", "off", "0"):
        return value.lower() in ("true", "yes", "on", "1")
    raise ValueError("Write true or false")


def _whole(least: int, most: float = math.inf) -> Callable[[str], int]:
    def read(value: str) -> int:
        if re.fullmatch("[0-9]{1,9}", value) and least <= int(value) <= most:
            return int(value)
        raise ValueError(f"Write a whole number, {least} or more" if most == math.inf else f"Write {least} to {most}")

    return read


def _seconds(value: str) -> float:
    with contextlib.suppress(ValueError):
        number = float(value)
        if 0 < number < math.inf:
            return int(number) if number.is_integer() else number
    raise ValueError("Write a number above 0")


def _certificates_wanted(value: str) -> str:
    plain = value.lower().removeprefix("cert_")
    if plain not in ("none", "optional", "required"):
        raise ValueError("Write none, optional or required")
    return plain


_OPTIONS: dict[str, Callable[[str], Any]] = {
    **dict.fromkeys(["username", "password", "password_file", "client_name", "encoding", "encoding_errors"], _text),
    **dict.fromkeys(["ssl_keyfile", "ssl_certfile", "ssl_password", "ssl_ca_certs", "ssl_ca_path"], _text),
    **dict.fromkeys(["ssl_ca_data", "ssl_ciphers", "unix_socket_path"], _text),
    **dict.fromkeys(["ssl", "ssl_check_hostname", "socket_keepalive", "retry_on_timeout", "decode_responses"], _flag),
    **dict.fromkeys(["read_from_replicas", "require_full_coverage", "dynamic_startup_nodes"], _flag),
    **dict.fromkeys(["socket_timeout", "socket_connect_timeout"], _seconds),
    **dict.fromkeys(["db", "health_check_interval", "min_other_sentinels"], _whole(0)),
    **dict.fromkeys(["max_connections", "reinitialize_steps", "cluster_error_retry_attempts"], _whole(1)),
    "protocol": _whole(2, 3),
    "ssl_cert_reqs": _certificates_wanted,
    "default_port": _whole(1, 65535),
    "started_here": _flag,
}
"""redis-py's options that a text can hold, and how each is read. Three are our own.

``password_file`` names a file that holds the password, so that no configuration does. ``started_here`` takes the
password of the Redis that `make redis` started, while that one runs. ``default_port`` is that of nodes without one.
"""
_ALIASES = {
    "user": ("username", 1),
    "pass": ("password", 1),
    "pwd": ("password", 1),
    "tls": ("ssl", 1),
    "usessl": ("ssl", 1),
    "clientname": ("client_name", 1),
    "name": ("client_name", 1),
    "defaultdatabase": ("db", 1),
    "database": ("db", 1),
    "connecttimeout": ("socket_connect_timeout", 1000),
    "synctimeout": ("socket_timeout", 1000),
    "asynctimeout": ("socket_timeout", 1000),
    "responsetimeout": ("socket_timeout", 1000),
}
"""What other clients call an option of redis-py, and how many of their units one of its own is."""
# fmt: off
_OTHERS = {
    "abortconnect", "abortonconnectfail", "allowadmin", "backlogpolicy", "channelprefix", "checkcertificaterevocation",
    "configchannel", "configcheckseconds", "connectretry", "heartbeatconsistencychecks", "heartbeatinterval",
    "highintegrity", "highprioritysocketthreads", "includedetailinexceptions", "keepalive", "preserveasyncorder",
    "resolvedns", "setlib", "tiebreaker", "version", "writebuffer",
}
# fmt: on
"""Options of StackExchange.Redis about its own ways. They change nothing about where Redis is and how to get in."""
_INSTEAD = {
    "servicename": "Write redis_type: redis_sentinel and sentinel_master: NAME beside connection_string",
    "sentinel_master": "Write sentinel_master: NAME beside connection_string",
    "host": "Write HOST:PORT first",
    "port": "Write HOST:PORT first",
    "sslhost": "Name Redis by the host that its certificate names",
    "sslprotocols": "Leave it out: TLS 1.2 and newer are used",
    "proxy": "Name Redis itself",
    "tunnel": "Name Redis itself",
}
"""Options that mean something, and what to write for it here."""


def _read_secret(file: str) -> str:
    place = Path(file).expanduser()
    if not place.is_absolute():
        raise _refused("its password_file is not an absolute path", "Write password_file=/PATH")
    try:
        return place.read_text().strip("\r\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it holds bytes that are no text"
        raise _refused(f"its password_file can't be read: {reason}", "Mend the file, or its path") from None


def started_password(port: str) -> Path:
    """Where `make redis` leaves the process id and the password of the Redis that it starts at ``port``.

    That is a folder of the user, not of the checkout: it is found from wherever this package is imported, and also by
    the `feast` command, which gives an online store's options no path to start at.
    """
    home = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state")
    with contextlib.suppress(RuntimeError):  # a user without a home
        home = home.expanduser()
    return home / "feature-store-mvp" / f"redis-{platform.node()}-{port}"


def _password_of_started(port: str) -> str | None:
    """The password of the Redis that `make redis` started at ``port``; None if there is none, or it is not running."""
    try:
        pid, password = started_password(port).read_text().split()
        running = psutil.Process(int(pid)).status() != psutil.STATUS_ZOMBIE
    except (OSError, ValueError, psutil.Error):
        return None
    return password if running else None


def addresses(text: str) -> str:
    """Name the nodes of a connection string, and nothing else that it may hold."""
    nodes, options = written_connection(text)
    if socket := options.get("unix_socket_path"):
        return socket
    return ", ".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in nodes)


def without_secrets(message: str, text: str) -> str:
    """Hide in a ``message`` what the connection string ``text``, be it fit for use or not, holds of secrets."""
    for secret in sorted(filter(None, _secrets(text)), key=len, reverse=True):
        message = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", HIDDEN, message)
    return message


def _secrets(text: str) -> Iterator[str]:
    with contextlib.suppress(UserError):
        text = ",".join(_parts(text))
    with contextlib.suppress(UserError):
        _, options = connection(text)
        yield from (str(value) for name, value in options.items() if SECRETS.fullmatch(name))
    for part in text.split(","):
        name, _, value = part.strip(" []'\"").partition("=")
        if SECRETS.fullmatch(_ALIASES.get(name.strip().lower(), (name.strip().lower(), 1))[0]):
            yield value.strip()
        user, at, _ = part.rpartition("@")  # redis://name:password@host:port, or the same without the scheme
        if at and not re.match(r"[\s\w]+=", user):
            user = re.sub(r"^\s*[A-Za-z0-9+.-]+://", "", user)
            yield from user.split(":", 1)
