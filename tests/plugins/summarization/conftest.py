"""Small random encoder-decoders, made on the spot. Their tokens are bytes, so that a character can come in pieces."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_checkpoints import make_writer


@pytest.fixture(scope="session")
def writer_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes a checkpoint once: `writer_checkpoint("bart")` is its folder."""
    made: dict[tuple[str, int], str] = {}

    def make(kind: str = "t5", seed: int = 0) -> str:
        if (kind, seed) not in made:
            made[kind, seed] = str(make_writer(tmp_path_factory.mktemp(kind) / kind, kind, seed=seed))
        return made[kind, seed]

    return make
