"""Pruning, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized, OptimizerPlugin
from taskloom.core.task import TaskModel, TaskPlugin
from taskloom.plugins.optimizers.prune.config import PruneConfig


class PruneOptimizer(OptimizerPlugin):
    """Takes out what matters least, and trains what is left."""

    name: ClassVar[str] = "prune"
    description: ClassVar[str] = "Heads, units, channels and layers that matter least go, down to a latency or a size."
    Config = PruneConfig

    def check(self, task: TaskPlugin[Any, Any, Any], artifact: Artifact, config: PruneConfig) -> None:
        if config.kind == "2:4" and config.device != "cuda":
            raise UnsupportedError(
                "prune: kind '2:4' needs a GPU with sparse tensor cores (NVIDIA Ampere or newer); on a CPU its zeros are "
                "multiplied like any number and buy nothing. Use kind 'structured', or device 'cuda' where the model will be "
                "served on such a GPU"
            )
        if config.kind != "structured" and (config.layers or config.vocabulary != "whole"):
            raise ConfigError(f"prune: kind {config.kind!r} makes zeros and takes nothing out; leave out layers and vocabulary")
        if artifact.manifest.runtime not in {"", "torch"}:
            raise UnsupportedError(
                f"prune: {artifact.name} demands runtime {artifact.manifest.runtime!r}: it has no weights that could be "
                "pruned, or has been quantized already; start from the model that it was made from"
            )

    def apply(self, model: TaskModel[Any, Any, Any], config: PruneConfig, context: OptimizeContext) -> Optimized:
        from taskloom.plugins.optimizers.prune.apply import apply

        return apply(model, config, context)
