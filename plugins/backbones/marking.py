"""Token types that say which tokens of a text the one before it has too: a context behind a question, the second of a pair.

A small encoder spends much of itself on finding out where a context speaks of what is asked. Marks on the words in common were
worth several points of F1 to readers before pretraining was (Chen et al. 2017, "Reading Wikipedia to Answer Open-Domain
Questions", section 3.2: exact match).
"""

from __future__ import annotations

import torch
from torch import Tensor

from taskloom.core.errors import UnsupportedError
from taskloom.plugins.backbones.parts import EncoderParts


def shared_types(ids: Tensor, lengths: Tensor, second: Tensor, letters: Tensor) -> Tensor:
    """Types [T] of tokens `ids` [T] in sequences of these `lengths` [N]: 1 for tokens of the second text (`second` [T]) that
    the first one has too, and 0 for all others. `letters` [V] says how many letters and digits a token has: one with several
    is marked by itself, one with a single one, such as a Chinese character, together with a neighbour that stands beside it in
    the first text as well, others never."""
    size = len(letters)
    sequence = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    alone = sequence * size + ids
    pairs = alone[:-1] * size + ids[1:]
    within = sequence[:-1] == sequence[1:]
    asks, told = within & ~second[:-1] & ~second[1:], within & second[:-1] & second[1:]
    both = told & (letters[ids[:-1]] > 0) & (letters[ids[1:]] > 0) & torch.isin(pairs, pairs[asks])
    marked = second & (letters[ids] > 1) & torch.isin(alone, alone[~second])
    marked[:-1] |= both
    marked[1:] |= both
    return marked.long()


def refuse_unmarkable(parts: EncoderParts) -> None:
    """Raises `UnsupportedError` for an encoder whose tokens have no second type to mark words by."""
    if not parts.tokenizer.has_two_types:
        raise UnsupportedError(
            f"backbone {parts.backbone.info.id!r} has no second type of tokens to mark words by; leave mark_shared out"
        )
