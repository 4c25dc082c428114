"""Training what is left of a model, and keeping the better of before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.optimizer import OptimizeContext, Optimized
from taskloom.core.task import TaskModel
from taskloom.plugins._shared.loop_config import LoopConfig
from taskloom.plugins._shared.training import Validation, fit, seed_everything
from taskloom.plugins._shared.tuning import row_length
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.optimizers.prune.config import PruneConfig


def score(model: TaskModel[Any, Any, Any], context: OptimizeContext) -> Mapping[str, float]:
    """The validation metrics; the runtime that finds them may set the number of threads, which is put back."""
    threads = torch.get_num_threads()
    try:
        return context.score(Optimized(model, {}))
    finally:
        torch.set_num_threads(threads)


def recover(model: TaskModel[Any, Any, Any], config: PruneConfig, context: OptimizeContext, identity: Any) -> Mapping[str, Any]:
    """Trains the model in place for `config.epochs`; returns facts. `identity` is what was pruned, so that an interrupted
    training goes on with the same."""
    spec = next(metric for metric in context.task.metrics if metric.name == context.task.primary_metric)
    before = score(model, context)
    facts: dict[str, Any] = {"validation_pruned": {spec.name: before[spec.name]}}
    if not config.epochs:
        return facts
    _thaw(model)
    weights = {name: tensor.detach().clone() for name, tensor in model.module.state_dict().items()}
    seed_everything(config.seed)
    loop = LoopConfig(
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        head_learning_rate=config.learning_rate,
        ema_decay=0.0,
        early_stopping_patience=0,
        seed=config.seed,
        device=config.device,
    )
    done = fit(
        model,
        context.train,
        loop,
        context.run,
        length=row_length(context),
        fingerprint=sha256_hex(canonical_json([config.model_dump(mode="json"), identity])),
        validation=Validation(lambda: score(model, context), spec.name, spec.higher_is_better),
    )
    model.module.to("cpu").eval()
    after = score(model, context)
    better = after[spec.name] >= before[spec.name] if spec.higher_is_better else after[spec.name] <= before[spec.name]
    if not better:
        model.module.load_state_dict(weights)
    facts |= {"recovery": dict(done.facts), "history": [dict(row) for row in done.history], "recovery_kept": better}
    facts["validation_recovered"] = {spec.name: after[spec.name]}
    return facts


def _thaw(model: TaskModel[Any, Any, Any]) -> None:
    """Merging an adapter leaves a text encoder frozen, and then its layers could not learn to do without what was taken out.
    Its embeddings stay as they are: most rows of the table are in no batch, and training it costs as much as the layers."""
    if isinstance(model, EncoderTaskModel):
        backbone = model.parts.backbone.model
        backbone.requires_grad_(True)
        backbone.get_input_embeddings().requires_grad_(False)
