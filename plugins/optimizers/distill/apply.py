"""Distillation: make the student, ask the teachers, train, and say what was done."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import file_label
from taskloom.core.errors import UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized
from taskloom.core.task import Example, TaskModel
from taskloom.plugins._shared.schedule import micro_batches
from taskloom.plugins._shared.training import MICRO_BATCH_LENGTH, pick_device, seed_everything
from taskloom.plugins._shared.tuning import row_length, tune, tuning_fingerprint
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.optimizers.distill.config import DistillConfig
from taskloom.plugins.optimizers.distill.learner import Learner, Weights
from taskloom.plugins.optimizers.distill.lessons import has_target, lessons, read_lesson
from taskloom.plugins.optimizers.distill.panel import Panel, averaged, check_labels, fits, named_model, panel_of
from taskloom.plugins.optimizers.distill.sequence import distill_writer
from taskloom.plugins.optimizers.distill.student import keep_layers, matched_layers, parameters
from taskloom.plugins.optimizers.distill.teacher import Reading, Teacher, answers_to, reading_of, run_watched
from taskloom.plugins.optimizers.distill.watching import HIDDEN, RELATION, TARGET, Views, Watched, projections, watchable_layers

CHECKED_ROWS = 32
"""Rows that something is tried on; fewer of long ones."""


@dataclass(frozen=True)
class _Watching:
    """A student and its teachers, watched at the places that are compared."""

    student: Watched
    teachers: tuple[Watched, ...]
    weights: Weights
    left_out: tuple[tuple[str, str], ...] = ()
    """What is compared where it can be, and why it can't be here."""


def distill(model: TaskModel[Any, Any, Any], config: DistillConfig, context: OptimizeContext) -> Optimized:
    """The student (`model`, or the one that the settings name), with the layers that it keeps, trained to answer as its
    teachers do."""
    seed_everything(config.seed)
    panel = panel_of(config, context)
    facts: dict[str, Any] = {"teachers": dict(zip(panel.names, panel.digests, strict=True))}
    if config.student:
        named = context.resolve(config.student)
        model = named_model(named, context, "student")
        facts["student"] = {named.name: named.digest}
    elif config.backbone:
        model = model.on_backbone(config.backbone)
        assert model.backbone is not None
        facts["student"] = {file_label(model.backbone.id): model.backbone.digest}
    check_labels(model, panel)
    if model.streams:
        return distill_writer(model, panel, config, context, facts)
    if config.decoder_layers is not None:
        raise UnsupportedError("distill: `decoder_layers` is for models that write their answers; this one has no decoder")
    if isinstance(model, EncoderTaskModel):
        model.own_backbone()
        model.parts.backbone.model.requires_grad_(True)  # merging an adapter leaves the layers frozen
    kept = keep_layers(model, config)
    for teacher in panel.models:
        teacher.module.to(pick_device(config.device)).requires_grad_(False)
    if config.student or config.backbone:  # it may read in other pieces than the model that the step was given
        context = dataclasses.replace(context, train=[row for row in context.train if model.can_learn(row)])
    taught = dataclasses.replace(context, train=lessons(context.task, context.train, config, _mask_token(model, panel)))
    reading = reading_of(model, panel, context.train, some_untold=len(taught.train) > len(context.train))
    watching = watched_places(model, panel, reading, config)
    compared, left_out = compared_targets(watching, panel, reading, context)
    asked = Teacher(
        model,
        watching.teachers,
        reading,
        taught.train,
        say_together=_together(panel, compared, config),
        length=row_length(context),
    )
    fingerprint = " ".join([tuning_fingerprint(model, taught, config), *panel.digests])
    told = asked.keep_answers(context.run.work_folder / "answers", fingerprint, config.cache_gb * 1e9)
    learner = Learner(watching.student, asked, config, watching.weights)
    if kept:
        check_reached(learner, context)
    result = tune(learner, model, taught, config, fingerprint=fingerprint)
    return Optimized(
        model,
        {
            **result.facts,
            **told,
            **facts,
            "compared": sorted(compared),
            "notes": [f"distill: {part}: not compared, as {why}" for part, why in (*watching.left_out, *left_out.items())],
            "rows_without_target": sum(not has_target(row) for row in taught.train),
            "kept_layers": kept,
            "parameters": parameters(model.module),
            "teacher_parameters": sum(parameters(teacher.module) for teacher in panel.models),
            "hidden_weight": watching.weights.hidden,
            "history": [dict(row) for row in result.history],
        },
    )


def _mask_token(student: TaskModel[Any, Any, Any], panel: Panel) -> str | None:
    """The token that means an unknown word to all of them; None if there is none such."""
    found = {
        getattr(model.parts.tokenizer.processor, "mask_token", None) if isinstance(model, EncoderTaskModel) else None
        for model in (student, *panel.models)
    }
    return found.pop() if len(found) == 1 else None


def watched_places(student: TaskModel[Any, Any, Any], panel: Panel, reading: Reading, config: DistillConfig) -> _Watching:
    """Raises `UnsupportedError` where states or relations are asked for and there are none that can be compared."""
    alone = len(panel.models) == 1 and reading.all_alike
    if not alone and (config.hidden_weight or config.relation_weight):
        raise UnsupportedError(
            "distill: hidden_weight and relation_weight compare a student with one teacher that reads the same tokens; with "
            "several teachers, or one with another tokenizer, leave them open"
        )
    pairs, hidden = (_pairs(student, panel.models[0], config)) if alone else ({}, 0.0)
    weights = Weights(config.alpha, 1 - config.alpha, hidden, config.relation_weight)
    silent = config.hidden_weight is None and not hidden and bool(watchable_layers(student))
    left_out = (("states behind layers", _why_no_states(student, panel, reading)),) if silent else ()
    if not pairs:
        return _Watching(Watched(student, None), tuple(Watched(model, None) for model in panel.models), weights, left_out)
    own, others = (Views({name: pair[side] for name, pair in pairs.items()}) for side in (0, 1))
    return _Watching(Watched(student, own), (Watched(panel.models[0], others),), weights, left_out)


def _why_no_states(student: TaskModel[Any, Any, Any], panel: Panel, reading: Reading) -> str:
    if len(panel.models) > 1:
        return "there are several teachers, each with its own"
    if not reading.all_alike:
        return "the student reads other tokens than its teacher"
    if not watchable_layers(panel.models[0]):
        return "those of the teacher can't be seen"
    return f"the student's have {_encoder(student).hidden_size} numbers, its teacher's {_encoder(panel.models[0]).hidden_size}"


def _pairs(
    student: TaskModel[Any, Any, Any], teacher: TaskModel[Any, Any, Any], config: DistillConfig
) -> tuple[dict[str, tuple[nn.Module, nn.Module]], float]:
    """Modules of both whose outputs are compared, by name; and what states weigh."""
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
    return pairs, hidden


def _encoder(model: TaskModel[Any, Any, Any]) -> TextEncoder:
    assert isinstance(model, EncoderTaskModel)
    assert isinstance(model.parts.encoder, TextEncoder)
    return model.parts.encoder


def compared_targets(
    watching: _Watching, panel: Panel, reading: Reading, context: OptimizeContext
) -> tuple[frozenset[str], dict[str, str]]:
    """Which of the student's soft targets its teachers have as well, seen on some rows, and why the others are left out.
    Vectors of another model than the chain's parent, or of several, lie in spaces of their own and are left out, unless they
    are the answer itself and of one teacher: then the student learns its space. Raises `UnsupportedError` if not even the first
    of the targets, the answer itself, can be compared."""
    rows = few_rows(watching.student.model, context)
    with torch.random.fork_rng():
        batch = read_lesson(watching.student.model, rows)
        own = _targets(run_watched(watching.student, batch))
        others = [
            _targets(answers_to(watched, how, rows, batch)) for watched, how in zip(watching.teachers, reading.how, strict=True)
        ]
    found, left_out = set[str](), dict[str, str]()
    for i, (name, target) in enumerate(own.items()):
        reasons = [fits(target, other[name]) if name in other else "it has no such answer" for other in others]
        if i == 0 and any(reasons):
            who, why = next((n, reason) for n, reason in zip(panel.names, reasons, strict=True) if reason)
            raise UnsupportedError(
                f"distill: what {who} and the student answer can't be compared: {why}. A teacher must have its student's "
                "labels and, where each token or word has an answer, its tokenizer"
            )
        own_space = target.kind == "vectors" and panel.foreign
        if i == 0 and own_space and len(others) > 1:
            raise UnsupportedError(
                f"distill: {', '.join(panel.names)} answer with vectors, each in a space of its own, which have no mean; "
                "name one teacher"
            )
        if not any(reasons) and (i == 0 or not own_space):
            found.add(name)
        else:
            left_out[name] = next(filter(None, reasons), "the vectors of another model lie in a space of their own")
    return frozenset(found), left_out


def few_rows(model: TaskModel[Any, Any, Any], context: OptimizeContext) -> Sequence[Example[Any]]:
    """Some rows to try something on, at most a micro-batch where the model may be given such."""
    rows = context.train[:CHECKED_ROWS]
    longest = MICRO_BATCH_LENGTH if model.splits_batches else None
    return rows[micro_batches(list(map(row_length(context), rows)), CHECKED_ROWS, longest)[0]]


def _targets(seen: Mapping[str, SoftTarget]) -> dict[str, SoftTarget]:
    return {name: target for name, target in seen.items() if name.startswith(TARGET)}


def _together(panel: Panel, compared: frozenset[str], config: DistillConfig) -> Any:
    """What the teachers say as one, of what is compared; states and relations are those of the only one."""

    def together(said: Sequence[Mapping[str, SoftTarget]]) -> dict[str, SoftTarget]:
        return {
            name: averaged([other[name] for other in said], panel.weights, config.temperature)
            for name in said[0]
            if name in compared or not name.startswith(TARGET)
        }

    return together


def check_reached(learner: Learner, context: OptimizeContext) -> None:
    """Raises `UnsupportedError` if layers were taken out of a part of the model that the rows never run through: what is left
    of it would not learn to do without them."""
    with torch.random.fork_rng():
        learner.module.train()
        loss = learner.loss(learner.collate(few_rows(learner, context)))
        if loss.requires_grad:
            torch.autograd.backward(loss)
    layers = watchable_layers(learner.student)
    reached = not layers or any(p.grad is not None and bool(p.grad.any()) for layer in layers for p in layer.parameters())
    learner.module.zero_grad(set_to_none=True)
    if not reached:
        raise UnsupportedError(
            "distill: no row of the training data runs through the layers that are left, so they can't learn to do without the "
            "others; leave `layers` and `keep` open, or give rows that do"
        )
