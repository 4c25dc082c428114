"""Small teachers: random functions of texts and pictures, which a student can learn from their answers alone."""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import Steps, published, shuffled_words

from taskloom.core.task import Example
from taskloom.plugins.tasks.classification.model import ClassificationModel
from taskloom.plugins.tasks.classification.schema import ClassificationInput

WORDS = ["where", "is", "my", "card", "lost", "order", "refund", "hello", "the", "a"]
LABELS = ["one", "two", "three"]


def sharp(model: Any) -> Any:
    """Makes a head that says something: its weights are random and large."""
    for parameter in model.module.head.parameters():
        torch.nn.init.normal_(parameter, std=1.0)
    model.module.eval()
    return model


@pytest.fixture(scope="session")
def classifier(tiny_bert: str) -> ClassificationModel:
    torch.manual_seed(2)
    model: ClassificationModel = sharp(ClassificationModel.build(LABELS, backbone=tiny_bert, dropout=0.0))
    model.parts.backbone.model.config.hidden_dropout_prob = 0.0
    return model


def rows_of(model: ClassificationModel, count: int, seed: int) -> list[Example[Any]]:
    """Random texts with the labels that the model gives them."""
    inputs = [ClassificationInput(text=text) for text in shuffled_words(WORDS, count, 4, seed)]
    with torch.inference_mode():
        best = model.forward(model.encode(inputs))["logits"].argmax(-1).tolist()
    return [Example(input=item, target=LABELS[i]) for item, i in zip(inputs, best, strict=True)]


def telling(model: ClassificationModel, rows: list[Example[Any]]) -> ClassificationModel:
    """The model with logits that differ from text to text: 0 on average, with a standard deviation of 3."""
    with torch.no_grad():
        logits = model.forward(model.encode([row.input for row in rows]))["logits"]
        last = next(part for part in model.module.head.modules() if isinstance(part, torch.nn.Linear))
        scale = 3 / logits.std(0)
        last.weight.mul_(scale.unsqueeze(1))
        last.bias.sub_(logits.mean(0)).mul_(scale)
    return model


@pytest.fixture
def telling_steps(tiny_bert: str, tmp_path: Path) -> Callable[..., Steps]:
    """Chains on a classifier that says something else of each text, `small`, beside which there is another, `other`."""
    made = []
    for seed in (2, 7):
        torch.manual_seed(seed)
        model = sharp(ClassificationModel.build(LABELS, backbone=tiny_bert, dropout=0.0))
        model.parts.backbone.model.config.hidden_dropout_prob = 0.0
        made.append(telling(model, rows_of(model, 96, 3)))
    parent = published("classification", made[0], tmp_path / "store")
    published("classification", made[1], tmp_path / "store", "other")
    rows, held = rows_of(made[0], 96, 3), rows_of(made[0], 24, 4)
    return lambda name: Steps(parent, rows, tmp_path / name, held)


@pytest.fixture
def steps(classifier: ClassificationModel, tmp_path: Path) -> Callable[..., Steps]:
    """Chains on the small classifier, each in a folder of its own: `steps("first")`."""
    parent = published("classification", classifier, tmp_path / "store")
    rows, held = rows_of(classifier, 96, 3), rows_of(classifier, 24, 4)
    return lambda name: Steps(parent, rows, tmp_path / name, held)


def narrow_bert(folder: Path, words: Sequence[str]) -> str:
    """A backbone of another width, whose tokenizer knows some words as single letters alone."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    pieces = [*string.ascii_lowercase, *(f"##{letter}" for letter in string.ascii_lowercase)]
    known = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "?", ".", *words, *pieces])}
    fast = Tokenizer(models.WordPiece(known, unk_token="[UNK]"))
    fast.normalizer, fast.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    fast.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    torch.manual_seed(5)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(known), max_position_embeddings=64, **shape)).save_pretrained(folder)
    named = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]", "mask_token": "[MASK]"}
    PreTrainedTokenizerFast(tokenizer_object=fast, model_max_length=64, **named).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def narrow(tmp_path: Path) -> str:
    return narrow_bert(tmp_path / "narrow", ["where", "is", "my", "card"])
