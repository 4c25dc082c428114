"""What a summarizer is worth: ROUGE with intervals, for each data set beside what costs nothing and what can't be beaten."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from taskloom.core.errors import DataError, TaskloomError
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, Pairing
from taskloom.plugins._shared.bootstrap import intervals_of, percentile_intervals, replicates
from taskloom.plugins._shared.sentences import split_sentences
from taskloom.plugins.tasks.summarization.rouge import METRICS, Rouge
from taskloom.plugins.tasks.summarization.schema import (
    SavedChooser,
    SummarizationInput,
    SummarizationOutput,
    SummarizationParams,
)
from taskloom.plugins.tasks.summarization.selection import joined

BATCH = 16
MODEL, WHOLE, LEAD, ORACLE = "model", "model, whole sentences", "lead-1", "best sentences (oracle)"

Floats = NDArray[np.float64]
Rows = Sequence[Example[SummarizationInput]]
Table = tuple[tuple[str | float | int, ...], ...]
Summarizer = Predictor[SummarizationInput, SummarizationOutput, SummarizationParams]


@dataclass(frozen=True)
class Judged:
    """ROUGE F1 [N, 3] and words [N] of every system's summaries, on the same rows."""

    scores: Mapping[str, Floats]
    words: Mapping[str, Floats]


def evaluate(predictor: Summarizer, examples: Rows) -> EvaluationResult:
    """Every metric of the task with 95% bootstrap intervals; for each data file a table of systems, and one of the model's
    gain over lead-1 (paired: on the same resampled documents)."""
    if not examples:
        raise DataError("there are no rows to evaluate on")
    judged = judge(predictor, examples)

    def measured(rows: NDArray[np.intp]) -> dict[str, float]:
        mine, lead = (judged.scores[name][rows].mean(0) for name in (MODEL, LEAD))
        return {**dict(zip(METRICS, mine.tolist(), strict=True)), "rouge1_over_lead1": float(mine[0] - lead[0])}

    everything = np.arange(len(examples))
    tables: dict[str, Table] = {}
    for name, numbers in data_sets(examples).items():
        tables[f"{name}"] = systems_table(judged, numbers)
        tables[f"{name}, model less lead-1"] = gain_table(judged, numbers)
    drawn = replicates(measured, len(examples))
    return EvaluationResult(
        metrics=measured(everything),
        intervals=intervals_of(drawn),
        tables=tables,
        examples=len(examples),
        pairing=Pairing(metrics=drawn, rows=tuple(judged.scores[MODEL].mean(1).tolist())),
    )


def data_sets(examples: Rows) -> dict[str, NDArray[np.intp]]:
    """The numbers of each file's rows, by the file's name and its folder's."""
    found: dict[str, list[int]] = defaultdict(list)
    for i, example in enumerate(examples):
        path = Path(example.path)
        found["/".join(part for part in (path.parent.name, path.name) if part) or "rows"].append(i)
    return {name: np.array(numbers) for name, numbers in found.items()}


def judge(predictor: Summarizer, examples: Rows) -> Judged:
    """Summaries of every row by the model and by what it is compared with. Raises `DataError` for a row that it can't take."""
    rouge = Rouge()
    chooses = isinstance(getattr(predictor.model, "saved", None), SavedChooser)
    asked = {MODEL: SummarizationParams(), **({WHOLE: SummarizationParams(shorten=False)} if chooses else {})}
    answers = _answers(predictor, examples, list(asked.values()))
    summaries = {name: [answer.summary for answer in given] for name, given in zip(asked, answers, strict=True)}
    if chooses and summaries[WHOLE] == summaries[MODEL]:
        del summaries[WHOLE]
    sentences = [_sentences(example.input.document) for example in examples]
    for count in (1, 2, 3):
        summaries[f"lead-{count}"] = [joined(found[:count]) for found in sentences]
    sizes = [max(1, len(answer.sentences)) for answer in answers[0]]
    summaries[ORACLE] = [
        greedy_oracle(found, example.target, size, rouge)
        for found, example, size in zip(sentences, examples, sizes, strict=True)
    ]
    targets = [example.target for example in examples]
    return Judged(
        scores={
            name: np.array([rouge.score(*pair) for pair in zip(texts, targets, strict=True)])
            for name, texts in summaries.items()
        },
        words={
            name: np.array([float(len(rouge.tokenizer.tokenize(text))) for text in texts]) for name, texts in summaries.items()
        },
    )


def _answers(predictor: Summarizer, examples: Rows, asked: Sequence[SummarizationParams]) -> list[list[SummarizationOutput]]:
    """The answers to all rows for each of the params. Where params change nothing on the device, it works once for all."""
    found: list[dict[int, SummarizationOutput]] = [{} for _ in asked]
    order = sorted(range(len(examples)), key=lambda i: len(examples[i].input.document))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        inputs = [examples[i].input for i in rows]
        try:
            outputs = predictor.executor.run(predictor.model.prepare(inputs, [asked[0]] * len(rows)))
            for given, params in zip(found, asked, strict=True):
                given.update(zip(rows, predictor.model.decode(outputs, inputs, [params] * len(rows)), strict=True))
        except Exception:
            for i, answer in zip(rows, predictor.predict(inputs), strict=True):
                if isinstance(answer, TaskloomError):
                    path, line = examples[i].path, examples[i].line
                    raise DataError(f"{path}, line {line}: {answer}", path=path, line=line) from answer
            raise
    return [[given[i] for i in range(len(examples))] for given in found]


def _sentences(document: str) -> list[str]:
    return [document[sentence.start : sentence.end] for sentence in split_sentences(document)]


def greedy_oracle(sentences: Sequence[str], references: Sequence[str], most: int, rouge: Rouge) -> str:
    """At most so many sentences, added one by one while ROUGE-1 plus ROUGE-2 grows (Nallapati et al. 2017,
    https://arxiv.org/abs/1611.04230, section 3.1): about the best that choosing whole sentences can do."""
    chosen: list[int] = []
    best = 0.0
    while len(chosen) < min(most, len(sentences)):
        trials = {}
        for i in range(len(sentences)):
            if i not in chosen:
                one, two, _ = rouge.score(joined([sentences[j] for j in sorted([*chosen, i])]), references)
                trials[i] = one + two
        top = max(trials, key=trials.__getitem__)
        if chosen and trials[top] <= best:
            break
        best = trials[top]
        chosen.append(top)
    return joined([sentences[i] for i in sorted(chosen)])


def systems_table(judged: Judged, rows: NDArray[np.intp]) -> Table:
    """ROUGE in per cent, as it is printed everywhere, with the half width of ROUGE-1's interval as `low` and `high`."""
    table: list[tuple[str | float | int, ...]] = [("system", "rouge1", "low", "high", "rouge2", "rougeL", "words", "documents")]
    for name, scores in judged.scores.items():
        one, two, longest = (100 * scores[rows].mean(0)).tolist()
        low, high = _interval(lambda drawn, kept=scores[rows]: float(100 * kept[drawn, 0].mean()), len(rows))  # type: ignore[misc]
        words = float(judged.words[name][rows].mean())
        table.append((name, *(round(value, 2) for value in (one, low, high, two, longest)), round(words, 1), len(rows)))
    return tuple(table)


def gain_table(judged: Judged, rows: NDArray[np.intp]) -> Table:
    """How much better the model is than the first sentence, in points of ROUGE."""
    difference = 100 * (judged.scores[MODEL] - judged.scores[LEAD])[rows]
    table: list[tuple[str | float | int, ...]] = [("metric", "gain", "low", "high")]
    for column, name in enumerate(METRICS):
        low, high = _interval(lambda drawn, c=column: float(difference[drawn, c].mean()), len(rows))  # type: ignore[misc]
        table.append((name, round(float(difference[:, column].mean()), 2), round(low, 2), round(high, 2)))
    return tuple(table)


def _interval(measure: Callable[[NDArray[np.intp]], float], rows: int) -> tuple[float, float]:
    return percentile_intervals(lambda drawn: {"value": measure(drawn)}, rows)["value"]
