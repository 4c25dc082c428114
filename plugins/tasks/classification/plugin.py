"""Classification, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, MetricSpec, SharedParts, TaskModel, TaskPlugin, Trained, TrainRun
from taskloom.plugins._shared.label_scores import chosen_labels
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins.tasks.classification.schema import (
    ClassificationInput,
    ClassificationOutput,
    ClassificationParams,
    TrainConfig,
)


class ClassificationTask(TaskPlugin[ClassificationInput, ClassificationOutput, ClassificationParams]):
    """Which of a list of labels a text, or a pair of texts, has."""

    name: ClassVar[str] = "classification"
    description: ClassVar[str] = "Which labels a text has: one or several, for a text or a pair of texts."
    Input = ClassificationInput
    Output = ClassificationOutput
    Params = ClassificationParams
    TrainConfig = TrainConfig
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(name="accuracy", description="Share of texts whose labels are exactly right."),
        MetricSpec(name="macro_f1", description="F1 of each label, averaged: rare labels count as much as common ones."),
        MetricSpec(name="micro_f1", description="F1 over all decisions; with one label per text it equals accuracy."),
        MetricSpec(
            name="ece",
            description="Expected calibration error: how far scores are from the share of right answers at that score.",
            higher_is_better=False,
        ),
    )
    primary_metric: ClassVar[str] = "accuracy"
    data_formats: ClassVar[tuple[str, ...]] = ("jsonl", "csv", "tsv")
    text_field: ClassVar[str | None] = "text"
    caution: ClassVar[str] = (
        "It always chooses among its own labels: a text about something else gets one of them too, usually with a low score. "
        "Set a threshold and decide what becomes of texts below it."
    )

    def cost(self, input: ClassificationInput, params: ClassificationParams) -> int:
        return estimated_tokens(input.text, input.text_pair or "") + sum(
            estimated_tokens(label) for label in params.labels or ()
        )

    def read_examples(self, path: Path) -> Iterator[Example[ClassificationInput]]:
        from taskloom.plugins.tasks.classification.train import read_examples

        return read_examples(path)

    def train(
        self,
        config: Any,
        train: Sequence[Example[ClassificationInput]],
        validation: Sequence[Example[ClassificationInput]],
        run: TrainRun,
    ) -> Trained[ClassificationInput, ClassificationOutput, ClassificationParams]:
        from taskloom.plugins.tasks.classification.train import train as train_classifier

        return train_classifier(config, train, validation, run)

    def load(
        self, artifact: Artifact, shared: SharedParts
    ) -> TaskModel[ClassificationInput, ClassificationOutput, ClassificationParams]:
        from taskloom.plugins.tasks.classification.model import load

        return load(artifact, shared)

    def answer(self, output: ClassificationOutput) -> tuple[str, ...]:
        return chosen_labels(output.labels)

    def evaluate(
        self,
        predictor: Predictor[ClassificationInput, ClassificationOutput, ClassificationParams],
        examples: Sequence[Example[ClassificationInput]],
        figures_folder: Path | None = None,
    ) -> EvaluationResult:
        from taskloom.plugins.tasks.classification.metrics import evaluate

        return evaluate(predictor, examples, figures_folder)
