"""A SQL database as the server uses it: one file of SQLite or a PostgreSQL server, brought to the newest schema at open."""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

from sqlalchemy import Connection, create_engine, event, inspect
from sqlalchemy.engine import URL, Engine, make_url
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from taskloom.core.errors import ConfigError, NotFoundError

LOCK_WAIT_S = 10.0
"""How long a writer waits for another process; then it gives up, rather than make callers wait for a process that hangs."""
POLL_S = 0.002


class Database:
    """Connections to one database. Writers of one SQLite file take turns by a lock beside it, so that no two processes ever
    write or checkpoint its WAL at the same instant (SQLite before 3.51.3 can then damage the file), and none checkpoints by
    itself: `checkpoint` does, when the owner says so.

    Methods raise `SQLAlchemyError` and `OSError`; the owner says what they mean to its callers.
    """

    def __init__(self, url: str, *, default: Path, journal: Literal["wal", "delete"] = "delete") -> None:
        self.url = database_url(url, default)
        self.path = Path(self.url.database or "").absolute() if self.url.get_backend_name() == "sqlite" else None
        self._journal = journal
        self._inode: tuple[int, int] | None = None
        self.engine: Engine = self._sqlite_engine(self.path) if self.path else self._postgres_engine()

    # -- opening ----------------------------------------------------------------------------------------------------------

    def create(self, migrations: Path, version_table: str) -> None:
        """Creates the file if there is none and runs the migrations that are due; several processes may do so at once."""
        if self.path:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600))
        with self.transaction() as connection:
            upgrade(connection, migrations, version_table)
        self.remember_file()

    def require(self, table: str, what: str) -> None:
        """For readers, who create nothing: raises `NotFoundError` if there is no database with this table."""
        missing = self.path is not None and not self.path.exists()
        if missing or not inspect(self.engine).has_table(table):
            raise NotFoundError(f"there is no {what} at {self.url.render_as_string()}; nothing was written yet")

    def _sqlite_engine(self, path: Path) -> Engine:
        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                f"file:{quote(str(path))}?mode=rw",  # never create: a file that was moved away must be missed
                uri=True,
                isolation_level=None,
                check_same_thread=False,
                timeout=LOCK_WAIT_S,
            )
            for pragma in (
                f"journal_mode={self._journal}",
                "synchronous=FULL",
                "wal_autocheckpoint=0",
                "secure_delete=ON",  # what is erased is overwritten
                "foreign_keys=ON",
            ):
                connection.execute(f"PRAGMA {pragma}")
            return connection

        # The URL names no file, so that SQLAlchemy would take it for a database in memory, whose pool closes connections that
        # other threads are using.
        engine = create_engine(URL.create("sqlite"), creator=connect, poolclass=QueuePool)
        event.listen(engine, "begin", _begin)
        return engine

    def _postgres_engine(self) -> Engine:
        engine = create_engine(
            self.url,
            pool_size=2,
            connect_args={"connect_timeout": 5, "tcp_user_timeout": 10_000, "application_name": "taskloom"},
        )

        @event.listens_for(engine, "connect")
        def _durable(connection: Any, _: Any) -> None:
            with connection.cursor() as cursor:
                cursor.execute("SELECT set_config('lock_timeout', %s, false)", (f"{LOCK_WAIT_S:.0f}s",))
                cursor.execute("SET statement_timeout = '60s'")
                cursor.execute("SET synchronous_commit = on")
            connection.commit()

        return engine

    # -- transactions -----------------------------------------------------------------------------------------------------

    @contextmanager
    def transaction(self, connection: Connection | None = None) -> Iterator[Connection]:
        """A write transaction, committed at the end; on `connection`, or on one of the pool. For SQLite it holds the write
        lock from its first moment."""
        with self.turn():
            self._check_file()
            with nullcontext(connection) if connection is not None else self.engine.connect() as used:
                writing = used.execution_options(taskloom_begin="BEGIN IMMEDIATE") if self.path else used
                with writing.begin():
                    yield writing

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A read transaction: one state of the database, whatever is written meanwhile."""
        with self.engine.connect() as connection, connection.begin():
            yield connection

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Among the processes that write one SQLite file, this one's turn."""
        if not self.path:
            yield
            return
        descriptor = os.open(f"{self.path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, self.path)
            yield
        finally:
            os.close(descriptor)

    def remember_file(self) -> None:
        if self.path:
            found = self.path.stat()
            self._inode = (found.st_dev, found.st_ino)

    def _check_file(self) -> None:
        """SQLite goes on writing to a file that was removed or made read-only; records there would be lost, or against the
        operator's will."""
        if not self.path or self._inode is None:
            return
        found = self.path.stat()
        if (found.st_dev, found.st_ino) != self._inode:
            raise OSError(f"{self.path} was replaced by another file")
        if not found.st_mode & 0o222:
            raise PermissionError(f"{self.path} is read-only")

    def checkpoint(self, mode: Literal["PASSIVE", "TRUNCATE"] = "PASSIVE") -> None:
        """Moves what the WAL of SQLite holds into the database file."""
        if self.path and self._journal == "wal":
            with self.turn(), self.engine.connect() as connection:
                raw: Any = connection.connection.driver_connection
                raw.execute(f"PRAGMA wal_checkpoint({mode})").fetchall()

    def close(self) -> None:
        with self.turn() if self.path and self.path.parent.exists() else nullcontext():
            self.engine.dispose()


def database_url(url: str, default: Path) -> URL:
    """The URL that settings mean; raises `ConfigError` for one that Taskloom has no use for."""
    if not url:
        return URL.create("sqlite", database=str(default))
    try:
        parsed = make_url(url)
    except ArgumentError as exc:
        raise ConfigError(f"{url!r} is no database URL; write postgresql://USER@HOST/NAME or sqlite:////PATH") from exc
    if parsed.get_backend_name() == "postgresql":
        return parsed.set(drivername="postgresql+psycopg")
    if parsed.get_backend_name() == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return parsed
    raise ConfigError(f"{parsed.render_as_string()} can't be used; write postgresql://USER@HOST/NAME or sqlite:////PATH")


def _lock(descriptor: int, path: Path) -> None:
    give_up = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError as exc:
            if time.monotonic() > give_up:
                raise TimeoutError(f"another process has been writing {path} for {LOCK_WAIT_S:.0f} s") from exc
            time.sleep(POLL_S)


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql(connection.get_execution_options().get("taskloom_begin", "BEGIN"))


def upgrade(connection: Connection, migrations: Path, version_table: str) -> None:
    """Runs the Alembic migrations in a folder, in the connection's transaction."""
    from alembic import command
    from alembic.config import Config

    if connection.dialect.name == "postgresql":  # several gateways may start at once
        connection.exec_driver_sql("SELECT pg_advisory_xact_lock(hashtext(%s))", (version_table,))
    config = Config()
    config.set_main_option("script_location", str(migrations).replace("%", "%%"))
    config.attributes.update(connection=connection, version_table=version_table)
    command.upgrade(config, "head")
