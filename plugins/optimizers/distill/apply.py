"""Distillation: make the student, ask the teacher, train, and say what was done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from taskloom.core.errors import UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized
from taskloom.core.task import SharedParts, TaskModel
from taskloom.plugins._shared.training import pick_device, seed_everything
from taskloom.plugins._shared.tuning import tune, tuning_fingerprint
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.optimizers.distill.config import DistillConfig
from taskloom.plugins.optimizers.distill.learner import Learner, Weights
from taskloom.plugins.optimizers.distill.student import keep_layers, matched_layers, parameters
from taskloom.plugins.optimizers.distill.teacher import Teacher
from taskloom.plugins.optimizers.distill.watching import HIDDEN, RELATION, Views, Watched, projections, watchable_layers

CHECKED_ROWS = 32


@dataclass(frozen=True)
class _Pair:
    """A student and its teacher, watched at the places that are compared."""

    student: Watched
    teacher: Watched
    weights: Weights


def distill(model: TaskModel[Any, Any, Any], config: DistillConfig, context: OptimizeContext) -> Optimized:
    """`model`, with the layers that it keeps, trained to answer as `context.parent` does."""
    seed_everything(config.seed)
    teacher = context.task.load(context.parent, SharedParts())
    if isinstance(model, EncoderTaskModel):
        model.own_backbone()
        model.parts.backbone.model.requires_grad_(True)  # merging an adapter leaves the layers frozen
    kept = keep_layers(model, config)
    teacher.module.to(pick_device(config.device)).requires_grad_(False)
    pair = watched_pair(model, teacher, config)
    asked = Teacher(pair.teacher, model, context.train)
    fingerprint = tuning_fingerprint(model, context, config)
    told = asked.keep_answers(context.run.work_folder / "answers", fingerprint, config.cache_gb * 1e9)
    learner = Learner(pair.student, asked, config, pair.weights)
    if kept:
        check_reached(learner, context)
    result = tune(learner, model, context, config, fingerprint=fingerprint)
    facts = {
        **result.facts,
        **told,
        "kept_layers": kept,
        "parameters": parameters(model.module),
        "teacher_parameters": parameters(teacher.module),
        "hidden_weight": pair.weights.hidden,
        "history": [dict(row) for row in result.history],
    }
    return Optimized(model, facts)


def watched_pair(student: TaskModel[Any, Any, Any], teacher: TaskModel[Any, Any, Any], config: DistillConfig) -> _Pair:
    """Raises `UnsupportedError` where states or relations are asked for and the two models have none that can be compared."""
    own, others = watchable_layers(student), watchable_layers(teacher)
    same_width = bool(own and others) and _encoder(student).hidden_size == _encoder(teacher).hidden_size
    if config.hidden_weight and not same_width:
        raise UnsupportedError(
            "distill: hidden_weight compares the states of text encoders of one width, layer by layer; these models have none "
            "such. Leave it open"
        )
    hidden = (1.0 if config.hidden_weight is None else config.hidden_weight) if same_width else 0.0
    pairs: dict[str, tuple[nn.Module, nn.Module]] = {}
    if hidden:
        for i, place in enumerate(matched_layers(len(own), len(others))):
            pairs[f"{HIDDEN}/{i}"] = (own[i], others[place])
    if config.relation_weight:
        ends = [projections(stack[-1]) if stack else {} for stack in (own, others)]
        if not all(ends):
            raise UnsupportedError(
                "distill: relation_weight compares queries, keys and values of the last attention layer; a model without text "
                "encoder, or one whose layer has other parts, has none. Leave it at 0"
            )
        pairs |= {f"{RELATION}/{name}": (ends[0][name], ends[1][name]) for name in ends[0]}
    weights = Weights(config.alpha, 1 - config.alpha, hidden, config.relation_weight)
    if not pairs:
        return _Pair(Watched(student, None), Watched(teacher, None), weights)
    views = [Views({name: pair[side] for name, pair in pairs.items()}) for side in (0, 1)]
    return _Pair(Watched(student, views[0]), Watched(teacher, views[1]), weights)


def _encoder(model: TaskModel[Any, Any, Any]) -> TextEncoder:
    assert isinstance(model, EncoderTaskModel)
    assert isinstance(model.parts.encoder, TextEncoder)
    return model.parts.encoder


def check_reached(learner: Learner, context: OptimizeContext) -> None:
    """Raises `UnsupportedError` if layers were taken out of a part of the model that the rows never run through: what is left
    of it would not learn to do without them."""
    with torch.random.fork_rng():
        learner.module.train()
        torch.autograd.backward(learner.loss(learner.collate(context.train[:CHECKED_ROWS])))
    layers = watchable_layers(learner.student)
    reached = not layers or any(p.grad is not None and bool(p.grad.any()) for layer in layers for p in layer.parameters())
    learner.module.zero_grad(set_to_none=True)
    if not reached:
        raise UnsupportedError(
            "distill: no row of the training data runs through the layers that are left, so they can't learn to do without the "
            "others; leave `layers` and `keep` open, or give rows that do"
        )
