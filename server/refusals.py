"""Records of calls that were refused before they cost anything, so few that a flood of them can't fill the disk."""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass, replace

from taskloom.core.errors import TaskloomError
from taskloom.core.ports import AuditEntry, AuditLog
from taskloom.server.records import RequestRecord

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Window:
    """The refusals of one key for one reason. `first` has a record of its own, which `recorded` writes; `more` followed it."""

    first: RequestRecord
    code: str
    started_s: float
    timer: asyncio.TimerHandle
    recorded: asyncio.Task[object]
    more: int = 0


class RefusalLog:
    """The first refusal of a key for a reason is recorded at once; those that follow within `window_s` are counted, and one
    record (action `infer.refused`, `knowledge.refused`) tells their number when the window ends. So a key costs the log at
    most two records a window, service and reason, however often it asks."""

    def __init__(self, audit: AuditLog, window_s: float = 10.0) -> None:
        self._audit = audit
        self._window_s = window_s
        self._windows: dict[tuple[str, str, str], _Window] = {}
        self._writing: set[asyncio.Task[None]] = set()

    async def record(self, record: RequestRecord, code: str) -> None:
        """Returns when the refusal is recorded or counted; raises `AuditUnavailableError` if it can't be recorded."""
        key = (record.principal.key_id or record.principal.name, _service(record), code)
        window = self._windows.get(key)
        if window is None:
            window = self._windows[key] = self._begin(key, record)
        else:
            window.more += 1
        await asyncio.shield(window.recorded)  # those that are counted stand on the first one's record

    async def close(self) -> None:
        """Ends every window now and waits for the records."""
        recorded = [window.recorded for window in self._windows.values()]
        for key in list(self._windows):
            self._end(key)
        await asyncio.gather(*self._writing, *recorded, return_exceptions=True)

    def _begin(self, key: tuple[str, str, str], record: RequestRecord) -> _Window:
        loop = asyncio.get_running_loop()
        recorded = loop.create_task(self._append(record.entry("failed", code=key[2])))
        timer = loop.call_later(self._window_s, self._end, key)
        window = _Window(record, key[2], time.time(), timer, recorded)
        recorded.add_done_callback(lambda _: self._recorded(key, window))
        return window

    async def _append(self, entry: AuditEntry) -> None:
        await self._audit.append(entry)

    def _recorded(self, key: tuple[str, str, str], window: _Window) -> None:
        """Without the first one's record there is nothing to count under: the next refusal tries again."""
        failed = window.recorded.cancelled() or window.recorded.exception() is not None
        if failed and self._windows.get(key) is window:
            del self._windows[key]
            window.timer.cancel()

    def _end(self, key: tuple[str, str, str]) -> None:
        window = self._windows.pop(key)
        window.timer.cancel()
        if window.more:
            task = asyncio.get_running_loop().create_task(self._summarise(window))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _summarise(self, window: _Window) -> None:
        facts = {"refused": window.more, "since_s": window.started_s, "first_request_id": window.first.request_id}
        action = f"{_service(window.first)}.refused"
        summary = replace(window.first, request_id="", model="", action=action, facts=facts)
        try:
            await self._audit.append(summary.entry("failed", code=window.code))
        except TaskloomError as error:
            log.error("%d refusals (%s) of %s are not recorded: %s", window.more, window.code, summary.principal.name, error)


def _service(record: RequestRecord) -> str:
    """`infer` or `knowledge`: what stands before the dot of an action."""
    return record.action.partition(".")[0]
