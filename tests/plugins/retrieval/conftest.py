"""Knowledge bases in a folder of the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_knowledge import paragraphs

from taskloom.core.knowledge import KnowledgeBase
from taskloom.plugins.retrieval.config import KnowledgeConfig
from taskloom.plugins.retrieval.plugin import FaissRetriever


@pytest.fixture
def retriever() -> FaissRetriever:
    return FaissRetriever(paragraphs)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "base"


@pytest.fixture
def create(retriever: FaissRetriever, folder: Path) -> Iterator[Callable[..., KnowledgeBase]]:
    made: list[KnowledgeBase] = []

    def make(**settings: Any) -> KnowledgeBase:
        made.append(retriever.create(folder, KnowledgeConfig(**settings)))
        return made[-1]

    yield make
    for base in made:
        base.close()


@pytest.fixture
def base(create: Callable[..., KnowledgeBase]) -> KnowledgeBase:
    return create()
