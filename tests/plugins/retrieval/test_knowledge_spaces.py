"""Which spaces a version has vectors in, and what a new embedding model means for documents that are put in again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_knowledge import SPACE, drawn_vector, embedded, numbered, put

from taskloom.core.errors import UnsupportedError
from taskloom.core.knowledge import Document, KnowledgeBase, Query

Create = Callable[..., KnowledgeBase]
NEXT = "tiny@2"
ENGLISH = Document(document_id="english", text="the fee is ten", language="en")
CHINESE = Document(document_id="chinese", text="费用是十元", language="zh")


def present_in(base: KnowledgeBase, space: str) -> set[str]:
    with base.view() as view:
        found = view.search(Query("", {space: drawn_vector("x")}, mode="dense", limit=100))
    return {hit.passage.document_id for hit in found}


def test_a_view_has_the_spaces_of_its_living_passages(base: KnowledgeBase) -> None:
    put(base, ENGLISH)
    first = base.view()
    base.put(prepared := base.prepare([ENGLISH], {"en": NEXT}), embedded(prepared, NEXT))
    base.put(base.prepare([CHINESE]), [])
    with base.view() as view, base.view(0) as empty:
        assert (first.spaces(), view.spaces(), empty.spaces()) == ({SPACE}, {NEXT}, frozenset())
    base.remove(["english"])
    with base.view() as view:
        assert view.spaces() == frozenset(), "what is left has no vector"
    first.close()
    with pytest.raises(UnsupportedError, match="closed"):
        first.spaces()


def test_spaces_read_nothing_from_disk(base: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    put(base, *numbered(3))
    with base.view() as view:
        monkeypatch.setattr(base._store, "_reading", None)  # type: ignore[attr-defined]
        monkeypatch.setattr("os.walk", None)
        assert view.spaces() == {SPACE}
        monkeypatch.undo()


def test_after_a_new_embedding_model_documents_are_embedded_again(base: KnowledgeBase) -> None:
    put(base, ENGLISH, CHINESE)
    wanted = {"en": NEXT, "zh": SPACE}
    assert base.prepare([ENGLISH, CHINESE]).unchanged == ("english", "chinese"), "nobody asked about vectors"
    prepared = base.prepare([ENGLISH, CHINESE], wanted)
    assert [document.document_id for document in prepared.documents] == ["english"]
    assert prepared.unchanged == ("chinese",)
    base.put(prepared, embedded(prepared, NEXT))
    assert present_in(base, NEXT) == {"english"}
    again = base.prepare([ENGLISH, CHINESE], wanted)
    assert (again.documents, again.unchanged) == ((), ("english", "chinese")), "once is enough"


def test_documents_from_before_there_was_a_model_are_embedded_when_there_is_one(base: KnowledgeBase) -> None:
    twin = ENGLISH.model_copy(update={"document_id": "twin"})
    base.put(base.prepare([ENGLISH, CHINESE]), [])
    prepared = base.prepare([ENGLISH, CHINESE, twin], {"en": SPACE})
    assert [document.document_id for document in prepared.documents] == ["english"]
    assert (prepared.unchanged, prepared.duplicates) == (("chinese",), {"twin": "english"})
    base.put(prepared, embedded(prepared))
    assert present_in(base, SPACE) == {"english"}


def test_one_passage_without_its_vector_is_enough(base: KnowledgeBase) -> None:
    document = Document(document_id="two", text="first part\n\nsecond part", language="en")
    put(base, document)
    store = base._store  # type: ignore[attr-defined]
    with store._writing() as connection:
        connection.execute("delete from vectors where passage = 2")
    assert base.prepare([document], {"en": SPACE}).documents == (document,)


def test_files_that_vanish_while_they_are_counted_are_not_missed(
    base: KnowledgeBase, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(base, *numbered(3))
    with base.view() as view:
        before = view.stats().disk_bytes
        monkeypatch.setattr("os.walk", lambda _: iter([(str(folder), [], ["gone", "knowledge.sqlite"])]))
        assert 0 < view.stats().disk_bytes <= before
        monkeypatch.undo()


def test_stats_go_on_while_compaction_replaces_files(create: Create) -> None:
    base = create(delta_limit=0, index="hnsw")
    put(base, *numbered(20))
    stopped, failed, counted = threading.Event(), [], []

    def look() -> None:
        try:
            while not stopped.is_set():
                with base.view() as view:
                    counted.append(view.stats().disk_bytes)
        except Exception as exc:
            failed.append(exc)

    lookers: list[Any] = [threading.Thread(target=look) for _ in range(3)]
    for one in lookers:
        one.start()
    for number in range(12):
        put(base, Document(document_id=f"new{number}", text=f"new {number}"))
        base.compact()
    stopped.set()
    for one in lookers:
        one.join()
    assert failed == []
    assert min(counted) > 0
