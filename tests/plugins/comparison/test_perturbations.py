"""Changes to inputs that leave the answer what it was."""

from __future__ import annotations

import random
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from vision_pictures import shade

from taskloom.core.task import Example, TaskPlugin
from taskloom.plugins._shared.robustness import lower, perturbations, typos, upper
from taskloom.plugins.tasks.classification.plugin import ClassificationTask
from taskloom.plugins.tasks.classification.schema import ClassificationInput
from taskloom.plugins.tasks.ner.plugin import NerTask
from taskloom.plugins.tasks.ner.schema import NerInput
from taskloom.plugins.tasks.qa.plugin import QaTask
from taskloom.plugins.tasks.qa.schema import QaInput
from taskloom.plugins.tasks.recommendation.plugin import RecommendationTask
from taskloom.plugins.tasks.recommendation.schema import RecommendationInput
from taskloom.plugins.tasks.summarization.plugin import SummarizationTask
from taskloom.plugins.tasks.vision.plugin import VisionTask
from taskloom.plugins.tasks.vision.schema import VisionInput

TEXTS = ["typos", "upper case", "lower case", "full width", "half width", "synonyms", "negation"]


def changed(task: TaskPlugin[Any, Any, Any], name: str, given_input: Any, seed: int = 1) -> Any:
    (one,) = [found for found in perturbations(task) if found.name == name]
    row = Example(input=given_input, target="t", path="rows.jsonl", line=3)
    found = one.change(row, random.Random(seed))
    assert (found.target, found.line) == ("t", 3)
    return found.input


@given(st.text(), st.integers(0, 5))
def test_every_character_keeps_its_place(text: str, seed: int) -> None:
    for change in (typos(text, random.Random(seed)), upper(text), lower(text)):
        assert len(change) == len(text)


def test_typos_are_few_and_the_same_each_time() -> None:
    text = "please tell me where my new card is, I lost the old one in the holidays " * 20
    once, again = (typos(text, random.Random(3)) for _ in range(2))
    assert once == again
    assert typos(text, random.Random(4)) != once
    share = np.mean([a != b for a, b in zip(text, once, strict=True)])
    assert 0.02 < share < 0.12
    assert once.split(" ")[0][0] == "p"


def test_chinese_has_typing_errors_too() -> None:
    text = "我的银行卡丢了请帮我冻结账户谢谢" * 10
    wrong = typos(text, random.Random(1))
    assert wrong != text
    assert sorted(wrong) == sorted(text)


def test_wide_and_narrow_letters() -> None:
    task = ClassificationTask()
    wide = "\uff23\uff41\uff52\uff44 \uff15\uff1f"  # "Card 5?" as an input method for Chinese writes it
    assert changed(task, "full width", ClassificationInput(text="Card 5?")).text == wide
    assert changed(task, "half width", ClassificationInput(text=f"\u5361{wide}")).text == "\u5361Card 5?"


@pytest.mark.parametrize("task", [ClassificationTask(), NerTask(), QaTask(), SummarizationTask(), RecommendationTask()])
def test_tasks_of_text_are_tried_with_every_change_of_text(task: TaskPlugin[Any, Any, Any]) -> None:
    assert [found.name for found in perturbations(task)] == TEXTS


def test_only_what_the_answer_does_not_copy_is_changed() -> None:
    asked = changed(QaTask(), "upper case", QaInput(question="where is it?", context="It is in York."))
    assert (asked.question, asked.context) == ("WHERE IS IT?", "It is in York.")
    user = changed(RecommendationTask(), "upper case", RecommendationInput(user="u-1", history=("a",), likes=("space", "x")))
    assert (user.user, user.history, user.likes) == ("u-1", ("a",), ("SPACE", "X"))
    assert changed(NerTask(), "upper case", NerInput(text="in Berlin")).text == "IN BERLIN"


def test_pictures_get_noise_blur_and_a_shift() -> None:
    task = VisionTask()
    assert [found.name for found in perturbations(task)] == ["noise", "blur", "shift"]
    given_input = VisionInput(image=shade("light", 1, (32, 24)))
    before = pixels(given_input.image)
    for name in ("noise", "blur", "shift"):
        once, again = (changed(task, name, given_input) for _ in range(2))
        assert once == again
        VisionInput.model_validate(once.model_dump(mode="json"))
        after = pixels(once.image)
        assert after.shape == before.shape
        assert 0 < np.abs(after - before).mean() < 40
    blurred = pixels(changed(task, "blur", given_input).image)
    assert blurred.std() < before.std() < pixels(changed(task, "noise", given_input).image).std()
    shifted = pixels(changed(task, "shift", given_input).image)
    places = [(x, y) for x in (-3, 0, 3) for y in (-2, 0, 2)]
    assert any((np.roll(before, (y, x), (0, 1))[3:-3, 3:-3] == shifted[3:-3, 3:-3]).all() for x, y in places if x or y)


def pixels(file: bytes) -> Any:
    return np.asarray(Image.open(BytesIO(file)), dtype=np.float64)
