"""Questions made from plain text, which teach a reader to look for the place that is asked about before it meets real ones.

A sentence loses a part, the answer, and becomes its own question by leaving words out (Lewis et al. 2019, "Unsupervised
Question Answering by Cloze Translation"); where the answer stands elsewhere in the passage too, the sentence itself may be left
out of it (Ram et al. 2021, "Few-Shot Question Answering by Pretraining Span Selection").
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from taskloom.plugins._shared.sentences import Sentence, is_wide, split_sentences

PASSAGE = 900
"""The length of a passage: a Latin letter counts 1, a Chinese character 3."""
CLAUSE_SHARE = 0.3
"""Of the answers, so many are a whole clause; others are one to five words."""
LONGEST_WORDS = 5
RECURRING_SHARE = 0.5
"""Of the questions whose answer stands in the passage elsewhere too, so many lose their own sentence."""
KEPT_CONTENT, KEPT_FUNCTION, KEPT_CLAUSE = 0.8, 0.6, 0.5
"""Chances that a word of the sentence stays in the question, and that a clause does which the answer is not in."""
LEAST_WORDS = 3
"""Content words that are left in a question."""
TITLE_SHARE = 0.3
LONGEST_TITLE = 30
MARKS = frozenset(",;:，；：、。！？!?.")
"""Ends of clauses; a point only before a blank."""
APOSTROPHES = frozenset("'\N{RIGHT SINGLE QUOTATION MARK}")
NUMBER_MARKS = frozenset(".,:")
FUNCTION_TAGS = frozenset("upcdrxyefoqz")
"""jieba's tags of words that ask for nothing: particles, prepositions, conjunctions, adverbs, pronouns, marks."""
FUNCTION_WORDS = frozenset(
    word
    for words in (
        "a an the of in on at to for from by with and or but is are was were be been has have had it its he she they his her",
        "their this that these those as not no which who whom what when where how will would can could may might there than",
        "then so if i you we my your our me him them do does did",
    )
    for word in words.split()
)
PERSONS, PLACES, TIMES, COUNTS, THINGS = range(5)
ASKING = {
    "zh": (("谁", "哪个人"), ("哪里", "什么地方"), ("什么时候", "哪一年", "何时"), ("多少", "几"), ("什么", "哪些", "什么")),
    "en": (("who",), ("where", "what"), ("when", "what year"), ("how many", "how much", "what"), ("what", "which", "who")),
}


@dataclass(frozen=True)
class Cloze:
    """A question, its passage, and every place [start, end) where the passage has the answer."""

    question: str
    passage: str
    answers: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class _Word:
    start: int
    end: int
    kind: int
    """What is asked for where the answer is this word."""
    function: bool
    clause: int


def cloze_questions(document: str, dice: random.Random, *, each: int = 2) -> Iterator[Cloze]:
    """At most `each` questions on every passage of a document, whose first line is its title if it is short."""
    head, _, rest = document.partition("\n")
    title, body = (head.strip(), rest) if len(head) <= LONGEST_TITLE and rest else ("", document)
    for passage in _passages(body):
        sentences = split_sentences(passage)
        for sentence in dice.sample(sentences, min(each, len(sentences))):
            made = _question(passage, sentence, title, dice)
            if made is not None:
                yield made


def _passages(text: str) -> Iterator[str]:
    first, size, last = 0, 0, 0
    for sentence in split_sentences(text):
        long = sum(3 if is_wide(letter) else 1 for letter in text[sentence.start : sentence.end])
        if size and size + long > PASSAGE:
            yield text[first:last]
            first, size = sentence.start, 0
        size, last = size + long, sentence.end
    if size > PASSAGE // 3:
        yield text[first:last]


def _question(passage: str, sentence: Sentence, title: str, dice: random.Random) -> Cloze | None:
    text = passage[sentence.start : sentence.end]
    words = _words(text)
    chosen = _answer(words, dice)
    if chosen is None:
        return None
    first, last = chosen
    start, end = words[first].start, words[last].end
    answer = text[start:end]
    own = sentence.start + start, sentence.start + end
    places = [match.span() for match in re.finditer(re.escape(answer), passage) if _is_whole(passage, *match.span())]
    places = sorted({own, *(place for place in places if place[1] <= own[0] or place[0] >= own[1])})
    elsewhere = [place for place in places if place[1] <= sentence.start or place[0] >= sentence.end]
    if elsewhere and dice.random() < RECURRING_SHARE:
        cut = sentence.end - sentence.start
        passage = passage[: sentence.start] + passage[sentence.end :]
        places = [place if place[1] <= sentence.start else (place[0] - cut, place[1] - cut) for place in elsewhere]
    asked = _asked(text, words, first, last, dice)
    if asked is None:
        return None
    if title and title not in asked and dice.random() < TITLE_SHARE:
        asked = f"{title}{asked}" if is_wide(title[-1]) else f"{title}: {asked}"
    return Cloze(asked, passage, tuple(places))


def _answer(words: Sequence[_Word], dice: random.Random) -> tuple[int, int] | None:
    """The first and last word of an answer, neither of them a function word; numbers and names twice as often as others."""
    content = [i for i, word in enumerate(words) if not word.function]
    if len(content) < 2 * LEAST_WORDS:
        return None
    first = dice.choices(content, [2 if words[i].kind != THINGS else 1 for i in content])[0]
    clause = [i for i in content if words[i].clause == words[first].clause]
    if dice.random() < CLAUSE_SHARE and len(content) - len(clause) >= LEAST_WORDS:
        return clause[0], clause[-1]
    reach = [i for i in clause if first <= i < first + LONGEST_WORDS]
    return first, dice.choice(reach)


def _asked(text: str, words: Sequence[_Word], first: int, last: int, dice: random.Random) -> str | None:
    own = words[first].clause
    kept_clauses = {clause for clause in range(words[-1].clause + 1) if clause == own or dice.random() < KEPT_CLAUSE}
    parts: list[tuple[str, int]] = []
    content = 0
    language = "zh" if sum(map(is_wide, text)) * 4 > len(text) else "en"
    asking = dice.choice(ASKING[language][words[last].kind if last == first else THINGS])
    for i, word in enumerate(words):
        if i == first:
            parts.append((asking, i))
        if first <= i <= last or word.clause not in kept_clauses:
            continue
        if dice.random() < (KEPT_FUNCTION if word.function else KEPT_CONTENT):
            parts.append((text[word.start : word.end], i))
            content += not word.function
    if content < LEAST_WORDS:
        return None
    if language == "zh":
        return "".join(_spaced([part for part, _ in parts])) + "？"
    if dice.random() < 0.7:
        parts.sort(key=lambda part: part[1] != first)
    return " ".join(part for part, _ in parts) + "?"


def _spaced(parts: Sequence[str]) -> Iterator[str]:
    """Latin words keep a blank between them."""
    before = ""
    for part in parts:
        yield f" {part}" if before and part[0].isascii() and before.isascii() and part[0].isalnum() else part
        before = part[-1]


def _words(text: str) -> list[_Word]:
    """The words of a sentence without its marks."""
    import rjieba

    found: list[_Word] = []
    clause = at = 0
    for piece, tag in rjieba.tag(text, True):
        at = text.index(piece, at)
        end = at + len(piece)
        if piece[0].isalnum():
            if found and _joins(text, found[-1].end, at):
                found[-1] = replace(found[-1], end=end)
            else:
                function = piece.lower() in FUNCTION_WORDS or (is_wide(piece[0]) and tag[0] in FUNCTION_TAGS)
                found.append(_Word(at, end, _kind(piece, tag), function, clause))
        elif piece in MARKS and not _joins(text, at, end):
            clause += piece != "." or not text[end : end + 1].strip()
        at = end
    return found


def _joins(text: str, start: int, end: int) -> bool:
    """Whether what stands there keeps a word together: an apostrophe between letters, a mark between digits."""
    mark, before, after = text[start:end], text[start - 1 : start], text[end : end + 1]
    return (mark in APOSTROPHES and before.isalnum() and after.isalnum()) or (
        mark in NUMBER_MARKS and before.isdigit() and after.isdigit()
    )


def _is_whole(text: str, start: int, end: int) -> bool:
    """Whether no Latin word or number goes on beyond what stands there."""
    return not (_goes_on(text, start - 1, start) or _goes_on(text, end, end - 1))


def _goes_on(text: str, beyond: int, edge: int) -> bool:
    """Whether the character at the edge has a neighbour of its own word beyond it."""
    if not (0 <= beyond < len(text)) or is_wide(text[edge]) or not text[edge].isalnum():
        return False
    near = text[beyond]
    return (near.isalnum() and not is_wide(near)) or _joins(text, beyond, beyond + 1)


def _kind(piece: str, tag: str) -> int:
    if tag[0] == "t" or (piece[-1] in "年月日" and piece[0].isdigit()) or (piece.isdigit() and len(piece) == 4):
        return TIMES
    if tag[0] == "m":
        return COUNTS
    if tag.startswith("nr"):
        return PERSONS
    if tag.startswith("ns"):
        return PLACES
    return THINGS
