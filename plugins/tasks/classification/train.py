"""Reading classification data, and training a classifier on it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn.functional import normalize

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.errors import ConfigError, DataError
from taskloom.core.task import Example, Trained, TrainRun
from taskloom.plugins._shared.datasets import LIST_SEPARATOR, Row, read_rows, stratified_split
from taskloom.plugins._shared.label_metrics import labels_of
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins._shared.training import Validation, fit, seed_everything
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.tasks.classification.heads import PooledHead
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.schema import (
    MAX_LABELS,
    ClassificationInput,
    ClassificationOutput,
    ClassificationParams,
    TrainConfig,
)
from taskloom.plugins.tasks.classification.zero_shot import ZeroShotModel, fit_scale

COLUMNS = ("text", "text_pair", "label", "labels")
MEASURED_AT_ONCE = 64
"""Rows in a batch where no gradient is needed."""
CENTROID_SCALE = 10.0
"""Logits of a centroid head: a text at its class's centroid gets about this much more than at the mean of all."""

Rows = Sequence[Example[ClassificationInput]]


def read_examples(path: Path) -> Iterator[Example[ClassificationInput]]:
    """Rows with `text`, perhaps `text_pair`, and either `label` (one; the target is a string) or `labels` (any number; the
    target is a tuple: a list in JSONL, separated by `|` in CSV and TSV). Blanks around labels don't count."""
    kind = ""
    for row in read_rows(path, columns=COLUMNS, required=("text",)):
        if "label" in row.values and "labels" in row.values:
            raise row.error("has both `label` and `labels`; use `label` for one label per text, `labels` for several")
        found = "label" if "label" in row.values else "labels"
        if kind == "label" and found == "labels" and "labels" not in row.values:
            raise row.error("`label` is missing or empty")
        target = _one_label(row) if found == "label" else _several_labels(row)
        if kind and found != kind:
            raise row.error(f"has `{found}` where earlier rows have `{kind}`; use one of them throughout")
        kind = found
        texts = {name: row.values[name] for name in ("text", "text_pair") if row.values.get(name) is not None}
        try:
            value = ClassificationInput.model_validate(texts)
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            raise row.error(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from exc
        yield Example(input=value, target=target, path=row.path, line=row.line)


def _one_label(row: Row) -> str:
    label = row.values["label"]
    if not isinstance(label, str) or not label.strip():
        raise row.error(f"`label` is {label!r}; expected a non-empty string")
    return label.strip()


def _several_labels(row: Row) -> tuple[str, ...]:
    labels = row.values.get("labels")
    if labels is None and row.path.endswith(".jsonl"):
        raise row.error("has no label; add `label` (a string) or `labels` (a list of strings)")
    if isinstance(labels, str):
        labels = [part.strip() for part in labels.split(LIST_SEPARATOR)]
    elif labels is None:
        labels = []
    if not isinstance(labels, list) or not all(isinstance(label, str) and label.strip() for label in labels):
        raise row.error(f"`labels` is {labels!r}; expected a list of non-empty strings")
    return tuple(dict.fromkeys(label.strip() for label in labels))


def train(
    config: TrainConfig, rows: Rows, validation: Rows, run: TrainRun
) -> Trained[ClassificationInput, ClassificationOutput, ClassificationParams]:
    """Trains a classifier. Without `validation`, a stratified part of `rows` is held out; with neither, every row is trained
    on for all epochs. A `pretrained` one is taken as it is."""
    if config.pretrained:
        return take_pretrained(config, rows)
    check_targets(rows, config)
    if config.zero_shot:
        return calibrate_zero_shot(config, [*rows, *validation], run)
    if validation:
        check_targets(validation, config)
        kept, held = list(rows), list(validation)
    else:
        frequency = Counter(label for example in rows for label in labels_of(example))
        kept, held = stratified_split(rows, _stratum(frequency), config.validation_fraction, config.seed)
    seed_everything(config.seed)
    names = sorted({label for example in kept for label in labels_of(example)})
    refuse_unknown_labels(held, names)
    model = ClassificationModel.build(
        names,
        backbone=load_backbone(config.backbone, max_length=config.max_length, roots=run.roots),
        multi_label=config.multi_label,
        pair=config.pair,
        mark_shared=config.mark_shared,
        adapter=config.adapter,
        frozen_layers=config.frozen_layers,
        pooling=config.pooling,
        dropout=config.dropout,
        max_length=config.max_length,
    )
    model.label_smoothing = config.label_smoothing
    if config.class_weights == "balanced":
        model.class_weights = balanced_weights(kept, names, config.multi_label)
    result = fit(
        model,
        kept,
        config,
        run,
        length=lambda example: estimated_tokens(example.input.text, example.input.text_pair or ""),
        fingerprint=training_fingerprint(config, kept, held),
        validation=Validation(_measure(model, held), "accuracy") if held else None,
        is_head=lambda name: name.startswith("head."),
        prepare=lambda: put_centroids(model, kept) if config.head_init == "centroids" and not config.multi_label else None,
    )
    facts = {**result.facts, "validation_rows": len(held), "labels": len(names)}
    return Trained(model, result.history, facts)


def take_pretrained(
    config: TrainConfig, rows: Rows
) -> Trained[ClassificationInput, ClassificationOutput, ClassificationParams]:
    """A checkpoint's own classifier."""
    if rows:
        raise ConfigError(f"pretrained = true trains nothing, and there are {len(rows)} rows to train on; set one of the two")
    model = ClassificationModel.import_checkpoint(
        config.backbone, pair=config.pair, labels=config.labels or None, max_length=config.max_length
    )
    return Trained(model, (), {"labels": len(model.labels)})


def calibrate_zero_shot(
    config: TrainConfig, rows: Rows, run: TrainRun
) -> Trained[ClassificationInput, ClassificationOutput, ClassificationParams]:
    """A zero-shot model whose scores are calibrated on rows; their labels are not learned."""
    if not config.labels:
        raise ConfigError("a zero-shot model needs `labels`: the names that it uses for requests that bring none")
    backbone = load_backbone(config.backbone, max_length=config.max_length, roots=run.roots)
    model = ZeroShotModel.build(config.labels, backbone=backbone, template=config.template, max_length=config.max_length)
    names = tuple(sorted({example.target for example in rows}))
    params = ClassificationParams(labels=names[:MAX_LABELS])
    order = sorted((e for e in rows if e.target in names[:MAX_LABELS]), key=lambda e: len(e.input.text))
    model.module.eval()
    found: list[Tensor] = []
    with torch.inference_mode():
        for start in range(0, len(order), MEASURED_AT_ONCE):
            part = [example.input for example in order[start : start + MEASURED_AT_ONCE]]
            found.append(model.forward(model.prepare(part, [params] * len(part)))["logits"])
    targets = torch.tensor([names.index(example.target) for example in order])
    loss = fit_scale(model, torch.cat(found).clone(), targets)
    facts = {"rows": len(order), "labels_seen": len(names), "scale": float(model.module.head.scale.detach()), "loss": loss}
    return Trained(model, (), facts)


def check_targets(rows: Rows, config: TrainConfig) -> None:
    """Raises `DataError` for the first row that doesn't fit the settings."""
    for example in rows:
        if not config.multi_label and len(labels_of(example)) != 1:
            problem = f"{len(labels_of(example))} labels where one is expected; set multi_label = true"
        elif config.multi_label == isinstance(example.target, str):
            kind, other = ("labels", "label") if config.multi_label else ("label", "labels")
            problem = (
                f"has `{other}`, and multi_label is {str(config.multi_label).lower()}; write `{kind}`, or change the setting"
            )
        elif (example.input.text_pair is not None) != config.pair:
            problem = "no `text_pair`, but pair = true" if config.pair else "has a `text_pair`; set pair = true"
        else:
            continue
        raise DataError(f"{example.path}, line {example.line}: {problem}", path=example.path, line=example.line)
    if len({label for example in rows for label in labels_of(example)}) < (1 if config.multi_label else 2):
        path = rows[0].path if rows else ""
        raise DataError(f"{path or 'the data'} has fewer than two labels; there is nothing to tell apart", path=path)


def refuse_unknown_labels(rows: Rows, names: Sequence[str]) -> None:
    """Raises `DataError` for the first row to judge by that has a label which no row to train on has."""
    known = set(names)
    for example in rows:
        for label in labels_of(example):
            if label not in known:
                raise DataError(
                    f"{example.path}, line {example.line}: no row that is trained on has the label {label!r}",
                    path=example.path,
                    line=example.line,
                )


def _stratum(frequency: Mapping[str, int]) -> Callable[[Example[ClassificationInput]], str]:
    """A row's rarest label: where rows have several, the one whose share is most easily lost."""
    return lambda example: min(labels_of(example), key=lambda label: (frequency[label], label), default="")


def balanced_weights(rows: Rows, labels: Sequence[str], multi_label: bool) -> Tensor:
    """n / (classes * count), so that each class weighs the same in all; for several labels a row, absences per presence."""
    counts = Counter(label for example in rows for label in labels_of(example))
    count = torch.tensor([float(counts[label]) for label in labels])
    return (len(rows) - count).clamp(min=1) / count if multi_label else len(rows) / (len(labels) * count)


def put_centroids(model: ClassificationModel, rows: Rows) -> None:
    """Starts the linear layer from the classes' mean embeddings: a nearest-centroid classifier (Snell et al. 2017,
    https://arxiv.org/abs/1703.05175, eq. 8) is a far better start than noise when classes are many and rows few."""
    head = model.module.head
    assert isinstance(head, PooledHead)
    found: list[Tensor] = []
    model.module.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].input.text))
    with torch.inference_mode():
        for start in range(0, len(order), MEASURED_AT_ONCE):
            found_rows = model.collate([rows[i] for i in order[start : start + MEASURED_AT_ONCE]])
            batch = {name: tensor.to(head.linear.weight.device) for name, tensor in found_rows.items()}
            hidden = model.module.encoder(batch["input_ids"], batch["token_type_ids"], batch["lengths"])
            found.append(head.pool(hidden, batch["lengths"]))
        embedded = torch.cat(found).cpu()
    targets = torch.tensor([model.labels.index(rows[i].target) for i in order])
    sums = torch.zeros(len(model.labels), embedded.shape[1]).index_add(0, targets, embedded)
    centroids = sums / targets.bincount(minlength=len(model.labels)).clamp(min=1).unsqueeze(1)
    middle = centroids.mean(0)
    directions = normalize(centroids - middle, dim=-1) * (CENTROID_SCALE / embedded.norm(dim=1).mean())
    with torch.no_grad():
        head.linear.weight.copy_(directions)
        head.linear.bias.copy_(-(directions @ middle))


def _measure(model: ClassificationModel, held: Rows) -> Callable[[], dict[str, float]]:
    """Accuracy (all labels of a row right) and loss on the rows held out."""
    order = sorted(range(len(held)), key=lambda i: len(held[i].input.text))
    groups = [[held[i] for i in order[s : s + MEASURED_AT_ONCE]] for s in range(0, len(order), MEASURED_AT_ONCE)]

    def measure() -> dict[str, float]:
        right = 0
        device = next(model.module.parameters()).device
        with torch.inference_mode():
            for group in groups:
                batch = {k: v.to(device) for k, v in model.collate(group).items()}
                logits = model.forward(batch)["logits"]
                targets = batch["targets"]
                hits = ((logits > 0) == (targets > 0.5)).all(-1) if model.saved.multi_label else logits.argmax(-1) == targets
                right += int(hits.sum())
        return {"accuracy": right / len(held)}

    return measure


def training_fingerprint(config: TrainConfig, rows: Rows, held: Rows) -> str:
    """Identifies a training: the same settings on the same rows."""
    content: list[Any] = [config.model_dump(mode="json")]
    content += [[[e.input.text, e.input.text_pair, list(labels_of(e))] for e in part] for part in (rows, held)]
    return sha256_hex(canonical_json(content))
