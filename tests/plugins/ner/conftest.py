"""Small random token classifiers, and a way to ask a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from taskloom.plugins.tasks.ner.schema import Entity, NerInput, NerParams


@pytest.fixture(scope="session")
def token_checkpoint(checkpoint: Callable[..., Path]) -> Callable[..., str]:
    """Makes a checkpoint with a token classifier's head: `token_checkpoint("bert", ["O", "B-PER", "I-PER"])`."""

    def make(kind: str, tags: Sequence[str]) -> str:
        from transformers import AutoConfig, AutoModelForTokenClassification

        folder = checkpoint(kind)
        config = AutoConfig.from_pretrained(folder)
        config.id2label = dict(enumerate(tags))
        config.label2id = {tag: i for i, tag in enumerate(tags)}
        torch.manual_seed(3)
        model = AutoModelForTokenClassification.from_config(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture
def ask() -> Callable[..., list[list[Entity]]]:
    """The entities that a model finds in some texts."""

    def entities(model: Any, *texts: str, **params: Any) -> list[list[Entity]]:
        inputs = [NerInput(text=text) for text in texts]
        model.module.eval()
        with torch.inference_mode():
            outputs = model.forward(model.encode(inputs))
        return [list(answer.entities) for answer in model.decode(outputs, inputs, [NerParams(**params)] * len(texts))]

    return entities
