"""Forms batches for one pool of replicas, and sees every item through to its one answer.

First come, first served: an item's place is its time of arrival, and each step of priority moves it `PRIORITY_STEP_S`
ahead. So among items that wait together the higher priority goes first, and an item is only ever overtaken by what
arrives within its disadvantage in steps: nothing starves. A batch takes items in that order until the next would exceed
`max_cost` or `max_items`; an item over `max_cost` goes alone.

A batch leaves as soon as a replica can run it. While all are at work, one more for each may leave to stand by there, but only
if it is at least half full: a smaller one had better wait here, where it grows, and where something more urgent can still go
first.

When a replica dies, its batches are tried again before what waits, each in two halves. Every further death halves again and
the last attempt is made alone, with nothing else in flight: only an item that a replica died of all by itself is blamed.

An answer that is to come in parts goes alone, in a slot of its own kind (`stream_slots`), so that no batch waits for it to
end. All else is the same until its first part has left. From then on nobody waits for it to end, and if its replica dies it
fails: what was sent can't be taken back.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count

from taskloom.core.errors import (
    DeadlineExceededError,
    InternalError,
    ModelFailedError,
    OverloadedError,
    ReplicaLostError,
    TaskloomError,
    UnavailableError,
)
from taskloom.core.ports import BatchResult, Dispatcher, PartSink, WorkItem
from taskloom.core.settings import BatchSettings
from taskloom.core.types import Timings
from taskloom.server.engine.entries import SUSPECT_ATTEMPTS, Answer, Batch, Entry

log = logging.getLogger(__name__)

PRIORITY_STEP_S = 0.1
"""How much earlier an item counts as having arrived for each step of its priority. The highest of 100 is so ten seconds ahead:
a stream of such can't keep what has none waiting until its deadline, which is a minute if nobody says otherwise."""

_DRAIN_MEMORY = 0.8
_RETRY_AFTER_S = (0.1, 30.0)


class Scheduler:
    """The queue in front of one pool. Everything happens in the event loop that calls `submit`.

    `clock` is the clock of deadlines.
    """

    def __init__(self, dispatcher: Dispatcher, settings: BatchSettings, *, clock: Callable[[], float] = time.time) -> None:
        self._dispatcher = dispatcher
        self._settings = settings
        self._clock = clock
        self._sequence = count()
        self._heap: list[Entry] = []
        self._stream_heap: list[Entry] = []
        self._queued = 0
        self._again: deque[list[Entry]] = deque()
        self._in_flight: set[Batch] = set()
        self._streaming = 0
        self._pumping = False
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._s_per_item = 0.0
        self._last_drain: float | None = None
        dispatcher.watch(self.wake)

    @property
    def queued(self) -> int:
        """Items that wait and have not been in flight."""
        return self._queued

    @property
    def in_flight(self) -> int:
        """Batches that replicas have."""
        return len(self._in_flight)

    async def submit(
        self,
        item: WorkItem,
        cost: int,
        priority: int = 0,
        deadline_s: float | None = None,
        send: PartSink | None = None,
    ) -> Answer:
        """The item's answer, and where its time went. With `send`, parts of the answer go there before; none after this has
        returned or raised, and none twice: if the replica dies when some have left, this raises `ReplicaLostError`.

        Raises `OverloadedError` if the queue is full, `DeadlineExceededError` when the deadline passes, `ModelFailedError`
        for an item that kills replicas, `UnavailableError` when the pool closes. Cancelling the caller takes the item
        back; a batch in flight is cancelled when nobody waits for any of its items.
        """
        entry = self._enqueue(item, cost, priority, deadline_s, send)
        try:
            return await entry.future
        except asyncio.CancelledError:
            if entry.future.cancelled():  # else it had ended in this very turn of the loop, and was taken out then
                self._withdraw(entry)
            raise
        finally:
            if entry.timer is not None:
                entry.timer.cancel()

    def wake(self) -> None:
        """Looks for free slots at the end of this turn of the event loop, so that what arrives together leaves together."""
        if not self._pumping:
            self._pumping = True
            asyncio.get_running_loop().call_soon(self._pump)

    async def close(self, drain_s: float = 0.0) -> None:
        """Takes no more; waits at most `drain_s` seconds for what it has, then gives the rest up."""
        self._closing = True
        try:
            async with asyncio.timeout(drain_s):
                await self._idle.wait()
        except TimeoutError:
            self._give_up()
        tasks = [batch.task for batch in self._in_flight if batch.task is not None]
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- in ---------------------------------------------------------------------------------------------------------------

    def _enqueue(self, item: WorkItem, cost: int, priority: int, deadline_s: float | None, send: PartSink | None) -> Entry:
        if self._closing:
            raise UnavailableError("the server is shutting down; send the request to another one, or again later")
        if self._queued >= self._settings.max_queue:
            raise OverloadedError(
                f"{self._queued} requests wait already, which is the limit (batch.max_queue); try again later",
                self._retry_after_s(),
            )
        loop = asyncio.get_running_loop()
        now = loop.time()
        key = (now - priority * PRIORITY_STEP_S, next(self._sequence))
        entry = Entry(item, cost, key, now, loop.create_future(), send=send)
        if deadline_s is not None:
            left_s = deadline_s - self._clock()
            if left_s <= 0:
                raise DeadlineExceededError("the deadline had passed when the request arrived; nothing was run")
            entry.deadline_s = deadline_s
            entry.timer = loop.call_later(left_s, self._expire, entry)
        heapq.heappush(self._heap if send is None else self._stream_heap, entry)
        self._queued += 1
        self._idle.clear()
        self.wake()
        return entry

    def _expire(self, entry: Entry) -> None:
        if not entry.future.done():
            where = "while it waited; nothing was run" if entry.batch is None else "before the model had answered"
            entry.future.set_exception(DeadlineExceededError(f"the deadline passed {where}"))
            self._withdraw(entry)

    def _withdraw(self, entry: Entry) -> None:
        """Nobody waits for the entry any more. Its place in the heap is cleared when it comes up, or by `_compact`."""
        batch = entry.batch
        if batch is None:
            if entry.attempts == 0:
                self._queued -= 1
                self._compact()
            self.wake()
            return
        entry.batch = None
        batch.live -= 1
        if batch.live == 0 and batch.task is not None:
            batch.task.cancel()

    def _compact(self) -> None:
        """Keeps the heaps in proportion to what waits, however many callers give up while no replica is there."""
        for heap in (self._heap, self._stream_heap):
            if len(heap) > 2 * self._queued + 64:
                heap[:] = [entry for entry in heap if not entry.future.done()]
                heapq.heapify(heap)

    # -- out --------------------------------------------------------------------------------------------------------------

    def _pump(self) -> None:
        self._pumping = False
        slots = self._dispatcher.slots()
        most = slots + self._dispatcher.standby_slots()
        while (flying := len(self._in_flight) - self._streaming) < most:
            entries = self._next_again()
            if entries is None:
                if self._exclusive() or (flying >= slots and not self._half_full()):
                    break
                entries = self._next_batch()
            if not entries:
                break
            self._send(entries)
        while self._stream_heap and self._streaming < self._dispatcher.stream_slots() and not self._exclusive():
            self._send_stream()
        if self._queued == 0 and not self._again and not self._in_flight:
            self._heap.clear()
            self._stream_heap.clear()
            self._last_drain = None
            self._idle.set()

    def _exclusive(self) -> bool:
        """Whether somebody's last attempt is in flight, or next: nothing may be sent to fly beside it."""
        last = self._settings.max_attempts - 1
        if last == 0:
            return False
        waiting = any(entries[0].attempts >= last for entries in self._again)
        return waiting or any(batch.attempts >= last and not batch.flowing for batch in self._in_flight)

    def _next_again(self) -> list[Entry] | None:
        """The first group to be tried again that may fly now."""
        last = max(self._settings.max_attempts - 1, 1)
        flying = [batch for batch in self._in_flight if not batch.flowing]
        suspects_fly = any(batch.suspect for batch in flying)
        alone_flies = any(batch.attempts >= last for batch in flying)
        while self._again and not alone_flies:
            group = self._again[0]
            alive = self._alive(group)
            if alive:
                attempts = max(entry.attempts for entry in alive)
                if (attempts >= last and flying) or (attempts >= SUSPECT_ATTEMPTS and suspects_fly):
                    return None
            self._again.popleft()
            if alive:
                return alive
        return None

    def _half_full(self) -> bool:
        """Whether what waits is worth half a batch or more."""
        cost = items = 0
        for entry in self._heap:
            if not entry.future.done():
                cost, items = cost + 2 * entry.cost, items + 2
                if cost >= self._settings.max_cost or items >= self._settings.max_items:
                    return True
        return False

    def _next_batch(self) -> list[Entry]:
        entries: list[Entry] = []
        left, most = self._settings.max_cost, self._settings.max_items
        heap = self._heap
        while heap and len(entries) < most:
            entry = heap[0]
            if entry.future.done():
                heapq.heappop(heap)
            elif entry.deadline_s is not None and entry.deadline_s <= self._clock():
                heapq.heappop(heap)
                self._expire(entry)
            elif entries and entry.cost > left:
                break
            else:
                heapq.heappop(heap)
                self._queued -= 1
                entries.append(entry)
                left -= entry.cost
        return entries

    def _send_stream(self) -> None:
        """Sends the first of those whose answers come in parts, if it is still wanted."""
        entry = heapq.heappop(self._stream_heap)
        if self._alive([entry]):
            self._queued -= 1
            self._send([entry])

    def _alive(self, entries: list[Entry]) -> list[Entry]:
        for entry in entries:
            if not entry.future.done() and entry.deadline_s is not None and entry.deadline_s <= self._clock():
                self._expire(entry)
        return [entry for entry in entries if not entry.future.done()]

    def _send(self, entries: list[Entry]) -> None:
        loop = asyncio.get_running_loop()
        batch = Batch(entries, company=self._streaming > 0)
        now = loop.time()
        for entry in entries:
            entry.batch = batch
            entry.sent = now
        self._in_flight.add(batch)
        self._streaming += batch.stream
        batch.task = loop.create_task(self._fly(batch))
        # Not in `_fly`: a task that is cancelled before its first step never enters its body.
        batch.task.add_done_callback(lambda _: self._landed(batch))

    def _landed(self, batch: Batch) -> None:
        self._in_flight.discard(batch)
        self._streaming -= batch.stream
        if any(entry.batch is batch and not entry.future.done() for entry in batch.entries):
            self._retry(batch, ReplicaLostError("the dispatch of the batch was cancelled from elsewhere"))
        self.wake()

    async def _fly(self, batch: Batch) -> None:
        deadlines = [entry.deadline_s for entry in batch.entries]
        latest = None if None in deadlines else max(d for d in deadlines if d is not None)
        try:
            if batch.stream:
                result = await self._dispatcher.stream(batch.entries[0].item, latest, partial(self._part, batch))
            else:
                result = await self._dispatcher.dispatch([entry.item for entry in batch.entries], latest)
            self._answer(batch, result)
        except ReplicaLostError as exc:
            self._retry(batch, exc)
        except TaskloomError as exc:
            self._fail(batch.entries, exc)
        except Exception as exc:
            log.exception("a batch of %d could not be dispatched", len(batch.entries), exc_info=exc)
            self._fail(batch.entries, InternalError("the batch of this request could not be dispatched"))

    # -- answers ----------------------------------------------------------------------------------------------------------

    def _part(self, batch: Batch, text: str) -> None:
        entry = batch.entries[0]
        if entry.send is not None and not entry.future.done():
            if not batch.flowing:
                batch.flowing = True
                self.wake()  # what had to wait for it need not any more
            entry.send(text)

    def _answer(self, batch: Batch, result: BatchResult) -> None:
        size = len(batch.entries)
        if len(result.results) != size:
            raise InternalError(f"a replica gave {len(result.results)} answers to {size} items")
        now = asyncio.get_running_loop().time()
        for entry, answer in zip(batch.entries, result.results, strict=True):
            if not entry.future.done():
                timings = Timings(
                    queue_s=entry.sent - entry.since,
                    compute_s=result.compute_s,
                    total_s=now - entry.since,
                    batch_size=size,
                )
                entry.batch = None
                entry.future.set_result((answer, timings))
        if not batch.stream:
            self._note_drain(now, size)

    def _fail(self, entries: Sequence[Entry], error: TaskloomError) -> None:
        for entry in entries:
            entry.batch = None
            if not entry.future.done():
                # Each caller gets an error of its own: a traceback and a request id are added to it on the way.
                entry.future.set_exception(type(error)(*error.args))

    def _retry(self, batch: Batch, error: ReplicaLostError) -> None:
        if batch.flowing:
            self._fail(batch.entries, ReplicaLostError("the replica died after a part of the answer was sent; ask again"))
            return
        alive = [entry for entry in batch.entries if not entry.future.done()]
        for entry in alive:
            entry.batch = None
            entry.attempts += 1
        if not alive:
            return
        attempts, most = max(entry.attempts for entry in alive), self._settings.max_attempts
        log.warning("a replica was lost with %d items in its batch (attempt %d of %d)", len(alive), attempts, most)
        if attempts >= most:
            alone = len(batch.entries) == 1 < most and not batch.company
            self._fail(alive, _blame(attempts) if alone else error)
        elif attempts == most - 1:
            self._again.extendleft([entry] for entry in reversed(alive))
        else:
            middle = (len(alive) + 1) // 2
            self._again.extendleft(half for half in (alive[middle:], alive[:middle]) if half)

    def _give_up(self) -> None:
        waiting = [*self._heap, *self._stream_heap, *(entry for group in self._again for entry in group)]
        self._heap.clear()
        self._stream_heap.clear()
        self._again.clear()
        self._queued = 0
        flying = [entry for batch in self._in_flight for entry in batch.entries]
        self._fail(waiting + flying, UnavailableError("the server shut down before it could answer; send the request again"))
        for batch in self._in_flight:
            batch.live = 0
            if batch.task is not None:
                batch.task.cancel()

    # -- how fast the queue drains ------------------------------------------------------------------------------------------

    def _note_drain(self, now: float, items: int) -> None:
        """Seconds per item between two answers while there was always something to do."""
        if self._last_drain is not None:
            seen = (now - self._last_drain) / items
            self._s_per_item = seen if self._s_per_item == 0 else _DRAIN_MEMORY * self._s_per_item + (1 - _DRAIN_MEMORY) * seen
        self._last_drain = now if self._queued else None

    def _retry_after_s(self) -> float:
        low, high = _RETRY_AFTER_S
        return min(max(self._queued * self._s_per_item, low), high) if self._s_per_item else 1.0


def _blame(attempts: int) -> ModelFailedError:
    return ModelFailedError(
        f"the process that ran the model died {attempts} times with this input, the last time with nothing else in it; "
        "the input is not tried again"
    )
