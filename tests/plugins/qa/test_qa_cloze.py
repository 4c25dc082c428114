"""Questions made from plain text."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from taskloom.core.errors import DataError
from taskloom.core.loader import load_registry
from taskloom.plugins.tasks.qa.cloze import ASKING, Cloze, cloze_questions
from taskloom.plugins.tasks.qa.commands import questions
from taskloom.plugins.tasks.qa.reading import read_examples

DATA = Path(__file__).parents[2] / "data"
CHINESE = (DATA / "zhwiki-law-sample.txt").read_text(encoding="utf-8")
ENGLISH = "\n\n".join(
    paragraph["context"]
    for article in json.loads((DATA / "squadshifts-sample.json").read_text(encoding="utf-8"))["data"]
    for paragraph in article["paragraphs"]
)


def made(text: str, seed: int = 5) -> list[tuple[str, Cloze]]:
    dice = random.Random(seed)
    return [(document, cloze) for document in text.split("\n\n") for cloze in cloze_questions(document, dice)]


@pytest.mark.parametrize(("text", "language"), [(CHINESE, "zh"), (ENGLISH, "en")])
def test_the_passage_has_every_answer_and_the_question_asks_for_it(text: str, language: str) -> None:
    found = made(text)
    assert len(found) >= 10
    asking = [word for words in ASKING[language] for word in words]
    elsewhere = 0
    for document, cloze in found:
        answers = {cloze.passage[start:end] for start, end in cloze.answers}
        assert len(answers) == 1, "all places have the same answer"
        assert any(word in cloze.question for word in asking)
        elsewhere += cloze.passage not in document
    assert elsewhere < len(found) / 2, "only where the answer stands elsewhere too does the passage lose a sentence"
    assert len({cloze.question for _, cloze in found}) > 0.9 * len(found)
    assert made(text) == found
    assert made(text, seed=6) != found


def test_a_sentence_that_is_left_out_leaves_its_answer_elsewhere() -> None:
    text = (
        "Passengers from all over the country arrive by train every morning, and most of them stay for less than a week. "
        "The Forth Bridge crosses the river near Queensferry village and carries two railway lines. "
        "Workers painted the Forth Bridge during long summers with red iron paint. "
        "Many visitors photograph the Forth Bridge from boats every summer evening."
    )
    found = [cloze for seed in range(200) for _, cloze in made(text, seed)]
    shorter = [cloze for cloze in found if len(cloze.passage) < len(text)]
    assert shorter
    for cloze in shorter:
        for start, end in cloze.answers:
            assert f" {cloze.passage[start:end]} " in f" {text.replace('.', ' ')} "
            assert cloze.passage[start:end] == cloze.passage[start:end].strip()
    assert any(len(cloze.answers) == 2 for cloze in shorter)


def test_other_clauses_are_left_out_half_of_the_time() -> None:
    text = "红色的苹果挂在高大的树上，蓝色的小鸟停在屋顶上面，年轻的工人修理破旧的机器，远方的客人带来珍贵的礼物。" * 3
    found = [cloze.question for seed in range(300) for _, cloze in made(text, seed)]
    words = ("苹果", "小鸟", "工人", "客人")
    kept = [sum(word in question for word in words) for question in found]
    assert 1.4 < sum(kept) / len(kept) < 2.6, (
        "one clause of its own and half of three others, less a word left out here and there"
    )
    assert min(kept) <= 1


def test_answers_are_whole_words_and_numbers() -> None:
    text = "这种CT150型机器重11.4公里外运来的1,200万元设备，共有11台，编号50，每台设备需要工人仔细检查，最后由公司登记。" * 4
    answers = {
        (cloze.passage[start - 1 : start], cloze.passage[start:end], cloze.passage[end : end + 1])
        for seed in range(200)
        for _, cloze in made(text, seed)
        for start, end in cloze.answers
    }
    numbers = [place for place in answers if place[1].isdigit()]
    assert numbers
    assert not [place for place in numbers if place[0] in set("CT150.,") or place[2] in set("0123456789.,") - {",", "."}]
    assert not {place[1] for place in answers} & {"1", "200", "150", "000"}


def test_a_word_with_an_apostrophe_is_one() -> None:
    text = "The committee didn't accept Scotland's generous offer because several members weren't present yesterday. " * 4
    words = {word for _, cloze in made(text, 3) + made(text, 4) for word in cloze.question.split()}
    assert words & {"didn't", "Scotland's", "weren't"}
    assert not words & {"t", "s", "didn", "weren"}


def test_nothing_is_asked_of_what_is_too_short() -> None:
    assert made("短。") == made("Yes. No.") == made("") == []


def test_the_command_writes_rows_that_a_reader_is_trained_on(tmp_path: Path) -> None:
    class Context:
        registry = load_registry()

    texts, out = tmp_path / "zh.txt", tmp_path / "rows.jsonl"
    texts.write_text(CHINESE, encoding="utf-8")
    run = CliRunner().invoke(questions, [str(texts), "--out", str(out), "--count", "12"], obj=Context(), catch_exceptions=False)
    assert run.output == f"12 questions in {out}\n"
    rows = list(read_examples(out))
    assert len(rows) == 12
    assert all(row.target.answers for row in rows)
    before = out.read_bytes()
    CliRunner().invoke(questions, [str(texts), "--out", str(out), "--count", "12"], obj=Context(), catch_exceptions=False)
    assert out.read_bytes() == before
    for bad in (texts, tmp_path / "rows.txt"):
        refused = CliRunner().invoke(questions, [str(texts), "--out", str(bad)], obj=Context())
        assert refused.exit_code == 2
    assert texts.read_text(encoding="utf-8") == CHINESE
    with pytest.raises(DataError, match="can't be written"):
        CliRunner().invoke(
            questions, [str(texts), "--out", str(tmp_path / "no" / "rows.jsonl")], obj=Context(), catch_exceptions=False
        )
    texts.write_text("短。\n", encoding="utf-8")
    with pytest.raises(DataError, match="no sentence that is long enough"):
        CliRunner().invoke(questions, [str(texts), "--out", str(out)], obj=Context(), catch_exceptions=False)
    assert out.read_bytes() == before, "what was there stays"
