"""When a batch leaves for a replica that is still at work. Time is virtual: no test waits."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import FakeDispatcher
from hypothesis import given, settings
from hypothesis import strategies as st
from virtual_time import run_virtual

from taskloom.core.ports import WorkItem
from taskloom.core.settings import BatchSettings
from taskloom.server.engine.scheduler import Answer, Scheduler

A_MOMENT_S = 1e-6
"""Of virtual time: what is due now has run when it is over."""


def ask(target: Scheduler, name: str, cost: int = 1, priority: int = 0) -> asyncio.Task[Answer]:
    item = WorkItem(request_id=name, model="m", input={}, params={})
    return asyncio.get_running_loop().create_task(target.submit(item, cost, priority), name=name)


def scheduler(dispatcher: FakeDispatcher, max_cost: int = 10) -> Scheduler:
    return Scheduler(dispatcher, BatchSettings(max_cost=max_cost), clock=lambda: asyncio.get_running_loop().time())


def test_a_small_batch_grows_until_a_replica_is_free() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(standby=1)  # a second for each batch, whatever it costs
        target = scheduler(dispatcher)
        tasks = [ask(target, "running", cost=4)]
        for name in ("early", "late"):
            await asyncio.sleep(0.3)
            tasks.append(ask(target, name))
        await asyncio.gather(*tasks)
        assert dispatcher.batches == [["running"], ["early", "late"]]
        assert dispatcher.sent[1] - dispatcher.sent[0] == pytest.approx(1.0)

    run_virtual(main())


def test_half_a_batch_leaves_at_once_and_what_is_urgent_overtakes_what_has_not_left() -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(standby=1)
        target = scheduler(dispatcher)
        tasks = [ask(target, "running", cost=4)]
        await asyncio.sleep(0.1)
        tasks.append(ask(target, "small", cost=4))
        await asyncio.sleep(0.1)
        assert len(dispatcher.batches) == 1
        tasks.append(ask(target, "more"))
        await asyncio.sleep(0.1)
        assert dispatcher.batches[1:] == [["small", "more"]]
        tasks += [ask(target, "usual", cost=8), ask(target, "urgent", cost=8, priority=5)]
        await asyncio.gather(*tasks)
        assert dispatcher.batches[2:] == [["urgent"], ["usual"]]

    run_virtual(main())


@given(
    replicas=st.integers(1, 3),
    standby=st.integers(0, 3),
    arrivals=st.lists(st.tuples(st.floats(0.001, 2), st.integers(1, 12)), min_size=1, max_size=40),
)
@settings(deadline=None, max_examples=60)
def test_every_item_is_answered_and_no_replica_is_idle_while_work_waits(
    replicas: int, standby: int, arrivals: list[tuple[float, int]]
) -> None:
    async def main() -> None:
        dispatcher = FakeDispatcher(slots=replicas, standby=standby)
        target = scheduler(dispatcher)
        tasks = []
        for number, (pause_s, cost) in enumerate(arrivals):
            tasks.append(ask(target, str(number), cost))
            await asyncio.sleep(pause_s)
            await asyncio.sleep(A_MOMENT_S)  # a batch may end at the very time at which the pause does
            assert target.queued == 0 or dispatcher.flying >= replicas, "a replica is idle while work waits"
        await asyncio.gather(*tasks)
        assert sorted(name for batch in dispatcher.batches for name in batch) == sorted(str(n) for n in range(len(arrivals)))
        assert (target.queued, target.in_flight) == (0, 0)

    run_virtual(main())
