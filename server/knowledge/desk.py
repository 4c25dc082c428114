"""The knowledge engine: bases by tenant, changed while they are asked.

upsert  -> prepare (split, compare)  -> embed what is new, in batches with everything else   -> put, one version
ask     -> pin a version -> embed the question -> search -> FAQ entry, or read the passages   -> answer with sources, or none
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from taskloom.core.errors import InputTooLargeError, InvalidInputError, UnavailableError
from taskloom.core.knowledge import Document, Embedded, Hit, KnowledgeBase, Mode, Passage, Prepared, Query, VersionInfo, View
from taskloom.core.knowledge_calls import (
    AskCall,
    BaseInfo,
    BaseSpec,
    KnowledgeAnswer,
    SearchCall,
    SearchResult,
    UpsertResult,
)
from taskloom.core.language import language_of_script
from taskloom.core.ports import InferenceEngine
from taskloom.core.registry import Registry
from taskloom.core.settings import KnowledgeSettings, Settings
from taskloom.server.knowledge.answering import Asked, answer, candidates, faq_confidence, faq_similarity
from taskloom.server.knowledge.conversation import understood
from taskloom.server.knowledge.folders import BaseFolders, Place
from taskloom.server.knowledge.models import KnowledgeModels, Placed, Vector

T = TypeVar("T")


@dataclass
class _Open:
    """A base that is in use. Changes are made one after the other."""

    place: Place
    base: KnowledgeBase
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)


def open_knowledge(settings: Settings, registry: Registry, engine: InferenceEngine) -> KnowledgeDesk:
    """The knowledge bases of a home, on an engine that serves their models."""
    return KnowledgeDesk(settings.knowledge_folder, registry, engine, settings.knowledge)


class KnowledgeDesk:
    """`KnowledgeEngine` on a retriever plugin and the models that an inference engine serves. One process changes a base."""

    def __init__(self, root: Path, registry: Registry, engine: InferenceEngine, settings: KnowledgeSettings) -> None:
        self._folders = BaseFolders(root)
        self._registry = registry
        self._settings = settings
        self._models = KnowledgeModels(engine, settings)
        self._open: dict[Path, _Open] = {}
        self._opening = asyncio.Lock()
        self._threads = ThreadPoolExecutor(settings.search_threads, thread_name_prefix="taskloom-knowledge")
        self._closed = False

    # -- bases ------------------------------------------------------------------------------------------------------------

    async def create(self, tenant: str, spec: BaseSpec) -> BaseInfo:
        spec = spec.model_copy(update={"retriever": spec.retriever or self._settings.retriever})
        plugin = self._registry.retrievers.get(spec.retriever)
        try:
            config = plugin.Config.model_validate(dict(spec.config))
        except ValueError as exc:
            raise InvalidInputError(f"config of {spec.base}: {exc}", field="config") from exc

        def fill(content: Path) -> None:
            plugin.create(content, config).close()

        place = await self._in_thread(self._folders.create, tenant, spec, fill)
        return await self.stats(tenant, place.spec.base)

    async def bases(self, tenant: str) -> Sequence[BaseInfo]:
        places = await self._in_thread(self._folders.visible, tenant)
        return [await self.stats(tenant, place.spec.base) for place in places]

    async def drop(self, tenant: str, base: str) -> None:
        opened = await self._opened(tenant, base, own=True)
        async with opened.writing:
            del self._open[opened.place.folder]
            await self._in_thread(opened.base.close)
            await self._in_thread(self._folders.drop, opened.place)

    async def stats(self, tenant: str, base: str) -> BaseInfo:
        async with self._view(tenant, base, None) as (opened, view):
            stats = await self._in_thread(view.stats)
        spec = opened.place.spec
        return BaseInfo(base=spec.base, shared=spec.shared, retriever=spec.retriever, stats=stats)

    async def versions(self, tenant: str, base: str) -> Sequence[VersionInfo]:
        return await self._in_thread((await self._opened(tenant, base)).base.versions)

    # -- changes ----------------------------------------------------------------------------------------------------------

    async def upsert(self, tenant: str, base: str, documents: AsyncIterator[Document]) -> UpsertResult:
        opened = await self._opened(tenant, base, own=True)
        given = await self._gathered(documents)
        async with opened.writing:
            prepared = await self._in_thread(opened.base.prepare, given)
            vectors = await self._embedded(prepared)
            version = await self._finished(self._stored, opened.base, prepared, vectors)
        return UpsertResult(
            version=version,
            passages=len(prepared.passages),
            changed=tuple(document.document_id for document in prepared.documents),
            unchanged=(*prepared.unchanged, *prepared.duplicates),
            refused=prepared.refused,
        )

    async def delete(self, tenant: str, base: str, document_ids: Sequence[str]) -> int:
        return await self._change(tenant, base, lambda own: own.remove(document_ids))

    async def snapshot(self, tenant: str, base: str, name: str) -> VersionInfo:
        return await self._change(tenant, base, lambda own: own.snapshot(name))

    async def rollback(self, tenant: str, base: str, version: int) -> int:
        return await self._change(tenant, base, lambda own: own.rollback(version))

    async def _change(self, tenant: str, base: str, change: Callable[[KnowledgeBase], T]) -> T:
        opened = await self._opened(tenant, base, own=True)
        async with opened.writing:
            return await self._finished(change, opened.base)

    async def _gathered(self, documents: AsyncIterator[Document]) -> list[Document]:
        given: list[Document] = []
        held = 0
        async for document in documents:
            held += len(document.text.encode("utf-8", "surrogatepass"))
            if held > self._settings.max_upsert_bytes:
                raise InputTooLargeError(
                    f"an upsert may carry {self._settings.max_upsert_bytes} bytes of text (knowledge.max_upsert_bytes), and "
                    "this one has more; send the documents in several, each of which becomes a version"
                )
            given.append(document)
        return given

    @staticmethod
    def _stored(base: KnowledgeBase, prepared: Prepared, vectors: Sequence[Embedded]) -> int:
        """The version that holds what was prepared; the newest one if there is nothing to store."""
        if prepared.documents:
            return base.put(prepared, vectors)
        with base.view() as view:
            return view.version

    async def _embedded(self, prepared: Prepared) -> list[Embedded]:
        """The places of the passages whose language has an embedding model."""
        passages = [passage for passage in prepared.passages if self._models.embeds(self._language(passage.language))]
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._placed(passage)) for passage in passages]
        return [
            Embedded(passage.passage_id, task.result().space, task.result().vector)
            for passage, task in zip(passages, tasks, strict=True)
        ]

    async def _placed(self, passage: Passage) -> Placed:
        return await self._models.place(passage.searchable, self._language(passage.language), "passage")

    # -- questions --------------------------------------------------------------------------------------------------------

    async def search(self, tenant: str, call: SearchCall) -> SearchResult:
        async with self._view(tenant, call.base, call.version) as (_, view):
            language = self._language(language_of_script(call.query))
            vectors, _ = await self._vectors(view, call.query, language, call.mode, call.deadline_s)
            mode: Mode = call.mode if vectors else "sparse"
            query = Query(text=call.query, vectors=vectors, limit=call.limit, where=call.where, mode=mode)
            return SearchResult(version=view.version, hits=tuple(await self._in_thread(view.search, query)))

    async def ask(self, tenant: str, call: AskCall) -> KnowledgeAnswer:
        async with self._view(tenant, call.base, call.version) as (_, view):
            language = self._language(language_of_script(call.question))
            question = understood(call.question, call.turns, language)
            vectors, space = await self._vectors(view, question, language, "hybrid", call.deadline_s)
            mode: Mode = "hybrid" if vectors else "sparse"
            query = Query(text=question, vectors=vectors, limit=call.passages, where=call.where, mode=mode)
            hits: list[Hit] = await self._in_thread(view.search, query)
            version = view.version
        entries = [hit for hit in hits if hit.passage.question]
        faq = max(entries, key=lambda hit: faq_similarity(question, hit), default=None)
        texts = [hit for hit in hits if not hit.passage.question] if self._models.reads(language) else []
        readings, reader = await self._models.read(question, [hit.passage.text for hit in texts], language, call.deadline_s)
        asked = Asked(
            language=language,
            understood_as=question if question != call.question else "",
            version=version,
            threshold=self._settings.threshold if call.threshold is None else call.threshold,
            models=tuple(name for name in (space, reader) if name),
        )
        calibration = self._settings.calibration
        sure = faq_confidence(faq_similarity(question, faq), calibration) if faq is not None else 0.0
        return answer(asked, faq, sure, candidates(texts, readings, calibration), hits)

    async def _vectors(
        self, view: View, text: str, language: str, mode: Mode, deadline_s: float | None
    ) -> tuple[dict[str, Vector], str]:
        """Where the question lies, in the space of its language; nowhere if the view has no vectors there. Raises
        `UnsupportedError` if its vectors are of another version of the model than is served."""
        if mode == "sparse" or not self._models.embeds(language):
            return {}, ""
        spaces = {index.space for index in (await self._in_thread(view.stats)).indexes}
        if not spaces:
            return {}, ""
        placed = await self._models.place(text, language, "query", deadline_s)
        if placed.space in spaces:
            return {placed.space: placed.vector}, placed.space
        model = placed.space.partition("@")[0]
        if stale := sorted(space for space in spaces if space.partition("@")[0] == model):
            raise UnavailableError(
                f"the base was embedded by {', '.join(stale)}, and {placed.space} is served: serve that version, or put the "
                "documents in again"
            )
        return {}, ""

    def _language(self, code: str) -> str:
        return code or self._settings.default_language

    # -- opening and closing ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _view(self, tenant: str, base: str, version: int | None) -> AsyncIterator[tuple[_Open, View]]:
        opened = await self._opened(tenant, base)
        view = await self._in_thread(opened.base.view, version)
        try:
            yield opened, view
        finally:
            view.close()

    async def _opened(self, tenant: str, base: str, *, own: bool = False) -> _Open:
        find = self._folders.own if own else self._folders.find
        place: Place = await self._in_thread(find, tenant, base)
        async with self._opening:
            known = self._open.get(place.folder)
            if known is None:
                plugin = self._registry.retrievers.get(place.spec.retriever)
                known = _Open(place, await self._in_thread(plugin.open, place.content))
                self._open[place.folder] = known
            return known

    async def _in_thread(self, work: Callable[..., T], *given: Any) -> T:
        if self._closed:
            raise UnavailableError("the knowledge bases are being closed; try again in a few seconds")
        return await asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *given))

    async def _finished(self, change: Callable[..., T], *given: Any) -> T:
        """What a change came to. A thread can't be stopped: who is cancelled meanwhile learns what was made all the same, and
        no other change begins before it is."""
        work = asyncio.ensure_future(self._in_thread(change, *given))
        while not work.done():
            try:
                await asyncio.shield(work)
            except asyncio.CancelledError:
                if work.cancelled():
                    raise
        return work.result()

    async def close(self) -> None:
        async with AsyncExitStack() as closing:
            closing.callback(self._threads.shutdown)
            for opened in self._open.values():
                await closing.enter_async_context(opened.writing)
            self._closed = True
            for opened in self._open.values():
                closing.callback(opened.base.close)
            self._open = {}
