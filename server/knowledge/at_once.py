"""Several pieces of work at a time, of which none goes on when one has failed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

T = TypeVar("T")
V = TypeVar("V")


async def all_of(work: Sequence[Awaitable[T]]) -> list[T]:
    """All of it, or the first failure: then nothing goes on."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def each_of(items: Sequence[V], work: Callable[[V], Awaitable[T]], at_once: int) -> list[T]:
    """What the work on each item gives, in their order, or the first failure. So many items are under way at a time, however
    many there are: each that is would cost the event loop."""
    found: dict[int, T] = {}
    left = iter(enumerate(items))

    async def some() -> None:
        for place, item in left:
            found[place] = await work(item)

    await all_of([some() for _ in range(min(at_once, len(items)))])
    return [found[place] for place in range(len(items))]
