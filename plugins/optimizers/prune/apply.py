"""Pruning a model: what each part is worth, what it costs, what goes, and the training of what is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import ValidationError

from taskloom.core.anatomy import Structure, check_sizes
from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized
from taskloom.core.task import Batch, Example, TaskModel
from taskloom.core.types import Frozen
from taskloom.plugins._shared.training import seed_everything
from taskloom.plugins.optimizers.prune.config import PruneConfig
from taskloom.plugins.optimizers.prune.importance import importances
from taskloom.plugins.optimizers.prune.latency import LatencyTable, measure_table, runs_through, shrunk, times
from taskloom.plugins.optimizers.prune.recovery import recover, score
from taskloom.plugins.optimizers.prune.selection import Candidate, allowed_sizes, select
from taskloom.plugins.optimizers.prune.vocabulary import keep_pieces, reading_facts, seen_pieces
from taskloom.plugins.optimizers.prune.zeros import apply_zeros

PLAN = "plan.json"
TRIES = 3
"""Selections that are made again where the measured time is further from the target than the predicted one."""
NEAR = 1.03
"""A measured share so much beyond the target is still taken for it: repeated measurements differ as much."""
FAR_BELOW = 0.9
"""A selection whose measured share is less than so much of the target has lost more than it had to."""


class Plan(Frozen):
    """What is to be taken out, found once: measured times differ from run to run, so an interrupted step goes on with this."""

    pieces: tuple[int, ...] | None
    layers: tuple[int, ...] | None
    kept: Mapping[str, tuple[int, ...]]
    table: LatencyTable | None
    timed_on: Literal["requests", "training rows"] = "requests"
    predicted_share: float
    measured_latency_share: float


def apply(model: TaskModel[Any, Any, Any], config: PruneConfig, context: OptimizeContext) -> Optimized:
    if model.module is None:
        raise UnsupportedError(f"prune: a {type(model).__name__} has no weights; there is nothing to take out")
    if not context.train:
        raise ConfigError("prune: there are no training rows; what a part is worth is found on them")
    if config.kind != "structured":
        return apply_zeros(model, config, context, _batch(model, config, context)[0])
    _check(model, config)
    before = score(model, context)
    parameters = _parameters(model)
    plan = _plan(model, config, context)
    start = shrunk(model, {}) if plan.pieces is not None else None
    sizes = _take_out(model, plan)
    facts = dict(recover(model, config, context, plan.model_dump(mode="json")))
    if start is not None:
        facts["vocabulary"] = dict(reading_facts(start, model, context.validation))
    return Optimized(
        model,
        {
            "kind": config.kind,
            "kept": {name: {"parts": list(parts), "of": sizes[name]} for name, parts in plan.kept.items()},
            "kept_layers": None if plan.layers is None else list(plan.layers),
            "table": None if plan.table is None else plan.table.model_dump(mode="json"),
            "target": {config.target: config.share},
            "timed_on": plan.timed_on,
            "predicted_share": plan.predicted_share,
            "measured_latency_share": plan.measured_latency_share,
            "parameters_before": parameters,
            "parameters_after": _parameters(model),
            "validation_before": dict(before),
            **facts,
        },
    )


def _check(model: TaskModel[Any, Any, Any], config: PruneConfig) -> None:
    if config.share == 1 and not config.layers and config.vocabulary == "whole":
        raise ConfigError("prune: with share 1, no layers and the whole vocabulary nothing goes; ask for one of them")
    if config.share < 1 and not _cuttable(model):
        raise UnsupportedError(
            f"prune: a {type(model).__name__} of this kind has no heads, units or channels that can be taken out; "
            "use quantize, or kind 'magnitude' to see what zeros do"
        )


def _plan(model: TaskModel[Any, Any, Any], config: PruneConfig, context: OptimizeContext) -> Plan:
    path = context.run.work_folder / PLAN
    found = _found_plan(path) if context.run.resume else None
    if found is None:
        found = _make_plan(model, config, context)
        path.write_text(found.model_dump_json(indent=1), encoding="utf-8")
    return found


def _found_plan(path: Path) -> Plan | None:
    try:
        return Plan.model_validate_json(path.read_bytes())
    except (OSError, ValidationError):
        return None


def _make_plan(model: TaskModel[Any, Any, Any], config: PruneConfig, context: OptimizeContext) -> Plan:
    seed_everything(config.seed)  # some tasks draw for the loss that importance is the gradient of
    rows = _spread_rows(context.train, config.importance_rows)
    pieces = seen_pieces(model, context.train, config.seen_at_least) if config.vocabulary == "seen" else None
    layers = _layers_to_keep(model, config, rows)
    stacks = [structure for structure in model.structures() if structure.kind == "layers"]
    kept_layers = {} if layers is None else {stacks[0].name: layers}  # the first stack, as `_take_out` does
    check_sizes(stacks, {name: len(kept) for name, kept in kept_layers.items()})
    smaller = shrunk(model, kept_layers, pieces)
    (before, count), (after, _) = (_batch(each, config, context) for each in (model, smaller))
    batches = [before, after]
    whole = Plan(pieces=pieces, layers=layers, kept={}, table=None, predicted_share=1.0, measured_latency_share=1.0)
    if config.share == 1:
        start_s, own_s = times([model, smaller], batches)
        left = _parameters(smaller) / _parameters(model) if config.target == "parameters" else own_s / start_s
        return whole.model_copy(update={"predicted_share": left, "measured_latency_share": own_s / start_s})
    structures = _cuttable(smaller)
    if not runs_through(smaller, structures, batches[1]):
        batches = [_trained_batch(each, config, context) for each in (model, smaller)]
        whole = whole.model_copy(update={"timed_on": "training rows"})
        if config.target == "latency" and not runs_through(smaller, structures, batches[1]):
            raise UnsupportedError(
                f"prune: no row runs through what can go: a batch takes {1e3 * times([model], batches[:1])[0]:.2f} ms, none of "
                "them there. Give rows that do, or take target 'parameters', which makes the model smaller"
            )
    worth = importances(smaller, structures, rows, config.importance)
    return whole.model_copy(update=_chosen(model, smaller, worth, batches, config.model_copy(update={"timed_rows": count})))


def _chosen(
    model: TaskModel[Any, Any, Any],
    smaller: TaskModel[Any, Any, Any],
    worth: Mapping[str, Any],
    batches: Sequence[Batch],
    config: PruneConfig,
) -> dict[str, Any]:
    """What of `smaller`, which is `model` without some layers and pieces, goes for the target: fields of the plan."""
    structures = _cuttable(smaller)
    sizes = {s.name: _sizes(s, config) for s in structures}
    if config.target == "parameters":
        whole, here = float(_parameters(model)), float(_parameters(smaller))
        costs = {s.name: _weights(s.weights) for s in structures}
        table = None
    else:
        start_s, smaller_s = times([model, smaller], batches)
        table = measure_table(smaller, structures, sizes, batches[1], config.timed_rows)
        here = table.whole_s
        whole = here * start_s / smaller_s
        costs = {s.name: table.cost(s.name) for s in structures if len(sizes[s.name]) > 1}
    candidates = [
        Candidate(s.name, worth[s.name].tolist(), sizes[s.name], costs[s.name]) for s in structures if s.name in costs
    ]
    budget = config.share * whole
    for attempt in range(TRIES):
        kept = select(candidates, max(0.0, here - budget))
        left = here - sum(c.cost(max(c.sizes)) - c.cost(len(kept[c.name])) for c in candidates)
        start_s, own_s = times([model, shrunk(smaller, kept)], batches)
        measured = own_s / start_s
        near = FAR_BELOW * config.share <= measured <= NEAR * config.share
        if config.target == "parameters" or near or attempt == TRIES - 1:
            break
        budget *= config.share / measured  # the sum of single savings is not what all save together
        budget = min(here, max(budget, here - sum(c.cost(max(c.sizes)) - c.cost(min(c.sizes)) for c in candidates)))
    parts = {name: tuple(chosen) for name, chosen in kept.items()}
    return {"kept": parts, "table": table, "predicted_share": left / whole, "measured_latency_share": measured}


def _weights(each: int) -> Any:
    return lambda size: float(each * size)


def _layers_to_keep(
    model: TaskModel[Any, Any, Any], config: PruneConfig, rows: Sequence[Example[Any]]
) -> tuple[int, ...] | None:
    if not config.layers:
        return None
    stack = next((s for s in model.structures() if s.kind == "layers"), None)
    if stack is None or config.layers >= stack.size:
        there = 0 if stack is None else stack.size
        raise ConfigError(f"prune: layers is {config.layers}; the model has {there} that can go, of which one must stay")
    worth = importances(model, [stack], rows, config.importance)[stack.name].tolist()
    return tuple(sorted(sorted(range(stack.size), key=worth.__getitem__)[config.layers :]))


def _take_out(model: TaskModel[Any, Any, Any], plan: Plan) -> dict[str, int]:
    """Returns how large the structures were that the plan is about."""
    if plan.pieces is not None:
        keep_pieces(model, plan.pieces)
    if plan.layers is not None:
        next(s for s in model.structures() if s.kind == "layers").keep(plan.layers)
    sizes = {}
    for structure in model.structures():
        parts = plan.kept.get(structure.name)
        if parts is not None:
            sizes[structure.name] = structure.size
            if len(parts) < structure.size:
                structure.keep(parts)
    return sizes


def _cuttable(model: TaskModel[Any, Any, Any]) -> list[Structure]:
    return [structure for structure in model.structures() if structure.kind in {"heads", "units", "channels"}]


def _sizes(structure: Structure, config: PruneConfig) -> list[int]:
    multiple = {"units": config.units_multiple, "channels": config.channels_multiple}.get(structure.kind, 1)
    return allowed_sizes(structure.size, multiple)


def _batch(model: TaskModel[Any, Any, Any], config: PruneConfig, context: OptimizeContext) -> tuple[Batch, int]:
    rows = _spread_rows(context.train, config.timed_rows)
    return model.prepare([row.input for row in rows], [context.task.Params()] * len(rows)), len(rows)


def _trained_batch(model: TaskModel[Any, Any, Any], config: PruneConfig, context: OptimizeContext) -> Batch:
    """Rows as they are trained on, which may have more in them: a recommender is told some items in words."""
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        return model.collate(_spread_rows(context.train, config.timed_rows))


def _spread_rows(rows: Sequence[Example[Any]], count: int) -> list[Example[Any]]:
    """So many rows from all over the data; all, if there are fewer."""
    if count >= len(rows):
        return list(rows)
    return [rows[i * len(rows) // count] for i in range(count)]


def _parameters(model: TaskModel[Any, Any, Any]) -> int:
    return sum(parameter.numel() for parameter in model.module.parameters())
