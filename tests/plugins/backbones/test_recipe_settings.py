"""What a recipe may say of its backbone."""

from __future__ import annotations

import tomllib

import pytest
from pydantic import ValidationError
from torch import nn

from taskloom.plugins.backbones.parts import EncoderParts, set_dropout
from taskloom.plugins.backbones.settings import EncoderTrainConfig, LoraSettings


def config(recipe: str) -> EncoderTrainConfig:
    return EncoderTrainConfig.model_validate(tomllib.loads(recipe))


def test_a_recipe_can_say_that_the_backbone_itself_is_trained() -> None:
    assert config("").adapter == LoraSettings()
    assert config("[adapter]\nr = 4").adapter == LoraSettings(r=4)
    whole = config("adapter = false")
    assert whole.adapter is None
    assert EncoderTrainConfig.model_validate(whole.model_dump(mode="json")) == whole
    with pytest.raises(ValidationError, match="adapter"):
        config("adapter = true")


def test_a_backbones_dropout_leaves_the_adapters_alone(tiny_bert: str) -> None:
    parts = EncoderParts.build(tiny_bert, adapter=LoraSettings(r=2, dropout=0.25))
    set_dropout(parts.encoder, 0.5)
    shares = {("lora" in name, part.p) for name, part in parts.encoder.named_modules() if isinstance(part, nn.Dropout)}
    assert shares == {(True, 0.25), (False, 0.5)}
