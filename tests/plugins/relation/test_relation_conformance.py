"""Relation classification keeps the promises of the task contract, in each form that a model of it can have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import ExecutionPlan, RuntimeConfig
from taskloom.core.testing import TaskConformance
from taskloom.core.testing.conformance import EDGE_TEXTS, examples_of
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.relation.model import RelationModel
from taskloom.plugins.tasks.relation.plugin import RelationTask
from taskloom.plugins.tasks.relation.schema import RelationInput

DIRECTED = ["Cause(e1,e2)", "Cause(e2,e1)", "Other"]
AsPredictor = Callable[[RelationModel], Predictor[Any, Any, Any]]
Pair = Callable[..., RelationInput]


class Fp32Runtime(TorchRuntime):
    """Plans fp32 on machines that are faster in bf16, too: loaded in bf16, a model rounds otherwise than
    the one in fp32 that it was saved from."""

    def plan(self, config: RuntimeConfig) -> ExecutionPlan:
        return super().plan(config.model_copy(update={"precision": "fp32", "threads": 1}))


class RelationConformance(TaskConformance):
    tolerance = 1e-5

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> RelationTask:
        return RelationTask()

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Fp32Runtime:
        return Fp32Runtime()

    def inputs(self, task: Any) -> list[RelationInput]:
        spans = [((0, 5), (9, 11)), ((9, 11), (0, 5)), ((0, 16), (6, 8)), ((3, 4), (3, 4))]
        texts = ["where is my card", "我的银行卡在哪里请帮我找一下好", "lost " * 60]
        return [
            RelationInput.model_validate(
                {"text": text, "head": {"start": a, "end": min(b, len(text))}, "tail": {"start": c, "end": d}}
            )
            for text in texts
            for (a, b), (c, d) in spans
        ]

    @pytest.mark.parametrize("name", EDGE_TEXTS)
    def test_an_edge_text_that_is_marked_whole_gives_an_answer_or_a_typed_error(
        self, task: RelationTask, predictor: Predictor[Any, Any, Any], name: str
    ) -> None:
        """The kit's own rows keep their example's places, which most edge texts are too short for."""
        text = EDGE_TEXTS[name]
        whole = {"start": 0, "end": max(1, len(text))}
        for head, tail in (
            (whole, whole),
            (whole, {"start": 0, "end": 1}),
            ({"start": max(0, len(text) - 1), "end": whole["end"]}, whole),
        ):
            self._answer_or_typed_error(
                task, predictor, {**examples_of(task.Input)[0], "text": text, "head": head, "tail": tail}
            )


class TestAdapter(RelationConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, small_bert: str, as_predictor: AsPredictor) -> Predictor[Any, Any, Any]:
        torch.manual_seed(1)
        model = RelationModel.build(DIRECTED, backbone=small_bert, in_text_order=True, adapter=LoraSettings(r=2))
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)  # PEFT starts with zeros: an adapter that does nothing
        return as_predictor(model)


class TestFullOfAnotherKind(RelationConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, checkpoint: Callable[..., Path], as_predictor: AsPredictor) -> Predictor[Any, Any, Any]:
        torch.manual_seed(2)
        backbone = str(checkpoint("distilbert"))
        return as_predictor(
            RelationModel.build(["收购", "被收购", "x"], backbone=backbone, markers=("?", "!"), layout="padded")
        )
