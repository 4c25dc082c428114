"""The runtime of models that need none: rules, look-ups, anything whose `forward` is plain Python."""

from __future__ import annotations

import platform
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ConfigError
from taskloom.core.runtime import ExecutionPlan, Executor, RuntimeConfig, RuntimePlugin
from taskloom.core.task import Batch, Outputs, TaskModel


class PythonExecutor:
    """Calls `forward` as it is."""

    def __init__(self, model: TaskModel[Any, Any, Any], plan: ExecutionPlan) -> None:
        self.plan = plan
        self._model = model

    def run(self, batch: Batch) -> Outputs:
        return self._model.forward(batch)

    def close(self) -> None:
        """Holds nothing."""


class PythonRuntime(RuntimePlugin):
    """Taken only where an artifact or a user names it."""

    name: ClassVar[str] = "python"
    description: ClassVar[str] = "Plain Python, for models without tensors."
    preference: ClassVar[int] = -1

    def unavailable(self) -> str | None:
        return None

    def plan(self, config: RuntimeConfig) -> ExecutionPlan:
        if config.device not in {"auto", "cpu"} or config.precision not in {"auto", "fp32"}:
            raise ConfigError(
                f"runtime 'python' runs on the CPU as it is; device={config.device!r} and precision={config.precision!r} "
                "can't be had: leave both at 'auto' or use runtime 'torch'"
            )
        return ExecutionPlan(
            runtime=self.name,
            device="cpu",
            precision="fp32",
            threads=1,
            reasons=("the model is plain Python",),
            versions={"python": platform.python_version()},
        )

    def load(self, model: TaskModel[Any, Any, Any], artifact: Artifact | None, plan: ExecutionPlan) -> Executor:
        return PythonExecutor(model, plan)
