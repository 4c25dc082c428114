"""Training an entity recogniser."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.errors import DataError
from taskloom.core.task import Example, Trained, TrainRun
from taskloom.plugins._shared.datasets import stratified_split
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins._shared.training import Validation, fit, seed_everything
from taskloom.plugins.backbones.from_scratch import new_backbone
from taskloom.plugins.backbones.loading import Backbone, load_backbone
from taskloom.plugins.tasks.ner.metrics import Counts, predicted, span_counts
from taskloom.plugins.tasks.ner.model import NerModel
from taskloom.plugins.tasks.ner.schema import MAX_CHARACTERS, NerInput, NerOutput, NerParams, TrainConfig
from taskloom.plugins.tasks.ner.words import words_of

MEASURED_AT_ONCE = 64
"""Rows in a batch where no gradient is needed."""

Rows = Sequence[Example[NerInput]]


def train(config: TrainConfig, rows: Rows, validation: Rows, run: TrainRun) -> Trained[NerInput, NerOutput, NerParams]:
    """Trains a recogniser. Without `validation`, a stratified part of `rows` is held out; with neither, every row is trained
    on for all epochs."""
    check_rows(rows, config)
    if validation:
        check_rows(validation, config)
        kept, held = list(rows), list(validation)
    else:
        frequency = Counter(label for example in rows for label in mapped_labels(example, config.label_map))
        kept, held = stratified_split(rows, _stratum(frequency, config), config.validation_fraction, config.seed)
    seed_everything(config.seed)
    names = sorted({label for example in kept for label in mapped_labels(example, config.label_map)})
    model = NerModel.build(
        names,
        backbone=_encoder(config, kept, run),
        head=config.head,
        scheme=config.scheme,
        max_span_words=config.max_span_words,
        span_size=config.span_size,
        word_shapes=config.word_shapes,
        adapter=config.adapter if config.network is None else None,
        frozen_layers=config.frozen_layers,
        dropout=config.dropout,
        max_length=config.max_length,
        label_map={given: label for given, label in config.label_map.items() if label in names},
        dictionary=config.dictionary,
    )
    if config.unseen_labels == "unknown":
        model.known_labels = labels_of_files(rows, config.label_map)
    result = fit(
        model,
        kept,
        config,
        run,
        length=lambda example: estimated_tokens(example.input.text, limit=MAX_CHARACTERS),
        fingerprint=training_fingerprint(config, kept, held),
        validation=Validation(_measure(model, held), "f1") if held else None,
        is_head=lambda name: name.startswith("head."),
    )
    facts = {**result.facts, "validation_rows": len(held), "labels": len(names)}
    if config.head == "span":
        widest = config.max_span_words
        facts["entities_too_long_to_learn"] = sum(
            len(words_of(example.input.text[start:end])) > widest for example in kept for start, end, _ in example.target
        )
    return Trained(model, result.history, facts)


def _encoder(config: TrainConfig, rows: Rows, run: TrainRun) -> Backbone:
    if config.network is None:
        return load_backbone(config.backbone, max_length=config.max_length, roots=run.roots)
    return new_backbone(config.network, [example.input.text for example in rows], max_length=config.max_length)


def mapped_labels(example: Example[NerInput], label_map: Mapping[str, str]) -> list[str]:
    return [label_map.get(label, label) for _, _, label in example.target]


def labels_of_files(rows: Rows, label_map: Mapping[str, str]) -> dict[str, frozenset[str]]:
    """The labels that each file has, by its path: what its annotators looked for."""
    found: dict[str, set[str]] = defaultdict(set)
    for example in rows:
        found[example.path].update(mapped_labels(example, label_map))
    return {path: frozenset(labels) for path, labels in found.items()}


def check_rows(rows: Rows, config: TrainConfig) -> None:
    """Raises `DataError` for the first row that doesn't fit the settings, and for data without a single entity."""
    if not any(example.target for example in rows):
        path = rows[0].path if rows else ""
        raise DataError(f"{path or 'the data'} has no entities; there is nothing to learn", path=path)
    if config.head == "span":
        return
    for example in rows:
        ordered = sorted(example.target)
        for (_, end, one), (start, _, other) in pairwise(ordered):
            if start < end:
                raise DataError(
                    f"{example.path}, line {example.line}: entities {one!r} and {other!r} overlap; set head = 'span' for "
                    "entities that lie in one another",
                    path=example.path,
                    line=example.line,
                )


def _stratum(frequency: Mapping[str, int], config: TrainConfig) -> Callable[[Example[NerInput]], str]:
    """A row's file and its rarest label: the one whose share is most easily lost."""

    def stratum(example: Example[NerInput]) -> str:
        labels = mapped_labels(example, config.label_map)
        return f"{example.path} {min(labels, key=lambda label: (frequency[label], label), default='')}"

    return stratum


def _measure(model: NerModel, held: Rows) -> Callable[[], dict[str, float]]:
    """Precision, recall and F1 of whole entities on the rows held out."""
    order = sorted(range(len(held)), key=lambda i: len(held[i].input.text))
    groups = [[held[i] for i in order[s : s + MEASURED_AT_ONCE]] for s in range(0, len(order), MEASURED_AT_ONCE)]

    def measure() -> dict[str, float]:
        total = Counts()
        device = next(model.module.parameters()).device
        with torch.inference_mode():
            for group in groups:
                inputs = [example.input for example in group]
                batch = {name: tensor.to(device) for name, tensor in model.encode(inputs).items()}
                answers = model.decode(model.forward(batch), inputs, [NerParams()] * len(inputs))
                for example, answer in zip(group, answers, strict=True):
                    total = total.plus(span_counts(_true(example, model), predicted(answer)))
        return {"precision": total.precision, "recall": total.recall, "f1": total.f1}

    return measure


def _true(example: Example[NerInput], model: NerModel) -> set[tuple[int, int, str]]:
    return {(start, end, model.saved.label_map.get(label, label)) for start, end, label in example.target}


def training_fingerprint(config: TrainConfig, rows: Rows, held: Rows) -> str:
    """Identifies a training: the same settings on the same rows."""
    content: list[Any] = [config.model_dump(mode="json")]
    content += [[[e.input.text, [list(a) for a in e.target]] for e in part] for part in (rows, held)]
    return sha256_hex(canonical_json(content))
