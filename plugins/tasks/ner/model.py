"""The entity recogniser: an encoder and a head, as the one surface that trainers, optimizers and runtimes see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact
from taskloom.core.errors import ArtifactError, InvalidInputError
from taskloom.core.task import Batch, Example, Outputs, SharedParts
from taskloom.plugins.backbones.loading import Backbone
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE, Layout, LoraSettings
from taskloom.plugins.backbones.task_model import HEAD_FILE, EncoderTaskModel, read_head
from taskloom.plugins.tasks.ner.alignment import encode_words
from taskloom.plugins.tasks.ner.chain import ILLEGAL, Chain, padded
from taskloom.plugins.tasks.ner.decoding import Found, best_spans, tagged_spans
from taskloom.plugins.tasks.ner.dictionary import Gazetteer, in_order, reconcile
from taskloom.plugins.tasks.ner.heads import NEIGHBOURS, SpanHead, TagHead, imported_head
from taskloom.plugins.tasks.ner.schema import Entity, Head, NerInput, NerOutput, NerParams, SavedNer, Scheme
from taskloom.plugins.tasks.ner.tags import TagSet
from taskloom.plugins.tasks.ner.targets import Targets, aligned_targets

AUTO_CLASS = "AutoModelForTokenClassification"
NESTED_THRESHOLD = 0.5


class NerModel(EncoderTaskModel[NerInput, NerOutput, NerParams]):
    """An entity recogniser. `build` makes a new one to train, `load` reads an artifact's, `import_checkpoint` takes over a
    Hugging Face token classifier with its head.

    `known_labels` says, for a data file by its path, which labels were looked for in it; files that it lacks have all. It
    belongs to the loss and is not saved.
    """

    saved: SavedNer

    def __init__(self, parts: EncoderParts, head: nn.Module, saved: SavedNer) -> None:
        super().__init__(parts, head, saved)
        self.labels = saved.labels
        self.tags = TagSet(saved.tags, i_may_begin=saved.head == "imported") if saved.tags else None
        self.known_labels: Mapping[str, frozenset[str]] = {}
        self._legal = Chain.legal(self.tags) if self.tags is not None else None
        self._own_terms = Gazetteer(saved.dictionary)

    # -- making one ---------------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        labels: Sequence[str],
        *,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        head: Head = "crf",
        scheme: Scheme = "BIO",
        max_span_words: int = 24,
        span_size: int = 32,
        word_shapes: bool = True,
        adapter: LoraSettings | None = None,
        frozen_layers: int = 0,
        dropout: float = 0.1,
        max_length: int = 128,
        label_map: Mapping[str, str] | None = None,
        dictionary: Mapping[str, str] | None = None,
        layout: Layout | None = None,
    ) -> NerModel:
        """A new recogniser with a random head. With `adapter` only it and the head are trained; without, the whole backbone
        but its `frozen_layers` bottom layers. Seed torch first for the same head again."""
        if len(set(labels)) != len(labels) or not labels or "" in labels:
            raise InvalidInputError("labels must be unique, non-empty and at least one")
        parts = EncoderParts.build(backbone, adapter=adapter, frozen_layers=frozen_layers, max_length=max_length, layout=layout)
        saved = SavedNer(
            **parts.fields(),
            labels=tuple(labels),
            head=head,
            tags=TagSet.of(labels, scheme).tags if head != "span" else (),
            max_span_words=max_span_words,
            span_size=span_size,
            word_shapes=word_shapes,
            dropout=dropout,
            label_map=dict(label_map or {}),
            dictionary=dict(dictionary or {}),
        )
        return cls(parts, _new_head(parts, saved), saved)

    @classmethod
    def import_checkpoint(cls, name: str, *, max_length: int | None = None, layout: Layout | None = None) -> NerModel:
        """A Hugging Face token classifier (`AutoModelForTokenClassification`, by id or folder) with the head and the tags
        (BIO, BIOES or one of their kin) that it has."""
        parts = EncoderParts.import_checkpoint(name, AUTO_CLASS, max_length=max_length, layout=layout)
        config = parts.whole.config
        tags = TagSet(tuple(str(config.id2label[i]) for i in range(config.num_labels)))
        if not tags.labels:
            raise InvalidInputError(f"{name!r} knows no entities; its tags are {', '.join(tags.tags)}")
        saved = SavedNer(**parts.fields(), labels=tags.labels, head="imported", tags=tags.tags)
        return cls(parts, imported_head(parts), saved)

    @classmethod
    def load(cls, artifact: Artifact, shared: SharedParts, *, layout: Layout | None = None) -> NerModel:
        """The model of an artifact, as `EncoderParts.load` puts it together."""
        try:
            saved = SavedNer.model_validate(dict(artifact.manifest.config))
        except ValueError as exc:
            raise ArtifactError(f"{artifact.name} has a manifest that is no entity recogniser's: {exc}") from exc
        parts = EncoderParts.load(artifact, saved, shared, auto_class=AUTO_CLASS, layout=layout)
        if saved.form == "imported":
            return cls(parts, imported_head(parts), saved)
        head = _new_head(parts, saved)
        read_head(head, artifact.path(HEAD_FILE))
        return cls(parts, head, saved.model_copy(update=parts.fields()))

    def remade(self, parts: EncoderParts) -> NerModel:
        """In the place of an imported checkpoint's head, one that judges each word's tag by itself."""
        head: Head = "token" if self.saved.head == "imported" else self.saved.head
        saved = self.saved.model_copy(update={**parts.fields(), "head": head})
        return NerModel(parts, _new_head(parts, saved), saved)

    # -- the task model -----------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[NerInput]) -> Batch:
        found = encode_words(self.parts.tokenizer, [item.text for item in inputs])
        return {
            "input_ids": found.windows.input_ids,
            "token_type_ids": found.windows.token_type_ids,
            "lengths": found.windows.lengths,
            "word_tokens": found.tokens,
            "word_shapes": found.shapes,
            "word_spans": found.spans,
            "word_counts": found.counts,
        }

    def prepare(self, inputs: Sequence[NerInput], params: Sequence[NerParams]) -> Batch:
        for wanted in params:
            self._check_labels(wanted)
        return self.encode(inputs)

    def _check_labels(self, wanted: NerParams) -> None:
        known = dict.fromkeys([*self.labels, *self.saved.dictionary.values(), *wanted.dictionary.values()])
        unknown = [label for label in wanted.labels or () if label not in known]
        if unknown:
            raise InvalidInputError(
                f"params.labels: nothing can be found that is called {', '.join(map(repr, unknown[:5]))}; the labels of the "
                f"model and its dictionaries are {', '.join(known)}",
                field="params.labels",
            )

    def finish(self, hidden: Tensor, batch: Batch) -> Outputs:
        words = hidden[batch["word_tokens"]]
        logits = self.module.head(words, batch["word_shapes"], batch["word_counts"])
        return {"logits": logits, "word_spans": batch["word_spans"], "word_counts": batch["word_counts"]}

    def decode(self, outputs: Outputs, inputs: Sequence[NerInput], params: Sequence[NerParams]) -> list[NerOutput]:
        counts: Tensor = outputs["word_counts"].cpu()
        logits: Tensor = outputs["logits"].detach().float().cpu()
        if self.tags is not None and self._legal is not None:
            with torch.inference_mode():
                found = tagged_spans(logits, counts, self._chain(self._legal).to(logits.device), self.tags)
        else:
            thresholds = [NESTED_THRESHOLD if wanted.threshold is None else wanted.threshold for wanted in params]
            found = best_spans(logits, counts, self.labels, thresholds)
        spans = [part.tolist() for part in torch.split(outputs["word_spans"].cpu(), counts.tolist())]
        rows = zip(inputs, params, found, spans, strict=True)
        return [NerOutput(entities=self._answer(item.text, wanted, row, words)) for item, wanted, row, words in rows]

    def _answer(
        self, text: str, wanted: NerParams, found: Sequence[Found], words: Sequence[Sequence[int]]
    ) -> tuple[Entity, ...]:
        least = wanted.threshold or 0.0
        entities = []
        for span, score in found:
            start, end = words[span.start][0], words[span.end - 1][1]
            if score >= least:
                entities.append(Entity(label=span.label, start=start, end=end, text=text[start:end], score=score))
        if wanted.dictionary or self.saved.dictionary:
            entities = reconcile(entities, self._known_terms(wanted).find(text), nested=self.tags is None)
        return tuple(e for e in in_order(entities) if wanted.labels is None or e.label in wanted.labels)

    def _known_terms(self, wanted: NerParams) -> Gazetteer:
        if not wanted.dictionary and not wanted.ignore_case:
            return self._own_terms
        return Gazetteer({**self.saved.dictionary, **wanted.dictionary}, ignore_case=wanted.ignore_case)

    def _chain(self, legal: Chain) -> Chain:
        """What a flat model's tag sequences weigh beside the words' own logits, where the head is."""
        head = self.module.head
        here = legal.to(next(head.parameters()).device)
        return head.chain(here) if isinstance(head, TagHead) else here

    def collate(self, examples: Sequence[Example[NerInput]]) -> Batch:
        batch = self.encode([example.input for example in examples])
        targets = aligned_targets(self._target_form(), examples, batch["word_spans"], batch["word_counts"], self.known_labels)
        return {**batch, "targets": targets.hits, "weights": targets.weights}

    def _target_form(self) -> Targets:
        widest = 0 if self.tags is not None else self.saved.max_span_words
        return Targets(labels=self.labels, label_map=self.saved.label_map, tags=self.tags, widest=widest)

    def loss(self, batch: Batch) -> Tensor:
        """Per word: the negative log-likelihood of the tags that the data allows (of any sequence of them, for a CRF), or the
        binary cross-entropy of all spans."""
        logits: Tensor = self.forward(batch)["logits"].float()
        targets, counts = batch["targets"], batch["word_counts"]
        words = max(len(logits), 1)
        if self._legal is None:
            each = functional.binary_cross_entropy_with_logits(logits, targets, weight=batch["weights"], reduction="none")
            return each.sum() / words
        allowed = logits.masked_fill(~targets, ILLEGAL)
        if self.saved.head != "crf":
            return (logits.logsumexp(1) - allowed.logsumexp(1)).sum() / words
        chain = self._chain(self._legal)
        whole, part = (chain.log_partition(padded(rows, counts), counts) for rows in (logits, allowed))
        return (whole - part).sum() / words

    def distillation_targets(self, outputs: Outputs) -> Mapping[str, SoftTarget]:
        """Each word's tags, or whether each span is an entity of each label."""
        kind: Literal["classes", "flags"] = "flags" if self.tags is None else "classes"
        return {"logits": SoftTarget(outputs["logits"], kind, outputs["word_counts"])}

    def targets_in(self, batch: Batch, outputs: Outputs) -> Mapping[str, SoftTarget]:
        """Words are the same in all models but for those that a tokenizer drops. Of a text whose words differ by one that is
        dropped on one side, nothing is said."""
        own = self.distillation_targets(outputs)["logits"]
        values: Tensor = own.values
        pieces = []
        sides = ((outputs["word_counts"], outputs["word_spans"]), (batch["word_counts"], batch["word_spans"]))
        mine, others = (torch.split(spans.cpu(), counts.tolist()) for counts, spans in sides)
        for rows, here, there in zip(torch.split(values, outputs["word_counts"].tolist()), mine, others, strict=True):
            nothing = values.new_full((len(there), *values.shape[1:]), torch.nan)
            pieces.append(rows if torch.equal(here, there) else nothing)
        return {"logits": SoftTarget(torch.cat(pieces), own.kind, batch["word_counts"])}

    def blank_batch(self, tokens: int) -> dict[str, Any]:
        batch = super().blank_batch(tokens)
        return {
            **batch,
            "word_tokens": torch.arange(tokens),
            "word_shapes": torch.zeros(tokens, 2 * NEIGHBOURS + 1, dtype=torch.long),
            "word_spans": torch.zeros(tokens, 2, dtype=torch.long),
            "word_counts": torch.tensor([tokens]),
        }


def _new_head(parts: EncoderParts, saved: SavedNer) -> nn.Module:
    if saved.head == "span":
        return SpanHead(
            parts.hidden_size,
            len(saved.labels),
            widest=saved.max_span_words,
            size=saved.span_size,
            word_shapes=saved.word_shapes,
            dropout=saved.dropout,
        )
    crf = saved.head == "crf"
    return TagHead(parts.hidden_size, len(saved.tags), word_shapes=saved.word_shapes, dropout=saved.dropout, crf=crf)
