"""Linear layers whose weights lie as oneDNN's kernels read them: arranged once, where torch arranges them at each call or
leaves the product to a library that is slow on some processors. For inference on the CPU."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from taskloom.plugins._shared.timing import best_seconds

PROBE = (64, 384, 1536)
"""Rows, inputs and outputs of the layer that is timed: a feed-forward layer of a small encoder, and a few short
texts."""


class PackedLinear(nn.Linear):
    """A linear layer with its weights arranged for oneDNN: what it computes stays the same. `weight` reads them back, bit for
    bit. It can't be trained, pickled or taken to another device or precision."""

    packed: Tensor

    def __init__(self, layer: nn.Linear, packed: Tensor) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features = layer.in_features, layer.out_features
        self.bias = layer.bias
        self.register_buffer("packed", packed, persistent=False)

    @property
    def weight(self) -> Tensor:  # type: ignore[override]
        """[out, in], made anew at each reading."""
        return self.packed.to_dense()

    def forward(self, x: Tensor) -> Tensor:
        return packed_linear(x, self.packed, self.bias)

    def __deepcopy__(self, memo: dict[int, Any]) -> PackedLinear:
        return PackedLinear(self, self.packed).train(self.training)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "weight"] = self.weight


def packed_weight(weight: Tensor) -> Tensor:
    """[out, in], opaque to everything but `packed_linear` and `to_dense`."""
    found: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return found


def packed_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def pack(module: nn.Module, made: dict[int, Tensor] | None = None) -> None:
    """Puts a `PackedLinear` in the place of each linear layer inside of a part that says `calls_linear_layers`: that it
    calls them and never reads their weights. Layers whose weights are another's, too, stay. `made` has packed weights by the id
    of what they were made from, so that models which share weights share these."""
    made = {} if made is None else made
    owners: dict[int, int] = {}
    for part in module.modules():
        for weights in part.parameters(recurse=False):
            owners[id(weights)] = owners.get(id(weights), 0) + 1
    called = {
        id(part): part for whole in module.modules() if getattr(whole, "calls_linear_layers", False) for part in whole.modules()
    }
    for part in called.values():
        for name, layer in list(part.named_children()):
            if type(layer) is nn.Linear and owners.get(id(layer.weight)) == 1 and not hasattr(layer, "parametrizations"):
                packed = made.get(id(layer.weight))
                if packed is None:
                    packed = made[id(layer.weight)] = packed_weight(layer.weight)
                setattr(part, name, PackedLinear(layer, packed).train(layer.training))


LEAST_GAIN = 1.02


def packing_gain(dtype: torch.dtype) -> float:
    """How many times as fast a layer runs with packed weights; 0 where torch can't. From `LEAST_GAIN` on it is worth it."""
    return linear_seconds(dtype, packed=False) / linear_seconds(dtype, packed=True)


@lru_cache(maxsize=8)
def linear_seconds(dtype: torch.dtype, packed: bool) -> float:
    """What a linear layer takes on this CPU, with packed weights or without; infinite where torch has no such kernel. Measured
    once a process, in some milliseconds, since what a processor is said to have may be emulated."""
    rows, inputs, outputs = PROBE
    x, weight = torch.randn(rows, inputs).to(dtype), torch.randn(outputs, inputs).to(dtype)
    try:
        arranged = packed_weight(weight) if packed else weight
        run = packed_linear if packed else linear
        run(x, arranged, None)
    except (AttributeError, RuntimeError):
        return math.inf
    return best_seconds(lambda: run(x, arranged, None))
