"""The field's scores of one answer: those of SQuAD 1.1 and 2.0, and of CMRC 2018 for Chinese.

Answers to Chinese questions are compared character by character, as `cmrc2018_evaluate.py` does
(https://github.com/ymcui/cmrc2018); all others word by word, as `evaluate-v1.1.py` and `evaluate-v2.0.py` do
(https://rajpurkar.github.io/SQuAD-explorer/). Scores are from 0 to 1, where the scripts print per cent.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

ARTICLES = re.compile(r"\b(a|an|the)\b")
PUNCTUATION = frozenset(string.punctuation)
CHINESE = re.compile(r"[\u4e00-\u9fa5]")
CHINESE_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""The list of `cmrc2018_evaluate.py`. Its "……" never meets a single character, there and here."""
KANA_OR_HANGUL = re.compile(r"[\u3040-\u30ff\uac00-\ud7af]")
LATIN_WORD = re.compile(r"\w+(?:[.,'’-]\w+)*|[^\w\s]")
"""Words between Chinese characters. The script asks NLTK's Treebank tokenizer, which also splits "don't"."""

Score = Callable[..., float]
"""`score(given, true, chinese=, v2=)`: `exact_match` or `f1`."""


def is_chinese(text: str) -> bool:
    """Whether Chinese scoring is due: there are Chinese characters, no kana or hangul, and at least a third of the letters are
    Chinese."""
    letters = sum(character.isalpha() for character in text)
    return 3 * len(CHINESE.findall(text)) >= max(1, letters) and not KANA_OR_HANGUL.search(text)


def exact_match(given: str, true: str, *, chinese: bool = False, v2: bool = False) -> float:  # noqa: ARG001 - as `f1`
    """1 if both are the same after normalisation, by the rules of either SQuAD.

    >>> exact_match("The Eiffel Tower!", "eiffel tower")
    1.0
    """
    if chinese and given and true:
        return float(_bare(given) == _bare(true))
    return float(without_marks(given) == without_marks(true))


def f1(given: str, true: str, *, chinese: bool = False, v2: bool = False) -> float:
    """The harmonic mean of precision and recall: of words in any order, or, in Chinese, of the longest run of characters that
    both have. Where nothing is left of an answer after normalisation, SQuAD 2 gives 1 if nothing is left of both, and
    SQuAD 1.1 gives 0.

    >>> f1("in York since 1999", "York"), f1("在约克", "约克市", chinese=True)
    (0.4, 0.6666666666666666)
    """
    if chinese and given and true:
        ours, theirs = segments(given), segments(true)
        same = longest_run(ours, theirs)
    else:
        ours, theirs = without_marks(given).split(), without_marks(true).split()
        if v2 and not (ours and theirs):
            return float(ours == theirs)
        same = (Counter(ours) & Counter(theirs)).total()
    if not same:
        return 0.0
    precision, recall = same / len(ours), same / len(theirs)
    return 2 * precision * recall / (precision + recall)


def without_marks(text: str) -> str:
    """SQuAD's `normalize_answer`: lower case, no ASCII punctuation, no articles, single blanks."""
    bare = "".join(character for character in text.lower() if character not in PUNCTUATION)
    return " ".join(ARTICLES.sub(" ", bare).split())


def _bare(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in CHINESE_PUNCTUATION)


def segments(text: str) -> list[str]:
    """Chinese characters one by one, other words whole, without punctuation of the script's list."""
    found: list[str] = []
    other = ""
    for character in _bare(text):
        if CHINESE.match(character):
            found += [*LATIN_WORD.findall(other), character]
            other = ""
        else:
            other += character
    return [*found, *LATIN_WORD.findall(other)]


def longest_run(ours: Sequence[str], theirs: Sequence[str]) -> int:
    """The length of the longest common stretch of two sequences; "LCS" in the script is this, not the subsequence."""
    longest = 0
    before = [0] * (len(theirs) + 1)
    for one in ours:
        row = [0] * (len(theirs) + 1)
        for j, other in enumerate(theirs, start=1):
            if one == other:
                row[j] = before[j - 1] + 1
                longest = max(longest, row[j])
        before = row
    return longest
