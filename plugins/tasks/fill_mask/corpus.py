"""Text to tokens, once: a file of token ids and one of word starts, which training reads a row at a time.

Documents are laid end to end with `[SEP]` behind each and cut into rows of equal length, as in RoBERTa's "full sentences"
(Liu et al. 2019, https://arxiv.org/abs/1907.11692, section 4.2), so that a batch has no padding. The files are written aside
and renamed, the description that vouches for them by their SHA-256 last: a run that is killed meanwhile begins them anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from taskloom.core.artifact import file_digest
from taskloom.core.errors import DataError
from taskloom.core.store import sync_path, write_atomically
from taskloom.core.task import Example
from taskloom.core.types import Frozen
from taskloom.plugins.tasks.fill_mask.vocabulary import PREFIX, table_size
from taskloom.plugins.tasks.fill_mask.words import word_starts

IDS, STARTS, DESCRIPTION = "tokens.bin", "starts.bin", "corpus.json"
TEXTS_AT_ONCE = 64


class CorpusDescription(Frozen):
    """`corpus.json`. `fingerprint` identifies the texts and the vocabulary, `ids` and `starts` are the files' SHA-256."""

    fingerprint: str
    documents: int
    tokens: int
    unknown: int
    """Tokens that the vocabulary has no piece for."""
    dtype: str
    ids: str
    starts: str


@dataclass(frozen=True)
class TokenFile:
    """`ids` [T] of all documents end to end, and `starts` [T], 1 where a token begins a word; both are mapped, not read."""

    description: CorpusDescription
    ids: NDArray[Any]
    starts: NDArray[np.uint8]

    @classmethod
    def open(cls, folder: Path, fingerprint: str) -> TokenFile | None:
        """None if the folder holds no whole file of these texts."""
        try:
            told = CorpusDescription.model_validate_json((folder / DESCRIPTION).read_bytes())
            found = (file_digest(folder / IDS).sha256, file_digest(folder / STARTS).sha256)
        except (OSError, ValueError):
            return None
        if told.fingerprint != fingerprint or found != (told.ids, told.starts):
            return None
        ids: NDArray[Any] = np.memmap(folder / IDS, dtype=told.dtype, mode="r")
        return cls(told, ids, np.memmap(folder / STARTS, dtype=np.uint8, mode="r"))

    @classmethod
    def build(cls, folder: Path, fingerprint: str, texts: Iterable[str], processor: Any) -> TokenFile:
        """Reads the texts once. `processor` is a transformers tokenizer."""
        folder.mkdir(parents=True, exist_ok=True)
        dtype = "<u2" if table_size(processor) <= 1 << 16 else "<u4"
        aside = [folder / f".{name}.{os.getpid()}" for name in (IDS, STARTS)]
        documents = tokens = unknown = 0
        try:
            with aside[0].open("wb") as ids_out, aside[1].open("wb") as starts_out:
                for ids, starts in tokenised(texts, processor):
                    documents += 1
                    tokens += len(ids)
                    unknown += int((ids == processor.unk_token_id).sum())
                    ids_out.write(ids.astype(dtype).tobytes())
                    starts_out.write(starts.tobytes())
            for path, name in zip(aside, (IDS, STARTS), strict=True):
                sync_path(path)
                os.replace(path, folder / name)
        finally:
            for path in aside:
                path.unlink(missing_ok=True)
        told = CorpusDescription(
            fingerprint=fingerprint,
            documents=documents,
            tokens=tokens,
            unknown=unknown,
            dtype=dtype,
            ids=file_digest(folder / IDS).sha256,
            starts=file_digest(folder / STARTS).sha256,
        )
        write_atomically(folder / DESCRIPTION, (json.dumps(told.model_dump(), indent=1) + "\n").encode())
        opened = cls.open(folder, fingerprint)
        if opened is None:
            raise DataError(f"the token file in {folder} was changed by another process while it was made; train again")
        return opened


def tokenised(texts: Iterable[str], processor: Any) -> Iterator[tuple[NDArray[np.int64], NDArray[np.uint8]]]:
    """Ids and word starts of each text, with the separator behind it. A token begins a word if it lies in another word than
    the token before it, and is no piece from inside of one to the tokenizer (which takes `5×3` for one word)."""
    inner = processor.backend_tokenizer
    fast = type(inner).from_str(inner.to_str())
    fast.no_padding()
    fast.no_truncation()
    inside = np.zeros(table_size(processor), dtype=bool)
    inside[[number for token, number in processor.get_vocab().items() if token.startswith(PREFIX)]] = True
    stream = iter(texts)
    while some := list(islice(stream, TEXTS_AT_ONCE)):
        for text, found in zip(some, fast.encode_batch(some, add_special_tokens=False), strict=True):
            first = np.array([start for start, _ in found.offsets], dtype=np.int64)
            word = np.searchsorted(np.array(word_starts(text), dtype=np.int64), first, side="right")
            starts = np.ones(len(first) + 1, dtype=np.uint8)
            ids = np.array([*found.ids, processor.sep_token_id], dtype=np.int64)
            starts[1:-1] = (word[1:] != word[:-1]) & ~inside[ids[1:-1]]
            yield ids, starts


class RowNumber(Frozen):
    """Which row of a token file."""

    row: int


class TokenRows(Sequence[Example[RowNumber]]):
    """The rows of a token file as examples, of which each holds its number alone. `count` of them are drawn with a seed; 0
    takes all. What is left at the end of the file and fills no row is left out."""

    def __init__(self, file: TokenFile, length: int, *, count: int = 0, seed: int = 0) -> None:
        self.file, self.length = file, length
        self._room = length - 2
        whole = len(file.ids) // self._room
        if not whole:
            raise DataError(f"the texts have {len(file.ids)} tokens, and a row needs {self._room}; lower train_length")
        chance = np.random.default_rng(seed)
        self._chosen = np.sort(chance.choice(whole, count, replace=False)) if 0 < count < whole else np.arange(whole)

    def __len__(self) -> int:
        return len(self._chosen)

    @overload
    def __getitem__(self, index: int) -> Example[RowNumber]: ...
    @overload
    def __getitem__(self, index: slice) -> list[Example[RowNumber]]: ...
    def __getitem__(self, index: int | slice) -> Example[RowNumber] | list[Example[RowNumber]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Example(input=RowNumber(row=int(self._chosen[index])), target=None)

    def read(self, rows: Sequence[int], first: int, last: int) -> tuple[Tensor, Tensor]:
        """Ids [N, length] between the special tokens `first` and `last`, and word starts [N, length]. A word that a row has not
        from its beginning belongs to the token `first`, one that goes on behind the row to the token `last`."""
        begin = np.array(rows, dtype=np.int64)[:, None] * self._room
        place = begin + np.arange(self._room)
        ids = np.empty((len(rows), self.length), dtype=np.int64)
        starts = np.ones((len(rows), self.length), dtype=np.uint8)
        ids[:, 0], ids[:, -1] = first, last
        ids[:, 1:-1] = self.file.ids[place]
        starts[:, 1:-1] = self.file.starts[place]
        after = begin[:, 0] + self._room
        inside = after < len(self.file.starts)
        starts[inside, -1] = self.file.starts[after[inside]]
        return torch.from_numpy(ids), torch.from_numpy(starts.astype(bool))
