"""Training an embedding model by contrast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.errors import ConfigError, DataError
from taskloom.core.predictor import Predictor
from taskloom.core.task import Example, Trained, TrainRun
from taskloom.plugins._shared.datasets import stratified_split
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins._shared.training import Validation, fit, seed_everything
from taskloom.plugins._shared.tuning import InMemory
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.tasks.embedding.metrics import evaluate
from taskloom.plugins.tasks.embedding.model import EmbeddingModel
from taskloom.plugins.tasks.embedding.plugin import EmbeddingTask
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingOutput, EmbeddingParams, TrainConfig

Rows = Sequence[Example[EmbeddingInput]]


def train(
    config: TrainConfig, rows: Rows, validation: Rows, run: TrainRun
) -> Trained[EmbeddingInput, EmbeddingOutput, EmbeddingParams]:
    """Trains an embedding model, or takes a `pretrained` one as it is. Without `validation`, a part of the passages is held
    out, with all queries that they are right for; with neither, every row is trained on for all epochs."""
    if config.pretrained and rows:
        raise ConfigError(f"pretrained = true trains nothing, and there are {len(rows)} rows to train on; set one of the two")
    if not config.pretrained:
        check_rows(rows)
    seed_everything(config.seed)
    model = EmbeddingModel.build(
        backbone=load_backbone(config.backbone, max_length=config.max_length, roots=run.roots),
        pretrained=config.pretrained,
        adapter=config.adapter,
        frozen_layers=config.frozen_layers,
        pooling=config.pooling,
        query_prefix=config.query_prefix,
        passage_prefix=config.passage_prefix,
        temperature=config.temperature,
        symmetric=config.symmetric,
        dimensions=config.dimensions,
        max_length=config.max_length,
    )
    if config.pretrained:
        model.module.eval()
        return Trained(model, (), {"rows": 0})
    kept, held = (list(rows), list(validation)) if validation else split_by_passage(rows, config)
    result = fit(
        model,
        kept,
        config,
        run,
        length=lambda example: estimated_tokens(example.target.positives[0], limit=config.max_length),
        fingerprint=training_fingerprint(config, kept, held),
        validation=Validation(_measure(model, held), "ndcg@10") if held else None,
    )
    return Trained(model, result.history, {**result.facts, "validation_rows": len(held)})


def check_rows(rows: Rows) -> None:
    """Raises `DataError` if there is nothing to tell apart."""
    passages = {text for example in rows for text in (*example.target.positives, *example.target.negatives)}
    if len(passages) < 2:
        path = rows[0].path if rows else ""
        raise DataError(f"{path or 'the data'} has fewer than two passages; there is nothing to tell apart", path=path)


def split_by_passage(rows: Rows, config: TrainConfig) -> tuple[list[Example[EmbeddingInput]], list[Example[EmbeddingInput]]]:
    """Rows to train on and rows held out, the same share of the passages of each domain; no right passage is in both, or it
    would be found because it is known."""
    domains = {example.target.positives[0]: example.target.domain for example in rows}
    _, held = stratified_split(list(domains), domains.__getitem__, config.validation_fraction, config.seed)
    out = set(held)
    kept = [example for example in rows if out.isdisjoint(example.target.positives)]
    return kept, [example for example in rows if out.issuperset(example.target.positives)]


def _measure(model: EmbeddingModel, held: Rows) -> Callable[[], dict[str, float]]:
    """The task's metrics on the rows held out, among their own passages."""

    def measure() -> dict[str, float]:
        with torch.random.fork_rng():
            return dict(evaluate(Predictor(EmbeddingTask(), model, InMemory(model)), held).metrics)

    return measure


def training_fingerprint(config: TrainConfig, rows: Rows, held: Rows) -> str:
    """Identifies a training: the same settings on the same rows."""
    content: list[Any] = [config.model_dump(mode="json")]
    content += [[[e.input.text, e.input.kind, *e.target.positives, *e.target.negatives] for e in part] for part in (rows, held)]
    return sha256_hex(canonical_json(content))
