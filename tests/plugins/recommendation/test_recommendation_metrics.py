"""What is measured, against hand-made and brute-force results; and the methods that a recommender is compared with."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from taskloom.core.errors import DataError
from taskloom.plugins.optimizing import DataFiles, read_rows
from taskloom.plugins.tasks.recommendation.baselines import factorization, item_neighbours, popularity
from taskloom.plugins.tasks.recommendation.interactions import hold_out, read_examples, split
from taskloom.plugins.tasks.recommendation.metrics import judge
from taskloom.plugins.tasks.recommendation.plugin import RecommendationTask

CHOSEN = sp.csr_matrix(np.array([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 0], [1, 0, 0, 1]], dtype=np.float32))


def test_training_rows_that_are_left_out_are_judged_by_a_part_of_their_histories(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    histories = {"ann": "abcdefgh", "bob": "abc", "cy": "a", "dee": [f"i{n}" for n in range(40)]}
    path.write_text("user,item\n" + "".join(f"{user},{item}\n" for user, items in histories.items() for item in items))
    rows = list(read_examples(path))
    found = hold_out(rows)
    assert [len(row.target.warm) for row in found] == [2, 1, 5], "a history of one item tells nothing"
    for before, after in zip([rows[0], rows[1], rows[3]], found, strict=True):
        assert not after.input.user, "a model that knows the user knows what is held out"
        assert set(after.input.history) | set(after.target.warm) == set(before.input.history)
        assert not set(after.input.history) & set(after.target.warm)
        assert [item for item in before.input.history if item in after.input.history] == list(after.input.history)
    assert hold_out(rows) == found
    elsewhere = [row.model_copy(update={"path": "other.csv", "line": row.line + 5}) for row in rows]
    assert [row.target for row in hold_out(elsewhere)] == [row.target for row in found]
    assert hold_out(found) == found, "rows with a target stay as they are"
    assert RecommendationTask().held_out(rows) == found


def test_an_optimizer_chooses_by_histories_that_something_was_taken_out_of(tmp_path: Path) -> None:
    pairs, unseen = tmp_path / "pairs.csv", tmp_path / "held.jsonl"
    pairs.write_text("user,item\n" + "".join(f"u{user},i{user + n}\n" for user in range(30) for n in range(6)))
    unseen.write_text('{"history": ["i1"], "held": ["i2"]}\n')
    given = read_rows(RecommendationTask(), DataFiles([pairs], [unseen], [pairs]), 13)
    assert len(given.train) == len(given.validation) == 30
    assert all(row.target.warm for row in given.validation)
    rows = read_rows(RecommendationTask(), DataFiles([pairs], [unseen]), 13)
    assert (len(rows.train), len(rows.validation)) == (27, 3)
    assert all(len(row.input.history) == 6 and not row.target.warm for row in rows.train)
    assert all(len(row.input.history) == 5 and len(row.target.warm) == 1 for row in rows.validation)


def test_metrics_of_a_ranking_made_by_hand() -> None:
    found = judge([[7, 3, 5, 1], [9, 8]], [frozenset({3, 1, 6}), frozenset({2})])
    assert found.recall_10.tolist() == pytest.approx([2 / 3, 0])
    ideal = 1 + 1 / np.log2(3) + 1 / np.log2(4)
    assert found.ndcg_10[0] == pytest.approx((1 / np.log2(3) + 1 / np.log2(5)) / ideal)
    assert found.mrr.tolist() == [0.5, 0]
    assert found.means(20)["coverage@10"] == 6 / 20


def test_recall_is_of_at_most_as_many_as_are_shown() -> None:
    found = judge([list(range(30))], [frozenset(range(25))])
    assert (found.recall_10[0], found.recall_20[0], found.ndcg_10[0]) == (1, 1, pytest.approx(1))


def test_popularity_is_the_number_of_users() -> None:
    assert popularity(CHOSEN)(np.array([0, 3])).tolist() == [[3, 3, 2, 1]] * 2


def test_neighbours_are_weighted_by_cosine() -> None:
    scores = item_neighbours(CHOSEN, neighbours=4, shrinkage=0.0)(np.array([0]))[0]
    whole = CHOSEN.toarray()
    norms = np.linalg.norm(whole, axis=0)

    def cosine(one: int, other: int) -> float:
        return float(whole[:, one] @ whole[:, other] / norms[one] / norms[other])

    assert scores[2] == pytest.approx(cosine(0, 2) + cosine(1, 2))
    assert scores[3] == pytest.approx(cosine(0, 3))


def test_only_the_nearest_count_as_neighbours() -> None:
    scores = item_neighbours(CHOSEN, neighbours=1, shrinkage=0.0)(np.array([0]))[0]
    whole = item_neighbours(CHOSEN, neighbours=4, shrinkage=0.0)(np.array([0]))[0]
    assert 0 < scores[2] < whole[2]


def test_factorization_finds_what_was_left_out_of_two_blocks() -> None:
    blocks = np.kron(np.eye(2), np.ones((12, 8))).astype(np.float32)
    blocks[3, 2] = blocks[15, 10] = 0
    scores = factorization(sp.csr_matrix(blocks), factors=2, confidence=4.0, regularization=0.1)(np.array([3, 15]))
    assert scores[0, 2] > scores[0, 8:].max() + 0.5
    assert scores[1, 10] > scores[1, :8].max() + 0.5


def test_a_split_is_the_same_again_and_leaks_nothing(world: Any, tmp_path: Path) -> None:
    rows = list(read_examples(world.choices))
    results = [split(rows, tmp_path / name, per_user=2, at_least=5, cold_share=0.1) for name in ("a", "b")]
    assert results[0] == results[1]
    for name in ("fit.csv", "held.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    fit = {e.input.user: set(e.input.history) for e in read_examples(tmp_path / "a" / "fit.csv")}
    held = list(read_examples(tmp_path / "a" / "held.jsonl"))
    cold = {item for e in held for item in e.target.cold}
    assert cold
    assert not cold & set().union(*fit.values())
    for example, whole in zip(held, rows, strict=True):
        assert set(example.input.history) == fit[example.input.user]
        assert not set(example.target.warm) & fit[example.input.user]
        assert len(example.target.warm) in (0, 2)
        assert {*example.input.history, *example.target.warm, *example.target.cold} == set(whole.input.history)


def test_a_split_does_not_write_over_what_is_split(world: Any, tmp_path: Path) -> None:
    (tmp_path / "fit.csv").write_bytes(world.choices.read_bytes())
    rows = list(read_examples(tmp_path / "fit.csv"))
    with pytest.raises(DataError, match="is what is to be split"):
        split(rows, tmp_path)
    assert (tmp_path / "fit.csv").read_bytes() == world.choices.read_bytes()


def test_evaluation_prints_the_model_beside_simpler_methods(
    world: Any, predictor: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = list(read_examples(world.choices))
    split(rows, tmp_path, per_user=2, at_least=5, cold_share=0.1)
    # Nameless, since the model knows these users' whole histories and recommends nothing of them again.
    held = [
        e.model_copy(update={"input": e.input.model_copy(update={"user": ""})}) for e in read_examples(tmp_path / "held.jsonl")
    ]
    result = RecommendationTask().evaluate(predictor, held)
    assert [row[0] for row in result.tables["warm_items"]][1:] == [
        "two-tower", "popularity", "item-kNN", "matrix factorization",
    ]  # fmt: skip
    assert set(result.metrics) == {metric.name for metric in RecommendationTask.metrics}
    for name, (low, high) in result.intervals.items():
        assert low <= result.metrics[name] <= high
    assert result.metrics["recall@10"] > result.tables["warm_items"][2][2] > 0, "a mere list of what is popular"
    assert result.tables["warm_items"][1][2] == round(result.metrics["recall@10"], 4)
    assert [row[0] for row in result.tables["cold_items"]][1:] == ["cold items", "all items"]
    assert [row[0] for row in result.tables["new_users"]][1:] == [1, 3, 5]
    deaf = RecommendationTask().evaluate(_deaf(predictor), held)
    assert deaf.metrics["recall@10"] == result.metrics["recall@10"], "a history is not read"
    assert deaf.metrics["words_recall@10"] < result.metrics["words_recall@10"]
    monkeypatch.setattr(type(predictor.model.catalogue), "titled", lambda *_: 0)
    looked_up = RecommendationTask().evaluate(predictor, held)
    assert looked_up.metrics["words_recall@10"] == 0, "a title that is looked up is not read"


def _deaf(predictor: Any) -> Any:
    """The same recommender, to whose encoder every text is the same."""
    found = copy.deepcopy(predictor)
    for name, weight in found.model.parts.backbone.model.named_parameters():
        if "word_embeddings" in name:
            torch.nn.init.zeros_(weight)
    return found


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ({"user": "a", "history": ["card-1"]}, "taskloom items split"),
        ({"user": "a", "history": ["card-1"], "held": ["card-2"], "cold": ["card-1"]}, "it is warm"),
    ],
)
def test_rows_that_cannot_be_evaluated_on_are_refused(predictor: Any, tmp_path: Path, line: Any, told: str) -> None:
    path = tmp_path / "held.jsonl"
    path.write_text(json.dumps(line) + "\n")
    with pytest.raises(DataError, match=told):
        RecommendationTask().evaluate(predictor, list(read_examples(path)))


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("pairs.csv", "user,item\na,\n", "line 2"),
        ("pairs.csv", "user,item,time\na,x,soon\n", "'soon'"),
        ("pairs.csv", "user,item,time\na,x,1\na,y,\n", "to all or to none"),
        ("users.jsonl", '{"history": "card-1"}\n', "history"),
        ("users.jsonl", '{"history": ["a"], "held": 3}\n', "lists of item ids"),
        ("users.jsonl", '{"history": ["a"], "hold": []}\n', "hold"),
    ],
)
def test_bad_rows_are_told_with_their_place(tmp_path: Path, name: str, content: str, told: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(DataError) as refused:
        list(read_examples(path))
    assert told in str(refused.value)


def test_choices_come_in_the_order_of_their_time(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("user,item,time\na,late,20\na,early,3\na,late,21\nb,x,1\n")
    assert [e.input.history for e in read_examples(path)] == [("early", "late"), ("x",)]
