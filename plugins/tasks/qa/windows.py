"""Training windows: one of each row, drawn so that answers lie anywhere in them, or not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

import torch
from torch import Tensor

from taskloom.core.errors import DataError
from taskloom.core.task import Batch, Example
from taskloom.plugins.backbones.tokenizer import EncodedWindows
from taskloom.plugins.tasks.qa.schema import ANSWER_TOKENS, QaInput, QaTarget


class Reading(Protocol):
    """What cuts contexts into windows: `QaModel.windows`."""

    def __call__(self, inputs: Sequence[QaInput], *, overlap: int, max_length: int | None = None) -> EncodedWindows: ...


@dataclass(frozen=True)
class TrainingWindows:
    """How windows are cut and drawn: `length` is `train_length` in `TrainConfig`, the others are named as there."""

    length: int = 96
    no_answer_share: float = 0.1
    max_answer_tokens: int = ANSWER_TOKENS


@dataclass(frozen=True)
class _Window:
    """A window of a row. Its tokens are `first` to `end` of the flat ones; `golds` has (token, reach) of each annotator's
    answer that it holds whole; `touched` is whether it holds any part of one."""

    first: int
    end: int
    golds: tuple[tuple[int, int], ...]
    touched: bool


def draw_windows(read: Reading, examples: Sequence[Example[QaInput]], how: TrainingWindows) -> Batch:
    """A batch of one window for each example, with the golds that `QaModel.collate` describes."""
    found = _cut(read, examples, how)
    chosen: list[_Window] = []
    for example, windows in zip(examples, _windows_of_rows(found, examples, how), strict=True):
        whole = [window for window in windows if window.golds]
        empty = [window for window in windows if not window.touched]
        kind, place = torch.rand(2).tolist()
        drawn = empty if empty and (not whole or kind < how.no_answer_share) else whole
        if not drawn:
            raise DataError(
                f"{example.path}, line {example.line}: no window of {how.length} tokens holds an answer of at most "
                f"{how.max_answer_tokens} tokens; raise train_length or max_answer_tokens",
                path=example.path,
                line=example.line,
            )
        chosen.append(drawn[int(place * len(drawn))])
    return _batch(found, chosen)


def learnable(read: Reading, example: Example[QaInput], how: TrainingWindows) -> bool:
    """Whether `draw_windows` finds a window for the row at every draw."""
    safe = min(how.max_answer_tokens, _overlap(how))
    if example.target.answers and all(answer.end - answer.start <= safe for answer in example.target.answers):
        return True  # no token is shorter than a character, and what is no longer than the overlap lies whole in some window
    windows = next(iter(_windows_of_rows(_cut(read, [example], how), [example], how)))
    return any(window.golds or not window.touched for window in windows)


def _overlap(how: TrainingWindows) -> int:
    return how.length // 3


def _cut(read: Reading, examples: Sequence[Example[QaInput]], how: TrainingWindows) -> EncodedWindows:
    return read([example.input for example in examples], overlap=_overlap(how), max_length=how.length)


def _windows_of_rows(
    found: EncodedWindows, examples: Sequence[Example[QaInput]], how: TrainingWindows
) -> Sequence[list[_Window]]:
    bounds = list(pairwise(accumulate(found.lengths.tolist(), initial=0)))
    rows: list[list[tuple[int, int]]] = [[] for _ in examples]
    for bound, owner in zip(bounds, found.owner.tolist(), strict=True):
        rows[owner].append(bound)
    return [
        _row_windows(found.offsets, bounds_of_row, example.target, how)
        for bounds_of_row, example in zip(rows, examples, strict=True)
    ]


def _row_windows(offsets: Tensor, bounds: list[tuple[int, int]], target: QaTarget, how: TrainingWindows) -> list[_Window]:
    first, end = bounds[0][0], bounds[-1][1]
    starts, ends = offsets[first:end, 0], offsets[first:end, 1]
    golds: list[list[tuple[int, int]]] = [[] for _ in bounds]
    touched = [False] * len(bounds)
    for answer in target.answers:
        part = (starts >= 0) & (starts < answer.end) & (ends > answer.start)
        if not bool(part.any()):
            continue
        opens, closes = part & (starts == starts[part].min()), part & (ends == ends[part].max())
        for i, (low, high) in enumerate(bounds):
            inside = slice(low - first, high - first)
            touched[i] = touched[i] or bool(part[inside].any())
            begin, finish = torch.nonzero(opens[inside]), torch.nonzero(closes[inside])
            if len(begin) and len(finish) and int(finish[-1]) - int(begin[0]) < how.max_answer_tokens:
                golds[i].append((low + int(begin[0]), int(finish[-1]) - int(begin[0])))
    return [_Window(low, high, tuple(found), touch) for (low, high), found, touch in zip(bounds, golds, touched, strict=True)]


def _batch(found: EncodedWindows, chosen: Sequence[_Window]) -> Batch:
    token: list[int] = []
    reach: list[int] = []
    owner: list[int] = []
    weight: list[float] = []
    at = 0
    for i, window in enumerate(chosen):
        marked = Counter(window.golds) or Counter({(window.first, -1): 1})
        for (place, length), votes in marked.items():
            token.append(at + place - window.first)
            reach.append(length)
            owner.append(i)
            weight.append(votes / marked.total())
        at += window.end - window.first
    kept = torch.cat([torch.arange(window.first, window.end) for window in chosen])
    return {
        "input_ids": found.input_ids[kept],
        "token_type_ids": found.token_type_ids[kept],
        "lengths": torch.tensor([window.end - window.first for window in chosen]),
        "owner": torch.arange(len(chosen)),
        "offsets": found.offsets[kept],
        "gold_token": torch.tensor(token),
        "gold_reach": torch.tensor(reach),
        "gold_window": torch.tensor(owner),
        "gold_weight": torch.tensor(weight),
    }
