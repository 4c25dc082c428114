"""Masked language models, as the registry knows them. Imports no ML library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, MetricSpec, SharedParts, TaskModel, TaskPlugin, Trained, TrainRun
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins.tasks.fill_mask.schema import MASK, FillMaskInput, FillMaskOutput, FillMaskParams, TrainConfig


class FillMaskTask(TaskPlugin[FillMaskInput, FillMaskOutput, FillMaskParams]):
    """Which tokens may stand in the gaps of a text; the task that encoders are pretrained on."""

    name: ClassVar[str] = "fill-mask"
    description: ClassVar[str] = "Fills the gaps of a text; its models are backbones for other tasks, pretrained on plain text."
    Input = FillMaskInput
    Output = FillMaskOutput
    Params = FillMaskParams
    TrainConfig = TrainConfig
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(name="masked_accuracy", description="Share of hidden tokens for which the best candidate is the right one."),
        MetricSpec(
            name="pseudo_perplexity",
            description="e to the mean loss at hidden tokens: as if it chose among so many. Depends on the vocabulary.",
            higher_is_better=False,
        ),
        MetricSpec(name="word_accuracy", description="Share of hidden words of which every token is right."),
    )
    primary_metric: ClassVar[str] = "masked_accuracy"
    data_formats: ClassVar[tuple[str, ...]] = ("txt", "jsonl")
    text_field: ClassVar[str | None] = "text"
    makes_backbones: ClassVar[bool] = True
    fixed_marks: ClassVar[tuple[str, ...]] = (MASK,)
    caution: ClassVar[str] = (
        "It says what is usual in the texts that it was trained on, their prejudices and errors included, and not what is "
        "true. It is a start for training other models, not a source of facts."
    )

    def cost(self, input: FillMaskInput, params: FillMaskParams) -> int:
        return estimated_tokens(input.text)

    def read_examples(self, path: Path) -> Iterator[Example[FillMaskInput]]:
        return iter(self.rows(path))

    def rows(self, path: Path) -> Sequence[Example[FillMaskInput]]:
        from taskloom.plugins.tasks.fill_mask.reading import DocumentRows

        return DocumentRows(path)

    def train(
        self, config: Any, train: Sequence[Example[FillMaskInput]], validation: Sequence[Example[FillMaskInput]], run: TrainRun
    ) -> Trained[FillMaskInput, FillMaskOutput, FillMaskParams]:
        from taskloom.plugins.tasks.fill_mask.train import train as pretrain

        return pretrain(config, train, validation, run)

    def starts_from(self, config: Any) -> tuple[str, ...]:
        if config.network is None:
            return (config.backbone,)
        return (config.network.layers_from,) if config.network.layers_from else ()

    def load(self, artifact: Artifact, shared: SharedParts) -> TaskModel[FillMaskInput, FillMaskOutput, FillMaskParams]:
        from taskloom.plugins.tasks.fill_mask.model import FillMaskModel

        return FillMaskModel.load(artifact, shared)

    def answer(self, output: FillMaskOutput) -> tuple[str, ...]:
        """The best token of each gap."""
        return tuple(gap.candidates[0].token for gap in output.gaps)

    def evaluate(
        self,
        predictor: Predictor[FillMaskInput, FillMaskOutput, FillMaskParams],
        examples: Sequence[Example[FillMaskInput]],
        figures_folder: Path | None = None,
    ) -> EvaluationResult:
        from taskloom.plugins.tasks.fill_mask.metrics import evaluate

        return evaluate(predictor, examples, figures_folder)
