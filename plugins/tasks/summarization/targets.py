"""What a sentence and its words are worth, by the references: what the model that chooses sentences learns from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from taskloom.core.task import Example
from taskloom.plugins._shared.sentences import Sentence
from taskloom.plugins.tasks.summarization.rouge import RUN, RougeTokenizer, overlap_f1
from taskloom.plugins.tasks.summarization.schema import SummarizationInput

ASKED = 2
"""Sentences, the best ones and the first, whose words are judged: of the others most words are in no reference."""


class ReferenceJudge:
    """Scores a document's sentences by ROUGE against its references; remembers what it found.

    `matched` and `referred` count the words that best sentences and their references have in common, and the references'."""

    def __init__(self, tokenizer: RougeTokenizer) -> None:
        self._tokens = tokenizer.tokenize
        self._known: dict[tuple[str, tuple[str, ...]], tuple[Tensor, Tensor]] = {}
        self.matched = self.referred = 0

    def targets(self, example: Example[SummarizationInput], sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor]:
        key = (example.input.document, tuple(example.target))
        if key not in self._known:
            self._known[key] = self._judge(example.input.document, example.target, sentences)
        return self._known[key]

    def _judge(self, document: str, references: Sequence[str], sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor]:
        texts = [self._tokens(document[s.start : s.end]) for s in sentences]
        wanted = [self._tokens(reference) for reference in references]
        grid = [[(overlap_f1(text, ref, 1) + overlap_f1(text, ref, 2)) / 2 for ref in wanted] for text in texts]
        scores = torch.tensor([max(row) for row in grid])
        order = scores.argsort(descending=True, stable=True).tolist()
        reference = wanted[max(range(len(wanted)), key=grid[order[0]].__getitem__)]
        known = set(reference)
        flags = torch.full((len(document),), -1, dtype=torch.long)
        for number in {0, *order[:ASKED]}:
            sentence = sentences[number]
            for run in RUN.finditer(document, sentence.start, sentence.end):
                if any(letter.isalnum() for letter in run.group()):  # Chinese marks are wide characters too
                    flags[run.start() : run.end()] = int(any(token in known for token in self._tokens(run.group())))
        self.matched += sum(token in known for token in texts[order[0]])
        self.referred += len(reference)
        return scores, flags

    @property
    def unsaid(self) -> float:
        """Words of a reference for each that the best sentence has of it."""
        return self.referred / max(1, self.matched)
