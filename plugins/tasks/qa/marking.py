"""Token types that say which tokens of a context its question has too.

A small encoder spends much of itself on finding out where a context speaks of what is asked. Marks on the words in common were
worth several points of F1 to readers before pretraining was (Chen et al. 2017, "Reading Wikipedia to Answer Open-Domain
Questions", section 3.2: exact match).
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from taskloom.plugins.backbones.tokenizer import EncodedWindows


def mark_shared(found: EncodedWindows, letters: Tensor) -> EncodedWindows:
    """The windows with type 1 for tokens of the context that the question has too, and 0 for all others. `letters` [V] says how
    many letters and digits a token has: one with several is marked by itself, one with a single one, such as a Chinese
    character, together with a neighbour that stands beside it in the question as well, others never."""
    ids, size = found.input_ids, len(letters)
    window = torch.repeat_interleave(torch.arange(len(found.lengths)), found.lengths)
    inside = found.offsets[:, 0] >= 0
    alone = window * size + ids
    pairs = alone[:-1] * size + ids[1:]
    within = window[:-1] == window[1:]
    asks, told = within & ~inside[:-1] & ~inside[1:], within & inside[:-1] & inside[1:]
    both = told & (letters[ids[:-1]] > 0) & (letters[ids[1:]] > 0) & torch.isin(pairs, pairs[asks])
    marked = inside & (letters[ids] > 1) & torch.isin(alone, alone[~inside])
    marked[:-1] |= both
    marked[1:] |= both
    return dataclasses.replace(found, token_type_ids=marked.long())
