"""Named-entity recognition, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, MetricSpec, SharedParts, TaskModel, TaskPlugin, Trained, TrainRun
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins.tasks.ner.schema import MAX_CHARACTERS, NerInput, NerOutput, NerParams, TrainConfig

ONE_WINDOW = 128
"""Tokens; longer texts are read in windows that overlap by a quarter, which costs a third more."""


class NerTask(TaskPlugin[NerInput, NerOutput, NerParams]):
    """The names in a text: where they are, and what they name."""

    name: ClassVar[str] = "ner"
    description: ClassVar[str] = "Finds named entities in a text, with their places: flat, or one within another."
    Input = NerInput
    Output = NerOutput
    Params = NerParams
    TrainConfig = TrainConfig
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(
            name="f1", description="F1 of whole entities (place and label right), all labels together; as seqeval, strict."
        ),
        MetricSpec(name="precision", description="Share of the entities given that are exactly right."),
        MetricSpec(name="recall", description="Share of the data's entities that were found exactly."),
        MetricSpec(name="macro_f1", description="F1 of each label, averaged: rare labels count as much as common ones."),
    )
    primary_metric: ClassVar[str] = "f1"
    data_formats: ClassVar[tuple[str, ...]] = ("jsonl", "conll", "bio", "iob")
    text_field: ClassVar[str | None] = "text"
    caution: ClassVar[str] = (
        "It misses names, and takes other words for names: how often, its recall and precision below say. It is no means to "
        "remove personal data from a text unless somebody looks at the result."
    )

    def cost(self, input: NerInput, params: NerParams) -> int:
        tokens = estimated_tokens(input.text, limit=MAX_CHARACTERS)
        return tokens if tokens <= ONE_WINDOW else tokens + tokens // 3

    def read_examples(self, path: Path) -> Iterator[Example[NerInput]]:
        from taskloom.plugins.tasks.ner.reading import read_examples

        return read_examples(path)

    def train(
        self, config: Any, train: Sequence[Example[NerInput]], validation: Sequence[Example[NerInput]], run: TrainRun
    ) -> Trained[NerInput, NerOutput, NerParams]:
        from taskloom.plugins.tasks.ner.train import train as train_recogniser

        return train_recogniser(config, train, validation, run)

    def starts_from(self, config: Any) -> tuple[str, ...]:
        return (config.backbone,) if config.network is None else ()

    def load(self, artifact: Artifact, shared: SharedParts) -> TaskModel[NerInput, NerOutput, NerParams]:
        from taskloom.plugins.tasks.ner.model import NerModel

        return NerModel.load(artifact, shared)

    def marked(self, example: Example[NerInput]) -> tuple[tuple[int, int], ...]:
        return tuple((start, end) for start, end, _ in example.target)

    def answer(self, output: NerOutput) -> tuple[tuple[int, int, str], ...]:
        """Places and labels: the text at a place is the input's, however it is written."""
        return tuple(sorted((entity.start, entity.end, entity.label) for entity in output.entities))

    def evaluate(
        self,
        predictor: Predictor[NerInput, NerOutput, NerParams],
        examples: Sequence[Example[NerInput]],
        figures_folder: Path | None = None,
    ) -> EvaluationResult:
        from taskloom.plugins.tasks.ner.metrics import evaluate

        return evaluate(predictor, examples)
