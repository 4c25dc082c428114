"""The labels of an answer, best first: what every task that chooses among labels gives. Imports no ML library."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from pydantic import Field

from taskloom.core.types import Frozen

if TYPE_CHECKING:
    from torch import Tensor

SEVERAL_LABELS_THRESHOLD = 0.5
"""The score from which a label counts, where a row may have several and the request doesn't say."""


class LabelScore(Frozen):
    """A label and its probability."""

    label: str
    score: float = Field(ge=0, le=1)


class Wanted(Protocol):
    """How much of the answer a request asks for: at most `top_k` labels (None for all) that score `threshold` or more."""

    @property
    def top_k(self) -> int | None: ...

    @property
    def threshold(self) -> float | None: ...


def chosen_labels(labels: Sequence[LabelScore]) -> tuple[str, ...]:
    """What an answer says, whatever its other labels' order: the first, and every other that has half of the score at least."""
    return tuple(sorted(found.label for i, found in enumerate(labels) if i == 0 or found.score >= SEVERAL_LABELS_THRESHOLD))


def best_labels(
    labels: Sequence[str], logits: Tensor, params: Sequence[Wanted], *, several: bool
) -> list[tuple[LabelScore, ...]]:
    """For each row of `logits` [N, labels], its labels with their probabilities, best first, equals in the order of
    `labels`. With `several` labels a row, each is judged for itself; else they share 1 among them."""
    scores = logits.float().sigmoid() if several else logits.float().softmax(-1)
    ranked = scores.sort(dim=-1, descending=True, stable=True)
    floor = SEVERAL_LABELS_THRESHOLD if several else 0.0
    found = []
    for values, places, wanted in zip(ranked.values.tolist(), ranked.indices.tolist(), params, strict=True):
        threshold = floor if wanted.threshold is None else wanted.threshold
        top = slice(0, wanted.top_k)
        pairs = zip(values[top], places[top], strict=True)
        found.append(tuple(LabelScore(label=labels[i], score=score) for score, i in pairs if score >= threshold))
    return found
