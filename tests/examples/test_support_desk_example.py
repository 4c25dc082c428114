"""The example that answers from a folder of documents, run as its first lines say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.integration, pytest.mark.timeout(600)]

ASSISTANT = Path(__file__).parents[2] / "examples" / "support_desk" / "assistant.py"


def said(home: Path, *words: str, typed: str = "") -> str:
    command = [sys.executable, str(ASSISTANT), "--home", str(home), *words]
    done = subprocess.run(command, check=True, capture_output=True, text=True, input=typed, encoding="utf-8", timeout=500)
    return done.stdout


def test_it_answers_in_both_languages_and_says_when_it_does_not_know(tmp_path: Path) -> None:
    told = said(tmp_path)
    assert "12 documents read, 0 unchanged" in told
    blocks = dict(block.split("\n", 1) for block in told.split("\n> ")[1:])
    assert "Gdansk  [en/warranty.html" in blocks["Where is the service centre?"]
    assert blocks["How many repeaters can I use together?"].lower().startswith(("four", "up to four"))
    assert "[faq-guest" in blocks["How do I set up a guest network?"]
    assert "按住背面的复位键十秒钟" in blocks["如何恢复出厂设置?"]
    assert blocks["路由器的初始密码是什么?"].startswith("标签上的序列号  [zh/安装指南.md")
    for unrelated in ("Who won the football match yesterday?", "昨天的足球比赛谁赢了?"):
        assert blocks[unrelated].startswith("I don't know.")
    again = said(tmp_path, "--chat", typed="Where is the service centre?\nAnd how long does a repair take there?\n\n")
    assert "0 documents read, 12 unchanged" in again
    assert "(understood as: Where is the service centre? And how long does a repair take there?)" in again
