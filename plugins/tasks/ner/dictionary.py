"""Terms that somebody knows: found in a text, and reconciled with what a model found."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence

from taskloom.plugins.tasks.ner.schema import Entity
from taskloom.plugins.tasks.ner.words import Kind, kind_of


class Gazetteer:
    """Terms by label, ready to be found. With `ignore_case`, letters that have one lower-case form are compared in it, so
    that no offset moves."""

    def __init__(self, terms: Mapping[str, str], *, ignore_case: bool = False) -> None:
        self._fold = folded if ignore_case else str
        self._labels = {self._fold(term): label for term, label in terms.items()}
        self._terms = sorted(self._labels)
        self._longest = max(map(len, self._terms), default=0)
        self._firsts = frozenset(term[0] for term in self._terms)
        self._begun_by = list(_longest_beginnings(self._terms))

    def find(self, text: str) -> list[Entity]:
        """Terms in the order of the text: from left to right, the longest at each place, none in another."""
        found: list[Entity] = []
        compared = self._fold(text)
        if self._firsts.isdisjoint(compared):
            return found
        cuts = cuts_of(text)
        place = 0
        while place < len(text):
            end = self._match(compared, place, cuts) if cuts[place] and compared[place] in self._firsts else None
            if end is None:
                place += 1
                continue
            label = self._labels[compared[place:end]]
            found.append(Entity(label=label, start=place, end=end, text=text[place:end], score=1.0, source="dictionary"))
            place = end
        return found

    def _match(self, compared: str, place: int, cuts: Sequence[bool]) -> int | None:
        """The end of the longest term there. Between a term and a text that begins with it, in alphabetical order, all terms
        begin with it too: so it is the last term before the text, or a beginning of that one."""
        i: int | None = bisect_right(self._terms, compared[place : place + self._longest]) - 1
        while i is not None and i >= 0:
            end = place + len(self._terms[i])
            if end < len(cuts) and cuts[end] and compared.startswith(self._terms[i], place):
                return end
            i = self._begun_by[i]
        return None


def _longest_beginnings(terms: Sequence[str]) -> Iterator[int | None]:
    """For each of some terms in alphabetical order, the place of the longest other one that it begins with."""
    open_terms: list[int] = []
    for i, term in enumerate(terms):
        while open_terms and not term.startswith(terms[open_terms[-1]]):
            open_terms.pop()
        yield open_terms[-1] if open_terms else None
        open_terms.append(i)


def folded(text: str) -> str:
    return "".join(low if len(low := character.lower()) == 1 else character for character in text)


def cuts_of(text: str) -> list[bool]:
    """At each place of the text and at its end, whether a term may begin or end there: not inside a word of a script with
    blanks, not before a mark that belongs to the character before it.

    >>> cuts_of("in 北京")
    [True, False, True, True, True, True]
    """
    found = []
    before: Kind | None = None
    for character in text:
        kind = kind_of(character)
        found.append(before is None or not (kind == Kind.EXTENDER or before == kind == Kind.LETTER))
        if before is None or kind != Kind.EXTENDER:
            before = kind
    return [*found, True]


def reconcile(model: Sequence[Entity], known: Sequence[Entity], *, nested: bool) -> list[Entity]:
    """Both together: the dictionary is right wherever it meets the model. Of a flat model's entities, those that share a
    character with a term are dropped; of a nested model's, those that cross one or are the same words. `known` are in the
    order of the text, none in another."""
    starts, ends = [term.start for term in known], [term.end for term in known]
    kept = []
    for entity in model:
        met = known[bisect_right(ends, entity.start) : bisect_left(starts, entity.end)]
        # Terms between the first and the last that it meets lie within it.
        if not met or (nested and not any(_in_conflict(entity, term) for term in (met[0], met[-1]))):
            kept.append(entity)
    return in_order([*kept, *known])


def _in_conflict(entity: Entity, term: Entity) -> bool:
    """Of two that meet: whether they cross, or are the same words."""
    inside = entity.start >= term.start and entity.end <= term.end
    around = entity.start <= term.start and entity.end >= term.end
    return inside == around


def in_order(entities: Iterable[Entity]) -> list[Entity]:
    """By where they begin, the outer one first."""
    return sorted(entities, key=lambda entity: (entity.start, -entity.end, entity.label))
