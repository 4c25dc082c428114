"""Tokens to text while they come: only whole words leave, so that what was sent never has to be taken back."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

WIDE_FROM, WIDE_TO = "\u2e80", "\uffef"
"""Chinese, Japanese and Korean: no blanks between words, so each character may leave on its own."""
UNFINISHED = "\ufffd"
"""What tokenizers put for bytes that are no whole character yet."""


class WordPieces:
    """The text of growing token ids. `text_of` decodes ids; `longest` is the most characters that may be given, and what is
    over is left out from a word on."""

    def __init__(self, text_of: Callable[[Sequence[int]], str], longest: int | None = None) -> None:
        self._text_of = text_of
        self._longest = longest

    def whole(self, tokens: Sequence[int]) -> str:
        return self._within(self._text_of(tokens).strip())

    def pieces(self, steps: Iterable[int]) -> Iterator[str]:
        """Pieces that together are `whole` of all steps' tokens."""
        tokens: list[int] = []
        sent = ""
        for token in steps:
            tokens.append(token)
            text = self._text_of(tokens).lstrip()
            sure = text[: finished(text)]
            if self._longest is not None and len(text) > self._longest and len(sure) >= self._longest:
                break
            if len(sure) > len(sent) and sure.startswith(sent) and (self._longest is None or len(sure) <= self._longest):
                yield sure[len(sent) :]
                sent = sure
        rest = self.whole(tokens)
        if len(rest) > len(sent):
            yield rest[len(sent) :]

    def _within(self, text: str) -> str:
        if self._longest is None or len(text) <= self._longest:
            return text
        return cut_at_word(text, self._longest)


def cut_at_word(text: str, longest: int) -> str:
    """The text's beginning in at most `longest` characters, to the end of a word; a part of the first word if even that is
    too long."""
    if len(text) <= longest:
        return text
    cut = text[:longest] if _parts(text[longest - 1], text[longest]) else text[: finished(text[:longest])]
    return cut.rstrip() or text[:longest]


def finished(text: str) -> int:
    """How many characters of a text that still grows are certain: all before its last word. A word ends before a blank or
    a wide character; marks behind it still belong to it."""
    end = text.find(UNFINISHED)
    text = text if end < 0 else text[:end]
    for i in range(len(text) - 1, 0, -1):
        if _parts(text[i - 1], text[i]):
            return len(text[:i].rstrip())
    return 0


def _parts(before: str, after: str) -> bool:
    """Whether a word ends between two characters."""
    return after.isspace() or before.isspace() or _is_wide(before) or _is_wide(after)


def _is_wide(letter: str) -> bool:
    return (WIDE_FROM <= letter <= WIDE_TO or letter >= "\U00020000") and letter.isalpha()


def generated_steps(module: Any, input_ids: Tensor, config: Any, special: Collection[int]) -> Iterator[int]:
    """The tokens that `module` generates from one text, one by one, without special ones.

    Generation runs in a thread beside the reader, since transformers hands tokens out by a call and not as an iterator; it
    ends early when the reader goes away. An error in it is raised here."""
    tokens: queue.Queue[int | BaseException | None] = queue.Queue()
    stopped = threading.Event()

    class Stop:
        """Asked after each token whether to end."""

        def __call__(self, ids: Tensor, scores: Any, **_: Any) -> Tensor:
            return torch.full((ids.shape[0],), stopped.is_set(), dtype=torch.bool, device=ids.device)

    class Put:
        """A streamer: is handed the decoder's first token and then each new one."""

        def put(self, value: Tensor) -> None:
            for token in value.flatten().tolist():
                if token not in special:
                    tokens.put(token)

        def end(self) -> None:
            tokens.put(None)

    def run() -> None:
        try:
            with torch.inference_mode():
                module.generate(
                    input_ids=input_ids,
                    attention_mask=torch.ones_like(input_ids),
                    generation_config=config,
                    streamer=Put(),
                    stopping_criteria=[Stop()],
                )
        except BaseException as exc:
            tokens.put(exc)

    thread = threading.Thread(target=run, name="summary-stream", daemon=True)
    thread.start()
    try:
        while (token := tokens.get()) is not None:
            if isinstance(token, BaseException):
                raise token
            yield token
    finally:
        stopped.set()
        thread.join()
