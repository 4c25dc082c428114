"""The encoder with its masked language model head as transformers has them, so that its classes can read what is published."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taskloom.core.artifact import BackboneInfo
from taskloom.core.errors import UnsupportedError
from taskloom.plugins.backbones.loading import Backbone, load_backbone
from taskloom.plugins.backbones.parts import EncoderParts
from taskloom.plugins.backbones.tokenizer import TextTokenizer
from taskloom.plugins.tasks.fill_mask.schema import NetworkSettings
from taskloom.plugins.tasks.fill_mask.vocabulary import table_size

AUTO_CLASS = "AutoModelForMaskedLM"
HEADS = ("cls", "lm_head")
"""What transformers calls a head that takes hidden states to logits over the vocabulary: in BERT and ERNIE; in RoBERTa, XLM-R
and CamemBERT."""


def new_network(settings: NetworkSettings, processor: Any, *, max_length: int, donor: Backbone | None = None) -> Backbone:
    """An encoder with random weights, but for the layers that it takes from a `donor`, and its head; seed torch first for the
    same again. Raises `UnsupportedError` if the donor's layers are of another kind."""
    from transformers import BertConfig, BertForMaskedLM, BertModel

    config = BertConfig(
        vocab_size=table_size(processor),
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=settings.feed_forward,
        max_position_embeddings=settings.positions,
        hidden_dropout_prob=settings.dropout,
        attention_probs_dropout_prob=settings.dropout,
        pad_token_id=processor.pad_token_id,
    )
    encoder = BertModel(config)
    if donor is not None:
        take_layers(encoder, donor)
    whole = with_encoder(BertForMaskedLM(config), encoder)
    info = BackboneInfo(id=f"new-bert-{settings.layers}x{settings.width}")
    tokenizer = TextTokenizer(processor, min(settings.positions, max_length), config.type_vocab_size)
    return Backbone(info, whole, tokenizer)


def take_layers(encoder: Any, donor: Backbone) -> None:
    """Copies another BERT's layers and all of its embeddings but those of tokens. Raises `UnsupportedError` if the donor has
    fewer layers or positions, or if they are of another kind or width."""
    mine, theirs = encoder.config, donor.model.config
    must_be = ("model_type", "hidden_size", "num_attention_heads", "intermediate_size", "hidden_act")
    other = [
        f"{key} {getattr(theirs, key, None)}, not {getattr(mine, key)}"
        for key in must_be
        if getattr(theirs, key, None) != getattr(mine, key)
    ]
    at_least = ("num_hidden_layers", "max_position_embeddings")
    other += [
        f"{key} {getattr(theirs, key)}, under {getattr(mine, key)}"
        for key in at_least
        if getattr(theirs, key, 0) < getattr(mine, key)
    ]
    if other:
        raise UnsupportedError(f"the layers of {donor.info.id!r} don't fit this network, it has {'; '.join(other)}")
    layers, found = encoder.encoder.layer, donor.model.encoder.layer
    for place, layer in enumerate(layers):
        source = round(place * (len(found) - 1) / max(1, len(layers) - 1))
        given = found[source].state_dict()
        if {name: tensor.shape for name, tensor in given.items()} != {n: t.shape for n, t in layer.state_dict().items()}:
            raise UnsupportedError(
                f"the layers of {donor.info.id!r} don't fit this network: layer {source} has other shapes, as pruned ones have"
            )
        layer.load_state_dict(given)
    with torch.no_grad():
        for name in ("position_embeddings", "token_type_embeddings"):
            own, given = getattr(encoder.embeddings, name).weight, getattr(donor.model.embeddings, name).weight
            own.copy_(given[: len(own)])
    encoder.embeddings.LayerNorm.load_state_dict(donor.model.embeddings.LayerNorm.state_dict())


def named_network(name: str, *, max_length: int, roots: Sequence[Path] = ()) -> Backbone:
    """A backbone that exists, with the head that it was pretrained with, or a random one where its files hold none."""
    found = load_backbone(name, max_length=max_length, auto_class=AUTO_CLASS, roots=roots)
    encoder = load_backbone(name, max_length=max_length, roots=roots)
    return replace(found, model=with_encoder(found.model, encoder.model))


def with_encoder(whole: Any, encoder: Any) -> Any:
    """The head of one model on another's encoder. The encoder is one that has its pooler, which masked language models have no
    use for: without it in the files, `AutoModel` would make up another one each time it reads them."""
    setattr(whole, whole.base_model_prefix, encoder)
    pooler = getattr(encoder, "pooler", None)
    if pooler is not None:
        pooler.requires_grad_(False)
    whole.tie_weights()
    return whole


def head_of(parts: EncoderParts) -> nn.Module:
    """What takes hidden states to logits over the vocabulary. Raises `UnsupportedError` for a tokenizer or an architecture that
    has no such thing."""
    whole = parts.whole
    head = next((found for name in HEADS if isinstance(found := getattr(whole, name, None), nn.Module)), None)
    if head is None:
        raise UnsupportedError(
            f"{parts.backbone.info.id!r} is a {type(whole).__name__}, whose head for masked tokens is not one module; use a "
            "backbone of the kind bert, ernie, roberta, xlm-roberta or camembert"
        )
    if parts.tokenizer.processor.mask_token_id is None:
        raise UnsupportedError(f"the tokenizer of {parts.backbone.info.id!r} has no mask token; use another backbone")
    return head
