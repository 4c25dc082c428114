"""Attention by whichever way is faster here: torch's fused kernel, or its two products written out.

The fused kernel of torch's CPU build is made for fp32. In bf16 on a processor without tile registers the plain products, which
oneDNN runs by bf16 instructions, are about twice as fast forwards and 2.5 to 10 times with the gradient (AVX512-BF16, torch
2.13: `python benchmarks/attention.py`). Training takes them in any case, so that a training that goes on in another process
computes as it did before.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import dropout, scaled_dot_product_attention, softmax

from taskloom.plugins._shared.timing import best_seconds

SCORES_AT_ONCE = 1 << 23
"""Scores that are in memory at a time, 16 MB: what a processor's caches hold."""


def attention(
    query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None, dropout_p: float, scale: float | None
) -> Tensor:
    """softmax(Q K^T * scale + mask) V (Vaswani et al. 2017, https://arxiv.org/abs/1706.03762, eq. 1) of [N, heads, L, d] each,
    K and V of any length; `mask` is added to the scores."""
    if query.dtype != torch.bfloat16 or query.device.type != "cpu" or not (torch.is_grad_enabled() or products_are_faster()):
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout_p, scale=scale)
    factor = query.shape[-1] ** -0.5 if scale is None else scale
    at_once = max(1, SCORES_AT_ONCE // (query.shape[1] * query.shape[2] * key.shape[2]))
    found = []
    for start in range(0, len(query), at_once):
        part = slice(start, start + at_once)
        own = mask if mask is None or len(mask) == 1 else mask[part]
        found.append(products(query[part] * factor, key[part], value[part], mask=own, dropout_p=dropout_p))
    return found[0] if len(found) == 1 else torch.cat(found)


def products(query: Tensor, key: Tensor, value: Tensor, *, mask: Tensor | None = None, dropout_p: float = 0.0) -> Tensor:
    """softmax(Q K^T + mask) V, of queries that are scaled already."""
    scores = torch.matmul(query, key.transpose(-1, -2))
    if mask is not None:
        scores = scores + mask
    return torch.matmul(dropout(softmax(scores, dim=-1), dropout_p, training=dropout_p > 0), value)


@lru_cache(maxsize=1)
def products_are_faster() -> bool:
    """Whether the written out products beat the fused kernel in bf16 on this CPU; measured once a process, in milliseconds."""
    generator = torch.Generator().manual_seed(0)  # its own: a training that is under way draws from torch's
    query, key, value = torch.randn(3, 8, 12, 64, 32, generator=generator).to(torch.bfloat16)
    with torch.inference_mode():
        fused_s = best_seconds(lambda: scaled_dot_product_attention(query, key, value))
        products_s = best_seconds(lambda: products(query * 32**-0.5, key, value))
    return products_s < 0.9 * fused_s
