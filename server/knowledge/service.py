"""The knowledge service: what a gateway does for a call on a knowledge base, whatever the call came in.

    principal and call -> admit (open? role? room? quota? base allowed?) -> audit "accepted"
        -> engine -> audit "completed" or "failed" -> answer

Searches, questions and changes have two records each, and none leaves without them (see `ledger`). Looks at what there is have
none. In the log a base stands as the model `kb:BASE`, the version that answered or was made as the version. Texts are payload,
under the log's policy; ids and counts are facts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

from taskloom.core.errors import NotFoundError, PermissionDeniedError, TaskloomError, ThrottledError, unknown_name
from taskloom.core.knowledge import Document, VersionInfo
from taskloom.core.knowledge_calls import (
    AnswerConfig,
    AskCall,
    BaseInfo,
    BaseSpec,
    GraphCall,
    GraphResult,
    KnowledgeAnswer,
    KnowledgeEngine,
    SearchCall,
    SearchResult,
    UpsertResult,
)
from taskloom.core.ports import PartSink
from taskloom.core.types import ModelRef, Principal
from taskloom.server.admission import Admission, within
from taskloom.server.auth.policy import ADMIN, PREDICT, check_role
from taskloom.server.knowledge.facts import Tally, graph_told, ids_told, model_of, passages_told, ranking_told
from taskloom.server.ledger import Payload, RequestLedger
from taskloom.server.records import NO_FACTS, RequestRecord, SentParts, left

T = TypeVar("T")

_ASK = frozenset({PREDICT})
_CHANGE = frozenset({ADMIN})
_LOOK = frozenset({PREDICT, ADMIN})
_LATE = "the deadline passed before the knowledge base had answered"
_LATE_CHANGE = (
    "the deadline passed before the change was acknowledged; whether it was made, the base's versions tell, and putting the "
    "same documents in again does no harm"
)


@dataclass(frozen=True, slots=True)
class Asker:
    """Who calls, under which request id and until when; `facts` go into the call's records."""

    principal: Principal
    request_id: str
    deadline_s: float | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: NO_FACTS)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `completed` says of a result."""

    version: int | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: NO_FACTS)
    payload: Payload | None = None


@dataclass(frozen=True, slots=True)
class _Job(Generic[T]):
    """A call that is recorded: `run` does it by a deadline (`time.time()` clock), and `outcome` says what came of it. What
    `progress` tells goes into the record of its end, whichever that is."""

    verb: str
    base: str
    run: Callable[[float], Awaitable[T]]
    outcome: Callable[[T], Outcome]
    roles: frozenset[str] = _CHANGE
    payload: Payload | None = None
    facts: Mapping[str, Any] = field(default_factory=lambda: NO_FACTS)
    progress: Callable[[], Mapping[str, Any]] = dict
    makes_base: bool = False
    sent: SentParts | None = None
    """What of the answer has left before it is whole."""
    models: tuple[str, ...] = ()
    """Models that the base is set to use: the caller must be allowed to."""


class KnowledgeService:
    """Answers calls of authenticated principals on what the engine keeps. Called from one event loop. `admission` and
    `ledger` are those of the gateway's other services."""

    def __init__(self, engine: KnowledgeEngine, admission: Admission, ledger: RequestLedger) -> None:
        self._engine = engine
        self._admission = admission
        self._ledger = ledger

    # -- questions --------------------------------------------------------------------------------------------------------

    async def search(self, asker: Asker, call: SearchCall) -> SearchResult:
        def outcome(result: SearchResult) -> Outcome:
            passages = [hit.passage.passage_id for hit in result.hits]
            ranking = [(hit.passage.passage_id, hit.fused, hit.score) for hit in result.hits if hit.fused is not None]
            led = graph_told([hit.passage.passage_id for hit in result.hits if hit.graph is not None])
            facts = {"hits": len(passages), **passages_told(passages), **led, **ranking_told(ranking)}
            return Outcome(result.version, facts)

        async def run(deadline_s: float) -> SearchResult:
            return await self._engine.search(asker.principal.tenant, call.model_copy(update={"deadline_s": deadline_s}))

        payload = _without_none(query=call.query, where=call.where)
        facts = {"mode": call.mode, "limit": call.limit}
        job = _Job("search", call.base, run, outcome, roles=_ASK, payload=payload, facts=facts)
        return (await self._recorded(asker, job)).model_copy(update={"request_id": asker.request_id})

    async def ask(self, asker: Asker, call: AskCall, send: PartSink | None = None) -> KnowledgeAnswer:
        """With `send`, what a model writes goes there in parts as it does. An answer in parts begins to leave before it is
        whole: "accepted" is on record by then, "completed" before its end leaves; where that never comes, "failed" holds the
        parts that had left."""
        sent = SentParts(send) if send is not None else None

        def outcome(answer: KnowledgeAnswer) -> Outcome:
            facts = {
                "kind": answer.kind,
                "confidence": answer.confidence,
                "models": list(answer.models),
                **passages_told([source.passage_id for source in answer.sources]),
                **graph_told([source.passage_id for source in answer.sources if source.graph is not None]),
                **ranking_told([(one.passage_id, one.fused, one.score) for one in answer.ranking]),
                **({"evidence": answer.evidence, "truncated": answer.truncated} if answer.kind == "written" else {}),
            }
            payload = {"answer": answer.answer, "understood_as": answer.understood_as}
            return Outcome(answer.version, facts, payload)

        async def run(deadline_s: float) -> KnowledgeAnswer:
            asked = call.model_copy(update={"deadline_s": deadline_s})
            return await self._engine.ask(asker.principal.tenant, asked, sent.send if sent is not None else None)

        turns = [turn.model_dump() for turn in call.turns] or None
        payload = _without_none(question=call.question, turns=turns, where=call.where)
        facts = {**_without_none(mode=call.mode), **({"partials": True} if sent is not None else {})}
        job = _Job("ask", call.base, run, outcome, roles=_ASK, payload=payload, facts=facts, sent=sent)
        return (await self._recorded(asker, job)).model_copy(update={"request_id": asker.request_id})

    async def graph(self, asker: Asker, call: GraphCall) -> GraphResult:
        def outcome(result: GraphResult) -> Outcome:
            passages = dict.fromkeys([one.passage_id for one in result.mentions] + [one.passage_id for one in result.relations])
            counts = {"mentions": len(result.mentions), "relations": len(result.relations)}
            return Outcome(result.version, {**counts, **passages_told(list(passages))})

        async def run(deadline_s: float) -> GraphResult:
            return await self._engine.graph(asker.principal.tenant, call.model_copy(update={"deadline_s": deadline_s}))

        facts = {"hops": call.hops, "limit": call.limit}
        job = _Job("graph", call.base, run, outcome, roles=_ASK, payload={"name": call.name}, facts=facts)
        return (await self._recorded(asker, job)).model_copy(update={"request_id": asker.request_id})

    # -- changes ----------------------------------------------------------------------------------------------------------

    async def create(self, asker: Asker, spec: BaseSpec) -> BaseInfo:
        def outcome(info: BaseInfo) -> Outcome:
            return Outcome(info.stats.version, {"retriever": info.retriever})

        facts = {"shared": spec.shared, "retriever": spec.retriever, "config": dict(spec.config), **_answering(spec.answering)}
        run = self._change(lambda: self._engine.create(asker.principal.tenant, spec))
        job = _Job("create", spec.base, run, outcome, facts=facts, makes_base=True, models=spec.answering.models)
        return await self._recorded(asker, job)

    async def configure(self, asker: Asker, base: str, answering: AnswerConfig) -> BaseInfo:
        """The caller must be allowed to use the models that it names: who asks the base uses them through it."""

        def outcome(info: BaseInfo) -> Outcome:
            return Outcome(info.stats.version)

        run = self._change(lambda: self._engine.configure(asker.principal.tenant, base, answering))
        job = _Job("configure", base, run, outcome, facts=_answering(answering), models=answering.models)
        return await self._recorded(asker, job)

    async def drop(self, asker: Asker, base: str) -> None:
        run = self._change(lambda: self._engine.drop(asker.principal.tenant, base))
        await self._recorded(asker, _Job("drop", base, run, lambda _: Outcome()))

    async def upsert(self, asker: Asker, base: str, documents: AsyncIterator[Document]) -> UpsertResult:
        """Reads `documents` to their end; what they raise is raised, and then nothing was put in."""
        tally = Tally()

        def outcome(result: UpsertResult) -> Outcome:
            counts = {"changed": len(result.changed), "unchanged": len(result.unchanged), "refused": len(result.refused)}
            return Outcome(result.version, {**counts, "passages": result.passages})

        run = self._change(lambda: self._engine.upsert(asker.principal.tenant, base, tally.counted(documents)))
        result = await self._recorded(asker, _Job("upsert", base, run, outcome, progress=tally.facts))
        return result.model_copy(update={"request_id": asker.request_id})

    async def delete(self, asker: Asker, base: str, document_ids: Sequence[str]) -> int:
        facts = {"documents": len(document_ids), "document_ids": ids_told(document_ids)}
        run = self._change(lambda: self._engine.delete(asker.principal.tenant, base, document_ids))
        return await self._recorded(asker, _Job("delete", base, run, Outcome, facts=facts))

    async def snapshot(self, asker: Asker, base: str, name: str) -> VersionInfo:
        run = self._change(lambda: self._engine.snapshot(asker.principal.tenant, base, name))
        return await self._recorded(asker, _Job("snapshot", base, run, _version_told, facts={"snapshot": name}))

    async def drop_snapshot(self, asker: Asker, base: str, name: str) -> VersionInfo:
        run = self._change(lambda: self._engine.drop_snapshot(asker.principal.tenant, base, name))
        return await self._recorded(asker, _Job("drop_snapshot", base, run, _version_told, facts={"snapshot": name}))

    async def rollback(self, asker: Asker, base: str, version: int) -> int:
        run = self._change(lambda: self._engine.rollback(asker.principal.tenant, base, version))
        return await self._recorded(asker, _Job("rollback", base, run, Outcome, facts={"to_version": version}))

    @staticmethod
    def _change(work: Callable[[], Awaitable[T]]) -> Callable[[float], Awaitable[T]]:
        return lambda _deadline_s: work()

    # -- looks ------------------------------------------------------------------------------------------------------------

    async def bases(self, asker: Asker) -> list[BaseInfo]:
        """Those that the principal may use."""
        left_s = await self._looked(asker, "list")

        def allowed(base: str) -> bool:
            return self._admission.access.allows(asker.principal, model_of(base))

        return list(await within(left_s, self._engine.bases(asker.principal.tenant, allowed), _LATE))

    async def stats(self, asker: Asker, base: str) -> BaseInfo:
        left_s = await self._looked(asker, "stats", base)
        return await self._seen(asker, base, within(left_s, self._engine.stats(asker.principal.tenant, base), _LATE))

    async def versions(self, asker: Asker, base: str) -> Sequence[VersionInfo]:
        left_s = await self._looked(asker, "versions", base)
        return await self._seen(asker, base, within(left_s, self._engine.versions(asker.principal.tenant, base), _LATE))

    async def _looked(self, asker: Asker, verb: str, base: str = "") -> float:
        """The seconds that are left for a look. It changes nothing and answers nothing, and only that it was refused is on
        record."""
        try:
            self._admission.admit_look(asker.principal)
            check_role(asker.principal, _LOOK, "look at knowledge bases")
            if base:
                self._admission.access.check(asker.principal, model_of(base))
            return self._admission.deadline(asker.deadline_s)[1]
        except (PermissionDeniedError, ThrottledError) as error:
            await self.record_refusal(asker, verb, base, error)
            raise

    # -- records ----------------------------------------------------------------------------------------------------------

    async def record_refusal(self, asker: Asker, verb: str, base: str, error: TaskloomError) -> None:
        """Records that a call was refused before it came here: it spent no token of its key."""
        await self._ledger.refused(_record(asker, verb, base), error, counted=True)

    async def _recorded(self, asker: Asker, job: _Job[T]) -> T:
        record = _record(asker, job.verb, job.base, job.facts)
        try:
            self._admission.admit(asker.principal, job.roles, f"{job.verb} in knowledge bases", record.model)
            for name in job.models:
                self._admission.access.check(asker.principal, ModelRef.parse(name).name)
            deadline_s, left_s = self._admission.deadline(asker.deadline_s)
        except TaskloomError as error:
            await self._ledger.refused(record, error)
            raise
        started = time.perf_counter()
        with self._admission.running():
            try:
                await self._ledger.accepted(record, job.payload)
                late = _LATE_CHANGE if job.roles is _CHANGE else _LATE
                work = within(left_s, job.run(deadline_s), late)
                result = await (work if job.makes_base else self._seen(asker, job.base, work))
            except asyncio.CancelledError:
                took = time.perf_counter() - started
                self._ledger.departed(_with(record, job.progress()), deadline_s, took, left(job.sent))
                raise
            except Exception as exc:
                told = _with(record, job.progress())
                raise await self._ledger.failed(told, exc, time.perf_counter() - started, left(job.sent)) from exc
            outcome = job.outcome(result)
            record = _with(record, {**job.progress(), **outcome.facts}, outcome.version)
            await self._ledger.completed(record, time.perf_counter() - started, outcome.payload)
            return result

    async def _seen(self, asker: Asker, base: str, work: Awaitable[T]) -> T:
        """The engine's message may list every base of the tenant; the caller's may list only those that it may use."""
        try:
            return await work
        except NotFoundError as error:
            names = await self._engine.names(asker.principal.tenant)
            if base in names:
                raise  # a version or a document of it
            visible = {name for name in names if self._admission.access.allows(asker.principal, model_of(name))}
            raise unknown_name("knowledge base", base, visible) from error


def _record(asker: Asker, verb: str, base: str, facts: Mapping[str, Any] = NO_FACTS) -> RequestRecord:
    told = {**asker.facts, **facts}
    model = model_of(base) if base else ""
    return RequestRecord(asker.principal, asker.request_id, told, model, task="knowledge", action=f"knowledge.{verb}")


def _with(record: RequestRecord, facts: Mapping[str, Any], version: int | None = None) -> RequestRecord:
    return replace(record, facts={**record.facts, **facts}, version=record.version if version is None else str(version))


def _version_told(info: VersionInfo) -> Outcome:
    return Outcome(info.number, {"documents": info.documents})


def _answering(config: AnswerConfig) -> dict[str, Any]:
    """What is set of it."""
    told = config.model_dump(mode="json", exclude_defaults=True)
    return {"answering": told} if told else {}


def _without_none(**fields: Any) -> dict[str, Any]:
    return {name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items() if value is not None}
