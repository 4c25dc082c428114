"""Distillation, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.errors import UnsupportedError
from taskloom.core.optimizer import Needs, OptimizeContext, Optimized, OptimizerPlugin
from taskloom.core.task import TaskModel, TaskPlugin
from taskloom.plugins.optimizers.distill.config import DistillConfig


class DistillOptimizer(OptimizerPlugin):
    """A smaller student learns to answer as its teachers do: the parent, or other published models."""

    name: ClassVar[str] = "distill"
    description: ClassVar[str] = "A student with fewer layers, or one that was pruned, learns to answer as its teacher does."
    Config = DistillConfig

    def check(self, task: TaskPlugin[Any, Any, Any], artifact: Artifact, config: Any) -> None:
        refuse(artifact)

    def needs(self, config: DistillConfig) -> Needs:
        named = (*config.teachers, *((config.student,) if config.student else ()))
        if not config.backbone:
            return Needs(named, config.unlabelled)
        from taskloom.plugins.backbones.loading import described_backbone

        return Needs(named, config.unlabelled, (config.backbone,), described_backbone)

    def apply(self, model: TaskModel[Any, Any, Any], config: Any, context: OptimizeContext) -> Optimized:
        from taskloom.plugins.optimizers.distill.apply import distill

        return distill(model, config, context)


def refuse(artifact: Artifact) -> None:
    """Raises `UnsupportedError` for a model that has nothing to teach, and nothing to learn."""
    if artifact.manifest.config.get("zero_shot"):
        raise UnsupportedError(
            f"{artifact.name} compares texts with names of labels by a pretrained encoder and learns no task: there is "
            "nothing to distil. Train a classifier and distil that"
        )
