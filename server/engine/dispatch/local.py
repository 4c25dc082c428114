"""Runs a pool's batches in threads of this process: the SDK's in-process mode, small servers, fast tests."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from taskloom.core.ports import BatchResult, PartSink, WorkItem
from taskloom.core.registry import Registry
from taskloom.core.store import ModelStore
from taskloom.server.engine.host import ModelHost
from taskloom.server.engine.spec import ModelVersion, ReplicaSpec
from taskloom.server.parts import StopSign

T = TypeVar("T")


class LocalDispatcher:
    """One replica: a `ModelHost`, whose lanes each have a batch in the model while others are tokenised, and as many threads as
    batches may be in flight. Answers that come in parts have threads of their own. Threads are started when they are needed."""

    def __init__(self, spec: ReplicaSpec, registry: Registry, store: ModelStore) -> None:
        self._spec = spec
        self._registry = registry
        self._store = store
        self._per_lane = spec.settings.batch.in_flight_per_replica
        self._stream_lanes = spec.settings.batch.streams_per_replica
        self._host: ModelHost | None = None
        self._pool: ThreadPoolExecutor | None = None
        self._writers: ThreadPoolExecutor | None = None
        self._busy: dict[ModelHost, int] = {}
        self._changed: Callable[[], None] = lambda: None

    async def start(self) -> None:
        most = self._per_lane * max(self._spec.settings.runtime.threads, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(most, thread_name_prefix=f"taskloom-{self._spec.pool}")
        self._writers = ThreadPoolExecutor(self._stream_lanes, thread_name_prefix=f"taskloom-{self._spec.pool}-stream")
        self._host = await self._in_thread(lambda: self._loaded(self._spec))
        self._changed()

    def slots(self) -> int:
        return self._host.lanes if self._host is not None else 0

    def standby_slots(self) -> int:
        return self.slots() * (self._per_lane - 1)

    def stream_slots(self) -> int:
        return self.replicas() * self._stream_lanes

    def replicas(self) -> int:
        return 1 if self._host is not None else 0

    def watch(self, changed: Callable[[], None]) -> None:
        self._changed = changed

    async def dispatch(self, items: Sequence[WorkItem], deadline_s: float | None) -> BatchResult:
        # The scheduler cancels a batch that nobody waits for any more; if it has not begun, it then leaves the queue here.
        return await self._begin(self._pool, lambda host: host.run(items))

    async def stream(self, item: WorkItem, deadline_s: float | None, send: PartSink) -> BatchResult:
        loop, stop = asyncio.get_running_loop(), StopSign(deadline_s)

        def tell(text: str) -> None:
            _tell(loop, lambda: send(text))

        try:
            return await self._begin(self._writers, lambda host: host.stream(item, tell, stop.check))
        finally:
            stop.put_up()

    def _begin(self, pool: ThreadPoolExecutor | None, work: Callable[[ModelHost], BatchResult]) -> asyncio.Future[BatchResult]:
        host = self._host
        assert host is not None, "start() comes first"
        assert pool is not None

        loop = asyncio.get_running_loop()
        self._busy[host] = self._busy.get(host, 0) + 1
        running = pool.submit(work, host)
        running.add_done_callback(lambda _: _tell(loop, lambda: self._done(host)))
        return asyncio.wrap_future(running)

    def _done(self, host: ModelHost) -> None:
        self._busy[host] -= 1
        if not self._busy[host]:
            del self._busy[host]
            if host is not self._host:
                host.close()

    async def roll(self, models: Sequence[ModelVersion]) -> None:
        """Loads the new models beside the old ones, swaps, and lets the old ones finish what they have."""
        spec = replace(self._spec, models=tuple(models))
        new = await asyncio.to_thread(self._loaded, spec)
        old, self._host, self._spec = self._host, new, spec
        if old is not None and old not in self._busy:
            old.close()
        self._changed()

    async def close(self) -> None:
        host, self._host = self._host, None
        pools, self._pool, self._writers = (self._pool, self._writers), None, None
        for pool in pools:
            if pool is not None:
                await asyncio.to_thread(pool.shutdown, wait=True, cancel_futures=True)
        if host is not None:
            host.close()

    def _loaded(self, spec: ReplicaSpec) -> ModelHost:
        host = ModelHost(spec, self._registry, self._store)
        host.load()
        host.self_check()
        return host

    async def _in_thread(self, work: Callable[[], T]) -> T:
        assert self._pool is not None
        return await asyncio.wrap_future(self._pool.submit(work))


def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(what)
