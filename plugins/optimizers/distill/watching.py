"""What is seen of a model in one pass: its soft targets, the states behind its layers, and the last layer's queries, keys and
values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.anatomy import SoftTarget
from taskloom.core.task import Batch, TaskModel
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.shape import layer_stack
from taskloom.plugins.backbones.task_model import EncoderTaskModel

TARGET, HIDDEN, RELATION = "target", "hidden", "relation"
"""First halves of names: `target/logits`, `hidden/0`, `relation/query`."""
PROJECTIONS: Mapping[str, Sequence[str]] = {
    "query": ("query", "q_lin", "q_proj"),
    "key": ("key", "k_lin", "k_proj"),
    "value": ("value", "v_lin", "v_proj"),
}
"""What the linear layers of attention are called in various architectures."""


@dataclass(frozen=True)
class Views:
    """Modules of a packed text encoder whose outputs [1, R, H] are watched, by name."""

    modules: Mapping[str, nn.Module]


def watchable_layers(model: TaskModel[Any, Any, Any]) -> list[nn.Module]:
    """The layers of a model's text encoder, bottom first; none of a model whose states can't be watched."""
    encoder = _encoder(model)
    if encoder is None or encoder.layout != "packed":
        return []
    return list(layer_stack(encoder.model) or [])


def _encoder(model: TaskModel[Any, Any, Any]) -> TextEncoder | None:
    encoder = model.parts.encoder if isinstance(model, EncoderTaskModel) else None
    return encoder if isinstance(encoder, TextEncoder) else None


def projections(layer: nn.Module) -> dict[str, nn.Module]:
    """The query, key and value layers of a transformer layer; none if it has others than these."""
    found: dict[str, nn.Module] = {}
    for name, module in layer.named_modules():
        for kind, known in PROJECTIONS.items():
            if name.rpartition(".")[2] in known and kind not in found:
                found[kind] = module
    return found if len(found) == len(PROJECTIONS) else {}


class Watched:
    """A model, and the layers of it that are watched. `views` is None where soft targets are all."""

    def __init__(self, model: TaskModel[Any, Any, Any], views: Views | None) -> None:
        self.model = model
        self.views = views

    def see(self, batch: Batch) -> dict[str, SoftTarget]:
        """Runs the model. States are [T, H], in the order of the batch's tokens."""
        states: dict[str, list[Tensor]] = {}
        with self._recording(states):
            outputs = self.model.forward(batch)
        found = {f"{TARGET}/{name}": target for name, target in self.model.distillation_targets(outputs).items()}
        encoder = _encoder(self.model)
        if self.views is not None and encoder is not None:
            sizes: list[int] = batch["lengths"].tolist()
            orders = [plan.restore for _, plan in encoder.plans(sizes)]
            for name, rows in states.items():
                flat = [row[0][order.to(row.device)] for row, order in zip(rows, orders, strict=True)]
                found[name] = SoftTarget(torch.cat(flat), "vectors")
        return found

    @contextmanager
    def _recording(self, states: dict[str, list[Tensor]]) -> Iterator[None]:
        watched = self.views.modules.items() if self.views is not None else ()
        hooks = [module.register_forward_hook(_keeper(states, name)) for name, module in watched]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


def _keeper(states: dict[str, list[Tensor]], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def keep(_module: nn.Module, _given: Any, found: Any) -> None:
        states.setdefault(name, []).append(found[0] if isinstance(found, tuple) else found)

    return keep


@contextmanager
def one_pass(module: nn.Module) -> Iterator[None]:
    """While it is open, the module runs once for each set of arguments: a model's `loss` then costs no second pass of what its
    `forward` ran already."""
    known: list[tuple[tuple[Any, ...], Any]] = []
    run = module.forward

    def forward(*given: Any) -> Any:
        for before, found in known:
            if len(before) == len(given) and all(one is other for one, other in zip(before, given, strict=True)):
                return found
        known.append((given, run(*given)))
        return known[-1][1]

    module.forward = forward
    try:
        yield
    finally:
        del module.forward
