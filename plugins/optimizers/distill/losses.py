"""How far a student is from its teacher. Each loss is 0 where they agree."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, kl_div, log_softmax, logsigmoid, mse_loss

from taskloom.core.anatomy import SoftTarget
from taskloom.plugins.backbones.encoder import length_buckets


def soft_loss(student: SoftTarget, teacher: Tensor, temperature: float) -> Tensor:
    """KL(teacher || student) of what both hold for likely, softened by T and multiplied by T^2, so that its gradients are of
    the same size whatever T is (Hinton et al. 2015, https://arxiv.org/abs/1503.02531, section 2.1). The mean over rows (over
    inputs, for `choices`), the sum over what one row has several of. For `vectors`: the squared distance as a share of the
    teacher's squared length.

    `teacher` has the shape of `student.values`; where a row of it is NaN, nothing was said of that row, and it is left out
    (not of `choices`).
    """
    values: Tensor = student.values.float()
    taught = teacher.float()
    said = ~taught.isnan().reshape(len(taught), -1).any(1) if len(taught) else None
    if said is not None and not bool(said.all()):
        values, taught = values[said], taught[said]
    if student.kind == "vectors":
        return (values - taught).square().sum() / taught.square().sum().clamp(min=1e-12)
    if not len(values):
        return values.sum()
    own, wanted = values / temperature, taught / temperature
    if student.kind == "classes":
        width = values.shape[-1]
        logs, shares = log_softmax(own, -1).reshape(-1, width), log_softmax(wanted, -1).reshape(-1, width)
        loss = kl_div(logs, shares, reduction="batchmean", log_target=True)
    elif student.kind == "choices":
        logs, shares = (log_shares(rows, student.sizes) for rows in (own, wanted))
        loss = (shares.exp() * (shares - logs)).sum() / len(student.sizes)
    else:
        yes = wanted.sigmoid() * (logsigmoid(wanted) - logsigmoid(own))
        no = (-wanted).sigmoid() * (logsigmoid(-wanted) - logsigmoid(-own))
        loss = (yes + no).sum() / len(values)
    return loss * temperature**2


def log_shares(logits: Tensor, sizes: Tensor) -> Tensor:
    """Log-softmax over the rows of each input: [M, ...] of inputs that have `sizes` [N] rows each."""
    owner = torch.repeat_interleave(torch.arange(len(sizes), device=logits.device), sizes.to(logits.device))
    where = owner.view(-1, *[1] * (logits.ndim - 1)).expand_as(logits)
    top = logits.new_full((len(sizes), *logits.shape[1:]), -torch.inf).scatter_reduce(0, where, logits.detach(), "amax")
    shifted = logits - top[owner]
    total = logits.new_zeros(top.shape).index_add(0, owner, shifted.exp())
    return shifted - total.log()[owner]


def hidden_loss(student: Tensor, teacher: Tensor, form: str) -> Tensor:
    """Of states [T, H]: 1 - cosine (Sanh et al. 2019, https://arxiv.org/abs/1910.01108, section 2), or the mean squared
    difference (Jiao et al. 2020, https://arxiv.org/abs/1909.10351, eq. 8); the mean over tokens."""
    if form == "mse":
        return mse_loss(student.float(), teacher.float())
    return 1 - cosine_similarity(student.float(), teacher.float(), dim=-1).mean()


def relation_loss(student: Tensor, teacher: Tensor, lengths: Tensor, heads: int) -> Tensor:
    """KL between the self-attention relations of vectors of the same kind (queries, keys or values), [T, W] of N sequences that
    lie end to end (Wang et al. 2020, https://arxiv.org/abs/2012.15828, eqs. 6 to 8): the softmax of their scaled inner products
    in each of so many relation heads. The mean over heads and tokens; the widths W may differ."""
    heads = shared_heads(student.shape[1], teacher.shape[1], heads)
    sizes: list[int] = lengths.tolist()
    own, wanted = torch.split(student.float(), sizes), torch.split(teacher.float(), sizes)
    total = student.new_zeros((), dtype=torch.float32)
    for bucket in length_buckets(sizes):
        real = torch.tensor([sizes[i] for i in bucket], device=student.device)
        inside = torch.arange(int(real.max()), device=student.device) < real.unsqueeze(1)
        logs, taught = (_relations([rows[i] for i in bucket], inside, heads) for rows in (own, wanted))
        distance = (taught.exp() * (taught - logs)).masked_fill(~inside[:, None, None, :], 0.0).sum(-1)
        total = total + distance.masked_fill(~inside[:, None, :], 0.0).sum()
    return total / (heads * max(1, len(student)))


def _relations(rows: Sequence[Tensor], inside: Tensor, heads: int) -> Tensor:
    """Log-shares [N, heads, L, L] of sequences [L_i, W] padded to L."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), True)
    parts = padded.view(*padded.shape[:2], heads, -1).transpose(1, 2)
    products = parts @ parts.transpose(2, 3) / parts.shape[-1] ** 0.5
    return log_softmax(products.masked_fill(~inside[:, None, None, :], -1e4), -1)


def shared_heads(one: int, other: int, most: int) -> int:
    """The largest number of heads, at most `most`, that both widths can be divided into."""
    return next(heads for heads in range(most, 0, -1) if one % heads == 0 and other % heads == 0)
