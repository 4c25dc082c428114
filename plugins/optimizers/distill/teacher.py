"""The teachers: what they say to the rows of a batch, from disk where that can be right, else by running on the batch."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from taskloom.core.anatomy import SoftTarget
from taskloom.core.errors import UnsupportedError
from taskloom.core.task import Batch, Example, TaskModel
from taskloom.plugins._shared.schedule import micro_batches
from taskloom.plugins._shared.training import MICRO_BATCH_LENGTH
from taskloom.plugins._shared.tuning import on_device
from taskloom.plugins.optimizers.distill.answers import AnswerFile, Rows, as_kept
from taskloom.plugins.optimizers.distill.lessons import read_lesson
from taskloom.plugins.optimizers.distill.panel import Panel
from taskloom.plugins.optimizers.distill.watching import TARGET, Watched

log = logging.getLogger(__name__)

SayTogether = Callable[[Sequence[Mapping[str, SoftTarget]]], dict[str, SoftTarget]]
"""What several teachers say to the same rows, as one; only what the student is to imitate."""

How = Literal["alike", "carried", "own"]

COMPARED_ROWS = 64
"""Rows on which it is seen whether two models read alike, and whether one always reads alike."""
CARRIED_ROWS = 2
"""Rows on which it is seen whether a teacher's answers can be carried over."""
ASKED_AT_ONCE = 32


@dataclass(frozen=True)
class Reading:
    """How a student and its teachers read the same rows. `repeatable`: the student always reads a row alike. `how`, for each
    teacher: `alike`, it makes the same batch of the same rows, with the same random numbers; `carried`, its answers are carried
    over from its own pieces to the student's (`TaskModel.targets_in`); `own`, each reads in its own pieces, and answers are not
    about pieces."""

    repeatable: bool
    how: tuple[How, ...]

    @property
    def all_alike(self) -> bool:
        return all(how == "alike" for how in self.how)


def reading_of(student: TaskModel[Any, Any, Any], panel: Panel, rows: Sequence[Example[Any]], *, some_untold: bool) -> Reading:
    """Seen on some of the `rows`, which have targets. Raises `UnsupportedError` where teachers can't be asked about what the
    student reads, and, with `some_untold`, where rows without targets would be read in another way than these."""
    some = rows[:: max(1, len(rows) // COMPARED_ROWS)]
    found = Reading(not draws(student, some), tuple(_how(student, model, some) for model in panel.models))
    if not found.repeatable and "own" in found.how:
        raise UnsupportedError(
            "distill: the student reads its inputs otherwise than its teacher, and draws what it reads at random: what the "
            "teacher says belongs to other tokens. Distil first, and prune the vocabulary afterwards"
        )
    if some_untold and not (found.repeatable and _reads_untold_alike(student, some)):
        raise UnsupportedError(
            "distill: a model of this task reads a row with its target in another way than an input alone, so that inputs "
            "without targets can't be learnt beside rows that have one; leave `unlabelled` and `augment` open"
        )
    return found


def _how(student: TaskModel[Any, Any, Any], teacher: TaskModel[Any, Any, Any], rows: Sequence[Example[Any]]) -> How:
    if reads_alike(student, teacher, rows):
        return "alike"
    few = rows[:CARRIED_ROWS]
    with torch.random.fork_rng():
        batch = student.collate(few)
    return "own" if carried(teacher, few, batch) is None else "carried"


def _reads_untold_alike(model: TaskModel[Any, Any, Any], rows: Sequence[Example[Any]]) -> bool:
    told, untold = model.collate(rows), model.encode([row.input for row in rows])
    return same_batch({name: told.get(name) for name in untold}, untold)


class Teacher:
    """What the teachers say to a student, together. `rows` are all that they may be asked about; they are known by identity.
    `length` says how long one is, in tokens.

    If the student always reads a row alike, answers are kept on disk by row, as long as they take at most `cache_bytes`. A
    student that draws at random what it reads (a window of a long text) gets answers to the very batch that it has drawn.
    """

    def __init__(
        self,
        student: TaskModel[Any, Any, Any],
        watched: Sequence[Watched],
        reading: Reading,
        rows: Sequence[Example[Any]],
        *,
        say_together: SayTogether,
        length: Callable[[Example[Any]], int],
    ) -> None:
        self._student = student
        self.watched = watched
        self.rows = rows
        self._places = {id(row): i for i, row in enumerate(rows)}
        self._answers: AnswerFile | None = None
        self._reading = reading
        self._say_together = say_together
        self._length = length

    def keep_answers(self, folder: Path, fingerprint: str, cache_bytes: float) -> dict[str, Any]:
        """Writes the answers to all rows, if they can be kept; returns what was done, for the facts."""
        if not self._reading.repeatable:
            return {"answers": "asked in each step: rows are read at random places"}
        some = range(0, len(self.rows), max(1, len(self.rows) // ASKED_AT_ONCE))
        asked = self._asked_in_parts(some)
        if asked is None:
            return {"answers": "asked in each step: they can't be told apart by row"}
        size = sum(values.nbytes for values, _ in asked.values()) * len(self.rows) / len(some)
        if size > cache_bytes:
            return {"answers": f"asked in each step: on disk they would take {size / 1e9:.1f} GB"}
        kept = AnswerFile(folder, len(self.rows), fingerprint)
        made = kept.fill(self._asked_again)
        log.info("the teacher's answers to %d rows are on disk (%d files made)", len(self.rows), made)
        self._answers = kept
        return {"answers": "kept on disk", "answers_bytes": int(size)}

    def say(self, examples: Sequence[Example[Any]], batch: Batch) -> dict[str, Tensor]:
        """What the teachers say to `batch`, which the student made of `examples`; by the names of `watching`."""
        if self._answers is not None:
            return {name: values for name, (values, _) in self._answers.of([self._places[id(x)] for x in examples]).items()}
        return {name: target.values for name, target in self._seen(examples, batch).items()}

    def _seen(self, examples: Sequence[Example[Any]], batch: Batch) -> dict[str, SoftTarget]:
        said = (answers_to(watched, how, examples, batch) for watched, how in zip(self.watched, self._reading.how, strict=True))
        return self._say_together(list(said))

    def _asked_again(self, numbers: Sequence[int]) -> Rows:
        found = self._asked_in_parts(numbers)
        assert found is not None, "these rows differ in kind from those that were asked first"
        return found

    def _asked_in_parts(self, numbers: Sequence[int]) -> Rows | None:
        parts: list[Rows] = []
        for place in micro_batches([self._length(self.rows[i]) for i in numbers], ASKED_AT_ONCE, MICRO_BATCH_LENGTH):
            part = self._asked(numbers[place])
            if part is None:
                return None
            parts.append(part)
        return {name: (torch.cat([p[name][0] for p in parts]), torch.cat([p[name][1] for p in parts])) for name in parts[0]}

    def _asked(self, numbers: Sequence[int]) -> Rows | None:
        """Answers to some rows with what belongs to each, as they are kept; None if that can't be told."""
        examples = [self.rows[i] for i in numbers]
        seen = self._seen(examples, read_lesson(self._student, examples))
        states = any(not name.startswith(TARGET) for name in seen)
        reader = self.watched[0].model
        tokens = torch.tensor([int(read_lesson(reader, [row])["lengths"].sum()) for row in examples]) if states else None
        found: dict[str, tuple[Tensor, Tensor]] = {}
        for name, target in seen.items():
            sizes = target.sizes if target.sizes is not None else torch.ones(len(examples), dtype=torch.long)
            if tokens is not None and not name.startswith(TARGET):
                sizes = tokens
            if len(sizes) != len(examples) or int(sizes.sum()) != len(target.values):
                return None
            found[name] = (as_kept(target.values), sizes.cpu())
        return found


def answers_to(watched: Watched, how: How, examples: Sequence[Example[Any]], batch: Batch) -> dict[str, SoftTarget]:
    """What a teacher says of `batch`, which the student made of `examples`."""
    if how != "carried":
        return run_watched(watched, batch if how == "alike" else read_lesson(watched.model, examples))
    said = carried(watched.model, examples, batch)
    assert said is not None, "what was carried over once always is"
    return {f"{TARGET}/{name}": target for name, target in said.items()}


def carried(
    teacher: TaskModel[Any, Any, Any], examples: Sequence[Example[Any]], batch: Batch
) -> Mapping[str, SoftTarget] | None:
    """What a teacher says of the inputs as it reads them, carried over to the pieces of `batch`; None where it can't be."""
    module = teacher.module.eval()
    device = next(module.parameters()).device
    with torch.no_grad():
        outputs = teacher.forward(on_device(teacher.encode([example.input for example in examples]), device))
    return teacher.targets_in(batch, outputs)


def run_watched(watched: Watched, batch: Batch) -> dict[str, SoftTarget]:
    """What is seen of a model, which is not trained by it."""
    module = watched.model.module.eval()
    device = next(module.parameters()).device
    with torch.no_grad():
        return watched.see(on_device(batch, device))


def reads_alike(one: TaskModel[Any, Any, Any], other: TaskModel[Any, Any, Any], rows: Sequence[Example[Any]]) -> bool:
    """Whether both make the same batch of the rows, with the same random numbers."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = one.collate(rows)
        torch.manual_seed(0)
        second = other.collate(rows)
    return same_batch(first, second)


def draws(model: TaskModel[Any, Any, Any], rows: Sequence[Example[Any]]) -> bool:
    """Whether batches come out differently, or could: one of them takes a random number."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        before = (torch.get_rng_state(), random.getstate())
        first = model.collate(rows)
        if not torch.equal(before[0], torch.get_rng_state()) or before[1] != random.getstate():
            return True
        torch.manual_seed(1)
        return not same_batch(first, model.collate(rows))


def same_batch(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if one.keys() != other.keys():
        return False
    for name, value in one.items():
        if isinstance(value, Tensor):
            if not isinstance(other[name], Tensor) or value.shape != other[name].shape or not torch.equal(value, other[name]):
                return False
        elif value != other[name]:
            return False
    return True
