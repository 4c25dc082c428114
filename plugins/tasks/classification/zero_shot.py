"""Labels that nobody trained: a text and the names of labels are embedded by one encoder, and the nearest name is the label."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact
from taskloom.core.errors import InvalidInputError, UnsupportedError
from taskloom.core.task import Batch, Example, Outputs, SharedParts
from taskloom.plugins._shared.label_scores import best_labels
from taskloom.plugins._shared.pooling import mean_of_each
from taskloom.plugins.backbones.loading import Backbone
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, Layout
from taskloom.plugins.backbones.task_model import HEAD_FILE, EncoderTaskModel, read_head
from taskloom.plugins.tasks.classification.schema import (
    ClassificationInput,
    ClassificationOutput,
    ClassificationParams,
    SavedClassifier,
)

FIRST_SCALE = 20.0
STEPS = 60


class SimilarityHead(nn.Module):
    """The cosine of each text with each label name, times a scale that turns cosines into calibrated logits."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(FIRST_SCALE))

    def forward(self, hidden: Tensor, lengths: Tensor, texts: int) -> Tensor:
        """Logits [texts, names] of a batch whose first `texts` sequences are texts, and the others the names of labels."""
        vectors = normalize(mean_of_each(hidden, lengths), dim=-1)
        return self.scale.float() * (vectors[:texts] @ vectors[texts:].T)


class ZeroShotModel(EncoderTaskModel[ClassificationInput, ClassificationOutput, ClassificationParams]):
    """Classifies by the names of labels, which a request may bring along; without any, by the labels that the model has.

    An underscore in a name is read as a blank. One label per text; texts alone, no pairs. What it learns is the scale of its
    scores, by `fit_scale`.
    """

    module: Any
    saved: SavedClassifier

    def __init__(self, parts: EncoderParts, head: SimilarityHead, saved: SavedClassifier) -> None:
        super().__init__(parts, head, saved)
        self.labels = saved.labels

    @classmethod
    def build(
        cls,
        labels: Sequence[str],
        *,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        template: str = "{}",
        max_length: int = 256,
        layout: Layout | None = None,
    ) -> ZeroShotModel:
        """`labels` are those of requests that name none; `template` is what stands around a name, at `{}`."""
        parts = EncoderParts.build(backbone, max_length=max_length, layout=layout)
        parts.backbone.model.requires_grad_(False)
        parts.saved = parts.saved.model_copy(update={"form": "adapter"})
        saved = SavedClassifier(**parts.fields(), labels=tuple(labels), zero_shot=True, template=template)
        return cls(parts, SimilarityHead(), saved)

    @classmethod
    def load(cls, artifact: Artifact, saved: SavedClassifier, shared: SharedParts) -> ZeroShotModel:
        head = SimilarityHead()
        read_head(head, artifact.path(HEAD_FILE))
        parts = EncoderParts.load(artifact, saved, shared)
        return cls(parts, head, saved.model_copy(update=parts.fields()))

    # -- the task model -----------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[ClassificationInput]) -> Batch:
        return self.prepare(inputs, [ClassificationParams()] * len(inputs))

    def prepare(self, inputs: Sequence[ClassificationInput], params: Sequence[ClassificationParams]) -> Batch:
        """The texts, then the name of every label that one of them asks for, once each."""
        for item in inputs:
            if item.text_pair is not None:
                raise InvalidInputError("this model judges one text and takes no `text_pair`", field="input.text_pair")
        names = list(dict.fromkeys(name for asked in params for name in (asked.labels or self.labels)))
        prompts = [self.saved.template.replace("{}", name.replace("_", " ")) for name in names]
        found = self.parts.tokenizer.encode([*(item.text for item in inputs), *prompts])
        return {
            "input_ids": found.input_ids,
            "token_type_ids": found.token_type_ids,
            "lengths": found.lengths,
            "truncated": found.truncated,
            "names": tuple(names),
            "texts": len(inputs),
        }

    def finish(self, hidden: Tensor, batch: Batch) -> Outputs:
        logits = self.module.head(hidden, batch["lengths"], batch["texts"])
        return {"logits": logits, "truncated": batch["truncated"], "names": batch["names"]}

    def decode(
        self, outputs: Outputs, inputs: Sequence[ClassificationInput], params: Sequence[ClassificationParams]
    ) -> list[ClassificationOutput]:
        columns = {name: i for i, name in enumerate(outputs["names"])}
        found = []
        for row, asked in enumerate(params):
            names = list(dict.fromkeys(asked.labels or self.labels))
            logits = outputs["logits"][row, [columns[name] for name in names]]
            (best,) = best_labels(names, logits.unsqueeze(0), [asked], several=False)
            cut = bool(outputs["truncated"][row])
            found.append(ClassificationOutput(labels=best, truncated=cut))
        return found

    def collate(self, examples: Sequence[Example[ClassificationInput]]) -> Batch:
        raise UnsupportedError("a zero-shot model learns the scale of its scores alone; train a classifier on the rows instead")

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        return {"logits": SoftTarget(outputs["logits"])}

    def blank_batch(self, tokens: int) -> dict[str, Any]:
        batch = super().blank_batch(tokens)
        count = len(batch["lengths"])
        return {**batch, "truncated": torch.zeros(count, dtype=torch.bool), "names": (), "texts": count}


def fit_scale(model: ZeroShotModel, logits: Tensor, targets: Tensor) -> float:
    """Sets the scale that makes `targets` [N] likeliest under `logits` [N, names], which were made with the scale that the
    model has: temperature scaling (Guo et al. 2017, https://arxiv.org/abs/1706.04599, section 4.2). Returns the loss."""
    head: SimilarityHead = model.module.head
    cosines = logits / head.scale.detach()
    scale = head.scale.detach().clone().requires_grad_(True)
    optimizer = torch.optim.LBFGS([scale], max_iter=STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = cross_entropy(scale * cosines, targets)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimizer.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.scale.copy_(scale)
        return float(cross_entropy(scale * cosines, targets))
