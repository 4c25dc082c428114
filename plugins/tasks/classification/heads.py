"""From hidden states to logits: our own head, and those that Hugging Face checkpoints bring along."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from taskloom.core.errors import UnsupportedError
from taskloom.plugins._shared.pooling import first_of_each, mean_of_each
from taskloom.plugins.backbones.parts import EncoderParts


class PooledHead(nn.Module):
    """Pooling, dropout and one linear layer."""

    def __init__(self, hidden_size: int, classes: int, pooling: str, dropout: float) -> None:
        super().__init__()
        self.pool = mean_of_each if pooling == "mean" else first_of_each
        self.dropout = nn.Dropout(dropout)
        self.linear = nn.Linear(hidden_size, classes)

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        pooled = self.pool(hidden, lengths).to(self.linear.weight.dtype)
        logits: Tensor = self.linear(self.dropout(pooled))
        return logits


class PoolerHead(nn.Module):
    """The head of BERT and its kin: a pooler over the first token, then a linear layer."""

    def __init__(self, checkpoint: Any) -> None:
        super().__init__()
        self.pooler = checkpoint.base_model.pooler
        self.dropout = checkpoint.dropout
        self.classifier = checkpoint.classifier

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        first = first_of_each(hidden, lengths).unsqueeze(1)
        logits: Tensor = self.classifier(self.dropout(self.pooler(first)))
        return logits


class SequenceHead(nn.Module):
    """The head of RoBERTa and ELECTRA: a small network that takes the first token out by itself."""

    def __init__(self, checkpoint: Any) -> None:
        super().__init__()
        self.classifier = checkpoint.classifier

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        logits: Tensor = self.classifier(first_of_each(hidden, lengths).unsqueeze(1))
        return logits


class DistilHead(nn.Module):
    """The head of DistilBERT."""

    def __init__(self, checkpoint: Any) -> None:
        super().__init__()
        self.pre_classifier = checkpoint.pre_classifier
        self.dropout = checkpoint.dropout
        self.classifier = checkpoint.classifier

    def forward(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        first = torch.relu(self.pre_classifier(first_of_each(hidden, lengths)))
        logits: Tensor = self.classifier(self.dropout(first))
        return logits


IMPORTED_HEADS: dict[str, type[nn.Module]] = {
    "bert": PoolerHead,
    "ernie": PoolerHead,
    "roberta": SequenceHead,
    "xlm-roberta": SequenceHead,
    "camembert": SequenceHead,
    "electra": SequenceHead,
    "distilbert": DistilHead,
}


def imported_head(parts: EncoderParts) -> nn.Module:
    """The head of the checkpoint that `parts` were imported from."""
    kind = parts.whole.config.model_type
    if kind not in IMPORTED_HEADS:
        raise UnsupportedError(
            f"{parts.backbone.info.id!r} is a {kind} classifier; heads are imported of: {', '.join(sorted(IMPORTED_HEADS))}. "
            "Train a new head on it as a backbone instead"
        )
    return IMPORTED_HEADS[kind](parts.whole)
