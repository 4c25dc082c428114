"""What the scheduler knows of an item and of a batch on their way."""

from __future__ import annotations

import asyncio

from taskloom.core.ports import PartSink, WorkItem, WorkResult
from taskloom.core.types import Timings

SUSPECT_ATTEMPTS = 2
"""Deaths that an item shared before it is kept apart from other suspects, so that they can't be blamed for it."""

Answer = tuple[WorkResult, Timings]


class Entry:
    """One item on its way. `batch` is what it is in while it is in flight; `send` takes the parts of its answer, if it is to
    come in parts."""

    __slots__ = ("attempts", "batch", "cost", "deadline_s", "future", "item", "key", "send", "sent", "since", "timer")

    def __init__(
        self,
        item: WorkItem,
        cost: int,
        key: tuple[float, int],
        since: float,
        future: asyncio.Future[Answer],
        *,
        send: PartSink | None,
    ) -> None:
        self.item = item
        self.send = send
        self.cost = cost
        self.key = key
        self.since = since
        self.future = future
        self.sent = since
        self.attempts = 0
        self.deadline_s: float | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.batch: Batch | None = None

    def __lt__(self, other: Entry) -> bool:
        return self.key < other.key


class Batch:
    """Items in flight together. `live` counts those that somebody still waits for. `stream` is for one whose answer comes in
    parts, and `flowing` says that the first part has left; `company` that such flew beside it from the start."""

    __slots__ = ("company", "entries", "flowing", "live", "stream", "task")

    def __init__(self, entries: list[Entry], company: bool) -> None:
        self.entries = entries
        self.live = len(entries)
        self.task: asyncio.Task[None] | None = None
        self.stream = entries[0].send is not None
        self.flowing = False
        self.company = company

    @property
    def attempts(self) -> int:
        return max(entry.attempts for entry in self.entries)

    @property
    def suspect(self) -> bool:
        return self.attempts >= SUSPECT_ATTEMPTS
