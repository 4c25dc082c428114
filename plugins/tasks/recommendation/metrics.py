"""What a recommender is worth: whether it finds the choices that were held out, beside what simpler methods find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from taskloom.core.errors import DataError, TaskloomError
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Pairing
from taskloom.plugins._shared.bootstrap import intervals_of, percentile_intervals, replicates
from taskloom.plugins._shared.datasets import bad_row
from taskloom.plugins.tasks.recommendation.baselines import Scorer, baselines
from taskloom.plugins.tasks.recommendation.interactions import Examples
from taskloom.plugins.tasks.recommendation.model import RecommendationModel
from taskloom.plugins.tasks.recommendation.schema import (
    MAX_WORDS,
    HeldOut,
    RecommendationInput,
    RecommendationOutput,
    RecommendationParams,
)
from taskloom.plugins.tasks.recommendation.start import matrix_of

BATCH = 64
SHORT, LONG = 10, 20
PLAIN = RecommendationParams(top_k=LONG, reasons=0)
SAID = 3
"""Items that users say in words, where it is measured how well they are understood."""
NEWCOMER_ITEMS = (1, 3, 5)
"""Lengths of the histories that new users are played with."""

Floats = NDArray[np.float64]
Ranked = Sequence[Sequence[int]]
"""For each user, item numbers, best first."""


@dataclass(frozen=True)
class Found:
    """How well each user's held-out items [users] were found by one ranking, and which items it showed."""

    recall_10: Floats
    recall_20: Floats
    ndcg_10: Floats
    mrr: Floats
    shown: Sequence[frozenset[int]]

    def drawn(self, rows: NDArray[np.intp]) -> dict[str, float]:
        """The means over some users."""
        return {
            "recall@10": float(self.recall_10[rows].mean()),
            "recall@20": float(self.recall_20[rows].mean()),
            "ndcg@10": float(self.ndcg_10[rows].mean()),
            "mrr": float(self.mrr[rows].mean()),
        }

    def means(self, catalogue: int) -> dict[str, float]:
        everybody = np.arange(len(self.mrr))
        return {**self.drawn(everybody), "coverage@10": len(frozenset().union(*self.shown)) / catalogue}


def judge(ranked: Ranked, wanted: Sequence[frozenset[int]]) -> Found:
    """Recall@k is the share of the wanted items among the first k, of at most k (so that 1 can be reached). NDCG@10 with gain 1
    for each (Järvelin & Kekäläinen 2002, https://doi.org/10.1145/582415.582418). MRR is 1 / the place of the first hit among
    the first 20, else 0."""
    discounts = 1 / np.log2(np.arange(2, SHORT + 2))
    columns: list[tuple[float, float, float, float]] = []
    for row, target in zip(ranked, wanted, strict=True):
        hits = np.array([item in target for item in row[:LONG]] + [False] * (LONG - len(row[:LONG])))
        ideal = discounts[: min(len(target), SHORT)].sum()
        columns.append(
            (
                hits[:SHORT].sum() / min(len(target), SHORT),
                hits.sum() / min(len(target), LONG),
                float((hits[:SHORT] * discounts).sum() / ideal),
                1 / (1 + int(hits.argmax())) if hits.any() else 0.0,
            )
        )
    values = np.array(columns, dtype=np.float64).reshape(-1, 4)
    recall_10, recall_20, ndcg_10, mrr = values.T
    shown = [frozenset(row[:SHORT]) for row in ranked]
    return Found(recall_10=recall_10, recall_20=recall_20, ndcg_10=ndcg_10, mrr=mrr, shown=shown)


class _Rows:
    """Evaluation rows, with items as numbers: those of the model's catalogue, and those that only histories name."""

    def __init__(self, examples: Examples, catalogue: Sequence[str]) -> None:
        self.examples = examples
        self.number = {item: i for i, item in enumerate(catalogue)}
        self.catalogue = len(catalogue)
        self.names = list(catalogue)
        self.warm = [self._numbers(self._target(example).warm) for example in examples]
        self.cold = [self._numbers(self._target(example).cold) for example in examples]
        self.histories = [self._numbers(example.input.history) for example in examples]
        self.cold_items = sorted(frozenset().union(*self.cold))
        met = frozenset(self.cold_items) & frozenset().union(*self.histories)
        if met:
            raise DataError(f"item {self.names[min(met)]!r} is held out as a cold one, but a history has it: it is warm")

    @staticmethod
    def _target(example: object) -> HeldOut:
        target = getattr(example, "target", None)
        return target if isinstance(target, HeldOut) else HeldOut()

    def _numbers(self, items: Sequence[str]) -> frozenset[int]:
        return frozenset(self.number[item] for item in items if item in self.number)

    def matrix(self) -> sp.csr_matrix:
        """[users, items] of the histories, 0/1."""
        return matrix_of([sorted(history) for history in self.histories], self.catalogue)


def evaluate(
    predictor: Predictor[RecommendationInput, RecommendationOutput, RecommendationParams], examples: Examples
) -> EvaluationResult:
    """Every metric of the task with 95% bootstrap intervals over users, and the same for the baselines, which are given the
    histories of `examples` and, of each method, the setting that does best on these very rows: if that is unfair, it is
    unfair to the model. Held-out items that the model hasn't got are passed over.

    Raises `DataError` if nothing is held out, or for a row that the model can't take.
    """
    model = predictor.model
    assert isinstance(model, RecommendationModel)
    rows = _Rows(examples, [item.item for item in model.catalogue.items])
    warm = np.array([i for i, target in enumerate(rows.warm) if target], dtype=np.intp)
    if not len(warm):
        raise DataError("nothing is held out in these rows; make some with `taskloom items split`, and evaluate on held.jsonl")
    asked = [examples[i].input for i in warm]
    ours = judge(_ranked(predictor, rows, asked, warm, PLAIN), [rows.warm[i] for i in warm])
    metrics = ours.means(rows.catalogue)
    # Fewer different users show fewer different items, so drawing with replacement says nothing about coverage.
    drawn = replicates(ours.drawn, len(warm))
    tables = {"warm_items": _compared(rows, warm, ours)}
    cold_metrics, cold_drawn, cold_table = _cold(predictor, rows)
    tables["cold_items"] = cold_table
    newcomers = _Newcomers(predictor, rows, warm)
    tables["new_users"] = newcomers.by_items()
    said = newcomers.in_words()
    found = {**metrics, **cold_metrics, "words_recall@10": float(said.mean())}
    resampled = {**drawn, **cold_drawn, **replicates(lambda users: {"words_recall@10": float(said[users].mean())}, len(said))}
    return EvaluationResult(
        metrics=found,
        intervals=intervals_of(resampled),
        tables=tables,
        examples=len(examples),
        pairing=Pairing(metrics=resampled, rows=tuple(ours.recall_10.tolist())),
    )


def _ranked(
    predictor: Predictor[RecommendationInput, RecommendationOutput, RecommendationParams],
    rows: _Rows,
    asked: Sequence[RecommendationInput],
    numbers: NDArray[np.intp],
    params: RecommendationParams | Sequence[RecommendationParams],
) -> Ranked:
    """What the model recommends to the users of the rows with these `numbers`."""
    each = [params] * len(asked) if isinstance(params, RecommendationParams) else list(params)
    found: list[list[int]] = []
    for start in range(0, len(asked), BATCH):
        part = slice(start, start + BATCH)
        for offset, answer in enumerate(predictor.predict(asked[part], each[part])):
            if isinstance(answer, TaskloomError):
                example = rows.examples[int(numbers[start + offset])]
                raise bad_row(example.path, example.line, str(answer)) from answer
            found.append([rows.number[item.item] for item in answer.items])
    return found


def _compared(rows: _Rows, users: NDArray[np.intp], ours: Found) -> tuple[tuple[str | float | int, ...], ...]:
    """The model's row, then each method's best; the last columns are the model's lead in recall@10, by paired bootstrap."""
    wanted = [rows.warm[i] for i in users]
    best: dict[str, tuple[str, Found, dict[str, float]]] = {}
    matrix = rows.matrix()
    for baseline in baselines(matrix):
        found = judge(_top(baseline.fit(), matrix, users), wanted)
        means = found.means(rows.catalogue)
        if baseline.method not in best or means["recall@10"] > best[baseline.method][2]["recall@10"]:
            best[baseline.method] = (baseline.setting, found, means)
    names = ("recall@10", "recall@20", "ndcg@10", "mrr", "coverage@10")
    table: list[tuple[str | float | int, ...]] = [("method", "setting", *names, "recall@10_lead", "lead_low", "lead_high")]
    own = ours.means(rows.catalogue)
    table.append(("two-tower", "", *(round(own[name], 4) for name in names), 0.0, 0.0, 0.0))
    for method, (setting, found, means) in best.items():
        gap = ours.recall_10 - found.recall_10
        low, high = percentile_intervals(lambda drawn, gap=gap: {"lead": float(gap[drawn].mean())}, len(gap))["lead"]  # type: ignore[misc]
        lead = (round(float(gap.mean()), 4), round(low, 4), round(high, 4))
        table.append((method, setting, *(round(means[name], 4) for name in names), *lead))
    return tuple(table)


def _top(scorer: Scorer, matrix: sp.csr_matrix, users: NDArray[np.intp]) -> Ranked:
    """The best 20 that are not in the history."""
    found: list[list[int]] = []
    for start in range(0, len(users), 256):
        part = users[start : start + 256]
        scores = np.array(scorer(part), dtype=np.float32)
        for row, user in enumerate(part):
            scores[row, matrix.indices[matrix.indptr[user] : matrix.indptr[user + 1]]] = -np.inf
        count = min(LONG, scores.shape[1] - 1)
        top = np.argpartition(-scores, count, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(scores, top, axis=1), axis=1, kind="stable")
        found += np.take_along_axis(top, order, axis=1).tolist()
    return found


def _cold(
    predictor: Predictor[RecommendationInput, RecommendationOutput, RecommendationParams], rows: _Rows
) -> tuple[dict[str, float], dict[str, tuple[float, ...]], tuple[tuple[str | float | int, ...], ...]]:
    """Items that nobody's history has: found among themselves, and among everything. Without such items, zeros."""
    users = np.array([i for i, target in enumerate(rows.cold) if target and rows.histories[i]], dtype=np.intp)
    names = ("candidates", "items", "users", "recall@10", "recall@20", "ndcg@10", "recall@10_by_chance")
    header: tuple[str | float | int, ...] = names
    if not len(users):
        return {"cold_recall@10": 0.0}, {}, (header,)
    asked = [rows.examples[i].input for i in users]
    wanted = [rows.cold[i] for i in users]
    among_cold = PLAIN.model_copy(update={"among": tuple(rows.names[i] for i in rows.cold_items)})
    only = judge(_ranked(predictor, rows, asked, users, among_cold), wanted)
    everything = judge(_ranked(predictor, rows, asked, users, PLAIN), wanted)
    table: list[tuple[str | float | int, ...]] = [header]
    for name, found, count in (("cold items", only, len(rows.cold_items)), ("all items", everything, rows.catalogue)):
        means = found.means(rows.catalogue)
        # A random order shows each item among the first ten with probability 10 / count.
        chance = np.mean([min(1.0, SHORT / count) * len(target) / min(len(target), SHORT) for target in wanted])
        told = (round(means["recall@10"], 4), round(means["recall@20"], 4), round(means["ndcg@10"], 4), round(float(chance), 4))
        table.append((name, count, len(users), *told))

    def measure(drawn: NDArray[np.intp]) -> dict[str, float]:
        return {"cold_recall@10": float(only.recall_10[drawn].mean())}

    return measure(np.arange(len(users))), replicates(measure, len(users)), tuple(table)


class _Newcomers:
    """The same users as if they were new: nothing is known but a few items, from all over their history."""

    def __init__(
        self,
        predictor: Predictor[RecommendationInput, RecommendationOutput, RecommendationParams],
        rows: _Rows,
        users: NDArray[np.intp],
    ) -> None:
        self._predictor = predictor
        self._rows = rows
        self._users = users
        self._wanted = [rows.warm[i] for i in users]
        self._histories = [[item for item in rows.examples[i].input.history if item in rows.number] for i in users]

    def by_items(self) -> tuple[tuple[str | float | int, ...], ...]:
        names = ("recall@10", "recall@20", "ndcg@10")
        table: list[tuple[str | float | int, ...]] = [("items_known", "users", *names)]
        for known in NEWCOMER_ITEMS:
            found = self._judged([RecommendationInput(history=tuple(few)) for few in self._few(known)])
            means = found.means(self._rows.catalogue)
            table.append((known, len(self._users), *(round(means[name], 4) for name in names)))
        return tuple(table)

    def in_words(self) -> Floats:
        """Recall@10 [users] where `SAID` items are told by their texts alone, which the encoder has to read: 0 where all that
        they have are titles, since these would be looked up."""
        model = self._predictor.model
        assert isinstance(model, RecommendationModel)
        catalogue = model.catalogue
        texts = [[catalogue.items[self._rows.number[item]].text()[:MAX_WORDS] for item in few] for few in self._few(SAID)]
        told = [tuple(text for text in few if catalogue.titled(text) is None) for few in texts]
        found = self._judged([RecommendationInput(likes=few) for few in told])
        return np.where([bool(few) for few in told], found.recall_10, 0.0)

    def _few(self, count: int) -> list[list[str]]:
        return [history[:: max(1, len(history) // count)][:count] for history in self._histories]

    def _judged(self, asked: Sequence[RecommendationInput]) -> Found:
        # What else they have chosen is no wrong answer, and no right one.
        params = [PLAIN.model_copy(update={"exclude": tuple(history)}) for history in self._histories]
        return judge(_ranked(self._predictor, self._rows, asked, self._users, params), self._wanted)
