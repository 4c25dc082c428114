"""Who may come in, and for how long: what is decided of a request before any work is done for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from taskloom.core.errors import DeadlineExceededError, OverloadedError, UnavailableError
from taskloom.core.settings import ServerSettings
from taskloom.core.types import Principal
from taskloom.server.auth.limits import RateLimits
from taskloom.server.auth.policy import ModelAccess, check_role

T = TypeVar("T")


class Admission:
    """The door of all services of one gateway: their requests count together, against the server's limit and each key's.
    Closed at first. Called from one event loop."""

    def __init__(self, settings: ServerSettings, access: ModelAccess | None = None, limits: RateLimits | None = None) -> None:
        self.access = access or ModelAccess()
        self._max_running = settings.max_concurrent_requests
        self._default_timeout_s = settings.default_timeout_s
        self._limits = limits or RateLimits()
        self._ready = False
        self._running = 0
        self._emptied: asyncio.Future[None] | None = None

    def open(self) -> None:
        self._ready = True

    async def close(self, wait_s: float) -> None:
        """Takes nobody from now on; returns when nothing runs, or after `wait_s` seconds."""
        self._ready = False
        if self._running:
            self._emptied = asyncio.get_running_loop().create_future()
            await asyncio.wait([self._emptied], timeout=wait_s)

    def admit(self, principal: Principal, roles: frozenset[str], action: str, model: str) -> None:
        """Lets a request in, which is to run in `running` at once, or raises a `TaskloomError`. The token is taken before the
        model is looked at, so that calls for models that a key may not use are limited like all others."""
        self._check_open()
        check_role(principal, roles, action)
        if self._running >= self._max_running:
            raise OverloadedError(
                f"the server works on {self._running} requests, its limit (server.max_concurrent_requests); try again later"
            )
        self._limits.take(principal)
        self.access.check(principal, model)

    def admit_look(self, principal: Principal) -> None:
        """As `admit`, for a look at what there is: it is over at once, and what it shows is filtered."""
        self._check_open()
        self._limits.take(principal)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Counts a request while it runs."""
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1
            if self._emptied is not None and not self._running:
                self._emptied.set_result(None)

    def deadline(self, deadline_s: float | None) -> tuple[float, float]:
        """A deadline in any case, on the `time.time()` clock, and the seconds that are left; raises `DeadlineExceededError`."""
        now = time.time()
        if deadline_s is None:
            return now + self._default_timeout_s, self._default_timeout_s
        if deadline_s <= now:
            raise DeadlineExceededError("the deadline had passed when the request arrived; nothing was run")
        return deadline_s, deadline_s - now

    def _check_open(self) -> None:
        if not self._ready:
            raise UnavailableError("the server is starting or shutting down; try again in a few seconds")


async def within(left_s: float, work: Awaitable[T], late: str) -> T:
    """The result of `work`; raises `DeadlineExceededError` that says `late` if it takes longer than `left_s` seconds."""
    try:
        async with asyncio.timeout(left_s) as timeout:
            return await work
    except TimeoutError as exc:
        if not timeout.expired():
            raise
        raise DeadlineExceededError(late) from exc
