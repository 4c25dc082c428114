"""Small random checkpoints, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoints import make_checkpoint


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a checkpoint in a folder of its own: `checkpoint("bert", head=["yes", "no"])`."""

    def make(kind: str = "bert", **options: Any) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp(kind) / kind, kind, **options)

    return make


@pytest.fixture(scope="session")
def tiny_bert(checkpoint: Callable[..., Path]) -> str:
    return str(checkpoint("bert"))
