"""How a change is written: revisions of documents, and the versions that they can be seen in."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.knowledge import Document, Passage
from taskloom.core.knowledge_graph import Extraction
from taskloom.plugins.retrieval.filters import facts_of
from taskloom.plugins.retrieval.graph.tables import insert_extraction
from taskloom.plugins.retrieval.schema import checksum


def document_digest(document: Document) -> str:
    """Equal for documents that are the same in everything but their id."""
    return sha256_hex(canonical_json(document.model_dump(mode="json", exclude={"document_id"})))


def content_digest(document: Document) -> str:
    """Equal for documents that say the same, wherever they came from and whatever they are filtered by."""
    return sha256_hex(canonical_json([document.text, document.title, document.question]))


@dataclass(frozen=True)
class Revision:
    """A document as it is stored: its passages, and for each of them its vectors by space id. `extractions` are by passage id,
    and only for bases that keep a graph."""

    document: Document
    passages: Sequence[Passage]
    vectors: Sequence[Mapping[int, bytes]]
    extractions: Mapping[str, Extraction] = field(default_factory=dict)


def end_lives(connection: sqlite3.Connection, version: int, document_ids: Sequence[str]) -> None:
    """The plus keeps SQLite from going through everything that lives, by the other index."""
    connection.executemany(
        "update lives set removed = ? where document in (select row from documents where document_id = ?) and +removed is null",
        ((version, document_id) for document_id in document_ids),
    )


def insert_revision(connection: sqlite3.Connection, version: int, revision: Revision) -> None:
    document, body = revision.document, revision.document.model_dump_json()
    row = connection.execute(
        "insert into documents (document_id, digest, content, passages, body, crc) values (?, ?, ?, ?, ?, ?)",
        (
            document.document_id,
            document_digest(document),
            content_digest(document),
            len(revision.passages),
            body,
            checksum(body),
        ),
    ).lastrowid
    connection.execute("insert into lives values (?, ?, null)", (row, version))
    connection.executemany(
        "insert into facts (name, value, document) values (?, ?, ?)", ((*fact, row) for fact in facts_of(document.metadata))
    )
    for passage, vectors in zip(revision.passages, revision.vectors, strict=True):
        body = passage.model_dump_json()
        place = connection.execute(
            "insert into passages (document, passage_id, language, body, crc) values (?, ?, ?, ?, ?)",
            (row, passage.passage_id, passage.language, body, checksum(body)),
        ).lastrowid
        connection.executemany(
            "insert into vectors values (?, ?, ?, ?)", ((space, place, blob, checksum(blob)) for space, blob in vectors.items())
        )
        extraction = revision.extractions.get(passage.passage_id)
        if extraction is not None:
            assert row is not None
            assert place is not None
            insert_extraction(connection, row, place, passage, extraction)


def close_version(connection: sqlite3.Connection, version: int, change: str) -> int:
    """Counts what changed, not what there is."""
    documents, passages = connection.execute(
        "select documents, passages from versions where number = ?", (version - 1,)
    ).fetchone()
    for column, sign in (("added", 1), ("removed", -1)):
        several, parts = connection.execute(
            "select count(*), coalesce(sum(d.passages), 0) from lives l join documents d on d.row = l.document "  # noqa: S608
            f"where l.{column} = ?",
            (version,),
        ).fetchone()
        documents, passages = documents + sign * several, passages + sign * parts
    connection.execute("insert into versions values (?, ?, ?, ?, ?, null)", (version, now(), change, documents, passages))
    return version


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")
