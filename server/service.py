"""The inference service: what a gateway does for a request, whatever the request came in.

    principal and call -> admit (open? room? quota? model allowed?) -> validate -> audit "accepted"
        -> engine -> audit "completed" or "failed" -> answer

No prediction, and no refusal of one to a known principal, leaves without its record: if the log can't be written, the
caller gets `AuditUnavailableError` and nothing else. `refusals` says which refusals share a record.

An answer in parts begins to leave before it is whole. That it was begun is on record by then ("accepted"); "completed", with
all of it, is written before its last message leaves; where that never comes, "failed" holds the parts that had left.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from taskloom.core.errors import InvalidInputError, NotFoundError, TaskloomError, unknown_name
from taskloom.core.ports import AuditLog, PartSink
from taskloom.core.settings import ServerSettings
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef, Principal
from taskloom.server.admission import Admission, within
from taskloom.server.auth.limits import RateLimits
from taskloom.server.auth.policy import PREDICT, ModelAccess
from taskloom.server.idempotency import IdempotentRuns, Key, content_digest
from taskloom.server.ledger import Observer, RequestLedger, as_error
from taskloom.server.records import NO_FACTS, RequestRecord, SentParts, asked, left

_CANCELLED_WITHIN_S = 5.0
_PREDICT_ONLY = frozenset({PREDICT})


class PreparedCall(Protocol):
    """A call that the engine found valid, the version and task that will answer it, and the input's fields of bytes."""

    @property
    def call(self) -> InferCall: ...
    @property
    def task(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def binary(self) -> tuple[str, ...]: ...


P = TypeVar("P", bound=PreparedCall)


class ModelEngine(Protocol[P]):
    """The engine in two steps, so that a record can be written between them."""

    def prepare(self, call: InferCall) -> P:
        """Finds the model and validates; raises a `TaskloomError`. Does not wait for anything."""

    async def run(self, prepared: P, send: PartSink | None = None) -> InferResult:
        """The answer; raises a `TaskloomError`, `DeadlineExceededError` when the call's deadline passes. Parts of the answer
        go to `send` first, where there are any."""

    def models(self) -> Sequence[ModelInfo]: ...

    def describe(self, ref: ModelRef) -> ModelDescription: ...


class InferenceService:
    """Answers calls of authenticated principals. Called from one event loop. `admission` and `ledger` are there for other
    services of the same gateway."""

    def __init__(
        self,
        engine: ModelEngine[Any],
        audit: AuditLog,
        settings: ServerSettings,
        *,
        access: ModelAccess | None = None,
        limits: RateLimits | None = None,
        observers: Sequence[Observer] = (),
        refusal_window_s: float = 10.0,
    ) -> None:
        self._engine = engine
        self.admission = Admission(settings, access, limits)
        self.ledger = RequestLedger(audit, observers, refusal_window_s)
        self._runs = IdempotentRuns(settings.idempotency_ttl_s)

    def open(self) -> None:
        """From now on calls are taken; the engine has started."""
        self.admission.open()

    async def close(self) -> None:
        """Writes the records that nobody waits for. Requests that are being cancelled come to their end first."""
        await self.admission.close(_CANCELLED_WITHIN_S)
        await self.ledger.close()

    # -- requests ---------------------------------------------------------------------------------------------------------

    async def infer(
        self,
        principal: Principal,
        call: InferCall,
        facts: Mapping[str, Any] = NO_FACTS,
        send: PartSink | None = None,
    ) -> InferResult:
        """The answer to one call. `facts` go into its records. Raises a `TaskloomError`. With `send`, parts of the answer go
        there as the model writes them; there are none if the model does not stream, or another call with the same
        idempotency key was answered before."""
        if send is not None:
            facts = {**facts, "partials": True}
        try:
            self.admission.admit(principal, _PREDICT_ONLY, "ask for predictions", call.model.name)
        except TaskloomError as error:
            await self.record_refusal(principal, error, call.request_id, call.model.name, facts=facts)
            raise
        with self.admission.running():
            if not call.idempotency_key:
                return await self._answer(principal, call, facts, send)
            return await self._answer_once(principal, call, facts, send)

    async def _answer_once(
        self, principal: Principal, call: InferCall, facts: Mapping[str, Any], send: PartSink | None
    ) -> InferResult:
        """As `_answer`, but for all calls with one idempotency key together."""
        key = (principal.key_id or principal.name, call.idempotency_key)
        digest = content_digest(call)
        started = time.perf_counter()
        try:
            result = await self._joined(call, key, digest)
        except TaskloomError as error:
            await self.record_refusal(principal, error, call.request_id, call.model.name, facts=facts)
            raise
        except asyncio.CancelledError:
            record = RequestRecord(principal, call.request_id, facts, call.model.name)
            self.ledger.departed(record, call.deadline_s, time.perf_counter() - started)
            raise
        if result is None:
            return await self._runs.lead(key, digest, self._answer(principal, call, facts, send))
        told = {**facts, "asked_as": call.request_id}
        replay = RequestRecord(
            principal, result.request_id, told, result.model, result.version, result.task, action="infer.replayed"
        )
        await self.ledger.append(replay.entry("event"))
        return result

    async def _joined(self, call: InferCall, key: Key, digest: bytes) -> InferResult | None:
        if not self._runs.running(key):
            return await self._runs.join(key, digest)
        _, left_s = self.admission.deadline(call.deadline_s)
        late = "the deadline passed before the call that had this idempotency key first was answered"
        return await within(left_s, self._runs.join(key, digest), late)

    async def _answer(
        self, principal: Principal, call: InferCall, facts: Mapping[str, Any], send: PartSink | None
    ) -> InferResult:
        started = time.perf_counter()
        parts = SentParts(send) if send is not None else None
        try:
            deadline_s, left_s = self.admission.deadline(call.deadline_s)
            if deadline_s != call.deadline_s:
                call = call.model_copy(update={"deadline_s": deadline_s})
            prepared = self._prepare(principal, call)
        except TaskloomError as error:
            await self.record_refusal(principal, error, call.request_id, call.model.name, facts=facts)
            raise
        record = RequestRecord(principal, call.request_id, facts, call.model.name, prepared.version, prepared.task)
        try:
            await self.ledger.accepted(record, asked(call), prepared.binary)
            running = self._engine.run(prepared, parts.send if parts is not None else None)
            result = await within(left_s, running, "the deadline passed before the model had answered")
        except asyncio.CancelledError:
            self.ledger.departed(record, deadline_s, time.perf_counter() - started, left(parts))
            raise
        except Exception as exc:
            raise await self.ledger.failed(record, exc, time.perf_counter() - started, left(parts)) from exc
        total_s = time.perf_counter() - started
        result = result.model_copy(update={"timings": result.timings.model_copy(update={"total_s": total_s})})
        record = replace(record, version=result.version)  # during a roll, another than the one that was accepted may answer
        await self.ledger.completed(record, total_s, result.output)
        return result

    def _prepare(self, principal: Principal, call: InferCall) -> PreparedCall:
        try:
            prepared: PreparedCall = self._engine.prepare(call)
        except NotFoundError as error:
            raise self._without_hidden_names(principal, call.model, error) from error
        except TaskloomError:
            raise
        except Exception as exc:
            raise as_error(exc, call.request_id) from exc
        if call.typed_as and call.typed_as != prepared.task:
            raise InvalidInputError(
                f"{call.model.name} is a model for {prepared.task}, and the input came as one for {call.typed_as}; "
                f"send it as {prepared.task} or as json",
                field="input",
            )
        return prepared

    # -- models -----------------------------------------------------------------------------------------------------------

    def models(self, principal: Principal) -> list[ModelInfo]:
        """The models that the principal may use."""
        self.admission.admit_look(principal)
        return [info for info in self._engine.models() if self.admission.access.allows(principal, info.name)]

    def describe(self, principal: Principal, ref: ModelRef) -> ModelDescription:
        """What a model takes and gives; raises `PermissionDeniedError` for one that the principal may not use."""
        self.admission.admit_look(principal)
        self.admission.access.check(principal, ref.name)
        try:
            return self._engine.describe(ref)
        except NotFoundError as error:
            raise self._without_hidden_names(principal, ref, error) from error

    def _without_hidden_names(self, principal: Principal, ref: ModelRef, error: NotFoundError) -> NotFoundError:
        """The engine's message may list every model; the caller's may list only those that it may use."""
        served = self._engine.models()
        visible = {info.name for info in served if self.admission.access.allows(principal, info.name)}
        if len(visible) == len({info.name for info in served}):
            return error
        if ref.name not in visible:
            return unknown_name("model", ref.name, visible)
        there = {name for info in served if info.name == ref.name for name in (info.version, *info.aliases)}
        return unknown_name(f"version of {ref.name}", ref.version, there)

    # -- records ----------------------------------------------------------------------------------------------------------

    async def record_refusal(
        self,
        principal: Principal,
        error: TaskloomError,
        request_id: str,
        model: str = "",
        *,
        facts: Mapping[str, Any] = NO_FACTS,
        counted: bool | None = None,
    ) -> None:
        """Records that a known principal was refused. Refusals that spend no token (`counted`) share records, see
        `refusals`; raises `AuditUnavailableError` if there can be no record."""
        await self.ledger.refused(RequestRecord(principal, request_id, facts, model), error, counted=counted)
