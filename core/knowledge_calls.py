"""What is asked of served knowledge bases, and what they answer: the boundary types of `taskloom.v1.Knowledge`, and the
Protocol of what stands behind it."""

from __future__ import annotations

import string
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Annotated, Literal, Protocol

from pydantic import AfterValidator, Field

from taskloom.core.errors import InvalidInputError
from taskloom.core.knowledge import Document, Hit, KnowledgeStats, Metadata, Mode, Refused, SearchMode, VersionInfo, Where
from taskloom.core.knowledge_graph import MAX_HOPS, MAX_NAME_CHARACTERS, GraphMention, GraphRelation
from taskloom.core.ports import PartSink
from taskloom.core.types import Frozen, ModelRef, Name, new_request_id

MAX_QUESTION_CHARACTERS = 4000
MAX_HITS = 100
MAX_READ = 20
"""Passages that one question is read in."""

RequestId = Annotated[str, Field(default_factory=new_request_id, pattern=r"^[A-Za-z0-9_-]{1,64}$")]
Question = Annotated[str, Field(min_length=1, max_length=MAX_QUESTION_CHARACTERS)]


def _model_name(name: str) -> str:
    try:
        if name:
            ModelRef.parse(name)
        return name
    except InvalidInputError as exc:
        raise ValueError(exc.message) from exc


ModelName = Annotated[str, AfterValidator(_model_name)]
"""NAME or NAME@VERSION; empty for none."""


def _template(known: frozenset[str], needed: frozenset[str]) -> AfterValidator:
    def check(template: str) -> str:
        """Bare fields alone: a template must not look into what it is given."""
        fields = [part for part in string.Formatter().parse(template) if part[1] is not None]
        if (
            any(form or conversion for _, _, form, conversion in fields)
            or not needed <= {str(part[1]) for part in fields} <= known
        ):
            told, must = (", ".join(f"{{{name}}}" for name in sorted(names)) for names in (known, needed))
            raise ValueError(f"a template has the fields {told}, of which {must} must be there; write {{{{ for a brace")
        return template

    return AfterValidator(check)


Prompt = Annotated[str, _template(frozenset({"question", "passages"}), frozenset({"question", "passages"}))]
PassageForm = Annotated[str, _template(frozenset({"number", "title", "text"}), frozenset({"text"}))]


class AnswerConfig(Frozen):
    """How a base's questions are answered. `reranker` is a model that reads a question and a passage together and scores
    `candidates` of the passages found; the best of them are read. `writer` is a model that writes the answer from them: it
    reads `prompt`, in which each passage stands as `passage` says (`number` from 1), as many as `passage_characters` take;
    `params` are parameters of the writer's task. Below `threshold` there is no answer (None: the server's)."""

    reranker: ModelName = ""
    candidates: int = Field(default=20, ge=1, le=MAX_HITS)
    writer: ModelName = ""
    params: Metadata = Field(default_factory=dict)
    prompt: Prompt = Field(default="question: {question}\ncontext:\n{passages}", max_length=4000)
    passage: PassageForm = Field(default="[{number}] {text}", max_length=1000)
    passage_characters: int = Field(default=4000, ge=100, le=100_000)
    threshold: float | None = Field(default=None, ge=0, le=1)

    @property
    def models(self) -> tuple[str, ...]:
        """The models that it names."""
        return tuple(name for name in (self.reranker, self.writer) if name)


class BaseSpec(Frozen):
    """A knowledge base to create. `config` is what its retriever's schema says; `shared` lets every tenant ask it."""

    base: Name
    shared: bool = False
    retriever: str = ""
    config: Metadata = Field(default_factory=dict)
    answering: AnswerConfig = AnswerConfig()


class BaseInfo(Frozen):
    """A knowledge base as it is now."""

    base: Name
    shared: bool
    retriever: str
    stats: KnowledgeStats
    answering: AnswerConfig = AnswerConfig()


class UpsertResult(Frozen):
    """What putting documents in came to: one new version, or none where nothing changed."""

    version: int
    passages: int
    changed: tuple[str, ...] = ()
    unchanged: tuple[str, ...] = ()
    refused: tuple[Refused, ...] = ()
    request_id: str = ""
    """As in the audit log; whoever serves the engine sets it."""


class SearchCall(Frozen):
    """`version` is one of `versions`; None for the newest. `deadline_s` is on the `time.time()` clock."""

    base: Name
    query: Question
    limit: int = Field(default=10, ge=1, le=MAX_HITS)
    where: Where | None = None
    mode: SearchMode = "hybrid"
    version: int | None = None
    request_id: RequestId
    deadline_s: float | None = None


class SearchResult(Frozen):
    version: int
    hits: tuple[Hit, ...]
    request_id: str = ""


class GraphCall(Frozen):
    """What the graph of a base knows of the entity `name`, within `hops` relations; of mentions and of relations at most
    `limit` each."""

    base: Name
    name: str = Field(min_length=1, max_length=MAX_NAME_CHARACTERS)
    hops: int = Field(default=1, ge=1, le=MAX_HOPS)
    limit: int = Field(default=20, ge=1, le=MAX_HITS)
    version: int | None = None
    request_id: RequestId
    deadline_s: float | None = None


class GraphResult(Frozen):
    version: int
    mentions: tuple[GraphMention, ...] = ()
    relations: tuple[GraphRelation, ...] = ()
    request_id: str = ""


class Turn(Frozen):
    """A question that was asked before, and what was answered."""

    question: Question
    answer: str = Field(default="", max_length=MAX_QUESTION_CHARACTERS)


class AskCall(Frozen):
    """A question. `turns` are what was said before it, the oldest first; `passages` is how many are read; below `threshold`
    there is no answer (None: the base's own, or else the server's, which was chosen on data). `mode` is how the passages are
    found (None: `graph` where the base keeps one, else `hybrid`), before the base's re-ranker, if it has one, orders them."""

    base: Name
    question: Question
    turns: tuple[Turn, ...] = Field(default=(), max_length=20)
    where: Where | None = None
    passages: int = Field(default=5, ge=1, le=MAX_READ)
    threshold: float | None = Field(default=None, ge=0, le=1)
    mode: Mode | None = None
    version: int | None = None
    request_id: RequestId
    deadline_s: float | None = None


class Source(Frozen):
    """A passage that an answer stands on, or that came nearest. `answer` is what in it answers, or what a written answer has
    from it word for word, at `start` to `end` of the document's cleaned text (code points); empty where there is nothing: then
    they are the passage's. `graph` is how strongly the graph led there, None where it did not."""

    document_id: str
    passage_id: str
    title: str = ""
    source: str = ""
    passage: str
    answer: str = ""
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    score: float
    graph: float | None = None


class Ranked(Frozen):
    """A passage that was re-ranked: `fused` is its score before, `score` after."""

    passage_id: str
    fused: float
    score: float


Evidence = Literal["", "reader", "reranker", "similarity"]


class KnowledgeAnswer(Frozen):
    """`kind` says where the answer comes from: a `span` of a passage, a `faq` entry, `written` by a model from the passages, or
    `none`: nothing that the base holds is sure enough. `confidence` is the share of answers with as high a score that were
    right where it was fitted: on questions that a base answers, and some that it says nothing of. Of a writer nothing like that
    is known: there it says how sure it is that the passages answer the question, from `evidence`, and nothing of whether the
    text is true to them."""

    kind: Literal["span", "faq", "written", "none"]
    answer: str = ""
    confidence: float = Field(ge=0, le=1)
    language: str
    understood_as: str = ""
    """What was searched for, where the turns were needed to understand the question."""
    sources: tuple[Source, ...] = ()
    version: int
    models: tuple[str, ...] = ()
    """NAME@VERSION of those that embedded, found names, re-ranked, read and wrote."""
    ranking: tuple[Ranked, ...] = ()
    """What was re-ranked, best first."""
    evidence: Evidence = ""
    """Where a writer answers: what says that the passages answer the question: the `reader` that found a span in one, the
    `reranker`, or the `similarity` (cosine) of question and passage. Empty where there is nothing, and the confidence 0."""
    truncated: bool = False
    """The writer did not read the end of its prompt: perhaps not of every source."""
    request_id: str = ""


class KnowledgeEngine(Protocol):
    """Knowledge bases that answer, by tenant. Async; called from one event loop. Raises `TaskloomError`s; `NotFoundError` for a
    base that the tenant doesn't see, and for a change of one that is shared by another tenant.

    Any call may be cancelled. A change that can't be taken back any more goes on then and returns as if it had not been, so
    that what is recorded of it is what came of it."""

    async def create(self, tenant: str, spec: BaseSpec) -> BaseInfo: ...

    async def bases(self, tenant: str, wanted: Callable[[str], bool] = ...) -> Sequence[BaseInfo]:
        """Those that the tenant may ask, its own and the shared ones, whose names are `wanted` (all if nothing is said)."""

    async def names(self, tenant: str) -> Collection[str]:
        """Their names alone, which costs little: none is opened."""

    async def drop(self, tenant: str, base: str) -> None: ...

    async def upsert(self, tenant: str, base: str, documents: AsyncIterator[Document]) -> UpsertResult:
        """Puts all of them in, as one version, or none."""

    async def delete(self, tenant: str, base: str, document_ids: Sequence[str]) -> int: ...

    async def configure(self, tenant: str, base: str, answering: AnswerConfig) -> BaseInfo:
        """Says how questions are answered from now on."""

    async def search(self, tenant: str, call: SearchCall) -> SearchResult: ...

    async def ask(self, tenant: str, call: AskCall, send: PartSink | None = None) -> KnowledgeAnswer:
        """With `send`, an answer that is written goes there in parts as it is; what is returned is the whole answer in any
        case."""

    async def graph(self, tenant: str, call: GraphCall) -> GraphResult:
        """Raises `UnsupportedError` for a base that keeps no graph, `NotFoundError` for a name that stands nowhere in it."""

    async def stats(self, tenant: str, base: str) -> BaseInfo: ...

    async def versions(self, tenant: str, base: str) -> Sequence[VersionInfo]: ...

    async def snapshot(self, tenant: str, base: str, name: str) -> VersionInfo: ...

    async def drop_snapshot(self, tenant: str, base: str, name: str) -> VersionInfo:
        """The version that had the name. Raises `NotFoundError` if none has."""

    async def rollback(self, tenant: str, base: str, version: int) -> int: ...

    async def close(self) -> None: ...
