"""The process that `performance.measure` starts: it loads one artifact and runs batches when it is told to.

A job comes as a line of JSON on stdin, then commands, a line each; every line is answered by a line on stdout. What libraries
print goes to stderr.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from taskloom.core.artifact import Artifact
from taskloom.core.errors import TaskloomError
from taskloom.core.predictor import Predictor, load_predictor, validated
from taskloom.core.registry import Registry
from taskloom.core.runtime import RuntimeConfig


def main() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = json.loads(sys.stdin.readline())
    try:
        predictor = load_predictor(
            _registry(job["factory"]), Artifact.open(Path(job["folder"])), RuntimeConfig.model_validate(job["runtime"])
        )
        inputs = {name: [validated(predictor.task.Input, raw, "input") for raw in raws] for name, raws in job["inputs"].items()}
        predictor.predict_one(next(iter(inputs.values()))[0])
    except TaskloomError as exc:
        _say(answers, {"error": exc.message})
        return
    _say(answers, {"plan": predictor.executor.plan.model_dump(mode="json"), "weights_bytes": _weights_bytes(predictor.model)})
    for line in sys.stdin:
        command = json.loads(line)
        _say(answers, _turn(predictor, inputs[command["inputs"]], command["batch"], command["seconds"]))


def _registry(factory: str) -> Registry:
    module, _, name = factory.partition(":")
    make: Callable[[], Registry] = getattr(importlib.import_module(module), name)
    return make()


def _turn(predictor: Predictor[Any, Any, Any], inputs: Sequence[Any], batch: int, seconds: float) -> Mapping[str, Any]:
    """Calls for some seconds, one at least, of `batch` inputs each. With no seconds, one that warms up."""
    took: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()
    while not took or time.perf_counter() - began < seconds:
        rows = [inputs[(len(took) * batch + i) % len(inputs)] for i in range(batch)]
        start = time.perf_counter()
        predictor.predict(rows)
        took.append(time.perf_counter() - start)
    return {"calls_s": took, "cpu_s": time.process_time() - cpu, "peak_rss_bytes": peak_rss_bytes()}


def peak_rss_bytes() -> int:
    """The kernel's own high-water mark. `ru_maxrss` would count what the starting process had in memory when it forked."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
    except (OSError, StopIteration):
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _weights_bytes(model: Any) -> int:
    """Of the parameters and buffers in memory, those of a shared backbone among them; 0 for a model without a module."""
    if model.module is None:
        return 0
    tensors = [*model.module.parameters(), *model.module.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors if not tensor.is_meta)


def _say(answers: IO[str], message: Mapping[str, Any]) -> None:
    answers.write(json.dumps(message) + "\n")
    answers.flush()


if __name__ == "__main__":
    main()
