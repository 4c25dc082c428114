"""Image classification keeps the promises of the task contract, in each form that a model of it can have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from vision_pictures import LABELS, shade

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.core.testing import TaskConformance
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.vision.model import VisionModel
from taskloom.plugins.tasks.vision.plugin import VisionTask
from taskloom.plugins.tasks.vision.schema import NetworkSettings, VisionInput

SMALL = NetworkSettings(stem_width=8, widths=(8, 16), blocks=(1, 1))


def ready(model: VisionModel) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1)).model_copy(update={"lanes": 4})
    return Predictor(VisionTask(), model, runtime.load(model, None, plan))


class VisionConformance(TaskConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> VisionTask:
        return VisionTask()

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> TorchRuntime:
        return TorchRuntime()

    def inputs(self, task: Any) -> list[VisionInput]:
        sizes = [(16, 16), (40, 25), (7, 90), (1, 1), (300, 200)]
        return [
            *super().inputs(task),
            *(VisionInput(image=shade(LABELS[i % 3], i, size)) for i, size in enumerate(sizes)),
        ]


class TestOwnGrey(VisionConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls) -> Predictor[Any, Any, Any]:
        torch.manual_seed(1)
        return ready(VisionModel.build(LABELS, network=SMALL, size=28, channels=1, mirrored=True))


class TestOwnColour(VisionConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls) -> Predictor[Any, Any, Any]:
        torch.manual_seed(2)
        return ready(VisionModel.build(LABELS, network=SMALL, size=24, mean=(0.4, 0.5, 0.6), std=(0.2, 0.2, 0.3)))


class TestTransformer(VisionConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, image_checkpoint: Callable[..., str]) -> Predictor[Any, Any, Any]:
        return ready(VisionModel.import_checkpoint(image_checkpoint("vit")))


class TestConvolutionalOfAnySize(VisionConformance):
    """Its processor leaves pictures at their own shape, so that a batch holds several."""

    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, image_checkpoint: Callable[..., str]) -> Predictor[Any, Any, Any]:
        return ready(VisionModel.import_checkpoint(image_checkpoint("resnet")))
