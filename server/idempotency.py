"""One request for several calls: callers who send the same idempotency key share one run and its answer."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from taskloom.core.errors import InvalidInputError
from taskloom.core.types import InferCall, InferResult

Key = tuple[str, str]
"""Whose key it is, and the key."""


@dataclass(slots=True)
class _Run:
    """`finished` is made by the first who joins, so that most calls pay for no future."""

    digest: bytes
    finished: asyncio.Future[None] | None = None


@dataclass(frozen=True, slots=True)
class _Answer:
    digest: bytes
    result: InferResult
    expires_s: float
    size: int


class IdempotentRuns:
    """Runs by key, and answers for `ttl_s` seconds, at most `max_answers` of them and `max_bytes` of them as JSON, the oldest
    given up first.

    Only answers are kept: after an error, or when the first caller went away, those who had joined run again, one first.
    An answer that was given up early costs a second run, which for inference is harmless.
    """

    def __init__(
        self,
        ttl_s: float,
        max_answers: int = 4096,
        max_bytes: int = 32 * 1024 * 1024,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ttl_s = ttl_s
        self._max_answers = max_answers if ttl_s > 0 else 0
        self._max_bytes = max_bytes
        self._bytes = 0
        self._clock = clock
        self._running: dict[Key, _Run] = {}
        self._answers: OrderedDict[Key, _Answer] = OrderedDict()

    def running(self, key: Key) -> bool:
        """Whether who joins now would wait."""
        return key in self._running

    async def join(self, key: Key, digest: bytes) -> InferResult | None:
        """The answer of another call with this key, waited for if it runs now; None if the caller is to `lead`.

        Raises `InvalidInputError` if the key came with other content.
        """
        while (run := self._running.get(key)) is not None:
            _same(digest, run.digest, key)
            if run.finished is None:
                run.finished = asyncio.get_running_loop().create_future()
            await asyncio.shield(run.finished)
        if (answer := self._find(key)) is not None:
            _same(digest, answer.digest, key)
            return answer.result
        return None

    async def lead(self, key: Key, digest: bytes, infer: Awaitable[InferResult]) -> InferResult:
        """Awaits `infer` for every call with this key. To be called at once after `join` returned None."""
        run = self._running[key] = _Run(digest)
        try:
            result = await infer
            self._keep(key, digest, result)
            return result
        finally:
            del self._running[key]
            if run.finished is not None:
                run.finished.set_result(None)

    def _find(self, key: Key) -> _Answer | None:
        answer = self._answers.get(key)
        if answer is not None and answer.expires_s <= self._clock():
            self._drop(key)
            return None
        return answer

    def _keep(self, key: Key, digest: bytes, result: InferResult) -> None:
        """Answers stand in the order in which they expire."""
        if not self._max_answers:
            return
        now = self._clock()
        answer = self._answers[key] = _Answer(digest, result, now + self._ttl_s, len(json.dumps(result.output, default=dict)))
        self._bytes += answer.size
        while self._answers:
            oldest = next(iter(self._answers))
            few = len(self._answers) <= self._max_answers and self._bytes <= self._max_bytes
            if few and self._answers[oldest].expires_s > now:
                break
            self._drop(oldest)

    def _drop(self, key: Key) -> None:
        self._bytes -= self._answers.pop(key).size


def _same(digest: bytes, other: bytes, key: Key) -> None:
    if digest != other:
        raise InvalidInputError(
            f"idempotency key {key[1]!r} was used for another request; use a new key for each",
            field="idempotency_key",
        )


def content_digest(call: InferCall) -> bytes:
    """What must be equal for two calls to be one request: the model and what it is asked."""
    content = [call.model.name, call.model.version, call.typed_as, call.input, call.params]
    return hashlib.blake2b(json.dumps(content, sort_keys=True, default=dict).encode(), digest_size=16).digest()
