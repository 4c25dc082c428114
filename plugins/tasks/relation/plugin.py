"""Relation classification, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, MetricSpec, SharedParts, TaskModel, TaskPlugin, Trained, TrainRun
from taskloom.plugins._shared.label_scores import chosen_labels
from taskloom.plugins._shared.text_cost import MAX_TOKENS, estimated_tokens
from taskloom.plugins.tasks.relation.schema import RelationInput, RelationOutput, RelationParams, TrainConfig

MARKERS = 4


class RelationTask(TaskPlugin[RelationInput, RelationOutput, RelationParams]):
    """How two marked parts of a text are related."""

    name: ClassVar[str] = "relation"
    description: ClassVar[str] = "How two marked parts of a text are related, and in which direction."
    Input = RelationInput
    Output = RelationOutput
    Params = RelationParams
    TrainConfig = TrainConfig
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(
            name="macro_f1",
            description="F1 of each relation, averaged: a wrong direction is wrong, and what is no relation is left out.",
        ),
        MetricSpec(name="micro_f1", description="F1 over all decisions for a relation; what is no relation is left out."),
        MetricSpec(name="accuracy", description="Share of rows whose label is exactly right."),
        MetricSpec(
            name="ece",
            description="Expected calibration error: how far scores are from the share of right answers at that score.",
            higher_is_better=False,
        ),
    )
    primary_metric: ClassVar[str] = "macro_f1"
    data_formats: ClassVar[tuple[str, ...]] = ("jsonl",)
    noisy_fields: ClassVar[tuple[str, ...]] = ("text",)
    caution: ClassVar[str] = (
        "It always chooses among its own labels, and it says what the text says of the two, not what is true. For parts that "
        "are no entities of the kind that it was trained on, and for pairs without any relation, it is often wrong."
    )

    def cost(self, input: RelationInput, params: RelationParams) -> int:
        return min(MAX_TOKENS, estimated_tokens(input.text) + MARKERS)

    def read_examples(self, path: Path) -> Iterator[Example[RelationInput]]:
        from taskloom.plugins.tasks.relation.reading import read_examples

        return read_examples(path)

    def train(
        self,
        config: Any,
        train: Sequence[Example[RelationInput]],
        validation: Sequence[Example[RelationInput]],
        run: TrainRun,
    ) -> Trained[RelationInput, RelationOutput, RelationParams]:
        from taskloom.plugins.tasks.relation.train import train as train_relations

        return train_relations(config, train, validation, run)

    def load(self, artifact: Artifact, shared: SharedParts) -> TaskModel[RelationInput, RelationOutput, RelationParams]:
        from taskloom.plugins.tasks.relation.model import RelationModel

        return RelationModel.load(artifact, shared)

    def marked(self, example: Example[RelationInput]) -> Sequence[tuple[int, int]]:
        """The two entities: the question is about these words, at these places."""
        return [(span.start, span.end) for span in (example.input.head, example.input.tail)]

    def answer(self, output: RelationOutput) -> tuple[str, ...]:
        return chosen_labels(output.labels)

    def evaluate(
        self,
        predictor: Predictor[RelationInput, RelationOutput, RelationParams],
        examples: Sequence[Example[RelationInput]],
        figures_folder: Path | None = None,
    ) -> EvaluationResult:
        from taskloom.plugins.tasks.relation.metrics import evaluate

        return evaluate(predictor, examples, figures_folder)
