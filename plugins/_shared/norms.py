"""Batch norms after a training: statistics that belong to the weights that are kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from taskloom.core.task import Example, TaskModel

CALIBRATION_ROWS = 4096
"""Rows that norms take their statistics from."""
AT_ONCE = 256

Row = TypeVar("Row")


def sample(rows: Sequence[Row]) -> Sequence[Row]:
    """At most `CALIBRATION_ROWS` of them, evenly spaced: rows come sorted, by label or otherwise."""
    if len(rows) <= CALIBRATION_ROWS:
        return rows
    return [rows[i * len(rows) // CALIBRATION_ROWS] for i in range(CALIBRATION_ROWS)]


def calibrate_norms(model: TaskModel[Any, Any, Any], rows: Sequence[Example[Any]]) -> None:
    """Takes the statistics of batch norms anew, from inputs as they are. Those that training leaves behind belong to other
    weights than the averaged ones (Izmailov et al. 2018, https://arxiv.org/abs/1803.05407, section 3.2) and to augmented
    pictures. Draws no random numbers, so that a training takes the same course with it and without. Leaves the model in
    evaluation mode."""
    norms = [layer for layer in model.module.modules() if isinstance(layer, _BatchNorm)]
    model.module.eval()
    if not norms:
        return
    device = next(model.module.parameters()).device
    chosen = sample(rows)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    parts = max(1, len(chosen) // AT_ONCE)
    with torch.no_grad():
        for part in range(parts):
            batch = model.encode([example.input for example in chosen[part::parts]])
            model.forward({name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()})
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
        norm.eval()
