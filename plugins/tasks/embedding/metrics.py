"""What an embedding model is worth in a search: whether queries find their passages among all those of a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from taskloom.core.errors import DataError, TaskloomError
from taskloom.core.predictor import Predictor
from taskloom.core.task import EvaluationResult, Example, Pairing
from taskloom.plugins._shared.bootstrap import intervals_of, replicates
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingOutput, EmbeddingParams

BATCH = 64
DEPTH = 10
"""Places that count for MRR and nDCG."""
CUTS = (1, 5, 20)
SCORED_AT_ONCE = 1024
"""Queries that are held against all passages in one product."""

Floats = NDArray[np.float64]
Vectors = NDArray[np.float32]
Table = tuple[tuple[str | float | int, ...], ...]
Embed = Callable[[Sequence[tuple[EmbeddingInput, str]]], tuple[Vectors, NDArray[np.bool_]]]
"""Inputs, each with where it was read, to their vectors [N, D], and which of them were cut."""


@dataclass(frozen=True)
class Corpus:
    """The different passages that are right for one of the rows at least, and for each row the numbers of its own."""

    passages: tuple[str, ...]
    right: tuple[tuple[int, ...], ...]
    places: tuple[str, ...]
    """Where each passage was read first."""

    @classmethod
    def of(cls, examples: Sequence[Example[EmbeddingInput]]) -> Corpus:
        places: dict[str, str] = {}
        for example in examples:
            for text in example.target.positives:
                places.setdefault(text, f"{example.path}, line {example.line}" if example.line else example.path)
        numbers = {text: number for number, text in enumerate(places)}
        right = tuple(tuple(sorted({numbers[text] for text in example.target.positives})) for example in examples)
        return cls(tuple(places), right, tuple(places.values()))


def evaluate(
    predictor: Predictor[EmbeddingInput, EmbeddingOutput, EmbeddingParams], examples: Sequence[Example[EmbeddingInput]]
) -> EvaluationResult:
    """Every metric of the task with 95% bootstrap intervals over queries. The corpus that is searched is every passage that is
    right for one of the rows, each once, by exact inner products: more rows make the task harder.

    Raises `DataError` without rows, and for one that the model can't take.
    """
    if not examples:
        raise DataError("there are no rows to evaluate on")
    corpus = Corpus.of(examples)
    embed = _embedder(predictor)
    queries, _ = embed([(example.input, f"{example.path}, line {example.line}") for example in examples])
    asked = [(EmbeddingInput(text=text), place) for text, place in zip(corpus.passages, corpus.places, strict=True)]
    passages, cut = embed(asked)
    columns = scores_of(ranks_of(queries, passages, corpus.right))
    drawn = replicates(lambda rows: {name: float(values[rows].mean()) for name, values in columns.items()}, len(examples))
    tables = {"corpus": _corpus_table(corpus, cut), "per domain": _per_domain(examples, columns)}
    return EvaluationResult(
        metrics={name: float(values.mean()) for name, values in columns.items()},
        intervals=intervals_of(drawn),
        tables={name: table for name, table in tables.items() if name == "corpus" or len(table) > 2},
        examples=len(examples),
        pairing=Pairing(metrics=drawn, rows=tuple(columns[f"ndcg@{DEPTH}"].tolist())),
    )


def ranks_of(queries: Vectors, passages: Vectors, right: Sequence[Sequence[int]]) -> list[NDArray[np.intp]]:
    """For each query, the places from 0 of its right passages, best first, when all are ordered by inner product; of equal ones
    the first comes first. `right` has passage numbers."""
    found: list[NDArray[np.intp]] = []
    for start in range(0, len(queries), SCORED_AT_ONCE):
        products = queries[start : start + SCORED_AT_ONCE] @ passages.T
        for scores, own in zip(products, right[start : start + SCORED_AT_ONCE], strict=True):
            before = [np.count_nonzero(scores > scores[i]) + np.count_nonzero(scores[:i] == scores[i]) for i in own]
            found.append(np.sort(np.array(before, dtype=np.intp)))
    return found


def scores_of(ranks: Sequence[NDArray[np.intp]]) -> dict[str, Floats]:
    """The metrics of each query [N], from the places of its right passages. Recall@k is the share of them among the first k;
    MRR@10 is 1 / the first one's place, else 0; nDCG@10 is with gain 1 for each (Järvelin & Kekäläinen 2002,
    https://doi.org/10.1145/582415.582418)."""
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    found: dict[str, Floats] = {
        f"ndcg@{DEPTH}": np.array([discounts[own[own < DEPTH]].sum() / discounts[: len(own)].sum() for own in ranks]),
        f"mrr@{DEPTH}": np.array([1 / (1 + own[0]) if own[0] < DEPTH else 0.0 for own in ranks]),
    }
    return found | {f"recall@{cut}": np.array([float((own < cut).mean()) for own in ranks]) for cut in CUTS}


def _embedder(predictor: Predictor[EmbeddingInput, EmbeddingOutput, EmbeddingParams]) -> Embed:
    def embed(asked: Sequence[tuple[EmbeddingInput, str]]) -> tuple[Vectors, NDArray[np.bool_]]:
        found: list[EmbeddingOutput | None] = [None] * len(asked)
        order = sorted(range(len(asked)), key=lambda i: len(asked[i][0].text))
        for start in range(0, len(order), BATCH):
            numbers = order[start : start + BATCH]
            for i, output in zip(numbers, predictor.predict([asked[i][0] for i in numbers]), strict=True):
                if isinstance(output, TaskloomError):
                    raise DataError(f"{asked[i][1]}: {output}", path=asked[i][1]) from output
                found[i] = output
        whole = [output for output in found if output is not None]
        vectors = np.array([output.vector for output in whole], dtype=np.float32)
        return vectors, np.array([output.truncated for output in whole])

    return embed


def _corpus_table(corpus: Corpus, cut: NDArray[np.bool_]) -> Table:
    per_query = sum(map(len, corpus.right)) / len(corpus.right)
    header = ("queries", "passages", "right passages a query", "passages cut")
    return (header, (len(corpus.right), len(corpus.passages), round(per_query, 2), int(cut.sum())))


def _per_domain(examples: Sequence[Example[EmbeddingInput]], columns: Mapping[str, Floats]) -> Table:
    domains = [example.target.domain for example in examples]
    rows: list[tuple[str | float | int, ...]] = [("domain", *columns, "queries")]
    for name in sorted(set(domains), key=lambda name: (-domains.count(name), name)):
        inside = np.array([own == name for own in domains])
        rows.append((name or "(none)", *(round(float(v[inside].mean()), 4) for v in columns.values()), int(inside.sum())))
    return tuple(rows)
