"""A database that is not what was written any more: said when it is opened or read, never answered from."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from small_knowledge import SPACE, drawn_vector, numbered, put

from taskloom.core.errors import ArtifactError
from taskloom.core.knowledge import Document, KnowledgeBase, Query
from taskloom.plugins.retrieval.plugin import FaissRetriever

REMEDY = "the knowledge base in base is damaged .*; take the folder back from a backup, or build it anew"


def flip(folder: Path, written: bytes) -> None:
    """One bit of the first place in the file where something was written, and of no other."""
    path = folder / "knowledge.sqlite"
    content = bytearray(path.read_bytes())
    at = content.index(written)
    content[at + len(written) // 2] ^= 1
    path.write_bytes(content)


def use(retriever: FaissRetriever, folder: Path) -> None:
    """Opens it, and reads everything that there is."""
    with closing(retriever.open(folder)) as base, base.view() as view:
        for name in ("router", "modem"):
            view.document(name)
        view.search(Query("hold wait button", {SPACE: drawn_vector("x")}))


@pytest.fixture
def closed(base: KnowledgeBase, folder: Path) -> Path:
    put(base, Document(document_id="router", text="Hold the button."), Document(document_id="modem", text="Wait a minute."))
    base.close()
    return folder


@pytest.mark.parametrize(
    "written",
    [
        b'"text":"Hold the button.","start"',
        b'"text":"Hold the button.","title":"","question":"","language":"","source":"","metadata":{}}',
        drawn_vector("Hold the button.").astype("float16").tobytes(),
        b'{"passage_size"',
    ],
    ids=["passage", "document", "vector", "config"],
)
def test_a_flipped_bit_is_noticed(retriever: FaissRetriever, closed: Path, written: bytes) -> None:
    use(retriever, closed)
    flip(closed, written)
    with pytest.raises(ArtifactError, match=REMEDY):
        use(retriever, closed)


@pytest.mark.parametrize("change", ["lives set removed = 0 where document = 1", "passages set document = 77 where row = 1"])
def test_documents_and_passages_that_dropped_out_of_their_version_are_missed(
    retriever: FaissRetriever, closed: Path, change: str
) -> None:
    with closing(sqlite3.connect(closed / "knowledge.sqlite")) as connection, connection:
        connection.execute(f"update {change}")
    with pytest.raises(ArtifactError, match=REMEDY):
        retriever.open(closed)


def test_text_that_is_no_text_any_more_is_damage(retriever: FaissRetriever, closed: Path) -> None:
    with closing(sqlite3.connect(closed / "knowledge.sqlite")) as connection, connection:
        connection.execute("update passages set body = cast(x'ff' as text)")
    with pytest.raises(ArtifactError, match=REMEDY):
        use(retriever, closed)


def test_what_an_index_record_cannot_be_read_from_is_damage(
    base: KnowledgeBase, retriever: FaissRetriever, folder: Path
) -> None:
    put(base, *numbered(3))
    base.close()
    with closing(sqlite3.connect(folder / "knowledge.sqlite")) as connection, connection:
        connection.execute("insert into indexes values ('sparse', 'sparse', '', x'00', '{')")
    with pytest.raises(ArtifactError, match=REMEDY):
        retriever.open(folder)
