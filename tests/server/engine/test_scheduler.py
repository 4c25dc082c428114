"""What callers of the scheduler can count on. Time is virtual: no test waits."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from engine_fakes import FakeDispatcher
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run_virtual

from taskloom.core.errors import (
    DeadlineExceededError,
    InternalError,
    ModelFailedError,
    OverloadedError,
    ReplicaLostError,
    UnavailableError,
)
from taskloom.core.ports import BatchResult, WorkItem, WorkResult
from taskloom.core.settings import BatchSettings
from taskloom.server.engine.scheduler import PRIORITY_STEP_S, Answer, Scheduler


def item(name: str) -> WorkItem:
    return WorkItem(request_id=name, model="m", input={}, params={})


def scheduler(dispatcher: FakeDispatcher, **batch: int) -> Scheduler:
    return Scheduler(dispatcher, BatchSettings(**batch), clock=lambda: asyncio.get_running_loop().time())


def ask(
    target: Scheduler, name: str, cost: int = 1, priority: int = 0, deadline_s: float | None = None
) -> asyncio.Task[Answer]:
    return asyncio.get_running_loop().create_task(target.submit(item(name), cost, priority, deadline_s), name=name)


async def outcomes(tasks: Sequence[asyncio.Task[Answer]]) -> list[Any]:
    found = await asyncio.gather(*tasks, return_exceptions=True)
    return [f[0].output["id"] if isinstance(f, tuple) else type(f) for f in found]


def test_what_arrives_together_while_a_replica_is_idle_leaves_together_at_once() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher()
        target = scheduler(dispatcher)
        answers = await asyncio.gather(*(ask(target, n) for n in "abc"))
        assert dispatcher.batches == [["a", "b", "c"]]
        timings = answers[0][1]
        assert (timings.queue_s, timings.compute_s, timings.total_s, timings.batch_size) == (0, 1, 1, 3)

    run_virtual(main())


def test_a_batch_whose_dispatch_is_cancelled_from_elsewhere_is_tried_again() -> None:
    class Fickle(FakeDispatcher):
        async def behave(self, ids: list[str]) -> None:
            if len(self.batches) == 1:
                raise asyncio.CancelledError

    async def main() -> None:
        dispatcher = Fickle()
        tasks = [ask(scheduler(dispatcher), "a")]
        async with asyncio.timeout(10):
            assert await outcomes(tasks) == ["a"]
        assert dispatcher.batches == [["a"], ["a"]]

    run_virtual(main())


def test_batches_keep_to_the_budget_in_order_and_a_giant_goes_alone() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher()
        target = scheduler(dispatcher, max_cost=10, max_items=3)
        costs = {"a": 4, "b": 6, "c": 1, "giant": 99, "d": 1, "e": 1, "f": 1, "g": 1}
        await asyncio.gather(*(ask(target, name, cost) for name, cost in costs.items()))
        assert dispatcher.batches == [["a", "b"], ["c"], ["giant"], ["d", "e", "f"], ["g"]]

    run_virtual(main())


def test_higher_priority_goes_first_and_an_old_item_can_not_be_overtaken_for_ever() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(takes_s=1.0)
        target = scheduler(dispatcher, max_items=1)
        tasks = [ask(target, "first"), ask(target, "low", priority=-2), ask(target, "usual"), ask(target, "high", priority=1)]
        for number in range(8):
            tasks.append(ask(target, f"flood{number}"))
            await asyncio.sleep(PRIORITY_STEP_S)
        await asyncio.gather(*tasks)
        order = [batch[0] for batch in dispatcher.batches]
        assert order[:3] == ["high", "first", "usual"]
        assert "low" in order[3:7], order

    run_virtual(main())


def test_an_expired_item_is_told_so_on_time_and_never_runs() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(takes_s=10.0)
        target = scheduler(dispatcher)
        first = ask(target, "first")
        await asyncio.sleep(0.1)
        late, patient = ask(target, "late", deadline_s=5.0), ask(target, "patient", deadline_s=50.0)
        with pytest.raises(DeadlineExceededError, match="nothing was run"):
            await late
        assert asyncio.get_running_loop().time() == pytest.approx(5.0)
        await asyncio.gather(first, patient)
        assert dispatcher.batches == [["first"], ["patient"]]
        with pytest.raises(DeadlineExceededError):
            await target.submit(item("past"), 1, 0, 1.0)

    run_virtual(main())


def test_a_deadline_that_passes_in_flight_answers_on_time_and_frees_the_replica() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(takes_s=100.0)
        target = scheduler(dispatcher)
        with pytest.raises(DeadlineExceededError):
            await ask(target, "slow", deadline_s=3.0)
        await asyncio.sleep(0)
        assert dispatcher.cancelled == [["slow"]]
        assert target.in_flight == 0

    run_virtual(main())


def test_cancelling_takes_an_item_back_but_a_batch_only_when_nobody_waits_for_it() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(takes_s=10.0)
        target = scheduler(dispatcher)
        a, b = ask(target, "a"), ask(target, "b")
        await asyncio.sleep(1)
        waiting = ask(target, "waiting")
        await asyncio.sleep(1)
        waiting.cancel()
        a.cancel()
        await asyncio.sleep(1)
        assert target.queued == 0
        assert dispatcher.cancelled == []
        b.cancel()
        await asyncio.sleep(1)
        assert dispatcher.cancelled == [["a", "b"]]
        assert await outcomes([ask(target, "next")]) == ["next"]
        assert dispatcher.batches == [["a", "b"], ["next"]]

    run_virtual(main())


def test_a_batch_cancelled_before_its_first_step_still_gives_its_slot_back() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher()
        target = scheduler(dispatcher)
        task = ask(target, "a")
        await asyncio.sleep(0)
        target._pump()
        task.cancel()
        await asyncio.sleep(0)
        assert await outcomes([ask(target, "b")]) == ["b"]
        assert target.in_flight == 0

    run_virtual(main())


def test_a_full_queue_refuses_with_a_delay_that_fits_the_drain_rate() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(takes_s=2.0)
        target = scheduler(dispatcher, max_items=1, max_queue=4)
        tasks = [ask(target, str(n)) for n in range(4)]
        await asyncio.sleep(4.5)
        tasks += [ask(target, f"more{n}") for n in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(OverloadedError, match="limit") as refused:
            await target.submit(item("late"), 1, 0, None)
        assert refused.value.retry_after_s == pytest.approx(8.0)
        assert len(set(await outcomes(tasks))) == 7

    run_virtual(main())


def test_callers_that_give_up_while_no_replica_is_there_leave_nothing_behind() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(slots=0)
        target = scheduler(dispatcher, max_queue=8)
        patient = ask(target, "patient")
        for number in range(1000):
            task = ask(target, str(number))
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.sleep(0)
        assert target.queued == 1
        assert len(target._heap) < 100
        dispatcher.free = 1
        dispatcher.changed()
        await patient
        assert dispatcher.batches == [["patient"]]

    run_virtual(main())


def test_work_that_waits_for_a_replica_leaves_when_one_comes_up() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(slots=0)
        target = scheduler(dispatcher)
        task = ask(target, "a")
        await asyncio.sleep(5)
        assert dispatcher.batches == []
        dispatcher.free = 1
        dispatcher.changed()
        assert (await task)[1].queue_s == pytest.approx(5.0)

    run_virtual(main())


class Fatal(FakeDispatcher):
    """One replica with `slots` places: an item that starts with `kill` kills it, and every batch that it holds dies."""

    def __init__(self, slots: int = 1) -> None:
        super().__init__(slots)
        self.alive = asyncio.Event()
        self.deaths = 0

    async def behave(self, ids: list[str]) -> None:
        doomed = self.alive
        if any(name.startswith("kill") for name in ids):
            await asyncio.sleep(0.5)
            if not doomed.is_set():
                doomed.set()
                self.alive = asyncio.Event()
                self.deaths += 1
        else:
            try:
                await asyncio.wait_for(doomed.wait(), 1.0)
            except TimeoutError:
                return
        raise ReplicaLostError("the replica died")


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_only_the_item_that_kills_replicas_fails_whatever_shared_them_with_it(slots: int) -> None:
    async def main() -> None:
        dispatcher = Fatal(slots)
        target = scheduler(dispatcher, max_items=32)
        names = [f"kill{n}" if n == 13 else f"ok{n}" for n in range(32)]
        tasks = []
        for index, name in enumerate(names):
            tasks.append(ask(target, name))
            if index % 10 == 9:
                await asyncio.sleep(0.2)
        for number in range(20):
            tasks.append(ask(target, f"later{number}"))
            await asyncio.sleep(0.3)
        found = await outcomes(tasks)
        assert found[13] is ModelFailedError
        assert found[:13] + found[14:] == [t.get_name() for t in tasks if t.get_name() != "kill13"]
        assert dispatcher.deaths == 5

    run_virtual(main())


def test_two_killers_fail_alone_as_well() -> None:
    async def main() -> None:
        dispatcher = Fatal(2)
        target = scheduler(dispatcher, max_items=8)
        tasks = [ask(target, f"kill{n}" if n in (3, 11) else f"ok{n}") for n in range(24)]
        found = await outcomes(tasks)
        assert [n for n, f in enumerate(found) if f is ModelFailedError] == [3, 11]
        assert sum(isinstance(f, str) for f in found) == 22

    run_virtual(main())


def test_what_a_dead_replica_had_goes_before_what_waits_and_keeps_its_order() -> None:
    class DiesOnce(FakeDispatcher):
        async def behave(self, ids: list[str]) -> None:
            if len(self.batches) == 1:
                raise ReplicaLostError("the replica died")

    async def main() -> None:
        dispatcher = DiesOnce()
        target = scheduler(dispatcher, max_items=4)
        assert await outcomes([ask(target, n) for n in "abcdefgh"]) == list("abcdefgh")
        assert dispatcher.batches == [list("abcd"), list("ab"), list("cd"), list("efgh")]

    run_virtual(main())


@pytest.mark.parametrize("attempts", [2, 3, 5])
def test_an_item_that_only_ever_shared_a_replica_with_killers_survives(attempts: int) -> None:
    async def main() -> None:
        dispatcher = Fatal(4)
        target = scheduler(dispatcher, max_items=1, max_attempts=attempts)
        names = [f"{'kill' if n % 2 else 'ok'}{n}" for n in range(12)]
        found = await outcomes([ask(target, name) for name in names])
        assert found == [ModelFailedError if name.startswith("kill") else name for name in names]

    run_virtual(main())


def test_the_last_attempts_are_made_one_by_one_in_order_with_nothing_else_in_flight() -> None:
    class DiesOnce(FakeDispatcher):
        async def behave(self, ids: list[str]) -> None:
            if ids == list("abcd"):
                raise ReplicaLostError("the replica died")
            if ids[0] in "abcd":
                assert self.flying == 1

    async def main() -> None:
        dispatcher = DiesOnce(slots=3)
        target = scheduler(dispatcher, max_items=4, max_attempts=2)
        tasks = []
        for names in (["before"], list("abcd"), ["after"]):
            tasks += [ask(target, name) for name in names]
            await asyncio.sleep(0.01)
        assert await outcomes(tasks) == ["before", *"abcd", "after"]
        assert dispatcher.batches == [["before"], list("abcd"), ["a"], ["b"], ["c"], ["d"], ["after"]]

    run_virtual(main())


def test_without_attempts_left_a_lost_replica_is_told_as_such() -> None:
    class Dies(FakeDispatcher):
        async def behave(self, ids: list[str]) -> None:
            raise ReplicaLostError("the replica died")

    async def main() -> None:
        target = scheduler(Dies(), max_attempts=1)
        assert await outcomes([ask(target, "a"), ask(target, "b")]) == [ReplicaLostError] * 2

    run_virtual(main())


def test_a_dispatcher_that_breaks_or_miscounts_fails_its_batch_and_no_other() -> None:
    class Breaks(FakeDispatcher):
        async def dispatch(self, items: Sequence[WorkItem], deadline_s: float | None) -> BatchResult:
            name = items[0].request_id
            if name == "breaks":
                raise ZeroDivisionError
            answers = [] if name == "short" else [WorkResult("1", output={"id": name})]
            return BatchResult(answers, 0.0)

    async def main() -> None:
        target = scheduler(Breaks(), max_items=1)
        found = await outcomes([ask(target, n) for n in ("breaks", "short", "fine")])
        assert found == [InternalError, InternalError, "fine"]

    run_virtual(main())


def test_closing_answers_what_is_queued_then_gives_up_at_the_bound() -> None:
    async def main() -> None:
        target = scheduler(FakeDispatcher(takes_s=2.0), max_items=1)
        tasks = [ask(target, n) for n in "abc"]
        await asyncio.sleep(0)
        closing = asyncio.create_task(target.close(5.0))
        await asyncio.sleep(0)
        with pytest.raises(UnavailableError, match="shutting down"):
            await target.submit(item("new"), 1, 0, None)
        await closing
        assert await outcomes(tasks) == ["a", "b", UnavailableError]
        assert asyncio.get_running_loop().time() == pytest.approx(5.0)

        quick = scheduler(FakeDispatcher(takes_s=1.0))
        task = ask(quick, "a")
        await asyncio.sleep(0)
        await quick.close(60.0)
        assert asyncio.get_running_loop().time() == pytest.approx(6.0)
        assert await outcomes([task]) == ["a"]

    run_virtual(main())


class Recorder(FakeDispatcher):
    """Checks the budget and the order of every batch as it leaves."""

    def __init__(self, slots: int, takes_s: float, costs: dict[str, int], limits: BatchSettings) -> None:
        super().__init__(slots, takes_s)
        self.costs = costs
        self.limits = limits

    async def behave(self, ids: list[str]) -> None:
        assert len(ids) <= self.limits.max_items
        assert len(ids) == 1 or sum(self.costs[i] for i in ids) <= self.limits.max_cost


calls = st.tuples(
    st.integers(1, 40),  # cost
    st.sampled_from([0, 0, 0, 3, -3]),  # priority
    st.sampled_from([0.0, 0.0, 0.1, 1.5]),  # pause before it
    st.sampled_from([None, None, None, 0.7, 4.0]),  # time until its deadline
    st.sampled_from([None, None, None, None, 0.3, 2.2]),  # time until its caller goes away
)


@settings(max_examples=150, deadline=None)
@given(
    load=st.lists(calls, min_size=1, max_size=40),
    slots=st.integers(1, 3),
    takes_s=st.sampled_from([0.0, 0.2, 1.0]),
    max_cost=st.integers(1, 60),
    max_items=st.integers(1, 8),
)
def test_nothing_is_lost_answered_twice_out_of_order_or_left_waiting(
    load: list[tuple[int, int, float, float | None, float | None]], slots: int, takes_s: float, max_cost: int, max_items: int
) -> None:
    limits = BatchSettings(max_cost=max_cost, max_items=max_items)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        dispatcher = Recorder(slots, takes_s, {str(n): call[0] for n, call in enumerate(load)}, limits)
        target = Scheduler(dispatcher, limits, clock=loop.time)
        arrived: dict[str, tuple[float, int]] = {}
        tasks = []
        for number, (cost, priority, pause_s, timeout_s, leaves_s) in enumerate(load):
            await asyncio.sleep(pause_s)
            arrived[str(number)] = (loop.time() - priority * PRIORITY_STEP_S, number)
            task = ask(target, str(number), cost, priority, None if timeout_s is None else loop.time() + timeout_s)
            if leaves_s is not None:
                loop.call_later(leaves_s, task.cancel)
            tasks.append(task)
            for _ in range(5):
                await asyncio.sleep(0)
            assert target.queued == 0 or target.in_flight == slots, "a slot is idle while work waits"
        found = await asyncio.gather(*tasks, return_exceptions=True)
        ran = [name for batch in dispatcher.batches for name in batch]
        assert len(ran) == len(set(ran)), "something ran twice"
        for number, answer in enumerate(found):
            if isinstance(answer, tuple):
                assert answer[0].output == {"id": str(number)}
            else:
                allowed = (asyncio.CancelledError, DeadlineExceededError)
                assert isinstance(answer, allowed)
                assert load[number][3] is not None or load[number][4] is not None
        for batch in dispatcher.batches:
            assert batch == sorted(batch, key=arrived.__getitem__)
        await asyncio.sleep(0)
        assert (target.queued, target.in_flight) == (0, 0)
        await target.close(1.0)

    run_virtual(main())


def test_a_caller_who_leaves_at_the_moment_the_deadline_passes_is_taken_from_the_queue_once() -> None:
    async def main() -> None:
        target = scheduler(FakeDispatcher(slots=0))
        asked = ask(target, "a", deadline_s=5)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_later(5, asked.cancel)
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert target.queued == 0
        async with asyncio.timeout(1):  # nothing is left to wait for
            await target.close(60)

    run_virtual(main())


def test_a_caller_who_leaves_at_the_moment_the_answer_comes_is_taken_from_the_queue_once() -> None:
    class Leaving(FakeDispatcher):
        async def dispatch(self, items: Sequence[WorkItem], deadline_s: float | None) -> BatchResult:
            result = await super().dispatch(items, deadline_s)
            asyncio.get_running_loop().call_soon(asked.cancel)
            return result

    asked: asyncio.Task[Answer]

    async def main() -> None:
        nonlocal asked
        target = scheduler(Leaving())
        asked = ask(target, "a")
        with pytest.raises(asyncio.CancelledError):
            await asked
        assert target.queued == 0
        async with asyncio.timeout(1):
            await target.close(60)

    run_virtual(main())
