"""Summarization keeps the promises of the task contract, in each form that a model of it can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.testing import TaskConformance
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.summarization.model import SentenceChooser
from taskloom.plugins.tasks.summarization.plugin import SummarizationTask
from taskloom.plugins.tasks.summarization.schema import NEWS, NEWS_ZH, SummarizationInput
from taskloom.plugins.tasks.summarization.writing import SummaryWriter

FP32 = RuntimeConfig(precision="fp32", device="cpu", threads=1)
SIDE_BY_SIDE = {"lanes": 4}
"""On one thread each, as many forwards at a time as the kit has threads."""


def ready(model: Any) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    return Predictor(SummarizationTask(), model, runtime.load(model, None, runtime.plan(FP32).model_copy(update=SIDE_BY_SIDE)))


class SummarizerConformance(TaskConformance):
    tolerance = 1e-5

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> SummarizationTask:
        return SummarizationTask()

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> TorchRuntime:
        return TorchRuntime()

    def inputs(self, task: Any) -> list[SummarizationInput]:
        texts = ["hello", NEWS, NEWS_ZH, "where is my card? the order is lost. " * 12]
        return [SummarizationInput(document=text) for text in texts]


class TestChooser(SummarizerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str) -> Predictor[Any, Any, Any]:
        torch.manual_seed(1)
        return ready(SentenceChooser.build(backbone=tiny_bert, sentences=2, shorten=True, head_size=16, max_length=40))


class TestChooserWithAdapter(SummarizerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str) -> Predictor[Any, Any, Any]:
        torch.manual_seed(2)
        lora = LoraSettings(r=2)
        return ready(SentenceChooser.build(backbone=tiny_bert, adapter=lora, head_size=16, head_layers=0, layout="padded"))


class TestT5(SummarizerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, writer_checkpoint: Callable[..., str]) -> Predictor[Any, Any, Any]:
        return ready(SummaryWriter.import_checkpoint(writer_checkpoint("t5"), max_tokens=6))


class TestBartWithBeams(SummarizerConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, writer_checkpoint: Callable[..., str]) -> Predictor[Any, Any, Any]:
        model = SummaryWriter.import_checkpoint(writer_checkpoint("bart"), max_tokens=5)
        model.saved = model.saved.model_copy(update={"num_beams": 2})
        return ready(model)
