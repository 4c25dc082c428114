"""The retriever in the box: registered, light until it is used, and complete by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError
from small_knowledge import drawn_vector

from taskloom.core.knowledge import Document, Embedded, Query, Refused
from taskloom.core.loader import load_registry
from taskloom.core.settings import KnowledgeSettings


def test_it_is_the_one_that_the_settings_name(tmp_path: Path) -> None:
    retriever = load_registry().retrievers.get(KnowledgeSettings().retriever)
    base = retriever.create(tmp_path / "base", retriever.Config())
    prepared = base.prepare(
        [Document(document_id="a", text="路由器坏了。请按重置按钮。"), Document(document_id="b", text="Press reset.")]
    )
    base.put(prepared, [Embedded(one.passage_id, "s", drawn_vector(one.text)) for one in prepared.passages])
    with base.view() as view:
        assert view.search(Query("重置", {}, mode="sparse"))[0].passage.document_id == "a"
        assert view.stats().languages == {"zh": 1, "en": 1}
    base.close()


def test_registering_it_imports_no_index_library() -> None:
    code = (
        "import sys, taskloom.plugins.builtin\n"
        "print([name for name in ('faiss', 'tantivy', 'rjieba', 'numpy', 'sqlite3') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_its_settings_say_how_long_passages_are(tmp_path: Path) -> None:
    retriever = load_registry().retrievers.get("faiss")
    document = Document(document_id="a", text="# Power\n\n" + "A sentence of some length, which says little. " * 40)
    counts = []
    for size in (32, 128):
        base = retriever.create(tmp_path / str(size), retriever.Config(passage_size=size, passage_overlap=0))
        passages = base.prepare([document]).passages
        base.close()
        counts.append(len(passages))
        assert all(passage.headings == ("Power",) for passage in passages)
    assert counts[0] > 2 * counts[1] > 4
    with pytest.raises(ValidationError, match="overlap is 100"):
        retriever.Config(passage_overlap=100)


def test_the_hook_reads_files_for_layers_that_may_not_import_it(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# Title\n\nSome text.", encoding="utf-8")
    (tmp_path / "b.bin").write_bytes(b"\x00\x01")
    hooks = load_registry().hooks
    assert hooks is not None
    read, refused = hooks.hook.read_documents(paths=[tmp_path])
    assert isinstance(read, Document)
    assert (read.document_id, read.title) == ("a.md", "Title")
    assert isinstance(refused, Refused)
    assert refused.document_id == "b.bin"
