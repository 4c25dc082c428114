"""The student as the training loop sees it: its batches bring the teacher's answers, its loss is the distance to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from taskloom.core.anatomy import SoftTarget
from taskloom.core.errors import UnsupportedError
from taskloom.core.task import Batch, Example, Outputs, TaskModel
from taskloom.plugins.optimizers.distill.config import DistillConfig
from taskloom.plugins.optimizers.distill.lessons import has_target, read_lesson
from taskloom.plugins.optimizers.distill.losses import hidden_loss, relation_loss, soft_loss
from taskloom.plugins.optimizers.distill.teacher import Teacher
from taskloom.plugins.optimizers.distill.watching import HIDDEN, RELATION, TARGET, Watched, one_pass

TAUGHT = "taught/"
"""Before the names of the teacher's answers in a batch."""
TOLD = "told/"
"""Before the names of a batch of those rows that have targets, in one where not all have."""
TOLD_SHARE = "told_share"


@dataclass(frozen=True)
class Weights:
    """What each part of the loss weighs."""

    hard: float
    soft: float
    hidden: float
    relation: float


class Learner(TaskModel[Any, Any, Any]):
    """A student that can be trained by `fit`. The sum of: its own loss on the rows' targets (alpha), the soft loss (1 - alpha),
    and what the layers' states and the last layer's relations weigh."""

    def __init__(self, watched: Watched, teacher: Teacher, config: DistillConfig, weights: Weights) -> None:
        self.student = watched.model
        self.module = self.student.module
        self.splits_batches = self.student.splits_batches
        self._watched = watched
        self._teacher = teacher
        self._config = config
        self._weights = weights

    def collate(self, examples: Sequence[Example[Any]]) -> Batch:
        batch = dict(read_lesson(self.student, examples))
        taught = {f"{TAUGHT}{name}": values for name, values in self._teacher.say(examples, batch).items()}
        told = [example for example in examples if has_target(example)]
        if len(told) == len(examples) or not self._weights.hard:
            return {**batch, **taught}
        apart = self.student.collate(told) if told else {}
        share = {TOLD_SHARE: len(told) / len(examples)}
        return {**batch, **taught, **{f"{TOLD}{name}": value for name, value in apart.items()}, **share}

    def loss(self, batch: Batch) -> Tensor:
        own = {name: value for name, value in batch.items() if not name.startswith((TAUGHT, TOLD)) and name != TOLD_SHARE}
        with one_pass(self.module):
            seen = self._watched.see(own)
            total: Any = self._weights.hard * self._hard_loss(own, batch) if self._weights.hard else 0.0
        groups: dict[str, list[Tensor]] = {TARGET: [], HIDDEN: [], RELATION: []}
        for name, target in seen.items():
            if f"{TAUGHT}{name}" not in batch:
                continue
            kind = name.partition("/")[0]
            groups[kind].append(self._distance(name, kind, target, batch))
        for kind, weight in ((HIDDEN, self._weights.hidden), (RELATION, self._weights.relation)):
            if groups[kind]:
                total = total + weight * sum(groups[kind]) / len(groups[kind])
        found: Tensor = total + self._weights.soft * sum(groups[TARGET])
        return found

    def _hard_loss(self, own: Batch, batch: Batch) -> Any:
        """The student's own loss; in a batch where not all rows have targets, of those that have, by their share."""
        if TOLD_SHARE not in batch:
            return self.student.loss(own)
        told = {name.removeprefix(TOLD): value for name, value in batch.items() if name.startswith(TOLD)}
        return batch[TOLD_SHARE] * self.student.loss(told) if told else 0.0

    def _distance(self, name: str, kind: str, target: SoftTarget, batch: Batch) -> Tensor:
        taught = batch[f"{TAUGHT}{name}"].to(target.values.device)
        if taught.shape != target.values.shape and kind != RELATION:
            raise UnsupportedError(
                f"distill: the student's {name} has shape {list(target.values.shape)}, its teacher's {list(taught.shape)}: "
                "they can't be compared. A student must have its teacher's labels and read the same tokens"
            )
        if kind == TARGET:
            return soft_loss(target, taught, self._config.temperature)
        if kind == HIDDEN:
            return hidden_loss(target.values, taught, self._config.hidden_loss)
        return relation_loss(target.values, taught, batch["lengths"], self._config.relation_heads)

    # -- what the student does ----------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[Any]) -> Batch:
        return self.student.encode(inputs)

    def forward(self, batch: Batch) -> Outputs:
        return self.student.forward(batch)

    def decode(self, outputs: Outputs, inputs: Sequence[Any], params: Sequence[Any]) -> list[Any]:
        return self.student.decode(outputs, inputs, params)

    def save(self, folder: Path) -> Mapping[str, Any]:
        return self.student.save(folder)
