"""Which layers of a model an adapter goes to, and what it costs there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from taskloom.core.errors import UnsupportedError
from taskloom.core.task import TaskModel
from taskloom.plugins.backbones.adapters import LAYER_NUMBER
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.optimizers.lora.config import LoraConfig

IA3_FEEDFORWARD = ("output.dense", "lin2", "fc2", "wo")
IA3_SCALED = ("key", "value", "k_lin", "v_lin", "k_proj", "v_proj", "k", "v")
"""Ends of names: keys and values are scaled behind the layer, the feed-forward's inner units before its second layer (Liu et
al. 2022, section 3.3)."""


@dataclass(frozen=True)
class Adaptable:
    """`root` is what an adapter is put into; `layers` are the linear and convolution layers of it that it can go to, by name;
    `head` the names of the model's parameters that make answers of features."""

    root: nn.Module
    layers: Mapping[str, nn.Module]
    head: frozenset[str]


def adaptable(model: TaskModel[Any, Any, Any], wanted: tuple[str, ...] = ()) -> Adaptable:
    """With `wanted` only layers whose names end so. Raises `UnsupportedError` if there are none."""
    encoder = isinstance(model, EncoderTaskModel)
    root: nn.Module = model.parts.backbone.model if isinstance(model, EncoderTaskModel) else model.module
    every = {name: module for name, module in root.named_modules() if _takes_an_adapter(module)}
    numbered = {name: module for name, module in every.items() if LAYER_NUMBER.search(name)}
    chosen = {name: module for name, module in numbered.items() if not wanted or _ends(name, wanted)}
    if not chosen:
        known = sorted({LAYER_NUMBER.split(name, maxsplit=1)[1] for name in numbered})
        raise UnsupportedError(
            f"lora: target_modules {list(wanted)} are no layers of this model; it has: {', '.join(known)}"
            if known
            else "lora: this model has no linear or convolution layers in numbered blocks; train it with method = 'full'"
        )
    if encoder:
        head = frozenset(name for name, _ in model.module.named_parameters() if name.startswith("head."))
    else:
        ends = [name for name, module in every.items() if isinstance(module, nn.Linear) and name not in numbered]
        head = frozenset(name for name, _ in root.named_parameters() if any(name.startswith(f"{end}.") for end in ends))
    return Adaptable(root, chosen, head)


def _takes_an_adapter(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and module.groups == 1)


def _ends(name: str, wanted: tuple[str, ...]) -> bool:
    return any(name == end or name.endswith(f".{end}") for end in wanted)


def ia3_layers(layers: Mapping[str, nn.Module]) -> tuple[list[str], list[str]]:
    """Names of the layers that IA3 scales (of convolutions, all), and of those among them that it scales before, not behind."""
    before = [name for name in layers if _ends(name, IA3_FEEDFORWARD) and not name.endswith("attention.output.dense")]
    behind = [name for name, module in layers.items() if isinstance(module, nn.Conv2d) or _ends(name, IA3_SCALED)]
    if not before and not behind:
        raise UnsupportedError(
            "lora: which layers of this model are keys, values and feed-forward can't be told from their names; use another "
            "method than ia3"
        )
    return [*behind, *before], before


def cost_of_rank(layers: Mapping[str, nn.Module]) -> int:
    """Parameters of a LoRA adapter for each of its ranks."""
    found = 0
    for module in layers.values():
        if isinstance(module, nn.Conv2d):
            height, width = module.kernel_size
            found += module.in_channels * height * width + module.out_channels
        elif isinstance(module, nn.Linear):
            found += module.in_features + module.out_features
    return found


def outputs_of(layers: Mapping[str, nn.Module]) -> int:
    """Outputs of all layers: what DoRA has a magnitude for."""
    found = 0
    for module in layers.values():
        if isinstance(module, nn.Conv2d):
            found += module.out_channels
        elif isinstance(module, nn.Linear):
            found += module.out_features
    return found


def rank_for(config: LoraConfig, layers: Mapping[str, nn.Module], room: int) -> int:
    """The largest rank whose adapter has at most `room` parameters; 0 if there is none."""
    fixed = outputs_of(layers) if config.method == "dora" else 0
    return min(64, max(0, room - fixed) // cost_of_rank(layers))
