"""A change that is stored, and then fails before it is in memory; and a change that cannot be stored."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_knowledge import SPACE, drawn_vector, embedded, ids, numbered, put

from taskloom.core.errors import ArtifactError, UnavailableError
from taskloom.core.knowledge import Document, KnowledgeBase, Query
from taskloom.plugins.retrieval import incoming
from taskloom.plugins.retrieval.plugin import FaissRetriever

Create = Callable[..., KnowledgeBase]


def failing(monkeypatch: pytest.MonkeyPatch, base: Any, method: str, error: BaseException, times: int) -> None:
    """One of the store's methods fails some times, and works then."""
    works, left = getattr(base._store, method), [error] * times

    def fail(*given: Any) -> Any:
        if left:
            raise left.pop()
        return works(*given)

    monkeypatch.setattr(base._store, method, fail)


def answers(base: KnowledgeBase, text: str) -> tuple[list[str], list[tuple[str, float]]]:
    """What words and the vector of a text find."""
    with base.view() as view:
        words = ids(view.search(Query(text, {}, mode="sparse", limit=1)))
        near = view.search(Query(text, {SPACE: drawn_vector(text)}, mode="dense", limit=1))
    return words, [(hit.passage.passage_id, round(hit.score, 2)) for hit in near]


@pytest.mark.parametrize("indexed", [False, True])
def test_a_put_that_fails_after_it_was_stored_is_in_memory_all_the_same(
    create: Create, monkeypatch: pytest.MonkeyPatch, indexed: bool
) -> None:
    base = create(delta_limit=0 if indexed else 4000)
    put(base, *numbered(20))
    if indexed:
        base.compact()
    failing(monkeypatch, base, "catalog", sqlite3.OperationalError("unable to open database file"), 1)
    assert put(base, Document(document_id="zebra", text="zebra alpha")) == 2
    assert put(base, Document(document_id="giraffe", text="giraffe beta")) == 3
    for name, text in (("zebra", "zebra alpha"), ("giraffe", "giraffe beta"), ("d0003", numbered(4)[3].text)):
        assert answers(base, text)[1] == [(f"{name}#0", 1.0)]
    assert answers(base, "zebra")[0] == ["zebra#0"]
    assert answers(base, "giraffe")[0] == ["giraffe#0"]


def test_removing_and_going_back_survive_the_same(base: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    put(base, *numbered(3))
    failing(monkeypatch, base, "ended_at", MemoryError(), 1)
    assert base.remove(["d0001"]) == 2
    with base.view() as view:
        assert (view.version, view.stats().passages) == (2, 2)
        assert "d0001#0" not in ids(view.search(Query("text number", {}, mode="sparse")))
    failing(monkeypatch, base, "languages", MemoryError(), 1)
    assert base.rollback(1) == 3
    with base.view() as view:
        assert (view.version, len(view.search(Query("text number", {}, mode="sparse")))) == (3, 3)


def test_an_interrupt_is_passed_on_and_memory_follows(base: KnowledgeBase, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch, base, "catalog", KeyboardInterrupt(), 1)
    with pytest.raises(KeyboardInterrupt):
        put(base, *numbered(2))
    assert put(base, Document(document_id="giraffe", text="giraffe beta")) == 2
    assert answers(base, "giraffe beta") == (["giraffe#0"], [("giraffe#0", 1.0)])


def test_a_base_that_cannot_catch_up_answers_nothing_until_it_is_opened_again(
    base: KnowledgeBase, retriever: FaissRetriever, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(base, *numbered(3))
    failing(monkeypatch, base, "catalog", sqlite3.OperationalError("disk I/O error"), 2)
    with pytest.raises(sqlite3.OperationalError):
        put(base, Document(document_id="zebra", text="zebra alpha"))
    for use in (base.view, lambda: base.remove(["d0000"]), lambda: put(base, *numbered(2, start=10)), base.compact):
        with pytest.raises(UnavailableError, match="open it again"):
            use()
    base.close()
    again = retriever.open(folder)
    assert answers(again, "zebra alpha") == (["zebra#0"], [("zebra#0", 1.0)])
    again.close()


def test_passages_are_never_paired_with_the_vectors_of_others(base: KnowledgeBase) -> None:
    prepared = base.prepare(numbered(2))
    vectors = {one.passage_id: {SPACE: one.vector} for one in embedded(prepared)}
    rows = np.arange(1, 4)
    with pytest.raises(ArtifactError, match=r"3 passages .* 2 were put in"):
        incoming.new_passages(
            rows,
            rows,
            list(vectors),
            tokens={name: ["text"] for name in vectors},
            vectors=vectors,
            spaces={SPACE: 1},
            store=base._store,  # type: ignore[attr-defined]
        )


def test_a_commit_that_fails_stores_nothing_and_the_next_one_goes_on(base: KnowledgeBase) -> None:
    put(base, *numbered(2))
    store: Any = base._store  # type: ignore[attr-defined]

    def change() -> None:
        """Its foreign key is checked when the transaction ends: the commit fails, and leaves the transaction open."""
        with store._writing() as writer:
            writer.execute("pragma defer_foreign_keys = on")
            writer.execute("insert into lives values (4711, 1, null)")

    with pytest.raises(sqlite3.IntegrityError):
        change()
    assert not store._writer.in_transaction
    assert put(base, *numbered(2, start=10)) == 2
