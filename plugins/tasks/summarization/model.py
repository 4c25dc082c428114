"""The model that chooses sentences: an encoder and a head that judges sentences and words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, InvalidInputError
from taskloom.core.task import Batch, Example, Outputs, SharedParts
from taskloom.plugins._shared.sentences import Sentence, split_sentences
from taskloom.plugins.backbones.loading import Backbone, load_backbone
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, Layout, LoraSettings
from taskloom.plugins.backbones.task_model import HEAD_FILE, EncoderTaskModel, read_head
from taskloom.plugins.tasks.summarization.heads import Found, SummaryHead
from taskloom.plugins.tasks.summarization.rouge import RougeTokenizer
from taskloom.plugins.tasks.summarization.schema import (
    WRITING_ONLY,
    SavedChooser,
    SummarizationInput,
    SummarizationOutput,
    SummarizationParams,
    SummarySentence,
)
from taskloom.plugins.tasks.summarization.selection import Limits, choose, joined
from taskloom.plugins.tasks.summarization.shortening import Word, shortened
from taskloom.plugins.tasks.summarization.streaming import cut_at_word
from taskloom.plugins.tasks.summarization.targets import ReferenceJudge

SEQUENCES = ("input_ids", "token_type_ids", "lengths")
REDUNDANCY_PENALTY = 0.3
"""Where a request doesn't say: a sentence that says what another one said must be far better than the next."""


class KnownStates(Protocol):
    """The encoder's states of documents that have run through it already."""

    def of(self, documents: Sequence[str]) -> Tensor:
        """What the encoder would give [T, H]."""


class Judge(Protocol):
    """Which sentences and words of a document its references have."""

    def targets(self, example: Example[SummarizationInput], sentences: Sequence[Sentence]) -> tuple[Tensor, Tensor]:
        """The sentences' scores [S], and a flag for each character of the document [C]: 1 in a word that a reference has,
        0 in others, -1 where it is not asked."""


class SentenceChooser(EncoderTaskModel[SummarizationInput, SummarizationOutput, SummarizationParams]):
    """Scores every sentence of a document of any length, and says which parts of it matter. `build` makes a new one to train,
    `load` reads an artifact's.

    `judge`, `states`, `temperature` and `keep_weight` belong to training and are not saved.
    """

    saved: SavedChooser
    splits_batches = True
    judge: Judge | None = None
    states: KnownStates | None = None
    temperature: float = 0.1
    keep_weight: float = 1.0

    @classmethod
    def build(
        cls,
        *,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        adapter: LoraSettings | None = None,
        max_length: int = 256,
        sentences: int = 1,
        shorten: bool = False,
        head_size: int = 256,
        head_layers: int = 1,
        dropout: float = 0.1,
        layout: Layout | None = None,
    ) -> SentenceChooser:
        """A new model with a random head. The backbone stays as it is; with `adapter`, that is trained on it. Seed torch first
        for the same head again."""
        base = load_backbone(backbone, max_length=max_length) if isinstance(backbone, str) else backbone
        frozen = base.model.config.num_hidden_layers if adapter is None else 0
        parts = EncoderParts.build(base, adapter=adapter, frozen_layers=frozen, layout=layout)
        saved = SavedChooser(
            **parts.fields(),
            sentences=sentences,
            shorten=shorten,
            head_size=head_size,
            head_layers=head_layers,
            dropout=dropout,
        )
        return cls(parts, _head(parts, saved), saved)

    @classmethod
    def load(cls, artifact: Artifact, shared: SharedParts, *, layout: Layout | None = None) -> SentenceChooser:
        try:
            saved = SavedChooser.model_validate(dict(artifact.manifest.config))
        except ValueError as exc:
            raise ArtifactError(f"{artifact.name} has a manifest that is no sentence chooser's: {exc}") from exc
        parts = EncoderParts.load(artifact, saved, shared, layout=layout)
        head = _head(parts, saved)
        read_head(head, artifact.path(HEAD_FILE))
        return cls(parts, head, saved.model_copy(update=parts.fields()))

    def remade(self, parts: EncoderParts) -> SentenceChooser:
        saved = self.saved.model_copy(update=parts.fields())
        return SentenceChooser(parts, _head(parts, saved), saved)

    # -- the task model -----------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[SummarizationInput]) -> Batch:
        """Windows of the documents' tokens. Beside them, `sentence` [T] is the number of a token's sentence in the batch, -1
        for special tokens; `spans` [S, 2] and `offsets` [T, 2] are in code points of their document, `words` [T] count its
        words, `documents` [N] its sentences."""
        split = [split_sentences(item.document) for item in inputs]
        found = self.parts.tokenizer.windows([item.document for item in inputs])
        spans = [torch.tensor([(s.start, s.end) for s in sentences], dtype=torch.long).view(-1, 2) for sentences in split]
        counts = torch.tensor([len(sentences) for sentences in split])
        first = counts.cumsum(0) - counts
        owner = torch.repeat_interleave(found.owner, found.lengths)
        sentence = torch.full_like(found.input_ids, -1)
        for i, ends in enumerate(spans):
            mine = ((owner == i) & (found.words >= 0)).nonzero().squeeze(1)
            # A token lies in the first sentence that ends behind it; what has no sentence (format characters) is left out.
            number = torch.searchsorted(ends[:, 1].contiguous(), found.offsets[mine, 0].contiguous(), right=True)
            sentence[mine] = torch.where(number < counts[i], number + first[i], -1)
        return {
            "input_ids": found.input_ids,
            "token_type_ids": found.token_type_ids,
            "lengths": found.lengths,
            "sentence": sentence,
            "offsets": found.offsets,
            "words": found.words,
            "spans": torch.cat(spans),
            "documents": counts,
        }

    def prepare(self, inputs: Sequence[SummarizationInput], params: Sequence[SummarizationParams]) -> Batch:
        """`encode`, once it is certain that no request wants what only models that write can do."""
        for wanted in params:
            for name in WRITING_ONLY:
                if getattr(wanted, name) is not None:
                    raise InvalidInputError(
                        f"`{name}` is for models that write; this one chooses sentences: use max_sentences, max_characters, "
                        "max_tokens, redundancy_penalty, shorten",
                        field=f"params.{name}",
                    )
        return super().prepare(inputs, params)

    def finish(self, hidden: Tensor, batch: Batch) -> Outputs:
        """`logits` [S], `vectors` [S, H] and `keep` [V] as in `Found`, and where the V tokens that count lie."""
        counts = (batch["sentence"] >= 0).nonzero().squeeze(1)
        found: Found = self.module.head(hidden[counts], batch["sentence"][counts], batch["documents"])
        return {
            "logits": found.logits,
            "vectors": found.vectors,
            "keep": found.keep,
            "sentence": batch["sentence"][counts],
            "offsets": batch["offsets"][counts],
            "words": batch["words"][counts],
            "spans": batch["spans"],
            "documents": batch["documents"],
        }

    def decode(
        self, outputs: Outputs, inputs: Sequence[SummarizationInput], params: Sequence[SummarizationParams]
    ) -> list[SummarizationOutput]:
        counts: list[int] = outputs["documents"].tolist()
        tokens = torch.bincount(outputs["sentence"], minlength=sum(counts))
        of_document = torch.split(tokens, counts)
        begin = 0
        found = []
        rows = zip(
            inputs,
            params,
            torch.split(outputs["logits"].float(), counts),
            torch.split(outputs["vectors"], counts),
            torch.split(outputs["spans"], counts),
            of_document,
            strict=True,
        )
        for item, wanted, logits, vectors, spans, sizes in rows:
            end = begin + int(sizes.sum())
            mine = {name: outputs[name][begin:end] for name in ("keep", "sentence", "offsets", "words")}
            document = _Read(item.document, logits.softmax(0), vectors, spans.tolist(), tokens=mine, sizes=sizes.tolist())
            found.append(self._summary(document, wanted))
            begin = end
        return found

    def _summary(self, document: _Read, params: SummarizationParams) -> SummarizationOutput:
        shorten = self.saved.shorten if params.shorten is None else params.shorten
        penalty = REDUNDANCY_PENALTY if params.redundancy_penalty is None else params.redundancy_penalty
        limits = Limits(params.max_sentences or self.saved.sentences, params.max_characters, params.max_tokens)
        limited = limits.characters is not None or limits.tokens is not None
        if shorten and limited:  # what fits depends on what is left of each sentence
            document.shorten(range(len(document.spans)), self.saved.unsaid)
        chosen = choose(document.scores, document.vectors, document.texts, document.sizes, limits=limits, penalty=penalty)
        if not chosen:
            chosen = [int(document.scores.argmax())]
            document.cut(chosen[0], limits)
        if shorten and not limited:
            document.shorten(chosen, self.saved.unsaid)
        sentences = tuple(
            SummarySentence(
                text=document.texts[i], start=document.spans[i][0], end=document.spans[i][1], score=float(document.scores[i])
            )
            for i in chosen
        )
        return SummarizationOutput(summary=joined([sentence.text for sentence in sentences]), sentences=sentences)

    # -- training -----------------------------------------------------------------------------------------------------

    def collate(self, examples: Sequence[Example[SummarizationInput]]) -> Batch:
        """`encode` with targets: `worth` [S], what each sentence is worth as a summary, and `kept` [T], whether a reference
        has the token's word (-1: not asked)."""
        if self.judge is None:  # a finished model that is trained further
            self.judge = ReferenceJudge(RougeTokenizer())
        batch = self.encode([example.input for example in examples])
        worth, kept = [], torch.full_like(batch["input_ids"], -1)
        first = 0
        for example, count in zip(examples, batch["documents"].tolist(), strict=True):
            spans = [Sentence(start, end) for start, end in batch["spans"][first : first + count].tolist()]
            scores, flags = self.judge.targets(example, spans)
            mine = ((batch["sentence"] >= first) & (batch["sentence"] < first + count)).nonzero().squeeze(1)
            kept[mine] = flags[batch["offsets"][mine, 0]]
            worth.append(scores)
            first += count
        known = {} if self.states is None else {"hidden": self.states.of([example.input.document for example in examples])}
        return {**batch, "worth": torch.cat(worth), "kept": kept, **known}

    def loss(self, batch: Batch) -> Tensor:
        """Cross-entropy between softmax(ROUGE / temperature) over a document's sentences and the model's, and binary
        cross-entropy of the words that are asked for."""
        counts = (batch["sentence"] >= 0).nonzero().squeeze(1)
        hidden = batch["hidden"].float() if "hidden" in batch else self.module(*(batch[name] for name in SEQUENCES))
        owner, kept = batch["sentence"][counts], batch["kept"][counts]
        asked = torch.zeros(len(batch["spans"]), dtype=torch.bool, device=owner.device)
        asked[owner[kept >= 0]] = True
        found: Found = self.module.head(hidden[counts], owner, batch["documents"], asked)
        sizes: list[int] = batch["documents"].tolist()
        parts = zip(torch.split(found.logits.float(), sizes), torch.split(batch["worth"], sizes), strict=True)
        sentence_loss = torch.stack(
            [functional.cross_entropy(logits, (worth / self.temperature).softmax(0)) for logits, worth in parts]
        ).mean()
        flags = kept[asked[owner]]
        if self.keep_weight == 0 or len(flags) == 0:
            return sentence_loss
        judged = flags >= 0
        word_loss = functional.binary_cross_entropy_with_logits(found.keep.float()[judged], flags[judged].float())
        return sentence_loss + self.keep_weight * word_loss

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        """Which sentence of each document is best, and which words matter."""
        documents = outputs["documents"]
        tokens = torch.bincount(outputs["sentence"], minlength=int(documents.sum()))
        of_document = torch.stack([part.sum() for part in torch.split(tokens, documents.tolist())])
        return {
            "logits": SoftTarget(outputs["logits"], "choices", documents),
            "keep": SoftTarget(outputs["keep"], "flags", of_document),
        }

    def blank_batch(self, tokens: int) -> dict[str, Any]:
        batch = super().blank_batch(tokens)
        sentences = torch.arange(tokens) // 32
        return {
            **batch,
            "sentence": sentences,
            "offsets": torch.zeros(tokens, 2, dtype=torch.long),
            "words": torch.arange(tokens),
            "spans": torch.zeros(int(sentences[-1]) + 1, 2, dtype=torch.long),
            "documents": sentences[-1:] + 1,
        }


class _Read:
    """A document as the model read it: its sentences, and which of its tokens lie where."""

    def __init__(
        self,
        text: str,
        scores: Tensor,
        vectors: Tensor,
        spans: list[list[int]],
        *,
        sizes: list[int],
        tokens: Mapping[str, Tensor],
    ) -> None:
        self.text, self.scores, self.vectors = text, scores, vectors
        self.spans = [(start, end) for start, end in spans]
        self.sizes = list(sizes)
        self._tokens = tokens
        self._begins = [0, *accumulate(sizes)]
        """Where each sentence's tokens begin, whatever is left of it."""

    @property
    def texts(self) -> list[str]:
        return [self.text[start:end] for start, end in self.spans]

    def shorten(self, numbers: Iterable[int], unsaid: float) -> None:
        """Puts the best part of each of these sentences in its place."""
        for i in numbers:
            begin, end = self._begins[i], self._begins[i + 1]
            part = shortened(self._words(begin, end), unsaid)
            if part is not None:
                offsets = self._tokens["offsets"][begin:end]
                inside = (offsets[:, 0] >= part[0]) & (offsets[:, 1] <= part[1])
                self.spans[i], self.sizes[i] = part, int(inside.sum())

    def _words(self, begin: int, end: int) -> list[Word]:
        """The words of the tokens from `begin` to `end`; a word's tokens lie side by side."""
        keep = self._tokens["keep"][begin:end].float().sigmoid().tolist()
        offsets = self._tokens["offsets"][begin:end].tolist()
        numbers = self._tokens["words"][begin:end].tolist()
        words: list[Word] = []
        first = 0
        for i in range(1, len(numbers) + 1):
            if i == len(numbers) or numbers[i] != numbers[first]:
                start, stop = offsets[first][0], offsets[i - 1][1]
                words.append(Word(self.text[start:stop], start, stop, sum(keep[first:i]) / (i - first)))
                first = i
        return words

    def cut(self, i: int, limits: Limits) -> None:
        """Cuts sentence `i` so that it fits, at a word."""
        start, end = self.spans[i]
        longest = end - start if limits.characters is None else limits.characters
        if limits.tokens is not None and self.sizes[i] > limits.tokens:
            offsets = self._tokens["offsets"][self._begins[i] : self._begins[i + 1]]
            inside = offsets[offsets[:, 0] >= start]
            longest = min(longest, int(inside[limits.tokens - 1, 1]) - start)
        self.spans[i] = (start, start + len(cut_at_word(self.text[start:end], longest)))


def _head(parts: EncoderParts, saved: SavedChooser) -> SummaryHead:
    return SummaryHead(parts.hidden_size, saved.head_size, saved.head_layers, saved.dropout)
