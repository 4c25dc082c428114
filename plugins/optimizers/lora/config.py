"""What a user may set of an adapter's training. Imports no ML library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from taskloom.plugins._shared.loop_config import TuneConfig

Method = Literal["lora", "rslora", "dora", "ia3", "full", "prompt", "prefix"]


class LoraConfig(TuneConfig):
    """Which weights are trained, and how the adapter is kept.

    `lora` (Hu et al. 2021, https://arxiv.org/abs/2106.09685), `rslora` (Kalajdzievski 2023, https://arxiv.org/abs/2312.03732),
    `dora` (Liu et al. 2024, https://arxiv.org/abs/2402.09353) and `ia3` (Liu et al. 2022, https://arxiv.org/abs/2205.05638)
    train an adapter; `full` trains all weights.
    """

    method: Method = "lora"
    start: Literal["model", "backbone"] = "model"
    """Train the model's own encoder further, or begin again from the pretrained one that it was made from (the head stays)."""
    r: int | None = Field(default=None, ge=1, le=512)
    """Rank; left open, the largest that `budget` allows, at most 64."""
    budget: float = Field(default=0.01, gt=0, le=1)
    """Of all parameters, how many may be trained: adapter, and head where there is room for it. Not for `full`."""
    alpha: float | None = Field(default=None, gt=0)
    """Scale of what the adapter adds (alpha / r; for `rslora` alpha / sqrt(r)); left open, 2 r (2 sqrt(r))."""
    dropout: float = Field(default=0.05, ge=0, lt=1)
    target_modules: tuple[str, ...] = ()
    """Ends of the names of linear or convolution layers; left open, all in the numbered layers of the network (for `ia3`: keys,
    values and the feed-forward layers)."""
    train_head: bool | None = None
    """Left open, the head is trained if that leaves room for an adapter in the budget."""
    merge: bool = True
    """Add the adapter to the weights at the end, so that it costs nothing. Unmerged it is a file of its own beside its
    backbone, and models on one backbone are served together."""
    learning_rate: float = Field(default=5e-4, gt=0)
    head_learning_rate: float = Field(default=1e-3, gt=0)
