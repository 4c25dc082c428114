"""From hidden states to start and end logits: our own head, and those that Hugging Face checkpoints bring along."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from taskloom.core.errors import UnsupportedError
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.tasks.qa.schema import ANSWER_TOKENS

LENGTH_SLOPE = 0.25
"""How much each further token of an answer takes from its logit before training: four in five answers have 1 to 8 tokens."""


class SpanHead(nn.Module):
    """One or two layers on each token: [T, H] to start and end logits [T, 2]; and `length_bias`, a logit for each length of
    an answer.

    Without it, what is trained on spans learns to favour short ones by start logits that rise along the window and end
    logits that fall, which goes wrong in windows longer than those that it was trained on.
    """

    def __init__(self, hidden_size: int, form: Literal["linear", "mlp"], dropout: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.inner = nn.Linear(hidden_size, hidden_size) if form == "mlp" else None
        self.outer = nn.Linear(hidden_size, 2)
        nn.init.normal_(self.outer.weight, std=0.02)
        nn.init.zeros_(self.outer.bias)
        self.length_bias = nn.Parameter(-LENGTH_SLOPE * torch.arange(ANSWER_TOKENS, dtype=torch.float32))

    def forward(self, hidden: Tensor) -> Tensor:
        hidden = self.dropout(hidden.to(self.outer.weight.dtype))
        if self.inner is not None:
            hidden = nn.functional.gelu(self.inner(hidden))
        logits: Tensor = self.outer(hidden)
        return logits


def imported_head(parts: EncoderParts) -> nn.Module:
    """The head of the checkpoint that `parts` were imported from: a linear layer named `qa_outputs`, in every architecture
    whose span head sees each token by itself."""
    head = getattr(parts.whole, "qa_outputs", None)
    if not isinstance(head, nn.Linear) or head.out_features != 2:
        kind = type(parts.whole).__name__
        raise UnsupportedError(
            f"{parts.backbone.info.id!r} is a {kind} whose head is not one layer of start and end logits; train a new head on "
            "it as a backbone instead"
        )
    return head
