"""Pairs that a re-ranker is trained on, made from a file in SQuAD's form."""

from __future__ import annotations

import importlib.util
import json
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from small_knowledge import drawn_vector

from taskloom.core.knowledge import Passage

ROOT = Path(__file__).parents[3]
SQUAD = ROOT / "tests" / "data" / "squadshifts-sample.json"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("retrieval_pairs", ROOT / "benchmarks" / "retrieval" / "pairs.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def embed(texts: Sequence[str], kind: str) -> list[Any]:
    return [drawn_vector(text) for text in texts]


def blanks_apart(text: str) -> str:
    """Documents are cleaned when they are put in."""
    return " ".join(unicodedata.normalize("NFKC", text).split())


@pytest.mark.parametrize("embedded", [None, embed])
def test_negatives_are_hard_hold_no_answer_and_are_of_other_paragraphs(
    script: ModuleType, tmp_path: Path, embedded: Any
) -> None:
    questions = list(script.marked_questions(SQUAD))
    counts = script.write_pairs(tmp_path, questions, questions, embedded, negatives=3, dev_share=0.3)
    rows = {
        name: list(map(json.loads, (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines())) for name in counts
    }
    assert {name: len(found) for name, found in rows.items()} == counts
    assert all(counts.values())
    asked = {question.question: question for question in questions}
    shared = {row["text"] for row in rows["train"]} & {row["text"] for row in rows["dev"]}
    assert not shared
    for question in {row["text"] for found in rows.values() for row in found}:
        known = asked[question]
        own = [row for found in rows.values() for row in found if row["text"] == question]
        assert [row["label"] for row in own] == ["relevant", *["irrelevant"] * (len(own) - 1)]
        assert 2 <= len(own) <= 4
        context = blanks_apart(known.context)
        assert blanks_apart(own[0]["text_pair"]) in context
        assert any(answer in own[0]["text_pair"] for answer in known.answers)
        for row in own[1:]:
            assert blanks_apart(row["text_pair"]) not in context
            assert not any(answer.casefold() in row["text_pair"].casefold() for answer in known.answers)


def test_an_embedding_model_learns_from_the_passages_of_the_same_paragraph_too(script: ModuleType, tmp_path: Path) -> None:
    from taskloom.plugins.tasks.embedding.reading import read_examples

    questions = list(script.marked_questions(SQUAD))
    script.write_pairs(tmp_path, questions, questions, negatives=1, dev_share=0.0, form=script.embedding_rows)
    asked = {question.question: question for question in questions}
    beside = 0
    rows = list(read_examples(tmp_path / "train.jsonl"))
    for row in rows:
        known = asked[row.input.text]
        context = blanks_apart(known.context)
        assert any(answer in row.target.positives[0] for answer in known.answers)
        assert row.target.negatives
        assert not any(answer.casefold() in text.casefold() for answer in known.answers for text in row.target.negatives)
        beside += sum(blanks_apart(text) in context for text in row.target.negatives)
    assert 0 < beside < len(rows) + 1


def test_a_reader_learns_from_a_passage_with_the_answer_and_from_one_without(script: ModuleType, tmp_path: Path) -> None:
    from taskloom.plugins.tasks.qa.reading import read_examples

    questions = list(script.marked_questions(SQUAD))
    script.write_pairs(tmp_path, questions, questions, negatives=3, dev_share=0.0, form=script.reading_rows)
    asked = {question.question: question for question in questions}
    rows = list(read_examples(tmp_path / "train.jsonl"))
    assert len(rows) > len(questions)
    for right, wrong in zip(rows[::2], rows[1::2], strict=True):
        assert right.input.question == wrong.input.question
        known = asked[right.input.question]
        [answer] = right.target.answers
        assert answer.text in known.answers
        assert blanks_apart(right.input.context) in blanks_apart(known.context)
        assert wrong.target.answers == ()
        assert not any(text.casefold() in wrong.input.context.casefold() for text in known.answers)


def test_an_answer_is_where_it_was_marked_and_not_where_its_words_stand_as_well(script: ModuleType) -> None:
    context = "It began in 1961. Nobody knew the town. In 1961 it moved there."
    question = script.MarkedQuestion(question="When did it move?", context=context, answers=("1961",), starts=(43,))
    passage = Passage(passage_id="p", document_id="d", text=context, start=0, end=len(context))
    assert script.answer_in(question, passage) == {"text": "1961", "answer_start": 43}
    assert script.answer_in(question, passage.model_copy(update={"text": "Nobody knew."})) is None


def test_the_recipe_can_be_read_and_names_what_the_script_writes() -> None:
    from taskloom.plugins.commands.recipe import load_recipe
    from taskloom.plugins.tasks.classification.schema import TrainConfig

    recipe = load_recipe(ROOT / "benchmarks" / "retrieval" / "rank-en.toml")
    assert TrainConfig.model_validate(recipe.config).pair
    assert [path.name for path in (*recipe.data.train, *recipe.data.evaluation)] == ["train.jsonl", "dev.jsonl"]
