"""What a recipe may say of its backbone."""

from __future__ import annotations

import tomllib

import pytest
from pydantic import ValidationError

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
