"""What a model is made of, for those who change it without knowing its task: the graph that a runtime may run by an engine of
its own, the structures that an optimizer may take out, and the answers that a student imitates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

from taskloom.core.errors import UnsupportedError
from taskloom.core.types import Frozen

StructureKind = Literal["layers", "heads", "units", "channels"]
"""Whole layers, attention heads of a layer, hidden units of a feed-forward layer, channels of a convolution."""


class GraphInput(Frozen):
    """A tensor that a graph takes. A dimension that varies has a name, one that does not its size."""

    name: str
    dtype: Literal["int64", "float32"]
    dims: tuple[str | int, ...]


@dataclass(frozen=True)
class Graph:
    """The part of `TaskModel.forward` that costs: a module over dense tensors, which can be exported.

    `forward(batch)` is `results([dict(zip(outputs, module(*feed in the order of inputs))) for feed in feeds(batch)], batch)`. A
    ragged batch gives several feeds, each of sequences of like length, so that little is padding.
    """

    module: Any
    """A `torch.nn.Module` that takes the inputs by position and returns a tensor, or a tuple of them, in the order of
    `outputs`. Without weights (on torch's `meta` device) in a model that was saved without them."""
    inputs: tuple[GraphInput, ...]
    outputs: tuple[str, ...]
    feeds: Callable[[Mapping[str, Any]], list[Mapping[str, Any]]]
    results: Callable[[Sequence[Mapping[str, Any]], Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class SoftTarget:
    """A tensor of a model's answer that another model of the task can imitate, and what its numbers mean.

    `values` is [M, ...]; `sizes` [N] says how many of the M rows belong to each input of the batch, in order; None if each has
    one. `kind` is how it is imitated:
    - `classes`: logits of one choice over the last dimension, for each row;
    - `choices`: logits of one choice among the rows of an input, for each column (a token of a text, a sentence of a document);
    - `flags`: each number is the logit of a yes or no of its own;
    - `vectors`: points in a space, over the last dimension.
    A logit of -1e4 or less is something that can't be. `columns` are what the last dimension's numbers stand for, where
    `TaskModel.labels` does not say it: another model's answer is about the same things if they are equal.
    """

    values: Any
    kind: Literal["classes", "choices", "flags", "vectors"] = "classes"
    sizes: Any = None
    columns: tuple[str, ...] = ()


class Structure(ABC):
    """Like parts of a model that can be taken out one by one, such as the heads of one layer. `name` is the same in each
    process that loads the model, `size` how many parts there are now, `weights` how many numbers one part holds."""

    name: str
    kind: StructureKind
    size: int
    weights: int
    limits: str = ""
    """The name of a structure that may have no more parts than this one; empty for none."""

    @abstractmethod
    def gated(self, gate: Any) -> AbstractContextManager[None]:
        """While it is open, each part's output is multiplied by its element of `gate`, a tensor [size]: a gradient on it says
        what the part is worth, a zero shows the model without it."""

    @abstractmethod
    def keep(self, parts: Sequence[int]) -> None:
        """Takes all other parts out, for good, and sets `size`; what is left computes what it did with a gate of zeros for the
        others. At least one part must stay (of layers, too). Structures inside a layer that goes are used no more."""


def check_sizes(structures: Sequence[Structure], sizes: Mapping[str, int]) -> None:
    """Raises `UnsupportedError` where a structure would have fewer parts than another one must not have more of. `sizes` are
    those that change, by name."""
    then = {own.name: sizes.get(own.name, own.size) for own in structures}
    for own in structures:
        if own.limits in then and then[own.name] < then[own.limits]:
            raise UnsupportedError(
                f"this model can't be run with {then[own.name]} {own.name} and {then[own.limits]} {own.limits}: take as many "
                f"out of {own.limits}, or fewer out of {own.name}"
            )
