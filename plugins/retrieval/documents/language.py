"""Which of the languages that there are models for a text is in: told from its script, and from its small words."""

from __future__ import annotations

import re

LOOKED_AT = 20_000
"""Characters of a text that are looked at."""

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af]")
OTHER_WIDE = re.compile("[\u3041-\u30ff\u31f0-\u31ff\uff66-\uff9d\uac00-\ud7a3\u1100-\u11ff]")
"""Kana and Hangul: Japanese and Korean."""
LATIN_WORD = re.compile("[a-zA-Z\u00c0-\u024f]+(?:['’][a-zA-Z\u00c0-\u024f]+)*")
OTHER_LETTER = re.compile("[\u0370-\u1fff]")
"""Greek, Cyrillic, Hebrew, Arabic, the scripts of India and others that are written with blanks."""
CODE = re.compile(r"https?://\S{1,2000}|(?<!\S)\S{0,200}@\S{1,200}|\b\w{0,100}[_/\\]\w{0,100}")
"""Addresses, paths and names of programs: they are in no language."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ENGLISH = _words(
    """
    the of and to is that for it with as are this be have has had from not they their you your we our which can will would
    there been were but all what when who how where why if he she his her its than them these those my at by or i do does
    did should could may must about into only other some more any no on out up so it's don't can't i'm you're was an in a
    """
)
"""Function words of English: in running text every second or third word is one of them."""
ELSEWHERE = _words(
    """
    der die das und ist nicht ein eine einen dem den des mit auf für von zu im sich auch wir ihr sie wie oder aber wenn ich
    le la les des et est une du dans que qui pour pas sur au aux avec ce cette sont nous vous je il elle par plus comment mon
    el los las y en es un una por con para se del al como más pero su no lo está qué mi cómo
    il lo gli della di che è per non con una sono del nel alla come anche questo mio
    o os as e um uma do da dos das em não para com na por seu é são meu
    het een van de niet dat zijn voor met aan ook maar bij ik je deze waar mijn
    och att det som är på av för inte med till jag och av er ikke til jeg og på
    i w na z się nie do jest że to jak jest
    """
)
"""Function words of German, French, Spanish, Italian, Portuguese, Dutch, the Nordic languages and Polish."""
SHORT = 8
"""Words up to which a text may be without a function word."""


def language_of(text: str, *, guess: bool = True) -> str:
    """`zh`, `en`, or an empty string for anything else and for what has no words.

    Chinese is a text with three Han characters for four Latin words or more (Chinese is written with English terms in it), and
    hardly any kana or Hangul. English is a Latin text with its function words, more of them than of other languages: an eighth
    of the words at least. Up to eight words without a function word of any language and without accents are taken for
    English: that is what a search is like, and it is a guess, which is not made without `guess`.

    >>> [language_of(text) for text in ("怎么重置 router 的 password？", "Where is my card?", "Wo ist meine Karte?", "42")]
    ['zh', 'en', '', '']
    """
    sample = CODE.sub(" ", text[:LOOKED_AT])
    han = len(HAN.findall(sample))
    other_wide = len(OTHER_WIDE.findall(sample))
    words = [word.lower().replace("’", "'") for word in LATIN_WORD.findall(sample)]
    others = len(OTHER_LETTER.findall(sample)) / 5
    if han and han * 4 >= 3 * len(words) and han > 8 * other_wide and han > others:
        return "zh"
    if len(words) <= han + other_wide or len(words) <= others:
        return ""
    return "en" if _is_english(words, guess) else ""


def _is_english(words: list[str], guess: bool) -> bool:
    english = sum(word in ENGLISH for word in words)
    elsewhere = sum(word in ELSEWHERE for word in words)
    if english > elsewhere and english * 8 >= len(words):
        return True
    if not guess or len(words) > SHORT or elsewhere > english:
        return False
    return all(word.isascii() for word in words) and any(len(word) > 1 for word in words)
