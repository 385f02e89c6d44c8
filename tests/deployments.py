"""Redis as it is deployed: with a password, an ACL user, TLS, as a Cluster, under Sentinels; real processes each."""

import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import redis

from parity.edge.redis_server import find_server, free_port, launch

SLOTS = 16384
NODE_TIMEOUT = 1000
"""Milliseconds after which a Cluster, or the sentinels, take a node that is silent for lost."""


@dataclass
class Deployment:
    """What a configuration needs to know of a Redis, and what must be read nowhere else."""

    connection_string: str
    redis_type: str = "redis"
    secrets: list[str] = field(default_factory=list)
    masters: list[subprocess.Popen] = field(default_factory=list)
    keys: Callable[[], int] = int
    """How many keys all the masters hold."""

    @property
    def environment(self) -> dict[str, str]:
        return {"FEATURE_STORE_REDIS": self.connection_string, "FEATURE_STORE_REDIS_TYPE": self.redis_type}


class Servers(ExitStack):
    """Real servers in a folder, that end with the block."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def launch(self, port: int, *options: str, server: str | None = None) -> subprocess.Popen:
        process = launch(server or find_server(), port, self.folder / str(port), *options)
        self.callback(_end, process)
        return process

    def sentinel(self, port: int, *lines: str) -> None:
        home = self.folder / str(port)
        home.mkdir()
        config = home / "sentinel.conf"
        config.write_text("\n".join([f"port {port}", "bind 127.0.0.1", f"dir {home}", *lines, ""]))
        process = subprocess.Popen(
            [find_server(), str(config), "--sentinel"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        self.callback(_end, process)


def _end(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()


def wait_until(condition: Callable[[], bool], seconds: float = 30) -> float:
    """Wait for a ``condition``, in which Redis may fail; return how many seconds it took."""
    begun = time.monotonic()
    while True:
        try:
            if condition():
                return time.monotonic() - begun
        except redis.RedisError:
            pass
        assert time.monotonic() - begun < seconds
        time.sleep(0.02)


@contextmanager
def password(folder: Path) -> Iterator[Deployment]:
    secret, port = f"0{secrets.randbelow(10**12)}e5", free_port()  # which is no number
    with Servers(folder) as servers:
        servers.launch(port, "--requirepass", secret)
        yield Deployment(f"localhost:{port},password={secret}", secrets=[secret])


@contextmanager
def acl(folder: Path) -> Iterator[Deployment]:
    """A user that may do what the pipeline does, and no more."""
    name, secret, port = f"name{secrets.token_hex(6)}", secrets.token_hex(12), free_port()
    allowed = ["~*", "+@connection", "+@hash", "+@scripting", "+scan", "+del", "+expire", "+info"]
    with Servers(folder) as servers:
        servers.launch(port, "--user", "default", "off", "--user", name, "on", f">{secret}", *allowed)
        yield Deployment(f"localhost:{port},username={name},password={secret}", secrets=[name, secret])


@contextmanager
def tls(folder: Path) -> Iterator[Deployment]:
    """TLS on both sides, each with a certificate of one CA, and a password within."""
    server = tls_server()
    ours, theirs = folder / "client", folder / "server"
    certificates(folder, ours, theirs)
    secret, plain, port = secrets.token_hex(12), free_port(), free_port()
    with Servers(folder) as servers:
        files = ["--tls-ca-cert-file", f"{folder}/ca.crt", "--tls-cert-file", f"{theirs}.crt"]
        more = ["--tls-key-file", f"{theirs}.key", "--tls-port", str(port), "--requirepass", secret]
        servers.launch(plain, *files, *more, server=server)
        options = f"ssl=true,ssl_ca_certs={folder}/ca.crt,ssl_certfile={ours}.crt,ssl_keyfile={ours}.key"
        yield Deployment(
            f"localhost:{port},{options},password={secret}", secrets=[secret, f"{ours}.key", f"{ours}.crt"]
        )


def tls_server() -> str:
    for server in filter(None, (os.environ.get("REDIS_SERVER_TLS"), "/usr/bin/redis-server", find_server())):
        if Path(server).exists():
            # One without TLS says so, in one way or another; one with it misses the certificate. Both end.
            options = ["--port", "0", "--tls-port", str(free_port())]
            done = subprocess.run([server, *options], capture_output=True, text=True, timeout=10)
            if not re.search("Bad directive|finding TLS support", done.stdout + done.stderr):
                return server
    reason = "there is no redis-server with TLS here (Debian: apt install redis-server)"
    pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)


def certificates(folder: Path, *names: Path) -> None:
    def openssl(*arguments: object) -> None:
        subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)

    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    ca = folder / "ca"
    openssl("req", "-x509", *new_key, "-keyout", f"{ca}.key", "-out", f"{ca}.crt", "-days", 2, "-subj", "/CN=ca")
    (folder / "san").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    for name in names:
        openssl("req", *new_key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", "/CN=localhost")
        signed = ["-CA", f"{ca}.crt", "-CAkey", f"{ca}.key", "-CAcreateserial", "-extfile", folder / "san"]
        openssl("x509", "-req", "-in", f"{name}.csr", *signed, "-days", 2, "-out", f"{name}.crt")


@contextmanager
def cluster(folder: Path, replica: bool = False) -> Iterator[Deployment]:
    """Three masters with a password, and a replica of the first if asked for."""
    secret = secrets.token_hex(12)
    auth = ["--requirepass", secret, "--masterauth", secret]
    with Servers(folder) as servers:
        ports = [_cluster_port() for _ in range(4 if replica else 3)]
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", str(NODE_TIMEOUT), *auth]
        processes = [servers.launch(port, *options, "--cluster-replica-validity-factor", "0") for port in ports]
        nodes = [servers.enter_context(redis.Redis(port=port, password=secret)) for port in ports]
        for number, node in enumerate(nodes):
            node.execute_command("CLUSTER MEET", "127.0.0.1", ports[0])
            if number < 3:
                node.execute_command("CLUSTER ADDSLOTS", *range(SLOTS * number // 3, SLOTS * (number + 1) // 3))
        wait_until(lambda: all(_cluster_info(node)["cluster_known_nodes"] == str(len(ports)) for node in nodes))
        if replica:
            first = nodes[0].execute_command("CLUSTER MYID").decode()
            wait_until(lambda: nodes[3].execute_command("CLUSTER REPLICATE", first))
            wait_until(lambda: nodes[3].info("replication")["master_link_status"] == "up")
        wait_until(lambda: all(_cluster_info(node)["cluster_state"] == "ok" for node in nodes))
        yield Deployment(
            ",".join([f"127.0.0.1:{port}" for port in ports] + [f"password={secret}"]),
            "redis_cluster",
            [secret],
            processes[:3],
            lambda: sum(node.dbsize() for node in nodes[:3]),
        )


def _cluster_info(node: redis.Redis) -> dict[str, str]:
    reply = node.execute_command("CLUSTER INFO")
    return reply if isinstance(reply, dict) else dict(line.split(":") for line in reply.decode().split())


def _cluster_port() -> int:
    """A port whose neighbour 10,000 higher, where the nodes talk among themselves, is free too."""
    while True:
        port = 10_000 + secrets.randbelow(20_000)
        try:
            for one in (port, port + 10_000):
                with socket.create_server(("127.0.0.1", one)):
                    pass
        except OSError:
            continue
        return port


@contextmanager
def sentinel(folder: Path) -> Iterator[Deployment]:
    """A master and its replica with one password, watched by three sentinels with another."""
    secret, theirs = secrets.token_hex(12), secrets.token_hex(12)
    auth = ["--requirepass", secret, "--masterauth", secret]
    with Servers(folder) as servers:
        master, replica, *sentinels = (free_port() for _ in range(5))
        process = servers.launch(master, *auth)
        servers.launch(replica, *auth, "--replicaof", "127.0.0.1", str(master))
        for port in sentinels:
            servers.sentinel(
                port,
                f"sentinel monitor mymaster 127.0.0.1 {master} 2",
                f"sentinel auth-pass mymaster {secret}",
                f"sentinel down-after-milliseconds mymaster {NODE_TIMEOUT}",
                "sentinel failover-timeout mymaster 3000",
                f"requirepass {theirs}",
            )
        watchers = [servers.enter_context(redis.Redis(port=port, password=theirs)) for port in sentinels]
        wait_until(lambda: all(_watches(watcher) for watcher in watchers))
        client = servers.enter_context(redis.Redis(port=master, password=secret))
        nodes = ",".join(f"localhost:{port}" for port in sentinels)
        yield Deployment(
            f"{nodes},password={secret},sentinel_password={theirs}",
            "redis_sentinel",
            [secret, theirs],
            [process],
            client.dbsize,
        )


def _watches(watcher: redis.Redis) -> bool:
    state = watcher.sentinel_master("mymaster")
    return (state["num-other-sentinels"], state["num-slaves"]) == (2, 1)
