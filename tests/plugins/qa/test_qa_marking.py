"""Marks on the tokens of a context that the question has too."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from taskloom.core.errors import UnsupportedError
from taskloom.plugins.tasks.qa.model import QaModel
from taskloom.plugins.tasks.qa.schema import QaInput

PIECES = "我的银行卡在哪里?"


@pytest.fixture
def model(checkpoint: Callable[..., Path]) -> QaModel:
    torch.manual_seed(1)
    return QaModel.build(backbone=str(checkpoint("bert", pieces=PIECES)), mark_shared=True, max_length=32, overlap=8)


def marked(model: QaModel, *asked: tuple[str, str]) -> list[list[str]]:
    """Of each window the parts of its context that are marked."""
    batch = model.encode([QaInput(question=question, context=context) for question, context in asked])
    rows = zip(
        batch["token_type_ids"].split(batch["lengths"].tolist()),
        batch["offsets"].split(batch["lengths"].tolist()),
        batch["owner"].tolist(),
        strict=True,
    )
    found = []
    for types, offsets, owner in rows:
        assert not types[offsets[:, 0] < 0].any(), "the question is marked"
        found.append([asked[owner][1][start:end] for kind, (start, end) in zip(types, offsets.tolist(), strict=True) if kind])
    return found


def test_words_of_the_question_are_marked_and_its_marks_are_not(model: QaModel) -> None:
    assert marked(model, ("where is my card?", "the card is lost ?")) == [["card", "is"]]


def test_a_chinese_character_is_marked_beside_one_that_it_has_in_the_question_too(model: QaModel) -> None:
    assert marked(model, ("我的卡在哪里", "银行在我的卡")) == [["我", "的", "卡"]]
    assert marked(model, ("我的卡", "卡的我")) == [[]], "in another order they are other words"


def test_unknown_characters_and_marks_are_never_marked(model: QaModel) -> None:
    assert marked(model, ("龘靐", "齉爩")) == [[]], "all that these have in common is that they are unknown"
    assert marked(model, ("card ?", "a card ?")) == [["card"]]
    assert marked(model, ("? 卡", "a ? 卡")) == [[]]


def test_each_window_is_marked_by_its_own_question(model: QaModel) -> None:
    pairs = [("where is my card", "my order"), ("order", "my order"), ("银行", "my order 银行"), ("lost", "the the")]
    alone = [marked(model, pair)[0] for pair in pairs]
    assert marked(model, *pairs) == alone == [["my"], ["order"], ["银", "行"], []]


def test_every_window_of_a_long_context_is_marked(model: QaModel) -> None:
    found = marked(model, ("where is my card", "the the the a a a " * 8 + "card"))
    assert len(found) > 2
    assert [part for parts in found for part in parts] == ["card"]


def test_an_encoder_with_one_type_of_tokens_is_refused_and_a_student_on_it_goes_without(
    model: QaModel, checkpoint: Callable[..., Path]
) -> None:
    plain = str(checkpoint("distilbert", pieces=PIECES))
    with pytest.raises(UnsupportedError, match="no second type of tokens"):
        QaModel.build(backbone=plain, mark_shared=True, max_length=32, overlap=8)
    student = model.on_backbone(plain)
    assert not student.saved.mark_shared
    student.forward(student.encode([QaInput(question="where is my card", context="my card")]))


def test_without_marks_types_are_those_of_question_and_context(checkpoint: Callable[..., Path]) -> None:
    model = QaModel.build(backbone=str(checkpoint("bert", pieces=PIECES)), max_length=32, overlap=8)
    batch = model.encode([QaInput(question="where is my card", context="the order")])
    assert torch.equal(batch["token_type_ids"][:-1] > 0, batch["offsets"][:-1, 0] >= 0)
