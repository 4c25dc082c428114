"""Terms that somebody knows: found in a text, and reconciled with what a model found."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from taskloom.plugins.tasks.ner.schema import Entity
from taskloom.plugins.tasks.ner.words import Kind, kind_of


class Gazetteer:
    """Terms by label, ready to be found. With `ignore_case`, letters that have one lower-case form are compared in it, so
    that no offset moves."""

    def __init__(self, terms: Mapping[str, str], *, ignore_case: bool = False) -> None:
        self._fold = folded if ignore_case else str
        self._labels = {self._fold(term): label for term, label in terms.items()}
        lengths: dict[str, set[int]] = defaultdict(set)
        for term in self._labels:
            lengths[term[0]].add(len(term))
        self._lengths = {first: sorted(found, reverse=True) for first, found in lengths.items()}

    def find(self, text: str) -> list[Entity]:
        """Terms in the order of the text: from left to right, the longest at each place, none in another."""
        found: list[Entity] = []
        compared = self._fold(text)
        place = 0
        while place < len(text):
            end = self._match(text, compared, place)
            if end is None:
                place += 1
                continue
            label = self._labels[compared[place:end]]
            found.append(Entity(label=label, start=place, end=end, text=text[place:end], score=1.0, source="dictionary"))
            place = end
        return found

    def _match(self, text: str, compared: str, place: int) -> int | None:
        for length in self._lengths.get(compared[place], ()):
            end = place + length
            if end <= len(text) and compared[place:end] in self._labels and may_cut(text, place) and may_cut(text, end):
                return end
        return None


def folded(text: str) -> str:
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)


def may_cut(text: str, place: int) -> bool:
    """Whether a term may begin or end there: not inside a word of a script with blanks, not before a mark that belongs to
    the character before it.

    >>> may_cut("Berliner", 6), may_cut("北京市", 2)
    (False, True)
    """
    if place in {0, len(text)}:
        return True
    after = kind_of(text[place])
    if after == Kind.EXTENDER:
        return False
    last = place - 1
    while last > 0 and kind_of(text[last]) == Kind.EXTENDER:
        last -= 1
    return not (kind_of(text[last]) == after == Kind.LETTER)


def reconcile(model: Sequence[Entity], known: Sequence[Entity], *, nested: bool) -> list[Entity]:
    """Both together: the dictionary is right wherever it meets the model. Of a flat model's entities, those that share a
    character with a term are dropped; of a nested model's, those that cross one or are the same words."""
    kept = [entity for entity in model if not any(_in_conflict(entity, term, nested) for term in known)]
    return in_order([*kept, *known])


def _in_conflict(entity: Entity, term: Entity, nested: bool) -> bool:
    if entity.end <= term.start or term.end <= entity.start:
        return False
    if not nested:
        return True
    inside = entity.start >= term.start and entity.end <= term.end
    around = entity.start <= term.start and entity.end >= term.end
    return inside == around  # both: the same words; neither: they cross


def in_order(entities: Iterable[Entity]) -> list[Entity]:
    """By where they begin, the outer one first."""
    return sorted(entities, key=lambda entity: (entity.start, -entity.end, entity.label))
