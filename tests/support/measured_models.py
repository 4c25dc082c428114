"""Tables of made-up measurements."""

from __future__ import annotations

from typing import Any

from taskloom.core.selection import CallTimes, MachineFacts, MeasuredModel, MeasuredTable, Quality, Remedy, Speed

FAST, SLOW = "cpu-bf16", "cpu-fp32"


def calls(p50_ms: float, p99_ms: float | None = None) -> CallTimes:
    return CallTimes(p50_s=p50_ms / 1000, p99_s=(p99_ms or 2 * p50_ms) / 1000, calls=40, tokens=16)


def speed(p50_ms: float, *, long_ms: float | None = None, memory_mb: float = 500) -> Speed:
    return Speed(
        short=calls(p50_ms),
        long=calls(long_ms or 3 * p50_ms),
        batch=8,
        items_per_s=1000 / p50_ms,
        peak_rss_bytes=int(memory_mb * 1e6),
        load=1.5,
        measured="2026-11-29",
    )


def model(
    name: str, *, value: float = 0.8, margin: float | None = None, ms: float | None = 10.0, **fields: Any
) -> MeasuredModel:
    """A model that is as fast on every machine; with `ms` None, nobody measured its speed."""
    data, better = fields.pop("data", "rows"), fields.pop("higher_is_better", True)
    how = fields.pop("speed", {})
    told = {
        "version": "1",
        "task": "ner",
        "languages": ("en",),
        "bundled": True,
        "recipe": f"models/recipes/{name}.toml",
        "backbone": "encoder",
        "size_bytes": 6_000_000,
        "backbone_bytes": 90_000_000,
        "parameters": 22_000_000,
        "quality": Quality(
            metric="f1",
            value=value,
            low=None if margin is None else value - margin,
            high=None if margin is None else value + margin,
            higher_is_better=better,
            data=data,
            data_sha256=data,
            rows=1000,
            tier=fields.pop("tier", "open"),
            processor="a processor",
            measured="2026-11-29",
        ),
        "speeds": {} if ms is None else {machine: speed(ms, **how) for machine in (FAST, SLOW)},
        "optimizers": ("quantize",),
        "first_command": f"taskloom predict {name} text --local",
        "reprint": f"python benchmarks/selection.py --models {name}",
    }
    return MeasuredModel.model_validate({"name": name, **told, **fields})


def table(*models: MeasuredModel, remedies: tuple[Remedy, ...] = ()) -> MeasuredTable:
    facts = {"processor": "a processor", "threads": 1}
    machines = {name: MachineFacts.model_validate({**facts, "precision": name.removeprefix("cpu-")}) for name in (FAST, SLOW)}
    return MeasuredTable(machines=machines, models=models, remedies=remedies)
