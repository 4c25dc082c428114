"""Ranks that differ from layer to layer: what a parameter of each can do for the loss, measured once by its gradient."""

from __future__ import annotations

import heapq
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.errors import UnsupportedError
from taskloom.core.task import Example, TaskModel
from taskloom.plugins.optimizers.lora.layers import cost_of_rank, outputs_of

MOST_RANK = 64
READ_AT_ONCE = 8
RANKS_FILE = "ranks.json"


@dataclass(frozen=True)
class RankCosts:
    """Parameters of a layer's adapter: `each` for each rank, and `first` beside them (DoRA's magnitudes)."""

    each: int
    first: int = 0


def rank_costs(layers: Mapping[str, nn.Module], *, dora: bool) -> dict[str, RankCosts]:
    return {
        name: RankCosts(cost_of_rank({name: layer}), outputs_of({name: layer}) if dora else 0) for name, layer in layers.items()
    }


def divided(spectra: Mapping[str, Tensor], costs: Mapping[str, RankCosts], room: int) -> dict[str, int]:
    """The ranks, at most `MOST_RANK`, of adapters with at most `room` parameters together; layers with rank 0 are left out.

    `spectra` are the singular values of the layers' gradients, falling. An update of rank k and of unit length lowers the loss,
    to first order, by at most the root of the sum of the k largest squared ones (Eckart & Young 1936,
    https://doi.org/10.1007/BF02288367). So a layer's next rank is worth its next squared singular value, and what is worth most
    for each parameter is taken first. As values fall, a layer's ranks come in their order.

    >>> divided({"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 2.0])}, {"a": RankCosts(5), "b": RankCosts(5)}, 15)
    {'a': 1, 'b': 2}
    """
    ranks = dict.fromkeys(spectra, 0)
    values = {name: own[:MOST_RANK].double().square().tolist() for name, own in spectra.items()}
    waiting = [
        (-values[name][0] / (costs[name].each + costs[name].first), name) for name in sorted(values) if values[name][0] > 0
    ]
    heapq.heapify(waiting)
    while waiting:
        _, name = heapq.heappop(waiting)
        cost = costs[name].each + (0 if ranks[name] else costs[name].first)
        if cost > room:
            continue  # what comes later of this layer costs no less
        room -= cost
        ranks[name] += 1
        if ranks[name] < len(values[name]) and values[name][ranks[name]] > 0:
            heapq.heappush(waiting, (-values[name][ranks[name]] / costs[name].each, name))
    return {name: rank for name, rank in ranks.items() if rank}


def gradient_spectra(
    model: TaskModel[Any, Any, Any], layers: Mapping[str, nn.Module], examples: Sequence[Example[Any]], seed: int
) -> dict[str, Tensor]:
    """Singular values of the mean gradient of the loss by each layer's weights (of a convolution [out, in * height * width]),
    without dropout. Takes as much memory as the layers' weights, once. Raises `UnsupportedError` where the rows run through
    none of them."""
    weights = {name: layer.get_parameter("weight") for name, layer in layers.items()}
    trained = {name: weight.requires_grad for name, weight in weights.items()}
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    was_training = model.module.training
    model.module.eval()
    try:
        for weight in weights.values():
            weight.requires_grad_(True)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for start in range(0, len(examples), READ_AT_ONCE):
                part = examples[start : start + READ_AT_ONCE]
                loss = model.loss(model.collate(part))
                if not loss.requires_grad:  # none of these rows runs through the layers
                    continue
                found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
                for name, gradient in zip(weights, found, strict=True):
                    if gradient is not None:
                        total[name] += gradient * (len(part) / len(examples))
    finally:
        for name, weight in weights.items():
            weight.requires_grad_(trained[name])
        model.module.train(was_training)
    spectra = {name: torch.linalg.svdvals(gradient.flatten(1).float()) for name, gradient in total.items()}
    if not any(float(values[0]) > 0 for values in spectra.values()):
        raise UnsupportedError(
            "lora: no row of the training data runs through the layers that an adapter goes to, so their gradients say nothing "
            "of ranks; set ranks = 'even'"
        )
    return spectra


class KeptRanks:
    """Ranks in a step's work folder: a training that goes on where it was interrupted has the adapter that it had. Those of
    another `fingerprint` are nobody's."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._path = folder / RANKS_FILE
        self._fingerprint = fingerprint

    def read(self) -> dict[str, int] | None:
        try:
            told = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return dict(told["ranks"]) if told.get("fingerprint") == self._fingerprint else None

    def write(self, ranks: Mapping[str, int]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(json.dumps({"fingerprint": self._fingerprint, "ranks": dict(ranks)}), encoding="utf-8")
