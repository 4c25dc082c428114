"""The record of every request, from its acceptance to its outcome, for all services of one gateway.

No answer, and no refusal of a known principal, leaves without its record: if the log can't be written, the caller gets
`AuditUnavailableError` and nothing else. `refusals` says which refusals share a record.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from taskloom.core.errors import (
    AuditUnavailableError,
    DeadlineExceededError,
    InternalError,
    RequestCancelledError,
    TaskloomError,
    ThrottledError,
    UnavailableError,
)
from taskloom.core.hookspecs import RequestEvent
from taskloom.core.ports import AuditEntry, AuditLog
from taskloom.server.records import RequestRecord
from taskloom.server.refusals import RefusalLog

log = logging.getLogger(__name__)

Observer = Callable[[RequestEvent], None]
Payload = Mapping[str, Any]

_CLOCK_SLACK_S = 0.05
"""A deadline crosses the wire as what is left of it, and arrives a little later than it was: gRPC may end the call first."""


class RequestLedger:
    """Writes what becomes of requests into the audit log, and tells observers. Called from one event loop."""

    def __init__(self, audit: AuditLog, observers: Sequence[Observer] = (), refusal_window_s: float = 10.0) -> None:
        self._audit = audit
        self._observers = tuple(observers)
        self._refusals = RefusalLog(audit, refusal_window_s)
        self._late_records: set[asyncio.Task[None]] = set()

    async def accepted(self, record: RequestRecord, payload: Payload | None, binary: tuple[str, ...] = ()) -> None:
        """Work may begin when this returns."""
        await self.append(record.entry("accepted", payload=payload, binary=binary))
        self._observe(record, "accepted")

    async def completed(self, record: RequestRecord, duration_s: float, payload: Payload | None) -> None:
        """The answer may leave when this returns. From its first step on the log says that there was one, even if the caller
        goes away while it is written."""
        await self.append(record.entry("completed", duration_s=duration_s, payload=payload))
        self._observe(record, "completed", duration_s=duration_s)

    async def failed(
        self, record: RequestRecord, exc: Exception, duration_s: float, payload: Payload | None = None
    ) -> TaskloomError:
        """Records the failure and returns the error for the caller."""
        error = as_error(exc, record.request_id)
        if not isinstance(error, AuditUnavailableError):
            await self.append(record.entry("failed", code=error.code, duration_s=duration_s, payload=payload))
        self._observe(record, "failed", error.code, duration_s)
        return error

    def departed(
        self, record: RequestRecord, deadline_s: float | None, duration_s: float, payload: Payload | None = None
    ) -> None:
        """The caller went away or its deadline passed. Nobody waits, so the record is written by a task; `close` waits."""
        expired = deadline_s is not None and deadline_s <= time.time() + _CLOCK_SLACK_S
        code = DeadlineExceededError.code if expired else RequestCancelledError.code
        entry = record.entry("failed", code=code, duration_s=duration_s, payload=payload)
        task = asyncio.get_running_loop().create_task(self._append_late(entry))
        self._late_records.add(task)
        task.add_done_callback(self._late_records.discard)
        self._observe(record, "failed", code, duration_s)

    async def refused(self, record: RequestRecord, error: TaskloomError, *, counted: bool | None = None) -> None:
        """Records that a known principal was refused. Refusals that spend no token (`counted`) share records."""
        if counted if counted is not None else isinstance(error, ThrottledError | UnavailableError):
            await self._refusals.record(record, error.code)
        else:
            await self.append(record.entry("failed", code=error.code))
        self._observe(record, "failed", error.code)

    async def append(self, entry: AuditEntry) -> None:
        try:
            await self._audit.append(entry)
        except TaskloomError:
            raise
        except Exception as exc:
            log.exception("the audit log failed in a way that it should not")
            raise AuditUnavailableError("no audit record can be written, so nothing is answered; try again later") from exc

    async def close(self) -> None:
        """Writes the records that nobody waits for: of callers who went away, and of refusals that were counted."""
        await asyncio.gather(*self._late_records)
        await self._refusals.close()

    async def _append_late(self, entry: AuditEntry) -> None:
        try:
            await self.append(entry)
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


def as_error(exc: Exception, request_id: str) -> TaskloomError:
    """The error that a caller may see; what nobody foresaw goes into the server's log."""
    if isinstance(exc, TaskloomError):
        return exc
    log.error("request %s failed for a reason that nobody foresaw", request_id, exc_info=exc)
    return InternalError(f"the server could not answer; its log says why under request id {request_id}")
