"""When a failed call is tried again, and after how long. No I/O: both clients ask, and sleep in their own way.

Two layers work together. gRPC itself repeats a call that ends UNAVAILABLE, up to five times within a second or two
(`service_config`): that hides a connection that broke. What is left after that, a server that restarts or one that asks
for patience, is repeated here, until the call's deadline. Every repetition carries the same idempotency key.
"""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass

from taskloom.core.errors import DeadlineExceededError, TaskloomError, ThrottledError, UnavailableError

GRPC_MAX_ATTEMPTS = 5
"""gRPC allows no more."""


LEAST_S = 0.001
"""What is left of a call's time at least: what comes too late fails for that."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How patient a client is. The deadline of a call bounds everything here.

    `max_retries` counts repetitions after gRPC's own; 0 switches both off. With `wait_when_throttled` a call that the
    server asked to come again later waits as long as it was told and is repeated.
    """

    max_retries: int = 30
    initial_wait_s: float = 0.25
    max_wait_s: float = 2.0
    wait_when_throttled: bool = True

    def service_config(self) -> str:
        """gRPC's own retries, for the services of Taskloom."""
        policy = {
            "maxAttempts": GRPC_MAX_ATTEMPTS,
            "initialBackoff": "0.05s",
            "maxBackoff": "0.5s",
            "backoffMultiplier": 2,
            "retryableStatusCodes": ["UNAVAILABLE"],
        }
        looks = ("Search", "Ask", "Graph", "ListBases", "Stats", "ListVersions")  # a change might be made twice
        names = [
            {"service": "taskloom.v1.Inference"},
            *({"service": "taskloom.v1.Knowledge", "method": method} for method in looks),
        ]
        return json.dumps({"methodConfig": [{"name": names, "retryPolicy": policy}]})


class Attempts:
    """One call's repetitions: how much time is left, and how long to wait after a failure."""

    __slots__ = ("_deadline", "_last", "_policy", "_retries")

    def __init__(self, policy: RetryPolicy, timeout_s: float) -> None:
        self._last: TaskloomError | None = None
        self._policy = policy
        self._deadline = time.monotonic() + timeout_s
        self._retries = 0

    def remaining_s(self) -> float:
        """At least a millisecond, so that it is always a deadline."""
        return max(LEAST_S, self._deadline - time.monotonic())

    def wait_after(self, error: TaskloomError, *, hopeless: bool = False) -> float:
        """Seconds to wait before the next attempt; raises `error` if there is to be none.

        `hopeless` says that trying again cannot help: nothing has ever answered at this address.
        """
        policy = self._policy
        if isinstance(error, DeadlineExceededError) and self._last is not None:
            raise self._last  # the time went by while the server was away or full: that is the cause
        patient = isinstance(error, UnavailableError) or (isinstance(error, ThrottledError) and policy.wait_when_throttled)
        if not patient or hopeless or self._retries >= policy.max_retries:
            raise error
        self._last = error
        self._retries += 1
        if isinstance(error, ThrottledError):
            # A little more than was asked for, so that all who were refused together don't come back together.
            wait_s = error.retry_after_s * random.uniform(1.0, 1.25)
        else:
            wait_s = min(policy.max_wait_s, policy.initial_wait_s * 2 ** (self._retries - 1)) * random.uniform(0.8, 1.2)
        if wait_s >= self._deadline - time.monotonic():
            raise error
        return wait_s
