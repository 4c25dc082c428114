"""ROUGE (Lin 2004, https://aclanthology.org/W04-1013), as the package `rouge-score` gives it, for texts of any script.

`rouge-score` knows the letters a to z and digits alone: two equal Chinese texts score 0 there. Here Chinese and Japanese are
compared character by character and other scripts word by word; Latin words, whatever stands beside them, go through its own
tokenizer with Porter's stemmer, so that English figures are the ones that everybody prints.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from taskloom.core.errors import MissingDependencyError

METRICS = ("rouge1", "rouge2", "rougeL")

RUN = re.compile(
    r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U000323af]|[^\W_\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff]+"
)
"""A wide character that is a letter or digit, or a word of anything else."""
FIRST_OTHER = "\u0370"
"""Greek, Cyrillic and everything behind them: what rouge-score would lose as a whole."""


class RougeTokenizer:
    """Texts to tokens, in the form that `rouge_score.rouge_scorer.RougeScorer` takes.

    >>> RougeTokenizer().tokenize("Running dogs"), RougeTokenizer().tokenize("看GPT模型")
    (['run', 'dog'], ['看', 'gpt', '模', '型'])
    """

    def __init__(self) -> None:
        try:
            from nltk.stem.porter import PorterStemmer
            from rouge_score.tokenize import tokenize
        except ImportError as exc:
            raise MissingDependencyError("ROUGE needs: pip install 'taskloom[eval]'") from exc
        self._latin = tokenize
        self._stemmer = _CachedStemmer(PorterStemmer())

    def tokenize(self, text: str) -> list[str]:
        if text.isascii():  # the same at once
            return list(self._latin(text, self._stemmer))
        found: list[str] = []
        for run in RUN.findall(text.lower()):
            found += [run] if _is_other(run) else self._latin(run, self._stemmer)
        return found


def _is_other(run: str) -> bool:
    """Whether a run has a letter or digit of a script that is not Latin; superscripts and the like are none."""
    return any(letter >= FIRST_OTHER and (letter.isalpha() or letter.isdecimal()) for letter in run)


class _CachedStemmer:
    """A stemmer that remembers: a document's sentences are mostly the same words."""

    def __init__(self, stemmer: Any) -> None:
        self.stem = lru_cache(maxsize=100_000)(stemmer.stem)


class Rouge:
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L; against several references each metric's best."""

    def __init__(self) -> None:
        self.tokenizer = RougeTokenizer()
        from rouge_score.rouge_scorer import RougeScorer

        self._scorer = RougeScorer(list(METRICS), tokenizer=self.tokenizer)

    def score(self, summary: str, references: Sequence[str]) -> tuple[float, float, float]:
        found = self._scorer.score_multi(list(references), summary)
        return (found["rouge1"].fmeasure, found["rouge2"].fmeasure, found["rougeL"].fmeasure)


def overlap_f1(tokens: Sequence[str], reference: Sequence[str], size: int) -> float:
    """F1 of the runs of `size` tokens that both have: ROUGE-N of texts that have been tokenized already."""
    mine, theirs = _runs(tokens, size), _runs(reference, size)
    total = mine.total() + theirs.total()
    return 2 * (mine & theirs).total() / total if mine and theirs else 0.0


def _runs(tokens: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1))
