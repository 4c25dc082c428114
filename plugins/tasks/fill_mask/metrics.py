"""What a masked language model is worth on text that it was not trained on: the same words of it are hidden for every model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskloom.core.errors import DataError, TaskloomError
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, Pairing
from taskloom.plugins._shared.bootstrap import intervals_of, replicates
from taskloom.plugins.tasks.fill_mask.curve import FIGURE
from taskloom.plugins.tasks.fill_mask.model import FillMaskModel
from taskloom.plugins.tasks.fill_mask.schema import MASK, FillMaskInput, FillMaskOutput, FillMaskParams
from taskloom.plugins.tasks.fill_mask.words import is_han

BATCH = 32
LEAST_SCORE = 1e-9
"""Of a token's probability, so that one that a model holds for impossible costs 21 nats and not all there are."""

Floats = NDArray[np.float64]
Table = tuple[tuple[str | float | int, ...], ...]


@dataclass
class HiddenWord:
    """A word of a row (Chinese characters side by side count as one), the tokens that it has in this model's vocabulary, and
    what the model said of each: whether its best candidate was right, and the probability of the right one."""

    kind: str
    tokens: list[str]
    right: list[bool] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)


@dataclass
class ReadRow:
    """A row as this model reads it: a gap for each token of what is hidden. `unwritable` words are shown, as the text has
    them: the vocabulary has no tokens for them."""

    text: str
    words: list[HiddenWord]
    unwritable: int


def evaluate(
    predictor: Predictor[FillMaskInput, FillMaskOutput, FillMaskParams],
    examples: Sequence[Example[FillMaskInput]],
    figures_folder: Path | None = None,
) -> EvaluationResult:
    """The task's metrics with 95% bootstrap intervals over documents, and tables by kind of word. The curve of the model's
    training, if it has one, is drawn into the folder."""
    if not len(examples):
        raise DataError("there are no rows to evaluate on")
    rows = judge(predictor, examples)
    sums = np.array([_sums(row.words) for row in rows])
    if not sums[:, 0].sum():
        raise DataError("the vocabulary can write none of the hidden words; evaluate on text in the model's languages")
    drawn = replicates(lambda chosen: _metrics(sums[chosen]), len(rows))
    figures: tuple[str, ...] = ()
    curve = getattr(predictor.model, "curve", None)
    if figures_folder is not None and curve is not None and len(curve.points) > 1:
        figures_folder.mkdir(parents=True, exist_ok=True)
        curve.draw(figures_folder / FIGURE)
        figures = (FIGURE,)
    return EvaluationResult(
        metrics=_metrics(sums),
        intervals=intervals_of(drawn),
        tables={"per kind of word": _per_kind(rows)},
        figures=figures,
        examples=len(rows),
        pairing=Pairing(metrics=drawn, rows=tuple((sums[:, 1] / np.maximum(1, sums[:, 0])).tolist())),
    )


def judge(
    predictor: Predictor[FillMaskInput, FillMaskOutput, FillMaskParams], examples: Sequence[Example[FillMaskInput]]
) -> list[ReadRow]:
    """Raises `DataError` for a row that the model can't take."""
    model = predictor.model
    if not isinstance(model, FillMaskModel):
        raise DataError(f"a {type(model).__name__} has no vocabulary to judge it by; evaluate a model of the task fill-mask")
    found: list[ReadRow] = []
    for start in range(0, len(examples), BATCH):
        some = examples[start : start + BATCH]
        rows = [read_row(model, example) for example in some]
        asked = [i for i, row in enumerate(rows) if row.words]
        inputs = [FillMaskInput(text=rows[i].text) for i in asked]
        params = [FillMaskParams(top_k=1, targets=tuple(t for w in rows[i].words for t in w.tokens)) for i in asked]
        for i, output in zip(asked, predictor.predict(inputs, params), strict=True):
            if isinstance(output, TaskloomError):
                raise DataError(
                    f"{some[i].path}, line {some[i].line}: {output}", path=some[i].path, line=some[i].line
                ) from output
            _note(rows[i], output)
        found += rows
    return found


def read_row(model: FillMaskModel, example: Example[FillMaskInput]) -> ReadRow:
    shown = example.input.text.split(MASK)
    hidden = example.target.hidden
    if len(hidden) != len(shown) - 1:
        where = f"{example.path}, line {example.line}"
        raise DataError(
            f"{where}: {len(hidden)} words are hidden at {len(shown) - 1} gaps", path=example.path, line=example.line
        )
    text, words, unwritable = shown[0], list[HiddenWord](), 0
    joins = False
    for word, after in zip(hidden, shown[1:], strict=True):
        tokens = model.processor.convert_ids_to_tokens(model.pieces_of(word))
        if not tokens:
            text += word
            unwritable += 1
            joins = False
        else:
            text += MASK * len(tokens)
            kind = kind_of(word)
            if joins and kind == words[-1].kind == "Chinese":
                words[-1].tokens += tokens
            else:
                words.append(HiddenWord(kind, tokens))
            joins = not after
        text += after
    return ReadRow(text, words, unwritable)


def kind_of(word: str) -> str:
    if is_han(word[0]):
        return "Chinese"
    if word[0].isdecimal():
        return "number"
    return "other letters" if word[0].isalpha() else "mark"


def _note(row: ReadRow, output: FillMaskOutput) -> None:
    gaps = iter(output.gaps)
    for word in row.words:
        for token, gap in zip(word.tokens, gaps, strict=False):
            word.right.append(gap.candidates[0].token == token)
            word.scores.append(max(LEAST_SCORE, gap.target_score or 0.0))


def _sums(words: Sequence[HiddenWord]) -> tuple[float, float, float, float, float]:
    """Tokens, those right, their loss; words, those right."""
    return (
        float(sum(len(word.tokens) for word in words)),
        float(sum(sum(word.right) for word in words)),
        -sum(math.log(score) for word in words for score in word.scores),
        float(len(words)),
        float(sum(all(word.right) for word in words)),
    )


def _metrics(sums: Floats) -> dict[str, float]:
    tokens, right, loss, words, words_right = sums.sum(0)
    tokens, words = max(1.0, tokens), max(1.0, words)
    return {
        "masked_accuracy": float(right / tokens),
        "pseudo_perplexity": math.exp(loss / tokens),
        "word_accuracy": float(words_right / words),
    }


def _per_kind(rows: Sequence[ReadRow]) -> Table:
    table: list[tuple[str | float | int, ...]] = [("kind", "masked_accuracy", "pseudo_perplexity", "tokens", "words")]
    for kind in ("Chinese", "other letters", "number", "mark"):
        own = [word for word in _words(rows) if word.kind == kind]
        if own:
            found = _metrics(np.array([_sums(own)]))
            numbers = (round(found["masked_accuracy"], 4), round(found["pseudo_perplexity"], 2))
            table.append((kind, *numbers, sum(len(word.tokens) for word in own), len(own)))
    table.append(("not in the vocabulary", 0.0, 0.0, 0, sum(row.unwritable for row in rows)))
    return tuple(table)


def _words(rows: Sequence[ReadRow]) -> Iterator[HiddenWord]:
    for row in rows:
        yield from row.words
