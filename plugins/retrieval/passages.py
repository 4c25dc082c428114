"""How the built-in retriever makes passages of documents."""

from __future__ import annotations

from collections.abc import Sequence

from taskloom.core.knowledge import Document, Passage, Refused
from taskloom.plugins.retrieval.documents.cleaning import clean_document
from taskloom.plugins.retrieval.documents.splitting import SplitConfig, split


class DocumentSplitter:
    """Cleans documents and splits them by headings, paragraphs and sentences."""

    def __init__(self, config: SplitConfig) -> None:
        self._config = config

    def __call__(self, document: Document) -> tuple[Document, Sequence[Passage]] | Refused:
        cleaned = clean_document(document)
        return cleaned, split(cleaned, self._config)
