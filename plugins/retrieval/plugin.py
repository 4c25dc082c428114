"""The built-in retriever, as the registry knows it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel

from taskloom.core.knowledge import KnowledgeBase, RetrieverPlugin
from taskloom.plugins.retrieval.config import KnowledgeConfig

if TYPE_CHECKING:
    from taskloom.plugins.retrieval.base import Splitter
    from taskloom.plugins.retrieval.store import PassageStore


class FaissRetriever(RetrieverPlugin):
    """Keeps knowledge bases in folders of this machine. `splitter` takes the place of the built-in one."""

    name: ClassVar[str] = "faiss"
    description: ClassVar[str] = "SQLite for the passages, FAISS for their vectors, tantivy for BM25, the two fused."
    Config: ClassVar[type[BaseModel]] = KnowledgeConfig

    def __init__(self, splitter: Splitter | None = None) -> None:
        self._splitter = splitter

    def keeps_graph(self, config: Any) -> bool:
        return KnowledgeConfig.model_validate(config).graph

    def create(self, folder: Path, config: Any) -> KnowledgeBase:
        from taskloom.plugins.retrieval.store import PassageStore

        return self._base(PassageStore.create(folder, KnowledgeConfig.model_validate(config)))

    def open(self, folder: Path) -> KnowledgeBase:
        from taskloom.plugins.retrieval.store import PassageStore

        return self._base(PassageStore(folder))

    def _base(self, store: PassageStore) -> KnowledgeBase:
        from taskloom.plugins.retrieval.base import StoredKnowledgeBase
        from taskloom.plugins.retrieval.passages import DocumentSplitter

        try:
            return StoredKnowledgeBase(store, self._splitter or DocumentSplitter(store.config.passages()))
        except BaseException:
            store.close()
            raise
