"""Embedding, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import mul
from pathlib import Path
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, MetricSpec, SharedParts, TaskModel, TaskPlugin, Trained, TrainRun
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingOutput, EmbeddingParams, TrainConfig

SAME_DIRECTION = 0.98


@dataclass(frozen=True, eq=False)
class Direction:
    """Where a text lies. Two are the same if their cosine is at least 0.98: rounding alone moves every number of a vector, and
    neighbours stay neighbours."""

    vector: tuple[float, ...]

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Direction) or len(self.vector) != len(other.vector):
            return False
        cosine: float = sum(map(mul, self.vector, other.vector))
        return cosine >= SAME_DIRECTION


class EmbeddingTask(TaskPlugin[EmbeddingInput, EmbeddingOutput, EmbeddingParams]):
    """Where a text lies among all texts."""

    name: ClassVar[str] = "embedding"
    description: ClassVar[str] = "A vector for a text: texts that mean the same are near to one another."
    Input = EmbeddingInput
    Output = EmbeddingOutput
    Params = EmbeddingParams
    TrainConfig = TrainConfig
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(
            name="ndcg@10",
            description="Discounted gain of the right passages among the first ten: 1 if they come first of all in the file.",
        ),
        MetricSpec(name="mrr@10", description="1 / the place of the first right passage among the first ten, else 0."),
        MetricSpec(name="recall@1", description="Share of the right passages that come first."),
        MetricSpec(name="recall@5", description="Share of the right passages that are among the first five."),
        MetricSpec(name="recall@20", description="Share of the right passages that are among the first twenty."),
    )
    primary_metric: ClassVar[str] = "ndcg@10"
    data_formats: ClassVar[tuple[str, ...]] = ("jsonl", "csv", "tsv", "json")
    text_field: ClassVar[str | None] = "text"
    caution: ClassVar[str] = (
        "Vectors of different models, or of different versions of one, can't be compared: whoever changes the model embeds "
        "everything anew. A high cosine says that two texts are about the same, not that either is true or answers the other."
    )

    def cost(self, input: EmbeddingInput, params: EmbeddingParams) -> int:
        return estimated_tokens(input.text)

    def read_examples(self, path: Path) -> Iterator[Example[EmbeddingInput]]:
        from taskloom.plugins.tasks.embedding.reading import read_examples

        return read_examples(path)

    def train(
        self,
        config: Any,
        train: Sequence[Example[EmbeddingInput]],
        validation: Sequence[Example[EmbeddingInput]],
        run: TrainRun,
    ) -> Trained[EmbeddingInput, EmbeddingOutput, EmbeddingParams]:
        from taskloom.plugins.tasks.embedding.train import train as train_embedder

        return train_embedder(config, train, validation, run)

    def load(self, artifact: Artifact, shared: SharedParts) -> TaskModel[EmbeddingInput, EmbeddingOutput, EmbeddingParams]:
        from taskloom.plugins.tasks.embedding.model import EmbeddingModel

        return EmbeddingModel.load(artifact, shared)

    def answer(self, output: EmbeddingOutput) -> Direction:
        return Direction(output.vector)

    def evaluate(
        self,
        predictor: Predictor[EmbeddingInput, EmbeddingOutput, EmbeddingParams],
        examples: Sequence[Example[EmbeddingInput]],
        figures_folder: Path | None = None,
    ) -> EvaluationResult:
        from taskloom.plugins.tasks.embedding.metrics import evaluate

        return evaluate(predictor, examples)
