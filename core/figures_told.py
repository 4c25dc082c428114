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
    found = other_figures(comparison)
    one, other = comparison.before.performance, comparison.after.performance
    if one is None or other is None:
        return found
    calls = []
    for a, b in zip(one.latencies, other.latencies, strict=True):
        inputs = "" if a.inputs == "alike" else f", {a.inputs} inputs"
        calls.append(Pair(f"latency p50, batch of {a.batch}{inputs}", a.p50_s, b.p50_s, milliseconds))
        calls.append(Pair(f"latency p99, batch of {a.batch}{inputs}", a.p99_s, b.p99_s, milliseconds))
        calls.append(Pair(f"inputs a second, batch of {a.batch}{inputs}", a.items_per_s, b.items_per_s, lambda x: f"{x:.1f}"))
    return found + calls


def other_figures(comparison: Comparison) -> list[Pair]:
    """Sizes, and what a process takes: all that is neither a metric nor of single calls."""
    before, after = comparison.before, comparison.after
    found = [Pair("size", before.size_bytes, after.size_bytes, megabytes)]
    if before.artifact_bytes != before.size_bytes or after.artifact_bytes != after.size_bytes:
        found.append(Pair("of it in the artifact", before.artifact_bytes, after.artifact_bytes, megabytes))
    one, other = before.performance, after.performance
    if one is None or other is None:
        return found
    found.append(Pair("peak memory of a process", one.peak_rss_bytes, other.peak_rss_bytes, megabytes))
    found.append(Pair("start to first answer", one.cold_load_s, other.cold_load_s, lambda x: f"{x:.2f} s"))
    found.append(Pair("processor time of 1000 requests", one.cpu_s_per_1000, other.cpu_s_per_1000, lambda x: f"{x:.2f} s"))
    return found


def precision(side: Side) -> str:
    """What it ran in: its layers, where an optimizer chose for each, else what its files hold.

    >>> from taskloom.core.runtime import ExecutionPlan
    >>> plan = ExecutionPlan(runtime="torch", device="cpu", precision="fp32", threads=2)
    >>> precision(Side(size_bytes=1, artifact_bytes=1, plan=plan, weights={"F32": 300, "I8": 700}))
    'fp32 with torch; weights in its files: 70% I8, 30% F32'
    >>> mixed = plan.model_copy(update={"runtime": "onnx", "precision": "int8"})
    >>> precision(Side(size_bytes=1, artifact_bytes=1, plan=mixed, layers={"linear": {"int8": 24, "fp32": 1}}))
    'int8 with onnx; linear: 24 int8, 1 fp32'
    """
    ran = f"{side.plan.precision} with {side.plan.runtime}"
    if side.layers:
        kinds = [f"{kind}: " + ", ".join(f"{count} {name}" for name, count in own.items()) for kind, own in side.layers.items()]
        return f"{ran}; {'; '.join(kinds)}"
    total = sum(side.weights.values())
    parts = sorted(side.weights.items(), key=lambda item: (-item[1], item[0]))
    held = ", ".join(f"{count / total:.0%} {kind}" for kind, count in parts) if total else ""
    return f"{ran}; weights in its files: {held}" if held else ran


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
