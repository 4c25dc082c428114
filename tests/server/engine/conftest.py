from __future__ import annotations

import sys
from pathlib import Path

import pytest

FAKES = Path(__file__).parent / "fakes"
if str(FAKES) not in sys.path:
    sys.path.insert(0, str(FAKES))

from engine_fakes import make_registry  # noqa: E402

from taskloom.core.registry import Registry  # noqa: E402
from taskloom.core.store import ModelStore  # noqa: E402


@pytest.fixture
def registry() -> Registry:
    return make_registry()


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore([tmp_path / "models"])
