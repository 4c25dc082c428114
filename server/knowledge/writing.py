"""What a model that writes gets to read, and what of the passages stands in what it wrote."""

from __future__ import annotations

import re
from collections.abc import Sequence
from difflib import SequenceMatcher

from taskloom.core.knowledge import Hit
from taskloom.core.knowledge_calls import MAX_QUESTION_CHARACTERS, AnswerConfig, Evidence, Source
from taskloom.server.knowledge.answering import Candidate, near_source

WORDS = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+")
"""Words of scripts that part them, characters of Chinese."""
QUOTED_WORDS = 4
"""Words in a row that a text must share with a passage to count as taken from it; a shorter text, all of its words."""


def prompt_of(config: AnswerConfig, question: str, hits: Sequence[Hit]) -> tuple[str, list[Hit]]:
    """The prompt, and the passages that stand in it, best first: as many whole ones as `passage_characters` take. The first is
    cut where it alone is longer."""
    left, parts = config.passage_characters, list[str]()
    for hit in hits:
        passage = hit.passage
        text = passage.readable if passage.question else passage.text
        shown = config.passage.format(number=len(parts) + 1, title=passage.title, text=text)
        if len(shown) > left and parts:
            break
        parts.append(shown[:left])
        left -= len(shown) + 1
    whole = config.prompt.format(question=question[-MAX_QUESTION_CHARACTERS:], passages="\n".join(parts))
    return whole, list(hits[: len(parts)])


def evidence_of(found: Sequence[Candidate], hits: Sequence[Hit], *, read: bool) -> tuple[float, Evidence]:
    """How sure it is that the passages answer the question, and what says so. Where they were `read`, that is the reader's best
    span, with the confidence that an answer of that span would have; else the best passage in the re-ranker's opinion; else the
    best cosine. Passages that were found by their words alone say nothing of it: 0."""
    if read:
        return (found[0].confidence if found else 0.0), "reader"
    relevances = [hit.score for hit in hits if hit.fused is not None]
    if relevances:
        return max(relevances), "reranker"
    cosines = [hit.dense for hit in hits if hit.dense is not None]
    return (min(1.0, max(0.0, *cosines)), "similarity") if cosines else (0.0, "")


def written_source(hit: Hit, text: str) -> Source:
    """A passage that a writer was given, with the longest part of it that stands in the text word for word, if there is one."""
    source, passage = near_source(hit), hit.passage
    span = quoted(text, passage.text)
    if span is None:
        return source
    start, end = span
    place = {"start": passage.start + start, "end": passage.start + end}
    return source.model_copy(update={"answer": passage.text[start:end], **place})


def quoted(text: str, passage: str) -> tuple[int, int] | None:
    """The longest run of words that both have, in code points of the passage; None if it has fewer than `QUOTED_WORDS` and is
    not all of the text.

    >>> quoted("It has a length of 6650 km.", "The Nile has a length of 6650 kilometres.")
    (9, 29)
    >>> quoted("It is long.", "The Nile has a length of 6650 kilometres.") is None
    True
    """
    own, theirs = ([(m.start(), m.end(), m.group().casefold()) for m in WORDS.finditer(one)] for one in (text, passage))
    said, there = ([word for _, _, word in one] for one in (own, theirs))
    match = SequenceMatcher(None, said, there, autojunk=False).find_longest_match()
    if not match.size or match.size < min(QUOTED_WORDS, len(own)):
        return None
    return theirs[match.b][0], theirs[match.b + match.size - 1][1]
