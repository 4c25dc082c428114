"""Searches while everything changes: each sees one version, whole."""

from __future__ import annotations

import threading
from collections.abc import Callable

from small_knowledge import SIZE, SPACE, drawn_vector, put

from taskloom.core.knowledge import Document, KnowledgeBase, Query

Create = Callable[..., KnowledgeBase]
SWAPS = 200
DOCUMENTS = 5


def generation(number: int) -> list[Document]:
    """All documents anew; each says which generation it is of."""
    return [
        Document(document_id=f"d{n}", text=f"gen{number} common text {n}", metadata={"kind": "all"}) for n in range(DOCUMENTS)
    ]


def test_200_swaps_under_load_no_failed_and_no_mixed_answer(create: Create) -> None:
    base = create(delta_limit=60, keep_versions=2)
    put(base, *generation(0))
    mixed: list[object] = []
    failed: list[BaseException] = []
    searches, done = [0, 0, 0], threading.Event()

    def read(worker: int) -> None:
        where = {"kind": "all"} if worker == 0 else None
        vector = {SPACE: drawn_vector(f"reader {worker}", SIZE)}
        while not done.is_set():
            try:
                with base.view() as view:
                    for mode in ("dense", "sparse", "hybrid"):
                        hits = view.search(Query("common text", vector, where=where, mode=mode))  # type: ignore[arg-type]
                        seen = sorted(hit.passage.document_id for hit in hits)
                        generations = {hit.passage.text.split()[0] for hit in hits}
                        if len(generations) != 1 or seen != [f"d{n}" for n in range(DOCUMENTS)]:
                            mixed.append((view.version, seen, generations))
                    first = view.document("d0")
                    if first is None or {first.text.split()[0]} != generations:
                        mixed.append((view.version, first))
                    searches[worker] += 1
            except BaseException as exc:
                failed.append(exc)

    readers = [threading.Thread(target=read, args=(worker,)) for worker in range(3)]
    for reader in readers:
        reader.start()
    for number in range(1, SWAPS + 1):
        if number % 10 == 0:
            base.rollback(base.versions()[1].number)
        else:
            put(base, *generation(number))
        if number % 80 == 0:
            base.compact()
    done.set()
    for reader in readers:
        reader.join()
    assert not failed
    assert not mixed
    assert min(searches) > 10
    assert base.versions()[0].number == SWAPS + 1


def test_writers_in_threads_take_turns(create: Create) -> None:
    base = create()

    def write(worker: int) -> None:
        for n in range(8):
            put(base, Document(document_id=f"{worker}-{n}", text=f"worker {worker} wrote {n}"))

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    with base.view() as view:
        assert (view.version, view.stats().documents) == (32, 32)
        assert len(view.search(Query("wrote", {}, limit=100, mode="sparse"))) == 32
