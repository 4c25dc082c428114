"""What the audit log says of documents and passages: their ids, so many that a large change can't fill a record."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from taskloom.core.knowledge import Document

MAX_IDS = 100
"""Ids that one record has; counts stand beside them."""
MAX_ID_CHARACTERS = 128


def model_of(base: str) -> str:
    """The name under which keys may be given a base, and under which the log has it."""
    return f"kb:{base}"


def ids_told(ids: Sequence[str]) -> list[str]:
    return [one[:MAX_ID_CHARACTERS] for one in ids[:MAX_IDS]]


def passages_told(passage_ids: Sequence[str]) -> dict[str, Any]:
    """The passages that an answer stands on, best first."""
    return {"passages": ids_told(passage_ids)}


def ranking_told(ranking: Sequence[tuple[str, float | None, float]]) -> dict[str, Any]:
    """What was re-ranked, best first: each passage's id, and its score before and after."""
    told = zip(ids_told([passage_id for passage_id, _, _ in ranking]), ranking, strict=False)
    return {"reranked": [[name, before, after] for name, (_, before, after) in told]} if ranking else {}


def graph_told(passage_ids: Sequence[str]) -> dict[str, Any]:
    """Those of them that the graph led to, if it led to any."""
    return {"graph_passages": ids_told(passage_ids)} if passage_ids else {}


class Tally:
    """Counts documents as they pass."""

    def __init__(self) -> None:
        self._count = 0
        self._ids: list[str] = []

    async def counted(self, documents: AsyncIterator[Document]) -> AsyncIterator[Document]:
        async for document in documents:
            self._count += 1
            if len(self._ids) < MAX_IDS:
                self._ids.append(document.document_id)
            yield document

    def facts(self) -> Mapping[str, Any]:
        return {"documents": self._count, "document_ids": ids_told(self._ids)}
