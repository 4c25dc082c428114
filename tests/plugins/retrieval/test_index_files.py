"""Index files: refused unless they are what was written, built anew, and let go of."""

from __future__ import annotations

import gc
import importlib.util
import logging
import os
import shutil
import weakref
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_knowledge import SPACE, drawn_vector, embedded, ids, numbered, put

from taskloom.core.knowledge import Document, KnowledgeBase, Query
from taskloom.plugins.retrieval.plugin import FaissRetriever

Create = Callable[..., KnowledgeBase]


@pytest.fixture(scope="session")
def faults() -> ModuleType:
    """benchmarks/knowledge_faults.py, which does the same more often."""
    path = Path(__file__).parents[3] / "benchmarks" / "knowledge_faults.py"
    spec = importlib.util.spec_from_file_location("knowledge_faults", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("kind", ["hnsw", "ivf-rabitq"])
def test_a_damaged_index_is_refused_and_the_base_answers_as_before(faults: Any, tmp_path: Path, kind: str) -> None:
    assert faults.damaged_indexes(tmp_path / "base", times=32, seed=5, kind=kind, open_every=8) == []


def test_the_check_lets_sound_files_through(faults: Any, create: Create, folder: Path) -> None:
    base = create(delta_limit=0)
    put(base, *numbered(10))
    base.compact()
    base.close()
    assert faults.used(folder)


def test_a_killed_writer_leaves_every_acknowledged_document_and_no_half_batch(faults: Any, tmp_path: Path) -> None:
    assert faults.killed_writers(tmp_path / "base", times=6, longest_s=0.5) == []


def test_index_files_that_are_gone_are_built_anew(
    create: Create, retriever: FaissRetriever, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = create(delta_limit=0)
    put(base, *numbered(30))
    base.compact()
    query = Query("number 7", {SPACE: drawn_vector(numbered(30)[7].text)})
    with base.view() as view:
        before = view.search(query)
    base.close()
    shutil.rmtree(folder / "indexes")
    with caplog.at_level(logging.WARNING):
        again = retriever.open(folder)
    assert caplog.text.count("index refused") == 2
    with again.view() as view:
        assert view.search(query) == before
    again.close()
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        retriever.open(folder).close()
    assert not caplog.text, "what was built anew is kept"


def test_an_index_of_tokens_that_were_made_by_other_rules_is_built_anew(
    create: Create, retriever: FaissRetriever, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a question in Traditional characters would miss Traditional text that an earlier release had indexed as it stood."""
    monkeypatch.setattr("taskloom.plugins.retrieval.files.RULES", 1)
    monkeypatch.setattr("taskloom.plugins.retrieval.tokens.simplified", str)
    base = create(delta_limit=0)
    put(base, Document(document_id="a", text="請重設路由器"), *numbered(10))
    base.compact()
    base.close()
    monkeypatch.undo()
    with caplog.at_level(logging.WARNING):
        again = retriever.open(folder)
    assert caplog.text.count("made by other rules; it is built anew") == 1
    with again.view() as view:
        assert view.search(Query("路由器", {}, mode="sparse"))[0].passage.document_id == "a"
    again.close()


def test_left_over_files_are_cleared_away(create: Create, retriever: FaissRetriever, folder: Path) -> None:
    base = create(delta_limit=0)
    put(base, *numbered(10))
    base.compact()
    base.close()
    kept = sorted(path.name for path in (folder / "indexes").iterdir())
    (folder / "indexes" / ".dense-0.faiss.new").write_bytes(b"half")
    (folder / "indexes" / "sparse-0").mkdir()
    retriever.open(folder).close()
    assert sorted(path.name for path in (folder / "indexes").iterdir()) == kept


@pytest.mark.parametrize("synced", range(6))
def test_an_index_that_could_not_be_written_takes_no_room(
    create: Create, folder: Path, monkeypatch: pytest.MonkeyPatch, synced: int
) -> None:
    base = create(delta_limit=0)
    put(base, *numbered(10))
    room = iter(range(synced))

    def fsync(_: int) -> None:
        if next(room, None) is None:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="No space left"):
            base.compact()
    assert not [path for path in (folder / "indexes").iterdir() if path.name.startswith(".")]
    base.compact()
    assert len(list((folder / "indexes").iterdir())) == 2


def test_compaction_starts_by_itself_when_enough_came_in(create: Create, folder: Path) -> None:
    base = create(delta_limit=20)
    put(base, *numbered(10))
    assert not list((folder / "indexes").iterdir())
    put(base, *numbered(15, start=10))
    base._compaction.join()  # type: ignore[attr-defined]
    assert sorted(path.name.split("-")[0] for path in (folder / "indexes").iterdir()) == ["dense", "sparse"]


def test_a_compaction_that_failed_is_not_tried_with_every_document(
    create: Create, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base = create(delta_limit=5)
    built: list[int] = []

    def full(*_: Any) -> None:
        built.append(1)
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(base._builder, "build", full)  # type: ignore[attr-defined]
        for start in (0, 10, 20, 30):
            put(base, *numbered(10, start=start))
            base._compaction.join()  # type: ignore[attr-defined]
    assert len(built) == 1
    base._compacts_from = 0.0  # type: ignore[attr-defined]
    put(base, *numbered(1, start=40))
    base._compaction.join()  # type: ignore[attr-defined]
    assert len(list((folder / "indexes").iterdir())) == 2


def test_small_updates_do_not_build_again_and_compacting_twice_writes_once(create: Create, folder: Path) -> None:
    base = create(delta_limit=20)
    put(base, *numbered(30))
    base.compact()
    files = sorted((folder / "indexes").iterdir())
    put(base, *numbered(3, start=50))
    base.remove(["d0001"])
    assert sorted((folder / "indexes").iterdir()) == files
    base.compact()
    compacted = sorted((folder / "indexes").iterdir())
    assert compacted != files
    base.compact()
    assert sorted((folder / "indexes").iterdir()) == compacted
    with base.view() as view:
        info = view.stats().indexes[0]
        assert (info.kind, info.recall) == ("flat", 1.0)
        assert "d0001#0" not in ids(view.search(Query("number", {SPACE: drawn_vector("x")}, limit=100)))


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "ivf-rabitq"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_an_index_of_very_few_vectors_is_built(create: Create, kind: str, count: int) -> None:
    base = create(delta_limit=0, index=kind)
    put(base, *numbered(count))
    base.compact()
    with base.view() as view:
        assert view.stats().indexes[0].kind == kind
        for document in numbered(count):
            found = view.search(Query("", {SPACE: drawn_vector(document.text)}, mode="dense", limit=count))
            assert ids(found)[0] == f"{document.document_id}#0"
            assert len(found) == count


@pytest.mark.parametrize("kind", ["flat", "hnsw", "ivf", "ivf-rabitq"])
def test_what_only_grew_is_added_to_and_not_built_anew(create: Create, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    base = create(delta_limit=0, index=kind, keep_versions=1)
    prepared = base.prepare(numbered(60))
    base.put(prepared, embedded(prepared))
    base.compact()
    query = Query("", {SPACE: drawn_vector(numbered(100)[70].text)}, mode="dense", limit=3)

    def unwanted(*_: Any) -> None:
        raise AssertionError("built anew")

    with monkeypatch.context() as patched:
        patched.setattr("taskloom.plugins.retrieval.building.build", unwanted)
        put(base, *numbered(30, start=60))
        base.compact()
    with base.view() as view:
        assert ids(view.search(query))[0] == "d0070#0"
        assert view.stats().indexes[0].vectors == 90
    base.remove(["d0070"])
    base.compact()
    with base.view() as view:
        assert "d0070#0" not in ids(view.search(query))
        assert view.stats().indexes[0].vectors == 89


def test_old_indexes_are_released_when_no_view_holds_them(create: Create) -> None:
    base = create(delta_limit=0)
    put(base, *numbered(20))
    base.compact()
    view = base.view()
    old = weakref.ref(base._state.catalog)  # type: ignore[attr-defined]
    put(base, *numbered(20, start=20))
    base.compact()
    gc.collect()
    assert old() is not None
    assert len(view.search(Query("number", {SPACE: drawn_vector("x")}, limit=100))) == 20
    view.close()
    gc.collect()
    assert old() is None
