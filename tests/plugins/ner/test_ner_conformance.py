"""Entity recognition keeps the promises of the task contract, in each form that a model of it can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.testing import TaskConformance
from taskloom.core.types import InferResult
from taskloom.core.wire.codec import result_from_message, result_to_message, typed_tasks
from taskloom.plugins.backbones.from_scratch import new_backbone
from taskloom.plugins.backbones.settings import LoraSettings, RecurrentNetwork
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.ner.model import NerModel
from taskloom.plugins.tasks.ner.plugin import NerTask
from taskloom.plugins.tasks.ner.schema import Entity, NerInput, NerOutput

LABELS = ["LOC", "PER"]
FP32 = RuntimeConfig(precision="fp32", device="cpu", threads=1)
SIDE_BY_SIDE = {"lanes": 4}
"""On one thread each, as many forwards at a time as the kit has threads."""


def ready(model: NerModel) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    return Predictor(NerTask(), model, runtime.load(model, None, runtime.plan(FP32).model_copy(update=SIDE_BY_SIDE)))


def stirred(model: NerModel) -> NerModel:
    """With weights that find something: a new head's are too even to."""
    for name, parameter in model.module.named_parameters():
        if "lora_B" in name or name.startswith("head."):
            torch.nn.init.normal_(parameter, std=0.3)
    return model


def test_typed_messages_carry_the_answer() -> None:
    assert "ner" in typed_tasks()
    entity = Entity(label="PER", start=0, end=2, text="马云", score=0.0, source="dictionary")
    for answer in (NerOutput(entities=(entity,)), NerOutput(entities=())):
        result = InferResult(request_id="r", model="m", version="1", task="ner", output=answer.model_dump(mode="json"))
        back = result_from_message(result_to_message(result, "ner"))
        assert NerOutput.model_validate(back.output) == answer


class NerConformance(TaskConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> NerTask:
        return NerTask()

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> TorchRuntime:
        return TorchRuntime()

    def inputs(self, task: Any) -> list[NerInput]:
        texts = ["where is my card?", "lost", "我的银行卡在哪里", "Hello the order, please 👩‍👧 " * 12, "\ue000"]
        return [NerInput(text=text) for text in texts]

    def test_the_inputs_have_entities(self, task: Any, predictor: Any) -> None:
        assert any(answer.entities for answer in predictor.predict(self.inputs(task)))


class TestCrfOnAnAdapter(NerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str) -> Predictor[Any, Any, Any]:
        torch.manual_seed(1)
        return ready(stirred(NerModel.build(LABELS, backbone=tiny_bert, adapter=LoraSettings(r=2), max_length=64)))


class TestTokensWithBioes(NerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str) -> Predictor[Any, Any, Any]:
        torch.manual_seed(2)
        return ready(stirred(NerModel.build(LABELS, backbone=tiny_bert, head="token", scheme="BIOES", layout="padded")))


class TestNestedSpans(NerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str) -> Predictor[Any, Any, Any]:
        torch.manual_seed(3)
        return ready(stirred(NerModel.build(LABELS, backbone=tiny_bert, head="span", max_span_words=5, span_size=8)))


CHARACTERS = RecurrentNetwork(embedding=8, hidden=8, pairs=32, pair_embedding=4, segmentation=True)


def from_scratch(network: RecurrentNetwork, **settings: Any) -> NerModel:
    torch.manual_seed(4)
    texts = ["where is my card?", "我的银行卡在哪里", "please send the order"]
    return stirred(NerModel.build(LABELS, backbone=new_backbone(network, texts, max_length=64), **settings))


class TestCrfOnAnEncoderFromScratch(NerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls) -> Predictor[Any, Any, Any]:
        return ready(from_scratch(CHARACTERS))


class TestNestedSpansOnAnEncoderFromScratch(NerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls) -> Predictor[Any, Any, Any]:
        network = RecurrentNetwork(embedding=8, hidden=8, layers=2)
        return ready(from_scratch(network, head="span", max_span_words=5, span_size=8))


class TestImported(NerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, token_checkpoint: Callable[..., str]) -> Predictor[Any, Any, Any]:
        return ready(NerModel.import_checkpoint(token_checkpoint("bert", ["O", "B-LOC", "I-LOC", "B-PER", "I-PER"])))
