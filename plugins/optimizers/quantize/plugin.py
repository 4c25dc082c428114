"""Quantization, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.errors import MissingDependencyError, UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized, OptimizerPlugin
from taskloom.core.task import TaskModel, TaskPlugin
from taskloom.plugins.optimizers.quantize.config import RUNTIMES, QuantizeConfig

NEEDS = {
    "int4": "a GPU whose runtime multiplies 4-bit weights; on a CPU they are unpacked first and gain no time over int8",
    "fp8": "a GPU with fp8 tensor cores (Hopper, Ada or newer) and a runtime that uses them; no CPU multiplies fp8",
}
PACKAGES = {"static": ("openvino", "nncf", "onnxscript"), "dynamic": ("onnxruntime", "onnx", "onnxscript")}


class QuantizeOptimizer(OptimizerPlugin):
    """Smaller numbers: int8 by OpenVINO or ONNX Runtime, or bf16."""

    name: ClassVar[str] = "quantize"
    description: ClassVar[str] = "Weights and activations in int8 (static or dynamic), or weights in bf16."
    Config = QuantizeConfig

    def check(self, task: TaskPlugin[Any, Any, Any], artifact: Artifact, config: QuantizeConfig) -> None:
        if config.mode in NEEDS:
            raise UnsupportedError(
                f"quantize: mode {config.mode!r} needs {NEEDS[config.mode]}. No runtime here does that; use mode 'static', "
                "'dynamic' or 'bf16'"
            )
        wanted = RUNTIMES.get(config.mode, "any")
        if config.runtime not in {"auto", wanted}:
            raise UnsupportedError(
                f"quantize: mode {config.mode!r} makes models for {_told(wanted)}, not for {_told(config.runtime)}; leave "
                "runtime at 'auto', or choose the mode by the runtime: "
                + ", ".join(f"{mode!r} for {name!r}" for mode, name in RUNTIMES.items())
            )
        if artifact.manifest.runtime not in {"", "torch"}:
            raise UnsupportedError(
                f"quantize: {artifact.name} demands runtime {artifact.manifest.runtime!r}: it has no weights that could be "
                "quantized, or has been quantized already; start from the model that it was made from"
            )
        absent = [name for name in PACKAGES.get(config.mode, ()) if find_spec(name) is None]
        if absent:
            raise MissingDependencyError(
                f"quantize: mode {config.mode!r} needs {', '.join(absent)}; run: pip install 'taskloom[optimize]'"
            )

    def apply(self, model: TaskModel[Any, Any, Any], config: QuantizeConfig, context: OptimizeContext) -> Optimized:
        from taskloom.plugins.optimizers.quantize.apply import apply

        return apply(model, config, context)


def _told(runtime: str) -> str:
    return "any runtime" if runtime == "any" else f"runtime {runtime!r}"
