"""Servers that tests start for themselves, each in a folder of its own and on a free port, and that end with them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from parity.edge.redis_server import free_port

SECONDS = 120
"""How long a server may take to start."""
QUIET = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@dataclass
class Database:
    """A server of SQL databases: ``connect`` to one of them, as its owner or as another user."""

    port: int
    connect: Callable[..., Any]
    tables: str
    """A query of the names of all tables of a database."""
    quote: str

    def run(self, database: str, *statements: str) -> list[tuple]:
        """Run statements, and return the rows of the last."""
        connection = self.connect(self.port, database)
        try:
            with connection.cursor() as cursor:
                for statement in statements:
                    cursor.execute(statement)
                return list(cursor.fetchall()) if cursor.description else []
        finally:
            connection.close()

    def dump(self, database: str) -> dict[str, list[str]]:
        """Every row of every table."""
        names = [name for (name,) in self.run(database, self.tables)]
        return {name: sorted(map(repr, self._rows(database, name))) for name in sorted(names)}

    def _rows(self, database: str, name: str) -> list[tuple]:
        return self.run(database, f"SELECT * FROM {self.quote}{name}{self.quote}")


@contextmanager
def postgres() -> Iterator[Database]:
    """PostgreSQL, whose owner is "owner"; it skips the test where there is none. Of any user, no password is asked."""
    psycopg = pytest.importorskip("psycopg")
    initdb, server = _program("initdb"), _program("postgres")

    def connect(port: int, database: str, user: str = "owner") -> Any:
        return psycopg.connect(host="127.0.0.1", port=port, dbname=database, user=user, autocommit=True)

    with _folder() as (folder, user):
        make = [initdb, "-D", folder / "data", "-U", "owner", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(make, check=True, cwd=folder, **user, **QUIET)
        port = free_port()
        options = ["-c", "fsync=off", "-c", "unix_socket_directories=", "-c", "listen_addresses=127.0.0.1"]
        run = [server, "-D", folder / "data", "-p", str(port), *options]
        with _serving(run, lambda: connect(port, "postgres").close(), signal.SIGINT, cwd=folder, **user):
            tables = "SELECT tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema')"
            yield Database(port, connect, tables, '"')


@contextmanager
def mariadb() -> Iterator[Database]:
    """MariaDB, whose owner is "owner" with the password "secret"; it skips the test where there is none."""
    pymysql = pytest.importorskip("pymysql")
    install, server = _program("mariadb-install-db"), _program("mariadbd")

    def connect(port: int, database: str, user: str = "owner", password: str = "secret") -> Any:
        return pymysql.connect(
            host="127.0.0.1", port=port, database=database, user=user, password=password, autocommit=True
        )

    with _folder() as (folder, user):
        options = ["--no-defaults", f"--datadir={folder / 'data'}"]
        normal = "--auth-root-authentication-method=normal"
        subprocess.run([install, *options, normal, "--skip-test-db"], check=True, cwd=folder, **user, **QUIET)
        port = free_port()
        options += [f"--port={port}", "--bind-address=127.0.0.1", f"--socket={folder / 'socket'}"]
        options += [f"--pid-file={folder / 'pid'}", "--innodb-flush-log-at-trx-commit=0"]
        with _serving([server, *options], lambda: connect(port, "mysql", "root", "").close(), cwd=folder, **user):
            database = Database(port, connect, "SHOW TABLES", "`")
            root = connect(port, "mysql", "root", "")
            with root.cursor() as cursor:
                cursor.execute("CREATE USER owner IDENTIFIED BY 'secret'")
                cursor.execute("GRANT ALL ON *.* TO owner WITH GRANT OPTION")
            root.close()
            yield database


@contextmanager
def feast(repository: Path, yaml: Path, *command: str) -> Iterator[int]:
    """A server of Feast, such as ``feast serve``, for a repository; yields its port."""
    port, binary = free_port(), Path(sys.executable).parent / "feast"
    run = [binary, "-c", repository, "-f", yaml, *command, "-p", str(port)]
    with _serving(run, lambda: socket.create_connection(("127.0.0.1", port), 5).close(), cwd=repository):
        yield port


def _program(name: str) -> str:
    """Where a program of a database server is; where it is not, the test is skipped, which says so."""
    places = [os.environ.get("PATH", ""), "/usr/sbin", *map(str, sorted(Path("/usr/lib/postgresql").glob("*/bin")))]
    found = shutil.which(name, path=os.pathsep.join(places))
    if found is None:
        pytest.skip(f"there is no {name} here")
    return found


@contextmanager
def _folder() -> Iterator[tuple[Path, dict[str, Any]]]:
    """A folder, and how to run a program as one who owns it and is not root, as database servers insist on."""
    with tempfile.TemporaryDirectory() as name:
        folder, user = Path(name), {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
            user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
        yield folder, user


@contextmanager
def _serving(command: list[Any], ask: Callable[[], Any], end: int = signal.SIGTERM, **how: Any) -> Iterator[None]:
    """Run a server until the block ends, from when it answers, as ``ask`` finds out."""
    server = subprocess.Popen(list(map(str, command)), **how, **QUIET)
    try:
        deadline = time.monotonic() + SECONDS
        while not _answers(ask):
            assert server.poll() is None, f"{command[0]} ended with {server.returncode}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer"
            time.sleep(0.1)
        yield
    finally:
        server.send_signal(end)
        server.wait(30)


def _answers(ask: Callable[[], Any]) -> bool:
    try:
        ask()
    except Exception:  # each driver has its own
        return False
    return True
