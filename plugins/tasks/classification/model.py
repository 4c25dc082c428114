"""The classification model: an encoder and a head, as the one surface that trainers, optimizers and runtimes see."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from taskloom.core.artifact import Artifact, BackboneInfo
from taskloom.core.errors import ArtifactError, DataError, InvalidInputError, UnsupportedError
from taskloom.core.task import Batch, Example, Outputs, SharedParts, TaskModel
from taskloom.plugins.backbones.adapters import add_adapter, load_adapter, save_adapter
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.loading import Backbone, load_backbone, save_backbone
from taskloom.plugins.backbones.packing import row_length
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, Layout, LoraSettings
from taskloom.plugins.tasks.classification.heads import PooledHead, imported_head
from taskloom.plugins.tasks.classification.schema import (
    ClassificationInput,
    ClassificationOutput,
    ClassificationParams,
    LabelScore,
    SavedClassifier,
)

HEAD_FILE = "head.safetensors"
ADAPTER_FOLDER = "adapter"
BACKBONE_FOLDER = "backbone"
MULTI_LABEL_THRESHOLD = 0.5


class TextClassifier(nn.Module):
    """Encoder, then head; nothing else, so that several heads can stand on one encoder."""

    def __init__(self, encoder: TextEncoder, head: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, lengths: Tensor) -> Tensor:
        """Logits [N, classes] of a ragged batch."""
        hidden = self.encoder(input_ids, token_type_ids, lengths)
        return cast("Tensor", self.head(hidden, lengths))


class ClassificationModel(TaskModel[ClassificationInput, ClassificationOutput, ClassificationParams]):
    """A classifier. `build` makes a new one to train, `load` reads an artifact's, `import_checkpoint` takes over a
    Hugging Face classifier with its head.

    `label_smoothing` and `class_weights` (one per label, or None) belong to the loss and are not saved.
    """

    module: TextClassifier

    def __init__(
        self, backbone: Backbone, head: nn.Module, saved: SavedClassifier, *, adapted: Any = None, layout: Layout | None = None
    ) -> None:
        self._backbone = backbone
        self._adapted = adapted
        self.saved = saved
        self.labels = saved.labels
        self.backbone = backbone.info
        self.module = TextClassifier(TextEncoder(backbone, layout), head)
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
        adapter: LoraSettings | None = None,
        frozen_layers: int = 0,
        pooling: str = "mean",
        dropout: float = 0.1,
        max_length: int = 256,
        layout: Layout | None = None,
    ) -> ClassificationModel:
        """A new classifier with a random head. With `adapter` only it and the head are trained; without, the whole backbone
        but its `frozen_layers` bottom layers. Seed torch first for the same head again."""
        if len(set(labels)) != len(labels) or not labels or "" in labels:
            raise InvalidInputError("labels must be unique, non-empty and at least one")
        base = load_backbone(backbone, max_length=max_length) if isinstance(backbone, str) else backbone
        freeze_bottom(base.model, frozen_layers)
        adapted = add_adapter(base, adapter) if adapter is not None else None
        unchanged = adapted is not None or not any(p.requires_grad for p in base.model.parameters())
        saved = SavedClassifier(
            form="adapter" if unchanged else "full",
            labels=tuple(labels),
            multi_label=multi_label,
            pair=pair,
            pooling=cast("Any", pooling),
            dropout=dropout,
            max_length=base.max_length,
            backbone=base.info.id,
            backbone_digest=base.info.digest,
            backbone_licence=base.info.licence,
            has_adapter=adapted is not None,
        )
        head = PooledHead(base.hidden_size, len(labels), pooling, dropout)
        return cls(base, head, saved, adapted=adapted, layout=layout)

    @classmethod
    def import_checkpoint(
        cls, name: str, *, pair: bool = False, max_length: int | None = None, layout: Layout | None = None
    ) -> ClassificationModel:
        """A Hugging Face classifier (`AutoModelForSequenceClassification`, by id or folder) with the head that it has."""
        checkpoint = load_backbone(name, max_length=max_length, with_head=True)
        config = checkpoint.model.config
        if config.problem_type == "regression":
            raise UnsupportedError(f"{name!r} predicts a number; import a classifier")
        saved = SavedClassifier(
            form="imported",
            labels=tuple(str(config.id2label[i]) for i in range(config.num_labels)),
            multi_label=config.problem_type == "multi_label_classification",
            pair=pair,
            max_length=checkpoint.max_length,
            backbone=checkpoint.info.id,
            backbone_digest=checkpoint.info.digest,
        )
        return cls._with_own_head(checkpoint, saved, layout)

    @classmethod
    def load(cls, artifact: Artifact, shared: SharedParts, *, layout: Layout | None = None) -> ClassificationModel:
        """The model of an artifact. An adapter is merged into the backbone: it costs nothing then, and saving such a model
        saves all of it."""
        try:
            saved = SavedClassifier.model_validate(dict(artifact.manifest.config))
        except ValueError as exc:
            raise ArtifactError(f"{artifact.name} has a manifest that is no classifier's: {exc}") from exc
        info = BackboneInfo(id=saved.backbone, digest=saved.backbone_digest, licence=saved.backbone_licence)
        if saved.form == "adapter":
            base = load_backbone(saved.backbone, max_length=saved.max_length, expect=info)
            if saved.has_adapter:
                load_adapter(base, artifact.folder / ADAPTER_FOLDER)
        else:
            folder = str(artifact.folder / BACKBONE_FOLDER)
            base = load_backbone(folder, dtype="auto", max_length=saved.max_length, with_head=saved.form == "imported")
        base.info = info
        if saved.form == "imported":
            return cls._with_own_head(base, saved, layout)
        head = PooledHead(base.hidden_size, len(saved.labels), saved.pooling, saved.dropout)
        read_head(head, artifact.path(HEAD_FILE))
        # A merged backbone is no longer the named one: what is saved from now on must hold it.
        form = "full" if saved.has_adapter else saved.form
        return cls(base, head, saved.model_copy(update={"form": form, "has_adapter": False}), layout=layout)

    @classmethod
    def _with_own_head(cls, checkpoint: Backbone, saved: SavedClassifier, layout: Layout | None) -> ClassificationModel:
        head = imported_head(checkpoint)
        whole = checkpoint.model
        encoder = Backbone(checkpoint.info, whole.base_model, checkpoint.tokenizer)
        model = cls(encoder, head, saved, layout=layout)
        model._whole = whole
        return model

    _whole: Any = None
    """The checkpoint that an imported head came in; it shares every weight with `module` and is what is saved."""

    # -- the task model -----------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[ClassificationInput]) -> Batch:
        for item in inputs:
            if (item.text_pair is not None) != self.saved.pair:
                asked = "needs `text_pair` beside `text`" if self.saved.pair else "judges one text and takes no `text_pair`"
                raise InvalidInputError(f"this model {asked}", field="input.text_pair")
        pairs = [item.text_pair for item in inputs] if self.saved.pair else None
        found = self._backbone.tokenizer.encode([item.text for item in inputs], pairs)
        return {
            "input_ids": found.input_ids,
            "token_type_ids": found.token_type_ids,
            "lengths": found.lengths,
            "truncated": found.truncated,
        }

    def forward(self, batch: Batch) -> Outputs:
        logits = self.module(batch["input_ids"], batch["token_type_ids"], batch["lengths"])
        return {"logits": logits, "truncated": batch["truncated"]}

    def decode(
        self,
        outputs: Outputs,
        inputs: Sequence[ClassificationInput],
        params: Sequence[ClassificationParams],
    ) -> list[ClassificationOutput]:
        logits = outputs["logits"].float()
        scores = logits.sigmoid() if self.saved.multi_label else logits.softmax(-1)
        ranked = scores.sort(dim=-1, descending=True, stable=True)
        floor = MULTI_LABEL_THRESHOLD if self.saved.multi_label else 0.0
        found = []
        rows = zip(ranked.values.tolist(), ranked.indices.tolist(), outputs["truncated"].tolist(), params, strict=True)
        for values, indices, truncated, wanted in rows:
            threshold = floor if wanted.threshold is None else wanted.threshold
            top = slice(0, wanted.top_k)
            best = tuple(
                LabelScore(label=self.labels[i], score=score)
                for score, i in zip(values[top], indices[top], strict=True)
                if score >= threshold
            )
            found.append(ClassificationOutput(labels=best, truncated=bool(truncated)))
        return found

    def save(self, folder: Path) -> Mapping[str, Any]:
        if self.saved.form == "imported":
            save_backbone(self._backbone, folder / BACKBONE_FOLDER, self._whole)
            return self.saved.model_dump(mode="json")
        from safetensors.torch import save_file

        head = {name: tensor.detach().cpu().contiguous() for name, tensor in self.module.head.state_dict().items()}
        save_file(head, folder / HEAD_FILE)
        if self._adapted is not None:
            save_adapter(self._adapted, self._backbone, folder / ADAPTER_FOLDER)
        elif self.saved.form == "full":
            save_backbone(self._backbone, folder / BACKBONE_FOLDER)
        return self.saved.model_dump(mode="json")

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

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, Any]:
        return {"logits": outputs["logits"]}

    def warm_up(self, max_cost: int) -> Iterator[Batch]:
        """One batch for each length that a packed row can have: what is built per shape is built here."""
        longest = self._backbone.max_length
        for total in sorted({row_length(tokens) for tokens in range(1, max_cost + 1)}):
            sizes = torch.tensor([longest] * (total // longest) + ([total % longest] if total % longest else []))
            ids = torch.full((total,), self.module.encoder.pad_token_id, dtype=torch.long)
            yield {
                "input_ids": ids,
                "token_type_ids": torch.zeros_like(ids),
                "lengths": sizes,
                "truncated": torch.zeros(len(sizes), dtype=torch.bool),
            }


def freeze_bottom(model: Any, layers: int) -> None:
    """Stops the training of a backbone's embeddings and its bottom `layers`; 0 freezes nothing."""
    if layers == 0:
        return
    stack = next((module for module in model.modules() if isinstance(module, nn.ModuleList)), None)
    if stack is None or layers > len(stack):
        raise InvalidInputError(f"frozen_layers is {layers}; the backbone has {0 if stack is None else len(stack)} layers")
    model.get_input_embeddings().requires_grad_(False)
    embeddings = getattr(model, "embeddings", None)
    if embeddings is not None:
        embeddings.requires_grad_(False)
    for layer in stack[:layers]:
        layer.requires_grad_(False)
    if layers == len(stack):
        model.requires_grad_(False)


def read_head(head: nn.Module, path: Path) -> None:
    from safetensors.torch import load_file

    try:
        head.load_state_dict(load_file(path))
    except (RuntimeError, OSError, ValueError) as exc:
        raise ArtifactError(f"{path.name} is not this model's head: {str(exc).splitlines()[0]}") from exc
