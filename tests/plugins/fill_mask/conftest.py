"""A sample of Chinese text, a vocabulary made from it, and small models with random weights."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.core.predictor import Predictor
from taskloom.core.runtime import RuntimeConfig
from taskloom.plugins.runtimes.torch import TorchRuntime
from taskloom.plugins.tasks.fill_mask.heads import new_network
from taskloom.plugins.tasks.fill_mask.model import FillMaskModel
from taskloom.plugins.tasks.fill_mask.plugin import FillMaskTask
from taskloom.plugins.tasks.fill_mask.schema import NetworkSettings
from taskloom.plugins.tasks.fill_mask.vocabulary import build_vocabulary, make_tokenizer

SAMPLE = Path(__file__).parents[2] / "data" / "zhwiki-law-sample.txt"
SMALL = NetworkSettings(layers=2, width=32, heads=4, feed_forward=64, positions=128, vocabulary=1800)


def ready(model: FillMaskModel) -> Predictor[Any, Any, Any]:
    runtime = TorchRuntime()
    plan = runtime.plan(RuntimeConfig(precision="fp32", device="cpu", threads=1))
    return Predictor(FillMaskTask(), model, runtime.load(model, None, plan))


@pytest.fixture(scope="session")
def as_predictor() -> Callable[[FillMaskModel], Predictor[Any, Any, Any]]:
    return ready


@pytest.fixture(scope="session")
def sample() -> Path:
    return SAMPLE


@pytest.fixture(scope="session")
def texts() -> list[str]:
    return SAMPLE.read_text(encoding="utf-8").strip().split("\n\n")


@pytest.fixture(scope="session")
def settings() -> NetworkSettings:
    return SMALL


@pytest.fixture(scope="session")
def tokens(texts: list[str]) -> list[str]:
    return build_vocabulary(texts, SMALL)


@pytest.fixture(scope="session")
def processor(tokens: list[str]) -> Any:
    return make_tokenizer(tokens, SMALL)


@pytest.fixture
def model(processor: Any) -> FillMaskModel:
    torch.manual_seed(5)
    found = FillMaskModel.build(backbone=new_network(SMALL, processor, max_length=128))
    for parameter in found.module.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return found
