"""The table of docs/models.md: what every model of a store is, what it is worth, and how long an answer takes.

    python benchmarks/models.py [--store models] [--seconds 3] [--threads 1]

Quality is what the reports of the models say (`taskloom eval MODEL FILE` measures it again). Latency is measured here: one
request at a time, in process, tokenization and decoding included, over the examples that the models carry.
"""

from __future__ import annotations

import argparse
import itertools
import os
import time
from collections.abc import Sequence
from pathlib import Path

from taskloom.core.artifact import Artifact
from taskloom.core.loader import load_registry
from taskloom.core.predictor import load_predictor, validated
from taskloom.core.publishing import read_report
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.types import ModelRef

HEADER = ("model", "task", "trained on", "licence of the data", "MB", "measured on", "metric (95% interval)", "p50 / p99 ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path(__file__).parent.parent / "models")
    parser.add_argument("--seconds", type=float, default=3.0, help="per model")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    store, registry = ModelStore([args.store]), load_registry()
    artifacts = [store.resolve(ModelRef(name=name, version=store.versions(name)[-1])) for name in store.models()]
    print(f"{args.threads} thread(s), load {os.getloadavg()[0]:.1f}\n")
    print_row(HEADER)
    print_row(["---"] * len(HEADER))
    for artifact in artifacts:
        print_row(row(registry, artifact, args.seconds, RuntimeConfig(threads=args.threads)))
    total = sum(artifact.info().size_bytes for artifact in artifacts)
    print(f"\n{len(artifacts)} models, {total / 1e6:.1f} MB in all")


def print_row(cells: Sequence[str]) -> None:
    print(f"| {' | '.join(cells)} |")


def row(registry: Registry, artifact: Artifact, seconds: float, config: RuntimeConfig) -> list[str]:
    manifest, report = artifact.manifest, read_report(artifact)
    task = registry.tasks.get(manifest.task)
    metric = task.primary_metric
    value = f"{metric} {report.evaluation.metrics[metric]:.3f}"
    if metric in report.evaluation.intervals:
        low, high = report.evaluation.intervals[metric]
        value += f" ({low:.3f} to {high:.3f})"
    trained_on = ", ".join(f"{data.name}, {data.rows} rows" for data in manifest.data)
    licences = ", ".join(dict.fromkeys(data.licence for data in manifest.data if data.licence))
    measured_on = f"{report.evaluation_data.name}, {report.evaluation.examples} rows"
    middle, worst = latency_ms(registry, artifact, seconds, config)
    size = f"{artifact.info().size_bytes / 1e6:.1f}"
    return [manifest.model, task.name, trained_on, licences, size, measured_on, value, f"{middle:.0f} / {worst:.0f}"]


def latency_ms(registry: Registry, artifact: Artifact, seconds: float, config: RuntimeConfig) -> tuple[float, float]:
    """The median and the 99th percentile of single requests."""
    predictor = load_predictor(registry, artifact, config)
    task = predictor.task
    inputs = [validated(task.Input, dict(example), "input") for example in artifact.manifest.examples]
    for item in inputs:
        predictor.predict_one(item)
    took: list[float] = []
    began = time.perf_counter()
    for item in itertools.cycle(inputs):
        start = time.perf_counter()
        predictor.predict_one(item)
        took.append(time.perf_counter() - start)
        if time.perf_counter() - began > seconds:
            break
    predictor.close()
    took.sort()
    return 1000 * took[len(took) // 2], 1000 * took[min(len(took) - 1, int(len(took) * 0.99))]


if __name__ == "__main__":
    main()
