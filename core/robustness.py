"""How two models stand changed inputs: the metric on them, and how many answers are other ones than before.

After CheckList (Ribeiro et al. 2020, https://aclanthology.org/2020.acl-main.442, section 2): each way of changing inputs tests
a capability, by invariance where the answer should stay. What should become of an answer where the text says the opposite, no
general test can know; there, the share of answers that change is told without a judgement.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from taskloom.core.comparison import COVERAGE, AnswerChanges, Change, RobustnessRow, difference_interval
from taskloom.core.errors import TaskloomError
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, TaskPlugin

BATCH = 32
RESAMPLES = 1000
SEED = 13
Model = Predictor[Any, Any, Any]
MetricChanges = Callable[[EvaluationResult, EvaluationResult], Sequence[Change]]


@dataclass(frozen=True)
class Perturbation:
    """A way in which inputs change. `capability` is what it tests, in CheckList's words; with `keeps_answer`, what should come
    out is what it was."""

    name: str
    description: str
    change: Callable[[Example[Any], random.Random], Example[Any]]
    """The row with its input changed; the same row where there is nothing to change."""
    capability: str = "robustness"
    keeps_answer: bool = True


class RobustnessTest:
    """Two models on the same sample of `rows`, at most `most`, as they are and changed."""

    def __init__(
        self,
        task: TaskPlugin[Any, Any, Any],
        models: tuple[Model, Model],
        rows: Sequence[Example[Any]],
        most: int,
        changes: MetricChanges,
    ) -> None:
        chosen = range(len(rows)) if len(rows) <= most else sorted(random.Random(SEED).sample(range(len(rows)), most))
        self._sample = [rows[i] for i in chosen]
        self._task = task
        self._models = models
        self._changes = changes
        self._known: dict[tuple[int, ...], Change] = {}
        self._said: tuple[list[Any], list[Any]] | None = None

    def run(self, perturbation: Perturbation) -> RobustnessRow | None:
        """None if it changes nothing in these rows. Raises what the evaluation of changed rows raises."""
        chance = random.Random(f"{SEED}:{perturbation.name}")
        changed = [perturbation.change(row, chance) for row in self._sample]
        kept = tuple(i for i, (old, new) in enumerate(zip(self._sample, changed, strict=True)) if old.input != new.input)
        if not kept:
            return None
        if kept not in self._known:
            self._known[kept] = self._primary([self._sample[i] for i in kept])
        noisy = [changed[i] for i in kept]
        return RobustnessRow(
            name=perturbation.name,
            description=perturbation.description,
            capability=perturbation.capability,
            keeps_answer=perturbation.keeps_answer,
            rows=len(kept),
            clean=self._known[kept],
            changed=self._primary(noisy) if perturbation.keeps_answer else None,
            answers=self._answers(kept, noisy),
        )

    def _primary(self, rows: Sequence[Example[Any]]) -> Change:
        before, after = (self._task.evaluate(model, rows) for model in self._models)
        return next(change for change in self._changes(before, after) if change.name == self._task.primary_metric)

    def _answers(self, kept: Sequence[int], noisy: Sequence[Example[Any]]) -> AnswerChanges:
        if self._said is None:
            first, second = (self._all_said(model, self._sample) for model in self._models)
            self._said = first, second
        now = [self._all_said(model, noisy) for model in self._models]
        others = [
            [float(known[i] != said) for i, said in zip(kept, own, strict=True)]
            for known, own in zip(self._said, now, strict=True)
        ]
        return answer_changes(*others, agreed=sum(one == other for one, other in zip(*now, strict=True)) / len(noisy))

    def _all_said(self, model: Model, rows: Sequence[Example[Any]]) -> list[Any]:
        starts = range(0, len(rows), BATCH)
        outputs = (output for i in starts for output in model.predict([row.input for row in rows[i : i + BATCH]]))
        return [said(self._task, output) for output in outputs]


def said(task: TaskPlugin[Any, Any, Any], output: Any) -> Any:
    """What two models are compared by: the answer, or the kind of error that stands in its place."""
    return type(output).__name__ if isinstance(output, TaskloomError) else task.answer(output)


def answer_changes(parent: Sequence[float], candidate: Sequence[float], *, agreed: float) -> AnswerChanges:
    """From 1 for each row whose answer changed and 0 for each other, in the same order for both.

    The difference has a percentile bootstrap interval over rows, each drawn for both alike; each share Wilson's interval."""
    rows = len(parent)
    pairs = list(zip(parent, candidate, strict=True))
    chance = random.Random(SEED)
    drawn = [chance.choices(pairs, k=rows) for _ in range(RESAMPLES)]
    low, high = difference_interval(*([sum(pair[side] for pair in own) / rows for own in drawn] for side in (0, 1)))
    shares = [sum(own) / rows for own in (parent, candidate)]
    return AnswerChanges(
        name="answers changed",
        parent=shares[0],
        candidate=shares[1],
        low=low,
        high=high,
        higher_is_better=False,
        parent_interval=wilson(shares[0], rows),
        candidate_interval=wilson(shares[1], rows),
        agreed=agreed,
    )


def wilson(share: float, rows: int) -> tuple[float, float]:
    """The score interval of a share of `rows` (Wilson 1927), which holds for few rows and for shares near 0 or 1 as well.

    >>> tuple(round(bound, 3) for bound in wilson(0.0, 20))
    (0.0, 0.161)
    """
    z = NormalDist().inv_cdf((1 + COVERAGE) / 2)
    middle = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return max(0.0, middle - half), min(1.0, middle + half)
