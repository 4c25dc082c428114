"""A real PostgreSQL for the tests that need one."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


def _find(name: str) -> str | None:
    """The program, on PATH or where Debian keeps it. A directory that only links to it does not do: initdb looks beside
    itself."""
    debian = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: int(p.parts[-3].split(".")[0]))
    return str(debian[-1]) if debian else shutil.which(name)


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom the server runs as: PostgreSQL refuses root. None: the user of the tests."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    pytest.skip("no unprivileged user (postgres, nobody) to run PostgreSQL as")


class Postgres:
    """A server in a temporary folder, on loopback, on a port that was free."""

    def __init__(self, folder: Path, account: pwd.struct_passwd | None, initdb: str, pg_ctl: str) -> None:
        self._data = folder / "data"
        self._log = folder / "log"
        self._account = account
        self._pg_ctl = pg_ctl
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self._run(initdb, "-D", str(self._data), "-U", "taskloom", "-A", "trust", "-E", "UTF8", "--locale=C", "-N")

    @property
    def url(self) -> str:
        return f"postgresql://taskloom@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        options = f"-h 127.0.0.1 -p {self.port} -k '' -c shared_buffers=16MB -c max_connections=40"
        self._run(self._pg_ctl, "-D", str(self._data), "-l", str(self._log), "-w", "-t", "60", "-o", options, "start")

    def stop(self) -> None:
        self._run(self._pg_ctl, "-D", str(self._data), "-w", "-m", "immediate", "stop")

    def _run(self, *command: str) -> None:
        account = self._account
        done = subprocess.run(
            command,
            user=account.pw_uid if account else None,
            group=account.pw_gid if account else None,
            extra_groups=[] if account else None,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # a pipe would stay open in the server
            stderr=subprocess.DEVNULL,
            check=False,
        )
        if done.returncode:
            told = self._log.read_text() if self._log.exists() else ""
            raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {told[-2000:]}")


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A running PostgreSQL, for tests that stop and start it; they leave it running."""
    initdb, pg_ctl = _find("initdb"), _find("pg_ctl")
    if not initdb or not pg_ctl:
        pytest.skip(
            "PostgreSQL is not installed: no initdb on PATH or under /usr/lib/postgresql (Debian: apt install postgresql)"
        )
    account = _unprivileged()
    folder = Path(tempfile.mkdtemp(prefix="taskloom-pg-"))
    if account:
        os.chown(folder, account.pw_uid, account.pw_gid)
    try:
        server = Postgres(folder, account, initdb, pg_ctl)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres_server: Postgres) -> Iterator[str]:
    """The URL of an empty database of its own."""
    import psycopg

    name = f"t{time.time_ns()}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    yield postgres_server.url.rsplit("/", 1)[0] + f"/{name}"
    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
