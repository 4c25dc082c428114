"""Prompt and prefix tuning: how many virtual tokens a model is given, and what they begin as."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from taskloom.core.errors import ConfigError, UnsupportedError
from taskloom.core.task import Example, TaskModel
from taskloom.plugins.backbones.encoder import TextEncoder
from taskloom.plugins.backbones.task_model import EncoderTaskModel
from taskloom.plugins.backbones.virtual_tokens import (
    VirtualMethod,
    VirtualTokens,
    first_virtual_tokens,
    prefixed_layers,
    virtual_tokens,
)
from taskloom.plugins.optimizers.lora.config import LoraConfig

MOST_TOKENS = 20
"""Virtual tokens where nothing is said: beyond so many, prompts gain little (Lester et al. 2021, section 3.2)."""
FIRST_ROWS = 32
"""Rows whose tokens the virtual ones are drawn from."""


def add_virtual_tokens(
    model: TaskModel[Any, Any, Any], config: LoraConfig, most: int, rows: Sequence[Example[Any]], facts: dict[str, Any]
) -> int:
    """Puts virtual tokens in and freezes all else but the head, where that is trained; at most `most` parameters are trained.
    Returns the tokens' bytes, and notes in `facts` what was chosen. Raises `ConfigError` if the budget is too small."""
    if not isinstance(model, EncoderTaskModel) or not isinstance(model.parts.encoder, TextEncoder):
        raise UnsupportedError(f"lora: a {type(model).__name__} reads no packed text, so it takes no virtual tokens; use lora")
    encoder = model.parts.encoder
    method = cast(VirtualMethod, config.method)
    head = [parameter for parameter in model.module.head.parameters() if parameter.requires_grad]
    of_head = sum(parameter.numel() for parameter in head)
    each = _size(encoder, method)
    with_head = config.train_head is not False
    room = (most - of_head if with_head else most) // each
    if room < 1 and config.train_head is None:
        with_head, room = False, most // each
    there = _there(encoder, config)
    count = there.count if there else config.virtual_tokens or min(MOST_TOKENS, room)
    if count < 1:
        raise ConfigError(
            f"lora: budget = {config.budget:g} allows {most} trained parameters, and one virtual token has {each}"
            + (f" beside a head of {of_head}; raise it or set train_head = false" if with_head else "; raise it")
        )
    model.module.requires_grad_(False).eval()
    if there is None:
        chosen = rows[:: max(1, len(rows) // FIRST_ROWS)][:FIRST_ROWS]
        batch = model.encode([row.input for row in chosen])
        there = first_virtual_tokens(encoder, method, count, batch)
    trained = model.keep_virtual_tokens(there)
    for parameter in head:
        parameter.requires_grad_(with_head)
    facts |= {"virtual_tokens": count, "adapter_parameters": count * each, "head_trained": with_head and bool(head)}
    return sum(int(parameter.nbytes) for parameter in trained)


def _there(encoder: TextEncoder, config: LoraConfig) -> VirtualTokens | None:
    """Those that the model has, to be trained further: another method, or another number, would lose what they learnt."""
    found = virtual_tokens(encoder)
    if found and (found.method != config.method or config.virtual_tokens not in {None, found.count}):
        raise UnsupportedError(
            f"lora: this model is read with {found.count} virtual tokens of {found.method} tuning already; leave "
            f"virtual_tokens open and set method = {found.method!r} to train them further, or set start = 'backbone'"
        )
    return found


def _size(encoder: TextEncoder, method: VirtualMethod) -> int:
    """Parameters of one virtual token."""
    if method == "prompt":
        return int(encoder.model.get_input_embeddings().embedding_dim)
    return sum(2 * layer.shape.heads * layer.head_size for layer in prefixed_layers(encoder))
