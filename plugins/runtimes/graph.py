"""What the runtimes that run a model's graph by an engine of their own have in common."""

from __future__ import annotations

import platform
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from taskloom.core.anatomy import Graph
from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, ConfigError, UnsupportedError
from taskloom.core.runtime import ExecutionPlan, RuntimeConfig
from taskloom.core.task import Batch, Outputs, TaskModel
from taskloom.plugins.runtimes.machine import usable_cores

Pass = Callable[[Mapping[str, Any]], Sequence[Any]]
"""Numpy arrays by name in, numpy arrays in the order of the graph's outputs out."""


@dataclass(frozen=True)
class Engine:
    """A graph that can be run. `quantized` says whether layers of it compute in int8."""

    run: Pass
    quantized: bool


class GraphExecutor:
    """The graph by an engine, what is left of the model by torch; both on the CPU."""

    def __init__(self, model: TaskModel[Any, Any, Any], graph: Graph, engine: Engine, plan: ExecutionPlan) -> None:
        import torch

        self.plan = effective(plan, engine)
        self._graph = graph
        self._run: Pass | None = engine.run
        torch.set_num_threads(plan.threads)
        model.module.eval()
        for weights in model.module.parameters():
            if weights.is_floating_point() and not weights.is_meta:
                weights.data = weights.data.float()

    def run(self, batch: Batch) -> Outputs:
        import torch

        from taskloom.plugins._shared.graph_export import arrays

        assert self._run is not None, "closed"
        with torch.inference_mode():
            found = [
                dict(zip(self._graph.outputs, (torch.from_numpy(array) for array in self._run(arrays(feed))), strict=True))
                for feed in self._graph.feeds(batch)
            ]
            return self._graph.results(found, batch)

    def close(self) -> None:
        self._run = None


def effective(plan: ExecutionPlan, engine: Engine) -> ExecutionPlan:
    """The plan with the precision that the engine computes in: int8 where layers of its graph are quantized, whatever the
    others do."""
    if not engine.quantized:
        return plan
    reason = f"int8 where the graph is quantized, {plan.precision} elsewhere"
    return plan.model_copy(update={"precision": "int8", "reasons": (*plan.reasons, reason)})


def graph_of(model: TaskModel[Any, Any, Any], runtime: str) -> Graph:
    graph = model.graph
    if graph is None:
        raise UnsupportedError(
            f"runtime {runtime!r} can't run this model: no part of a {type(model).__name__} is a graph that it could run; use "
            "runtime 'torch'"
        )
    return graph


def graph_files(graph: Graph, artifact: Artifact | None, names: Sequence[str], runtime: str) -> list[Path] | None:
    """The files of the graph in the artifact; None if it has none and the graph must be made from the model's own weights."""
    if artifact is not None and names[0] in artifact.manifest.files:
        return [artifact.path(name) for name in names]
    if any(weights.is_meta for weights in graph.module.parameters()):
        known = artifact.name if artifact is not None else "the model"
        raise ArtifactError(
            f"{known} has neither weights of its own nor {names[0]}, which runtime {runtime!r} needs; make one that has with: "
            "taskloom optimize MODEL --with quantize"
        )
    return None


def exported(graph: Graph, read: Callable[[Path], Engine]) -> Engine:
    """An engine for the graph of a model that has its weights, read from an ONNX file that is written for it."""
    from taskloom.plugins._shared.graph_export import export_onnx

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        export_onnx(graph, path)
        return read(path)


def cpu_plan(runtime: str, config: RuntimeConfig, packages: Sequence[str], precision: tuple[str, str]) -> ExecutionPlan:
    """The plan of a runtime for the CPU: as many threads as asked for or cores. `precision` is what it computes in where the
    graph is not quantized, and why."""
    if config.device not in {"auto", "cpu"}:
        raise ConfigError(f"runtime {runtime!r} runs on the CPU; device={config.device!r} can't be had: use 'auto' or 'torch'")
    cores = usable_cores()
    threads = config.threads or cores
    return ExecutionPlan(
        runtime=runtime,
        device="cpu",
        precision=precision[0],
        threads=threads,
        compiles_shapes=False,
        reasons=(
            f"runtime {runtime!r} runs on the CPU",
            precision[1],
            f"{threads} threads, as asked" if config.threads else f"{cores} cores that this process may use",
        ),
        versions={"python": platform.python_version(), **{name: version(name) for name in ("torch", *packages)}},
    )


def refuse_int8(runtime: str) -> ConfigError:
    return ConfigError(
        f"runtime.precision is 'int8', but whether a model is quantized is decided when it is made: leave it at 'auto', and "
        f"make one for runtime {runtime!r} with: taskloom optimize MODEL --with quantize"
    )
