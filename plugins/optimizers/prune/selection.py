"""Which parts stay: the least important ones for what they cost go, until the rest is cheap enough."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from taskloom.core.errors import ConfigError


@dataclass(frozen=True)
class Candidate:
    """A structure that may shrink. `importance` is of its parts, `sizes` are allowed, `cost` is what it adds to the whole at a
    size, in the unit of the budget; it doesn't fall as the size grows."""

    name: str
    importance: Sequence[float]
    sizes: Sequence[int]
    cost: Callable[[int], float]


def allowed_sizes(size: int, multiple: int) -> list[int]:
    """The size itself and all smaller multiples; the size alone where there is none."""
    return sorted({size, *range(multiple, size, multiple)})


def select(candidates: Sequence[Candidate], saving: float) -> Mapping[str, list[int]]:
    """The parts that each structure keeps so that at least `saving` of the cost is saved: greedily, what loses least
    importance for what it saves goes first. Raises `ConfigError` if all that may go is not enough."""
    most = sum(c.cost(max(c.sizes)) - c.cost(min(c.sizes)) for c in candidates)
    if most < saving:
        raise ConfigError(
            f"prune: taking out all that can go saves {most:.3g} of the {saving:.3g} that the target asks for; "
            "raise share, or take out whole layers with the setting layers"
        )
    order = {c.name: sorted(range(len(c.importance)), key=c.importance.__getitem__) for c in candidates}
    lost = {c.name: [0.0, *accumulate(c.importance[i] for i in order[c.name])] for c in candidates}
    size = {c.name: max(c.sizes) for c in candidates}
    saved = 0.0
    while saved < saving:
        best: tuple[float, str, int, float] | None = None
        for c in candidates:
            full, here = len(c.importance), size[c.name]
            for smaller in c.sizes:
                gain = c.cost(here) - c.cost(smaller)
                if smaller < here and gain > 0:
                    price = (lost[c.name][full - smaller] - lost[c.name][full - here]) / gain
                    if best is None or (price, c.name, -smaller) < (best[0], best[1], -best[2]):
                        best = (price, c.name, smaller, gain)
        if best is None:
            break
        size[best[1]] = best[2]
        saved += best[3]
    return {c.name: sorted(order[c.name][len(c.importance) - size[c.name] :]) for c in candidates}
