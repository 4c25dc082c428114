"""Small knowledge bases: paragraphs as passages, and vectors that are drawn, not computed by a model."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from taskloom.core.knowledge import Document, Embedded, KnowledgeBase, Passage, Prepared, Refused

SPACE = "tiny@1"
SIZE = 16


def paragraphs(document: Document) -> tuple[Document, list[Passage]] | Refused:
    if "\0" in document.text:
        return Refused(document_id=document.document_id, reason="it is no text")
    passages, at = [], 0
    for number, part in enumerate(document.text.split("\n\n")):
        if part:
            passages.append(
                Passage(
                    passage_id=f"{document.document_id}#{number}",
                    document_id=document.document_id,
                    text=part,
                    start=at,
                    end=at + len(part),
                    title=document.title,
                    question=document.question,
                    language=document.language,
                    metadata=document.metadata,
                )
            )
        at += len(part) + 2
    return document, passages


def drawn_vector(text: str, size: int = SIZE) -> Any:
    """A unit vector that depends on the text alone."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    vector = np.random.default_rng(seed).standard_normal(size).astype(np.float32)
    return vector / np.linalg.norm(vector)


def embedded(prepared: Prepared, space: str = SPACE) -> list[Embedded]:
    return [Embedded(passage.passage_id, space, drawn_vector(passage.text)) for passage in prepared.passages]


def put(base: KnowledgeBase, *documents: Document) -> int:
    prepared = base.prepare(documents)
    return base.put(prepared, embedded(prepared))


def numbered(count: int, start: int = 0) -> list[Document]:
    return [Document(document_id=f"d{n:04}", text=f"text number {n} about subject{n % 7}") for n in range(start, start + count)]


def ids(hits: Sequence[Any]) -> list[str]:
    return [hit.passage.passage_id for hit in hits]
