"""What a student learns from beside its rows: inputs without targets, and altered copies."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from optimizer_steps import Steps, registry

from taskloom.core.errors import DataError, UnsupportedError
from taskloom.core.task import Example, SharedParts
from taskloom.plugins.optimizers.distill.config import DistillConfig
from taskloom.plugins.optimizers.distill.lessons import NoTarget, has_target, lessons, unlabelled_rows
from taskloom.plugins.tasks.classification.schema import ClassificationInput

QUICK: dict[str, Any] = {
    "layers": 1,
    "epochs": 2,
    "batch_size": 16,
    "learning_rate": 3e-3,
    "ema_decay": 0.0,
    "precision": "fp32",
    "device": "cpu",
    "hidden_weight": 0.0,
}
TEXTS = ["where is my lost card", "hello the refund of a order", "is the card a refund", "card"]


def rows(texts: list[str]) -> list[Example[Any]]:
    return [Example(input=ClassificationInput(text=text), target="one", path="d", line=i) for i, text in enumerate(texts)]


def task(name: str = "classification") -> Any:
    return registry().tasks.get(name)


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_inputs_are_read_from_lines_and_from_fields(tmp_path: Path) -> None:
    lines = write(tmp_path / "a.txt", "one text\n\n  another \n")
    found = list(unlabelled_rows(task(), lines))
    assert [(row.input.text, row.line) for row in found] == [("one text", 1), ("another", 3)]
    assert not any(has_target(row) for row in found)
    fields = write(tmp_path / "b.jsonl", json.dumps({"text": "one", "text_pair": "two"}) + "\n")
    assert [row.input.text_pair for row in unlabelled_rows(task(), fields)] == ["two"]


@pytest.mark.parametrize(
    ("name", "held", "told"),
    [
        ("a.jsonl", '{"text": "x", "label": "one"}\n', r"a\.jsonl, line 1: unknown field 'label'"),
        ("a.jsonl", '{"text": "x"}\n{"text": ""}\n', r"a\.jsonl, line 2: text"),
        ("a.txt", "\n \n", "has no rows"),
        ("a.parquet", "x", "unknown format"),
    ],
)
def test_what_is_no_input_is_told_with_its_line(tmp_path: Path, name: str, held: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        list(unlabelled_rows(task(), write(tmp_path / name, held)))


def test_a_line_is_no_picture(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is no bare text"):
        list(unlabelled_rows(task("vision"), write(tmp_path / "a.txt", "one\n")))
    with pytest.raises(UnsupportedError, match="leave it at 0"):
        lessons(task("vision"), [], DistillConfig(augment=1), None)


def test_copies_are_altered_and_have_no_target_and_are_the_same_each_time() -> None:
    config = DistillConfig(augment=3, augment_cut=0.0)
    found = lessons(task(), rows(TEXTS), config, "[MASK]")
    assert found[: len(TEXTS)] == rows(TEXTS)
    copies = [row.input.text for row in found[len(TEXTS) :]]
    assert len(copies) == 3 * (len(TEXTS) - 1), "one word alone is left as it is"
    assert not set(copies) & set(TEXTS)
    assert all(isinstance(row.target, NoTarget) for row in found[len(TEXTS) :])
    known = {word for text in TEXTS for word in text.split()} | {"[MASK]"}
    assert {word for text in copies for word in text.split()} <= known
    assert any("[MASK]" in text for text in copies)
    assert [row.input.text for row in lessons(task(), rows(TEXTS), config, "[MASK]")] == [row.input.text for row in found]


def test_without_a_mask_words_are_left_out_and_a_cut_keeps_one_run() -> None:
    dropped = DistillConfig(augment=4, augment_mask=0.4, augment_swap=0.0, augment_cut=0.0)
    for row in lessons(task(), rows(TEXTS), dropped, None)[len(TEXTS) :]:
        words = row.input.text.split()
        assert any(words == [w for w in text.split() if w in words] for text in TEXTS), "order stays"
    cut = DistillConfig(augment=4, augment_mask=0.0, augment_swap=0.0, augment_cut=1.0)
    for row in lessons(task(), rows(TEXTS), cut, None)[len(TEXTS) :]:
        assert any(row.input.text in text for text in TEXTS)


def test_chinese_is_altered_by_characters() -> None:
    config = DistillConfig(augment=2, augment_mask=0.3, augment_swap=0.0, augment_cut=0.0)
    copies = lessons(task(), rows(["我的银行卡在哪里", "卡丢了怎么办"]), config, None)[2:]
    assert copies
    assert all(0 < len(row.input.text) < 8 and " " not in row.input.text for row in copies)


def test_rows_without_target_teach_what_the_rows_do_not_show(telling_steps: Callable[..., Steps], tmp_path: Path) -> None:
    """Labels are learnt of those rows alone that have one; what the teacher says, of all."""
    taught, alone = telling_steps("taught"), telling_steps("alone")
    texts = write(tmp_path / "texts.txt", "".join(f"{row.input.text}\n" for row in taught.rows[8:]))
    taught.rows = alone.rows = taught.rows[:8]
    settings = {**QUICK, "batch_size": 4, "early_stopping_patience": 0}
    more = taught.run("distill", unlabelled=[str(texts)], **settings)
    few = alone.run("distill", **{**settings, "batch_size": 1, "epochs": 6})
    assert more.steps[0].facts["rows_without_target"] == 88
    assert more.steps[0].facts["steps"] == few.steps[0].facts["steps"] == 48
    teacher = task().load(taught.parent, SharedParts())
    assert distance(more.model, teacher, taught.held) < 0.7 * distance(few.model, teacher, taught.held)


def distance(model: Any, teacher: Any, rows: list[Example[Any]]) -> float:
    with torch.inference_mode():
        inputs = [row.input for row in rows]
        own, wanted = (x.forward(x.encode(inputs))["logits"].log_softmax(-1) for x in (model, teacher))
    return float((wanted.exp() * (wanted - own)).sum(-1).mean())


def test_other_texts_make_another_step(steps: Callable[..., Steps], tmp_path: Path) -> None:
    taught = steps("taught")
    settings = {**QUICK, "epochs": 1, "unlabelled": [str(write(tmp_path / "t.txt", "my card\n"))]}
    assert taught.run("distill", **settings).steps[0].facts["rows_without_target"] == 1
    write(tmp_path / "t.txt", "my card\nthe order\n")
    assert taught.run("distill", **settings).steps[0].facts["rows_without_target"] == 2
    with pytest.raises(DataError, match="no data file"):
        taught.run("distill", **{**settings, "unlabelled": [str(tmp_path / "absent.txt")]})
