"""A reader's answers carried over to the tokens of another reader, by the characters of the context that both have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.plugins.tasks.qa.spans import IMPOSSIBLE, null_logits

Numbers = NDArray[np.int64]
Logits = NDArray[np.float64]


def carried_over(outputs: Mapping[str, Any], batch: Mapping[str, Any]) -> Tensor:
    """Start and end logits [S, 2] for the windows of `batch`, from a reader's `outputs` on the same inputs as a whole.

    A start belongs to the first token that holds its first character, an end to the last token that holds its last one;
    what several tokens of this reader say of one token there is added up, as probabilities. What lies outside of a window
    is no answer in it, so it goes to the window's first token. Over its windows this reader's answer to an input is put
    together as in `read_answers`: a place counts with its best logit, no answer with the least.
    """
    logits = outputs["logits"].detach().double().cpu()
    lengths = outputs["lengths"].cpu()
    firsts, sizes = lengths.cumsum(0) - lengths, lengths.tolist()
    null = null_logits(logits, lengths)
    windows: dict[int, list[int]] = {}
    for number, owner in enumerate(outputs["owner"].tolist()):
        windows.setdefault(owner, []).append(number)
    offsets: Numbers = outputs["offsets"].cpu().numpy()
    said: Logits = logits.numpy()
    found = np.full((len(batch["input_ids"]), 2), float(IMPOSSIBLE))
    at = 0
    for size, owner in zip(batch["lengths"].tolist(), batch["owner"].tolist(), strict=True):
        mine = windows[owner]
        places = np.concatenate([np.arange(int(firsts[i]), int(firsts[i]) + sizes[i]) for i in mine])
        least = min(mine, key=lambda i: float(null[i]))
        nothing = said[int(firsts[least])]
        own = batch["offsets"][at : at + size].cpu().numpy()
        found[at : at + size] = _window(said[places], offsets[places], nothing, own)
        at += size
    return torch.from_numpy(found).float()


def _window(said: Logits, offsets: Numbers, nothing: Logits, own: Numbers) -> Logits:
    """[size, 2] for one window whose tokens lie at `own`, from all of a reader's tokens on its input."""
    found = np.full((len(own), 2), float(IMPOSSIBLE))
    found[0] = nothing
    inside = np.flatnonzero(own[:, 0] >= 0)
    told = offsets[:, 0] >= 0
    if not told.any():
        return found
    starts, ends = offsets[told, 0], np.maximum(offsets[told, 1] - 1, offsets[told, 0])
    for column, characters in ((0, starts), (1, ends)):
        best = np.full(int(characters.max()) + 1, -np.inf)
        np.maximum.at(best, characters, said[told, column])
        where = np.flatnonzero(np.isfinite(best))
        token = _first_holders(own[inside], where) if column == 0 else _last_holders(own[inside], where)
        rows = np.where(token >= 0, inside[token], 0) if len(inside) else np.zeros(len(where), dtype=np.int64)
        np.logaddexp.at(found[:, column], rows, best[where])
    return found


def _first_holders(own: Numbers, characters: Numbers) -> Numbers:
    """For each character the first token that holds it; -1 for none. Tokens lie in the order of the text."""
    if not len(own):
        return np.full(len(characters), -1, dtype=np.int64)
    near = np.minimum(np.searchsorted(own[:, 1], characters, side="right"), len(own) - 1)
    return np.where((own[near, 0] <= characters) & (characters < own[near, 1]), near, -1)


def _last_holders(own: Numbers, characters: Numbers) -> Numbers:
    """For each character the last token that holds it; -1 for none."""
    if not len(own):
        return np.full(len(characters), -1, dtype=np.int64)
    near = np.maximum(np.searchsorted(own[:, 0], characters, side="right") - 1, 0)
    return np.where((own[near, 0] <= characters) & (characters < own[near, 1]), near, -1)
