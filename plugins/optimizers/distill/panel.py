"""Who teaches and who learns: models that the settings name, checked, and the mean of what several teachers say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import logsigmoid

from taskloom.core.anatomy import SoftTarget
from taskloom.core.artifact import Artifact
from taskloom.core.errors import UnsupportedError
from taskloom.core.optimizer import OptimizeContext
from taskloom.core.task import SharedParts, TaskModel
from taskloom.plugins.optimizers.distill.config import DistillConfig
from taskloom.plugins.optimizers.distill.losses import log_shares
from taskloom.plugins.optimizers.distill.plugin import refuse


@dataclass(frozen=True)
class Panel:
    """The teachers, and what each counts; the weights add up to 1. `foreign` says that one of them is not the chain's
    parent."""

    models: tuple[TaskModel[Any, Any, Any], ...]
    names: tuple[str, ...]
    digests: tuple[str, ...]
    weights: tuple[float, ...]
    foreign: bool


def panel_of(config: DistillConfig, context: OptimizeContext) -> Panel:
    """The teachers that the settings name, or the chain's parent. Raises `UnsupportedError` for one that can't teach."""
    found = [context.resolve(name) for name in config.teachers] or [context.parent]
    given = config.teacher_weights or (1.0,) * len(found)
    return Panel(
        models=tuple(named_model(artifact, context, "teacher") for artifact in found),
        names=tuple(artifact.name for artifact in found),
        digests=tuple(artifact.digest for artifact in found),
        weights=tuple(weight / sum(given) for weight in given),
        foreign=any(artifact.digest != context.parent.digest for artifact in found),
    )


def named_model(artifact: Artifact, context: OptimizeContext, role: str) -> TaskModel[Any, Any, Any]:
    """The model of an artifact; raises `UnsupportedError` for one of another task, and for one that has no weights to run."""
    known = artifact.manifest
    if known.task != context.task.name:
        raise UnsupportedError(
            f"distill: the {role} {artifact.name} is a model of {known.task}, and the model one of {context.task.name}; name "
            "a model of the same task"
        )
    if known.runtime not in {"", "torch"}:
        raise UnsupportedError(
            f"distill: the {role} {artifact.name} demands runtime {known.runtime!r} and has no weights that torch could run; "
            "name the model that it was made from"
        )
    refuse(artifact)
    return context.task.load(artifact, SharedParts())


def check_labels(student: TaskModel[Any, Any, Any], panel: Panel) -> None:
    """Raises `UnsupportedError` where a teacher says something else than the student can."""
    for model, name in zip(panel.models, panel.names, strict=True):
        if model.streams != student.streams:
            writes, chooses = (name, "the student") if model.streams else ("the student", name)
            raise UnsupportedError(
                f"distill: {writes} writes its answers and {chooses} does not; teach a model of the same kind"
            )
        if model.labels != student.labels:
            raise UnsupportedError(
                f"distill: {name} has {len(model.labels)} labels, the student {len(student.labels)}, and they are not the same "
                f"in the same order ({_first_difference(model.labels, student.labels)}); a teacher needs its student's labels"
            )


def _first_difference(one: Sequence[str], other: Sequence[str]) -> str:
    apart = next((pair for pair in zip(one, other, strict=False) if pair[0] != pair[1]), None)
    if apart is not None:
        return f"{apart[0]!r} where the student has {apart[1]!r}"
    longer = one if len(one) > len(other) else other
    return f"{longer[min(len(one), len(other))]!r} is there on one side alone"


def fits(own: SoftTarget, taught: SoftTarget) -> str:
    """Why two answers to the same inputs can't be compared; empty if they can."""
    if own.kind != taught.kind:
        return f"one is of {own.kind}, the other of {taught.kind}"
    if own.columns != taught.columns:
        return "their columns stand for different things"
    if own.values.shape[1:] != taught.values.shape[1:]:
        return f"they have the shapes {list(own.values.shape)} and {list(taught.values.shape)}"
    one, other = (_sizes(target) for target in (own, taught))
    return "" if one == other else "inputs are read in other pieces, by another tokenizer or in other windows"


def _sizes(target: SoftTarget) -> list[int]:
    return [1] * len(target.values) if target.sizes is None else target.sizes.tolist()


def averaged(said: Sequence[SoftTarget], weights: Sequence[float], temperature: float) -> SoftTarget:
    """What several teachers say together: logits whose softmax at `temperature` is the weighted mean of theirs, so that the KL
    to them has the gradient of the weighted mean of the KLs to each (as an ensemble in Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531, section 1, with the arithmetic mean)."""
    first = said[0]
    if len(said) == 1:
        return first
    logs = torch.tensor(weights).log()
    softened = [target.values.float() / temperature for target in said]
    if first.kind == "vectors":
        raise UnsupportedError("distill: vectors of several teachers lie in spaces of their own and have no mean")
    if first.kind == "flags":
        yes, no = (_mean([logsigmoid(sign * each) for each in softened], logs) for sign in (1, -1))
        mean = yes - no
    elif first.kind == "choices":
        mean = _mean([log_shares(each, first.sizes) for each in softened], logs)
    else:
        mean = _mean([each.log_softmax(-1) for each in softened], logs)
    return SoftTarget(mean * temperature, first.kind, first.sizes, first.columns)


def _mean(log_parts: Sequence[torch.Tensor], log_weights: torch.Tensor) -> torch.Tensor:
    """Log of the weighted mean of what the parts are the logs of."""
    stacked = torch.stack(list(log_parts))
    shape = (-1, *[1] * (stacked.ndim - 1))
    return (stacked + log_weights.to(stacked.device).view(shape)).logsumexp(0)
