"""A smaller WordPiece vocabulary: which pieces can go without a word becoming unknown, and the tokenizer without them.

It is no `Structure`: a text with a piece that goes is read in other pieces, which no gate of zero shows, and what a piece is
worth is told by the texts that have it, not by a gradient.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from taskloom.core.errors import InvalidInputError, UnsupportedError
from taskloom.plugins.backbones.loading import quiet_transformers
from taskloom.plugins.backbones.tokenizer import TextTokenizer

TOKENIZER_FILE = "tokenizer.json"
LETTER, MARK = "a", "!"
"""One character of each kind that words of several pieces can be made of."""


@dataclass(frozen=True)
class WordPieces:
    """The pieces of a WordPiece tokenizer by their ids. A word is read from its front, each time the longest piece there is
    (Devlin et al. 2018, https://arxiv.org/abs/1810.04805; `prefix` marks pieces inside a word); where none is, the whole word
    is unknown."""

    ids: Mapping[str, int]
    prefix: str
    special: frozenset[int]
    splitter: Any
    """The tokenizer, for what it does before it looks for pieces."""

    @classmethod
    def of(cls, tokenizer: TextTokenizer) -> WordPieces:
        """Raises `UnsupportedError` for a tokenizer of another kind."""
        inner = tokenizer.processor.backend_tokenizer
        model = json.loads(inner.to_str())["model"]
        if model["type"] != "WordPiece":
            raise UnsupportedError(
                f"this model's tokenizer is of kind {model['type']}, and only WordPiece can do without some of its pieces: BPE "
                "makes pieces by merging smaller ones, in steps that a piece that is gone would break, and Unigram "
                "(SentencePiece) weighs whole splits by probabilities that were found for all pieces together. Leave the "
                "vocabulary as it is"
            )
        special = {*tokenizer.processor.all_special_ids, *inner.get_added_tokens_decoder()}
        return cls(inner.get_vocab(), model["continuing_subword_prefix"], frozenset(special), inner)

    def needed(self, wanted: Iterable[int]) -> list[int]:
        """The ids that must stay, in order, for a vocabulary that has the `wanted` ones: with these no word is unknown that
        isn't unknown now, whatever it is.

        Each character stays, at the front of a word and inside one: then the search for pieces never gets stuck. A character
        that has no piece of its own in one of these places could stop it. So pieces with such a character stay, and all that
        share a character with them, directly or through others: words of these are read as they are now.
        """
        plain = {piece: i for piece, i in self.ids.items() if i not in self.special}
        fronts = {piece for piece in plain if not piece.startswith(self.prefix)}
        insides = {piece.removeprefix(self.prefix) for piece in plain if piece.startswith(self.prefix)}
        alphabet = {c for piece in fronts | insides for c in piece}
        never_inside = {c for c in alphabet if not self._stands_inside(c)}
        free = insides | never_inside
        kept = set(self.special) | set(wanted)
        kept |= {plain[c] for c in alphabet & fronts}
        kept |= {plain[self.prefix + c] for c in (alphabet & insides) - never_inside}
        stuck = {piece[0] for piece in fronts if piece[0] not in fronts}
        stuck |= {c for piece in fronts for c in piece[1:] if c not in free}
        stuck |= {c for piece in insides for c in piece if c not in free}
        if stuck:
            reached = _reached(stuck, [piece for piece in fronts | insides if len(piece) > 1])
            kept |= {i for piece, i in plain.items() if reached.intersection(piece.removeprefix(self.prefix))}
        return sorted(kept)

    def _stands_inside(self, character: str) -> bool:
        """False for one that is always a word of its own, such as a Chinese one where words are split at these."""
        before, splits = self.splitter.normalizer, self.splitter.pre_tokenizer
        if splits is None:
            return True
        for text in (LETTER + character, MARK + character, 2 * character):
            plain = before.normalize_str(text) if before is not None else text
            if len(splits.pre_tokenize_str(plain)) < 2:
                return True
        return False


def _reached(characters: set[str], pieces: Sequence[str]) -> set[str]:
    """These characters, and all that can be reached from them through pieces that have a character in common."""
    reached, waiting = set(characters), [frozenset(piece) for piece in pieces]
    while True:
        touched = [piece for piece in waiting if not reached.isdisjoint(piece)]
        if not touched:
            return reached
        waiting = [piece for piece in waiting if reached.isdisjoint(piece)]
        reached.update(*touched)


def without_pieces(tokenizer: TextTokenizer, kept: Sequence[int]) -> TextTokenizer:
    """The same tokenizer with the pieces `kept` alone (ascending ids, the special ones among them), numbered anew in their
    order. It is made from the standard files that it will be saved as, so that it is what a later reader gets.

    Raises `UnsupportedError` for a tokenizer whose files can't be changed so."""
    from transformers import AutoTokenizer

    inner = tokenizer.processor.backend_tokenizer
    new = {old: number for number, old in enumerate(kept)}
    pieces = {piece: new[i] for piece, i in inner.get_vocab().items() if i in new}
    with tempfile.TemporaryDirectory() as scratch, quiet_transformers():
        tokenizer.processor.save_pretrained(scratch)
        path = Path(scratch) / TOKENIZER_FILE
        content = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps(_renumbered(content, new), ensure_ascii=False), encoding="utf-8")
        processor: Any = AutoTokenizer.from_pretrained(scratch, local_files_only=True, trust_remote_code=False)
    found = tokenizer.replaced(processor)
    frame = [new[i] for i in _frame(tokenizer)]
    if processor.backend_tokenizer.get_vocab() != pieces or _frame(found) != frame:
        raise UnsupportedError(
            f"a {type(tokenizer.processor).__name__} is not made again from {TOKENIZER_FILE} alone; leave its vocabulary whole"
        )
    return found


def _frame(tokenizer: TextTokenizer) -> list[int]:
    """The ids of the special tokens around two texts."""
    ids: list[int] = tokenizer.encode([""], [""]).input_ids.tolist()
    return ids


def _renumbered(content: dict[str, Any], new: Mapping[int, int]) -> dict[str, Any]:
    """The content of `tokenizer.json` with new ids; pieces without one are left out. Padding and truncation, which are set
    anew wherever it is used, too."""
    model = content["model"]
    model["vocab"] = {piece: new[i] for piece, i in model["vocab"].items() if i in new}
    for token in content["added_tokens"]:
        token["id"] = new[token["id"]]
    _renumber_processor(content["post_processor"], new)
    return {**content, "padding": None, "truncation": None}


def _renumber_processor(processor: dict[str, Any] | None, new: Mapping[int, int]) -> None:
    if processor is None:
        return
    for part in processor.get("processors", ()):
        _renumber_processor(part, new)
    for name in ("sep", "cls"):
        if name in processor:
            processor[name] = [processor[name][0], new[processor[name][1]]]
    for token in processor.get("special_tokens", {}).values():
        token["ids"] = [new[i] for i in token["ids"]]


def keep_embeddings(model: Any, kept: Sequence[int]) -> None:
    """Takes the other rows out of a model's table of embeddings, into a new tensor, and sets what its configuration says of the
    vocabulary. Raises `UnsupportedError` for a model that has another table for its pieces."""
    table = model.get_input_embeddings()
    head = model.get_output_embeddings()
    if not isinstance(table, nn.Embedding) or head is not None or getattr(model, "pairs", None) is not None:
        raise UnsupportedError(
            f"a {type(model).__name__} has more than one plain table of embeddings for its pieces; leave its vocabulary whole"
        )
    if kept[-1] >= table.num_embeddings:
        raise InvalidInputError(f"the model has embeddings for the pieces 0 to {table.num_embeddings - 1}, not for {kept[-1]}")
    rows = torch.tensor(list(kept), device=table.weight.device)
    table.weight = nn.Parameter(table.weight.detach()[rows], requires_grad=table.weight.requires_grad)
    table.num_embeddings = len(kept)
    new = {old: number for number, old in enumerate(kept)}
    table.padding_idx = None if table.padding_idx is None else new.get(table.padding_idx)
    for config in {id(part.config): part.config for part in (model, model.base_model)}.values():
        config.vocab_size = len(kept)
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id"):
            if isinstance(getattr(config, name, None), int):
                setattr(config, name, new.get(getattr(config, name)))
