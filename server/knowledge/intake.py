"""What models make of documents before they are stored: the places of their passages, and the names and relations in them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from taskloom.core.errors import InvalidInputError, UnavailableError
from taskloom.core.knowledge import Embedded, Passage, Prepared, Refused
from taskloom.core.knowledge_graph import EntityMention, Extraction, RelationMention
from taskloom.core.settings import KnowledgeSettings
from taskloom.server.knowledge.at_once import all_of, each_of
from taskloom.server.knowledge.models import KnowledgeModels, Placed

SENTENCE_END = re.compile(r"[.!?…]+[\"'”’)\]]*\s+(?=[\"'“‘(\[]*[^\Wa-z])|[。！？]+[”’』」）]*|\n\s*\n")
MOST_PAIRS = 32
"""Of names in one passage whose relation is asked for, the nearest first."""
AT_ONCE = 64
"""Passages of one upsert that are under way: half of what models are asked about at a time, so that a small upsert need not
wait for a large one."""


class Intake:
    """A document with a passage that a model can't take is refused, and nothing else; any other failure is raised as it is:
    before anything is stored."""

    def __init__(self, models: KnowledgeModels, settings: KnowledgeSettings) -> None:
        self._models = models
        self._settings = settings

    def language(self, code: str) -> str:
        return code or self._settings.default_language

    def spaces(self) -> dict[str, str]:
        """Where passages of each language belong now; those that tell none go with the default language."""
        spaces = self._models.spaces()
        default = spaces.get(self._settings.default_language)
        return {**spaces, "": default} if default is not None else spaces

    def extractors(self, passages: Sequence[Passage]) -> dict[str, tuple[str, ...]]:
        """The models that read these passages for a graph now, NAME@VERSION, by the language that they tell."""
        told = {passage.language for passage in passages}
        found = self._models.extractors({self.language(code) for code in told})
        return {code: found[self.language(code)] for code in told if self.language(code) in found}

    async def embedded(self, prepared: Prepared) -> tuple[Prepared, list[Embedded]]:
        """The places of the passages whose language has an embedding model."""
        languages = self._models.spaces().keys()
        passages = [passage for passage in prepared.passages if self.language(passage.language) in languages]
        placed = await each_of(passages, self._placed, AT_ONCE)
        refused = _refused(passages, placed, "a passage can't be embedded")
        vectors = [
            Embedded(passage.passage_id, place.space, place.vector)
            for passage, place in zip(passages, placed, strict=True)
            if isinstance(place, Placed) and passage.document_id not in refused
        ]
        for language in {passage.language for passage in passages}:
            own = {passage.passage_id for passage in passages if passage.language == language}
            if len(spaces := {vector.space for vector in vectors if vector.passage_id in own}) > 1:
                raise UnavailableError(f"the embedding model changed meanwhile ({', '.join(sorted(spaces))}); try again")
        return _without(prepared, refused), vectors

    async def _placed(self, passage: Passage) -> Placed | InvalidInputError:
        try:
            return await self._models.place_passage(passage.searchable, self.language(passage.language))
        except InvalidInputError as error:
            return error

    async def extracted(self, prepared: Prepared, known: Mapping[str, Extraction]) -> tuple[Prepared, list[Extraction]]:
        """What stands in the passages whose language has a model that finds names; those that are `known` are not read."""
        there = self.extractors(prepared.passages)
        passages = [one for one in prepared.passages if one.passage_id not in known and one.language in there]
        found = await each_of(passages, self._extraction, AT_ONCE)
        refused = _refused(passages, found, "the names in a passage can't be found")
        kept = _without(prepared, refused)
        extractions = [*known.values(), *(one for one in found if isinstance(one, Extraction))]
        ids = {passage.passage_id for passage in kept.passages}
        return kept, [one for one in extractions if one.passage_id in ids]

    async def _extraction(self, passage: Passage) -> Extraction | InvalidInputError:
        language = self.language(passage.language)
        try:
            entities, finder = await self._models.entities(passage.text, language)
        except InvalidInputError as error:
            return error
        if not self._models.relates(language):
            return Extraction(passage_id=passage.passage_id, entities=tuple(entities), models=(finder,))
        asked = [
            self._relation(passage.text[start:end], (start, head, tail), entities, language)
            for start, end, head, tail in pairs(passage.text, entities)
        ]
        answers = await all_of(asked)
        relater = next((model for _, model in answers if model), self._models.extractor(language, "relations"))
        return Extraction(
            passage_id=passage.passage_id,
            entities=tuple(entities),
            relations=tuple(relation for relation, _ in answers if relation is not None),
            models=(finder, relater),
        )

    async def _relation(
        self, sentence: str, place: tuple[int, int, int], entities: Sequence[EntityMention], language: str
    ) -> tuple[RelationMention | None, str]:
        """What a sentence says of two names; nothing where the model can't take them: they may be too long together."""
        offset, head, tail = place
        spans = [(entities[one].start - offset, entities[one].end - offset) for one in (head, tail)]
        try:
            told, model = await self._models.relation(sentence, spans[0], spans[1], language)
        except InvalidInputError:
            return None, ""
        if told.relation in self._settings.unrelated:
            return None, model
        if told.backwards:
            head, tail = tail, head
        return RelationMention(head=head, tail=tail, label=told.relation, score=told.score), model


def pairs(text: str, entities: Sequence[EntityMention]) -> list[tuple[int, int, int, int]]:
    """The pairs of names that may be related: in one sentence, neither within the other, not the same name twice. Each with
    where the sentence begins and ends in the text, and the places of the two among the names; the nearest first, `MOST_PAIRS`.

    >>> text, found = "Ada knew Bo. Cy did not.", [("Ada", 0), ("Bo", 9), ("Cy", 13)]
    >>> pairs(text, [EntityMention(text=one, label="X", start=at, end=at + len(one), score=1) for one, at in found])
    [(0, 13, 0, 1)]
    """
    found = []
    for start, end in _sentences(text, entities):
        inside = [place for place, one in enumerate(entities) if start <= one.start and one.end <= end]
        for at, head in enumerate(inside):
            for tail in inside[at + 1 :]:
                gap = entities[tail].start - entities[head].end
                if gap >= 0 and entities[head].text != entities[tail].text:
                    found.append((gap, (start, end, head, tail)))
    found.sort()
    return [pair for _, pair in found[:MOST_PAIRS]]


def _sentences(text: str, entities: Sequence[EntityMention]) -> Iterator[tuple[int, int]]:
    """No sentence ends within a name, such as St. Louis."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    cuts = [end for end in ends if not any(one.start < end < one.end for one in entities)]
    yield from pairwise([0, *cuts, len(text)])


def _refused(passages: Sequence[Passage], made: Sequence[object], why: str) -> dict[str, Refused]:
    return {
        passage.document_id: Refused(document_id=passage.document_id, reason=f"{why}: {one.message}")
        for passage, one in zip(passages, made, strict=True)
        if isinstance(one, InvalidInputError)
    }


def _without(prepared: Prepared, refused: Mapping[str, Refused]) -> Prepared:
    if not refused:
        return prepared
    kept = {
        "documents": tuple(one for one in prepared.documents if one.document_id not in refused),
        "passages": tuple(one for one in prepared.passages if one.document_id not in refused),
        "refused": (*prepared.refused, *refused.values()),
    }
    return prepared.model_copy(update=kept)
