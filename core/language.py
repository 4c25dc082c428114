"""Which language a short text is in, as far as its script tells, and Chinese from one of its two scripts to the other."""

from __future__ import annotations

import unicodedata
from functools import cache
from typing import Any, Literal

from taskloom.core.errors import MissingDependencyError

TELLING = 2000
"""So many characters of a text say which script it is in."""
ChineseScript = Literal["simplified", "traditional"]

HAN_SHARE = 0.1
"""Of a text's letters: a Chinese sentence may be full of Latin names, an English one has hardly a Han character."""


def language_of_script(text: str) -> str:
    """`zh` for Han characters without kana, `en` for Latin letters, "" for what neither describes. Latin text is taken for
    English: of the languages that it could be, this is the one that there are models for.

    >>> language_of_script("iPhone 怎么重启?"), language_of_script("How do I reset it?"), language_of_script("これは何ですか")
    ('zh', 'en', '')
    """
    counts = {"CJK": 0, "LATIN": 0, "other": 0}
    for letter in text:
        if letter.isalpha():
            script = unicodedata.name(letter, "").partition(" ")[0]
            counts[script if script in counts else "other"] += 1
    letters = sum(counts.values())
    if not letters or counts["other"] > letters / 2:
        return ""
    if any("HIRAGANA" in unicodedata.name(c, "") or "KATAKANA" in unicodedata.name(c, "") for c in text):
        return ""
    return "zh" if counts["CJK"] >= HAN_SHARE * letters else "en"


def simplified(text: str) -> str:
    """Chinese in Simplified characters, whichever it is in (OpenCC, which goes by words where a character has several
    counterparts); all else as it is.

    >>> simplified("重設路由器: reset")
    '重设路由器: reset'
    """
    return _converted("t2s", text)


def in_script_of(text: str, other: str) -> str:
    """Chinese in the script that `other` is in; as it is where either has no character that tells, or both are in one.

    >>> in_script_of("如何重設?", "请重设路由器"), in_script_of("如何重设?", "請重設路由器"), in_script_of("如何重設?", "OK")
    ('如何重设?', '如何重設?', '如何重設?')
    """
    own, wanted = (chinese_script(one[:TELLING]) for one in (text, other))
    if own is None or wanted is None or own == wanted:
        return text
    return _converted("t2s" if wanted == "simplified" else "s2t", text)


def chinese_script(text: str) -> ChineseScript | None:
    """The script that more of a text's characters are of; None where they are of both alike, as many texts are that are short
    or no Chinese."""
    traditional, plain = (_changed(text, way) for way in ("t2s", "s2t"))
    if traditional == plain:
        return None
    return "traditional" if traditional > plain else "simplified"


def _changed(text: str, way: str) -> int:
    return sum(before != after for before, after in zip(text, _converted(way, text), strict=False))


def _converted(way: str, text: str) -> str:
    return text if text.isascii() else str(_converter(way).convert(text))


@cache
def _converter(way: str) -> Any:
    try:
        import opencc
    except ImportError as exc:
        raise MissingDependencyError("converting Chinese characters needs: pip install 'taskloom[local]'") from exc
    return opencc.OpenCC(way)
