"""What a user may set of an adapter's training. Imports no ML library."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field, model_validator

from taskloom.plugins._shared.loop_config import TuneConfig

Method = Literal["lora", "rslora", "dora", "ia3", "full", "prompt", "prefix", "extract"]
VIRTUAL = ("prompt", "prefix")
"""Methods that learn virtual tokens, which can't be merged into weights."""
LEARNING_RATES: Mapping[str, float] = {"ia3": 3e-3, "full": 1e-4, "prompt": 1e-2, "prefix": 1e-2}
"""Where another than 1e-3, ten times that of all weights (Schulman et al. 2025), is the better default. The fewer the weights,
the higher."""
ALPHA = 32
"""Schulman et al. 2025 (https://thinkingmachines.ai/blog/lora): alpha / r with the same alpha for every rank makes the best
learning rate nearly the same for all."""
ALPHA_OF_ROOT = 8
"""For rsLoRA: at rank 16 both scale alike."""


class LoraConfig(TuneConfig):
    """Which weights are trained, and how the adapter is kept.

    `lora` (Hu et al. 2021, https://arxiv.org/abs/2106.09685), `rslora` (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732),
    `dora` (Liu et al. 2024, https://arxiv.org/abs/2402.09353) and `ia3` (Liu et al. 2022, https://arxiv.org/abs/2205.05638)
    train an adapter; `prompt` (Lester et al. 2021, https://arxiv.org/abs/2104.08691) and `prefix` (Li & Liang 2021,
    https://arxiv.org/abs/2101.00190) train virtual tokens; `full` trains all weights. `extract` trains
    nothing: it unmerges, by what the weights differ in from those of the backbone.
    """

    method: Method = "lora"
    start: Literal["model", "backbone"] = "model"
    """Train the model's own encoder further, or begin again from the pretrained one that it was made from (the head stays)."""
    r: int | None = Field(default=None, ge=1, le=512)
    """Rank; left open, the largest that `budget` allows, for `extract` the smallest that keeps 99.99% of the squared
    difference; at most 64."""
    budget: float = Field(default=0.01, gt=0, le=1)
    """Of all parameters, how many may be trained: adapter, and head where there is room for it. Not for `full`."""
    ranks: Literal["even", "gradient"] = "even"
    """`even`: one rank for all layers. `gradient`: `budget` (with `r`, as many parameters as that rank has) is divided among
    the layers by how much each further rank can lower the loss, as the gradient on some training rows says at the start."""
    importance_rows: int = Field(default=256, ge=1)
    """Training rows that this gradient is taken from."""
    virtual_tokens: int | None = Field(default=None, ge=1, le=512)
    """How many, for `prompt` and `prefix`; left open, as many as `budget` allows, at most 20."""
    alpha: float | None = Field(default=None, gt=0)
    """Scale of what the adapter adds (alpha / r; for `rslora` alpha / sqrt(r)); left open, 32 (8)."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Before what the adapter adds, beside the encoder's own. It keeps the input of each layer once more, which is memory."""
    target_modules: tuple[str, ...] = ()
    """Ends of the names of linear or convolution layers; left open, all in the numbered layers of the network (for `ia3`: keys,
    values and the feed-forward layers)."""
    train_head: bool | None = None
    """Left open, the head is trained if that leaves room for an adapter in the budget."""
    merge: bool = True
    """Add the adapter to the weights at the end, so that it costs nothing. Unmerged it is a file of its own beside its
    backbone, and models on one backbone are served together. Left open, this is false for virtual tokens, which can't be
    added, and for `extract`."""
    gradient_checkpointing: bool | None = None
    """Keep what goes into each layer alone, and compute the layer again for its gradient (Chen et al. 2016,
    https://arxiv.org/abs/1604.06174): most of a batch's memory for a third more time. Left open, where the model is a text
    encoder, but not for `full`."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Left open, 3e-3 for `ia3`, 1e-2 for `prompt` and `prefix`, 1e-4 for `full`."""
    head_learning_rate: float = Field(default=1e-3, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _of_the_method(cls, given: Any) -> Any:
        """What is left open depends on the method."""
        if not isinstance(given, Mapping):
            return given
        method = str(given.get("method"))
        rate = {"learning_rate": LEARNING_RATES[method]} if method in LEARNING_RATES else {}
        return {**rate, **({"merge": False} if method in {*VIRTUAL, "extract"} else {}), **given}
