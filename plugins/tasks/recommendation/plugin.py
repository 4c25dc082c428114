"""Recommendation, as the registry knows it. Imports no ML library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

from taskloom.core.artifact import Artifact
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, MetricSpec, SharedParts, TaskModel, TaskPlugin, Trained, TrainRun
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins.tasks.recommendation.schema import (
    RecommendationInput,
    RecommendationOutput,
    RecommendationParams,
    TrainConfig,
)

ITEMS_A_TOKEN = 16
"""Items of a history that cost about as much as a token of text."""


class RecommendationTask(TaskPlugin[RecommendationInput, RecommendationOutput, RecommendationParams]):
    """Which items a user will choose next."""

    name: ClassVar[str] = "recommendation"
    description: ClassVar[str] = "Which items a user will like, from what the user chose or says, with reasons."
    Input = RecommendationInput
    Output = RecommendationOutput
    Params = RecommendationParams
    TrainConfig = TrainConfig
    metrics: ClassVar[tuple[MetricSpec, ...]] = (
        MetricSpec(name="recall@10", description="Share of a user's held-out items among the first 10, of at most 10."),
        MetricSpec(name="recall@20", description="Share of a user's held-out items among the first 20, of at most 20."),
        MetricSpec(name="ndcg@10", description="The same with earlier places counting more (normalized discounted gain)."),
        MetricSpec(name="mrr", description="1 / the place of the first held-out item among the first 20, else 0."),
        MetricSpec(name="coverage@10", description="Share of all items that are among anybody's first 10."),
        MetricSpec(
            name="cold_recall@10",
            description="Recall@10 of items that nobody is known to have chosen, among all such items; 0 where there are none.",
        ),
        MetricSpec(
            name="words_recall@10",
            description="Recall@10 where nothing is known of users but the texts of three items that they chose.",
        ),
    )
    primary_metric: ClassVar[str] = "recall@10"
    data_formats: ClassVar[tuple[str, ...]] = ("jsonl", "csv", "tsv")
    text_field: ClassVar[str | None] = None
    noisy_fields: ClassVar[tuple[str, ...]] = ("likes",)

    def cost(self, input: RecommendationInput, params: RecommendationParams) -> int:
        words = sum(estimated_tokens(text) for text in input.likes)
        return 1 + words + len(input.history) // ITEMS_A_TOKEN

    def read_examples(self, path: Path) -> Iterator[Example[RecommendationInput]]:
        from taskloom.plugins.tasks.recommendation.interactions import read_examples

        return read_examples(path)

    def held_out(self, examples: Sequence[Example[RecommendationInput]]) -> Sequence[Example[RecommendationInput]]:
        from taskloom.plugins.tasks.recommendation.interactions import hold_out

        return hold_out(examples)

    def train(
        self,
        config: Any,
        train: Sequence[Example[RecommendationInput]],
        validation: Sequence[Example[RecommendationInput]],
        run: TrainRun,
    ) -> Trained[RecommendationInput, RecommendationOutput, RecommendationParams]:
        from taskloom.plugins.tasks.recommendation.train import train as train_towers

        return train_towers(config, train, validation, run)

    def load(
        self, artifact: Artifact, shared: SharedParts
    ) -> TaskModel[RecommendationInput, RecommendationOutput, RecommendationParams]:
        from taskloom.plugins.tasks.recommendation.model import RecommendationModel

        return RecommendationModel.load(artifact, shared)

    def answer(self, output: RecommendationOutput) -> frozenset[str]:
        return frozenset(found.item for found in output.items)

    def evaluate(
        self,
        predictor: Predictor[RecommendationInput, RecommendationOutput, RecommendationParams],
        examples: Sequence[Example[RecommendationInput]],
        figures_folder: Path | None = None,
    ) -> EvaluationResult:
        from taskloom.plugins.tasks.recommendation.metrics import evaluate

        return evaluate(predictor, examples)
