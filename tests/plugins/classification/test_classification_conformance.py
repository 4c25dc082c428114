"""Classification keeps the promises of the task contract, in each form that a model of it can have."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.task import TaskModel
from taskloom.core.testing import TaskConformance
from taskloom.plugins.backbones.settings import LoraSettings
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.classification.schema import ClassificationInput
from taskloom.plugins.tasks.classification.zero_shot import ZeroShotModel

LABELS = ["card", "order", "退款"]
FP32 = RuntimeConfig(precision="fp32", device="cpu", threads=1)
SIDE_BY_SIDE = {"lanes": 4}
"""On one thread each, as many forwards at a time as the kit has threads."""


def ready(model: TaskModel[Any, Any, Any]) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    return Predictor(ClassificationTask(), model, runtime.load(model, None, runtime.plan(FP32).model_copy(update=SIDE_BY_SIDE)))


class ClassifierConformance(TaskConformance):
    tolerance = 1e-5

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> ClassificationTask:
        return ClassificationTask()

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> TorchRuntime:
        return TorchRuntime()

    def inputs(self, task: Any) -> list[ClassificationInput]:
        texts = ["where is my card?", "lost", "我的银行卡在哪里", "refund the order, please " * 12]
        return [ClassificationInput(text=text) for text in texts]


class TestAdapter(ClassifierConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str) -> Predictor[Any, Any, Any]:
        torch.manual_seed(1)
        model = ClassificationModel.build(LABELS, backbone=tiny_bert, adapter=LoraSettings(r=2))
        for name, parameter in model.module.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.3)  # PEFT starts with zeros: an adapter that does nothing
        return ready(model)


class TestZeroShot(ClassifierConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str) -> Predictor[Any, Any, Any]:
        return ready(ZeroShotModel.build(LABELS, backbone=tiny_bert))


class TestFullMultiLabel(ClassifierConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str) -> Predictor[Any, Any, Any]:
        torch.manual_seed(2)
        return ready(ClassificationModel.build(LABELS, backbone=tiny_bert, multi_label=True, pooling="cls", layout="padded"))


class TestPairs(ClassifierConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str) -> Predictor[Any, Any, Any]:
        torch.manual_seed(3)
        return ready(ClassificationModel.build(LABELS, backbone=tiny_bert, pair=True))

    def inputs(self, task: Any) -> list[ClassificationInput]:
        return [
            ClassificationInput(text="where is my card?", text_pair="lost card"),
            ClassificationInput(text="hello", text_pair="我的银行卡在哪里" * 4),
        ]


class TestImported(ClassifierConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, checkpoint: Callable[..., Path]) -> Predictor[Any, Any, Any]:
        return ready(ClassificationModel.import_checkpoint(str(checkpoint("bert", head=LABELS))))
