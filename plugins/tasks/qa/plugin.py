"""Question answering, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, MetricSpec, SharedParts, TaskModel, TaskPlugin, Trained, TrainRun
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins.tasks.qa.schema import OVERLAP_TOKENS, WINDOW_TOKENS, QaInput, QaOutput, QaParams, TrainConfig


class QaTask(TaskPlugin[QaInput, QaOutput, QaParams]):
    """Which parts of a context answer a question, if any."""

    name: ClassVar[str] = "qa"
    description: ClassVar[str] = "Answers a question with parts of a text that is sent along, or says that it has no answer."
    Input = QaInput
    Output = QaOutput
    Params = QaParams
    TrainConfig = TrainConfig
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(
            name="f1",
            description="Overlap of the best answer with the nearest of the annotators' ones, in words (Chinese: characters).",
        ),
        MetricSpec(name="exact_match", description="Share of rows whose best answer is one of the annotators'."),
    )
    primary_metric: ClassVar[str] = "f1"
    noisy_fields: ClassVar[tuple[str, ...]] = ("question",)  # the true answers are parts of the context, letter by letter
    caution: ClassVar[str] = (
        "It copies parts of the text and knows nothing else: what the text says wrongly, it answers wrongly. Where the text "
        "comes close to a question without answering it, an answer is likely; look at its score and at `no_answer_score`."
    )
    data_formats: ClassVar[tuple[str, ...]] = ("json", "jsonl")

    def cost(self, input: QaInput, params: QaParams) -> int:
        """Tokens of all windows, as models with the default window length cut them."""
        question = min(estimated_tokens(input.question), WINDOW_TOKENS // 2)
        context = estimated_tokens(input.context, limit=len(input.context) + 2)
        room = WINDOW_TOKENS - question - 3
        overlap = min(OVERLAP_TOKENS, room // 2)
        windows = 1 + max(0, -(-(context - room) // (room - overlap)))
        return context + windows * (question + 3) + (windows - 1) * overlap

    def read_examples(self, path: Path) -> Iterator[Example[QaInput]]:
        from taskloom.plugins.tasks.qa.reading import read_examples

        return read_examples(path)

    def train(
        self, config: Any, train: Sequence[Example[QaInput]], validation: Sequence[Example[QaInput]], run: TrainRun
    ) -> Trained[QaInput, QaOutput, QaParams]:
        from taskloom.plugins.tasks.qa.train import train as train_reader

        return train_reader(config, train, validation, run)

    def load(self, artifact: Artifact, shared: SharedParts) -> TaskModel[QaInput, QaOutput, QaParams]:
        from taskloom.plugins.tasks.qa.model import QaModel

        return QaModel.load(artifact, shared)

    def evaluate(
        self,
        predictor: Predictor[QaInput, QaOutput, QaParams],
        examples: Sequence[Example[QaInput]],
        figures_folder: Path | None = None,
    ) -> EvaluationResult:
        from taskloom.plugins.tasks.qa.metrics import evaluate

        return evaluate(predictor, examples)
