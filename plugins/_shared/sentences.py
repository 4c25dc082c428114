"""Text to sentences with offsets, for English and its like and for Chinese and Japanese, in time linear in the text.

Rules and no model: a mark that may end a sentence does so unless what stands around it says otherwise (an abbreviation, an
initial, a number, a lower-case letter behind it). Offsets are Unicode code points of the text as it was given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST_SENTENCE = 1000
"""Characters from which on a sentence is cut: a table, a list or a text without marks is no sentence."""

CLOSING = "\"'”’»›)\\]}」』】》〉）］"
WIDE_MARKS = "。！？｡"
"""Marks that end a sentence without a blank behind them."""
MARKS = ".!?…‼⁇⁈⁉؟۔।॥"

WIDE_LETTER = "\u2e80-\u303f\u3041-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U000323af"
"""Chinese and Japanese characters with their punctuation: they are written without blanks."""

HANGUL = range(0xAC00, 0xD7B0)
"""Korean is written with blanks."""

CANDIDATE = re.compile(
    f"(?P<wide>(?:[{WIDE_MARKS}]|……)[{WIDE_MARKS}…!?]*[{CLOSING}]*)"
    f"|(?P<mark>(?<![{re.escape(MARKS)}]{{2}})[{re.escape(MARKS)}]+[{CLOSING}]*(?=\\s|$|[{WIDE_LETTER}]))"
    r"|(?P<line>(?<![^\S\n])[^\S\n]*\n\s*)"
)
"""The look-behinds keep a long run of marks or blanks from being tried again from each of its places."""
WORD_BEFORE = re.compile(r"[^\s\"'“”‘’(\[{«—–]*\Z")
NEXT = re.compile(r"[\s\"'“‘«‹(\[{「『【《〈（]*")
FIRST_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


LOOKBACK = 48
"""Characters before a mark that are looked at: no abbreviation is longer."""

NEVER_LAST = _words(
    """
    mr mrs ms mx dr prof gen sen rep gov pres sec lt col maj capt cmdr cpl sgt adm rev hon fr st mt ft messrs mme mlle
    msgr drs profs sens reps supt det insp ald vs v cf viz e.g i.e eg ie approx resp ca c.f figs eq eqs sect ch chap
    pp nos vols ed eds trans op art arts dept
    """
)
"""Abbreviations behind which the sentence goes on, whatever follows."""
SELDOM_LAST = _words(
    """
    al etc inc ltd co corp bros llc plc jr sr esq ph.d m.d b.a m.a b.sc m.sc a.m p.m a.d b.c u.s u.k u.n u.s.a e.u jan feb
    mar apr jun jul aug sept sep oct nov dec mon tue tues wed thu thurs fri sat sun ave blvd rd sq univ assn intl ala ariz
    ark calif colo conn del fla ga ill ind kan ky la md mass mich minn miss mo mont neb nev okla ore pa penn tenn tex va
    vt wash wis wyo
    """
)
"""Abbreviations that may end a sentence: they do if a word follows that sentences start with."""
BEFORE_NUMBERS = frozenset({"no", "p", "vol", "fig"})
"""Words that are abbreviations if a number follows."""
STARTERS = _words(
    """
    the a an this that these those it its he she they we i you his her their our my your in on at as by for from of to
    with after before while when where although though however but and or so if since until during under over between
    among there here then thus therefore moreover furthermore additionally also meanwhile finally first second third our
    not no some many most several both each every all one two such what why how who which other another according despite
    because once now today yesterday later
    """
)
"""Words that start sentences and no names."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """`text[start:end]` of the text that was split, without blanks around it."""

    start: int
    end: int


def is_wide(letter: str) -> bool:
    """Whether a character is one of those that are written without blanks between words: Chinese, Japanese, their marks."""
    code = ord(letter)
    return (0x2E80 <= code <= 0xFFEF and code not in HANGUL) or 0x20000 <= code <= 0x323AF


def split_sentences(text: str, longest: int = LONGEST_SENTENCE) -> list[Sentence]:
    """The sentences of a text in its order; together they hold every character that is no blank. None is longer than
    `longest` characters: a longer one is cut at a clause, else at a blank, else where it must be.

    >>> text = "Dr. Smith paid $3.50. 他说：“好。”然后走了。"
    >>> [text[s.start : s.end] for s in split_sentences(text)]
    ['Dr. Smith paid $3.50.', '他说：“好。”', '然后走了。']
    """
    found: list[Sentence] = []
    start = 0
    for end in _ends(text):
        found += _pieces(text, start, end, longest)
        start = end
    return found


def _ends(text: str) -> Iterator[int]:
    begin = 0
    for candidate in CANDIDATE.finditer(text):
        at, end = candidate.span()
        if candidate["wide"] is not None:
            ends = True
        elif candidate["line"] is not None:
            ends = _line_ends(text, begin, at, end)
        else:
            ends = _mark_ends(text, begin, at, end)
        if ends:
            yield end
            begin = end
    yield len(text)


def _mark_ends(text: str, begin: int, at: int, end: int) -> bool:
    """Whether the marks at `text[at:end]` end the sentence that began at `begin`."""
    following = NEXT.match(text, end)
    then = following.end() if following else end
    if then == len(text) or "\n" in text[end:then]:
        return then == len(text)  # what a new line means is for the line to say
    next_letter = text[then]
    if next_letter.islower():
        return False
    if text[at] != "." or text.startswith("..", at):
        return True
    return _period_ends(text, begin, at, then)


def _period_ends(text: str, begin: int, at: int, then: int) -> bool:
    """Whether one period ends the sentence, if `text[then]` is the first letter behind it and no lower-case one."""
    before = WORD_BEFORE.search(text, max(begin, at - LOOKBACK), at)
    word = before.group().lower() if before else ""
    if word in NEVER_LAST or _numbers_an_item(text, begin, at, word):
        return False
    if word in BEFORE_NUMBERS:
        return not text[then].isdigit()
    if word in SELDOM_LAST or _is_initials(word):
        first = FIRST_WORD.match(text, then)
        return first is not None and first.group().lower() in STARTERS and first.group()[0].isupper()
    return True


def _is_initials(word: str) -> bool:
    """One letter, or letters with dots between them: `J`, `J.R.R`."""
    return all(len(part) == 1 and part.isalpha() and part.isascii() for part in word.split("."))


def _numbers_an_item(text: str, begin: int, at: int, word: str) -> bool:
    """Whether the sentence so far is only the number of a list's item."""
    numbers = len(word) <= 3 and (word.isdigit() or (len(word) == 1 and word.isalpha()))
    return numbers and at - begin <= LOOKBACK and text[begin:at].strip().lower() == word


WRAPPED = range(40, 140)
"""How many characters a line has that was broken where the page ended."""
ITEM = re.compile(r"[-*•·–—▪◦‣]|\(?\w{1,3}[.)]\s")


def _line_ends(text: str, begin: int, at: int, end: int) -> bool:
    """Whether a new line ends the sentence. It does unless it looks like one line of a text that was wrapped."""
    if text.count("\n", at, end) > 1 or end == len(text):
        return True
    line_start = text.rfind("\n", begin, at) + 1
    width = at - max(line_start, begin)
    last = text[at - 1] if at else "\n"
    if width not in WRAPPED or last in MARKS or last in CLOSING or last in ":：;；":
        return True
    return ITEM.match(text, end) is not None


CLAUSE = re.compile(f"[,;:，；：、—–]+[{CLOSING}]*\\s*")


def _pieces(text: str, start: int, end: int, longest: int) -> Iterator[Sentence]:
    """`text[start:end]` without the blanks around it, cut where it is too long; nothing if it is blank."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    while end - start > longest:
        cut = _cut(text, start, start + longest)
        stop = cut
        while text[stop - 1].isspace():
            stop -= 1
        yield Sentence(start, stop)
        start = cut
        while text[start].isspace():
            start += 1
    if end > start:
        yield Sentence(start, end)


def _cut(text: str, start: int, limit: int) -> int:
    """The last good place to cut at or before `limit`, in the second half of what is allowed; else `limit` itself."""
    middle = (start + limit) // 2
    for pattern in (CLAUSE, re.compile(r"\s+")):
        places = [match.end() for match in pattern.finditer(text, middle, limit)]
        if places:
            return places[-1]
    return limit
