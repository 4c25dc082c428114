"""What each part of a model is worth, by the gradient on a gate at its output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

import torch
from torch import Tensor

from taskloom.core.anatomy import Structure
from taskloom.core.task import Example, TaskModel


def importances(
    model: TaskModel[Any, Any, Any],
    structures: Sequence[Structure],
    examples: Sequence[Example[Any]],
    how: Literal["fisher", "gradient"],
) -> Mapping[str, Tensor]:
    """A number [size] for each part of each structure, by the structure's name.

    `fisher` is the diagonal of the empirical Fisher information of gates that are 1: the mean over rows of the squared
    gradient (Kwon et al. 2022, https://arxiv.org/abs/2204.09656, eq. 8), in proportion to what the loss gains without the part.
    `gradient` is the mean of the absolute one (Michel et al. 2019, https://arxiv.org/abs/1905.10650, eq. 2).
    """
    gates = [torch.ones(structure.size, requires_grad=True) for structure in structures]
    found = [torch.zeros(structure.size, dtype=torch.float64) for structure in structures]
    was_training = model.module.training
    model.module.eval()
    with ExitStack() as stack:
        for structure, gate in zip(structures, gates, strict=True):
            stack.enter_context(structure.gated(gate))
        for example in examples:
            loss = model.loss(model.collate([example]))
            if not loss.requires_grad:  # the row runs through none of them
                continue
            gradients = torch.autograd.grad(loss, gates, allow_unused=True)
            for total, gradient in zip(found, gradients, strict=True):
                if gradient is not None:
                    total.add_(gradient.double().square() if how == "fisher" else gradient.double().abs())
    model.module.train(was_training)
    return {s.name: total / len(examples) for s, total in zip(structures, found, strict=True)}
