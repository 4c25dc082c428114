"""What a user may set of a distillation. Imports no ML library."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from taskloom.plugins._shared.loop_config import TuneConfig


class DistillConfig(TuneConfig):
    """How a student is made of the model that the step is given, and how it learns from its teacher, the chain's parent.

    Without `layers` and `keep` the student is that model as it is: one that was pruned recovers.
    """

    layers: int | None = Field(default=None, ge=1)
    """How many layers the student keeps, evenly spaced from the first to the last. Where a model has several stacks of layers,
    so many of each."""
    keep: tuple[int, ...] = ()
    """Which layers it keeps, counted from 0; for models with one stack."""
    temperature: float = Field(default=2.0, gt=0)
    """Divides logits before they are compared; more shows more of what the teacher holds for less likely."""
    alpha: float = Field(default=0.3, ge=0, le=1)
    """What the rows' own targets weigh; the teacher's answers weigh the rest."""
    hidden_weight: float | None = Field(default=None, ge=0)
    """What being like the teacher's layers weighs; left open, 1 where the two can be compared, else 0."""
    hidden_loss: Literal["cosine", "mse"] = "cosine"
    relation_weight: float = Field(default=0.0, ge=0)
    """What the relations of queries, keys and values of the last layer weigh."""
    relation_heads: int = Field(default=12, ge=1)
    """Heads that vectors are divided into for their relations; as many of these as both widths can be divided by."""
    cache_gb: float = Field(default=4.0, ge=0)
    """Disk that the teacher's answers may take; where they would take more, the teacher runs in each step."""
    epochs: int = Field(default=10, ge=1)
    learning_rate: float = Field(default=2e-4, gt=0)
    head_learning_rate: float = Field(default=1e-3, gt=0)

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> DistillConfig:
        if self.keep and self.layers is not None:
            raise ValueError("keep and layers both say which layers stay; set one of them")
        if list(self.keep) != sorted(set(self.keep)) or any(part < 0 for part in self.keep):
            raise ValueError(f"keep is {list(self.keep)}; expected layers from 0 in ascending order, each once")
        return self
