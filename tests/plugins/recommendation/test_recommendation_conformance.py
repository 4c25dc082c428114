"""Recommendation keeps the promises of the task contract."""

from __future__ import annotations

from typing import Any

import pytest

from taskloom.core.errors import InvalidInputError
from taskloom.core.predictor import Predictor, validated
from taskloom.core.testing import TaskConformance
from taskloom.core.testing.conformance import EDGE_TEXTS
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.recommendation.plugin import RecommendationTask
from taskloom.plugins.tasks.recommendation.schema import RecommendationInput, RecommendationOutput


class TestRecommender(TaskConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> RecommendationTask:
        return RecommendationTask()

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> TorchRuntime:
        return TorchRuntime()

    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, trained: Any) -> Predictor[Any, Any, Any]:
        from taskloom.core.runtime import RuntimeConfig

        runtime = TorchRuntime()
        plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1)).model_copy(update={"lanes": 4})
        return Predictor(RecommendationTask(), trained.model, runtime.load(trained.model, None, plan))

    def inputs(self, task: Any) -> list[RecommendationInput]:
        return [
            RecommendationInput(history=("card-1", "card-2")),
            RecommendationInput(),
            RecommendationInput(likes=("where is my order?", "我的银行卡在哪里")),
            RecommendationInput(user="user-3", history=("hello-5", "no-such-item"), likes=("the hello b",)),
            RecommendationInput(user="nobody", features={"country": "JP"}),
        ]

    def allows(self, field: str, value: Any) -> bool:
        return (field in {"history", "likes"} and value in ([], ["a"])) or (
            field == "features" and value in ({}, {"text": "a"})
        )


@pytest.mark.parametrize("place", ["likes", "history", "user"])
@pytest.mark.parametrize("name", EDGE_TEXTS)
def test_an_odd_text_anywhere_gives_an_answer_or_a_typed_error(
    predictor: Predictor[Any, Any, Any], place: str, name: str
) -> None:
    text = EDGE_TEXTS[name]
    try:
        item = validated(RecommendationInput, {place: text if place == "user" else [text]}, "input")
    except InvalidInputError:
        return
    answer = predictor.predict([item])[0]
    assert isinstance(answer, RecommendationOutput) or answer.code == "invalid_input"
    if isinstance(answer, RecommendationOutput):
        answer.model_dump_json()
