"""Which layers hurt: those without whose quantization a graph comes nearest to what it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

High = frozenset[str]
RANKING_SHARE = 0.5
"""Of the time, the part that may go into ranking layers; the rest is for measuring the metric."""


@dataclass(frozen=True)
class Tried:
    """The layers that stay high, and what the metric then loses."""

    high: High
    drop: float


@dataclass
class Search:
    """`distance` is cheap and says how far outputs are from those before; `lost` is dear and says what the metric loses."""

    layers: Sequence[str]
    distance: Callable[[High], float]
    lost: Callable[[High], float]
    max_drop: float
    seconds: float
    tried: int = 0
    finished: bool = True
    began: float = field(default_factory=time.monotonic)

    def run(self) -> Tried:
        """The fewest layers, of 0, 1, 2, 4, ..., whose staying high loses no more than `max_drop`; what lost least in the time
        that there was, if none does."""
        best = self._measured(frozenset())
        if best.drop <= self.max_drop:
            return best
        order = self._ranked()
        count = 1
        while True:
            if self._over(1.0):
                self.finished = False
                return best
            found = self._measured(frozenset(order[:count]))
            best = min(best, found, key=lambda tried: tried.drop)
            if best.drop <= self.max_drop or count >= len(order):
                return best
            count = min(2 * count, len(order))

    def _ranked(self) -> list[str]:
        """Layers, the worst first; those for which there was no time come last."""
        distances: dict[str, float] = {}
        for layer in self.layers:
            if self._over(RANKING_SHARE):
                self.finished = False
                break
            distances[layer] = self.distance(frozenset({layer}))
        return sorted(self.layers, key=lambda layer: distances.get(layer, float("inf")))

    def _measured(self, high: High) -> Tried:
        self.tried += 1
        return Tried(high, self.lost(high))

    def _over(self, share: float) -> bool:
        return time.monotonic() - self.began > share * self.seconds
