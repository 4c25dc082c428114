"""The tables of a knowledge base, and how its database is opened.

A revision of a document never changes; its passages and their vectors belong to it. In which versions it can be seen is said
by its rows in `lives`: from `added` up to, but without, `removed`. So every version is exact, a change writes what it changes,
and going back to a version copies nothing but intervals. SQLite keeps no checksums: beside each body and vector stands its own.
"""

from __future__ import annotations

import sqlite3
import zlib
from pathlib import Path

from taskloom.core.errors import ArtifactError

APPLICATION_ID = 0x544B4231
"""Marks the file as a knowledge base of Taskloom."""

SCHEMA_VERSION = 2

TABLES = """
create table settings (name text primary key, value text not null) without rowid;
create table versions (
    number integer primary key, created text not null, change text not null,
    documents integer not null, passages integer not null, name text unique
);
create table documents (
    row integer primary key autoincrement, document_id text not null, digest text not null, content text not null,
    passages integer not null, body text not null, crc integer not null
);
create index documents_by_id on documents (document_id);
create index documents_by_content on documents (content);
create table lives (document integer not null references documents (row), added integer not null, removed integer);
create index lives_by_document on lives (document);
create index lives_by_added on lives (added);
create index lives_by_removed on lives (removed);
create table facts (
    name text not null, document integer not null, value text not null, primary key (name, document, value)
) without rowid;
create index facts_by_document on facts (document);
create table passages (
    row integer primary key autoincrement, document integer not null, passage_id text not null, language text not null,
    body text not null, crc integer not null
);
create index passages_by_document on passages (document);
create table spaces (id integer primary key, name text not null unique, dimensions integer not null);
create table vectors (
    space integer not null, passage integer not null, vector blob not null, crc integer not null, primary key (space, passage)
) without rowid;
create index vectors_by_passage on vectors (passage);
create table indexes (
    target text primary key, path text not null, sha256 text not null, rows blob not null, facts text not null
) without rowid;
"""


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """A connection that any thread may use, one at a time. Only the writer checkpoints: SQLite before 3.51.3 can lose pages
    when several connections do."""
    connection = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=60.0, cached_statements=256)
    if writes:
        connection.execute("pragma journal_mode = wal")
        connection.execute("pragma synchronous = full")
        connection.execute("pragma foreign_keys = on")
    else:
        connection.execute("pragma query_only = on")
        connection.execute("pragma wal_autocheckpoint = 0")
    return connection


def create_tables(connection: sqlite3.Connection, more: str = "") -> None:
    """The tables of every base, and `more` that only some have."""
    connection.executescript(
        f"begin; {TABLES} {more} pragma application_id = {APPLICATION_ID}; pragma user_version = {SCHEMA_VERSION}; commit;"
    )


def opened(path: Path) -> sqlite3.Connection:
    """The writer's connection. Raises `ArtifactError` unless this is a sound knowledge base."""
    try:
        connection = connect(path, writes=True)
    except sqlite3.DatabaseError as exc:
        raise damaged(path.parent, exc) from exc
    try:
        check(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def damaged(folder: Path, why: object) -> ArtifactError:
    reason = str(why).partition("\n")[0]
    return ArtifactError(
        f"the knowledge base in {folder.name} is damaged ({reason}); take the folder back from a backup, or build it anew"
    )


def checksum(content: str | bytes) -> int:
    """CRC-32 of a body or a vector: notices every flipped bit."""
    return zlib.crc32(content.encode() if isinstance(content, str) else content)


def is_damage(error: sqlite3.DatabaseError) -> bool:
    """Whether it says that the file is not what was written, and not that it cannot be read now."""
    return type(error) is sqlite3.DatabaseError or "decode" in str(error)


def check(connection: sqlite3.Connection, path: Path) -> None:
    """Raises `ArtifactError` unless this is a sound knowledge base of a version that this code knows."""
    try:
        application = connection.execute("pragma application_id").fetchone()[0]
        version = connection.execute("pragma user_version").fetchone()[0]
        sound = connection.execute("pragma quick_check(1)").fetchone()[0]
    except sqlite3.DatabaseError as exc:
        raise damaged(path.parent, exc) from exc
    if application != APPLICATION_ID:
        raise ArtifactError(f"{path.name} holds no knowledge base of Taskloom")
    if version != SCHEMA_VERSION:
        raise ArtifactError(
            f"this knowledge base has version {version} of the layout, and this Taskloom knows version {SCHEMA_VERSION}; "
            "use the Taskloom that made it, or build it anew"
        )
    if sound != "ok":
        raise damaged(path.parent, sound)
