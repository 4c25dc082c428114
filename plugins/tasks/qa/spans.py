"""Scores of spans: every start with every end within reach, on flat tokens, without a padded copy of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

IMPOSSIBLE = -1e9
"""The logit of a span that can't be; finite, since the gradient of a sum over nothing but -inf is no number."""


def span_logits(logits: Tensor, length_bias: Tensor, lengths: Tensor, inside: Tensor, width: int) -> Tensor:
    """Logits of all spans of a ragged batch: start logit + end logit (Devlin et al. 2019, https://arxiv.org/abs/1810.04805,
    section 4.2) + that of the span's length. `logits` [T, 2] of W windows that lie end to end, `length_bias` [B], whose last
    is that of all longer spans too, `inside` [T] True for tokens that an answer may have.

    Returns [T, K] with K at most `width`: at [t, k] the span of tokens t to t + k; `IMPOSSIBLE` where it would leave its
    window or hold a token that no answer may have.
    """
    total = len(logits)
    width = min(width, int(lengths.max()) if len(lengths) else 1)
    window = torch.repeat_interleave(torch.arange(len(lengths), device=logits.device), lengths)
    end = torch.arange(total, device=logits.device).unsqueeze(1) + torch.arange(width, device=logits.device)
    reach = end.clamp(max=total - 1)
    # Tokens of a context lie in one stretch, so a span with both ends inside, in one window, is inside as a whole.
    possible = (end < total) & (window[reach] == window.unsqueeze(1)) & inside.unsqueeze(1) & inside[reach]
    bias = length_bias[torch.arange(width, device=logits.device).clamp(max=len(length_bias) - 1)]
    return (logits[:, :1] + logits[:, 1][reach] + bias).masked_fill(~possible, IMPOSSIBLE)


def null_logits(logits: Tensor, lengths: Tensor) -> Tensor:
    """The logit of "no answer" of each window [W]: start and end at its first token (section 4.3 of the same paper)."""
    return logits[lengths.cumsum(0) - lengths].sum(-1)


def log_partition(spans: Tensor, null: Tensor, lengths: Tensor) -> Tensor:
    """log of the sum of exp over all spans of a window and its null, for each window [W], from `spans` [T, K]."""
    windows = len(lengths)
    window = torch.repeat_interleave(torch.arange(windows, device=spans.device), lengths)
    per_token = spans.logsumexp(-1)
    top = torch.scatter_reduce(null.detach(), 0, window, per_token.detach(), "amax")
    total = (null - top).exp().index_add(0, window, (per_token - top[window]).exp())
    return top + total.log()
