"""Who opens the knowledge bases of a home, and what a server does without the extra that they need."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from taskloom.core.loader import load_registry
from taskloom.core.settings import load_settings
from taskloom.server.app import open_bases


class UnaskedModels:
    """An engine that is there, and that nobody asks."""


async def test_the_built_in_hook_opens_the_bases_of_the_home(home: Path) -> None:
    settings = load_settings()
    bases = open_bases(settings, load_registry(), UnaskedModels())  # type: ignore[arg-type]
    assert bases is not None
    assert await bases.bases("default") == []
    await bases.close()


def test_a_server_without_the_extra_serves_models(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "taskloom.server.knowledge.desk", None)  # as if something that it imports were missing
    assert open_bases(load_settings(), load_registry(), UnaskedModels()) is None  # type: ignore[arg-type]
    assert "pip install 'taskloom[local]'" in caplog.text
