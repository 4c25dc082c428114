"""The masked language model: an encoder and logits over the vocabulary at the gaps, as the one surface of the task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, InvalidInputError, UnsupportedError
from taskloom.core.task import Batch, Example, Outputs, SharedParts
from taskloom.plugins.backbones.loading import BACKBONE_FOLDER, Backbone
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, Layout
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.tasks.fill_mask.curve import CURVE_FILE, LossCurve
from taskloom.plugins.tasks.fill_mask.heads import AUTO_CLASS, head_of, named_network
from taskloom.plugins.tasks.fill_mask.schema import (
    MASK,
    Candidate,
    FillMaskInput,
    FillMaskOutput,
    FillMaskParams,
    Gap,
    SavedFillMask,
)
from taskloom.plugins.tasks.fill_mask.vocabulary import write_vocabulary

IGNORED = -100
IMPOSSIBLE = -1e4
GAP = re.compile(re.escape(MASK))


class FillMaskModel(EncoderTaskModel[FillMaskInput, FillMaskOutput, FillMaskParams]):
    """Fills gaps. `build` takes an encoder to train, `load` reads an artifact's, `import_checkpoint` a Hugging Face model.

    Logits are computed at the gaps alone: a text costs its tokens, not its tokens times the vocabulary.
    """

    saved: SavedFillMask

    def __init__(self, parts: EncoderParts, saved: SavedFillMask, curve: LossCurve | None = None) -> None:
        super().__init__(parts, head_of(parts), saved)
        self.curve = curve
        """How the loss of its training went; what is published shows it."""

    @classmethod
    def build(
        cls,
        *,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        frozen_layers: int = 0,
        max_length: int = 512,
        layout: Layout | None = None,
    ) -> FillMaskModel:
        """A model to train: a named backbone, or one in memory with its head (`heads.new_network`)."""
        whole = named_network(backbone, max_length=max_length) if isinstance(backbone, str) else backbone
        parts = EncoderParts.with_head(whole, frozen_layers=frozen_layers, layout=layout)
        return cls(parts, SavedFillMask(**parts.fields()))

    @classmethod
    def import_checkpoint(cls, name: str, *, max_length: int | None = None, layout: Layout | None = None) -> FillMaskModel:
        """A Hugging Face model with the head that it has (`AutoModelForMaskedLM`, by id or folder)."""
        parts = EncoderParts.import_checkpoint(name, AUTO_CLASS, max_length=max_length, layout=layout)
        return cls(parts, SavedFillMask(**parts.fields()))

    @classmethod
    def load(cls, artifact: Artifact, shared: SharedParts, *, layout: Layout | None = None) -> FillMaskModel:
        try:
            saved = SavedFillMask.model_validate(dict(artifact.manifest.config))
        except ValueError as exc:
            raise ArtifactError(f"{artifact.name} has a manifest that is no masked language model's: {exc}") from exc
        parts = EncoderParts.load(artifact, saved, shared, auto_class=AUTO_CLASS, layout=layout)
        curve = LossCurve.read(artifact.path(CURVE_FILE)) if CURVE_FILE in artifact.manifest.files else None
        return cls(parts, saved.model_copy(update=parts.fields()), curve)

    def save_own(self, folder: Path) -> None:
        """The head is in the checkpoint; beside it are its vocabulary as plain text, and the curve of its training."""
        write_vocabulary(self.parts.tokenizer.processor, folder / BACKBONE_FOLDER)
        if self.curve is not None:
            self.curve.write(folder / CURVE_FILE)

    def remade(self, parts: EncoderParts) -> FillMaskModel:
        raise UnsupportedError(
            "a masked language model answers in tokens of its own vocabulary; those of "
            f"{parts.backbone.info.id!r} can't be compared with them"
        )

    # -- the task model -----------------------------------------------------------------------------------------------

    @property
    def processor(self) -> Any:
        return self.parts.tokenizer.processor

    def encode(self, inputs: Sequence[FillMaskInput]) -> Batch:
        """Beside the tokens: `places` [M], the gaps among all tokens, and `counts` [N], how many each text has.

        Raises `InvalidInputError` for a text that is too long: a gap that is cut off can't be filled."""
        own = str(self.processor.mask_token)
        found = self.parts.tokenizer.encode([item.text.replace(MASK, own) for item in inputs])
        if found.truncated.any():
            raise InvalidInputError(
                f"the text has more than {self.parts.tokenizer.max_length} tokens, all that this model takes at a time; send "
                f"the sentences around the {MASK} alone",
                field="input.text",
            )
        is_gap = found.input_ids == self.processor.mask_token_id
        counts = torch.stack([part.sum() for part in torch.split(is_gap, found.lengths.tolist())])
        asked = torch.tensor([item.text.count(MASK) for item in inputs])
        if not torch.equal(counts, asked):
            raise InvalidInputError(
                f"the text has {own} in it, which this model's tokenizer takes for a gap; write {MASK} for gaps alone",
                field="input.text",
            )
        return {
            "input_ids": found.input_ids,
            "token_type_ids": found.token_type_ids,
            "lengths": found.lengths,
            "places": torch.nonzero(is_gap).squeeze(1),
            "counts": counts,
        }

    def prepare(self, inputs: Sequence[FillMaskInput], params: Sequence[FillMaskParams]) -> Batch:
        for item, asked in zip(inputs, params, strict=True):
            gaps = item.text.count(MASK)
            if asked.targets and len(asked.targets) != gaps:
                raise InvalidInputError(
                    f"targets names {len(asked.targets)} tokens and the text has {gaps} {MASK}; name one for each, in order",
                    field="params.targets",
                )
        return self.encode(inputs)

    def finish(self, hidden: Tensor, batch: Batch) -> Outputs:
        """`logits` [M, V] at the gaps."""
        places = batch["places"]
        weights = next(self.module.head.parameters())
        return {"logits": self.module.head(hidden[places].to(weights.dtype)), "counts": batch["counts"]}

    def decode(
        self, outputs: Outputs, inputs: Sequence[FillMaskInput], params: Sequence[FillMaskParams]
    ) -> list[FillMaskOutput]:
        logits = self._possible(outputs["logits"].float()).log_softmax(-1).exp()
        found = []
        parts = torch.split(logits, outputs["counts"].tolist())
        for scores, item, asked in zip(parts, inputs, params, strict=True):
            best = scores.topk(min(asked.top_k, scores.shape[1]))
            rows = zip(GAP.finditer(item.text), best.values.tolist(), best.indices.tolist(), strict=True)
            targets = [self._id_of(token) for token in asked.targets] or [None] * len(scores)
            gaps = []
            for (gap, values, ids), own, target in zip(rows, scores, targets, strict=True):
                tokens = self.processor.convert_ids_to_tokens(ids)
                gaps.append(
                    Gap(
                        start=gap.start(),
                        end=gap.end(),
                        candidates=tuple(Candidate(token=t, score=min(1.0, v)) for t, v in zip(tokens, values, strict=True)),
                        target_score=None if target is None else min(1.0, float(own[target])),
                    )
                )
            found.append(FillMaskOutput(gaps=tuple(gaps)))
        return found

    def _possible(self, logits: Tensor) -> Tensor:
        """Special tokens fill no gap."""
        special = torch.tensor(self.processor.all_special_ids, device=logits.device)
        return logits.index_fill(-1, special, IMPOSSIBLE)

    def _id_of(self, token: str) -> int | None:
        """The id of a token as the tokenizer writes it, or as text that is one token; None for what is neither."""
        vocabulary: Mapping[str, int] = self.processor.get_vocab()
        special: list[int] = self.processor.all_special_ids
        if token in vocabulary:
            return None if vocabulary[token] in special else vocabulary[token]
        pieces = self.pieces_of(token)
        return pieces[0] if len(pieces) == 1 else None

    def pieces_of(self, word: str) -> list[int]:
        """The ids of a word's tokens; none if the vocabulary can't write all of it."""
        found = self.processor.backend_tokenizer.encode(word, add_special_tokens=False).ids
        return [] if self.processor.unk_token_id in found else list(found)

    # -- training -----------------------------------------------------------------------------------------------------

    def collate(self, examples: Sequence[Example[FillMaskInput]]) -> Batch:
        """`labels` [M]: what is hidden at each gap; -100 where it is more than one token. (Pretraining makes its batches from a
        token file, in `pretraining.py`.)"""
        batch = dict(self.encode([example.input for example in examples]))
        pieces = [self.pieces_of(word) for example in examples for word in example.target.hidden]
        batch["labels"] = torch.tensor([own[0] if len(own) == 1 else IGNORED for own in pieces], dtype=torch.long)
        return batch

    def loss(self, batch: Batch) -> Tensor:
        logits, labels = self.forward(batch)["logits"], batch["labels"]
        count = (labels != IGNORED).sum().clamp(min=1)
        total: Tensor = cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
        mean: Tensor = total / count
        return mean

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        """The choice among all tokens at each gap."""
        logits: Tensor = outputs["logits"]
        tokens = [""] * logits.shape[-1]
        for token, number in self.processor.get_vocab().items():
            tokens[number] = token
        return {"logits": SoftTarget(logits, "classes", outputs["counts"], columns=tuple(tokens))}

    def blank_batch(self, tokens: int) -> dict[str, Any]:
        batch = super().blank_batch(tokens)
        counts = torch.ones_like(batch["lengths"])
        return {**batch, "places": batch["lengths"].cumsum(0) - batch["lengths"], "counts": counts}
