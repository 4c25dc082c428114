"""Pairs from files: every format, passages that several rows name, and bad rows with their places."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from taskloom.core.errors import DataError
from taskloom.plugins.tasks.embedding.plugin import EmbeddingTask
from taskloom.plugins.tasks.embedding.schema import EmbeddingInput, EmbeddingTarget

SAMPLE = Path(__file__).parents[2] / "data" / "squadshifts-sample.json"


def read(path: Path, text: str) -> list[Any]:
    path.write_text(text, encoding="utf-8")
    return list(EmbeddingTask().read_examples(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"query": "q", "positive": "p", "negatives": ["n", "m"]}\n{"query": "r", "positive": "s"}\n'),
        ("a.csv", "query,positive,negatives\nq,p,n| m\nr,s,\n"),
        ("a.tsv", "positive\tquery\tnegatives\np\tq\tn|m\ns\tr\t\n"),
    ],
)
def test_every_format_says_the_same(name: str, text: str, tmp_path: Path) -> None:
    first, second = read(tmp_path / name, text)
    assert first.input == EmbeddingInput(text="q", kind="query")
    assert first.target == EmbeddingTarget(positives=("p",), negatives=("n", "m"))
    assert second.target == EmbeddingTarget(positives=("s",))
    assert (Path(second.path).name, second.line) == (name, 3 if name != "a.jsonl" else 2)


def test_a_row_knows_all_passages_of_its_query_its_own_first(tmp_path: Path) -> None:
    rows = [{"query": "q", "positive": "p"}, {"query": "r", "positive": "p"}, {"query": "q", "positive": "o"}]
    found = read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert [row.target.positives for row in found] == [("p", "o"), ("p",), ("o", "p")]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([{"query": "q", "positive": "p"}, {"query": "q"}], "line 2: field 'positive' is missing"),
        ([{"query": "q", "positive": " "}], "line 1: positive: Value error, the text is empty"),
        ([{"query": "\u200b", "positive": "p"}], "line 1: query: Value error, the text is empty"),
        ([{"query": "q", "positive": 7}], "line 1: `positive` is 7; expected a string"),
        ([{"query": "q", "positive": "p", "negatives": "n"}], "line 1: `negatives` is 'n'; expected a list"),
        ([{"query": "q", "positive": "p", "negatives": [""]}], "line 1: `negatives` is"),
        ([{"query": "q", "positive": "p", "answer": "a"}], "line 1: unknown field 'answer'"),
        (
            [{"query": "q", "positive": "p", "negatives": ["o"]}, {"query": "q", "positive": "o"}],
            "line 1: `negatives` has a passage that is `positive` for the same query: 'o'",
        ),
    ],
)
def test_a_bad_row_is_named_with_its_line(rows: list[dict[str, Any]], problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows)))
    assert problem in caught.value.message
    assert caught.value.path == str(tmp_path / "a.jsonl")
    assert caught.value.line == int(problem[5])


def test_questions_in_squads_form_have_their_paragraphs(tmp_path: Path) -> None:
    rows = list(EmbeddingTask().read_examples(SAMPLE))
    articles = json.loads(SAMPLE.read_text(encoding="utf-8"))["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    assert len(rows) == sum(len(paragraph["qas"]) for paragraph in paragraphs)
    assert rows[0].input.text == paragraphs[0]["qas"][0]["question"]
    assert rows[0].target.positives[0] == paragraphs[0]["context"]
    assert rows[0].target.domain == articles[0]["domain"]
    known = {"question": "a?", "id": "x1"}
    unknown = {"question": "b?", "id": "x2", "is_impossible": True}
    whole = {"data": [{"paragraphs": [{"context": "c", "qas": [known, unknown]}]}]}
    assert [row.input.text for row in read(tmp_path / "b.json", json.dumps(whole))] == ["a?"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("{", "is not JSON"),
        ('{"data": [{"paragraphs": [{"qas": [{"question": "a?"}]}]}]}', "'context' is missing; expected data > paragraphs"),
        ('{"data": [{"paragraphs": [{"context": 1, "qas": [{"question": "a?"}]}]}]}', "`context` is 1; expected a string"),
        ('{"data": [{"paragraphs": [{"context": " ", "qas": [{"question": "a?", "id": "x1"}]}]}]}', "question x1: positive:"),
        ('{"data": []}', "has no questions with an answer"),
    ],
)
def test_bad_json_is_told(text: str, problem: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"bad\.json") as caught:
        read(tmp_path / "bad.json", text)
    assert problem in caught.value.message
