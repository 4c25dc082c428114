"""OpenVINO: for graphs that were quantized with calibration data, on x86 and Arm processors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, ConfigError
from taskloom.core.runtime import ExecutionPlan, Executor, RuntimeConfig, RuntimePlugin
from taskloom.core.task import TaskModel
from taskloom.plugins.runtimes.graph import Engine, GraphExecutor, cpu_plan, exported, graph_files, graph_of, refuse_int8
from taskloom.plugins.runtimes.machine import bf16_instructions, usable_cores
from taskloom.plugins.runtimes.torch import REPLICA_ENVIRONMENT

PRECISIONS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoRuntime(RuntimePlugin):
    """Taken only where an artifact or a user names it."""

    name: ClassVar[str] = "openvino"
    description: ClassVar[str] = "OpenVINO on the CPU, for models that were quantized for it."
    preference: ClassVar[int] = -1

    def unavailable(self) -> str | None:
        absent = [name for name in ("torch", "openvino") if find_spec(name) is None]
        return f"{absent[0]} is not installed; run: pip install 'taskloom[local,openvino]'" if absent else None

    def plan(self, config: RuntimeConfig) -> ExecutionPlan:
        return cpu_plan(self.name, config, ("openvino",), _precision(config.precision))

    def load(self, model: TaskModel[Any, Any, Any], artifact: Artifact | None, plan: ExecutionPlan) -> Executor:
        from taskloom.plugins._shared.graph_export import OPENVINO_FILES

        graph = graph_of(model, self.name)
        files = graph_files(graph, artifact, OPENVINO_FILES, self.name)

        def read(*paths: Path) -> Engine:
            return _engine(paths, plan)

        return GraphExecutor(model, graph, read(*files) if files else exported(graph, read), plan)

    def environment(self, config: RuntimeConfig) -> Mapping[str, str]:
        return {**REPLICA_ENVIRONMENT, "OMP_NUM_THREADS": str(config.threads or usable_cores())}


def _precision(asked: str) -> tuple[str, str]:
    """The precision of what is not quantized, and the reason for it."""
    if asked == "int8":
        raise refuse_int8("openvino")
    if asked == "fp16":
        raise ConfigError("runtime 'openvino' computes in fp32 or bf16 on a CPU; precision='fp16' can't be had: use 'auto'")
    if asked != "auto":
        return asked, f"{asked}, as asked, where the graph is not quantized"
    if found := bf16_instructions():
        return "bf16", f"bf16 where the graph is not quantized: {', '.join(found)}"
    return "fp32", "fp32 where the graph is not quantized: the processor has no bf16 matrix instructions"


def _engine(paths: Sequence[Path], plan: ExecutionPlan) -> Engine:
    from taskloom.plugins._shared.engines import import_openvino

    options = {
        "INFERENCE_NUM_THREADS": plan.threads,
        "INFERENCE_PRECISION_HINT": PRECISIONS[plan.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Replicas beside each other would all be pinned to the first cores.
        "ENABLE_CPU_PINNING": False,
    }
    core = import_openvino().Core()
    try:
        model = core.read_model(*paths)
        compiled = core.compile_model(model, "CPU", options)
    except RuntimeError as exc:
        raise ArtifactError(f"OpenVINO can't read {paths[0].name}: {str(exc).strip().splitlines()[-1]}") from exc
    request = compiled.create_infer_request()

    def run(feed: Mapping[str, Any]) -> Sequence[Any]:
        found = request.infer(dict(feed))
        return [found[place].copy() for place in range(len(compiled.outputs))]

    return Engine(run, quantized=any(node.get_type_name() == "FakeQuantize" for node in model.get_ops()))
