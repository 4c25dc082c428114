"""Texts to flat tensors of token ids, with no state that a call could change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from taskloom.core.errors import InvalidInputError, UnsupportedError

if TYPE_CHECKING:
    from tokenizers import Tokenizer


WORD_STARTS = "\N{LOWER ONE EIGHTH BLOCK}\N{LATIN CAPITAL LETTER G WITH DOT ABOVE}"
"""What SentencePiece and byte-level BPE put in front of a piece that a word starts with."""


@dataclass(frozen=True)
class EncodedTexts:
    """Token ids of N texts laid end to end: `input_ids` and `token_type_ids` [T], `lengths` and `truncated` [N]."""

    input_ids: Tensor
    token_type_ids: Tensor
    lengths: Tensor
    truncated: Tensor


@dataclass(frozen=True)
class EncodedWindows:
    """Windows of texts laid end to end. Per window [W]: `lengths`, and `owner`, the text that it was cut from. Per token [T]:
    `input_ids`, `token_type_ids`; `offsets` [T, 2], code points of the token in its text; `words`, the number of its word in
    the text; both are -1 for tokens that are not of the text (special ones, the question before it)."""

    input_ids: Tensor
    token_type_ids: Tensor
    lengths: Tensor
    owner: Tensor
    offsets: Tensor
    words: Tensor


@dataclass(frozen=True)
class Pieces:
    """The tokens of a whole text, special ones not among them: their ids, their types, and the code points of each."""

    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int]]


class TextTokenizer:
    """A tokenizer that cuts at `max_length` tokens and never pads. Thread-safe: it is set up once.

    The Hugging Face wrapper sets truncation anew at each call, which two threads must not do at a time; so this calls the
    tokenizer inside it. `processor` is the wrapper, for saving. With `segmentation` the type of a token is its place in its
    word (`segmentation.PLACES`), not which of two texts it is of.
    """

    def __init__(self, processor: Any, max_length: int, type_vocab_size: int, *, segmentation: bool = False) -> None:
        inner = getattr(processor, "backend_tokenizer", None)
        if inner is None:
            raise UnsupportedError(
                f"{type(processor).__name__} has no fast version; use a backbone whose tokenizer has a tokenizer.json"
            )
        self.processor = processor
        self.max_length = max_length
        self._type_vocab_size = type_vocab_size
        self._segmentation = segmentation
        self._fast: Tokenizer = type(inner).from_str(inner.to_str())
        self._fast.no_padding()
        self._whole: Tokenizer = type(inner).from_str(self._fast.to_str())
        self._whole.no_truncation()
        self._fast.enable_truncation(max_length)

    def cut_at(self, max_length: int) -> TextTokenizer:
        """The same tokenizer with another maximum, no longer than this one's."""
        return self._alike(self.processor, min(max_length, self.max_length))

    def replaced(self, processor: Any) -> TextTokenizer:
        """Another tokenizer that cuts where this one does."""
        return self._alike(processor, self.max_length)

    def _alike(self, processor: Any, max_length: int) -> TextTokenizer:
        return TextTokenizer(processor, max_length, self._type_vocab_size, segmentation=self._segmentation)

    def encode(self, texts: Sequence[str], pairs: Sequence[str | None] | None = None) -> EncodedTexts:
        """Raises `InvalidInputError` for a text that is no Unicode (lone surrogates)."""
        rows: list[Any] = list(texts)
        if pairs is not None:
            rows = [text if pair is None else (text, pair) for text, pair in zip(texts, pairs, strict=True)]
        try:
            found = (self._fast.encode_batch if self._segmentation else self._fast.encode_batch_fast)(rows)
        except (UnicodeEncodeError, TypeError) as exc:
            raise _no_unicode() from exc
        ids = torch.tensor(list(chain.from_iterable(row.ids for row in found)), dtype=torch.long)
        if self._segmentation:
            sources = [(row,) if isinstance(row, str) else row for row in rows]
            types = _word_places([(row, *own) for row, own in zip(found, sources, strict=True)])
        elif self._type_vocab_size > 1 and pairs is not None:
            types = torch.tensor(list(chain.from_iterable(row.type_ids for row in found)), dtype=torch.long)
        else:
            types = torch.zeros_like(ids)
        return EncodedTexts(
            input_ids=ids,
            token_type_ids=types,
            lengths=torch.tensor([len(row.ids) for row in found], dtype=torch.long),
            truncated=torch.tensor([bool(row.overflowing) for row in found]),
        )

    def windows(
        self, texts: Sequence[str], before: Sequence[str] | None = None, *, overlap: int = 0, max_length: int | None = None
    ) -> EncodedWindows:
        """Each text in as many windows of `max_length` tokens (special ones included) as it needs, neighbours sharing
        `overlap` tokens of text. `before` (a question, say) stands in front of every window of its text, cut where it would
        take more than half of the window. A text without tokens has one window without any.

        Raises `InvalidInputError` for a text that is no Unicode, and for an overlap that leaves no way forward.
        """
        longest = min(max_length or self.max_length, self.max_length)
        try:
            bodies = self._whole.encode_batch(list(texts), add_special_tokens=False)
            fronts = self._whole.encode_batch(list(before), add_special_tokens=False) if before is not None else None
        except (UnicodeEncodeError, TypeError) as exc:
            raise _no_unicode() from exc
        room = longest - self._whole.num_special_tokens_to_add(is_pair=fronts is not None)
        found: list[tuple[int, Any]] = []
        sources = list(zip(before, texts, strict=True)) if before is not None else [(text,) for text in texts]
        for owner, body in enumerate(bodies):
            front = fronts[owner] if fronts is not None else None
            if front is not None:
                front.truncate(room // 2)
            left = room - (len(front.ids) if front is not None else 0)
            if overlap >= left:
                raise InvalidInputError(f"windows of {longest} tokens can't overlap by {overlap}: {left} are left for the text")
            body.truncate(left, stride=overlap)
            for window in (body, *body.overflowing):
                whole = self._whole.post_process(*((front, window) if front is not None else (window, None)))
                found.append((owner, whole))
        return self._windows(found, sources)

    @property
    def has_two_types(self) -> bool:
        """Whether the encoder tells tokens of type 1 from those of type 0, and nothing else is said by that."""
        return self._type_vocab_size > 1 and not self._segmentation

    @cached_property
    def letters(self) -> Tensor:
        """Of each token [V] how many letters and digits it has; 0 for marks and special tokens."""
        vocabulary = self.processor.get_vocab()
        found = torch.zeros(1 + max(vocabulary.values()), dtype=torch.long)
        for token, number in vocabulary.items():
            piece = token.removeprefix("##").lstrip(WORD_STARTS)
            found[number] = len(piece) if piece.isalnum() else 0
        return found

    def pieces(self, texts: Sequence[str]) -> list[Pieces]:
        """The texts as they are, cut nowhere: for a model that puts a sequence together from them, inside of `frame`. Raises
        `InvalidInputError` for a text that is no Unicode."""
        try:
            found = self._whole.encode_batch(list(texts), add_special_tokens=False)
        except (UnicodeEncodeError, TypeError) as exc:
            raise _no_unicode() from exc
        return [Pieces(row.ids, self._types_of(row, text), row.offsets) for row, text in zip(found, texts, strict=True)]

    def _types_of(self, row: Any, text: str) -> list[int]:
        return _word_places([(row, text)]).tolist() if self._segmentation else [0] * len(row.ids)

    def frame(self) -> tuple[list[int], list[int]]:
        """The special tokens before and behind a text. Their type is 0."""
        found = self._whole.encode("a")
        own = found.special_tokens_mask.index(0)
        behind = found.special_tokens_mask.index(1, own) if 1 in found.special_tokens_mask[own:] else len(found.ids)
        return found.ids[:own], found.ids[behind:]

    def _windows(self, found: Sequence[tuple[int, Any]], sources: Sequence[tuple[str, ...]]) -> EncodedWindows:
        """Encoded windows and their owners; `sources` are the texts of each owner, of which the last is cut into windows."""
        sequence = len(sources[0]) - 1 if sources else 0
        ids = torch.tensor([i for _, window in found for i in window.ids], dtype=torch.long)
        if self._segmentation:
            types = _word_places([(window, *sources[owner]) for owner, window in found])
        else:
            types = torch.tensor([i for _, window in found for i in window.type_ids], dtype=torch.long)
        outside = (-1, -1)
        marked = [
            (offsets, word) if of == sequence and word is not None else (outside, -1)
            for _, window in found
            for offsets, word, of in zip(window.offsets, window.word_ids, window.sequence_ids, strict=True)
        ]
        return EncodedWindows(
            input_ids=ids,
            token_type_ids=types if self._type_vocab_size > 1 else torch.zeros_like(ids),
            lengths=torch.tensor([len(window.ids) for _, window in found], dtype=torch.long),
            owner=torch.tensor([owner for owner, _ in found], dtype=torch.long),
            offsets=torch.tensor([offsets for offsets, _ in marked], dtype=torch.long).view(-1, 2),
            words=torch.tensor([word for _, word in marked], dtype=torch.long),
        )


def _word_places(rows: Sequence[tuple[Any, ...]]) -> Tensor:
    """For each row, an encoding and the texts that it is of: the place of each token's first character in its word [T]."""
    from taskloom.plugins.backbones.segmentation import places_in_words

    known: dict[str, Any] = {}
    found: list[int] = []
    for encoding, *texts in rows:
        for text in texts:
            if text not in known:
                known[text] = places_in_words(text)
        for of, (start, _) in zip(encoding.sequence_ids, encoding.offsets, strict=True):
            found.append(0 if of is None else int(known[texts[of]][start]))
    return torch.tensor(found, dtype=torch.long)


def _no_unicode() -> InvalidInputError:
    return InvalidInputError(
        "the text holds half of a surrogate pair, which is no character; send whole Unicode text", field="input.text"
    )
