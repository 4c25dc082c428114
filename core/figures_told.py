"""Figures of a comparison in words and units that people read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from taskloom.core.comparison import Comparison, Side


@dataclass(frozen=True)
class Pair:
    """A figure of both sides. `text` says one in its unit."""

    title: str
    parent: float
    candidate: float
    text: Callable[[float], str]

    def told(self) -> tuple[str, str, str, str]:
        """Title, parent, candidate, and what became of it."""
        return self.title, self.text(self.parent), self.text(self.candidate), factor(self.parent, self.candidate)


def sizes_and_speeds(comparison: Comparison) -> list[Pair]:
    """What is not a metric: smaller is better for all of them but the throughput."""
    before, after = comparison.before, comparison.after
    found = [Pair("size", before.size_bytes, after.size_bytes, megabytes)]
    if before.artifact_bytes != before.size_bytes or after.artifact_bytes != after.size_bytes:
        found.append(Pair("of it in the artifact", before.artifact_bytes, after.artifact_bytes, megabytes))
    one, other = before.performance, after.performance
    if one is None or other is None:
        return found
    for a, b in zip(one.latencies, other.latencies, strict=True):
        inputs = "" if a.inputs == "alike" else f", {a.inputs} inputs"
        found.append(Pair(f"latency p50, batch of {a.batch}{inputs}", a.p50_s, b.p50_s, milliseconds))
        found.append(Pair(f"latency p99, batch of {a.batch}{inputs}", a.p99_s, b.p99_s, milliseconds))
        found.append(Pair(f"inputs a second, batch of {a.batch}{inputs}", a.items_per_s, b.items_per_s, lambda x: f"{x:.1f}"))
    found.append(Pair("processor time of 1000 requests", one.cpu_s_per_1000, other.cpu_s_per_1000, lambda x: f"{x:.2f} s"))
    found.append(Pair("peak memory of a process", one.peak_rss_bytes, other.peak_rss_bytes, megabytes))
    found.append(Pair("start to first answer", one.cold_load_s, other.cold_load_s, lambda x: f"{x:.2f} s"))
    return found


def precision(side: Side) -> str:
    """What it ran in, and what its files hold.

    >>> from taskloom.core.runtime import ExecutionPlan
    >>> plan = ExecutionPlan(runtime="torch", device="cpu", precision="fp32", threads=2)
    >>> precision(Side(size_bytes=1, artifact_bytes=1, plan=plan, weights={"F32": 300, "I8": 700}))
    'fp32 with torch; weights in its files: 70% I8, 30% F32'
    """
    total = sum(side.weights.values())
    parts = sorted(side.weights.items(), key=lambda item: (-item[1], item[0]))
    held = ", ".join(f"{count / total:.0%} {kind}" for kind, count in parts) if total else ""
    return f"{side.plan.precision} with {side.plan.runtime}" + (f"; weights in its files: {held}" if held else "")


def factor(parent: float, candidate: float) -> str:
    """
    >>> factor(2.0, 0.5), factor(0.0, 1.0)
    ('× 0.25', '')
    """
    return f"× {candidate / parent:.3g}" if parent > 0 else ""


def milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.2f} ms"


def megabytes(count: float) -> str:
    return f"{count / 1e6:.2f} MB"
