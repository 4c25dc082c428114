"""Documents to passages of whole sentences."""

from __future__ import annotations

from collections.abc import Sequence

from taskloom.core.knowledge import Document, Passage
from taskloom.core.language import language_of_script
from taskloom.plugins._shared.sentences import Sentence, split_sentences

LONGEST = 400
"""Characters that a passage is filled up to."""


def split_document(document: Document) -> tuple[Document, Sequence[Passage]]:
    """A document and its passages: as many whole sentences each as fit. A FAQ pair is one passage.

    >>> [passage.text for passage in split_document(Document(document_id="a", text="One. Two."))[1]]
    ['One. Two.']
    """
    if document.question:
        return document, [_passage(document, 0, len(document.text), 0)]
    groups: list[list[Sentence]] = []
    for sentence in split_sentences(document.text, LONGEST):
        if not groups or sentence.end - groups[-1][0].start > LONGEST:
            groups.append([])
        groups[-1].append(sentence)
    return document, [_passage(document, group[0].start, group[-1].end, number) for number, group in enumerate(groups)]


def _passage(document: Document, start: int, end: int, number: int) -> Passage:
    return Passage(
        passage_id=f"{document.document_id}#{number}",
        document_id=document.document_id,
        text=document.text[start:end],
        start=start,
        end=end,
        title=document.title,
        question=document.question,
        language=document.language or language_of_script(document.text[start:end]),
        source=document.source,
        metadata=document.metadata,
    )
