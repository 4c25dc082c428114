"""What a knowledge base knows, in one SQLite file: the truth that the indexes are derived from."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from taskloom.core.errors import AlreadyExistsError, ArtifactError, UnavailableError, UnsupportedError
from taskloom.core.knowledge import Document, Passage, VersionInfo
from taskloom.core.store import sync_path
from taskloom.plugins.retrieval.changes import Revision, close_version, end_lives, insert_revision, now
from taskloom.plugins.retrieval.config import KnowledgeConfig, stored_config
from taskloom.plugins.retrieval.filters import Ints
from taskloom.plugins.retrieval.graph.tables import TABLES as GRAPH_TABLES
from taskloom.plugins.retrieval.graph.tables import GraphTables, prune_graph
from taskloom.plugins.retrieval.schema import checksum, connect, create_tables, damaged, is_damage, opened

Floats = NDArray[np.float32]

DATABASE = "knowledge.sqlite"
LOCK = "lock"
AT_ONCE = 500
"""Parameters in one statement."""


@dataclass(frozen=True)
class IndexRecord:
    """An index file as it was written: `rows` are the passages it holds, by place; `facts` say how to read it."""

    target: str
    path: str
    sha256: str
    rows: Ints
    facts: Mapping[str, Any]


class PassageStore:
    """One process opens it, which a lock on the folder sees to. Writes come from one thread at a time, which the caller sees
    to; reads from any, each on a connection of its own out of a pool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._closed = False
        self._lock = _locked(folder)
        self._idle: list[sqlite3.Connection] = []
        try:
            path = folder / DATABASE
            if not path.is_file():
                raise ArtifactError(f"there is no knowledge base in {folder.name}: {DATABASE} is missing")
            self._writer = opened(path)
        except BaseException:
            self._lock.close()
            raise
        try:
            self.config = stored_config(self._setting("config"))
            self.dtype = np.dtype(self.config.dtype)
            self.graph = GraphTables(self._read, partial(damaged, folder)) if self.config.graph else None
        except BaseException as exc:
            self.close()
            if isinstance(exc, ValueError):
                raise damaged(folder, exc) from exc
            raise

    @classmethod
    def create(cls, folder: Path, config: KnowledgeConfig) -> PassageStore:
        """A store with version 0, which is empty. Made aside and renamed: a folder is there whole or not at all."""
        if folder.exists():
            raise AlreadyExistsError(f"{folder.name} is there already; open it, or choose another folder")
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = folder.with_name(f".{folder.name}.{os.getpid()}.new")
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        connection = connect(aside / DATABASE, writes=True)
        create_tables(connection, GRAPH_TABLES if config.graph else "")
        connection.execute("insert into settings values ('config', ?)", (config.model_dump_json(),))
        connection.execute("insert into versions values (0, ?, 'create', 0, 0, null)", (now(),))
        connection.close()
        try:
            aside.rename(folder)
        except OSError as exc:
            shutil.rmtree(aside, ignore_errors=True)
            raise AlreadyExistsError(f"{folder.name} has just been made by somebody else; open it") from exc
        sync_path(folder)
        sync_path(folder.parent)
        return cls(folder)

    def close(self) -> None:
        self._closed = True
        while self._idle:
            self._idle.pop().close()
        self._writer.close()
        self._lock.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        if self._closed:
            raise UnsupportedError("this knowledge base is closed; open it again")
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = connect(self.folder / DATABASE, writes=False)
        try:
            yield connection
        finally:
            connection.close() if self._closed else self._idle.append(connection)

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction; on stable storage when this ends."""
        self._writer.execute("begin immediate")
        try:
            yield self._writer
            self._writer.execute("commit")
        except BaseException:
            if self._writer.in_transaction:  # some errors, a full disk among them, have rolled back already
                self._writer.execute("rollback")
            raise

    def _read(self, question: str, values: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        with self._reading() as connection:
            try:
                return connection.execute(question, values).fetchall()
            except sqlite3.DatabaseError as exc:
                if is_damage(exc):
                    raise damaged(self.folder, exc) from exc
                raise

    def _checked(self, content: str | bytes, crc: int, what: str) -> Any:
        if checksum(content) != crc:
            raise damaged(self.folder, f"{what} is not what was written")
        return content

    def _setting(self, name: str) -> str:
        found = self._read("select value from settings where name = ?", (name,))
        if not found:
            raise ArtifactError(f"the knowledge base in {self.folder.name} has no {name}: it was not made to its end")
        return str(found[0][0])

    # What is there

    def versions(self) -> list[VersionInfo]:
        """Those that can be viewed, the newest first: the last ones, and those with a name."""
        names = ("number", "created", "change", "documents", "passages", "name")
        found = self._read(
            f"select {', '.join(names)} from versions "  # noqa: S608
            "where name is not null or number > (select max(number) from versions) - ? order by number desc",
            (self.config.keep_versions,),
        )
        return [VersionInfo(**dict(zip(names, (*row[:-1], row[-1] or ""), strict=True))) for row in found]

    def counts(self, version: int) -> tuple[int, int]:
        """How many documents and passages a version was made with."""
        return tuple(self._read("select documents, passages from versions where number = ?", (version,))[0])

    def newest(self) -> int:
        return int(self._read("select max(number) from versions")[0][0])

    def documents_at(self, version: int) -> Ints:
        """The rows of the documents that a version has, ascending."""
        seen = "select document from lives where added <= ?1 and (removed is null or removed > ?1) order by document"
        return _ints(self._read(seen, (version,)))

    def ended_at(self, version: int) -> Ints:
        """The rows of the documents that a version no longer has, ascending."""
        return _ints(self._read("select document from lives where removed = ? order by document", (version,)))

    def document(self, document_id: str, version: int) -> Document | None:
        found = self._read(
            "select d.body, d.crc from documents d join lives l on l.document = d.row "
            "where d.document_id = ?1 and +l.added <= ?2 and (+l.removed is null or +l.removed > ?2)",
            (document_id, version),
        )
        return Document.model_validate_json(self._checked(found[0][0], found[0][1], document_id)) if found else None

    def live(self, column: str, values: Sequence[str]) -> list[tuple[str, str, str]]:
        """Id, digest and content digest of the newest version's documents of which a column is one of some values."""
        found: list[tuple[str, str, str]] = []
        for part in _parts(values):
            found += self._read(
                f"select d.document_id, d.digest, d.content from documents d join lives l on l.document = d.row "  # noqa: S608
                f"where d.{column} in ({_marks(part)}) and +l.removed is null",
                part,
            )
        return found

    def without_vectors(self, document_ids: Sequence[str], spaces: Mapping[str, str]) -> set[str]:
        """Those of the newest version's documents that have a passage without a vector in the space of its language."""
        known = self.spaces()
        found: set[str] = set()
        for language, space in spaces.items():
            number = known[space][0] if space in known else None
            for part in _parts(document_ids):
                rows = self._read(
                    "select d.document_id from documents d join lives l on l.document = d.row "  # noqa: S608
                    f"where d.document_id in ({_marks(part)}) and +l.removed is null and exists (select 1 from passages p "
                    "where p.document = d.row and p.language = ? and not exists "
                    "(select 1 from vectors v where v.space = ? and v.passage = p.row))",
                    (*part, language, number),
                )
                found.update(row[0] for row in rows)
        return found

    def catalog(self, after: int = 0) -> tuple[Ints, Ints]:
        """The passages' rows beyond `after`, ascending, and the document of each."""
        found = np.array(self._read("select row, document from passages where row > ? order by row", (after,)), np.int64)
        return tuple(np.ascontiguousarray(column) for column in found.reshape(-1, 2).T)  # type: ignore[return-value]

    def facts(self, name: str, after: int, upto: int) -> list[tuple[str, int]]:
        return self._read(
            "select value, document from facts where name = ? and document > ? and document <= ? order by document",
            (name, after, upto),
        )

    def passages(self, rows: Sequence[int]) -> dict[int, Passage]:
        found: dict[int, Passage] = {}
        for part in _parts(rows):
            bodies = self._read(f"select row, body, crc from passages where row in ({_marks(part)})", part)  # noqa: S608
            found.update((row, self._passage(row, body, crc)) for row, body, crc in bodies)
        return found

    def _passage(self, row: int, body: str, crc: int) -> Passage:
        return Passage.model_validate_json(self._checked(body, crc, f"passage {row}"))

    def passage_ids(self, rows: Sequence[int]) -> dict[int, str]:
        found: dict[int, str] = {}
        for part in _parts(rows):
            found.update(self._read(f"select row, passage_id from passages where row in ({_marks(part)})", part))  # noqa: S608
        return found

    def texts(self, after: int) -> Iterator[tuple[int, str]]:
        """Row and searchable text of the passages beyond a row, in the order of rows."""
        while found := self._read("select row, body, crc from passages where row > ? order by row limit 2000", (after,)):
            for row, body, crc in found:
                yield row, self._passage(row, body, crc).searchable
            after = found[-1][0]

    def languages(self, version: int) -> dict[str, int]:
        return dict(
            self._read(
                "select p.language, count(*) from passages p join lives l on l.document = p.document "
                "where l.added <= ?1 and (l.removed is null or l.removed > ?1) group by p.language order by p.language",
                (version,),
            )
        )

    def languages_of(self, documents: Ints) -> Counter[str]:
        """The passages of some documents by language."""
        found: Counter[str] = Counter()
        for part in _parts([int(row) for row in documents]):
            question = f"select language, count(*) from passages where document in ({_marks(part)}) group by language"  # noqa: S608
            found.update(dict(self._read(question, part)))
        return found

    # Vectors

    def spaces(self) -> dict[str, tuple[int, int]]:
        """Id and dimensions of each space, by name."""
        return {name: (space, size) for space, name, size in self._read("select id, name, dimensions from spaces order by id")}

    def vector_rows(self, space: int, after: int = 0) -> Ints:
        """The passages beyond a row that have a vector in a space, ascending."""
        return _ints(self._read("select passage from vectors where space = ? and passage > ? order by passage", (space, after)))

    def vectors(self, space: int, rows: Ints) -> Floats:
        """The vectors [rows, D] of passages in a space. Raises `ArtifactError` if one isn't there."""
        found: dict[int, bytes] = {}
        for part in _parts([int(row) for row in rows]):
            question = f"select passage, vector, crc from vectors where space = ? and passage in ({_marks(part)})"  # noqa: S608
            for passage, vector, crc in self._read(question, (space, *part)):
                found[passage] = self._checked(vector, crc, f"the vector of passage {passage}")
        try:
            blobs = b"".join([found[int(row)] for row in rows])
        except KeyError as exc:
            raise damaged(self.folder, f"the vector of passage {exc} is lost") from exc
        return np.frombuffer(blobs, self.dtype).reshape(len(rows), -1).astype(np.float32)

    # Changes: each returns the version that it made

    def add_space(self, name: str, dimensions: int) -> int:
        with self._writing() as connection:
            added = connection.execute("insert into spaces (name, dimensions) values (?, ?) returning id", (name, dimensions))
            return int(added.fetchone()[0])

    def put(self, revisions: Sequence[Revision]) -> int:
        with self._writing() as connection:
            version = self._next(connection)
            end_lives(connection, version, [revision.document.document_id for revision in revisions])
            for revision in revisions:
                insert_revision(connection, version, revision)
            return close_version(connection, version, "put")

    def remove(self, document_ids: Sequence[str]) -> int:
        with self._writing() as connection:
            version = self._next(connection)
            end_lives(connection, version, document_ids)
            return close_version(connection, version, "remove")

    def rollback(self, to: int) -> int:
        then, now = set(self.documents_at(to).tolist()), set(self.documents_at(self.newest()).tolist())
        with self._writing() as connection:
            version = self._next(connection)
            ended, back = sorted(now - then), sorted(then - now)
            connection.executemany(
                "update lives set removed = ? where document = ? and +removed is null", ((version, row) for row in ended)
            )
            connection.executemany("insert into lives values (?, ?, null)", ((row, version) for row in back))
            return close_version(connection, version, "rollback")

    def name_version(self, number: int, name: str | None) -> None:
        with self._writing() as connection:
            connection.execute("update versions set name = ? where number = ?", (name, number))

    def prune(self, kept: Iterable[int]) -> None:
        """Deletes the versions that are not kept, and what none of the kept ones has."""
        with self._writing() as connection:
            connection.execute("create temp table kept (number integer primary key)")
            connection.executemany("insert into kept values (?)", ((number,) for number in kept))
            connection.execute("delete from versions where number not in (select number from kept)")
            connection.execute(
                "delete from lives where removed is not null and not exists "
                "(select 1 from kept where number >= lives.added and number < lives.removed)"
            )
            connection.execute(
                "create temp table dead as select row from documents where row not in (select document from lives)"
            )
            connection.execute(
                "delete from vectors where passage in (select row from passages where document in (select row from dead))"
            )
            for table, column in (("passages", "document"), ("facts", "document"), ("documents", "row")):
                connection.execute(f"delete from {table} where {column} in (select row from dead)")  # noqa: S608
            if self.graph is not None:
                prune_graph(connection)
            connection.execute("drop table dead")
            connection.execute("drop table kept")

    @staticmethod
    def _next(connection: sqlite3.Connection) -> int:
        return int(connection.execute("select max(number) + 1 from versions").fetchone()[0])

    # Index files

    def indexes(self) -> dict[str, IndexRecord]:
        found = self._read("select target, path, sha256, rows, facts from indexes")
        return {
            target: IndexRecord(target, path, sha256, np.frombuffer(rows, np.int64), json.loads(facts))
            for target, path, sha256, rows, facts in found
        }

    def record_indexes(self, records: Sequence[IndexRecord]) -> None:
        """From here on these are the indexes, and no others."""
        with self._writing() as connection:
            connection.execute("delete from indexes")
            connection.executemany(
                "insert into indexes values (?, ?, ?, ?, ?)",
                ((one.target, one.path, one.sha256, one.rows.tobytes(), json.dumps(dict(one.facts))) for one in records),
            )


def _locked(folder: Path) -> IO[bytes]:
    if not folder.is_dir():
        raise ArtifactError(f"there is no knowledge base in {folder.name}: no such folder")
    handle = (folder / LOCK).open("ab")
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        handle.close()
        raise UnavailableError(
            f"the knowledge base in {folder.name} is open already, and one process at a time may write to it; close it there"
        ) from exc
    return handle


def _ints(rows: list[Any]) -> Ints:
    return np.fromiter((row[0] for row in rows), np.int64, len(rows))


def _parts(values: Sequence[Any]) -> Iterator[Sequence[Any]]:
    for at in range(0, len(values), AT_ONCE):
        yield values[at : at + AT_ONCE]


def _marks(values: Sequence[Any]) -> str:
    return ", ".join("?" * len(values))
