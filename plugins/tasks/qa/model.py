"""The extractive reader: an encoder over question and context windows, and start and end logits on their tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError
from taskloom.core.language import in_script_of
from taskloom.core.task import Batch, Example, Outputs, SharedParts
from taskloom.plugins.backbones.loading import Backbone
from taskloom.plugins.backbones.marking import refuse_unmarkable, shared_types
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, Layout, LoraSettings
from taskloom.plugins.backbones.task_model import HEAD_FILE, EncoderTaskModel, read_head
from taskloom.plugins.backbones.tokenizer import EncodedWindows
from taskloom.plugins.tasks.qa.carrying import carried_over
from taskloom.plugins.tasks.qa.decoding import Piece, read_answers
from taskloom.plugins.tasks.qa.heads import SpanHead, imported_head
from taskloom.plugins.tasks.qa.schema import (
    OVERLAP_TOKENS,
    WINDOW_TOKENS,
    QaInput,
    QaOutput,
    QaParams,
    SavedQa,
)
from taskloom.plugins.tasks.qa.spans import IMPOSSIBLE, log_partition, null_logits, span_logits
from taskloom.plugins.tasks.qa.windows import TrainingWindows, draw_windows, learnable

AUTO_CLASS = "AutoModelForQuestionAnswering"
IMPORTED_WINDOW_TOKENS = 384
IMPORTED_OVERLAP_TOKENS = 128
"""What SQuAD models are usually trained with."""
PIECE_SPANS = 1 << 17
"""Spans whose logits are in memory at a time, about 5 MB; a window of more is a piece of its own."""


class QaModel(EncoderTaskModel[QaInput, QaOutput, QaParams]):
    """A reader. `build` makes a new one to train, `load` reads an artifact's, `import_checkpoint` takes over a Hugging Face
    model with its head. `training` belongs to `collate` and is not saved."""

    saved: SavedQa
    splits_batches = True

    def __init__(self, parts: EncoderParts, head: nn.Module, saved: SavedQa) -> None:
        super().__init__(parts, head, saved)
        self.training = TrainingWindows(length=min(TrainingWindows.length, parts.tokenizer.max_length))

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        *,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        adapter: LoraSettings | None = None,
        frozen_layers: int = 0,
        head: Literal["linear", "mlp"] = "mlp",
        mark_shared: bool = False,
        dropout: float = 0.1,
        max_length: int = WINDOW_TOKENS,
        overlap: int = OVERLAP_TOKENS,
        layout: Layout | None = None,
    ) -> QaModel:
        """A new reader with a random head. With `adapter` only it and the head are trained; without, the whole backbone but
        its `frozen_layers` bottom layers. Seed torch first for the same head again."""
        parts = EncoderParts.build(backbone, adapter=adapter, frozen_layers=frozen_layers, max_length=max_length, layout=layout)
        if mark_shared:
            refuse_unmarkable(parts)
        saved = SavedQa(**parts.fields(), overlap=_at_most(overlap, parts), head=head, dropout=dropout, mark_shared=mark_shared)
        return cls(parts, SpanHead(parts.hidden_size, head, dropout), saved)

    @classmethod
    def import_checkpoint(
        cls,
        name: str,
        *,
        max_length: int = IMPORTED_WINDOW_TOKENS,
        overlap: int = IMPORTED_OVERLAP_TOKENS,
        layout: Layout | None = None,
    ) -> QaModel:
        """A Hugging Face reader (`AutoModelForQuestionAnswering`, by id or folder) with the head that it has."""
        parts = EncoderParts.import_checkpoint(name, AUTO_CLASS, max_length=max_length, layout=layout)
        return cls(parts, imported_head(parts), SavedQa(**parts.fields(), overlap=_at_most(overlap, parts)))

    @classmethod
    def load(cls, artifact: Artifact, shared: SharedParts, *, layout: Layout | None = None) -> QaModel:
        """The model of an artifact, as `EncoderParts.load` puts it together."""
        try:
            saved = SavedQa.model_validate(dict(artifact.manifest.config))
        except ValueError as exc:
            raise ArtifactError(f"{artifact.name} has a manifest that is no reader's: {exc}") from exc
        parts = EncoderParts.load(artifact, saved, shared, auto_class=AUTO_CLASS, layout=layout)
        if saved.form == "imported":
            return cls(parts, imported_head(parts), saved)
        head = SpanHead(parts.hidden_size, saved.head, saved.dropout)
        read_head(head, artifact.path(HEAD_FILE))
        return cls(parts, head, saved.model_copy(update=parts.fields()))

    def remade(self, parts: EncoderParts) -> QaModel:
        marks = self.saved.mark_shared and parts.tokenizer.has_two_types
        fields = {**parts.fields(), "overlap": _at_most(self.saved.overlap, parts), "mark_shared": marks}
        saved = self.saved.model_copy(update=fields)
        return QaModel(parts, SpanHead(parts.hidden_size, saved.head, saved.dropout), saved)

    # -- the task model -----------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[QaInput]) -> Batch:
        """Beside the tokens: `owner` [W], the input that each window is of, and `offsets` [T, 2], the code points of each
        token of the context, -1 for other tokens."""
        found = self.windows(inputs, overlap=self.saved.overlap)
        return {
            "input_ids": found.input_ids,
            "token_type_ids": found.token_type_ids,
            "lengths": found.lengths,
            "owner": found.owner,
            "offsets": found.offsets,
        }

    def windows(self, inputs: Sequence[QaInput], *, overlap: int, max_length: int | None = None) -> EncodedWindows:
        """Windows of the contexts, each behind its question, which is read in the Chinese script of the context."""
        contexts = [item.context for item in inputs]
        questions = [in_script_of(item.question, item.context) for item in inputs]
        tokenizer = self.parts.tokenizer
        found = tokenizer.windows(contexts, questions, overlap=overlap, max_length=max_length)
        if not self.saved.mark_shared:
            return found
        types = shared_types(found.input_ids, found.lengths, found.offsets[:, 0] >= 0, tokenizer.letters)
        return dataclasses.replace(found, token_type_ids=types)

    def finish(self, hidden: Tensor, batch: Batch) -> Outputs:
        kept = {name: batch[name] for name in ("lengths", "owner", "offsets")}
        head = self.module.head
        bias = head.length_bias if isinstance(head, SpanHead) else hidden.new_zeros(1)
        return {"logits": head(hidden), "length_bias": bias, **kept}

    def decode(self, outputs: Outputs, inputs: Sequence[QaInput], params: Sequence[QaParams]) -> list[QaOutput]:
        lengths, owner, offsets = outputs["lengths"], outputs["owner"], outputs["offsets"]
        logits, inside = outputs["logits"].float(), offsets[:, 0] >= 0
        widest = int(lengths.max())
        bias = outputs["length_bias"].detach().float()
        null = null_logits(logits, lengths)
        answers, first, token = [], 0, 0
        for item, wanted, count in zip(inputs, params, torch.bincount(owner, minlength=len(inputs)).tolist(), strict=True):
            pieces = []
            for sizes in lengths[first : first + count].split(max(1, PIECE_SPANS // (wanted.max_answer_tokens * widest))):
                part = slice(token, token + int(sizes.sum()))
                spans = partial(span_logits, logits[part], bias, sizes, inside[part], wanted.max_answer_tokens)
                pieces.append(Piece(offsets[part], spans))
                token = part.stop
            answers.append(read_answers(pieces, float(null[first : first + count].min()), item.context, wanted))
            first += count
        return answers

    def can_learn(self, example: Example[QaInput]) -> bool:
        return learnable(self.windows, example, self.training)

    def collate(self, examples: Sequence[Example[QaInput]]) -> Batch:
        """One window of each row, drawn with torch's generator. The spans to learn are `gold_token`, `gold_reach` (-1 for "no
        answer"), `gold_window` and `gold_weight` [G]; the weights of a window add up to 1."""
        return draw_windows(self.windows, examples, self.training)

    def loss(self, batch: Batch) -> Tensor:
        """Cross entropy of the spans of each window and its null, the answers of several annotators weighing alike: the
        probabilities that `decode` gives for one window. To it come, with half its weight each, those of the starts and of the
        ends alone, without which starts could take from ends whatever their sum leaves free."""
        outputs = self.forward(batch)
        logits = outputs["logits"].float()
        lengths, bias, inside = outputs["lengths"], outputs["length_bias"].float(), outputs["offsets"][:, 0] >= 0
        token, reach, window = batch["gold_token"], batch["gold_reach"], batch["gold_window"]
        first = (lengths.cumsum(0) - lengths)[window]
        nothing, last = reach < 0, token + reach.clamp(min=0)
        spans = span_logits(logits, bias, lengths, inside, self.training.max_answer_tokens)
        null = null_logits(logits, lengths)
        gold = torch.where(nothing, null[window], spans[token, reach.clamp(min=0)])
        total: Tensor = log_partition(spans, null, lengths).sum() - (gold * batch["gold_weight"]).sum()
        for side, marked in ((0, token), (1, last)):
            alone = logits[:, side]
            empty = alone[lengths.cumsum(0) - lengths]
            gold = alone[torch.where(nothing, first, marked)]
            possible = alone.masked_fill(~inside, IMPOSSIBLE).unsqueeze(1)
            total = total + 0.5 * (log_partition(possible, empty, lengths).sum() - (gold * batch["gold_weight"]).sum())
        return total / len(lengths)

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        """Where each window's answer starts and where it ends; its first token stands for "no answer". Windows, not inputs, are
        what has an answer."""
        logits, lengths = outputs["logits"], outputs["lengths"]
        possible = outputs["offsets"][:, 0] >= 0
        possible = possible.index_fill(0, lengths.cumsum(0) - lengths, True)
        return {"logits": SoftTarget(logits.masked_fill(~possible.unsqueeze(1), IMPOSSIBLE), "choices", lengths)}

    def targets_in(self, batch: Batch, outputs: Outputs) -> Mapping[str, SoftTarget]:
        return {"logits": SoftTarget(carried_over(outputs, batch), "choices", batch["lengths"])}

    def blank_batch(self, tokens: int) -> dict[str, Any]:
        batch = super().blank_batch(tokens)
        offsets = torch.full((tokens, 2), -1, dtype=torch.long)
        return {**batch, "owner": torch.zeros(len(batch["lengths"]), dtype=torch.long), "offsets": offsets}


def _at_most(overlap: int, parts: EncoderParts) -> int:
    """An overlap that leaves windows a way forward when the question takes all that it may, half of the window."""
    return min(overlap, parts.tokenizer.max_length // 3)
