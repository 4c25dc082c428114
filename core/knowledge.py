"""Knowledge bases: documents in, passages found, while both happen at once.

A knowledge base is a row of versions. Each change makes the next one; a search is made on one version as a whole (a `View`),
whatever is written meanwhile; and a version that was acknowledged survives the process. A `RetrieverPlugin` keeps them: it
splits documents, stores, indexes and searches. It embeds nothing and reads no answers: models do, which are served, and what
calls them stands above it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from taskloom.core.errors import UnsupportedError
from taskloom.core.knowledge_graph import Extraction, GraphInfo, Neighbourhood
from taskloom.core.types import Frozen

Scalar = str | int | float | bool
Metadata = Mapping[str, Scalar | tuple[Scalar, ...]]
"""What documents are filtered by: `{"product": "router", "year": 2026, "tags": ("wifi", "setup")}`."""

Where = Mapping[str, Scalar | tuple[Scalar, ...]]
"""A filter: every key must match. A value matches what is equal to it, or has it among several; of several values, one must."""


Mode = Literal["hybrid", "dense", "sparse", "graph"]
"""By inner product, by BM25, by the two fused, or by these and what the graph leads to."""

SearchMode = Literal["hybrid", "dense", "sparse", "graph", "reranked"]
"""A `Mode`, or what a question is answered from (what `graph` finds where the base keeps one, else `hybrid`) in the order that
a model gives it which reads question and passage together."""


class Document(Frozen):
    """A text to answer from. A FAQ pair is one too: `question`, and its answer as `text`. `language` is an ISO 639-1 code; left
    empty, it is told from the text."""

    document_id: str = Field(min_length=1, max_length=512)
    text: str
    title: str = ""
    question: str = ""
    language: str = ""
    source: str = ""
    """Where it came from, for people: a file's name, a URL."""
    metadata: Metadata = Field(default_factory=dict)


class Passage(Frozen):
    """A retrievable piece of a document. `start` and `end` are code-point offsets into the document's cleaned text, of which
    `text` is that part. `headings` are those it stands under, the outermost first."""

    passage_id: str
    document_id: str
    text: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    title: str = ""
    headings: tuple[str, ...] = ()
    question: str = ""
    language: str = ""
    source: str = ""
    metadata: Metadata = Field(default_factory=dict)

    @property
    def searchable(self) -> str:
        """What is embedded and indexed: the passage under its title and headings, unless they stand in it; of a FAQ pair, its
        question."""
        above = dict.fromkeys(part for part in (self.title, *self.headings) if part and part not in self.text)
        return self.question or "\n".join([*above, self.text])

    @property
    def readable(self) -> str:
        """What a model reads beside a question to say whether it answers that: the passage under its title and headings; of a
        FAQ pair, the question and the answer."""
        return f"{self.question}\n{self.text}" if self.question else self.searchable


class Refused(Frozen):
    """A document that was passed over, and why."""

    document_id: str
    reason: str


class Prepared(Frozen):
    """What putting documents in would mean. `passages` are those to embed: of documents that are new, whose content is not what
    it was, or that have no vectors where they are wanted. Nothing is stored yet."""

    documents: tuple[Document, ...]
    passages: tuple[Passage, ...]
    unchanged: tuple[str, ...] = ()
    duplicates: Mapping[str, str] = Field(default_factory=dict)
    """Documents of new ids whose content another has under its own id: passed over. One that is stored already is changed
    instead."""
    refused: tuple[Refused, ...] = ()


@dataclass(frozen=True)
class Embedded:
    """A passage's place in a vector space. `space` names the model and version that made it: vectors of one space can be
    compared. `vector` is a float32 array [D] of length 1."""

    passage_id: str
    space: str
    vector: Any


@dataclass(frozen=True)
class Query:
    """What to look for. `vectors` has the query's place in each space to search (float32 [D], length 1); it may be empty for
    `sparse` and `graph`. `dense` ranks by inner product, `sparse` by BM25, `hybrid` fuses the two. `graph` fuses
    them with what the graph leads to, and is asked only of bases that keep one; `entities` are names that a model
    found in the text: names that the graph knows are found without them."""

    text: str
    vectors: Mapping[str, Any]
    limit: int = 10
    where: Where | None = None
    mode: Mode = "hybrid"
    entities: tuple[str, ...] = ()


class Hit(Frozen):
    """A passage that was found. `score` orders the hits of one query, best first; `dense` is the cosine and `sparse` the BM25
    score, `graph` how strongly the graph leads there; None where that search did not find it. Where hits were re-ranked,
    `score` is the re-ranker's, from 0 to 1, and `fused` what it was before, None where they were not; the order is by both."""

    passage: Passage
    score: float
    dense: float | None = None
    sparse: float | None = None
    graph: float | None = None
    fused: float | None = None


class VersionInfo(Frozen):
    """A version: `number` from 0 (`create`: empty) upwards, `created` in UTC (ISO 8601). `name` is set for one that somebody
    wants to keep."""

    number: int
    created: str
    change: str
    """What made it: `put`, `remove`, `rollback` or `create`."""
    documents: int
    passages: int
    name: str = ""


class IndexInfo(Frozen):
    """The vectors of one space: how they are indexed (`flat`, `hnsw`, `ivf`, `ivf-rabitq`), and the share of the exact search's
    best ten that the index found when it was built."""

    space: str
    kind: str
    vectors: int
    dimensions: int
    recall: float
    memory_bytes: int


class KnowledgeStats(Frozen):
    version: int
    documents: int
    passages: int
    languages: Mapping[str, int]
    """Passages by language."""
    disk_bytes: int
    indexes: tuple[IndexInfo, ...] = ()
    graph: GraphInfo | None = None
    """None for a base that keeps no graph."""


class View(ABC):
    """One version, for as long as it is held, whatever is written or rolled back meanwhile. Thread-safe. A context manager."""

    version: int

    @property
    def keeps_graph(self) -> bool:
        """Whether `graph` is a mode to search in."""
        return False

    def neighbourhood(self, name: str, *, hops: int, limit: int) -> Neighbourhood:
        """What the graph knows of a name, within one or two relations; of mentions and of relations at most `limit` each.
        Raises `NotFoundError` for a name that stands nowhere, `UnsupportedError` where no graph is kept."""
        raise UnsupportedError("this knowledge base keeps no graph")

    @abstractmethod
    def search(self, query: Query) -> list[Hit]:
        """At most `limit` hits, best first; equal scores in the order of passage ids. Raises `InvalidInputError` for a space
        that it hasn't got, a vector of another size, and a filter that makes no sense."""

    @abstractmethod
    def document(self, document_id: str) -> Document | None: ...

    @abstractmethod
    def spaces(self) -> frozenset[str]:
        """The vector spaces in which passages of this version can be found: empty where none has a vector. Reads nothing from
        disk: it may be asked before every search."""

    @abstractmethod
    def stats(self) -> KnowledgeStats: ...

    @abstractmethod
    def close(self) -> None: ...

    def __enter__(self) -> View:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class KnowledgeBase(ABC):
    """An open knowledge base. Sync; thread-safe; one process writes, which a lock on its folder sees to."""

    @abstractmethod
    def prepare(self, documents: Sequence[Document], spaces: Mapping[str, str] | None = None) -> Prepared:
        """Cleans and splits documents, and says which passages are to be embedded. `spaces` says in which space passages are
        embedded now, by their language: `{"en": "minilm@2"}`. A document that is what it was counts as changed if one of its
        passages has no vector in the space of its language: so putting documents in again after a new embedding model, or the
        first one, embeds them. A language that is not in `spaces` is not asked about."""

    @abstractmethod
    def put(self, prepared: Prepared, vectors: Sequence[Embedded]) -> int:
        """Stores what was prepared, in place of what these documents were; returns the new version when it is on stable
        storage. Passages of a language that nothing embeds have no vector, and are found by their words alone. Raises
        `InvalidInputError` for misshapen vectors, and for missing ones of a language of which other passages have some."""

    @property
    def keeps_graph(self) -> bool:
        """Whether it takes what models extract from passages: whoever puts documents in then uses `put_extracted`."""
        return False

    def known_extractions(self, passages: Sequence[Passage], models: Mapping[str, Sequence[str]]) -> Mapping[str, Extraction]:
        """By passage id, what is stored of other passages with the same text, read by the same models: these need not be asked
        again. `models` are NAME@VERSION by language."""
        raise UnsupportedError("this knowledge base keeps no graph")

    def put_extracted(self, prepared: Prepared, vectors: Sequence[Embedded], extractions: Sequence[Extraction]) -> int:
        """`put`, with what models extracted from the passages: all of it in one version, or nothing. A passage without an
        extraction has no part in the graph. Raises `InvalidInputError` for one of another passage, or whose spans don't fit."""
        raise UnsupportedError("this knowledge base keeps no graph")

    @abstractmethod
    def remove(self, document_ids: Sequence[str]) -> int:
        """Takes documents out; returns the new version. Raises `NotFoundError` if one isn't there; then none is taken out."""

    @abstractmethod
    def view(self, version: int | None = None) -> View:
        """The newest version, or that one; raises `NotFoundError` for one that is not kept."""

    @abstractmethod
    def versions(self) -> Sequence[VersionInfo]:
        """Those that can be viewed and gone back to, the newest first."""

    @abstractmethod
    def snapshot(self, name: str) -> VersionInfo:
        """Keeps the newest version under a name, until `drop_snapshot`."""

    @abstractmethod
    def drop_snapshot(self, name: str) -> VersionInfo:
        """Takes the name from the version that has it, and returns that version, which from now on is kept as long as others
        are. Raises `NotFoundError` if none has the name."""

    @abstractmethod
    def rollback(self, version: int) -> int:
        """Makes a new version that has what that one had; returns its number."""

    @abstractmethod
    def compact(self) -> None:
        """Builds indexes anew without what was removed, and lets go of versions that are no longer kept. Searches and writes
        go on meanwhile. `put` starts it by itself when it is worth it."""

    @abstractmethod
    def close(self) -> None: ...


class RetrieverPlugin(ABC):
    """A way to keep knowledge bases, as the registry knows it. `Config` is what a user may set when one is created."""

    name: ClassVar[str]
    description: ClassVar[str]
    Config: ClassVar[type[BaseModel]]

    def keeps_graph(self, config: Any) -> bool:
        """Whether a base with this config keeps a graph, for which models have to be there."""
        return False

    @abstractmethod
    def create(self, folder: Path, config: Any) -> KnowledgeBase:
        """A new knowledge base, version 0 and empty, in a folder that isn't there yet."""

    @abstractmethod
    def open(self, folder: Path) -> KnowledgeBase:
        """What `create` made. Index files that are not what was written are refused before they are read, and built anew from
        the stored passages; raises `ArtifactError` if those are damaged."""
