"""Graphs of small knowledge bases: names are words with a capital, and "Ann owns Bolt" is a relation."""

from __future__ import annotations

import re
from collections.abc import Sequence

from small_knowledge import embedded

from taskloom.core.knowledge import Document, KnowledgeBase, Passage, Prepared, View
from taskloom.core.knowledge_graph import EntityMention, Extraction, RelationMention

MODELS = ("names@1", "verbs@1")
NAME = re.compile(r"\b[A-Z]\w+")
RELATION = re.compile(r"\b([A-Z]\w+) (owns|made|near) ([A-Z]\w+)")


def extraction(passage: Passage, models: Sequence[str] = MODELS) -> Extraction:
    entities = [
        EntityMention(text=found.group(), label="NAME", start=found.start(), end=found.end(), score=0.9)
        for found in NAME.finditer(passage.text)
    ]
    at = {one.start: place for place, one in enumerate(entities)}
    relations = [
        RelationMention(head=at[found.start(1)], tail=at[found.start(3)], label=found[2], score=0.8)
        for found in RELATION.finditer(passage.text)
    ]
    return Extraction(passage_id=passage.passage_id, entities=tuple(entities), relations=tuple(relations), models=tuple(models))


def extracted(prepared: Prepared) -> list[Extraction]:
    return [extraction(passage) for passage in prepared.passages]


def put_extracted(base: KnowledgeBase, *documents: Document) -> int:
    prepared = base.prepare(documents)
    return base.put_extracted(prepared, embedded(prepared), extracted(prepared))


def put_texts(base: KnowledgeBase, **texts: str) -> int:
    return put_extracted(base, *(Document(document_id=name, text=text, language="en") for name, text in texts.items()))


def sizes(view: View) -> tuple[int, int, int]:
    """Entities, mentions and relations."""
    graph = view.stats().graph
    assert graph is not None
    return graph.entities, graph.mentions, graph.relations


def related(view: View, name: str, hops: int = 1) -> list[tuple[str, str, str, int]]:
    found = view.neighbourhood(name, hops=hops, limit=100).relations
    return [(one.head, one.relation, one.tail, one.hop) for one in found]
