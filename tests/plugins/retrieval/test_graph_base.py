"""A graph has the versions of its base: what is put in, changed, removed, gone back to, pruned and broken off."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from small_graphs import MODELS, extracted, extraction, put_extracted, put_texts, related, sizes
from small_knowledge import embedded, put

from taskloom.core.errors import ArtifactError, InvalidInputError, NotFoundError, UnsupportedError
from taskloom.core.knowledge import Document, KnowledgeBase, Passage
from taskloom.core.knowledge_graph import RelationMention
from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.plugin import FaissRetriever

Create = Callable[..., KnowledgeBase]


@pytest.fixture
def base(create: Create) -> KnowledgeBase:
    return create(graph=True)


def rows(folder: Path, table: str) -> int:
    with closing(sqlite3.connect(folder / "knowledge.sqlite")) as connection:
        return int(connection.execute(f"select count(*) from {table}").fetchone()[0])


def test_what_is_put_in_can_be_looked_at_with_where_it_stands_and_what_found_it(base: KnowledgeBase) -> None:
    put_texts(base, a="Nothing here.\n\nThen Ann owns Bolt.", b="Bolt made Ships.")
    with base.view() as view:
        found = view.neighbourhood("the BOLT's", hops=1, limit=10)
        assert sizes(view) == (5, 6, 2)
        document = view.document("a")
    assert document is not None
    mention = found.mentions[0]
    assert (mention.name, mention.text, mention.label, mention.score) == ("bolt", "Bolt", "NAME", 0.9)
    assert (mention.document_id, mention.passage_id, mention.models) == ("a", "a#1", MODELS)
    assert document.text[mention.start : mention.end] == "Bolt"
    assert [one.document_id for one in found.mentions] == ["a", "b"]
    relations = {(one.head, one.relation, one.tail): one for one in found.relations}
    assert set(relations) == {("ann", "owns", "bolt"), ("bolt", "made", "ships")}
    told = relations["ann", "owns", "bolt"]
    assert (told.passage_id, told.score, told.models, told.hop) == ("a#1", 0.8, MODELS, 1)


def test_the_graph_is_there_after_the_base_is_opened_again(
    base: KnowledgeBase, retriever: FaissRetriever, folder: Path
) -> None:
    put_texts(base, a="Ann owns Bolt.")
    base.close()
    with closing(retriever.open(folder)) as again, again.view() as view:
        assert again.keeps_graph
        assert related(view, "Ann") == [("ann", "owns", "bolt", 1)]


def test_a_changed_document_leaves_its_old_part_of_the_graph_to_its_old_versions(base: KnowledgeBase) -> None:
    put_texts(base, a="Ann owns Bolt.", b="Cid owns Dot.")
    with base.view() as before:
        assert put_texts(base, a="Ann made Dot.") == 2
        with base.view() as view:
            assert related(view, "Ann") == [("ann", "made", "dot", 1)]
            with pytest.raises(NotFoundError, match=r"'Bolt' in version 2"):
                view.neighbourhood("Bolt", hops=1, limit=10)
        assert related(before, "Ann") == [("ann", "owns", "bolt", 1)]
    with base.view(1) as old:
        assert sizes(old) == (4, 4, 2)
    with base.view(0) as empty:
        assert sizes(empty) == (0, 0, 0)


def test_a_removed_document_takes_its_entities_and_relations_along_and_a_rollback_brings_them_back(base: KnowledgeBase) -> None:
    put_texts(base, a="Ann owns Bolt.", b="Bolt made Ships.")
    base.remove(["a"])
    with base.view() as view:
        assert sizes(view) == (2, 2, 1)
        assert related(view, "Bolt") == [("bolt", "made", "ships", 1)]
        with pytest.raises(NotFoundError):
            view.neighbourhood("Ann", hops=1, limit=10)
    assert base.rollback(1) == 3
    with base.view() as view:
        assert related(view, "Ann") == [("ann", "owns", "bolt", 1)]
        assert sizes(view) == (3, 4, 2)


def test_compaction_lets_go_of_what_no_kept_version_has_and_of_nothing_else(create: Create, folder: Path) -> None:
    base = create(graph=True, keep_versions=1)
    put_texts(base, a="Ann owns Bolt.", b="Bolt made Ships.")
    with base.view() as held:
        base.remove(["a"])
        base.compact()
        assert related(held, "Ann") == [("ann", "owns", "bolt", 1)], "a view that is held keeps its version"
    base.compact()
    assert {table: rows(folder, table) for table in ("entities", "extractions", "mentions", "relations")} == {
        "entities": 2,
        "extractions": 1,
        "mentions": 2,
        "relations": 1,
    }
    with base.view() as view:
        assert related(view, "Bolt") == [("bolt", "made", "ships", 1)]


def test_what_the_same_models_read_in_the_same_text_is_known(base: KnowledgeBase) -> None:
    put_texts(base, a="Ann owns Bolt.\n\nCid sleeps.", b="Dot made Eel.")
    prepared = base.prepare([Document(document_id="a", text="Something new.\n\nAnn owns Bolt.\n\nCid sleeps.", language="en")])
    known = base.known_extractions(prepared.passages, {"en": MODELS})
    by_id = {passage.passage_id: passage for passage in prepared.passages}
    assert set(known) == {"a#1", "a#2"}
    assert all(known[name] == extraction(by_id[name]) for name in known)
    assert base.known_extractions(prepared.passages, {"en": ("names@2", "verbs@1")}) == {}
    assert base.known_extractions(prepared.passages, {"zh": MODELS}) == {}
    assert base.put_extracted(prepared, embedded(prepared), [*known.values(), extraction(by_id["a#0"])]) == 2
    with base.view() as view:
        assert related(view, "Bolt") == [("ann", "owns", "bolt", 1)]
        assert sizes(view) == (6, 6, 2)


@pytest.mark.parametrize("fault", ["stranger", "twice", "elsewhere", "beyond", "nobody"])
def test_an_extraction_that_does_not_fit_stores_nothing(base: KnowledgeBase, fault: str) -> None:
    prepared = base.prepare([Document(document_id="a", text="Ann owns Bolt.")])
    (good,) = extracted(prepared)
    first = good.entities[0]
    bad: dict[str, list[Any]] = {
        "stranger": [good.model_copy(update={"passage_id": "b#0"})],
        "twice": [good, good],
        "elsewhere": [
            good.model_copy(update={"entities": (first.model_copy(update={"start": 1, "end": 4}),), "relations": ()})
        ],
        "beyond": [
            good.model_copy(
                update={
                    "entities": (first.model_copy(update={"text": "Bolt.", "start": 9, "end": 99}),),
                    "relations": (),
                }
            )
        ],
        "nobody": [good.model_copy(update={"relations": (RelationMention(head=0, tail=2, label="owns", score=1),)})],
    }
    with pytest.raises(InvalidInputError):
        base.put_extracted(prepared, embedded(prepared), bad[fault])
    with base.view() as view:
        assert (view.version, view.stats().documents, sizes(view)) == (0, 0, (0, 0, 0))
    assert base.put_extracted(prepared, embedded(prepared), [good]) == 1


def test_a_write_that_fails_in_the_graph_leaves_neither_text_nor_graph(base: KnowledgeBase, folder: Path) -> None:
    put_texts(base, a="Ann owns Bolt.")
    writer: sqlite3.Connection = base._store._writer  # type: ignore[attr-defined]
    writer.execute("create temp trigger full before insert on relations begin select raise(abort, 'disk full'); end")
    with pytest.raises(sqlite3.IntegrityError, match="disk full"):
        put_texts(base, b="Cid sleeps.", c="Dot made Eel.")
    writer.execute("drop trigger full")
    with base.view() as view:
        assert (view.version, view.document("b"), sizes(view)) == (1, None, (2, 2, 1))
    assert (rows(folder, "mentions"), rows(folder, "extractions")) == (2, 1)
    assert put_texts(base, b="Cid sleeps.") == 2


KILLED = """
    import os, sys
    from pathlib import Path
    from small_graphs import put_texts
    from small_knowledge import paragraphs
    from taskloom.plugins.retrieval.plugin import FaissRetriever

    base = FaissRetriever(paragraphs).open(Path(sys.argv[1]))
    print(put_texts(base, b="Cid made Dot."), flush=True)

    def die(connection, *given):
        os.kill(os.getpid(), 9)

    from taskloom.plugins.retrieval import store
    store.close_version = die
    put_texts(base, c="Eel owns Fig.", a="Gus sleeps.")
"""


def test_a_writer_that_is_killed_leaves_the_graph_of_its_last_version(
    base: KnowledgeBase, retriever: FaissRetriever, folder: Path
) -> None:
    put_texts(base, a="Ann owns Bolt.")
    base.close()
    paths = [path for path in sys.path if path]
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (-9, "2\n"), ended.stderr
    with closing(retriever.open(folder)) as again, again.view() as view:
        assert (view.version, sizes(view)) == (2, (4, 4, 2))
        assert related(view, "Ann") == [("ann", "owns", "bolt", 1)]
        assert related(view, "Dot") == [("cid", "made", "dot", 1)]
    assert rows(folder, "mentions") == 4


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("entities set name = 'anna' where name = 'ann'", "Anna"),
        ("mentions set start = start + 1", "Ann"),
        ("relations set score = 0.81", "Ann"),
        ("extractions set models = '[\"other@1\"]'", "Ann"),
    ],
)
def test_a_row_that_is_not_what_was_written_is_noticed(
    base: KnowledgeBase, retriever: FaissRetriever, folder: Path, change: str, name: str
) -> None:
    put_texts(base, a="Ann owns Bolt.")
    base.close()
    with closing(sqlite3.connect(folder / "knowledge.sqlite")) as connection, connection:
        connection.execute(f"update {change}")
    with (
        closing(retriever.open(folder)) as again,
        again.view() as view,
        pytest.raises(ArtifactError, match="the knowledge base in base is damaged"),
    ):
        view.neighbourhood(name, hops=1, limit=10)


def test_a_base_without_a_graph_says_so_and_has_no_tables_for_one(create: Create, folder: Path) -> None:
    base = create()
    put(base, Document(document_id="a", text="Ann owns Bolt."))
    prepared = base.prepare([Document(document_id="b", text="Bolt made Ships.")])
    with base.view() as view:
        assert (base.keeps_graph, view.keeps_graph, view.stats().graph) == (False, False, None)
        for use in (
            lambda: view.neighbourhood("Ann", hops=1, limit=10),
            lambda: base.known_extractions(prepared.passages, {"en": MODELS}),
            lambda: base.put_extracted(prepared, embedded(prepared), extracted(prepared)),
        ):
            with pytest.raises(UnsupportedError, match="graph = true"):
                use()
    with pytest.raises(sqlite3.OperationalError, match="no such table"):
        rows(folder, "mentions")


def test_documents_may_be_put_in_without_a_part_in_the_graph(base: KnowledgeBase) -> None:
    put(base, Document(document_id="a", text="Ann owns Bolt."))
    with base.view() as view:
        assert (view.stats().documents, sizes(view)) == (1, (0, 0, 0))


def test_names_of_which_nothing_is_left_are_no_entities(base: KnowledgeBase) -> None:
    prepared = base.prepare([Document(document_id="a", text="-- Ann owns Bolt.")])
    (found,) = extracted(prepared)
    marks = found.entities[0].model_copy(update={"text": "--", "start": 0, "end": 2})
    shifted = found.model_copy(
        update={
            "entities": (marks, *found.entities),
            "relations": (
                RelationMention(head=0, tail=2, label="owns", score=1),
                RelationMention(head=1, tail=2, label="owns", score=1),
            ),
        }
    )
    base.put_extracted(prepared, embedded(prepared), [shifted])
    with base.view() as view:
        assert sizes(view) == (2, 2, 1)
        assert related(view, "Ann") == [("ann", "owns", "bolt", 1)]


def test_the_plugin_says_whether_a_base_keeps_a_graph(retriever: FaissRetriever) -> None:
    assert [retriever.keeps_graph(KnowledgeConfig(graph=graph)) for graph in (False, True)] == [False, True]


def test_passages_of_one_text_in_two_languages_are_two(base: KnowledgeBase) -> None:
    put_extracted(base, Document(document_id="a", text="Ann owns Bolt.", language="en"))
    other = Passage(passage_id="x", document_id="x", text="Ann owns Bolt.", start=0, end=14, language="de")
    assert base.known_extractions([other], {"de": MODELS, "en": MODELS}) == {}
