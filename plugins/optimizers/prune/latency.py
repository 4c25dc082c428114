"""How long a model takes with its structures at other sizes: a table, measured on this machine."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import torch
from torch import Tensor

from taskloom.core.anatomy import Structure
from taskloom.core.task import Batch, TaskModel
from taskloom.core.types import Frozen
from taskloom.plugins._shared.packed import LEAST_GAIN, pack, packing_gain
from taskloom.plugins.optimizers.prune.vocabulary import keep_pieces

ROUNDS = 9


class Curve(Frozen):
    """What a structure of a group adds to the time of a batch, by its size: 0 for the size that it has, less for smaller
    ones. Seconds."""

    structures: tuple[str, ...]
    sizes: tuple[int, ...]
    seconds: tuple[float, ...]


class LatencyTable(Frozen):
    """`whole_s` is the time of a batch of `rows` rows by the model as it is."""

    whole_s: float
    rows: int
    threads: int
    curves: tuple[Curve, ...]

    def cost(self, structure: str) -> Callable[[int], float]:
        """The seconds that a structure of any size adds, between the measured sizes by a line."""
        curve = next(curve for curve in self.curves if structure in curve.structures)
        return lambda size: float(np.interp(size, curve.sizes, curve.seconds))


def measure_table(
    model: TaskModel[Any, Any, Any],
    structures: Sequence[Structure],
    sizes: Mapping[str, Sequence[int]],
    batch: Batch,
    rows: int,
) -> LatencyTable:
    """Measures the model with all structures of a group (of one kind, size and weight) at some of the `sizes` allowed for
    them, and divides what that saves among them."""
    groups: dict[tuple[str, int, int], list[Structure]] = {}
    for structure in structures:
        if len(sizes[structure.name]) > 1:
            groups.setdefault((structure.kind, structure.size, structure.weights), []).append(structure)
    variants = [model]
    plans: list[tuple[list[str], list[int]]] = []
    for members in groups.values():
        names = [member.name for member in members]
        measured = _spread(sorted(sizes[names[0]]))
        plans.append((names, measured))
        variants += [shrunk(model, {name: range(size) for name in names}) for size in measured[:-1]]
    seconds = times(variants, [batch] * len(variants))
    whole, rest = seconds[0], iter(seconds[1:])
    curves = []
    for names, measured in plans:
        saved = [(next(rest) - whole) / len(names) for _ in measured[:-1]]
        rising = [min(0.0, float(value)) for value in np.maximum.accumulate([*saved, 0.0])]
        curves.append(Curve(structures=tuple(names), sizes=tuple(measured), seconds=tuple(rising)))
    return LatencyTable(whole_s=whole, rows=rows, threads=torch.get_num_threads(), curves=tuple(curves))


def _spread(sizes: Sequence[int]) -> list[int]:
    """At most five of the sizes (ascending), the first and the last among them."""
    places = np.unique(np.linspace(0, len(sizes) - 1, 5).round().astype(int))
    return [sizes[place] for place in places]


def shrunk(
    model: TaskModel[Any, Any, Any], kept: Mapping[str, Sequence[int]], pieces: Sequence[int] | None = None
) -> TaskModel[Any, Any, Any]:
    """A copy that keeps these parts of each structure, and these pieces of its vocabulary; it shares the weights that are not
    cut."""
    # `keep` puts new tensors in the place of those that it cuts, so a copy may share its parameters.
    shared: dict[int, Any] = {id(parameter): parameter for parameter in model.module.parameters()}
    other = copy.deepcopy(model, shared)
    for structure in other.structures():
        if structure.name in kept:
            structure.keep(kept[structure.name])
    if pieces is not None:
        keep_pieces(other, pieces)
    return other


def runs_through(model: TaskModel[Any, Any, Any], structures: Sequence[Structure], batch: Batch) -> bool:
    """Whether any of the structures has a part in what comes out for a batch: with gates that are no numbers, it is none."""
    model.module.eval()
    with ExitStack() as stack, torch.inference_mode():
        for structure in structures:
            stack.enter_context(structure.gated(torch.full((structure.size,), torch.nan)))
        found = model.forward(batch)
    return any(bool(v.isnan().any()) for v in found.values() if isinstance(v, Tensor) and v.is_floating_point())


def _as_served(model: TaskModel[Any, Any, Any], packed: dict[int, Tensor]) -> TaskModel[Any, Any, Any]:
    """A copy with packed weights where the torch runtime would pack them; those in `packed` are shared."""
    model.module.eval()
    if next(model.module.parameters()).is_cuda or packing_gain(torch.float32) < LEAST_GAIN:
        return model
    served = shrunk(model, {})
    pack(served.module, packed)
    return served


def times(models: Sequence[TaskModel[Any, Any, Any]], batches: Sequence[Batch], rounds: int = ROUNDS) -> list[float]:
    """Seconds that each model takes for its batch, with its weights as the torch runtime has them: the least of several rounds
    in which all have their turn, so that what else the machine does hits all alike. With one thread it is processor time,
    which what else it does hardly changes."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    best = [float("inf")] * len(models)
    packed: dict[int, Tensor] = {}
    served = [_as_served(model, packed) for model in models]  # `models` keeps the weights alive whose ids `packed` has
    with torch.inference_mode():
        for model, batch in zip(served, batches, strict=True):
            model.forward(batch)
        for _ in range(rounds):
            for place, (model, batch) in enumerate(zip(served, batches, strict=True)):
                began = clock()
                model.forward(batch)
                best[place] = min(best[place], clock() - began)
    return best
