"""Small random checkpoints, made on the spot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

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


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes a checkpoint in a folder of its own: `checkpoint("bert", head=["yes", "no"])`."""

    def make(kind: str = "bert", **options: Any) -> Path:
        return make_checkpoint(tmp_path_factory.mktemp(kind) / kind, kind, **options)

    return make


@pytest.fixture(scope="session")
def tiny_bert(checkpoint: Callable[..., Path]) -> str:
    return str(checkpoint("bert"))
