"""Training a reader on windows of its contexts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from taskloom.core.digest import canonical_json, sha256_hex
from taskloom.core.errors import DataError
from taskloom.core.task import Example, Trained, TrainRun
from taskloom.plugins._shared.answer_scores import exact_match, f1
from taskloom.plugins._shared.datasets import stratified_split
from taskloom.plugins._shared.text_cost import estimated_tokens
from taskloom.plugins._shared.training import Validation, fit, seed_everything
from taskloom.plugins.backbones.loading import load_backbone
from taskloom.plugins.backbones.parts import set_dropout
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.schema import QaInput, QaOutput, QaParams, TrainConfig
from taskloom.plugins.tasks.qa.scoring import best_match
from taskloom.plugins.tasks.qa.windows import TrainingWindows

MEASURED_AT_ONCE = 16

Rows = Sequence[Example[QaInput]]


def train(config: TrainConfig, rows: Rows, validation: Rows, run: TrainRun) -> Trained[QaInput, QaOutput, QaParams]:
    """Trains a reader. Without `validation`, a part of the contexts is held out, with all questions on them."""
    kept, held = (list(rows), list(validation)) if validation else split_by_context(rows, config)
    seed_everything(config.seed)
    model = QaModel.build(
        backbone=load_backbone(config.backbone, max_length=config.max_length, roots=run.roots),
        adapter=config.adapter,
        frozen_layers=config.frozen_layers,
        head=config.head,
        mark_shared=config.mark_shared,
        dropout=config.dropout,
        max_length=config.max_length,
        overlap=config.overlap,
    )
    length = min(config.train_length, config.max_length)
    model.training = TrainingWindows(length, config.no_answer_share, config.max_answer_tokens)
    if config.backbone_dropout is not None:
        set_dropout(model.module.encoder, config.backbone_dropout)
    usable = [example for example in kept if model.can_learn(example)]
    if not usable:
        raise DataError(
            f"no row has an answer of at most {config.max_answer_tokens} tokens, or a window of {length} without "
            "one; raise max_answer_tokens or train_length",
            path=rows[0].path if rows else "",
        )
    result = fit(
        model,
        usable,
        config,
        run,
        length=lambda example: estimated_tokens(example.input.question, example.input.context, limit=length),
        fingerprint=training_fingerprint(config, kept, held),
        validation=Validation(_measure(model, held), "f1") if held else None,
        is_head=lambda name: name.startswith("head."),
    )
    facts = {**result.facts, "validation_rows": len(held), "rows_left_out": len(kept) - len(usable)}
    return Trained(model, result.history, facts)


def split_by_context(rows: Rows, config: TrainConfig) -> tuple[list[Example[QaInput]], list[Example[QaInput]]]:
    """Rows to train on and rows held out, the same share of the contexts of each domain; no context is in both, or answers
    would be known by heart."""
    domains = {example.input.context: example.target.domain for example in rows}
    _, held = stratified_split(list(domains), domains.__getitem__, config.validation_fraction, config.seed)
    out = set(held)
    return [x for x in rows if x.input.context not in out], [x for x in rows if x.input.context in out]


def _measure(model: QaModel, held: Rows) -> Callable[[], dict[str, float]]:
    """F1 and exact match on the rows held out; always answering where the row has an answer, as SQuAD 1.1 is scored."""
    order = sorted(range(len(held)), key=lambda i: len(held[i].input.context))
    groups = [[held[i] for i in order[s : s + MEASURED_AT_ONCE]] for s in range(0, len(order), MEASURED_AT_ONCE)]
    answerable = all(example.target.answers for example in held)
    params = QaParams(no_answer_threshold=1.0 if answerable else 0.5)

    def measure() -> dict[str, float]:
        overlap, same = 0.0, 0.0
        device = next(model.module.parameters()).device
        with torch.inference_mode():
            for group in groups:
                inputs = [example.input for example in group]
                outputs = model.forward({k: v.to(device) for k, v in model.encode(inputs).items()})
                answers = model.decode({k: v.cpu() for k, v in outputs.items()}, inputs, [params] * len(group))
                for example, answer in zip(group, answers, strict=True):
                    text = answer.answers[0].text if answer.answers else ""
                    overlap += best_match(f1, text, example, v2=not answerable)
                    same += best_match(exact_match, text, example, v2=not answerable)
        return {"f1": overlap / len(held), "exact_match": same / len(held)}

    return measure


def training_fingerprint(config: TrainConfig, rows: Rows, held: Rows) -> str:
    """Identifies a training: the same settings on the same rows. In which windows the trained model reads is no part of it."""
    content: list[Any] = [config.model_dump(mode="json", exclude={"max_length", "overlap"})]
    for part in (rows, held):
        content += [[[e.input.question, e.input.context, [[a.start, a.end] for a in e.target.answers]] for e in part]]
    return sha256_hex(canonical_json(content))
