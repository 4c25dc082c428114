"""What a search finds: figures that can be counted by hand, and comparisons on the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from taskloom.core.errors import DataError, InvalidInputError
from taskloom.core.task import Example
from taskloom.plugins.tasks.embedding.metrics import evaluate, ranks_of, scores_of
from taskloom.plugins.tasks.embedding.plugin import EmbeddingTask
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingOutput

Row = Callable[..., Example[EmbeddingInput]]


class TablePredictor:
    """Answers from a table of vectors."""

    def __init__(self, table: dict[str, tuple[float, ...]]) -> None:
        self.table = table
        self.asked: list[EmbeddingInput] = []

    def predict(self, inputs: Sequence[EmbeddingInput]) -> list[Any]:
        self.asked += inputs
        return [
            EmbeddingOutput(vector=self.table[item.text], truncated=item.text == "long")
            if item.text in self.table
            else InvalidInputError("never heard of it")
            for item in inputs
        ]


def test_metrics_by_hand() -> None:
    ranks = [np.array([0]), np.array([4]), np.array([12]), np.array([1, 30])]
    found = {name: values.tolist() for name, values in scores_of(ranks).items()}
    assert found["recall@1"] == [1, 0, 0, 0]
    assert found["recall@5"] == [1, 1, 0, 0.5]
    assert found["recall@20"] == [1, 1, 1, 0.5]
    assert found["mrr@10"] == [1, 0.2, 0, 0.5]
    two = (1 / math.log2(3)) / (1 + 1 / math.log2(3))
    assert found["ndcg@10"] == pytest.approx([1, 1 / math.log2(6), 0, two])
    assert found.keys() == {metric.name for metric in EmbeddingTask.metrics}


def test_equal_passages_are_ranked_in_their_order() -> None:
    passages = np.array([[1, 0], [0, 1], [1, 0], [1, 0]], dtype=np.float32)
    queries = np.array([[1, 0]] * 4, dtype=np.float32)
    assert [own.tolist() for own in ranks_of(queries, passages, [[0], [2], [1], [3, 1]])] == [[0], [1], [3], [2, 3]]


def test_queries_search_all_passages_of_the_file_each_once(row: Row) -> None:
    table = {"q": (0.9, 0.1), "r": (0.7, 0.3), "east": (1.0, 0.0), "north": (0.0, 1.0), "long": (0.6, 0.4)}
    rows = [row("q", "east"), row("r", "long"), row("r", "long"), row("q", "north")]
    predictor = TablePredictor(table)
    result = evaluate(predictor, rows)  # type: ignore[arg-type]
    passages = [item.text for item in predictor.asked if item.kind == "passage"]
    assert sorted(passages) == ["east", "long", "north"]
    assert {item.text for item in predictor.asked if item.kind == "query"} == {"q", "r"}
    assert result.metrics["recall@1"] == pytest.approx(0.25)  # east lies before long for r as well
    assert result.metrics["mrr@10"] == pytest.approx((1 + 1 / 2 + 1 / 2 + 1 / 3) / 4)
    assert result.tables["corpus"][1] == (4, 3, 1.0, 1)
    low, high = result.intervals["mrr@10"]
    assert low < result.metrics["mrr@10"] < high


def test_two_models_can_be_compared_row_by_row(row: Row) -> None:
    rows = [row(f"q{i}", f"p{i}") for i in range(8)]
    angles = {f"{kind}{i}": (math.cos(i / 4), math.sin(i / 4)) for i in range(8) for kind in "qp"}
    good, bad = (evaluate(TablePredictor(angles | changed), rows) for changed in ({}, {"q3": (1.0, 0.0)}))  # type: ignore[arg-type]
    assert good.pairing is not None
    assert bad.pairing is not None
    differ = [i for i in range(8) if good.pairing.rows[i] != bad.pairing.rows[i]]
    assert differ == [3]
    drops = np.subtract(good.pairing.metrics["recall@1"], bad.pairing.metrics["recall@1"])
    assert drops.min() == 0
    assert drops.mean() == pytest.approx(1 / 8, abs=0.02)


def test_rows_that_can_not_be_measured_are_named(row: Row) -> None:
    with pytest.raises(DataError, match="no rows"):
        evaluate(TablePredictor({}), [])  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"pairs.jsonl, line 7: never heard of it"):
        evaluate(TablePredictor({"q": (1.0,)}), [row("q", "p", line=7)])  # type: ignore[arg-type]
