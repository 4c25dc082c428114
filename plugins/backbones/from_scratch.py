"""A text encoder without a pretrained one: its vocabulary, its tokenizer and its random weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from taskloom.core.artifact import BackboneInfo
from taskloom.core.errors import DataError
from taskloom.plugins.backbones.loading import Backbone, text_tokenizer
from taskloom.plugins.backbones.segmentation import PLACES
from taskloom.plugins.backbones.settings import RecurrentNetwork

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[UNK]")
INSIDE = "##"
LEAST_WORDS = 2
"""How often a word of several letters must be there to be a piece."""


def new_backbone(network: RecurrentNetwork, texts: Sequence[str], *, max_length: int) -> Backbone:
    """An encoder with random weights (seed torch first) and a vocabulary of what the texts have. Raises `DataError` if that is
    nothing."""
    from taskloom.plugins.backbones.recurrent import blank

    processor = new_processor(texts, network.least_count)
    model = blank(
        vocab_size=len(processor),
        embedding_size=network.embedding,
        hidden_size=2 * network.hidden,
        num_hidden_layers=network.layers,
        hidden_dropout_prob=network.dropout,
        unknown_prob=network.unknown,
        pair_vocab_size=network.pairs,
        pair_embedding_size=network.pair_embedding,
        type_vocab_size=len(PLACES) + 1 if network.segmentation else 1,
        pad_token_id=SPECIAL.index("[PAD]"),
        unk_token_id=SPECIAL.index("[UNK]"),
        max_position_embeddings=processor.model_max_length,
    )
    model.eval()  # type: ignore[no-untyped-call]
    return Backbone(BackboneInfo(id=""), model, text_tokenizer(model.config, processor, max_length))


def new_processor(texts: Iterable[str], least_count: int = 1) -> Any:
    """A tokenizer of these texts. Chinese characters, digits and marks stand alone, wide forms and capitals are read as plain
    letters; words of other scripts are pieces, and rare ones are read letter by letter."""
    from tokenizers import Tokenizer, models, processors
    from transformers import PreTrainedTokenizerFast

    splitter = Tokenizer(models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))  # noqa: S106
    _split(splitter)
    pieces = [*SPECIAL, *_pieces(splitter, texts, least_count)]
    if len(pieces) == len(SPECIAL):
        raise DataError("the training texts have no visible character; there is nothing to make a vocabulary of")
    fast = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(pieces)}, unk_token="[UNK]"))  # noqa: S106
    _split(fast)
    fast.post_processor = processors.BertProcessing(*((name, SPECIAL.index(name)) for name in ("[SEP]", "[CLS]")))
    names = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=fast, model_max_length=512, **names
    )


def _split(tokenizer: Tokenizer) -> None:
    from tokenizers import normalizers, pre_tokenizers

    plain = normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, strip_accents=False, lowercase=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), plain])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=True)]
    )


def _pieces(splitter: Tokenizer, texts: Iterable[str], least_count: int) -> list[str]:
    """The most frequent first; in the same order whenever they are made of the same texts."""
    before, words = splitter.normalizer, Counter[str]()
    for text in texts:
        words.update(word for word, _ in splitter.pre_tokenizer.pre_tokenize_str(before.normalize_str(text)))
    letters = Counter[str]()
    for word, count in words.items():
        for place, letter in enumerate(word):
            letters[letter if place == 0 else INSIDE + letter] += count
    found = {piece: count for piece, count in letters.items() if count >= least_count}
    rare = max(LEAST_WORDS, least_count)
    found |= {word: count for word, count in words.items() if len(word) > 1 and count >= rare}
    return sorted(found, key=lambda piece: (-found[piece], piece))
