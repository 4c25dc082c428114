"""Scores as SQuAD's and CMRC's official scripts give them."""

from __future__ import annotations

import pytest

from taskloom.core.task import Example
from taskloom.plugins._shared.answer_scores import exact_match, f1, is_chinese, longest_run, segments
from taskloom.plugins.tasks.qa.schema import GoldAnswer, QaInput, QaTarget
from taskloom.plugins.tasks.qa.scoring import best_match


def row(context: str, *answers: str) -> Example[QaInput]:
    golds = tuple(GoldAnswer(text=a, start=context.index(a), end=context.index(a) + len(a)) for a in answers)
    return Example(input=QaInput(question="?!", context=context), target=QaTarget(answers=golds))


@pytest.mark.parametrize(
    ("given", "true", "expected_f1", "expected_em"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0, 1.0),
        ("in York since 1999", "York", 0.4, 0.0),
        ("a an the", "the", 0.0, 1.0),  # nothing is left of either: evaluate-v1.1.py gives F1 0 and EM 1
        ("red red card", "red card card", 2 * (2 / 3) * (2 / 3) / (4 / 3), 0.0),
        ("state-of-the-art", "stateoftheart", 1.0, 1.0),  # punctuation goes before articles are looked for
        ("theatre", "atre", 0.0, 0.0),
        ("São Paulo", "sao paulo", 0.5, 0.0),
        ("“York”", "York", 0.0, 0.0),  # typographic quotes are no ASCII punctuation
        ("", "York", 0.0, 0.0),
    ],
)
def test_squad_1(given: str, true: str, expected_f1: float, expected_em: float) -> None:
    assert f1(given, true) == pytest.approx(expected_f1)
    assert exact_match(given, true) == expected_em


def test_squad_2_rewards_silence_where_there_is_no_answer() -> None:
    empty = row("the card is lost")
    assert best_match(f1, "", empty, v2=True) == 1.0
    assert best_match(exact_match, "", empty, v2=True) == 1.0
    assert best_match(f1, "card", empty, v2=True) == 0.0
    answered = row("the card is lost", "the card")
    assert best_match(f1, "", answered, v2=True) == 0.0
    # An answer of which nothing is left counts as none: evaluate-v2.0.py drops it.
    assert best_match(f1, "", row("the card is lost", "the"), v2=True) == 1.0


def test_the_nearest_annotator_counts() -> None:
    assert best_match(f1, "red card", row("the red card is lost", "lost", "red card", "card"), v2=False) == 1.0


@pytest.mark.parametrize(
    ("given", "true", "expected_f1", "expected_em"),
    [
        ("约克市", "约克", 0.8, 0.0),
        ("《约克》。", "约克", 1.0, 1.0),
        ("1999年起在约克", "约克", 2 * (2 / 6) * 1 / (2 / 6 + 1), 0.0),
        ("北京和上海", "上海和北京", 0.4, 0.0),  # the longest run of two, where words in any order would be all five
        ("光荣和ω-force", "光荣和ω-Force", 1.0, 1.0),
        ("谢谢", "你好", 0.0, 0.0),
    ],
)
def test_cmrc(given: str, true: str, expected_f1: float, expected_em: float) -> None:
    assert f1(given, true, chinese=True) == pytest.approx(expected_f1)
    assert exact_match(given, true, chinese=True) == expected_em


def test_chinese_is_told_by_the_context() -> None:
    assert is_chinese("该公司1999年起总部设在约克 (York)。")
    assert not is_chinese("The company (公司) is in York.")
    assert not is_chinese("東京は日本の首都です。")
    assert segments("在iPhone 15上,谢谢") == ["在", "iphone", "15", "上", ",", "谢", "谢"]
    assert longest_run("abcde", "xbcdy") == 3
