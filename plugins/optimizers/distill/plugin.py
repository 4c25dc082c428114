"""Distillation, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.errors import UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized, OptimizerPlugin
from taskloom.core.task import TaskModel, TaskPlugin
from taskloom.plugins.optimizers.distill.config import DistillConfig


class DistillOptimizer(OptimizerPlugin):
    """A smaller student learns to answer as the parent does."""

    name: ClassVar[str] = "distill"
    description: ClassVar[str] = "A student with fewer layers, or one that was pruned, learns to answer as its teacher does."
    Config = DistillConfig

    def check(self, task: TaskPlugin[Any, Any, Any], artifact: Artifact, config: Any) -> None:
        saved = artifact.manifest.config
        if saved.get("zero_shot"):
            raise UnsupportedError(
                f"{artifact.name} compares texts with names of labels by a pretrained encoder and learns no task: there is "
                "nothing to distil. Train a classifier and distil that"
            )
        if saved.get("kind") == "seq2seq":
            raise UnsupportedError(
                f"{artifact.name} writes its answers token by token; only answers of a fixed form are imitated here. Shrink it "
                "with quantize"
            )

    def apply(self, model: TaskModel[Any, Any, Any], config: Any, context: OptimizeContext) -> Optimized:
        from taskloom.plugins.optimizers.distill.apply import distill

        return distill(model, config, context)
