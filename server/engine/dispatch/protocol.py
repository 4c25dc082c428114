"""What the engine needs of a dispatcher beyond carrying batches: rolling a pool to other versions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from taskloom.core.ports import Dispatcher
from taskloom.server.engine.spec import ModelVersion


class PoolDispatcher(Dispatcher, Protocol):
    """A dispatcher whose pool can be rolled over."""

    async def roll(self, models: Sequence[ModelVersion]) -> None:
        """Returns when every replica holds `models`. Batches are answered all the while, by old or new replicas. If the new
        ones don't come up it raises a `TaskloomError`, and the old ones go on."""

    def replicas(self) -> int:
        """How many replicas are ready."""
