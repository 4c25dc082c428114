"""The vocabulary that the training rows need, and the model with no other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from taskloom.core.errors import UnsupportedError
from taskloom.core.task import Example, TaskModel
from taskloom.plugins.backbones.task_model import EncoderTaskModel


def seen_pieces(model: TaskModel[Any, Any, Any], rows: Sequence[Example[Any]], at_least: int) -> tuple[int, ...]:
    """The ids of the pieces that the rows have so often."""
    counts = _with_vocabulary(model).pieces_read(rows)
    return tuple((counts >= at_least).nonzero().flatten().tolist())


def keep_pieces(model: TaskModel[Any, Any, Any], pieces: Sequence[int]) -> None:
    """Takes the others out of the model, but for those without which a word would become unknown."""
    _with_vocabulary(model).keep_pieces(pieces)


def vocabulary_size(model: TaskModel[Any, Any, Any]) -> int:
    return int(_with_vocabulary(model).parts.backbone.model.config.vocab_size)


def reading_facts(
    before: TaskModel[Any, Any, Any], after: TaskModel[Any, Any, Any], rows: Sequence[Example[Any]]
) -> Mapping[str, Any]:
    """What the smaller vocabulary does to rows that it was not made for: tokens before and after."""
    tokens = [int(_with_vocabulary(model).pieces_read(rows).sum()) for model in (before, after)]
    return {
        "pieces": vocabulary_size(after),
        "of": vocabulary_size(before),
        "validation_tokens_before": tokens[0],
        "validation_tokens_after": tokens[1],
    }


def _with_vocabulary(model: TaskModel[Any, Any, Any]) -> EncoderTaskModel[Any, Any, Any]:
    if not isinstance(model, EncoderTaskModel):
        raise UnsupportedError(
            f"prune: a {type(model).__name__} of this kind has no text encoder whose vocabulary could shrink; leave "
            "vocabulary at 'whole'"
        )
    return model
