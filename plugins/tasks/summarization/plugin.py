"""Summarization, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, MetricSpec, SharedParts, TaskModel, TaskPlugin, Trained, TrainRun
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins.tasks.summarization.schema import (
    CHOOSING_ONLY,
    MAX_CHARACTERS,
    SavedWriter,
    SummarizationInput,
    SummarizationOutput,
    SummarizationParams,
    TrainConfig,
)


class SummarizationTask(TaskPlugin[SummarizationInput, SummarizationOutput, SummarizationParams]):
    """What a document says, in few words."""

    name: ClassVar[str] = "summarization"
    description: ClassVar[str] = "What a document says, in few words: sentences chosen from it, or a text written about it."
    Input = SummarizationInput
    Output = SummarizationOutput
    Params = SummarizationParams
    TrainConfig = TrainConfig
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(name="rouge1", description="ROUGE-1 F1: words that summary and reference have in common."),
        MetricSpec(name="rouge2", description="ROUGE-2 F1: pairs of neighbouring words in common."),
        MetricSpec(name="rougeL", description="ROUGE-L F1: the longest sequence of words in common."),
        MetricSpec(
            name="rouge1_over_lead1", description="ROUGE-1 F1 less that of the first sentence alone, on the same documents."
        ),
    )
    primary_metric: ClassVar[str] = "rouge1"
    data_formats: ClassVar[tuple[str, ...]] = ("jsonl", "csv", "tsv")
    text_field: ClassVar[str | None] = "document"
    streams: ClassVar[bool] = True

    def cost(self, input: SummarizationInput, params: SummarizationParams) -> int:
        """Tokens read, and tokens written in each beam. Whether the model writes, and its own settings, are not known here:
        for what a request doesn't say, `SavedWriter`'s defaults stand. One that says how to choose sentences writes nothing."""
        read = estimated_tokens(input.document, limit=MAX_CHARACTERS)
        if any(getattr(params, name) is not None for name in CHOOSING_ONLY):
            return read
        usual = {name: SavedWriter.model_fields[name].default for name in ("max_tokens", "num_beams")}
        written: int = params.max_tokens or max(usual["max_tokens"], params.min_tokens or 0)
        return read + written * (params.num_beams or usual["num_beams"])

    def read_examples(self, path: Path) -> Iterator[Example[SummarizationInput]]:
        from taskloom.plugins.tasks.summarization.train import read_examples

        return read_examples(path)

    def train(
        self,
        config: Any,
        train: Sequence[Example[SummarizationInput]],
        validation: Sequence[Example[SummarizationInput]],
        run: TrainRun,
    ) -> Trained[SummarizationInput, SummarizationOutput, SummarizationParams]:
        from taskloom.plugins.tasks.summarization.train import train as train_summarizer

        return train_summarizer(config, train, validation, run)

    def load(
        self, artifact: Artifact, shared: SharedParts
    ) -> TaskModel[SummarizationInput, SummarizationOutput, SummarizationParams]:
        kind = artifact.manifest.config.get("kind")
        if kind == "extractive":
            from taskloom.plugins.tasks.summarization.model import SentenceChooser

            return SentenceChooser.load(artifact, shared)
        if kind == "seq2seq":
            from taskloom.plugins.tasks.summarization.writing import SummaryWriter

            return SummaryWriter.load(artifact)
        raise ArtifactError(f"{artifact.name} is a summarizer of kind {kind!r}; there are 'extractive' and 'seq2seq'")

    def marked(self, example: Example[SummarizationInput]) -> tuple[tuple[int, int], ...]:
        """References lie nowhere in the document, but summaries that are chosen from it do."""
        return ()

    def answer(self, output: SummarizationOutput) -> str | tuple[tuple[int, int], ...]:
        """The places that were chosen, whatever is written there; the summary of a model that writes."""
        return tuple((own.start, own.end) for own in output.sentences) or output.summary

    def evaluate(
        self,
        predictor: Predictor[SummarizationInput, SummarizationOutput, SummarizationParams],
        examples: Sequence[Example[SummarizationInput]],
        figures_folder: Path | None = None,
    ) -> EvaluationResult:
        from taskloom.plugins.tasks.summarization.metrics import evaluate

        return evaluate(predictor, examples)
