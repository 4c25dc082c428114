"""Masked language models keep the promises of the task contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import ExecutionPlan, RuntimeConfig
from taskloom.core.testing import TaskConformance
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.fill_mask.heads import new_network
from taskloom.plugins.tasks.fill_mask.model import FillMaskModel
from taskloom.plugins.tasks.fill_mask.plugin import FillMaskTask
from taskloom.plugins.tasks.fill_mask.schema import NetworkSettings

AsPredictor = Callable[[FillMaskModel], Predictor[Any, Any, Any]]


class Fp32Runtime(TorchRuntime):
    """In the precision that the predictors here have, whatever is fastest on the machine."""

    def plan(self, config: RuntimeConfig) -> ExecutionPlan:
        return super().plan(config.model_copy(update={"precision": "fp32"}))


class FillMaskConformance(TaskConformance):
    tolerance = 1e-5

    @pytest.fixture(scope="class")
    @classmethod
    def task(cls) -> FillMaskTask:
        return FillMaskTask()

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Fp32Runtime:
        return Fp32Runtime()


class TestNewNetwork(FillMaskConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, processor: Any, settings: NetworkSettings, as_predictor: AsPredictor) -> Predictor[Any, Any, Any]:
        torch.manual_seed(1)
        model = FillMaskModel.build(backbone=new_network(settings, processor, max_length=128))
        for parameter in model.module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        return as_predictor(model)


class TestNamedBackbone(FillMaskConformance):
    @pytest.fixture(scope="class")
    @classmethod
    def predictor(cls, tiny_bert: str, as_predictor: AsPredictor) -> Predictor[Any, Any, Any]:
        torch.manual_seed(1)
        return as_predictor(FillMaskModel.build(backbone=tiny_bert))
