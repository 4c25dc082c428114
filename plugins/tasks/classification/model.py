"""The classification model: an encoder and a head, as the one surface that trainers, optimizers and runtimes see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, DataError, InvalidInputError, UnsupportedError
from taskloom.core.task import Batch, Example, Outputs, SharedParts
from taskloom.plugins._shared.label_scores import best_labels
from taskloom.plugins.backbones.loading import Backbone
from taskloom.plugins.backbones.marking import refuse_unmarkable, shared_types
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, Layout, LoraSettings
from taskloom.plugins.backbones.task_model import HEAD_FILE, EncoderTaskModel, read_head
from taskloom.plugins.tasks.classification.heads import PooledHead, imported_head
from taskloom.plugins.tasks.classification.schema import (
    ClassificationInput,
    ClassificationOutput,
    ClassificationParams,
    SavedClassifier,
)
from taskloom.plugins.tasks.classification.zero_shot import ZeroShotModel

AUTO_CLASS = "AutoModelForSequenceClassification"


def load(artifact: Artifact, shared: SharedParts) -> ClassificationModel | ZeroShotModel:
    """The model of an artifact, of the kind that its manifest says."""
    try:
        saved = SavedClassifier.model_validate(dict(artifact.manifest.config))
    except ValueError as exc:
        raise ArtifactError(f"{artifact.name} has a manifest that is no classifier's: {exc}") from exc
    return (ZeroShotModel if saved.zero_shot else ClassificationModel).load(artifact, saved, shared)


class ClassificationModel(EncoderTaskModel[ClassificationInput, ClassificationOutput, ClassificationParams]):
    """A classifier. `build` makes a new one to train, `load` reads an artifact's, `import_checkpoint` takes over a
    Hugging Face classifier with its head.

    `label_smoothing` and `class_weights` (one per label, or None) belong to the loss and are not saved.
    """

    saved: SavedClassifier

    def __init__(self, parts: EncoderParts, head: nn.Module, saved: SavedClassifier) -> None:
        super().__init__(parts, head, saved)
        self.labels = saved.labels
        self.label_smoothing = 0.0
        self.class_weights: Tensor | None = None
        self._index = {label: i for i, label in enumerate(saved.labels)}

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        labels: Sequence[str],
        *,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        multi_label: bool = False,
        pair: bool = False,
        mark_shared: bool = False,
        adapter: LoraSettings | None = None,
        frozen_layers: int = 0,
        pooling: Literal["mean", "cls"] = "mean",
        dropout: float = 0.1,
        max_length: int = 256,
        layout: Layout | None = None,
    ) -> ClassificationModel:
        """A new classifier with a random head. With `adapter` only it and the head are trained; without, the whole backbone
        but its `frozen_layers` bottom layers. Seed torch first for the same head again."""
        if len(set(labels)) != len(labels) or not labels or "" in labels:
            raise InvalidInputError("labels must be unique, non-empty and at least one")
        if mark_shared and not pair:
            raise InvalidInputError("mark_shared marks what the texts of a pair share; set pair = true, or leave it out")
        parts = EncoderParts.build(backbone, adapter=adapter, frozen_layers=frozen_layers, max_length=max_length, layout=layout)
        if mark_shared:
            refuse_unmarkable(parts)
        saved = SavedClassifier(
            **parts.fields(),
            labels=tuple(labels),
            multi_label=multi_label,
            pair=pair,
            mark_shared=mark_shared,
            pooling=pooling,
            dropout=dropout,
        )
        return cls(parts, PooledHead(parts.hidden_size, len(labels), pooling, dropout), saved)

    @classmethod
    def import_checkpoint(
        cls,
        name: str,
        *,
        pair: bool = False,
        labels: Sequence[str] | None = None,
        max_length: int | None = None,
        layout: Layout | None = None,
    ) -> ClassificationModel:
        """A Hugging Face classifier (`AutoModelForSequenceClassification`, by id or folder) with the head that it has. `labels`
        are names for its logits, in their order; left out, they are the checkpoint's.

        A head of one logit, as cross-encoders have, says how much its only label holds: the score is the logistic function of
        the logit, which is what binary cross-entropy trains. Of a head that was trained by regression it keeps the order, and
        is no probability. Raises `UnsupportedError` for one that predicts several numbers.
        """
        parts = EncoderParts.import_checkpoint(name, AUTO_CLASS, max_length=max_length, layout=layout)
        config = parts.whole.config
        single = config.num_labels == 1
        if config.problem_type == "regression" and not single:
            raise UnsupportedError(f"{name!r} predicts {config.num_labels} numbers; import a classifier")
        names = tuple(str(config.id2label[i]) for i in range(config.num_labels)) if labels is None else tuple(labels)
        if len(set(names)) != config.num_labels or len(names) != config.num_labels:
            raise InvalidInputError(
                f"{name!r} has {config.num_labels} logits; give as many labels, each another: {', '.join(names)}",
                field="labels",
            )
        saved = SavedClassifier(
            **parts.fields(),
            labels=names,
            multi_label=single or config.problem_type == "multi_label_classification",
            pair=pair,
        )
        return cls(parts, imported_head(parts), saved)

    @classmethod
    def load(
        cls, artifact: Artifact, saved: SavedClassifier, shared: SharedParts, *, layout: Layout | None = None
    ) -> ClassificationModel:
        """The model of an artifact, as `EncoderParts.load` puts it together."""
        parts = EncoderParts.load(artifact, saved, shared, auto_class=AUTO_CLASS, layout=layout)
        if saved.form == "imported":
            return cls(parts, imported_head(parts), saved)
        head = PooledHead(parts.hidden_size, len(saved.labels), saved.pooling, saved.dropout)
        read_head(head, artifact.path(HEAD_FILE))
        return cls(parts, head, saved.model_copy(update=parts.fields()))

    def remade(self, parts: EncoderParts) -> ClassificationModel:
        marks = self.saved.mark_shared and parts.tokenizer.has_two_types
        saved = self.saved.model_copy(update={**parts.fields(), "mark_shared": marks})
        return ClassificationModel(parts, PooledHead(parts.hidden_size, len(saved.labels), saved.pooling, saved.dropout), saved)

    # -- the task model -----------------------------------------------------------------------------------------------

    def prepare(self, inputs: Sequence[ClassificationInput], params: Sequence[ClassificationParams]) -> Batch:
        for asked in params:
            if asked.labels is not None:
                raise InvalidInputError(
                    f"this model has {len(self.labels)} labels of its own and takes no others; a zero-shot model does",
                    field="params.labels",
                )
        return self.encode(inputs)

    def encode(self, inputs: Sequence[ClassificationInput]) -> Batch:
        for item in inputs:
            if (item.text_pair is not None) != self.saved.pair:
                asked = "needs `text_pair` beside `text`" if self.saved.pair else "judges one text and takes no `text_pair`"
                raise InvalidInputError(f"this model {asked}", field="input.text_pair")
        pairs = [item.text_pair for item in inputs] if self.saved.pair else None
        tokenizer = self.parts.tokenizer
        found = tokenizer.encode([item.text for item in inputs], pairs)
        types = found.token_type_ids
        if self.saved.mark_shared:
            types = shared_types(found.input_ids, found.lengths, types > 0, tokenizer.letters)
        return {
            "input_ids": found.input_ids,
            "token_type_ids": types,
            "lengths": found.lengths,
            "truncated": found.truncated,
        }

    def finish(self, hidden: Tensor, batch: Batch) -> Outputs:
        return {"logits": self.module.head(hidden, batch["lengths"]), "truncated": batch["truncated"]}

    def decode(
        self,
        outputs: Outputs,
        inputs: Sequence[ClassificationInput],
        params: Sequence[ClassificationParams],
    ) -> list[ClassificationOutput]:
        ranked = best_labels(self.labels, outputs["logits"], params, several=self.saved.multi_label)
        cut = outputs["truncated"].tolist()
        return [ClassificationOutput(labels=labels, truncated=truncated) for labels, truncated in zip(ranked, cut, strict=True)]

    def collate(self, examples: Sequence[Example[ClassificationInput]]) -> Batch:
        if self.saved.multi_label:
            targets = torch.zeros(len(examples), len(self.labels))
            for row, example in enumerate(examples):
                for label in example.target:
                    targets[row, self._label_index(label, example)] = 1.0
        else:
            targets = torch.tensor([self._label_index(example.target, example) for example in examples])
        return {**self.encode([example.input for example in examples]), "targets": targets}

    def _label_index(self, label: str, example: Example[ClassificationInput]) -> int:
        if label not in self._index:
            raise DataError(
                f"label {label!r} is not one of the model's {len(self.labels)} labels", path=example.path, line=example.line
            )
        return self._index[label]

    def loss(self, batch: Batch) -> Tensor:
        logits = self.forward(batch)["logits"].float()
        weights = self.class_weights.to(logits.device) if self.class_weights is not None else None
        targets = batch["targets"].to(logits.device)
        if self.saved.multi_label:
            smooth = targets * (1 - self.label_smoothing) + self.label_smoothing / 2
            return functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weights)
        return functional.cross_entropy(logits, targets, weight=weights, label_smoothing=self.label_smoothing)

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        return {"logits": SoftTarget(outputs["logits"], "flags" if self.saved.multi_label else "classes")}

    def blank_batch(self, tokens: int) -> dict[str, Any]:
        batch = super().blank_batch(tokens)
        return {**batch, "truncated": torch.zeros(len(batch["lengths"]), dtype=torch.bool)}
