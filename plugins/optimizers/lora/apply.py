"""Training an adapter: choose its size, put it in, train it, and merge it or keep it apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.optimizer import OptimizeContext, Optimized
from taskloom.core.task import TaskModel
from taskloom.plugins._shared.training import seed_everything
from taskloom.plugins._shared.tuning import tune, tuning_fingerprint
from taskloom.plugins.backbones.loading import quiet_transformers
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.optimizers.lora.config import ALPHA, ALPHA_OF_ROOT, VIRTUAL, LoraConfig
from taskloom.plugins.optimizers.lora.extract import extract_adapter
from taskloom.plugins.optimizers.lora.layers import Adaptable, adaptable, ia3_layers, rank_for
from taskloom.plugins.optimizers.lora.memory import PeakMemory, checkpointing, training_bytes
from taskloom.plugins.optimizers.lora.ranks import KeptRanks, divided, gradient_spectra, rank_costs
from taskloom.plugins.optimizers.lora.virtual import add_virtual_tokens

Divide = Callable[[Mapping[str, nn.Module], int], dict[str, int]]
"""Ranks of layers, by name, that have at most so many parameters together."""


def train_adapter(model: TaskModel[Any, Any, Any], config: LoraConfig, context: OptimizeContext) -> Optimized:
    """`model` trained on `context.train`, with few of its weights or all."""
    seed_everything(config.seed)
    if config.method == "extract":
        return _extracted(model, config)
    fingerprint = tuning_fingerprint(model, context, config)
    if config.start == "backbone" and isinstance(model, EncoderTaskModel):
        model.restart()
    total = sum(p.numel() for p in model.module.parameters())
    facts: dict[str, Any] = {"method": config.method, "parameters": total}
    adapted: Any = None
    most = int(config.budget * total)
    if config.method == "full":
        if isinstance(model, EncoderTaskModel):
            model.own_backbone()
            model.parts.backbone.model.requires_grad_(True)
    elif config.method in VIRTUAL:
        facts |= {"merged": False, "adapter_bytes": add_virtual_tokens(model, config, most, context.train, facts)}
    else:
        adapted = add_adapter(model, config, most, facts, _divide(model, config, context, fingerprint))
        if isinstance(model, EncoderTaskModel) and not config.merge:
            model.keep_adapter(adapted)
    trainable = sum(p.numel() for p in model.module.parameters() if p.requires_grad)
    facts |= {"trainable_parameters": trainable, "trainable_share": trainable / total}
    wanted = False if config.method == "full" and config.gradient_checkpointing is None else config.gradient_checkpointing
    with checkpointing(model, wanted) as facts["gradient_checkpointing"], PeakMemory() as memory:
        result = tune(model, model, context, config, fingerprint=fingerprint)
    facts["memory"] = {**training_bytes(total, trainable, averaged=bool(config.ema_decay)), **memory.facts()}
    if adapted is not None:
        facts |= {"merged": config.merge, "adapter_bytes": adapter_bytes(adapted)}
        if config.merge:
            if isinstance(model, EncoderTaskModel):
                model.own_backbone()
            adapted.merge_and_unload()
    return Optimized(model, {**result.facts, **facts, "history": [dict(row) for row in result.history]})


def _extracted(model: TaskModel[Any, Any, Any], config: LoraConfig) -> Optimized:
    facts: dict[str, Any] = {"method": config.method}
    adapted = extract_adapter(model, config, facts)
    if isinstance(model, EncoderTaskModel):
        model.keep_adapter(adapted)
    model.module.eval()
    return Optimized(model, {**facts, "merged": False, "adapter_bytes": adapter_bytes(adapted)})


def _divide(model: TaskModel[Any, Any, Any], config: LoraConfig, context: OptimizeContext, fingerprint: str) -> Divide | None:
    """How parameters are divided among layers; None where all have one rank."""
    if config.ranks == "even":
        return None
    rows = context.train[:: max(1, len(context.train) // config.importance_rows)][: config.importance_rows]

    def divide(layers: Mapping[str, nn.Module], room: int) -> dict[str, int]:
        kept = KeptRanks(context.run.work_folder, f"{fingerprint} {room}")
        found = kept.read()
        if found is None:
            spectra = gradient_spectra(model, layers, rows, config.seed)
            found = divided(spectra, rank_costs(layers, dora=config.method == "dora"), room)
            if found:
                kept.write(found)
        return found

    return divide


def add_adapter(
    model: TaskModel[Any, Any, Any], config: LoraConfig, most: int, facts: dict[str, Any], divide: Divide | None = None
) -> Any:
    """Puts the adapter in and freezes all else but the head, where that is trained; at most `most` parameters are trained.
    Returns the PEFT model, and notes in `facts` what was chosen. Raises `ConfigError` if the budget is too small."""
    from peft import get_peft_model

    places = adaptable(model, config.target_modules)
    named = dict(model.module.named_parameters())
    head = [name for name in sorted(places.head) if named[name].requires_grad]
    of_head = sum(named[name].numel() for name in head)
    with_head = config.train_head is not False
    settings = peft_settings(config, places, most - of_head if with_head else most, facts, divide)
    if settings is None and config.train_head is None:
        with_head = False
        settings = peft_settings(config, places, most, facts, divide)
    if settings is None:
        raise ConfigError(
            f"lora: budget = {config.budget:g} allows {most} trained parameters, too few for an adapter"
            + (f" beside a head of {of_head}; raise it or set train_head = false" if with_head else "; raise it")
        )
    try:
        with quiet_transformers():
            adapted = get_peft_model(places.root, settings)
    except (ValueError, NotImplementedError) as exc:
        raise UnsupportedError(f"lora: {config.method} can't be put into this model: {str(exc).splitlines()[0]}") from exc
    inside = {id(parameter) for parameter in places.root.parameters()}
    for name, parameter in named.items():
        if name in places.head:
            parameter.requires_grad_(with_head and name in head)
        elif id(parameter) not in inside:
            parameter.requires_grad_(False)
    facts["head_trained"] = with_head and bool(head)
    return adapted


def peft_settings(config: LoraConfig, places: Adaptable, room: int, facts: dict[str, Any], divide: Divide | None = None) -> Any:
    """PEFT's settings of an adapter with at most `room` parameters; None if there is no such adapter."""
    from peft import IA3Config
    from peft import LoraConfig as PeftLoraConfig

    if config.method == "ia3":
        scaled, before = ia3_layers(places.layers)
        size = sum(_factors(places.layers[name], name in before) for name in scaled)
        facts |= {"target_modules": scaled, "adapter_parameters": size}
        return IA3Config(target_modules=scaled, feedforward_modules=before) if size <= room else None
    rank = config.r if config.r is not None else rank_for(config, places.layers, room)
    ranks = dict.fromkeys(sorted(places.layers), rank) if rank else {}
    if divide is not None:
        costs = rank_costs(places.layers, dora=config.method == "dora").values()
        ranks = divide(places.layers, room if config.r is None else sum(own.each * rank + own.first for own in costs))
    if not ranks:
        return None
    root = config.method == "rslora"
    alpha = config.alpha if config.alpha is not None else ALPHA_OF_ROOT if root else ALPHA
    most = max(ranks, key=lambda name: ranks[name])
    facts |= {"r": ranks[most], "alpha": alpha, "target_modules": sorted(ranks)}
    facts |= {} if divide is None else {"ranks": ranks}
    return PeftLoraConfig(
        r=ranks[most],
        lora_alpha=alpha,  # type: ignore[arg-type]  # need be no whole number: PEFT only divides it
        rank_pattern={} if divide is None else ranks,
        lora_dropout=config.dropout,
        use_rslora=root,
        use_dora=config.method == "dora",
        target_modules=sorted(ranks),
    )


def _factors(layer: nn.Module, before: bool) -> int:
    """How many factors IA3 has for a layer."""
    if isinstance(layer, nn.Conv2d):
        return layer.out_channels
    assert isinstance(layer, nn.Linear)
    return layer.in_features if before else layer.out_features


def adapter_bytes(adapted: Any) -> int:
    """Of the tensors that an adapter's file holds."""
    from peft import get_peft_model_state_dict

    return sum(int(tensor.nbytes) for tensor in get_peft_model_state_dict(adapted).values())
