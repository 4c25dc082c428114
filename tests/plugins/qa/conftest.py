"""Small readers with random weights, and what runs them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.plugin import QaTask

SAMPLE = Path(__file__).parents[2] / "data" / "squadshifts-sample.json"


def ready(model: QaModel) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1))
    return Predictor(QaTask(), model, runtime.load(model, None, plan))


@pytest.fixture(scope="session")
def as_predictor() -> Callable[[QaModel], Predictor[Any, Any, Any]]:
    return ready


@pytest.fixture(scope="session")
def sample() -> Path:
    return SAMPLE


@pytest.fixture(scope="session")
def qa_checkpoint(checkpoint: Callable[..., Path]) -> Callable[[str], str]:
    """A Hugging Face reader of a kind, with a head of its own: `qa_checkpoint("bert")`."""

    def make(kind: str) -> str:
        from transformers import AutoConfig, AutoModelForQuestionAnswering

        folder = checkpoint(kind)
        torch.manual_seed(4)
        model = AutoModelForQuestionAnswering.from_config(AutoConfig.from_pretrained(folder))
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        model.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture
def reader(tiny_bert: str) -> QaModel:
    torch.manual_seed(1)
    model = QaModel.build(backbone=tiny_bert, max_length=48, overlap=16)
    torch.nn.init.normal_(model.module.head.outer.weight, std=1.0)
    model.module.eval()
    return model
