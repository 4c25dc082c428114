"""Embedding keeps the promises of the task contract, in each form that a model of it can have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.core.predictor import Predictor
from taskloom.core.testing import TaskConformance
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.embedding.model import EmbeddingModel
from taskloom.plugins.tasks.embedding.plugin import EmbeddingTask
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput

AsPredictor = Callable[[EmbeddingModel], Predictor[Any, Any, Any]]


class EmbeddingConformance(TaskConformance):
    tolerance = 1e-5

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> EmbeddingTask:
        return EmbeddingTask()

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> TorchRuntime:
        return TorchRuntime()

    def inputs(self, task: Any) -> list[EmbeddingInput]:
        texts = ["where is my card?", "lost", "我的银行卡在哪里", "refund the order, please " * 12]
        return [EmbeddingInput(text=texts[0], kind="query"), *(EmbeddingInput(text=text) for text in texts)]


class TestPretrained(EmbeddingConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str, as_predictor: AsPredictor) -> Predictor[Any, Any, Any]:
        return as_predictor(EmbeddingModel.build(backbone=tiny_bert, pretrained=True))


class TestAdapterWithPrefixes(EmbeddingConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str, as_predictor: AsPredictor) -> Predictor[Any, Any, Any]:
        torch.manual_seed(1)
        prefixes = {"query_prefix": "where: ", "passage_prefix": "the: "}
        model = EmbeddingModel.build(backbone=tiny_bert, adapter=LoraSettings(r=2), dimensions=(8,), **prefixes)
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)  # PEFT starts with zeros: an adapter that does nothing
        return as_predictor(model)


class TestFullOfAnotherKind(EmbeddingConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, checkpoint: Callable[..., Path], as_predictor: AsPredictor) -> Predictor[Any, Any, Any]:
        return as_predictor(EmbeddingModel.build(backbone=str(checkpoint("distilbert")), pooling="cls", layout="padded"))
