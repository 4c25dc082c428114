"""Zeros instead of weights: by magnitude, or two of every four. Nothing gets smaller by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.errors import UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized
from taskloom.core.task import TaskModel
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.optimizers.prune.config import PruneConfig
from taskloom.plugins.optimizers.prune.latency import shrunk, times
from taskloom.plugins.optimizers.prune.recovery import recover, score

HONEST = "zeros alone buy no speed and no bytes: dense kernels multiply them like any number; use kind 'structured' for that"
SPARSE = "made for GPUs whose sparse tensor cores skip half of the weights; a runtime that multiplies densely gains nothing"


def apply_zeros(model: TaskModel[Any, Any, Any], config: PruneConfig, context: OptimizeContext, batch: Any) -> Optimized:
    if isinstance(model, EncoderTaskModel):
        model.own_backbone()
    dense = shrunk(model, {})
    dense.module.load_state_dict({k: v.clone() for k, v in model.module.state_dict().items()}, assign=True)
    before = score(model, context)
    weights = _prunable(model.module)
    masks = by_magnitude(weights, config.sparsity) if config.kind == "magnitude" else two_of_four(weights)
    if not masks:
        raise UnsupportedError("prune: the model has no layer whose inputs come in fours; use kind 'structured'")
    with torch.no_grad():
        for name, mask in masks.items():
            weights[name].mul_(mask)
    # Weight decay and the optimizer's moments leave a zero alone whose gradient is zero.
    held = [_held(weights[name], mask) for name, mask in masks.items()]
    try:
        facts = recover(model, config, context, config.kind)
    finally:
        for handle in held:
            handle.remove()
    zeros = sum(int((weights[name] == 0).sum()) for name in masks)
    parent_s, own_s = times([dense, model], [batch, batch])
    return Optimized(
        model,
        {
            "kind": config.kind,
            "what_it_is": HONEST if config.kind == "magnitude" else SPARSE,
            "zeros": zeros,
            "zeros_share_of_layers": zeros / sum(weight.numel() for weight in weights.values()),
            "measured_latency_share": own_s / parent_s,
            "validation_before": dict(before),
            **facts,
        },
    )


def _prunable(module: nn.Module) -> dict[str, Tensor]:
    """The weights of linear layers and convolutions, by the names of these; a head that is never trained stays as it is, since
    nothing could learn to do without what was taken out. (Merging an adapter freezes layers, too, but not for good.)"""
    return {
        name: part.weight
        for name, part in module.named_modules()
        if isinstance(part, nn.Linear | nn.Conv2d) and (part.weight.requires_grad or not name.startswith("head."))
    }


def by_magnitude(weights: Mapping[str, Tensor], sparsity: float) -> dict[str, Tensor]:
    """True where a weight stays: those beyond the smallest of all layers together (Han et al. 2015,
    https://arxiv.org/abs/1506.02626)."""
    sizes = torch.cat([weight.detach().abs().flatten() for weight in weights.values()])
    least = sizes.kthvalue(max(1, int(sparsity * len(sizes)))).values
    return {name: weight.detach().abs() > least for name, weight in weights.items()}


def two_of_four(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """True for the two largest of each four weights beside each other, in linear layers that have fours (Mishra et al. 2021,
    https://arxiv.org/abs/2104.08378)."""
    found = {}
    for name, weight in weights.items():
        if weight.ndim == 2 and weight.shape[1] % 4 == 0:
            fours = weight.detach().abs().view(-1, 4)
            mask = torch.zeros_like(fours, dtype=torch.bool).scatter_(1, fours.topk(2, dim=1).indices, value=True)
            found[name] = mask.view_as(weight)
    return found


def _held(weight: Tensor, mask: Tensor) -> Any:
    """A hook under which the weight's gradient is zero where the mask is. Merging an adapter leaves weights frozen, and those
    take no hook."""
    return weight.requires_grad_(True).register_hook(lambda gradient: gradient * mask.to(gradient.device))  # type: ignore[no-untyped-call]
