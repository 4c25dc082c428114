"""The graph beside the text of a knowledge base: which names stand in which passages, and what these say of them together.

It is made by models, like the vectors: one finds names, another says how two of them are related. A retriever that keeps graphs
stores both with where they stand and what found them, and reaches passages by them. One that keeps none need not know of this.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from taskloom.core.types import Frozen

MAX_NAME_CHARACTERS = 200
MAX_HOPS = 2

Probability = Annotated[float, Field(ge=0, le=1)]


class EntityMention(Frozen):
    """A name in a passage: `text` is what stands in the passage's text from `start` to before `end` (code points)."""

    text: str = Field(min_length=1)
    label: str = Field(min_length=1)
    start: int = Field(ge=0)
    end: int = Field(ge=1)
    score: Probability


class RelationMention(Frozen):
    """What a passage says of two of its names: `head` and `tail` are their places among the passage's `entities`."""

    head: int = Field(ge=0)
    tail: int = Field(ge=0)
    label: str = Field(min_length=1)
    score: Probability


class Extraction(Frozen):
    """What models found in one passage; `models` are their names and versions, NAME@VERSION."""

    passage_id: str
    entities: tuple[EntityMention, ...] = ()
    relations: tuple[RelationMention, ...] = ()
    models: tuple[str, ...]


class GraphInfo(Frozen):
    """How large the graph of one version is: `entities` are different names, each of one label."""

    entities: int
    mentions: int
    relations: int


class GraphMention(Frozen):
    """Where an entity stands. `name` is its name as the graph has it, `text` as the passage has it; `start` and `end` are code
    points of the document's cleaned text."""

    name: str
    label: str
    document_id: str
    passage_id: str
    text: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    score: Probability
    models: tuple[str, ...] = ()


class GraphRelation(Frozen):
    """How two entities are related, and the passage that says so. `hop` is how far from the entity that was asked for it was
    found: 1 for its own."""

    head: str
    head_label: str
    relation: str
    tail: str
    tail_label: str
    hop: int = Field(ge=1)
    document_id: str
    passage_id: str
    score: Probability
    models: tuple[str, ...] = ()


class Neighbourhood(Frozen):
    """What a graph knows of a name: where it stands, and the relations that can be reached from it, the surest first."""

    mentions: tuple[GraphMention, ...] = ()
    relations: tuple[GraphRelation, ...] = ()
