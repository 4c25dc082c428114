"""The student: the model that the step is given, with the layers that it keeps."""

from __future__ import annotations

from typing import Any

import torch

from taskloom.core.anatomy import Structure, check_sizes
from taskloom.core.errors import UnsupportedError
from taskloom.core.task import TaskModel
from taskloom.plugins.optimizers.distill.config import DistillConfig

DECODER = "decoder."
"""How the names of a decoder's stacks begin."""


def evenly_spaced(size: int, count: int) -> list[int]:
    """So many of 0 to `size` - 1, the first and the last among them; of one, the last.

    >>> evenly_spaced(6, 3), evenly_spaced(12, 4), evenly_spaced(6, 1)
    ([0, 2, 5], [0, 4, 7, 11], [5])
    """
    count = min(count, size)
    if count == 1:
        return [size - 1]
    steps = count - 1
    return [-((steps - 2 * i * (size - 1)) // (2 * steps)) for i in range(count)]


def keep_layers(model: TaskModel[Any, Any, Any], config: DistillConfig) -> dict[str, list[int]]:
    """Takes the other layers out; returns which ones stay, by the names of their stacks."""
    if config.layers is None and config.decoder_layers is None and not config.keep:
        return {}
    stacks = [structure for structure in model.structures() if structure.kind == "layers"]
    if not stacks:
        raise UnsupportedError(
            "distill: this model has no layers that could be taken out; leave `layers` and `keep` open, and shrink it by other "
            "steps before this one (prune,distill)"
        )
    chosen = {stack.name: _chosen(stack, stacks, config) for stack in stacks}
    check_sizes(stacks, {name: len(kept) for name, kept in chosen.items()})
    for stack in stacks:
        if len(chosen[stack.name]) < stack.size:
            stack.keep(chosen[stack.name])
    return chosen


def _chosen(stack: Structure, stacks: list[Structure], config: DistillConfig) -> list[int]:
    if not config.keep:
        decodes = stack.name.startswith(DECODER) and config.decoder_layers is not None
        count = config.decoder_layers if decodes else config.layers
        return evenly_spaced(stack.size, stack.size if count is None else count)
    if len(stacks) > 1:
        raise UnsupportedError(
            f"distill: `keep` names layers of one stack, and there are {len(stacks)} ({', '.join(s.name for s in stacks)}); "
            "say `layers`, how many to keep of each"
        )
    if config.keep[-1] >= stack.size:
        raise UnsupportedError(f"distill: keep names layer {config.keep[-1]}; {stack.name} has 0 to {stack.size - 1}")
    return list(config.keep)


def matched_layers(student: int, teacher: int) -> list[int]:
    """For each layer of the student the teacher's that has come as far, so that the last matches the last (Jiao et al. 2020,
    https://arxiv.org/abs/1909.10351, section 3.1, the uniform strategy).

    >>> matched_layers(3, 6), matched_layers(2, 3)
    ([1, 3, 5], [1, 2])
    """
    return [-(-(i + 1) * teacher // student) - 1 for i in range(student)]


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
