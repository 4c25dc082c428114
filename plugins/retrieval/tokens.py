"""Text to the tokens that BM25 counts, in Chinese and English."""

from __future__ import annotations

import re
import unicodedata

import rjieba
import tantivy

from taskloom.core.language import simplified
from taskloom.plugins._shared.sentences import WIDE_LETTER

RULES = 2
"""Which edition of these rules made the tokens of an index; those of another can't be compared with a question's."""
LONGEST_TOKEN = 64
"""Characters; what is longer is no word that anybody asks for."""

PIECE = re.compile(
    f"(?P<wide>[{WIDE_LETTER}]+)"
    rf"|(?P<word>[^\W{WIDE_LETTER}_]+(?:[-_.'’/+#@:][^\W{WIDE_LETTER}_]+)*[+#]*)"
)
JOINT = re.compile(r"[-_.'’/+#@:]+")
LETTER = re.compile(r"\w")


class Tokenizer:
    """Makes tokens, the same of passages and of questions. Thread-safe.

    Chinese: the words of jieba's search mode and the bigrams of characters, since words alone miss what is cut another way in
    the question (Nie, Gao, Zhang and Zhou, "On the use of words and n-grams for Chinese information retrieval", IRAL 2000);
    both in Simplified characters, so that Traditional questions find Simplified text and the other way about.
    Words of other scripts: lower-cased, and stemmed (Snowball, English) if they are all letters; what holds digits or marks,
    such as `WiFi-6` or `R7000`, is kept whole, and its parts are tokens besides. Wide forms are folded (NFKC).
    """

    def __init__(self) -> None:
        whole = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace())
        self._stemmer = whole.filter(tantivy.Filter.stemmer("English")).build()

    def tokens(self, text: str) -> list[str]:
        """
        >>> Tokenizer().tokens("Resetting the R7000：重置密碼")
        ['r7000', '重置', '密码', '置密', 'reset', 'the']
        """
        found: list[str] = []
        words: list[str] = []
        for piece in PIECE.finditer(simplified(unicodedata.normalize("NFKC", text)).lower()):
            if piece["wide"] is not None:
                found += self._wide(piece["wide"])
            elif piece["word"].isalpha():
                words.append(piece["word"])
            elif piece["word"].isalnum():
                found.append(piece["word"])
            else:
                self._compound(piece["word"], found, words)
        found += self._stemmer.analyze(" ".join(words))
        return [token for token in found if len(token) <= LONGEST_TOKEN]

    def _wide(self, run: str) -> list[str]:
        words = [word for word in rjieba.cut_for_search(run, True) if LETTER.match(word)]
        known = set(words)
        pairs = (run[at : at + 2] for at in range(len(run) - 1))
        return words + [pair for pair in pairs if pair not in known and LETTER.match(pair[0]) and LETTER.match(pair[1])]

    @staticmethod
    def _compound(word: str, found: list[str], words: list[str]) -> None:
        """A code whole, and its parts."""
        parts = [part for part in JOINT.split(word) if part]
        if any(letter.isdigit() for letter in word) or word[-1] in "+#" or len(parts) > 1:
            found.append(word)
        for part in parts if len(parts) > 1 else ():
            (words if part.isalpha() else found).append(part)
