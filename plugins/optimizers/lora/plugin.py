"""Adapters, as the registry knows them. Imports no ML library."""

from __future__ import annotations

from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized, OptimizerPlugin
from taskloom.core.task import TaskModel, TaskPlugin
from taskloom.plugins.optimizers.lora.config import LoraConfig


class LoraOptimizer(OptimizerPlugin):
    """Trains few weights, or all, on the rows that the step is given."""

    name: ClassVar[str] = "lora"
    description: ClassVar[str] = (
        "A small adapter (LoRA, rsLoRA, DoRA, IA3) trained on new rows, merged or apart; or all weights."
    )
    Config = LoraConfig

    def check(self, task: TaskPlugin[Any, Any, Any], artifact: Artifact, config: LoraConfig) -> None:
        saved = artifact.manifest.config
        if config.method in {"prompt", "prefix"}:
            raise UnsupportedError(
                f"lora: {config.method} tuning puts learnt vectors before every text as virtual tokens, and packed batches lay "
                "texts end to end by their real tokens, with no place for others; use lora, rslora, dora or ia3"
            )
        if config.method == "ia3" and config.r is not None:
            raise ConfigError("lora: ia3 learns one factor for each output and has no rank; leave r open")
        if saved.get("zero_shot"):
            raise UnsupportedError(
                f"lora: {artifact.name} compares texts with names of labels and learns no task; train a classifier"
            )
        if config.start == "backbone" and saved.get("form") != "adapter":
            raise UnsupportedError(
                f"lora: {artifact.name} holds weights of its own, not a pretrained backbone by name, so there is none to begin "
                "again from; set start = 'model'"
            )
        if not config.merge and config.method != "full" and saved.get("form") not in {"adapter", "full"}:
            raise UnsupportedError(
                f"lora: {artifact.name} is saved as one network, which has no place for an adapter beside it; set merge = true"
            )

    def apply(self, model: TaskModel[Any, Any, Any], config: LoraConfig, context: OptimizeContext) -> Optimized:
        from taskloom.plugins.optimizers.lora.apply import train_adapter

        return train_adapter(model, config, context)
