"""What a recipe may set of the training loop, whatever the task. Imports no ML library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from taskloom.core.types import Frozen


class LoopConfig(Frozen):
    """A task's `TrainConfig` extends this with settings of its own."""

    epochs: int = Field(default=10, ge=1)
    batch_size: int = Field(default=32, ge=1)
    """Examples per optimizer step."""
    accumulation: int = Field(default=1, ge=1)
    """Micro-batches that a step's batch is run in, one after the other, where memory is short: the gradient is the same where
    a loss is the mean over rows. Batches of long documents are split without it."""
    learning_rate: float = Field(default=5e-4, gt=0)
    head_learning_rate: float = Field(default=5e-3, gt=0)
    """For the task layer, which starts from little and has further to go."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Not on biases and norms."""
    warmup_ratio: float = Field(default=0.06, ge=0, lt=1)
    """Share of all steps in which the learning rate rises; then it falls along a cosine, to 0."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.995, ge=0, lt=1)
    """Weights are judged and kept as their moving average over steps, with this decay; 0 keeps the last ones."""
    early_stopping_patience: int = Field(default=3, ge=0)
    """Epochs without a better validation score before training ends; 0 never ends early."""
    validation_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Held out, stratified, where no validation file is given; 0 trains on every row, for all epochs."""
    checkpoint_steps: int = Field(default=0, ge=0)
    """A checkpoint every so many steps, beside the one at each epoch's end; 0 for none."""
    seed: int = Field(default=13, ge=0)
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    kept_in: Literal["fp32", "bf16"] = "fp32"
    """What trained weights are rounded to at the end, before they are measured. In bf16 an adapter and its head take half the
    room, and so does a network of our own; a whole checkpoint stays as large as it was."""
    device: str = "auto"


class TuneConfig(LoopConfig):
    """Training a model that has learnt its task already: slower, and for fewer epochs."""

    epochs: int = Field(default=5, ge=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    head_learning_rate: float = Field(default=5e-4, gt=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    validation_fraction: float = Field(default=0.0, ge=0, le=0)
    """Nothing more is held out: an optimizer is given rows to choose by."""
