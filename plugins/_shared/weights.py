"""Weights as they are kept in files."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def stored(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights for a file of safetensors: those in fp32 whose every number bf16 holds as well take half the room, and are
    read back as the same numbers."""
    return {name: _smallest(tensor.detach().cpu()).contiguous() for name, tensor in weights.items()}


def _smallest(tensor: Tensor) -> Tensor:
    if tensor.dtype != torch.float32:
        return tensor
    rounded = tensor.to(torch.bfloat16)
    return rounded if torch.equal(rounded.float(), tensor) else tensor
