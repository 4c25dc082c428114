"""The ONNX Runtime: for graphs that were quantized dynamically, on any processor."""

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
from taskloom.plugins.runtimes.machine import usable_cores
from taskloom.plugins.runtimes.torch import REPLICA_ENVIRONMENT

ERRORS_ONLY = 3
INTEGER_OPERATORS = ("MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv", "QuantizeLinear", "DynamicQuantizeLinear")
"""Of https://onnx.ai/onnx/operators; a graph that has one of them computes in int8 there."""
OP_TYPE = 0x22
"""The tag of `NodeProto.op_type`: field 4, with a length before the text."""


class OnnxRuntime(RuntimePlugin):
    """Taken only where an artifact or a user names it."""

    name: ClassVar[str] = "onnx"
    description: ClassVar[str] = "ONNX Runtime on the CPU, for models that were quantized for it."
    preference: ClassVar[int] = -1

    def unavailable(self) -> str | None:
        absent = [name for name in ("torch", "onnxruntime") if find_spec(name) is None]
        return f"{absent[0]} is not installed; run: pip install 'taskloom[local,onnx]'" if absent else None

    def plan(self, config: RuntimeConfig) -> ExecutionPlan:
        if config.precision == "int8":
            raise refuse_int8(self.name)
        if config.precision not in {"auto", "fp32"}:
            raise ConfigError(f"runtime 'onnx' computes in fp32; precision={config.precision!r} can't be had: use 'auto'")
        return cpu_plan(self.name, config, ("onnxruntime",), ("fp32", "fp32 where the graph is not quantized"))

    def load(self, model: TaskModel[Any, Any, Any], artifact: Artifact | None, plan: ExecutionPlan) -> Executor:
        from taskloom.plugins._shared.graph_export import ONNX_FILE

        graph = graph_of(model, self.name)
        files = graph_files(graph, artifact, (ONNX_FILE,), self.name)

        def read(path: Path) -> Engine:
            return _engine(path, plan.threads)

        return GraphExecutor(model, graph, read(files[0]) if files else exported(graph, read), plan)

    def environment(self, config: RuntimeConfig) -> Mapping[str, str]:
        return {**REPLICA_ENVIRONMENT, "OMP_NUM_THREADS": str(config.threads or usable_cores())}


def _engine(path: Path, threads: int) -> Engine:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = ERRORS_ONLY
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that spin while they wait take the cores from the gateway and the client beside them.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        # From memory: a file could name others beside it, which nothing vouches for.
        graph = path.read_bytes()
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as exc:
        raise ArtifactError(f"ONNX Runtime can't read {path.name}: {str(exc).splitlines()[0]}") from exc

    def run(feed: Mapping[str, Any]) -> Sequence[Any]:
        found: Sequence[Any] = session.run(None, dict(feed))
        return found

    return Engine(run, quantized=_is_quantized(graph))


def _is_quantized(graph: bytes) -> bool:
    """By the names of its operators, as they stand in the file: a session doesn't tell them, and reading the file as a graph
    would take the package `onnx`."""
    return any(bytes((OP_TYPE, len(name))) + name.encode() in graph for name in INTEGER_OPERATORS)
