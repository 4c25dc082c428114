"""The knowledge engine: bases by tenant, changed while they are asked.

upsert  -> prepare (split, compare)  -> embed what is new, in batches with everything else   -> put, one version
ask     -> pin a version -> find passages -> let it go -> answer from them, with sources, or none (see `questions`)

For a base that keeps a graph, names and relations are extracted besides from what is new (see `intake`).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from taskloom.core.errors import (
    InputTooLargeError,
    InvalidInputError,
    NotFoundError,
    TaskloomError,
    UnavailableError,
)
from taskloom.core.knowledge import (
    Document,
    Embedded,
    KnowledgeBase,
    Prepared,
    Refused,
    VersionInfo,
    View,
)
from taskloom.core.knowledge_calls import (
    AnswerConfig,
    AskCall,
    BaseInfo,
    BaseSpec,
    GraphCall,
    GraphResult,
    KnowledgeAnswer,
    SearchCall,
    SearchResult,
    UpsertResult,
)
from taskloom.core.knowledge_graph import Extraction
from taskloom.core.ports import InferenceEngine, PartSink
from taskloom.core.registry import Registry
from taskloom.core.settings import KnowledgeSettings, Settings
from taskloom.server.knowledge.folders import BaseFolders, Place
from taskloom.server.knowledge.intake import Intake
from taskloom.server.knowledge.models import KnowledgeModels
from taskloom.server.knowledge.questions import Questions

log = logging.getLogger(__name__)

T = TypeVar("T")

CHANGES_AT_ONCE = 2
IDLE_LOOKS = 10
"""How often, in the time after which a base that nobody uses is closed, it is looked for such."""


@dataclass
class _Open:
    """A base that is open, by how many calls it is in use and, on the clock of the event loop, until when it was. Changes are
    made one after the other."""

    place: Place
    base: KnowledgeBase
    writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    left_s: float = 0.0

    def leave(self, *, looked: bool = False) -> None:
        self.users -= 1
        if not looked:
            self.left_s = asyncio.get_running_loop().time()


def open_knowledge(settings: Settings, registry: Registry, engine: InferenceEngine) -> KnowledgeDesk:
    """The knowledge bases of a home, on an engine that serves their models."""
    return KnowledgeDesk(settings.knowledge_folder, registry, engine, settings.knowledge)


class KnowledgeDesk:
    """`KnowledgeEngine` on a retriever plugin and the models that an inference engine serves. One process changes a base. One
    that nobody has asked for a while is closed, which gives its memory back; who asks next opens it again."""

    def __init__(self, root: Path, registry: Registry, engine: InferenceEngine, settings: KnowledgeSettings) -> None:
        self._folders = BaseFolders(root)
        self._registry = registry
        self._settings = settings
        self._models = KnowledgeModels(engine, settings)
        self._intake = Intake(self._models, settings)
        self._questions = Questions(self._models, settings, self._in_thread)
        self._open: dict[Path, _Open] = {}
        self._opening: defaultdict[Path, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._searches = ThreadPoolExecutor(settings.search_threads, thread_name_prefix="taskloom-knowledge")
        # Documents may take long to split and store: questions must not wait behind them.
        self._changes = ThreadPoolExecutor(CHANGES_AT_ONCE, thread_name_prefix="taskloom-knowledge-change")
        self._closed = False
        self._closing_idle: asyncio.Task[None] | None = None
        self._folders.sweep()

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

        await self._models.check(spec.answering)
        place = await _finished(self._changing(self._folders.create, tenant, spec, fill))
        return await self.stats(tenant, place.spec.base)

    async def configure(self, tenant: str, base: str, answering: AnswerConfig) -> BaseInfo:
        """The models that are named are asked first: settings that no question could be answered by are refused."""
        async with self._opened(tenant, base, own=True) as opened:
            await self._models.check(answering)
            async with self._using(opened), opened.writing:
                if self._open.get(opened.place.folder) is not opened:
                    raise _gone(opened.place)
                opened.place = await _finished(self._changing(self._folders.configure, opened.place, answering))
        return await self.stats(tenant, base)

    async def bases(self, tenant: str, wanted: Callable[[str], bool] = lambda _: True) -> Sequence[BaseInfo]:
        """What can't be opened is left out, and logged: one damaged base must not hide the others."""
        found = []
        for place in await self._in_thread(self._folders.visible, tenant):
            if not wanted(place.spec.base):
                continue
            try:
                found.append(await self.stats(tenant, place.spec.base))
            except TaskloomError as error:
                log.warning("knowledge base %s of tenant %s is left out: %s", place.spec.base, place.tenant, error)
        return found

    async def names(self, tenant: str) -> Collection[str]:
        return {place.spec.base for place in await self._in_thread(self._folders.visible, tenant)}

    async def drop(self, tenant: str, base: str) -> None:
        async with self._opened(tenant, base, own=True) as opened:
            folder = opened.place.folder
            async with opened.writing, self._opening[folder]:
                if self._open.get(folder) is not opened:
                    raise _gone(opened.place)
                await _finished(self._dropped(opened))

    async def _dropped(self, opened: _Open) -> None:
        folder = opened.place.folder
        del self._open[folder]  # who comes now waits for the lock, and finds no base or another
        try:
            aside = await self._changing(self._folders.put_aside, opened.place)
        except BaseException:
            self._open[folder] = opened  # it is there still
            raise
        await self._changing(opened.base.close)
        await self._changing(self._folders.discard, aside)

    async def stats(self, tenant: str, base: str) -> BaseInfo:
        async with self._view(tenant, base, None, looks=True) as (opened, view):
            stats = await self._in_thread(view.stats)
        spec = opened.place.spec
        return BaseInfo(base=spec.base, shared=spec.shared, retriever=spec.retriever, answering=spec.answering, stats=stats)

    async def versions(self, tenant: str, base: str) -> Sequence[VersionInfo]:
        async with self._opened(tenant, base) as opened, self._using(opened):
            return await self._in_thread(opened.base.versions)

    # -- changes ----------------------------------------------------------------------------------------------------------

    async def upsert(self, tenant: str, base: str, documents: AsyncIterator[Document]) -> UpsertResult:
        async with self._opened(tenant, base, own=True) as opened:
            given = await self._gathered(documents)
            async with self._using(opened), opened.writing:
                prepared = await self._changing(opened.base.prepare, given, self._intake.spaces())
                prepared, extractions = await self._extracted(opened.base, prepared)
                prepared, vectors = await self._intake.embedded(prepared)
                version = await _finished(self._changing(self._stored, opened.base, prepared, vectors, extractions))
        again = (Refused(document_id=name, reason=f"it is the same as {of}") for name, of in prepared.duplicates.items())
        return UpsertResult(
            version=version,
            passages=len(prepared.passages),
            changed=tuple(document.document_id for document in prepared.documents),
            unchanged=prepared.unchanged,
            refused=(*prepared.refused, *again),
        )

    async def delete(self, tenant: str, base: str, document_ids: Sequence[str]) -> int:
        return await self._change(tenant, base, lambda own: own.remove(document_ids))

    async def snapshot(self, tenant: str, base: str, name: str) -> VersionInfo:
        return await self._change(tenant, base, lambda own: own.snapshot(name))

    async def drop_snapshot(self, tenant: str, base: str, name: str) -> VersionInfo:
        return await self._change(tenant, base, lambda own: own.drop_snapshot(name))

    async def rollback(self, tenant: str, base: str, version: int) -> int:
        return await self._change(tenant, base, lambda own: own.rollback(version))

    async def _change(self, tenant: str, base: str, change: Callable[[KnowledgeBase], T]) -> T:
        async with self._opened(tenant, base, own=True) as opened, self._using(opened), opened.writing:
            return await _finished(self._changing(change, opened.base))

    async def _gathered(self, documents: AsyncIterator[Document]) -> list[Document]:
        given: list[Document] = []
        held = 0
        async for document in documents:
            held += len(document.model_dump_json().encode("utf-8", "surrogatepass"))
            if held > self._settings.max_upsert_bytes:
                raise InputTooLargeError(
                    f"an upsert may carry {self._settings.max_upsert_bytes} bytes of text (knowledge.max_upsert_bytes), and "
                    "this one has more; send the documents in several, each of which becomes a version"
                )
            given.append(document.model_copy(update={"language": re.split("[-_]", document.language.lower())[0]}))
        return given

    async def _extracted(self, base: KnowledgeBase, prepared: Prepared) -> tuple[Prepared, Sequence[Extraction]]:
        """The part that passages have in the base's graph, if it keeps one. What was read before is not read again."""
        if not base.keeps_graph or not prepared.passages:
            return prepared, ()
        known = await self._changing(base.known_extractions, prepared.passages, self._intake.extractors(prepared.passages))
        return await self._intake.extracted(prepared, known)

    @staticmethod
    def _stored(base: KnowledgeBase, prepared: Prepared, vectors: Sequence[Embedded], extractions: Sequence[Extraction]) -> int:
        """The version that holds what was prepared; the newest one if there is nothing to store."""
        if prepared.documents and base.keeps_graph:
            kept = {passage.passage_id for passage in prepared.passages}
            return base.put_extracted(prepared, vectors, [one for one in extractions if one.passage_id in kept])
        if prepared.documents:
            return base.put(prepared, vectors)
        with base.view() as view:
            return view.version

    # -- questions --------------------------------------------------------------------------------------------------------

    async def search(self, tenant: str, call: SearchCall) -> SearchResult:
        async with self._view(tenant, call.base, call.version) as (opened, view):
            return await self._questions.search(view, opened.place.spec.answering, call)

    async def ask(self, tenant: str, call: AskCall, send: PartSink | None = None) -> KnowledgeAnswer:
        async with self._view(tenant, call.base, call.version) as (opened, view):
            answering = opened.place.spec.answering
            found = await self._questions.find(view, answering, call)
        return await self._questions.answer(found, answering, call, send)

    async def graph(self, tenant: str, call: GraphCall) -> GraphResult:
        async with self._view(tenant, call.base, call.version) as (_, view):
            look = partial(view.neighbourhood, call.name, hops=call.hops, limit=call.limit)
            found = await self._in_thread(look)
            return GraphResult(version=view.version, mentions=found.mentions, relations=found.relations)

    # -- opening and closing ----------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _view(
        self, tenant: str, base: str, version: int | None, *, looks: bool = False
    ) -> AsyncIterator[tuple[_Open, View]]:
        async with self._opened(tenant, base, looks=looks) as opened, self._using(opened):
            view = await self._in_thread(opened.base.view, version)
            try:
                yield opened, view
            finally:
                view.close()

    @asynccontextmanager
    async def _using(self, opened: _Open) -> AsyncIterator[None]:
        """Work on a base that may be dropped meanwhile: what fails then fails because it is gone."""
        try:
            yield
        except Exception as error:
            if self._open.get(opened.place.folder) is opened or self._closed:
                raise
            raise _gone(opened.place) from error

    @asynccontextmanager
    async def _opened(self, tenant: str, base: str, *, own: bool = False, looks: bool = False) -> AsyncIterator[_Open]:
        """A base, which stays open meanwhile unless somebody drops it; afterwards, too, for a while, unless the call only looks
        at what there is. One that is being opened is opened to the end, but who does not wait any longer need not."""
        taking = asyncio.ensure_future(self._taken(tenant, base, own=own))
        try:
            opened = await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(_given_back)
            raise
        try:
            yield opened
        finally:
            opened.leave(looked=looks)

    async def _taken(self, tenant: str, base: str, *, own: bool) -> _Open:
        """A base with one user more."""
        opened = await self._known(tenant, base, own=own)
        opened.users += 1
        return opened

    async def _known(self, tenant: str, base: str, *, own: bool) -> _Open:
        find = self._folders.own if own else self._folders.find
        place: Place = await self._in_thread(find, tenant, base)
        known = self._open.get(place.folder)
        if known is not None:
            return known
        async with self._opening[place.folder]:
            place = await self._in_thread(find, tenant, base)  # while this waited it may have been dropped
            known = self._open.get(place.folder)
            if known is None:
                plugin = self._registry.retrievers.get(place.spec.retriever)
                known = _Open(place, await self._in_thread(plugin.open, place.content))
                if self._closed:
                    await asyncio.to_thread(known.base.close)
                    raise _closing()
                self._open[place.folder] = known
                if self._settings.idle_s and self._closing_idle is None:
                    self._closing_idle = asyncio.get_running_loop().create_task(self._close_idle())
            return known

    async def _close_idle(self) -> None:
        while not self._closed:  # `_finished` sees a closing to its end, whoever cancels this meanwhile
            await asyncio.sleep(self._settings.idle_s / IDLE_LOOKS)
            for opened in list(self._open.values()):
                if not self._closed:
                    await self._close_if_idle(opened)

    async def _close_if_idle(self, opened: _Open) -> None:
        folder = opened.place.folder
        async with self._opening[folder]:
            idle_s = asyncio.get_running_loop().time() - opened.left_s
            if opened.users or idle_s < self._settings.idle_s or self._open.get(folder) is not opened:
                return
            del self._open[folder]  # who comes now waits for the lock, and opens it again
            try:
                await _finished(self._changing(opened.base.close))
            except Exception:
                log.exception("knowledge base %s could not be closed", opened.place.spec.base)

    async def _in_thread(self, work: Callable[..., T], *given: Any) -> T:
        return await self._run_in(self._searches, work, *given)

    async def _changing(self, work: Callable[..., T], *given: Any) -> T:
        return await self._run_in(self._changes, work, *given)

    async def _run_in(self, threads: ThreadPoolExecutor, work: Callable[..., T], *given: Any) -> T:
        if self._closed:
            raise _closing()
        return await asyncio.get_running_loop().run_in_executor(threads, partial(work, *given))

    async def close(self) -> None:
        """Changes that have begun come to their end."""
        self._closed = True
        if self._closing_idle is not None:
            self._closing_idle.cancel()
            await asyncio.wait([self._closing_idle])
        bases, self._open = list(self._open.values()), {}
        async with AsyncExitStack() as closing:
            for threads in (self._searches, self._changes):
                closing.push_async_callback(asyncio.to_thread, threads.shutdown)
            for opened in bases:
                closing.push_async_callback(asyncio.to_thread, opened.base.close)
                await closing.enter_async_context(opened.writing)


async def _finished(work: Coroutine[Any, Any, T]) -> T:
    """What a piece of work came to. A thread can't be stopped: who is cancelled meanwhile learns what was made all the same,
    and no other change begins before it is."""
    task = asyncio.ensure_future(work)
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise
    return task.result()


def _given_back(taking: asyncio.Task[_Open]) -> None:
    if not taking.cancelled() and taking.exception() is None:
        taking.result().leave()


def _closing() -> UnavailableError:
    return UnavailableError("the knowledge bases are being closed; try again in a few seconds")


def _gone(place: Place) -> NotFoundError:
    return NotFoundError(f"knowledge base {place.spec.base!r} was dropped meanwhile")
