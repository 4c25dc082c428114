"""Pretraining: a vocabulary and a token file from the text, then the training loop over its rows."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.errors import ConfigError
from taskloom.core.predictor import Predictor
from taskloom.core.store import write_atomically
from taskloom.core.task import Example, Trained, TrainRun
from taskloom.plugins._shared.datasets import ChosenRows, stratified_split
from taskloom.plugins._shared.training import Validation, fit, seed_everything
from taskloom.plugins._shared.tuning import InMemory
from taskloom.plugins.backbones.loading import Backbone, load_backbone
from taskloom.plugins.backbones.parts import set_dropout
from taskloom.plugins.tasks.fill_mask.corpus import TokenFile, TokenRows
from taskloom.plugins.tasks.fill_mask.curve import CurveLog
from taskloom.plugins.tasks.fill_mask.first_weights import set_first_weights
from taskloom.plugins.tasks.fill_mask.heads import named_network, new_network
from taskloom.plugins.tasks.fill_mask.model import FillMaskModel
from taskloom.plugins.tasks.fill_mask.pretraining import Pretraining, masker_for
from taskloom.plugins.tasks.fill_mask.schema import FillMaskInput, FillMaskOutput, FillMaskParams, TrainConfig
from taskloom.plugins.tasks.fill_mask.vocabulary import VOCABULARY_FILE, build_vocabulary, make_tokenizer

Rows = Sequence[Example[FillMaskInput]]
CORPUS_FOLDER = "corpus"


def train(
    config: TrainConfig, rows: Rows, validation: Rows, run: TrainRun
) -> Trained[FillMaskInput, FillMaskOutput, FillMaskParams]:
    """Pretrains a new network, or trains a named backbone on. The text is read as a stream, several times before the first
    step, and not at all afterwards."""
    kept, held = (rows, validation) if validation else held_out(rows, config)
    texts = texts_digest(kept)
    seed_everything(config.seed)
    folder = run.work_folder / CORPUS_FOLDER
    named = config.network.layers_from if config.network is not None else ""
    donor = load_backbone(named, roots=run.roots) if named else None
    backbone = starting_network(config, kept, texts, folder, roots=run.roots, donor=donor)
    model = FillMaskModel.build(backbone=backbone, frozen_layers=config.frozen_layers, max_length=config.max_length)
    if config.backbone_dropout is not None:
        set_dropout(model.module.encoder, config.backbone_dropout)
    if config.train_length > model.parts.tokenizer.max_length:
        raise ConfigError(
            f"train_length is {config.train_length}; this encoder takes {model.parts.tokenizer.max_length} tokens"
        )
    fingerprint = sha256_hex(canonical_json([texts, sha256_hex(model.processor.backend_tokenizer.to_str().encode())]))
    file = TokenFile.open(folder, fingerprint) or TokenFile.build(folder, fingerprint, _texts(kept), model.processor)
    token_rows = TokenRows(file, config.train_length, count=config.rows, seed=config.seed)
    log = CurveLog(run.work_folder, run.on_event, earlier=run.start)

    def prepare() -> None:
        if config.network is not None and config.network.first_vectors:
            set_first_weights(model, file.ids, donor)

    result = fit(
        Pretraining(model, token_rows, masker_for(model.processor, config)),
        token_rows,
        config,
        replace(run, on_event=log.hear),
        length=lambda _: config.train_length,
        fingerprint=training_fingerprint(config, fingerprint, held),
        validation=Validation(_measure(model, held), "pseudo_perplexity", higher_is_better=False) if held else None,
        is_head=lambda name: name.startswith("head."),
        prepare=prepare,
    )
    model.module.to(device="cpu", dtype=torch.bfloat16 if config.kept_in == "bf16" else torch.float32)
    model.curve = log.curve()
    told = file.description
    facts = {
        **result.facts,
        "documents": told.documents,
        "corpus_tokens": told.tokens,
        "unknown_tokens": told.unknown,
        "trained_tokens": config.epochs * len(token_rows) * config.train_length,
        "parameters": sum(p.numel() for p in model.module.parameters()),
        "validation_rows": len(held),
    }
    return Trained(model, result.history, facts)


def held_out(rows: Rows, config: TrainConfig) -> tuple[Rows, Rows]:
    if not config.validation_fraction:
        return rows, ()
    kept, held = stratified_split(range(len(rows)), lambda _: "", config.validation_fraction, config.seed)
    return ChosenRows(rows, kept), ChosenRows(rows, held)


def starting_network(
    config: TrainConfig, rows: Rows, texts: str, folder: Path, *, roots: Sequence[Path], donor: Backbone | None
) -> Backbone:
    """The named backbone, or a new network with a vocabulary from the texts, which is kept in the folder for the next start."""
    settings = config.network
    if settings is None:
        return named_network(config.backbone, max_length=config.max_length, roots=roots)
    wanted = sha256_hex(canonical_json([texts, settings.model_dump(mode="json")]))
    place = folder / wanted / VOCABULARY_FILE
    if place.is_file():
        tokens = place.read_text(encoding="utf-8").split("\n")[:-1]
    else:
        tokens = build_vocabulary(_texts(rows), settings)
        write_atomically(place, "".join(f"{token}\n" for token in tokens).encode())
    return new_network(settings, make_tokenizer(tokens, settings), max_length=config.max_length, donor=donor)


def _texts(rows: Rows) -> Iterator[str]:
    for row in rows:
        yield row.target.text


def texts_digest(rows: Rows) -> str:
    """SHA-256 over the documents, in their order."""
    found = hashlib.sha256()
    for text in _texts(rows):
        found.update(hashlib.sha256(text.encode()).digest())
    return found.hexdigest()


def _measure(model: FillMaskModel, held: Rows) -> Callable[[], dict[str, float]]:
    def measure() -> dict[str, float]:
        from taskloom.plugins.tasks.fill_mask.metrics import evaluate
        from taskloom.plugins.tasks.fill_mask.plugin import FillMaskTask

        with torch.random.fork_rng():
            return dict(evaluate(Predictor(FillMaskTask(), model, InMemory(model)), held).metrics)

    return measure


def training_fingerprint(config: TrainConfig, corpus: str, held: Rows) -> str:
    """Identifies a training: the same settings on the same tokens."""
    content: list[Any] = [config.model_dump(mode="json", exclude={"max_length"}), corpus, texts_digest(held)]
    return sha256_hex(canonical_json(content))
