"""The relation model: an encoder over marked texts and a head, as the one surface that all who use a model see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, ConfigError, DataError, InvalidInputError
from taskloom.core.task import Batch, Example, Outputs, SharedParts
from taskloom.plugins._shared.label_scores import best_labels
from taskloom.plugins.backbones.loading import Backbone
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, Layout, LoraSettings
from taskloom.plugins.backbones.task_model import HEAD_FILE, EncoderTaskModel, read_head
from taskloom.plugins.tasks.relation.heads import PairHead
from taskloom.plugins.tasks.relation.marking import MarkedBatch, Marking
from taskloom.plugins.tasks.relation.schema import (
    RelationInput,
    RelationOutput,
    RelationParams,
    RelationScore,
    SavedRelation,
    mirrored,
    relation_of,
)


class RelationModel(EncoderTaskModel[RelationInput, RelationOutput, RelationParams]):
    """A relation classifier. `build` makes a new one to train, `load` reads an artifact's. `label_smoothing` belongs to the
    loss and is not saved."""

    saved: SavedRelation

    def __init__(self, parts: EncoderParts, head: nn.Module, saved: SavedRelation) -> None:
        super().__init__(parts, head, saved)
        self.labels = saved.labels
        self.label_smoothing = 0.0
        self._index = {label: i for i, label in enumerate(saved.labels)}
        self._mirror = torch.tensor([self._index.get(mirrored(label), i) for i, label in enumerate(saved.labels)])

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        labels: Sequence[str],
        *,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        uncounted: Sequence[str] = (),
        in_text_order: bool = False,
        markers: tuple[str, str] = ("$", "#"),
        adapter: LoraSettings | None = None,
        frozen_layers: int = 0,
        head_size: int = 256,
        dropout: float = 0.1,
        max_length: int = 128,
        layout: Layout | None = None,
    ) -> RelationModel:
        """A new classifier with a random head. With `adapter` only it and the head are trained; without, the whole backbone
        but its `frozen_layers` bottom layers. Seed torch first for the same head again."""
        _check_labels(labels, uncounted, in_text_order)
        parts = EncoderParts.build(backbone, adapter=adapter, frozen_layers=frozen_layers, max_length=max_length, layout=layout)
        _check_markers(parts, markers)
        saved = SavedRelation(
            **parts.fields(),
            labels=tuple(labels),
            uncounted=tuple(uncounted),
            in_text_order=in_text_order,
            markers=markers,
            head_size=head_size,
            dropout=dropout,
        )
        return cls(parts, PairHead(parts.hidden_size, len(labels), head_size, dropout), saved)

    @classmethod
    def load(cls, artifact: Artifact, shared: SharedParts, *, layout: Layout | None = None) -> RelationModel:
        """The model of an artifact, as `EncoderParts.load` puts it together."""
        try:
            saved = SavedRelation.model_validate(dict(artifact.manifest.config))
        except ValueError as exc:
            raise ArtifactError(f"{artifact.name} has a manifest that is no relation classifier's: {exc}") from exc
        parts = EncoderParts.load(artifact, saved, shared, layout=layout)
        head = PairHead(parts.hidden_size, len(saved.labels), saved.head_size, saved.dropout)
        read_head(head, artifact.path(HEAD_FILE))
        return cls(parts, head, saved.model_copy(update=parts.fields()))

    def remade(self, parts: EncoderParts) -> RelationModel:
        """Raises `ConfigError` for a backbone whose vocabulary lacks the markers."""
        _check_markers(parts, self.saved.markers)
        saved = self.saved.model_copy(update=parts.fields())
        return RelationModel(parts, PairHead(parts.hidden_size, len(saved.labels), saved.head_size, saved.dropout), saved)

    # -- the task model -----------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[RelationInput]) -> Batch:
        """Beside the tokens: the places of `MarkedBatch`, and `turned` [N], whether head and tail were exchanged to stand in
        the order of the text."""
        heads = [(item.head.start, item.head.end) for item in inputs]
        tails = [(item.tail.start, item.tail.end) for item in inputs]
        turned = [self.saved.in_text_order and tail < head for head, tail in zip(heads, tails, strict=True)]
        for i in (i for i, turn in enumerate(turned) if turn):
            heads[i], tails[i] = tails[i], heads[i]
        marking = Marking(self.parts.tokenizer, self.saved.markers)
        marked = MarkedBatch.of(marking.mark([item.text for item in inputs], heads, tails))
        return {**asdict(marked), "turned": torch.tensor(turned, dtype=torch.bool)}

    def finish(self, hidden: Tensor, batch: Batch) -> Outputs:
        entities = [(batch[f"{entity}_at"], batch[f"{entity}_sizes"]) for entity in ("head", "tail")]
        logits = self.module.head(hidden, batch["lengths"], *entities)
        turned = logits.index_select(1, self._mirror.to(logits.device))
        logits = torch.where(batch["turned"].unsqueeze(1), turned, logits)
        return {"logits": logits, "truncated": batch["truncated"]}

    def decode(
        self, outputs: Outputs, inputs: Sequence[RelationInput], params: Sequence[RelationParams]
    ) -> list[RelationOutput]:
        ranked = best_labels(self.labels, outputs["logits"], params, several=False)
        found = []
        for labels, truncated in zip(ranked, outputs["truncated"].tolist(), strict=True):
            told = []
            for item in labels:
                relation, direction = relation_of(item.label)
                told.append(RelationScore(label=item.label, score=item.score, relation=relation, direction=direction))
            found.append(RelationOutput(labels=tuple(told), truncated=truncated))
        return found

    def collate(self, examples: Sequence[Example[RelationInput]]) -> Batch:
        targets = torch.tensor([self._label_index(example) for example in examples])
        return {**self.encode([example.input for example in examples]), "targets": targets}

    def _label_index(self, example: Example[RelationInput]) -> int:
        if example.target not in self._index:
            raise DataError(
                f"{example.path}, line {example.line}: relation {example.target!r} is none of the model's {len(self.labels)}",
                path=example.path,
                line=example.line,
            )
        return self._index[example.target]

    def loss(self, batch: Batch) -> Tensor:
        logits = self.forward(batch)["logits"].float()
        return functional.cross_entropy(logits, batch["targets"].to(logits.device), label_smoothing=self.label_smoothing)

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        return {"logits": SoftTarget(outputs["logits"], "classes")}

    def blank_batch(self, tokens: int) -> dict[str, Any]:
        """Entities of one token, the first of each sequence."""
        batch = super().blank_batch(tokens)
        lengths: Tensor = batch["lengths"]
        first, ones, no = lengths.cumsum(0) - lengths, torch.ones_like(lengths), torch.zeros_like(lengths, dtype=torch.bool)
        places = {"head_at": first, "head_sizes": ones, "tail_at": first, "tail_sizes": ones}
        return {**batch, **places, "truncated": no, "turned": no}


def _check_labels(labels: Sequence[str], uncounted: Sequence[str], in_text_order: bool) -> None:
    if len(set(labels)) != len(labels) or not labels or "" in labels:
        raise InvalidInputError("labels must be unique, non-empty and at least one")
    relations = {relation_of(label)[0] for label in labels}
    if strange := sorted(set(uncounted) - relations):
        raise ConfigError(f"uncounted names {strange[0]!r}, which no label is; relations: {', '.join(sorted(relations))}")
    if in_text_order and (alone := [label for label in labels if mirrored(label) not in labels]):
        raise ConfigError(
            f"in_text_order needs each directed label's counterpart: {alone[0]!r} is there without {mirrored(alone[0])!r}; "
            "name all labels in `labels`, or leave in_text_order out"
        )


def _check_markers(parts: EncoderParts, markers: tuple[str, str]) -> None:
    unknown = parts.tokenizer.processor.unk_token_id
    for marker, pieces in zip(markers, parts.tokenizer.pieces(markers), strict=True):
        if not pieces.ids or unknown in pieces.ids:
            raise ConfigError(
                f"the vocabulary of {parts.backbone.info.id!r} has no piece for the marker {marker!r}; set `markers` to two "
                "that it has, such as punctuation that texts seldom use"
            )
