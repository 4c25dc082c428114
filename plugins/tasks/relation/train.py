"""Training a relation classifier on marked pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.errors import DataError
from taskloom.core.predictor import Predictor
from taskloom.core.task import Example, Trained, TrainRun
from taskloom.plugins._shared.datasets import stratified_split
from taskloom.plugins._shared.label_metrics import accuracy, judge
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins._shared.training import Validation, fit, seed_everything
from taskloom.plugins._shared.tuning import InMemory
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.tasks.relation.metrics import EVERYTHING, macro_f1
from taskloom.plugins.tasks.relation.model import RelationModel
from taskloom.plugins.tasks.relation.plugin import RelationTask
from taskloom.plugins.tasks.relation.schema import RelationInput, RelationOutput, RelationParams, TrainConfig

Rows = Sequence[Example[RelationInput]]


def train(
    config: TrainConfig, rows: Rows, validation: Rows, run: TrainRun
) -> Trained[RelationInput, RelationOutput, RelationParams]:
    """Trains a classifier. Without `validation`, a part of the texts of `rows` is held out; with neither, every row is trained
    on for all epochs."""
    labels = labels_of_rows(rows, config)
    kept, held = (list(rows), list(validation)) if validation else split_by_text(rows, config)
    for example in held:
        if example.target not in labels:
            raise DataError(
                f"{example.path}, line {example.line}: no row to train on has the relation {example.target!r}",
                path=example.path,
                line=example.line,
            )
    seed_everything(config.seed)
    model = RelationModel.build(
        labels,
        backbone=load_backbone(config.backbone, max_length=config.max_length, roots=run.roots),
        uncounted=config.uncounted,
        in_text_order=config.in_text_order,
        markers=config.markers,
        adapter=config.adapter,
        frozen_layers=config.frozen_layers,
        head_size=config.head_size,
        dropout=config.dropout,
        max_length=config.max_length,
    )
    model.label_smoothing = config.label_smoothing
    result = fit(
        model,
        kept,
        config,
        run,
        length=lambda example: estimated_tokens(example.input.text),
        fingerprint=training_fingerprint(config, kept, held),
        validation=Validation(_measure(model, held), "macro_f1") if held else None,
        is_head=lambda name: name.startswith("head."),
    )
    facts = {**result.facts, "validation_rows": len(held), "labels": len(labels)}
    return Trained(model, result.history, facts)


def labels_of_rows(rows: Rows, config: TrainConfig) -> list[str]:
    """Those of the config or, if it names none, of the rows. Raises `DataError` for a row with another label, and for rows that
    are all of one."""
    seen = Counter(example.target for example in rows)
    path = rows[0].path if rows else ""
    if len(seen) < 2:
        raise DataError(f"{path or 'the data'} has fewer than two relations; there is nothing to tell apart", path=path)
    if not config.labels:
        return sorted(seen)
    for example in rows:
        if example.target not in config.labels:
            raise DataError(
                f"{example.path}, line {example.line}: relation {example.target!r} is not among `labels`: "
                f"{', '.join(config.labels)}",
                path=example.path,
                line=example.line,
            )
    return list(config.labels)


def split_by_text(rows: Rows, config: TrainConfig) -> tuple[list[Example[RelationInput]], list[Example[RelationInput]]]:
    """Rows to train on and rows held out, stratified by relation; no text is in both: what is asked of one pair in a text says
    much about the others."""
    strata: dict[str, str] = {}
    frequency = Counter(example.target for example in rows)
    for example in rows:
        text, label = example.input.text, example.target
        strata[text] = min(strata.get(text, label), label, key=lambda name: (frequency[name], name))
    _, held = stratified_split(list(strata), strata.__getitem__, config.validation_fraction, config.seed)
    out = set(held)
    return [x for x in rows if x.input.text not in out], [x for x in rows if x.input.text in out]


def _measure(model: RelationModel, held: Rows) -> Callable[[], dict[str, float]]:
    """Macro F1 and accuracy on the rows held out."""

    def measure() -> dict[str, float]:
        judged = judge(Predictor(RelationTask(), model, InMemory(model)), held, EVERYTHING, size=lambda item: len(item.text))
        return {"macro_f1": macro_f1(judged, model.saved.uncounted), "accuracy": accuracy(judged)}

    return measure


def training_fingerprint(config: TrainConfig, rows: Rows, held: Rows) -> str:
    """Identifies a training: the same settings on the same rows."""
    content: list[Any] = [config.model_dump(mode="json")]
    content += [[[e.input.model_dump(mode="json"), e.target] for e in part] for part in (rows, held)]
    return sha256_hex(canonical_json(content))
