"""Unmerging: what training added to a backbone's weights, as a LoRA adapter on the backbone as it was published."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from taskloom.core.errors import UnsupportedError
from taskloom.core.task import TaskModel
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.loading import plain_weights, quiet_transformers
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.backbones.virtual_tokens import virtual_tokens
from taskloom.plugins.optimizers.lora.config import LoraConfig
from taskloom.plugins.optimizers.lora.layers import adaptable

KEPT = 0.9999
"""Of the squared difference of weights, what the rank that is chosen keeps."""
MOST_RANKS = 64
Parts = Mapping[str, tuple[Tensor, Tensor, Tensor]]


def extract_adapter(model: TaskModel[Any, Any, Any], config: LoraConfig, facts: dict[str, Any]) -> Any:
    """Puts the pretrained backbone in the place of the model's own, and an adapter on it that adds the difference of the linear
    layers: its truncated singular value decomposition, the nearest of that rank (Eckart & Young 1936,
    https://doi.org/10.1007/BF02288367). Exact for a merged LoRA adapter of no higher rank. Returns the PEFT model."""
    from peft import LoraConfig as PeftLoraConfig
    from peft import get_peft_model

    encoder = model.parts.encoder if isinstance(model, EncoderTaskModel) else None
    if not isinstance(model, EncoderTaskModel) or not isinstance(encoder, TextEncoder) or virtual_tokens(encoder):
        raise UnsupportedError("lora: extract finds what was added to the weights of a text encoder; this model has no such")
    own = {name: tensor.clone() for name, tensor in plain_weights(encoder.model).items()}
    model.restart()
    places = adaptable(model, config.target_modules)
    pretrained = dict(places.root.state_dict())
    if {name: x.shape for name, x in own.items()} != {name: x.shape for name, x in pretrained.items()}:
        raise UnsupportedError(
            "lora: this model's encoder has another shape than its backbone (it was pruned, say); keep it whole"
        )
    lost = {name: (x - pretrained[name]).float() for name, x in own.items() if x.is_floating_point()}
    total = sum(float(x.square().sum()) for x in lost.values())
    layers = [name for name in places.layers if f"{name}.weight" in lost and lost[f"{name}.weight"].ndim == 2]
    parts: Parts = {name: torch.linalg.svd(lost[f"{name}.weight"], full_matrices=False) for name in layers}
    rank = config.r or _rank(parts)
    with quiet_transformers():
        adapted = get_peft_model(places.root, PeftLoraConfig(r=rank, lora_alpha=rank, target_modules=layers))
    kept = 0.0
    with torch.no_grad():
        for name, (left, values, right) in parts.items():
            layer: Any = places.root.get_submodule(name)
            root = values[:rank].sqrt()
            count = len(root)  # a narrow layer has fewer
            for weight, part in ((layer.lora_A, root[:, None] * right[:rank]), (layer.lora_B, (left[:, :rank] * root).T)):
                inner = weight["default"].weight
                inner.zero_()
                (inner if weight is layer.lora_A else inner.T)[:count].copy_(part)
            kept += float(values[:rank].square().sum())
    facts |= {"r": rank, "kept_difference": kept / total if total else 1.0, "target_modules": sorted(layers)}
    return adapted


def _rank(parts: Parts) -> int:
    """The smallest that keeps all but little of the difference."""
    widest = max(len(values) for _, values, _ in parts.values())
    squares = torch.zeros(widest)
    for _, values, _ in parts.values():
        squares[: len(values)] += values.square()
    share = squares.cumsum(0) / squares.sum().clamp(min=1e-30)
    return min(MOST_RANKS, int((share < KEPT).sum()) + 1)
