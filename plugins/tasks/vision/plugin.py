"""Image classification, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, MetricSpec, SharedParts, TaskModel, TaskPlugin, Trained, TrainRun
from taskloom.plugins._shared.label_scores import chosen_labels
from taskloom.plugins.tasks.vision.cost import image_cost
from taskloom.plugins.tasks.vision.image_files import read_image_file
from taskloom.plugins.tasks.vision.schema import TrainConfig, VisionInput, VisionOutput, VisionParams


class VisionTask(TaskPlugin[VisionInput, VisionOutput, VisionParams]):
    """Which of a list of labels a picture has."""

    name: ClassVar[str] = "vision"
    description: ClassVar[str] = "Which label a picture has: a JPEG, PNG or WebP file."
    Input = VisionInput
    Output = VisionOutput
    Params = VisionParams
    TrainConfig = TrainConfig
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(name="accuracy", description="Share of pictures whose best label is right."),
        MetricSpec(name="macro_f1", description="F1 of each label, averaged: rare labels count as much as common ones."),
        MetricSpec(name="top3_accuracy", description="Share of pictures whose right label is among the best three."),
        MetricSpec(
            name="ece",
            description="Expected calibration error: how far scores are from the share of right answers at that score.",
            higher_is_better=False,
        ),
    )
    primary_metric: ClassVar[str] = "accuracy"
    data_formats: ClassVar[tuple[str, ...]] = ("toml", "jsonl", "idx3-ubyte", "idx3-ubyte.gz")
    text_field: ClassVar[str | None] = None

    def cost(self, input: VisionInput, params: VisionParams) -> int:
        file = read_image_file(input.image)
        return image_cost(file.width, file.height)

    def read_examples(self, path: Path) -> Iterator[Example[VisionInput]]:
        from taskloom.plugins.tasks.vision.image_sets import read_examples

        return read_examples(path)

    def train(
        self,
        config: Any,
        train: Sequence[Example[VisionInput]],
        validation: Sequence[Example[VisionInput]],
        run: TrainRun,
    ) -> Trained[VisionInput, VisionOutput, VisionParams]:
        from taskloom.plugins.tasks.vision.train import train as train_classifier

        return train_classifier(config, train, validation, run)

    def load(self, artifact: Artifact, shared: SharedParts) -> TaskModel[VisionInput, VisionOutput, VisionParams]:
        from taskloom.plugins.tasks.vision.model import VisionModel

        return VisionModel.load(artifact)

    def answer(self, output: VisionOutput) -> tuple[str, ...]:
        return chosen_labels(output.labels)

    def evaluate(
        self,
        predictor: Predictor[VisionInput, VisionOutput, VisionParams],
        examples: Sequence[Example[VisionInput]],
        figures_folder: Path | None = None,
    ) -> EvaluationResult:
        from taskloom.plugins.tasks.vision.metrics import evaluate

        return evaluate(predictor, examples, figures_folder)
