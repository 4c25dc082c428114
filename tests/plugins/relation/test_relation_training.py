"""Reading relation data, training on it, and what a classifier is worth."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from optimizer_steps import Steps, published

from taskloom.core.errors import DataError
from taskloom.core.predictor import Predictor
from taskloom.core.task import Example, TrainRun
from taskloom.plugins._shared.label_metrics import Judged
from taskloom.plugins._shared.robustness import perturbations
from taskloom.plugins.backbones.settings import DEFAULT_BACKBONE
from taskloom.plugins.tasks.relation.metrics import evaluate, macro_f1, micro_f1, relation_table
from taskloom.plugins.tasks.relation.model import RelationModel
from taskloom.plugins.tasks.relation.plugin import RelationTask
from taskloom.plugins.tasks.relation.schema import RelationInput, RelationParams, TrainConfig
from taskloom.plugins.tasks.relation.train import split_by_text, train

SAMPLE = Path(__file__).parents[2] / "data" / "semeval2010-sample.jsonl"
LABELS = ("A(e1,e2)", "A(e2,e1)", "B(e1,e2)", "B(e2,e1)", "Other")
FAST: dict[str, Any] = {
    "epochs": 40,
    "batch_size": 8,
    "validation_fraction": 0,
    "learning_rate": 2e-3,
    "head_learning_rate": 1e-2,
    "ema_decay": 0.5,
    "dropout": 0.0,
    "adapter": None,
    "precision": "fp32",
    "device": "cpu",
}

Row = Callable[..., Example[RelationInput]]
AsPredictor = Callable[[RelationModel], Predictor[Any, Any, Any]]


def written(folder: Path, *rows: Any) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def whole(**changed: Any) -> dict[str, Any]:
    row = {"text": "my card", "head": {"start": 0, "end": 2}, "tail": {"start": 3, "end": 7, "text": "card"}, "relation": "x"}
    return {**row, **changed}


# -- reading -------------------------------------------------------------------------------------------------------------------


def test_published_rows_are_read_with_their_places() -> None:
    rows = list(RelationTask().read_examples(SAMPLE))
    assert len(rows) == 36
    assert {row.target for row in rows} >= {"Other", "Cause-Effect(e1,e2)", "Cause-Effect(e2,e1)"}
    assert (rows[3].path, rows[3].line) == (str(SAMPLE), 4)
    first = json.loads(SAMPLE.read_text(encoding="utf-8").splitlines()[0])
    head = rows[0].input.head
    assert rows[0].input.text[head.start : head.end] == first["head"]["text"]


@pytest.mark.parametrize(
    ("bad", "problem"),
    [
        (whole(tail={"start": 3, "end": 7, "text": "cord"}), r"tail: 'cord' does not stand at 3 to 7, which is 'card'"),
        (whole(head={"start": 0, "end": 9}), r"head: .*the text has 7 characters"),
        (whole(head={"start": 0}), r"head\.end: Field required"),
        (whole(head={"start": 0, "end": 2, "label": "PER"}), r"head\.label: Extra inputs"),
        (whole(head=[0, 2]), r"`head` is \[0, 2\]; expected an object"),
        (whole(relation=3), r"`relation` is 3; expected a non-empty string"),
        (whole(label="y"), r"unknown field 'label'"),
        ({"text": "my card", "head": {"start": 0, "end": 2}, "relation": "x"}, r"field 'tail' is missing"),
        (whole(text="  "), r"text: .*blank"),
        ("{", "not JSON"),
    ],
)
def test_a_bad_row_is_named_by_its_line(tmp_path: Path, bad: Any, problem: str) -> None:
    path = written(tmp_path, whole(), bad)
    with pytest.raises(DataError, match=rf"rows\.jsonl, line 2: {problem}") as caught:
        list(RelationTask().read_examples(path))
    assert caught.value.line == 2


def test_other_formats_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"ends in \.jsonl"):
        list(RelationTask().read_examples(tmp_path / "rows.csv"))


# -- training ------------------------------------------------------------------------------------------------------------------


def trained(rows: Any, folder: Path, backbone: str, **settings: Any) -> Any:
    config = TrainConfig(backbone=backbone, **{**FAST, **settings})
    return train(config, rows, [], TrainRun(folder, True, False))


def test_a_classifier_learns_relation_and_direction(
    tmp_path: Path, small_bert: str, row: Row, as_predictor: AsPredictor
) -> None:
    rows = [row("the card lost hello", "card", "hello", "A(e1,e2)"), row("the card lost hello", "hello", "card", "A(e2,e1)")]
    rows += [
        row("the order is refund", "order", "refund", "B(e1,e2)"),
        row("the order is refund", "refund", "order", "B(e2,e1)"),
    ]
    found = trained(rows * 6, tmp_path, small_bert)
    answers = as_predictor(found.model).predict([example.input for example in rows], [RelationParams(top_k=1)] * 4)
    assert [answer.labels[0].label for answer in answers] == [example.target for example in rows]
    assert found.facts["labels"] == 4


def test_in_text_order_the_other_direction_needs_no_rows(tmp_path: Path, row: Row, as_predictor: AsPredictor) -> None:
    fire, turned_text = "The fire damaged the kitchen.", "The kitchen was damaged by the fire."
    rows = [
        row(fire, "fire", "kitchen", "A(e1,e2)"),
        row(turned_text, "kitchen", "fire", "A(e2,e1)"),
        row(fire, "The", "the", "Other"),
    ]
    settings: dict[str, Any] = {
        "labels": LABELS,
        "uncounted": ("Other",),
        "in_text_order": True,
        "adapter": {"r": 4, "alpha": 8},
    }
    found = trained(rows, tmp_path, DEFAULT_BACKBONE, **{**settings, "epochs": 20, "batch_size": 3})
    turned = [row(fire, "kitchen", "fire", "?").input, row(turned_text, "fire", "kitchen", "?").input]
    answers = as_predictor(found.model).predict(turned, [RelationParams(top_k=1)] * 2)
    assert [answer.labels[0].label for answer in answers] == ["A(e2,e1)", "A(e1,e2)"]


def test_rows_are_held_out_by_their_texts(tmp_path: Path, small_bert: str, row: Row) -> None:
    rows = [row(f"the {'abcdefghij'[i]} is lost {x}", "the", "lost", x) for i in range(10) for x in ("x", "y")]
    rows += [row(example.input.text, "is", "lost", "z") for example in rows]
    kept, held = split_by_text(rows, TrainConfig(validation_fraction=0.2))
    assert {example.input.text for example in kept} & {example.input.text for example in held} == set()
    assert len(kept) + len(held) == len(rows)
    assert {example.target for example in held} == {"x", "y", "z"}
    found = trained(rows, tmp_path, small_bert, validation_fraction=0.2, epochs=2)
    assert found.facts["validation_rows"] == len(held)
    assert all(0 <= epoch["macro_f1"] <= 1 for epoch in found.history)


def test_relations_that_nobody_can_learn_are_refused(tmp_path: Path, small_bert: str, row: Row) -> None:
    rows = [row("my card", "my", "card", "x", line=1), row("my lost card", "my", "card", "y", line=2)]
    with pytest.raises(DataError, match="fewer than two relations"):
        trained(rows[:1], tmp_path, small_bert)
    with pytest.raises(DataError, match=r"pairs\.jsonl, line 2: relation 'y' is not among `labels`: x, z"):
        trained(rows, tmp_path, small_bert, labels=("x", "z"))
    strange = [row("my card", "my", "card", "w", line=9)]
    with pytest.raises(DataError, match="line 9: no row to train on has the relation 'w'"):
        train(TrainConfig(backbone=small_bert, **FAST), rows, strange, TrainRun(tmp_path, True, False))


# -- measuring -----------------------------------------------------------------------------------------------------------------


def judged(pairs: list[tuple[str, str]], labels: tuple[str, ...] = LABELS) -> Judged:
    """Rows of (true, given)."""
    true = np.array([[label == pair[0] for label in labels] for pair in pairs])
    given = np.array([[label == pair[1] for label in labels] for pair in pairs])
    return Judged(labels, true, given, given * 0.9, True)


def test_macro_f1_is_that_of_the_official_scorer() -> None:
    """By hand: of A two of three given are right and two of four true ones are found; of B one of two, and one of one."""
    rows = [
        ("A(e1,e2)", "A(e1,e2)"),
        ("A(e2,e1)", "A(e2,e1)"),
        ("A(e1,e2)", "A(e2,e1)"),  # the wrong direction: wrong for A twice over
        ("A(e1,e2)", "Other"),
        ("B(e1,e2)", "B(e1,e2)"),
        ("Other", "B(e2,e1)"),
        ("Other", "Other"),
    ]
    of_a, of_b = 2 * 2 / (3 + 4), 2 * 1 / (2 + 1)
    assert macro_f1(judged(rows), ("Other",)) == pytest.approx((of_a + of_b) / 2)
    assert micro_f1(judged(rows), ("Other",)) == pytest.approx(2 * 3 / (5 + 5))
    table = relation_table(judged(rows), ("Other",))
    assert table[1:] == (("A", 0.6667, 0.5, round(of_a, 4), 4), ("B", 0.5, 1.0, round(of_b, 4), 1))


def test_without_what_is_left_out_every_label_counts() -> None:
    rows = [("x", "x"), ("y", "x"), ("y", "y")]
    found = judged(rows, ("x", "y", "never"))
    assert macro_f1(found, ()) == pytest.approx((2 / 3 + 2 / 3) / 2)
    assert micro_f1(found, ()) == pytest.approx(2 / 3)


def test_an_evaluation_has_intervals_tables_figures_and_a_pairing(
    small_bert: str, as_predictor: AsPredictor, tmp_path: Path
) -> None:
    rows = list(RelationTask().read_examples(SAMPLE))
    labels = sorted({row.target for row in rows})
    torch.manual_seed(1)
    predictor = as_predictor(RelationModel.build(labels, backbone=small_bert, uncounted=["Other"]))
    result = evaluate(predictor, rows, tmp_path / "figures")
    assert set(result.metrics) == {spec.name for spec in RelationTask().metrics} == set(result.intervals)
    assert result.examples == 36
    assert result.tables["per_class"][0] == ("label", "precision", "recall", "f1", "support")
    assert sum(int(row[4]) for row in result.tables["per_relation"][1:]) == 34  # two rows are Other
    assert set(result.figures) == {"confusion.png", "reliability.png"}
    assert (tmp_path / "figures" / "confusion.png").read_bytes()[:4] == b"\x89PNG"
    assert result.pairing is not None
    assert len(result.pairing.rows) == 36
    assert set(result.pairing.metrics) == set(result.metrics)


def test_texts_are_disturbed_around_the_entities_and_places_stay_true(row: Row) -> None:
    import random

    example = row("The big car hit the small house near our street", "car", "house", "x")
    for change in perturbations(RelationTask()):
        found = change.change(example, random.Random(3)).input
        assert len(found.text) == len(example.input.text), change.name
        assert (found.head, found.tail) == (example.input.head, example.input.tail)


# -- optimizers ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def steps(small_bert: str, tmp_path_factory: pytest.TempPathFactory) -> Steps:
    torch.manual_seed(4)
    model = RelationModel.build(LABELS, backbone=small_bert, dropout=0.0, in_text_order=True)
    torch.nn.init.normal_(model.module.head.outer.weight, std=1.0)
    folder = tmp_path_factory.mktemp("steps")
    words = ["where", "is", "my", "lost", "card", "order"]
    rows = []
    for i in range(24):
        text = " ".join(words[(i + k) % 6] for k in range(5))
        spans = {"head": {"start": 0, "end": 2}, "tail": {"start": len(text) - 2, "end": len(text)}}
        rows.append(
            Example(input=RelationInput.model_validate({"text": text, **spans}), target=LABELS[i % 5], path="d.jsonl", line=i)
        )
    return Steps(published("relation", model, folder / "store"), rows, folder / "work", rows[:6])


def test_a_student_with_half_the_layers_learns_what_the_parent_says(steps: Steps) -> None:
    fast = {"epochs": 4, "batch_size": 4, "learning_rate": 3e-3, "ema_decay": 0.0, "early_stopping_patience": 0}
    chain = steps.run("distill", layers=1, alpha=0.0, precision="fp32", device="cpu", **fast)
    history = chain.steps[0].facts["history"]
    assert history[-1]["loss"] < 0.8 * history[0]["loss"]


def test_markers_stay_in_a_vocabulary_that_is_cut_to_what_is_read(steps: Steps, tmp_path: Path) -> None:
    alone = {"vocabulary": "seen", "target": "parameters", "share": 1.0, "epochs": 0, "importance_rows": 4, "timed_rows": 2}
    chain = steps.run("prune", **alone)
    asked = steps.rows[0].input
    before = steps.predictor(steps.registry.tasks.get("relation").load(steps.parent, None), tmp_path / "one")
    after = steps.predictor(chain.model, tmp_path / "other")
    one, other = (each.predict_one(asked, RelationParams(top_k=None)) for each in (before, after))
    for left, right in zip(one.labels, other.labels, strict=True):
        assert (left.label, left.score) == (right.label, pytest.approx(right.score, abs=1e-5))


def test_in_int8_it_answers_as_the_parent_does(steps: Steps) -> None:
    chain = steps.run("quantize", mode="dynamic", calibration_rows=8, search_s=0.0)
    assert chain.runtime == "onnx"
