from __future__ import annotations

import pytest

from taskloom.core.testing.conformance import EDGE_TEXTS
from taskloom.plugins.retrieval.documents.language import language_of

ENGLISH = "The bank said on Tuesday that it would lend more to small firms, which have had a hard year."


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("我的银行卡在哪里", "zh"),
        ("好", "zh"),
        ("請問如何重設密碼？", "zh"),
        ("使用 Docker 部署 Kubernetes cluster", "zh"),
        ("请帮我 cancel 我的 order 谢谢!", "zh"),
        ("https://example.com/very/long/path/in/latin/letters 打不开", "zh"),
        (ENGLISH, "en"),
        (ENGLISH.upper(), "en"),
        ("Beijing (北京) is the capital of China.", "en"),
        ("reset router password", "en"),
        ("Where is my card?", "en"),
        ("Die Bank sagte am Dienstag, dass sie kleinen Firmen in diesem Jahr mehr Geld leihen will.", ""),
        ("La banque a annoncé mardi qu'elle prêterait plus aux petites entreprises.", ""),
        ("El banco dijo el martes que prestaría más a las pequeñas empresas en este año.", ""),
        ("La banca ha detto martedì che presterà di più alle piccole imprese.", ""),
        ("Банк сообщил, что будет больше кредитовать малый бизнес.", ""),
        ("銀行は火曜日、中小企業への融資を増やすと発表した。", ""),
        ("은행은 화요일에 중소기업 대출을 늘리겠다고 밝혔다.", ""),
        ("Ποια είναι η πρωτεύουσα;", ""),
        ("", ""),
        ("12345 !!! 🙂", ""),
        ("x", ""),
        ("lorem ipsum dolor sit amet consectetur adipiscing elit sed eiusmod tempor incididunt", ""),
    ],
)
def test_the_language_is_told(text: str, language: str) -> None:
    assert language_of(text) == language


def test_a_short_text_is_only_guessed_where_that_is_wanted() -> None:
    assert language_of("reset router password", guess=False) == ""
    assert language_of("where is it", guess=False) == "en"


@pytest.mark.parametrize("name", EDGE_TEXTS)
def test_edge_texts_have_a_language_or_none(name: str) -> None:
    assert language_of(EDGE_TEXTS[name]) in ("zh", "en", "")


@pytest.mark.parametrize("part", ["a@", "a/", "@", "http://", "é", "_", "a'"])
def test_hostile_texts_take_bounded_time(part: str) -> None:
    language_of(part * 100_000)
