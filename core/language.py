"""Which language a short text is in, as far as its script tells."""

from __future__ import annotations

import unicodedata

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
