"""What a user may ask of pruning. Imports no ML library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from taskloom.core.types import Frozen


class PruneConfig(Frozen):
    """`kind` is one of

    - `structured`: attention heads, feed-forward units, channels and layers go; what is left is smaller and faster anywhere;
    - `magnitude`: the smallest weights become zeros. A baseline: zeros alone buy no speed and no bytes;
    - `2:4`: two of every four weights become zeros, which sparse tensor cores of a GPU can skip.
    """

    kind: Literal["structured", "magnitude", "2:4"] = "structured"
    target: Literal["latency", "parameters"] = "latency"
    """What is brought down (structured): the time of a batch by a table measured on this machine, or the parameters."""
    share: float = Field(default=0.55, gt=0, le=1)
    """The share of it that may be left; 1 takes out nothing but `layers` and the `vocabulary` that are asked for."""
    layers: int = Field(default=0, ge=0)
    """So many whole layers go first, the least important ones."""
    vocabulary: Literal["whole", "seen"] = "whole"
    """`seen` takes pieces that the training rows don't have out of a text encoder's vocabulary, and their embeddings: smaller,
    no faster. Words that had one are read in smaller pieces."""
    seen_at_least: int = Field(default=1, ge=1)
    """How often a piece must be read in the training rows to stay."""
    importance: Literal["fisher", "gradient"] = "fisher"
    """What a part is worth: the mean over rows of its gate's squared gradient, or of the absolute one."""
    importance_rows: int = Field(default=256, ge=1)
    """Training rows that it is taken from."""
    timed_rows: int = Field(default=8, ge=1)
    """Rows in the batch whose time is measured."""
    units_multiple: int = Field(default=32, ge=1)
    """Units are left in multiples of so many, which processors multiply best."""
    channels_multiple: int = Field(default=8, ge=1)
    """As for units. Other numbers than multiples of 8 can crash torch's convolutions in training."""
    sparsity: float = Field(default=0.5, gt=0, lt=1)
    """The share of weights that become zeros (magnitude)."""
    device: Literal["cpu", "cuda"] = "cpu"
    """Where the recovery runs; `2:4` is made for `cuda` alone."""
    epochs: int = Field(default=3, ge=0)
    """Of training what is left, on all training rows; 0 leaves it as it is."""
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    seed: int = Field(default=13, ge=0)
