"""The configuration page shows every setting, with its real default, in both languages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from taskloom.core.settings import (
    AutoscaleSettings,
    ModelSettings,
    PoolSettings,
    RaySettings,
    Settings,
    TlsSettings,
    load_settings,
)

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(params=["configuration.md", "configuration.zh-CN.md"])
def block(request: pytest.FixtureRequest) -> str:
    found = re.search(r"```toml\n(.*?)```", (DOCS / request.param).read_text(encoding="utf-8"), re.S)
    assert found
    return found[1]


def _load(text: str, folder: Path) -> Settings:
    file = folder / "taskloom.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file)


def test_what_the_page_shows_are_the_defaults(block: str, tmp_path: Path) -> None:
    assert _load(block, tmp_path).model_dump() == load_settings().model_dump()


def test_what_is_commented_out_can_be_used(block: str, tmp_path: Path) -> None:
    enabled = re.sub(r"^# (?=[\[a-z])", "", block, flags=re.M)
    settings = _load(enabled, tmp_path)
    assert settings.tls.enabled
    assert settings.models["intent-en"] == ModelSettings()
    assert settings.pools["default"].autoscale == AutoscaleSettings(min_replicas=1, max_replicas=4)


def test_no_setting_is_missing_on_the_page(block: str) -> None:
    def names(model: type[BaseModel]) -> set[str]:
        found = set(model.model_fields)
        for field in model.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
                found |= names(field.annotation)
        return found

    every = (
        names(Settings)
        | names(PoolSettings)
        | names(AutoscaleSettings)
        | names(ModelSettings)
        | names(TlsSettings)
        | names(RaySettings)
    )
    shown = set(re.findall(r"\w+", block))
    assert every - shown - {"home"} == set()
