"""Adapters, as the registry knows them. Imports no ML library."""

from __future__ import annotations

from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized, OptimizerPlugin
from taskloom.core.task import TaskModel, TaskPlugin
from taskloom.plugins.optimizers.lora.config import VIRTUAL, LoraConfig


class LoraOptimizer(OptimizerPlugin):
    """Trains few weights, or all, on the rows that the step is given."""

    name: ClassVar[str] = "lora"
    description: ClassVar[str] = (
        "A small adapter (LoRA, rsLoRA, DoRA, IA3, prompt, prefix) trained on new rows, merged or apart; or all weights."
    )
    Config = LoraConfig

    def check(self, task: TaskPlugin[Any, Any, Any], artifact: Artifact, config: LoraConfig) -> None:
        saved = artifact.manifest.config
        virtual = config.method in VIRTUAL
        if virtual and config.merge:
            raise UnsupportedError(
                f"lora: {config.method} tuning learns virtual tokens, which every text is read with; there are no weights that "
                "they could be added to. Leave merge open, or use lora, rslora, dora or ia3"
            )
        if config.method == "extract" and (config.merge or saved.get("form") not in {"adapter", "full"}):
            raise UnsupportedError(
                "lora: extract takes an adapter out of a text model's weights and keeps it beside the backbone that they came "
                f"from; {artifact.name} must be a model on a backbone, and merge open"
            )
        if config.virtual_tokens is not None and not virtual:
            raise ConfigError(
                f"lora: {config.method} has no virtual tokens; leave virtual_tokens open, or use prompt or prefix"
            )
        if config.r is not None and (virtual or config.method == "ia3"):
            raise ConfigError(f"lora: {config.method} has no rank; leave r open")
        if config.ranks != "even" and config.method not in {"lora", "rslora", "dora"}:
            raise ConfigError(f"lora: {config.method} has no ranks to divide; leave ranks open, or use lora, rslora or dora")
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
                f"lora: {artifact.name} is saved as one network, which has no place for an adapter beside it; "
                + ("use lora with merge = true" if virtual else "set merge = true")
            )

    def apply(self, model: TaskModel[Any, Any, Any], config: LoraConfig, context: OptimizeContext) -> Optimized:
        from taskloom.plugins.optimizers.lora.apply import train_adapter

        return train_adapter(model, config, context)
