"""What more threads are worth to one batch, on idle cores and where another process is at work on one, by how long threads
spin while they wait for each other (`core/openmp.py`) and by how large the batch is (`ENOUGH` in `plugins/runtimes/torch.py`).

    python benchmarks/threads.py

Prints, for each, the mean time on one thread over the time on all: above 1 it gained.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from itertools import pairwise

from taskloom.core.openmp import SPIN

MODEL = "intent-en"
TOKENS = (64, 256, 512, 1024, 2048)
SEQUENCE = 64
TURNS = 4
BUSY = "while True: pass"
"""Run in a session of its own, as another user's or service's is: Linux shares cores out by sessions first."""


def main() -> None:
    print("| another process | spin | " + " | ".join(f"{tokens} tokens" for tokens in TOKENS) + " |")
    print("|---|---|" + "---|" * len(TOKENS))
    for busy in (False, True):
        beside = subprocess.Popen([sys.executable, "-c", BUSY], start_new_session=True) if busy else None
        try:
            for spin in ("", SPIN):
                gains = _child({"GOMP_SPINCOUNT": spin} if spin else {})
                told = " | ".join(f"{gain:.2f}" for gain in gains)
                print(f"| {'at work' if busy else 'none'} | {spin or 'default'} | {told} |", flush=True)
        finally:
            if beside is not None:
                beside.kill()
                beside.wait()


def _child(environment: dict[str, str]) -> list[float]:
    inherited = {name: value for name, value in os.environ.items() if name not in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"}}
    done = subprocess.run(
        [sys.executable, __file__, "measure"],
        env={**inherited, **environment},
        stdout=subprocess.PIPE,
        check=True,
    )
    found: list[float] = json.loads(done.stdout)
    return found


def measure() -> None:
    import torch

    from taskloom.core.loader import load_registry
    from taskloom.core.predictor import load_predictor
    from taskloom.core.runtime import RuntimeConfig
    from taskloom.core.settings import load_settings
    from taskloom.core.store import open_store

    artifact = open_store(load_settings().models_folder).resolve(MODEL)
    every = len(os.sched_getaffinity(0))
    model = load_predictor(load_registry(), artifact, RuntimeConfig(threads=every)).model
    gains = []
    for tokens in TOKENS:
        batch = {
            "input_ids": torch.randint(1000, 20000, (tokens,)),
            "token_type_ids": torch.zeros(tokens, dtype=torch.long),
            "lengths": torch.full((tokens // SEQUENCE,), SEQUENCE),
            "truncated": torch.zeros(tokens // SEQUENCE, dtype=torch.bool),
        }
        took: dict[int, list[float]] = {1: [], every: []}
        with torch.inference_mode():
            for threads in (1, every) * TURNS:
                torch.set_num_threads(threads)
                model.forward(batch)  # kernels for so many threads are built
                times = [time.perf_counter()]
                for _ in range(max(2, 1024 // tokens)):
                    model.forward(batch)
                    times.append(time.perf_counter())
                took[threads] += [end - begin for begin, end in pairwise(times)]
        gains.append(statistics.fmean(took[1]) / statistics.fmean(took[every]))
    print(json.dumps(gains))


if __name__ == "__main__":
    measure() if sys.argv[1:] == ["measure"] else main()
