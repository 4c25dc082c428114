"""The retriever in the box: registered, light until it is used, and complete by itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from small_knowledge import drawn_vector

from taskloom.core.knowledge import Document, Embedded, Query
from taskloom.core.loader import load_registry
from taskloom.core.settings import KnowledgeSettings
from taskloom.plugins.retrieval.passages import LONGEST, split_document


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


def test_passages_are_whole_sentences_and_hold_every_character() -> None:
    text = "A sentence of some length, which says little. " * 40 + "\n\n最后一句。"
    _, passages = split_document(Document(document_id="a", text=text))
    assert len(passages) > 3
    assert all(text[one.start : one.end] == one.text and len(one.text) <= LONGEST for one in passages)
    assert all(one.text.endswith((".", "。")) for one in passages)
    covered = "".join(one.text for one in passages)
    assert "".join(covered.split()) == "".join(text.split())
