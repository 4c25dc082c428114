"""Question answering keeps the promises of the task contract, in each form that a model of it can have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch

from taskloom.core.predictor import Predictor
from taskloom.core.testing import TaskConformance
from taskloom.core.testing.conformance import EDGE_TEXTS
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.plugin import QaTask
from taskloom.plugins.tasks.qa.schema import QaInput


class ReaderConformance(TaskConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> QaTask:
        return QaTask()

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> TorchRuntime:
        return TorchRuntime()

    def inputs(self, task: Any) -> list[QaInput]:
        pairs = [
            ("where is my card?", "the card is lost. hello, my order is here."),
            ("lost", "refund the order, please " * 40),
            ("我的银行卡在哪里", "你好,请帮我。" * 30),
            ("is " * 200, "the card"),
        ]
        return [QaInput(question=question, context=context) for question, context in pairs]


class TestAdapter(ReaderConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str, as_predictor: Callable[..., Any]) -> Predictor[Any, Any, Any]:
        torch.manual_seed(1)
        model = QaModel.build(backbone=tiny_bert, adapter=LoraSettings(r=2), max_length=64, overlap=20)
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)  # PEFT starts with zeros: an adapter that does nothing
        return as_predictor(model)  # type: ignore[no-any-return]

    @pytest.mark.parametrize("name", EDGE_TEXTS)
    def test_edge_texts_in_either_field(self, task: Any, predictor: Predictor[Any, Any, Any], name: str) -> None:
        text = EDGE_TEXTS[name]
        others: list[Mapping[str, Any]] = [
            {"question": text, "context": "hello, the card is lost."},
            {"question": "where is my card?", "context": text},
        ]
        for raw in others:
            self._answer_or_typed_error(task, predictor, raw)


class TestFullPadded(ReaderConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str, as_predictor: Callable[..., Any]) -> Predictor[Any, Any, Any]:
        torch.manual_seed(2)
        model = QaModel.build(backbone=tiny_bert, head="linear", layout="padded", max_length=128, overlap=40)
        return as_predictor(model)  # type: ignore[no-any-return]


class TestImported(ReaderConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, qa_checkpoint: Callable[[str], str], as_predictor: Callable[..., Any]) -> Predictor[Any, Any, Any]:
        return as_predictor(QaModel.import_checkpoint(qa_checkpoint("bert")))  # type: ignore[no-any-return]
