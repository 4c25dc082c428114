"""Small random encoder-decoders, made on the spot. Their tokens are bytes, so that a character can come in pieces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest


def make_writer(folder: Path, kind: str = "t5", *, seed: int = 0) -> Path:
    """A two-layer T5 or BART and its tokenizer, as `save_pretrained` writes them."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import (
        BartConfig,
        BartForConditionalGeneration,
        PreTrainedTokenizerFast,
        T5Config,
        T5ForConditionalGeneration,
    )

    special = ["<s>", "<pad>", "</s>", "<unk>"]
    vocabulary = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    fast = Tokenizer(models.BPE({word: i for i, word in enumerate(vocabulary)}, merges=[], unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    fast.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 2)])
    torch.manual_seed(seed)
    size = len(vocabulary)
    ids: dict[str, Any] = {"pad_token_id": 1, "eos_token_id": 2}
    model: Any
    if kind == "t5":
        shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_heads": 4}
        model = T5ForConditionalGeneration(T5Config(vocab_size=size, decoder_start_token_id=1, **shape, **ids))
    else:
        layers = {f"{part}_{name}": 2 for part in ("encoder", "decoder") for name in ("layers", "attention_heads")}
        wide = {"encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "d_model": 32, "max_position_embeddings": 128}
        starts = {"bos_token_id": 0, "decoder_start_token_id": 2, "forced_bos_token_id": 0, "forced_eos_token_id": 2}
        model = BartForConditionalGeneration(BartConfig(vocab_size=size, **layers, **wide, **starts, **ids))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    model.save_pretrained(folder)
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=128, **tokens).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def writer_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Makes a checkpoint once: `writer_checkpoint("bart")` is its folder."""
    made: dict[tuple[str, int], str] = {}

    def make(kind: str = "t5", seed: int = 0) -> str:
        if (kind, seed) not in made:
            made[kind, seed] = str(make_writer(tmp_path_factory.mktemp(kind) / kind, kind, seed=seed))
        return made[kind, seed]

    return make
