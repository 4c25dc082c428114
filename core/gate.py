"""The gate: whether an optimized version may be promoted, by what it lost against its parent."""

from __future__ import annotations

from taskloom.core.comparison import ClassChange, Comparison
from taskloom.core.settings import GateLimits
from taskloom.core.types import Frozen

SINGLE = 1
ROUNDING = 1e-9
"""0.93 less 0.92 is a little more than 0.01 in binary."""


class Breach(Frozen):
    """A figure that is beyond its limit; `setting` is the limit's name in `[gate]`."""

    setting: str
    figure: str
    found: float
    limit: float
    is_unknown: bool = False
    """The figure was measured too briefly to be held against the limit; `figure` says so."""

    def __str__(self) -> str:
        if self.is_unknown:
            return self.figure
        return (
            f"{self.figure} {self.found:.4g}, and {self.setting} allows {self.limit:g}: {self.found - self.limit:.4g} too much"
        )


def breaches(comparison: Comparison, limits: GateLimits) -> tuple[Breach, ...]:
    """Every figure of the comparison that is beyond its limit; none for a version that may be promoted."""
    found: list[Breach] = []
    if limits.max_primary_drop != "off":
        change = comparison.primary_change
        if change.drop > limits.max_primary_drop + ROUNDING:
            told = f"{change.name} went from {change.parent:.4f} to {change.candidate:.4f}: a drop of"
            found.append(Breach(setting="max_primary_drop", figure=told, found=change.drop, limit=limits.max_primary_drop))
    if limits.max_worst_class_drop != "off":
        limit = limits.max_worst_class_drop
        lost = [own for own in comparison.classes if own.drop > limit + ROUNDING and _is_more_than_chance(own)]
        if lost:
            worst = max(lost, key=lambda own: own.drop)
            told = f"F1 of class {worst.name!r} ({worst.support} rows) went from {worst.parent:.4f} to {worst.candidate:.4f}:"
            found.append(Breach(setting="max_worst_class_drop", figure=f"{told} a drop of", found=worst.drop, limit=limit))
    if limits.max_latency_ratio != "off":
        limit = limits.max_latency_ratio
        glances = [ratio for ratio in comparison.latency if ratio.batch == SINGLE and ratio.is_a_glance]
        if glances:
            told = (
                f"the p99 of one request was measured in {glances[0].turns} turns, too few for max_latency_ratio to judge: "
                "make the version again without --quick"
            )
            found.append(Breach(setting="max_latency_ratio", figure=told, found=glances[0].p99, limit=limit, is_unknown=True))
            return tuple(found)
        slow = [ratio for ratio in comparison.latency if ratio.batch == SINGLE and min(ratio.p99, ratio.p99_low) > limit]
        if slow:
            slowest = max(slow, key=lambda ratio: ratio.p99)
            told = f"the p99 of one request ({slowest.inputs} inputs) over the parent's is"
            found.append(Breach(setting="max_latency_ratio", figure=told, found=slowest.p99, limit=limit))
    return tuple(found)


def _is_more_than_chance(change: ClassChange) -> bool:
    return change.high is None or change.high < 0
