"""What goes in, what is kept of it, and which versions can be gone back to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from small_knowledge import SPACE, drawn_vector, embedded, ids, numbered, put

from taskloom.core.errors import (
    AlreadyExistsError,
    ArtifactError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    UnsupportedError,
)
from taskloom.core.knowledge import Document, Embedded, KnowledgeBase, Query, View
from taskloom.plugins.retrieval.plugin import FaissRetriever

Create = Callable[..., KnowledgeBase]


def present(view: View) -> set[str]:
    """The documents that a search finds, all of them."""
    query = Query("text", {SPACE: drawn_vector("text")}, limit=1000, mode="dense")
    return {hit.passage.document_id for hit in view.search(query)}


def test_a_new_knowledge_base_is_empty_and_finds_nothing(base: KnowledgeBase) -> None:
    with base.view() as view:
        assert view.version == 0
        assert view.search(Query("anything", {SPACE: drawn_vector("x")})) == []
        assert view.stats().documents == 0
    assert [(info.number, info.change) for info in base.versions()] == [(0, "create")]


def test_what_was_put_in_is_there_after_the_base_is_opened_again(
    base: KnowledgeBase, retriever: FaissRetriever, folder: Path
) -> None:
    document = Document(
        document_id="router", text="Hold the button.\n\nWait a minute.", title="Reset", language="en", metadata={"year": 2026}
    )
    assert put(base, document) == 1
    base.close()
    again = retriever.open(folder)
    with again.view() as view:
        assert view.document("router") == document
        assert view.document("modem") is None
        hit = view.search(Query("button", {SPACE: drawn_vector("Hold the button.")}))[0]
        assert (hit.passage.text, hit.passage.start, hit.passage.end) == ("Hold the button.", 0, 16)
        assert hit.passage.metadata == {"year": 2026}
        stats = view.stats()
    again.close()
    assert (stats.version, stats.documents, stats.passages, stats.languages) == (1, 1, 2, {"en": 2})
    assert stats.disk_bytes > 0
    assert [(index.space, index.vectors, index.dimensions) for index in stats.indexes] == [(SPACE, 2, 16)]


def test_only_what_is_new_or_changed_is_prepared(base: KnowledgeBase) -> None:
    put(base, *numbered(3))
    documents = [
        *numbered(2),
        Document(document_id="d0002", text="changed"),
        Document(document_id="twin", text=numbered(1)[0].text),
        Document(document_id="d0002", text="changed once more"),
        Document(document_id="binary", text="\0"),
        Document(document_id="empty", text=""),
        Document(document_id="no answer", text=" ", question="When are you open?"),
    ]
    prepared = base.prepare(documents)
    assert [document.document_id for document in prepared.documents] == ["d0002"]
    assert [passage.text for passage in prepared.passages] == ["changed"]
    assert prepared.unchanged == ("d0000", "d0001")
    assert prepared.duplicates == {"twin": "d0000"}
    assert [refused.document_id for refused in prepared.refused] == ["d0002", "binary", "empty", "no answer"]
    assert base.versions()[0].number == 1, "preparing changes nothing"


def test_a_document_whose_twin_changes_in_the_same_call_is_no_duplicate(base: KnowledgeBase) -> None:
    put(base, Document(document_id="a", text="one"))
    prepared = base.prepare([Document(document_id="a", text="two"), Document(document_id="b", text="one")])
    assert not prepared.duplicates
    assert [document.document_id for document in prepared.documents] == ["a", "b"]


def test_a_stored_document_that_comes_to_say_what_another_says_is_changed(base: KnowledgeBase) -> None:
    put(base, Document(document_id="a", text="the fee is ten"), Document(document_id="b", text="the fee was ninety"))
    documents = [Document(document_id=name, text="the fee is ten") for name in ("c", "b", "a")]
    prepared = base.prepare(documents)
    assert [document.document_id for document in prepared.documents] == ["b"]
    assert (prepared.unchanged, prepared.duplicates) == (("a",), {"c": "a"})
    put(base, *documents)
    with base.view() as view:
        found = view.search(Query("fee ninety", {}, mode="sparse"))
        assert {hit.passage.document_id: hit.passage.text for hit in found} == {"a": "the fee is ten", "b": "the fee is ten"}


def test_a_new_document_is_a_duplicate_of_a_stored_one_that_changes_with_it(base: KnowledgeBase) -> None:
    put(base, Document(document_id="b", text="the fee was ninety"))
    prepared = base.prepare([Document(document_id=name, text="the fee is ten") for name in ("c", "b")])
    assert [document.document_id for document in prepared.documents] == ["b"]
    assert prepared.duplicates == {"c": "b"}


def test_nothing_new_makes_no_version(base: KnowledgeBase) -> None:
    put(base, *numbered(3))
    assert put(base, *numbered(3)) == 1
    assert base.remove([]) == 1


def test_a_changed_document_takes_the_place_of_what_it_was(base: KnowledgeBase) -> None:
    put(base, *numbered(5))
    put(base, Document(document_id="d0002", text="something else"))
    with base.view() as view:
        assert len(present(view)) == 5
        assert view.document("d0002") == Document(document_id="d0002", text="something else")
        assert view.search(Query("number 2", {}, mode="sparse", limit=1))[0].passage.document_id != "d0002"
        assert ids(view.search(Query("something else", {}, mode="sparse"))) == ["d0002#0"]


def test_removing_takes_out_all_or_nothing(base: KnowledgeBase) -> None:
    put(base, *numbered(5))
    with pytest.raises(NotFoundError, match="'nobody'"):
        base.remove(["d0001", "nobody"])
    with base.view() as view:
        assert len(present(view)) == 5
    assert base.remove(["d0001", "d0003"]) == 2
    with base.view() as view:
        assert present(view) == {"d0000", "d0002", "d0004"}
        assert ids(view.search(Query("number 3", {}, mode="sparse", limit=10)))[0] != "d0003#0"
        assert view.document("d0001") is None
    assert base.versions()[0].documents == 3
    with pytest.raises(NotFoundError):
        base.remove(["d0001"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda good: good[:-1], "1 of 3 passages have no vector"),
        (lambda good: [*good, good[0]], "two vectors"),
        (lambda good: [*good, Embedded("d9999#0", SPACE, good[0].vector)], "no prepared passage"),
        (lambda good: [*good[:-1], Embedded(good[-1].passage_id, SPACE, good[-1].vector[:-1])], "shape"),
        (lambda good: [*good[:-1], Embedded(good[-1].passage_id, SPACE, good[-1].vector * 2)], "length 2"),
        (lambda good: [*good[:-1], Embedded(good[-1].passage_id, SPACE, good[-1].vector * np.nan)], "length nan"),
    ],
)
def test_vectors_that_do_not_fit_are_refused_and_nothing_is_stored(
    base: KnowledgeBase, wrong: Callable[[list[Embedded]], list[Embedded]], message: str
) -> None:
    prepared = base.prepare(numbered(3))
    with pytest.raises(InvalidInputError, match=message):
        base.put(prepared, wrong(embedded(prepared)))
    assert base.versions()[0].number == 0
    base.put(prepared, embedded(prepared))


def test_passages_that_nothing_embeds_are_found_by_their_words(base: KnowledgeBase) -> None:
    prepared = base.prepare(numbered(3))
    base.put(prepared, [])
    with base.view() as view:
        assert ids(view.search(Query("number 2", {}, mode="sparse", limit=1))) == ["d0002#0"]
        assert len(view.search(Query("number 2", {SPACE: drawn_vector("x")}))) == 3
        assert view.stats().indexes == ()


def test_a_view_sees_its_version_whatever_happens(create: Create) -> None:
    base = create(keep_versions=1, delta_limit=0)
    put(base, *numbered(20))
    view = base.view()
    before, stats = view.search(Query("number 3", {SPACE: drawn_vector("x")}, limit=20)), view.stats()
    base.remove(["d0003"])
    put(base, Document(document_id="d0004", text="number 3 number 3"))
    base.compact()
    assert view.search(Query("number 3", {SPACE: drawn_vector("x")}, limit=20)) == before
    assert view.document("d0003") is not None
    assert view.stats().documents == stats.documents == 20
    view.close()
    with pytest.raises(UnsupportedError, match="closed"):
        view.search(Query("number 3", {SPACE: drawn_vector("x")}))


def test_older_versions_can_be_viewed_and_gone_back_to(base: KnowledgeBase) -> None:
    put(base, *numbered(4))
    base.remove(["d0000"])
    put(base, *numbered(2, start=10), Document(document_id="d0001", text="changed"))
    with base.view(1) as first, base.view(2) as second, base.view() as newest:
        assert present(first) == {"d0000", "d0001", "d0002", "d0003"}
        assert present(second) == {"d0001", "d0002", "d0003"}
        assert present(newest) == {"d0001", "d0002", "d0003", "d0010", "d0011"}
        assert first.document("d0001") == numbered(2)[1]
    assert base.rollback(1) == 4
    with base.view() as view, base.view(3) as third:
        assert present(view) == {"d0000", "d0001", "d0002", "d0003"}
        assert view.document("d0001") == numbered(2)[1]
        assert present(third) == {"d0001", "d0002", "d0003", "d0010", "d0011"}
        assert view.stats().languages == {"": 4}
    assert base.rollback(3) == 5
    assert [(info.number, info.change, info.documents) for info in base.versions()] == [
        (5, "rollback", 5),
        (4, "rollback", 4),
        (3, "put", 5),
        (2, "remove", 3),
        (1, "put", 4),
        (0, "create", 0),
    ]
    with pytest.raises(NotFoundError, match="there are: 0, 1, 2, 3, 4, 5"):
        base.rollback(77)
    with pytest.raises(NotFoundError):
        base.view(77)


def test_what_was_rolled_back_is_not_known_any_more(base: KnowledgeBase) -> None:
    put(base, *numbered(2))
    put(base, *numbered(2, start=2))
    base.rollback(1)
    assert len(base.prepare(numbered(4)).documents) == 2


def test_the_last_versions_and_the_named_ones_are_kept(create: Create, retriever: FaissRetriever, folder: Path) -> None:
    base = create(keep_versions=2)
    put(base, *numbered(2))
    assert base.snapshot("first").number == 1
    for start in (10, 20, 30):
        put(base, *numbered(2, start=start))
    assert [info.number for info in base.versions()] == [4, 3, 1]
    with pytest.raises(NotFoundError):
        base.view(2)
    base.compact()
    with base.view(1) as view:
        assert present(view) == {"d0000", "d0001"}
    with pytest.raises(AlreadyExistsError, match="version 1"):
        base.snapshot("first")
    with pytest.raises(NotFoundError, match="'frist'; did you mean 'first'"):
        base.drop_snapshot("frist")
    assert base.drop_snapshot("first").number == 1
    assert [info.number for info in base.versions()] == [4, 3]


def test_compaction_deletes_what_no_kept_version_has(create: Create, folder: Path) -> None:
    base = create(keep_versions=2, delta_limit=0)
    put(base, *numbered(30))
    put(base, Document(document_id="d0000", text="changed"))
    base.remove([document.document_id for document in numbered(29, start=1)])
    base.compact()
    with base.view(2) as view:
        assert len(present(view)) == 30, "the version before is kept"
    put(base, Document(document_id="new", text="new"))
    put(base, Document(document_id="newer", text="newer"))
    base.compact()
    with base.view() as view:
        assert present(view) == {"d0000", "new", "newer"}
    base.close()
    connection = sqlite3.connect(folder / "knowledge.sqlite")
    counts = {
        table: connection.execute(f"select count(*) from {table}").fetchone()[0]
        for table in ("documents", "lives", "passages", "vectors")
    }
    connection.close()
    assert counts == {"documents": 3, "lives": 3, "passages": 3, "vectors": 3}


def test_what_a_snapshot_alone_had_goes_when_it_is_dropped(create: Create, folder: Path) -> None:
    base = create(keep_versions=1, delta_limit=10)
    put(base, *numbered(30))
    base.snapshot("first")
    base.remove([document.document_id for document in numbered(29, start=1)])
    base.compact()

    def passages() -> int:
        with closing(sqlite3.connect(folder / "knowledge.sqlite")) as connection:
            return int(connection.execute("select count(*) from passages").fetchone()[0])

    assert passages() == 30
    base.drop_snapshot("first")
    base._compaction.join()  # type: ignore[attr-defined]
    assert passages() == 1
    with base.view() as view:
        assert present(view) == {"d0000"}


def test_a_change_costs_what_it_changes_not_what_there_is(base: KnowledgeBase) -> None:
    store, steps = base._store, []  # type: ignore[attr-defined]
    store._writer.set_progress_handler(lambda: steps.append(1), 10)
    costs = []
    for start in (0, 1000):
        prepared = base.prepare(numbered(1000, start=start))
        base.put(prepared, [])
        steps.clear()
        base.put(base.prepare([Document(document_id="d0007", text=f"changed {start}")]), [])
        base.remove([f"d{start:04}"])
        costs.append(len(steps))
    assert costs[1] < 1.3 * costs[0]


def test_one_at_a_time_may_open_it(base: KnowledgeBase, retriever: FaissRetriever, folder: Path) -> None:
    with pytest.raises(UnavailableError, match="open already"):
        retriever.open(folder)
    base.close()
    retriever.open(folder).close()


def test_a_folder_that_is_there_is_not_made_a_knowledge_base(
    base: KnowledgeBase, retriever: FaissRetriever, folder: Path
) -> None:
    with pytest.raises(AlreadyExistsError):
        retriever.create(folder, retriever.Config())
    with pytest.raises(ArtifactError, match="no such folder"):
        retriever.open(folder.with_name("nowhere"))


@pytest.mark.parametrize(
    ("statement", "message"),
    [("pragma user_version = 99", "version 99 of the layout"), ("pragma application_id = 5", "no knowledge base")],
)
def test_another_layout_is_refused(
    base: KnowledgeBase, retriever: FaissRetriever, folder: Path, statement: str, message: str
) -> None:
    base.close()
    connection = sqlite3.connect(folder / "knowledge.sqlite")
    connection.execute(statement)
    connection.commit()
    connection.close()
    with pytest.raises(ArtifactError, match=message):
        retriever.open(folder)


def test_a_damaged_database_is_an_artifact_error(base: KnowledgeBase, retriever: FaissRetriever, folder: Path) -> None:
    put(base, *numbered(50))
    base.close()
    path = folder / "knowledge.sqlite"
    content = bytearray(path.read_bytes())
    for page in range(2, len(content) // 4096):
        content[page * 4096 : page * 4096 + 16] = b"\xff" * 16
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="damaged"):
        retriever.open(folder)


def test_a_closed_base_says_so(base: KnowledgeBase) -> None:
    put(base, *numbered(2))
    view = base.view()
    base.close()
    base.close()
    for use in (base.compact, base.view, lambda: view.document("d0000"), lambda: base.remove(["d0000"])):
        with pytest.raises(UnsupportedError, match="closed"):
            use()
