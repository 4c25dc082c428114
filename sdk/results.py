"""What calls return beside `InferResult`: typed results of the built-in tasks, and the items of a batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from taskloom.core.errors import TaskloomError, UnsupportedError
from taskloom.core.types import InferResult, Timings


@dataclass(frozen=True, slots=True)
class LabelScore:
    """A label and its probability."""

    label: str
    score: float


@dataclass(frozen=True, slots=True)
class ClassificationResult:
    """What a classification model says of a text. `labels` are best first, those that `top_k` and `threshold` leave."""

    labels: tuple[LabelScore, ...]
    truncated: bool
    """The text was longer than the model takes, and its end was not read."""
    request_id: str = field(repr=False)
    model: str
    version: str
    timings: Timings = field(repr=False)

    @property
    def label(self) -> str | None:
        """The best label; None if no label reached the threshold."""
        return self.labels[0].label if self.labels else None

    @property
    def score(self) -> float | None:
        """The probability of the best label; None if no label reached the threshold."""
        return self.labels[0].score if self.labels else None

    @classmethod
    def of(cls, result: InferResult) -> ClassificationResult:
        """
        >>> output = {"labels": [{"label": "card_arrival", "score": 0.9}], "truncated": False}
        >>> ClassificationResult.of(InferResult(request_id="r", model="m", version="1", task="classification", output=output))
        ClassificationResult(labels=(LabelScore(label='card_arrival', score=0.9),), truncated=False, model='m', version='1')
        """
        if result.task != "classification":
            raise UnsupportedError(f"{result.model} is a model for {result.task}, not classification; call it with infer()")
        labels: Sequence[Mapping[str, Any]] = result.output["labels"]
        return cls(
            labels=tuple(LabelScore(item["label"], item["score"]) for item in labels),
            truncated=bool(result.output.get("truncated", False)),
            request_id=result.request_id,
            model=result.model,
            version=result.version,
            timings=result.timings,
        )


@dataclass(frozen=True, slots=True)
class ItemResult:
    """What became of one input among many: a result or an error, never both. `index` is the input's place, from 0."""

    index: int
    result: InferResult | None = None
    error: TaskloomError | None = None

    @property
    def ok(self) -> bool:
        return self.error is None

    def value(self) -> InferResult:
        """The result; raises the error if there is one."""
        if self.result is None:
            raise self.error or ValueError("an item has a result or an error")
        return self.result
