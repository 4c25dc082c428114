"""How often a key may ask: a token bucket for each."""

from __future__ import annotations

import time
from collections.abc import Callable

from taskloom.core.errors import RateLimitedError
from taskloom.core.types import Principal


class RateLimits:
    """A token bucket per key, refilled at `Principal.requests_per_s` and holding one second's worth, at least one token.

    A key without a rate has no bucket. Called from one event loop.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic, max_buckets: int = 10_000) -> None:
        self._clock = clock
        self._max_buckets = max_buckets
        self._buckets: dict[str, tuple[float, float]] = {}
        """Tokens, and when they were counted."""

    def take(self, principal: Principal) -> None:
        """Takes one token; raises `RateLimitedError` that says when there will be one."""
        rate = principal.requests_per_s
        if rate is None:
            return
        key = principal.key_id or principal.name
        burst = max(1.0, rate)
        now = self._clock()
        tokens, counted = self._buckets.get(key, (burst, now))
        tokens = min(burst, tokens + (now - counted) * rate)
        if tokens < 1.0:
            self._buckets[key] = (tokens, now)
            raise RateLimitedError(
                f"key {principal.name!r} may ask {rate:g} times a second; try again later or ask for a higher rate",
                retry_after_s=(1.0 - tokens) / rate,
            )
        if len(self._buckets) >= self._max_buckets and key not in self._buckets:
            # The bucket that was used longest ago is full again by now, or nearly: nobody gains by losing it.
            del self._buckets[min(self._buckets, key=lambda k: self._buckets[k][1])]
        self._buckets[key] = (tokens - 1.0, now)
