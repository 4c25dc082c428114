"""From a question to passages and to an answer.

find   -> embed the question, and find its names for a base that keeps a graph -> search, in one version
answer -> re-rank, where the base names a model for it -> FAQ entry, or read the passages, or have an answer written from them
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from taskloom.core.errors import NotFoundError, UnsupportedError
from taskloom.core.knowledge import Hit, Mode, Query, View
from taskloom.core.knowledge_calls import (
    AnswerConfig,
    AskCall,
    KnowledgeAnswer,
    Ranked,
    SearchCall,
    SearchResult,
)
from taskloom.core.language import language_of_script
from taskloom.core.ports import PartSink
from taskloom.core.settings import KnowledgeSettings
from taskloom.server.knowledge.answering import (
    Asked,
    answer,
    candidates,
    faq_confidence,
    faq_similarity,
    near_source,
    relevance,
)
from taskloom.server.knowledge.conversation import understood
from taskloom.server.knowledge.models import KnowledgeModels, Vector
from taskloom.server.knowledge.writing import evidence_of, prompt_of, written_source

log = logging.getLogger(__name__)

InThread = Callable[..., Awaitable[Any]]
"""`await in_thread(work, *given)`: blocking work, done where it holds nobody up."""


@dataclass(frozen=True)
class Found:
    """A question and the passages that were found for it, best first. `models` are those that had a part in it."""

    question: str
    language: str
    version: int
    hits: tuple[Hit, ...]
    models: tuple[str, ...]


class Questions:
    """Answers questions on views of bases, as the settings and each base's own say."""

    def __init__(self, models: KnowledgeModels, settings: KnowledgeSettings, in_thread: InThread) -> None:
        self._models = models
        self._settings = settings
        self._in_thread = in_thread

    async def search(self, view: View, answering: AnswerConfig, call: SearchCall) -> SearchResult:
        """Raises `UnsupportedError` where what is asked for needs a model that is not there."""
        language = self._language(language_of_script(call.query))
        reranked = call.mode == "reranked"
        if reranked and not answering.reranker:
            raise UnsupportedError(
                f"knowledge base {call.base!r} has no re-ranker; name one: taskloom kb configure {call.base} --reranker MODEL"
            )
        mode = answered_from(view) if call.mode == "reranked" else call.mode
        limit = max(call.limit, answering.candidates) if reranked else call.limit
        query = Query(text=call.query, vectors={}, limit=limit, where=call.where, mode=mode)
        query, _ = await self._placed(view, query, language, call)
        hits = tuple(await self._in_thread(view.search, query))
        if reranked:
            hits, _ = await self._reranked(answering.reranker, call.query, hits, call.deadline_s)
        return SearchResult(version=view.version, hits=hits[: call.limit])

    async def find(self, view: View, answering: AnswerConfig, call: AskCall) -> Found:
        """The passages among which the answer to a question is looked for."""
        language = self._language(language_of_script(call.question))
        question = understood(call.question, call.turns, language)
        limit = max(call.passages, answering.candidates) if answering.reranker else call.passages
        query = Query(text=question, vectors={}, limit=limit, where=call.where, mode=call.mode or answered_from(view))
        query, finders = await self._placed(view, query, language, call)
        hits = tuple(await self._in_thread(view.search, query))
        return Found(question, language, view.version, hits, finders)

    async def answer(
        self, found: Found, answering: AnswerConfig, call: AskCall, send: PartSink | None = None
    ) -> KnowledgeAnswer:
        """The answer from what was found. FAQ entries are judged by their question, whatever their place among the hits."""
        question, ranked, ranking = found.question, found.hits, tuple[Ranked, ...]()
        names = list(found.models)
        if answering.reranker:
            ranked, ranker = await self._reranked(answering.reranker, question, found.hits, call.deadline_s)
            ranking = tuple(
                Ranked(passage_id=hit.passage.passage_id, fused=hit.fused or 0.0, score=hit.score) for hit in ranked
            )
            names.append(ranker)
        hits = ranked[: call.passages]
        faq = max((hit for hit in ranked if hit.passage.question), key=lambda hit: faq_similarity(question, hit), default=None)
        texts = [hit for hit in hits if not hit.passage.question] if self._models.reads(found.language) else []
        passages = [hit.passage.text for hit in texts]
        readings, reader = await self._models.read(question, passages, found.language, call.deadline_s)
        chosen = (call.threshold, answering.threshold, self._settings.threshold)
        asked = Asked(
            language=found.language,
            understood_as=question if question != call.question else "",
            version=found.version,
            threshold=next(threshold for threshold in chosen if threshold is not None),
            models=tuple(dict.fromkeys(name for name in (*names, reader) if name)),
        )
        calibration = self._settings.calibration_of(found.language)
        sure = faq_confidence(faq_similarity(question, faq), calibration) if faq is not None else 0.0
        spans = candidates(texts if readings else (), readings, calibration)
        told = answer(asked, faq, sure, spans, hits).model_copy(update={"ranking": ranking})
        if not answering.writer or told.kind == "faq" or not hits:
            return told
        confidence, evidence = evidence_of(spans, hits, read=bool(readings))
        near = tuple(near_source(hit) for hit in hits)
        none = told.model_copy(
            update={"kind": "none", "answer": "", "sources": near, "confidence": max(confidence, sure), "evidence": evidence}
        )
        if confidence < asked.threshold:
            return none
        prompt, given = prompt_of(answering, question, hits)
        written = await self._models.write(answering.writer, prompt, answering.params, call.deadline_s, send)
        models = (*told.models, written.model)
        if not written.text:
            return none.model_copy(update={"models": models})
        made = {
            "kind": "written",
            "answer": written.text,
            "confidence": confidence,
            "sources": tuple(written_source(hit, written.text) for hit in given),
            "models": models,
            "truncated": written.truncated,
        }
        return none.model_copy(update=made)

    async def _reranked(
        self, model: str, question: str, hits: Sequence[Hit], deadline_s: float | None
    ) -> tuple[tuple[Hit, ...], str]:
        """The hits with the model's scores, in the order of what it and the search make of them, equal ones as they were; and
        the model's name and version."""
        scores, name = await self._models.rerank(model, question, [hit.passage.readable for hit in hits], deadline_s)
        scored = [hit.model_copy(update={"score": score, "fused": hit.score}) for hit, score in zip(hits, scores, strict=True)]
        order = sorted(range(len(hits)), key=lambda i: -relevance(scores[i], i + 1))
        return tuple(scored[i] for i in order), name

    async def _placed(
        self, view: View, query: Query, language: str, call: SearchCall | AskCall
    ) -> tuple[Query, tuple[str, ...]]:
        """The query with what models say of its text, and their names. One without a place in the base's spaces is by words,
        and by the graph where that is asked for."""
        if query.mode == "graph" and not view.keeps_graph:
            raise UnsupportedError(
                f"knowledge base {call.base!r} keeps no graph, which is chosen when one is created (graph = true); leave "
                "out the mode, or search by text alone (mode hybrid)"
            )
        finding = self._models.names_asked(query.text, language, call.deadline_s) if query.mode == "graph" else _nothing()
        (vectors, space), (names, finder) = await asyncio.gather(
            self._vectors(view, query.text, language, query.mode, call.deadline_s), finding
        )
        if query.mode == "dense" and not vectors:
            raise UnsupportedError(
                f"knowledge base {call.base!r} has no vectors that a question in {language!r} could be compared with; "
                "search by words (mode sparse), or put the documents in again with an embedding model for the language"
            )
        mode: Mode = query.mode if vectors or query.mode == "graph" else "sparse"
        placed = replace(query, vectors=vectors, mode=mode, entities=names)
        return placed, tuple(name for name in (space, finder) if name)

    async def _vectors(
        self, view: View, text: str, language: str, mode: Mode, deadline_s: float | None
    ) -> tuple[dict[str, Vector], str]:
        """Where the question lies, in the space of its language; nowhere if the view has no vectors there. Passages that
        another version of the model embedded are found by their words until they are put in again: answering a little worse is
        better than not at all."""
        spaces = frozenset() if mode == "sparse" or not self._models.embeds(language) else view.spaces()
        if not spaces:
            return {}, ""
        try:
            placed = await self._models.place_question(text, language, deadline_s)
        except NotFoundError as error:
            log.warning("questions in %r find passages by their words alone: %s", language, error)
            return {}, ""
        model = placed.space.partition("@")[0]
        if stale := sorted(space for space in spaces - {placed.space} if space.partition("@")[0] == model):
            log.warning("passages embedded by %s are not compared with %s: put them in again", ", ".join(stale), placed.space)
        return ({placed.space: placed.vector}, placed.space) if placed.space in spaces else ({}, "")

    def _language(self, code: str) -> str:
        return code or self._settings.default_language


def answered_from(view: View) -> Mode:
    """How the passages are found that a question is answered from, unless it says otherwise."""
    return "graph" if view.keeps_graph else "hybrid"


async def _nothing() -> tuple[tuple[str, ...], str]:
    return (), ""
