"""The built-in retriever, as the registry knows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from taskloom.core.knowledge import KnowledgeBase, RetrieverPlugin
from taskloom.plugins.retrieval.config import KnowledgeConfig

if TYPE_CHECKING:
    from taskloom.plugins.retrieval.base import Splitter


class LocalRetriever(RetrieverPlugin):
    """Keeps knowledge bases in folders of this machine. What splits documents is handed in, one splitter for all of them."""

    name: ClassVar[str] = "local"
    description: ClassVar[str] = "SQLite for the passages, FAISS for their vectors, tantivy for BM25, fused by rank."
    Config: ClassVar[type[BaseModel]] = KnowledgeConfig

    def __init__(self, splitter: Splitter) -> None:
        self._splitter = splitter

    def create(self, folder: Path, config: Any) -> KnowledgeBase:
        from taskloom.plugins.retrieval.base import StoredKnowledgeBase
        from taskloom.plugins.retrieval.store import PassageStore

        return StoredKnowledgeBase(PassageStore.create(folder, KnowledgeConfig.model_validate(config)), self._splitter)

    def open(self, folder: Path) -> KnowledgeBase:
        from taskloom.plugins.retrieval.base import StoredKnowledgeBase
        from taskloom.plugins.retrieval.store import PassageStore

        return StoredKnowledgeBase(PassageStore(folder), self._splitter)
