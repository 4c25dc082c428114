"""Answers that come in parts, as the scheduler treats them. Time is virtual: no test waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from engine_fakes import FakeDispatcher
from virtual_time import run_virtual

from taskloom.core.errors import (
    DeadlineExceededError,
    ModelFailedError,
    OverloadedError,
    ReplicaLostError,
    TaskloomError,
    UnavailableError,
)
from taskloom.core.ports import WorkItem
from taskloom.core.settings import BatchSettings
from taskloom.server.engine.scheduler import Scheduler


def item(name: str) -> WorkItem:
    return WorkItem(request_id=name, model="m", input={}, params={})


def now() -> float:
    return asyncio.get_running_loop().time()


def scheduler(dispatcher: FakeDispatcher, **batch: int) -> Scheduler:
    return Scheduler(dispatcher, BatchSettings(**batch), clock=now)


class Asked:
    """One request, what was sent of its answer, and when it ended."""

    def __init__(self, target: Scheduler, name: str, *, parts: bool = True, **options: Any) -> None:
        self.parts: list[str] = []
        self.ended_s = -1.0
        send: Callable[[str], None] | None = self.parts.append if parts else None
        self.task = asyncio.get_running_loop().create_task(target.submit(item(name), 1, send=send, **options))
        self.task.add_done_callback(self._end)

    def _end(self, _: object) -> None:
        self.ended_s = now()

    async def outcome(self) -> Any:
        (found,) = await asyncio.gather(self.task, return_exceptions=True)
        return type(found) if isinstance(found, TaskloomError) else found[0].output["id"]  # type: ignore[index]


def test_parts_come_before_the_answer_and_no_batch_waits_for_them() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(takes_s=1.0)
        target = scheduler(dispatcher)
        stream = Asked(target, "s")
        batches = [Asked(target, f"b{n}", parts=False) for n in range(2)]
        await asyncio.sleep(1.5)
        assert stream.parts == ["one "]
        assert [b.ended_s for b in batches] == [1.0, 1.0]
        assert await stream.outcome() == "s"
        assert stream.parts == ["one ", "two ", "three"]
        answer, timings = stream.task.result()
        assert answer.version == "1"
        assert (timings.batch_size, timings.total_s) == (1, 3.0)

    run_virtual(main())


def test_streams_wait_for_slots_of_their_own_by_priority_and_count_in_the_queue() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(stream_slots=2)
        target = scheduler(dispatcher, max_queue=3)
        first = [Asked(target, name) for name in "ab"]
        await asyncio.sleep(0.1)
        waiting = [Asked(target, "c"), Asked(target, "d"), Asked(target, "urgent", priority=10)]
        await asyncio.sleep(0)
        assert target.queued == 3
        assert await Asked(target, "e").outcome() is OverloadedError
        assert await Asked(target, "e", parts=False).outcome() is OverloadedError
        assert [await a.outcome() for a in [*first, *waiting]] == ["a", "b", "c", "d", "urgent"]
        assert dispatcher.streams == ["a", "b", "urgent", "c", "d"]
        assert (target.queued, target.in_flight) == (0, 0)

    run_virtual(main())


@pytest.mark.parametrize("deadline_s", [0.5, 1.5])
def test_a_deadline_ends_a_stream_on_time_whether_it_waits_or_writes(deadline_s: float) -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(takes_s=1.0)
        target = scheduler(dispatcher)
        writes, waits = Asked(target, "writes", deadline_s=deadline_s), Asked(target, "waits", deadline_s=deadline_s)
        after = Asked(target, "after")
        assert [await a.outcome() for a in (writes, waits)] == [DeadlineExceededError] * 2
        assert writes.ended_s == waits.ended_s == deadline_s
        assert dispatcher.cancelled == [["writes"]]
        sent = list(writes.parts)
        assert await after.outcome() == "after"
        assert dispatcher.streams == ["writes", "after"]
        assert writes.parts == sent, "a part left after the error"

    run_virtual(main())


def test_a_caller_who_leaves_stops_the_writing_and_frees_the_slot() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher()
        target = scheduler(dispatcher)
        gone, after = Asked(target, "gone"), Asked(target, "after")
        await asyncio.sleep(1.5)
        gone.task.cancel()
        assert await after.outcome() == "after"
        assert dispatcher.cancelled == [["gone"]]
        assert after.ended_s == 4.5

    run_virtual(main())


class Mortal(FakeDispatcher):
    """A replica that dies of `deadly` items, when a stream of these has sent `after` parts; every batch and stream that it has
    is lost with it."""

    def __init__(self, *deadly: str, after: int = 0, deaths: int = 99, **options: Any) -> None:
        super().__init__(**options)
        self.deadly = set(deadly)
        self.after = after
        self.deaths = deaths
        self.died = 0
        self.death = asyncio.Event()

    def die(self) -> None:
        self.died += 1
        self.deaths -= 1
        death, self.death = self.death, asyncio.Event()
        death.set()

    async def _live(self, seconds: float) -> None:
        death = self.death
        try:
            async with asyncio.timeout(seconds):
                await death.wait()
        except TimeoutError:
            return
        raise ReplicaLostError("it died")

    async def behave(self, ids: list[str]) -> None:
        if self.deadly & set(ids) and self.deaths > 0:
            asyncio.get_running_loop().call_later(0.1, self.die)
        await self._live(self.takes_s)

    async def behave_part(self, name: str, place: int) -> None:
        if name in self.deadly and place == self.after and self.deaths > 0:
            asyncio.get_running_loop().call_later(0.1, self.die)
        await self._live(self.takes_s)


def test_a_replica_that_dies_before_the_first_part_is_made_good_and_after_it_is_told() -> None:
    async def main() -> None:
        before = Mortal("s", after=0, deaths=1)
        asked = Asked(scheduler(before), "s")
        assert await asked.outcome() == "s"
        assert asked.parts == ["one ", "two ", "three"]
        assert before.streams == ["s", "s"]

        later = Mortal("s", after=2)
        asked = Asked(scheduler(later), "s")
        assert await asked.outcome() is ReplicaLostError
        assert asked.parts == ["one ", "two "]
        assert later.streams == ["s"]
        assert isinstance(asked.task.exception(), UnavailableError)

    run_virtual(main())


def test_a_stream_that_kills_replicas_before_it_writes_is_blamed_alone() -> None:
    """Batches beside it are answered; streams too, unless they had begun to write when a replica died."""

    async def main() -> None:
        dispatcher = Mortal("killer", stream_slots=4, slots=2)
        target = scheduler(dispatcher)
        streams = [Asked(target, name) for name in ("a", "killer", "b")]
        batches = [Asked(target, f"b{n}", parts=False) for n in range(4)]
        found = {s.task: (await s.outcome(), len(s.parts)) for s in streams}
        assert found.pop(streams[1].task) == (ModelFailedError, 0)
        assert all(parts == 3 if isinstance(end, str) else end is ReplicaLostError and parts for end, parts in found.values())
        assert any(isinstance(end, str) for end, _ in found.values())
        assert [await b.outcome() for b in batches] == [f"b{n}" for n in range(4)]

    run_virtual(main())


def test_what_dies_beside_a_stream_that_kills_while_it_writes_is_never_blamed() -> None:
    """Killers come one after another, each with a part sent before, so that whatever flies beside them is lost each time."""

    async def main() -> None:
        dispatcher = Mortal(*(f"killer{n}" for n in range(9)), after=1, stream_slots=2, takes_s=1.0)
        target = scheduler(dispatcher, max_attempts=3)
        outcomes = []

        async def killers() -> None:
            for n in range(9):
                outcomes.append(await Asked(target, f"killer{n}").outcome())

        killing = asyncio.create_task(killers())
        innocent = []
        for n in range(12):
            await asyncio.sleep(1.0)
            innocent.append(Asked(target, f"i{n}", parts=False))
        await killing
        found = [await asked.outcome() for asked in innocent]
        assert set(outcomes) == {ReplicaLostError}
        assert ModelFailedError not in found
        assert found[-1] == "i11"

    run_virtual(main())


def test_a_last_attempt_beside_a_stream_that_writes_is_no_proof() -> None:
    async def main() -> None:
        dispatcher = Mortal("killer1", "killer2", after=1, stream_slots=2)
        target = scheduler(dispatcher, max_attempts=2)
        killers = [Asked(target, "killer1")]  # writes at 2.0, kills at 2.1
        await asyncio.sleep(0.5)
        killers.append(Asked(target, "killer2"))  # writes at 2.5, kills at 2.6
        await asyncio.sleep(1.55)
        innocent = Asked(target, "innocent", parts=False)  # dies at 2.1; its last attempt is made when killer2 writes, at 2.5
        assert [await asked.outcome() for asked in (*killers, innocent)] == [ReplicaLostError] * 3
        assert dispatcher.batches == [["innocent"]] * 2
        assert innocent.ended_s == pytest.approx(2.6)

    run_virtual(main())


def test_nothing_else_waits_for_a_last_attempt_once_it_writes() -> None:
    async def main() -> None:
        dispatcher = Mortal("s", after=0, deaths=2, takes_s=10.0)
        target = scheduler(dispatcher, max_attempts=3)
        stream = Asked(target, "s")
        await asyncio.sleep(1.0)
        batch = Asked(target, "b", parts=False)
        assert [await asked.outcome() for asked in (batch, stream)] == ["b", "s"]
        # Two deaths, 0.1 s each; each part of the last attempt takes 20 s, and after the first one the batch may fly.
        assert (batch.ended_s, stream.ended_s) == (pytest.approx(40.2), pytest.approx(60.2))

    run_virtual(main())


def test_closing_lets_streams_end_and_gives_the_rest_up_at_the_bound() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(takes_s=1.0)
        target = scheduler(dispatcher)
        writes, waits = Asked(target, "writes"), Asked(target, "waits")
        await asyncio.sleep(0.5)
        await target.close(drain_s=3.0)
        assert await writes.outcome() == "writes"
        assert await waits.outcome() is UnavailableError
        assert await Asked(target, "late").outcome() is UnavailableError
        assert dispatcher.cancelled == [["waits"]]

    run_virtual(main())


def test_callers_that_give_up_while_no_replica_is_there_leave_nothing_behind() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(slots=0, stream_slots=0)
        target = scheduler(dispatcher)
        patient = Asked(target, "patient")
        for n in range(1000):
            asked = Asked(target, f"s{n}", deadline_s=now() + 0.001)
            assert await asked.outcome() is DeadlineExceededError
        assert target.queued == 1
        assert len(target._stream_heap) < 100
        dispatcher.free = dispatcher.stream_free = 1
        dispatcher.changed()
        assert await patient.outcome() == "patient"
        assert dispatcher.streams == ["patient"]

    run_virtual(main())
