"""The process that Ray Serve runs: a `ModelHost`, its threads, and the watch over it.

A batch crosses as plain tuples, which cost little to pickle and need no class of ours to unpickle.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from taskloom.core.errors import DeadlineExceededError, UnavailableError
from taskloom.core.ports import BatchResult, WorkItem, WorkResult
from taskloom.core.types import ErrorInfo
from taskloom.server.engine.host import ModelHost
from taskloom.server.engine.spec import ReplicaSpec
from taskloom.server.memory import settle_memory
from taskloom.server.parts import PartBuffer, StopSign

SentItem = tuple[str, str, Mapping[str, Any], Mapping[str, Any], int]
SentError = tuple[str, str, float | None, str]
SentResult = tuple[str, Mapping[str, Any] | None, SentError | None]
SentBatch = tuple[float, list[SentResult]]

PART_PERIOD_S = 0.02
"""What is written within this time after a part leaves with the next one: a message through Ray costs about a millisecond of
the gateway, a token of a small model hardly more, and no reader sees the difference."""


def pack_items(items: Sequence[WorkItem]) -> list[SentItem]:
    return [(item.request_id, item.model, item.input, item.params, item.cost) for item in items]


def unpack_items(sent: Sequence[SentItem]) -> list[WorkItem]:
    return [WorkItem(*fields) for fields in sent]


def pack_result(result: BatchResult) -> SentBatch:
    return result.compute_s, [(r.version, r.output, None if r.error is None else _sent(r.error)) for r in result.results]


def unpack_result(sent: SentBatch) -> BatchResult:
    compute_s, results = sent
    return BatchResult([WorkResult(version, output, _error(error)) for version, output, error in results], compute_s)


def _sent(error: ErrorInfo) -> SentError:
    return error.code, error.message, error.retry_after_s, error.field


def _error(sent: SentError | None) -> ErrorInfo | None:
    return None if sent is None else ErrorInfo(code=sent[0], message=sent[1], retry_after_s=sent[2], field=sent[3])


class Watchdog:
    """Ends the process, with the stack of every thread in its log, when work has been under way for `limit_s` seconds
    without an end in sight: what it had is then tried elsewhere, and a fresh process takes its place. The timer is a C
    thread, so it fires even if a library hangs with the interpreter's lock. Every finished batch is a sign of life, and every
    step of an answer that is written in parts. Work that is worth several full batches, such as a book in one request, has as
    many times the limit."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._armed_s = 0.0
        self._lock = threading.Lock()
        self._limits: list[float] = []

    @property
    def busy(self) -> bool:
        return bool(self._limits)

    @contextlib.contextmanager
    def over(self, batches: float = 1.0) -> Iterator[None]:
        """Watches work worth so many full batches. A small one behind a large one has the large one's limit."""
        limit_s = self._limit_s * max(1.0, batches)
        with self._lock:
            larger = limit_s > max(self._limits, default=0.0)
            self._limits.append(limit_s)
            if larger:
                self._arm()
        try:
            yield
        finally:
            with self._lock:
                self._limits.remove(limit_s)
                if self._limits:
                    self._arm()
                else:
                    faulthandler.cancel_dump_traceback_later()

    def see(self) -> None:
        """A sign of life of work that goes on. Cheap enough for every step."""
        if time.monotonic() - self._armed_s > self._limit_s / 20:
            with self._lock:
                if self._limits:
                    self._arm()

    def _arm(self) -> None:
        self._armed_s = time.monotonic()
        faulthandler.dump_traceback_later(max(self._limits), exit=True, file=sys.__stderr__ or sys.stderr)


class Replica:
    """The deployment. Async; Ray calls it in one event loop, models run in threads."""

    def __init__(self, spec: ReplicaSpec) -> None:
        settings = spec.settings
        self._host = ModelHost.from_spec(spec)
        self._host.load()
        self._host.self_check()
        settle_memory()
        self._threads = ThreadPoolExecutor(settings.batch.in_flight_per_replica, thread_name_prefix="taskloom-model")
        self._writers = ThreadPoolExecutor(settings.batch.streams_per_replica, thread_name_prefix="taskloom-stream")
        self._watchdog = Watchdog(settings.canary_timeout_s)
        self._canary_timeout_s = settings.canary_timeout_s
        self._max_cost = settings.batch.max_cost

    async def __call__(self, items: Sequence[SentItem], deadline_s: float | None) -> SentBatch:
        """If Ray cancels the call, a batch that has not begun does not begin; one that has runs to its end, unheard."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._run, items, deadline_s)

    async def stream(self, item: SentItem, deadline_s: float | None) -> AsyncIterator[str | SentBatch]:
        """What the model writes, part by part, then what `__call__` gives for this item alone. If Ray cancels the call, or the
        deadline passes, the model is stopped at its next step."""
        loop = asyncio.get_running_loop()
        parts, stop = PartBuffer(), StopSign(deadline_s)

        def send(text: str) -> None:
            loop.call_soon_threadsafe(parts.add, text)

        running = loop.run_in_executor(self._writers, self._write, item, deadline_s, send, stop)
        running.add_done_callback(lambda _: parts.end())
        try:
            async for text in parts:
                yield text
                await asyncio.wait([running], timeout=PART_PERIOD_S)
            yield await running
        finally:
            stop.put_up()
            running.cancel()

    def _run(self, items: Sequence[SentItem], deadline_s: float | None) -> SentBatch:
        if _late(deadline_s):
            return pack_result(_too_late(len(items)))
        work = unpack_items(items)
        with self._watchdog.over(sum(item.cost for item in work) / self._max_cost):
            return pack_result(self._host.run(work))

    def _write(self, item: SentItem, deadline_s: float | None, send: Callable[[str], None], stop: StopSign) -> SentBatch:
        def check() -> None:
            stop.check()
            self._watchdog.see()

        if _late(deadline_s):
            return pack_result(_too_late(1))
        [work] = unpack_items([item])
        with self._watchdog.over(work.cost / self._max_cost):
            return pack_result(self._host.stream(work, send, check))

    async def check_health(self) -> None:
        """The canary: a real prediction with a deadline of its own. A replica at work needs none: the watchdog is over it."""
        if self._watchdog.busy:
            return
        canary = asyncio.get_running_loop().run_in_executor(self._threads, self._check)
        try:
            await asyncio.wait_for(asyncio.shield(canary), self._canary_timeout_s)
        except TimeoutError:
            raise UnavailableError(f"the replica did not answer its canary in {self._canary_timeout_s} s") from None

    def _check(self) -> None:
        with self._watchdog.over():
            self._host.self_check()


def _late(deadline_s: float | None) -> bool:
    return deadline_s is not None and deadline_s <= time.time()


def _too_late(items: int) -> BatchResult:
    late = ErrorInfo.of(DeadlineExceededError("the deadline passed before the replica came to it; nothing was run"))
    return BatchResult([WorkResult("", error=late)] * items, 0.0)
