"""Tags of tag sequences: which may follow which, and which entities they spell. BIO, BIOES and their kin by other names.

Imports no ML library.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

from taskloom.core.errors import UnsupportedError

OUTSIDE = "O"
SAME_AS = {"B": "B", "I": "I", "M": "I", "E": "E", "L": "E", "S": "S", "U": "S"}
"""What prefixes mean: BILOU and BMES say with other letters what BIOES says."""


@dataclass(frozen=True, order=True)
class WordSpan:
    """The words from `start` to before `end`, and what they are."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class TagSet:
    """The tags of a model, in the order of its logits.

    Which forms exist decides what is legal: without `B`, an entity begins with `I` (and two in a row of one label can't be
    told apart); without `E`, it ends wherever it stops. With `i_may_begin`, `I` begins an entity after `O` or another label
    though there is `B`, as in models that were trained on IOB1 (Ramshaw & Marcus 1995); not where there is `E`, too.
    """

    tags: tuple[str, ...]
    i_may_begin: bool = False

    @classmethod
    def of(cls, labels: Iterable[str], scheme: str) -> TagSet:
        """The tags of a scheme, `BIO` or `BIOES`: `O` first, then each label's."""
        prefixes = [prefix for prefix in scheme if prefix != OUTSIDE]
        return cls((OUTSIDE, *(f"{prefix}-{label}" for label in labels for prefix in prefixes)))

    @cached_property
    def parsed(self) -> tuple[tuple[str, str], ...]:
        """Each tag's prefix (in BIOES' letters) and label; `("O", "")` for outside. Raises `UnsupportedError`."""
        return tuple(self._parse(tag) for tag in self.tags)

    def _parse(self, tag: str) -> tuple[str, str]:
        if tag == OUTSIDE:
            return OUTSIDE, ""
        if len(tag) > 2 and tag[0] in SAME_AS and tag[1] in "-_":
            return SAME_AS[tag[0]], tag[2:]
        raise UnsupportedError(
            f"{tag!r} is no tag: expected 'O' or a prefix of {'/'.join(SAME_AS)}, '-' and a label, such as 'B-PER'. "
            f"The model's tags: {', '.join(self.tags[:12])}"
        )

    @cached_property
    def labels(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(label for _, label in self.parsed if label))

    @cached_property
    def index(self) -> dict[tuple[str, str], int]:
        found = {parsed: i for i, parsed in enumerate(self.parsed)}
        if len(found) < len(self.tags) or (OUTSIDE, "") not in found:
            raise UnsupportedError(f"tags must be unique and have one 'O'; these are {', '.join(self.tags[:12])}")
        return found

    def has(self, prefix: str, label: str) -> bool:
        return (prefix, label) in self.index

    def begins(self, tag: int) -> bool:
        """Whether a text may begin with it, and so whether it may follow the end of an entity."""
        prefix, label = self.parsed[tag]
        return prefix in {OUTSIDE, "B", "S"} or (prefix == "I" and (not self.has("B", label) or self._either_begins(label)))

    def _either_begins(self, label: str) -> bool:
        return self.i_may_begin and all(self.has(prefix, label) for prefix in "BI") and not self.has("E", label)

    def ends(self, tag: int) -> bool:
        """Whether a text may end with it."""
        prefix, label = self.parsed[tag]
        if prefix == "B":
            return not (self.has("E", label) and self.has("S", label))
        return prefix != "I" or not self.has("E", label)

    def goes_on(self, before: int, after: int) -> bool:
        """Whether `after` is in the same entity as `before`."""
        (prefix, label), (then, same) = self.parsed[before], self.parsed[after]
        return label == same and prefix in {"B", "I"} and then in {"I", "E"}

    def may_follow(self, before: int, after: int) -> bool:
        return self.goes_on(before, after) or (self.ends(before) and self.begins(after))

    @cached_property
    def apart_before(self) -> tuple[list[int], ...]:
        """For each tag, those that may stand before it but are not in its entity, or may not stand there at all."""
        size = range(len(self.tags))
        return tuple([i for i in size if not self.goes_on(i, tag)] for tag in size)

    @cached_property
    def apart_after(self) -> tuple[list[int], ...]:
        """The same for those after it."""
        size = range(len(self.tags))
        return tuple([i for i in size if not self.goes_on(tag, i)] for tag in size)

    def path(self, label: str, words: int) -> list[int]:
        """The tags of an entity of so many words."""
        first, middle, last = self._forms(label)
        if words == 1:
            return [self.index.get(("S", label), first)]
        return [first, *[middle] * (words - 2), last]

    def paths(self, label: str, words: int) -> list[list[int]]:
        """All that spell it: `path`, and what begins with `I` where either may."""
        usual = self.path(label, words)
        begun_by_i = self._either_begins(label) and usual[0] == self.index["B", label]
        return [usual, [self.index["I", label], *usual[1:]]] if begun_by_i else [usual]

    def _forms(self, label: str) -> tuple[int, int, int]:
        middle = self.index.get(("I", label), self.index.get(("E", label), self.index.get(("B", label), -1)))
        return self.index.get(("B", label), middle), middle, self.index.get(("E", label), middle)

    def spell(self, spans: Iterable[WordSpan], words: int) -> list[int]:
        """The tags of a text of so many words with these entities, which must not overlap."""
        found = [self.index[OUTSIDE, ""]] * words
        for span in spans:
            found[span.start : span.end] = self.path(span.label, span.end - span.start)
        return found

    def read(self, tags: Sequence[int]) -> list[WordSpan]:
        """The entities that a legal sequence spells."""
        found: list[WordSpan] = []
        for place, tag in enumerate(tags):
            _, label = self.parsed[tag]
            if not label:
                continue
            if place and self.goes_on(tags[place - 1], tag) and found and found[-1].end == place:
                found[-1] = WordSpan(found[-1].start, place + 1, label)
            else:
                found.append(WordSpan(place, place + 1, label))
        return found


def read_leniently(tags: Sequence[str]) -> list[WordSpan]:
    """The entities of a data file's tags, as conlleval takes them (Tjong Kim Sang & De Meulder 2003): an `I-` that continues
    nothing begins an entity, so IOB1 files are read as well. Raises `UnsupportedError` for what is no tag.

    >>> read_leniently(["I-PER", "I-PER", "O", "B-LOC"])
    [WordSpan(start=0, end=2, label='PER'), WordSpan(start=3, end=4, label='LOC')]
    """
    known = TagSet(tuple(dict.fromkeys(tags)))
    parsed = dict(zip(known.tags, known.parsed, strict=True))
    found: list[WordSpan] = []
    closed = True
    for place, tag in enumerate(tags):
        prefix, label = parsed[tag]
        if not label:
            closed = True
            continue
        if not closed and prefix in {"I", "E"} and found[-1].label == label:
            found[-1] = WordSpan(found[-1].start, place + 1, label)
        else:
            found.append(WordSpan(place, place + 1, label))
        closed = prefix in {"E", "S"}
    return found
