"""Texts to flat tensors of token ids, with no state that a call could change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from taskloom.core.errors import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids of N texts laid end to end: `input_ids` and `token_type_ids` [T], `lengths` and `truncated` [N]."""

    input_ids: Tensor
    token_type_ids: Tensor
    lengths: Tensor
    truncated: Tensor


class TextTokenizer:
    """A tokenizer that cuts at `max_length` tokens and never pads. Thread-safe: it is set up once.

    The Hugging Face wrapper sets truncation anew at each call, which two threads must not do at a time; so this calls the
    tokenizer inside it. `processor` is the wrapper, for saving.
    """

    def __init__(self, processor: Any, max_length: int, type_vocab_size: int) -> None:
        inner = getattr(processor, "backend_tokenizer", None)
        if inner is None:
            raise UnsupportedError(
                f"{type(processor).__name__} has no fast version; use a backbone whose tokenizer has a tokenizer.json"
            )
        self.processor = processor
        self.max_length = max_length
        self._type_vocab_size = type_vocab_size
        self._fast: Tokenizer = type(inner).from_str(inner.to_str())
        self._fast.no_padding()
        self._fast.enable_truncation(max_length)

    def encode(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None) -> EncodedTexts:
        """Raises `InvalidInputError` for a text that is no Unicode (lone surrogates)."""
        rows: list[Any] = list(texts)
        if pairs is not None:
            rows = [text if pair is None else (text, pair) for text, pair in zip(texts, pairs, strict=True)]
        try:
            found = self._fast.encode_batch_fast(rows)
        except (UnicodeEncodeError, TypeError) as exc:
            raise InvalidInputError(
                "the text holds half of a surrogate pair, which is no character; send whole Unicode text", field="input.text"
            ) from exc
        ids = torch.tensor(list(chain.from_iterable(row.ids for row in found)), dtype=torch.long)
        if self._type_vocab_size > 1 and pairs is not None:
            types = torch.tensor(list(chain.from_iterable(row.type_ids for row in found)), dtype=torch.long)
        else:
            types = torch.zeros_like(ids)
        return EncodedTexts(
            input_ids=ids,
            token_type_ids=types,
            lengths=torch.tensor([len(row.ids) for row in found], dtype=torch.long),
            truncated=torch.tensor([bool(row.overflowing) for row in found]),
        )
