"""How fast, how large and how hungry artifacts are: each in a fresh process of its own, by turns, so that what else the
machine does meets them alike and their ratios mean something."""

from __future__ import annotations

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from taskloom.core.artifact import Artifact
from taskloom.core.comparison import LEAST_TURNS, Latency, LatencyRatio, Performance, quantile
from taskloom.core.errors import ArtifactError
from taskloom.core.predictor import choose_runtime
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import Example, TaskPlugin

BATCHES = (1, 8)
REGISTRY = "taskloom.core.loader:load_registry"
CHOSEN = 16
"""Different rows of each length, which the calls go round."""
SHORT, LONG = 0.25, 0.95
"""Where in the rows, ordered by what they cost, the short and the long inputs lie."""
T95 = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26, 2.23, 2.20, 2.18, 2.16, 2.14, 2.13)
"""Student's t for 95% on both sides, by degrees of freedom from 1."""
WORKER_LINES_KEPT = 5


@dataclass(frozen=True)
class Effort:
    """How long is measured: for each shape of call, so many turns of so many seconds for each model, but no new turn after
    `longest_s`, if there were `LEAST_TURNS` of them. `robustness_rows` is how many rows the metric is taken on for each way of
    changing them."""

    turns: int = 8
    turn_s: float = 0.15
    longest_s: float = 6.0
    robustness_rows: int = 200


QUICK = Effort(turns=2, turn_s=0.01, longest_s=0.5, robustness_rows=24)


@dataclass(frozen=True)
class _Turn:
    calls_s: Sequence[float]
    cpu_s: float


Turns = Mapping[tuple[int, str], Sequence[_Turn]]
"""By shape of call: batch and inputs."""


def chosen_inputs(task: TaskPlugin[Any, Any, Any], rows: Sequence[Example[Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Short and long inputs among the rows, as JSON data; one kind, `alike`, where all cost the same."""
    params = task.Params()
    ordered = sorted(rows, key=lambda row: task.cost(row.input, params))
    found = {}
    for name, share in (("short", SHORT), ("long", LONG)):
        first = max(0, min(round(share * len(ordered)) - CHOSEN // 2, len(ordered) - CHOSEN))
        found[name] = [row.input for row in ordered[first : first + CHOSEN]]
    costs = [sum(task.cost(one, params) for one in found[name]) for name in found]
    kinds = found if costs[0] < costs[1] else {"alike": found["long"]}
    return {name: [one.model_dump(mode="json") for one in inputs] for name, inputs in kinds.items()}


def measure(
    registry: Registry,
    artifacts: Sequence[Artifact],
    inputs: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    effort: Effort,
    runtime: RuntimeConfig | None = None,
    factory: str = REGISTRY,
) -> tuple[list[Performance], list[LatencyRatio]]:
    """Each artifact's figures, and the ratios of the second one's to the first one's. The artifacts' folders must be whole,
    manifest included; `factory` (`module:function`) makes the registry in the new processes. Raises `ArtifactError` for an
    artifact that can't be run there."""
    with ExitStack() as stack:
        workers = [
            stack.enter_context(_Worker(registry, artifact, inputs, runtime or RuntimeConfig(), factory))
            for artifact in artifacts
        ]
        turns: list[dict[tuple[int, str], list[_Turn]]] = [{} for _ in workers]
        for shape in [(batch, name) for name in inputs for batch in BATCHES]:
            for worker in workers:
                worker.turn(*shape, seconds=0.0)
            began = time.monotonic()
            for number in range(effort.turns):
                if number >= LEAST_TURNS and time.monotonic() - began > 2 * effort.longest_s:
                    break
                order = range(len(workers)) if number % 2 == 0 else reversed(range(len(workers)))
                for i in order:
                    turns[i].setdefault(shape, []).append(workers[i].turn(*shape, seconds=effort.turn_s))
        found = [_performance(worker, own) for worker, own in zip(workers, turns, strict=True)]
    return found, _ratios(turns[0], turns[1]) if len(turns) == 2 else []


class _Worker:
    """A process that holds one artifact. Its standard error is kept for the message, should it fail."""

    def __init__(
        self,
        registry: Registry,
        artifact: Artifact,
        inputs: Mapping[str, Sequence[Mapping[str, Any]]],
        runtime: RuntimeConfig,
        factory: str,
    ) -> None:
        self._artifact = artifact
        self._job = {
            "folder": str(artifact.folder),
            "roots": [str(root) for root in artifact.store_roots],
            "inputs": inputs,
            "runtime": runtime.model_dump(),
            "factory": factory,
        }
        environment = choose_runtime(registry, runtime.runtime, artifact).environment(runtime)
        self._environment = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        self.cold_load_s = 0.0
        self.peak_rss_bytes = 0
        self.weights_bytes = 0

    def __enter__(self) -> _Worker:
        began = time.perf_counter()
        self._errors = tempfile.TemporaryFile()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "taskloom.core.performance_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=self._environment,
            text=True,
            encoding="utf-8",
        )
        try:
            ready = self._ask(self._job)
        except BaseException as exc:
            self.__exit__(type(exc), exc, None)
            raise
        self.cold_load_s = time.perf_counter() - began
        self.weights_bytes = ready["weights_bytes"]
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.kill()  # it has told all, and taking an ML library down in good order takes seconds
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait()
        self._errors.close()

    def turn(self, batch: int, inputs: str, *, seconds: float) -> _Turn:
        told = self._ask({"batch": batch, "inputs": inputs, "seconds": seconds})
        self.peak_rss_bytes = told["peak_rss_bytes"]
        return _Turn(told["calls_s"], told["cpu_s"])

    def _ask(self, message: Mapping[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended: what it wrote last says why
        line = self._process.stdout.readline()
        told: dict[str, Any] = json.loads(line) if line else {"error": self._last_words()}
        if "error" in told:
            raise ArtifactError(f"{self._artifact.name} can't be run in a fresh process: {told['error']}")
        return told

    def _last_words(self) -> str:
        self._process.wait()
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f"it ended with status {self._process.returncode}: {' | '.join(lines[-WORKER_LINES_KEPT:])}"


def _performance(worker: _Worker, turns: Turns) -> Performance:
    latencies, cpu_s, requests = [], 0.0, 0
    for (batch, inputs), own in turns.items():
        calls = sorted(took for turn in own for took in turn.calls_s)
        latencies.append(
            Latency(
                batch=batch,
                inputs=inputs,
                p50_s=quantile(calls, 0.5),
                p99_s=quantile(calls, 0.99),
                calls=len(calls),
                items_per_s=batch * len(calls) / sum(calls),
            )
        )
        if batch == 1:
            cpu_s += sum(turn.cpu_s for turn in own)
            requests += len(calls)
    return Performance(
        cold_load_s=worker.cold_load_s,
        peak_rss_bytes=worker.peak_rss_bytes,
        cpu_s_per_1000=1000 * cpu_s / requests,
        weights_bytes=worker.weights_bytes,
        latencies=tuple(latencies),
    )


def _ratios(parent: Turns, candidate: Turns) -> list[LatencyRatio]:
    """The interval is Student's, on the logarithm, over the turns: the calls of one turn share their moment, so they are not
    independent, and a few turns say little."""
    found = []
    for (batch, inputs), before in parent.items():
        after = candidate[batch, inputs]
        p99 = _ratio(before, after, 0.99)
        each = [math.log(_ratio([one], [other], 0.99)) for one, other in zip(before, after, strict=True)]
        spread = T95[min(len(each) - 1, len(T95)) - 1] * statistics.stdev(each) / math.sqrt(len(each))
        found.append(
            LatencyRatio(
                batch=batch,
                inputs=inputs,
                cpu=_cpu_s(after) / _cpu_s(before),
                p50=_ratio(before, after, 0.5),
                p99=p99,
                p99_low=p99 * math.exp(-spread),
                p99_high=p99 * math.exp(spread),
                turns=len(each),
            )
        )
    return found


def _cpu_s(turns: Sequence[_Turn]) -> float:
    """Processor time of a call, in seconds; a clock's tick at least."""
    return max(1e-9, sum(turn.cpu_s for turn in turns)) / sum(len(turn.calls_s) for turn in turns)


def _ratio(parent: Sequence[_Turn], candidate: Sequence[_Turn], share: float) -> float:
    before, after = (sorted(took for turn in turns for took in turn.calls_s) for turns in (parent, candidate))
    return quantile(after, share) / quantile(before, share)
