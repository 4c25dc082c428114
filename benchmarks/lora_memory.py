"""What training an adapter takes of memory and time against training all weights: each method in a process of its own, turn by
turn, in one run.

    python benchmarks/lora_memory.py --data banking77/train.jsonl [--model models/intent-en/1] [--steps 30] [--rounds 3]

Memory is what a training holds beside the interpreter and its libraries. Counted: weights, gradients, AdamW's moments, the
moving average. Measured: the weights, and what the process's resident memory grew by at its highest from the moment they were
loaded, so that activations, copies and the allocator's losses are in it. Linux only. Medians over the rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from taskloom.core.artifact import Artifact
from taskloom.core.loader import load_registry
from taskloom.core.optimizing import Optimizing, StepRequest
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import TrainRun

METHODS = ("full", "lora", "rslora", "dora", "ia3", "prefix", "prompt")
MB = 1e6


def main() -> None:
    arguments = _arguments()
    if arguments.child:
        print(json.dumps(_trained(arguments, arguments.child)))
        return
    model = Artifact.open(arguments.model)
    load = os.getloadavg()[0]
    print(f"{model.name}: {arguments.steps} steps of {arguments.batch} rows, {arguments.threads} threads, load {load:.1f}\n")
    found: dict[str, list[dict[str, float]]] = {method: [] for method in arguments.methods}
    for _ in range(arguments.rounds):
        for method in arguments.methods:
            found[method].append(_child(arguments, method))
    _report({method: {key: statistics.median(row[key] for row in rows) for key in rows[0]} for method, rows in found.items()})


def _child(arguments: argparse.Namespace, method: str) -> dict[str, float]:
    runtime = load_registry().runtimes.get("torch")
    environment = {**os.environ, **runtime.environment(RuntimeConfig(threads=arguments.threads))}
    command = [sys.executable, __file__, "--child", method, "--data", str(arguments.data), "--model", str(arguments.model)]
    command += ["--steps", str(arguments.steps), "--batch", str(arguments.batch), "--threads", str(arguments.threads)]
    command += [word for setting in arguments.set for word in ("--set", setting)]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def _trained(arguments: argparse.Namespace, method: str) -> dict[str, float]:
    import torch

    torch.set_num_threads(arguments.threads)
    registry, parent = load_registry(), Artifact.open(arguments.model)
    rows = list(registry.tasks.get(parent.manifest.task).read_examples(arguments.data))
    count = arguments.steps * arguments.batch
    rows = rows[:: max(1, len(rows) // count)][:count]
    ends: list[float] = []

    def note(event: Mapping[str, Any]) -> None:
        if event["event"] == "step" and "steps" in event:
            ends.append(time.perf_counter())

    settings = {"method": method, "epochs": 1, "batch_size": arguments.batch, "device": "cpu"}
    settings |= dict(setting.split("=", 1) for setting in arguments.set)
    with tempfile.TemporaryDirectory() as folder:
        run = TrainRun(Path(folder), show_progress=False, on_event=note)
        optimizing = Optimizing(registry, parent, train=rows, validation=[], identity=[], run=run)
        facts = optimizing.run([StepRequest(name="lora", config=settings)]).steps[0].facts
    memory = facts["memory"]
    counted = sum(memory[f"{part}_bytes"] for part in ("weight", "gradient", "optimizer", "average"))
    return {
        "checkpointing": facts["gradient_checkpointing"],
        "trainable": facts["trainable_share"],
        "adapter": facts.get("adapter_bytes", 0),
        "counted": counted,
        "measured": memory["weight_bytes"] + memory["peak_rss_growth_bytes"],
        "step_s": statistics.median(b - a for a, b in pairwise(ends[2:])),
    }


def _report(found: Mapping[str, Mapping[str, float]]) -> None:
    whole = next(iter(found.values()))
    print("| method | checkpointing | trained | adapter MB | counted MB | less | measured MB | less | step ms | ratio |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for method, row in found.items():
        told = [
            method,
            "yes" if row["checkpointing"] else "no",
            f"{100 * row['trainable']:.2f}%",
            f"{row['adapter'] / MB:.2f}" if row["adapter"] else "",
        ]
        for key in ("counted", "measured"):
            told += [f"{row[key] / MB:.0f}", f"{100 * (1 - row[key] / whole[key]):.0f}%"]
        told += [f"{1e3 * row['step_s']:.0f}", f"{row['step_s'] / whole['step_s']:.2f}"]
        print(f"| {' | '.join(told)} |")


def _arguments() -> argparse.Namespace:
    here = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="rows in the task's own format")
    parser.add_argument("--model", type=Path, default=here / "models" / "intent-en" / "1", help="an artifact's folder")
    parser.add_argument(
        "--methods", nargs="+", choices=METHODS, default=METHODS, help="the first is what others are compared with"
    )
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of the step, for all methods"
    )
    parser.add_argument("--child", choices=METHODS, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
