"""What it saves to let models share a backbone: memory of one replica with all of them against a replica for each, and speed
of batches that mix them, in one run.

    python benchmarks/shared_backbone.py [MODEL ...] [--store models] [--batch 32] [--seconds 10]

Every measurement is a process of its own, started with the replica's environment. Without MODELs, every model of the store
that stands on the bundled encoder takes part. Inputs are the models' own examples and, where one text is enough, the
sentences of `taskloom bench`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from taskloom.core.loader import load_registry
from taskloom.core.predictor import Predictor, load_predictor, validated
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.store import ModelStore
from taskloom.core.task import SharedParts
from taskloom.core.together import Share, predict_together
from taskloom.core.types import PRODUCTION, ModelRef
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE

SENTENCES = Path(__file__).parent.parent / "sdk" / "bench_texts.txt"
WAYS = ("one pass", "pass by pass", "copies")
MIB = 1 << 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*")
    parser.add_argument("--store", type=Path, default=Path(__file__).parent.parent / "models")
    parser.add_argument("--batch", type=int, default=32, help="requests in a batch, of all models in turn")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        print(json.dumps(child(args)))
        return
    store = ModelStore([args.store])
    names = args.models or [name for name in served(store) if on_the_encoder(store, name)]
    print(f"{len(names)} models: {', '.join(names)}; {args.threads} threads; load {os.getloadavg()[0]:.1f}\n")
    alone = [run_child([name], "copies", args) for name in names]
    found = {way: run_child(names, way, args) for way in WAYS}
    report(names, alone, found)


def served(store: ModelStore) -> list[str]:
    """Those that a gateway serves unless it is told otherwise."""
    return [name for name in store.models() if PRODUCTION in store.aliases(name)]


def on_the_encoder(store: ModelStore, name: str) -> bool:
    backbone = store.resolve(ModelRef(name=name)).manifest.backbone
    return backbone is not None and backbone.id == DEFAULT_BACKBONE


def run_child(names: Sequence[str], way: str, args: argparse.Namespace) -> dict[str, Any]:
    runtime = load_registry().runtimes.get("torch")
    environment = {**os.environ, **runtime.environment(RuntimeConfig(threads=args.threads))}
    command = [sys.executable, __file__, *names, "--store", str(args.store), "--child", way]
    command += ["--batch", str(args.batch), "--seconds", str(args.seconds), "--threads", str(args.threads)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def child(args: argparse.Namespace) -> dict[str, Any]:
    registry, store, way, batch = load_registry(), ModelStore([args.store]), args.child, args.batch
    artifacts = [store.resolve(ModelRef(name=name)) for name in args.models]
    wanted = [a.manifest.backbone.digest for a in artifacts if a.manifest.backbone is not None]
    shared = SharedParts(wanted if way != "copies" and len(artifacts) > 1 else ())
    config = RuntimeConfig(threads=args.threads)
    predictors = [load_predictor(registry, artifact, config, shared) for artifact in artifacts]
    turns = [
        inputs_of(predictor, artifact.manifest.examples) for predictor, artifact in zip(predictors, artifacts, strict=True)
    ]
    batches = [shares(predictors, turns, batch) for _ in range(8)]

    def run(asked: list[Share]) -> None:
        if way == "one pass":
            predict_together(asked)
        else:
            for share in asked:
                share.alone()

    for asked in batches:
        run(asked)
    requests, began = 0, time.perf_counter()
    for asked in itertools.cycle(batches):
        run(asked)
        requests += batch
        if time.perf_counter() - began > args.seconds:
            break
    return {"requests_per_s": requests / (time.perf_counter() - began), "rss_bytes": rss_bytes()}


def inputs_of(predictor: Predictor[Any, Any, Any], examples: Sequence[Any]) -> Any:
    task = predictor.task
    rows = [validated(task.Input, dict(example), "input") for example in examples]
    if task.text_field is not None and set(task.Input.model_fields) <= {task.text_field, "text_pair"}:
        lines = SENTENCES.read_text(encoding="utf-8").splitlines()
        rows += [validated(task.Input, {task.text_field: line}, "input") for line in lines if line.strip()]
    random.Random(7).shuffle(rows)
    return itertools.cycle(rows)


def shares(predictors: Sequence[Predictor[Any, Any, Any]], turns: Sequence[Any], batch: int) -> list[Share]:
    counts = [len(range(i, batch, len(predictors))) for i in range(len(predictors))]
    return [
        Share(predictor, [next(turn) for _ in range(count)], [predictor.task.Params()] * count)
        for predictor, turn, count in zip(predictors, turns, counts, strict=True)
    ]


def rss_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def report(names: Sequence[str], alone: Sequence[dict[str, Any]], found: dict[str, dict[str, Any]]) -> None:
    total = sum(result["rss_bytes"] for result in alone)
    one = found["one pass"]
    print(f"{'':34} {'memory MiB':>11} {'requests/s':>11}")
    for name, result in zip(names, alone, strict=True):
        print(f"replica with {name:21} {result['rss_bytes'] / MIB:11.0f} {result['requests_per_s']:11.1f}")
    print(f"{f'{len(names)} replicas with one each':34} {total / MIB:11.0f}")
    words = {
        "copies": "one replica, a copy for each",
        "pass by pass": "one replica, shared, model by model",
        "one pass": "one replica, shared, one pass",
    }
    for way, result in found.items():
        print(f"{words[way]:35}{result['rss_bytes'] / MIB:11.0f} {result['requests_per_s']:11.1f}")
    print(f"\nmemory: {total / one['rss_bytes']:.1f} times less than a replica for each; ", end="")
    print(f"{found['copies']['rss_bytes'] / one['rss_bytes']:.2f} times less than copies in one replica")
    speed = {way: one["requests_per_s"] / found[way]["requests_per_s"] for way in WAYS}
    print(f"speed of mixed batches in one pass: {speed['pass by pass']:.2f} of model by model, ", end="")
    print(f"{speed['copies']:.2f} of copies with merged adapters")


if __name__ == "__main__":
    main()
