"""The rows that a student learns from: those of the chain, inputs without targets, altered copies of both."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from taskloom.core.errors import DataError, UnsupportedError
from taskloom.core.task import Batch, Example, TaskModel, TaskPlugin
from taskloom.plugins._shared.datasets import bad_row, read_rows
from taskloom.plugins.optimizers.distill.config import DistillConfig

WORDS = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\s\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+")
"""Words as runs of what is no space; of scripts that are written without spaces, characters."""
LONGEST_RUN = 5
"""Words that a copy which is cut keeps at most, as in Tang et al. 2019, section 3.2.1 (n-gram sampling)."""
TRIES = 3
"""Draws for a copy that differs from its row, before there is none."""


@dataclass(frozen=True)
class NoTarget:
    """Stands where a row's target would: the teachers alone say what it is about."""


def has_target(example: Example[Any]) -> bool:
    return not isinstance(example.target, NoTarget)


def read_lesson(model: TaskModel[Any, Any, Any], examples: Sequence[Example[Any]]) -> Batch:
    """How a model reads rows: with their targets if all have one, else as it reads requests."""
    if all(has_target(example) for example in examples):
        return model.collate(examples)
    return model.encode([example.input for example in examples])


def lessons(
    task: TaskPlugin[Any, Any, Any], rows: Sequence[Example[Any]], config: DistillConfig, mask: str | None
) -> list[Example[Any]]:
    """All rows to learn from, those of the chain first. `mask` is the token that stands for an unknown word; without one, such
    words are left out."""
    known = [*rows, *(row for path in config.unlabelled for row in unlabelled_rows(task, path))]
    if not config.augment:
        return known
    fields = text_fields(task)
    if not fields:
        raise UnsupportedError(
            f"distill: the inputs of {task.name} have no text of which it is known that it may be changed, so `augment` can't "
            "alter them; leave it at 0"
        )
    change = Alteration(config, _vocabulary(known, fields), mask)
    return [*known, *(copy for row in known for copy in _altered(row, fields, change, config.augment))]


def unlabelled_rows(task: TaskPlugin[Any, Any, Any], path: Path) -> Iterator[Example[Any]]:
    """The inputs in a file; raises `DataError` with the path and line of the first that is none of the task's."""
    for fields, line in _text_lines(task, path) if path.suffix == ".txt" else _field_rows(task, path):
        try:
            given = task.Input.model_validate(dict(fields))
        except ValidationError as exc:
            first = exc.errors(include_url=False)[0]
            raise bad_row(str(path), line, f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}") from exc
        yield Example(input=given, target=NoTarget(), path=str(path), line=line)


def _field_rows(task: TaskPlugin[Any, Any, Any], path: Path) -> Iterator[tuple[Mapping[str, Any], int]]:
    for row in read_rows(path, columns=list(task.Input.model_fields)):
        yield row.values, row.line


def _text_lines(task: TaskPlugin[Any, Any, Any], path: Path) -> Iterator[tuple[Mapping[str, Any], int]]:
    if task.text_field is None:
        raise DataError(
            f"{path}: an input of {task.name} is no bare text; give its fields as .jsonl: {', '.join(task.Input.model_fields)}",
            path=str(path),
        )
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as exc:
        raise DataError(f"{path} can't be read as UTF-8 text: {exc}", path=str(path)) from exc
    if not any(line.strip() for line in lines):
        raise DataError(f"{path} has no rows", path=str(path))
    for number, line in enumerate(lines, start=1):
        if line.strip():
            yield {task.text_field: line.strip()}, number


# -- altered copies -------------------------------------------------------------------------------------------------------


def text_fields(task: TaskPlugin[Any, Any, Any]) -> tuple[str, ...]:
    """The fields of an input that may be changed and hold texts or lists of texts, as far as the task says so."""
    return task.noisy_fields or ((task.text_field,) if task.text_field else ())


class Alteration:
    """Changes a text at random: words are masked, exchanged for others, or all but a run of them left out (Tang et al. 2019,
    https://arxiv.org/abs/1903.12136, section 3.2.1, where the other word is one with the same part of speech)."""

    def __init__(self, config: DistillConfig, vocabulary: Sequence[str], mask: str | None) -> None:
        self._config = config
        self._vocabulary = vocabulary
        self._mask = mask
        self._chance = random.Random(f"{config.seed}:{len(vocabulary)}")

    def __call__(self, text: str) -> str:
        words = list(WORDS.finditer(text))
        if len(words) < 2:
            return text
        kept = range(len(words))
        if self._chance.random() < self._config.augment_cut:
            size = self._chance.randint(1, min(LONGEST_RUN, len(words)))
            start = self._chance.randint(0, len(words) - size)
            kept = range(start, start + size)
        pieces: list[str] = []
        for i in kept:
            word = self._word(words[i].group())
            if word is not None:
                gap = text[words[i - 1].end() : words[i].start()] if pieces else ""
                pieces.append(gap + word)
        return "".join(pieces).strip() or text

    def _word(self, word: str) -> str | None:
        draw = self._chance.random()
        if draw < self._config.augment_mask:
            return self._mask
        if draw < self._config.augment_mask + self._config.augment_swap:
            return self._chance.choice(self._vocabulary)
        return word


def _vocabulary(rows: Sequence[Example[Any]], fields: Sequence[str]) -> list[str]:
    """Each word as often as the rows have it."""
    texts = (text for row in rows for name in fields for text in _texts(getattr(row.input, name)))
    return [word for text in texts for word in WORDS.findall(text)]


def _texts(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        return (value,)
    return tuple(part for part in value if isinstance(part, str)) if isinstance(value, tuple) else ()


def _altered(row: Example[Any], fields: Sequence[str], change: Callable[[str], str], copies: int) -> Iterator[Example[Any]]:
    for _ in range(copies):
        for _ in range(TRIES):
            found = {name: _changed(getattr(row.input, name), change) for name in fields}
            if any(found[name] != getattr(row.input, name) for name in fields):
                yield Example(input=row.input.model_copy(update=found), target=NoTarget(), path=row.path, line=row.line)
                break


def _changed(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, tuple):
        return tuple(change(part) if isinstance(part, str) else part for part in value)
    return value
