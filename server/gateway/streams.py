"""Streams that stay open as long as their clients like, and end when the server drains."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from taskloom.core.errors import UnavailableError


class OpenStreams:
    """Runs the reading side of long streams, so that a drain can end all of them."""

    def __init__(self) -> None:
        self._draining = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, work: Coroutine[Any, Any, None]) -> None:
        """Awaits `work`; raises `UnavailableError` if the drain ends it first."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        if self._draining:
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            raise UnavailableError("the server is shutting down; open the stream again for what was not answered") from None
        finally:
            self._tasks.discard(task)

    def end(self) -> None:
        """Ends every stream, and those that are opened from now on."""
        self._draining = True
        for task in self._tasks:
            task.cancel()
