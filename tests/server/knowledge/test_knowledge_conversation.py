"""Questions that go on from the ones before them."""

from __future__ import annotations

import pytest

from taskloom.core.knowledge_calls import Turn
from taskloom.core.language import language_of_script
from taskloom.server.knowledge.conversation import understood


def turns(*questions: str) -> list[Turn]:
    return [Turn(question=question, answer="...") for question in questions]


@pytest.mark.parametrize(
    "question",
    [
        "How long is it?",
        "And in winter?",
        "What about returns?",
        "Why?",
        "Which one is cheaper?",
        "How much?",
        "How do I get there?",
        "What does that cost?",
        "Who is in charge of that?",
        "Can that be repaired?",
        "What happens if that breaks?",
    ],
)
def test_a_question_that_goes_on_is_read_behind_the_one_that_it_needs(question: str) -> None:
    asked = understood(question, turns("How long is the Danube?"), "en")
    assert asked == f"How long is the Danube? {question}"


@pytest.mark.parametrize(
    "question",
    [
        "那保修期呢?",
        "它多少钱?",
        "为什么?",
        "这个怎么安装?",
        "还有别的颜色吗?",
        "该产品保修多久?",
        "其价格是多少?",
        "他是谁的作者?",
        "這個怎麼安裝?",
        "該產品保固多久?",
        "還有別的顏色嗎?",
    ],
)
def test_the_same_in_chinese(question: str) -> None:
    assert understood(question, turns("X200 路由器支持 WiFi 6 吗?"), "zh") == f"X200 路由器支持 WiFi 6 吗? {question}"


@pytest.mark.parametrize(
    ("question", "language"),
    [
        ("How long is the Rhine?", "en"),
        ("Who wrote Faust?", "en"),
        ("Is there a warranty on the X200?", "en"),
        ("X300 路由器的保修期是多久?", "zh"),
        ("我应该怎么申请退款?", "zh"),
        ("有没有其他颜色的路由器?", "zh"),
        ("其它型号有保修吗?", "zh"),
        ("吉他课程怎么退款?", "zh"),
        ("路由器因此损坏怎么办?", "zh"),
    ],
)
def test_a_question_that_stands_alone_is_left_as_it_is(question: str, language: str) -> None:
    assert understood(question, turns("How long is the Danube?"), language) == question


def test_it_goes_back_to_the_last_question_that_stood_alone() -> None:
    before = turns("Where is the Nile?", "How long is the Danube?", "And how deep is it?")
    assert understood("Why?", before, "en") == "How long is the Danube? Why?"
    assert understood("Why?", turns("Is it?", "Really?"), "en") == "Is it? Why?"
    assert understood("Why?", [], "en") == "Why?"


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How do I reset my password?", "en"),
        ("怎么重置 password?", "zh"),
        ("iPhone 15 Pro Max 保修", "zh"),
        ("The word 猫 means cat in Chinese", "en"),
        ("これは何ですか", ""),
        ("12345 ?!", ""),
        ("", ""),
        ("Где мой заказ?", ""),
    ],
)
def test_the_script_tells_the_language(text: str, language: str) -> None:
    assert language_of_script(text) == language
