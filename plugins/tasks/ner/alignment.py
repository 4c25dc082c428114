"""Texts as tokens for the encoder and words for the head, long ones in windows, with the way from one to the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.plugins.backbones.tokenizer import EncodedWindows, TextTokenizer
from taskloom.plugins.tasks.ner.heads import NEIGHBOURS
from taskloom.plugins.tasks.ner.words import Shape, shape_of, words_of

Numbers = NDArray[np.int64]

OVERLAP = 4
"""Neighbouring windows share this part of a window: a word then has an eighth of one, or the text's own end, on each side."""
AT_THE_END = 1_000_000
"""How far a token is from the edge of a window that is the edge of the text."""


@dataclass(frozen=True)
class EncodedWords:
    """`windows` of N texts, and their words end to end: `tokens` [W], the place among the windows' tokens of the first token
    of each word, in the window where it is most central; `shapes` [W, 2 * NEIGHBOURS + 1] of it and its neighbours; `spans`
    [W, 2], where it is in its text; `counts` [N]. A word that the tokenizer drops (it has no character that it keeps) is
    left out."""

    windows: EncodedWindows
    tokens: Tensor
    shapes: Tensor
    spans: Tensor
    counts: Tensor


def encode_words(tokenizer: TextTokenizer, texts: Sequence[str]) -> EncodedWords:
    windows = tokenizer.windows(texts, overlap=max(1, tokenizer.max_length // OVERLAP))
    ends = windows.lengths.cumsum(0).tolist()
    starts = [0, *ends[:-1]]
    offsets: Numbers = windows.offsets.numpy()
    mine: list[list[tuple[int, int]]] = [[] for _ in texts]
    for owner, start, end in zip(windows.owner.tolist(), starts, ends, strict=True):
        mine[owner].append((start, end))
    tokens, shapes, spans, counts = [], [], [], []
    for text, stretches in zip(texts, mine, strict=True):
        words: Numbers = np.array(words_of(text), dtype=np.int64).reshape(-1, 2)
        chosen = _first_tokens(words, offsets, stretches)
        kept = chosen >= 0
        tokens.append(chosen[kept])
        spans.append(words[kept])
        shapes.append(_shapes(text, words[kept]))
        counts.append(int(kept.sum()))
    return EncodedWords(
        windows=windows,
        tokens=torch.from_numpy(np.concatenate(tokens)),
        shapes=torch.from_numpy(np.concatenate(shapes)),
        spans=torch.from_numpy(np.concatenate(spans)),
        counts=torch.tensor(counts, dtype=torch.long),
    )


def _first_tokens(words: Numbers, offsets: Numbers, stretches: list[tuple[int, int]]) -> Numbers:
    """For each word the first token that shares a character with it, from the window in which that token is furthest from
    an edge; -1 for a word without any."""
    chosen = np.full(len(words), -1, dtype=np.int64)
    margin = np.full(len(words), -1, dtype=np.int64)
    for number, (start, end) in enumerate(stretches):
        inside = start + np.flatnonzero(offsets[start:end, 1] > offsets[start:end, 0])
        if not len(inside):
            continue
        first = np.searchsorted(offsets[inside, 1], words[:, 0], side="right")
        near = np.minimum(first, len(inside) - 1)
        shares = (first < len(inside)) & (offsets[inside[near], 0] < words[:, 1])
        left = near + (AT_THE_END if number == 0 else 0)
        right = len(inside) - 1 - near + (AT_THE_END if number == len(stretches) - 1 else 0)
        room = np.minimum(left, right)
        better = shares & (room > margin)
        chosen[better] = inside[near[better]]
        margin[better] = room[better]
    return chosen


def _shapes(text: str, words: Numbers) -> Numbers:
    beyond = [Shape.NONE] * NEIGHBOURS
    own = [shape_of(text[start:end]) for start, end in words.tolist()]
    row = np.array([*beyond, *own, *beyond, Shape.NONE], dtype=np.int64)  # one more, for texts without words
    return np.lib.stride_tricks.sliding_window_view(row, 2 * NEIGHBOURS + 1)[: len(words)].copy()
