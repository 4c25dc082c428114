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
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, TypeVar

from taskloom.core.errors import (
    AuditUnavailableError,
    DeadlineExceededError,
    InternalError,
    InvalidInputError,
    NotFoundError,
    OverloadedError,
    RequestCancelledError,
    TaskloomError,
    ThrottledError,
    UnavailableError,
    unknown_name,
)
from taskloom.core.hookspecs import RequestEvent
from taskloom.core.ports import AuditEntry, AuditLog, PartSink
from taskloom.core.settings import ServerSettings
from taskloom.core.types import InferCall, InferResult, ModelDescription, ModelInfo, ModelRef, Principal
from taskloom.server.auth.limits import RateLimits
from taskloom.server.auth.policy import PREDICT, ModelAccess, check_role
from taskloom.server.idempotency import IdempotentRuns, content_digest
from taskloom.server.records import NO_FACTS, RequestRecord, SentParts, asked
from taskloom.server.refusals import RefusalLog

log = logging.getLogger(__name__)

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


Observer = Callable[[RequestEvent], None]


class InferenceService:
    """Answers calls of authenticated principals. Called from one event loop."""

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
        self._audit = audit
        self._settings = settings
        self._access = access or ModelAccess()
        self._limits = limits or RateLimits()
        self._observers = tuple(observers)
        self._refusals = RefusalLog(audit, refusal_window_s)
        self._runs = IdempotentRuns(settings.idempotency_ttl_s)
        self._ready = False
        self._running = 0
        self._emptied: asyncio.Future[None] | None = None
        self._late_records: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """From now on calls are taken; the engine has started."""
        self._ready = True

    async def close(self) -> None:
        """Writes the records that nobody waits for: of callers who went away, and of refusals that were counted. Requests
        that are being cancelled come to their end first."""
        self._ready = False
        if self._running:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=_CANCELLED_WITHIN_S)
        await asyncio.gather(*self._late_records)
        await self._refusals.close()

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
            self._admit(principal, call)
        except TaskloomError as error:
            await self.record_refusal(principal, error, call.request_id, call.model.name, facts=facts)
            raise
        self._running += 1
        try:
            if not call.idempotency_key:
                return await self._answer(principal, call, facts, send)
            return await self._answer_once(principal, call, facts, send)
        finally:
            self._running -= 1
            if self._emptied is not None and not self._running:
                self._emptied.set_result(None)

    def _admit(self, principal: Principal, call: InferCall) -> None:
        """What can be decided without the engine. The token is taken before the model is looked at, so that calls for
        models that a key may not use are limited like all others."""
        self._check_open()
        check_role(principal, _PREDICT_ONLY, "ask for predictions")
        if self._running >= self._settings.max_concurrent_requests:
            raise OverloadedError(
                f"the server works on {self._running} requests, its limit (server.max_concurrent_requests); try again later"
            )
        self._limits.take(principal)
        self._access.check(principal, call.model.name)

    def _check_open(self) -> None:
        if not self._ready:
            raise UnavailableError("the server is starting or shutting down; try again in a few seconds")

    async def _answer_once(
        self, principal: Principal, call: InferCall, facts: Mapping[str, Any], send: PartSink | None
    ) -> InferResult:
        """As `_answer`, but for all calls with one idempotency key together."""
        key = (principal.key_id or principal.name, call.idempotency_key)
        digest = content_digest(call)
        try:
            result = await self._runs.join(key, digest)
        except InvalidInputError as error:
            await self.record_refusal(principal, error, call.request_id, call.model.name, facts=facts)
            raise
        if result is None:
            return await self._runs.lead(key, digest, self._answer(principal, call, facts, send))
        told = {**facts, "asked_as": call.request_id}
        replay = RequestRecord(
            principal, result.request_id, told, result.model, result.version, result.task, action="infer.replayed"
        )
        await self._append(replay.entry("event"))
        return result

    async def _answer(
        self, principal: Principal, call: InferCall, facts: Mapping[str, Any], send: PartSink | None
    ) -> InferResult:
        started = time.perf_counter()
        parts = SentParts(send) if send is not None else None
        try:
            call, remaining_s = self._with_deadline(call)
            prepared = self._prepare(principal, call)
        except TaskloomError as error:
            await self.record_refusal(principal, error, call.request_id, call.model.name, facts=facts)
            raise
        record = RequestRecord(principal, call.request_id, facts, call.model.name, prepared.version, prepared.task)
        try:
            await self._append(record.entry("accepted", payload=asked(call), binary=prepared.binary))
            self._observe(record, "accepted")
            result = await self._run(prepared, remaining_s, parts)
        except asyncio.CancelledError:
            self._record_departure(record, call, time.perf_counter() - started, parts)
            raise
        except Exception as exc:
            raise await self._failed(record, exc, time.perf_counter() - started, parts) from exc
        total_s = time.perf_counter() - started
        result = result.model_copy(update={"timings": result.timings.model_copy(update={"total_s": total_s})})
        record = replace(record, version=result.version)  # during a roll, another than the one that was accepted may answer
        # From here on the log says that there was an answer, even if the caller goes away while this is written.
        await self._append(record.entry("completed", duration_s=total_s, payload=result.output))
        self._observe(record, "completed", duration_s=total_s)
        return result

    def _with_deadline(self, call: InferCall) -> tuple[InferCall, float]:
        """The call with a deadline in any case, and the seconds that are left."""
        now = time.time()
        if call.deadline_s is None:
            timeout_s = self._settings.default_timeout_s
            return call.model_copy(update={"deadline_s": now + timeout_s}), timeout_s
        if call.deadline_s <= now:
            raise DeadlineExceededError("the deadline had passed when the request arrived; nothing was run")
        return call, call.deadline_s - now

    def _prepare(self, principal: Principal, call: InferCall) -> PreparedCall:
        try:
            prepared: PreparedCall = self._engine.prepare(call)
        except NotFoundError as error:
            raise self._without_hidden_names(principal, call.model, error) from error
        except TaskloomError:
            raise
        except Exception as exc:
            raise _as_error(exc, call.request_id) from exc
        if call.typed_as and call.typed_as != prepared.task:
            raise InvalidInputError(
                f"{call.model.name} is a model for {prepared.task}, and the input came as one for {call.typed_as}; "
                f"send it as {prepared.task} or as json",
                field="input",
            )
        return prepared

    async def _run(self, prepared: PreparedCall, remaining_s: float, parts: SentParts | None) -> InferResult:
        try:
            async with asyncio.timeout(remaining_s) as timeout:
                result: InferResult = await self._engine.run(prepared, parts.send if parts is not None else None)
        except TimeoutError as exc:
            if not timeout.expired():
                raise
            raise DeadlineExceededError("the deadline passed before the model had answered") from exc
        return result

    async def _failed(self, record: RequestRecord, exc: Exception, duration_s: float, parts: SentParts | None) -> TaskloomError:
        """Records the failure and returns the error for the caller."""
        error = _as_error(exc, record.request_id)
        if not isinstance(error, AuditUnavailableError):
            payload = parts.payload() if parts is not None else None
            await self._append(record.entry("failed", code=error.code, duration_s=duration_s, payload=payload))
        self._observe(record, "failed", error.code, duration_s)
        return error

    def _record_departure(self, record: RequestRecord, call: InferCall, duration_s: float, parts: SentParts | None) -> None:
        """The caller went away or its deadline passed. Nobody waits, so the record is written by a task; `close` waits."""
        expired = call.deadline_s is not None and call.deadline_s <= time.time()
        code = DeadlineExceededError.code if expired else RequestCancelledError.code
        payload = parts.payload() if parts is not None else None
        entry = record.entry("failed", code=code, duration_s=duration_s, payload=payload)
        task = asyncio.get_running_loop().create_task(self._append_late(entry))
        self._late_records.add(task)
        task.add_done_callback(self._late_records.discard)
        self._observe(record, "failed", code, duration_s)

    # -- models -----------------------------------------------------------------------------------------------------------

    def models(self, principal: Principal) -> list[ModelInfo]:
        """The models that the principal may use."""
        self._check_open()
        self._limits.take(principal)
        return [info for info in self._engine.models() if self._access.allows(principal, info.name)]

    def describe(self, principal: Principal, ref: ModelRef) -> ModelDescription:
        """What a model takes and gives; raises `PermissionDeniedError` for one that the principal may not use."""
        self._check_open()
        self._limits.take(principal)
        self._access.check(principal, ref.name)
        try:
            return self._engine.describe(ref)
        except NotFoundError as error:
            raise self._without_hidden_names(principal, ref, error) from error

    def _without_hidden_names(self, principal: Principal, ref: ModelRef, error: NotFoundError) -> NotFoundError:
        """The engine's message may list every model; the caller's may list only those that it may use."""
        served = self._engine.models()
        visible = {info.name for info in served if self._access.allows(principal, info.name)}
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
        record = RequestRecord(principal, request_id, facts, model)
        if counted if counted is not None else isinstance(error, ThrottledError | UnavailableError):
            await self._refusals.record(record, error.code)
        else:
            await self._append(record.entry("failed", code=error.code))
        self._observe(record, "failed", error.code)

    async def _append(self, entry: AuditEntry) -> None:
        try:
            await self._audit.append(entry)
        except TaskloomError:
            raise
        except Exception as exc:
            log.exception("the audit log failed in a way that it should not")
            raise AuditUnavailableError("no audit record can be written, so nothing is answered; try again later") from exc

    async def _append_late(self, entry: AuditEntry) -> None:
        try:
            await self._append(entry)
        except TaskloomError as error:
            log.error("request %s: that it failed (%s) is not recorded: %s", entry.request_id, entry.code, error)

    def _observe(self, record: RequestRecord, kind: str, code: str = "", duration_s: float = 0.0) -> None:
        if not self._observers:
            return
        event = record.event(kind, code, duration_s)
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                log.exception("an observer of requests failed; it is ignored")


def _as_error(exc: Exception, request_id: str) -> TaskloomError:
    if isinstance(exc, TaskloomError):
        return exc
    log.error("request %s failed for a reason that nobody foresaw", request_id, exc_info=exc)
    return InternalError(f"the server could not answer; its log says why under request id {request_id}")
