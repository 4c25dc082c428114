"""Small random checkpoints, made on the spot, as `save_pretrained` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

WORDS = ["where", "is", "my", "card", "lost", "order", "refund", "hello", "the", "a", "##s", "##ed", ",", ".", "?", "!"]
CHINESE = list("我的银行卡在哪里请帮你好")


def make_checkpoint(
    folder: Path,
    kind: str = "bert",
    *,
    head: list[str] | None = None,
    seed: int = 0,
    pieces: Sequence[str] = (),
    **options: Any,
) -> Path:
    """A two-layer model of a kind and its tokenizer, as `save_pretrained` writes them; with `head`, a classifier of these
    labels. `pieces` are in its vocabulary beside the usual ones."""
    import torch
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, AutoModelForSequenceClassification, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *CHINESE, *"abcdefghijklmnopqrstuvwxyz", *pieces]
    fast = Tokenizer(models.WordPiece({word: i for i, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    fast.normalizer = normalizers.BertNormalizer(lowercase=True)
    fast.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    shape: dict[str, Any] = {"vocab_size": len(vocabulary), "max_position_embeddings": 132, "pad_token_id": 0}
    if kind == "distilbert":
        shape |= {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    else:
        shape |= {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    if head is not None:
        shape |= {"num_labels": len(head), "id2label": dict(enumerate(head)), "label2id": {x: i for i, x in enumerate(head)}}
    torch.manual_seed(seed)
    config = AutoConfig.for_model(kind, **(shape | options))
    model = (AutoModelForSequenceClassification if head is not None else AutoModel).from_config(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    tokens = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=128, **tokens).save_pretrained(folder)
    return folder


def make_writer(folder: Path, kind: str = "t5", *, seed: int = 0) -> Path:
    """A two-layer T5 or BART and its tokenizer, whose tokens are bytes, so that a character can come in pieces."""
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
