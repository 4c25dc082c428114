"""A knowledge engine in memory, in whose opinion the passage of a document is all of its text."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Sequence
from typing import Any

from taskloom.core.errors import (
    AlreadyExistsError,
    NotFoundError,
    TaskloomError,
    UnavailableError,
    UnsupportedError,
    unknown_name,
)
from taskloom.core.knowledge import Document, Hit, IndexInfo, KnowledgeStats, Passage, Refused, VersionInfo
from taskloom.core.knowledge_calls import (
    AnswerConfig,
    AskCall,
    BaseInfo,
    BaseSpec,
    GraphCall,
    GraphResult,
    KnowledgeAnswer,
    Ranked,
    SearchCall,
    SearchResult,
    Source,
    UpsertResult,
)
from taskloom.core.knowledge_graph import GraphInfo, GraphMention, GraphRelation
from taskloom.core.ports import PartSink

READER = "reader@1"


class MemoryBase:
    """One base: the documents of each version."""

    def __init__(self, tenant: str, spec: BaseSpec) -> None:
        self.tenant = tenant
        self.spec = spec
        self.versions: list[dict[str, Document]] = [{}]
        self.changes: list[str] = ["create"]
        self.names: dict[int, str] = {}

    @property
    def newest(self) -> int:
        return len(self.versions) - 1

    @property
    def keeps_graph(self) -> bool:
        return self.spec.config.get("graph") is True

    def add(self, documents: dict[str, Document], change: str) -> int:
        self.versions.append(documents)
        self.changes.append(change)
        return self.newest

    def info(self) -> BaseInfo:
        documents = self.versions[-1]
        index = IndexInfo(space="embed@1", kind="flat", vectors=len(documents), dimensions=4, recall=1.0, memory_bytes=64)
        stats = KnowledgeStats(
            version=self.newest,
            documents=len(documents),
            passages=len(documents),
            languages={"en": len(documents)},
            disk_bytes=2048,
            indexes=(index,),
            graph=GraphInfo(entities=2, mentions=len(documents), relations=1) if self.keeps_graph else None,
        )
        retriever, answering = self.spec.retriever or "memory", self.spec.answering
        return BaseInfo(base=self.spec.base, shared=self.spec.shared, retriever=retriever, stats=stats, answering=answering)

    def version(self, number: int) -> VersionInfo:
        size = len(self.versions[number])
        created = f"2026-11-21T10:00:{number:02d}Z"
        name = self.names.get(number, "")
        change = self.changes[number]
        return VersionInfo(number=number, created=created, change=change, documents=size, passages=size, name=name)


class MemoryKnowledge:
    """In a base with `graph` every document is about `Ann`, and in the mode `graph` every passage came by it.

    `errors` are raised for questions, queries and bases of that text; a question `slow` waits for `release`, and `crash`
    raises what nobody foresaw. A document without text is refused. Where a base names a writer, answers are `writes`, part by
    part; a question that begins with `breaks` breaks off then. Keeps the calls that it got."""

    def __init__(self) -> None:
        self.kept: dict[str, MemoryBase] = {}
        self.errors: dict[str, TaskloomError] = {}
        self.calls: list[SearchCall | AskCall | GraphCall] = []
        self.upserts = 0
        self.writes: list[str] = []
        self.release = asyncio.Event()
        self.started = asyncio.Event()
        self.closed = False

    def base(self, tenant: str, name: str, *, change: bool = False) -> MemoryBase:
        if name in self.errors:
            raise self.errors[name]
        seen = {base.spec.base for base in self._seen(tenant)}
        if name not in seen:
            raise unknown_name("knowledge base", name, seen)
        if change and self.kept[name].tenant != tenant:
            raise NotFoundError(f"{name!r} is shared by another tenant; it can be asked, not changed")
        return self.kept[name]

    def _seen(self, tenant: str) -> list[MemoryBase]:
        return [base for base in self.kept.values() if base.tenant == tenant or base.spec.shared]

    async def create(self, tenant: str, spec: BaseSpec) -> BaseInfo:
        if spec.base in self.kept:
            raise AlreadyExistsError(f"there is a knowledge base {spec.base!r} already")
        if spec.retriever not in {"", "memory"}:
            raise unknown_name("retriever", spec.retriever, ["memory"])
        self.kept[spec.base] = MemoryBase(tenant, spec)
        return self.kept[spec.base].info()

    async def bases(self, tenant: str, wanted: Callable[[str], bool] = lambda _: True) -> Sequence[BaseInfo]:
        return [base.info() for base in self._seen(tenant) if wanted(base.spec.base)]

    async def names(self, tenant: str) -> Collection[str]:
        return [base.spec.base for base in self._seen(tenant)]

    async def drop(self, tenant: str, base: str) -> None:
        self.base(tenant, base, change=True)
        del self.kept[base]

    async def upsert(self, tenant: str, base: str, documents: AsyncIterator[Document]) -> UpsertResult:
        kept = self.base(tenant, base, change=True)
        self.upserts += 1
        before = kept.versions[-1]
        given = {document.document_id: document async for document in documents}
        refused = tuple(Refused(document_id=key, reason="it is empty") for key, one in given.items() if not one.text)
        changed = {key: one for key, one in given.items() if one.text and before.get(key) != one}
        unchanged = tuple(key for key, one in given.items() if before.get(key) == one)
        version = kept.add(before | changed, "put") if changed else kept.newest
        return UpsertResult(
            version=version, passages=len(changed), changed=tuple(changed), unchanged=unchanged, refused=refused
        )

    async def delete(self, tenant: str, base: str, document_ids: Sequence[str]) -> int:
        kept = self.base(tenant, base, change=True)
        before = kept.versions[-1]
        for missing in (one for one in document_ids if one not in before):
            raise unknown_name("document", missing, before)
        return kept.add({key: one for key, one in before.items() if key not in document_ids}, "remove")

    async def search(self, tenant: str, call: SearchCall) -> SearchResult:
        self.calls.append(call)
        kept = self.base(tenant, call.base)
        if call.query in self.errors:
            raise self.errors[call.query]
        version = kept.newest if call.version is None else call.version
        found = [
            Hit(
                passage=passage_of(document),
                score=1 / (place + 1),
                dense=0.5,
                sparse=None,
                graph=0.25 if call.mode == "graph" else None,
            )
            for place, document in enumerate(kept.versions[version].values())
            if all(document.metadata.get(key) == value for key, value in (call.where or {}).items())
        ]
        return SearchResult(version=version, hits=tuple(found[: call.limit]))

    async def configure(self, tenant: str, base: str, answering: AnswerConfig) -> BaseInfo:
        kept = self.base(tenant, base, change=True)
        kept.spec = kept.spec.model_copy(update={"answering": answering})
        return kept.info()

    async def ask(self, tenant: str, call: AskCall, send: PartSink | None = None) -> KnowledgeAnswer:
        self.started.set()
        if call.question == "slow":
            await self.release.wait()
        if call.question == "crash":
            raise RuntimeError("/secret/path/index.faiss has burnt")
        if call.question in self.errors:
            raise self.errors[call.question]
        found = await self.search(
            tenant,
            SearchCall(base=call.base, query=call.question, where=call.where, version=call.version, mode=call.mode or "hybrid"),
        )
        self.calls[-1] = call
        sources = tuple(source_of(hit, call.question) for hit in found.hits[: call.passages])
        best = next((source for source in sources if source.answer), None)
        kind: Any = "span" if best else "none"
        if best is not None and self.base(tenant, call.base).spec.answering.writer:
            kind = "written"
            for part in self.writes or [best.answer]:
                if send is not None:
                    send(part)
                await asyncio.sleep(0)
            if call.question.startswith("breaks"):
                raise UnavailableError("the writer broke off")
        return KnowledgeAnswer(
            kind=kind,
            answer="".join(self.writes) or best.answer if best else "",
            confidence=0.75 if best else 0.0,
            language="en",
            ranking=tuple(
                Ranked(passage_id=source.passage_id, fused=1 / 64, score=0.5)
                for source in sources
                if self.base(tenant, call.base).spec.answering.reranker
            ),
            evidence="reader" if kind == "written" else "",
            understood_as=" ".join([*(turn.question for turn in call.turns), call.question]) if call.turns else "",
            sources=sources,
            version=found.version,
            models=(READER,),
        )

    async def graph(self, tenant: str, call: GraphCall) -> GraphResult:
        self.calls.append(call)
        kept = self.base(tenant, call.base)
        if not kept.keeps_graph:
            raise UnsupportedError(f"{call.base!r} keeps no graph")
        if call.name != "Ann":
            raise NotFoundError(f"the graph has no entity named {call.name!r}")
        version = kept.newest if call.version is None else call.version
        passages = [passage_of(document) for document in kept.versions[version].values()]
        there = {"score": 0.5, "models": ("names@1",)}
        mentions = [
            GraphMention(
                name="ann",
                label="PER",
                document_id=passage.document_id,
                passage_id=passage.passage_id,
                text="Ann",
                start=0,
                end=3,
                **there,
            )
            for passage in passages
        ]
        relations = [
            GraphRelation(
                head="ann",
                head_label="PER",
                relation="owns",
                tail="bolt",
                tail_label="ORG",
                hop=call.hops,
                document_id=passage.document_id,
                passage_id=passage.passage_id,
                **there,
            )
            for passage in passages[:1]
        ]
        return GraphResult(version=version, mentions=tuple(mentions[: call.limit]), relations=tuple(relations))

    async def stats(self, tenant: str, base: str) -> BaseInfo:
        return self.base(tenant, base).info()

    async def versions(self, tenant: str, base: str) -> Sequence[VersionInfo]:
        kept = self.base(tenant, base)
        return [kept.version(number) for number in range(kept.newest, 0, -1)]

    async def snapshot(self, tenant: str, base: str, name: str) -> VersionInfo:
        kept = self.base(tenant, base, change=True)
        kept.names[kept.newest] = name
        return kept.version(kept.newest)

    async def drop_snapshot(self, tenant: str, base: str, name: str) -> VersionInfo:
        kept = self.base(tenant, base, change=True)
        numbers = {given: number for number, given in kept.names.items()}
        if name not in numbers:
            raise unknown_name("snapshot", name, numbers)
        del kept.names[numbers[name]]
        return kept.version(numbers[name])

    async def rollback(self, tenant: str, base: str, version: int) -> int:
        kept = self.base(tenant, base, change=True)
        if not 0 < version <= kept.newest:
            raise unknown_name("version", str(version), [str(number) for number in range(1, kept.newest + 1)])
        return kept.add(kept.versions[version], "rollback")

    async def close(self) -> None:
        self.closed = True


def passage_of(document: Document) -> Passage:
    told = {name: getattr(document, name) for name in ("document_id", "text", "title", "source", "metadata")}
    return Passage(passage_id=f"{document.document_id}#0", start=0, end=len(document.text), language="en", **told)


def source_of(hit: Hit, question: str) -> Source:
    """What answers is the question's last word, where the passage has it."""
    passage, word = hit.passage, question.rsplit(maxsplit=1)[-1].rstrip("?")
    start = passage.text.find(word)
    answer = word if start >= 0 else ""
    return Source(
        document_id=passage.document_id,
        passage_id=passage.passage_id,
        title=passage.title,
        source=passage.source,
        passage=passage.text,
        answer=answer,
        start=max(start, 0),
        end=max(start, 0) + len(answer),
        score=hit.score,
        graph=hit.graph,
    )
