"""Answers that leave in parts: what each end of the way needs."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

from taskloom.core.errors import DeadlineExceededError, RequestCancelledError


class PartBuffer:
    """Text between a writer and a reader in one event loop. What comes while the reader is busy joins its next part: a slow
    reader gets fewer and longer parts, holds up nobody, and never makes this hold more than the text of one answer."""

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._ended = False
        self._changed = asyncio.Event()

    def add(self, text: str) -> None:
        self._texts.append(text)
        self._changed.set()

    def end(self) -> None:
        """No more will come; the reader gets what is left, and is done."""
        self._ended = True
        self._changed.set()

    async def __aiter__(self) -> AsyncIterator[str]:
        while self._texts or not self._ended:
            if self._texts:
                text, self._texts = "".join(self._texts), []
                yield text
            else:
                await self._changed.wait()
                self._changed.clear()


class StopSign:
    """Tells a thread that writes an answer to end it. `put_up` may be called from any thread. `deadline_s` is on the
    `time.time()` clock."""

    def __init__(self, deadline_s: float | None) -> None:
        self._deadline_s = deadline_s
        self._up = threading.Event()

    def put_up(self) -> None:
        """The caller waits no more."""
        self._up.set()

    def check(self) -> None:
        """Raises `RequestCancelledError` or `DeadlineExceededError` if the rest is not to be written."""
        if self._up.is_set():
            raise RequestCancelledError("the caller went away before the whole answer was written")
        if self._deadline_s is not None and self._deadline_s <= time.time():
            raise DeadlineExceededError("the deadline passed before the whole answer was written")
