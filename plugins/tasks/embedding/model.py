"""The embedding model: an encoder and pooling, as the one surface that trainers, optimizers and runtimes see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, InvalidInputError, UnsupportedError
from taskloom.core.task import Batch, Example, Outputs, SharedParts
from taskloom.plugins.backbones.loading import Backbone
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, Layout, LoraSettings
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.tasks.embedding.contrast import Contrast, contrastive_loss
from taskloom.plugins.tasks.embedding.heads import VectorHead
from taskloom.plugins.tasks.embedding.schema import (
    EmbeddingInput,
    EmbeddingOutput,
    EmbeddingParams,
    Kind,
    Pooling,
    SavedEmbedder,
)


class EmbeddingModel(EncoderTaskModel[EmbeddingInput, EmbeddingOutput, EmbeddingParams]):
    """Texts to vectors of length 1. `build` makes a new one, to train or as its encoder is; `load` reads an artifact's.

    A text that is longer than `max_length` tokens is cut there, and says so: who searches has split documents into passages,
    and a mean over the windows of a long text would be near to nothing in particular.
    """

    saved: SavedEmbedder

    @classmethod
    def build(
        cls,
        *,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        pretrained: bool = False,
        adapter: LoraSettings | None = None,
        frozen_layers: int = 0,
        pooling: Pooling = "mean",
        query_prefix: str = "",
        passage_prefix: str = "",
        temperature: float = 0.05,
        symmetric: bool = True,
        dimensions: Sequence[int] = (),
        max_length: int = 256,
        layout: Layout | None = None,
    ) -> EmbeddingModel:
        """With `adapter` only that is trained; without, the whole backbone but its `frozen_layers` bottom layers. A
        `pretrained` model trains nothing, and its artifact holds nothing but settings. Raises `InvalidInputError` for
        `dimensions` that are no fewer than the encoder has."""
        adapter = None if pretrained else adapter
        parts = EncoderParts.build(backbone, adapter=adapter, frozen_layers=frozen_layers, max_length=max_length, layout=layout)
        if pretrained:
            parts.backbone.model.requires_grad_(False)
            parts.saved = parts.saved.model_copy(update={"form": "adapter"})
        if any(size >= parts.hidden_size for size in dimensions):
            raise InvalidInputError(
                f"dimensions are {list(dimensions)}; a vector of {parts.backbone.info.id!r} has {parts.hidden_size}, and can "
                "be cut to fewer"
            )
        saved = SavedEmbedder(
            **parts.fields(),
            pooling=pooling,
            query_prefix=query_prefix,
            passage_prefix=passage_prefix,
            temperature=temperature,
            symmetric=symmetric,
            dimensions=tuple(dimensions),
        )
        return cls(parts, VectorHead(pooling), saved)

    @classmethod
    def load(cls, artifact: Artifact, shared: SharedParts, *, layout: Layout | None = None) -> EmbeddingModel:
        try:
            saved = SavedEmbedder.model_validate(dict(artifact.manifest.config))
        except ValueError as exc:
            raise ArtifactError(f"{artifact.name} has a manifest that is no embedding model's: {exc}") from exc
        parts = EncoderParts.load(artifact, saved, shared, layout=layout)
        return cls(parts, VectorHead(saved.pooling), saved.model_copy(update=parts.fields()))

    def remade(self, parts: EncoderParts) -> EmbeddingModel:
        """Raises `UnsupportedError` for a backbone of another width: its vectors would lie in another space."""
        if parts.hidden_size != self.parts.hidden_size:
            raise UnsupportedError(
                f"the vectors of this model have {self.parts.hidden_size} numbers, those of {parts.backbone.info.id!r} "
                f"{parts.hidden_size}, so they can't be compared; name a backbone of {self.parts.hidden_size}"
            )
        return EmbeddingModel(parts, VectorHead(self.saved.pooling), self.saved.model_copy(update=parts.fields()))

    def save_own(self, folder: Path) -> None:
        """Pooling has no weights: the manifest's config says all of it."""

    # -- the task model -----------------------------------------------------------------------------------------------

    def prepare(self, inputs: Sequence[EmbeddingInput], params: Sequence[EmbeddingParams]) -> Batch:
        for asked in params:
            if asked.dimensions is not None:
                self._check_size(asked.dimensions)
        return self.encode(inputs)

    def _check_size(self, size: int) -> None:
        whole = self.parts.hidden_size
        if size in (*self.saved.dimensions, whole):
            return
        cut = f"can be cut to {', '.join(map(str, self.saved.dimensions))}" if self.saved.dimensions else "can't be cut"
        raise InvalidInputError(
            f"dimensions is {size}; this model's vectors have {whole} and {cut}: what is left of others says little",
            field="params.dimensions",
        )

    def encode(self, inputs: Sequence[EmbeddingInput]) -> Batch:
        return self._read([(item.text, item.kind) for item in inputs])

    def inputs_read(self, examples: Sequence[Example[EmbeddingInput]]) -> list[EmbeddingInput]:
        """Queries, and the passages that are right and wrong for them: those are what an index is made of."""
        found = super().inputs_read(examples)
        for example in examples:
            passages = (*example.target.positives, *example.target.negatives)
            found += [EmbeddingInput(text=text, kind="passage") for text in passages]
        return found

    def _read(self, texts: Sequence[tuple[str, Kind]]) -> dict[str, Any]:
        prefixes = {"query": self.saved.query_prefix, "passage": self.saved.passage_prefix}
        found = self.parts.tokenizer.encode([prefixes[kind] + text for text, kind in texts])
        return {
            "input_ids": found.input_ids,
            "token_type_ids": found.token_type_ids,
            "lengths": found.lengths,
            "truncated": found.truncated,
        }

    def finish(self, hidden: Tensor, batch: Batch) -> Outputs:
        """`vectors` [N, D]; of a batch made by `collate`, also `sizes`, how many of them each row has."""
        vectors = self.module.head(hidden, batch["lengths"])
        rows = {"sizes": batch["sizes"]} if "sizes" in batch else {}
        return {"vectors": vectors, "truncated": batch["truncated"], **rows}

    def decode(
        self, outputs: Outputs, inputs: Sequence[EmbeddingInput], params: Sequence[EmbeddingParams]
    ) -> list[EmbeddingOutput]:
        vectors: Tensor = outputs["vectors"].float()
        found = []
        for vector, asked, truncated in zip(vectors, params, outputs["truncated"].tolist(), strict=True):
            cut = vector if asked.dimensions is None else normalize(vector[: asked.dimensions], dim=-1)
            found.append(EmbeddingOutput(vector=tuple(cut.tolist()), truncated=truncated))
        return found

    def collate(self, examples: Sequence[Example[EmbeddingInput]]) -> Batch:
        """For each row its query, its positive and its negatives, one after the other; `sizes` [N] says how many."""
        texts: list[tuple[str, Kind]] = []
        for example in examples:
            texts.append((example.input.text, example.input.kind))
            texts += [(passage, "passage") for passage in (example.target.positives[0], *example.target.negatives)]
        contrast = Contrast.of(examples)
        return {
            **self._read(texts),
            "sizes": torch.tensor([2 + len(example.target.negatives) for example in examples], dtype=torch.long),
            "own": contrast.own,
            "right": contrast.right,
            "repeated": contrast.repeated,
        }

    def loss(self, batch: Batch) -> Tensor:
        outputs = self.forward(batch)
        vectors, sizes = outputs["vectors"], outputs["sizes"]
        is_query = torch.zeros(len(vectors), dtype=torch.bool, device=vectors.device)
        is_query[sizes.cumsum(0) - sizes] = True
        with torch.autocast(vectors.device.type, enabled=False):  # bf16 would round cosines to three digits
            return contrastive_loss(
                vectors[is_query],
                vectors[~is_query],
                Contrast(batch["own"], batch["right"], batch["repeated"]),
                temperature=self.saved.temperature,
                symmetric=self.saved.symmetric,
                sizes=self.saved.dimensions,
            )

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        return {"vectors": SoftTarget(outputs["vectors"], "vectors", outputs.get("sizes"))}

    def blank_batch(self, tokens: int) -> dict[str, Any]:
        batch = super().blank_batch(tokens)
        return {**batch, "truncated": torch.zeros(len(batch["lengths"]), dtype=torch.bool)}
