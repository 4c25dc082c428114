"""What a user may set of a distillation. Imports no ML library."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from taskloom.plugins._shared.loop_config import TuneConfig


class DistillConfig(TuneConfig):
    """How a student is made, by default of the model that the step is given, and how it learns from its teachers, by default
    the chain's parent.

    Without `layers` and `keep` the student is that model as it is: one that was pruned recovers. Models are named as NAME or
    NAME@VERSION.
    """

    teachers: tuple[str, ...] = ()
    """Published models of the same task with the same labels; none: the chain's parent. The mean of what they hold for likely
    is imitated."""
    teacher_weights: tuple[float, ...] = ()
    """What each of the teachers counts in that mean; none: all alike."""
    student: str = ""
    """A published model of the same task with the same labels that learns in the place of the model that the step is given: a
    narrower one, say, or one on another backbone."""
    backbone: str = ""
    """A pretrained encoder on which a new model with the labels and settings of the one that the step is given learns in its
    place: a published one, a local folder or a Hugging Face id, as recipes name them."""
    unlabelled: tuple[Path, ...] = ()
    """Files of inputs without targets, which the teachers' answers alone are learnt for: `.txt` with a text in each line, or
    the fields of the task's input as `.jsonl`, `.csv`, `.tsv`."""
    augment: int = Field(default=0, ge=0, le=100)
    """Altered copies of each row (of those without target, too), which the teachers' answers alone are learnt for: words are
    masked or exchanged for others."""
    augment_mask: float = Field(default=0.1, ge=0, le=1)
    """Share of words that an altered copy has masked."""
    augment_swap: float = Field(default=0.1, ge=0, le=1)
    """Share of words that an altered copy has exchanged for words of other rows."""
    augment_cut: float = Field(default=0.25, ge=0, le=1)
    """Share of altered copies that keep one run of their words alone."""
    layers: int | None = Field(default=None, ge=1)
    """How many layers the student keeps, evenly spaced from the first to the last. Where a model has several stacks of layers,
    so many of each."""
    decoder_layers: int | None = Field(default=None, ge=1)
    """Of a model that writes: how many layers its decoder keeps; `layers` says the encoder's then."""
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
    epochs: int = Field(default=6, ge=1)
    learning_rate: float = Field(default=4e-4, gt=0)
    head_learning_rate: float = Field(default=1e-3, gt=0)

    @model_validator(mode="after")
    def _one_way_to_say_it(self) -> DistillConfig:
        if self.teacher_weights and len(self.teacher_weights) != len(self.teachers):
            raise ValueError(
                f"teacher_weights has {len(self.teacher_weights)} numbers for {len(self.teachers)} teachers; give one for each"
            )
        if any(weight <= 0 for weight in self.teacher_weights):
            raise ValueError("teacher_weights must be above 0; leave a teacher out that should not count")
        if self.student and self.backbone:
            raise ValueError("student and backbone both say who learns; set one of them")
        if self.keep and self.layers is not None:
            raise ValueError("keep and layers both say which layers stay; set one of them")
        if list(self.keep) != sorted(set(self.keep)) or any(part < 0 for part in self.keep):
            raise ValueError(f"keep is {list(self.keep)}; expected layers from 0 in ascending order, each once")
        return self
